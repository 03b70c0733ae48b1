"""The network, its heads and the sliding window against MMSegmentation (tests/golden)."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import load_script
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.inference.protocols import PROTOCOLS, run_protocol
from dme.inference.scan import probabilities
from dme.inference.windows import flip_average, sliding_window, whole
from dme.nets.heads import conv_enlarged
from dme.nets.loading import convert_openmmlab
from dme.nets.segmenter import build_model, normalise, set_classes, start_at_shares
from dme.nets.unet import UNet

COMMITTED = Path(__file__).parents[1] / "golden"
CLASSIFIERS = ["head.classifier", "aux_head.classifier"]
HEADS = {"psp": "pspnet", "fcn": "fcn", "deeplabv3": "deeplabv3"}
# parameters whose gradients are golden, written out rather than taken from the converter's table
GRADIENTS = {
    "backbone.encoder.0.0.convs.0.conv.weight": "backbone.encoder.0.0.conv.weight",
    "backbone.decoder.0.upsample.interp_upsample.1.conv.weight": "backbone.up.0.conv.weight",
    "decode_head.conv_seg.weight": "head.classifier.weight",
    "auxiliary_head.conv_seg.weight": "aux_head.classifier.weight",
}


def assert_close(ours: torch.Tensor, theirs: np.ndarray, atol=1e-4) -> None:
    ours = ours.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def resized(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(x, (height, width), mode="bilinear")


def seeded(*shape: int) -> torch.Tensor:
    """The same normal numbers at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator)


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network, as they are now."""
    return copy.deepcopy(model.state_dict())


def committed_model(head: str, tmp_path: Path):
    """A golden network from committed files: FCN and DeepLabV3 store what differs from PSP."""
    checkpoint = next(COMMITTED.glob("pspnet_unet_s5-d16_w8*.pth"))
    if head == "psp":
        return convert_openmmlab(checkpoint).eval()
    stored = np.load(COMMITTED / f"{head}_w8.npz")
    psp = torch.load(checkpoint, weights_only=True)["state_dict"]
    state = {}
    for name, value in psp.items():
        if name.startswith("backbone."):
            state[name] = value
    for name in stored:
        if "state_" in name:
            theirs = name.removeprefix("state_")
            state[theirs] = torch.from_numpy(stored[name])
    torch.save({"state_dict": state}, tmp_path / "rebuilt.pth")
    return convert_openmmlab(tmp_path / "rebuilt.pth").eval()


def check_training(model: nn.Module, numbers, deep_tolerance: float) -> None:
    """Loss of both heads and gradients, trained without dropout: mean CE over all pixels, 0.4 aux.

    The gradients of the classifiers agree anywhere. Those of deep layers are not continuous in the
    rounding (an activation near zero passes ReLU or does not): the golden ones, float32, are up to
    2.4 % of the largest off those of a float64 run. With the kernels and the order of the
    reference they are equal.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    key = "input" if "input" in numbers else "input_96x128"
    target = torch.from_numpy(numbers["train_target"]).long()
    assert (target == 255).any()
    losses = []
    for logits in model.forward_with_aux(torch.from_numpy(numbers[key])):
        logits = resized(logits, *target.shape[-2:])
        entropy = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
        losses.append(entropy.mean())
    decode, aux = losses
    total = decode + 0.4 * aux

    def assert_equals(loss, name):
        expected = float(numbers[name])
        assert loss.item() == pytest.approx(expected, rel=1e-6)

    assert_equals(decode, "train_decode.loss_ce")
    assert_equals(0.4 * aux, "train_aux.loss_ce")
    assert_equals(total, "train_loss")

    total.backward()
    parameters = dict(model.named_parameters())
    for theirs, ours in GRADIENTS.items():
        expected = numbers[f"grad_{theirs}"]
        largest = np.abs(expected).max()
        tolerance = 1e-4 if ours.endswith("classifier.weight") else deep_tolerance
        assert_close(parameters[ours].grad, expected, atol=tolerance * largest)


def golden_model(golden: Path, head: str):
    checkpoint = next(golden.glob(f"{HEADS[head]}_unet_s5-d16_w8_s0-*.pth"))
    return convert_openmmlab(checkpoint)


def check_all_training(golden: Path, deep_tolerance: float) -> None:
    for head, file in HEADS.items():
        model = golden_model(golden, head)
        check_training(model, np.load(golden / f"{file}_w8_s0.npz"), deep_tolerance)


