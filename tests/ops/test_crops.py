import numpy as np
import pytest
import torch
from helpers.kernels import NEEDS_CUDA, NEEDS_TRITON, interpreted, machine_code
from scipy.ndimage import map_coordinates

from dme.common.errors import InputError
from dme.ops import needing_triton
from dme.ops.crops import crops_by_pytorch, inverse_maps, sample_crops

GEOMETRY = torch.tensor(
    [  # top, left, step_y, step_x, angle, mirrored
        [3, 5, 1, 1, 0, 0],
        [-4, 20, 1, 1, 0, 1],
        [2.0, -3, 40 / 47, 61 / 70, 0, 0],
        [9, 14, 40 / 33, 61 / 50, 0.3, 0],
        [0, 0, 1, 1, -2.2, 1],
        [30, 50, 1.3, 0.8, 0.1, 1],
    ],
    dtype=torch.float64,
)


def example(channels=1, sliced=False):
    """Scans of different sizes and their masks, a scan for each row of GEOMETRY."""
    rng = np.random.default_rng(3)
    images = []
    masks = []
    for i in range(len(GEOMETRY)):
        height, width = (40, 61) if i % 2 else (53, 38)
        image = rng.integers(0, 256, (height, 2 * width, channels), np.uint8)
        mask = rng.choice([0, 1, 255], (height, 2 * width)).astype(np.uint8)
        image = torch.from_numpy(image)[:, ::2].permute(2, 0, 1)
        mask = torch.from_numpy(mask)[:, ::2]
        if not sliced:
            image = image.contiguous()
            mask = mask.contiguous()
        images.append(image)
        masks.append(mask)
    return images, masks


def sampled_by_scipy(image, mask, row, out_h, out_w):
    """Turned about the crop's centre in the scaled frame, then looked up in the source."""
    top, left, step_y, step_x, angle, mirrored = row.tolist()
    i, j = np.mgrid[:out_h, :out_w] + 0.5
    if mirrored:
        j = out_w - j
    down = i - out_h / 2
    right = j - out_w / 2
    turned = (down + 1j * right) * np.exp(1j * angle)
    y = (turned.real + top + out_h / 2) * step_y
    x = (turned.imag + left + out_w / 2) * step_x
    height, width = mask.shape
    inside = (y >= 0) & (y < height)
    inside &= (x >= 0) & (x < width)
    channels = []
    for plane in image.astype(float):
        place = (y - 0.5, x - 0.5)
        channels.append(map_coordinates(plane, place, order=1, mode="nearest"))
    row = np.where(inside, y, 0).astype(int)
    column = np.where(inside, x, 0).astype(int)
    labels = np.where(inside, mask[row, column], 255)
    return np.stack(channels), labels, inside


def tolerance(row):
    """Of 255 grey levels: a crop neither scaled nor turned is copied bit for bit."""
    _, _, step_y, step_x, angle, _ = row.tolist()
    copied = step_y == step_x == 1 and angle == 0
    return 0 if copied else 0.01


GREY = (1, False)  # channels, sliced
COLOUR = (3, True)


@pytest.mark.parametrize(("channels", "sliced"), [GREY, COLOUR])
def test_crops_equal_those_by_scipy(channels, sliced):
    images, masks = example(channels, sliced)
    x, labels, inside = sample_crops(images, masks, GEOMETRY, 33, 42)
    assert x.dtype == torch.float32
    assert labels.dtype == torch.uint8
    assert inside.dtype == torch.bool
    assert x.shape == (len(images), channels, 33, 42)
    assert labels.shape == (len(images), 33, 42)
    for i, row in enumerate(GEOMETRY):
        image = images[i].numpy()
        mask = masks[i].numpy()
        expected, expected_labels, framed = sampled_by_scipy(image, mask, row, 33, 42)
        assert np.array_equal(inside[i], framed)
        assert np.array_equal(labels[i], expected_labels)
        found = x[i].numpy()[:, framed]
        atol = tolerance(row)
        np.testing.assert_allclose(found, expected[:, framed], rtol=0, atol=atol)


