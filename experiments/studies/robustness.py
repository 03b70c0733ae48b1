"""How far a network finds fluid in scans that are not as those it knows: the perturbation table.

python experiments/studies/robustness.py --data my_scans               # images/ and fluid/
python experiments/studies/robustness.py --weights dme-fluid dme-fluid-fast --split dev:1/4
python experiments/studies/robustness.py --healthy octlayers           # also scans without fluid

Every labelled scan is changed as other devices, exports and settings do, and scored over all its
columns against its truth, which is changed alike. A network that the scans trained looks better
than it is: choose a --split whose validation scans it has not seen, or scans of your own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tried_scans import scans_with

from dme.common.errors import InputError, run
from dme.common.options import check, parsed, setting
from dme.common.tables import table_head, table_line, write_table
from dme.data.perturbations import PERTURBATIONS, Labelled, perturbed, scale_after

if TYPE_CHECKING:  # --help is answered without torch
    from dme.data.cache import Cache
    from dme.nets.segmenter import Segmenter

RESULTS = "results.json"
UNKNOWN_SCALE = ", scale unknown"  # of rows for which the network is not told um per pixel
RESCALED = ("as it is", "half size", "double size", "256 x 256")  # which have such a row
TITLES = ("scans", "fluid Dice", "precision", "recall", "false px in scans without fluid")
HEALTHY = "false px in healthy scans"


@dataclass(frozen=True)
class Settings:
    """Which networks, on which scans."""

    weights: tuple[str, ...] = setting(("dme-fluid",), "networks, names or files")
    data: str | None = setting(
        None, ".mat files or folder of labelled B-scans (default: DME_DATA, else synthetic scans)"
    )
    grader: int = setting(1, "whose annotation of .mat files is the truth: 1 or 2")
    fluid_value: tuple[int, ...] | None = setting(
        None, "values of a folder's masks that are fluid (default: found out, and said)"
    )
    split: str | None = setting(
        None, "score its validation scans, as subject:1/5 or dev:1/4 (default: all scans)"
    )
    healthy: str | None = setting(None, "folder of scans without fluid, masks or not")
    rows: tuple[str, ...] = setting(
        tuple(PERTURBATIONS), "which perturbations", choices=tuple(PERTURBATIONS)
    )
    threshold: float = setting(0.5, "fluid is where its probability is above")
    tta: bool = setting(False, "average with the mirrored scan: twice the time")
    out: Path = setting(Path("runs/robustness"), "folder for results.json and robustness.md")
    __post_init__ = check


class Scans(NamedTuple):
    """Scans of one set, of which some are tried."""

    cache: "Cache"  # native
    indices: np.ndarray
    healthy: bool = False  # nothing in them is fluid, whatever masks say


def main() -> None:
    settings = parsed(__doc__, Settings)
    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance
    from dme.nets.loading import load_model

    # networks and scans are looked at before the work begins
    refuse_foreign(settings.out, RESULTS, ["robustness.md"])
    origin = provenance()
    models = [load_model(name) for name in settings.weights]
    labelled = labelled_scans(settings)
    healthy = healthy_scans(settings.healthy) if settings.healthy else None
    print(f"data: {labelled.cache.description}, {len(labelled.indices)} scans")

    rows = [tried(model, labelled, healthy, settings) for model in models]
    settings.out.mkdir(parents=True, exist_ok=True)
    cache = labelled.cache
    result = origin | {
        "data": cache.description,
        "data_kind": cache.kind,
        "data_sha256": cache.source_sha256,
        "split": settings.split,
        "healthy": healthy and healthy.cache.description,
        "threshold": settings.threshold,
        "tta": settings.tta,
        "networks": rows,
    }
    write_json(settings.out / RESULTS, result)
    table = markdown(result)
    write_table(settings.out / "robustness.md", table)
    print(f"\n{table}\ntable: {settings.out / 'robustness.md'}")


# ---- scans


def labelled_scans(settings: Settings) -> Scans:
    """Raises InputError for a set without masks of fluid."""
    from dme.data.opening import open_source

    source = open_source(settings.data, settings.grader, settings.fluid_value)
    return Scans(*scans_with("fluid", source, settings.split))


def healthy_scans(folder: str) -> Scans:
    from dme.data.cache import open_cache
    from dme.data.opening import open_source

    cache = open_cache(open_source(folder))
    return Scans(cache, np.arange(len(cache)), healthy=True)


# ---- what a network finds


def tried(model: "Segmenter", labelled: Scans, healthy: Scans | None, settings: Settings) -> dict:
    """A network's entry in the results: of each perturbation counts by eye, and false pixels."""
    from tqdm import tqdm

    eyes = labelled.cache.subjects[labelled.indices]
    entry = {
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
        "eyes": np.unique(eyes).tolist(),
        "perturbations": {},
    }
    rows = [*settings.rows]
    if labelled.cache.scale_um is not None:
        rows += [name + UNKNOWN_SCALE for name in RESCALED if name in settings.rows]
    for name in tqdm(rows, desc=model.weights_name, unit="perturbation"):
        counts, answered = counts_of(model, labelled, name, settings)
        by_eye = [counts[eyes == eye].sum(0).tolist() for eye in np.unique(eyes)]
        dry = answered & (counts[:, 1].sum(1) == 0)
        row = {
            "counts_per_eye": by_eye,
            "scans": len(counts),
            "refused": int((~answered).sum()),
            "false_px_without_fluid": int(counts[dry, 0, 1].sum()),
            "scans_without_fluid": int(dry.sum()),
        }
        if healthy:
            counts, answered = counts_of(model, healthy, name, settings)
            row["false_px_healthy"] = int(counts[:, 0, 1].sum())
            row["scans_healthy"] = int(answered.sum())
        entry["perturbations"][name] = row
    return entry


