"""MobileNets and LR-ASPP against MMSegmentation's numbers (tests/golden) and papers' tables."""

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
        state[str(name)] = torch.from_numpy(value.astype(np.float32))
    return state


def assert_close(ours: torch.Tensor, theirs: np.ndarray, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=atol)


def thinned(feature: torch.Tensor) -> torch.Tensor:
    """About 24 channels and 12 pixels of the longer side, as stored."""
    step = max(1, max(feature.shape[-2:]) // 12)
    return feature[:, :: max(1, feature.shape[1] // 24), ::step, ::step]


@pytest.mark.parametrize("name", GOLDEN)
def test_agrees_with_the_committed_golden_file(name, tmp_path):
    backbone, head, width, head_channels, aux_channels = GOLDEN[name]
    stored = np.load(NUMBERS)
    state = drawn(stored[f"{name}_names"], stored[f"{name}_shapes"])
    torch.save({"state_dict": state}, tmp_path / "golden.pth")
    model = convert_openmmlab(tmp_path / "golden.pth").eval()
    assert model.arch["num_classes"] == 5
    assert (model.arch["backbone"], model.arch["head"]) == (backbone, head)
    assert model.arch["width"] == width
    assert model.arch["head_channels"] == head_channels
    assert model.arch["aux_channels"] == aux_channels
    height, width = stored[f"{name}_size"].tolist()
    noise = np.random.RandomState(1).standard_normal((1, 3, height, width))
    x = torch.from_numpy(noise.astype(np.float32))
    with torch.inference_mode():
        features = model.backbone(x)
        decode = model.head(features)
        aux = None if model.aux_head is None else model.aux_head(features)
    step = 8 if head == "lraspp" else 1
    assert_close(decode[..., ::step, ::step], stored[f"{name}_decode"])
    if aux is not None:
        assert_close(aux, stored[f"{name}_aux"])
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
    for ours, theirs in (
        (features[-1], numbers["feat0_400x528"]),
        (decode, numbers["decode_400x528"]),
    ):
        assert_close(ours, theirs, atol=1e-5 * np.abs(theirs).max())


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
    count = sum(p.numel() for p in build_model(backbone).backbone.parameters())
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
    convs = [m for m in body.modules() if isinstance(m, ConvBN)]
    depthwise = [m for m in convs if m.conv.groups > 1]

    described = []
    for conv in [m.conv for m in depthwise]:
        assert conv.groups == conv.in_channels == conv.out_channels
        described.append(f"{conv.kernel_size[0]}/{conv.stride[0]}/{conv.dilation[0]}")
    assert " ".join(described) == DEPTHWISE[backbone]
    assert convs[0].conv.kernel_size == (3, 3)
    assert convs[0].conv.stride == (2, 2)
    for m in convs[1:]:
        assert m.conv.groups > 1 or m.conv.kernel_size == (1, 1)

    letters = {nn.ReLU: "r", nn.ReLU6: "6", nn.Hardswish: "h"}
    activated = [convs[0], *depthwise]
    if "v3" in backbone:  # V2 ends in a block
        activated.append(convs[-1])
    assert "".join(letters[type(m.activation)] for m in activated) == ACTIVATIONS[backbone]

    attention = ""
    for block in [m for m in body.modules() if hasattr(m, "depthwise")]:
        attention += "s" if hasattr(block, "attention") else "-"
        assert not hasattr(block.project, "activation")
    assert attention == ATTENTION[backbone]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_batch_norm_is_openmmlabs(backbone):
    eps = 1e-3 if "v3" in backbone else 1e-5
    model = build_model(backbone)
    found = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert found == {(eps, 0.1)}


def test_squeeze_and_excitation_gates_with_the_hard_sigmoid():
    """(x + 3) / 6 within 0..1; channels // 4 in between, rounded to a multiple of 8."""
    block = SqueezeExcitation(24)
    assert (block.squeeze.out_channels, SqueezeExcitation(96).squeeze.out_channels) == (8, 24)
    assert SqueezeExcitation(240).squeeze.out_channels == 64  # 60 rounded
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.squeeze.weight[0, 0], block.squeeze.weight[1, 0] = (
            1.0,
            -1.0,
        )  # the second is cut by ReLU
        block.excite.weight[:, 0, 0, 0] = torch.linspace(-4, 4, 24)
        block.excite.weight[:, 1] = 100.0
    x = torch.rand(2, 24, 5, 7, generator=torch.Generator().manual_seed(0))
    mean = x[:, 0].mean((1, 2)).double().numpy()
    gate = np.clip((np.linspace(-4, 4, 24)[None] * mean[:, None] + 3) / 6, 0, 1)
    assert_close(block(x).detach(), x.numpy() * gate[:, :, None, None], atol=1e-6)


def test_hard_swish_is_x_times_the_hard_sigmoid():
    x = torch.linspace(-5, 5, 41)
    layer = build_model("mobilenet_v3_small", width=0.25).backbone.layers[0].activation
    assert_close(layer(x.clone()), x.numpy() * np.clip((x.numpy() + 3) / 6, 0, 1), atol=1e-6)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("sides", [(8, 9), (9, 8), (1, 2)])
def test_strided_convolutions_of_v3_pad_as_tensorflow(kernel, sides):
    """Output of ceil(side / 2); of an odd number of zeros, one more at the right and bottom."""
    x = torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(0))
    conv = SameConv2d(1, 1, kernel, 2, padding=kernel // 2, bias=False)
    weight = conv.weight.detach().numpy()[0, 0]
    total = [max((math.ceil(n / 2) - 1) * 2 + kernel - n, 0) for n in sides]
    before = [n // 2 for n in total]
    after = [t - b for t, b in zip(total, before, strict=True)]
    padded = np.pad(x[0, 0].numpy().astype(float), list(zip(before, after, strict=True)))
    expected = np.zeros([math.ceil(n / 2) for n in sides])
    for i, j in np.ndindex(*expected.shape):
        window = padded[2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
        expected[i, j] = (window * weight).sum()
    assert_close(conv(x).detach()[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width"), [(8, 12), (49, 49), (60, 8), (64, 70), (81, 89), (82, 90)]
)
def test_lraspp_averages_windows_of_49_or_all_there_is(height, width):
    """OpenMMLab's pool has windows of 49 x 49, 16 rows and 20 columns apart, and needs one."""
    head = LRASPPHead([2, 2, 3], 2, channels=4).eval()
    seen = []
    head.image_pool.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    earlier = [torch.zeros(1, 2, 4 * height, 4 * width), torch.zeros(1, 2, 2 * height, 2 * width)]
    with torch.inference_mode():
        assert head([*earlier, x]).shape == (1, 2, 4 * height, 4 * width)
    tops = [0, *range(16, height - 48, 16)]
    lefts = [0, *range(20, width - 48, 20)]
    expected = np.zeros((len(tops), len(lefts), 3))
    for i, j in np.ndindex(len(tops), len(lefts)):
        window = x[0, :, tops[i] : tops[i] + 49, lefts[j] : lefts[j] + 49]
        expected[i, j] = window.mean((1, 2))
    assert_close(seen[0][0].permute(1, 2, 0), expected, atol=1e-5)


def test_lraspp_gates_resizes_and_joins_as_written_out():
    torch.manual_seed(0)
    head = LRASPPHead([3, 5, 6], 2, channels=4, eps=1e-3).eval()
    features = [torch.rand(1, c, s, s + 3) for c, s in ((3, 21), (5, 11), (6, 6))]

    def up(x, like):
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)

    def conv_bn_relu(block, x):
        return F.relu(
            F.conv2d(x, block.conv.weight) / (1 + 1e-3) ** 0.5
        )  # fresh statistics: 0 and 1

    with torch.inference_mode():
        gate = torch.sigmoid(
            F.conv2d(features[2].mean((2, 3), keepdim=True), head.image_pool.conv.weight)
        )
        x = conv_bn_relu(head.gated, features[2]) * gate
        x = F.conv2d(x, head.mix.weight, head.mix.bias)
        for i in (1, 0):
            skip = F.conv2d(features[i], head.skips[i].weight)
            assert skip.shape[1] == (32, 64)[i]
            x = conv_bn_relu(head.joins[i], torch.cat([up(x, features[i]), skip], 1))
        expected = F.conv2d(x, head.classifier.weight, head.classifier.bias)
        assert_close(head(features), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("backbone", MOBILENETS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 70), (64, 48)])
def test_any_size_gives_features_of_ceiled_fractions(backbone, height, width):
    model = build_model(backbone, width=0.25, head_channels=8).eval()
    parts = {"mobilenet_v2": (4, 8, 8, 8)}.get(backbone, (2, 4, 8))
    with torch.inference_mode():
        x = torch.zeros(1, 3, height, width)
        sizes = [tuple(feature.shape[-2:]) for feature in model.backbone(x)]
        assert (
            whole(model, x).shape
            == sliding_window(model, x, 32, 20).shape
            == (1, 2, height, width)
        )
    assert sizes == [(math.ceil(height / part), math.ceil(width / part)) for part in parts]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v3_small"])
def test_one_exported_graph_takes_any_size(backbone):
    model = build_model(backbone, width=0.25, head_channels=8).eval()
    height, width = (16 * torch.export.Dim(name, max=50) for name in ("height", "width"))
    example = (torch.zeros(1, 3, 64, 80),)
    graph = torch.export.export(
        model, example, dynamic_shapes={"x": {2: height, 3: width}}
    ).module()
    with torch.inference_mode():
        for sides in ((32, 48), (416, 400)):  # less and more than LR-ASPP's window
            x = torch.rand(1, 3, *sides, generator=torch.Generator().manual_seed(0))
            assert_close(graph(x), model(x).numpy(), atol=1e-6)


def test_width_multiplies_and_rounds_as_the_paper():
    """To the nearest multiple of 8, at least 8 and at least 90 %: MobileNetV2's rule."""
    rounded = {1: 8, 8: 8, 11: 16, 12: 16, 18: 24, 19: 24, 33.6: 32, 134.4: 136}
    for channels, expected in rounded.items():
        assert divisible(channels) == expected
    assert build_model("mobilenet_v2", width=0.5).backbone.out_channels == [16, 16, 48, 160]
    assert build_model("mobilenet_v2", width=1.4).backbone.out_channels == [32, 48, 136, 448]
    assert build_model("mobilenet_v3_large", width=0.5).backbone.out_channels == [8, 16, 480]
    assert build_model("mobilenet_v3_small").backbone.out_channels == [16, 16, 576]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_architecture_is_read_off_the_tensors(backbone, tmp_path):
    kind = BACKBONES[backbone]
    for width in (1, 3) if backbone == "unet" else (0.25, 0.5, 1.0):
        for i, head in enumerate(kind.HEADS):
            model = build_model(backbone, head, 3 + i, width, in_channels=1 + i, head_channels=6)
            assert read_arch(model.state_dict()) == model.arch
            assert type(model.arch["width"]) is type(kind.WIDTH)
    save_model(model, tmp_path / "m.pth")
    assert load_model(tmp_path / "m.pth").arch == model.arch


def test_the_named_networks_can_be_built_and_their_scores_are_openmmlabs(golden):
    """Against the list the entries were made from."""
    listing = golden.parent / "openmmlab_model_zoo.json"
    if not listing.is_file():
        pytest.skip("no openmmlab_model_zoo.json beside the golden folder")
    listed = {e["url"]: e for e in json.loads(listing.read_text())}
    expected = set()
    for url, e in listed.items():
        if e["trained_on"] in ("Cityscapes", "ADE20K") and "deeplabv3plus" not in e["name"]:
            expected.add(url)
    entries = {}
    for name, e in known().items():
        if "url" in e and "hrf" not in name:
            entries[e["url"]] = (name, e)
    assert set(entries) == expected
    assert len(expected) == 11
    for url, (name, entry) in entries.items():
        assert entry["sha256"] == listed[url]["sha256_prefix"]
        assert entry["reported"]["miou_percent"] == listed[url]["reported"]["mIoU"]
        trained_on = listed[url]["trained_on"]
        assert entry["arch"]["num_classes"] == {"Cityscapes": 19, "ADE20K": 150}[trained_on]
        assert name.split("-")[:2] == [trained_on.lower(), entry["arch"]["head"]]


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
    assert build_model("unet", width=2.0).arch == build_model("unet", width=2).arch
    assert type(build_model("unet", width=2.0).arch["width"]) is int


def test_weights_of_another_network_are_refused_with_the_reason(golden):
    path = next(golden.glob("mobilenet_v2_pspnet_s0-*.pth"))
    model = build_model("mobilenet_v2", "psp", 5, 0.25, head_channels=16, aux_channels=16)
    load_openmmlab(model, path)
    assert torch.equal(
        model.backbone.stages[7][0].project.conv.weight,
        torch.load(path, weights_only=True)["state_dict"]["backbone.layer7.0.conv.2.conv.weight"],
    )
    with pytest.raises(InputError, match="width 0.25, the network 0.5; build with width=0.25"):
        load_openmmlab(
            build_model("mobilenet_v2", "psp", 5, 0.5, head_channels=16, aux_channels=16), path
        )
    message = "aux_channels 16, the network 8; build with aux_channels=16"
    with pytest.raises(InputError, match=message):
        load_openmmlab(
            build_model("mobilenet_v2", "psp", 5, 0.25, head_channels=16, aux_channels=8), path
        )
    message = "backbone mobilenet_v2, the network unet; build with backbone="
    with pytest.raises(InputError, match=message):
        load_openmmlab(build_model(), path)
    model = load_model(path)
    require_arch(model, backbone="mobilenet_v2", head=None, width=0.25)
    message = "--width 1 does not fit the weights mobilenet_v2_pspnet_s0-.*0.25"
    with pytest.raises(InputError, match=message):
        require_arch(model, width=1.0)


def test_other_classes_replace_the_classifier_alone():
    model = build_model("mobilenet_v3_small", num_classes=19, width=0.25)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert set_classes(model, ["background", "fluid"]) == ["head.classifier"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != ("classifier" in name), name
    assert model.state_dict().keys() == build_model(**model.arch).state_dict().keys()


def test_fresh_convolutions_are_he_and_only_the_classifier_is_small():
    torch.manual_seed(0)
    model = build_model("mobilenet_v3_small", num_classes=50)
    last = model.backbone.layers[-1].conv  # fan out: sqrt(2 / output channels)
    assert last.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert model.head.mix.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert model.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    biases = [
        p for name, p in model.named_parameters() if name.endswith("bias") and "bn" not in name
    ]
    assert len(biases) == 2 * 9 + 2
    assert not any(bias.any() for bias in biases)


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
        inputs = (in_channels, width, width)
        self.steps = nn.ModuleList(ConvBN(before, width, stride=2) for before in inputs)

    def forward(self, x):
        return [x := step(x) for step in self.steps]


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
    for head in Shrink.HEADS:
        model = build_model("shrink", head, in_channels=1).eval()
        assert model.arch["width"] == 4
        assert model.aux_head.conv.conv.out_channels == 6
        save_model(model, tmp_path / "m.pth")
        x = torch.rand(1, 1, 40, 24)
        with torch.inference_mode():
            expected = model(x)
            assert torch.equal(load_model(tmp_path / "m.pth")(x), expected)
            if head == "fcn":
                theirs = {}
                for name, value in model.state_dict().items():
                    theirs[name_at_openmmlab(name)] = value
                torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
                assert torch.equal(convert_openmmlab(tmp_path / "theirs.pth").eval()(x), expected)


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
        mask = ((y - 30) ** 2 / 150 + (x - 40 - i) ** 2 / 400 < 1).astype(np.uint8)
        image = (70 + 90 * mask + rng.normal(0, 25, mask.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"scan{i}.png")
        Image.fromarray(mask).save(root / "fluid" / f"scan{i}.png")
    return root


@pytest.mark.parametrize("backbone", MOBILENETS)
def test_pretrained_fine_tuned_and_predicting(
    backbone, photographs, scans, tmp_path, monkeypatch, capsys
):
    pretrain = load_script("pretrain_hrf")
    finetune = load_script("finetune")
    small = replace(PRETRAININGS["small"], augment=Augment(crop=64, max_class_share=1.0))
    monkeypatch.setitem(PRETRAININGS, "small", small)
    head, options = next(iter(BACKBONES[backbone].HEADS.items()))
    monkeypatch.setitem(
        options, "channels", 16
    )  # a quarter of the backbone goes with less than the usual 512

    def call(script, *arguments):
        call_main(script, *arguments)
        return capsys.readouterr().out

    def results(name):
        return json.loads((tmp_path / name / "results.json").read_text())

    network = ("--backbone", backbone, "--width", 0.25)
    steps = (
        "--data",
        photographs,
        "--heads",
        head,
        "--steps",
        3,
        "--batch",
        2,
        "--out",
        tmp_path / "vessels",
    )
    printed = call(pretrain, *network, *steps)
    (row,) = results("vessels")["rows"]
    assert (row["backbone"], row["head"], row["width"]) == (backbone, head, 0.25)
    assert np.sum(row["counts"]["full"]) == 30 * 128 * 192
    assert f"{backbone:18} {head:10}  0.25 {row['dice_scale']:7.4f}" in printed
    best = tmp_path / "vessels" / f"best-{head}.pt"

    chosen = ("--weights", best, "--data", scans, "--out", tmp_path / "fluid", "--size", "native")
    trained = call(finetune, *network, *chosen, "--crop", 48, "--iters", 3, "--split", "random")
    assert f"{backbone}, {head} head, width 0.25" in trained
    assert "replaced" not in trained
    start = load_model(best).state_dict()
    model = load_model(tmp_path / "fluid" / "model.pt")
    assert results("fluid")["arch"] == model.arch
    assert model.classes == ["background", "fluid"]
    moved = [n for n, v in model.named_parameters() if not torch.equal(v, start[n])]
    assert len(moved) == len(list(model.parameters()))  # everything learns

    image = np.asarray(Image.open(scans / "images" / "scan1.png"))
    mask, probability = predict(model, image)
    assert mask.shape == image.shape
    assert probability.std() > 0
    with torch.inference_mode():
        grey = (
            torch.from_numpy(image.copy()).double()[None]
            - torch.tensor(model.preprocess["mean"])[:, None, None]
        )
        x = (grey / torch.tensor(model.preprocess["std"])[:, None, None]).float()[None]
        logits = F.interpolate(model(x), image.shape, mode="bilinear", align_corners=False)
    assert_close(torch.from_numpy(probability), logits.softmax(1)[0, 1].numpy(), atol=1e-5)
