"""Augmentation: images that encode their coordinates show where every output pixel came from."""

import colorsys
import dataclasses
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dme.common.errors import InputError
from dme.training.augment import (
    Augment,
    TrainingSet,
    _photometric,
    _saturate_and_turn,
    batch_indices,
    check_fit,
    fit_note,
    sample_batch,
)

EVERYTHING = Augment(
    crop=48,
    flip=True,
    rotate=25,
    shift=0.1,
    zoom_range=(0.7, 1.4),
    brightness=0.1,
    contrast=0.2,
    gamma=0.3,
    colour=True,
    noise=0.1,
)
GEOMETRY = dataclasses.replace(
    EVERYTHING,
    brightness=0,
    contrast=0,
    gamma=0,
    colour=False,
    noise=0,
)


def _coordinates(height, width):
    """uint8 (3, H, W): row, column, 7."""
    rows = torch.arange(height, dtype=torch.uint8)
    columns = torch.arange(width, dtype=torch.uint8)
    rows, columns = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 7)])


def _noise(*shape, high=256):
    generator = torch.Generator().manual_seed(7)
    values = torch.randint(high, shape, generator=generator)
    return values.byte()


def _plain(colour, height, width):
    """uint8 (3, height, width) of one (red, green, blue)."""
    pixel = torch.tensor(colour, dtype=torch.uint8)
    return pixel[:, None, None].expand(3, height, width)


def _grey(value, *shape):
    """uint8 of one value."""
    return torch.full(shape, value, dtype=torch.uint8)


def _scans(images, masks):
    return TrainingSet(images, masks, [""] * len(images))


def _one(image, mask, augment, step=0, seed=0):
    scans = _scans([image], [mask])
    images, labels = sample_batch(scans, [0], augment, seed, step)
    return images[0], labels[0]


def _many(image, mask, augment, count):
    """`count` samples of one scan in one batch."""
    scans = _scans([image], [mask])
    return sample_batch(scans, [0] * count, augment, 0, 0)


def _crops(crop, **options):
    """Crops taken wherever they fall, unless the options say otherwise."""
    return Augment(**{"crop": crop, "max_class_share": 1, **options})


# Geometry


def test_the_default_is_the_whole_image_untouched():
    image = _noise(40, 50)
    mask = _noise(40, 50, high=3)
    x, y = _one(image, mask, Augment())
    assert x.dtype == torch.float32
    assert x.shape == (1, 40, 50)
    assert y.dtype == torch.int64
    assert torch.equal(x[0], image.float())
    assert torch.equal(y, mask.long())


@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip=True),
        Augment(shift=0.3),
        Augment(rotate=40),
        Augment(zoom_range=(0.5, 2.0)),
        Augment(crop=48, zoom_range=(0.5, 2.0)),
        Augment(crop=48, rotate=180),
        GEOMETRY,
        dataclasses.replace(GEOMETRY, crop=0),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_image_and_mask_stay_aligned(augment, axis):
    image = _coordinates(90, 120)
    mask = image[axis]  # bilinear and nearest coordinates differ by at most half a source pixel
    for step in range(20):
        x, y = _one(image, mask, augment, step)
        inside = y != 255
        assert inside.any()
        deviation = (x[axis] - y)[inside].abs()
        assert deviation.max() <= 0.501
        assert torch.equal(x[2] != 0, inside)
        assert x[:, ~inside].abs().sum() == 0


def test_integer_geometry_copies_pixels_bit_for_bit():
    coordinates = _coordinates(60, 80)
    image = _noise(60, 80)
    mask = _noise(60, 80, high=3)
    augment = _crops(32, flip=True, shift=0.4, max_class_share=0.4)
    padded = 0
    for step in range(50):
        place, labels = _one(coordinates, mask, augment, step)
        x, y = _one(image, mask, augment, step)
        rows = place[0].long()
        columns = place[1].long()
        inside = place[2] == 7
        grey = image[rows, columns].float()
        classes = mask[rows, columns].long()
        assert torch.equal(x[0], grey * inside)
        assert torch.equal(y, torch.where(inside, classes, 255))
        assert torch.equal(y, labels)
        padded += int((~inside).any())
    assert 0 < padded < 50


