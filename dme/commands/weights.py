"""Named weights: list them, download them, convert a local checkpoint."""

import argparse
from pathlib import Path

import torch

from dme.common.errors import InputError
from dme.nets.checkpoint import save_model
from dme.nets.download import download
from dme.nets.loading import load_model
from dme.nets.zoo import known, path_of


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="run.sh weights", description=f"{__doc__} Without arguments: list the known names."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="download, verify and convert these"
    )
    parser.add_argument(
        "--convert",
        type=Path,
        metavar="FILE",
        help="write a local checkpoint (OpenMMLab's or ours) in our format",
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="where --convert writes")
    parser.add_argument("--half", action="store_true", help="with --convert: kernels in float16")
    args = parser.parse_args()

    alone = args.convert is None
    if alone != (args.out is None) or (args.convert and args.names) or (alone and args.half):
        raise InputError("give names, or --convert FILE --out PATH, or nothing")
    if args.convert:
        model = load_model(args.convert)
        save_model(model, args.out, torch.float16 if args.half else None, model.weights_extra)
        print(f"{args.out}: {describe(model.arch)}, classes {', '.join(model.classes)}")
        return
    for name in args.names:
        path_of(name)  # an unknown name is refused before the first download
    for name in args.names:
        path = download(name)
        model = load_model(name)
        print(f"{name}: {describe(model.arch)}, {path}, sha256 {model.weights_sha256}")
    if not args.names:
        show_known()


def show_known() -> None:
    for name, entry in known().items():
        where = (
            "shipped"
            if "file" in entry
            else "downloaded"
            if path_of(name).is_file()
            else "not here"
        )
        print(f"{name} ({where})")
        print(f"  network   {describe(entry['arch'])}")
        print(f"  trained   {entry['trained_on']}")
        score, value = next(iter(entry["reported"].items()))
        print(
            f"  reported  {value} {'px' if score.endswith('_px') else '%'}: {entry['reported']['what']}"
        )
        print(f"  licence   {entry['licence']}")
        print(f"  source    {entry.get('url') or entry['file']}")
    print("download with ./run.sh weights NAME; nothing is downloaded unless asked for")


def describe(arch: dict) -> str:
    return (
        f"{arch['backbone']} width {arch['width']}, {arch['head']} head of {arch['head_channels']} channels, "
        f"{arch['num_classes']} classes"
    )
