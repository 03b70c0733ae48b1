"""What every reader of a device's file gives: one volume, its B-scans read one at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.words import EYES
from dme.data.image_files import MOST_PIXELS
from dme.data.index import MOST_BSCAN

LONGEST_SIDE = 8192  # px of a B-scan or of an en-face picture
# how the B-scans of a file lie: side by side, the same but not level, crossing in a point, alone,
# around the optic disc, or anyhow
PATTERNS = ("raster", "turned raster", "radial", "line", "circle", "other")

Point = tuple[float, float]  # mm to the right and down from the en-face picture's top left corner


@dataclass(frozen=True)
class BScanPlace:
    """Begin and end of a B-scan in the en-face picture; of a circle `end_mm` is the centre."""

    start_mm: Point
    end_mm: Point


@dataclass(frozen=True)
class Enface:
    """The device's picture of the eye's surface; (0, 0) mm of a `BScanPlace` is its corner."""

    shape: tuple[int, int]  # (height, width) px
    scale_um: tuple[float, float]  # per px across, per px down
    read: Callable[[], np.ndarray] | None = None  # uint8 (H, W); None where the file lacks it


@dataclass(frozen=True)
class VolumeRecord:
    """One volume, line, circle or star of B-scans, and what its file says of it.

    A reader checks sizes, offsets and counts against the file before it takes memory, raises
    InputError for what is wrong, and gives the scale as it stands in the file: whether it can be
    is for `dme.data.volume_scale`. `read`, `lines` and `fluid` are given the index of a B-scan,
    from 0 in the file's order, and raise InputError for what is wrong with it alone.
    """

    path: Path
    kind: str  # of file, such as "Heidelberg .vol"
    shape: tuple[int, int]  # (height, width) px of all B-scans
    bscans: int  # as many as the file names, also where pictures of some are missing
    available: tuple[int, ...]  # indexes of those that can be read
    # uint8 (H, W), 255 up to the border where there is no data
    read: Callable[[int], np.ndarray] = field(repr=False)
    pattern: str  # one of PATTERNS
    axial_um: float | None = None  # per px
    lateral_um: float | None = None
    gaps_um: tuple[float, ...] | None = None  # from each B-scan of a raster to the next
    stated_spacing_um: float | None = None  # a second word of the file on the gaps, to be compared
    places: tuple[BScanPlace, ...] | None = None  # of all B-scans
    superior_first: bool = False  # of a raster: whether its first B-scan is the superior one
    eye: str | None = None  # one of EYES
    enface: Enface | None = None
    # the device's layers, rows (W,) by name, and masks that came along, uint8 (H, W)
    lines: Callable[[int], dict[str, np.ndarray]] | None = field(default=None, repr=False)
    fluid: Callable[[int], np.ndarray] | None = field(default=None, repr=False)
    device: str | None = None  # its kind, never its serial number
    date: str | None = field(default=None, repr=False)  # of the examination, YYYY-MM-DD
    identifier: str = ""  # of the volume, from a checksum; nothing of the patient
    private: tuple[str, ...] = field(default=(), repr=False)  # texts that no result may hold
    notes: tuple[str, ...] = ()  # what has to be said about the file

    def __post_init__(self) -> None:
        """Refuse what no volume can be."""
        height, width = self.shape
        check_sides(self.path, "B-scans", height, width)
        if not 1 <= self.bscans <= MOST_BSCAN + 1:
            found = f"{self.bscans} B-scans"
            raise InputError(f"{self.path}: {found}, expected 1 to {MOST_BSCAN + 1}; export again")
        if not self.available:
            raise InputError(f"{self.path}: none of its {self.bscans} B-scans can be read")
        if self.pattern not in PATTERNS or self.eye not in (None, *EYES):
            raise ValueError(f"pattern {self.pattern!r}, eye {self.eye!r}")
        for part, count in ((self.places, self.bscans), (self.gaps_um, self.bscans - 1)):
            if part is not None and len(part) != count:
                raise ValueError(f"{len(part)} places or gaps of {self.bscans} B-scans")

    @property
    def spacing_um(self) -> float | None:
        """Mean distance of neighbouring B-scans of a raster; None where unknown."""
        if not self.gaps_um:
            return None
        return sum(self.gaps_um) / len(self.gaps_um)

    @property
    def scale_um(self) -> tuple[float, ...] | None:
        """(axial, lateral, spacing) as far as they are known, as `dme.bscan` has them."""
        known = []
        for value in (self.axial_um, self.lateral_um, self.spacing_um):
            if value is None:
                break
            known.append(value)
        return tuple(known) if len(known) >= 2 else None


def check_sides(path: Path, kind: str, height: int, width: int) -> None:
    """Refuse pictures of a size that no device makes; kind: of pictures, for the message."""
    within = 1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE
    if not within or height * width > MOST_PIXELS:
        expected = f"expected sides of 1 to {LONGEST_SIDE} px and at most {MOST_PIXELS} px in all"
        raise InputError(
            f"{path}: {kind} of {height} x {width} px (height x width), {expected}; export again"
        )
