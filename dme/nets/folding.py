"""A network made faster for prediction."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from dme.nets.blocks import ConvBN
from dme.nets.segmenter import Segmenter


def folded(model: Segmenter, precision: str = "float32") -> Segmenter:
    """A copy that predicts faster.

    Batch norm is folded into the convolutions, channels come last, the auxiliary head goes. The
    same function as `model` in eval mode but for rounding. It can be neither trained nor saved.

    precision: of weights and features, a name of `dme.common.words.PRECISIONS`; float32 leaves
    weights as they are. Input and logits are float32 in any.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.aux_head = None  # only training needs it
    for block in model.modules():
        if isinstance(block, ConvBN):
            block.conv = fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = nn.Identity().eval()
    if precision != "float32":
        model.to(getattr(torch, precision))
        model.register_forward_pre_hook(_narrowed)
        model.register_forward_hook(_widened)
    return model.to(memory_format=torch.channels_last)


def _narrowed(model: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Images as the weights are."""
    return (inputs[0].to(next(model.parameters()).dtype),)


def _widened(model: nn.Module, inputs: tuple, logits: Tensor) -> Tensor:
    return logits.float()


def precision_of(model: nn.Module) -> str:
    """The name, of `dme.common.words.PRECISIONS`, of what a network computes in."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def computes_fast(precision: str, device: torch.device) -> bool:
    """Whether a processor has instructions for a precision; without, it takes many times as long.

    GPUs that PyTorch supports have them.
    """
    on_cpu = device.type == "cpu"
    if precision != "bfloat16" or not on_cpu:
        return True
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
