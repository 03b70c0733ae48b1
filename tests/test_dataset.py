"""What a network trains on and is scored on, at every size, on made-up caches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dme.cache import GRADED_COLUMNS, Cache
from dme.dataset import Validation, entering_mask, training_set
from dme.infer import entering, probabilities, sliding_window, whole
from dme.metrics import scores
from dme.model import build_model, normalise, set_classes
from dme.sources import DUKE_ANNOTATED

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def make_cache(height=100, width=130, count=3, size=None, layers=None, pairs=None) -> Cache:
    shape = (size or height, size or width)
    images = RNG.integers(0, 256, (count, *shape), dtype=np.uint8)
    fluid = (RNG.random((count, *shape)) < 0.3).astype(np.uint8)
    fluid[0, :2] = 255
    subjects, positions = np.array(pairs or [(1, i) for i in range(count)]).T
    names = [f"scan{i}" for i in range(count)]
    return Cache(
        "folder", "made up", "0" * 64, size, None, names, [], subjects, positions, images, fluid, layers
    )


def network(size: str):
    torch.manual_seed(0)
    model = build_model(head="fcn", width=2).eval()
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": size}
    return model


def test_scans_enter_at_512_as_in_the_study():
    image = torch.from_numpy(RNG.integers(0, 256, (90, 140), dtype=np.uint8))
    small = np.array(Image.fromarray(image.numpy()).resize((256, 256), Image.Resampling.BICUBIC))
    wanted = F.interpolate(torch.from_numpy(small)[None, None].float(), (512, 512), mode="bilinear").round()
    assert torch.equal(entering(image, "512").float(), wanted[0, 0])
    assert torch.equal(entering(torch.from_numpy(small), "512").float(), wanted[0, 0])


def test_half_is_the_mean_of_2_x_2_pixels():
    image = RNG.integers(0, 256, (10, 14), dtype=np.uint8)
    wanted = image.reshape(5, 2, 7, 2).mean((1, 3)).round()  # both round halves to even
    assert np.array_equal(entering(torch.from_numpy(image), "half").numpy(), wanted)
    assert entering(torch.zeros(11, 15, dtype=torch.uint8), "half").shape == (6, 8)


def test_half_masks():
    mask = torch.tensor([[1, 0, 1, 1, 255, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 255]])
    assert entering_mask(mask.byte(), "half").tolist() == [[1, 1, 255], [0, 1, 255]]
    assert entering_mask(mask.byte(), "half").dtype == torch.uint8


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_training_scans_and_masks_share_their_pixels(size):
    small, native = make_cache(size=256), make_cache()
    data = training_set(small, native, np.array([2, 0]), size, "background", CPU)
    assert data.names == ["scan2", "scan0"]
    held = small if size == "512" else native
    for image, mask, i in zip(data.images, data.masks, (2, 0), strict=True):
        assert torch.equal(image, entering(torch.from_numpy(held.images[i]), size))
        assert torch.equal(mask, entering_mask(torch.from_numpy(held.fluid[i]), size))
        assert image.shape == mask.shape and image.dtype == mask.dtype == torch.uint8


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_columns_nobody_graded_are_ignored_on_request(size):
    layers = np.full((3, 8, 130), np.nan, np.float32)
    layers[:, :, 26:104] = 50.0  # a fifth of the width on both sides is ungraded
    small, native = make_cache(size=256), make_cache(layers=layers)
    ignored = training_set(small, native, np.array([1]), size, "ignore", CPU).masks[0]
    kept = training_set(small, native, np.array([1]), size, "background", CPU).masks[0]
    unknown = (ignored == 255).all(0)
    width = ignored.shape[1]
    first, last = unknown.logical_not().nonzero()[[0, -1], 0].tolist()
    assert abs(first - 0.2 * width) <= 2 and abs(last + 1 - 0.8 * width) <= 2
    assert torch.equal(ignored[:, ~unknown], kept[:, ~unknown]) and (kept != 255).all()


def test_graded_columns():
    assert make_cache().graded(0).all()
    duke = make_cache(4, 768, count=110, pairs=sorted(DUKE_ANNOTATED))
    assert duke.graded(5).nonzero()[0][[0, -1]].tolist() == list(GRADED_COLUMNS) == [99, 624]
    assert make_cache(4, 768, count=110).graded(5).all()  # of other eyes nothing is known
    with pytest.raises(ValueError, match="native"):
        make_cache(size=256).graded(0)


@pytest.mark.parametrize("size", ["512", "native", "half"])
@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_have_the_size_of_the_scan(size, flip):
    model, image = network(size), torch.from_numpy(RNG.integers(0, 256, (101, 131), dtype=np.uint8))

    predict = sliding_window if size == "512" else whole

    def plain(image):
        x = normalise(entering(image, size)[None], model.preprocess)
        with torch.inference_mode():
            return predict(model, x)

    def resized(logits):
        return F.interpolate(logits, (101, 131), mode="bilinear").softmax(1)

    wanted = resized(plain(image))
    if flip:
        with torch.inference_mode():
            x = normalise(entering(image, size).flip(-1)[None], model.preprocess)
            wanted = (wanted + resized(predict(model, x)).flip(-1)) / 2
    found = probabilities(model, image, flip)
    assert found.shape == (2, 101, 131)
    torch.testing.assert_close(found, wanted[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", ["512", "half"])
def test_validation_counts_against_three_truths(size):
    layers = np.full((3, 8, 130), np.nan, np.float32)
    layers[:, :, 40:90] = 50.0
    small, native = make_cache(size=256), make_cache(layers=layers)
    validate = Validation(small, native, np.array([2, 0]), CPU)
    model = network(size)
    measured, picture = validate({"model": model})
    assert validate.names == ["scan2", "scan0"] and picture.dtype == np.uint8
    for place, i in enumerate((2, 0)):
        held = small if size == "512" else native
        found = probabilities(model, torch.from_numpy(held.images[i]))[None]
        for kind, truth in (("study", small.fluid[i]), ("native", native.fluid[i])):
            label = found
            if found.shape[-2:] != truth.shape:
                label = F.interpolate(found, truth.shape, mode="bilinear", antialias=True)
            label = label[0].argmax(0).numpy()
            wanted = [[((truth == t) & (label == p)).sum() for p in (0, 1)] for t in (0, 1)]
            assert validate.counts[kind][place].tolist() == wanted
        graded = native.fluid[i][:, 40:90]
        wanted = [[((graded == t) & (label[:, 40:90] == p)).sum() for p in (0, 1)] for t in (0, 1)]
        assert validate.counts["graded"][place].tolist() == wanted
    pooled = scores(validate.counts["study"].sum(0))
    assert measured["score"] == measured["study-dice"] == pooled["dice"][1]
    assert measured["graded-iou"] == scores(validate.counts["graded"].sum(0))["iou"][1]


def test_the_scans_shown_are_validation_scans():
    small = make_cache(size=256, count=6)
    small.fluid[:] = 0
    for i, share in enumerate((9, 3, 5, 0, 7, 1)):
        small.fluid[i, :share] = 1
    validate = Validation(small, SimpleNamespace(), np.array([1, 2, 3, 5]), CPU)
    assert validate.shown == [2, 1, 3]  # most fluid, the median of those with fluid, least
