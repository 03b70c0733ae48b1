"""Benchmarks. Each prints its ratio first and writes its numbers, machine, versions and command to a file.

python experiments/bench.py cache --data /path/to/data
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dme.cache import Cache, open_cache
from dme.errors import InputError, run
from dme.record import provenance, write_json
from dme.sources import Source, open_source


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the results")
    benches = parser.add_subparsers(dest="name", required=True)
    cache = benches.add_parser("cache", help="read all scans and masks from PNG files and from the cache")
    cache.add_argument("--data", help=".mat file or folder (default: DME_DATA, else synthetic B-scans)")
    cache.add_argument("--repeats", type=int, default=7)
    cache.set_defaults(bench=bench_cache)
    return parser.parse_args()


def time_in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict]:
    """Seconds of every way, warm: one untimed round, then `repeats` rounds that take the ways in turn."""
    if repeats < 1:
        raise InputError(f"--repeats {repeats}: expected 1 or more")
    seconds = {name: [] for name in ways}
    for timed in tqdm([False] + [True] * repeats, desc="rounds", unit="round"):
        for name, way in ways.items():
            began = time.perf_counter()
            result = way()
            took = time.perf_counter() - began
            del result  # freeing it is not part of the next way
            if timed:
                seconds[name].append(took)
    return {
        name: {"median_s": statistics.median(s), "min_s": min(s), "max_s": max(s), "all_s": s}
        for name, s in seconds.items()
    }


def bench_cache(args: argparse.Namespace) -> dict:
    """All images and masks into memory: PNG files decoded by Pillow, the cache opened and verified."""
    source = open_source(args.data)
    print(f"data: {source.description}")
    cache = open_cache(source)
    with tempfile.TemporaryDirectory() as temporary:
        files = own_png_files(source)
        expected = len(cache) * (1 if cache.fluid is None else 2)
        origin = "the source's own"
        if len(files) != expected:
            files, origin = write_png_files(cache, Path(temporary)), "written for this comparison"
        ways = {
            "png": lambda: [np.asarray(Image.open(file)) for file in files],
            "cache": lambda: open_cache(source),
        }
        times = time_in_turns(ways, args.repeats)
    ratio = times["png"]["median_s"] / times["cache"]["median_s"]
    print(f"\nthe cache is {ratio:.1f} x as fast as PNG: {len(cache)} B-scans, {len(files)} files ({origin})")
    for name, row in times.items():
        spread = f"{1e3 * row['min_s']:.1f} .. {1e3 * row['max_s']:.1f}"
        print(f"{name:6} {1e3 * row['median_s']:7.1f} ms (median of {args.repeats}, {spread})")
    return {
        "ratio": ratio,
        **times,
        "scans": len(cache),
        "png_files": origin,
        "data": source.description,
        "data_sha256": source.sha256,
    }


def own_png_files(source: Source) -> list[Path]:
    """Images, then masks, of a folder that keeps them as PNG."""
    root = Path(source.path)
    return [f for name in ("images", "fluid") if source.path for f in sorted((root / name).glob("*.png"))]


def write_png_files(cache: Cache, folder: Path) -> list[Path]:
    files = []
    for name in ("images", "fluid"):
        for i, pixels in enumerate(getattr(cache, name) if getattr(cache, name) is not None else []):
            files.append(folder / f"{name}_{i:05d}.png")
            Image.fromarray(pixels).save(files[-1])
    return files


def main() -> None:
    args = parse_args()
    results = {**provenance(), "cpu_count": os.cpu_count(), **args.bench(args)}
    write_json(args.out / f"{args.name}.json", results)
    print(f"results: {args.out / f'{args.name}.json'}")


if __name__ == "__main__":
    run(main)
