"""The phantom: exact labels, and the statistics of the real set of Chiu et al. 2015 (quoted in the
tests).
"""

import hashlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan, phantom_set


def _digest(scans):
    h = hashlib.sha256()
    for s in scans:
        for array in (s.image, s.fluid, s.layers):
            h.update(array.tobytes())
        h.update(f"{s.name} {s.subject} {s.position} {s.scale_um}".encode())
    return h.hexdigest()


@pytest.fixture(scope="module")
def full():
    """Full-size scans: a mild, a middling and a severe eye, five each."""
    return list(phantom_set(3, 5, seed=5))


@pytest.fixture(scope="module")
def small_sets():
    """Three whole sets at 1/8 of the resolution: same anatomy, hence same statistics, as at full
    size.
    """
    return [list(phantom_set(height=62, width=96, seed=seed)) for seed in range(3)]


def test_same_seed_same_bytes_other_seed_other_bytes():
    kw = dict(subjects=2, scans_per_subject=3, height=62, width=96)
    assert _digest(phantom_set(**kw, seed=4)) == _digest(phantom_set(**kw, seed=4))
    assert _digest(phantom_set(**kw, seed=4)) != _digest(phantom_set(**kw, seed=5))
    assert _digest([phantom_bscan(3, 62, 96)]) == _digest([phantom_bscan(3, 62, 96)])
    assert _digest([phantom_bscan(3, 62, 96)]) != _digest([phantom_bscan(4, 62, 96)])


def test_a_scan_does_not_depend_on_the_others_drawn():
    one = next(iter(phantom_set(2, 1, 62, 96, seed=1)))
    among = list(phantom_set(2, 11, 62, 96, seed=1))[5]
    assert one.position == 30 and _digest([one]) == _digest([among])


def test_names_positions_and_scale():
    scans = list(phantom_set(2, 11, 62, 96))
    assert [s.position for s in scans[:11]] == [10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50]
    assert (scans[0].name, scans[-1].name) == ("phantom_s01_b10", "phantom_s02_b50")
    assert [s.subject for s in scans] == [1] * 11 + [2] * 11
    assert scans[0].scale_um == pytest.approx((3.87 * 8, 11.33 * 8, 123.0))
    for n in range(1, 21):
        positions = [s.position for s in phantom_set(1, n, 32, 32)]
        assert (
            len(positions) == n
            and np.all(np.diff(positions) > 0)
            and 10 <= positions[0] <= positions[-1] <= 50
        )


@pytest.mark.parametrize(
    "height, width", [(32, 32), (33, 57), (64, 200), (131, 97), (256, 256), (600, 800)]
)
def test_labels_are_exact_at_any_size(height, width):
    for seed, fluid in ((0, True), (1, False), (2, None)):
        s = phantom_bscan(seed, height, width, fluid)
        assert s.image.shape == s.fluid.shape == (height, width) and s.layers.shape == (8, width)
        assert (s.image.dtype, s.fluid.dtype, s.layers.dtype) == (np.uint8, np.uint8, np.float32)
        assert set(np.unique(s.fluid)) <= {0, 1}
        assert (
            np.all(np.diff(s.layers, axis=0) > 0)
            and s.layers.min() > 0
            and s.layers.max() < height - 1
        )
        assert s.scale_um[0] * height == pytest.approx(3.87 * 496)
        assert s.scale_um[1] * width == pytest.approx(11.33 * 768)


def test_other_sizes_show_the_same_anatomy():
    fine, coarse = phantom_bscan(11, fluid=True), phantom_bscan(11, 248, 384, fluid=True)
    rows = (
        fine.layers[:, ::2] + fine.layers[:, 1::2]
    ) / 2  # the coarse column lies between two fine ones
    assert np.abs((rows - 0.5) / 2 - coarse.layers).max() < 0.1
    share = fine.fluid.reshape(248, 2, 384, 2).mean(axis=(1, 3))
    assert (
        np.abs(share - coarse.fluid).mean() < 0.15 * coarse.fluid.mean()
    )  # they differ on outlines only
    halved = fine.image.reshape(248, 2, 384, 2).mean(axis=(1, 3))
    assert np.corrcoef(halved.ravel(), coarse.image.ravel())[0, 1] > 0.9


