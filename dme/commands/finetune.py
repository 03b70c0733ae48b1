"""Fine-tune a pretrained network on B-scans to segment fluid or layers, and score it.

The scores are those of held-out scans. The defaults are the best row of the study's Table 2.

./run.sh finetune --crop 320
./run.sh finetune --head fcn --loss ce+dice --flip --split subject:1/5
./run.sh finetune --recipe layers --split subject:1/7
torchrun --nproc-per-node 2 -m dme finetune --batch 4
"""

from collections.abc import Sequence
from dataclasses import replace

from dme.common.options import OneLineParser, add_options, from_options, option_parser
from dme.common.words import HEADS_OF
from dme.training.presets import PLANS, STUDY
from dme.training.settings import (
    Augment,
    Finetune,
    Plan,
    Recipe,
    default_aux_weight,
    default_lr_min,
)


def main() -> None:
    plan = parse_args()
    from dme.training.fine_tuning import fine_tune  # --help has been answered without torch

    fine_tune(plan)


def parse_args(arguments: Sequence[str] | None = None) -> Plan:
    """What the command line asks for. arguments: in place of sys.argv."""
    preset = preset_of(arguments)
    parser = option_parser(__doc__)
    add_options(parser, Finetune, preset.finetune)
    add_options(parser, Augment, preset.augment)
    add_options(parser, Recipe, preset.recipe)

    # Two settings follow from others unless they are given
    parser.set_defaults(aux_weight=None)
    if preset.finetune.recipe == STUDY.finetune.recipe:
        parser.set_defaults(lr_min=None)
    args = parser.parse_args(arguments)
    if args.aux_weight is None:
        args.aux_weight = default_aux_weight(args.loss)
    if args.lr_min is None:
        args.lr_min = default_lr_min(args.lr)

    return Plan(
        from_options(Finetune, args, preset.finetune),
        from_options(Augment, args, preset.augment),
        from_options(Recipe, args, preset.recipe),
    )


def preset_of(arguments: Sequence[str] | None) -> Plan:
    """The plan that --recipe names; its head only if the --backbone asked for takes it."""
    parser = OneLineParser(add_help=False)
    add_options(parser, Finetune, only=("recipe", "backbone"))
    chosen = from_options(Finetune, parser.parse_known_args(arguments)[0])
    preset = PLANS[chosen.recipe]
    if chosen.backbone and preset.finetune.head not in HEADS_OF[chosen.backbone]:
        return replace(preset, finetune=replace(preset.finetune, head=None))
    return preset
