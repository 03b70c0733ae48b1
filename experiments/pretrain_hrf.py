"""Pretrain networks on fundus vessels (HRF), the study's source domain, or score such checkpoints.

python experiments/pretrain_hrf.py --data HRF     # three heads on one backbone, the small recipe
python experiments/pretrain_hrf.py --recipe openmmlab --heads psp --width 64
python experiments/pretrain_hrf.py --backbone mobilenet_v3_small
python experiments/pretrain_hrf.py --eval-only --weights hrf-psp
torchrun --nproc-per-node 4 experiments/pretrain_hrf.py --recipe openmmlab
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dme.common.errors import InputError, run
from dme.common.options import OneLineParser, add_options, from_options, option_parser
from dme.training.presets import PRETRAININGS, Pretraining
from dme.training.settings import Pretrain, Recipe

OF_RECIPE = ("iters", "batch", "eval_every", "amp", "seed", "lr")  # options beside the preset


def main() -> None:
    options, plan = parse_args()
    from dme.training.pretraining import pretrain  # --help has been answered without torch

    pretrain(options, plan)


def parse_args(arguments: Sequence[str] | None = None) -> tuple[Pretrain, Pretraining]:
    """What the command line asks for. arguments: in place of sys.argv."""
    # The recipe gives the defaults of the other options
    first = OneLineParser(add_help=False)
    add_options(first, Pretrain, only=("recipe",))
    recipe = from_options(Pretrain, first.parse_known_args(arguments)[0]).recipe
    preset = PRETRAININGS[recipe]
    parser = option_parser(__doc__)
    add_options(parser, Pretrain)
    add_options(parser, Recipe, preset.recipe, OF_RECIPE)
    parser.set_defaults(iters=None)
    args = parser.parse_args(arguments)

    options = from_options(Pretrain, args)
    if options.eval_only != bool(options.weights):
        raise InputError("--eval-only and --weights go together: name the checkpoints to score")
    if options.minutes is not None and args.iters is not None:
        raise InputError("--minutes: expected a number above 0, and not beside --iters")
    if args.iters is None:
        args.iters = preset.recipe.iters
    if options.out is None:
        out = "runs/eval_hrf" if options.eval_only else "runs/pretrain_hrf"
        options = replace(options, out=Path(out))
    plan = replace(
        preset,
        recipe=from_options(Recipe, args, preset.recipe),
        scale=preset.scale if options.scale is None else options.scale,
    )
    return options, plan


if __name__ == "__main__":
    run(main)
