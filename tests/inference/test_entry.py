"""How scans enter networks: at one brightness and physical scale where the checkpoint says so."""

import numpy as np
import pytest
import torch

import dme
from dme.common.errors import InputError
from dme.data.perturbations import Labelled, perturbed
from dme.data.phantom import phantom_bscan
from dme.inference.brightness import GREYS, SHARES, matched
from dme.inference.entry import enter
from dme.inference.export import Exportable, describe, needed_before
from dme.inference.scan import probabilities, scale_note
from dme.inference.sizes import SIZES, size_of
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model, set_classes

UM = {"size": "um", "um_per_px": [7.74, 22.66]}
FLUID = ["background", "fluid"]
SCALE = (3.87, 11.33)


@pytest.fixture(scope="module")
def scan():
    return phantom_bscan(4, fluid=True)


def image_of(scan, name="as it is"):
    return torch.tensor(perturbed(Labelled(scan.image, scan.fluid), name, "a").image)


def test_old_networks_see_what_they_always_saw(scan):
    image = image_of(scan)
    for name in ("512", "native", "half"):
        entered = enter(image, {"size": name}, FLUID, SCALE)
        assert torch.equal(entered.image, SIZES[name].image(image))


def test_copies_of_known_scale_enter_alike(scan):
    whole = enter(image_of(scan), UM, FLUID, SCALE).image
    assert whole.shape == (248, 384)
    for name, scale in (("half size", (7.74, 22.66)), ("double size", (1.935, 5.665))):
        copy = enter(image_of(scan, name), UM, FLUID, scale).image
        assert copy.shape == whole.shape
        assert (copy.float() - whole.float()).abs().mean() < 4


def test_copies_of_unknown_scale_enter_alike(scan):
    heights = []
    for name in ("as it is", "half size", "double size", "256 x 256"):
        entered = enter(image_of(scan, name), UM, FLUID)
        assert "taken from the retina's height" in entered.size.note
        heights.append(entered.image.shape)
    tallest, widest = np.max(heights, axis=0)
    assert np.ptp(heights, axis=0).tolist() <= [0.12 * tallest, 0]
    assert widest == round(7200 / 22.66)


def test_without_a_retina_the_frame_decides():
    blank = torch.full((100, 200), 40, dtype=torch.uint8)
    entered = enter(blank, UM, FLUID)
    assert "no retina to measure by" in entered.size.note
    assert entered.image.shape == (round(1900 / 7.74), round(7200 / 22.66))


def test_masks_and_rows_follow(scan):
    size = size_of(UM).fit(image_of(scan), SCALE)
    fluid = torch.tensor(scan.fluid)
    fluid[:, :10] = 255
    mask = size.mask(fluid)
    assert mask.shape == (248, 384)
    assert (mask == 1).float().mean() == pytest.approx((scan.fluid == 1).mean(), rel=0.1)
    assert (mask[:, :5] == 255).all()
    assert not (mask[:, 6:] == 255).any()
    rows = size.rows(scan.layers, 496, 768)
    assert rows.shape == (8, 384)
    assert np.allclose(rows.mean(), (scan.layers.mean() + 0.5) / 2 - 0.5, atol=0.1)


def test_no_contrast_curve_changes_a_matched_scan():
    scan = phantom_bscan(4, fluid=True)
    preprocess = {"size": "half", "brightness": "matched"}
    plain = enter(image_of(scan), preprocess, FLUID).image.float()
    for name in ("gamma 2", "gamma 0.5", "contrast curve", "dim"):
        copy = enter(image_of(scan, name), preprocess, FLUID).image.float()
        assert (copy - plain).abs().mean() < 4, name
        raw = enter(image_of(scan, name), {"size": "half"}, FLUID).image.float()
        assert (raw - plain).abs().mean() > 8, name


