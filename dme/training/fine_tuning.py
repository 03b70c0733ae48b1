"""Fine-tuning from the data to results.json: the work of `./run.sh finetune`."""

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from dme.common import ranks
from dme.common.errors import InputError, with_flags
from dme.common.folders import owned
from dme.common.provenance import provenance
from dme.common.tasks import TASKS, Task
from dme.data.cache import Cache, open_cache
from dme.data.opening import open_source
from dme.data.source import Source, subjects_known
from dme.data.splits import leak, only_named, split_indices
from dme.drawing.overlays import RED
from dme.inference.entry import MATCHED
from dme.inference.scan import scale_lines, scale_note
from dme.inference.sizes import STUDY_SIDE, Physical
from dme.losses import get_loss
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, build_model, require_arch, set_classes, start_at_shares
from dme.nets.zoo import known
from dme.training.augment import TrainingSet, fit_note
from dme.training.fine_tuning_report import report, report_second_opinion
from dme.training.labelled import check_annotated, training_set, with_synthetic
from dme.training.loop import train
from dme.training.presets import FLUID, PLANS
from dme.training.run_folder import refuse_foreign_files, start_of_resumed
from dme.training.settings import Finetune, Plan
from dme.training.unlabelled import unlabelled_scans
from dme.training.validation import Validation


@dataclass(frozen=True)
class SplitSet:
    """A set of scans with its truth, and which of them are for training and for validation."""

    small: Cache  # at 256 x 256, as in the study
    native: Cache  # at the scans' own pixels
    split: str
    training: np.ndarray  # indices
    validation: np.ndarray

    @property
    def leaking(self) -> int:
        """How many validation scans have a neighbour in training."""
        return leak(self.small, self.training, self.validation)

    def for_training(self, options: Finetune, task: Task, device: torch.device) -> TrainingSet:
        """The training scans as the network sees them, with the task's labels."""
        entry = entry_of(options)
        data = training_set(
            self.small, self.native, self.training, task, entry, options.ungraded, device
        )
        if options.synthetic:
            return with_synthetic(data, options.synthetic, task, entry, device)
        return data


def fine_tune(plan: Plan) -> None:
    """Train, score and report as the plan says; everything lands in the folder plan.finetune.out.

    Under torchrun every rank calls it. Raises InputError for settings, data or weights that do not
    work, before anything of an older run in that folder is touched; and while another run writes
    into it.
    """
    rank, _, _ = ranks.join()
    out = plan.finetune.out
    with owned(out) if rank == 0 else contextlib.nullcontext():
        if rank == 0:
            refuse_foreign_files(out)
        _fine_tune(plan)
    ranks.leave()


def _fine_tune(plan: Plan) -> None:
    origin = provenance()  # of the code that runs, which may change on disk before a long run ends
    get_loss(plan.recipe.loss)  # a wrong name is refused before any work
    options, task = plan.finetune, TASKS[plan.finetune.task]

    # The network, with the task's classes and its size of scans
    torch.manual_seed(plan.recipe.seed)
    rank, _, device = ranks.join()
    source = open_source(options.data, options.grader, options.fluid_value)
    model, start = starting_network(options, plan.recipe.seed)
    replaced = set_classes(model, task.classes)
    model.preprocess = mean_and_std(model) | entry_of(options)
    if rank == 0:
        print(f"data: {source.description}\nstart: {start}", flush=True)
        if options.recipe == "study" and not options.weights and start.startswith("hrf-psp "):
            print("note: the study's network is four times as wide: --weights hrf-psp-64")
        for name in replaced:
            print(f"replaced: {name}, for {len(task.classes)} classes")

    # The scans
    scans = open_split(source, options, plan.recipe.seed, task)
    if rank == 0:
        announce(scans, model)
    validate = Validation(scans.small, scans.native, scans.validation, device, task, options.tta)
    data = scans.for_training(options, task, device)
    if options.unlabelled is not None:
        origin |= add_unlabelled(data, options, scans, task, device)
    plan = fitted(plan, data)
    if rank == 0 and (note := fit_note(data, plan.augment)):
        print(f"data note: {note}")

    # Training
    if replaced or options.weights == "none":
        start_at_shares(model, data.shares(len(model.classes)))
    before = None
    if not task.finds_layers:
        before = validate.drawn(folded(model).to(device), RED)
    trained = train(
        {"model": model},
        data,
        plan.augment,
        plan.recipe,
        options.out,
        validate,
        options.resume,
    )["model"]
    if not validate.counts:  # a resumed run that was complete
        validate({"model": trained})

    # Scores
    if rank == 0:
        origin |= data_origin(source, scans) | {"start": start}
        report(plan, origin, trained, validate, before)
    if source.kind == "mat":
        compare_graders(options, validate, trained)