def counts_of(
    model: "Segmenter", scans: Scans, row: str, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrices (N, 2, 2) of perturbed scans, and which were not refused, bool (N,).

    Of a refused scan nothing is counted, as nothing is said of it.
    """
    from dme.inference.scan import predict
    from dme.ops.confusion import confusion_matrix

    perturbation = row.removesuffix(UNKNOWN_SCALE)
    scale_um = scans.cache.scale_um if row == perturbation else None
    counts = np.zeros((len(scans.indices), 2, 2), np.int64)
    answered = np.ones(len(counts), bool)
    for place, i in enumerate(scans.indices):
        image = scans.cache.images[i]
        truth = np.zeros_like(image) if scans.healthy else scans.cache.fluid[i]
        changed = perturbed(Labelled(image, truth), perturbation, scans.cache.names[i])
        scale = scale_after(scale_um, image.shape, changed.image.shape)
        try:
            mask, _ = predict(model, changed.image, settings.threshold, settings.tta, scale)
        except InputError:
            answered[place] = False
            continue
        counts[place] = confusion_matrix(*batches(mask, changed.fluid), 2).numpy()
    return counts, answered


def batches(*masks: np.ndarray) -> list:
    """Masks (H, W) as tensors (1, H, W)."""
    import torch

    return [torch.from_numpy(np.ascontiguousarray(mask))[None] for mask in masks]


# ---- the table


def markdown(result: dict) -> str:
    """A table for each network, Dice pooled over all columns of all scans."""
    split = f", validation scans of {result['split']}" if result["split"] else ""
    lines = [f"Fluid in perturbed scans, all columns, pooled ({result['data']}{split})"]
    for network in result["networks"]:
        titles = [network["weights"], *TITLES]
        if result["healthy"]:
            titles.append(HEALTHY)
        lines += ["", *table_head(titles)]
        for name, row in network["perturbations"].items():
            lines.append(table_line([name, *cells(row)]))
    if len(result["networks"]) > 1:
        lines += ["", "Fluid Dice of each:", "", *side_by_side(result["networks"])]
    return "\n".join(lines) + "\n"


def side_by_side(networks: list[dict]) -> list[str]:
    """Lines of a table: fluid Dice, a row per perturbation and a column per network."""
    lines = table_head(["perturbation", *(network["weights"] for network in networks)])
    for name in networks[0]["perturbations"]:
        dice = [cells(network["perturbations"][name])[1] for network in networks]
        lines.append(table_line([name, *dice]))
    return lines


def cells(row: dict) -> list[str]:
    """Cells of a row of the table."""
    (_, false), (missed, hit) = np.sum(row["counts_per_eye"], axis=0)
    scans = str(row["scans"])
    if row["refused"]:
        scans += f", {row['refused']} refused"
    dry = f"{row['false_px_without_fluid']:,} ({row['scans_without_fluid']} scans)"
    shares = [ratio(2 * hit, 2 * hit + false + missed)]
    shares += [ratio(hit, hit + false), ratio(hit, hit + missed)]
    more = []
    if "false_px_healthy" in row:
        more.append(f"{row['false_px_healthy']:,} ({row['scans_healthy']} scans)")
    return [scans, *shares, dry, *more]


def ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "none"


if __name__ == "__main__":
    run(main)
