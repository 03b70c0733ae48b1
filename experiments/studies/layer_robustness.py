"""How far a network finds the layers in scans that are not as those it knows.

python experiments/studies/layer_robustness.py --data octlayers --scale 3.87,11.33
python experiments/studies/layer_robustness.py --weights octlayers mine.pt --split subject:1/7

Scans with boundaries are changed as `robustness.py` changes those with fluid, and so are their
boundaries. A network that the scans trained looks better than it is: choose a --split whose
validation scans it has not seen, or scans of your own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from robustness import RESCALED, UNKNOWN_SCALE
from tried_scans import scans_with

from dme.common.errors import run
from dme.common.options import parsed, setting
from dme.common.tables import table_head, table_line, write_table
from dme.data.perturbations import Labelled, perturbed, scale_after

if TYPE_CHECKING:  # --help is answered without torch
    from dme.data.cache import Cache
    from dme.nets.segmenter import Segmenter

RESULTS, TABLE = "results.json", "layer_robustness.md"
GREYS = ("as it is", "speckle 0.3", "gamma 0.5", "gamma 2", "contrast curve", "dim", "blur")
ROWS = (*GREYS, *RESCALED[1:], *(name + UNKNOWN_SCALE for name in RESCALED))


@dataclass(frozen=True)
class Settings:
    """Which networks, on which scans."""

    weights: tuple[str, ...] = setting(("octlayers",), "networks, names or files")
    data: str | None = setting(None, "B-scans with boundaries (default: DME_DATA)")
    split: str | None = setting(
        None, "score its validation scans, as subject:1/7 (default: all scans)"
    )
    scale: str | None = setting(
        None, "axial,lateral in um per pixel of the scans (default: what their files say)"
    )
    out: Path = setting(Path("runs/layer_robustness"), f"folder for {RESULTS} and {TABLE}")


def main() -> None:
    settings = parsed(__doc__, Settings)
    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance
    from dme.common.scale import given_scale
    from dme.data.opening import open_source
    from dme.nets.loading import load_model

    # networks and scans are looked at before the work begins
    refuse_foreign(settings.out, RESULTS, [TABLE])
    origin = provenance()
    models = [load_model(name) for name in settings.weights]
    cache, indices = scans_with("layers", open_source(settings.data), settings.split)
    scale_um = given_scale(settings.scale) or cache.scale_um
    print(f"data: {cache.description}, {len(indices)} scans")

    networks = []
    for model in models:
        errors_px = tried(model, cache, indices, scale_um)
        name = {"weights": model.weights_name, "weights_sha256": model.weights_sha256}
        networks.append({**name, "errors_px_per_scan": errors_px})
    result = origin | {
        "data": cache.description,
        "data_kind": cache.kind,
        "data_sha256": cache.source_sha256,
        "split": settings.split,
        "scale_um": scale_um,
        "subjects": cache.subjects[indices].tolist(),
        "networks": networks,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(settings.out / RESULTS, result)
    table = markdown(result)
    write_table(settings.out / TABLE, table)
    print(f"\n{table}\ntable: {settings.out / TABLE}")


def tried(
    model: "Segmenter", cache: "Cache", indices: np.ndarray, scale_um: tuple[float, ...] | None
) -> dict[str, list[float]]:
    """Row of the table -> mean absolute error of each scan, in pixels of the scan as it is."""
    from tqdm import tqdm

    errors_px = {}
    for row in tqdm(ROWS, desc=model.weights_name, unit="perturbation"):
        told = None if row.endswith(UNKNOWN_SCALE) else scale_um
        perturbation = row.removesuffix(UNKNOWN_SCALE)
        errors_px[row] = [error_px(model, cache, i, perturbation, told) for i in indices]
    return errors_px


def error_px(
    model: "Segmenter",
    cache: "Cache",
    index: int,
    perturbation: str,
    scale_um: tuple[float, ...] | None,
) -> float:
    """Of one changed scan, over all boundaries and columns where both have a row."""
    from dme.inference.scan import class_probabilities, layer_rows
    from dme.retina.rows import scale_rows

    image = cache.images[index]
    scan = Labelled(image, np.zeros_like(image))
    changed = perturbed(scan, perturbation, cache.names[index]).image
    scale = scale_after(scale_um, image.shape, changed.shape)
    by_class = class_probabilities(model, changed, scale_um=scale)
    found = layer_rows(model, changed, by_class, fluid=None)
    truth = scale_rows(cache.layers[index], image.shape, changed.shape)
    return float(np.nanmean(np.abs(found - truth)) * image.shape[0] / changed.shape[0])


def markdown(result: dict) -> str:
    """A row per perturbation, a column per network: mean over scans, interval by eye."""
    from dme.common.by_eye import INTERVALS, mean_interval
    from dme.training import series

    split = f", validation scans of {result['split']}" if result["split"] else ""
    kind = series.kind_of_scans([result])
    subjects = np.array(result["subjects"])
    names = [f"{net['weights']} ({net['weights_sha256'][:8]})" for net in result["networks"]]
    lines = [
        f"Mean absolute error of eight boundaries in perturbed {kind} scans, px of the scan as it "
        f"is, mean over {len(subjects)} scans, 95 % interval by eye ({result['data']}{split})",
        "",
        *table_head(["perturbation", *names]),
    ]
    for row in ROWS:
        cells = [row]
        for network in result["networks"]:
            errors = np.array(network["errors_px_per_scan"][row])
            low, high = mean_interval(errors, subjects)
            cells.append(f"{np.nanmean(errors):.2f} ({low:.2f} to {high:.2f})")
        lines.append(table_line(cells))
    return "\n".join([*lines, "", INTERVALS]) + "\n"


if __name__ == "__main__":
    run(main)
