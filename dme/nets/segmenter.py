"""The segmentation network: backbone, decode head and auxiliary head, composed explicitly."""

import math

import torch
from torch import Tensor, nn

from dme.common.errors import InputError
from dme.nets.heads import ASPPHead, FCNHead, LRASPPHead, PSPHead
from dme.nets.mobilenet_v2 import MobileNetV2
from dme.nets.mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from dme.nets.unet import UNet

# A backbone is a class, built with (in_channels, width), whose instances map (N, in_channels, H,
# W) to a list of features with `out_channels`. It says what goes with it:
# WIDTH         the usual width, an int or a float as all its widths are
# HEADS         the heads it takes and the arguments they get, the usual one first
# AUX_CHANNELS  of the auxiliary head on the last feature but one; 0: it has none
# FIRST         the convolution that sees the image, of as many input channels as a checkpoint has
# WIDEST        the tensor whose first side tells a checkpoint's width, and that side at width 1
# OPENMMLAB     patterns of OpenMMLab's names and ours, without the prefix "backbone."
BACKBONES = {
    "unet": UNet,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": MobileNetV3Large,
    "mobilenet_v3_small": MobileNetV3Small,
}
HEADS = {"fcn": FCNHead, "psp": PSPHead, "deeplabv3": ASPPHead, "lraspp": LRASPPHead}

# RGB statistics of ImageNet on the 0-255 scale, which OpenMMLab's checkpoints were trained with
PREPROCESS = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


class Segmenter(nn.Module):
    """Backbone, decode head, optional auxiliary head; each head picks what it reads of features.

    Beside the layers it carries what a checkpoint needs to rebuild it: `arch` (`build_model`'s
    arguments), `preprocess` (mean and std per input channel, 0-255 scale) and `classes` (names, in
    label order).
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None, arch: dict
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.arch = arch
        self.preprocess = {
            name: values[: arch["in_channels"]] for name, values in PREPROCESS.items()
        }
        self.classes = [f"class{i}" for i in range(arch["num_classes"])]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (N, in_channels, H, W) -> decode logits (N, num_classes, H', W')."""
        return self.head(self.backbone(x))

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As forward, and the auxiliary head's logits (N, num_classes, H'', W'') or None."""
        features = self.backbone(x)
        logits = self.head(features)
        if self.aux_head is None:
            return logits, None
        return logits, self.aux_head(features)


def build_model(  # noqa: PLR0913 - public, each may be left out
    backbone: str = "unet",
    head: str | None = None,
    num_classes: int = 2,
    width: float | None = None,
    in_channels: int = 3,
    head_channels: int | None = None,
    aux: bool | None = None,
    aux_channels: int | None = None,
    fresh: bool = True,
) -> Segmenter:
    """A network with fresh weights: He's, those of classifiers normal with deviation 0.01.

    backbone: a name in BACKBONES.
    head: one in its HEADS, which differ: "psp", "fcn", "deeplabv3", "lraspp".
    width: of a unet the channels of its first stage (the study's networks have 64), of a MobileNet
        what multiplies all its channels.
    aux: with the auxiliary head.
    fresh: False leaves the weights as they come, for those of a file to replace at once.

    None stands for what is usual with the backbone. Initialised as OpenMMLab does. Raises
    InputError for an unknown name or a number below its minimum.
    """
    head = _head_of(backbone, head)
    kind = BACKBONES[backbone]

    # what is usual with it where nothing is given
    options = dict(kind.HEADS[head])
    if head_channels is not None:
        options["channels"] = head_channels
    if aux is None:
        aux = kind.AUX_CHANNELS > 0
    if aux_channels is None:
        aux_channels = kind.AUX_CHANNELS
    if width is None:
        width = kind.WIDTH

    arch = {
        "backbone": backbone,
        "head": head,
        "num_classes": num_classes,
        "width": width,
        "in_channels": in_channels,
        "head_channels": options["channels"],
        "aux": aux,
        "aux_channels": aux_channels,
    }
    _check_numbers(arch)
    arch["width"] = type(kind.WIDTH)(width)
    if not aux:
        arch["aux_channels"] = 0

    body = kind(in_channels, arch["width"])
    decode_head = HEADS[head](body.out_channels, num_classes, **options)
    aux_head = None
    if aux:
        aux_head = FCNHead(body.out_channels, num_classes, aux_channels, feature=-2)
    model = Segmenter(body, decode_head, aux_head, arch)
    if fresh:
        _initialise(model)
    return model