def test_every_origin_is_equally_likely():
    image = _coordinates(12, 10)
    x, _ = _many(image, image[0], _crops(8), 3000)
    drawn = x[:, :2, 0, 0].numpy()
    origins, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(origins) == 5 * 3  # also those at all four borders
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 36.1  # what 14 degrees of freedom exceed once in a thousand


def test_flip_probability():
    image = _coordinates(4, 5)
    augment = Augment(flip=True)
    x, _ = _many(image, image[0], augment, 2000)
    flipped = x[:, 1, 0, 0] == 4
    mirrored = image.float().flip(-1)
    assert (x[flipped] == mirrored).all()
    assert 0.46 < flipped.float().mean() < 0.54


def test_crops_go_onto_the_label_that_is_fluid():
    image = _coordinates(60, 90)
    mask = torch.ones(60, 90, dtype=torch.uint8)
    mask[50, 80] = 9
    data = TrainingSet([image], [mask], [""], fluid=9)
    augment = _crops(16, on_fluid=1)
    _, onto = sample_batch(data, [0] * 50, augment, 0, 0)
    fluid_pixels = (onto == 9).sum((1, 2))
    assert (fluid_pixels == 1).all()


def test_crops_onto_fluid_hold_one_of_its_pixels_and_all_alike():
    image = _coordinates(60, 90)
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[3, 5] = mask[50, 80] = 1
    onto_fluid = _crops(16, on_fluid=1)
    _, onto = _many(image, mask, onto_fluid, 400)
    fluid = onto == 1
    assert (fluid.sum((1, 2)) == 1).all()
    rows = fluid.any(2).int().argmax(1)
    columns = fluid.any(1).int().argmax(1)
    low = rows[columns <= 5].numel()  # at (3, 5) no origin leaves more than 5 columns to its left
    assert 150 < low < 260
    assert set(columns.tolist()) == set(range(16))  # anywhere in the crop, not in its middle
    half = dataclasses.replace(onto_fluid, on_fluid=0.5)
    x, onto = _many(image, mask, half, 400)
    with_fluid = (onto == 1).flatten(1).any(1)
    assert 0.45 < with_fluid.float().mean() < 0.75
    empty, _ = _many(image, mask * 0, onto_fluid, 200)
    # without fluid, anywhere
    tops = empty[:, 0, 0, 0]
    assert tops.unique().numel() > 35


def test_crops_onto_fluid_follow_it_through_a_scaled_frame():
    image = _coordinates(60, 90)
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[40:44, 70:74] = 1
    for ratio in (0.5, 1.7):
        augment = _crops(24, on_fluid=1, zoom_range=(ratio, ratio))
        _, onto = _many(image, mask, augment, 100)
        with_fluid = (onto == 1).flatten(1).any(1)
        assert with_fluid.all()


def test_overshooting_origins_end_at_the_border_of_the_frame():
    image = _coordinates(60, 90)
    mask = _noise(60, 90, high=2)
    x, labels = _many(image, mask, _crops(20, border=0.5), 2000)
    assert (labels != 255).all()
    for axis, last in enumerate((40, 70)):
        origins = x[:, axis, 0, 0]
        drawn = last + 1 + 2 * 10  # origins from -10 to last + 10
        assert origins.min() == 0
        assert origins.max() == last
        for end in (0, last):
            share = (origins == end).float().mean()
            assert share == pytest.approx(11 / drawn, abs=0.035)


def test_crops_are_redrawn_ten_times_and_the_next_is_taken():
    image = _coordinates(16, 28)
    mask = torch.zeros(16, 28, dtype=torch.uint8)
    mask[:, 25:] = 1
    mask[:, 23] = 255
    # An 8-wide crop from column 19 or 20 holds 2 or 3 of 7 fluid columns, less than 0.75
    # background.
    fine = []
    for column in range(21):
        labels = mask[0, column : column + 8]
        known = labels[labels < 255]
        if 1 - (known == 1).float().mean() < 0.75:
            fine.append(column)
    assert fine == [19, 20]
    x, _ = _many(image, mask, _crops(8, max_class_share=0.75), 3000)
    lefts = x[:, 1, 0, 0].numpy()
    share = np.isin(lefts, fine).mean()
    expected = 1 - (1 - 2 / 21) ** 11
    deviation = (expected * (1 - expected) / 3000) ** 0.5
    assert abs(share - expected) < 3.5 * deviation


