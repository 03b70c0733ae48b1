"""A training small enough for tests; as a script, what those of kills and several ranks start."""

import math
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import dme.training.loop
from dme.common import ranks
from dme.common.errors import InputError
from dme.nets.segmenter import Segmenter, build_model
from dme.training.augment import TrainingSet
from dme.training.settings import Augment, Recipe

# several of everything that a resumed run has to continue: draws, dropout, BN, momentum, average,
# best score
FULL = dict(
    iters=12,
    batch=2,
    accumulate=2,
    ema=0.9,
    eval_every=4,
    save_every=5,
    lr=0.05,
    warmup=3,
    clip=1.0,
)
MOVING = Augment(crop=32, flip=True, rotate=20, brightness=0.1, noise=0.1)


def discs(count: int = 3, side: int = 48, seed: int = 0) -> TrainingSet:
    """Grey noise with one brighter disc each, which is class 1."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    masks = []
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for i in range(count):
        centre = side * (0.35 + 0.3 * torch.rand(2, generator=generator))
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (side / (4 + i)) ** 2
        noise = 20 * torch.randn(side, side, generator=generator)
        images.append((80 + 90 * disc + noise).clamp(0, 255).to(torch.uint8))
        masks.append(disc.to(torch.uint8))
    return TrainingSet(images, masks, [f"scan{i}" for i in range(count)])


def without_labels(count: int = 3, side: int = 48, seed: int = 7) -> TrainingSet:
    """Other discs, of which no mask says where they are."""
    scans = discs(count, side, seed)
    masks = [torch.zeros_like(mask) for mask in scans.masks]
    return TrainingSet(scans.images, masks, [f"more{i}" for i in range(count)])


def labelled_and_not() -> TrainingSet:
    """Three labelled scans, and three others of another size."""
    data = discs()
    data.unlabelled = without_labels(side=64)
    return data


def networks(*heads: str, width: int = 2, dropout: bool = True) -> dict[str, Segmenter]:
    """One network per head with one backbone, the same weights at every call."""
    torch.manual_seed(0)
    models = {head: build_model(head=head, width=width) for head in heads or ("fcn",)}
    first = next(iter(models.values()))
    for model in models.values():
        model.backbone = first.backbone
        model.aux_head = first.aux_head
        for module in model.modules():
            if isinstance(module, nn.Dropout2d) and not dropout:
                module.p = 0.0
    return models


def score(models: dict[str, Segmenter]) -> tuple[dict[str, float], None]:
    """Some number that depends on the weights, and falls: the first evaluation is the best."""
    return {"score": -next(iter(models.values())).head.classifier.weight.abs().sum().item()}, None


def fit(
    out: Path,
    models: dict[str, Segmenter] | None = None,
    data: TrainingSet | None = None,
    augment: Augment | None = None,
    evaluate=score,
    resume: bool = False,
    **recipe,
) -> dict[str, Segmenter]:
    """`train` with defaults that do little."""
    recipe = Recipe(**{"iters": 3, "schedule": "constant", "l2": 0.0, **recipe})
    return dme.training.loop.train(
        models or networks(), data or discs(), augment or Augment(), recipe, out, evaluate, resume
    )


def state(out: Path) -> dict[str, Tensor]:
    """Every tensor of a run's checkpoint."""
    saved = torch.load(out / "last.pt", weights_only=True)
    tensors = {}
    for part in ("model", "average"):
        for name, value in (saved[part] or {}).items():
            tensors[f"{part} {name}"] = value
    for i, values in saved["optimizer"]["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer {i} {name}"] = value
    return tensors


def spread(models: dict[str, Segmenter]) -> tuple[dict[str, float], None]:
    """How far the evaluated weights and statistics of the ranks are from their mean."""
    far = 0.0
    for value in next(iter(models.values())).state_dict().values():
        mean = ranks.total(value.double()) / ranks.world_size()
        far += ranks.total((value - mean).abs().sum()).item()
    return {"score": far}, None


def kill_while_saving(nth: int) -> None:
    """The nth writing of last.pt stops half-way, by SIGKILL."""
    save = torch.save
    calls = []

    def killing(content, f):
        if "last.pt" in f.name:
            calls.append(f.name)
        if len(calls) == nth:
            f.write(b"PK half a checkpoint")
            f.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, f)

    torch.save = killing


if __name__ == "__main__":
    torch.set_num_threads(1)
    job = sys.argv[1]
    folder = Path(sys.argv[2])
    if job == "killed":
        kill_while_saving(2)
        fit(folder, networks("psp", "fcn"), augment=MOVING, **FULL)
    if job == "ranks":
        # what two ranks and one must do alike: no batch statistics, no dropout, ce
        alike = dict(augment=MOVING, iters=2, batch=4, freeze_bn=True, lr=0.1)
        fit(folder / "alike", networks(dropout=False), **alike)
        fit(folder / "average", networks(), evaluate=spread, iters=2, batch=4, ema=0.9)
        taught = dict(data=labelled_and_not(), evaluate=spread, iters=3, batch=4, ema=0.9)
        fit(folder / "unlabelled", networks(), **taught)
        fit(folder / "statistics", networks(), evaluate=spread, iters=2, batch=4)
    if job == "ranks" and ranks.rank() == 1:
        dme.training.loop.get_loss = lambda name: lambda logits, target: logits.sum() * math.nan
    if job == "ranks" and ranks.world_size() > 1:
        try:
            fit(folder / "nan", batch=4, save_every=2)
        except InputError as e:
            (folder / f"{ranks.rank()}.txt").write_text(str(e))
    ranks.leave()
