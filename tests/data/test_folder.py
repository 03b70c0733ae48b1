"""Folders: images, masks, boundaries and places, what is refused and with which words."""

import csv
import os

import numpy as np
import pytest
from helpers.scanfolder import EMPTY, GREY, WET, make_folder, places, read_scans, refused, save

from dme.common.labels import IGNORE
from dme.data.cache import open_cache
from dme.data.duke import DUKE_ANNOTATED, DUKE_SCALE_UM
from dme.data.opening import open_source
from dme.data.source import subjects_known


def names(scans):
    return [scan.name for scan in scans]


def any_has(notes, text):
    return any(text in note for note in notes)


# ---- images and places ------------------------------------------------------------------------


def test_without_index(tmp_path):
    masks = {"scan10": EMPTY, "scan9": WET, "Scan1": EMPTY}
    source = open_source(make_folder(tmp_path, masks))
    scans = list(source.scans())
    assert names(scans) == ["Scan1", "scan9", "scan10"]
    assert places(scans) == [(1, 0), (1, 1), (1, 2)]
    np.testing.assert_array_equal(scans[1].fluid, WET)
    np.testing.assert_array_equal(scans[0].image, GREY)
    assert source.kind == "folder" and "3 B-scans" in source.description
    (note,) = [note for note in source.notes if "subjects unknown" in note]
    assert "no split by subject" in note
    assert "masks: binary 0/1, 1 is fluid" in source.notes


def test_names_can_carry_the_subject(tmp_path):
    stems = ("subject2_10", "subject2_9", "Subject_1_3")
    source = open_source(make_folder(tmp_path, dict.fromkeys(stems, EMPTY)))
    assert places(source.scans()) == [(1, 3), (2, 9), (2, 10)]
    assert any_has(source.notes, "from the file names")


def test_time_stamps_in_names_give_the_order(tmp_path):
    stems = ("subject2_20240115120000", "subject2_20230115120000", "subject1_20220101000000")
    source = open_source(make_folder(tmp_path, dict.fromkeys(stems, EMPTY)))
    scans = list(source.scans())
    assert places(scans) == [(1, 0), (2, 0), (2, 1)]
    assert names(scans) == [stems[2], stems[1], stems[0]]
    assert any_has(source.notes, "no B-scan's: B-scans counted in order")


def test_subject_numbers_beyond_64_bits_become_ranks(tmp_path):
    stems = (f"subject{10**20}_3", f"subject{10**19}_3")
    source = open_source(make_folder(tmp_path, dict.fromkeys(stems, EMPTY)))
    assert places(source.scans()) == [(1, 3), (2, 3)]
    assert any_has(source.notes, "subject numbers of the file names are out of range")


def test_names_that_are_not_utf8(tmp_path):
    """As older systems wrote them: they are read, and their bytes shown."""
    name = os.fsdecode(b"M\xfcller")
    folder = tmp_path / os.fsdecode(b"pr\xe4parat")
    source = open_source(make_folder(folder, {name: WET, "Müller": EMPTY}))
    cache = open_cache(source)
    assert sorted(cache.names) == ["M\\xfcller", "Müller"]
    assert "pr\\xe4parat" in source.description
    source.description.encode()
    assert open_cache(open_source(folder)).names == cache.names


def test_with_index(tmp_path):
    header = "\ufeffname,subject,bscan,paper_split,axial_um,lateral_um,spacing_um\n"
    rows = "a.png,10,3,train,,,\nb,2,7,val,3.5,11,120\n"
    b, a = read_scans(make_folder(tmp_path, index=header + rows))
    assert names([b, a]) == ["b", "a"]
    assert places([b, a]) == [(2, 7), (10, 3)]
    assert b.scale_um == (3.5, 11.0, 120.0) and a.scale_um is None
    np.testing.assert_array_equal(b.fluid, WET)
    assert not a.fluid.any()


PLACE = "name,subject,bscan"
SCALE = "axial_um,lateral_um,spacing_um"


