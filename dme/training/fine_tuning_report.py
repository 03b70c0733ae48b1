"""What a fine-tuning reports: tables on the screen, results.json, the network and pictures."""

import json
from functools import partial

import numpy as np

from dme.common.by_eye import INTERVALS, interval_by_eye
from dme.common.files import write_json
from dme.common.options import option_values
from dme.common.tasks import LAYERS, TASKS, Task
from dme.common.words import SYNTHETIC_KINDS
from dme.data.source import subjects_known
from dme.drawing.canvas import save_png
from dme.metrics import CONVENTIONS, by_convention, scores
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import Segmenter
from dme.retina.accuracy import over_scans
from dme.retina.agreement import dice as class_dice
from dme.retina.rows import BOUNDARIES, THICKNESSES
from dme.training.run_folder import read_rows, seconds_per_step
from dme.training.settings import Finetune, Plan
from dme.training.validation import Validation, agreement

PUBLISHED = {"mean_dice": 0.8430, "mean_iou": 0.7600}  # best row of the study's Table 2
FEWEST_EYES = 3  # of which an interval is told
# options that do not change what is learned, or of which more is told elsewhere
NO_SETTINGS = ("data", "unlabelled", "out", "resume")


def report(
    plan: Plan,
    origin: dict,
    model: Segmenter,
    validate: Validation,
    before: list[np.ndarray] | None,
) -> None:
    """Print the scores; write the network, results.json and the pictures into the run's folder.

    origin: what is known of code, data and start. before: pictures of what the network found
    before it was trained.
    """
    out = plan.finetune.out
    task = TASKS[plan.finetune.task]
    pooled = {kind: scores(counts.sum(0)) for kind, counts in validate.counts.items()}
    history = read_rows(out / "metrics.jsonl")
    results = {
        **origin,
        "arch": model.arch,
        "classes": model.classes,
        "settings": reported_settings(plan),
        "seed": plan.recipe.seed,
        "seconds_per_iteration": seconds_per_step(history),
        "pooled": pooled["study"],
        "pooled_native": pooled["native"],
        "pooled_central": pooled["central"],
        "history": study_scores(history),
        "scans": validate.names,
        "subjects": validate.native.subjects[validate.indices],
        "scale_um": validate.native.scale_um,
        "counts_per_scan": validate.counts,
    }

    # The tables on the screen, whose numbers also go into the file
    scans = "SYNTHETIC scans" if origin["data_kind"] in SYNTHETIC_KINDS else "scans"
    split = f"split {origin['split']}, after {plan.recipe.iters} steps"
    print(f"\n{len(validate.names)} validation {scans}, {split}")
    if task.finds_fluid:
        of_study = validate.native.is_duke and origin["split"].startswith("paper")
        results["per_scan"] = fluid_table(task, pooled, validate.counts["study"], of_study)
        if subjects_known(validate.native.notes):
            eyes = validate.native.subjects[validate.indices]
            results |= eyes_table(validate.counts["native"], eyes, task.fluid_label)
    if task.finds_layers:
        results |= layers_table(validate, pooled["native"]["dice"])

    # What is left in the folder
    picture = out / ("layers.png" if task.finds_layers else "figure6.png")
    save_model(model, out / "model.pt", extra=origin)
    save_png(picture, validate.picture(before))
    write_json(out / "results.json", results)
    print(f"\nnetwork: {out / 'model.pt'} (after the last step)\nresults: {out / 'results.json'}")
    print(f"pictures: {picture}, {out / 'loss.png'}")


def reported_settings(plan: Plan) -> dict:
    """Every option that changes what is learned, by its name on the command line."""
    settings = option_values(plan.finetune)
    settings |= option_values(plan.augment)
    settings |= option_values(plan.recipe)
    return {name: value for name, value in settings.items() if name not in NO_SETTINGS}


def study_scores(history: list[dict]) -> list[list[float]]:
    """[step, Dice, IoU] at 256 x 256 of every validation; history: lines of metrics.jsonl."""
    rows = []
    for row in history:
        if "validation/study-dice" in row:
            rows.append([row["step"], row["validation/study-dice"], row["validation/study-iou"]])
    return rows


def report_second_opinion(options: Finetune, validate: Validation, other: Validation) -> None:
    """Print what network and first grader reach against the second; add it to results.json."""
    counts, errors_px = agreement(validate, other)
    network = scores(other.counts["native"].sum(0))
    grader = scores(counts.sum(0))

    # What is compared: the network's agreement with the second grader, and the first one's
    lines = []
    if validate.task.finds_fluid:
        lines.append(("fluid Dice", network["dice"][-1], grader["dice"][-1]))
        lines.append(("fluid IoU", network["iou"][-1], grader["iou"][-1]))
    if validate.task.finds_layers:
        network_px = np.nanmean(other.boundary_errors_px[:, -1])
        lines.append(("mean boundary error, px", network_px, np.nanmean(errors_px[:, -1])))

    # On the screen, and into the file
    names = f"the network, and grader {options.grader}"
    print(f"\nagainst grader {3 - options.grader}, at native size: {names}")
    compared = {}
    for name, of_network, of_grader in lines:
        print(f"{name:34} {of_network:7.4f} {of_grader:7.4f}")
        compared[name] = {"network": of_network, "grader": of_grader}
    compared["counts_per_scan"] = other.counts["native"]  # (N, C, C), rows the second grader's
    path = options.out / "results.json"
    write_json(path, json.loads(path.read_text()) | {"other_grader": compared})


