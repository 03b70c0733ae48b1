"""What a GPU makes of the kernels, a training step of width 64 and prediction, beside peers.

python experiments/benchmarks/gpu.py
python experiments/benchmarks/gpu.py confusion losses --repeats 9

Every part is in gpu.json as soon as it is done. Without a GPU it ends in one line.
"""

import subprocess
from argparse import Namespace
from pathlib import Path

from dme.common.errors import InputError, run
from dme.common.options import option_parser

PARTS = ("confusion", "losses", "crops", "training", "prediction")


def parse_args() -> Namespace:
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    add("--repeats", type=int, default=5, help="timed rounds after one that is not (default 5)")
    add("--width", type=int, default=64, help="of the trained UNet (default 64, the study's)")
    add("--compile", action="store_true", help="also the training step under torch.compile")
    add("--out", type=Path, default=Path("runs/bench"), help="folder (default runs/bench)")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    return args


def main() -> None:
    args = parse_args()
    from turns import DEVICE  # after parsing: --help does not wait for torch

    if DEVICE.type != "cuda":
        raise InputError(
            "no CUDA device here, which these benchmarks are of; ./run.sh bench measures a CPU"
        )
    import gpu_parts
    import peers

    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import device_name, provenance

    refuse_foreign(args.out, "gpu.json")
    # which machine, driver and libraries
    results = provenance() | {"driver": driver(), "repeats": args.repeats}
    results["versions"] |= peers.versions()
    print(f"{device_name()}, driver {results['driver']}, {results['versions']}")
    # part by part; what is done is kept if a later one fails
    parts = {
        "confusion": lambda: gpu_parts.confusion(args.repeats),
        "losses": lambda: gpu_parts.losses(args.repeats),
        "crops": lambda: gpu_parts.crops(args.repeats),
        "training": lambda: gpu_parts.training(args.width, args.repeats, args.compile),
        "prediction": lambda: gpu_parts.prediction(args.repeats),
    }
    for name in args.parts or PARTS:
        results[name] = parts[name]()
        write_json(args.out / "gpu.json", results)
    print(f"\nresults: {args.out / 'gpu.json'}")


def driver() -> str:
    """Version of the GPU's driver."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    run(main)
