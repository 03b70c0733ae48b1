"""The segmentation network: backbone, decode head and auxiliary head, composed explicitly."""

import torch
from torch import Tensor, nn

from dme.errors import InputError
from dme.heads import ASPPHead, FCNHead, PSPHead
from dme.unet import UNet

BACKBONES = {"unet": UNet}
HEADS = {"fcn": FCNHead, "psp": PSPHead, "deeplabv3": ASPPHead}
HEAD_CHANNELS = {"fcn": 64, "psp": 16, "deeplabv3": 16}
AUX_CHANNELS = 64

# RGB statistics of ImageNet on the 0-255 scale, which OpenMMLab's checkpoints were trained with
PREPROCESS = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


class Segmenter(nn.Module):
    """Backbone, decode head on its last feature, optional auxiliary FCN head on the feature before.

    Beside the layers it carries what a checkpoint needs to rebuild it: `arch` (`build_model`'s arguments),
    `preprocess` (mean and std per input channel, 0-255 scale) and `classes` (names, in label order).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None, arch: dict):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.arch = arch
        self.preprocess = {name: values[: arch["in_channels"]] for name, values in PREPROCESS.items()}
        self.classes = [f"class{i}" for i in range(arch["num_classes"])]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (N, in_channels, H, W) -> decode logits (N, num_classes, H', W')."""
        return self.head(self.backbone(x)[-1])

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As forward, and the auxiliary head's logits (N, num_classes, H'', W''), None without that head."""
        features = self.backbone(x)
        return self.head(features[-1]), None if self.aux_head is None else self.aux_head(features[-2])


def build_model(
    backbone: str = "unet",
    head: str = "psp",
    num_classes: int = 2,
    width: int = 64,
    in_channels: int = 3,
    head_channels: int | None = None,
    aux: bool = True,
) -> Segmenter:
    """A network with fresh weights (He initialisation; classifiers normal with deviation 0.01, as OpenMMLab).

    backbone: "unet". head: "fcn", "psp" or "deeplabv3". width: channels of the first stage; the study's
    networks have 64. head_channels: None for the head's usual number (64 for FCN, 16 for the others). aux:
    with the auxiliary head. Raises InputError for an unknown name or a number below its minimum.
    """
    for what, name, known in (("backbone", backbone, BACKBONES), ("head", head, HEADS)):
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; choose one of {', '.join(known)}")
    head_channels = HEAD_CHANNELS[head] if head_channels is None else head_channels
    for what, value, least in (
        ("num_classes", num_classes, 2),
        ("width", width, 1),
        ("in_channels", in_channels, 1),
        ("head_channels", head_channels, 1),
    ):
        if value < least:
            raise InputError(f"{what} is {value}; it must be at least {least}")
    arch = {
        "backbone": backbone,
        "head": head,
        "num_classes": num_classes,
        "width": width,
        "in_channels": in_channels,
        "head_channels": head_channels,
        "aux": aux,
    }
    body = BACKBONES[backbone](in_channels, width)
    model = Segmenter(
        body,
        HEADS[head](body.out_channels[-1], num_classes, head_channels),
        FCNHead(body.out_channels[-2], num_classes, AUX_CHANNELS) if aux else None,
        arch,
    )
    _initialise(model)
    return model


def set_classes(model: Segmenter, names: list[str]) -> list[str]:
    """Give the network the classes `names`, in label order.

    Their number as before: every weight is kept. Another number: the classifier of each head is replaced by
    one with fresh weights. Returns the replaced modules' names, none when all is kept.
    """
    model.classes = list(names)
    if len(names) == model.arch["num_classes"]:
        return []
    model.arch = model.arch | {"num_classes": len(names)}
    replaced = []
    for part in ("head", "aux_head"):
        if (head := getattr(model, part)) is not None:
            head.classifier = nn.Conv2d(head.classifier.in_channels, len(names), 1)
            _initialise(head.classifier)
            replaced.append(f"{part}.classifier")
    return replaced


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:  # only the classifiers have a bias
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


def normalise(image: Tensor, preprocess: dict) -> Tensor:
    """Grey-level images on the 0-255 scale -> network input.

    image: (N, H, W) grey or (N, C, H, W), any real dtype; grey is repeated to the network's channel count.
    Returns float32 (N, C, H, W), (image - mean) / std per channel.
    """
    mean = torch.tensor(preprocess["mean"], device=image.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocess["std"], device=image.device).view(1, -1, 1, 1)
    if image.ndim == 3:
        image = image.unsqueeze(1)
    if image.shape[1] not in (1, mean.shape[1]):
        raise ValueError(
            f"image has {image.shape[1]} channels; the network wants {mean.shape[1]} (or 1, repeated)"
        )
    return (image.float() - mean) / std
