"""Retinal layers of eyes not trained on: leave one eye out, from three starts.

python experiments/studies/layers.py --data octlayers               # all missing runs, then the tables
python experiments/studies/layers.py --data octlayers --starts none
python experiments/studies/layers.py --results experiments/results/layers --amp bf16 --print

Every finished run is a file in --results. An interrupted series continues where it was.
"""

import argparse

import numpy as np

from dme.common.errors import run
from dme.retina.accuracy import over_scans
from dme.retina.rows import BOUNDARIES
from dme.training import series

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
    add(
        "--starts",
        nargs="+",
        choices=STARTS,
        default=list(STARTS),
        help="where the weights come from (all)",
    )
    add(
        "--eyes",
        type=int,
        nargs="+",
        default=list(range(1, EYES + 1)),
        help="which are left out (all)",
    )
    series.add_arguments(parser, "runs/layers")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    recipe = f"--recipe layers --amp {args.amp} --seed 0"
    pretraining = {"phantom": f"{recipe} --data phantom --split random --weights none".split()}
    runs = {}
    for eye in args.eyes:
        for start in args.starts:
            weights = args.out / "phantom" / "model.pt" if start == "phantom" else start
            how = f"{recipe} --split subject:{eye}/{EYES} --weights".split()
            runs[f"{start}-{eye}"] = [*how, str(weights)]
    if "phantom" in args.starts and not args.print:
        series.run_missing("finetune.py", pretraining, args.out, args.out / "runs")
    found = series.gather(args, runs)
    table = markdown(args, found)
    series.write_table(args.out / "layers.md", table)
    print(f"\n{table}\ntable: {args.out / 'layers.md'}\nruns: {series.results_folder(args)}")


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
            errors = np.concatenate([one["boundary_errors_px_per_scan"] for one in own]).astype(
                float
            )
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
