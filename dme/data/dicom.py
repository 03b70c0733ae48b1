"""Ophthalmic tomography in DICOM: multi-frame files, plain or compressed, read by pydicom."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dme.common.errors import InputError
from dme.data.binary_file import ClippedFile
from dme.data.codestreams import stated_size
from dme.data.index import MOST_BSCAN
from dme.data.volume_grey import grey_reader
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import identifier_of, stack_pattern

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MODALITIES = ("OPT", "OCT", "OT")  # tomography of the eye, and what some exports call it
EYES = {"R": "OD", "L": "OS"}
MM_UM = 1e3
SAME_LINE = 0.999  # cosine of the angle between B-scans that lie side by side
# what must not be told: keywords of the patient, the visit, the device
PRIVATE = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "PatientAddress",
    "AccessionNumber",
    "StudyID",
    "InstitutionName",
    "InstitutionAddress",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "StationName",
    "DeviceSerialNumber",
    "DetectorID",
    "StudyTime",
    "SeriesTime",
    "ContentTime",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "InstanceCreationTime",
)
DATES = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate")
LEAST_PRIVATE = 3  # characters; a shorter text stands in any number
# packages that decode compressed frames; not gdcm, which ends the program on damaged ones
DECODERS = ("pydicom", "pillow", "pyjpegls", "pylibjpeg")
RUN_LENGTH = "1.2.840.10008.1.2.5"  # RLE Lossless, whose frames state no size


def open_volume(path: Path) -> VolumeRecord:
    """Volume of a file; its frames are decoded one at a time.

    The scale is the one of its functional groups, laterality the one of the image or its frames.
    """
    header = read_header(path)
    with _one_line(path):
        return _record(path, header)


def read_header(path: Path) -> "Dataset":
    """All of a file but the pixels. Raises InputError also where pydicom is missing."""
    pydicom = _pydicom()
    with _one_line(path), ClippedFile(path) as file:
        return pydicom.dcmread(file, stop_before_pixels=True)


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as e:
        raise InputError("DICOM needs the package pydicom: pip install 'dme[dicom]'") from e
    return pydicom


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Whatever pydicom raises on a damaged file becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as e:
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise InputError(f"{path}: not a readable DICOM file ({reason}); export it again") from e


def _record(path: Path, header: "Dataset") -> VolumeRecord:
    # what it is
    modality = header.get("Modality")
    if modality not in MODALITIES or "Rows" not in header:
        found = f"modality {modality}" if "Rows" in header else "no pixels"
        expected = f"expected {MODALITIES[0]}, tomography"
        raise InputError(f"{path}: {found}, {expected}; give the files of the B-scans")
    shape = (int(header.Rows), int(header.Columns))
    bscans = int(header.get("NumberOfFrames") or 1)
    check_sides(path, "B-scans", *shape)
    if not 1 <= bscans <= MOST_BSCAN + 1:
        raise InputError(f"{path}: {bscans} frames, expected 1 to {MOST_BSCAN + 1}; export again")
    stored = _frames(path, header, shape, bscans)
    read, notes = grey_reader(path, stored, range(bscans))

    # where its frames lie
    groups = _Groups(header, bscans)
    axial_um, lateral_um = groups.pixel_um()
    pattern, gaps_um, superior_first, stated_um = groups.places(notes)
    return VolumeRecord(
        path=path,
        kind="DICOM",
        shape=shape,
        bscans=bscans,
        available=tuple(range(bscans)),
        read=read,
        pattern=pattern,
        axial_um=axial_um,
        lateral_um=lateral_um,
        gaps_um=gaps_um,
        stated_spacing_um=stated_um,
        superior_first=superior_first,
        eye=groups.eye(notes),
        device=_device(header),
        date=_date(header),
        identifier=identifier_of(path),
        private=tuple(_private(header)),
        notes=tuple(notes),
    )


# ---- pixels -------------------------------------------------------------------------------------
def _frames(
    path: Path, header: "Dataset", shape: tuple[int, int], bscans: int
) -> Callable[[int], np.ndarray]:
    """What reads the stored values of a frame, once the header was compared to the file."""
    samples = int(header.get("SamplesPerPixel", 1))
    bits = int(header.get("BitsAllocated", 0))
    if samples not in (1, 3) or bits not in (8, 16):
        found = f"{samples} values of {bits} bits in a pixel"
        raise InputError(f"{path}: {found}, expected 1 or 3 of 8 or 16; export it as such")
    syntax = header.file_meta.TransferSyntaxUID
    described = math.prod(shape) * samples * bits // 8 * bscans
    if not syntax.is_compressed and described > path.stat().st_size:
        found = f"{bscans} frames of {shape[0]} x {shape[1]} px take {described} bytes"
        raise InputError(
            f"{path}: {found}, the file has {path.stat().st_size}: it ends early or is damaged; "
            "export it again"
        )
    decoder = _decoder_of(path, syntax) if syntax.is_compressed else ""
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        raise InputError(f"{path}: black on white (MONOCHROME1); export it as MONOCHROME2")
    return partial(_frame, path, shape, bscans, (syntax, decoder))


def _decoder_of(path: Path, syntax: Any) -> str:
    """The package that decodes a transfer syntax, of DECODERS the first that is here.

    Raises InputError where none is.
    """
    from pydicom.pixels import get_decoder

    try:
        packages = get_decoder(syntax).available_plugins
    except NotImplementedError as e:
        found = f"frames compressed as {syntax.name}"
        raise InputError(f"{path}: {found}, which is not read; export it uncompressed") from e
    for package in DECODERS:
        if package in packages:
            return package
    raise InputError(
        f"{path}: no package here decodes {syntax.name}: pip install 'dme[dicom]', or export "
        "it uncompressed"
    )


def _frame(
    path: Path, shape: tuple[int, int], bscans: int, coding: tuple[Any, str], index: int
) -> np.ndarray:
    """The stored values of one frame, whose own size is looked at before it is decoded.

    coding: transfer syntax, and the package that decodes it, "" for plain values.
    """
    from pydicom.pixels import pixel_array

    syntax, decoder = coding
    with _one_line(path):
        if syntax.is_compressed and syntax != RUN_LENGTH:
            size = stated_size(_compressed(path, bscans, index))
            if size != shape:
                found = f"frame {index} is {size or 'no picture'}"
                raise InputError(
                    f"{path}: {found}, expected {shape}: it is damaged; export it again"
                )
        with ClippedFile(path) as file:
            pixels = pixel_array(file, index=index, decoding_plugin=decoder)
    if pixels.shape[:2] != shape or pixels.shape[2:] not in ((), (3,)):
        raise InputError(
            f"{path}: frame {index} is {pixels.shape}, expected {shape}; export again"
        )
    return pixels


def _compressed(path: Path, bscans: int, index: int) -> bytes:
    """The bytes of one compressed frame."""
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    with ClippedFile(path) as file:
        header = dcmread(file, stop_before_pixels=True)
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        file.seek(12, 1)  # tag, kind and length of the pixels
        return get_frame(file, index, number_of_frames=bscans, endianness=order)


# ---- functional groups --------------------------------------------------------------------------
class _Groups:
    """What stands once for all frames, or for each."""

    def __init__(self, header: "Dataset", bscans: int) -> None:
        self.header = header
        self.bscans = bscans
        shared = header.get("SharedFunctionalGroupsSequence") or [{}]
        self.shared = shared[0]
        self.frames = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        if self.frames and len(self.frames) != bscans:
            found = f"{bscans} frames, functional groups of {len(self.frames)}"
            raise ValueError(found)

    def of(self, index: int, sequence: str) -> Any:
        """The item of a frame, else of all; None without one."""
        for group in (*self.frames[index : index + 1], self.shared):
            items = group.get(sequence)
            if items:
                return items[0]
        return None

    def pixel_um(self) -> tuple[float | None, float | None]:
        """Axial, lateral: of all frames the same, else it raises ValueError."""
        sizes = set()
        for index in range(self.bscans):
            item = self.of(index, "PixelMeasuresSequence")
            spacing = (self.header if item is None else item).get("PixelSpacing")
            sizes.add(tuple(map(float, spacing)) if spacing else None)
        if len(sizes) > 1:
            raise ValueError("its frames have pixels of different sizes")
        (size_mm,) = sizes
        if size_mm is None:
            return None, None
        row_mm, column_mm = size_mm
        return row_mm * MM_UM, column_mm * MM_UM

    def places(self, notes: list[str]) -> tuple[str, tuple[float, ...] | None, bool, float | None]:
        """Pattern, gaps, whether the first is the superior one, the spacing as stated."""
        item = self.of(0, "PixelMeasuresSequence") or {}
        stated = item.get("SpacingBetweenSlices") or self.header.get("SpacingBetweenSlices")
        stated_um = float(stated) * MM_UM if stated else None
        pattern, gaps_um = stack_pattern(self.bscans, stated_um)
        corners, directions = self._corners()
        if self.bscans == 1 or corners is None:
            return pattern, gaps_um, False, None

        # in the patient: x to the left, y to the back, z up
        if (directions[:, 0] @ directions[0, 0] < SAME_LINE).any():
            return self._crossing(corners, directions), None, False, None
        normal = np.cross(*directions[0])
        steps_mm = np.diff(corners @ normal)
        if not ((steps_mm > 0).all() or (steps_mm < 0).all()):
            notes.append("frames that do not follow each other")
            return "other", None, False, None
        gaps_um = tuple((np.abs(steps_mm) * MM_UM).tolist())
        rise = corners[0] - corners[-1]
        superior_first = bool(rise[2] > 0 and rise[2] == np.abs(rise).max())
        return "raster", gaps_um, superior_first, stated_um

    def _corners(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Of every frame the first pixel's place in mm (N, 3), and the directions of its rows and
        columns (N, 2, 3); None where a frame has none.
        """
        corners = []
        directions = []
        for index in range(self.bscans):
            position = self.of(index, "PlanePositionSequence")
            orientation = self.of(index, "PlaneOrientationSequence")
            if position is None or orientation is None:
                return None, None
            corners.append([float(value) for value in position.ImagePositionPatient])
            values = [float(value) for value in orientation.ImageOrientationPatient]
            directions.append(np.reshape(values, (2, 3)))
        return np.array(corners), np.array(directions)

    def _crossing(self, corners: np.ndarray, directions: np.ndarray) -> str:
        """Pattern of frames of several directions: radial if their middles meet."""
        _, lateral_um = self.pixel_um()
        if not lateral_um:
            return "other"
        length_mm = lateral_um * int(self.header.Columns) / MM_UM
        middles = corners + directions[:, 0] * length_mm / 2
        spread = np.linalg.norm(middles - middles.mean(axis=0), axis=1)
        return "radial" if (spread < 0.1 * length_mm).all() else "other"

    def eye(self, notes: list[str]) -> str | None:
        """Of the image and of its frames, if they agree."""
        sides = {self.header.get("ImageLaterality"), self.header.get("Laterality")}
        for index in range(self.bscans):
            item = self.of(index, "FrameAnatomySequence")
            if item is not None:
                sides.add(item.get("FrameLaterality"))
        eyes = {EYES[side] for side in sides if side in EYES}
        if len(eyes) > 1:
            notes.append("its header names both eyes: eye unknown")
        return eyes.pop() if len(eyes) == 1 else None


def _device(header: "Dataset") -> str | None:
    words = [header.get("Manufacturer"), header.get("ManufacturerModelName")]
    return " ".join(str(word) for word in words if word) or None


def _date(header: "Dataset") -> str | None:
    """The day, YYYY-MM-DD."""
    for keyword in DATES:
        day = str(header.get(keyword) or "")[:8]
        if len(day) == 8 and day.isdigit():
            return f"{day[:4]}-{day[4:6]}-{day[6:]}"
    return None


def _private(header: "Dataset") -> Iterator[str]:
    """Texts that no result may hold, of names also their parts, of the examination the day."""
    day = _date(header)
    if day:
        yield day
    for keyword in PRIVATE:
        value = header.get(keyword)
        texts = {str(value)} if value else set()
        if keyword.endswith("Time"):  # as 101112, at the end of a date or alone
            clock = str(value or "").split(".")[0][-6:]
            texts.add(":".join((clock[:2], clock[2:4], clock[4:])))
        if keyword.endswith("Name"):
            texts |= set(str(value or "").replace("^", " ").split())
        yield from (text for text in sorted(texts) if len(text) >= LEAST_PRIVATE)