def test_boundaries_stay_ordered_where_the_layers_end_in_the_disc(small_sets):
    thinnest = np.array([np.diff(s.layers, axis=0).min() for s in small_sets[0]])
    assert np.all(thinnest > 0)
    at_disc = (thinnest < 0.06).sum()  # 0.4 px of the full size, at 1/8
    assert 11 < at_disc < 66  # the real set: about a third of the scans reach the disc's rim


def test_dry_eyes_have_a_foveal_pit_in_the_central_scans_only(small_sets):
    for scans in small_sets:
        total = np.array([s.layers[7] - s.layers[0] for s in scans]).reshape(10, 11, 96)
        driest = np.array([s.fluid.mean() for s in scans]).reshape(10, 11).mean(axis=1).argmin()
        beside = np.minimum(total[..., 24:38].max(axis=-1), total[..., 58:72].max(axis=-1))
        dip = total[driest, :, 38:58].min(axis=-1) / beside[driest]
        assert dip[5] < 0.9 and dip[[0, 1, 9, 10]].min() > 0.95


def test_cysts_lie_inside_the_retina(full, small_sets):
    for s in full + small_sets[0]:
        rows, cols = np.nonzero(s.fluid)
        assert np.all(rows > s.layers[0, cols]) and np.all(rows < s.layers[7, cols])


def test_empty_means_empty_and_wet_means_wet():
    for seed in range(40):
        dry, wet = (phantom_bscan(seed, 32, 40, fluid) for fluid in (False, True))
        assert not dry.fluid.any() and wet.fluid.any()


def test_fluid_statistics_of_the_set(small_sets):
    """Real set: 0.826 % fluid; 32 of 110 empty; driest eyes 0.10 and 0.12 %, wettest 2.12; columns
    99-624.

    Over 20 seeds the phantom has 0.81 +- 0.09 % and 30.5 +- 3.0 empty; the limits leave more than
    three standard errors of three sets.
    """
    share = 100 * np.array([[s.fluid.mean() for s in scans] for scans in small_sets])
    assert 0.83 - 0.16 < share.mean() < 0.83 + 0.16
    assert 30 - 7 < (share == 0).sum(axis=1).mean() < 30 + 7
    eyes = np.sort(share.reshape(3, 10, 11).mean(axis=2), axis=1).mean(axis=0)
    assert eyes[1] < 0.25 and 1.4 < eyes[9] < 3.2
    heaviest = np.sort(share, axis=1)[:, -11:].sum(axis=1) / share.sum(axis=1)
    assert np.all(
        (0.3 < heaviest) & (heaviest < 0.65)
    )  # a tenth of the real scans holds 0.457 of the fluid
    columns = np.flatnonzero(sum(s.fluid.any(axis=0) for scans in small_sets for s in scans))
    assert columns.min() * 8 + 7 >= 99 and columns.max() * 8 <= 624


def test_scans_of_one_eye_resemble_each_other(small_sets):
    rpe = np.array([s.layers[7, 48] for s in small_sets[0]]).reshape(10, 11)
    assert rpe.std(axis=1).mean() < 0.3 * rpe.mean(axis=1).std()
    wet = np.array([s.fluid.mean() for s in small_sets[0]]).reshape(10, 11)
    assert np.corrcoef(wet[:, 5], wet[:, 6])[0, 1] > 0.7  # 246 um apart


def _layer_means(s):
    """Mean grey level of vitreous, the 7 layers and the upper choroid, in columns between fovea
    and disc.
    """
    cols = np.r_[120:280, 490:650]
    rows = np.arange(496)[:, None]
    edges = np.vstack([s.layers[:1] - 40, s.layers[:1] - 8, s.layers, s.layers[7:] + 40])[:, cols]
    dry = (s.fluid[:, cols] == 0) & (s.image[:, cols] < 255)
    pairs = [(0, 1), *((k, k + 1) for k in range(2, 10))]
    return [s.image[:, cols][(rows > edges[a]) & (rows < edges[b]) & dry].mean() for a, b in pairs]


def test_layers_have_their_relative_brightness(full):
    means = np.mean([_layer_means(s) for s in full], axis=0)
    vitreous, nfl, gcl_ipl, inl, opl, onl, is_os, rpe, choroid = means
    assert vitreous < onl < inl < gcl_ipl < nfl < rpe
    assert inl < opl < gcl_ipl
    assert is_os > 1.5 * onl and rpe > 2 * onl and rpe > 1.4 * choroid


