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
from dme.data.duke import DUKE_ANNOTATED, FLUID_COLUMNS
from dme.inference.scan import probabilities
from dme.inference.sizes import NATIVE, SIZES
from dme.inference.windows import sliding_window, whole
from dme.metrics import scores
from dme.nets.segmenter import build_model, normalise, set_classes
from dme.training.labelled import check_annotated, labels, training_set
from dme.training.validation import Validation, agreement

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    """uint8 of any value."""
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def make_cache(
    height=100,
    width=130,
    count=3,
    size=None,
    layers=None,
    subjects=None,
    positions=None,
) -> Cache:
    if size:
        height = width = size
    images = noise(count, height, width)
    fluid = RNG.random(images.shape) < 0.3
    fluid = fluid.astype(np.uint8)
    fluid[0, :2] = 255
    if subjects is None:
        subjects = np.ones(count, int)
        positions = np.arange(count)
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


def graded_between(first: int, last: int) -> np.ndarray:
    """Boundaries (3, 8, 130) that are known in columns first to last - 1."""
    layers = np.full((3, 8, 130), np.nan, np.float32)
    layers[:, :, first:last] = 50.0
    return layers


def network(size: str):
    torch.manual_seed(0)
    model = build_model(head="fcn", width=2).eval()
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": size}
    return model


def test_scans_enter_at_512_as_in_the_study():
    image = noise(90, 140)
    small = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
    small = torch.from_numpy(np.array(small))
    enlarged = F.interpolate(small[None, None].float(), (512, 512), mode="bilinear")
    expected = enlarged[0, 0].round()
    size = SIZES["512"]
    assert torch.equal(size.image(torch.from_numpy(image)).float(), expected)
    assert torch.equal(size.image(small).float(), expected)


def test_half_is_the_mean_of_2_x_2_pixels():
    half = SIZES["half"]
    image = noise(10, 14)
    squares = image.reshape(5, 2, 7, 2)
    expected = squares.mean((1, 3)).round()  # both round halves to even
    result = half.image(torch.from_numpy(image)).numpy()
    assert np.array_equal(result, expected)
    odd = torch.zeros(11, 15, dtype=torch.uint8)
    assert half.image(odd).shape == (6, 8)


def test_half_masks():
    rows = [
        (1, 0, 1, 1, 255, 0),
        (1, 0, 0, 0, 0, 0),
        (0, 0, 1, 1, 1, 1),
        (0, 1, 1, 0, 1, 255),
    ]
    mask = torch.tensor(rows).byte()
    half = SIZES["half"].mask(mask)
    assert half.tolist() == [[1, 1, 255], [0, 1, 255]]
    assert half.dtype == torch.uint8


def fluid_set(small, native, scans, size: str, ungraded: str):
    """What a network of fluid trains on."""
    scans = np.array(scans)
    return training_set(small, native, scans, TASKS["fluid"], {"size": size}, ungraded, CPU)


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_training_scans_and_masks_share_their_pixels(size):
    small = make_cache(size=256)
    native = make_cache()
    data = fluid_set(small, native, [2, 0], size, "background")
    assert data.names == ["scan2", "scan0"]
    cache = small if size == "512" else native
    for place, i in enumerate((2, 0)):
        image = torch.from_numpy(cache.images[i])
        fluid = torch.from_numpy(cache.fluid[i])
        entering = data.images[place]
        mask = data.masks[place]
        assert torch.equal(entering, SIZES[size].image(image))
        assert torch.equal(mask, SIZES[size].mask(fluid))
        assert entering.shape == mask.shape
        assert entering.dtype == mask.dtype == torch.uint8


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_columns_beside_the_central_are_ignored_on_request(size):
    # a fifth of the width on both sides is ungraded
    layers = graded_between(26, 104)
    small = make_cache(size=256)
    native = make_cache(layers=layers)
    ignored = fluid_set(small, native, [1], size, "ignore").masks[0]
    kept = fluid_set(small, native, [1], size, "background").masks[0]
    known = (ignored != 255).any(0)
    width = ignored.shape[1]
    columns = known.nonzero()
    first = int(columns[0])
    end = int(columns[-1]) + 1
    assert abs(first - 0.2 * width) <= 2
    assert abs(end - 0.8 * width) <= 2
    assert torch.equal(ignored[:, known], kept[:, known])
    assert (kept != 255).all()


def test_central_columns():
    assert make_cache().central(0).all()
    subjects, positions = np.array(sorted(DUKE_ANNOTATED)).T
    duke = make_cache(4, 768, count=110, subjects=subjects, positions=positions)
    columns = np.flatnonzero(duke.central(5))
    assert [columns[0], columns[-1]] == list(FLUID_COLUMNS) == [99, 624]
    other = make_cache(4, 768, count=110)
    assert other.central(5).all()  # of other eyes nothing is known
    # boundaries of one scan say nothing about the fluid of the others
    layers = graded_between(26, 104)
    layers[1:] = np.nan
    cache = make_cache(layers=layers)
    for i, count in enumerate((78, 130, 130)):
        assert cache.central(i).sum() == count
    with pytest.raises(ValueError, match="native"):
        make_cache(size=256).central(0)


