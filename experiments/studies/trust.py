"""How far a scan's fluid can be believed: a predicted Dice and an interval of the area, by eye.

python experiments/studies/trust.py --runs runs/crossval/subject?of5-seed0 --weights dme-fluid

--runs: folders that `finetune` left, each with a network and the scans it was not trained on, of
other eyes. Of these scans the quantities of `dme.inference.trust` are measured, once; each eye is
then judged by a fit to the others. The last fit is to all eyes: predict --trust takes it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from dme.bscan import BScan
from dme.commands.predict import FIT_THRESHOLD
from dme.common.errors import InputError, run
from dme.common.files import sha256_file, write_json
from dme.common.folders import refuse_foreign
from dme.common.labels import IGNORE
from dme.common.options import add_options, check, from_options, option_parser, setting
from dme.common.provenance import provenance
from dme.common.tables import table_head, table_line
from dme.data.opening import open_source
from dme.data.source import Source
from dme.inference.trust import (
    LOW_DICE,
    QUANTITIES,
    Sample,
    Trust,
    as_written,
    fit_trust,
    judge_left_out,
    quantities_of,
)
from dme.retina.agreement import confusion, dice
from dme.retina.fluid import area_mm2

if TYPE_CHECKING:  # --help is answered without torch
    from dme.nets.segmenter import Segmenter

DIGITS = 3
TITLES = (
    "eye",
    "scans",
    f"Dice below {LOW_DICE}",
    "of these flagged",
    "of others flagged",
    "areas that hold",
)


@dataclass(frozen=True)
class Settings:
    """What is fitted, and for which network."""

    data: str | None = setting(None, "labelled scans (default: DME_DATA)")
    out: Path = setting(Path("runs/trust"), "folder of samples and of trust.json")
    weights: str | None = setting(None, "the network that the last fit is for (default: none)")
    __post_init__ = check


def main() -> None:
    parser = option_parser(__doc__)
    add_options(parser, Settings)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    settings = from_options(Settings, args)
    from dme.nets.loading import load_model  # --help has been answered without torch

    refuse_foreign(settings.out, "trust.json")
    record = provenance()
    source = open_source(settings.data)

    # what every run says of the scans it left out
    entries = []
    for folder in args.runs:
        entries += samples_of(folder, source, settings.out)
    samples = [sample_from(entry) for entry in entries]
    judged = judge_left_out(samples)

    # the fit to all is for a network that learnt from all
    fit = fit_trust(samples)
    if settings.weights:
        fit = fit_trust(samples, load_model(settings.weights).weights_sha256)
    record |= {
        "runs": [run_record(folder) for folder in args.runs],
        "data": source.description,
        "scans": len(samples),
        "eyes": sorted({sample.eye for sample in samples}),
        "quantities": QUANTITIES,
        "outcome": outcome(samples, judged),
        "by_eye": by_eye(samples, judged),
        "fit": as_written(fit),
        "samples": entries,
    }
    write_json(settings.out / "trust.json", record)
    print(markdown(record))
    print(f"\nwritten: {settings.out / 'trust.json'}")


def run_record(folder: Path) -> dict:
    """Where a run's network comes from."""
    results = _results(folder)
    keys = ("command", "commit", "split", "seed", "start")
    record = {key: results.get(key) for key in keys}
    return record | {"weights_sha256": sha256_file(folder / "model.pt")}


def _results(folder: Path) -> dict:
    path = folder / "results.json"
    if not path.is_file() or not (folder / "model.pt").is_file():
        raise InputError(f"{folder}: no results.json with model.pt, expected a run of finetune")
    return json.loads(path.read_text())


def samples_of(folder: Path, source: Source, out: Path) -> list[dict]:
    """A line for each scan that a run left out; measured once, then read."""
    from dme.nets.loading import load_model

    results = _results(folder)
    origin = {"weights_sha256": sha256_file(folder / "model.pt"), "data_sha256": source.sha256}
    kept = out / f"samples-{folder.name}.json"
    if kept.is_file():
        content = json.loads(kept.read_text())
        if all(content.get(key) == value for key, value in origin.items()):
            return content["samples"]

    if results.get("leak"):
        raise InputError(f"{folder}: {results['leak']} of its scans are of eyes it learnt from")
    model = load_model(folder / "model.pt")
    left_out = set(results["scans"])
    # a scan of which nobody knows anything teaches nothing
    scans = []
    for scan in source.scans():
        if scan.name in left_out and (scan.fluid != IGNORE).any():
            scans.append(scan)
    entries = [measured(model, scan) for scan in tqdm(scans, desc=folder.name, unit="scan")]
    write_json(kept, {**origin, "samples": entries})
    return entries


