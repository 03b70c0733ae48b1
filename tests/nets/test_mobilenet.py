"""MobileNets and LR-ASPP against MMSegmentation's numbers (tests/golden) and papers' tables."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hrffolder import make_hrf
from helpers.scripts import ROOT, call_main, load_script
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.inference.scan import predict
from dme.inference.windows import sliding_window, whole
from dme.nets.blocks import ConvBN, SqueezeExcitation, divisible
from dme.nets.checkpoint import save_model
from dme.nets.heads import LRASPPHead
from dme.nets.loading import convert_openmmlab, load_model, load_openmmlab
from dme.nets.mobilenet_v3 import SameConv2d
from dme.nets.openmmlab import read_arch
from dme.nets.segmenter import BACKBONES, build_model, require_arch, set_classes
from dme.nets.zoo import known
from dme.training.presets import PRETRAININGS
from dme.training.settings import Augment

NUMBERS = ROOT / "tests" / "golden" / "mobilenets.npz"
MOBILENETS = [name for name in BACKBONES if name != "unet"]
GOLDEN = {  # name in the file -> backbone, head, width, head_channels, aux_channels
    "v2_psp": ("mobilenet_v2", "psp", 0.5, 32, 24),
    "v2_fcn": ("mobilenet_v2", "fcn", 0.5, 32, 24),
    "v2_deeplabv3": ("mobilenet_v2", "deeplabv3", 0.5, 32, 24),
    "v3_large": ("mobilenet_v3_large", "lraspp", 1.0, 128, 0),
    "v3_small": ("mobilenet_v3_small", "lraspp", 1.0, 128, 0),
}


def drawn(names, shapes) -> dict[str, torch.Tensor]:
    """The golden networks' tensors, from NumPy's frozen generator."""
    random = np.random.RandomState(0)
    state = {}
    for name, shape in zip(names, shapes, strict=True):
        shape = tuple(int(side) for side in shape if side)
        value = random.standard_normal(shape)
        if name.endswith("running_var"):
            value = 0.5 + value**2
        elif len(shape) == 4:
            value = value / np.prod(shape[1:]) ** 0.5
        elif name.endswith("bn.weight"):
            value = 1 + 0.3 * value
        else:
            value = 0.3 * value
        value = value.astype(np.float32)
        state[str(name)] = torch.from_numpy(value)
    return state


def seeded(*shape: int) -> torch.Tensor:
    """The same numbers in 0..1 at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator)


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network, as they are now."""
    return copy.deepcopy(model.state_dict())


def assert_close(ours: torch.Tensor, theirs: np.ndarray, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=atol)


def thinned(feature: torch.Tensor) -> torch.Tensor:
    """About 24 channels and 12 pixels of the longer side, as stored."""
    _, channels, height, width = feature.shape
    step = max(1, max(height, width) // 12)
    channel_step = max(1, channels // 24)
    return feature[:, ::channel_step, ::step, ::step]


@pytest.mark.parametrize("name", GOLDEN)
def test_agrees_with_the_committed_golden_file(name, tmp_path):
    backbone, head, width, head_channels, aux_channels = GOLDEN[name]
    stored = np.load(NUMBERS)
    state = drawn(stored[f"{name}_names"], stored[f"{name}_shapes"])
    torch.save({"state_dict": state}, tmp_path / "golden.pth")
    model = convert_openmmlab(tmp_path / "golden.pth").eval()
    assert model.arch["num_classes"] == 5
    assert model.arch["backbone"] == backbone
    assert model.arch["head"] == head
    assert model.arch["width"] == width
    assert model.arch["head_channels"] == head_channels
    assert model.arch["aux_channels"] == aux_channels
    height, width = stored[f"{name}_size"].tolist()
    random = np.random.RandomState(1)
    noise = random.standard_normal((1, 3, height, width))
    x = torch.from_numpy(noise.astype(np.float32))
    with torch.inference_mode():
        features = model.backbone(x)
        decode = model.head(features)
        if model.aux_head is not None:
            assert_close(model.aux_head(features), stored[f"{name}_aux"])
    if head == "lraspp":
        decode = decode[..., ::8, ::8]
    assert_close(decode, stored[f"{name}_decode"])
    assert len(features) == len(model.backbone.out_channels)
    for i, feature in enumerate(features):
        assert feature.shape[1] == model.backbone.out_channels[i]
        if f"{name}_feat{i}" in stored:
            assert_close(thinned(feature), stored[f"{name}_feat{i}"])


@pytest.mark.parametrize("head", ["pspnet", "fcn", "deeplabv3"])
def test_v2_agrees_with_the_full_golden_files(golden, head):
    model = convert_openmmlab(next(golden.glob(f"mobilenet_v2_{head}_s0-*.pth"))).eval()
    assert model.arch["width"] == 0.25
    assert model.arch["head_channels"] == model.arch["aux_channels"] == 16
    assert model.classes == list("01234")
    numbers = np.load(golden / f"mobilenet_v2_{head}_s0.npz")
    for size in ("96x128", "130x111"):
        x = torch.from_numpy(numbers[f"input_{size}"])
        with torch.inference_mode():
            assert_close(model(x), numbers[f"decode_{size}"])
            for i, feature in enumerate(model.backbone(x)):
                assert_close(feature, numbers[f"feat{i}_{size}"])


def test_v3_agrees_with_the_full_golden_files(golden):
    """Its random features and logits reach 1000 and 450, of which 1e-5 is what float32 holds."""
    model = convert_openmmlab(next(golden.glob("mobilenet_v3_small_lraspp_s0-*.pth"))).eval()
    numbers = np.load(golden / "mobilenet_v3_small_lraspp_s0.npz")
    x = torch.from_numpy(numbers["input_400x528"])
    with torch.inference_mode():
        features = model.backbone(x)
        decode = model.head(features)

    def assert_agrees(ours, theirs):
        largest = np.abs(theirs).max()
        assert_close(ours, theirs, atol=1e-5 * largest)

    assert_agrees(features[-1], numbers["feat0_400x528"])
    assert_agrees(decode, numbers["decode_400x528"])


# Published numbers of parameters, less those of the ImageNet classifiers
@pytest.mark.parametrize(
    ("backbone", "published", "classifier"),
    [
        ("mobilenet_v2", 3_504_872, 320 * 1280 + 2 * 1280 + 1281 * 1000),
        ("mobilenet_v3_large", 5_483_032, 961 * 1280 + 1281 * 1000),
        ("mobilenet_v3_small", 2_542_856, 577 * 1024 + 1025 * 1000),
    ],
)
def test_full_size_backbones_have_the_published_number_of_parameters(
    backbone, published, classifier
):
    parameters = build_model(backbone).backbone.parameters()
    count = sum(parameter.numel() for parameter in parameters)
    assert count == published - classifier


# kernel, stride and dilation of every depthwise convolution, after the papers' tables: from 1/8
# on, what would have halved the size doubles the dilation, in V2 only that of a stage's first
# block
DEPTHWISE = {
    "mobilenet_v2": (
        "3/1/1 3/2/1 3/1/1 3/2/1 3/1/1 3/1/1 3/1/2 3/1/1 3/1/1 3/1/1 "
        "3/1/2 3/1/1 3/1/1 3/1/4 3/1/1 3/1/1 3/1/4"
    ),
    "mobilenet_v3_large": (
        "3/1/1 3/2/1 3/1/1 5/2/1 5/1/1 5/1/1 3/1/2 3/1/2 3/1/2 3/1/2 3/1/2 3/1/2 5/1/4 5/1/4 5/1/4"
    ),
    "mobilenet_v3_small": "3/2/1 3/2/1 3/1/1 5/1/2 5/1/2 5/1/2 5/1/2 5/1/2 5/1/4 5/1/4 5/1/4",
}
# of the first convolution, the blocks, the last convolution: r ReLU, 6 ReLU6, h hard swish
ACTIVATIONS = {
    "mobilenet_v2": "6" + 17 * "6",
    "mobilenet_v3_large": "h" + "rrrrrr" + "hhhhhhhhh" + "h",
    "mobilenet_v3_small": "h" + "rrr" + "hhhhhhhh" + "h",
}
ATTENTION = {  # blocks with squeeze-and-excitation
    "mobilenet_v2": 17 * "-",
    "mobilenet_v3_large": "---sss----sssss",
    "mobilenet_v3_small": "s--ssssssss",
}


@pytest.mark.parametrize("backbone", MOBILENETS)
def test_layers_are_those_of_the_paper_at_one_eighth(backbone):
    body = build_model(backbone).backbone
    blocks = []
    layers = []
    for module in body.modules():
        if isinstance(module, ConvBN):
            layers.append(module)
        if hasattr(module, "depthwise"):
            blocks.append(module)

    # convolutions: the first, the depthwise ones, and beside those only 1 x 1
    first, *others = layers
    assert first.conv.kernel_size == (3, 3)
    assert first.conv.stride == (2, 2)
    depthwise = []
    described = []
    for layer in others:
        conv = layer.conv
        if conv.groups == 1:
            assert conv.kernel_size == (1, 1)
            continue
        assert conv.groups == conv.in_channels == conv.out_channels
        depthwise.append(layer)
        described.append(f"{conv.kernel_size[0]}/{conv.stride[0]}/{conv.dilation[0]}")
    assert " ".join(described) == DEPTHWISE[backbone]

    # activations
    letters = {nn.ReLU: "r", nn.ReLU6: "6", nn.Hardswish: "h"}
    activated = [first, *depthwise]
    if "v3" in backbone:  # V2 ends in a block
        activated.append(layers[-1])
    activations = ""
    for layer in activated:
        activations += letters[type(layer.activation)]
    assert activations == ACTIVATIONS[backbone]

    # blocks
    attention = ""
    for block in blocks:
        attention += "s" if hasattr(block, "attention") else "-"
        assert not hasattr(block.project, "activation")
    assert attention == ATTENTION[backbone]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_batch_norm_is_openmmlabs(backbone):
    eps = 1e-3 if "v3" in backbone else 1e-5
    model = build_model(backbone)
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers
    for layer in layers:
        assert layer.eps == eps
        assert layer.momentum == 0.1


def test_squeeze_and_excitation_gates_with_the_hard_sigmoid():
    """(x + 3) / 6 within 0..1; channels // 4 in between, rounded to a multiple of 8."""
    block = SqueezeExcitation(24)
    assert block.squeeze.out_channels == 8
    assert SqueezeExcitation(96).squeeze.out_channels == 24
    assert SqueezeExcitation(240).squeeze.out_channels == 64  # 60 rounded

    slopes = np.linspace(-4, 4, 24)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.squeeze.weight[0, 0] = 1.0
        block.squeeze.weight[1, 0] = -1.0  # cut by ReLU
        block.excite.weight[:, 0, 0, 0] = torch.from_numpy(slopes)
        block.excite.weight[:, 1] = 100.0
    x = seeded(2, 24, 5, 7)
    mean = x[:, :1].double().mean((2, 3))  # (2, 1)
    gate = hard_sigmoid(slopes * mean.numpy())  # (2, 24)
    expected = x.numpy() * gate[:, :, None, None]
    assert_close(block(x).detach(), expected, atol=1e-6)


def hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip((x + 3) / 6, 0, 1)


def test_hard_swish_is_x_times_the_hard_sigmoid():
    model = build_model("mobilenet_v3_small", width=0.25)
    activation = model.backbone.layers[0].activation
    x = np.linspace(-5, 5, 41, dtype=np.float32)
    result = activation(torch.from_numpy(x.copy()))
    assert_close(result, x * hard_sigmoid(x), atol=1e-6)


def padded_as_tensorflow(image: np.ndarray, kernel: int) -> np.ndarray:
    """Zeros around an image (H, W) for a stride of 2."""
    margins = []
    for side in image.shape:
        output = math.ceil(side / 2)
        total = max((output - 1) * 2 + kernel - side, 0)
        before = total // 2
        margins.append((before, total - before))
    return np.pad(image, margins)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (8, 9),
        (9, 8),
        (1, 2),
    ],
)
def test_strided_convolutions_of_v3_pad_as_tensorflow(kernel, height, width):
    """Output of ceil(side / 2); of an odd number of zeros, one more at the right and bottom."""
    x = seeded(1, 1, height, width)
    conv = SameConv2d(1, 1, kernel, 2, padding=kernel // 2, bias=False)
    weight = conv.weight.detach().numpy()[0, 0]
    padded = padded_as_tensorflow(x[0, 0].numpy(), kernel)
    result = conv(x).detach()[0, 0]
    assert result.shape == (math.ceil(height / 2), math.ceil(width / 2))
    expected = np.zeros(result.shape)
    for i, j in np.ndindex(*result.shape):
        top = 2 * i
        left = 2 * j
        window = padded[top : top + kernel, left : left + kernel]
        expected[i, j] = (window * weight).sum()
    assert_close(result, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (8, 12),
        (49, 49),
        (60, 8),
        (64, 70),
        (81, 89),
        (82, 90),
    ],
)
def test_lraspp_averages_windows_of_49_or_all_there_is(height, width):
    """OpenMMLab's pool has windows of 49 x 49, 16 rows and 20 columns apart, and needs one."""
    head = LRASPPHead([2, 2, 3], 2, channels=4).eval()
    pooled = []
    head.image_pool.register_forward_pre_hook(lambda module, inputs: pooled.extend(inputs))
    x = seeded(1, 3, height, width)
    quarter = torch.zeros(1, 2, 2 * height, 2 * width)
    half = torch.zeros(1, 2, 4 * height, 4 * width)
    with torch.inference_mode():
        result = head([half, quarter, x])
    assert result.shape == (1, 2, 4 * height, 4 * width)

    tops = [0, *range(16, height - 48, 16)]
    lefts = [0, *range(20, width - 48, 20)]
    assert pooled[0].shape == (1, 3, len(tops), len(lefts))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            window = x[0, :, top : top + 49, left : left + 49]
            expected = window.mean((1, 2)).numpy()
            assert_close(pooled[0][0, :, i, j], expected, atol=1e-5)