def test_matched_grey_values_are_spread_as_stated():
    image = torch.randperm(100 * 256).view(100, 256).remainder(256).byte()
    every = torch.ones_like(image, dtype=torch.bool)
    grey = matched(image, every)
    for share, value in zip(SHARES[1:-1], GREYS[1:-1], strict=True):
        assert np.quantile(grey.numpy(), share) == pytest.approx(value, abs=3)


def test_wedges_take_no_part():
    image = torch.randint(0, 200, (64, 64), generator=torch.Generator().manual_seed(0)).byte()
    preprocess = {"size": "native", "brightness": "matched"}
    plain = enter(image, preprocess, FLUID).image
    framed = torch.cat([torch.full((16, 64), 255, dtype=torch.uint8), image])
    entered = enter(framed, preprocess, FLUID).image
    assert (entered[:16] == 255).all()
    below = entered[20:].int() - plain[4:].int()
    assert below.abs().float().mean() < 0.5

    # nor do rows that a shifted frame does not cover
    framed[:4] = 0
    entered = enter(framed, preprocess, FLUID).image
    assert not entered[:4].any()
    assert (entered[4:16] == 255).all()
    below = entered[20:].int() - plain[4:].int()
    assert below.abs().float().mean() < 0.5


def test_a_network_states_scale_and_brightness_and_answers_at_the_scans_pixels(scan, tmp_path):
    model = build_model(width=2, head="fcn", aux=False)
    set_classes(model, FLUID)
    model.preprocess = model.preprocess | UM | {"brightness": "matched"}
    save_model(model, tmp_path / "m.pth")
    loaded = load_model(tmp_path / "m.pth")
    assert loaded.preprocess["um_per_px"] == [7.74, 22.66]
    _, probability = dme.predict(loaded, scan.image, scale_um=SCALE)
    assert probability.shape == scan.image.shape
    assert scale_note(loaded, scan.image, SCALE) == ""
    assert "give the scale" in scale_note(loaded, scan.image, None)
    with pytest.raises(InputError, match="expected axial and lateral um"):
        dme.predict(loaded, scan.image, scale_um=(3.87,))


@pytest.mark.parametrize(
    "entry",
    [
        {"size": "um"},
        {"size": "half", "um_per_px": [7.74, 22.66]},
        {"size": "um", "um_per_px": [7.74, 0.0]},
        {"size": "um", "um_per_px": [7.74]},
        {"size": "half", "brightness": "bright"},
    ],
)
def test_half_a_statement_is_refused(entry, tmp_path):
    model = build_model(width=2, head="fcn", aux=False)
    model.preprocess = model.preprocess | entry
    save_model(model, tmp_path / "m.pth")
    with pytest.raises(InputError, match="do not fit"):
        load_model(tmp_path / "m.pth")


def test_an_exported_file_says_what_it_does_not_do(scan):
    model = build_model(width=2, head="fcn", aux=False).eval()
    set_classes(model, FLUID)
    assert needed_before(model.preprocess) == ""
    model.preprocess = model.preprocess | UM | {"brightness": "matched"}
    before = needed_before(model.preprocess)
    assert "NOT inside: resampled to 7.74 x 22.66 um per pixel" in before
    assert "wedges white and all other grey values spread" in before
    about = describe(model)
    assert before in about["input"] and "resized" not in about["input"].split(";")[-1]
    assert about["entry"]["um_per_px"] == [7.74, 22.66]
    assert about["entry"]["shares"] == SHARES
    assert len(about["entry"]["steps"]) == 5

    # given the scan as it enters, the file and the network agree
    entered = enter(image_of(scan), model.preprocess, FLUID, SCALE).image
    probability = Exportable(model)(entered[None, None].float())
    assert probability.shape == (1, 2, 248, 384)
    expected = probabilities(model, image_of(scan), scale_um=SCALE)
    sized = torch.nn.functional.interpolate(expected[None], (248, 384), mode="area")
    assert (sized - probability).abs().mean() < 0.01
