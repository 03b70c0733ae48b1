"""Volumes whose file says no more of the B-scans' places than how far apart they lie."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dme.common.files import sha256_file
from dme.data.arrays import check_axes
from dme.data.volume_grey import grey_reader
from dme.data.volume_record import VolumeRecord

LOOKED_AT = 64  # B-scans of a volume, to see whether they are B-scans
LONGEST_IDENTIFIER = 12  # hex digits


def stack_record(
    path: Path,
    kind: str,
    shape: tuple[int, int, int],
    stored: Callable[[int], np.ndarray],
    spacing_um: Sequence[float] | None,
) -> VolumeRecord:
    """The volume of an array (B-scans, height, width) that may know how far its voxels lie apart.

    stored: gives the numbers of a B-scan. spacing_um: lateral, axial, between B-scans. Raises
    InputError as `check_stack`.
    """
    check_stack(path, shape, stored)
    bscans, height, width = shape
    read, notes = grey_reader(path, stored, range(bscans))
    lateral_um, axial_um, gap_um = spacing_um or (None, None, None)
    pattern, gaps_um = stack_pattern(bscans, gap_um)
    return VolumeRecord(
        path=path,
        kind=kind,
        shape=(height, width),
        bscans=bscans,
        available=tuple(range(bscans)),
        read=read,
        pattern=pattern,
        axial_um=axial_um,
        lateral_um=lateral_um,
        gaps_um=gaps_um,
        identifier=identifier_of(path),
        notes=tuple(notes),
    )


def stack_pattern(bscans: int, spacing_um: float | None) -> tuple[str, tuple[float, ...] | None]:
    """Pattern and gaps of B-scans that are taken to lie side by side; one alone is a line."""
    if bscans == 1:
        return "line", None
    if spacing_um is None:
        return "raster", None
    return "raster", (spacing_um,) * (bscans - 1)


def identifier_of(*files: Path) -> str:
    """Name of a volume from the bytes of its files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(sha256_file(file).encode())
    return digest.hexdigest()[:LONGEST_IDENTIFIER]


def check_stack(
    path: Path, shape: tuple[int, int, int], stored: Callable[[int], np.ndarray]
) -> None:
    """Refuse numbers (B-scans, height, width) whose axes seem to stand in another order.

    stored: gives those of a B-scan.
    """
    first = max(0, (shape[0] - LOOKED_AT) // 2)
    looked_at = range(first, min(shape[0], first + LOOKED_AT))
    check_axes(path, shape, np.stack([stored(index) for index in looked_at]))
