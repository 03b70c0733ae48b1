"""What bench.py measures dme against. The libraries are optional: pip install -e '.[bench]'."""

import copy
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.common.labels import IGNORE
from dme.inference import export
from dme.inference.sizes import SIZES
from dme.inference.windows import SLIDE_STRIDE, WINDOW, resize
from dme.nets.heads import ASPPHead, PSPHead
from dme.nets.segmenter import Segmenter
from dme.nets.unet import UNet


def installed(*packages: str) -> bool:
    """Whether all of them are there; says so where not."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        advice = f"install with: {sys.executable} -m pip install {' '.join(missing)}"
        print(f"without {', '.join(missing)}, whose rows are left out; {advice}")
    return not missing


class PlainUNet(UNet):
    """Enlarges, then convolves."""

    def forward(self, x: Tensor) -> list[Tensor]:
        # down
        skips = []
        for i, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        # and up
        features = [skips.pop()]
        for up, decode in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = up(resize(x, skips[-1].shape[-2:]))
            x = decode(torch.cat([skips.pop(), x], dim=1))
            features.append(x)
        return features


class PlainPSPHead(PSPHead):
    """Enlarges the pooled grids, concatenates, convolves."""

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        # each pooled grid, enlarged again
        grids = [
            pool(F.adaptive_avg_pool2d(x, bins))
            for bins, pool in zip(self.pool_scales, self.pools, strict=True)
        ]
        enlarged = [resize(grid, x.shape[-2:]) for grid in grids]
        x = torch.cat([x, *enlarged], dim=1)
        return self.classifier(self.dropout(self.bottleneck(x)))


class PlainASPPHead(ASPPHead):
    """Enlarges the average, concatenates, convolves."""

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        # the average goes first, as in OpenMMLab's
        average = self.image_pool(F.adaptive_avg_pool2d(x, 1))
        parts = [resize(average, x.shape[-2:])]
        parts += [branch(x) for branch in self.branches]
        x = torch.cat(parts, dim=1)
        return self.classifier(self.dropout(self.bottleneck(x)))


PLAIN = {UNet: PlainUNet, PSPHead: PlainPSPHead, ASPPHead: PlainASPPHead}


def plain(model: Segmenter) -> Segmenter:
    """A copy as networks are usually written: OpenMMLab's order of operations, channels first."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for name, module in list(model.named_children()):
        if kind := PLAIN.get(type(module)):
            twin = kind.__new__(kind)  # the same weights with another forward pass
            twin.__dict__.update(module.__dict__)
            setattr(model, name, twin)
    return model


def argmax_bincount(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix int64 (C, C) of logits (N, C, H, W) and target int64 (N, H, W)."""
    known = target != IGNORE
    code = target[known] * num_classes + logits.argmax(1)[known]
    return torch.bincount(code, minlength=num_classes**2).view(num_classes, num_classes)


def torchmetrics_counter(
    num_classes: int, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """(logits, target) -> confusion matrix, by torchmetrics with its defaults."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE).to(device)

    def count(logits: Tensor, target: Tensor) -> Tensor:
        metric.reset()
        metric.update(logits, target)
        return metric.confmat

    return count


def plain_ce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """dme.losses.ce_dice as it is usually written; every label is a class."""
    p = logits.softmax(1)
    t = F.one_hot(target, logits.shape[1]).movedim(-1, 1)
    overlap = (p * t).sum((0, 2, 3))
    both = (p + t).sum((0, 2, 3))
    return F.cross_entropy(logits, target) + (1 - 2 * overlap / both).mean()


def plain_focal(logits: Tensor, target: Tensor) -> Tensor:
    """dme.losses.focal as it is usually written; every label is a class."""
    t = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits)
    p = logits.sigmoid()
    missed = (1 - p) * t + p * (1 - t)
    entropy = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    return (0.5 * missed**2 * entropy).mean()


def monai_ce_dice() -> Callable[[Tensor, Tensor], Tensor]:
    """(logits, target) -> dme.losses.ce_dice by MONAI."""
    from monai.losses import DiceCELoss

    loss = DiceCELoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=0.0, smooth_dr=1e-9)
    return lambda logits, target: loss(logits, target[:, None])


def monai_window(model: nn.Module, x: Tensor) -> Tensor:
    """`sliding_window` by MONAI: the same windows in the same batches, averaged alike."""
    from monai.inferers import sliding_window_inference

    batch = 32 if x.is_cuda else 1
    return sliding_window_inference(x, WINDOW, batch, model, overlap=1 - SLIDE_STRIDE / WINDOW)


def onnx_probabilities(model: Segmenter, folder: Path) -> Callable[[Tensor], Tensor]:
    """`probabilities` by onnxruntime on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    network = export.Exportable(model).cpu()
    export.write_onnx(
        export.trace(network, channels=1), export.describe(model), folder / "model.onnx"
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, ["CPUExecutionProvider"]
    )

    def probabilities(image: Tensor) -> Tensor:
        grey = SIZES[model.preprocess["size"]].image(image)[None, None].float().numpy()
        found = torch.from_numpy(session.run(["probabilities"], {"image": grey})[0])
        return resize(found.log(), image.shape).softmax(1)[0]

    return probabilities


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    names = ("torchmetrics", "monai", "onnxruntime", "onnx", "onnxscript", "openvino", "nncf")
    return {name: version(name) for name in names if find_spec(name)}
