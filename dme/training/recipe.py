"""How a training step is made: learning rates, optimizers, precision and moving average."""

import math

import torch
from torch import nn

from dme.training.settings import Recipe

OPTIMIZERS = {
    "sgd": lambda parameters, lr, decay: torch.optim.SGD(
        parameters, lr, momentum=0.9, weight_decay=decay, fused=True
    ),
    "adam": lambda parameters, lr, decay: torch.optim.Adam(
        parameters, lr, weight_decay=decay, fused=True
    ),
    "adamw": lambda parameters, lr, decay: torch.optim.AdamW(
        parameters, lr, weight_decay=decay, fused=True
    ),
}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of a step (from 0): linear warm-up, then poly with power 0.9 or cosine, both to lr_min, or constant."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "poly":
        left = max(0.0, 1 - step / recipe.horizon)
        return recipe.lr_min + (recipe.lr - recipe.lr_min) * left**0.9
    if recipe.schedule == "cosine":
        passed = (step - recipe.warmup) / max(1, recipe.iters - recipe.warmup)
        return recipe.lr_min + (recipe.lr - recipe.lr_min) * (1 + math.cos(math.pi * passed)) / 2
    return recipe.lr


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Type that autocast uses, None for float32 throughout."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def freeze_bn(net: nn.Module) -> None:
    """Batch norm uses its loaded statistics and leaves them alone."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * net, for weights and BN statistics."""
    mine = [*average.parameters(), *average.buffers()]
    theirs = [*net.parameters(), *net.buffers()]
    floating = [i for i, t in enumerate(mine) if t.is_floating_point()]
    torch._foreach_lerp_([mine[i] for i in floating], [theirs[i] for i in floating], 1 - decay)
    for old, new in zip(mine, theirs, strict=True):
        if not old.is_floating_point():
            old.copy_(new)