def add_unlabelled(
    data: TrainingSet, options: Finetune, scans: SplitSet, task: Task, device: torch.device
) -> dict:
    """Lay the unlabelled scans beside the others, say so, and return what a result says of them.

    scans: the labelled ones; of the training side, those left out by `train_on` may be among the
    unlabelled. Raises InputError where there is no unlabelled scan.
    """
    path = options.unlabelled
    if not path.exists():
        raise InputError(
            f"`unlabelled` {path}: no such file or folder; give B-scans as of `data`, whose "
            "labels are not needed"
        )
    source = open_source(path)
    scale_um = options.scale_um
    taken = [scans.native.images[i] for i in (*scans.training, *scans.validation)]
    others, notes = unlabelled_scans(source, taken, entry_of(options), task, device, scale_um)
    if ranks.rank() == 0:
        print(f"unlabelled: {len(others.names)} scans beside the others, of {source.description}")
        for note in notes:
            print(with_flags(f"unlabelled note: {note}"))
    data.unlabelled = others
    count = len(others.names)
    return {"unlabelled": {"data": source.description, "scans": count, "sha256": source.sha256}}


def starting_network(options: Finetune, seed: int) -> tuple[Segmenter, str]:
    """The network to fine-tune and a line that says where its weights come from."""
    asked = {}
    for key in ("head", "backbone", "width"):
        if getattr(options, key) is not None:
            asked[key] = getattr(options, key)
    if options.weights == "none":  # what the seed draws
        model = build_model(**asked)
        return model, f"fresh weights (seed {seed}), {_described(model)}"
    weights = options.weights or _shipped_weights(options)
    if options.resume:
        weights = start_of_resumed(options.out, weights)
    model = load_model(weights)
    require_arch(model, **asked)
    # a seed's fresh classifiers are those that follow the draws of a whole network
    torch.manual_seed(seed)
    build_model(**model.arch)
    return model, f"{model.weights_name} (sha256 {model.weights_sha256[:12]}), {_described(model)}"


def _shipped_weights(options: Finetune) -> str:
    """Name of the weights that ship for the recipe, and for the backbone or the head asked for."""
    pretrained_on = ["hrf"]
    if options.recipe == FLUID.finetune.recipe:
        pretrained_on.insert(0, "devices")
    parts = [part for part in (options.backbone, options.head) if part]
    for data in pretrained_on:
        for part in parts or ["psp"]:
            if f"{data}-{part}" in known():
                return f"{data}-{part}"
    if options.backbone not in (None, "unet"):
        raise InputError(
            f"no weights for a {options.backbone} ship with dme; give `weights` FILE, "
            "from ./run.sh pretrain, or `weights` none"
        )
    return f"{pretrained_on[0]}-psp"


def _described(model: Segmenter) -> str:
    arch = model.arch
    return f"{arch['backbone']}, {arch['head']} head, width {arch['width']}"


def entry_of(options: Finetune) -> dict:
    """How scans enter the network, for its `preprocess`: what these options say, nothing more."""
    entry: dict = {"size": options.size}
    if options.size == Physical.name:
        entry["um_per_px"] = list(options.um_per_px)
    if options.match_brightness:
        entry["brightness"] = MATCHED
    return entry


def mean_and_std(model: Segmenter) -> dict:
    """What of a network's `preprocess` does not depend on how scans enter it."""
    return {key: model.preprocess[key] for key in ("mean", "std")}


