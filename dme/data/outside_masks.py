"""Fluid masks that were edited elsewhere: PNG or TIFF of a scan, TIFF pages or NIfTI of a volume.

A file is called as the scan or the volume it belongs to. Sizes and values are checked over the
whole set, and whether masks fit the network's better when they are turned over.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.common.words import IMAGE_SUFFIXES
from dme.data.masks import MaskValues, check_meaning, mask_lookup, read_mask
from dme.data.nifti import read_numbers
from dme.data.source import listing, natural

NIFTI = (".nii", ".nii.gz")
TIFF = (".tif", ".tiff")
MOST_VOXELS = 1 << 28
# what another program may have done to a whole set -> the same of masks (H, W)
TURNS = {
    "mirrored left to right": (slice(None), slice(None, None, -1)),
    "upside down": (slice(None, None, -1), slice(None)),
    "turned by half": (slice(None, None, -1), slice(None, None, -1)),
}
FAR_BETTER = 2.0  # times as much overlap as untouched
MOSTLY = 0.5  # of the fluid, which a set that was turned shares with what was found


@dataclass(frozen=True)
class Slot:
    """A scan that may have a mask."""

    name: str
    volume: str | None
    bscan: int | None
    shape: tuple[int, int]  # height, width


def read_outside_masks(
    folder: Path, slots: Sequence[Slot], originals: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Masks of a folder by the names of the scans, uint8 (H, W) of 0, 1 and 255 (unknown).

    originals: what the network found, (H, W) with fluid as 1. Raises InputError for files that
    belong to no scan, other sizes, and values that cannot be understood.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one of masks called as the scans")
    values = MaskValues()
    stored: dict[str, np.ndarray] = {}
    for file, name, mask in _masks_in(folder, slots):
        if name in stored:
            raise InputError(f"{file}: a second mask of {name}: keep one")
        stored[name] = mask
        values.add(mask)
    if not stored:
        expected = f"expected masks called as the scans, such as {slots[0].name}.png"
        raise InputError(f"{folder}: no masks in it; {expected}")

    # one meaning for all
    lookup, _ = mask_lookup(values)
    check_meaning(values, lookup, str(folder))
    masks = {name: lookup[mask] for name, mask in stored.items()}
    _check_turned(folder, masks, originals)
    return masks


def _masks_in(folder: Path, slots: Sequence[Slot]) -> Iterator[tuple[Path, str, np.ndarray]]:
    """File, name of the scan, and values uint8 (H, W), of every mask."""
    by_name = {slot.name: slot for slot in slots}
    by_volume: dict[str, list[Slot]] = {}
    for slot in slots:
        if slot.volume is not None:
            by_volume.setdefault(slot.volume, []).append(slot)

    for file in sorted(folder.iterdir(), key=natural):
        stem, suffix = _split(file)
        if suffix is None or file.name[0] == ".":
            continue
        if stem in by_name:
            chosen = [by_name[stem]]
        elif stem in by_volume:
            chosen = sorted(by_volume[stem], key=lambda slot: slot.bscan)
        else:
            known = listing([*by_volume, *by_name])
            raise InputError(f"{file}: there is no scan or volume {stem}, but {known}: rename it")
        for slot, mask in zip(chosen, _read(file, suffix, chosen), strict=True):
            yield file, slot.name, mask


def _split(file: Path) -> tuple[str, str | None]:
    """Name without ending, and the ending; None of files that hold no masks."""
    for suffix in (*NIFTI[::-1], *IMAGE_SUFFIXES):
        if file.name.lower().endswith(suffix) and file.is_file():
            return file.name[: -len(suffix)], suffix
    return file.name, None


def _read(file: Path, suffix: str, slots: list[Slot]) -> list[np.ndarray]:
    """A mask for each slot. Raises InputError."""
    if suffix in NIFTI:
        stack = [_as_labels(file, numbers) for numbers in read_numbers(file)]
    elif suffix in TIFF:
        stack = _read_pages(file)
    else:
        stack = [read_mask(file)]

    # of a whole volume the B-scans that were predicted
    if len(stack) != len(slots):
        first = slots[0].bscan or 0
        last = slots[-1].bscan or 0
        if len(stack) != last - first + 1:
            expected = f"{len(slots)} B-scans were predicted, numbers {first} to {last}"
            raise InputError(f"{file}: {len(stack)} masks, but {expected}: give one for each")
        stack = [stack[slot.bscan - first] for slot in slots]
    for slot, mask in zip(slots, stack, strict=True):
        if mask.shape != slot.shape:
            raise InputError(f"{file}: mask is {mask.shape}, scan {slot.name} is {slot.shape}")
    return stack


def _read_pages(file: Path) -> list[np.ndarray]:
    """Pages of a TIFF, each uint8 (H, W)."""
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            count = getattr(image, "n_frames", 1)
            if image.width * image.height * count > MOST_VOXELS:
                raise InputError(f"{file}: {count} pages, more than fit: split it")
            pages = []
            for number in range(count):
                image.seek(number)
                pages.append(_as_labels(file, np.asarray(image)))
    except InputError:
        raise
    except Exception as e:  # whatever Pillow raises of a broken file
        raise InputError(f"{file}: not a readable TIFF ({e}); save it again") from e
    return pages


def _as_labels(file: Path, values: np.ndarray) -> np.ndarray:
    """Whole numbers 0 to 255 as uint8; ITK programs save them as floats too."""
    whole = values.dtype.kind in "bui" or np.array_equal(values, np.rint(values))
    if values.ndim != 2 or not whole or values.min() < 0 or values.max() > 255:
        found = f"{values.dtype} {values.shape}, {values.min():g}..{values.max():g}"
        raise InputError(f"{file}: {found}, expected whole numbers 0..255, one channel")
    return values.astype(np.uint8)


def _check_turned(
    folder: Path, masks: Mapping[str, np.ndarray], originals: Mapping[str, np.ndarray]
) -> None:
    """Refuse a set that agrees with what the network found far better when it is turned over."""
    overlap = dict.fromkeys(TURNS, 0)
    untouched = 0
    fluid_px = 0
    for name, mask in masks.items():
        fluid = mask == 1
        fluid_px += int(fluid.sum())
        found = originals[name] == 1
        untouched += int((fluid & found).sum())
        for turn, index in TURNS.items():
            overlap[turn] += int((fluid[index] & found).sum())
    turn = max(overlap, key=overlap.get)
    if overlap[turn] > max(FAR_BETTER * untouched, MOSTLY * fluid_px):
        shared = f"{untouched} px of them are what the network found, {turn} {overlap[turn]} px"
        raise InputError(
            f"{folder}: the masks seem {turn} ({shared}): save them as the scans lie, or correct "
            "them with ./run.sh annotate"
        )


def with_unknown(mask: np.ndarray, original: np.ndarray) -> np.ndarray:
    """The mask, uint8 (H, W) of 0 and 1, as it was found where it is unknown."""
    return np.where(mask == IGNORE, original, mask).astype(np.uint8)