@pytest.mark.parametrize(
    "max_class_share, kept",
    [
        (0.75, False),
        (0.76, True),
        (1.0, True),
    ],
)
def test_the_largest_class_must_cover_less_than_its_share(max_class_share, kept):
    image = _coordinates(40, 40)
    # every 8 x 8 crop: exactly three quarters background
    mask = (image[1] % 4 == 0).byte()
    first, _ = _many(image, mask, _crops(8), 20)
    redrawn = _crops(8, max_class_share=max_class_share)
    x, _ = _many(image, mask, redrawn, 20)
    assert torch.equal(x, first) is kept


def test_a_single_class_or_only_ignored_pixels_are_redrawn():
    image = _coordinates(40, 40)
    first, _ = _many(image, image[2], _crops(8), 20)
    for value in (0, 255):
        mask = _grey(value, 40, 40)
        x, _ = _many(image, mask, _crops(8, max_class_share=0.999), 20)
        assert not torch.equal(x, first)
    # Ignored pixels do not count: half of each crop is unknown, the rest is three quarters
    # background.
    mask = (image[1] % 4 == 0).byte()
    mask[::2] = 255
    redrawn, _ = _many(image, mask, _crops(8, max_class_share=0.75), 20)
    kept, _ = _many(image, mask, _crops(8, max_class_share=0.76), 20)
    assert not torch.equal(redrawn, first)
    assert torch.equal(kept, first)


# sizes without ties between two nearest pixels
@pytest.mark.parametrize("ratio", [0.5, 0.803, 1.6])
def test_scaling_equals_resizing_the_whole_frame_and_cropping(ratio):
    image = _noise(40, 60)
    mask = _noise(40, 60, high=5)
    height = int(40 * ratio + 0.5)
    width = int(60 * ratio + 0.5)

    def resized(pixels, mode):
        pixels = pixels[None, None].float()
        return F.interpolate(pixels, (height, width), mode=mode)[0, 0]

    grey = resized(image, "bilinear")
    labels = resized(mask, "nearest-exact").long()
    windows = grey.unfold(0, 16, 1).unfold(1, 16, 1)  # (tops, lefts, 16, 16)
    augment = _crops(16, zoom_range=(ratio, ratio))
    for step in range(5):
        x, y = _one(image, mask, augment, step)
        deviation = (windows - x[0]).abs().amax((2, 3))
        nearest = int(deviation.argmin())
        top, left = divmod(nearest, width - 15)
        assert deviation[top, left] < 0.01
        rows = slice(top, top + 16)
        columns = slice(left, left + 16)
        assert torch.equal(y, labels[rows, columns])


def test_a_frame_scaled_below_the_crop_is_padded_with_ignored_pixels():
    image = _coordinates(16, 20)
    mask = torch.zeros(16, 20, dtype=torch.uint8)
    augment = Augment(crop=16, zoom_range=(0.5, 0.5))
    corners = set()
    for step in range(40):
        x, y = _one(image, mask, augment, step)
        rows, columns = torch.nonzero(y == 0, as_tuple=True)
        assert len(rows) == 8 * 10
        assert (y == 255).sum() == 16 * 16 - 80
        assert x[2].sum() == 7 * 80
        top = int(rows.min())
        left = int(columns.min())
        corners.add((top, left))
    assert len(corners) > 20


