"""Named weights: list them, download them, convert a local checkpoint.

Without arguments: list the known names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dme.common.errors import InputError, by_door
from dme.common.options import add_options, from_options, option_parser, setting


@dataclass(frozen=True)
class Settings:
    """What to convert."""

    convert: Path | None = setting(
        None, "write a local checkpoint (OpenMMLab's or ours) in our format"
    )
    out: Path | None = setting(None, "where --convert writes")
    half: bool = setting(False, "with --convert: kernels in float16")


def main() -> None:
    """Convert a checkpoint, or download names, or list them all."""
    parser = option_parser(__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="download, verify and convert these"
    )
    add_options(parser, Settings)
    args = parser.parse_args()
    settings = from_options(Settings, args)

    # a name and --convert exclude each other; --out and --half belong to the latter
    converts = settings.convert is not None
    if converts:
        valid = settings.out is not None and not args.names
    else:
        valid = settings.out is None and not settings.half
    if not valid:
        raise InputError("give names, or --convert FILE --out PATH, or nothing")
    if converts:
        convert(settings)
    elif args.names:
        download_all(args.names)
    else:
        show_known()


def convert(settings: Settings) -> None:
    """Write a local checkpoint in our format."""
    import torch

    from dme.common.files import refuse_existing
    from dme.nets.checkpoint import save_model
    from dme.nets.loading import load_model

    refuse_existing(settings.out)
    model = load_model(settings.convert)
    dtype = torch.float16 if settings.half else None
    save_model(model, settings.out, dtype, model.weights_extra)
    print(f"{settings.out}: {describe(model.arch)}, classes {', '.join(model.classes)}")


def download_all(names: Sequence[str]) -> None:
    """Fetch, verify and load each of these."""
    from dme.nets.download import download
    from dme.nets.loading import load_model
    from dme.nets.zoo import path_of

    for name in names:
        path_of(name)  # an unknown name is refused before the first download
    for name in names:
        path = download(name)
        model = load_model(name)
        print(f"{name}: {describe(model.arch)}, {path}, sha256 {model.weights_sha256}")


def show_known() -> None:
    """Print every name with its network, training, score, licence and source."""
    from dme.nets.zoo import known, path_of

    for name, entry in known().items():
        place = "not here"
        if path_of(name).is_file():
            place = "shipped" if "file" in entry else "downloaded"
        reported = entry["reported"]
        score, value = next(iter(reported.items()))
        unit = "px" if score.endswith("_px") else "%"
        print(f"{name} ({place})")
        print(f"  network   {describe(entry['arch'])}")
        print(f"  trained   {entry['trained_on']}")
        print(f"  reported  {value} {unit}: {reported['what']}")
        print(f"  licence   {entry['licence']}")
        print(f"  source    {entry.get('url') or entry['file']}")
    print(by_door("download with ./run.sh weights NAME; nothing is downloaded unless asked for"))


def describe(arch: dict) -> str:
    """A network in a few words."""
    head = f"{arch['head']} head of {arch['head_channels']} channels"
    classes = f"{arch['num_classes']} classes"
    return f"{arch['backbone']} width {arch['width']}, {head}, {classes}"
