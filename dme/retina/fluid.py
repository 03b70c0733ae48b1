"""Fluid of one scan in numbers: its area, its regions, and how much of it lies in which layer."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from dme.common.labels import IGNORE
from dme.retina.outlines import NEIGHBOURS
from dme.retina.rows import CLASSES, check_rows, in_tables, layer_labels

CONNECTIVITY = int(NEIGHBOURS.sum()) - 1  # neighbours that belong to a pixel's region: 8
# fluid above the retina and below it is a mistake of one of the networks: shown, not hidden
FLUID_COLUMNS = {
    "px": tuple(f"fluid_{in_tables(name)}_px" for name in CLASSES),
    "mm2": tuple(f"fluid_{in_tables(name)}_mm2" for name in CLASSES),
}


def measure_scan(
    mask: np.ndarray, probability: np.ndarray, scale_um: Sequence[float] | None
) -> dict[str, int | float | None]:
    """Fluid of one scan; every region counts, however small. None where a number has no meaning.

    mask: (H, W), fluid is 1. probability: float (H, W) of fluid. scale_um: (axial, lateral, ...),
    None if unknown, which leaves the mm^2 unknown too. mean_fluid_probability is the mean within
    the fluid.
    """
    # regions, whose sizes follow that of the background
    fluid = mask == 1
    regions, count = ndimage.label(fluid, NEIGHBOURS)
    sizes_px = np.bincount(regions.ravel())[1:]
    fluid_px = int(fluid.sum())
    largest_px = int(sizes_px.max(initial=0))
    mean = None
    if count:
        mean = float(probability[fluid].mean(dtype=np.float64))
    return {
        "fluid_px": fluid_px,
        "fluid_area_mm2": area_mm2(fluid_px, scale_um),
        "regions": count,
        "largest_region_px": largest_px,
        "largest_region_mm2": area_mm2(largest_px, scale_um),
        "mean_fluid_probability": mean,
    }


def area_mm2(pixels: int, scale_um: Sequence[float] | None) -> float | None:
    """Area of so many pixels, which need not be square; None when the scale is unknown."""
    if not scale_um:
        return None
    axial_um, lateral_um, *_ = scale_um
    return pixels * axial_um * lateral_um / 1e6


def fluid_per_layer(boundaries: np.ndarray, fluid: np.ndarray) -> np.ndarray:
    """Fluid pixels in each of CLASSES, int64 (9,); `dme.retina.fluid.area_mm2` makes mm^2 of them.

    boundaries: rows (8, W), unknown columns are left out. fluid: (H, W), fluid is 1.
    """
    height, width = fluid.shape
    labels = layer_labels(check_rows(boundaries, width), height)
    classes = labels[fluid == 1]
    known = classes[classes != IGNORE]
    return np.bincount(known, minlength=len(CLASSES))


def measure_fluid_in_layers(
    boundaries: np.ndarray, mask: np.ndarray, scale_um: Sequence[float] | None
) -> dict[str, int | float | None]:
    """Area of fluid in each of CLASSES, in px and in mm^2 (None without a scale).

    boundaries, mask: as of `fluid_per_layer`. Keys: FLUID_COLUMNS.
    """
    pixels = fluid_per_layer(boundaries, mask).tolist()
    areas_mm2 = [area_mm2(count, scale_um) for count in pixels]
    in_px = zip(FLUID_COLUMNS["px"], pixels, strict=True)
    in_mm2 = zip(FLUID_COLUMNS["mm2"], areas_mm2, strict=True)
    return dict([*in_px, *in_mm2])