@pytest.mark.parametrize("size", ["512", "native", "half"])
def test_a_network_that_makes_nan_is_not_scored(size):
    model = network(size)
    model.head.classifier.bias.data[1] = float("nan")
    validate = Validation(make_cache(size=256), make_cache(), np.array([1, 2]), CPU)
    with pytest.raises(InputError, match="makes NaN or infinity of scan scan1: its weights"):
        validate({"model": model})


@pytest.mark.parametrize("size", ["512", "native", "half"])
@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_have_the_size_of_the_scan(size, flip):
    model = network(size)
    image = torch.from_numpy(noise(101, 131))
    entering = SIZES[size].image(image)
    predict = sliding_window if size == "512" else whole

    def expected_of(entering):
        x = normalise(entering[None], model.preprocess)
        with torch.inference_mode():
            logits = predict(model, x)
        resized = F.interpolate(logits, image.shape, mode="bilinear")
        return resized.softmax(1)[0]

    expected = expected_of(entering)
    if flip:
        mirrored = expected_of(entering.flip(-1))
        expected = (expected + mirrored.flip(-1)) / 2
    result = probabilities(model, image, flip)
    assert result.shape == (2, 101, 131)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", ["512", "half"])
def test_validation_counts_against_three_truths(size):
    small = make_cache(size=256)
    native = make_cache(layers=graded_between(40, 90))
    validate = Validation(small, native, np.array([2, 0]), CPU)
    model = network(size)
    measured, picture = validate({"model": model})
    assert validate.names == ["scan2", "scan0"]
    assert picture.dtype == np.uint8
    study = validate.counts["study"]
    central = validate.counts["central"]

    def label_map(result, height, width):
        if result.shape[-2:] != (height, width):
            result = F.interpolate(result, (height, width), mode="bilinear", antialias=True)
        return result[0].argmax(0).numpy()

    cache = small if size == "512" else native
    for place, i in enumerate((2, 0)):
        image = torch.from_numpy(cache.images[i])
        result = probabilities(model, image)[None]
        small_map = label_map(result, 256, 256)
        native_map = label_map(result, 100, 130)
        expected = confusion(small.fluid[i], small_map)
        assert np.array_equal(study[place], expected)
        expected = confusion(native.fluid[i], native_map)
        assert np.array_equal(validate.counts["native"][place], expected)
        columns = slice(40, 90)
        expected = confusion(native.fluid[i][:, columns], native_map[:, columns])
        assert np.array_equal(central[place], expected)
    pooled = scores(study.sum(0))
    assert measured["score"] == measured["study-dice"] == pooled["dice"][1]
    pooled = scores(central.sum(0))
    assert measured["central-iou"] == pooled["iou"][1]


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
    fluid_rows = (9, 3, 5, 0, 7, 1)
    for i, count in enumerate(fluid_rows):
        small.fluid[i, :count] = 1
    scans = np.array([1, 2, 3, 5])
    validate = Validation(small, SimpleNamespace(), scans, CPU)
    assert validate.shown == [2, 1, 3]  # most fluid, the median of those with fluid, least


# Layers


def straight_layers(width=130, count=3) -> np.ndarray:
    """Boundaries at rows 9.5, 19.5, ... 79.5 of scans 100 high; the first ten columns unknown."""
    rows = np.empty((count, 8, width), np.float32)
    for i in range(8):
        rows[:, i] = 9.5 + 10 * i
    rows[:, 3, :10] = np.nan
    return rows


