"""A network as one file that runs without dme: ONNX, or PyTorch's own torch.export.

Batch, height and width stay free in both. onnx, onnxscript and onnxruntime are optional packages.
"""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as tracing

from dme.common.errors import InputError
from dme.common.words import LARGEST_SIDE
from dme.data.phantom import phantom_bscan
from dme.inference.brightness import GREYS, SHARES
from dme.inference.entry import MATCHED
from dme.inference.export_operators import at_scan, averaging, enlarged, half, sliding_512
from dme.inference.sizes import SIZES
from dme.inference.windows import SLIDE_STRIDE, WINDOW, whole
from dme.nets.segmenter import Segmenter, normalise
from dme.nets.unet import STRIDE
from dme.retina.rows import CLASSES

AXES = {0: "batch", 2: "height", 3: "width"}
# batch, height, width
CHECKED = (
    (1, 496, 768),
    (2, 256, 256),
    (1, 161, 243),
    (2, 37, 50),
    (1, 16, 7),
)


# size of a network -> how an image enters it, and how logits come out
WAYS = {
    "native": (lambda image: image, whole),
    "half": (half, whole),
    "512": (enlarged, sliding_512),
}
OWN_PIXELS = "the scan's own pixels"

# what a file leaves to whoever runs it, in words; `names` are numbers of `entry_of`
RESAMPLED = (
    "Height and width in pixels are multiplied by the scan's um per pixel (axial, lateral), "
    "divided by `um_per_px`, rounded (halves to even) and moved within `sides`; the scan is "
    "resized to them (bilinear with antialiasing, as of Pillow: where pixels become fewer, "
    "weighted means of what each covers), and rounded to 0..255."
)
BEFORE_MATCHED = (
    "Wedges (any_wedge of dme/retina/wedge.py, a file that needs NumPy and SciPy alone) become "
    "255; they and empty lines (empty_lines of that file) are not valid."
)
VALID = "What is valid, as 255 among zeros, is resized too: valid pixels are those above 127."
SPREAD = (
    "Of each grey value, the share of valid pixels below it and half of those that have it, put "
    "through the piecewise linear curve from `shares` to `greys` and rounded, is the new grey "
    "value of these pixels; the others stay."
)
BACK = (
    "The file's probabilities are of these pixels: their logarithms are resized to the scan's "
    "(bilinear, half-pixel centres, no antialiasing), then comes softmax."
)


class Exportable(nn.Module):
    """image (N, 1 or in_channels, H, W), grey values 0..255 -> probabilities (N, classes, H, W).

    At the image's own size, like `predict`: what lies between, down to the size the network was
    trained at and up again, is inside. Saturated wedges stay bright; a physical scale or one
    brightness is not made inside, as a graph knows no um and finds no wedges: `entry_of` says how
    they are made. Holds a copy of the network, in eval mode, without its auxiliary head.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.entered_before = needed_before(model.preprocess) != ""
        if self.entered_before and SIZES[model.preprocess["size"]].slides:
            raise InputError(
                f"{model.weights_name} takes scans at one brightness and slides a window over "
                "them, which no file does; expected a network of another `size`"
            )
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.network.aux_head = None  # only training needs it

    def forward(self, image: Tensor) -> Tensor:
        preprocess = self.network.preprocess
        if self.entered_before:
            return whole(self.network, normalise(image, preprocess)).softmax(1)
        size = preprocess.get("size", "native")
        enter, logits = WAYS[size]
        found = logits(self.network, normalise(enter(image), preprocess))
        if size != "native":
            found = at_scan(found, image.shape[-2:])
        return found.softmax(1)


def describe(model: Segmenter) -> dict:
    """What whoever runs the file must know; stands in it as metadata."""
    before = needed_before(model.preprocess)
    inside = "normalised inside" if before else "resized and normalised inside"
    return {
        "title": "dme: retinal OCT segmentation. Not a medical device.",
        "classes": model.classes,
        "input": (
            "image: float32 (batch, channels, height, width), "
            f"{before or OWN_PIXELS}, whole grey values 0..255; {inside}"
        ),
        "output": "probabilities: float32 (batch, classes, height, width), of the image's pixels",
        "entry": entry_of(model.preprocess),
        "as_in_dme": _as_in_dme(model),
        "preprocess": model.preprocess,
        "arch": model.arch,
    }


def needed_before(preprocess: dict) -> str:
    """What must be done to a scan before it is the file's input, in short; "" for nothing."""
    steps = []
    if preprocess.get("size") == "um":
        axial, lateral = preprocess["um_per_px"]
        steps.append(f"resampled to {axial:g} x {lateral:g} um per pixel (axial x lateral)")
    if preprocess.get("brightness") == MATCHED:
        steps.append("wedges white and all other grey values spread as those it learnt")
    if not steps:
        return ""
    return f"a scan that has entered as `entry` says, NOT inside: {', '.join(steps)}"