def fluid_table(
    task: Task, pooled: dict[str, dict], counts: np.ndarray, of_study: bool = False
) -> dict:
    """Print the scores of fluid by every convention for empty scans; returns those per scan.

    pooled: kind of truth -> scores over all scans. counts: (N, C, C) at 256 x 256. of_study: the
    study's own row stands beside them.
    """
    fluid = task.fluid_label
    per_scan = by_convention(counts, fluid)
    del per_scan["pooled"]  # which stands in the file by itself

    # Lines of the table: name -> Dice, IoU
    rows = {
        "fluid at native size, pooled": _fluid(pooled["native"], fluid),
        "  in central columns only": _fluid(pooled["central"], fluid),
        "fluid at 256 x 256, pooled": _fluid(pooled["study"], fluid),
    }
    for key, means in per_scan.items():
        rows[f"  {CONVENTIONS[key]}"] = _means(means)
    if not task.finds_layers:
        rows["  pooled, mean with background"] = _means(pooled["study"])
        if of_study:
            rows["  the same, published best row"] = _means(PUBLISHED)

    width = max(map(len, rows))
    print(f"{'':{width}} {'Dice':>7} {'IoU':>7}")
    for name, (dice, iou) in rows.items():
        print(f"{name:{width}} {dice:7.4f} {iou:7.4f}")
    names = ("mean_dice", "mean_iou")
    means = {key: {name: found[name] for name in names} for key, found in per_scan.items()}
    empty = len(counts) - per_scan["empty_left_out"]["scans"]
    print(f"scans without fluid in truth and prediction: {empty}")
    return {**means, "empty": empty}


def eyes_table(counts: np.ndarray, eyes: np.ndarray, fluid: int) -> dict:
    """Print how fluid Dice varies between eyes; returns its interval, nothing of few eyes.

    counts: (N, C, C) at native size. eyes: (N,), the eye of each scan.
    """
    if len(np.unique(eyes)) < FEWEST_EYES:
        return {}

    low, high = interval_by_eye(partial(class_dice, label=fluid), counts, eyes)
    print(f"fluid Dice at native size, 95 % interval by eye: {low:.4f} to {high:.4f}\n{INTERVALS}")
    return {"dice_native_interval_by_eye": [low, high]}


def _fluid(scored: dict, fluid: int) -> tuple[float, float]:
    return scored["dice"][fluid], scored["iou"][fluid]


def _means(scored: dict) -> tuple[float, float]:
    return scored["mean_dice"], scored["mean_iou"]


def layers_table(validate: Validation, dice: np.ndarray) -> dict:
    """Print boundary, thickness and layer scores; returns them, per scan too.

    dice: (C,) of the classes at native size. Lengths are in um where the axial scale is known.
    """
    axial_um = validate.native.scale_um[0] if validate.native.scale_um else None
    unit = "um" if axial_um else "px"
    errors = validate.thickness_errors_px * (axial_um or 1)  # (N, 2, 8): absolute, with sign
    boundaries = over_scans(validate.boundary_errors_px, [*BOUNDARIES, "all"])
    thickness = over_scans(errors[:, 0], THICKNESSES)
    bias = over_scans(errors[:, 1], THICKNESSES)

    # Boundaries, then layers
    heading = f"{'mean absolute error of boundaries':34} {'px':>7} {'sd':>7}"
    print(f"{heading} {'um' if axial_um else '':>7}")
    for row in boundaries:
        um = f"{row['mean'] * axial_um:7.2f}" if axial_um else ""
        print(f"{row['name']:34} {row['mean']:7.3f} {row['sd'] or 0:7.3f} {um}")
    print(f"{'layers: Dice, error of thickness':34} {'Dice':>7} {unit:>7} {'mean ' + unit:>8}")
    for k, (row, mean) in enumerate(zip(thickness, bias, strict=True)):
        overlap = f"{dice[k + 1]:7.4f}" if k < len(LAYERS) else " " * 7
        print(f"{row['name']:34} {overlap} {row['mean']:7.2f} {mean['mean']:+8.2f}")
    return {
        "boundaries_px": boundaries,
        f"thickness_{unit}": thickness,
        f"thickness_bias_{unit}": bias,
        "boundary_errors_px_per_scan": validate.boundary_errors_px,
    }