@pytest.mark.parametrize("head", HEADS)
def test_forward_agrees_with_the_full_golden_files(golden, head):
    model = golden_model(golden, head).eval()
    numbers = np.load(golden / f"{HEADS[head]}_w8_s0.npz")
    with torch.inference_mode():
        for size in ("96x128", "320x272"):
            x = torch.from_numpy(numbers[f"input_{size}"])
            decode, aux = model.forward_with_aux(x)
            assert_close(decode, numbers[f"decode_{size}"])
            assert_close(model(x), numbers[f"decode_{size}"])
            assert_close(aux, numbers[f"aux_{size}"])
            assert_close(sliding_window(model, x), numbers[f"slide_{size}"])
        features = model.backbone(torch.from_numpy(numbers["input_96x128"]))
    for i, feature in enumerate(features):
        assert_close(feature, numbers[f"feat{i}_96x128"])


def test_training_agrees_with_the_full_golden_files(golden):
    check_all_training(golden, deep_tolerance=0.05)


def use_the_order_of_the_reference(monkeypatch) -> None:
    """Enlarged maps are made, then convolved; test_bench.py shows that it is the same function."""
    for kind, plain in load_script("peers").PLAIN.items():
        monkeypatch.setattr(kind, "forward", plain.forward)


def test_training_agrees_closely_with_the_kernels_and_order_of_the_reference(golden):
    same_torch = torch.__version__.startswith("2.13")
    same_kernels = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not (same_torch and same_kernels):
        pytest.skip("the golden gradients come from torch 2.13 and AVX2 convolution kernels")
    script = (
        "import sys, pathlib, pytest, torch, test_segmenter; torch.set_num_threads(2); "
        "test_segmenter.use_the_order_of_the_reference(pytest.MonkeyPatch()); "
        "test_segmenter.check_all_training(pathlib.Path(sys.argv[1]), deep_tolerance=1e-4)"
    )
    here = Path(__file__).parent
    folders = (here.parents[1], here.parent, here)
    path = os.pathsep.join(map(str, folders))
    environment = os.environ | {"DNNL_MAX_CPU_ISA": "AVX2", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", script, str(golden)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("head", HEADS)
def test_forward_agrees_with_the_committed_golden_files(tmp_path, head):
    model = committed_model(head, tmp_path)
    numbers = np.load(COMMITTED / f"{head}_w8.npz")
    x = torch.from_numpy(numbers["input"])
    with torch.inference_mode():
        decode, aux = model.forward_with_aux(x)
        features = model.backbone(x)
    thin = (..., slice(None, None, 2), slice(None, None, 2))  # every second pixel, as stored
    assert_close(decode[thin], numbers["decode"])
    assert_close(aux[thin], numbers["aux"])
    if head == "psp":
        assert_close(features[0], numbers["feat0"])
        assert_close(features[1], numbers["feat1"])
        assert_close(features[2][thin], numbers["feat2"])


def test_training_agrees_with_the_committed_golden_files(tmp_path):
    model = committed_model("psp", tmp_path)
    numbers = np.load(COMMITTED / "psp_w8.npz")
    check_training(model, numbers, deep_tolerance=0.05)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (33, 47),
        (5, 4),
        (96, 128),
    ],
)
def test_convolving_enlarged_grids_equals_enlarging_first(height, width):
    torch.manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    grids = [noise(2, 3, 1, 1), noise(2, 4, 2, 3), noise(2, 2, 6, 6)]
    kernel = noise(5, 9, 3, 3)
    like = torch.empty(2, 1, height, width)
    result = conv_enlarged(grids, kernel, like)
    enlarged = [resized(grid, height, width) for grid in grids]
    expected = F.conv2d(torch.cat(enlarged, dim=1), kernel, padding=1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)

    upstream = torch.randn_like(expected)
    inputs = [*grids, kernel]
    ours = torch.autograd.grad(result, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_networks_of_the_study_have_29_million_parameters(head):
    parameters = build_model(head=head, width=64).parameters()
    count = sum(parameter.numel() for parameter in parameters)
    assert count == pytest.approx(29.06e6, rel=2e-3)


def test_fresh_weights_have_the_stated_deviations():
    torch.manual_seed(0)
    model = build_model(head="fcn", width=16)
    conv = model.backbone.encoder[4][0].conv
    he = (2 / (9 * conv.out_channels)) ** 0.5  # fan out
    assert conv.weight.std().item() == pytest.approx(he, rel=0.02)
    classifier = model.head.classifier
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not classifier.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"head": "pspnet"},
            "unknown head 'pspnet' for a unet; choose one of psp, fcn, deeplabv3",
        ),
        ({"backbone": "resnet"}, "unknown backbone 'resnet'; choose one of unet, mobilenet_v2"),
        ({"num_classes": 1}, "num_classes is 1; it must be at least 2"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"in_channels": 0}, "in_channels is 0; it must be at least 1"),
        ({"head_channels": 0}, "head_channels is 0; it must be at least 1"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        build_model(**arguments)


def test_arch_rebuilds_the_network_and_aux_is_optional():
    channels = dict(width=2, in_channels=1, head_channels=6)
    model = build_model(head="deeplabv3", num_classes=4, aux=False, **channels)
    ours = model.state_dict()
    again = build_model(**model.arch).state_dict()
    assert again.keys() == ours.keys()
    for name, value in ours.items():
        assert again[name].shape == value.shape
        assert not name.startswith("aux_head")
    x = torch.zeros(1, 1, 16, 16)
    decode, aux = model.eval().forward_with_aux(x)
    assert decode.shape == (1, 4, 16, 16)
    assert aux is None
    assert len(model.classes) == 4
    assert len(model.preprocess["mean"]) == 1


@pytest.mark.parametrize("aux", [True, False])
def test_other_classes_replace_the_classifiers_and_nothing_else(aux):
    model = build_model(head="psp", num_classes=3, width=2, aux=aux)
    before = copied(model)
    torch.manual_seed(1)
    classes = ["background", "fluid", "drusen", "vessel"]
    replaced = set_classes(model, classes)
    assert replaced == CLASSIFIERS[: 1 + aux]
    assert model.classes == ["background", "fluid", "drusen", "vessel"]
    assert model.arch["num_classes"] == 4
    after = model.state_dict()
    rebuilt = build_model(**model.arch).state_dict()
    assert after.keys() == before.keys() == rebuilt.keys()
    for name, value in after.items():
        old = before[name]
        if "classifier" not in name:
            assert torch.equal(value, old), name
        elif name.endswith("weight"):
            assert value.shape == (4, *old.shape[1:])
            assert value.std().item() == pytest.approx(0.01, rel=0.5)
            assert not torch.isin(value, old).any()
        else:
            assert value.shape == (4,)
            assert not value.any()
    x = torch.zeros(1, 3, 16, 16)
    decode, auxiliary = model.eval().forward_with_aux(x)
    assert decode.shape[1] == 4
    assert auxiliary is None or auxiliary.shape[1] == 4


@pytest.mark.parametrize("aux", [True, False])
def test_classifiers_start_at_shares(aux):
    model = build_model(num_classes=3, width=2, aux=aux)
    before = copied(model)
    shares = torch.tensor([0.9, 0.07, 0.03])
    start_at_shares(model, shares)
    changed = []
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            changed.append(name)
    names = CLASSIFIERS[: 1 + aux]
    assert changed == [f"{name}.bias" for name in names]
    for name in names:
        classifier = model.get_submodule(name)
        nothing = torch.zeros(1, classifier.in_channels, 1, 1)
        probabilities = classifier(nothing).softmax(1).flatten()
        torch.testing.assert_close(probabilities, shares)


@pytest.mark.parametrize(
    "shares",
    [
        [0.5, 0.5],
        [1.0, 0.0, 0.0],
        [math.nan, math.nan, math.nan],
    ],
)
def test_impossible_shares_are_refused(shares):
    model = build_model(num_classes=3, width=2)
    with pytest.raises(ValueError, match="expected 3 numbers above 0"):
        start_at_shares(model, torch.tensor(shares))


def test_as_many_classes_keep_every_weight():
    model = build_model(width=2)
    torch.nn.init.ones_(model.head.classifier.bias)
    before = copied(model)
    arch = dict(model.arch)
    names = ["background", "fluid"]
    assert set_classes(model, names) == []
    assert model.arch == arch
    assert model.classes == names
    assert model.classes is not names
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("height", "width", "fit"),
    [
        (40, 48, "48 x 48"),
        (48, 33, "48 x 48"),
        (1, 1, "16 x 16"),
    ],
)
def test_unet_alone_refuses_sizes_that_16_does_not_divide(height, width, fit):
    message = f"UNet got {height} x {width}, expected multiples of 16; pad to {fit}"
    unet = UNet(3, width=1)
    x = torch.zeros(1, 3, height, width)
    with pytest.raises(ValueError, match=message):
        unet(x)


