"""Damaged files of devices: the geometry that was written, or one line; never more memory than
what the file says is worth.
"""

import os
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest
from helpers.device_files import (
    volume,
    write_bioptigen,
    write_dicom,
    write_e2e,
    write_fda,
    write_fds,
    write_img,
    write_mhd,
    write_nii,
    write_tiff,
)
from helpers.fuzzing import damaged, limits
from helpers.vendor_files import raster, write_vol, write_xml

from dme.common.errors import InputError
from dme.data.volume_files import open_volume
from dme.data.volume_scale import scale_fault

SEED = int(os.environ.get("DME_FUZZ_SEED", 0))
QUICK = 4
THOROUGH = int(os.environ.get("DME_FUZZ_RUNS", 200))
MEMORY = 64 << 20  # bytes, and EIGHT times what a file describes
EIGHT = 8
SPACE = 1 << 30  # bytes of address space: what decoders in C may take


@dataclass(frozen=True)
class Kind:
    """name: of the file. make: writes it, given its path. target: what is damaged, if not it.

    says_once: pattern and eye are one byte each, to which nothing in the file can be compared.
    """

    name: str
    make: Callable[[Path], Path]
    needs: str = "numpy"
    target: str = ""
    says_once: bool = False


def deep(**shape) -> np.ndarray:
    return volume(**shape).astype(np.uint16) * 16


def dicom(syntax: str | None = None, pixels: np.ndarray | None = None) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        from pydicom import uid

        chosen = volume() if pixels is None else pixels
        return write_dicom(path, chosen, getattr(uid, syntax) if syntax else None)

    return make


CUBE = "P1_Macular Cube 256x2_1-2-2019_10-11-12_OS_sn9_cube_z.img"
KINDS = {
    "vol": Kind("a.vol", lambda path: write_vol(path, raster())),
    "xml": Kind("a", lambda path: write_xml(path, raster()), target="a/export.xml"),
    "picture of xml": Kind("a", lambda path: write_xml(path, raster()), target="a/B2.tif"),
    "mhd": Kind("a.mhd", lambda path: write_mhd(path, deep())),
    "raw of mhd": Kind("a.mhd", lambda path: write_mhd(path, deep()), target="a.raw"),
    "nii": Kind("a.nii", lambda path: write_nii(path, volume())),
    "nii.gz": Kind("a.nii.gz", lambda path: write_nii(path, volume())),
    "e2e": Kind("a.e2e", lambda path: write_e2e(path, volume())),
    "fda": Kind("a.fda", lambda path: write_fda(path, volume()), says_once=True),
    "fds": Kind("a.fds", lambda path: write_fds(path, deep()), says_once=True),
    "img": Kind(CUBE, lambda path: write_img(path, volume(2, 1024, 256))),
    "oct": Kind("a.oct", lambda path: write_bioptigen(path, deep()), says_once=True),
    "tiff": Kind("a.tif", lambda path: write_tiff(path, deep())),
    "dicom": Kind("a.dcm", dicom(pixels=deep()), "pydicom"),
    "dicom jpeg 2000": Kind("a.dcm", dicom("JPEG2000Lossless"), "openjpeg"),
    "dicom jpeg-ls": Kind("a.dcm", dicom("JPEGLSLossless"), "jpeg_ls"),
    "dicom rle": Kind("a.dcm", dicom("RLELossless"), "pydicom"),
}


@dataclass(frozen=True)
class Geometry:
    """What is read of a file. lateral_um is None where the file has no places to compare it."""

    bscans: int
    shape: tuple[int, int]
    pattern: str
    eye: str | None
    lateral_um: float | None

    def agrees(self, written: "Geometry", sizes_alone: bool) -> bool:
        """Whether this is what was written; an eye may be unknown, which is said."""
        if (self.bscans, self.shape) != (written.bscans, written.shape):
            return False
        if self.lateral_um and written.lateral_um:
            if abs(self.lateral_um / written.lateral_um - 1) > 0.05:
                return False
        if sizes_alone:
            return True
        return self.pattern == written.pattern and self.eye in (written.eye, None)


def geometry(path: Path) -> Geometry:
    """What is read of a file, all its B-scans too; a scale that cannot be is refused."""
    record = open_volume(path)
    fault = scale_fault(record)
    if fault:
        raise InputError(fault)
    for index in record.available:
        pixels = record.read(index)
        assert pixels.dtype == np.uint8 and pixels.shape == record.shape
        if record.lines:
            assert all(len(rows) == record.shape[1] for rows in record.lines(index).values())
    if record.enface and record.enface.read:
        assert record.enface.read().shape == record.enface.shape
    lateral_um = record.lateral_um if record.places else None
    return Geometry(record.bscans, record.shape, record.pattern, record.eye, lateral_um)


def check_kind(name: str, folder: Path, runs: int) -> None:
    kind = KINDS[name]
    pytest.importorskip(kind.needs)
    path = kind.make(folder / kind.name)
    target = folder / (kind.target or kind.name)
    whole = target.read_bytes()
    written = geometry(path)
    most = MEMORY + EIGHT * written.bscans * written.shape[0] * written.shape[1] * 4
    draw = Random(zlib.crc32(name.encode()) + SEED)
    faults = []
    refused = 0
    for number in range(runs):
        target.write_bytes(damaged(whole, draw))
        tracemalloc.start()
        try:
            with limits(SPACE):
                if not geometry(path).agrees(written, kind.says_once):
                    faults.append((number, "another geometry"))
        except InputError as e:
            refused += 1
            if len(str(e).splitlines()) != 1:
                faults.append((number, f"several lines: {e}"))
        except BaseException as e:  # a traceback, or a hang
            faults.append((number, repr(e)[:300]))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if peak > most:
            faults.append((number, f"{peak >> 20} MiB"))
    assert not faults, "\n".join(map(str, faults))
    assert refused


@pytest.mark.filterwarnings("ignore")  # of what is damaged
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_seen_or_harmless(name, tmp_path):
    check_kind(name, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_much_damage_is_seen_or_harmless(name, tmp_path):
    check_kind(name, tmp_path, THOROUGH)
