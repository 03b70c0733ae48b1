"""Subject-disjoint cross-validation: how well a recipe finds fluid in eyes it has not seen.

python experiments/studies/crossval.py  # five folds over the eyes, then the tables
python experiments/studies/crossval.py --weights hrf-mobilenet_v3_small  # another network
python experiments/studies/crossval.py --leaky  # also the splits by B-scan, to see the leak
python experiments/studies/crossval.py --results experiments/results/crossval --amp bf16 --print

Every finished fold is a file in --results. An interrupted series continues where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dme.common.errors import run
from dme.common.options import add_options, from_options, option_parser, setting
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.training import series

FOLDS = [f"subject:{k}/5" for k in range(1, 6)]
LEAKY = ["paper", "random"]
COLUMNS = {"native": "all columns", "graded": "graded columns only"}
BOOTSTRAP = 10_000
INTERVAL = (2.5, 97.5)  # percentiles
LIMIT_SD = 1.96  # limits of agreement, in standard deviations
PUBLISHED = (  # fluid Dice on this set, as others report it
    ("Chiu 2015, automatic", "subject-disjoint, tabulated by a third party", 0.56),
    ("ReLayNet 2017", "subject-disjoint, tabulated by a third party", 0.70),
    ("He 2021", "subject-disjoint, tabulated by a third party", 0.70),
    ("ReLayNet 2017, its own paper", "8-fold, unverified", 0.77),
    ("the study", "`paper` split, which leaks, at 256 x 256", 0.6883),
)


@dataclass(frozen=True)
class Settings:
    """What is validated."""

    recipe: str = setting("best", "recipe of finetune.py")
    weights: str | None = setting(
        None, "name or file to start from, which says the backbone (default: finetune.py's)"
    )
    seeds: tuple[int, ...] = setting((0,), "runs of each fold")
    leaky: bool = setting(False, "also the splits by B-scan (paper and random)")
    compile: bool = setting(False, "torch.compile the training steps")


def main() -> None:
    parser = option_parser(__doc__)
    add_options(parser, Settings)
    series.add_arguments(parser, "runs/crossval", "folds")
    args = parser.parse_args()
    settings = from_options(Settings, args)

    results = series.gather(args, all_runs(settings, args.amp), "folds")
    table = markdown(settings, results)
    series.write_table(args.out / "crossval.md", table)
    print(f"\n{table}\ntable: {args.out / 'crossval.md'}")

    held_out = folds_of(settings.seeds[0], results)
    if held_out and held_out[0]["scale_um"]:
        save_png(args.out / "bland_altman.png", bland_altman(held_out))
        print(f"picture: {args.out / 'bland_altman.png'}")
    print(f"folds: {series.results_folder(args)}")


def all_runs(settings: Settings, amp: str) -> series.Runs:
    """Names, and arguments of finetune.py."""
    splits = [*FOLDS, *LEAKY] if settings.leaky else FOLDS
    more = ["--weights", settings.weights] if settings.weights else []
    if settings.compile:
        more.append("--compile")
    runs = {}
    for seed in settings.seeds:
        for split in splits:
            words = f"--recipe {settings.recipe} --split {split} --amp {amp} --seed {seed}"
            runs[run_name(split, seed)] = [*words.split(), *more]
    return runs


def run_name(split: str, seed: int) -> str:
    return f"{series.in_name(split)}-seed{seed}"


def folds_of(seed: int, results: series.Results) -> list[dict]:
    """The finished folds of a seed, in order."""
    return series.present(results, [run_name(split, seed) for split in FOLDS])


# ---- tables


def markdown(settings: Settings, results: series.Results) -> str:
    """Fold by fold, all folds together, the splits that leak, and what others published."""
    first = next(iter(results.values()))
    arch = first["arch"]
    kind = "SYNTHETIC" if first["data_kind"] == "phantom" else "real"
    network = f"{arch['backbone']}, {arch['head']}, width {arch['width']}"
    lines = [
        f"Recipe {settings.recipe} on {kind} scans ({network}); no eye is in training and "
        "validation of a fold; scores at the scans' own pixels, networks after their last step",
        "",
        *fold_by_fold(settings, results),
    ]
    for seed in settings.seeds:
        folds = folds_of(seed, results)
        if len(folds) == len(FOLDS):
            lines += ["", f"All folds together, seed {seed}:", "", *together(folds)]
    lines += leaking(results)
    lines += ["", "Published on this set:", ""]
    lines += series.table_head(["", "protocol", "fluid Dice"])
    lines += map(series.table_line, PUBLISHED)
    return "\n".join(lines) + "\n"


def fold_by_fold(settings: Settings, results: series.Results) -> list[str]:
    """Lines of the table of folds, means over the seeds."""
    titles = ["fold", "eyes", "scans", "fluid Dice", "IoU", "graded columns: Dice", "IoU"]
    lines = series.table_head(titles)
    for split in FOLDS:
        runs = series.present(results, [run_name(split, seed) for seed in settings.seeds])
        if runs:
            # the seeds differ in their scores alone
            eyes = sorted(set(runs[0]["subjects"]))
            cells = [split, ", ".join(map(str, eyes)), len(runs[0]["scans"])]
            for kind in COLUMNS:
                cells.append(mean_score(runs, kind, "dice"))
                cells.append(mean_score(runs, kind, "iou"))
            lines.append(series.table_line(cells))
    return lines


def leaking(results: series.Results) -> list[str]:
    """Lines of the table of splits by B-scan, none without such runs."""
    lines = []
    for split in LEAKY:
        prefix = f"{series.in_name(split)}-seed"
        runs = [result for name, result in results.items() if name.startswith(prefix)]
        if runs:
            cells = [mean_score(runs, kind, "dice") for kind in ("study", *COLUMNS)]
            lines.append(series.table_line([split, len(runs), *cells]))
    if not lines:
        return []
    titles = ["split", "runs", "at 256 x 256: fluid Dice", "all columns", "graded columns"]
    title = "The same recipe on splits by B-scan, which leak:"
    return ["", title, "", *series.table_head(titles), *lines]


def mean_score(runs: Sequence[dict], kind: str, score: str) -> str:
    """Cell of a table: fluid's score in a kind of columns, pooled over the scans of each run."""
    from dme.metrics import scores  # after parsing: it needs torch

    values = []
    for result in runs:
        pooled = np.array(result["counts_per_scan"][kind]).sum(0)
        values.append(float(scores(pooled)[score][1]))
    return series.mean_sd(values)


