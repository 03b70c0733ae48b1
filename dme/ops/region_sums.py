"""`dme::region_sums`: what cross-entropy and the overlap losses need of logits, in one pass each way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dme.ops import check_logits, needing_triton, sums_dtype


def region_sums(logits: Tensor, target: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Sums over each image's pixels of the softmax p of its logits and the one-hot truth t.

    logits: (N, C, H, W), float32 / bfloat16 / float16 (computed in float32) or float64; any strides.
    target: integer (N, H, W), of 0..C-1 and ignore_index; t is 0 where it is the latter. Other labels are not
        looked for: what they do is undefined.

    Returns the cross-entropy (N,), which ignored pixels leave alone, and (N, C, 4): sum(t p), sum(p) without
    ignored pixels, sum(t), and sum(p^2) with them. Differentiable once, in the logits: the way back computes
    p again, so that nothing of the logits' size is kept. Raises InputError for shapes and types that do not
    fit.
    """
    check_logits(logits, target)
    return torch.ops.dme.region_sums(logits, target, ignore_index)


def sums_by_pytorch(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The definition, which autograd can follow."""
    logits = logits.to(sums_dtype(logits))
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    valid = (target != ignore_index)[:, None]
    p, t = logits.softmax(1), ((target[:, None] == classes) & valid).to(logits.dtype)
    entropy = -(logits.log_softmax(1) * t).sum((1, 2, 3))
    parts = p * t, p * valid, t, p.square()
    return entropy, torch.stack([part.sum((2, 3)) for part in parts], -1)


@torch.library.custom_op("dme::region_sums", mutates_args=(), device_types="cpu")
def _sums(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    if logits.shape[1] == 2:
        return _sums_of_two(logits, target, ignore_index)
    entropy, sums = _empty(logits)
    for n in range(len(logits)):  # an image at a time stays in the cache
        known, at = _known_and_place(target[n : n + 1], ignore_index, sums)
        log_p = logits[n : n + 1].to(sums.dtype).log_softmax(1)
        entropy[n] = -(log_p.gather(1, at) * known).sum()
        p = log_p.exp_()
        counted = p.gather(1, at) * known, known  # in float64, for bincount adds them one by one
        overlap, true = (torch.bincount(at.flatten(), of.flatten().double(), sums.shape[1]) for of in counted)
        predicted = torch.einsum("nchw,nhw->c", p, known[:, 0])
        squared = torch.linalg.vector_norm(p, dim=(0, 2, 3)).square()
        sums[n] = torch.stack([overlap.to(p.dtype), predicted, true.to(p.dtype), squared], -1)
    return entropy, sums


def _known_and_place(target: Tensor, ignore_index: int, sums: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W): 0 where the label is ignored, else 1, in the type of `sums`; the class, int64."""
    place = target[:, None].long().clamp(0, sums.shape[-2] - 1)  # any where the label is ignored
    return (target != ignore_index)[:, None].to(sums.dtype), place


def _sums_of_two(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Of two classes the difference of the logits says everything: half the work."""
    dtype = sums_dtype(logits)
    valid, t = _valid_and_second(target, ignore_index, dtype)
    p = logits[:, 1].to(dtype) - logits[:, 0].to(dtype)
    entropy = (F.softplus(p).mul_(valid) - p * t).sum((1, 2))
    p.sigmoid_()  # probability of the second class
    overlap, predicted, true, known, total = (x.sum((1, 2)) for x in (p * t, p * valid, t, valid, p))
    squared = p.square_().sum((1, 2))
    first = known - true - predicted + overlap, known - predicted, known - true
    first = torch.stack([*first, p[0].numel() - 2 * total + squared], -1)
    return entropy, torch.stack([first, torch.stack([overlap, predicted, true, squared], -1)], 1)


def _valid_and_second(target: Tensor, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, H, W): 0 where the label is ignored, else 1; t of the second class."""
    return (target != ignore_index).to(dtype), (target == 1).to(dtype).mul_(ignore_index != 1)


def _empty(logits: Tensor) -> tuple[Tensor, Tensor]:
    n, classes, *_ = logits.shape
    dtype = sums_dtype(logits)
    return logits.new_empty(n, dtype=dtype), logits.new_empty(n, classes, 4, dtype=dtype)


@torch.library.custom_op("dme::region_sums_backward", mutates_args=(), device_types="cpu")
def _gradient(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    """Gradient in the logits, from those in the two results."""
    if logits.shape[1] == 2:
        return _gradient_of_two(logits, target, ignore_index, of_entropy, of_sums)
    gradient = torch.empty_like(logits)
    for n in range(len(logits)):
        known, at = _known_and_place(target[n : n + 1], ignore_index, of_sums)
        overlap, predicted, _, squared = of_sums[n].unbind(-1)  # (C,)
        p = logits[n : n + 1].to(of_sums.dtype).softmax(1)
        at_truth = overlap[at] * p.gather(1, at) * known  # of the gradient along p, weighted with p
        mean = torch.einsum("nchw,c->nhw", p, predicted)[:, None] * known + at_truth
        if squared.count_nonzero():
            mean += torch.einsum("nchw,c->nhw", p.square(), 2 * squared)[:, None]
        everywhere = torch.addcmul(-mean, (predicted + of_entropy[n]).view(1, -1, 1, 1), known)
        if squared.count_nonzero():
            everywhere.addcmul_(p, squared.view(1, -1, 1, 1), value=2)
        everywhere.mul_(p).scatter_add_(1, at, at_truth - of_entropy[n] * known)
        gradient[n] = everywhere[0]
    return gradient


def _gradient_of_two(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    dtype = of_sums.dtype
    valid, t = _valid_and_second(target, ignore_index, dtype)
    overlap, predicted, _, squared = of_sums[..., None, None, :].unbind(-1)  # (N, 2, 1, 1)
    p = (logits[:, 1].to(dtype) - logits[:, 0].to(dtype)).sigmoid_()
    # along p, the probability of the second class; that of the first is 1 - p
    of_p = torch.addcmul((predicted[:, 1] - predicted[:, 0] - overlap[:, 0]) * valid, overlap.sum(1), t)
    if squared.count_nonzero():
        of_p += 2 * (squared.sum(1) * p - squared[:, 0])
    of_p.mul_(torch.addcmul(p, p, p, value=-1))
    of_p.addcmul_(of_entropy.view(-1, 1, 1), torch.addcmul(-t, p, valid))
    gradient = torch.empty_like(logits)
    gradient[:, 1] = of_p
    gradient[:, 0] = of_p.neg_()
    return gradient


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.ignore_index = inputs[2]


def _backward(ctx, of_entropy: Tensor, of_sums: Tensor) -> tuple[Tensor, None, None]:
    found = torch.ops.dme.region_sums_backward(*ctx.saved_tensors, ctx.ignore_index, of_entropy, of_sums)
    return found, None, None


_sums.register_autograd(_backward, setup_context=_save)


@_sums.register_kernel("cuda")
def _sums_cuda(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    with needing_triton():
        from dme.ops.region_sums_triton import add_up
    with torch.cuda.device(logits.device):
        return add_up(logits, target, ignore_index)


@_gradient.register_kernel("cuda")
def _gradient_cuda(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    with needing_triton():
        from dme.ops.region_sums_triton import differentiate
    with torch.cuda.device(logits.device):
        return differentiate(logits, target, ignore_index, of_entropy, of_sums)


@_sums.register_fake
def _sums_fake(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    return _empty(logits)


@_gradient.register_fake
def _gradient_fake(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    return torch.empty_like(logits)
