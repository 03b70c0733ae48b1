"""The ILM above large cysts: errors of layers in synthetic eyes with cysts, and in healthy eyes.

python experiments/studies/cysts.py                                # octlayers, synthetic eyes
python experiments/studies/cysts.py --weights octlayers runs/finetune/model.pt \\
    --healthy octlayers --split subject:1/7

The synthetic eyes are those of phantom:cysts, which no training sees: 24 scans, each with a cyst
of half to four fifths of the retina's height right under the ILM. Without a --split whose eyes
the networks have not seen, the healthy scans say only whether two networks differ.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tried_scans import scans_with

from dme.common.by_eye import INTERVALS, mean_interval
from dme.common.errors import run
from dme.common.options import check, parsed, setting
from dme.common.tables import table_head, table_line, write_table

if TYPE_CHECKING:  # --help is answered without torch
    from dme.data.cache import Cache
    from dme.nets.segmenter import Segmenter

RESULTS = "results.json"
TABLE = "cysts.md"
ILM = 0
LOST_PX = 5.0  # mean over the columns of a cyst
# what is measured of a scan -> its title
ROWS = {
    "ilm_cysts": "ILM over cysts",
    "all_cysts": "all boundaries over cysts",
    "ilm_beside": "ILM beside them",
    "all_beside": "all boundaries beside them",
}


@dataclass(frozen=True)
class Settings:
    """Which networks, on which scans."""

    weights: tuple[str, ...] = setting(("octlayers",), "networks, names or files")
    healthy: str | None = setting(None, "folder of graded scans of healthy eyes")
    split: str | None = setting(
        None, "score the validation scans of --healthy, as subject:1/7 (default: all)"
    )
    out: Path = setting(Path("runs/cysts"), f"folder for {RESULTS} and {TABLE}")
    __post_init__ = check


def main() -> None:
    settings = parsed(__doc__, Settings)
    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance
    from dme.data.opening import open_source
    from dme.nets.loading import load_model

    # networks and scans are looked at before the work begins
    refuse_foreign(settings.out, RESULTS, [TABLE])
    result = provenance()
    models = [load_model(name) for name in settings.weights]
    sets = {"cysts": scans_with("layers", open_source("phantom:cysts"))}
    if settings.healthy:
        healthy = open_source(settings.healthy)
        sets["healthy"] = scans_with("layers", healthy, settings.split)

    result |= {"split": settings.split, "sets": {}, "networks": []}
    for name, (cache, indices) in sets.items():
        result["sets"][name] = {
            "data": cache.description,
            "data_sha256": cache.source_sha256,
            "scans": [cache.names[i] for i in indices],
            "eyes": cache.subjects[indices].tolist(),
        }
    for model in models:
        errors = {name: errors_px(model, *scans) for name, scans in sets.items()}
        weights = {"weights": model.weights_name, "weights_sha256": model.weights_sha256}
        result["networks"].append(weights | {"errors_px": errors})

    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(settings.out / RESULTS, result)
    table = markdown(result)
    write_table(settings.out / TABLE, table)
    print(f"\n{table}\ntable: {settings.out / TABLE}")


def errors_px(
    model: "Segmenter", cache: "Cache", indices: np.ndarray
) -> dict[str, list[float | None]]:
    """Mean absolute errors of each scan, in px, by ROWS; None where no column is measured."""
    from tqdm import tqdm

    from dme.data.phantom_cysts import over_large_cysts
    from dme.inference.scan import predict_layers
    from dme.retina.accuracy import boundary_errors_px

    errors: dict[str, list[float | None]] = {key: [] for key in ROWS}
    for i in tqdm(indices, desc=model.weights_name, unit="scan"):
        truth = cache.layers[i]
        rows = predict_layers(model, cache.images[i], scale_um=cache.scale_um)
        large = np.zeros(truth.shape[1], bool)
        if cache.fluid is not None:
            large = over_large_cysts(cache.fluid[i], truth)
        for place, columns in (("cysts", large), ("beside", ~large)):
            of_boundaries = boundary_errors_px(rows, np.where(columns, truth, np.nan))
            for key, error in (("ilm", of_boundaries[ILM]), ("all", of_boundaries[-1])):
                known = np.isfinite(error)
                errors[f"{key}_{place}"].append(float(error) if known else None)
    return errors


def markdown(result: dict) -> str:
    """A row for each set and place, a column for each network."""
    from dme.data.phantom_cysts import LARGE

    names = [f"{n['weights']} ({n['weights_sha256'][:8]})" for n in result["networks"]]
    lines = [
        "Mean absolute error in px, mean over scans (interval by eye); over cysts are the columns "
        f"of which fluid takes {LARGE:.0%} or more of the retina's height",
        "",
        *descriptions(result),
        "",
        *table_head(["scans", "where", *names]),
    ]
    for name, scans in result["sets"].items():
        title = "SYNTHETIC eyes" if name == "cysts" else "healthy eyes"
        title += f", {len(scans['scans'])} scans"
        for key, where in ROWS.items():
            values = [network["errors_px"][name][key] for network in result["networks"]]
            if all(value is None for value in values[0]):
                continue  # no large cyst in healthy eyes
            cells = [cell(errors, scans["eyes"]) for errors in values]
            where = where if name == "cysts" else where.removesuffix(" beside them")
            lines.append(table_line([title, where, *cells]))
            if key == "ilm_cysts":
                cells = [lost(errors) for errors in values]
                where = f"scans whose ILM is off by more than {LOST_PX:g} px there"
                lines.append(table_line([title, where, *cells]))
    return "\n".join([*lines, "", INTERVALS]) + "\n"


def descriptions(result: dict) -> list[str]:
    """A line for each set of scans."""
    lines = []
    for name, scans in result["sets"].items():
        text = f"- {scans['data']}"
        if name == "healthy" and result["split"]:
            text += f", validation scans of {result['split']}"
        lines.append(text)
    return lines


def lost(errors: list[float | None]) -> str:
    """How many of the scans that have a large cyst have an error above LOST_PX."""
    known = [error for error in errors if error is not None]
    return f"{sum(error > LOST_PX for error in known)} of {len(known)}"


def cell(errors: list[float | None], eyes: list[int]) -> str:
    """The mean over scans, and of several eyes its interval."""
    px = np.array(errors, float)
    if len(set(eyes)) == 1:
        return f"{np.nanmean(px):.2f}"
    low, high = mean_interval(px, np.array(eyes))
    return f"{np.nanmean(px):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run(main)
