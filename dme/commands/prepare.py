"""Preliminary study of a data set: B-scans, class balance, what was cleaned, what the split leaks, examples.

    python experiments/prepare.py --data /path/to/2015_BOE_Chiu

Writes results.json and examples.png (B-scans beside their annotation, as in Figures 2 and 3 of the paper).
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import write_json
from dme.common.labels import IGNORE
from dme.common.provenance import provenance
from dme.data.cache import Cache, open_cache
from dme.data.opening import open_source
from dme.data.splits import leak, split_indices
from dme.drawing.canvas import save_png
from dme.drawing.overlays import overlay
from dme.drawing.panels import panel
from dme.retina.wedge import saturated_wedge


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", help=".mat file or folder (default: DME_DATA, else synthetic B-scans)"
    )
    parser.add_argument(
        "--grader", type=int, default=1, help="whose annotations of .mat files: 1 or 2"
    )
    parser.add_argument(
        "--split",
        help="paper, random or subject:K/5 (default: paper for the Duke set, else random)",
    )
    parser.add_argument(
        "--size", type=int, default=256, help="side of the square images that the study works on"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/prepare"))
    return parser.parse_args()


def count_pixels(cache: Cache) -> tuple[np.ndarray, np.ndarray]:
    """Fluid and graded (not 255) pixels of every B-scan, int64 (N,) each."""
    fluid_px = np.array([(fluid == 1).sum() for fluid in cache.fluid], np.int64)
    graded_px = np.array([(fluid != IGNORE).sum() for fluid in cache.fluid], np.int64)
    return fluid_px, graded_px


def summary(fluid_px: np.ndarray, graded_px: np.ndarray, wedge_share: np.ndarray) -> dict:
    """Of some B-scans: how many, how many empty, percent of fluid among graded pixels, percent of wedge."""
    return {
        "scans": len(fluid_px),
        "empty": int((fluid_px == 0).sum()),
        "fluid_px": int(fluid_px.sum()),
        "fluid_percent": 100 * fluid_px.sum() / max(graded_px.sum(), 1),
        "wedge_percent": 100 * wedge_share.mean(),
    }


def example_panel(cache: Cache, fluid_px: np.ndarray, count: int = 3) -> np.ndarray:
    """B-scans beside their annotation: the richest in fluid of `count` subjects, then as many empty ones."""
    by_fluid = np.argsort(-fluid_px, kind="stable")
    rows, titles = [], []
    for group in (by_fluid[fluid_px[by_fluid] > 0], np.flatnonzero(fluid_px == 0)):
        _, first = np.unique(cache.subjects[group], return_index=True)
        for i in group[np.sort(first)[:count]]:
            image, fluid = cache.images[i], cache.fluid[i]
            annotation = np.choose(np.minimum(fluid, 2), [0, 255, 128]).astype(np.uint8)
            rows.append([image, annotation, overlay(image, fluid)])
            share = f"{100 * fluid_px[i] / fluid.size:.2f} % fluid" if fluid_px[i] else "no fluid"
            titles.append(f"subject {cache.subjects[i]}, B-scan {cache.positions[i]}: {share}")
    return panel(rows, ["B-scan", "annotation (white: fluid)", "both"], titles)


def study(native: Cache, small: Cache, split: str) -> dict:
    """All numbers of the preliminary study. native: original sizes; small: the square images of the study."""
    train, validation = split_indices(native, split)
    fluid_px, graded_px = count_pixels(native)
    wedge_share = np.array([saturated_wedge(image).mean() for image in native.images])
    subjects = {}
    for subject in np.unique(native.subjects):
        chosen = native.subjects == subject
        subjects[int(subject)] = summary(fluid_px[chosen], graded_px[chosen], wedge_share[chosen])
    small_fluid_px, small_graded_px = (px.sum() for px in count_pixels(small))
    return {
        "sizes": Counter(f"{image.shape[0]} x {image.shape[1]}" for image in native.images),
        "total": summary(fluid_px, graded_px, wedge_share),
        "subjects": subjects,
        "graded_per_fluid_px": graded_px.sum() / max(fluid_px.sum(), 1),
        "resized": {
            "size": f"{small.images[0].shape[0]} x {small.images[0].shape[1]}",
            "fluid_percent": 100 * small_fluid_px / max(small_graded_px, 1),
        },
        "scans_over_1_percent_wedge": int((wedge_share > 0.01).sum()),
        "split": {
            "name": split,
            "train": len(train),
            "validation": len(validation),
            "validation_beside_train": leak(native, train, validation),
            "validation_empty": int((fluid_px[validation] == 0).sum()),
        },
    }


def print_study(found: dict) -> None:
    total, resized, split = found["total"], found["resized"], found["split"]
    sizes = ", ".join(f"{count} of {size} px" for size, count in found["sizes"].items())
    print(f"\n{total['scans']} B-scans: {sizes}")
    print("\nsubject  scans  empty  fluid %  wedge %")
    for name, row in [*found["subjects"].items(), ("all", total)]:
        percents = f"{row['fluid_percent']:>7.2f}  {row['wedge_percent']:>7.2f}"
        print(f"{name:>7}  {row['scans']:>5}  {row['empty']:>5}  {percents}")
    balance = f"{total['fluid_percent']:.2f} % of graded pixels, one in {found['graded_per_fluid_px']:.0f}"
    print(f"\nfluid: {balance}; {resized['fluid_percent']:.2f} % at {resized['size']} px")
    wide = f"over 1 % of the picture in {found['scans_over_1_percent_wedge']} B-scans"
    print(
        f"saturated wedge (255 up to the top or bottom): {total['wedge_percent']:.2f} % of pixels, {wide}"
    )
    sides = f"{split['train']} train, {split['validation']} validation B-scans"
    print(f"split {split['name']}: {sides}; of the latter")
    print(
        f"  {split['validation_beside_train']} leak: an adjacent annotated B-scan of the same eye is in train"
    )
    print(f"  {split['validation_empty']} are empty")


def main() -> None:
    args = parse_args()
    source = open_source(args.data, args.grader)
    print(f"data: {source.description}")
    native, small = open_cache(source), open_cache(source, args.size)
    for note in native.notes:
        print(f"  {note}")
    if native.fluid is None:
        raise InputError(
            f"{source.description}: nothing to study without fluid labels; add masks or choose other data"
        )
    found = study(native, small, args.split or ("paper" if native.is_duke else "random"))
    print_study(found)

    results, examples = args.out / "results.json", args.out / "examples.png"
    data = {"data": source.description, "data_sha256": source.sha256, "notes": list(native.notes)}
    write_json(results, {**data, **found, **provenance()})
    save_png(examples, example_panel(native, count_pixels(native)[0]))
    print(f"\nwrote {results} and {examples}")