def test_lraspp_gates_resizes_and_joins_as_written_out():
    torch.manual_seed(0)
    head = LRASPPHead([3, 5, 6], 2, channels=4, eps=1e-3).eval()
    early = torch.rand(1, 3, 21, 24)
    middle = torch.rand(1, 5, 11, 14)
    last = torch.rand(1, 6, 6, 9)

    def up(x, like):
        return F.interpolate(x, like.shape[-2:], mode="bilinear")

    def conv_bn_relu(block, x):
        x = F.conv2d(x, block.conv.weight)
        return F.relu(x / (1 + 1e-3) ** 0.5)  # fresh statistics: 0 and 1

    def joined(i, x, feature):
        skip = F.conv2d(feature, head.skips[i].weight)
        assert skip.shape[1] == (32, 64)[i]
        return conv_bn_relu(head.joins[i], torch.cat([up(x, feature), skip], 1))

    with torch.inference_mode():
        mean = last.mean((2, 3), keepdim=True)
        pooled = F.conv2d(mean, head.image_pool.conv.weight)
        x = conv_bn_relu(head.gated, last) * pooled.sigmoid()
        x = F.conv2d(x, head.mix.weight, head.mix.bias)
        x = joined(1, x, middle)
        x = joined(0, x, early)
        expected = F.conv2d(x, head.classifier.weight, head.classifier.bias)
        result = head([early, middle, last])
    assert_close(result, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("backbone", MOBILENETS)
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 1),
        (33, 70),
        (64, 48),
    ],
)
def test_any_size_gives_features_of_ceiled_fractions(backbone, height, width):
    model = build_model(backbone, width=0.25, head_channels=8).eval()
    parts = (4, 8, 8, 8) if backbone == "mobilenet_v2" else (2, 4, 8)
    x = torch.zeros(1, 3, height, width)
    with torch.inference_mode():
        features = model.backbone(x)
        at_once = whole(model, x)
        by_windows = sliding_window(model, x, 32, 20)
    assert at_once.shape == by_windows.shape == (1, 2, height, width)
    for feature, part in zip(features, parts, strict=True):
        size = (math.ceil(height / part), math.ceil(width / part))
        assert feature.shape[-2:] == size


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v3_small"])
def test_one_exported_graph_takes_any_size(backbone):
    model = build_model(backbone, width=0.25, head_channels=8).eval()
    height = 16 * torch.export.Dim("height", max=50)
    width = 16 * torch.export.Dim("width", max=50)
    shapes = {"x": {2: height, 3: width}}
    example = (torch.zeros(1, 3, 64, 80),)
    program = torch.export.export(model, example, dynamic_shapes=shapes)
    graph = program.module()
    with torch.inference_mode():
        for sides in ((32, 48), (416, 400)):  # less and more than LR-ASPP's window
            x = seeded(1, 3, *sides)
            expected = model(x).numpy()
            assert_close(graph(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [
        (1, 8),
        (8, 8),
        (11, 16),
        (12, 16),
        (18, 24),
        (19, 24),
        (33.6, 32),
        (134.4, 136),
    ],
)
def test_channels_are_rounded_as_in_the_paper(channels, rounded):
    """To the nearest multiple of 8, at least 8 and at least 90 %: MobileNetV2's rule."""
    assert divisible(channels) == rounded


@pytest.mark.parametrize(
    ("backbone", "width", "channels"),
    [
        ("mobilenet_v2", 0.5, [16, 16, 48, 160]),
        ("mobilenet_v2", 1.4, [32, 48, 136, 448]),
        ("mobilenet_v3_large", 0.5, [8, 16, 480]),
        ("mobilenet_v3_small", None, [16, 16, 576]),
    ],
)
def test_width_multiplies_channels(backbone, width, channels):
    model = build_model(backbone, width=width)
    assert model.backbone.out_channels == channels


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_architecture_is_read_off_the_tensors(backbone, tmp_path):
    kind = BACKBONES[backbone]
    widths = (1, 3) if backbone == "unet" else (0.25, 0.5, 1.0)
    for width in widths:
        for i, head in enumerate(kind.HEADS):
            options = dict(in_channels=1 + i, head_channels=6)
            model = build_model(backbone, head, 3 + i, width, **options)
            assert read_arch(model.state_dict()) == model.arch
            assert type(model.arch["width"]) is type(kind.WIDTH)
    save_model(model, tmp_path / "m.pth")
    assert load_model(tmp_path / "m.pth").arch == model.arch


def test_the_named_networks_can_be_built_and_their_scores_are_openmmlabs(golden):
    """Against the list the entries were made from."""
    listing = golden.parent / "openmmlab_model_zoo.json"
    if not listing.is_file():
        pytest.skip("no openmmlab_model_zoo.json beside the golden folder")
    classes = {"Cityscapes": 19, "ADE20K": 150}
    listed = {}
    for listed_entry in json.loads(listing.read_text()):
        other_head = "deeplabv3plus" in listed_entry["name"]
        if listed_entry["trained_on"] in classes and not other_head:
            listed[listed_entry["url"]] = listed_entry
    entries = {}
    for name, entry in known().items():
        if "url" in entry and "hrf" not in name:
            entries[name] = entry
    assert {entry["url"] for entry in entries.values()} == listed.keys()
    assert len(entries) == len(listed) == 11
    for name, entry in entries.items():
        theirs = listed[entry["url"]]
        trained_on = theirs["trained_on"]
        arch = entry["arch"]
        assert entry["sha256"] == theirs["sha256_prefix"]
        assert entry["reported"]["miou_percent"] == theirs["reported"]["mIoU"]
        assert arch["num_classes"] == classes[trained_on]
        assert name.startswith(f"{trained_on.lower()}-{arch['head']}-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("mobilenet_v3_small", "psp"),
            "unknown head 'psp' for a mobilenet_v3_small; choose one of lraspp",
        ),
        (
            ("mobilenet_v2", "lraspp"),
            "unknown head 'lraspp' for a mobilenet_v2; .* psp, fcn, deeplabv3",
        ),
        (("mobilenet_v2", None, 2, 0), "width is 0; it must be at least 0.01"),
        (("mobilenet_v2", None, 2, math.inf), "width is inf; a mobilenet_v2's is a finite number"),
        (("mobilenet_v2", None, 2, math.nan), "width is nan; it must be at least 0.01"),
        (("unet", None, 2, 2.5), "width is 2.5; a unet's is a whole number"),
        (("unet", None, 2, math.inf), "width is inf; a unet's is a whole number"),
        (
            ("mobilenet_v3_large", None, 2, 1.0, 3, None, True),
            "aux_channels is 0; it must be at least 1",
        ),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        build_model(*arguments)


def test_a_unets_width_may_come_as_a_float():
    arch = build_model("unet", width=2.0).arch
    assert arch == build_model("unet", width=2).arch
    assert type(arch["width"]) is int


def test_weights_of_another_network_are_refused_with_the_reason(golden):
    path = next(golden.glob("mobilenet_v2_pspnet_s0-*.pth"))

    def network(width=0.25, aux_channels=16):
        channels = dict(head_channels=16, aux_channels=aux_channels)
        return build_model("mobilenet_v2", "psp", 5, width, **channels)

    model = network()
    load_openmmlab(model, path)
    ours = model.backbone.stages[7][0].project.conv.weight
    theirs = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(ours, theirs["backbone.layer7.0.conv.2.conv.weight"])
    with pytest.raises(InputError, match="width 0.25, the network 0.5; build with width=0.25"):
        load_openmmlab(network(width=0.5), path)
    message = "aux_channels 16, the network 8; build with aux_channels=16"
    with pytest.raises(InputError, match=message):
        load_openmmlab(network(aux_channels=8), path)
    message = "backbone mobilenet_v2, the network unet; build with backbone="
    with pytest.raises(InputError, match=message):
        load_openmmlab(build_model(), path)
    model = load_model(path)
    require_arch(model, backbone="mobilenet_v2", head=None, width=0.25)
    message = "`width` 1 does not fit the weights mobilenet_v2_pspnet_s0-.*0.25"
    with pytest.raises(InputError, match=message):
        require_arch(model, width=1.0)


def test_other_classes_replace_the_classifier_alone():
    model = build_model("mobilenet_v3_small", num_classes=19, width=0.25)
    before = copied(model)
    assert set_classes(model, ["background", "fluid"]) == ["head.classifier"]
    after = model.state_dict()
    for name, value in after.items():
        is_same = torch.equal(value, before[name])
        assert is_same != ("classifier" in name), name
    rebuilt = build_model(**model.arch)
    assert after.keys() == rebuilt.state_dict().keys()


def test_fresh_convolutions_are_he_and_only_the_classifier_is_small():
    torch.manual_seed(0)
    model = build_model("mobilenet_v3_small", num_classes=50)
    last = model.backbone.layers[-1].conv

    def deviation(conv):
        return conv.weight.std().item()

    # fan out: sqrt(2 / output channels)
    assert deviation(last) == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert deviation(model.head.mix) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert deviation(model.head.classifier) == pytest.approx(0.01, rel=0.1)
    biases = 0
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "bn" not in name:
            biases += 1
            assert not parameter.any()
    assert biases == 2 * 9 + 2


class Shrink(nn.Module):
    """A backbone as someone would add it: one class in one file."""

    WIDTH = 4
    HEADS = {"fcn": {"channels": 8}, "lraspp": {"channels": 8}}
    AUX_CHANNELS = 6
    FIRST = "steps.0.conv.weight"
    WIDEST = ("steps.0.conv.weight", 1)
    OPENMMLAB = ((r"downs\.(\d)\.body\.", r"steps.\1."),)

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.out_channels = [width, width, width]
        self.steps = nn.ModuleList()
        for channels in (in_channels, width, width):
            self.steps.append(ConvBN(channels, width, stride=2))

    def forward(self, x):
        features = []
        for step in self.steps:
            x = step(x)
            features.append(x)
        return features


def name_at_openmmlab(name: str) -> str:
    """A tensor's name in OpenMMLab's checkpoint of a Shrink with an FCN head."""
    part, rest = name.split(".", 1)
    if part == "backbone":
        number, layer = rest.removeprefix("steps.").split(".", 1)
        return f"backbone.downs.{number}.body.{layer}"
    theirs = {"head": "decode_head", "aux_head": "auxiliary_head"}[part]
    if rest.startswith("conv."):
        return f"{theirs}.convs.0.{rest.removeprefix('conv.')}"
    return f"{theirs}.{rest.replace('classifier', 'conv_seg')}"


def test_a_new_backbone_is_one_class_and_one_entry_of_the_table(monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, "shrink", Shrink)
    x = torch.rand(1, 1, 40, 24)
    for head in Shrink.HEADS:
        model = build_model("shrink", head, in_channels=1).eval()
        assert model.arch["width"] == 4
        assert model.aux_head.conv.conv.out_channels == 6
        save_model(model, tmp_path / "m.pth")
        loaded = load_model(tmp_path / "m.pth")
        with torch.inference_mode():
            assert torch.equal(loaded(x), model(x))
        if head == "fcn":
            theirs = {}
            for name, value in model.state_dict().items():
                theirs[name_at_openmmlab(name)] = value
            torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
            converted = convert_openmmlab(tmp_path / "theirs.pth").eval()
            with torch.inference_mode():
                assert torch.equal(converted(x), model(x))


# From pretraining to a prediction


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    return make_hrf(tmp_path_factory.mktemp("hrf") / "hrf", 128, 192)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Ten noisy B-scans, each with a bright ellipse of fluid."""
    root = tmp_path_factory.mktemp("scans") / "own"
    rng = np.random.default_rng(0)
    for name in ("images", "fluid"):
        (root / name).mkdir(parents=True)
    y, x = np.mgrid[:64, :96]
    for i in range(10):
        down = (y - 30) ** 2 / 150
        right = (x - 40 - i) ** 2 / 400
        mask = down + right < 1
        image = 70 + 90 * mask + rng.normal(0, 25, mask.shape)
        image = image.clip(0, 255).astype(np.uint8)
        mask = mask.astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"scan{i}.png")
        Image.fromarray(mask).save(root / "fluid" / f"scan{i}.png")
    return root


@pytest.mark.parametrize("backbone", MOBILENETS)
def test_pretrained_fine_tuned_and_predicting(
    backbone, photographs, scans, tmp_path, monkeypatch, capsys
):
    pretrain = load_script("pretrain_hrf")
    finetune = load_script("finetune")
    augment = Augment(crop=64, max_class_share=1.0)
    small = replace(PRETRAININGS["small"], augment=augment)
    monkeypatch.setitem(PRETRAININGS, "small", small)
    heads = BACKBONES[backbone].HEADS
    head = next(iter(heads))
    # a quarter of the backbone goes with less than the usual 512
    monkeypatch.setitem(heads[head], "channels", 16)

    def call(script, *arguments):
        call_main(script, *arguments)
        return capsys.readouterr().out

    def results(name):
        return json.loads((tmp_path / name / "results.json").read_text())

    network = ("--backbone", backbone, "--width", 0.25)
    files = ("--data", photographs, "--out", tmp_path / "vessels")
    steps = ("--heads", head, "--steps", 3, "--batch", 2)
    printed = call(pretrain, *network, *files, *steps)
    (row,) = results("vessels")["rows"]
    assert row["backbone"] == backbone
    assert row["head"] == head
    assert row["width"] == 0.25
    assert np.sum(row["counts"]["full"]) == 30 * 128 * 192
    assert f"{backbone:18} {head:10}  0.25 {row['dice_scale']:7.4f}" in printed
    best = tmp_path / "vessels" / f"best-{head}.pt"

    files = ("--weights", best, "--data", scans, "--out", tmp_path / "fluid")
    steps = ("--size", "native", "--crop", 48, "--iters", 3, "--split", "random")
    trained = call(finetune, *network, *files, *steps)
    assert f"{backbone}, {head} head, width 0.25" in trained
    assert "replaced" not in trained
    start = load_model(best).state_dict()
    model = load_model(tmp_path / "fluid" / "model.pt")
    assert results("fluid")["arch"] == model.arch
    assert model.classes == ["background", "fluid"]
    for name, value in model.named_parameters():
        assert not torch.equal(value, start[name]), name  # everything learns

    image = np.asarray(Image.open(scans / "images" / "scan1.png"))
    mask, probability = predict(model, image)
    assert mask.shape == image.shape
    assert probability.std() > 0
    mean = np.array(model.preprocess["mean"])[:, None, None]
    std = np.array(model.preprocess["std"])[:, None, None]
    x = torch.from_numpy((image - mean) / std).float()[None]
    with torch.inference_mode():
        logits = F.interpolate(model(x), image.shape, mode="bilinear")
    expected = logits.softmax(1)[0, 1]
    assert_close(torch.from_numpy(probability), expected.numpy(), atol=1e-5)