def test_whole_pads_by_repeating_the_edge_and_crops_back(tmp_path):
    model = committed_model("psp", tmp_path)
    x = seeded(2, 3, 37, 50)
    fits = x[..., :32, :48]
    margins = [(0, 0), (0, 0), (0, 11), (0, 14)]
    padded = np.pad(x.numpy(), margins, mode="edge")
    with torch.inference_mode():
        expected = model(torch.from_numpy(padded))
        assert_close(whole(model, x), expected[..., :37, :50].numpy(), atol=1e-6)
        expected = model(fits)
        assert_close(whole(model, fits), expected.numpy(), atol=0)


class Coarse(nn.Module):
    """Answers at half resolution by the place in the window, so that misplaced windows show."""

    def forward(self, x):
        ramp = torch.linspace(0, 1, x.shape[-1])
        first = x[:, 0] * (1 + ramp)
        second = x[:, 1] - ramp
        return F.avg_pool2d(torch.stack([first, second], dim=1), 2)


def naive_count(side: int, window: int, stride: int) -> int:
    """How many windows it takes along one side."""
    rest = max(side - window, 0)
    return int(np.ceil(rest / stride)) + 1


def naive_sliding_window(model, x, window, stride):
    """Pixel sums in loops, one window at a time, as OpenMMLab describes its slide_inference."""
    n, _, height, width = x.shape
    total = np.zeros((n, 2, height, width))
    count = np.zeros((height, width))
    for row in range(naive_count(height, window, stride)):
        for column in range(naive_count(width, window, stride)):
            bottom = min(row * stride + window, height)
            right = min(column * stride + window, width)
            top = max(bottom - window, 0)
            left = max(right - window, 0)
            piece = x[:, :, top:bottom, left:right]
            tall, wide = piece.shape[-2:]
            margins = (0, -wide % 16, 0, -tall % 16)
            padded = F.pad(piece, margins, mode="replicate")
            logits = resized(model(padded), *padded.shape[-2:])
            logits = logits[..., :tall, :wide].numpy()
            total[:, :, top:bottom, left:right] += logits
            count[top:bottom, left:right] += 1
    assert count.min() >= 1
    return total / count


