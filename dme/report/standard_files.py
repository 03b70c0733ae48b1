"""Masks and layers of whole volumes in files that other programs open: NIfTI, TIFF, DICOM."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.common.files import atomic_path, sha256_file
from dme.common.labels import IGNORE
from dme.common.tasks import LAYERS
from dme.data.metaimage import affine_of as affine_of_metaimage
from dme.data.nifti import itk_affine, read_header, write_nifti
from dme.data.source import listing
from dme.data.volume_record import VolumeRecord
from dme.report.batch import Work
from dme.report.dicom_seg import EMPTY, Segments, write_dicom_seg
from dme.report.privacy import Privacy
from dme.report.tables import read_rows
from dme.retina.rows import layer_labels

FOLDERS = {"nifti": "nifti", "tiff": "tiff", "dicom-seg": "dicom_seg"}  # of each kind of file
NAMES = {"fluid": ("fluid",), "layers": LAYERS}  # of the labels from 1 on
NUMBER = re.compile(r"_bscan\d+$")  # at the end of a scan's name
UNKNOWN_MM = 1.0  # per pixel or B-scan, where the scale is not known


@dataclass
class Stack:
    """The scans of one volume or file, by their place in it."""

    name: str
    record: VolumeRecord | None
    rows: dict[int, dict] = field(default_factory=dict)  # index of a B-scan -> its row

    @property
    def first(self) -> int:
        """Index of the first page of files; all B-scans of a device's file have theirs."""
        return 0 if self.record else min(self.rows)

    @property
    def count(self) -> int:
        return self.record.bscans if self.record else max(self.rows) - self.first + 1

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width). Raises InputError where B-scans differ."""
        shapes = {(row["height_px"], row["width_px"]) for row in self.rows.values()}
        if len(shapes) > 1:
            raise InputError(f"{self.name}: B-scans of different sizes, which no volume can hold")
        return shapes.pop()

    @property
    def scale_mm(self) -> tuple[float, float, float] | None:
        """Of columns, rows, B-scans; None where the first two are unknown."""
        row = self.rows[min(self.rows)]
        if row["axial_um"] is None or row["lateral_um"] is None:
            return None
        spacing_mm = (row["spacing_um"] or 1e3 * UNKNOWN_MM) / 1e3
        return row["lateral_um"] / 1e3, row["axial_um"] / 1e3, spacing_mm


def write_standard(work: Work, kinds: Sequence[str], commit: str) -> list[str]:
    """Write files of the kinds, keys of FOLDERS, for every volume, and add them to the work's.

    commit: of this program, which DICOM names. Returns notes.
    """
    notes = []
    foreign = []  # no DICOM
    for stack in stacks_of(work):
        is_dicom = stack.record is not None and stack.record.kind == "DICOM"
        if "dicom-seg" in kinds and not is_dicom:
            foreign.append(stack.name)
        for kind in kinds:
            if kind == "dicom-seg" and not is_dicom:
                continue
            try:
                for name in _write_stack(work, stack, kind, commit):
                    work.files[name] = sha256_file(work.out / name)
            except InputError as e:
                work.skip(stack.name, str(e))
    if foreign:
        notes.append(f"no DICOM segmentation, as their files are no DICOM: {listing(foreign)}")
    return notes


def kept_keywords(privacy: Privacy) -> tuple[str, ...]:
    """Of `dme.report.dicom_seg.EMPTY` those that a segmentation takes from its source."""
    if privacy.keep_identifiers:
        return EMPTY
    return ("StudyDate",) if privacy.keep_dates else ()


def stacks_of(work: Work) -> list[Stack]:
    """The predicted scans by volume, else by the file they come from."""
    stacks: dict[str, Stack] = {}
    for row in work.rows:
        record, index = work.origins.get(row["scan"], (None, row["bscan"] or 0))
        key = row["volume"] or (str(record.path) if record else row["scan"])
        name = row["volume"] or row["scan"]
        if record and record.bscans > 1 and not row["volume"]:
            name = NUMBER.sub("", row["scan"])
        stacks.setdefault(key, Stack(name, record)).rows[index] = row
    return list(stacks.values())


def _write_stack(work: Work, stack: Stack, kind: str, commit: str) -> list[str]:
    """Files of a kind, those of fluid and of layers; returns their names in the folder."""
    names = []
    first_row = stack.rows[min(stack.rows)]
    for content, key in (("fluid", "mask"), ("layers", "boundaries")):
        if not first_row.get(key):
            continue
        # one array for all B-scans, in the file that the kind asks for
        labels = stack_labels(work.out, stack, content)
        scale_mm = stack.scale_mm or (UNKNOWN_MM,) * 3
        stem = f"{FOLDERS[kind]}/{stack.name}_{content}"
        if kind == "nifti":
            names.append(f"{stem}.nii.gz")
            affine = affine_of(stack.record, scale_mm)
            write_nifti(work.out / names[-1], labels, affine, stack.scale_mm is not None)
        elif kind == "tiff":
            names.append(f"{stem}.tif")
            _write_tiff(work.out / names[-1], labels)
        else:
            names.append(f"{stem}.dcm")
            network = work.networks[content]
            segments = Segments(
                NAMES[content], network.weights_name, network.weights_sha256, commit
            )
            keep = kept_keywords(work.privacy)
            path = work.out / names[-1]
            write_dicom_seg(path, stack.record.path, labels, segments, scale_mm, keep)
    return names


def stack_labels(out: Path, stack: Stack, content: str) -> np.ndarray:
    """Labels uint8 (B-scans, height, width) from the files of single scans.

    content: "fluid", of 0 and 1, or "layers", as of `dme.retina.rows.layer_labels`. 255: unknown,
    as B-scans are that were not predicted.
    """
    height, width = stack.shape
    labels = np.full((stack.count, height, width), IGNORE, np.uint8)
    for index, row in stack.rows.items():
        if content == "fluid":
            with Image.open(out / row["mask"]) as mask:
                page = np.asarray(mask) > 0
        else:
            page = layer_labels(read_rows(out / row["boundaries"]), height)
        labels[index - stack.first] = page
    return labels


def affine_of(record: VolumeRecord | None, scale_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels to mm (4, 4): as the source lies, where it is a file that says so."""
    affine = itk_affine(scale_mm)
    if record is None:
        return affine
    if record.kind == "NIfTI":
        affine = read_header(record.path).affine
    elif record.kind == "MetaImage .mhd":
        affine = affine_of_metaimage(record.path)

    # with the scale that was given, if one was
    affine = affine.copy()
    affine[:3, :3] *= np.array(scale_mm) / np.linalg.norm(affine[:3, :3], axis=0)
    return affine


def _write_tiff(path: Path, labels: np.ndarray) -> None:
    """A page for each B-scan."""
    pages = [Image.fromarray(page) for page in labels]
    with atomic_path(path) as temporary:
        pages[0].save(
            temporary, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate"
        )
