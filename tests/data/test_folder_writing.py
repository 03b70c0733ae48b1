"""A folder of B-scans: what is written reads back equal, and what would not is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.scan_files import picture

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.folder_writing import write_folder
from dme.data.opening import open_source

SCALE_UM = (3.9, 11.333333333333334, 120.0)


def scan(i: int = 0, **labels) -> BScan:
    """SYNTHETIC, of a size of its own."""
    return BScan(f"a, b-{i}", picture(40 + i, 60 + i, i), subject=1 + i, position=3 * i, **labels)


def labelled(i: int) -> BScan:
    """With fluid, some of it unknown, and boundaries that are unknown in ten columns."""
    fluid = np.zeros((40 + i, 60 + i), np.uint8)
    fluid[10:15, 20:28] = 1
    fluid[:, :5] = 255
    rows = np.linspace(2.5, 35.25, 8)[:, None].repeat(60 + i, 1).astype(np.float32)
    rows[:, -10:] = np.nan
    return scan(i, fluid=fluid, layers=rows)


def read(folder: Path) -> list[BScan]:
    return list(open_source(str(folder)).scans())


def assert_equal(found: list[BScan], expected: list[BScan]) -> None:
    assert [vars(scan).keys() for scan in found] == [vars(scan).keys() for scan in expected]
    for one, other in zip(found, expected, strict=True):
        for key in ("name", "subject", "position", "scale_um"):
            assert getattr(one, key) == getattr(other, key)
        for key in ("image", "fluid", "layers"):
            array = getattr(other, key)
            if array is None:
                assert getattr(one, key) is None
            else:
                np.testing.assert_array_equal(getattr(one, key), array, strict=True)


@pytest.mark.parametrize("scale_um", [None, SCALE_UM])
@pytest.mark.parametrize("make", [scan, labelled])
def test_what_is_written_reads_back_equal(tmp_path, make, scale_um):
    scans = [replace(make(i), scale_um=scale_um) for i in range(3)]
    write_folder(tmp_path / "scans", iter(scans))
    assert_equal(read(tmp_path / "scans"), scans)
    assert not list(tmp_path.rglob("*.part"))
    head = (tmp_path / "scans" / "index.csv").read_text().splitlines()[0]
    scale = ",axial_um,lateral_um,spacing_um" if scale_um else ""
    assert head == "name,subject,bscan" + scale


def test_labels_and_scales_of_some(tmp_path):
    """Boundaries and a scale that only one scan has, no fluid anywhere."""
    dry = [np.zeros_like(scan(i).image) for i in range(2)]
    scans = [replace(labelled(0), fluid=dry[0]), scan(1, fluid=dry[1], scale_um=SCALE_UM)]
    write_folder(tmp_path, scans)
    assert_equal(read(tmp_path), scans)


def test_a_folder_is_complete_once_its_index_is_there(tmp_path):
    def scans():
        yield scan(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path, scans())
    assert (tmp_path / "images" / "a, b-0.png").exists()
    assert not (tmp_path / "index.csv").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [((0, 255), "masks hold .0, 255.; expected 0 and 1"), ((0, 1, 7), "masks hold .0, 1, 7.")],
)
def test_masks_that_would_read_as_something_else(tmp_path, values, message):
    fluid = np.resize(np.array(values, np.uint8), (40, 60))
    with pytest.raises(InputError, match=message):
        write_folder(tmp_path, [scan(0, fluid=fluid)])
    assert not (tmp_path / "index.csv").exists()


@pytest.mark.parametrize("names", [("../a",), ("",), ("a", "a")])
def test_names_that_would_leave_the_folder_or_each_other(tmp_path, names):
    scans = [replace(scan(i), name=name) for i, name in enumerate(names)]
    with pytest.raises(InputError, match="expected scans of different plain names"):
        write_folder(tmp_path / "scans", scans)
    assert not list(tmp_path.glob("*.png"))


def test_masks_of_an_earlier_set_are_no_masks_of_this_one(tmp_path):
    write_folder(tmp_path, [labelled(0)])
    with pytest.raises(InputError, match="a, b-0.png is of an earlier set: delete"):
        write_folder(tmp_path, [scan(0)])
