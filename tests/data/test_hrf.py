"""The fundus photographs: names, split, reduction by hand, and folders that are wrong."""

import numpy as np
import pytest
from helpers.hrffolder import make_hrf
from PIL import Image

from dme.common.errors import InputError
from dme.data.hrf import open_hrf, split_hrf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_hrf(tmp_path_factory.mktemp("data") / "hrf")


def read_scans(folder, scale=1.0):
    """Scans by name."""
    return {scan.name: scan for scan in open_hrf(folder, scale).scans()}


def test_records(folder, monkeypatch):
    monkeypatch.setenv("HRF_DATA", str(folder))
    source = open_hrf()
    scans = list(source.scans())
    assert source.kind == "hrf" and len(scans) == 45
    names = [scan.name for scan in scans]
    assert names[:4] == ["01_dr", "01_g", "01_h", "02_dr"]
    assert names[-1] == "15_h"
    for i, scan in enumerate(scans):
        assert (scan.subject - 1, scan.position) == divmod(i, 3)
        assert scan.image.shape == (64, 96, 3)
        assert scan.image.dtype == np.uint8
        assert scan.fluid.shape == (64, 96)
        assert scan.fluid.dtype == np.uint8


def test_pixels(folder):
    scan = read_scans(folder)["03_h"]
    vessel = np.zeros((64, 96), np.uint8)
    vessel[16 + 6 : 16 + 12] = 1
    vessel[:, 32 + 10 : 32 + 16] = 1
    assert np.array_equal(scan.fluid, vessel)
    ground = scan.image[60, 5].astype(int)
    assert abs(ground - (153, 90, 60)).max() < 6  # RGB, but for the JPEG


def test_split(folder):
    names = list(read_scans(folder))
    train, validation = split_hrf(names)
    expected = {f"{n:02d}_{g}" for n in range(1, 6) for g in ("dr", "g", "h")}
    assert {names[i] for i in train} == expected
    assert len(train) == 15 and len(validation) == 30
    assert sorted(train + validation) == list(range(45))


def test_half_size_by_hand(tmp_path):
    root = make_hrf(tmp_path, height=4, width=6)
    mask = np.array(
        [
            [1, 1, 1, 0, 1, 0],
            [1, 1, 0, 0, 0, 1],
            [0, 0, 1, 1, 1, 1],
            [0, 0, 0, 0, 1, 0],
        ]
    )
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 4 * np.arange(24).reshape(4, 6)
    image[:2, :2, 1] = [[10, 20], [30, 60]]
    (root / "images" / "02_g.jpg").unlink()
    Image.fromarray(image).save(root / "images" / "02_g.png")
    Image.fromarray(mask.astype(bool)).save(root / "vessels" / "02_g.png")

    scan = read_scans(root, scale=0.5)["02_g"]
    assert scan.fluid.tolist() == [[1, 0, 1], [0, 1, 1]]  # from 4, 1, 2 / 0, 2, 3 of four
    assert scan.image[..., 0].tolist() == [[14, 22, 30], [62, 70, 78]]
    assert scan.image[0, 0, 1] == 30
    assert scan.image.shape == (2, 3, 3)


def test_masks_of_the_original_archive(tmp_path):
    """It calls their folder manual1, and stores them as 0 / 255 TIFF."""
    root = make_hrf(tmp_path)
    before = read_scans(root)
    (root / "manual1").mkdir()
    for file in (root / "vessels").iterdir():
        pixels = np.asarray(Image.open(file)).astype(np.uint8) * 255
        Image.fromarray(pixels).save(root / "manual1" / f"{file.stem}.tif")
        file.unlink()
    (root / "vessels").rmdir()
    after = read_scans(root)
    assert after.keys() == before.keys()
    for name, scan in after.items():
        assert np.array_equal(scan.fluid, before[name].fluid)


def test_fingerprint_tells_data_and_scale(tmp_path):
    root = make_hrf(tmp_path)
    first = open_hrf(root).sha256
    half = open_hrf(root, 0.5).sha256
    assert open_hrf(root).sha256 == first
    Image.new("1", (96, 64)).save(root / "vessels" / "01_g.png")
    assert len({first, half, open_hrf(root).sha256}) == 3


def test_wrong_folders(tmp_path, folder):
    with pytest.raises(InputError, match="no fundus photographs: give `data` or HRF_DATA"):
        open_hrf()
    with pytest.raises(InputError, match="nowhere has no images/ beside vessels/ or manual1/"):
        open_hrf(tmp_path / "nowhere")
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="has no images/ beside"):
        open_hrf(tmp_path / "a")


@pytest.mark.parametrize("scale", [0, -1, 1.5, float("nan")])
def test_wrong_scales(folder, scale):
    message = f"scale is {scale}; it must be above 0 and at most 1"
    with pytest.raises(InputError, match=message):
        open_hrf(folder, scale)


def test_missing_files(tmp_path):
    root = make_hrf(tmp_path)
    (root / "images" / "03_h.jpg").rename(root / "images" / "3_h.jpg")
    (root / "vessels" / "15_g.png").unlink()
    message = "lacks image or mask of 2 of the 45 photographs: 03_h, 15_g$"
    with pytest.raises(InputError, match=message):
        open_hrf(root)


def test_wrong_files(tmp_path):
    root = make_hrf(tmp_path)
    Image.new("1", (96, 63)).save(root / "vessels" / "15_g.png")
    message = r"15_g\.jpg is 64 x 96 pixels, its mask 63 x 96; they must agree"
    with pytest.raises(InputError, match=message):
        read_scans(root)
    photograph = root / "images" / "15_g.jpg"
    photograph.write_bytes(photograph.read_bytes()[:300])
    with pytest.raises(InputError, match=r"cannot read .*15_g\.jpg: .*; unpack the HRF set again"):
        read_scans(root)


def test_large_and_damaged_files(tmp_path):
    root = make_hrf(tmp_path)
    mask = root / "vessels" / "15_g.png"
    content = bytearray(mask.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 1  # Pillow does not look at these checksums
    mask.write_bytes(content)
    with pytest.raises(InputError, match="15_g.png: not a readable image .*checksum of b'IDAT'"):
        read_scans(root)
    Image.new("1", (13300, 13300)).save(mask)
    with pytest.raises(InputError, match="15_g.png: 13300 x 13300 px, expected at most 16 mill"):
        read_scans(root)


def test_real_photographs(real_data):
    source = open_hrf(real_data / "hrf", scale=0.25)
    scan = next(source.scans())
    assert scan.name == "01_dr"
    assert scan.image.shape == (584, 876, 3)
    assert 0.05 < scan.fluid.mean() < 0.15  # vessels cover about a tenth
    inside = scan.image[146:438, 219:657].reshape(-1, 3).mean(0)
    assert inside[0] > inside[1] > inside[2]  # red first
