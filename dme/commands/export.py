"""Write a network into one file that runs without dme: ONNX, or PyTorch's own torch.export.

Input "image": float32 (N, C, H, W), grey values 0 to 255; output "probabilities": float32 (N,
classes, H, W); any N, H and W, the scan's own pixels. Resizing, normalisation, padding and
predict's sliding window are inside; its metadata names classes and weights. The file is compared
with the network before it is put in place. Of networks that scans enter at a physical scale or one
brightness its metadata `entry` says how they become its input.

./run.sh export --weights runs/finetune/model.pt --out fluid.onnx
./run.sh export --weights hrf-fcn --channels 3 --format torch
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dme.common.errors import InputError
from dme.common.options import check, parsed, setting
from dme.common.words import BACKBONE_NAMES

if TYPE_CHECKING:  # --help is answered without torch
    from dme.nets.segmenter import Segmenter

TOLERANCE = 1e-4  # of a probability
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # the last one only checks
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}  # of the file, by format


@dataclass(frozen=True)
class Settings:
    """Which network, and the kind of file."""

    weights: str = setting("dme-fluid", "name or file of a network")
    backbone: str | None = setting(
        None, "what the network's must be (default: whatever it is)", choices=BACKBONE_NAMES
    )
    format: str = setting("onnx", "onnx (.onnx) or torch (.pt2)", choices=tuple(SUFFIXES))
    channels: int = setting(
        1, "of the input: 1, grey, repeated inside as the network needs, or the network's own"
    )
    out: Path | None = setting(None, "file to write (default runs/export/NAME.onnx or NAME.pt2)")

    def __post_init__(self) -> None:
        check(self)
        if self.out and self.out.suffix != self.suffix:
            expected = f"with --format {self.format} its name must end in {self.suffix}"
            raise InputError(f"--out {self.out}: {expected}")

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.format]


def main() -> None:
    """Write the file, checked if that can be."""
    settings = parsed(__doc__, Settings)
    checked = settings.format == "torch" or onnx_packages()

    # imported only now: --help and wrong options are answered at once
    from dme.common.files import refuse_existing
    from dme.inference.export import needed_before
    from dme.nets.loading import load_model
    from dme.nets.segmenter import require_arch

    model = load_model(settings.weights)
    require_arch(model, backbone=settings.backbone)

    # grey is repeated inside as the network needs
    channels = model.arch["in_channels"]
    if settings.channels not in (1, channels):
        accepted = "1 (grey)" if channels == 1 else f"1 (grey) or {channels}"
        found = f"--channels {settings.channels}"
        raise InputError(f"{found}: {model.weights_name} can be given {accepted}")

    name = Path(model.weights_name).stem + settings.suffix
    out = settings.out or Path("runs/export", name)
    refuse_existing(out, mark=b"weights_sha256")  # of the metadata that we write
    megabytes = write(model, settings, out, checked)
    if before := needed_before(model.preprocess):
        print(f"note: the input of this file is {before}")
    print(f"{out}: {megabytes:.1f} MB, classes {', '.join(model.classes)}; not a medical device")


def write(model: "Segmenter", settings: Settings, out: Path, checked: bool) -> float:
    """Write the file, and check it before it is put in place; returns its megabytes."""
    import torch

    from dme.common.files import atomic_path
    from dme.common.provenance import provenance
    from dme.inference import export

    # metadata of the file: what whoever runs it must know, and where it comes from
    about = export.describe(model) | {
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
        "commit": provenance()["commit"],
        "torch": torch.__version__,
    }
    network = export.Exportable(model)
    writing = export.write_onnx
    opening = export.open_onnx
    if settings.format == "torch":
        writing = export.write_torch
        opening = export.open_torch

    # a file that differs from the network is never put in place
    with atomic_path(out) as temporary:
        program = export.trace(network, settings.channels)
        writing(program, about, temporary)
        if checked:
            exported = opening(temporary)
            check_differences(export.differences(exported, network, settings.channels))
        return temporary.stat().st_size / 1e6


def onnx_packages() -> bool:
    """Whether the file can be checked. Raises InputError if it cannot be written."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    advice = f"install with: {sys.executable} -m pip install {' '.join(missing)}"
    needed = [name for name in missing if name != "onnxruntime"]
    if needed:
        raise InputError(f"--format onnx needs {' and '.join(needed)}; {advice}")
    if missing:
        warning = "warning: the file is not checked, which needs onnxruntime"
        print(f"{warning}; {advice}", file=sys.stderr)
    return not missing


def check_differences(differences: Iterable[tuple[tuple[int, ...], float]]) -> None:
    """Print shapes of inputs and differences; raises InputError if one is too large."""
    print("the file against the network, largest difference of a probability:")
    for shape, difference in differences:
        sides = " x ".join(map(str, shape))
        print(f"  {sides:17} {difference:.1e}", flush=True)
        if not difference <= TOLERANCE:  # NaN too
            raise InputError(
                f"nothing written: at most {TOLERANCE:.0e} is allowed; try other versions of "
                "torch, onnx, onnxscript and onnxruntime, and report these"
            )
