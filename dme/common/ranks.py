"""Several processes of one run, as started by `torchrun`; one plain process is rank 0 of 1."""

import os
from typing import Any

import torch
from torch import Tensor, distributed, nn

from dme.common.errors import InputError


def join() -> tuple[int, int, torch.device]:
    """Join the other ranks, if torchrun started any.

    Returns (rank, number of ranks, this rank's device). Raises InputError for more ranks than
    GPUs.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise InputError(
                f"{device.index + 1} or more ranks on a machine with {torch.cuda.device_count()} "
                "GPU; start one per GPU (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not distributed.is_initialized():
        # Imported later, by an operator's first call, it would hold the group for good; gloo's
        # threads would still run when Python ends and now and then abort the process.
        from torch import _dynamo  # noqa: F401

        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank(), world_size(), device


def leave() -> None:
    """Leave the other ranks, if there are any."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """Sum `values` over the ranks, in place (collective); returns them."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def shared(value: Any) -> Any:
    """What rank 0 gives (collective)."""
    values = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def share_buffers(net: nn.Module) -> None:
    """Give every rank the buffers of rank 0 (collective): without SyncBN they differ."""
    if world_size() > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, 0)
