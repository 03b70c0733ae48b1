"""What graders marked in the scans that are predicted, where it lies beside them: to be shown."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.boundary_files import read_boundaries
from dme.data.layout import Layout, find_layout
from dme.data.masks import MaskValues, check_meaning, mask_lookup, read_mask
from dme.data.mirage import INFO, PARTS, class_lookup
from dme.data.source import files_in


@dataclass(frozen=True)
class Truth:
    """Of one scan; None is what nobody marked."""

    fluid: np.ndarray | None = None  # uint8 (H, W) of 0, 1, 255 unknown
    rows: np.ndarray | None = None  # float32 (8, W), NaN where ungraded

    def arrays(self) -> list[np.ndarray]:
        """Those that there are."""
        return [array for array in (self.fluid, self.rows) if array is not None]


@dataclass(frozen=True)
class FolderTruth:
    """Files of a folder by the names of its scans, and what the values of its masks mean."""

    masks: dict[str, Path]
    boundaries: dict[str, Path]
    lookup: np.ndarray  # uint8 (256,): value of a mask -> 0, 1 or 255

    def read(self, name: str, shape: tuple[int, int]) -> Truth:
        """Of a scan (H, W). Raises InputError for files that do not fit it."""
        fluid = rows = None
        if name in self.masks:
            fluid = self.lookup[read_mask(self.masks[name])]
            if fluid.shape != shape:
                found = f"mask is {fluid.shape}, its image is {shape}"
                raise InputError(f"{self.masks[name]}: {found}")
        if name in self.boundaries:
            rows, _ = read_boundaries(self.boundaries[name], shape)
        return Truth(fluid, rows)


def folder_truth(root: Path, names: Iterable[str], notes: list[str]) -> FolderTruth | None:
    """The truth beside the images with these names; None without any.

    root: a folder as `dme.data.layout` knows them. Masks that are not understood are noted.
    """
    wanted = set(names)
    masks: dict[str, Path] = {}
    lookup = np.arange(256, dtype=np.uint8)
    try:
        layout = find_layout(root)
        for name, image in layout.images.items():  # whose names masks may shorten
            if image.stem in wanted and name in (layout.masks or {}):
                masks[image.stem] = layout.masks[name]
        if masks:
            lookup, meaning = _meaning(masks.values(), layout)
            notes.append(f"{root}: {len(masks)} masks of graders are shown beside: {meaning}")
    except InputError as e:
        masks = {}
        notes.append(f"graders' masks not shown: {e}")

    boundaries: dict[str, Path] = {}
    if (root / "boundaries").is_dir():
        files = files_in(root / "boundaries", (".npy",))
        boundaries = {name: file for name, file in files.items() if name in wanted}
    if not masks and not boundaries:
        return None
    return FolderTruth(masks, boundaries, lookup)


def _meaning(files: Iterable[Path], layout: Layout) -> tuple[np.ndarray, str]:
    """What the values of the masks of a set mean, as of `mask_lookup` or `class_lookup`."""
    values = MaskValues()
    for file in files:
        values.add(read_mask(file))
    if layout.classes:  # one list for all parts of a set
        of_part = layout.classes.name in PARTS and not (layout.classes / INFO).is_file()
        folder = layout.classes.parent if of_part else layout.classes
        return class_lookup(folder, values)
    lookup, meaning = mask_lookup(values)
    check_meaning(values, lookup, layout.mask_place)
    return lookup, meaning
