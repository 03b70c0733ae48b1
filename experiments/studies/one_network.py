"""Does one network that finds layers and fluid hold what two networks find?

python experiments/studies/one_network.py --duke chiu2015 --octlayers octlayers \\
    --teacher runs/layers/cysts-4/model.pt --amp bf16
python experiments/studies/one_network.py --print --amp bf16 \\
    --results experiments/results/one_network

Duke's scans have fluid and no layers that this project may read, octlayers' have layers and no
fluid. One network learns from both: boundaries in Duke's scans are those that the teacher finds, a
network of layers that saw neither Duke's scans nor the eye of octlayers that is scored. Fluid is
scored on the two eyes of Duke's fold 4 of 5, layers on eye 4 of octlayers, beside the networks
that learnt one of both from the same eyes. --data is not used.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError, run
from dme.common.files import sha256_file, write_json
from dme.common.options import check, setting
from dme.common.provenance import ROOT
from dme.common.tables import table_head, table_line
from dme.data.splits import EYE_FOLDS
from dme.retina.agreement import dice
from dme.training import series

FOLD = 4  # of Duke's eyes
EYE = 4  # of octlayers
FIRST_EYE = 10  # octlayers' eyes are numbered after Duke's
SCALE_UM = (3.87, 11.33)
ENTRY = "--size um --match-brightness --scale 3.87,11.33 --synthetic 20"
RUNS = {
    "800 steps": f"--recipe fluid {ENTRY}",
}
MADE_FROM = "made_from.json"  # beside the scans: sha256 of both sets and of the teacher
ALONE = {  # the networks that find one of both
    "fluid": "crossval_fluid/subject4of5-seed0.json",
    "layers": "layers/cysts-4.json",
}


@dataclass(frozen=True)
class Settings:
    """What is learnt from."""

    duke: Path | None = setting(None, "folder of Duke's B-scans with their fluid")
    octlayers: Path | None = setting(None, "folder of octlayers")
    teacher: Path | None = setting(None, "network of layers that did not see its eye 4")
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/one_network")

    folder = args.out / "scans"
    args.data = str(folder)
    if not args.print:
        prepare_scans(settings, folder)
    common = f"--task layers+fluid --split folders --amp {args.amp} --seed 0".split()
    runs = {name.replace(" ", "-"): [*words.split(), *common] for name, words in RUNS.items()}
    results = series.gather(args, runs)
    table = markdown(results)
    series.leave_table(args, "one_network", table)


# ---- the scans


def prepare_scans(settings: Settings, folder: Path) -> None:
    """Both sets as one folder, unless it is there already, and what it is made from beside it.

    Raises InputError for a folder that was made from other scans or by another teacher.
    """
    from dme.data.folder_writing import write_folder
    from dme.data.index import INDEX

    made_from = fingerprints(settings)
    if not (folder / INDEX).exists():
        write_json(folder / MADE_FROM, made_from)
        write_folder(folder, both_sets(settings))
        return
    path = folder / MADE_FROM
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    for name, sha256 in made_from.items():
        before = earlier.get(name, "unknown")
        if before != sha256:
            raise InputError(
                f"{folder} was made from another {name} (sha256 {before}; expected {sha256}): "
                "give that one, delete the folder, or choose another `out`"
            )


def fingerprints(settings: Settings) -> dict[str, str]:
    """sha256 of both sets and of the teacher. Raises InputError for what is not there."""
    from dme.data.opening import open_source

    for name in ("duke", "octlayers", "teacher"):
        path = getattr(settings, name)
        if path is None or not path.exists():
            raise InputError(f"{name} is {path}; expected what --help says of --{name}")
    return {
        "duke": open_source(settings.duke).sha256,
        "octlayers": open_source(settings.octlayers).sha256,
        "teacher": sha256_file(settings.teacher),
    }


def both_sets(settings: Settings) -> Iterator[BScan]:
    """Every scan with fluid and boundaries, named after its part and set: train or val.

    Without a scale, which octlayers has not: the training is told that of Duke's (ENTRY).
    """
    from dme.data.opening import open_source
    from dme.inference.scan import predict_layers
    from dme.nets.folding import folded
    from dme.nets.loading import load_model

    teacher = folded(load_model(settings.teacher))
    for scan in open_source(settings.duke).scans():
        rows = predict_layers(teacher, scan.image, scale_um=SCALE_UM)
        part = "val" if scan.subject in EYE_FOLDS[FOLD - 1] else "train"
        fluid = (scan.fluid == 1).astype(np.uint8)
        name = f"{part}_duke_{scan.name}"
        yield replace(scan, name=name, fluid=fluid, layers=rows, scale_um=None)
    for scan in open_source(settings.octlayers).scans():
        part = "val" if scan.subject == EYE else "train"
        name = f"{part}_octlayers_{scan.name}"
        eye = FIRST_EYE + scan.subject
        fluid = np.zeros_like(scan.image)
        yield replace(scan, name=name, subject=eye, fluid=fluid, scale_um=None)


# ---- what came out


def markdown(results: series.Results) -> str:
    """A row per network: fluid in Duke's scans, boundaries in octlayers'."""
    lines = [
        "real scans of eyes not trained on, one seed, one fold: fluid Dice pooled over all "
        "columns of Duke's, mean absolute error of eight boundaries in octlayers' scans",
        "",
    ]
    lines += table_head(["network", "fluid Dice", "boundaries, px"])
    lines.append(table_line(["two networks", *alone()]))
    for name, result in results.items():
        cells = [f"{fluid_dice(result):.4f}", f"{boundary_px(result):.3f}"]
        lines.append(table_line([f"one, {name.replace('-', ' ')}", *cells]))
    return "\n".join(lines) + "\n"


def alone() -> list[str]:
    """Cells of the two networks that find one of both."""
    results = {}
    for task, path in ALONE.items():
        results[task] = json.loads((ROOT / "experiments/results" / path).read_text())
    return [f"{fluid_dice(results['fluid']):.4f}", f"{boundary_px(results['layers']):.3f}"]


def fluid_dice(result: dict) -> float:
    """Pooled over Duke's scans: fluid is the last class."""
    counts = np.array(result["counts_per_scan"]["native"])
    duke = ["octlayers" not in name for name in result["scans"]]
    return float(dice(counts[duke].sum(0)))


def boundary_px(result: dict) -> float:
    """Mean over octlayers' scans."""
    errors = np.array(result["boundary_errors_px_per_scan"], float)
    octlayers = ["duke" not in name for name in result["scans"]]
    return float(np.nanmean(errors[octlayers, -1]))


if __name__ == "__main__":
    run(main)
