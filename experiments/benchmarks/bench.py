"""Benchmarks against peers, in one process.

A row begins with its time as a multiple of the first row's.

python experiments/benchmarks/bench.py [all]
python experiments/benchmarks/bench.py cache --data /path/to/data
python experiments/benchmarks/bench.py train --width 64
python experiments/benchmarks/bench.py predict --repeats 3
"""

import os
from argparse import Namespace
from pathlib import Path

from dme.common.errors import InputError, run
from dme.common.options import option_parser

BENCHES = ("cache", "ops", "train", "infer")
ALONE = "predict"  # runs processes of its own, and only where it is named
LEAST = {"repeats": 1, "width": 1, "crop": 1, "batch": 2}  # PSP heads train on two crops or more


def parse_args() -> Namespace:
    parser = option_parser(__doc__)
    add = parser.add_argument
    add(
        "names",
        nargs="*",
        metavar="BENCH",
        help=f"{', '.join(BENCHES)}, all of these (default); or {ALONE}: parts of a prediction",
    )
    add("--repeats", type=int, default=7, help="timed rounds after one that is not (default 7)")
    add(
        "--data", help="cache, predict: file or folder (default: DME_DATA, else synthetic B-scans)"
    )
    add("--width", type=int, default=16, help="train: of the network, a UNet with PSP head")
    add("--crop", type=int, default=320, help="train: side of the crops")
    add("--batch", type=int, default=2, help="train: crops of a step")
    add("--amp", choices=["bf16", "fp16"], default="bf16", help="train: precision beside float32")
    add("--weights", default="hrf-psp", help="infer: a named checkpoint or a file")
    add("--out", type=Path, default=Path("runs/bench"), help="folder for the results")
    args = parser.parse_args()
    if unknown := set(args.names) - {*BENCHES, ALONE, "all"}:
        choices = f"{', '.join(BENCHES)}, all, {ALONE}"
        parser.error(f"unknown bench {', '.join(sorted(unknown))}; choose of {choices}")
    for name, least in LEAST.items():
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: expected {least} or more")
    if not args.names or "all" in args.names:
        args.names = [*BENCHES, *({ALONE} & set(args.names))]
    return args


def main() -> None:
    args = parse_args()
    import bench_parts  # after parsing: --help does not wait for torch
    import peers
    import predict_parts
    from turns import clock

    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.memory import keep_freed_memory
    from dme.common.provenance import device_name, provenance

    for name in args.names:
        refuse_foreign(args.out, f"{name}.json")
    # which machine and libraries, and what the clock tells
    record = provenance() | {
        "cpu_count": os.cpu_count(),
        "freed_memory_kept": keep_freed_memory(),
        "clock": clock()[1],
    }
    record["versions"] |= peers.versions()
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    print(f"{device_name()}, {versions}")
    print(f"ratio: {record['clock']} by those of the first row in the same round; ", end="")
    print(f"median of {args.repeats}")

    # a file each
    parts = {
        "cache": lambda: bench_parts.cache(args.data, args.repeats),
        "ops": lambda: bench_parts.ops(args.repeats),
        "train": lambda: bench_parts.train(args),
        "infer": lambda: bench_parts.infer(args.weights, args.repeats),
        ALONE: lambda: predict_parts.measure(args.data, args.repeats),
    }
    for name in args.names:
        path = args.out / f"{name}.json"
        write_json(path, record | parts[name]())
        print(f"results: {path}")


if __name__ == "__main__":
    run(main)
