"""Retinal layers of eyes not trained on: leave one eye out, from three starts.

python experiments/layers.py --data octlayers               # all missing runs, then the tables
python experiments/layers.py --data octlayers --starts none
python experiments/layers.py --results experiments/results/layers --print

Every finished run is a file in --results. An interrupted series continues where it was.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from dme.errors import InputError, run
from dme.files import atomic_path
from dme.layers import BOUNDARIES, over_scans
from dme.series import finished, run_missing

EYES = 7  # of octlayers
SPECTRALIS_UM = 3.87  # axial, per px
STARTS = {"hrf-fcn": "vessels (HRF)", "phantom": "synthetic scans", "none": "nothing"}
PUBLISHED = (  # mean absolute error in px, other sets and protocols
    ("a CNN-LSTM on three public sets", "1.30 ± 0.48"),
    ("between two human markers", "1.79 ± 0.76"),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="where the weights come from (all)")
    add("--eyes", type=int, nargs="+", default=list(range(1, EYES + 1)), help="which are left out (all)")
    add("--data", help="folder with images/ and boundaries/ (default: DME_DATA)")
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    add("--print", action="store_true", help="train nothing, show the runs that are finished")
    add("--out", type=Path, default=Path("runs/layers"), help="run folders and tables (default runs/layers)")
    add("--results", type=Path, help="folder for the finished runs' files (default: OUT/runs)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = args.results or args.out / "runs"
    if args.data:
        os.environ["DME_DATA"] = args.data  # which finetune.py reads too
    recipe = f"--recipe layers --amp {args.amp} --seed 0"
    pretraining = {"phantom": f"{recipe} --data phantom --split random --weights none".split()}
    runs = {}
    for eye in args.eyes:
        for start in args.starts:
            weights = args.out / "phantom" / "model.pt" if start == "phantom" else start
            runs[f"{start}-{eye}"] = f"{recipe} --split subject:{eye}/{EYES} --weights {weights}".split()
    if args.print:
        found = finished(runs, results)
    else:
        if "phantom" in args.starts:
            run_missing("finetune.py", pretraining, args.out, args.out / "runs")
        found = run_missing("finetune.py", runs, args.out, results)
    if not found:
        raise InputError(f"no finished runs in {results}; run without --print first")
    if len({result["data_sha256"] for result in found.values()}) > 1:
        raise InputError(f"the runs in {results} were made on different data; keep one folder per data set")
    table = markdown(args, found)
    with atomic_path(args.out / "layers.md") as temporary:
        temporary.write_text(table)
    print(f"\n{table}\ntable: {args.out / 'layers.md'}\nruns: {results}")


def markdown(args: argparse.Namespace, found: dict[str, dict]) -> str:
    """Errors per start over the scans of all eyes left out, then boundary by boundary."""
    first = next(iter(found.values()))
    arch = first["arch"]
    lines = [
        f"Mean absolute error of boundaries in px ({SPECTRALIS_UM} µm each), mean ± sd over scans of eyes "
        f"not trained on; {arch['backbone']} of width {arch['width']}, {arch['head']} head",
        "",
        f"| pretrained on | eyes | scans | all boundaries | µm | {' | '.join(BOUNDARIES)} |",
        "|---" * (5 + len(BOUNDARIES)) + "|",
    ]
    for start in args.starts:
        own = [found[name] for eye in args.eyes if (name := f"{start}-{eye}") in found]
        if own:
            errors = np.concatenate([one["boundary_errors_px_per_scan"] for one in own]).astype(float)
            *each, overall = [
                f"{row['mean']:.2f} ± {row['sd'] or 0:.2f}"
                for row in over_scans(errors, [*BOUNDARIES, "all"])
            ]
            um = SPECTRALIS_UM * np.nanmean(errors[:, -1])
            cells = [STARTS[start], str(len(own)), str(len(errors)), overall, f"{um:.1f}", *each]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Published, on other sets:", ""]
    lines += [f"- {who}: {error} px" for who, error in PUBLISHED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