@pytest.mark.parametrize("batch", [None, 1, 3, 100])
@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [
        (77, 101, 32, 20),
        (33, 32, 32, 32),
        (20, 70, 32, 21),
        (19, 23, 64, 64),
        (65, 64, 24, 5),
        (96, 96, 32, 32),
    ],
)
def test_sliding_window_equals_a_naive_one(height, width, window, stride, batch):
    x = seeded(2, 2, height, width)
    ours = sliding_window(Coarse(), x, window, stride, batch)
    expected = naive_sliding_window(Coarse(), x, window, stride)
    assert_close(ours, expected, atol=1e-5)


@pytest.mark.parametrize("stride", [33, 0, -1])
def test_stride_that_skips_pixels_is_refused(stride):
    x = torch.zeros(1, 2, 64, 64)
    with pytest.raises(ValueError, match=f"stride {stride} must be between 1 and the window's 32"):
        sliding_window(Coarse(), x, window=32, stride=stride)


@pytest.mark.parametrize(
    ("head", "layer"),
    [
        ("psp", "PSP's 1 x 1 pool"),
        ("deeplabv3", "DeepLabV3's image pool"),
    ],
)
def test_training_with_batch_1_says_why_it_cannot(head, layer):
    model = build_model(head=head, width=1)
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=f"training with batch 1: {layer}.*batch of at least 2"):
        model.train()(x)
    assert model.eval()(x).shape == (1, 2, 32, 32)


def test_fcn_trains_with_batch_1():
    x = seeded(1, 3, 32, 32)
    model = build_model(head="fcn", width=1).train()
    decode, aux = model.forward_with_aux(x)
    assert decode.isfinite().all()
    assert aux.shape == (1, 2, 16, 16)


def test_flip_average_is_the_mean_of_two_softmaxes():
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    ramp = torch.tensor([0.0, 1.0, 3.0])  # sees position, so it differs on the mirror image

    def predict(x):
        return torch.cat([x * ramp, torch.zeros_like(x)], dim=1)

    # logits against 0: straight 1*0, 2*1, 4*3; mirrored 4*0, 2*1, 1*3, which lie at columns 2, 1,
    # 0
    straight = torch.tensor([0.0, 2.0, 12.0]).sigmoid()
    mirrored = torch.tensor([3.0, 2.0, 0.0]).sigmoid()
    expected = (straight + mirrored) / 2
    ours = flip_average(predict, x)
    assert_close(ours[0, 0, 0], expected.numpy(), atol=1e-6)
    total = ours.sum(1)
    assert_close(total, np.ones((1, 1, 3)), atol=1e-6)