def test_cysts_are_darker_than_what_surrounds_them(full):
    ratios = []
    for s in full:
        inside = ndimage.binary_erosion(s.fluid, iterations=2)
        near = ndimage.binary_dilation(s.fluid, iterations=8)
        around = near & ~ndimage.binary_dilation(s.fluid, iterations=3)
        if inside.sum() > 300:
            ratios.append(s.image[inside].mean() / s.image[around].mean())
    assert len(ratios) >= 5 and max(ratios) < 0.85  # median of the real set: 0.66


def test_the_shifted_frame_leaves_straight_saturated_wedges(full):
    heights = np.array(
        [np.argmin(np.vstack([s.image == 255, np.zeros((1, 768), bool)]), axis=0) for s in full]
    )
    wedged = [h[8:-8] for h in heights if (h[8:-8] > 0).sum() > 100]
    assert 3 < len(wedged) < len(full)  # the real set: 87 of 110 have one above
    for h in wedged:
        x = np.flatnonzero(h)
        assert np.abs(h[x] - np.polyval(np.polyfit(x, h[x], 1), x)).max() < 1.1


def test_noise_and_speckle_have_the_measured_statistics(full):
    """Real vitreous: 13-15 % zeros, neighbours correlate 0.64 axially, 0.50 laterally; GCL:
    contrast 0.56.
    """
    zeros, axial, lateral, contrast = [], [], [], []
    for s in full:
        top = int(s.layers[0, 250:500].min()) - 45
        block = (
            s.image[top : top + 30, 250:500].astype(float) if top > 0 else np.full((1, 1), 255.0)
        )
        if block.max() < 200:
            zeros.append((block == 0).mean())
            d = block - block.mean()
            axial.append((d[1:] * d[:-1]).mean() / d.var())
            lateral.append((d[:, 1:] * d[:, :-1]).mean() / d.var())
        cols = np.flatnonzero(~s.fluid.any(axis=0) & (np.abs(np.arange(768) - 384) < 260))
        strip = (
            s.image[s.layers[1, cols].astype(int) + np.arange(4, 9)[:, None], cols] / 255.0
        ) ** 4
        strip = strip / ndimage.gaussian_filter1d(strip, 8, axis=1).mean(axis=0)
        contrast.append(strip.std())
    assert len(zeros) >= 5
    assert 0.08 < np.mean(zeros) < 0.18
    assert 0.54 < np.mean(axial) < 0.72 and 0.40 < np.mean(lateral) < 0.62
    assert 0.45 < np.median(contrast) < 0.67


def test_grey_levels_match_the_real_set(full, real_data):
    images = sorted((real_data / "chiu2015" / "images").glob("*.png"))[::4]
    real = np.concatenate([np.asarray(Image.open(p).convert("L")).ravel() for p in images])
    ours = np.concatenate([s.image.ravel() for s in full])
    levels = (50, 75, 90, 95, 99)
    real, ours = (np.percentile(v[v < 255], levels) for v in (real, ours))
    assert np.all(np.abs(ours / real - 1) < 0.2), (
        f"percentiles {levels}: real {real}, phantom {ours}"
    )


@pytest.mark.parametrize("height, width", [(8, 8), (31, 768), (496, 31), (0, 0), (-5, 64)])
def test_too_small_an_image_is_refused(height, width):
    message = rf"phantom of {height} x {width} pixels is too small: ask for at least 32 x 32"
    with pytest.raises(InputError, match=message):
        phantom_bscan(0, height, width)
    with pytest.raises(InputError, match=message):  # at the call, not at the first scan
        phantom_set(height=height, width=width)


def test_impossible_sets_are_refused():
    with pytest.raises(
        InputError, match="phantom set of 0 subjects with 11 scans each: ask for at least 1"
    ):
        phantom_set(subjects=0)
    for n in (0, 21):
        with pytest.raises(InputError, match=f"with {n} scans each: .*1-20"):
            phantom_set(scans_per_subject=n)
    with pytest.raises(InputError, match="phantom seed -1 is negative"):
        phantom_set(seed=-1)
    with pytest.raises(InputError, match="phantom seed -1 is negative"):
        phantom_bscan(-1)