def layer_caches() -> tuple[Cache, Cache]:
    """The small and the native cache of scans with straight layers."""
    small = make_cache(size=256)
    native = make_cache(layers=straight_layers())
    return small, native


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [
        ("native", 100, 130),
        ("half", 50, 65),
        ("512", 512, 512),
    ],
)
def test_layer_labels_at_every_size(size, height, width):
    small, native = layer_caches()
    result = labels(small, native, 1, TASKS["layers"], SIZES[size])
    assert result.shape == (height, width)
    unknown = -(-10 * width // 130)  # columns that cover an unknown one
    assert (result[:, :unknown] == 255).all()
    # a boundary at 9.5 parts the first tenth of the height from the rest, whatever the height
    tenths = (np.arange(height) + 0.5) * 10 // height
    expected = np.minimum(tenths, 8)
    for column in range(unknown, width):
        assert np.array_equal(result[:, column], expected)


def test_fluid_lies_on_top_of_layers():
    small, native = layer_caches()
    both = labels(small, native, 0, TASKS["layers+fluid"], NATIVE)
    expected = labels(small, native, 0, TASKS["layers"], NATIVE)
    fluid = native.fluid[0]
    expected[fluid == 1] = 9
    expected[fluid == 255] = 255
    assert torch.equal(both[:, 10:], expected[:, 10:])
    assert (both[:, :10] == 255).all()


def test_layers_are_trained_on_as_they_are_scored():
    small, native = layer_caches()
    half = SIZES["half"]
    task = TASKS["layers"]
    scans = np.array([2, 1])
    data = training_set(small, native, scans, task, {"size": "half"}, "background", CPU)
    for mask, i in zip(data.masks, scans, strict=True):
        scored = labels(small, native, i, task, half)
        assert torch.equal(mask, scored)


class Oracle(torch.nn.Module):
    """Knows labels of scans by their brightest pixel; moves all boundaries by `down` pixels."""

    def __init__(self, task: str, maps: dict[int, np.ndarray], down: int):
        super().__init__()
        model = build_model(head="fcn", width=2)
        set_classes(model, TASKS[task].classes)
        self.arch = model.arch
        self.classes = model.classes
        self.preprocess = model.preprocess | {"size": "native"}
        self.maps = maps
        self.down = down

    def forward(self, x):
        mean = self.preprocess["mean"][0]
        std = self.preprocess["std"][0]
        grey = x[0, 0] * std + mean
        known = self.maps[round(grey.max().item())].copy()
        known[:, :10] = known[:, 10:11]  # what nobody graded

        # moved down, and enlarged to the padded image by its edges
        height, width = x.shape[-2:]
        rows = np.arange(height).clip(max=len(known) - 1) - self.down
        columns = np.arange(width).clip(max=known.shape[1] - 1)
        moved = known[np.ix_(rows.clip(min=0), columns)]
        classes = torch.from_numpy(moved).long()
        one_hot = F.one_hot(classes, self.arch["num_classes"])  # (H, W, C)
        return 20 * one_hot.permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(
    ("task", "down"),
    [
        ("layers", 0),
        ("layers", 3),
        ("layers+fluid", 3),
    ],
)
def test_boundary_errors_of_validation(task, down):
    small, native = layer_caches()
    native.fluid[:] = 0
    native.fluid[:, 35:39, 60:70] = 1
    maps = {}
    native.images[:] = native.images.clip(max=150)
    for i in range(3):  # 200 + i is what the oracle knows a scan by
        native.images[i, 0, 0] = 200 + i
        truth = labels(small, native, i, TASKS[task], NATIVE)
        maps[200 + i] = truth.numpy()
    scans = np.array([2, 0])
    validate = Validation(small, native, scans, CPU, TASKS[task])
    oracle = Oracle(task, maps, down)
    measured, picture = validate({"model": oracle})
    classes = len(TASKS[task].classes)
    assert validate.counts["native"].shape == (2, classes, classes)
    np.testing.assert_allclose(validate.boundary_errors_px, down, atol=0.05)
    np.testing.assert_allclose(validate.thickness_errors_px, 0, atol=0.1)
    assert measured["score"] == -measured["boundary-error-px"]
    assert measured["score"] == pytest.approx(-down, abs=0.05)
    if not down:
        assert measured["native-dice"] == 1.0
    assert picture.ndim == 3
    assert picture.dtype == np.uint8


def test_graders_are_compared_scan_by_scan():
    small, native = layer_caches()
    other = make_cache(layers=straight_layers() + 2)
    scans = np.array([0, 2])
    first = Validation(small, native, scans, CPU, TASKS["layers"])
    second = Validation(small, other, scans, CPU, TASKS["layers"])
    counts, errors_px = agreement(first, second)
    np.testing.assert_allclose(errors_px, 2)
    # two of ten rows of each layer become those of the layer above it, in 120 known columns
    expected = np.zeros(9)
    expected[2] = 2 * 120
    expected[3] = 8 * 120
    assert np.array_equal(counts[0, 3], expected)
    second.indices = np.array([0, 1])
    with pytest.raises(InputError, match="annotated different scans"):
        agreement(first, second)


UNKNOWN = graded_between(0, 0)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("fluid", {"fluid": None}, "have no fluid masks"),
        ("layers+fluid", {"fluid": None, "layers": straight_layers()}, "have no fluid masks"),
        ("layers", {}, "no layer boundaries; `task` layers needs them"),
        ("layers", {"layers": UNKNOWN}, "scan0, scan1, scan2: no column has all 8"),
    ],
)
def test_sets_without_the_truth_are_refused(task, change, message):
    cache = make_cache()
    for name, value in change.items():
        setattr(cache, name, value)
    with pytest.raises(InputError, match=message):
        check_annotated(cache, TASKS[task])