@pytest.mark.parametrize(
    "index, words",
    [
        ("name,subject\na,1\n", ["no column bscan", "found name, subject"]),
        ("", ["no column name, subject, bscan"]),
        (f"{PLACE}\n", ["no rows"]),
        (f"{PLACE}\na,1,0\nc,1,1\n", ["line 3", "no image c"]),
        (f"{PLACE}\na,1,x\n", ["line 2", "bscan >= 0"]),
        (f"{PLACE}\na,0,1\n", ["line 2", "subject >= 1"]),
        (f"{PLACE}\na,,1\n", ["line 2", "both empty where the eye is unknown"]),
        (f"{PLACE}\na,1,\n", ["line 2", "both empty where the eye is unknown"]),
        (f"{PLACE}\na\n", ["line 2", "subject >= 1"]),
        (f"{PLACE},axial_um\na,1,1,3.9\n", ["line 2", "axial_um, lateral_um, spacing_um"]),
        (f"{PLACE},{SCALE}\na,1,1,0,1,1\n", ["line 2", "axial_um"]),
        (f"{PLACE},{SCALE}\na,1,1,4,,\n", ["line 2", "the last or all empty"]),
        (f"{PLACE},{SCALE}\na,1,1,,10,120\n", ["line 2", "the last or all empty"]),
        (f"{PLACE},{SCALE}\na,1,1,.0039,.011,.12\n", ["line 2", "look like mm", "3.9,11,120"]),
        (f"{PLACE},{SCALE}\na,1,1,11,3.9,120\n", ["line 2", "swapped"]),
        (f"{PLACE}\na,1,20260101\n", ["line 2", "bscan 0 to 9999"]),
        (f"{PLACE}\na,100000000000000000000,1\n", ["line 2", "subject"]),
        (f"{PLACE},eye\na,1,1,OX\n", ["line 2", "eye OD or OS"]),
        (f"{PLACE},fovea_column,fovea_bscan\na,1,1,nan,3\n", ["line 2", "fovea_column"]),
        (f"{PLACE},fovea_column\na,1,1,5\n", ["line 2", "fovea_column and fovea_bscan"]),
        (f"{PLACE},{SCALE}\na,1,1,nan,1,1\n", ["line 2", "axial_um"]),
        (f"{PLACE},{SCALE}\na,1,1,1,inf,1\n", ["line 2", "axial_um"]),
        (f"{PLACE}\na,1,0\na.png,2,0\n", ["line 3", "a is listed twice"]),
    ],
)
def test_wrong_index_is_refused(tmp_path, index, words):
    refused(make_folder(tmp_path, index=index), "index.csv", *words)


@pytest.mark.parametrize(
    "name", ["images/lost.png", "fluid/lost.png", "boundaries/lost.npy", "index.csv", "elsewhere"]
)
def test_links_that_lead_nowhere_are_refused(tmp_path, name):
    folder = make_folder(tmp_path)
    (folder / "boundaries").mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "nowhere")
    refused(folder, name, "link leads nowhere")


def test_two_images_at_one_place_are_refused(tmp_path):
    folder = make_folder(tmp_path, index=f"{PLACE}\na,1,0\nb,1,0\n")
    refused(folder, "a and b are both subject 1, B-scan 0")
    folder = make_folder(tmp_path / "eye", index=f"{PLACE},eye\na,1,0,OD\nb,1,0,\n")
    refused(folder, "a and b are both subject 1, B-scan 0")


def test_two_eyes_of_a_subject_have_the_same_places(tmp_path):
    folder = make_folder(tmp_path, index=f"{PLACE},eye\na,1,0,OD\nb,1,0,OS\n")
    assert places(read_scans(folder)) == [(1, 0), (1, 0)]


def test_a_scale_without_spacing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "cache"))
    lines = f"{PLACE},{SCALE}\na,,,4,10,\nb,,,4,10,\n"
    source = open_source(make_folder(tmp_path / "own", index=lines))
    for scans in (open_cache(source), open_cache(source)):  # as read, and from the file
        assert scans.scale_um == (4, 10)
    assert open_cache(source, 2).scale_um == (4 * 4 / 2, 10 * 6 / 2)


def test_an_index_may_leave_open_of_which_eye_scans_are(tmp_path):
    folder = make_folder(tmp_path / "open", index=f"{PLACE},{SCALE}\nb,,,4,10,120\na,,,\n")
    source = open_source(folder)
    scans = list(source.scans())
    assert names(scans) == ["a", "b"] and scans[1].scale_um == (4, 10, 120)
    assert places(scans) == places(read_scans(make_folder(tmp_path / "none")))
    assert not subjects_known(source.notes)

    # beside scans of known eyes they are apart from these
    masks = dict.fromkeys("abcd", WET)
    lines = f"{PLACE}\nd,,\na,1,0\nb,1,1\nc,3,1\n"
    source = open_source(make_folder(tmp_path / "mixed", masks, lines))
    scans = list(source.scans())
    assert dict(zip(names(scans), places(scans), strict=True)) == {
        "a": (1, 0),
        "b": (1, 1),
        "c": (3, 1),
        "d": (2, 0),
    }
    assert "subjects unknown of 1 of 4 scans" in " ".join(source.notes)


