"""Several processes of one run, as started by `torchrun`; one plain process is rank 0 of 1."""

import os

import torch
from torch import distributed


def join() -> tuple[int, int, torch.device]:
    """Join the other ranks, if torchrun started any. Returns (rank, number of ranks, this rank's device)."""
    cuda = torch.cuda.is_available()
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return rank(), world_size(), device


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def leave() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
