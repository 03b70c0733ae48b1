"""Networks of a cross-validation on the eyes they were not trained on, pixel by pixel.

python experiments/studies/held_out.py --runs runs/crossval          # networks that crossval left
python experiments/studies/held_out.py --runs runs/crossval --tolerance-um 12
python experiments/studies/held_out.py --out runs/held_out --print   # the tables again

What counts of pixels per scan cannot tell: whether probabilities mean what they say (reliability,
expected calibration error), how far outlines are apart, which lesions are met. And what a rule
brings, temperature, threshold and smallest region, that was chosen on the training eyes of each
fold and never on the eyes it is judged by.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from fluid_tables import HeldOut, area_cells, pooled_cell, presence_cells, with_interval

from dme.common.by_eye import INTERVALS
from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.folders import refuse_foreign
from dme.common.labels import IGNORE
from dme.common.options import check, parsed, setting
from dme.common.provenance import provenance
from dme.common.tables import table_head, table_line, write_table
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.retina.agreement import confusion
from dme.retina.calibration import (
    BINS,
    FLUID,
    PIXELS,
    PROBABILITY,
    Rule,
    choose_rule,
    expected_calibration_error,
    reliability_counts,
)
from dme.retina.outlines import (
    lesion_counts,
    lesion_f1,
    normalised_surface_distance,
    outline_counts,
    region_ids,
)
from dme.training import series

if TYPE_CHECKING:  # --help is answered without torch
    from dme.bscan import BScan
    from dme.nets.segmenter import Segmenter

PLAIN, CHOSEN = "plain", "chosen"
RULES = {PLAIN: "as it is (above 0.5)", CHOSEN: "rule chosen on the training eyes"}
DEFINITIONS = (
    "Expected calibration error: mean over pixels of |share of fluid - mean probability| of "
    "their bin, ten bins of one width. Normalised surface distance: share of the outline pixels "
    "of truth and prediction at most the tolerance from the other's outline, all scans pooled. "
    "Lesion F1: lesions as the grader numbered them (else connected regions) are met when half "
    "of their pixels are found, found regions are right when half of theirs are fluid; all scans "
    "pooled."
)
CHOICE = (
    "Each fold's rule was chosen on the scans that its network was trained on, by no other eye: "
    "the temperature of least negative log-likelihood; the threshold and smallest region of best "
    "Dice among those whose total area is wrong by at most 5 %."
)


@dataclass(frozen=True)
class Settings:
    """Which networks, on which scans."""

    runs: Path = setting(Path("runs/crossval"), "run folders of crossval.py, NAME/model.pt each")
    seed: int = setting(0, "of the runs")
    data: str | None = setting(
        None, ".mat files or folder of B-scans that they were made on (default: DME_DATA)"
    )
    tolerance_um: float = setting(25.0, "of outlines; without a scale: px", above=0)
    print: bool = setting(False, "predict nothing, show the tables of OUT/results.json")
    out: Path = setting(Path("runs/held_out"), "folder for results.json, tables and picture")
    __post_init__ = check


def main() -> None:
    settings = parsed(__doc__, Settings)
    refuse_foreign(settings.out, "results.json", ["held_out.md", "reliability.png"])
    path = settings.out / "results.json"
    if settings.print:
        if not path.is_file():
            raise InputError(f"no {path}; run without --print first")
    else:
        write_json(path, measure(settings))
    result = json.loads(path.read_text())

    table = markdown(result)
    write_table(settings.out / "held_out.md", table)
    save_png(settings.out / "reliability.png", diagram(result))
    print(f"{table}\ntable: {settings.out / 'held_out.md'}")
    print(f"picture: {settings.out / 'reliability.png'}\nresults: {path}")


# ---- measured


def measure(settings: Settings) -> dict:
    """What results.json holds: of every fold its rule, and counts of every scan held out."""
    from dme.data.opening import open_source

    # the networks of one cross-validation, which hold out every scan once
    folders = sorted(settings.runs.glob(f"subject*of*-seed{settings.seed}"))
    folders = [folder for folder in folders if (folder / "model.pt").is_file()]
    if not folders:
        raise InputError(
            f"no subject*of*-seed{settings.seed}/model.pt in {settings.runs}; give the folder in "
            "which ./run.sh crossval left its networks (--out)"
        )
    made = [json.loads((folder / "results.json").read_text()) for folder in folders]
    names = [name for fold in made for name in fold["scans"]]
    if len(set(names)) < len(names):
        raise InputError(
            f"{settings.runs}: scans are held out by more than one run; expected each once; keep "
            "the runs of one cross-validation"
        )
    # the scans, with the numbers of their lesions, which caches do not keep
    source = open_source(settings.data)
    scans = {scan.name: scan for scan in source.scans()}
    if any(fold["data_sha256"] != source.sha256 for fold in made):
        raise InputError(f"{settings.runs}: made on other data; give --data those scans")
    folds = []
    for folder, fold in zip(folders, made, strict=True):
        folds.append(fold_results(folder, fold, scans, settings))
    scale_um = next(iter(scans.values())).scale_um
    return {
        **provenance(),
        "data": source.description,
        "data_kind": source.kind,
        "data_sha256": source.sha256,
        "scale_um": scale_um,
        "tolerance_um": settings.tolerance_um,
        "folds": folds,
    }


def fold_results(folder: Path, made: dict, scans: dict[str, "BScan"], settings: Settings) -> dict:
    """A fold: choose its rule on its training scans, then count the scans held out by both.

    made: results.json of its training.
    """
    from tqdm import tqdm

    from dme.nets.loading import load_model

    # the scans of eyes that it knows
    model = load_model(folder / "model.pt")
    trained = [name for name in scans if scans[name].subject not in set(made["subjects"])]

    # the rule, from training scans alone
    flip = made["settings"]["tta"]
    probabilities = []
    for name in tqdm(trained, desc=f"{folder.name}: training scans", unit="scan"):
        probabilities.append(fluid_probability(model, scans[name], flip))
    rule = choose_rule(probabilities, [scans[name].fluid for name in trained])

    # each scan held out
    rules = {PLAIN: Rule(), CHOSEN: rule}
    per_scan: dict[str, dict[str, list]] = {name: {} for name in rules}
    for name in tqdm(made["scans"], desc=f"{folder.name}: held out", unit="scan"):
        probability = fluid_probability(model, scans[name], flip)
        for kind, by_rule in rules.items():
            for key, counts in scan_counts(probability, scans[name], by_rule, settings).items():
                per_scan[kind].setdefault(key, []).append(counts)
    return {
        "run": folder.name,
        "weights_sha256": model.weights_sha256,
        "command": made["command"],
        "commit": made["commit"],
        "scans": made["scans"],
        "subjects": made["subjects"],
        "rule": asdict(rule),
        "trained_scans": len(trained),
        **per_scan,
    }


def fluid_probability(model: "Segmenter", scan: "BScan", flip: bool) -> np.ndarray:
    """Probability of fluid, float32 (H, W)."""
    from dme.common.tasks import FLUID as NAME
    from dme.inference.scan import class_probabilities

    by_class = class_probabilities(model, scan.image, flip)
    return by_class[model.classes.index(NAME)].float().cpu().numpy()


def scan_counts(
    probability: np.ndarray, scan: "BScan", rule: Rule, settings: Settings
) -> dict[str, np.ndarray]:
    """Of one scan: confusion (2, 2), reliability (BINS, 3), outlines (4,), lesions (4,)."""
    # unknown pixels are neither right nor wrong
    known = scan.fluid != IGNORE
    truth = scan.fluid == 1
    guess = rule.mask(probability) & known
    spacing = scan.scale_um[:2] if scan.scale_um else (1.0, 1.0)
    ids = region_ids(truth) if scan.regions is None else scan.regions
    return {
        "counts": confusion(truth, guess, known),
        "reliability": reliability_counts(rule.probability(probability), scan.fluid),
        "outlines": outline_counts(truth, guess, settings.tolerance_um, spacing),
        "lesions": lesion_counts(ids, guess),
    }


# ---- shown


def joined(result: dict, kind: str, key: str) -> np.ndarray:
    """Counts of all scans held out, (N, ...); kind: PLAIN or CHOSEN."""
    return np.concatenate([fold[kind][key] for fold in result["folds"]])


def scans_of(result: dict, kind: str) -> HeldOut:
    """All scans held out, counted over all columns by one of RULES."""
    counts = {"native": joined(result, kind, "counts")}
    return HeldOut.of_folds(result["folds"], counts, result["scale_um"])


def markdown(result: dict) -> str:
    """Scores by both rules, the rules themselves, and reliability bin by bin."""
    scans = scans_of(result, PLAIN)
    many = f"{len(scans.names)} {series.kind_of_scans([result])} scans"
    unit = "µm" if result["scale_um"] else "px"
    lines = [
        f"{many} of {len(set(scans.eyes.tolist()))} eyes, each by a network not trained on its "
        f"eye; all columns; tolerance of outlines {result['tolerance_um']:g} {unit}",
        "",
    ]
    # a column per rule
    columns = {kind: measures(result, kind) for kind in RULES}
    lines += table_head(["95 % intervals by eye", *RULES.values()])
    for name, plain in columns[PLAIN].items():
        lines.append(table_line([name, plain, columns[CHOSEN][name]]))
    lines += ["", *rules_of(result), "", *bins_of(result), "", DEFINITIONS, "", CHOICE]
    return "\n".join([*lines, "", INTERVALS]) + "\n"


def measures(result: dict, kind: str) -> dict[str, str]:
    """Cells by row of one of RULES."""
    scans = scans_of(result, kind)
    # what counts of pixels tell, then what they cannot
    cells = {"fluid Dice, pooled over all pixels": pooled_cell(scans)}
    cells |= presence_cells(scans, "native") | area_cells(scans, "native")
    outlines = joined(result, kind, "outlines")
    lesions = joined(result, kind, "lesions")
    reliability = joined(result, kind, "reliability")
    for name, statistic, sums in (
        ("normalised surface distance", normalised_surface_distance, outlines),
        ("lesion F1", lesion_f1, lesions),
        ("expected calibration error, all pixels", expected_calibration_error, reliability),
        ("the same, pixels given 0.1 or more", possible_error, reliability),
    ):
        cells[name] = with_interval(statistic, sums, scans.eyes, ".4f")
    return cells


def possible_error(counts: np.ndarray) -> np.ndarray:
    """Expected calibration error of the pixels that may be fluid, given 0.1 or more."""
    return expected_calibration_error(counts, first=1)


def rules_of(result: dict) -> list[str]:
    lines = table_head(["fold", "eyes held out", "temperature", "threshold", "smallest px"])
    for fold in result["folds"]:
        eyes = ", ".join(map(str, sorted(set(fold["subjects"]))))
        lines.append(table_line([fold["run"], eyes, *fold["rule"].values()]))
    return lines


def bins_of(result: dict) -> list[str]:
    """A row per bin of probability: how many pixels, and which share of them is fluid."""
    titles = ["probability given", "pixels", "mean", "fluid", "pixels by rule", "mean", "fluid"]
    lines = table_head(titles)
    sums = {kind: joined(result, kind, "reliability").sum(0) for kind in RULES}
    for place in range(BINS):
        cells = [f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}"]
        for kind in RULES:
            row = sums[kind][place]
            cells.append(f"{int(row[PIXELS]):,}")
            for part in (PROBABILITY, FLUID):
                cells.append(f"{row[part] / row[PIXELS]:.3f}" if row[PIXELS] else "")
        lines.append(table_line(cells))
    return lines


def diagram(result: dict) -> np.ndarray:
    """The reliability diagram: share of fluid against mean probability, a point per bin."""
    lines: dict[str, Sequence] = {"as it should be": [(0.0, 0.0), (1.0, 1.0)]}
    for kind, name in RULES.items():
        points = []
        for row in joined(result, kind, "reliability").sum(0):
            if row[PIXELS]:
                points.append((row[PROBABILITY] / row[PIXELS], row[FLUID] / row[PIXELS]))
        lines[name] = points
    scans = series.kind_of_scans([result])
    return line_plot(lines, f"probability of fluid given, {scans} scans", "share that is fluid")


if __name__ == "__main__":
    run(main)