def test_ungraded_columns_are_unknown(tmp_path):
    folder = make_folder(tmp_path, index=f"{PLACE},ungraded\na,1,0,\nb,1,1,0-1 4-5\n")
    (folder / "boundaries").mkdir()
    np.save(folder / "boundaries" / "b.npy", np.full((8, 6), 2.0))
    graded, partly = read_scans(folder)
    assert (graded.fluid != IGNORE).all()
    unknown = (partly.fluid == IGNORE).all(axis=0)
    assert unknown.tolist() == [True, True, False, False, True, True]
    np.testing.assert_array_equal(partly.fluid[:, 2:4], WET[:, 2:4])
    np.testing.assert_array_equal(np.isnan(partly.layers), np.tile(unknown, (8, 1)))


@pytest.mark.parametrize("text", ["3", "5-3", "-1-2", "a-b", "0-1,3-4"])
def test_ungraded_columns_that_cannot_be_are_refused(tmp_path, text):
    folder = make_folder(tmp_path, index=f'{PLACE},ungraded\na,1,0,"{text}"\nb,1,1,\n')
    refused(folder, "index.csv line 2", "ungraded such as 0-98")


def test_ungraded_columns_beyond_the_image_are_refused(tmp_path):
    folder = make_folder(tmp_path, index=f"{PLACE},ungraded\na,1,0,0-6\nb,1,1,\n")
    refused(folder, "index.csv: ungraded columns 0-6 of a leave the image", "0 to 5")


def test_index_may_choose_images_and_says_so(tmp_path):
    source = open_source(make_folder(tmp_path, index=f"{PLACE}\nb,1,0\n"))
    assert names(source.scans()) == ["b"]
    assert "images not in index.csv without use, left out: a" in source.notes


def test_images_directly_in_the_folder_are_unlabelled(tmp_path):
    save(tmp_path / "x.png", GREY)
    save(tmp_path / "._x.png", GREY)  # macOS leaves such files, and they are no images
    source = open_source(tmp_path)
    (scan,) = source.scans()
    assert scan.fluid is None and scan.layers is None and scan.scale_um is None
    assert "no fluid labels" in source.description
    assert any_has(source.notes, "without fluid labels")


# ---- masks ------------------------------------------------------------------------------------


def test_unlike_mask_folders_are_refused(tmp_path):
    save(make_folder(tmp_path) / "fluid" / "b.png", np.zeros((4, 7), np.uint8))
    refused(tmp_path, "b.png", "mask is (4, 7)", "image is (4, 6)")
    (tmp_path / "fluid" / "b.png").unlink()
    refused(tmp_path, "no mask for b")
    save(tmp_path / "fluid" / "b.jpg", EMPTY)
    refused(tmp_path, "b.jpg", "JPEG", "PNG")
    save(tmp_path / "fluid" / "b.bmp", EMPTY)
    refused(tmp_path, "b.jpg", "b.bmp", "same name")
    (tmp_path / "masks").mkdir()
    refused(tmp_path, "both fluid/ and masks/")


def test_masks_of_other_values_are_refused(tmp_path):
    deep = np.zeros((4, 6), np.uint16)
    deep[0, 0] = 300
    folder = make_folder(tmp_path / "deep", {"a": deep})
    refused(folder, "a.png", "mask values 0..300", "0..255")

    colour = np.zeros((4, 6, 3), np.uint8)
    colour[0, 0, 1] = 255
    folder = make_folder(tmp_path / "colour", {"a": colour})
    refused(folder, "a.png", "coloured mask")

    soft = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save(tmp_path / "soft" / "images" / "a.png", soft)
    save(tmp_path / "soft" / "masks" / "a.png", soft)
    refused(tmp_path / "soft", "254 values between 0 and 255", "nearest")


def test_masks_without_an_image_are_left_out_and_named(tmp_path):
    (make_folder(tmp_path) / "images" / "b.png").unlink()
    source = open_source(tmp_path)
    assert len(list(source.scans())) == 1
    assert "masks without use, left out: b" in source.notes


