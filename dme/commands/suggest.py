"""Which scans to label next: those a network is unsure of that also stand for the others.

INPUT: as of predict, an image, an array, a volume, a folder of these, or the word phantom.

./run.sh suggest my_scans/ --count 8
./run.sh suggest my_scans/ --weights runs/finetune/model.pt --labelled runs/annotate
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from dme.common.errors import InputError, by_door, with_flags
from dme.common.options import (
    add_options,
    check,
    from_options,
    option_parser,
    setting,
)
from dme.common.scale import given_scale
from dme.common.words import SCAN_SUFFIXES

if TYPE_CHECKING:  # --help is answered without torch
    from dme.nets.segmenter import Segmenter


@dataclass(frozen=True)
class Settings:
    """How many scans to suggest, and by which network."""

    count: int = setting(8, "how many scans", minimum=1)
    weights: str = setting("dme-fluid", "name or file of the network that looks at them")
    volume: bool = setting(False, "the images of a folder are the B-scans of one volume")
    scale: str | None = setting(
        None,
        "axial,lateral in um per pixel, for networks that learnt at a physical scale "
        "(default: what the source says)",
    )
    labelled: Path | None = setting(
        None, "folder of scans that are labelled already: of annotate, or as `--data` of finetune"
    )
    seed: int = setting(0, "of the small shifts", minimum=0, maximum=2**31 - 1)
    out: Path = setting(Path("runs/suggest"), "folder for the list and its picture")

    def __post_init__(self) -> None:
        check(self)
        given_scale(self.scale)

    @property
    def scale_um(self) -> tuple[float, ...] | None:
        """Axial, lateral; the spacing that `predict` takes too changes nothing here."""
        return given_scale(self.scale)


def main() -> int:
    """Exit code 0, or 1 if something was skipped."""
    inputs, settings = parse_args()
    # imported only now: --help and wrong options are answered at once
    from dme.common.provenance import provenance
    from dme.data.opening import labelled_names
    from dme.report import suggestions
    from dme.report.inputs import list_items
    from dme.report.output_folder import new_folder
    from dme.report.privacy import Privacy

    items, faults = list_items(inputs, settings.volume)
    for reason in faults.values():
        raise InputError(with_flags(reason))
    labelled = labelled_names(settings.labelled) if settings.labelled else []
    with new_folder(settings.out) as folder:
        record = provenance()
        model = looking_network(settings.weights)
        print(f"network: {model.weights_name} (sha256 {model.weights_sha256[:12]})")

        # look at all, choose, write
        looked = suggestions.look_at_all(model, items, settings.seed, settings.scale_um)
        if not looked.scans:
            raise InputError("no scan could be read (see above)")
        choice = suggestions.suggest(looked, settings.count, labelled)
        if not choice.suggestions:
            raise InputError(f"all {len(looked.scans)} scans are labelled: nothing to suggest")
        record["inputs"] = inputs
        record["settings"] = {
            "count": settings.count,
            "seed": settings.seed,
            "scale_um": settings.scale_um,
            "weights": model.weights_name,
            "weights_sha256": model.weights_sha256,
            "labelled": labelled,
        }
        record = Privacy().record(record)  # no path of the machine stands in it
        suggestions.write_suggestions(folder.out, looked, choice, record)
    suggestions.print_suggestions(looked, choice, settings.count)
    print(f"wrote {folder.out}: {', '.join(suggestions.FILES)}")
    print(by_door(f"label them: {next_command(inputs, settings, folder.out / suggestions.LIST)}"))
    return int(looked.skipped > 0)


def parse_args() -> tuple[list[str], Settings]:
    parser = option_parser(__doc__)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=f"files ({' '.join(SCAN_SUFFIXES)}), folders, or phantom",
    )
    add_options(parser, Settings)
    args: argparse.Namespace = parser.parse_args()
    return args.inputs, from_options(Settings, args)


def next_command(inputs: list[str], settings: Settings, order: Path) -> str:
    """What opens the listed scans: annotate takes one folder, or results of several."""
    if len(inputs) > 1:
        return f"./run.sh annotate RESULTS --order {quote(str(order))}, RESULTS of predict on them"
    volume = " --volume" if settings.volume else ""
    return f"./run.sh annotate {quote(inputs[0])}{volume} --order {quote(str(order))}"


def looking_network(weights: str) -> "Segmenter":
    """The network in its fast form. Raises InputError if it does not say how scans enter it."""
    import torch

    from dme.inference.sizes import SIZES
    from dme.nets.folding import folded
    from dme.nets.loading import load_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(weights, device)
    if model.preprocess.get("size") not in SIZES:
        raise InputError(
            f"{model.weights_name} does not say at which size scans enter it, as networks of "
            "finetune do: give one of these"
        )
    return folded(model)