def together(folds: Sequence[dict]) -> list[str]:
    """Lines of the table over all held-out scans of the folds, each scan counted once."""
    # a row's cells, of all columns and then of the graded ones
    eyes = np.concatenate([fold["subjects"] for fold in folds])
    rows: dict[str, list[str]] = {}
    for kind in COLUMNS:
        counts = np.concatenate([fold["counts_per_scan"][kind] for fold in folds])
        cells = summary(counts, eyes) | area_cells(counts, folds[0]["scale_um"])
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    lines = series.table_head(["", *COLUMNS.values()])
    for name, cells in rows.items():
        lines.append(series.table_line([name, *cells]))
    return lines


def summary(counts: np.ndarray, eyes: np.ndarray) -> dict[str, str]:
    """Cells of the table by row, of counts (N, 2, 2) and the eye of each scan (N,)."""
    from dme.metrics import per_scan, scores  # after parsing: it needs torch

    # over all pixels
    pooled = scores(counts.sum(0))
    low, high = interval_by_eye(counts, eyes)
    # scan by scan: of those with fluid, and of all
    with_fluid = per_scan(counts)
    all_scans = per_scan(counts, empty=1.0)
    sensitivity, specificity = detection(counts)
    dice = f"{pooled['dice'][1]:.4f} ({low:.4f} to {high:.4f})"
    return {
        "fluid Dice, pooled (95 % interval by eye)": dice,
        "fluid IoU, pooled": f"{pooled['iou'][1]:.4f}",
        "Dice per scan, empty ones left out": series.mean_sd(drop_nan(with_fluid["dice"])),
        "IoU per scan, the same": series.mean_sd(drop_nan(with_fluid["iou"])),
        "Dice per scan, empty counting 1": series.mean_sd(all_scans["dice"]),
        "scans with fluid found": sensitivity,
        "scans without fluid left empty": specificity,
    }


