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
    EVERYTHING, brightness=0, contrast=0, gamma=0, colour=False, noise=0
)


def _coordinates(height, width):
    """uint8 (3, H, W): row, column, 7."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None, :].expand(height, width)
    return torch.stack([rows, columns, torch.full_like(rows, 7)])


def _noise(*shape, high=256):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)


def _scans(images, masks):
    return TrainingSet(images, masks, [""] * len(images))


def _one(image, mask, augment, step=0, seed=0):
    images, labels = sample_batch(_scans([image], [mask]), [0], augment, seed, step)
    return images[0], labels[0]


def _many(image, mask, augment, count):
    """`count` samples of one scan in one batch."""
    return sample_batch(_scans([image], [mask]), [0] * count, augment, 0, 0)


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
        assert (x[axis] - y)[inside].abs().max() <= 0.501
        assert torch.equal(x[2] != 0, inside)
        assert x[:, ~inside].abs().sum() == 0


def test_integer_geometry_copies_pixels_bit_for_bit():
    coordinates = _coordinates(60, 80)
    image = _noise(60, 80)
    mask = _noise(60, 80, high=3)
    augment = Augment(crop=32, flip=True, shift=0.4, max_class_share=0.4)
    padded = 0
    for step in range(50):
        place, labels = _one(coordinates, mask, augment, step)
        x, y = _one(image, mask, augment, step)
        rows = place[0].long()
        columns = place[1].long()
        inside = place[2] == 7
        assert torch.equal(x[0], image[rows, columns].float() * inside)
        assert torch.equal(y, torch.where(inside, mask[rows, columns].long(), 255))
        assert torch.equal(y, labels)
        padded += int((~inside).any())
    assert 0 < padded < 50


def test_every_origin_is_equally_likely():
    image = _coordinates(12, 10)
    x, _ = _many(image, image[0], Augment(crop=8, max_class_share=1), 3000)
    origins, counts = np.unique(x[:, :2, 0, 0].numpy(), axis=0, return_counts=True)
    assert len(origins) == 5 * 3  # also those at all four borders
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 36.1  # what 14 degrees of freedom exceed once in a thousand


def test_flip_probability():
    image = _coordinates(4, 5)
    x, _ = _many(image, image[0], Augment(flip=True), 2000)
    flipped = x[:, 1, 0, 0] == 4
    assert torch.equal(x[flipped], image.float().flip(-1).expand(int(flipped.sum()), -1, -1, -1))
    assert 0.46 < flipped.float().mean() < 0.54


def test_crops_go_onto_the_label_that_is_fluid():
    mask = torch.ones(60, 90, dtype=torch.uint8)
    mask[50, 80] = 9
    data = TrainingSet([_coordinates(60, 90)], [mask], [""], fluid=9)
    _, onto = sample_batch(data, [0] * 50, Augment(crop=16, max_class_share=1, on_fluid=1), 0, 0)
    assert ((onto == 9).sum((1, 2)) == 1).all()


def test_crops_onto_fluid_hold_one_of_its_pixels_and_all_alike():
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[3, 5] = mask[50, 80] = 1
    onto_fluid = Augment(crop=16, max_class_share=1, on_fluid=1)
    _, onto = _many(_coordinates(60, 90), mask, onto_fluid, 400)
    pixels = (onto == 1).sum((1, 2))
    assert (pixels == 1).all()
    rows = (onto == 1).any(2).int().argmax(1)
    columns = (onto == 1).any(1).int().argmax(1)
    low = rows[columns <= 5].numel()  # at (3, 5) no origin leaves more than 5 columns to its left
    assert 150 < low < 260
    assert set(columns.tolist()) == set(range(16))  # anywhere in the crop, not in its middle
    half = dataclasses.replace(onto_fluid, on_fluid=0.5)
    x, onto = _many(_coordinates(60, 90), mask, half, 400)
    assert 0.45 < (onto == 1).any(2).any(1).float().mean() < 0.75
    empty, _ = _many(_coordinates(60, 90), mask * 0, onto_fluid, 200)
    assert empty[:, 0, 0, 0].unique().numel() > 35  # without fluid, anywhere


def test_crops_onto_fluid_follow_it_through_a_scaled_frame():
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[40:44, 70:74] = 1
    for ratio in (0.5, 1.7):
        augment = Augment(crop=24, max_class_share=1, on_fluid=1, zoom_range=(ratio, ratio))
        _, onto = _many(_coordinates(60, 90), mask, augment, 100)
        assert (onto == 1).any(2).any(1).all()


def test_overshooting_origins_end_at_the_border_of_the_frame():
    image = _coordinates(60, 90)
    mask = _noise(60, 90, high=2)
    x, labels = _many(image, mask, Augment(crop=20, max_class_share=1, border=0.5), 2000)
    tops = x[:, 0, 0, 0]
    lefts = x[:, 1, 0, 0]
    assert (labels != 255).all()
    for origins, last in ((tops, 40), (lefts, 70)):
        drawn = last + 1 + 2 * 10  # origins from -10 to last + 10
        assert origins.min() == 0
        assert origins.max() == last
        for end in (0, last):
            assert (origins == end).float().mean() == pytest.approx(11 / drawn, abs=0.035)


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
        if 1 - (labels == 1).sum() / (labels < 255).sum() < 0.75:
            fine.append(column)
    assert fine == [19, 20]
    x, _ = _many(image, mask, Augment(crop=8, max_class_share=0.75), 3000)
    share = np.isin(x[:, 1, 0, 0].numpy(), fine).mean()
    expected = 1 - (1 - 2 / 21) ** 11
    assert abs(share - expected) < 3.5 * (expected * (1 - expected) / 3000) ** 0.5


@pytest.mark.parametrize("max_class_share, kept", [(0.75, False), (0.76, True), (1.0, True)])
def test_the_largest_class_must_cover_less_than_its_share(max_class_share, kept):
    image = _coordinates(40, 40)
    # every 8 x 8 crop: exactly three quarters background
    mask = (image[1] % 4 == 0).to(torch.uint8)
    first, _ = _many(image, mask, Augment(crop=8, max_class_share=1), 20)
    x, _ = _many(image, mask, Augment(crop=8, max_class_share=max_class_share), 20)
    assert torch.equal(x, first) is kept


def test_a_single_class_or_only_ignored_pixels_are_redrawn():
    image = _coordinates(40, 40)
    first, _ = _many(image, image[2], Augment(crop=8, max_class_share=1), 20)
    for value in (0, 255):
        mask = torch.full((40, 40), value, dtype=torch.uint8)
        x, _ = _many(image, mask, Augment(crop=8, max_class_share=0.999), 20)
        assert not torch.equal(x, first)
    # Ignored pixels do not count: half of each crop is unknown, the rest is three quarters
    # background.
    classes = torch.where(image[1] % 4 == 0, 1, 0)
    mask = torch.where(image[0] % 2 == 0, 255, classes).to(torch.uint8)
    for max_class_share, kept in ((0.75, False), (0.76, True)):
        x, _ = _many(image, mask, Augment(crop=8, max_class_share=max_class_share), 20)
        assert torch.equal(x, first) is kept


# sizes without ties between two nearest pixels
@pytest.mark.parametrize("ratio", [0.5, 0.803, 1.6])
def test_scaling_equals_resizing_the_whole_frame_and_cropping(ratio):
    image = _noise(40, 60)
    mask = _noise(40, 60, high=5)
    size = (int(40 * ratio + 0.5), int(60 * ratio + 0.5))
    resized = F.interpolate(image[None, None].float(), size, mode="bilinear")[0, 0]
    labels = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].long()
    windows = resized.unfold(0, 16, 1).unfold(1, 16, 1)  # (tops, lefts, 16, 16)
    augment = Augment(crop=16, zoom_range=(ratio, ratio), max_class_share=1)
    for step in range(5):
        x, y = _one(image, mask, augment, step)
        deviation = (windows - x[0]).abs().amax((2, 3))
        top, left = divmod(int(deviation.argmin()), deviation.shape[1])
        assert deviation[top, left] < 0.01
        assert torch.equal(y, labels[top : top + 16, left : left + 16])


def test_a_frame_scaled_below_the_crop_is_padded_with_ignored_pixels():
    image = _coordinates(16, 20)
    mask = torch.zeros(16, 20, dtype=torch.uint8)
    corners = set()
    for step in range(40):
        x, y = _one(image, mask, Augment(crop=16, zoom_range=(0.5, 0.5)), step)
        rows, columns = torch.nonzero(y == 0, as_tuple=True)
        assert len(rows) == 8 * 10
        assert (y == 255).sum() == 16 * 16 - 80
        assert x[2].sum() == 7 * 80
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) > 20


def test_rotation_is_rigid_about_the_centre_and_uniform():
    image = _coordinates(101, 101)
    x, _ = _many(image, image[0], Augment(rotate=30), 300)
    assert (x[:, :2, 50, 50] - 50).abs().max() < 1e-3
    along_x = (x[:, :2, 50, 60] - x[:, :2, 50, 40]) / 20  # source (row, column) per output column
    along_y = (x[:, :2, 60, 50] - x[:, :2, 40, 50]) / 20
    angle = torch.atan2(along_y[:, 1], along_y[:, 0]).rad2deg()
    assert torch.allclose(along_x.norm(dim=1), torch.ones(300), atol=1e-3)
    assert (along_x * along_y).sum(1).abs().max() < 1e-3
    assert (along_x[:, 1] > 0).all()
    assert angle.abs().max() <= 30.01
    assert angle.min() < -28
    assert angle.max() > 28
    assert abs(angle.mean()) < 4
    assert abs(angle.std() - 60 / 12**0.5) < 2


def test_shift_moves_the_frame_and_ignores_what_comes_in():
    image = _coordinates(40, 50)
    x, y = _many(image, image[0], Augment(shift=0.2, brightness=0.2), 300)
    rows, columns = (y != 255).any(2).sum(1), (y != 255).any(1).sum(1)
    # one fifth left the frame
    assert rows.min() == 32
    assert columns.min() == 40
    assert rows.max() == 40
    assert columns.max() == 50
    assert x.permute(0, 2, 3, 1)[y == 255].abs().sum() == 0


# Grey values and colours


def test_brightness_adds_a_uniform_fraction_of_255():
    image = torch.full((4, 4), 100, dtype=torch.uint8)
    x, _ = _many(image, image, Augment(brightness=0.1), 400)
    added = x[:, 0, 0, 0] - 100
    assert torch.equal(x, x[:, :, :1, :1].expand_as(x))
    assert added.abs().max() <= 25.5
    assert added.min() < -24
    assert added.max() > 24
    assert abs(added.mean()) < 3
    bright, _ = _many(torch.full_like(image, 250), image, Augment(brightness=0.1), 100)
    assert bright.max() == 255


def test_contrast_keeps_the_mean_of_the_frame():
    image = torch.full((10, 10), 80, dtype=torch.uint8)
    image[:, ::2] = 120
    x, y = _many(image, torch.zeros_like(image), Augment(contrast=0.3, shift=0.4), 400)
    spread = []
    for picture, labels in zip(x[:, 0], y, strict=True):
        values = picture[labels != 255]
        if values.max() > values.min() and (labels != 255).any(0).sum() % 2 == 0:
            assert values.mean() == pytest.approx(100, abs=1e-3)
            spread.append(float(values.max() - values.min()) / 40)
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
    image = torch.tensor([[0, 64, 255]], dtype=torch.uint8)
    x, _ = _many(image, image, Augment(gamma=0.5), 400)
    assert (x[:, 0, 0, 0] == 0).all()
    assert torch.allclose(x[:, 0, 0, 2], torch.tensor(255.0))
    exponent = (x[:, 0, 0, 1] / 255).log() / np.log(64 / 255)
    assert exponent.min() >= 1 / 1.501
    assert exponent.max() <= 1.501
    assert exponent.min() < 0.69
    assert exponent.max() > 1.45
    assert abs(exponent.log().mean()) < 0.04


def test_speckle_is_multiplicative_noise_of_its_own_for_each_sample():
    image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    image[:, :, 32:] = 20
    x, _ = _many(image, image[0], Augment(noise=0.2), 4)
    assert x[..., :32].std() == pytest.approx(20, rel=0.05)
    assert x[..., :32].mean() == pytest.approx(100, rel=0.02)
    assert x[..., 32:].std() == pytest.approx(4, rel=0.05)
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.corrcoef(x[:, 0, :, :32].flatten(1)).fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize(
    "saturation, turn_deg", [(1.0, 0.0), (0.5, 0.0), (1.5, 0.0), (1.0, 36.0), (1.3, -29.0)]
)
def test_saturation_and_hue_equal_colorsys(saturation, turn_deg):
    rgb = _noise(1, 3, 40, 40).float()
    rgb[0, :, 0, :6] = torch.tensor(
        [[0, 255, 9, 9, 9, 30], [0, 255, 9, 200, 200, 30], [0, 255, 200, 200, 9, 4]]
    )
    got = _saturate_and_turn(rgb, torch.tensor(saturation), torch.tensor(turn_deg / 60))
    for y, x in np.ndindex(40, 40):
        h, s, v = colorsys.rgb_to_hsv(*(rgb[0, :, y, x] / 255).tolist())
        expected = colorsys.hsv_to_rgb((h + turn_deg / 360) % 1, min(1, s * saturation), v)
        assert got[0, :, y, x].tolist() == pytest.approx([255 * c for c in expected], abs=0.01)


def test_colour_distortion_follows_its_ranges_and_probabilities():
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    x, _ = _many(grey, grey[0], Augment(colour=True), 1000)
    assert (x - x[:, :1]).abs().max() < 1e-3  # grey has neither hue nor saturation
    value = x[:, 0, 0, 0]
    unchanged = (value - 100).abs() < 1e-3
    assert 0.21 < unchanged.float().mean() < 0.29  # neither brightness nor contrast: one in four
    assert 34 <= value.min() < 45
    assert 180 < value.max() <= 198

    red = torch.tensor([100, 60, 60], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    x, _ = _many(red, grey[0], Augment(colour=True), 2000)
    hue = []
    for rgb in (x[:, :, 0, 0] / 255).tolist():
        hue.append(colorsys.rgb_to_hsv(*rgb)[0] * 360)
    hue = (np.array(hue) + 180) % 360 - 180
    turned = np.abs(hue) > 0.01
    assert 0.45 < turned.mean() < 0.55
    assert np.abs(hue).max() <= 36.01
    assert hue.min() < -34
    assert hue.max() > 34
    value = x[:, :, 0, 0].amax(1)
    lowest = x[:, :, 0, 0].amin(1)
    only_colour = ((value - 100).abs() < 1e-3).numpy()  # neither brightness nor contrast
    factor = ((value - lowest) / 40).numpy()[only_colour]
    saturated = np.abs(factor - 1) > 1e-4
    assert 0.5 <= factor.min() < 0.55
    assert 1.45 < factor.max() <= 1.5001
    assert 0.42 < saturated.mean() < 0.58
    assert 0.18 < (saturated & turned[only_colour]).mean() < 0.32  # drawn independently


def test_contrast_of_colour_distortion_comes_before_or_after_saturation():
    # (255, 128, 128): a factor above 1 clips red. Before saturation that loses colour, after it
    # does not.
    image = torch.tensor([255, 128, 128], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    x, _ = _many(image, image[0], Augment(colour=True), 2000)
    red = x[:, 0, 0, 0]
    green = x[:, 1, 0, 0]
    assert ((red == 255) & (green > 200)).any()
    assert ((red < 255) & (green < 60)).any()


# Seeds


def test_shares_are_of_the_annotated_pixels_and_never_zero():
    masks = [
        torch.tensor([[0, 0, 255], [2, 0, 0]], dtype=torch.uint8),
        torch.full((1, 3), 255).byte(),
    ]
    assert torch.allclose(_scans(masks, masks).shares(3), torch.tensor([5.0, 1.0, 2.0]) / 8)


def test_the_same_seed_step_and_position_give_the_same_sample():
    masks = [_noise(60, 80, high=2), _noise(70, 60, high=2)]
    scans = _scans([_noise(3, 60, 80), _noise(3, 70, 60)], masks)
    whole = sample_batch(scans, [0, 1, 1, 0, 0], EVERYTHING, seed=3, step=5)
    again = sample_batch(scans, [0, 1, 1, 0, 0], EVERYTHING, seed=3, step=5)
    first = sample_batch(scans, [0, 1], EVERYTHING, seed=3, step=5)
    second = sample_batch(scans, [1, 0, 0], EVERYTHING, seed=3, step=5, offset=2)
    for i in (0, 1):
        assert torch.equal(whole[i], again[i])
        assert torch.equal(whole[i], torch.cat([first[i], second[i]]))
    assert not torch.equal(whole[0][3], whole[0][4])
    for other in (
        {"seed": 4, "step": 5},
        {"seed": 3, "step": 6},
        {"seed": 3, "step": 5, "offset": 5},
    ):
        assert not torch.equal(sample_batch(scans, [0], EVERYTHING, **other)[0], whole[0][:1])


def test_sampling_leaves_scans_and_the_global_generator_alone():
    image = _noise(3, 60, 80)
    mask = _noise(60, 80, high=2)
    before = image.clone()
    state = torch.get_rng_state()
    _many(image, mask, EVERYTHING, 4)
    _many(image, mask, Augment(colour=True, brightness=0.1, noise=0.1), 4)
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_switching_one_option_on_leaves_the_other_draws_alone():
    image = _coordinates(60, 80) + 100
    mask = _noise(60, 80, high=2)
    plain, _ = _many(image, mask, Augment(crop=32, flip=True), 8)
    bright, _ = _many(image, mask, Augment(crop=32, flip=True, brightness=0.1), 8)
    added = (bright - plain).flatten(1)
    assert (added - added[:, :1]).abs().max() < 1e-4
    assert added[:, 0].unique().numel() == 8


@pytest.mark.parametrize(
    "options", [{}, {"on_fluid": 0.5, "border": 0.5}, {"rotate": 0, "zoom_range": (1, 1)}]
)
def test_nothing_about_the_scans_is_read_back_from_their_device(options):
    # on the meta device there are no values: reading one, as choosing a crop by its labels does,
    # fails
    augment = dataclasses.replace(EVERYTHING, noise=0, colour=False, **options)
    image = _noise(1, 60, 80)
    mask = _noise(60, 80, high=2)
    scans = _scans([image], [mask])
    scans.images = [image.to("meta")]
    scans.masks = [mask.to("meta")]
    x, labels = sample_batch(scans, [0, 0, 0], augment, 0, 0)
    assert (x.device.type, x.shape, labels.shape) == ("meta", (3, 1, 48, 48), (3, 48, 48))
    scans.chosen_by = scans.masks
    with pytest.raises((RuntimeError, NotImplementedError), match="[Mm]eta"):
        sample_batch(scans, [0, 0, 0], augment, 0, 0)


def test_batches_walk_through_shuffled_epochs():
    stream = [i for step in range(30) for i in batch_indices(10, 4, step, seed=1)]
    epochs = np.reshape(stream, (12, 10))
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 12
    assert batch_indices(10, 4, 7, seed=1) == stream[28:32]
    assert batch_indices(3, 8, 1, seed=1) == [
        i for step in range(8, 16) for i in batch_indices(3, 1, step, seed=1)
    ]
    assert stream != [i for step in range(30) for i in batch_indices(10, 4, step, seed=2)]


# Errors


def test_settings_that_fit_no_scan_are_refused():
    small = _noise(20, 30)
    large = _noise(40, 50)
    both = _scans([small, large], [small, large])
    with pytest.raises(InputError, match="crop 51 is larger than every scan, of at most 40 x 50"):
        check_fit(both, Augment(crop=51))
    with pytest.raises(InputError, match="needs RGB images, found grey"):
        check_fit(_scans([small], [small]), Augment(colour=True))
    check_fit(both, Augment(crop=50))
    x, _ = sample_batch(both, [0, 1], Augment(crop=20), 0, 0)
    assert x.shape == (2, 1, 20, 20)


# Scans of different sizes


def _blank(*shapes: tuple[int, int]) -> TrainingSet:
    """White scans of class 1 all over."""
    images = [torch.full(shape, 200, dtype=torch.uint8) for shape in shapes]
    masks = [torch.ones(shape, dtype=torch.uint8) for shape in shapes]
    return _scans(images, masks)


@pytest.mark.parametrize("augment", [Augment(), Augment(flip=True), Augment(crop=50)])
def test_smaller_scans_are_padded_with_the_unknown(augment):
    shapes = [(20, 30), (30, 45), (30, 50)]
    height, width = (50, 50) if augment.crop else (30, 50)
    x, labels = sample_batch(_blank(*shapes), [0, 1, 2], augment, 0, 0)
    assert x.shape == (3, 1, height, width) and labels.shape == (3, height, width)
    for image, label, (tall, wide) in zip(x[:, 0], labels, shapes, strict=True):
        # the whole scan is there, somewhere, and nothing else
        rows, columns = torch.nonzero(label == 1, as_tuple=True)
        assert (label == 1).sum() == tall * wide and (label != 1).sum() == (label == 255).sum()
        assert rows.max() - rows.min() == tall - 1 and columns.max() - columns.min() == wide - 1
        assert torch.equal(image == 200, label == 1) and torch.equal(image == 0, label == 255)


def test_of_scans_far_larger_than_the_others_a_part_is_drawn():
    image = _coordinates(200, 300)
    data = _blank((20, 30), (22, 30), (24, 32))
    data = TrainingSet(
        [*data.images, image], [*data.masks, image[0] * 0 + 1], ["a", "b", "c", "d"]
    )
    assert data.frame(0) == (36, 48)  # half as large again as the median, 24 x 32
    x, labels = sample_batch(data, [3], Augment(), 0, 0)
    assert (labels == 1).all()
    top, left = int(x[0, 0, 0, 0]), int(x[0, 1, 0, 0])
    assert torch.equal(x[0], image[:, top : top + 36, left : left + 48].float())


@pytest.mark.parametrize(
    ("shapes", "crop", "told"),
    [
        ([(20, 30), (20, 30)], 0, None),
        ([(20, 30), (24, 32)], 16, None),
        ([(20, 30), (24, 30)], 0, "20 to 24 px high, 30 to 30 px wide, samples 24 x 30 px: what"),
        ([(20, 30), (24, 30)], 30, "samples 30 x 30 px: what they do not cover is unknown and"),
        ([(20, 30)] * 3 + [(90, 30)], 0, "samples 30 x 30 px: what .+; of larger scans a part"),
    ],
)
def test_what_is_done_to_scans_that_do_not_fit_is_said(shapes, crop, told):
    note = fit_note(_blank(*shapes), Augment(crop=crop))
    assert note is None if told is None else re.search(told, note)


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
    with pytest.raises(InputError, match=f"^{next(iter(option)).split('_')[0]} is"):
        Augment(**option)
