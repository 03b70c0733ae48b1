"""The checkpoint of a training run: everything that a resumed one needs."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from dme.common.errors import InputError
from dme.common.files import atomic_path, load_archive
from dme.training.joint import Joint


@dataclass
class State:
    """Everything a resumed run needs."""

    joint: Joint
    average: Joint | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    config: dict
    best: float = math.nan

    def save(self, path: Path, step: int) -> None:
        content = {
            "step": step,
            "best": self.best,
            "config": self.config,
            "model": self.joint.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            torch.save(content, f)

    def load(self, path: Path, device: torch.device) -> int:
        """Returns the steps done. Raises InputError for a file that is absent, damaged or does not fit."""
        if not path.exists():
            raise InputError(f"nothing to resume: {path} does not exist; start without --resume")
        try:
            saved = load_archive(path, device)
            theirs = saved["config"]
        except Exception as e:
            reason = " ".join(str(e).split()) or type(e).__name__
            raise InputError(
                f"{path} is damaged or no training checkpoint ({reason}); start again without --resume"
            ) from e
        differing = [k for k in self.config | theirs if theirs.get(k) != self.config.get(k)]
        if differing:
            told = ", ".join(f"{k} {theirs.get(k)} -> {self.config.get(k)}" for k in differing)
            raise InputError(
                f"{path} was made with other settings ({told}); resume with the same or choose another --out"
            )
        try:
            self.joint.load_state_dict(saved["model"])
            if self.average:
                self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.best = saved["best"]
            return saved["step"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            raise InputError(
                f"{path} holds another network or was written by another version of dme "
                f"({' '.join(str(e).split())[:200]}); start again without --resume"
            ) from e
