import shutil

import numpy as np
import pytest
from helpers.vendor_files import (
    AXIAL_MM,
    LATERAL_MM,
    PLANTED,
    SPACING_MM,
    raster,
    write_vol,
    write_xml,
)
from PIL import Image

from dme.common.errors import InputError
from dme.data.heidelberg_xml import is_export
from dme.data.volume_files import open_volume
from dme.data.volume_scale import scale_fault

BOMB = '<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def test_an_export_is_read_as_the_raw_file_of_the_same_volume(tmp_path):
    export = raster(bscans=4)
    raw = open_volume(write_vol(tmp_path / "a.vol", export))
    volume = open_volume(write_xml(tmp_path / "a", export))
    for key in ("shape", "bscans", "available", "pattern", "superior_first", "eye", "date"):
        assert getattr(volume, key) == getattr(raw, key), key
    assert volume.places == raw.places
    scale_um = [1e3 * AXIAL_MM, 1e3 * LATERAL_MM, 1e3 * SPACING_MM]
    assert volume.scale_um == pytest.approx(scale_um)
    assert scale_fault(volume) is None
    for index in range(4):
        assert np.array_equal(volume.read(index), raw.read(index))
    assert np.array_equal(volume.enface.read(), raw.enface.read())
    for key in PLANTED:
        assert PLANTED[key] in volume.private
        assert PLANTED[key] not in repr(volume)


def test_missing_pictures_are_known_and_others_said(tmp_path):
    path = write_xml(tmp_path / "a", raster(bscans=5))
    (path.parent / "B2.tif").unlink()
    (path.parent / "B1.tif").rename(path.parent / "b1.TIF")
    shutil.copy(path.parent / "B3.tif", path.parent / "other.tif")
    volume = open_volume(path)
    assert volume.bscans == 5 and volume.available == (0, 2, 3, 4)
    assert len(volume.gaps_um) == 4
    assert any("other.tif" in note for note in volume.notes)
    with pytest.raises(InputError, match="no picture"):
        volume.read(1)


def test_pictures_without_names_are_found_by_their_numbers(tmp_path):
    path = write_xml(tmp_path / "a", raster(bscans=4), url="")
    pictures = [np.asarray(Image.open(path.parent / f"B{i}.tif"))[..., 0] for i in (1, 2, 3, 4)]
    (path.parent / "B3.tif").rename(path.parent / "scan-3.tif")
    volume = open_volume(path)
    assert volume.available == (0, 1, 2, 3) and volume.enface.read is None
    for index, picture in enumerate(pictures):
        assert np.array_equal(volume.read(index), picture)
    shutil.copy(path.parent / "B1.tif", path.parent / "1_mask.tif")
    with pytest.raises(InputError, match="1_mask.tif, b1.tif all have the number 1"):
        open_volume(path)


def test_no_picture_outside_of_the_folder(tmp_path):
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "B1.tif")
    path = write_xml(tmp_path / "a", raster(), url="../{name}")
    (path.parent / "B1.tif").unlink()
    assert open_volume(path).available == (1, 2, 3)
    (path.parent / "B1.tif").symlink_to(tmp_path / "B1.tif")
    assert open_volume(path).available == (1, 2, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"head": BOMB}, "document type"),
        ({"head": OUTSIDE}, "document type"),
        ({"extra": "<ID>&a;</ID>"}, "not readable as XML"),
        ({"count": 9}, "holds 5 pictures, but counts 9"),
        ({"width": "1e9"}, "is 40 x 1000000000 px|pictures? of 40 x 1000000000 px"),
        ({"width": "sixty"}, "'sixty', expected a number"),
        ({"lateral_mm": ""}, "expected a number"),
        ({"extra": "<a>" * 100 + "</a>" * 100}, "deep"),
        ({"extra": f"<a b='{'x' * 3_000_000}'/>"}, "a tag takes over"),
        ({"url": "B1.tif"}, "two pictures have the file b1.tif"),
    ],
)
def test_what_no_device_writes_is_one_line(tmp_path, changed, message):
    path = write_xml(tmp_path / "a", raster(), **changed)
    with pytest.raises(InputError, match=message) as error:
        open_volume(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_picture_of_another_size_is_refused(tmp_path):
    path = write_xml(tmp_path / "a", raster())
    Image.fromarray(np.zeros((30, 60), np.uint8)).save(path.parent / "B2.tif")
    with pytest.raises(InputError, match="30 x 60 px, but its export says 40 x 60"):
        open_volume(path).read(1)


def test_only_exports_are_taken_for_exports(tmp_path):
    assert is_export(write_xml(tmp_path / "a", raster()))
    (tmp_path / "voc.xml").write_text("<annotation><folder>images</folder></annotation>")
    assert not is_export(tmp_path / "voc.xml")
    with pytest.raises(InputError, match="no B-scans with start and end"):
        open_volume(tmp_path / "voc.xml")
