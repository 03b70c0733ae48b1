"""The depthwise convolution against PyTorch's in float64, where PyTorch's own is right."""

import pytest
import torch
import torch.nn.functional as F

from dme.nets.blocks import DepthwiseConv2d, InvertedResidual
from dme.ops.depthwise import convolve, depthwise_conv

# kernel, dilation, channels, height, width; grids of unequal size, images smaller than the
# kernel's reach
CASES = (
    ((3, 3), 1, 16, 12, 18),
    ((3, 3), 2, 24, 13, 17),
    ((3, 3), 4, 40, 16, 16),
    ((5, 5), 1, 17, 9, 11),
    ((5, 5), 2, 32, 15, 10),
    ((5, 5), 4, 33, 31, 13),
    ((7, 7), 3, 16, 20, 19),
    ((1, 5), 3, 16, 7, 8),
    ((5, 1), 3, 16, 7, 8),
    ((5, 5), 4, 16, 3, 2),
    ((3, 3), 2, 1, 1, 1),
)
LAYOUTS = ("contiguous", "sliced", "channels_last")
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
}


def example(kernel, channels, height, width, dtype, layout="channels_last"):
    """x, weight and the gradient that comes back, all exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 2, channels, height, 2 * width)
    noise = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(channels, 1, *kernel, generator=generator).to(dtype)
    x, gradient = noise[..., ::2]
    if layout != "sliced":
        form = FORMATS[layout]
        x = x.contiguous(memory_format=form)
        gradient = gradient.contiguous(memory_format=form)
    return x, weight, gradient


def with_gradients(convolution, x, weight, gradient):
    x = x.detach().clone().requires_grad_()
    weight = weight.detach().clone().requires_grad_()
    y = convolution(x, weight)
    y.backward(gradient)
    return y.detach(), x.grad, weight.grad


def by_pytorch(kernel, dilation):
    padding = [dilation * (side // 2) for side in kernel]

    def convolution(x, weight):
        return F.conv2d(x, weight, None, 1, padding, dilation, len(weight))

    return convolution


def by_operator(dilation):
    return lambda x, weight: depthwise_conv(x, weight, dilation)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_equals_pytorch_in_float64(case, dtype, layout):
    kernel, dilation, *shape = case
    inputs = example(kernel, *shape, dtype, layout)
    doubles = [tensor.double() for tensor in inputs]
    expected = with_gradients(by_pytorch(kernel, dilation), *doubles)
    results = with_gradients(by_operator(dilation), *inputs)
    for i, name in enumerate(("y", "of x", "of weight")):
        result = results[i]
        exact = expected[i]
        assert result.dtype == dtype, name
        assert result.shape == exact.shape, name
        scale = exact.abs().max().clamp_min(1e-6)
        error = (result.double() - exact).abs().max() / scale
        assert error <= TOLERANCES[dtype], (name, error)


@pytest.mark.parametrize(
    ("kernel", "dilation"),
    [
        ((3, 3), 2),
        ((5, 5), 1),
        ((5, 5), 2),
    ],
)
def test_opcheck_and_gradcheck(kernel, dilation):
    forward = torch.ops.dme.depthwise_conv.default
    backward = torch.ops.dme.depthwise_conv_backward.default
    x, weight, gradient = example(kernel, 3, 5, 6, torch.float64, "contiguous")
    torch.library.opcheck(backward, (gradient, x, weight, dilation))
    x.requires_grad_()
    weight.requires_grad_()
    torch.library.opcheck(forward, (x, weight, dilation))
    assert torch.autograd.gradcheck(by_operator(dilation), (x, weight))


def test_autocast_decides_the_type():
    x, weight, _ = example((3, 3), 4, 6, 6, torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight, 2)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert weight.grad.dtype == torch.float32


def test_a_bias_is_added_once():
    x, weight, _ = example((5, 5), 4, 9, 9, torch.float64)
    bias = torch.arange(4.0, dtype=torch.float64)
    expected = convolve(x, weight, 2) + bias.view(1, -1, 1, 1)
    at_once = convolve(x, weight, 2, bias)
    torch.testing.assert_close(at_once, expected)
    layer = DepthwiseConv2d(4, 4, 5, padding=4, dilation=2, groups=4)
    layer.weight.data = weight
    layer.bias.data = bias
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("kernel", "dilation"),
    [
        (3, 2),
        (5, 4),
    ],
)
def test_a_block_trains_in_bfloat16_as_in_float32(kernel, dilation):
    """PyTorch's own gradient of such a weight is off by a factor up to 1e30 on some CPUs."""
    torch.manual_seed(0)
    block = InvertedResidual(16, 64, 16, kernel, dilation=dilation)
    block = block.to(memory_format=torch.channels_last)
    assert type(block.depthwise.conv) is DepthwiseConv2d
    x = torch.randn(4, 16, 31, 24)
    x = x.contiguous(memory_format=torch.channels_last)
    gradients = []
    for enabled in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = block(x)
        y.float().square().mean().backward()
        gradients.append(block.depthwise.conv.weight.grad.clone())
    exact, low = gradients
    largest = exact.abs().max()
    assert (low - exact).abs().max() <= 0.05 * largest


def test_a_prediction_needs_no_operator_of_ours():
    conv = DepthwiseConv2d(8, 8, 5, padding=8, dilation=4, groups=8)
    conv.requires_grad_(False)
    example_input = torch.randn(1, 8, 9, 9)
    program = torch.export.export(conv, (example_input,))
    for node in program.graph.nodes:
        assert "dme" not in str(node.target)
    x = torch.randn(2, 8, 20, 11)
    expected = F.conv2d(x, conv.weight, conv.bias, 1, 8, 4, 8)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)
