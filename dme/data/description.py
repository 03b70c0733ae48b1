"""A data set described: its sizes and class balance, what a split leaks, and examples."""

from collections import Counter

import numpy as np

from dme.common.labels import IGNORE
from dme.data.cache import Cache
from dme.data.splits import leak, split_indices
from dme.drawing.overlays import overlay
from dme.drawing.panels import panel
from dme.retina.wedge import saturated_wedge

WIDE_WEDGE = 0.01  # share of a B-scan
GREYS = np.array([0, 255, 128], np.uint8)  # of background, fluid and what is not graded
TITLES = ["B-scan", "annotation (white: fluid)", "both"]


def count_pixels(cache: Cache) -> tuple[np.ndarray, np.ndarray]:
    """Fluid and graded (not 255) pixels of every B-scan, int64 (N,) each."""
    fluid_px = np.array([(fluid == 1).sum() for fluid in cache.fluid], np.int64)
    graded_px = np.array([(fluid != IGNORE).sum() for fluid in cache.fluid], np.int64)
    return fluid_px, graded_px


def summary(fluid_px: np.ndarray, graded_px: np.ndarray, wedge_share: np.ndarray) -> dict:
    """Of some B-scans: how many, how many empty, fluid in percent of graded pixels, wedge."""
    return {
        "scans": len(fluid_px),
        "empty": int((fluid_px == 0).sum()),
        "fluid_px": int(fluid_px.sum()),
        "fluid_percent": 100 * fluid_px.sum() / max(graded_px.sum(), 1),
        "wedge_percent": 100 * wedge_share.mean(),
    }


def describe(native: Cache, small: Cache, split: str) -> dict:
    """All numbers. native: B-scans of original sizes; small: the square images of the study."""
    train, validation = split_indices(native, split)
    fluid_px, graded_px = count_pixels(native)
    wedge_share = np.array([saturated_wedge(image).mean() for image in native.images])
    subjects = {}
    for subject in np.unique(native.subjects):
        chosen = native.subjects == subject
        subjects[int(subject)] = summary(fluid_px[chosen], graded_px[chosen], wedge_share[chosen])
    return {
        "sizes": Counter(_size(image) for image in native.images),
        "total": summary(fluid_px, graded_px, wedge_share),
        "subjects": subjects,
        "graded_per_fluid_px": graded_px.sum() / max(fluid_px.sum(), 1),
        "resized": _resized(small),
        "scans_over_1_percent_wedge": int((wedge_share > WIDE_WEDGE).sum()),
        "split": {
            "name": split,
            "train": len(train),
            "validation": len(validation),
            "validation_beside_train": leak(native, train, validation),
            "validation_empty": int((fluid_px[validation] == 0).sum()),
        },
    }


def _size(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    return f"{height} x {width}"


def _resized(small: Cache) -> dict:
    """Size and percent of fluid of the square images."""
    fluid_px, graded_px = count_pixels(small)
    percent = 100 * fluid_px.sum() / max(graded_px.sum(), 1)
    return {"size": _size(small.images[0]), "fluid_percent": percent}


def example_panel(cache: Cache, fluid_px: np.ndarray, count: int = 3) -> np.ndarray:
    """B-scans beside their annotation, uint8 (H, W, 3).

    Of `count` subjects those richest in fluid, then as many empty ones. fluid_px: of every B-scan.
    """
    by_fluid = np.argsort(-fluid_px, kind="stable")
    with_fluid = by_fluid[fluid_px[by_fluid] > 0]
    empty = np.flatnonzero(fluid_px == 0)
    rows = []
    titles = []
    for group in (with_fluid, empty):
        # the first B-scan of each subject, in the order of the group
        _, first = np.unique(cache.subjects[group], return_index=True)
        for i in group[np.sort(first)[:count]]:
            image, fluid = cache.images[i], cache.fluid[i]
            rows.append([image, GREYS[np.minimum(fluid, 2)], overlay(image, fluid)])
            share = "no fluid"
            if fluid_px[i]:
                share = f"{100 * fluid_px[i] / fluid.size:.2f} % fluid"
            titles.append(f"subject {cache.subjects[i]}, B-scan {cache.positions[i]}: {share}")
    return panel(rows, TITLES, titles)
