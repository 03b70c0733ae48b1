"""Subject-disjoint cross-validation: how well a recipe of finetune.py finds fluid in eyes it has not seen.

python experiments/studies/crossval.py  # five folds over the eyes, then the tables
python experiments/studies/crossval.py --weights hrf-mobilenet_v3_small  # another network
python experiments/studies/crossval.py --leaky  # also the splits by B-scan, to see the leak
python experiments/studies/crossval.py --results experiments/results/crossval --amp bf16 --print

Every finished fold is a file in --results. An interrupted series continues where it was.
"""

import argparse

import numpy as np

from dme.common.errors import run
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.metrics import per_scan, scores
from dme.training import series

FOLDS = [f"subject:{k}/5" for k in range(1, 6)]
LEAKY = ["paper", "random"]
COLUMNS = {"native": "all columns", "graded": "graded columns only"}
BOOTSTRAP = 10_000
PUBLISHED = (  # fluid Dice on this set, as others report it
    ("Chiu 2015, automatic", "subject-disjoint, tabulated by a third party", 0.56),
    ("ReLayNet 2017", "subject-disjoint, tabulated by a third party", 0.70),
    ("He 2021", "subject-disjoint, tabulated by a third party", 0.70),
    ("ReLayNet 2017, its own paper", "8-fold, unverified", 0.77),
    ("the study", "`paper` split, which leaks, at 256 x 256", 0.6883),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", default="best", help="recipe of finetune.py (default best)")
    add(
        "--weights",
        help="name or file to start from, which says the backbone (default: finetune.py's)",
    )
    add("--seeds", type=int, nargs="+", default=[0], help="runs of each fold (default 0)")
    add("--leaky", action="store_true", help="also the splits by B-scan (paper and random)")
    add("--compile", action="store_true", help="torch.compile the training steps")
    series.add_arguments(parser, "runs/crossval", "folds")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs = {}
    for seed in args.seeds:
        for split in FOLDS + LEAKY * args.leaky:
            how = f"--recipe {args.recipe} --split {split} --amp {args.amp} --seed {seed}".split()
            how += ["--weights", args.weights] * bool(args.weights) + ["--compile"] * args.compile
            runs[run_name(split, seed)] = how
    found = series.gather(args, runs, "folds")
    table = markdown(args, found)
    series.write_table(args.out / "crossval.md", table)
    print(f"\n{table}\ntable: {args.out / 'crossval.md'}")
    held_out = [
        found[name] for split in FOLDS if (name := run_name(split, args.seeds[0])) in found
    ]
    if held_out and held_out[0]["scale_um"]:
        save_png(args.out / "bland_altman.png", bland_altman(held_out))
        print(f"picture: {args.out / 'bland_altman.png'}")
    print(f"folds: {series.results_folder(args, 'folds')}")


def run_name(split: str, seed: int) -> str:
    return f"{series.in_name(split)}-seed{seed}"


def markdown(args: argparse.Namespace, found: dict[str, dict]) -> str:
    first = next(iter(found.values()))
    where = "SYNTHETIC" if first["data_kind"] == "phantom" else "real"
    arch = first["arch"]
    lines = [
        f"Recipe {args.recipe} on {where} scans ({arch['backbone']}, {arch['head']}, width {arch['width']}); "
        "no eye is in training and validation of a fold; scores at the scans' own pixels, networks after "
        "their last step",
        "",
        "| fold | eyes | scans | fluid Dice | IoU | graded columns: Dice | IoU |",
        "|---|---|---|---|---|---|---|",
    ]
    for split in FOLDS:
        own = [found[name] for seed in args.seeds if (name := run_name(split, seed)) in found]
        if own:
            eyes = ", ".join(str(eye) for eye in sorted(set(own[0]["subjects"])))
            cells = [
                series.mean_sd([pooled(one, kind, of) for one in own])
                for kind in COLUMNS
                for of in ("dice", "iou")
            ]
            lines.append(f"| {split} | {eyes} | {len(own[0]['scans'])} | {' | '.join(cells)} |")
    for seed in args.seeds:
        folds = [found[name] for split in FOLDS if (name := run_name(split, seed)) in found]
        if len(folds) == len(FOLDS):
            lines += ["", f"All folds together, seed {seed}:", "", *together(folds)]
    leaky = [(split, own) for split in LEAKY if (own := [found[n] for n in named(found, split)])]
    if leaky:
        lines += ["", "The same recipe on splits by B-scan, which leak:", ""]
        lines += [
            "| split | runs | at 256 x 256: fluid Dice | all columns | graded columns |",
            "|---|---|---|---|---|",
        ]
        for split, own in leaky:
            cells = [
                series.mean_sd([pooled(one, kind, "dice") for one in own])
                for kind in ("study", *COLUMNS)
            ]
            lines.append(f"| {split} | {len(own)} | {' | '.join(cells)} |")
    lines += ["", "Published on this set:", "", "| | protocol | fluid Dice |", "|---|---|---|"]
    lines += [f"| {who} | {how} | {dice} |" for who, how, dice in PUBLISHED]
    return "\n".join(lines) + "\n"


def named(found: dict[str, dict], split: str) -> list[str]:
    return [
        name for name in found if name.rsplit("-", 1)[0] == run_name(split, 0).rsplit("-", 1)[0]
    ]


def pooled(result: dict, kind: str, of: str) -> float:
    return float(scores(np.array(result["counts_per_scan"][kind]).sum(0))[of][1])


def together(folds: list[dict]) -> list[str]:
    """Lines of the table over all held-out scans of the folds, each scan counted once."""
    eyes = np.concatenate([fold["subjects"] for fold in folds])
    lines = ["| | all columns | graded columns only |", "|---|---|---|"]
    counts = {
        kind: np.concatenate([fold["counts_per_scan"][kind] for fold in folds]) for kind in COLUMNS
    }
    rows: dict[str, list[str]] = {}
    for one in counts.values():
        total = scores(one.sum(0))
        low, high = interval_by_eye(one, eyes)
        strict, kind = per_scan(one), per_scan(one, empty=1.0)
        sensitivity, specificity = detection(one)
        for name, cell in {
            "fluid Dice, pooled (95 % interval by eye)": f"{total['dice'][1]:.4f} ({low:.4f} to {high:.4f})",
            "fluid IoU, pooled": f"{total['iou'][1]:.4f}",
            "Dice per scan, empty ones left out": series.mean_sd(drop_nan(strict["dice"])),
            "IoU per scan, the same": series.mean_sd(drop_nan(strict["iou"])),
            "Dice per scan, empty counting 1": series.mean_sd(kind["dice"]),
            "scans with fluid found": sensitivity,
            "scans without fluid left empty": specificity,
            **area_rows(one, folds[0]["scale_um"]),
        }.items():
            rows.setdefault(name, []).append(cell)
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def drop_nan(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def interval_by_eye(counts: np.ndarray, eyes: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the pooled fluid Dice of counts (N, 2, 2), whole eyes drawn again."""
    per_eye = np.stack([counts[eyes == eye].sum(0) for eye in np.unique(eyes)])
    draws = np.random.default_rng(0).integers(len(per_eye), size=(BOOTSTRAP, len(per_eye)))
    sums = per_eye[draws].sum(1)  # (BOOTSTRAP, 2, 2)
    with np.errstate(invalid="ignore"):  # draws of eyes without fluid have no Dice
        dice = 2 * sums[:, 1, 1] / (sums[:, 1].sum(1) + sums[:, :, 1].sum(1))
    return tuple(np.nanpercentile(dice, [2.5, 97.5]).tolist())


def detection(counts: np.ndarray) -> tuple[str, str]:
    """Scans with fluid in which some is found, and without in which none is: share and numbers."""
    truth, found = counts[:, 1].sum(1) > 0, counts[:, :, 1].sum(1) > 0
    cells = []
    for wanted in (True, False):
        right = found[truth == wanted] == wanted
        cells.append(
            f"{right.mean():.3f} ({right.sum()} of {right.size})" if right.size else "none"
        )
    return tuple(cells)


def areas_mm2(counts: np.ndarray, scale_um: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Fluid areas of (N, 2, 2) counts: of the truth and of the prediction, (N,) each."""
    pixel = scale_um[0] * scale_um[1] / 1e6
    return counts[:, 1].sum(1) * pixel, counts[:, :, 1].sum(1) * pixel


def area_rows(counts: np.ndarray, scale_um: list[float] | None) -> dict[str, str]:
    if scale_um is None:
        return {}
    truth, found = areas_mm2(counts, scale_um)
    error = found - truth
    half = 1.96 * error.std(ddof=1)
    return {
        "area error per scan, mm² (limits of agreement)": f"{error.mean():+.4f} "
        f"({error.mean() - half:+.4f} to {error.mean() + half:+.4f})",
        "mean absolute area error, mm² (mean true area)": f"{abs(error).mean():.4f} ({truth.mean():.4f})",
    }


def bland_altman(folds: list[dict]) -> np.ndarray:
    """Difference of found and true fluid area against their mean, mm², all columns."""
    counts = np.concatenate([fold["counts_per_scan"]["native"] for fold in folds])
    truth, found = areas_mm2(counts, folds[0]["scale_um"])
    mean, error = (found + truth) / 2, found - truth
    ends, half = (0.0, float(mean.max())), 1.96 * error.std(ddof=1)
    levels = {
        f"mean {error.mean():+.4f} mm²": error.mean(),
        f"mean + 1.96 sd {error.mean() + half:+.4f} mm²": error.mean() + half,
        f"mean - 1.96 sd {error.mean() - half:+.4f} mm²": error.mean() - half,
    }
    return line_plot(
        {name: [(x, float(level)) for x in ends] for name, level in levels.items()},
        "mean of true and found fluid area, mm²",
        "found - true area, mm²",
        dots=[(float(x), float(y)) for x, y in zip(mean, error, strict=True)],
    )


if __name__ == "__main__":
    run(main)