def test_rotation_is_rigid_about_the_centre_and_uniform():
    image = _coordinates(101, 101)
    augment = Augment(rotate=30)
    x, _ = _many(image, image[0], augment, 300)
    source = x[:, :2].permute(2, 3, 0, 1)  # (output row, column, sample, source row and column)
    assert (source[50, 50] - 50).abs().max() < 1e-3
    along_x = (source[50, 60] - source[50, 40]) / 20  # source (row, column) per output column
    along_y = (source[60, 50] - source[40, 50]) / 20
    assert torch.allclose(along_x.norm(dim=1), torch.ones(300), atol=1e-3)
    product = (along_x * along_y).sum(1)
    assert product.abs().max() < 1e-3
    assert (along_x[:, 1] > 0).all()
    down, right = along_y.T
    angle = torch.atan2(right, down).rad2deg()
    assert angle.abs().max() <= 30.01
    assert angle.min() < -28
    assert angle.max() > 28
    assert abs(angle.mean()) < 4
    assert abs(angle.std() - 60 / 12**0.5) < 2


def test_shift_moves_the_frame_and_ignores_what_comes_in():
    image = _coordinates(40, 50)
    augment = Augment(shift=0.2, brightness=0.2)
    x, y = _many(image, image[0], augment, 300)
    known = y != 255
    rows = known.any(2).sum(1)
    columns = known.any(1).sum(1)
    # one fifth left the frame
    assert rows.min() == 32
    assert columns.min() == 40
    assert rows.max() == 40
    assert columns.max() == 50
    incoming = x.permute(0, 2, 3, 1)[~known]
    assert incoming.abs().sum() == 0


# Grey values and colours


def test_brightness_adds_a_uniform_fraction_of_255():
    image = _grey(100, 4, 4)
    augment = Augment(brightness=0.1)
    x, _ = _many(image, image, augment, 400)
    first = x[:, :, :1, :1]
    added = first.flatten() - 100
    assert torch.equal(x, first.expand_as(x))
    assert added.abs().max() <= 25.5
    assert added.min() < -24
    assert added.max() > 24
    assert abs(added.mean()) < 3
    bright, _ = _many(image + 150, image, augment, 100)
    assert bright.max() == 255


def test_contrast_keeps_the_mean_of_the_frame():
    image = _grey(80, 10, 10)
    image[:, ::2] = 120
    augment = Augment(contrast=0.3, shift=0.4)
    x, y = _many(image, image * 0, augment, 400)
    spread = []
    for picture, labels in zip(x, y, strict=True):
        known = labels != 255
        values = picture[0, known]
        contrast = float(values.max() - values.min()) / 40
        as_many_of_both = known.any(0).sum() % 2 == 0
        if contrast > 0 and as_many_of_both:
            assert values.mean() == pytest.approx(100, abs=1e-3)
            spread.append(contrast)
    assert min(spread) >= 0.7
    assert max(spread) <= 1.3001
    assert min(spread) < 0.73
    assert max(spread) > 1.27


