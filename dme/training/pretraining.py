"""Pretraining on fundus photographs of the HRF set, from the data to results.json."""

import contextlib
import copy
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dme.common import ranks
from dme.common.errors import InputError
from dme.common.files import write_json
from dme.common.folders import owned, refuse_foreign
from dme.common.provenance import device_name, provenance
from dme.data.cache import Cache, open_cache
from dme.data.hrf import open_hrf, split_hrf
from dme.drawing.canvas import save_png
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, Segmenter, build_model, require_arch
from dme.training.augment import TrainingSet
from dme.training.loop import train
from dme.training.presets import Pretraining
from dme.training.run_folder import (
    config_of,
    read_rows,
    refuse_foreign_files,
    seconds_per_step,
    start_of_resumed,
)
from dme.training.settings import Pretrain
from dme.training.vessels import (
    CLASSES,
    channels_first,
    evaluate_some,
    vessel_counts,
    vessel_dice,
)

# Of OpenMMLab's unets: width 64, full size
OPENMMLAB_DICE = {"fcn": 0.7945, "psp": 0.8007, "deeplabv3": 0.8021}
TRIAL_STEPS = 30  # after which the seconds of a step are known


def pretrain(options: Pretrain, plan: Pretraining) -> None:
    """Train networks as the plan says, or load those to score; score and report them.

    Under torchrun every rank calls it. Raises InputError for data or weights that do not work, and
    while another run writes into the folder.
    """
    rank, _, _ = ranks.join()
    with owned(options.out) if rank == 0 else contextlib.nullcontext():
        if rank == 0 and options.eval_only:
            refuse_foreign(options.out, "results.json", ["vessels.png"])
        elif rank == 0:
            refuse_foreign_files(options.out)
        _pretrain(options, plan)
    ranks.leave()


def _pretrain(options: Pretrain, plan: Pretraining) -> None:
    origin = provenance()  # of the code that runs, which may change on disk before a long run ends

    # The networks
    torch.manual_seed(plan.recipe.seed)
    if options.eval_only:
        models = load_pretrained(options.weights)
    else:
        models = starting_networks(options)

    # The photographs, and training on them
    rank, _, _ = ranks.join()
    source = open_hrf(options.data, plan.scale)
    if rank == 0:
        print(f"data: {source.description}\ndevice: {device_name()}")
    cache = open_cache(source)
    training, validation = split_hrf(cache.names)
    if not options.eval_only:
        evaluate = partial(evaluate_some, cache, validation[::5])  # 6 of 30, two of each group
        data = vessel_set(cache, training)
        plan = with_length(options, plan, models, data)
        trained = train(
            models,
            data,
            plan.augment,
            plan.recipe,
            options.out,
            evaluate,
            options.resume,
        )
        models = load_best(trained, options.out)

    # Scores at the networks' scale and at full size
    full = cache if plan.scale == 1 else open_cache(open_hrf(options.data))
    report(options, plan, origin, models, cache, full, validation)


def vessel_set(cache: Cache, indices: Sequence[int]) -> TrainingSet:
    """Photographs and their vessels, on this rank's device."""
    _, _, device = ranks.join()
    images = [channels_first(cache.images[i]).to(device) for i in indices]
    masks = [torch.from_numpy(cache.fluid[i]).to(device) for i in indices]
    return TrainingSet(images, masks, [cache.names[i] for i in indices])


def with_length(
    options: Pretrain, plan: Pretraining, models: dict[str, Segmenter], data: TrainingSet
) -> Pretraining:
    """The plan with as many steps as asked for, and what follows from their number."""
    rank, _, device = ranks.join()
    iters = plan.recipe.iters
    if options.minutes is not None:
        iters = iters_within(options, plan, models, data)
        if rank == 0:
            print(f"steps: {iters}, which take about {options.minutes:g} minutes")
    recipe = replace(
        plan.recipe,
        iters=iters,
        horizon=iters,  # poly ends with the run, as OpenMMLab's
        save_every=1000 if device.type == "cuda" else 100,  # a minute's work or less
    )
    return replace(plan, recipe=recipe)


