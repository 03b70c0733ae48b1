"""Named settings: of fine-tuning, and of pretraining on fundus vessels (HRF).

Python's standard library alone is needed, so a command line can be shown without torch.
"""

from dataclasses import dataclass, replace

from dme.training.settings import Augment, Finetune, Plan, Recipe

# The best row of the study's Table 2
STUDY = Plan(
    Finetune(recipe="study", size="512"),
    Augment(crop=320, max_class_share=0.75),
    Recipe(iters=400, batch=2, l2=1e-4),
)

# What the recipes of our own share
STRONG = Recipe(
    batch=4,
    loss="ce+dice",
    optimizer="adamw",
    lr=2e-3,
    lr_min=0.0,
    l2=1e-2,
    schedule="cosine",
    warmup=50,
    clip=1.0,
    amp="fast",
)

# Chosen by ./run.sh development, which compares candidates on eyes 1 to 8
BEST = Plan(
    Finetune(recipe="best", size="half", tta=True),
    Augment(
        crop=0,
        max_class_share=1.0,
        flip=True,
        rotate=8.0,
        zoom=0.2,
        brightness=0.1,
        contrast=0.25,
        gamma=0.2,
        noise=0.1,
    ),
    replace(STRONG, iters=800, ema=0.99),
)
# BEST for scans of any device, chosen by experiments/studies/devices.py on four eyes: one physical
# scale, one brightness, from a network of synthetic devices and with some of them beside the data
FLUID = replace(
    BEST,
    finetune=replace(
        BEST.finetune, recipe="fluid", size="um", match_brightness=True, synthetic=20
    ),
)
LAYERS = Plan(
    replace(BEST.finetune, recipe="layers", task="layers", head="fcn"),
    replace(BEST.augment, crop=240, border=0.25),
    replace(BEST.recipe, batch=6),
)
PLANS = {plan.finetune.recipe: plan for plan in (STUDY, FLUID, BEST, LAYERS)}


@dataclass(frozen=True)
class Pretraining:
    """How networks are pretrained. scale: share of the photographs' size that is trained on."""

    scale: float
    augment: Augment
    recipe: Recipe


PRETRAININGS = {
    # what OpenMMLab's configuration says, for a GPU
    "openmmlab": Pretraining(
        scale=1.0,
        augment=Augment(crop=256, zoom_range=(0.5, 2.0), flip=True, colour=True),
        recipe=Recipe(iters=40_000, batch=16),
    ),
    # shorter and stronger, for small compute: ce+dice, AdamW with cosine, moving average
    "small": Pretraining(
        scale=0.5,
        augment=Augment(
            crop=256,
            max_class_share=1.0,
            zoom_range=(0.85, 1.2),
            flip=True,
            brightness=0.05,
            contrast=0.2,
        ),
        recipe=replace(STRONG, iters=1500, ema=0.995, amp="auto"),
    ),
}
