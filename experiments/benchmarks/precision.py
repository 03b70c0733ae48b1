"""Which ways to run a network are faster than float32, and whether they find the same fluid.

./run.sh bench precision --data chiu2015 --volume chiu2015/subject01_volume
./run.sh bench precision --data chiu2015 --layers octlayers
./run.sh bench precision --out runs/precision --print                  # the tables again

Every way finds fluid in all scans of --data and is held against float32: it passes where fluid
Dice changes by 0.002 at most and the intraclass correlation of areas is 0.999 or more. Then the
ways take turns at a whole volume. With --layers, boundaries by bfloat16 are held against float32
in the scans of both sets: it passes where none lies more than 0.05 px away.
"""

import json
from argparse import Namespace
from pathlib import Path

from dme.common.errors import InputError, run
from dme.common.options import option_parser
from dme.common.tables import table_head, table_line

RESULTS = "precision.json"
REFERENCE = "dme, float32"  # as of ways.py
MOST_DICE, LEAST_ICC, MOST_PX = 0.002, 0.999, 0.05
CALIBRATE_EVERY = 10  # th scan of --data, for the ways in 8 bits
WAY_TITLES = (
    "way",
    "ms a scan",
    "times as long",
    "volume, s: network",
    "with entry and mask",
    "ready after, s",
    "change of Dice",
    "ICC of areas",
    "same fluid",
)
LAYER_TITLES = (
    "boundaries by bfloat16, px from float32",
    "scans",
    "mean",
    "95 % below",
    "largest",
    "within 0.05 px",
)


def parse_args() -> Namespace:
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("--weights", default="dme-fluid", help="network that finds fluid (default dme-fluid)")
    add("--data", help="scans with fluid masks (default: DME_DATA, else synthetic B-scans)")
    add("--volume", help="B-scans of the timed volume (default: the first 61 of --data)")
    add("--layers", help="scans for boundaries; without it layers are left out")
    add("--layer-weights", default="octlayers", help="network that finds layers")
    add("--ways", default="", metavar="WORD", help="only those whose name holds it, such as dme")
    add("--repeats", type=int, default=5, help="timed rounds through the volume (default 5)")
    add("--out", type=Path, default=Path("runs/precision"), help="folder of the results")
    add("--print", action="store_true", help="print the tables of the results in --out again")
    args = parser.parse_args()
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: expected 1 or more")
    return args


def main() -> None:
    args = parse_args()
    if not args.print:
        measure(args)
    print(markdown(args.out), end="")


def measure(args: Namespace) -> None:
    """Write RESULTS, part by part."""
    import peers
    import precision_parts
    import torch
    from turns import clock

    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance
    from dme.data.cache import open_cache
    from dme.data.opening import open_source

    refuse_foreign(args.out, RESULTS)
    source = open_source(args.data)
    scans = open_cache(source)
    if scans.fluid is None:
        raise InputError(f"{source.description}: no fluid masks to hold the ways against")
    record = provenance() | {
        "threads": torch.get_num_threads(),
        "clock": clock()[1],
        "data": source.description,
        "data_sha256": source.sha256,
    }
    record["versions"] |= peers.versions()

    if args.layers:
        other = open_source(args.layers)
        layer_sets = {other.description: open_cache(other), source.description: scans}
        record["layers"] = precision_parts.layers(args.layer_weights, layer_sets)
        write_json(args.out / RESULTS, record)
    volume = scans.images[:61]
    if args.volume:
        volume = open_cache(open_source(args.volume)).images
    record |= precision_parts.fluid(args.weights, scans, volume, args.repeats, args.ways)
    write_json(args.out / RESULTS, record)
    print(f"results: {args.out / RESULTS}")


def passes(row: dict) -> bool:
    """Whether a way finds the same fluid as float32."""
    known = row["dice_change"] is not None and row["icc"] is not None  # of fluid in some scans
    return known and abs(row["dice_change"]) <= MOST_DICE and row["icc"] >= LEAST_ICC


def markdown(results: Path) -> str:
    """Tables of what was measured, the fastest way first. Raises InputError without results."""
    path = results / RESULTS
    if not path.exists():
        raise InputError(f"{path} is not there; run ./run.sh bench precision first")
    content = json.loads(path.read_text())
    lines = table_head(WAY_TITLES)
    for name, row in sorted(content["ways"].items(), key=lambda item: item[1]["ratio"]):
        network_s = row["phases_s"]["network"]
        cells = [
            name,
            f"{1e3 * network_s / content['volume_scans']:.1f}",
            f"{row['ratio']:.2f}",
            f"{network_s:.1f}",
            f"{sum(row['phases_s'].values()):.1f}",
            f"{row['warm_up_s']:.1f}",
            number(row["dice_change"], "+.5f"),
            number(row["icc"], ".6f"),
            "yes" if passes(row) else "no",
        ]
        lines.append(table_line(cells))
    if "layers" in content:
        lines += ["", *layer_lines(content["layers"]["sets"])]
    return "\n".join(lines) + "\n"


def number(value: float | None, form: str) -> str:
    """A dash where it is unknown."""
    return "-" if value is None else format(value, form)


def layer_lines(sets: list[dict]) -> list[str]:
    """The table of boundaries."""
    lines = table_head(LAYER_TITLES)
    for row in sets:
        numbers = [f"{row[key]:.3f}" for key in ("mean_px", "p95_px", "largest_px")]
        same = "yes" if row["largest_px"] <= MOST_PX else "no"
        lines.append(table_line([row["data"], row["scans"], *numbers, same]))
    return lines


if __name__ == "__main__":
    run(main)