def test_contrast_is_about_the_mean_of_what_lies_in_the_frame():
    """Outside the frame an image holds any value, which counts neither as grey nor as a pixel."""
    x = torch.full((1, 1, 4, 6), 250.0)
    x[..., :3] = torch.tensor([80.0, 100.0, 120.0])
    inside = torch.zeros(1, 4, 6, dtype=torch.bool)
    inside[..., :3] = True
    unchanged = [0.0, 1.5, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    changed = _photometric(x, inside, torch.tensor([unchanged]), Augment(contrast=0.5))
    assert changed[0, 0, 0, :3].tolist() == pytest.approx([70, 100, 130])


def test_gamma_is_a_log_uniform_exponent():
    image = torch.tensor([0, 64, 255]).byte()[None]
    augment = Augment(gamma=0.5)
    x, _ = _many(image, image, augment, 400)
    black, grey, white = x[:, 0, 0].T
    assert (black == 0).all()
    assert torch.allclose(white, torch.tensor(255.0))
    exponent = (grey / 255).log() / np.log(64 / 255)
    assert exponent.min() >= 1 / 1.501
    assert exponent.max() <= 1.501
    assert exponent.min() < 0.69
    assert exponent.max() > 1.45
    assert abs(exponent.log().mean()) < 0.04


def test_speckle_is_multiplicative_noise_of_its_own_for_each_sample():
    image = _grey(100, 3, 64, 64)
    image[:, :, 32:] = 20
    augment = Augment(noise=0.2)
    x, _ = _many(image, image[0], augment, 4)
    bright = x[..., :32]
    dark = x[..., 32:]
    assert bright.std() == pytest.approx(20, rel=0.05)
    assert bright.mean() == pytest.approx(100, rel=0.02)
    assert dark.std() == pytest.approx(4, rel=0.05)
    red, green, _ = x.unbind(1)
    assert torch.equal(red, green)
    correlation = torch.corrcoef(bright[:, 0].flatten(1))
    assert correlation.fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize(
    "saturation, turn_deg",
    [
        (1.0, 0.0),
        (0.5, 0.0),
        (1.5, 0.0),
        (1.0, 36.0),
        (1.3, -29.0),
    ],
)
def test_saturation_and_hue_equal_colorsys(saturation, turn_deg):
    rgb = _noise(1, 3, 40, 40).float()
    special = [  # black, white, and where two channels or none are alike
        (0, 0, 0),
        (255, 255, 255),
        (9, 9, 200),
        (9, 200, 200),
        (9, 200, 9),
        (30, 30, 4),
    ]
    rgb[0, :, 0, :6] = torch.tensor(special).T
    sixths = torch.tensor(turn_deg / 60)
    got = _saturate_and_turn(rgb, torch.tensor(saturation), sixths)
    for y, x in np.ndindex(40, 40):
        pixel = rgb[0, :, y, x] / 255
        h, s, v = colorsys.rgb_to_hsv(*pixel.tolist())
        turned = (h + turn_deg / 360) % 1
        expected = colorsys.hsv_to_rgb(turned, min(1, s * saturation), v)
        expected = 255 * np.array(expected)
        assert got[0, :, y, x].numpy() == pytest.approx(expected, abs=0.01)


def test_colour_distortion_of_grey_is_of_its_brightness_alone():
    grey = _grey(100, 3, 4, 4)
    augment = Augment(colour=True)
    x, _ = _many(grey, grey[0], augment, 1000)
    red = x[:, :1]
    assert (x - red).abs().max() < 1e-3  # grey has neither hue nor saturation
    value = red[:, 0, 0, 0]
    unchanged = (value - 100).abs() < 1e-3
    assert 0.21 < unchanged.float().mean() < 0.29  # neither brightness nor contrast: one in four
    assert 34 <= value.min() < 45
    assert 180 < value.max() <= 198


def test_colour_distortion_follows_its_ranges_and_probabilities():
    red = _plain((100, 60, 60), 4, 4)
    augment = Augment(colour=True)
    x, _ = _many(red, red[0], augment, 2000)
    pixels = x[:, :, 0, 0]
    hues = []
    for rgb in (pixels / 255).tolist():
        hue, _, _ = colorsys.rgb_to_hsv(*rgb)
        hues.append(hue * 360)
    turn_deg = (np.array(hues) + 180) % 360 - 180
    turned = np.abs(turn_deg) > 0.01
    assert 0.45 < turned.mean() < 0.55
    assert np.abs(turn_deg).max() <= 36.01
    assert turn_deg.min() < -34
    assert turn_deg.max() > 34
    value = pixels.amax(1)
    lowest = pixels.amin(1)
    # neither brightness nor contrast
    only_colour = ((value - 100).abs() < 1e-3).numpy()
    factor = ((value - lowest) / 40).numpy()[only_colour]
    saturated = np.abs(factor - 1) > 1e-4
    assert 0.5 <= factor.min() < 0.55
    assert 1.45 < factor.max() <= 1.5001
    assert 0.42 < saturated.mean() < 0.58
    assert 0.18 < (saturated & turned[only_colour]).mean() < 0.32  # drawn independently


def test_contrast_of_colour_distortion_comes_before_or_after_saturation():
    # (255, 128, 128): a factor above 1 clips red. Before saturation that loses colour, after it
    # does not.
    image = _plain((255, 128, 128), 2, 2)
    augment = Augment(colour=True)
    x, _ = _many(image, image[0], augment, 2000)
    red = x[:, 0, 0, 0]
    green = x[:, 1, 0, 0]
    assert ((red == 255) & (green > 200)).any()
    assert ((red < 255) & (green < 60)).any()


# Seeds


def test_shares_are_of_the_annotated_pixels_and_never_zero():
    known = torch.tensor([0, 0, 255, 2, 0, 0]).view(2, 3)
    unknown = torch.full((1, 3), 255)
    masks = [known.byte(), unknown.byte()]
    shares = _scans(masks, masks).shares(3)
    expected = torch.tensor([5.0, 1.0, 2.0]) / 8
    assert torch.allclose(shares, expected)


def test_the_same_seed_step_and_position_give_the_same_sample():
    images = [_noise(3, 60, 80), _noise(3, 70, 60)]
    masks = [_noise(60, 80, high=2), _noise(70, 60, high=2)]
    scans = _scans(images, masks)

    def sample(chosen, seed=3, step=5, offset=0):
        return sample_batch(scans, chosen, EVERYTHING, seed, step, offset)

    whole = sample([0, 1, 1, 0, 0])
    again = sample([0, 1, 1, 0, 0])
    first = sample([0, 1])
    second = sample([1, 0, 0], offset=2)
    for i in (0, 1):
        parts = torch.cat([first[i], second[i]])
        assert torch.equal(whole[i], again[i])
        assert torch.equal(whole[i], parts)
    x, _ = whole
    assert not torch.equal(x[3], x[4])
    for other in ({"seed": 4}, {"step": 6}, {"offset": 5}):
        different, _ = sample([0], **other)
        assert not torch.equal(different, x[:1])


def test_sampling_leaves_scans_and_the_global_generator_alone():
    image = _noise(3, 60, 80)
    mask = _noise(60, 80, high=2)
    before = image.clone()
    state = torch.get_rng_state()
    _many(image, mask, EVERYTHING, 4)
    grey_values = Augment(colour=True, brightness=0.1, noise=0.1)
    _many(image, mask, grey_values, 4)
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_switching_one_option_on_leaves_the_other_draws_alone():
    image = _coordinates(60, 80) + 100
    mask = _noise(60, 80, high=2)
    augment = Augment(crop=32, flip=True)
    brighter = dataclasses.replace(augment, brightness=0.1)
    plain, _ = _many(image, mask, augment, 8)
    bright, _ = _many(image, mask, brighter, 8)
    added = (bright - plain).flatten(1)
    deviation = added - added[:, :1]
    assert deviation.abs().max() < 1e-4
    assert added[:, 0].unique().numel() == 8


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"on_fluid": 0.5, "border": 0.5},
        {"rotate": 0, "zoom_range": (1, 1)},
    ],
)
def test_nothing_about_the_scans_is_read_back_from_their_device(options):
    # on the meta device there are no values: reading one, as choosing a crop by its labels does,
    # fails
    options = {"noise": 0, "colour": False, **options}
    augment = dataclasses.replace(EVERYTHING, **options)
    image = _noise(1, 60, 80)
    mask = _noise(60, 80, high=2)
    scans = _scans([image], [mask])
    scans.images = [image.to("meta")]
    scans.masks = [mask.to("meta")]
    x, labels = sample_batch(scans, [0, 0, 0], augment, 0, 0)
    assert x.device.type == "meta"
    assert x.shape == (3, 1, 48, 48)
    assert labels.shape == (3, 48, 48)
    scans.chosen_by = scans.masks
    with pytest.raises((RuntimeError, NotImplementedError), match="[Mm]eta"):
        sample_batch(scans, [0, 0, 0], augment, 0, 0)


