"""Batch norm folded into convolutions: the same function, without batch norm."""

import pytest
import torch
from torch import nn

import dme
from dme.data.phantom import phantom_bscan
from dme.inference.scan import probabilities
from dme.inference.windows import whole
from dme.nets.folding import computes_fast, folded, precision_of
from dme.nets.segmenter import BACKBONES, build_model

COMBINATIONS = [(backbone, head) for backbone, kind in BACKBONES.items() for head in kind.HEADS]


def with_statistics(backbone: str, head: str):
    """A network whose batch norms have statistics, factors and offsets that are not 1 and 0."""
    torch.manual_seed(0)
    model = build_model(backbone, head, num_classes=3, width=4 if backbone == "unet" else 0.25)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 2.0)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values)
    nn.init.normal_(model.head.classifier.weight)
    return model


@pytest.mark.parametrize(("backbone", "head"), COMBINATIONS)
@torch.inference_mode()
def test_folded_is_the_same_function(backbone, head):
    model = with_statistics(backbone, head).double()
    fast = folded(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    model.eval()
    for size in ((64, 96), (75, 50)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        expected = whole(model, x)
        spread = expected.std().item()
        assert spread > 0.1  # else nothing would be compared
        torch.testing.assert_close(whole(fast, x), expected, rtol=0, atol=1e-10 * spread)


@pytest.mark.parametrize("head", ["psp", "fcn", "deeplabv3"])
def test_folded_shipped_networks_give_the_same_probabilities(head):
    model = dme.load_model(f"hrf-{head}").eval()
    model.preprocess = model.preprocess | {"size": "half"}
    image = torch.from_numpy(phantom_bscan(0).image)
    torch.testing.assert_close(
        probabilities(folded(model), image), probabilities(model, image), rtol=0, atol=1e-5
    )


def test_folding_leaves_the_network_as_it_was():
    model = with_statistics("unet", "psp").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = folded(model)
    assert model.training
    assert model.aux_head is not None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in fast.modules())
    assert (fast.classes, fast.preprocess) == (model.classes, model.preprocess)


@pytest.mark.parametrize("name", ["dme-fluid", "dme-fluid-fast"])
def test_bfloat16_gives_nearly_the_same_fluid(name):
    model = dme.load_model(name)
    image = torch.from_numpy(phantom_bscan(5, fluid=True).image)
    exact = probabilities(folded(model), image)[1]
    narrow = folded(model, "bfloat16")
    near = probabilities(narrow, image)[1]
    assert (precision_of(model), precision_of(narrow)) == ("float32", "bfloat16")
    assert exact.dtype == near.dtype == torch.float32
    # rounding is seen, and moves few pixels across the threshold
    assert 1e-4 < (near - exact).abs().max() < 0.25
    fluid = exact > 0.5
    assert fluid.sum() > 500
    assert (fluid ^ (near > 0.5)).sum() < 0.02 * fluid.sum()


def test_a_processor_without_bfloat16_is_known(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False
    )
    assert computes_fast("float32", cpu)
    assert not computes_fast("bfloat16", cpu)
    assert computes_fast("bfloat16", torch.device("cuda"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert computes_fast("bfloat16", cpu)