def open_split(source: Source, options: Finetune, seed: int, task: Task) -> SplitSet:
    """The source's scans, divided by the split asked for; by default the study's or random.

    Raises InputError for a set without the truth that the task needs, and unless both sides hold
    fluid where the task is to find it.
    """
    small = open_cache(source, STUDY_SIDE)
    native = at_scale(open_cache(source), options.scale_um)
    check_annotated(native, task)
    name = options.split
    if name is None:
        name = "paper" if small.is_duke else "random"
    training, validation = split_indices(small, name, seed)
    training = only_named(small, training, options.train_on)
    if task.finds_fluid:
        _require_fluid(small, training, "training", f"split {name}", "learn")
        _require_fluid(small, validation, "validation", f"split {name}", "score")
    return SplitSet(small, native, name, training, validation)


def at_scale(scans: Cache, scale_um: tuple[float, ...] | None) -> Cache:
    """The set at its own pixels, of the size that the option `scale` states, where it does."""
    return replace(scans, scale_um=scale_um) if scale_um else scans


def _require_fluid(cache: Cache, indices: np.ndarray, side: str, split: str, purpose: str) -> None:
    if any((cache.fluid[i] == 1).any() for i in indices):
        return
    raise InputError(
        f"none of the {len(indices)} {side} scans of {split} holds fluid, which leaves nothing "
        f"to {purpose}; choose another split, `seed` or data"
    )


def fitted(plan: Plan, data: TrainingSet) -> Plan:
    """The plan, the recipe's own crop made as small as the longest side of these scans."""
    heights, widths = data.sides
    longest = max(heights[-1], widths[-1])
    crop = plan.augment.crop
    if crop <= longest or crop != PLANS[plan.finetune.recipe].augment.crop:
        return plan
    if ranks.rank() == 0:
        print(f"data note: crop {longest} instead of {crop}: no training scan is larger")
    return replace(plan, augment=replace(plan.augment, crop=longest))


def data_origin(source: Source, scans: SplitSet) -> dict:
    """What a result says of its data."""
    return {
        "data": source.description,
        "data_kind": source.kind,
        "data_sha256": source.sha256,
        "split": scans.split,
        "leak": scans.leaking,
    }


def announce(scans: SplitSet, model: Segmenter) -> None:
    """Print what is known of the data, how it is split, and which scales the network guesses."""
    for note in scans.small.notes:
        print(f"data note: {note}")
    native = scans.native
    used = np.union1d(scans.training, scans.validation)
    for line in scale_lines(scale_note(model, native.images[i], native.scale_um) for i in used):
        print(with_flags(f"note: {line}"))
    sizes = f"{len(scans.training)} train, {len(scans.validation)} validation scans"
    neighbours = "which of them are of one eye is unknown (index.csv can say it)"
    if subjects_known(scans.small.notes):
        neighbours = f"{scans.leaking} of the latter have a neighbour in training"
    print(f"split: {scans.split}, {sizes}; {neighbours}")
    if scans.split == "all":
        print(
            "note: the validation scans are those trained on; "
            "their scores say nothing about others"
        )


def compare_graders(options: Finetune, validate: Validation, model: Segmenter) -> None:
    """Report how the network and the first grader agree with the second, where there is one."""
    other = second_opinion(options, validate)
    if other is None:
        return
    other({"model": model})
    if ranks.rank() == 0:
        report_second_opinion(options, validate, other)


def second_opinion(options: Finetune, validate: Validation) -> Validation | None:
    """The same scans as the other grader annotated them, None if nobody did."""
    other = 3 - options.grader  # of the two
    try:
        source = open_source(options.data, other, options.fluid_value)
        small = open_cache(source, STUDY_SIDE)
        native = at_scale(open_cache(source), options.scale_um)
        check_annotated(native, validate.task)
    except InputError as e:
        if ranks.rank() == 0:
            print(f"\nno comparison with grader {other}: {with_flags(str(e))}")
        return None

    # Both must have annotated every validation scan
    absent = set(validate.names) - set(native.names)
    if absent:
        if ranks.rank() == 0:
            names = ", ".join(sorted(absent))
            print(f"\nno comparison with grader {other}, who left out {names}")
        return None
    indices = np.array([native.names.index(name) for name in validate.names], int)
    return Validation(small, native, indices, validate.device, validate.task, validate.flip)
