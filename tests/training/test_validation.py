"""What a network trains on and is scored on, at every size, on made-up caches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.finetuning import confusion
from PIL import Image
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.common.tasks import TASKS
from dme.data.cache import Cache
from dme.data.duke import DUKE_ANNOTATED, GRADED_COLUMNS
from dme.inference.scan import probabilities
from dme.inference.sizes import NATIVE, SIZES
from dme.inference.windows import sliding_window, whole
from dme.metrics import scores
from dme.nets.segmenter import build_model, normalise, set_classes
from dme.training.tasks import check_annotated, labels, training_set
from dme.training.validation import Validation, agreement

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
        "folder",
        "made up",
        "0" * 64,
        size,
        None,
        names,
        [],
        subjects,
        positions,
        images,
        fluid,
        layers,
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
    expected = F.interpolate(
        torch.from_numpy(small)[None, None].float(), (512, 512), mode="bilinear"
    ).round()
    assert torch.equal(SIZES["512"].image(image).float(), expected[0, 0])
    assert torch.equal(SIZES["512"].image(torch.from_numpy(small)).float(), expected[0, 0])


def test_half_is_the_mean_of_2_x_2_pixels():
    image = RNG.integers(0, 256, (10, 14), dtype=np.uint8)
    expected = image.reshape(5, 2, 7, 2).mean((1, 3)).round()  # both round halves to even
    assert np.array_equal(SIZES["half"].image(torch.from_numpy(image)).numpy(), expected)
    assert SIZES["half"].image(torch.zeros(11, 15, dtype=torch.uint8)).shape == (6, 8)


def test_half_masks():
    mask = torch.tensor(
        [[1, 0, 1, 1, 255, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 255]]
    )
    assert SIZES["half"].mask(mask.byte()).tolist() == [[1, 1, 255], [0, 1, 255]]
    assert SIZES["half"].mask(mask.byte()).dtype == torch.uint8


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_training_scans_and_masks_share_their_pixels(size):
    small, native = make_cache(size=256), make_cache()
    data = training_set(
        small, native, np.array([2, 0]), TASKS["fluid"], SIZES[size], "background", CPU
    )
    assert data.names == ["scan2", "scan0"]
    held = small if size == "512" else native
    for image, mask, i in zip(data.images, data.masks, (2, 0), strict=True):
        assert torch.equal(image, SIZES[size].image(torch.from_numpy(held.images[i])))
        assert torch.equal(mask, SIZES[size].mask(torch.from_numpy(held.fluid[i])))
        assert image.shape == mask.shape and image.dtype == mask.dtype == torch.uint8


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_columns_nobody_graded_are_ignored_on_request(size):
    layers = np.full((3, 8, 130), np.nan, np.float32)
    layers[:, :, 26:104] = 50.0  # a fifth of the width on both sides is ungraded
    small, native = make_cache(size=256), make_cache(layers=layers)
    ignored = training_set(
        small, native, np.array([1]), TASKS["fluid"], SIZES[size], "ignore", CPU
    ).masks[0]
    kept = training_set(
        small, native, np.array([1]), TASKS["fluid"], SIZES[size], "background", CPU
    ).masks[0]
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
    some = np.full((3, 8, 130), np.nan, np.float32)
    some[0, :, 26:104] = 50.0
    # boundaries of one scan say nothing about the fluid of the others
    cache = make_cache(layers=some)
    assert [int(cache.graded(i).sum()) for i in range(3)] == [78, 130, 130]
    with pytest.raises(ValueError, match="native"):
        make_cache(size=256).graded(0)


@pytest.mark.parametrize("size", ["512", "native", "half"])
@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_have_the_size_of_the_scan(size, flip):
    model = network(size)
    image = torch.from_numpy(RNG.integers(0, 256, (101, 131), dtype=np.uint8))
    predict = sliding_window if size == "512" else whole

    def plain(image):
        x = normalise(SIZES[size].image(image)[None], model.preprocess)
        with torch.inference_mode():
            return predict(model, x)

    def resized(logits):
        return F.interpolate(logits, (101, 131), mode="bilinear").softmax(1)

    expected = resized(plain(image))
    if flip:
        with torch.inference_mode():
            x = normalise(SIZES[size].image(image).flip(-1)[None], model.preprocess)
            expected = (expected + resized(predict(model, x)).flip(-1)) / 2
    result = probabilities(model, image, flip)
    assert result.shape == (2, 101, 131)
    torch.testing.assert_close(result, expected[0], atol=1e-6, rtol=1e-5)


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
        result = probabilities(model, torch.from_numpy(held.images[i]))[None]
        for kind, truth in (("study", small.fluid[i]), ("native", native.fluid[i])):
            label = result
            if result.shape[-2:] != truth.shape:
                label = F.interpolate(result, truth.shape, mode="bilinear", antialias=True)
            label = label[0].argmax(0).numpy()
            assert np.array_equal(validate.counts[kind][place], confusion(truth, label))
        expected = confusion(native.fluid[i][:, 40:90], label[:, 40:90])
        assert np.array_equal(validate.counts["graded"][place], expected)
    pooled = scores(validate.counts["study"].sum(0))
    assert measured["score"] == measured["study-dice"] == pooled["dice"][1]
    assert measured["graded-iou"] == scores(validate.counts["graded"].sum(0))["iou"][1]


@pytest.mark.parametrize("size", ["512", "half"])
def test_validation_averages_over_mirror_images_on_request(size):
    small, native = make_cache(size=256), make_cache()
    model = network(size)
    counts = {}
    for flip in (False, True):
        validate = Validation(small, native, np.array([1]), CPU, flip=flip)
        scans = small if size == "512" else native
        by_class = probabilities(model, torch.from_numpy(scans.images[1]), flip)
        assert torch.equal(validate.predict(model, 1)[0], by_class)
        validate({"model": model})
        counts[flip] = validate.counts["native"]
        resized = F.interpolate(by_class[None], (100, 130), mode="bilinear", antialias=True)
        label = resized[0].argmax(0).numpy()
        assert np.array_equal(counts[flip][0], confusion(native.fluid[1], label))
    assert not np.array_equal(counts[False], counts[True])


def test_the_scans_shown_are_validation_scans():
    small = make_cache(size=256, count=6)
    small.fluid[:] = 0
    for i, share in enumerate((9, 3, 5, 0, 7, 1)):
        small.fluid[i, :share] = 1
    validate = Validation(small, SimpleNamespace(), np.array([1, 2, 3, 5]), CPU)
    assert validate.shown == [2, 1, 3]  # most fluid, the median of those with fluid, least


# Layers


def straight_layers(width=130, count=3) -> np.ndarray:
    """Boundaries at rows 9.5, 19.5, ... 79.5 of scans 100 high; the first ten columns unknown."""
    heights = np.arange(9.5, 80, 10, dtype=np.float32)[None, :, None]
    rows = np.broadcast_to(heights, (count, 8, width)).copy()
    rows[:, 3, :10] = np.nan
    return rows


@pytest.mark.parametrize(
    ("size", "height", "width"), [("native", 100, 130), ("half", 50, 65), ("512", 512, 512)]
)
def test_layer_labels_at_every_size(size, height, width):
    small, native = make_cache(size=256), make_cache(layers=straight_layers())
    result = labels(small, native, 1, TASKS["layers"], SIZES[size]).numpy()
    assert result.shape == (height, width)
    unknown = -(-10 * width // 130)  # columns that cover an unknown one
    assert (result[:, :unknown] == 255).all()
    # a boundary at 9.5 parts the first tenth of the height from the rest, whatever the height
    expected = np.minimum((np.arange(height) + 0.5) * 10 // height, 8)
    assert np.array_equal(result[:, unknown:], np.repeat(expected[:, None], width - unknown, 1))


def test_fluid_lies_on_top_of_layers():
    small, native = make_cache(size=256), make_cache(layers=straight_layers())
    both = labels(small, native, 0, TASKS["layers+fluid"], NATIVE).numpy()
    alone = labels(small, native, 0, TASKS["layers"], NATIVE).numpy()
    fluid, known = native.fluid[0], np.arange(130) >= 10
    expected = np.where(fluid == 1, 9, np.where(fluid == 255, 255, alone))
    assert np.array_equal(both[:, known], expected[:, known]) and (both[:, ~known] == 255).all()


def test_layers_are_trained_on_as_they_are_scored():
    small, native = make_cache(size=256), make_cache(layers=straight_layers())
    data = training_set(
        small, native, np.array([2, 1]), TASKS["layers"], SIZES["half"], "background", CPU
    )
    for mask, i in zip(data.masks, (2, 1), strict=True):
        assert torch.equal(mask, labels(small, native, i, TASKS["layers"], SIZES["half"]))


class Oracle(torch.nn.Module):
    """Knows labels of scans by their brightest pixel; moves all boundaries by `down` pixels."""

    def __init__(self, task: str, maps: dict[int, np.ndarray], down: int = 0):
        super().__init__()
        model = build_model(head="fcn", width=2)
        set_classes(model, TASKS[task].classes)
        self.arch, self.classes = model.arch, model.classes
        self.preprocess = model.preprocess | {"size": "native"}
        self.maps, self.down = maps, down

    def forward(self, x):
        grey = x[0, 0] * self.preprocess["std"][0] + self.preprocess["mean"][0]
        known = self.maps[round(grey.max().item())].copy()
        known[:, :10] = known[:, 10:11]  # what nobody graded
        known = np.pad(known, ((self.down, 0), (0, 0)), mode="edge")[: len(known)]
        padding = [(0, a - b) for a, b in zip(x.shape[-2:], known.shape, strict=True)]
        classes = torch.from_numpy(np.pad(known, padding, mode="edge")).long()
        return 20 * F.one_hot(classes, self.arch["num_classes"]).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(("task", "down"), [("layers", 0), ("layers", 3), ("layers+fluid", 3)])
def test_boundary_errors_of_validation(task, down):
    small, native = make_cache(size=256), make_cache(layers=straight_layers())
    native.fluid[:] = 0
    native.fluid[:, 35:39, 60:70] = 1
    maps = {}
    for i in range(3):  # 200 + i is what the oracle knows a scan by
        native.images[i] = np.minimum(native.images[i], 150)
        native.images[i, 0, 0] = 200 + i
        maps[200 + i] = labels(small, native, i, TASKS[task], NATIVE).numpy()
    validate = Validation(small, native, np.array([2, 0]), CPU, TASKS[task])
    measured, picture = validate({"model": Oracle(task, maps, down)})
    assert validate.counts["native"].shape == (2, *[len(TASKS[task].classes)] * 2)
    np.testing.assert_allclose(validate.errors_px, down, atol=0.05)
    np.testing.assert_allclose(validate.thickness_px, 0, atol=0.1)
    assert measured["score"] == -measured["boundary-error-px"] == pytest.approx(-down, abs=0.05)
    if not down:
        assert measured["native-dice"] == 1.0
    assert picture.ndim == 3 and picture.dtype == np.uint8


def test_graders_are_compared_scan_by_scan():
    native, other = make_cache(layers=straight_layers()), make_cache(layers=straight_layers() + 2)
    small, scans = make_cache(size=256), np.array([0, 2])
    first = Validation(small, native, scans, CPU, TASKS["layers"])
    second = Validation(small, other, scans, CPU, TASKS["layers"])
    counts, errors_px = agreement(first, second)
    np.testing.assert_allclose(errors_px, 2)
    # two of ten rows of each layer become those of the layer above it, in 120 known columns
    assert counts[0, 3].tolist() == [0, 0, 2 * 120, 8 * 120, 0, 0, 0, 0, 0]
    second.indices = np.array([0, 1])
    with pytest.raises(InputError, match="annotated different scans"):
        agreement(first, second)


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("fluid", {"fluid": None}, "have no fluid masks"),
        ("layers+fluid", {"fluid": None, "layers": straight_layers()}, "have no fluid masks"),
        ("layers", {}, "no layer boundaries; --task layers needs them"),
        (
            "layers",
            {"layers": np.full((3, 8, 130), np.nan, np.float32)},
            "scan0, scan1, scan2: no column has all 8",
        ),
    ],
)
def test_sets_without_the_truth_are_refused(task, change, told):
    cache = make_cache()
    for name, value in change.items():
        setattr(cache, name, value)
    with pytest.raises(InputError, match=told):
        check_annotated(cache, TASKS[task])