def drop_nan(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def interval_by_eye(counts: np.ndarray, eyes: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the pooled fluid Dice of counts (N, 2, 2), eyes drawn whole."""
    # an eye's counts, then sums over as many eyes drawn with replacement
    per_eye = np.stack([counts[eyes == eye].sum(0) for eye in np.unique(eyes)])
    draws = np.random.default_rng(0).integers(len(per_eye), size=(BOOTSTRAP, len(per_eye)))
    sums = per_eye[draws].sum(1)  # (BOOTSTRAP, 2, 2)
    with np.errstate(invalid="ignore"):  # draws of eyes without fluid have no Dice
        truth, found = fluid_px(sums)
        dice = 2 * sums[:, 1, 1] / (truth + found)
    return tuple(np.nanpercentile(dice, INTERVAL).tolist())


def detection(counts: np.ndarray) -> tuple[str, str]:
    """Cells: scans with fluid in which some is found, scans without in which none is."""
    truth, found = (pixels > 0 for pixels in fluid_px(counts))
    return share(found[truth]), share(~found[~truth])


def fluid_px(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of fluid in counts (N, 2, 2): of the truth and of the prediction, (N,) each."""
    return counts[:, 1].sum(1), counts[:, :, 1].sum(1)


def share(right: np.ndarray) -> str:
    """Cell of a table: which share of scans is right, and how many; right: bool (scans,)."""
    return f"{right.mean():.3f} ({right.sum()} of {right.size})" if right.size else "none"


# ---- areas


def areas_mm2(counts: np.ndarray, scale_um: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Fluid areas of (N, 2, 2) counts: of the truth and of the prediction, (N,) each."""
    pixel_mm2 = scale_um[0] * scale_um[1] / 1e6
    truth, found = fluid_px(counts)
    return truth * pixel_mm2, found * pixel_mm2


def area_cells(counts: np.ndarray, scale_um: Sequence[float] | None) -> dict[str, str]:
    """Cells of the table by row; none without a scale."""
    if scale_um is None:
        return {}
    # limits of agreement after Bland and Altman
    truth, found = areas_mm2(counts, scale_um)
    error = found - truth
    mean = error.mean()
    half = LIMIT_SD * error.std(ddof=1)
    limits = f"{mean - half:+.4f} to {mean + half:+.4f}"
    absolute = f"{abs(error).mean():.4f} ({truth.mean():.4f})"
    return {
        "area error per scan, mm² (limits of agreement)": f"{mean:+.4f} ({limits})",
        "mean absolute area error, mm² (mean true area)": absolute,
    }


def bland_altman(folds: Sequence[dict]) -> np.ndarray:
    """Difference of found and true fluid area against their mean, mm², all columns."""
    counts = np.concatenate([fold["counts_per_scan"]["native"] for fold in folds])
    truth, found = areas_mm2(counts, folds[0]["scale_um"])
    # a dot for every scan
    mean = (found + truth) / 2
    error = found - truth
    dots = [(float(x), float(y)) for x, y in zip(mean, error, strict=True)]

    # a level line each for the mean difference and the limits of agreement
    right = float(mean.max())
    half = LIMIT_SD * error.std(ddof=1)
    levels = {
        "mean": error.mean(),
        f"mean + {LIMIT_SD} sd": error.mean() + half,
        f"mean - {LIMIT_SD} sd": error.mean() - half,
    }
    lines = {}
    for name, level in levels.items():
        y = float(level)
        lines[f"{name} {level:+.4f} mm²"] = [(0.0, y), (right, y)]
    titles = ("mean of true and found fluid area, mm²", "found - true area, mm²")
    return line_plot(lines, *titles, dots=dots)


if __name__ == "__main__":
    run(main)
