"""What heads compute in a way of their own, against PyTorch's functions."""

import pytest
import torch
from torch.nn import functional as F

from dme.nets.heads import pooled, pooled_by_products
from dme.nets.segmenter import build_model

HEADS_OF = {"unet": ("fcn", "psp", "deeplabv3"), "mobilenet_v3_small": ("lraspp",)}
SCALES = (1, 2, 3, 6)  # PSP's bins along each side
# a value's largest error, as a share of the largest value
TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3}


def with_gradient(pool, x: torch.Tensor, upstream: list[torch.Tensor]):
    """What `pool` makes of x, and the gradient in x from those in its results."""
    x = x.clone().requires_grad_()
    averages = pool(x, SCALES)
    loss = 0
    for average, gradient in zip(averages, upstream, strict=True):
        loss = loss + (average * gradient.to(average)).sum()
    loss.backward()
    return [average.detach() for average in averages], x.grad


def by_pytorch(x: torch.Tensor, scales: tuple[int, ...]) -> list[torch.Tensor]:
    return [F.adaptive_avg_pool2d(x, bins) for bins in scales]


def assert_close(result: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    assert (result.dtype, result.shape) == (dtype, exact.shape)
    error = (result.double() - exact).abs().max()
    assert error <= TOLERANCES[dtype] * exact.abs().max()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("height", "width"), [(6, 6), (7, 5), (1, 1), (31, 47), (64, 97), (2, 129)]
)
def test_pooling_by_products_is_adaptive_average_pooling(height, width, dtype, channels_last):
    generator = torch.Generator().manual_seed(0)
    # grey levels: in float16, sums of so many would be infinite
    x = torch.randint(-200, 1000, (2, 3, height, width), generator=generator).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    upstream = [torch.randn(2, 3, bins, bins, generator=generator) for bins in SCALES]
    if dtype is torch.float16:  # what both get must be the same
        upstream = [gradient.half() for gradient in upstream]

    exact, exact_gradient = with_gradient(by_pytorch, x.double(), upstream)
    averages, gradient = with_gradient(pooled_by_products, x, upstream)
    for average, expected in zip(averages, exact, strict=True):
        assert_close(average, expected, dtype)
    assert_close(gradient, exact_gradient, dtype)


def test_a_cpu_pools_as_pytorch_does():
    x = torch.randn(2, 4, 13, 9, generator=torch.Generator().manual_seed(0))
    for average, expected in zip(pooled(x, SCALES), by_pytorch(x, SCALES), strict=True):
        assert torch.equal(average, expected)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [(backbone, head) for backbone, heads in HEADS_OF.items() for head in heads],
)
def test_a_tenth_of_the_classifiers_channels_is_dropped_in_training_alone(backbone, head):
    torch.manual_seed(0)
    width = 2 if backbone == "unet" else 0.5
    model = build_model(backbone=backbone, head=head, width=width)
    entering = {}
    for name in ("head", "aux_head"):
        part = getattr(model, name, None)
        if part is not None:
            part.classifier.register_forward_pre_hook(
                lambda _, inputs, name=name: entering.setdefault(name, []).append(inputs[0])
            )
    x = torch.randn(2, 3, 64, 64)
    for _ in range(60):
        model.train().forward_with_aux(x)
    for name, features in entering.items():
        dropped = torch.cat(features).flatten(2).abs().amax(2) == 0  # (N, channels)
        # some channels are silent by themselves: by how many more those of training are
        features.clear()
        model.eval().forward_with_aux(x)
        silent = torch.cat(features).flatten(2).abs().amax(2) == 0
        assert not silent.all()
        kept = ~silent.any(0)
        assert 0.05 < dropped[:, kept].float().mean() < 0.15, name
        features.clear()
    assert "head" in entering