def iters_within(
    options: Pretrain, plan: Pretraining, models: dict[str, Segmenter], data: TrainingSet
) -> int:
    """How many steps fit into options.minutes; of a run that is resumed, what it was made with."""
    config = config_of(options.out) or {}
    if options.resume and "iters" in config:
        return config["iters"]
    # A short run on copies says how long a step takes
    trial = replace(plan.recipe, iters=TRIAL_STEPS, save_every=TRIAL_STEPS)
    score = {"score": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        train(copy.deepcopy(models), data, plan.augment, trial, out, lambda _: (score, None))
        seconds = seconds_per_step(read_rows(out / "metrics.jsonl"))
    return max(1, round(60 * options.minutes / seconds))


def load_pretrained(names: Sequence[str]) -> dict[str, Segmenter]:
    """The networks of those names or files. Raises InputError unless they can run side by side."""
    models = {name: load_model(name) for name in names}
    first = models[names[0]]
    for name, model in models.items():
        if (model.arch["in_channels"], model.arch["num_classes"]) != (3, 2):
            raise InputError(
                f"{name} does not map RGB to background and vessel; score a network that does"
            )
        if model.preprocess != first.preprocess:
            raise InputError(
                f"{name} and {names[0]} normalise images differently; score one at a time"
            )
    return models


def starting_networks(options: Pretrain) -> dict[str, Segmenter]:
    """Fresh ones that share a backbone, or the one to go on with; by the name of their head."""
    if not options.start:
        heads = options.heads or tuple(BACKBONES[options.backbone].HEADS)
        return joint_models(heads, options.width, options.backbone)
    start = options.start
    if options.resume:
        start = start_of_resumed(options.out, start)
    model = load_pretrained([start])[start]
    head = model.arch["head"]
    require_arch(model, width=options.width)
    if options.heads not in (None, (head,)):
        raise InputError(f"`heads` {' '.join(options.heads)}: {options.start} has the head {head}")
    print(f"start: {model.weights_name} (sha256 {model.weights_sha256[:12]})")
    return {head: model}


def joint_models(
    heads: Sequence[str], width: float | None, backbone: str = "unet"
) -> dict[str, Segmenter]:
    """One fresh network per head; all share the first one's backbone and auxiliary head."""
    models = {head: build_model(backbone, head, width=width) for head in heads}
    first = models[heads[0]]
    for model in models.values():
        model.backbone = first.backbone
        model.aux_head = first.aux_head
        model.classes = CLASSES
    return models


def load_best(models: dict[str, Segmenter], out: Path) -> dict[str, Segmenter]:
    """The same networks, still sharing their backbone, with the weights of best-NAME.pt."""
    for name, model in models.items():
        best = load_model(out / f"best-{name}.pt")
        model.load_state_dict(best.state_dict())
        model.weights_sha256 = best.weights_sha256
    return models


def report(
    options: Pretrain,
    plan: Pretraining,
    origin: dict,
    models: dict[str, Segmenter],
    cache: Cache,
    full: Cache,
    validation: list[int],
) -> None:
    """Score the networks, print the table, write results.json and a picture on rank 0."""
    began = time.perf_counter()
    counts, picture = vessel_counts(models, cache, full, validation)
    if ranks.rank():
        return

    # A row per network
    rows = []
    for name, model in models.items():
        rows.append(
            {
                "network": name,
                "weights_sha256": model.weights_sha256,
                **model.arch,
                "dice_scale": vessel_dice(counts[name]["scale"]),
                "dice_full": vessel_dice(counts[name]["full"]),
                "counts": counts[name],
            }
        )
    print_table(rows, len(validation), plan.scale)

    # What is left in the folder
    trained = not options.eval_only
    save_png(options.out / "vessels.png", picture)
    results = {
        **origin,
        "data_sha256": cache.source_sha256,
        "scale": plan.scale,
        "recipe": options.recipe if trained else None,
        "seed": plan.recipe.seed if trained else None,
        "training_minutes": training_minutes(options.out) if trained else None,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_json(options.out / "results.json", results)
    print(f"\nresults: {options.out / 'results.json'}\npicture: {options.out / 'vessels.png'}")


def print_table(rows: list[dict], photographs: int, scale: float) -> None:
    """Dice of each network, beside what OpenMMLab reports for its unets."""
    print(f"\nvessel Dice on {photographs} validation photographs, sliding window 256/170")
    print(
        f"input and 'scale' column at {scale:g} of their size; "
        "'OpenMMLab': unets of width 64 at full size"
    )
    measured = f"{'scale':>7} {'full':>7} {'OpenMMLab':>10}"
    print(f"{'network':28} {'backbone':18} {'head':10} {'width':>5} {measured}")
    for row in rows:
        published = "-"
        if row["backbone"] == "unet":
            published = f"{OPENMMLAB_DICE[row['head']]:.4f}"
        network = f"{row['network']:28} {row['backbone']:18} {row['head']:10} {row['width']:5g}"
        print(f"{network} {row['dice_scale']:7.4f} {row['dice_full']:7.4f} {published:>10}")


def training_minutes(out: Path) -> float:
    """Steps times the median seconds of one."""
    history = read_rows(out / "metrics.jsonl")
    steps = history[-1]["step"] if history else math.nan
    return steps * seconds_per_step(history) / 60