def _indices(count, batch, steps, seed):
    """The scans of several steps, one after another."""
    indices = []
    for step in steps:
        indices += batch_indices(count, batch, step, seed)
    return indices


def test_batches_walk_through_shuffled_epochs():
    stream = _indices(10, 4, range(30), seed=1)
    epochs = np.reshape(stream, (12, 10))
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len(np.unique(epochs, axis=0)) == 12
    assert batch_indices(10, 4, 7, seed=1) == stream[28:32]
    singly = _indices(3, 1, range(8, 16), seed=1)
    assert batch_indices(3, 8, 1, seed=1) == singly
    assert stream != _indices(10, 4, range(30), seed=2)


# Errors


def test_settings_that_fit_no_scan_are_refused():
    small = _noise(20, 30)
    large = _noise(40, 50)
    both = _scans([small, large], [small, large])
    with pytest.raises(InputError, match="crop 51 is larger than every scan, of at most 40 x 50"):
        check_fit(both, Augment(crop=51))
    grey = _scans([small], [small])
    with pytest.raises(InputError, match="needs RGB images, found grey"):
        check_fit(grey, Augment(colour=True))
    check_fit(both, Augment(crop=50))
    augment = Augment(crop=20)
    x, _ = sample_batch(both, [0, 1], augment, 0, 0)
    assert x.shape == (2, 1, 20, 20)