def measured(model: "Segmenter", scan: BScan) -> dict:
    """A scan's sample: its quantities, and shares and Dice of the pixels that are known.

    mm2: the area of these pixels, None without a scale.
    """
    from dme.inference.scan import class_probabilities, fluid_mask

    by_class = class_probabilities(model, scan.image, scale_um=scan.scale_um)
    mask, probability = fluid_mask(model, by_class, FIT_THRESHOLD)
    quantities = quantities_of(model, scan.image, probability, scan.scale_um)

    # unknown pixels are neither right nor wrong
    known = scan.fluid != IGNORE
    truth = scan.fluid == 1
    found = mask == 1
    score = dice(confusion(truth, found, known))
    return {
        "scan": scan.name,
        "eye": scan.subject,
        "quantities": quantities.tolist(),
        "found_share": float(found[known].mean()),
        "true_share": float(truth[known].mean()),
        "dice": 1.0 if np.isnan(score) else float(score),
        "mm2": area_mm2(int(known.sum()), scan.scale_um),
    }


def sample_from(entry: dict) -> Sample:
    quantities = np.array(entry["quantities"])
    return Sample(
        entry["eye"], quantities, entry["found_share"], entry["true_share"], entry["dice"]
    )


# ---- how well it does ---------------------------------------------------------------------------
def outcome(samples: list[Sample], judged: list[Trust]) -> dict:
    """Of scans with a low Dice how many are flagged, of others how many; how many areas hold."""
    low = np.array([sample.dice < LOW_DICE for sample in samples])
    flagged = np.array([trust.flagged for trust in judged])
    pairs = zip(samples, judged, strict=True)
    holds = np.array([t.low_share <= s.true_share <= t.high_share for s, t in pairs])
    dice = np.array([sample.dice for sample in samples])
    predicted = np.array([trust.dice for trust in judged])
    widths = np.array([trust.high_share - trust.low_share for trust in judged])
    return {
        "scans": len(samples),
        "low": int(low.sum()),
        "low_flagged": int((low & flagged).sum()),
        "others_flagged": int((~low & flagged).sum()),
        "areas_hold": int(holds.sum()),
        "mean_width_share": float(widths.mean()),
        "dice_mean_error": float(np.abs(dice - predicted).mean()),
    }


def by_eye(samples: list[Sample], judged: list[Trust]) -> dict[str, dict]:
    rows = {}
    for eye in sorted({sample.eye for sample in samples}):
        chosen = [i for i, sample in enumerate(samples) if sample.eye == eye]
        rows[str(eye)] = outcome([samples[i] for i in chosen], [judged[i] for i in chosen])
    return rows


def markdown(record: dict) -> str:
    lines = table_head(TITLES)
    for name, row in [*record["by_eye"].items(), ("all", record["outcome"])]:
        others = row["scans"] - row["low"]
        cells = [name, row["scans"], row["low"], row["low_flagged"]]
        cells += [f"{row['others_flagged']} of {others}", row["areas_hold"]]
        lines.append(table_line(cells))

    # shares over all, and of areas also the mean and the least of the eyes
    total = record["outcome"]
    shares = [row["areas_hold"] / row["scans"] for row in record["by_eye"].values()]
    others = total["scans"] - total["low"]
    lines += [
        "",
        f"flagged: {_share(total['low_flagged'], total['low'])} of the scans with Dice below "
        f"{LOW_DICE}, {_share(total['others_flagged'], others)} of the others; areas that hold: "
        f"{_share(total['areas_hold'], total['scans'])} of all, mean of eyes "
        f"{np.mean(shares):.{DIGITS}f}, least of an eye {min(shares):.{DIGITS}f}",
    ]
    return "\n".join(lines)


def _share(count: int, total: int) -> str:
    return f"{count / total:.{DIGITS}f} ({count} of {total})" if total else "none"


if __name__ == "__main__":
    run(main)
