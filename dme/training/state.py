"""The checkpoint of a training run: everything that a resumed one needs."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dme.common.errors import InputError
from dme.common.files import atomic_path, load_archive
from dme.training.joint import Joint
from dme.training.settings import Augment, Recipe

# of a run that began before a setting existed, which did nothing of the kind
DEFAULTS = asdict(Augment()) | {"unlabelled_weight": Recipe.unlabelled_weight}


@dataclass
class State:
    """Everything a resumed run needs."""

    joint: Joint
    average: Joint | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    config: dict
    best: float = math.nan
    # what was measured since the last line of the log, where it was saved between two lines
    losses: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    @property
    def trained(self) -> Joint:
        """What is evaluated and kept: the moving average, if there is one."""
        return self.average or self.joint

    def save(self, path: Path, step: int) -> None:
        """Write the checkpoint after `step` steps, atomically."""
        content = {
            "step": step,
            "best": self.best,
            "config": self.config,
            "model": self.joint.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
            "counts": self.counts,
        }
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            torch.save(content, f)

    def load(self, path: Path, device: torch.device) -> int:
        """Take over a checkpoint; returns the steps done.

        Raises InputError for a file that is absent, damaged or does not fit.
        """
        if not path.exists():
            raise InputError(f"nothing to resume: {path} does not exist; start without `resume`")
        try:
            saved = load_archive(path, device)
            saved_config = saved["config"]
        except Exception as e:  # a damaged file can raise anything
            reason = " ".join(str(e).split()) or type(e).__name__
            raise InputError(
                f"{path} is damaged or no training checkpoint ({reason}); "
                "start again without `resume`"
            ) from e

        # the settings must be those of this run
        changes = []
        for key in self.config | saved_config:
            before = saved_config.get(key, DEFAULTS.get(key))
            now = self.config.get(key)
            if before != now:
                changes.append(f"{key} {before} -> {now}")
        if changes:
            raise InputError(
                f"{path} was made with other settings ({', '.join(changes)}); "
                "resume with the same or choose another `out`"
            )

        try:
            self.joint.load_state_dict(saved["model"])
            if self.average:
                self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.best = saved["best"]
            self.losses = saved.get("losses")  # older versions only saved with a line of the log
            self.counts = saved.get("counts")
            return saved["step"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            raise InputError(
                f"{path} holds another network or was written by another version of dme "
                f"({' '.join(str(e).split())[:200]}); start again without `resume`"
            ) from e