def entry_of(preprocess: dict) -> dict:
    """How a scan becomes the file's input where the file does not do it: {} where it does.

    `steps` in words, in their order, and the numbers that they name; what they do is what
    `dme.inference.entry` does.
    """
    if not needed_before(preprocess):
        return {}

    # resizing
    entry = {}
    steps = [f"The scan is {SIZES[preprocess['size']].description}."]
    if preprocess["size"] == "um":
        entry = {"um_per_px": preprocess["um_per_px"], "sides": [STRIDE, LARGEST_SIDE]}
        steps = [RESAMPLED]

    # brightness
    if preprocess.get("brightness") == MATCHED:
        entry |= {"shares": SHARES, "greys": GREYS}
        steps = [BEFORE_MATCHED, *steps, VALID, SPREAD]
    return entry | {"steps": [*steps, BACK]}


def _as_in_dme(model: Segmenter) -> str:
    """What is done before and after the network, in words: inside the file, but for wedges."""
    size = SIZES.get(model.preprocess.get("size"))
    entering = size.description if size else "pixels of the scale it was trained with"
    sentences = [f"A scan enters as: {entering}."]
    if CLASSES[0] in model.classes:
        if model.preprocess.get("brightness") != MATCHED:
            sentences.append(
                "Saturated wedges at its top and bottom stay bright, which dme makes dark before."
            )
        sentences.append("Columns without data at its sides stay; dme puts mirrored ones there.")
    if size is not None and size.slides:
        sentences.append(
            f"A window of {WINDOW} x {WINDOW} px slides over it with stride {SLIDE_STRIDE}, "
            "the last of a row or column moved back inside, "
            "and log(probabilities) are averaged where windows overlap."
        )
    if before := needed_before(model.preprocess):
        sentences.append(f"The input is {before}.")
    else:
        sentences.append(
            "log(probabilities) are resized to the scan (bilinear, half-pixel centres); "
            "then comes softmax."
        )
    return " ".join(sentences)


def trace(network: Exportable, channels: int) -> ExportedProgram:
    """The network as a graph.

    channels: of its input, 1 (grey, repeated as needed) or the network's own.
    """
    example = torch.zeros(2, channels, 100, 75)
    free = {axis: Dim.DYNAMIC for axis in AXES}
    # without it, the graph refuses sizes that need no padding or are at some depth one pixel wide
    with tracing.patch(backed_size_oblivious=True):
        program = torch.export.export(network, (example,), dynamic_shapes=(free,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def write_torch(program: ExportedProgram, about: dict, path: Path) -> None:
    """Write a file for torch.export.load; `about` is its metadata.json."""
    content = io.BytesIO()  # writing to a full disk, torch would abort the process
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(about, indent=1)})
    path.write_bytes(content.getbuffer())


def write_onnx(program: ExportedProgram, about: dict, path: Path) -> None:
    """Write an ONNX file, weights inside; `about` is its metadata, as JSON what is not text."""
    # it misses torchvision, which nothing here needs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about its own code
        ours = {torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d}
        program = program.run_decompositions(ours)
        exported = torch.onnx.export(
            program,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=(AXES,),  # their names; the program says which they are
            dynamo=True,
            verbose=False,
        )

    # metadata: ours, and not where it was traced
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # paths of this machine included
    for key, value in about.items():
        exported.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    exported.save(path, external_data=False)


def adaptive_avg_pool2d(x: Tensor, size: list[int]) -> Tensor:
    """What PyTorch's function of this name does, in operators that ONNX has.

    PyTorch's exporters fix the bins' borders at the size they trace with, or refuse sizes the bins
    do not divide. Here a row of an averaging matrix is one bin: (bins, H) @ (N, C, H, W) @ (W,
    bins).
    """
    if tuple(size) == (1, 1):
        return x.mean((2, 3), keepdim=True)
    rows = averaging(size[0], x.shape[2])
    columns = averaging(size[1], x.shape[3])
    return (rows / rows.sum(1, keepdim=True)) @ x @ (columns / columns.sum(1, keepdim=True)).T


def open_torch(path: Path) -> Callable[[Tensor], np.ndarray]:
    """image -> probabilities, by a file of `write_torch`."""
    with open(path, "rb") as f:
        program = torch.export.load(f).module()
    return lambda image: program(image).numpy()


def open_onnx(path: Path) -> Callable[[Tensor], np.ndarray]:
    """image -> probabilities, by a file of `write_onnx` in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["probabilities"], {"image": image.numpy()})[0]


def differences(
    exported: Callable[[Tensor], np.ndarray], network: Exportable, channels: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Image shape and largest difference of a probability, on synthetic scans of sizes CHECKED."""
    scans = np.stack([phantom_bscan(seed).image for seed in range(2 * channels)])
    scans = torch.from_numpy(scans).float().unflatten(0, (2, channels))  # (2, channels, H, W)
    for batch, height, width in CHECKED:
        top = (scans.shape[2] - height) // 2
        left = (scans.shape[3] - width) // 2
        image = scans[:batch, :, top : top + height, left : left + width].contiguous()
        difference = exported(image) - network(image).numpy()
        yield tuple(image.shape), float(np.abs(difference).max())
