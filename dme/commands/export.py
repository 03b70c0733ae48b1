"""Write a network into one file that runs without dme: ONNX, or PyTorch's own torch.export.

Input "image": float32 (N, C, H, W), grey values 0 to 255; output "probabilities": float32 (N, classes, H, W);
any N, H and W. Normalisation, padding and cropping are inside. The size at which scans enter and predict's
sliding window stay outside: the file's metadata says what to do, and names classes and weights.
The file is compared with the network before it is put in place.

./run.sh export --weights runs/finetune/model.pt --out fluid.onnx
./run.sh export --weights hrf-fcn --channels 3 --format torch
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.common.provenance import provenance
from dme.inference import export
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, require_arch

TOLERANCE = 1e-4  # of a probability


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.sh export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", default="dme-fluid", help="name or file of a network (default dme-fluid)")
    add(
        "--backbone",
        choices=BACKBONES,
        help="what the network's must be (default: whatever it is)",
    )
    add(
        "--format",
        choices=export.SUFFIX,
        default="onnx",
        help="onnx (.onnx, default) or torch (.pt2)",
    )
    add(
        "--channels",
        type=int,
        default=1,
        help="of the input: 1, grey, repeated inside as the network needs (default), or the network's own",
    )
    add("--out", type=Path, help="file to write (default runs/export/NAME.onnx or NAME.pt2)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    suffix = export.SUFFIX[args.format]
    if args.out and args.out.suffix != suffix:
        raise InputError(
            f"--out {args.out}: with --format {args.format} its name must end in {suffix}"
        )
    checked = args.format == "torch" or onnx_packages()
    model = load_model(args.weights)
    require_arch(model, backbone=args.backbone)
    own = model.arch["in_channels"]
    if args.channels not in (1, own):
        accepted = "1 (grey)" if own == 1 else f"1 (grey) or {own}"
        raise InputError(
            f"--channels {args.channels}: {model.weights_name} can be given {accepted}"
        )
    out = args.out or Path("runs/export", Path(model.weights_name).stem + suffix)
    about = export.describe(model) | {
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
        "commit": provenance()["commit"],
        "torch": torch.__version__,
    }

    network = export.Exportable(model)
    with atomic_path(out) as temporary:
        program = export.trace(network, args.channels)
        if args.format == "torch":
            export.write_torch(program, about, temporary)
        else:
            export.write_onnx(program, about, temporary)
        if checked:
            exported = (export.open_torch if args.format == "torch" else export.open_onnx)(
                temporary
            )
            check(export.differences(exported, network, args.channels))
        megabytes = temporary.stat().st_size / 1e6
    print(f"{out}: {megabytes:.1f} MB, classes {', '.join(model.classes)}; not a medical device")


def onnx_packages() -> bool:
    """Whether the file can be checked. Raises InputError if it cannot be written."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    advice = f"install with: {sys.executable} -m pip install {' '.join(missing)}"
    if needed := [name for name in missing if name != "onnxruntime"]:
        raise InputError(f"--format onnx needs {' and '.join(needed)}; {advice}")
    if missing:
        print(
            f"warning: the file is not checked, which needs onnxruntime; {advice}", file=sys.stderr
        )
    return not missing


def check(differences) -> None:
    print("the file against the network, largest difference of a probability:")
    for shape, difference in differences:
        print(f"  {' x '.join(map(str, shape)):17} {difference:.1e}", flush=True)
        if not difference <= TOLERANCE:
            raise InputError(
                f"nothing written: at most {TOLERANCE:.0e} is allowed; try other versions of "
                "torch, onnx, onnxscript and onnxruntime, and report these"
            )
