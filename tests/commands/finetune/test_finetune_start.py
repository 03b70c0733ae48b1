"""What is trained on, and from which weights."""

import numpy as np
import pytest
import torch
from helpers.finetuning import image_256, make_checkpoint, make_folder, truth_256
from PIL import Image

from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.data.splits import split_indices
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model, set_classes
from dme.training import fine_tuning
from dme.training.settings import Finetune


def test_training_scans_are_enlarged_as_in_the_study(prepared, folder):
    """Image bilinear and rounded, mask nearest; bilinear weights at factor 2 are 1/4 and 3/4."""

    def doubled(x: np.ndarray, axis: int) -> np.ndarray:
        x = np.moveaxis(x, axis, 0)
        low = np.concatenate([x[:1], x[:-1]])
        high = np.concatenate([x[1:], x[-1:]])
        both = np.stack([0.25 * low + 0.75 * x, 0.75 * x + 0.25 * high], axis=1)
        return np.moveaxis(both.reshape(-1, *x.shape[1:]), 0, axis)

    def nearest(x: np.ndarray) -> np.ndarray:
        return x.repeat(2, axis=0).repeat(2, axis=1)

    data = prepared("--size", "512")["data"]
    assert len(data.names) == 8 and "scan00" in data.names
    for image, mask, name in zip(data.images, data.masks, data.names, strict=True):
        enlarged = doubled(doubled(image_256(folder, name).astype(float), 0), 1)
        assert image.dtype == mask.dtype == torch.uint8 and image.shape == (512, 512)
        assert np.array_equal(image.numpy(), enlarged.round())
        assert np.array_equal(mask.numpy(), nearest(truth_256(folder, name)))
        assert not np.array_equal(image.numpy(), nearest(image_256(folder, name)))


def test_native_training_scans_are_the_files_pixels(prepared, tmp_path):
    data = make_folder(tmp_path / "mixed", sides=((90, 131), (75, 140)))
    training = prepared("--data", data)["data"]
    assert len(training.names) == 8
    for image, mask, name in zip(training.images, training.masks, training.names, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(data / "images" / f"{name}.png")))
        assert np.array_equal(mask, np.asarray(Image.open(data / "fluid" / f"{name}.png")))


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_scans_are_not_trained_on(prepared, folder, seed):
    training, validation = split_indices(open_cache(open_source(folder), 256), "random", seed)
    names = prepared("--seed", seed)["data"].names
    assert names == [f"scan{i:02}" for i in training]
    assert not {f"scan{i:02}" for i in validation} & set(names) and len(names) == 8


def test_weights_for_two_classes_are_kept_bit_for_bit(prepared, tiny, capsys):
    (model,) = prepared()["models"].values()
    start = load_model(tiny).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert model.classes == ["background", "fluid"] and "replaced" not in capsys.readouterr().out


def test_classifiers_for_other_classes_are_replaced(prepared, tmp_path, capsys):
    three = make_checkpoint(tmp_path / "three.pth", num_classes=3)
    (model,) = prepared("--weights", three)["models"].values()
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("replaced")] == [
        "replaced: head.classifier, for 2 classes",
        "replaced: aux_head.classifier, for 2 classes",
    ]
    start = load_model(three).state_dict()
    prepared_state = model.state_dict()
    assert prepared_state["head.classifier.weight"].shape == (2, 16, 1, 1)
    kept = [name for name in start if "classifier" not in name]
    assert len(kept) == len(start) - 4
    assert all(torch.equal(prepared_state[name], start[name]) for name in kept)


def test_fresh_weights_come_from_the_seed(prepared):
    def fresh(seed: int) -> torch.Tensor:
        (model,) = prepared("--weights", "none", "--width", 2, "--seed", seed)["models"].values()
        assert (model.arch["head"], model.arch["backbone"]) == ("psp", "unet")
        return torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim == 4])

    first = fresh(1)
    torch.manual_seed(7)
    assert torch.equal(first, fresh(1)) and not torch.equal(first, fresh(2))


@pytest.mark.parametrize("start", ["fresh", "replaced", "kept"])
def test_new_classifiers_start_at_the_shares_of_the_training_pixels(
    prepared, tmp_path, tiny, start
):
    weights = {"fresh": "none", "replaced": make_checkpoint(tmp_path / "three.pth", num_classes=3)}
    caught = prepared("--weights", weights.get(start, tiny), "--size", "512")
    (model,) = caught["models"].values()
    labels = np.concatenate([mask.numpy().ravel() for mask in caught["data"].masks])
    assert (labels == 255).any()
    shares = np.array([(labels == k).sum() / (labels < 2).sum() for k in (0, 1)])
    for head in (model.head, model.aux_head):
        at_zero = head.classifier.bias.detach().softmax(0).numpy()
        assert np.allclose(at_zero, shares, rtol=1e-3) == (start != "kept"), at_zero


def test_classifiers_in_place_of_loaded_ones_follow_the_draws_of_a_whole_network(tiny):
    """What a seed gave when loading a network drew weights first."""
    names = ["background", "fluid", "other"]
    torch.manual_seed(7)  # whatever was drawn before
    model, _ = fine_tuning.starting_network(Finetune(weights=str(tiny)), seed=3)
    set_classes(model, names)
    arch = load_model(tiny).arch
    torch.manual_seed(3)
    reference = build_model(**arch)
    set_classes(reference, names)
    assert torch.equal(model.head.classifier.weight, reference.head.classifier.weight)
    assert torch.equal(model.aux_head.classifier.weight, reference.aux_head.classifier.weight)


def test_the_head_names_the_weights():
    """Without --weights, the shipped network with that head."""
    for head in ("psp", "fcn", "deeplabv3"):
        model, start = fine_tuning.starting_network(Finetune(head=head), seed=0)
        assert model.arch["head"] == head and start.startswith(f"hrf-{head} (sha256 ")
    assert fine_tuning.starting_network(Finetune(), seed=0)[0].arch["head"] == "psp"


@pytest.mark.parametrize(
    ("asked", "start"),
    [
        ((), "hrf-psp"),
        (("--head", "fcn"), "hrf-fcn"),
        (("--backbone", "mobilenet_v3_small"), "hrf-mobilenet_v3_small"),
        (("--backbone", "unet", "--head", "deeplabv3"), "hrf-deeplabv3"),
    ],
)
def test_the_start_follows_the_network_asked_for(script, asked, start):
    options = script.parse_args(asked).finetune
    assert fine_tuning.starting_network(options, seed=0)[0].weights_name == start
