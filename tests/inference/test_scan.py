"""One scan: fluid and layers that networks find whose answers are known, and what is refused."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Bright, Knows
from helpers.scan_files import flat, indexed, picture, save
from PIL import Image

import dme
from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.inference.scan import predict, probabilities
from dme.inference.sizes import SIZES
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import PREPROCESS, build_model, set_classes
from dme.retina.accuracy import boundary_errors_px
from dme.retina.rows import CLASSES, scale_rows
from dme.retina.wedge import saturated_wedge


def phantom_volume() -> np.ndarray:
    """48 B-scans, each twice: those of a real volume are more alike than noise."""
    return np.stack([phantom_bscan(seed, 62, 96).image for seed in range(48)])


# ---- fluid --------------------------------------------------------------------------------------
def test_mask_and_probability():
    image = picture()
    mask, probability = predict(Bright(), image)
    assert mask.dtype == np.uint8
    assert mask.shape == image.shape
    assert probability.dtype == np.float32
    logits = (image.astype(float) - 100) / 20
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    np.testing.assert_array_equal(mask, image > 100)


def test_fluid_is_found_by_its_name():
    image = picture()
    mask, _ = predict(Bright(["fluid", "background"]), image)
    np.testing.assert_array_equal(mask, image > 100)


def test_threshold():
    image = picture()
    usual, _ = predict(Bright(), image)
    loose, probability = predict(Bright(), image, threshold=0.2)
    np.testing.assert_array_equal(loose, probability > 0.2)
    assert loose.sum() > usual.sum()


def test_mirror():
    image = picture()
    network = Bright(shift=3)
    _, straight = predict(network, image)
    _, mirrored = predict(network, image[:, ::-1])
    _, mean = predict(network, image, tta=True)
    back = mirrored[:, ::-1]
    assert np.abs(straight - back).max() > 0.1
    np.testing.assert_allclose(mean, (straight + back) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: np.repeat(a[..., None], 3, 2),
        lambda a: np.dstack([a, a, a, np.full_like(a, 7)]),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.int64),
        lambda a: (a.astype(np.uint16) * 257).clip(0, 65535),
    ],
    ids=["colour", "alpha", "float", "int64", "16 bit"],
)
def test_every_form_of_an_image(convert):
    image = picture()
    image[0, 0] = 255
    mask, _ = predict(Bright(), convert(image))
    np.testing.assert_array_equal(mask, image > 100)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((4, 5), np.nan), "NaN"),
        (np.random.default_rng(0).random((4, 5)), "0..1 times 255"),
        (np.full((4, 5), 300.0), "expected grey values 0..255"),
        (np.zeros((2, 4, 5, 3), np.uint8), "expected .height, width."),
        (np.zeros((0, 5), np.uint8), "shape .0, 5."),
        (np.zeros((4, 5), np.int16) - 1, "expected 8- or 16-bit"),
    ],
)
def test_images_that_are_none(image, message):
    with pytest.raises(InputError, match=f"image: .*{message}"):
        predict(Bright(), image)


@pytest.mark.parametrize(
    "convert",
    [
        torch.tensor,
        lambda a: torch.tensor(a).to(torch.bfloat16),
        lambda a: torch.tensor(a).float().requires_grad_(),
        lambda a: a.tolist(),
        lambda a: np.asfortranarray(a)[:, ::-1][:, ::-1],
        lambda a: a.astype(">u2") * 16,
        Image.fromarray,
        lambda a: Image.fromarray(a).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE),
    ],
    ids="tensor bfloat16 gradient list strides big-endian Pillow palette".split(),
)
def test_what_else_holds_an_image(convert):
    image = np.where(picture() > 100, 255, 40).astype(np.uint8)  # two greys: all forms hold them
    mask, _ = predict(Bright(), convert(image))
    np.testing.assert_array_equal(mask, image > 100)


def test_a_turned_photograph_is_seen_upright():
    """As from its path: EXIF says how to turn what is stored."""
    image = np.where(picture() > 100, 255, 40).astype(np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees, clockwise
    file = io.BytesIO()
    Image.fromarray(np.rot90(image).copy()).save(file, "PNG", exif=exif)
    mask, _ = predict(Bright(), Image.open(file))
    np.testing.assert_array_equal(mask, image > 100)
    file.truncate(len(file.getvalue()) - 40)
    with pytest.raises(InputError, match="image is PIL.PngImagePlugin.PngImageFile, expected an"):
        predict(Bright(), Image.open(file))


@pytest.mark.parametrize("kind", [str, Path])
def test_the_path_of_a_picture(kind, tmp_path):
    path = save(tmp_path / "scan.png", picture())
    mask, _ = predict(Bright(), kind(path))
    np.testing.assert_array_equal(mask, picture() > 100)
    rows = dme.predict_layers(Knows([flat()]), kind(save(tmp_path / "layers.PNG", indexed())))
    assert np.abs(rows - flat()).max() < 0.1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "image: no such file: nowhere.png"),
        ("scans/volume.npy", "scans/volume.npy is no picture .* reads .npy, .mat and folders"),
        ("", "is no picture"),
        (np.zeros((4, 5), bool), "bool, a mask rather than a scan"),
        (torch.zeros(4, 5, dtype=torch.bool), "bool, a mask rather than a scan"),
        (np.zeros((7, 40, 60), np.uint8), "volume .N, H, W. goes to dme.predict_volume"),
        (np.zeros((3, 40, 60), np.uint8), "channels come last: np.moveaxis.image, 0, -1."),
        (np.zeros((7, 40, 60, 3), np.uint8), "goes to dme.predict_volume"),
        (None, "image is NoneType"),
        (np.array([["a"]]), "expected an array of numbers"),
        ([[1, 2], [3]], "image is list, expected an array"),
        (torch.zeros(4, 5, device="meta"), "image is torch.Tensor of shape .4, 5., expected an"),
        (np.zeros((4, 5), complex), "expected an array of numbers"),
        (Bright(), "expected an array"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(InputError, match=message):
        predict(Bright(), image)


@pytest.mark.parametrize("threshold", [5, 1, -0.1, float("nan"), "0.5", None, True])
def test_thresholds_that_are_none(threshold):
    with pytest.raises(InputError, match="threshold is .*, expected a probability"):
        predict(Bright(), picture(), threshold=threshold)
    with pytest.raises(InputError, match="threshold is .*, expected a probability"):
        dme.predict_volume(Bright(), picture()[None], threshold=threshold)


@pytest.mark.parametrize(
    ("scale_um", "message"),
    [
        ((0.00387, 0.01133), "these look like mm: in um they are 3.87,11.33; expected um: "),
        ((11.33, 3.87), "axial 11.33 and lateral 3.87 look swapped: give 3.87,11.33"),
        (np.array([387, 1133]), "axial 387 um cannot be"),
        ([1e-9, 1e-9], "axial 1e-09 um cannot be"),
        ((0.9, 11.33), "axial 0.9 um cannot be"),
        ((3.87, 11.33, 0.123), "spacing 0.123 um cannot be"),
        ((3.87, float("nan")), "lateral nan um cannot be"),
        (("a", "b"), "scale_um is .'a', 'b'., expected axial and lateral um per pixel"),
        ("3.87,11.33", "scale_um is '3.87,11.33', expected axial and lateral"),
        ((3.87,), "expected axial and lateral"),
        ((3.87, True), "expected axial and lateral"),
        ((3.87, None), "expected axial and lateral"),
        ((3.87, 11.33, 123, 1), "expected axial and lateral"),
        (np.ones((2, 2)), "expected axial and lateral"),
        (3.87, "expected axial and lateral"),
    ],
)
def test_scales_that_no_scan_has_are_refused_as_by_the_command(scale_um, message):
    with pytest.raises(InputError, match=message):
        predict(Bright(), picture(), scale_um=scale_um)
    with pytest.raises(InputError, match=message):
        dme.predict_volume(Bright(), picture()[None], scale_um=scale_um)
    with pytest.raises(InputError, match=message):
        dme.predict_layers(Knows([flat()]), indexed(), scale_um=scale_um)


@pytest.mark.parametrize("kind", [tuple, list, np.array])
def test_scales_of_instruments_with_and_without_spacing_are_taken(kind):
    mask, _ = predict(Bright(), picture())
    for scale_um in (kind((3.87, 11.33)), kind((3.87, 11.33, 123))):
        assert np.array_equal(predict(Bright(), picture(), scale_um=scale_um)[0], mask)


def test_a_probability_at_the_threshold_is_no_fluid():
    image = np.full((4, 5), 100, np.uint8)  # of which Bright is exactly undecided
    image[0, 0] = 101
    mask, probability = predict(Bright(), image)
    assert probability[1, 1] == 0.5
    assert mask.sum() == mask[0, 0] == 1
    mask, _ = predict(Bright(), image, threshold=float(probability[0, 0]))
    assert not mask.any()


def test_a_network_by_name_and_by_file(tmp_path):
    scan = phantom_bscan(5, 248, 384)
    model = load_model("dme-fluid")
    mask, probability = predict(model, scan.image)
    save_model(model, tmp_path / "m.pth")
    for network in ("dme-fluid", tmp_path / "m.pth", str(tmp_path / "m.pth")):
        again = predict(network, scan.image)
        assert np.array_equal(again[0], mask) and np.array_equal(again[1], probability)
    assert 0 < probability.min() < probability.max() < 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (picture(), "model is numpy.ndarray of shape .40, 60., expected a network of dme.load_mo"),
        (None, "model is NoneType, expected a network"),
        (torch.nn.Identity(), "model is torch.nn.modules.linear.Identity, expected a network"),
        ("dme-fluit", "unknown weights 'dme-fluit'"),
        (Bright().half(), "weights of torch.float16, expected torch.float32"),
    ],
)
def test_what_is_no_network(model, message):
    for call in (predict, dme.predict_layers):
        with pytest.raises(InputError, match=message):
            call(model, picture())
    with pytest.raises(InputError, match=message):
        dme.predict_volume(model, picture()[None])


def test_a_network_in_training_predicts_as_after_it_and_goes_on():
    torch.manual_seed(0)
    model = build_model(head="fcn", width=2)
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": "native"}
    model.eval()
    _, expected = predict(model, picture())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    _, probability = predict(model, picture())
    assert np.array_equal(probability, expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_scan_black_on_white_is_refused():
    inverted = 255 - phantom_bscan(5, 248, 384).image
    with pytest.raises(InputError, match="image: its background is brighter than the retina"):
        predict(Bright(), inverted)


# ---- volumes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("convert", [np.array, torch.tensor, list])
def test_a_volume_is_its_scans(convert):
    volume = np.stack([picture(seed=seed) for seed in range(3)])
    masks, probabilities = dme.predict_volume(Bright(), convert(volume), tta=True)
    assert (masks.dtype, probabilities.dtype) == (np.uint8, np.float32)
    for scan, mask, probability in zip(volume, masks, probabilities, strict=True):
        expected = predict(Bright(), scan, tta=True)
        assert np.array_equal(mask, expected[0]) and np.array_equal(probability, expected[1])


def test_a_volume_has_one_grey_scale():
    volume = np.zeros((2, 40, 60), np.uint16)
    volume[0, 10:15, 20:28] = 4095
    volume[1, 10:15, 20:28] = 1000  # white of its scan alone, dark in the volume
    masks, _ = dme.predict_volume(Bright(), volume)
    assert masks[0].sum() == 40 and not masks[1].any()


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (picture(), "shape .40, 60., expected .N, H, W.* one B-scan goes to dme.predict"),
        (
            np.zeros((40, 60, 25), np.uint8),
            "40 B-scans of 60 x 25 px, .*looks like .height, width, B-",
        ),
        (
            np.zeros((40, 25, 60), np.uint8),
            "40 B-scans of 25 x 60 px, .*looks like .height, B-scans,",
        ),
        (np.zeros((0, 40, 60), np.uint8), "holds no pixels"),
        (phantom_volume().transpose(1, 2, 0), "looks like .height, width, B-scans."),
        (255 - phantom_volume(), "volume.0.: its background is brighter than the retina"),
        (np.zeros((2, 40, 60), bool), "volume: bool, a mask"),
        (np.random.default_rng(0).random((2, 40, 60)), "volume.0.: float values .*0..1 times 255"),
        ("volume.npy", "volume is the path volume.npy, expected an array .N, H, W.: np.load"),
    ],
)
def test_volumes_that_are_none(volume, message):
    with pytest.raises(InputError, match=message):
        dme.predict_volume(Bright(), volume)


def test_networks_that_cannot():
    with pytest.raises(InputError, match="finds background, vessel, expected .* class fluid"):
        predict(Bright(["background", "vessel"]), picture())


@pytest.mark.parametrize("size", [{}, {"size": "1024"}])
def test_networks_of_unknown_size(size):
    network = Bright()
    network.preprocess = PREPROCESS | size
    with pytest.raises(InputError, match="does not say at which size"):
        predict(network, picture())


@pytest.mark.parametrize("size", SIZES)
def test_one_pixel_and_a_real_network(size, tmp_path):
    torch.manual_seed(0)
    model = build_model(head="psp", width=2)
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": size}
    if size == "um":
        model.preprocess["um_per_px"] = [7.74, 22.66]
    save_model(model, tmp_path / "m.pth")
    pixel = np.full((1, 1), 90, np.uint8)
    mask, probability = predict(load_model(tmp_path / "m.pth"), pixel)
    assert mask.shape == (1, 1)
    assert 0 < probability[0, 0] < 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_makes_nan_is_no_network_without_fluid(value):
    class Broken(Bright):
        def forward(self, x):
            logits = super().forward(x)
            logits[..., 2, 3] = value
            return logits

    for tta in (False, True):
        with pytest.raises(InputError, match="bright.pth makes NaN or infinity: its weights"):
            predict(Broken(), picture(), tta=tta)


# ---- layers -------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [2, 17])
def test_the_shipped_network_finds_layers_beside_saturated_wedges(seed):
    made_up = phantom_bscan(seed)
    assert saturated_wedge(made_up.image).any()
    rows = dme.predict_layers(load_model("octlayers"), made_up.image)
    errors = boundary_errors_px(rows, made_up.layers)
    assert errors[-1] < 1.2  # the wedge's edge taken for a layer costs tens of pixels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("size", "tolerance_px"), [("native", 0.5), ("half", 1.0)])
def test_rows_of_phantoms(size, tolerance_px, seed):
    """To half a pixel of what the network sees."""
    truth = phantom_bscan(seed, 331, 384, fluid=False).layers
    known = truth
    if size == "half":
        known = scale_rows(truth, (331, 384), (166, 192))
    rows = dme.predict_layers(Knows([known], size), indexed(0, 331, 384))
    assert rows.dtype == np.float32
    assert rows.shape == (8, 384)
    error = rows - truth
    assert np.abs(error).max() <= tolerance_px
    assert np.abs(error.mean(axis=1)).max() <= 0.1  # nothing is shifted by half a pixel


def test_fluid_as_the_tenth_class():
    cyst = (slice(28, 32), slice(20, 30))
    network = Knows([flat()], fluid=True)
    mask, probability = dme.predict(network, indexed(cyst=cyst))
    assert mask[cyst].all()
    assert mask.sum() == 40
    assert probability[cyst].min() > 0.99
    # the cyst lies in the third layer and takes nothing from the boundaries
    rows = dme.predict_layers(network, indexed(cyst=cyst))
    assert np.abs(rows - flat()).max() < 0.1


def test_fluid_that_another_network_found_lies_within_the_retina():
    cyst = np.zeros((80, 60), np.float32)
    cyst[12:36, 20:40] = 1
    shallow = flat()
    shallow[:4, 20:40] = 36  # the surface and three layers fall to the floor of the cyst
    alone = dme.predict_layers(Knows([shallow]), indexed())
    helped = dme.predict_layers(Knows([shallow]), indexed(), fluid=cyst)
    assert alone[0, 25:35].min() > 30
    assert helped[0].max() < 13

    # a tensor and a mask of whole numbers say the same
    for same in (torch.tensor(cyst), cyst.astype(np.uint8), cyst > 0):
        rows = dme.predict_layers(Knows([shallow]), indexed(), fluid=same)
        assert np.array_equal(rows, helped)

    # a network of ten classes knows fluid by itself
    rows = dme.predict_layers(Knows([flat()], fluid=True), indexed(), fluid=1 - cyst)
    assert np.abs(rows - flat()).max() < 0.1


def test_rows_are_unknown_where_the_scan_shows_no_retina():
    """Not mirrored ones, whose thickness would be averaged with what was seen."""
    image = indexed()
    image[:, :6] = 0
    image[:, -2:] = 255
    image[:20, 30:33] = 255  # a wedge over the first layers
    rows = dme.predict_layers(Knows([flat()]), image)
    unknown = np.flatnonzero(np.isnan(rows).all(axis=0)).tolist()
    assert unknown == [*range(6), 30, 31, 32, 58, 59]
    assert np.isnan(rows).sum() == 8 * len(unknown)
    assert np.nanmean(rows[7] - rows[0]) == pytest.approx(56, abs=0.1)


def test_a_network_of_layers_sees_mirrored_columns_beyond_the_frame(monkeypatch):
    """The frame's end would pass for the retina's; what is mirrored there is no fluid."""
    image = indexed(cyst=(slice(28, 32), slice(6, 12)))
    image[:, :6] = 0
    image[:, -2:] = 0
    seen = []

    def spy(model, pixels, **options):
        seen.append(pixels.numpy())
        return probabilities(model, pixels, **options)

    monkeypatch.setattr("dme.inference.scan.probabilities", spy)
    mask, _ = dme.predict(Knows([flat()], fluid=True), image)
    (pixels,) = seen
    np.testing.assert_array_equal(pixels[:, 6:58], image[:, 6:58])
    np.testing.assert_array_equal(pixels[:, :6], image[:, 12:6:-1])
    np.testing.assert_array_equal(pixels[:, 58:], image[:, 56:54:-1])
    assert mask[28:32, 6:12].all() and mask.sum() == 4 * 6


def test_mirrored_scans_average():
    torch.manual_seed(0)
    model = build_model(head="fcn", num_classes=9, width=2, aux=False).eval()
    model.classes = list(CLASSES)
    model.preprocess = model.preprocess | {"size": "native"}
    image = phantom_bscan(0, 64, 96).image
    straight = dme.predict_layers(model, image, tta=True)
    mirrored = dme.predict_layers(model, image[:, ::-1].copy(), tta=True)
    np.testing.assert_allclose(straight, mirrored[:, ::-1], atol=1e-2)


def test_networks_without_layers():
    network = Knows([flat()])
    message = "finds above retina, .*, expected a network with the class fluid"
    with pytest.raises(InputError, match=message):
        dme.predict(network, indexed())
    network.classes[1:3] = network.classes[2:0:-1]
    message = "knows.pth finds .*, expected a network with the nine classes"
    with pytest.raises(InputError, match=message):
        dme.predict_layers(network, indexed())
    with pytest.raises(InputError, match="image: shape .* expected .height, width."):
        dme.predict_layers(Knows([flat()]), np.zeros(5))
    with pytest.raises(InputError, match="fluid: shape .5, 5., expected the scan's, .80, 60."):
        dme.predict_layers(Knows([flat()]), indexed(), fluid=np.zeros((5, 5), np.float32))
    with pytest.raises(InputError, match="fluid: holds NaN or infinity"):
        dme.predict_layers(Knows([flat()]), indexed(), fluid=np.full((80, 60), np.nan))


@pytest.mark.parametrize(
    ("lowest", "highest", "found"),
    [(0, 255, "0..255"), (0, 2, "0..2"), (-0.5, 1, "-0.5..1"), (-1, 0, "-1..0")],
)
@pytest.mark.parametrize("ten_classes", [False, True])
def test_fluid_that_is_no_probability_is_refused(lowest, highest, found, ten_classes):
    fluid = np.full((80, 60), lowest, np.float32)
    fluid[20:30, 20:30] = highest
    with pytest.raises(InputError, match=f"fluid: values {found}, expected probabilities 0..1"):
        dme.predict_layers(Knows([flat()], fluid=ten_classes), indexed(), fluid=fluid)
    with pytest.raises(InputError, match="fluid is str, expected an array of numbers"):
        dme.predict_layers(Knows([flat()]), indexed(), fluid="mask.png")


def test_it_warns_of_what_is_no_scan_and_of_what_is_upside_down():
    """As `predict` of many scans refuses and flags them."""
    scan = phantom_bscan(5, 248, 384).image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(Bright(), scan)
    with pytest.warns(UserWarning, match="image: it seems to be upside down: turn it"):
        predict(Bright(), scan[::-1])
    coloured = np.stack([scan, scan // 3, 255 - scan], axis=-1)
    with pytest.warns(UserWarning, match="image: a picture in colours"):
        predict(Bright(), coloured)