def test_mask_meaning_is_that_of_the_whole_set(tmp_path):
    """A mask of 0 and 255 is fluid in a binary set, but ignore in a set that has ids."""
    white = np.zeros((4, 6), np.uint8)
    white[:, :1] = 255
    (scan,) = read_scans(make_folder(tmp_path / "binary", {"a": white}))
    np.testing.assert_array_equal(scan.fluid, white // 255)

    source = open_source(make_folder(tmp_path / "ids", {"a": white, "b": 2 * WET}))
    a, b = source.scans()
    np.testing.assert_array_equal(a.fluid, white)
    np.testing.assert_array_equal(b.fluid, WET)
    assert "masks: instance ids 2..2, fluid is id > 0, 255 is ignore" in source.notes


# ---- boundaries -------------------------------------------------------------------------------


@pytest.fixture
def rows():
    """Rows (8, 6) within 4 px, ungraded in the last column."""
    values = np.linspace(0, 3, 8)[:, None] * np.ones(6)
    values[:, 5] = np.nan
    return values


@pytest.fixture
def path(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "boundaries").mkdir()
    return tmp_path / "boundaries" / "a.npy"


def test_boundaries_of_some_scans(tmp_path, path, rows):
    np.save(path, rows)
    source = open_source(tmp_path)
    a, b = source.scans()
    assert b.layers is None and a.layers.dtype == np.float32
    np.testing.assert_array_equal(a.layers, rows.astype(np.float32))
    assert not any_has(source.notes, "crossings")


def test_small_crossings_are_repaired_and_noted(tmp_path, path, rows):
    rows[[3, 4], 1] = rows[[4, 3], 1]
    np.save(path, rows)
    source = open_source(tmp_path)
    a, _ = source.scans()
    assert a.name == "a"
    assert (np.diff(a.layers[:, :5], axis=0) >= 0).all()
    repaired = "boundaries: 1 crossings in 1 of 1 files repaired"
    assert f"{repaired}, largest {3 / 7:.2f} px" in source.notes


def test_wrong_boundaries_are_refused(tmp_path, path, rows):
    crossed = rows.copy()
    crossed[6, 2] = 0
    crossed[5, 2] = 3.5
    np.save(path, crossed)
    refused(tmp_path, "a.npy", "boundary 7", "3.5 px", "column 2", "up to 3 px")
    np.save(path, rows[:, :5])
    refused(tmp_path, "a.npy", "(8, 5)", "expected numbers (8, width 6)")
    np.save(path, rows * 2)
    refused(tmp_path, "a.npy", "rows 0..6", "leave the image", "4 px")
    np.save(path, np.array([[{}] * 6] * 8), allow_pickle=True)
    refused(tmp_path, "a.npy", "not a readable .npy array")


# ---- real sets --------------------------------------------------------------------------------


def test_real_folder(real_data):
    source = open_source(real_data / "chiu2015")
    scans = list(source.scans())
    assert set(places(scans)) == DUKE_ANNOTATED
    assert {scan.scale_um for scan in scans} == {DUKE_SCALE_UM}
    assert "masks: instance ids 1..15, fluid is id > 0" in source.notes
    with open(real_data / "chiu2015" / "index.csv", newline="") as file:
        index = {row["name"]: row for row in csv.DictReader(file)}
    assert len(scans) == len(index)
    for scan in scans:
        assert np.count_nonzero(scan.fluid == 1) == int(index[scan.name]["fluid_px"])

    volume = read_scans(real_data / "chiu2015" / "subject01_volume")
    assert len(volume) == 61
    (same,) = [scan for scan in volume if scan.position == 10]
    np.testing.assert_array_equal(same.image, scans[0].image)


def test_real_layers_are_repaired(real_data):
    source = open_source(real_data / "octlayers")
    scans = list(source.scans())
    assert len(scans) == 70
    assert {scan.subject for scan in scans} == set(range(1, 8))
    for scan in scans:
        stored = np.load(real_data / "octlayers" / "boundaries" / f"{scan.name}.npy")
        assert scan.layers.shape == (8, scan.image.shape[1])
        assert (np.diff(scan.layers, axis=0) >= 0).all()
        sound = (np.diff(stored, axis=0) >= 0).all(axis=0)
        np.testing.assert_array_equal(scan.layers[:, sound], stored[:, sound])
        assert np.abs(scan.layers - stored).max() <= 3
    assert any_has(source.notes, "16 of 70 files")
