"""Folders of small made-up images, and what opening a source refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.opening import open_source

GREY = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)  # 4 rows, 6 columns
EMPTY = np.zeros((4, 6), np.uint8)
WET = np.zeros((4, 6), np.uint8)  # a quarter of it is fluid
WET[1:3, 2:5] = 1


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_folder(
    root: Path, masks: dict[str, np.ndarray] | None = None, index: str | None = None
) -> Path:
    """A folder of images named as the masks, and their masks in fluid/."""
    if masks is None:
        masks = {"a": EMPTY, "b": WET}
    for name, mask in masks.items():
        save(root / "images" / f"{name}.png", GREY)
        save(root / "fluid" / f"{name}.png", mask)
    if index is not None:
        (root / "index.csv").write_text(index)
    return root


def read_scans(path: Path) -> list[BScan]:
    return list(open_source(path).scans())


def places(scans: list[BScan]) -> list[tuple[int, int]]:
    """(subject, position) of scans."""
    return [(scan.subject, scan.position) for scan in scans]


def refused(path: Path, *words: str, grader: int = 1) -> None:
    """Opening or reading `path` raises one InputError line that holds all the words."""
    with pytest.raises(InputError) as caught:
        list(open_source(path, grader).scans())
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
