"""Pictures that are no B-scans, or not as they should be."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from dme.data.phantom import phantom_bscan
from dme.report.inputs import list_items
from dme.retina.recognise import (
    BESIDE,
    COLOURS,
    EMPTY,
    INVERTED,
    LEAST_SIDE,
    MARKED,
    NO_RETINA,
    NOISE_ONLY,
    OTHER,
    UPSIDE_DOWN,
    has_colours,
    oddities_of,
)

SCAN = phantom_bscan(3).image  # 496 x 768


def smooth(width: float, shape=(400, 600)) -> np.ndarray:
    """Noise whose blobs are so many pixels wide, from black to white."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), width)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def jet(grey: np.ndarray) -> np.ndarray:
    share = grey / 255
    channels = [1.5 - np.abs(4 * share - middle) for middle in (3, 2, 1)]
    return (255 * np.stack(channels, axis=-1).clip(0, 1)).astype(np.uint8)


def written(text: str, scan: np.ndarray = SCAN, colour=255) -> np.ndarray:
    picture = Image.fromarray(scan)
    ImageDraw.Draw(picture).text((30, 450), text, fill=colour)
    return np.asarray(picture)


@pytest.mark.parametrize("seed", range(3))
def test_a_scan_is_not_odd(seed):
    image = phantom_bscan(seed).image
    assert oddities_of(image) == []
    assert oddities_of(np.repeat(image[..., None], 3, axis=2)) == []
    assert oddities_of(np.asarray(Image.fromarray(image).resize((384, 248)))) == []
    assert oddities_of(image[::-1]) == [UPSIDE_DOWN]
    assert oddities_of(255 - image) == [INVERTED]


def with_wedge() -> np.ndarray:
    image = SCAN.copy()
    rows, columns = np.indices(image.shape)
    image[rows < columns // 10] = 255
    return image


@pytest.mark.parametrize("gamma", [0.8, 1.25])
@pytest.mark.parametrize("image", [SCAN, with_wedge()], ids=["plain", "wedge"])
def test_a_scan_that_was_changed_mildly_is_not_odd(image, gamma):
    rng = np.random.default_rng(0)
    brighter = (255 * (image / 255) ** gamma).astype(np.uint8)
    assert oddities_of(brighter) == []
    noisy = (image * (1 + 0.2 * rng.standard_normal(image.shape))).clip(0, 255)
    assert oddities_of(noisy.astype(np.uint8)) == []
    assert oddities_of(np.roll(image, 20, axis=0)) == []
    assert oddities_of(np.roll(image, -20, axis=0)) == []


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (jet(SCAN), COLOURS),
        (np.zeros((400, 600), np.uint8), EMPTY),
        (np.full((400, 600), 255, np.uint8), EMPTY),
        (np.full((400, 600), 90, np.uint8), EMPTY),
        (np.random.default_rng(0).integers(0, 120, (400, 600)).astype(np.uint8), NOISE_ONLY),
        (smooth(2), NOISE_ONLY),
        (np.hstack([SCAN, smooth(6, (496, 496))]), BESIDE),
        (np.hstack([smooth(6, (496, 496)), SCAN]), BESIDE),
    ],
    ids=lambda value: "" if isinstance(value, np.ndarray) else value.seen[:20],
)
def test_other_pictures_are_refused(picture, expected):
    oddities = oddities_of(picture)
    assert oddities == [expected]
    assert expected.refused


@pytest.mark.parametrize("picture", [smooth(15), smooth(15).T, smooth(40), SCAN.T])
def test_smooth_noise_and_a_scan_on_its_side_are_refused(picture):
    (oddity,) = oddities_of(picture)
    assert oddity.refused


def test_letters_and_lines():
    assert oddities_of(written("200 um")) == [MARKED]
    line = SCAN.copy()
    line[470, 100:180] = 255
    assert oddities_of(line) == [MARKED]
    reflexes = SCAN.copy()
    reflexes[200:203, 100:700:60] = 255  # within the retina or just white dots of 3 px
    assert oddities_of(reflexes) == []

    # in colour
    coloured = written("200 um", np.repeat(SCAN[..., None], 3, axis=2), (255, 220, 0))
    assert has_colours(coloured)
    assert oddities_of(coloured) == [MARKED]
    assert not has_colours(np.repeat(SCAN[..., None], 3, axis=2))


def test_next_to_no_retina():
    rng = np.random.default_rng(0)
    rows = np.arange(400)[:, None]
    faint = 30 + 12 * np.exp(-(((rows - 200) / 30) ** 2)) + rng.normal(0, 3, (400, 600))
    assert oddities_of(faint.astype(np.uint8)) == [NO_RETINA]


def test_small_pictures_are_not_judged():
    noise = np.random.default_rng(0).integers(0, 255, (LEAST_SIDE - 1, 500)).astype(np.uint8)
    assert oddities_of(noise) == []
    assert oddities_of(np.vstack([noise, noise])) == [NOISE_ONLY]


def test_no_real_scan_is_odd(real_data):
    """Some of them; the study recognition.py has all, and changed ones."""
    folders = ("chiu2015/images", "octlayers/images", "chiu2015/subject01_volume")
    for folder in folders:
        files = sorted((real_data / folder).glob("*.png"))
        assert files
        for file in files[::9]:
            scan = np.asarray(Image.open(file).convert("L"))
            assert oddities_of(scan) == [], file


def test_no_photograph_is_a_scan(real_data):
    for file in sorted((real_data / "hrf/images").glob("*"))[::9]:
        photograph = Image.open(file).reduce(4)
        assert oddities_of(np.asarray(photograph)) == [COLOURS]
        assert oddities_of(np.asarray(photograph.convert("L"))) == [OTHER]


def test_no_scan_of_a_device_is_odd(vendor):
    """One is of a long eye, so steep that its edges are mirrored into the frame."""
    for name in ("line.vol", "ring.vol", "ring_other_version.vol"):
        (item,), _ = list_items([str(vendor / "heidelberg_vol" / name)])
        for scan in item.scans(set()):
            assert oddities_of(scan.read()) == [], name
