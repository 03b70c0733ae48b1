"""A network made faster for prediction."""

import copy

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from dme.nets.blocks import ConvBN
from dme.nets.segmenter import Segmenter


def folded(model: Segmenter) -> Segmenter:
    """A copy that predicts faster.

    Batch norm is folded into the convolutions, channels come last, the auxiliary head goes. The
    same function as `model` in eval mode but for rounding (float32). It can be neither trained nor
    saved.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.aux_head = None  # only training needs it
    for block in model.modules():
        if isinstance(block, ConvBN):
            block.conv = fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = nn.Identity().eval()
    return model.to(memory_format=torch.channels_last)
