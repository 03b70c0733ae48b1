"""Settings of a training: what is fine-tuned, what happens to its samples, how weights change.

Python's standard library alone is needed, so a command line can be shown without torch.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from dme.common.errors import InputError
from dme.common.options import check, setting
from dme.common.scale import given_scale
from dme.common.tasks import TASKS
from dme.common.words import BACKBONE_NAMES, HEAD_NAMES, SIZE_NAMES


@dataclass(frozen=True)
class Augment:
    """What may happen to a sample. The defaults change nothing and take the whole image.

    crop: its origin is uniform over the integers; 0 takes the whole image.
    max_class_share: a crop is kept when it holds more than one class and the largest covers less
        than this share of its pixels that are not ignored; after ten crops that fail, the next is
        taken whatever it holds; 1 takes the first crop (OpenMMLab's RandomCrop, `cat_max_ratio`).
    on_fluid: probability that a crop of a scan with fluid is placed to hold a random one of its
        fluid pixels.
    border: origins are drawn as if the frame were larger by this share of the crop on every side,
        then moved back into it, so that crops touch the frame's border as often as a border pixel
        deserves.
    zoom, zoom_range: the resize ratio before the crop is uniform in 1 +- zoom or, if it is given,
        between the two of zoom_range (OpenMMLab's RandomResize).
    rotate: about the crop's centre. shift: of the frame, in whole pixels.
    brightness: a fraction of 255 that is added. contrast: about the crop's mean.
    noise: multiplicative and normal, the same in all channels.
    colour: OpenMMLab's PhotoMetricDistortion on RGB without its rounding to 8 bits: brightness
        +-32, contrast 0.5-1.5 (before or after the next two), saturation 0.5-1.5, hue +-36 degrees
        (18 of OpenCV's units of 2 degrees), each with probability 0.5.

    Raises InputError for values out of range.
    """

    crop: int = setting(
        0,
        "side of random crops in pixels of --size, 0 for none",
        minimum=0,
        maximum=1 << 16,
    )
    max_class_share: float = setting(
        0.75,
        "of the largest class in a crop, else it is redrawn",
        minimum=0,
        maximum=1,
    )
    on_fluid: float = setting(
        0.0,
        "share of crops that are placed onto fluid",
        minimum=0,
        maximum=1,
    )
    border: float = setting(
        0.0,
        "share of the crop's side by which origins may overshoot",
        minimum=0,
        maximum=1,
    )
    flip: bool = setting(False, "mirror half of the crops left to right", choices=(False, True))
    rotate: float = setting(
        0.0,
        "degrees, uniform in +- this",
        minimum=0,
        maximum=180,
        aliases=("rotate_deg",),
    )
    shift: float = setting(
        0.0,
        "fraction of the side, uniform in +- this",
        minimum=0,
        maximum=1,
    )
    zoom: float = setting(0.0, "factor, uniform in 1 +- this", minimum=0)
    zoom_range: tuple[float, float] | None = setting(None, None)
    brightness: float = setting(
        0.0,
        "fraction of white, uniform in +- this",
        minimum=0,
        maximum=1,
    )
    contrast: float = setting(0.0, "factor, uniform in 1 +- this", minimum=0, maximum=1)
    gamma: float = setting(
        0.0,
        "exponent, log-uniform in 1/(1 + this) to 1 + this",
        minimum=0,
        maximum=10,
    )
    noise: float = setting(
        0.0,
        "standard deviation of speckle, fraction of the grey value",
        minimum=0,
        maximum=10,
        aliases=("speckle",),
    )
    colour: bool = setting(False, None)

    def __post_init__(self) -> None:
        check(self)
        smallest, largest = self.zoom_factors
        if not 0 < smallest <= largest <= 100:
            raise InputError(
                f"zoom is from {smallest} to {largest}; expected 0 < smallest <= largest <= 100"
            )

    @property
    def geometry(self) -> "Augment":
        """What of this moves pixels, and leaves their values alone."""
        return replace(
            self,
            brightness=0.0,
            contrast=0.0,
            gamma=0.0,
            noise=0.0,
            colour=False,
        )

    @property
    def zoom_factors(self) -> tuple[float, float]:
        """Smallest and largest factor by which a frame is resized before the crop."""
        return self.zoom_range or (1 - self.zoom, 1 + self.zoom)


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises InputError for a value outside its range.

    aux_weight and lr_min have a rule for what is not given, `default_aux_weight` and
    `default_lr_min`, which the command line follows.
    """

    iters: int = setting(400, "optimiser steps", minimum=1, aliases=("steps",))
    batch: int = setting(2, "images per forward pass, over all ranks", minimum=1)
    accumulate: int = setting(1, "forward passes per step", minimum=1)
    loss: str = setting("ce", "ce, dice, focal, iou, ce+dice or ce+dice:W_CE,W_DICE")
    aux_weight: float = setting(
        0.4,
        "of the auxiliary loss; with dice and focal 1.0 unless given",
        minimum=0,
    )
    optimizer: str = setting(
        "sgd",
        "sgd (momentum 0.9), adam (L2 in the gradient) or adamw (decoupled)",
        choices=("sgd", "adam", "adamw"),
    )
    lr: float = setting(0.01, "learning rate at the start", above=0)
    lr_min: float = setting(
        1e-4,
        "learning rate at the schedule's end, at most --lr",
        minimum=0,
    )
    l2: float = setting(5e-4, "weight decay", minimum=0, aliases=("weight_decay",))
    schedule: str = setting(
        "poly",
        "poly (power 0.9, ends at step 40000), cosine (ends with the run) or constant",
        choices=("poly", "cosine", "constant"),
    )
    # step at which poly reaches lr_min; the study stops long before
    horizon: int = setting(40_000, None, minimum=1)
    warmup: int = setting(0, "steps of linear rise of the learning rate", minimum=0)
    clip: float = setting(0.0, "largest norm of the gradient, 0 for any", minimum=0)
    ema: float = setting(
        0.0,
        "decay per step of the weights' moving average, less in the first steps, 0 for none",
        minimum=0,
    )
    unlabelled_weight: float = setting(
        1.0, "of the loss of --unlabelled scans, beside that of the labelled ones", above=0
    )
    freeze_bn: bool = setting(False, None)  # keep the batch-norm statistics as loaded
    amp: str = setting(
        "auto",
        "auto (bf16 or fp16 on a GPU, float32 on a CPU), fast (as auto, and bf16 on a CPU with "
        "instructions for it), off, bf16 or fp16",
        choices=("auto", "fast", "off", "bf16", "fp16"),
    )
    compile: bool = setting(False, "torch.compile the training step")
    seed: int = setting(
        0,
        "of weights, batches, augmentation and random split",
        minimum=0,
        maximum=2**31 - 1,
    )
    eval_every: int = setting(0, "steps between validations, 0 for one at the end", minimum=0)
    save_every: int = setting(100, None, minimum=1)  # steps between checkpoints

    def __post_init__(self) -> None:
        check(self)
        if self.ema >= 1:
            raise InputError(f"ema is {self.ema}; expected a number from 0 to 1 (1 excluded)")
        if self.schedule != "constant" and self.lr_min > self.lr:
            raise InputError(f"lr_min is {self.lr_min}; expected at most lr, {self.lr}")


def default_aux_weight(loss: str) -> float:
    """Weight of the auxiliary head's loss, as in the study."""
    return 1.0 if loss in ("dice", "focal") else 0.4


def default_lr_min(lr: float) -> float:
    """Where the learning rate ends, as in the study, but no higher than it starts."""
    return min(1e-4, max(lr, 0.0))


@dataclass(frozen=True)
class Finetune:
    """What `finetune` trains, on what, and where it leaves the results. None is decided later."""

    recipe: str = setting(
        "study",
        "what the other options default to",
        choices=("study", "fluid", "best", "layers"),
    )
    task: str = setting("fluid", "what to segment", choices=tuple(TASKS))
    data: str | None = setting(
        None,
        ".mat files or folder of B-scans, or 'phantom' (default: DME_DATA, else phantom)",
    )
    grader: int = setting(1, "whose annotation of .mat files is the truth: 1 or 2")
    fluid_value: tuple[int, ...] | None = setting(
        None, "values of the masks that are fluid (default: found out, and said)"
    )
    split: str | None = setting(
        None,
        "paper, random, subject:K/N, dev:K/4, folders, all "
        "(default: paper if the set has its scans, or random)",
    )
    train_on: tuple[str, ...] = setting(
        (), "names of scans: train on these alone of the split's training scans (default: all)"
    )
    weights: str | None = setting(
        None,
        "name or file to start from, or 'none' for fresh ones "
        "(default hrf-BACKBONE, else hrf-HEAD; of recipe fluid devices-BACKBONE, devices-psp)",
    )
    head: str | None = setting(
        None,
        "decode head (default: the checkpoint's, else psp or lraspp)",
        choices=HEAD_NAMES,
    )
    backbone: str | None = setting(
        None,
        "backbone (default: the checkpoint's, else unet)",
        choices=BACKBONE_NAMES,
    )
    width: float | None = setting(
        None,
        "channels of a unet's first stage, or a MobileNet's factor of them "
        "(default: the checkpoint's, else 16 or 1.0)",
    )
    size: str = setting(
        "512",
        "512 x 512 squares, native pixels, half as many a side, or um: --um-per-px",
        choices=SIZE_NAMES,
    )
    scale: str | None = setting(
        None, "axial,lateral in um per pixel of the scans (default: what their files say)"
    )
    um_per_px: tuple[float, ...] = setting(
        (7.74, 22.66), "of --size um: axial and lateral um of a pixel that enters", above=0
    )
    match_brightness: bool = setting(
        False, "spread the grey values of every scan alike, wedges left out"
    )
    synthetic: int = setting(
        0,
        "synthetic scans to train on beside the data: of several devices, of a task with layers "
        "with large cysts",
        minimum=0,
        maximum=10_000,
    )
    ungraded: str = setting(
        "background",
        "columns without layer rows, of Duke's set without any those beside 99 to 624",
        choices=("background", "ignore"),
    )
    unlabelled: Path | None = setting(
        None,
        "folder or .mat file of B-scans to learn from beside the data, without labels: network "
        "and moving average of its weights are to agree on them",
    )
    tta: bool = setting(False, "score the mean over a scan and its mirror image")
    resume: bool = setting(False, "continue the run in --out")
    out: Path = setting(Path("runs/finetune"), "run folder")

    def __post_init__(self) -> None:
        check(self)
        if len(self.um_per_px) != 2:
            raise InputError(f"um_per_px is {self.um_per_px}; expected axial and lateral um")
        given_scale(self.scale)

    @property
    def scale_um(self) -> tuple[float, ...] | None:
        """Axial and lateral um per pixel, as stated."""
        return given_scale(self.scale)


@dataclass(frozen=True)
class Pretrain:
    """What `pretrain` trains or scores, on what, and where it leaves the results."""

    data: str | None = setting(
        None, "folder of the HRF set (default: environment variable HRF_DATA)"
    )
    recipe: str = setting(
        "small",
        "training recipe, what the other options default to",
        choices=("openmmlab", "small"),
    )
    backbone: str = setting("unet", "backbone", choices=BACKBONE_NAMES)
    heads: tuple[str, ...] | None = setting(
        None, "decode heads on one shared backbone (default: all it takes)"
    )
    width: float | None = setting(
        None, "channels of a unet's first stage (16), a MobileNet's factor of them (1.0)"
    )
    minutes: float | None = setting(
        None, "instead of --iters: as many as fit, timed on a short trial run", above=0
    )
    resume: bool = setting(False, "continue the run in --out")
    eval_only: bool = setting(False, "score --weights on the validation photographs, no training")
    weights: tuple[str, ...] | None = setting(None, "with --eval-only: checkpoint names or files")
    start: str | None = setting(
        None, "go on training this network, a name or file, instead of a fresh one"
    )
    scale: float | None = setting(
        None,
        "share of the photographs' size to work at (default: the recipe's)",
        above=0,
        maximum=1,
    )
    out: Path | None = setting(
        None, "run folder (default runs/pretrain_hrf, with --eval-only runs/eval_hrf)"
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Plan:
    """All settings of a fine-tuning."""

    finetune: Finetune
    augment: Augment
    recipe: Recipe
