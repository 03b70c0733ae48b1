"""Tables of fluid found in scans of eyes left out of training: by eye, by convention, by area."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dme.common.by_eye import INTERVALS, interval_by_eye, mean_interval
from dme.common.tables import mean_sd, table_head, table_line
from dme.retina import agreement
from dme.retina.agreement import dice

COLUMNS = {"native": "all columns", "central": "central columns"}
CENTRAL = (
    "Central columns: where a .mat file has layer rows, the columns that they annotate; of Duke's "
    "scans without rows 99 to 624 of 768, the first and the last with fluid in the truth of all "
    "ten eyes, those under test included: not what the graders looked at."
)
# of Duke's eyes: what each group has to do with the recipe
GROUPS = {
    "all ten eyes": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    "the six that chose nothing": (3, 4, 5, 8, 9, 10),
    "eyes 9 and 10, in no development fold": (9, 10),
    "the four that chose the recipe": (1, 2, 6, 7),
}
FEWEST_FOR_INTERVAL = 3  # eyes


@dataclass(frozen=True)
class HeldOut:
    """Counts of scans by networks that were not trained on their eyes, each scan once."""

    names: list[str]
    eyes: np.ndarray  # (N,)
    counts: dict[str, np.ndarray]  # (N, 2, 2) of each of COLUMNS: rows truth, columns prediction
    pixel_mm2: float | None  # None without a scale

    @classmethod
    def of_folds(
        cls,
        folds: Sequence[dict],
        counts: dict[str, np.ndarray],
        scale_um: Sequence[float] | None,
    ) -> "HeldOut":
        """Scans and eyes as each fold names them, in the order of the folds; counts likewise."""
        from dme.retina.fluid import area_mm2  # after parsing: it needs SciPy

        names = []
        for fold in folds:
            names += fold["scans"]
        eyes = np.concatenate([fold["subjects"] for fold in folds])
        return cls(names, eyes, counts, area_mm2(1, scale_um))

    def of_eyes(self, eyes: Sequence[int]) -> "HeldOut":
        """The scans of those eyes alone."""
        chosen = np.isin(self.eyes, list(eyes))
        names = [name for name, kept in zip(self.names, chosen, strict=True) if kept]
        counts = {kind: array[chosen] for kind, array in self.counts.items()}
        return HeldOut(names, self.eyes[chosen], counts, self.pixel_mm2)


def held_out(folds: Sequence[dict]) -> HeldOut:
    """The scans of all folds together; folds: results.json of each."""
    counts = {}
    for kind in COLUMNS:
        counts[kind] = np.concatenate([fold["counts_per_scan"][kind] for fold in folds])
    return HeldOut.of_folds(folds, counts, folds[0]["scale_um"])


# ---- scores of counts


def fluid_px(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of fluid in counts (..., 2, 2): of the truth and of the prediction, (...) each."""
    return counts[..., 1, :].sum(-1), counts[..., :, 1].sum(-1)


def iou(counts: np.ndarray) -> np.ndarray:
    """Fluid IoU of counts (..., 2, 2), NaN where fluid is in neither."""
    return dice(counts) / (2 - dice(counts))


