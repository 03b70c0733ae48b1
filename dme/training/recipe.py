"""How to train: the settings of a run, its learning rates, optimizers, precision and moving average."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from dme.common.errors import InputError
from dme.losses import get_loss

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


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises InputError for a value outside its range."""

    steps: int  # optimiser steps
    batch: int = 2  # images per forward pass, over all ranks
    accumulate: int = 1  # forward passes per optimiser step
    loss: str = "ce"  # see dme.losses.get_loss
    aux_weight: float = 0.4  # weight of the auxiliary head's loss
    optimizer: str = "sgd"  # sgd (momentum 0.9), adam (L2 in the gradient) or adamw (decoupled)
    lr: float = 0.01
    weight_decay: float = 5e-4
    schedule: str = "poly"  # poly (power 0.9), cosine or constant
    horizon: int = 40_000  # step at which poly reaches lr_min; the study stops long before
    lr_min: float = 1e-4
    warmup: int = 0  # steps of linear rise at the start
    clip: float = 0.0  # largest gradient norm, 0 for none
    ema: float = (
        0.0  # decay of the moving average of the weights (less in the first steps), 0 for none
    )
    freeze_bn: bool = False  # keep the batch-norm statistics as loaded
    compile: bool = False  # torch.compile the step
    amp: str = "auto"  # auto (bf16 or fp16 on a GPU, float32 on a CPU), off, bf16, fp16
    seed: int = 0
    eval_every: int = 0  # steps between evaluations, 0 for one at the end
    save_every: int = 100  # steps between checkpoints

    def __post_init__(self):
        def check(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {wanted}")

        for name in ("steps", "batch", "accumulate", "save_every", "horizon"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("aux_weight", "weight_decay", "lr_min", "warmup", "clip", "eval_every"):
            check(getattr(self, name) >= 0, name, "at least 0")
        check(0 < self.lr < math.inf, "lr", "above 0 and finite")
        check(
            self.schedule == "constant" or self.lr_min <= self.lr,
            "lr_min",
            f"at most lr, {self.lr}",
        )
        check(0 <= self.ema < 1, "ema", "between 0 and 1 (1 excluded)")
        check(0 <= self.seed < 2**31, "seed", "between 0 and 2147483647")
        check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        check(
            self.schedule in ("poly", "cosine", "constant"), "schedule", "poly, cosine or constant"
        )
        check(self.amp in ("auto", "off", "bf16", "fp16"), "amp", "auto, off, bf16 or fp16")
        get_loss(self.loss)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of a step (from 0): linear warm-up, then poly with power 0.9 or cosine, both to lr_min, or constant."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "poly":
        left = max(0.0, 1 - step / recipe.horizon)
        return recipe.lr_min + (recipe.lr - recipe.lr_min) * left**0.9
    if recipe.schedule == "cosine":
        passed = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
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
