"""Table 1 of the study: HRF-pretrained UNets, or other networks, on B-scans without fine-tuning.

The measure of that table is the IoU of class 1 (vessel read as fluid) per scan, averaged over
all scans, a scan with an empty union counting 0; it is not the mIoU of Table 2. Beside it stand
IoU and Dice of fluid pooled over the set. Of a network with more classes the one called fluid is
scored, or, where none is, class 1 as in the study (of Cityscapes that is sidewalk); every other
class counts as background.

python experiments/baseline.py --weights hrf-psp cityscapes-psp-mobilenet_v2-openmmlab
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dme.common.errors import InputError, run
from dme.common.options import check, parsed, setting
from dme.common.words import BACKBONE_NAMES, SYNTHETIC_KINDS

if TYPE_CHECKING:
    from dme.data.cache import Cache
    from dme.data.source import Source


@dataclass(frozen=True)
class Settings:
    """Which networks, on which scans."""

    data: str | None = setting(
        None, ".mat files or folder of B-scans (default: DME_DATA, else synthetic scans)"
    )
    grader: int = setting(1, "whose annotation of .mat files is the truth: 1 or 2")
    fluid_value: tuple[int, ...] | None = setting(
        None, "values of a folder's masks that are fluid (default: found out, and said)"
    )
    backbone: str | None = setting(None, "of the weights (default: any)", choices=BACKBONE_NAMES)
    weights: tuple[str, ...] = setting(
        (), "names or files (default: the shipped unets, or all of --backbone here)"
    )
    protocol: str | None = setting(
        None,
        "paper: enlarge to 2336 (default on a GPU); light: to 512",
        choices=("paper", "light"),
    )
    out: Path = setting(Path("runs/baseline"), "folder for results and picture")
    __post_init__ = check


def main() -> None:
    settings = parsed(__doc__, Settings)
    import torch  # after parsing: --help does not wait for it
    from studies import table1

    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance
    from dme.data.opening import open_source
    from dme.drawing.canvas import save_png
    from dme.nets.loading import load_model
    from dme.nets.segmenter import require_arch

    # networks and data are looked at before the work begins
    refuse_foreign(settings.out, "results.json", ["panel.png"])
    record = provenance()  # of the code that runs, which may change on disk before a long run ends
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    protocol = settings.protocol or ("paper" if device.type == "cuda" else "light")
    source = open_source(settings.data, settings.grader, settings.fluid_value)
    print(f"data: {source.description}")
    names = settings.weights or table1.default_weights(settings.backbone)
    models = [load_model(name) for name in names]
    for model in models:
        require_arch(model, backbone=settings.backbone)
        number = table1.fluid_class(model)
        fluid = f"class {number} of {len(model.classes)} ({model.classes[number]})"
        print(f"weights: {model.weights_name}; {fluid} is read as fluid")
    cache = scans_with_truth(source, protocol)
    settings.out.mkdir(parents=True, exist_ok=True)

    # every network on every scan
    rows = []
    predictions = []
    for model in models:
        scored = table1.score(model.to(device), cache, protocol)
        rows.append(table1.result_row(model, scored))
        predictions.append(scored.labels)

    # the table, the picture, the file
    table1.print_table(rows, synthetic=cache.kind in SYNTHETIC_KINDS)
    save_png(settings.out / "panel.png", table1.picture(cache, rows, predictions))
    results = {
        **record,
        "data": cache.description,
        "data_kind": cache.kind,
        "data_sha256": cache.source_sha256,
        "scans": cache.names,
        "protocol": protocol,
        "seed": None,  # nothing is random here
        "rows": rows,
    }
    write_json(settings.out / "results.json", results)
    print(f"\nresults: {settings.out / 'results.json'}\npicture: {settings.out / 'panel.png'}")


def scans_with_truth(source: "Source", protocol: str) -> "Cache":
    """The scans at the study's size; says what was done to them, and what will be."""
    from dme.common.provenance import device_name
    from dme.data.cache import open_cache
    from dme.inference.protocols import PROTOCOLS
    from dme.inference.sizes import STUDY_SIDE

    enlarged = f"{STUDY_SIDE} x {STUDY_SIDE} scans enlarged to {PROTOCOLS[protocol]}"
    print(f"protocol: {protocol} ({enlarged} x {PROTOCOLS[protocol]}, window 256, stride 170)")
    print(f"device: {device_name()}", flush=True)
    cache = open_cache(source, STUDY_SIDE)
    for note in cache.notes:
        print(f"data note: {note}")
    if cache.fluid is None:
        raise InputError(
            f"the scans of {cache.description} have no fluid masks; Table 1 needs the truth"
        )
    return cache


if __name__ == "__main__":
    run(main)
