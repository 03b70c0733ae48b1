"""The phantom: exact labels, and statistics of the real set of Chiu et al. 2015, quoted here."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan, phantom_set


def digest(scans):
    sha = hashlib.sha256()
    for scan in scans:
        for array in (scan.image, scan.fluid, scan.layers):
            sha.update(array.tobytes())
        sha.update(f"{scan.name} {scan.subject} {scan.position} {scan.scale_um}".encode())
    return sha.hexdigest()


@pytest.fixture(scope="module")
def full():
    """Full-size scans: a mild, a middling and a severe eye, five each."""
    return list(phantom_set(3, 5, seed=5))


@pytest.fixture(scope="module")
def small_sets():
    """Three whole sets at 1/8 of the resolution: the same anatomy, hence the same statistics."""
    return [list(phantom_set(height=62, width=96, seed=seed)) for seed in range(3)]


SMALL = dict(height=62, width=96)


def test_same_seed_same_bytes_other_seed_other_bytes():
    def of_set(seed):
        return digest(phantom_set(2, 3, **SMALL, seed=seed))

    def of_scan(seed):
        return digest([phantom_bscan(seed, **SMALL)])

    assert of_set(4) == of_set(4) != of_set(5)
    assert of_scan(3) == of_scan(3) != of_scan(4)


def test_a_scan_does_not_depend_on_the_others_drawn():
    (alone, _) = phantom_set(2, 1, **SMALL, seed=1)
    among = list(phantom_set(2, 11, **SMALL, seed=1))[5]
    assert alone.position == 30
    assert digest([alone]) == digest([among])


def test_names_positions_and_scale():
    scans = list(phantom_set(2, 11, **SMALL))
    positions = [scan.position for scan in scans]
    assert positions[:11] == [10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50]
    assert [scan.subject for scan in scans] == [1] * 11 + [2] * 11
    assert scans[0].name == "phantom_s01_b10"
    assert scans[-1].name == "phantom_s02_b50"
    assert scans[0].scale_um == pytest.approx((3.87 * 8, 11.33 * 8, 123.0))


@pytest.mark.parametrize("count", range(1, 21))
def test_any_number_of_positions_is_spread(count):
    positions = [scan.position for scan in phantom_set(1, count, 32, 32)]
    assert len(positions) == count
    assert np.all(np.diff(positions) > 0)
    assert positions[0] >= 10 and positions[-1] <= 50


@pytest.mark.parametrize(
    "height, width", [(32, 32), (33, 57), (64, 200), (131, 97), (256, 256), (600, 800)]
)
def test_labels_are_exact_at_any_size(height, width):
    for seed, fluid in enumerate((True, False, None)):
        scan = phantom_bscan(seed, height, width, fluid)
        assert scan.image.shape == scan.fluid.shape == (height, width)
        assert scan.image.dtype == scan.fluid.dtype == np.uint8
        assert set(np.unique(scan.fluid)) <= {0, 1}
        assert scan.layers.shape == (8, width)
        assert scan.layers.dtype == np.float32
        assert np.all(np.diff(scan.layers, axis=0) > 0)
        assert scan.layers.min() > 0
        assert scan.layers.max() < height - 1
        axial_um, lateral_um, _ = scan.scale_um
        assert axial_um * height == pytest.approx(3.87 * 496)
        assert lateral_um * width == pytest.approx(11.33 * 768)


def test_other_sizes_show_the_same_anatomy():
    fine = phantom_bscan(11, fluid=True)
    coarse = phantom_bscan(11, 248, 384, fluid=True)
    # a coarse column lies between two fine ones
    rows = (fine.layers[:, ::2] + fine.layers[:, 1::2]) / 2
    assert np.abs((rows - 0.5) / 2 - coarse.layers).max() < 0.1
    # fluid differs on outlines only
    share = halved(fine.fluid)
    assert np.abs(share - coarse.fluid).mean() < 0.15 * coarse.fluid.mean()
    grey = halved(fine.image).ravel()
    assert np.corrcoef(grey, coarse.image.ravel())[0, 1] > 0.9


def halved(image):
    """Means of 2 x 2 pixels of a full-size image."""
    return image.reshape(248, 2, 384, 2).mean(axis=(1, 3))


def fluid_share(scans):
    """Share of fluid in the scans of a set, (eyes, scans)."""
    return np.array([scan.fluid.mean() for scan in scans]).reshape(10, 11)


# ---- anatomy ----------------------------------------------------------------------------------


def test_boundaries_stay_ordered_where_the_layers_end_in_the_disc(small_sets):
    thinnest = np.array([np.diff(scan.layers, axis=0).min() for scan in small_sets[0]])
    assert np.all(thinnest > 0)
    at_disc = (thinnest < 0.06).sum()  # 0.4 px of the full size, at 1/8
    assert 11 < at_disc < 66  # the real set: about a third of the scans reach the disc's rim


def test_dry_eyes_have_a_foveal_pit_in_the_central_scans_only(small_sets):
    for scans in small_sets:
        driest = fluid_share(scans).mean(axis=1).argmin()
        eye = scans[11 * driest : 11 * driest + 11]
        thickness = np.array([scan.layers[7] - scan.layers[0] for scan in eye])  # (11, 96)
        left = thickness[:, 24:38].max(axis=1)
        right = thickness[:, 58:72].max(axis=1)
        dip = thickness[:, 38:58].min(axis=1) / np.minimum(left, right)
        assert dip[5] < 0.9
        assert dip[[0, 1, 9, 10]].min() > 0.95


def test_cysts_lie_inside_the_retina(full, small_sets):
    for scan in full + small_sets[0]:
        rows, cols = np.nonzero(scan.fluid)
        assert np.all(rows > scan.layers[0, cols])
        assert np.all(rows < scan.layers[7, cols])


@pytest.mark.parametrize("seed", range(40))
def test_empty_means_empty_and_wet_means_wet(seed):
    assert not phantom_bscan(seed, 32, 40, fluid=False).fluid.any()
    assert phantom_bscan(seed, 32, 40, fluid=True).fluid.any()


def test_fluid_statistics_of_the_set(small_sets):
    """Real set: 0.826 % fluid, 32 of 110 empty, the driest eyes 0.10 and 0.12 %, the wettest 2.12.

    Over 20 seeds the phantom has 0.81 +- 0.09 % and 30.5 +- 3.0 empty; the limits leave more than
    three standard errors of three sets.
    """
    percent = 100 * np.array([fluid_share(scans) for scans in small_sets])  # (sets, eyes, scans)
    assert 0.83 - 0.16 < percent.mean() < 0.83 + 0.16
    empty = (percent == 0).sum(axis=(1, 2))
    assert 30 - 7 < empty.mean() < 30 + 7
    eyes = np.sort(percent.mean(axis=2), axis=1).mean(axis=0)
    assert eyes[1] < 0.25 and 1.4 < eyes[9] < 3.2
    # a tenth of the real scans holds 0.457 of the fluid
    heaviest = np.sort(percent.reshape(3, 110), axis=1)[:, -11:]
    share = heaviest.sum(axis=1) / percent.sum(axis=(1, 2))
    assert np.all((0.3 < share) & (share < 0.65))


def test_fluid_lies_in_the_columns_of_the_real_set(small_sets):
    """Real set: columns 99 to 624."""
    wet = np.zeros(96, bool)
    for scans in small_sets:
        for scan in scans:
            wet |= scan.fluid.any(axis=0)
    columns = np.flatnonzero(wet) * 8
    assert columns.min() + 7 >= 99 and columns.max() <= 624


def test_scans_of_one_eye_resemble_each_other(small_sets):
    rpe = np.array([scan.layers[7, 48] for scan in small_sets[0]]).reshape(10, 11)
    assert rpe.std(axis=1).mean() < 0.3 * rpe.mean(axis=1).std()
    wet = fluid_share(small_sets[0])
    assert np.corrcoef(wet[:, 5], wet[:, 6])[0, 1] > 0.7  # 246 um apart


# ---- grey levels ------------------------------------------------------------------------------


def layer_means(scan):
    """Mean grey level of vitreous, the 7 layers and the upper choroid, where the scan is dry.

    In columns between fovea and disc.
    """
    cols = np.r_[120:280, 490:650]
    grey = scan.image[:, cols]
    dry = (scan.fluid[:, cols] == 0) & (grey < 255)
    rows = np.arange(496)[:, None]
    layers = scan.layers[:, cols]
    uppers = [layers[0] - 40, *layers]
    lowers = [layers[0] - 8, *layers[1:], layers[7] + 40]
    means = []
    for upper, lower in zip(uppers, lowers, strict=True):
        within = (rows > upper) & (rows < lower)
        means.append(grey[within & dry].mean())
    return means


def test_layers_have_their_relative_brightness(full):
    means = np.mean([layer_means(scan) for scan in full], axis=0)
    vitreous, nfl, gcl_ipl, inl, opl, onl, is_os, rpe, choroid = means
    assert vitreous < onl < inl < gcl_ipl < nfl < rpe
    assert inl < opl < gcl_ipl
    assert is_os > 1.5 * onl
    assert rpe > 2 * onl and rpe > 1.4 * choroid


def test_cysts_are_darker_than_what_surrounds_them(full):
    ratios = []
    for scan in full:
        inside = ndimage.binary_erosion(scan.fluid, iterations=2)
        near = ndimage.binary_dilation(scan.fluid, iterations=8)
        around = near & ~ndimage.binary_dilation(scan.fluid, iterations=3)
        if inside.sum() > 300:
            ratios.append(scan.image[inside].mean() / scan.image[around].mean())
    assert len(ratios) >= 5
    assert max(ratios) < 0.85  # median of the real set: 0.66


def wedge_height(image):
    """Saturated px at the top of every column but the first and last 8."""
    white = image[:, 8:-8] == 255
    return np.logical_and.accumulate(white, axis=0).sum(axis=0)


def test_the_shifted_frame_leaves_straight_saturated_wedges(full):
    heights = [wedge_height(scan.image) for scan in full]
    wedges = [height for height in heights if np.count_nonzero(height) > 100]
    assert 3 < len(wedges) < len(full)  # the real set: 87 of 110 have one above
    for height in wedges:
        x = np.flatnonzero(height)
        line = np.polyval(np.polyfit(x, height[x], 1), x)
        assert np.abs(height[x] - line).max() < 1.1


def neighbours(block, axis):
    """Correlation of neighbours along an axis."""
    centred = np.moveaxis(block - block.mean(), axis, 0)
    return (centred[1:] * centred[:-1]).mean() / centred.var()


def test_noise_has_the_measured_statistics(full):
    """Real vitreous: 13-15 % zeros, neighbours correlate 0.64 axially, 0.50 laterally."""
    blocks = []
    for scan in full:
        top = int(scan.layers[0, 250:500].min()) - 45
        if top <= 0:
            continue
        block = scan.image[top : top + 30, 250:500].astype(float)
        if block.max() < 200:
            blocks.append(block)
    assert len(blocks) >= 5
    assert 0.08 < np.mean([(block == 0).mean() for block in blocks]) < 0.18
    assert 0.54 < np.mean([neighbours(block, 0) for block in blocks]) < 0.72
    assert 0.40 < np.mean([neighbours(block, 1) for block in blocks]) < 0.62


def test_speckle_has_the_measured_contrast(full):
    """Real GCL: 0.56."""
    contrast = []
    for scan in full:
        central = np.abs(np.arange(768) - 384) < 260
        cols = np.flatnonzero(central & ~scan.fluid.any(axis=0))
        rows = scan.layers[1, cols].astype(int) + np.arange(4, 9)[:, None]
        linear = (scan.image[rows, cols] / 255.0) ** 4
        level = ndimage.gaussian_filter1d(linear, 8, axis=1).mean(axis=0)
        contrast.append((linear / level).std())
    assert 0.45 < np.median(contrast) < 0.67


def test_grey_levels_match_the_real_set(full, real_data):
    levels = (50, 75, 90, 95, 99)

    def percentiles(images):
        grey = np.concatenate([image.ravel() for image in images])
        return np.percentile(grey[grey < 255], levels)

    files = sorted((real_data / "chiu2015" / "images").glob("*.png"))[::4]
    real = percentiles([np.asarray(Image.open(file).convert("L")) for file in files])
    synthetic = percentiles([scan.image for scan in full])
    assert np.all(np.abs(synthetic / real - 1) < 0.2), (levels, real, synthetic)


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(8, 8), (31, 768), (496, 31), (0, 0), (-5, 64)])
def test_too_small_an_image_is_refused(height, width):
    message = rf"phantom of {height} x {width} pixels is too small: ask for at least 32 x 32"
    with pytest.raises(InputError, match=message):
        phantom_bscan(0, height, width)
    with pytest.raises(InputError, match=message):  # at the call, not at the first scan
        phantom_set(height=height, width=width)


def test_impossible_sets_are_refused():
    message = "phantom set of 0 subjects with 11 scans each: ask for at least 1"
    with pytest.raises(InputError, match=message):
        phantom_set(subjects=0)
    for count in (0, 21):
        with pytest.raises(InputError, match=f"with {count} scans each: .*1-20"):
            phantom_set(scans_per_subject=count)
    with pytest.raises(InputError, match="phantom seed -1 is negative"):
        phantom_set(seed=-1)
    with pytest.raises(InputError, match="phantom seed -1 is negative"):
        phantom_bscan(-1)
