"""How a training step is made: learning rates, optimizers, precision and moving average."""

import math

import torch
from torch import nn

from dme.nets.folding import computes_fast
from dme.training.settings import Recipe

POLY_POWER = 0.9  # of the study's schedule

# name -> optimizer of (parameters, lr, l2); L2 is in the gradient, with adamw apart from it
OPTIMIZERS = {
    "sgd": lambda parameters, lr, l2: torch.optim.SGD(
        parameters, lr, momentum=0.9, weight_decay=l2, fused=True
    ),
    "adam": lambda parameters, lr, l2: torch.optim.Adam(
        parameters, lr, weight_decay=l2, fused=True
    ),
    "adamw": lambda parameters, lr, l2: torch.optim.AdamW(
        parameters, lr, weight_decay=l2, fused=True
    ),
}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of a step (from 0): linear warm-up, then poly or cosine, both to lr_min, or constant."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    span = recipe.lr - recipe.lr_min
    if recipe.schedule == "poly":
        remaining = max(0.0, 1 - step / recipe.horizon)
        return recipe.lr_min + span * remaining**POLY_POWER
    if recipe.schedule == "cosine":
        passed = (step - recipe.warmup) / max(1, recipe.iters - recipe.warmup)
        return recipe.lr_min + span * (1 + math.cos(math.pi * passed)) / 2
    return recipe.lr


def warmup_note(recipe: Recipe) -> str:
    """That a run never leaves its warm-up, "" if it does."""
    if recipe.iters > recipe.warmup:
        return ""
    highest = learning_rate(recipe, recipe.iters - 1)
    return (
        f"`iters` {recipe.iters} of a `warmup` of {recipe.warmup} steps: the learning rate still "
        f"rises when the run ends, at {highest:g} of {recipe.lr:g}; give more `iters`"
    )


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Type that autocast uses, None for float32 throughout."""
    if amp in ("auto", "fast"):
        if device.type != "cuda":
            fast = amp == "fast" and computes_fast("bfloat16", device)
            return torch.bfloat16 if fast else None
        # a GPU that only emulates bf16 is faster with fp16
        native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native_bf16 else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def freeze_bn(net: nn.Module) -> None:
    """Batch norm uses its loaded statistics and leaves them alone."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * net, for weights and BN statistics."""
    averages = [*average.parameters(), *average.buffers()]
    values = [*net.parameters(), *net.buffers()]
    floating, floating_values = [], []
    for old, new in zip(averages, values, strict=True):
        if old.is_floating_point():
            floating.append(old)
            floating_values.append(new)
        else:  # a count of batches
            old.copy_(new)
    torch._foreach_lerp_(floating, floating_values, 1 - decay)