def test_opcheck():
    op = torch.ops.dme.sample_crops.default
    images, masks = example(3, sliced=True)
    torch.library.opcheck(op, (images, masks, GEOMETRY, 20, 24))


def test_bad_input_says_found_and_expected():
    images, masks = example()
    floats = [image.float() for image in images]
    narrow = [mask[:, 1:] for mask in masks]

    def refused(message):
        return pytest.raises(InputError, match=message)

    with refused("6 images, 5 masks and geometry .6, 6.; expected as many of each"):
        sample_crops(images, masks[1:], GEOMETRY, 20, 24)
    with refused(r"geometry \(6, 5\); expected .* geometry \(B, 6\)"):
        sample_crops(images, masks, GEOMETRY[:, 1:], 20, 24)
    with refused("image of torch.float32 and a mask of torch.uint8; expected uint8"):
        sample_crops(floats, masks, GEOMETRY, 20, 24)
    with refused(r"image \(1, 53, 38\) and its mask \(53, 37\); expected \(H, W\)"):
        sample_crops(images, narrow, GEOMETRY, 20, 24)


def equal_crops(crops, expected):
    """The same labels; inside the frame the same image but for the order of roundings."""
    x, labels, inside = [part.cpu() for part in crops]
    expected_x, expected_labels, expected_inside = expected
    assert labels.dtype == expected_labels.dtype
    assert inside.dtype == expected_inside.dtype
    assert torch.equal(labels, expected_labels)
    assert torch.equal(inside, expected_inside)
    for i, row in enumerate(GEOMETRY):
        framed = inside[i]
        pixels = x[i, :, framed]
        expected_pixels = expected_x[i, :, framed]
        atol = tolerance(row)
        torch.testing.assert_close(pixels, expected_pixels, rtol=0, atol=atol)


def check_kernel_on_cpu():
    """With TRITON_INTERPRET=1: the Triton kernel against the CPU implementation."""
    from dme.ops.crops_triton import sample

    maps = inverse_maps(GEOMETRY, 33, 42)
    for channels, sliced in (GREY, COLOUR):
        images, masks = example(channels, sliced)
        expected = sample_crops(images, masks, GEOMETRY, 33, 42)
        crops = [torch.full_like(part, 7) for part in expected]
        sample(images, masks, maps, *crops, block=256)
        equal_crops(crops, expected)


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton")
    interpreted("from test_crops import check_kernel_on_cpu; check_kernel_on_cpu()")


@pytest.mark.parametrize("compute_capability", [75, 80, 90])
def test_triton_kernel_becomes_machine_code(compute_capability, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from dme.ops.crops_triton import _crops_kernel

    pointers = "*i64 *fp32 *fp32 *u8 *u8"
    constants = dict(IGNORE=255, BLOCK=1024)
    types = f"{pointers} i32 i32 i32"
    assert machine_code(_crops_kernel, types, compute_capability, **constants)
    constants["channels"] = 1  # Triton makes every 1 a constant
    types = f"{pointers} i32 i32"
    assert machine_code(_crops_kernel, types, compute_capability, **constants)


@pytest.mark.gpu
@NEEDS_CUDA
@NEEDS_TRITON
def test_cuda_equals_cpu():
    for channels, sliced in (GREY, COLOUR):
        images, masks = example(channels, sliced)
        expected = sample_crops(images, masks, GEOMETRY, 333, 217)
        images = [image.cuda() for image in images]
        masks = [mask.cuda() for mask in masks]
        for sample in (sample_crops, crops_by_pytorch):
            crops = sample(images, masks, GEOMETRY, 333, 217)
            equal_crops(crops, expected)


def test_without_triton_cuda_tensors_are_refused():
    message = "no Triton .*; CUDA tensors need it; install triton or use the CPU"
    with pytest.raises(InputError, match=message):
        with needing_triton():
            raise ImportError("No module named 'triton'")
