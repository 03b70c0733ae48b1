"""What networks cost: parameters, and multiply-adds and time to predict a 496 x 768 scan.

python experiments/benchmarks/costs.py unet-psp unet-psp-64 mobilenet_v3_small-lraspp

Predicted as by predict.py: at half size, batch norm folded. The networks take turns, so that a
busy machine hits all.
"""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dme.common.errors import InputError, run
from dme.common.options import option_parser

if TYPE_CHECKING:
    from dme.nets.segmenter import Segmenter

REPEATS = 5
NAME = re.compile(r"[^-]+-[^-]+(-\d+)?")
TURN_S = 0.3  # a turn lasts at least as long


def main() -> None:
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("names", nargs="+", metavar="BACKBONE-HEAD[-WIDTH]", help="networks")
    add("--out", type=Path, default=Path("runs/costs"), help="folder for results.json")
    args = parser.parse_args()
    for name in args.names:
        if not NAME.fullmatch(name):
            raise InputError(f"{name}: expected BACKBONE-HEAD[-WIDTH], such as unet-psp")
    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance

    refuse_foreign(args.out, "results.json")
    models = {name: fluid_network(*name.split("-")) for name in args.names}
    rows = measure(models)
    for name, row in rows.items():
        size = f"{row['parameters'] / 1e6:6.2f} million parameters"
        print(
            f"{size} {row['multiply_adds'] / 1e9:6.2f} GMAC {1e3 * row['seconds']:6.0f} ms  {name}"
        )
    write_json(args.out / "results.json", {**provenance(), "rows": rows})
    print(f"results: {args.out / 'results.json'}")


def fluid_network(backbone: str, head: str, width: str | None = None) -> "Segmenter":
    """Fresh, but with classes and size as recipe best leaves them."""
    from dme.nets.segmenter import build_model, set_classes

    model = build_model(backbone, head, width=width and int(width)).eval()
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": "half"}
    return model


def measure(
    models: dict[str, "Segmenter"], repeats: int = REPEATS, turn_s: float = TURN_S
) -> dict[str, dict]:
    """Of each network: parameters, multiply_adds, seconds (median of the rounds), device."""
    from torch.utils.flop_counter import FlopCounterMode
    from turns import in_turns

    from dme.common.provenance import device_name
    from dme.data.phantom import phantom_bscan
    from dme.inference.scan import predict
    from dme.nets.folding import folded

    image = phantom_bscan(0).image
    # time
    ways = {}
    for name, model in models.items():
        ways[name] = partial(predict, folded(model), image)
    times = in_turns(ways, repeats, turn_s)
    # operations are counted once: they do not depend on the machine
    rows = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            ways[name]()
        rows[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "multiply_adds": counter.get_total_flops() // 2,
            "seconds": times[name]["median_s"],
            "device": device_name(),
        }
    return rows


if __name__ == "__main__":
    run(main)
