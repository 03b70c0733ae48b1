"""How `--recipe best` of finetune.py was chosen: candidates compared on eyes 1 to 8 alone.

python experiments/development.py                           # all candidates that have no result yet
python experiments/development.py --candidates crops whole
python experiments/development.py --results experiments/results/development --print

The four folds dev:K/4 leave out eyes 9 and 10 and the validation scans of `paper`. Every finished fold of a
candidate is a file in --results. An interrupted series continues where it was.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from dme.errors import InputError, run
from dme.files import atomic_path
from dme.metrics import scores
from dme.series import finished, run_missing

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
    "whole, from synthetic scans": f"{WHOLE} --weights phantom-psp",
}
KINDS = {"study": "at 256 x 256", "native": "all columns", "graded": "graded columns"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES), help="which ones (all)")
    add("--folds", type=int, nargs="+", choices=[1, 2, 3, 4], default=[1, 2, 3, 4], help="which ones (all)")
    add("--data", help=".mat files or folder of B-scans (default: DME_DATA)")
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    add("--print", action="store_true", help="train nothing, show the runs that are finished")
    add("--out", type=Path, default=Path("runs/development"), help="run folders (default runs/development)")
    add("--results", type=Path, help="folder for the finished runs' files (default: OUT/runs)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = args.results or args.out / "runs"
    if args.data:
        os.environ["DME_DATA"] = args.data  # which finetune.py reads too
    runs = {
        run_name(name, k): f"{BASE} {CANDIDATES[name]} --split dev:{k}/4 --amp {args.amp} --seed 0".split()
        for name in args.candidates
        for k in args.folds
    }
    found = finished(runs, results) if args.print else run_missing("finetune.py", runs, args.out, results)
    if not found:
        raise InputError(f"no finished runs in {results}; run without --print first")
    if len({result["data_sha256"] for result in found.values()}) > 1:
        raise InputError(f"the runs in {results} were made on different data; keep one folder per data set")
    table = markdown(args.candidates, args.folds, found)
    with atomic_path(args.out / "development.md") as temporary:
        temporary.write_text(table)
    print(f"\n{table}\ntable: {args.out / 'development.md'}\nruns: {results}")


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
        counts = {kind: [np.array(one["counts_per_scan"][kind]).sum(0) for one in own] for kind in KINDS}
        cells = [f"{scores(sum(of))['dice'][1]:.4f}" for of in counts.values()]
        each = " ".join(f"{scores(one)['dice'][1]:.3f}" for one in counts["graded"])
        lines.append(f"| {name} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