# Scans of different sizes


def _blank(*shapes: tuple[int, int]) -> TrainingSet:
    """White scans of class 1 all over."""
    images = [_grey(200, *shape) for shape in shapes]
    masks = [_grey(1, *shape) for shape in shapes]
    return _scans(images, masks)


@pytest.mark.parametrize(
    ("augment", "height"),
    [
        (Augment(), 30),
        (Augment(flip=True), 30),
        (Augment(crop=50), 50),
    ],
)
def test_smaller_scans_are_padded_with_the_unknown(augment, height):
    shapes = [(20, 30), (30, 45), (30, 50)]
    scans = _blank(*shapes)
    x, labels = sample_batch(scans, [0, 1, 2], augment, 0, 0)
    assert x.shape == (3, 1, height, 50)
    assert labels.shape == (3, height, 50)
    for i, (tall, wide) in enumerate(shapes):
        # the whole scan is there, somewhere, and nothing else
        scan = labels[i] == 1
        unknown = labels[i] == 255
        rows, columns = torch.nonzero(scan, as_tuple=True)
        assert scan.sum() == tall * wide
        assert torch.equal(~scan, unknown)
        assert rows.max() - rows.min() == tall - 1
        assert columns.max() - columns.min() == wide - 1
        assert torch.equal(x[i, 0] == 200, scan)
        assert torch.equal(x[i, 0] == 0, unknown)


def test_of_scans_far_larger_than_the_others_a_part_is_drawn():
    image = _coordinates(200, 300)
    data = _blank((20, 30), (22, 30), (24, 32))
    images = [*data.images, image]
    masks = [*data.masks, _grey(1, 200, 300)]
    data = TrainingSet(images, masks, ["a", "b", "c", "d"])
    assert data.frame(0) == (36, 48)  # half as large again as the median, 24 x 32
    x, labels = sample_batch(data, [3], Augment(), 0, 0)
    assert (labels == 1).all()
    top, left, _ = x[0, :, 0, 0].int().tolist()
    part = image[:, top : top + 36, left : left + 48]
    assert torch.equal(x[0], part.float())


def test_nothing_is_said_of_scans_that_fit():
    alike = _blank((20, 30), (20, 30))
    assert fit_note(alike, Augment()) is None
    larger_than_the_crop = _blank((20, 30), (24, 32))
    assert fit_note(larger_than_the_crop, Augment(crop=16)) is None


@pytest.mark.parametrize(
    ("heights", "crop", "note"),
    [
        ([20, 24], 0, "20 to 24 px high, 30 to 30 px wide, samples 24 x 30 px: what"),
        ([20, 24], 30, "samples 30 x 30 px: what they do not cover is unknown and"),
        ([20, 20, 20, 90], 0, "samples 30 x 30 px: what .+; of larger scans a part"),
    ],
)
def test_what_is_done_to_scans_that_do_not_fit_is_said(heights, crop, note):
    shapes = [(height, 30) for height in heights]
    scans = _blank(*shapes)
    assert re.search(note, fit_note(scans, Augment(crop=crop)))


@pytest.mark.parametrize(
    "option",
    [
        {"crop": -1},
        {"flip": 1.5},
        {"rotate": -3},
        {"shift": float("nan")},
        {"contrast": 2},
        {"gamma": -0.1},
        {"zoom_range": (0, 1)},
        {"zoom_range": (2, 1)},
    ],
)
def test_options_out_of_range_are_refused(option):
    name = next(iter(option)).removesuffix("_range")
    with pytest.raises(InputError, match=f"^{name} is"):
        Augment(**option)
