"""How `--recipe best` of finetune.py was chosen: candidates compared on eyes 1 to 8 alone.

python experiments/studies/development.py                           # all candidates that have no result yet
python experiments/studies/development.py --candidates crops whole
python experiments/studies/development.py --results experiments/results/development --amp bf16 --print

The four folds dev:K/4 leave out eyes 9 and 10 and the validation scans of `paper`. Every finished fold of a
candidate is a file in --results. An interrupted series continues where it was.
"""

import argparse

import numpy as np

from dme.common.errors import run
from dme.metrics import scores
from dme.training import series

BASE = (
    "--iters 500 --size half --max-class-share 1 --ungraded ignore --flip --rotate 8 --zoom 0.2 "
    "--brightness 0.1 --contrast 0.25 --gamma 0.2 --noise 0.1 --loss ce+dice --optimizer adamw --lr 2e-3 "
    "--l2 1e-2 --schedule cosine --lr-min 0 --warmup 50 --clip 1 --ema 0.98 --tta"
)
CROPS = "--crop 240 --batch 6 --on-fluid 0.3 --border 0.25"
WHOLE = "--crop 0 --batch 4"  # about as many pixels a step
CANDIDATES = {
    "crops": f"{CROPS} --weights hrf-psp",
    "whole": f"{WHOLE} --weights hrf-psp",
    "whole, ungraded as background": f"{WHOLE} --weights hrf-psp --ungraded background",
    "the same, 1600 steps": f"{WHOLE} --weights hrf-psp --ungraded background --iters 1600 --ema 0.99",
    "whole, from synthetic scans": f"{WHOLE} --weights phantom-psp",
}
KINDS = {"study": "at 256 x 256", "native": "all columns", "graded": "graded columns"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--candidates",
        nargs="+",
        choices=CANDIDATES,
        default=list(CANDIDATES),
        help="which ones (all)",
    )
    add(
        "--folds",
        type=int,
        nargs="+",
        choices=[1, 2, 3, 4],
        default=[1, 2, 3, 4],
        help="which ones (all)",
    )
    series.add_arguments(parser, "runs/development")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs = {
        run_name(
            name, k
        ): f"{BASE} {CANDIDATES[name]} --split dev:{k}/4 --amp {args.amp} --seed 0".split()
        for name in args.candidates
        for k in args.folds
    }
    found = series.gather(args, runs)
    table = markdown(args.candidates, args.folds, found)
    series.write_table(args.out / "development.md", table)
    print(f"\n{table}\ntable: {args.out / 'development.md'}\nruns: {series.results_folder(args)}")


def run_name(candidate: str, fold: int) -> str:
    return f"{candidate.replace(',', '').replace(' ', '-')}-{fold}of4"


def markdown(candidates: list[str], folds: list[int], found: dict[str, dict]) -> str:
    """Fluid Dice of each finished candidate pooled over the held-out scans of the folds, and fold by fold."""
    lines = [
        f"| candidate | {' | '.join(KINDS.values())} | graded, folds {', '.join(map(str, folds))} |",
        "|---" * (2 + len(KINDS)) + "|",
    ]
    for name in candidates:
        own = [found[key] for k in folds if (key := run_name(name, k)) in found]
        if len(own) < len(folds):
            continue
        counts = {
            kind: [np.array(one["counts_per_scan"][kind]).sum(0) for one in own] for kind in KINDS
        }
        cells = [f"{scores(sum(of))['dice'][1]:.4f}" for of in counts.values()]
        each = " ".join(f"{scores(one)['dice'][1]:.3f}" for one in counts["graded"])
        lines.append(f"| {name} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
