"""Data sets as the MIRAGE benchmark keeps them: bscan/, semseg/, INFO.json, in parts or alone.

Sets to train on have the parts train/, val/ and test/, which `--split folders` keeps.
"""

import json
import re
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.words import IMAGE_SUFFIXES
from dme.data.masks import MaskValues
from dme.data.source import files_in, listing

INFO = "INFO.json"
IMAGES = "bscan"
MASKS = "semseg"
PARTS = ("train", "val", "test")
LONGEST_INFO = 1 << 20  # bytes
# of names of classes: those of the benchmark's sets, and plain words
FLUID = re.compile(r"fluid|cyst|o?edema|\b(?:IRF|SRF|PED|IRC)\b|detachment", re.IGNORECASE)


def is_mirage(root: Path) -> bool:
    """Whether a folder holds B-scans in bscan/, or in bscan/ of its parts."""
    return bool(parts_of(root))


def parts_of(root: Path) -> dict[str, Path]:
    """Part -> its folder; one part "" where the folder itself has bscan/."""
    if (root / IMAGES).is_dir():
        return {"": root}
    return {part: root / part for part in PARTS if (root / part / IMAGES).is_dir()}


def files_of(root: Path) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """Images and masks by name, such as train_scan7, and notes.

    Parts without semseg/, as RETOUCH's test, are left out where others have one.
    """
    parts = parts_of(root)
    annotated = {part: folder for part, folder in parts.items() if (folder / MASKS).is_dir()}
    notes = []
    left_out = [part for part in parts if part not in annotated]
    if annotated and left_out:
        notes.append(f"without {MASKS}/, left out: {listing(left_out)}")
    images = {}
    masks = {}
    for part, folder in (annotated or parts).items():
        prefix = f"{part}_" if part else ""
        for name, file in files_in(folder / IMAGES, IMAGE_SUFFIXES).items():
            images[prefix + name] = file
        if part in annotated:
            for name, file in files_in(folder / MASKS, IMAGE_SUFFIXES).items():
                masks[prefix + name] = file
    return images, masks, notes


def read_classes(root: Path) -> dict[int, str]:
    """Value in masks -> name of the class, of INFO.json. Raises InputError for anything else."""
    path = root / INFO
    if not path.is_file():
        raise InputError(f"{path}: missing; it says which values of {MASKS}/ are which class")
    if path.stat().st_size > LONGEST_INFO:
        raise InputError(f"{path}: {path.stat().st_size} bytes, expected a list of classes")
    classes = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")).values():
            classes[int(entry["value"])] = str(entry["label"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        expected = '{"0": {"value": 0, "label": "Background"}, ...}'
        raise InputError(f"{path}: not as expected: {expected}; download it again") from e
    if not all(0 <= value <= 255 for value in classes):
        raise InputError(f"{path}: values {listing(sorted(classes))}, expected 0 to 255")
    return classes


def class_lookup(root: Path, masks: MaskValues) -> tuple[np.ndarray, str]:
    """Meaning of mask values: table uint8 (256,) from value to 0 or 1, and a text.

    Raises InputError where no class is fluid, and for values that INFO.json does not name.
    """
    classes = read_classes(root)
    fluid = {value: name for value, name in classes.items() if FLUID.search(name)}
    names = listing([f"{value} {name}" for value, name in classes.items()])
    if not fluid:
        raise InputError(f"{root / INFO}: no class is fluid: {names}; say it by `fluid_value`")
    unnamed = [value for value in masks.values if value not in classes]
    if unnamed:
        found = f"masks hold {listing(unnamed)}"
        raise InputError(f"{root / MASKS}: {found}, {INFO} names {names}; download it again")
    lookup = np.zeros(256, np.uint8)
    lookup[list(fluid)] = 1
    values = listing([f"{value} ({name})" for value, name in fluid.items()])
    return lookup, f"fluid is {values}, as {INFO} says, all else background"