def test_normalise_repeats_grey_and_uses_each_channels_statistics():
    preprocess = {"mean": [100.0, 50.0, 0.0], "std": [50.0, 10.0, 1.0]}
    grey = torch.full((1, 2, 2), 200, dtype=torch.uint8)
    pixel = normalise(grey, preprocess)[0, :, 0, 0]
    assert pixel.tolist() == [2.0, 15.0, 200.0]
    colour = torch.tensor([50.0, 60.0, 7.0]).view(1, 3, 1, 1)
    pixel = normalise(colour, preprocess).flatten()
    assert pixel.tolist() == [-1.0, 1.0, 7.0]
    with pytest.raises(ValueError, match="image has 2 channels; the network wants 3"):
        normalise(torch.zeros(1, 2, 4, 4), preprocess)


def test_protocol_enlarges_rounds_normalises_and_comes_back():
    class Pointwise(nn.Module):
        preprocess = {"mean": [10.0, 0.0, 0.0], "std": [2.0, 1.0, 1.0]}

        def forward(self, x):  # a pointwise network does not notice the windows
            return torch.stack([x[:, 0] ** 2, x[:, 2]], dim=1)

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 40, 40), generator=generator)
    images = images.byte()
    side = PROTOCOLS["light"]
    assert side == 512
    enlarged = resized(images[:, None].double(), side, side)
    grey = enlarged[:, 0].round()
    squared = ((grey - 10) / 2) ** 2
    logits = torch.stack([squared, grey], dim=1)
    expected = resized(logits, 40, 40).numpy()
    result = run_protocol(Pointwise(), images, "light").numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=0.01)


def scan(height: int, width: int) -> torch.Tensor:
    """Random grey levels that change over some pixels, as in pictures."""
    generator = torch.Generator().manual_seed(0)
    grid = (1, 1, height // 8 + 1, width // 8 + 1)
    noise = torch.rand(grid, generator=generator)
    smooth = resized(noise, height, width)[0, 0]
    return (255 * smooth).round().byte()


def trained_at(size: str, tmp_path):
    model = committed_model("psp", tmp_path)
    model.preprocess = model.preprocess | {"size": size}
    return model


def test_probabilities_of_a_study_scan_are_those_of_its_protocol(tmp_path):
    model = trained_at("512", tmp_path)
    image = scan(256, 256)
    ours = probabilities(model, image)
    assert ours.shape == (2, 256, 256)
    assert ours.dtype == torch.float32
    expected = run_protocol(model, image[None], "light").softmax(1)[0]
    assert_close(ours, expected.numpy(), atol=1e-6)
    assert ours.std() > 0.01


def test_probabilities_of_any_scan_are_those_of_its_256_version(tmp_path):
    """Bicubic as Pillow does it, twice as large, and the logits back on the scan's own pixels."""
    model = trained_at("512", tmp_path)
    image = scan(123, 301)
    small = Image.fromarray(image.numpy())
    small = small.resize((256, 256), Image.Resampling.BICUBIC)
    small = torch.from_numpy(np.array(small, np.float64))
    doubled = resized(small[None, None], 512, 512)[0]
    with torch.inference_mode():
        x = normalise(doubled.round(), model.preprocess)
        logits = naive_sliding_window(model, x, 256, 170)
    logits = resized(torch.from_numpy(logits), 123, 301)
    expected = logits.softmax(1)[0].numpy()
    assert_close(probabilities(model, image), expected, atol=1e-5)


def test_probabilities_of_a_native_scan_are_those_of_its_pixels(tmp_path):
    model = trained_at("native", tmp_path)
    image = scan(261, 99)
    with torch.inference_mode():
        logits = whole(model, normalise(image[None], model.preprocess))
    expected = logits.softmax(1)[0].numpy()
    ours = probabilities(model, image)
    assert ours.shape == (2, 261, 99)
    assert_close(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ("native", (99, 261)),
        ("512", (256, 256)),
        ("512", (123, 301)),
    ],
)
def test_flipping_averages_a_scan_and_its_mirror_image(tmp_path, size, shape):
    model = trained_at(size, tmp_path)
    image = scan(*shape)
    straight = probabilities(model, image)
    mirrored = probabilities(model, image.flip(-1))
    mirrored = mirrored.flip(-1)
    mean = (straight + mirrored) / 2
    ours = probabilities(model, image, flip=True)
    total = ours.sum(0)
    assert ours.shape == (2, *shape)
    assert_close(total, np.ones(shape), atol=1e-5)
    assert_close(ours, mean.numpy(), atol=1e-5)
    assert (straight - mirrored).abs().max() > 0.01  # else the mean says nothing
