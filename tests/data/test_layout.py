"""Folder layouts of others, masks beside images, and pictures that are no B-scans."""

import numpy as np
import pytest
from helpers.scanfolder import EMPTY, GREY, WET, make_folder, read_scans, refused, save
from PIL import Image

from dme.data.layout import enface_pictures, masks_beside
from dme.data.opening import open_source


def fluids(folder) -> dict[str, np.ndarray]:
    """Fluid of each scan by name, and every image is as stored."""
    scans = read_scans(folder)
    for scan in scans:
        np.testing.assert_array_equal(scan.image, GREY)
    return {scan.name: scan.fluid for scan in scans}


def is_wet_and_dry(folder) -> None:
    """Scan a holds fluid, b none."""
    by_name = fluids(folder)
    assert list(by_name) == ["a", "b"]
    np.testing.assert_array_equal(by_name["a"], WET)
    np.testing.assert_array_equal(by_name["b"], EMPTY)


def test_nnunet(tmp_path):
    for name, mask in (("a", WET), ("b", EMPTY)):
        save(tmp_path / "imagesTr" / f"{name}_0000.png", GREY)
        save(tmp_path / "labelsTr" / f"{name}.png", mask)
    is_wet_and_dry(tmp_path)
    assert any("laid out as nnU-Net" in note for note in open_source(tmp_path).notes)
    save(tmp_path / "imagesTr" / "a_0001.png", GREY)
    refused(tmp_path, "a_0000.png and a_0001.png are channels of one scan")


def test_mmsegmentation(tmp_path):
    for part, name, mask in (("train", "a", WET), ("val", "b", EMPTY)):
        save(tmp_path / "img_dir" / part / f"{name}.png", GREY)
        save(tmp_path / "ann_dir" / part / f"{name}.png", mask)
    save(tmp_path / "img_dir" / "test" / "c.png", GREY)  # which nobody annotated
    is_wet_and_dry(tmp_path)
    (note,) = [note for note in open_source(tmp_path).notes if "MMSegmentation" in note]
    assert "train, val taken together" in note
    save(tmp_path / "img_dir" / "val" / "a.png", GREY)
    refused(tmp_path, "train/a.png", "val/a.png", "the same name: rename one")


@pytest.mark.parametrize("ending", ["_mask", "-label", "_seg", ".gt", " fluid", "_MASK"])
@pytest.mark.parametrize("folder", ["", "images"])
def test_masks_beside_their_images(tmp_path, ending, folder):
    for name, mask in (("a", WET), ("b", EMPTY)):
        save(tmp_path / folder / f"{name}.png", GREY)
        save(tmp_path / folder / f"{name}{ending}.png", mask)
    is_wet_and_dry(tmp_path)
    source = open_source(tmp_path)
    assert f"masks beside their images, as a{ending}.png beside a.png" in source.notes
    (tmp_path / folder / f"b{ending}.png").unlink()
    refused(tmp_path, "no mask for b")


def test_a_photograph_beside_its_mask(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8)
    mask = np.zeros_like(smooth)
    mask[3:9, 5:15] = 255
    Image.fromarray(smooth).save(tmp_path / "x.jpg", quality=95)
    save(tmp_path / "x.png", mask)
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.fluid, mask // 255)
    assert np.abs(scan.image.astype(int) - smooth).max() < 9
    # the same scan twice is no scan with its mask
    save(tmp_path / "x.png", smooth)
    assert masks_beside([tmp_path / "x.jpg", tmp_path / "x.png"]) == {}
    refused(tmp_path, "x.jpg", "x.png", "same name")


def test_a_folder_of_data_sets_says_what_to_do(tmp_path):
    make_folder(tmp_path / "anna")
    refused(tmp_path, "it", "holds anna", "give one of them", "into images/", "index.csv")


def test_the_picture_of_the_surface_is_known_by_its_size_or_name(tmp_path):
    bscans = {tmp_path / f"{i}.png": (496, 768) for i in range(5)}
    square = {tmp_path / "x.png": (768, 768)}
    assert enface_pictures(bscans | square) == list(square)
    assert enface_pictures({**bscans, tmp_path / "x.png": (400, 768)}) == []
    assert enface_pictures(bscans) == []
    few = dict(list(bscans.items())[:3])
    assert enface_pictures(few | square) == []
    for name in ("enface.png", "eye_en-face_1.png", "SLO.png", "fundus.png", "localizer.png"):
        assert enface_pictures(few | {tmp_path / name: (496, 768)}) == [tmp_path / name]
    for name in ("slope.png", "slow.png", "faces.png"):
        assert enface_pictures(few | {tmp_path / name: (496, 768)}) == []
    assert enface_pictures({tmp_path / "slo.png": (9, 9)}) == []