def dice_interval(counts: np.ndarray, eyes: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the pooled fluid Dice of counts (N, 2, 2), eyes drawn whole."""
    return interval_by_eye(dice, counts, eyes)


def dice_per_eye(scans: HeldOut, kind: str = "native") -> np.ndarray:
    """Fluid Dice pooled within each eye with fluid in truth or prediction, (eyes,)."""
    counts = scans.counts[kind]
    scores = np.array([dice(counts[scans.eyes == eye].sum(0)) for eye in np.unique(scans.eyes)])
    return scores[~np.isnan(scores)]


# ---- tables


def by_group(scans: HeldOut) -> list[str]:
    """Fluid Dice of groups of Duke's eyes, all columns first; of other eyes all together."""
    titles = ["eyes", "scans"]
    for kind in COLUMNS.values():
        titles += [f"{kind}: fluid Dice, pooled (95 % interval by eye)", "mean over eyes"]
    lines = table_head(titles)
    for name, eyes in groups_of(scans).items():
        group = scans.of_eyes(eyes)
        cells = [name, len(group.names)]
        for kind in COLUMNS:
            cells.append(pooled_cell(group, kind))
            cells.append(mean_sd(dice_per_eye(group, kind)))
        lines.append(table_line(cells))
    return lines


def groups_of(scans: HeldOut) -> dict[str, Sequence[int]]:
    """GROUPS where all ten eyes are there, else one of all eyes."""
    present = sorted(set(scans.eyes.tolist()))
    if present == list(GROUPS["all ten eyes"]):
        return GROUPS
    return {f"all {len(present)} eyes": present}


def pooled_cell(scans: HeldOut, kind: str = "native") -> str:
    """Pooled fluid Dice, with its interval where there are eyes enough for one."""
    counts = scans.counts[kind]
    text = f"{dice(counts.sum(0)):.4f}"
    if len(set(scans.eyes.tolist())) < FEWEST_FOR_INTERVAL:
        return text
    low, high = dice_interval(counts, scans.eyes)
    return f"{text} ({low:.4f} to {high:.4f})"


def by_eye(scans: HeldOut) -> list[str]:
    """A row per eye: how much of the fluid it holds, and how well that is found."""
    titles = ["eye", "scans", "with fluid", "share of all fluid"]
    titles += [f"{kind}: fluid Dice" for kind in COLUMNS.values()]
    titles += ["found fluid beside the central columns", "area error per scan, mm²"]
    lines = table_head(titles)
    # a row per eye, the columns as in the table of groups
    all_fluid = fluid_px(scans.counts["native"].sum(0))[0]
    for eye in np.unique(scans.eyes):
        own = scans.of_eyes([eye])
        truth, _ = fluid_px(own.counts["native"])
        share = f"{100 * truth.sum() / all_fluid:.0f} %" if all_fluid else ""
        cells = [eye, len(own.names), (truth > 0).sum(), share]
        cells += [f"{dice(own.counts[kind].sum(0)):.4f}" for kind in COLUMNS]
        cells.append(beside_cell(own))
        area = ""
        if scans.pixel_mm2:
            sums = agreement.moments(*areas_mm2(own)).sum(0)
            area = f"{agreement.bias(sums):+.4f}"
        lines.append(table_line([*cells, area]))
    return lines


def beside_cell(scans: HeldOut) -> str:
    """Which share of the pixels found lies beside the central columns."""
    everywhere = fluid_px(scans.counts["native"].sum(0))[1]
    central = fluid_px(scans.counts["central"].sum(0))[1]
    return f"{100 * (everywhere - central) / everywhere:.1f} %" if everywhere else "none found"


def together(scans: HeldOut) -> list[str]:
    """Lines of the table over all scans: every convention, presence and areas, with intervals."""
    # a row's cells, of all columns and then of the central ones
    rows: dict[str, list[str]] = {}
    for kind in COLUMNS:
        cells = summary(scans, kind) | presence_cells(scans, kind) | area_cells(scans, kind)
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    lines = table_head(["95 % intervals by eye in brackets", *COLUMNS.values()])
    for name, cells in rows.items():
        lines.append(table_line([name, *cells]))
    return [*lines, "", INTERVALS, "", agreement.LIMITS, "", CENTRAL]


def summary(scans: HeldOut, kind: str) -> dict[str, str]:
    """Cells by row: fluid Dice and IoU, by every convention for scans without fluid."""
    from dme.metrics import CONVENTIONS, by_convention  # after parsing: it needs torch

    # pooled over all pixels, and in each eye
    counts = scans.counts[kind]
    low, high = interval_by_eye(iou, counts, scans.eyes)
    pooled = CONVENTIONS["pooled"]
    cells = {
        f"fluid Dice, {pooled}": pooled_cell(scans, kind),
        f"fluid IoU, {pooled}": f"{iou(counts.sum(0)):.4f} ({low:.4f} to {high:.4f})",
    }
    cells["fluid Dice, mean over eyes"] = mean_sd(dice_per_eye(scans, kind))
    # scan by scan
    for key, found in by_convention(counts).items():
        if key != "pooled":
            low, high = mean_interval(found["dice"], scans.eyes)
            known = found["dice"][~np.isnan(found["dice"])]
            mean = f"{mean_sd(known)} ({low:.4f} to {high:.4f})"
            cells[f"fluid Dice, {CONVENTIONS[key]}"] = f"{mean}, {found['scans']} scans"
    return cells


def presence_cells(scans: HeldOut, kind: str) -> dict[str, str]:
    """Cells by row: in which scans fluid is found."""
    truth, found = (pixels > 0 for pixels in fluid_px(scans.counts[kind]))
    sums = agreement.moments(truth, found)
    cells = {}
    for name, statistic, right in (
        ("scans with fluid in which some is found", agreement.sensitivity, found[truth]),
        ("scans without fluid left empty", agreement.specificity, ~found[~truth]),
    ):
        cells[name] = "none"
        if right.size:
            low, high = interval_by_eye(statistic, sums, scans.eyes)
            cells[name] = f"{right.sum()} of {right.size} ({low:.2f} to {high:.2f})"
    return cells


# ---- areas


def areas_mm2(scans: HeldOut, kind: str = "native") -> tuple[np.ndarray, np.ndarray]:
    """Fluid areas of the scans: of the truth and of the prediction, (N,) each."""
    truth, found = fluid_px(scans.counts[kind])
    return truth * scans.pixel_mm2, found * scans.pixel_mm2


def area_cells(scans: HeldOut, kind: str) -> dict[str, str]:
    """Cells of the table by row; none without a scale."""
    if scans.pixel_mm2 is None:
        return {}
    truth, found = areas_mm2(scans, kind)
    sums = agreement.moments(truth, found)
    lower, upper = agreement.limits_of_agreement(sums.sum(0))
    return {
        "area error per scan, mm²": with_interval(agreement.bias, sums, scans.eyes, "+.4f"),
        "area error, limits of agreement, mm²": f"{lower:+.4f} to {upper:+.4f}",
        "area too large by, all scans together": with_interval(
            agreement.relative_bias, sums, scans.eyes, "+.1%"
        ),
        f"mean absolute area error, mm² (of {truth.mean():.4f})": with_interval(
            agreement.mean_absolute_error, sums, scans.eyes, ".4f"
        ),
    }


def with_interval(
    statistic: agreement.Statistic, sums: np.ndarray, eyes: np.ndarray, form: str
) -> str:
    """Cell: a statistic of `agreement.moments` (N, 11), and its interval by eye."""
    low, high = interval_by_eye(statistic, sums, eyes)
    value = statistic(sums.sum(0))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"
