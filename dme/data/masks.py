"""Fluid masks of a folder: the values of one file, and what the values of a whole set mean."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.data.image_files import read_picture, read_pixels

MOST_IDS = 64  # regions that a grader numbers; more values come from an interpolated mask
HIGHEST_ID = 32  # regions are numbered from 1; higher values are shades of grey
LEAST_FLAT = 0.1  # share of a shade's pixels that lie among their like, if it fills regions
DARK, BRIGHT = 32, 224  # shades below or above are as good as black or white
MIDDLE = 128  # where the blurred rim of a white region is cut
BAND = 0.8  # share of a mask's columns that a layer crosses
MOST_FLUID = 0.3  # share of a set's pixels
INSTANCES = "instance ids"  # how the meaning of masks begins whose values number regions
MOST_SHOWN = 8  # values in a message


def read_mask(path: Path) -> np.ndarray:
    """Mask values as stored, uint8 (H, W); of black and white in a palette 0 and 1, whichever
    comes first; of one colour under an alpha channel the alpha.
    """
    # of a palette image the indices are ids, unless its colours are black and white
    picture = read_picture(path, palette_colours=False)
    if picture.format == "JPEG":
        raise InputError(f"{path}: JPEG changes labels; save masks as PNG")
    mask = picture.pixels
    if mask.ndim == 2 and mask.max(initial=0) <= 1:
        colours = read_pixels(path)
        if colours.ndim == 3 and _black_and_white(colours):
            mask = colours[:, :, 0] // 255
    # ids in all colours alike
    if mask.ndim == 3:
        coloured = mask.shape[2] > 2 and not _grey(mask[:, :, :3])
        if coloured:
            raise InputError(f"{path}: a coloured mask; save it as grey, palette or 1-bit PNG")
        mask = _seen(mask)
    least = mask.min()
    most = mask.max()
    if mask.dtype.kind not in "bui" or least < 0 or most > 255:
        raise InputError(f"{path}: mask values {least}..{most}, expected whole numbers 0..255")
    return mask.astype(np.uint8)


def _seen(channels: np.ndarray) -> np.ndarray:
    """One channel of (H, W, channels): nothing is drawn where alpha is 0.

    What has one colour everywhere is drawn by its alpha alone.
    """
    values = channels[:, :, 0]
    if channels.shape[2] not in (2, 4):
        return values
    alpha = channels[:, :, -1]
    opaque = alpha.min() == alpha.max() > 0
    if opaque:
        return values
    if values.min() == values.max():
        return alpha
    return np.where(alpha > 0, values, 0)


def _grey(colours: np.ndarray) -> bool:
    """Whether red, green and blue agree everywhere in (H, W, 3)."""
    return not np.ptp(colours, axis=2).any()


def _black_and_white(colours: np.ndarray) -> bool:
    extreme = np.isin(colours, (0, 255))
    return bool(extreme.all()) and _grey(colours)


def _per_value() -> np.ndarray:
    return np.zeros(256, np.int64)


@dataclass
class MaskValues:
    """What the masks of a set hold, counted mask by mask."""

    counts: np.ndarray = field(default_factory=_per_value)  # pixels of each value
    flat: np.ndarray = field(default_factory=_per_value)  # of them those among their like
    lone: np.ndarray = field(default_factory=_per_value)  # of them those without their like beside
    masks: int = 0
    layered: int = 0  # masks in which two values or more reach from side to side

    def add(self, mask: np.ndarray) -> None:
        """Count a mask, uint8 (H, W)."""
        self.masks += 1
        self.counts += np.bincount(mask.ravel(), minlength=256)

        # pixels that are what all, or none, of their four neighbours are
        inner = mask[1:-1, 1:-1]
        neighbours = (mask[1:-1, :-2], mask[1:-1, 2:], mask[:-2, 1:-1], mask[2:, 1:-1])
        alike = [inner == neighbour for neighbour in neighbours]
        self.flat += np.bincount(inner[np.logical_and.reduce(alike)], minlength=256)
        self.lone += np.bincount(inner[~np.logical_or.reduce(alike)], minlength=256)

        # values that cross nearly all columns
        ids = np.unique(mask)
        bands = [i for i in ids if 0 < i < IGNORE and (mask == i).any(axis=0).mean() > BAND]
        self.layered += len(bands) > 1

    @property
    def values(self) -> list[int]:
        return np.flatnonzero(self.counts).tolist()

    def described(self) -> str:
        """Values and their shares, the most frequent first."""
        order = np.argsort(-self.counts, kind="stable")[: min(len(self.values), MOST_SHOWN)]
        shares = 100 * self.counts[order] / self.counts.sum()
        text = ", ".join(f"{i} ({share:.2f} %)" for i, share in zip(order, shares, strict=True))
        return text + (", ..." if len(self.values) > MOST_SHOWN else "")


def mask_lookup(masks: MaskValues, fluid_value: tuple[int, ...] = ()) -> tuple[np.ndarray, str]:
    """Meaning of the mask values of a whole set: table uint8 (256,) from value to 0, 1 or 255, and
    a text.

    fluid_value: the values that are fluid. Without them {0, 1} and {0, 255} are binary, small ids
    are instances (fluid where > 0) with 255 beside them as ignore, shades of grey that fill
    regions are fluid, and those at the rim of white regions are cut at 128. Raises InputError for
    what is none of these.
    """
    if fluid_value:
        return _chosen(masks, fluid_value)

    # 0 and 255 alone are background and fluid
    values = masks.values
    ids = [value for value in values if value not in (0, 255)]
    lookup = np.ones(256, np.uint8)
    lookup[0] = 0
    if not ids:
        return lookup, "binary 0/255, 255 is fluid" if 255 in values else "all empty"

    # small numbers are ids, beside which 255 is none
    dense = len(ids) > ids[-1] / 2 and ids[-1] <= MOST_IDS
    if ids[-1] <= HIGHEST_ID or dense:
        _refuse_specks(masks, ids)
        lookup[255] = IGNORE
        meaning = f"{INSTANCES} {ids[0]}..{ids[-1]}, fluid is id > 0"
        if ids == [1]:
            meaning = "binary 0/1, 1 is fluid"
        if 255 in values:
            meaning += ", 255 is ignore"
        return lookup, meaning
    return _shades(masks, ids, lookup)


def _refuse_specks(masks: MaskValues, ids: list[int]) -> None:
    """Raise InputError for ids that are mostly lone pixels beside more white: dirt on a black and
    white mask.
    """
    count = masks.counts[ids].sum()
    if 2 * masks.lone[ids].sum() > count and masks.counts[255] > count:
        raise InputError(
            f"masks hold specks of {ids[0]}..{ids[-1]} beside more white: {masks.described()}; "
            f"say by `fluid_value` whether 255 is fluid, or {' '.join(map(str, ids))}"
        )


def _chosen(masks: MaskValues, fluid_value: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """The table of values that somebody said are fluid."""
    values = masks.values
    text = " ".join(map(str, fluid_value))
    if not set(fluid_value) & set(values):
        raise InputError(
            f"`fluid_value` {text}: no mask holds it, values are {masks.described()}; "
            "give one of them"
        )
    lookup = np.zeros(256, np.uint8)
    lookup[list(fluid_value)] = 1
    meaning = f"fluid is {text}, as `fluid_value` says, all else background"

    # 255 is ignore beside ids, not beside 0 alone
    if 255 in values and 255 not in fluid_value and set(values) - {0, 255}:
        lookup[255] = IGNORE
        meaning += ", 255 is ignore"
    return lookup, meaning


def _shades(masks: MaskValues, ids: list[int], lookup: np.ndarray) -> tuple[np.ndarray, str]:
    """The table of masks drawn in grey. ids: their values between 0 and 255."""
    greys = [value for value in ids if DARK <= value < BRIGHT]
    filling = [masks.flat[value] >= LEAST_FLAT * masks.counts[value] for value in greys]

    # shades that fill regions are labels, and so is one without any other
    shades = [value for value in masks.values if value > 0]
    labels = greys == ids and all(filling)
    if len(shades) == 1 or labels and len(ids) <= MOST_IDS:
        return lookup, f"shades of grey {', '.join(map(str, shades))}, fluid is all that is not 0"

    # shades at the rims of white regions come from smoothing, which makes several or the middle
    bright_px = masks.counts[BRIGHT:].sum()
    several = len(greys) > 2 or all(abs(value - MIDDLE) <= 1 for value in greys)
    if bright_px > masks.counts[greys].sum() and several and not any(filling):
        lookup[:MIDDLE] = 0
        return lookup, f"white, its rims smoothed in {len(ids)} shades, fluid is {MIDDLE} or more"

    # of regions that somebody numbered, many more than usual
    if 255 not in masks.values and sum(filling) > len(greys) / 2:
        return lookup, f"{INSTANCES} {ids[0]}..{ids[-1]}, fluid is id > 0"
    raise InputError(
        f"masks hold {len(ids)} values between 0 and 255: {masks.described()}; interpolated? "
        "Save labels unsmoothed, resize with nearest, or say what is fluid by `fluid_value`"
    )


def check_meaning(masks: MaskValues, lookup: np.ndarray, place: str) -> None:
    """Raise InputError where what is taken for fluid can hardly be fluid."""
    background_px = masks.counts[lookup == 0].sum()
    fluid_px = masks.counts[lookup == 1].sum()
    if not fluid_px:
        return
    share = fluid_px / (fluid_px + background_px)
    found = f"{place}: values {masks.described()}"
    choose = "say which value is fluid by `fluid_value`"
    if masks.layered > masks.masks / 2:
        raise InputError(f"{found}; several reach from side to side, as layers do: {choose}")
    if len(masks.values) == 2:  # the rarer is fluid, if not the other way round
        rarer = min(masks.values, key=lambda value: masks.counts[value])
        choose += f", {rarer} perhaps"
    if not background_px:
        raise InputError(f"{found}; none is 0, so all would be fluid: {choose}")
    if share > MOST_FLUID:
        expected = f"expected at most {100 * MOST_FLUID:g} % of all pixels as fluid"
        raise InputError(f"{found}; {100 * share:.1f} % would be fluid, {expected}: {choose}")