def _head_of(backbone: str, head: str | None) -> str:
    """The head, or the usual one of the backbone. Raises InputError for an unknown name."""
    if backbone not in BACKBONES:
        raise InputError(f"unknown backbone {backbone!r}; choose one of {', '.join(BACKBONES)}")
    heads = BACKBONES[backbone].HEADS
    if head is None:
        return next(iter(heads))
    if head not in heads:
        raise InputError(
            f"unknown head {head!r} for a {backbone}; choose one of {', '.join(heads)}"
        )
    return head


def _check_numbers(arch: dict) -> None:
    """Raises InputError for a number of an `arch` below its minimum, or a width that is none."""
    whole = isinstance(BACKBONES[arch["backbone"]].WIDTH, int)
    least = {
        "num_classes": 2,
        "width": 1 if whole else 0.01,
        "in_channels": 1,
        "head_channels": 1,
        "aux_channels": 1 if arch["aux"] else 0,
    }
    for name, minimum in least.items():
        if not arch[name] >= minimum:
            raise InputError(f"{name} is {arch[name]:g}; it must be at least {minimum}")
    width = arch["width"]
    if width == math.inf or (whole and width % 1):
        kind = "whole" if whole else "finite"
        raise InputError(f"width is {width:g}; a {arch['backbone']}'s is a {kind} number")


def require_arch(model: Segmenter, **asked: str | float | None) -> None:
    """Raises InputError unless a loaded network has these values in its `arch`.

    asked: by the names of `build_model`'s arguments; None asks for nothing.
    """
    for key, value in asked.items():
        if value not in (None, model.arch[key]):
            value = value if isinstance(value, str) else f"{value:g}"
            raise InputError(
                f"`{key}` {value} does not fit the weights {model.weights_name}, whose {key} is "
                f"{model.arch[key]}; leave out `{key}`, or give weights of such a network"
            )


def set_classes(model: Segmenter, names: list[str]) -> list[str]:
    """Give the network the classes `names`, in label order.

    Their number as before: every weight is kept. Another number: the classifier of each head is
    replaced by one with fresh weights. Returns the replaced modules' names, none when all is kept.
    """
    model.classes = list(names)
    if len(names) == model.arch["num_classes"]:
        return []
    model.arch = model.arch | {"num_classes": len(names)}
    replaced = []
    for part in ("head", "aux_head"):
        head = getattr(model, part)
        if head is not None:
            head.classifier = nn.Conv2d(head.classifier.in_channels, len(names), 1)
            _initialise_convolution(head.classifier, classifier=True)
            replaced.append(f"{part}.classifier")
    return replaced


def start_at_shares(model: Segmenter, shares: Tensor) -> None:
    """Let fresh classifiers start at the classes' shares of the pixels, not at equal ones.

    shares: (num_classes,), above 0; their logarithms become the biases (as the prior of Lin et al.
    2017). From equal shares a fresh UNet first makes features that say background. Where a rare
    class is, all of them are 0 and the bias alone decides, for background: in real B-scans no such
    run found fluid.
    """
    if shares.shape != (model.arch["num_classes"],) or not (shares > 0).all():
        raise ValueError(
            f"shares {shares.tolist()}: expected {model.arch['num_classes']} numbers above 0"
        )
    for head in (model.head, model.aux_head):
        if head is not None:
            with torch.no_grad():
                head.classifier.bias.copy_(shares.log())


def _initialise(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            _initialise_convolution(module, classifier=name.endswith(".classifier"))


def _initialise_convolution(module: nn.Conv2d, classifier: bool) -> None:
    if classifier:
        nn.init.normal_(module.weight, std=0.01)
    else:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def normalise(image: Tensor, preprocess: dict) -> Tensor:
    """Grey-level images on the 0-255 scale -> network input.

    image: (N, H, W) grey or (N, C, H, W), any real dtype; grey is repeated to the network's
    channel count. Returns float32 (N, C, H, W), (image - mean) / std per channel.
    """
    mean = torch.tensor(preprocess["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(preprocess["std"]).view(1, -1, 1, 1)
    if image.ndim == 3:
        image = image.unsqueeze(1)
    if image.shape[1] not in (1, mean.shape[1]):
        raise ValueError(
            f"image has {image.shape[1]} channels; the network wants {mean.shape[1]} "
            "(or 1, repeated)"
        )
    mean = mean.to(image.device, non_blocking=True)
    std = std.to(image.device, non_blocking=True)
    return (image.float() - mean) / std
