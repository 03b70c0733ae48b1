"""Inputs: which scans, names, volumes and scales come from files, folders, arrays and volumes."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.matfiles import write_subject_mat
from helpers.scan_files import picture, save
from helpers.vendor_files import raster, write_vol, write_xml

from dme.common.errors import InputError
from dme.data.duke import DUKE_ANNOTATED, DUKE_SCALE_UM, DUKE_SHAPE
from dme.data.opening import open_source
from dme.report.inputs import list_items
from dme.report.scans import Scan


def open_all(*inputs, volume=False) -> list[Scan]:
    """The scans of inputs that are all right."""
    items, faults = list_items([str(text) for text in inputs], volume)
    assert faults == {}
    in_use: set[str] = set()
    scans = []
    for item in items:
        scans += item.scans(in_use)
    return scans


def open_one(path) -> tuple[list[Scan], list[str]]:
    """The scans and the notes of an input that is one item."""
    (item,), _ = list_items([str(path)])
    return item.scans(set()), item.notes


def places(scans) -> list[tuple]:
    return [(scan.name, scan.volume, scan.position) for scan in scans]


def names(scans) -> list[str]:
    return [scan.name for scan in scans]


def volumes(scans) -> set[str | None]:
    return {scan.volume for scan in scans}


def positions(scans) -> list[int | None]:
    return [scan.position for scan in scans]


def scales_um(scans) -> set[tuple]:
    return {scan.scale_um for scan in scans}


# ---- folders ------------------------------------------------------------------------------------
def test_a_folder_is_a_list_of_scans_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "x.bmp", ".hidden.png"):
        save(tmp_path / name, picture())
    save(tmp_path / "fluid" / "2.png", picture())
    (tmp_path / "notes.txt").write_text("")
    scans, notes = open_one(tmp_path)
    assert names(scans) == ["2", "10", "x"]
    assert volumes(scans) == {None}
    assert positions(scans) == [None] * 3
    assert "1 files of other kinds left out: notes.txt" in notes[0]

    scans = open_all(tmp_path, volume=True)
    label = tmp_path.name
    assert places(scans) == [(f"{label}_bscan{i:03d}", label, i) for i in range(3)]


def test_names_that_tell_a_volume(tmp_path):
    folder = tmp_path / "eye"
    for i in (0, 1, 12):
        save(folder / f"bscan_{i:02d}.png", picture())
    scans = open_all(folder)
    assert positions(scans) == [0, 1, 12]
    assert volumes(scans) == {"eye"}
    one_by_one = open_all(*sorted(folder.iterdir()))  # a shell's eye/*.png
    assert one_by_one[2].volume == "eye"

    save(folder / "bscan_1.png", picture())
    with pytest.raises(InputError, match="bscan_01.png.* are both B-scan 1 of volume eye"):
        open_all(folder)


def test_names_that_tell_several_volumes(tmp_path):
    for subject in (1, 2):
        for i in (3, 4):
            save(tmp_path / "set" / "images" / f"subject{subject}_{i}.png", picture())
    scans = open_all(tmp_path / "set")
    assert volumes(scans) == {"set_subject1", "set_subject2"}
    assert names(scans) == [
        "set_subject1_bscan003",
        "set_subject1_bscan004",
        "set_subject2_bscan003",
        "set_subject2_bscan004",
    ]
    assert positions(scans) == [3, 4, 3, 4]


def save_indexed(root, names: str, lines: list[str]) -> None:
    """Images of one letter each, and an index of these lines."""
    for name in names:
        save(root / "images" / f"{name}.png", picture())
    (root / "index.csv").write_text("\n".join(lines))


def test_index_gives_volumes_and_scale(tmp_path):
    lines = [
        "name,subject,bscan,axial_um,lateral_um,spacing_um",
        "b.png,4,7,3.9,11,120",
        "a,4,8,3.9,11,120",
    ]
    save_indexed(tmp_path, "abc", lines)
    scans, notes = open_one(tmp_path)
    volume = f"{tmp_path.name}_subject04"
    assert places(scans) == [(f"{volume}_bscan008", volume, 8), (f"{volume}_bscan007", volume, 7)]
    assert scales_um(scans) == {(3.9, 11.0, 120.0)}
    assert "1 images without a line" in notes[0]


def test_an_index_may_leave_open_of_which_eye_scans_are(tmp_path):
    lines = [
        "name,subject,bscan,axial_um,lateral_um,spacing_um,eye",
        "a,,,3.9,11,120,OD",
        "b,,,3.9,11,120,OS",
        "c,1,4,3.9,11,120,OS",
        "d,1,5,3.9,11,120,",
    ]
    save_indexed(tmp_path, "abcd", lines)
    scans, _ = open_one(tmp_path)
    volume = f"{tmp_path.name}_subject01"
    assert [scan.volume for scan in scans] == [None, None, volume, volume]
    assert positions(scans) == [None, None, 4, 5]
    assert [scan.eye for scan in scans] == ["OD", "OS", "OS", "OS"]
    assert scales_um(scans) == {(3.9, 11.0, 120.0)}


def test_the_duke_set_brings_its_scale(real_data):
    scans, notes = open_one(real_data / "chiu2015")
    assert len(scans) == 110
    assert len(volumes(scans)) == 10
    assert scales_um(scans) == {(3.87, 11.33, 123.0)}
    assert any("3.87/11.33/123" in note for note in notes)


# ---- files --------------------------------------------------------------------------------------
def test_arrays(tmp_path):
    stack = np.stack([picture(seed=i) for i in range(3)])
    grey = picture(seed=5)
    red = picture(seed=6)
    files = [
        save(tmp_path / "v.npy", stack),
        save(tmp_path / "g.npy", grey),
        save(tmp_path / "c.npy", np.repeat(red[..., None], 3, 2)),
        save(tmp_path / "one.npy", grey[..., None]),
    ]
    scans = open_all(*files)
    assert places(scans) == [
        ("v_bscan000", "v", 0),
        ("v_bscan001", "v", 1),
        ("v_bscan002", "v", 2),
        ("g", None, None),
        ("c", None, None),
        ("one", None, None),
    ]
    for scan, pixels in zip(scans, [*stack, grey, red, grey], strict=True):
        np.testing.assert_array_equal(scan.read(), pixels)


def test_16_bit_sets_have_one_white(tmp_path):
    dark = np.full((4, 5), 200, np.uint16)
    bright = np.full((4, 5), 4000, np.uint16)
    for folder in ("one", "two"):
        save(tmp_path / folder / "dark.png", dark)
    save(tmp_path / "two" / "bright.tif", bright)
    save(tmp_path / "v.npy", [dark, bright])

    def grey(path) -> dict[str, int]:
        """Grey value of the first pixel of each scan."""
        return {scan.name: scan.read()[0, 0] for scan in open_all(path)}

    scaled = round(200 * 255 / 4095)
    assert grey(tmp_path / "one")["dark"] == 200
    assert grey(tmp_path / "two")["dark"] == scaled
    assert grey(tmp_path / "v.npy")["v_bscan000"] == scaled

    # a file that is no image is not what decides
    (tmp_path / "two" / "broken.png").write_bytes(b"no")
    dark_scan = open_all(tmp_path / "two")[-1]
    assert dark_scan.name == "dark"
    assert dark_scan.read()[0, 0] == scaled


def test_mat_volume(tmp_path):
    images = np.stack([picture(seed=i) for i in range(5)], axis=2)
    file = tmp_path / "Subject_03.mat"
    write_subject_mat(file, images, np.full(images.shape, np.nan))
    scans, notes = open_one(file)
    assert positions(scans) == [0, 1, 2, 3, 4]
    assert scans[0].volume == "Subject_03"
    assert scans[0].scale_um is None
    np.testing.assert_array_equal(scans[3].read(), images[:, :, 3])
    assert "scale unknown" in notes[0]


def test_same_names_stay_apart(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / folder / "Eye.png", picture())
        save(tmp_path / folder / "eye.bmp", picture())
        save(tmp_path / folder / "v.npy", [picture()] * 2)
    scans = open_all(tmp_path / "a", tmp_path / "b")
    assert len(scans) == 8
    assert len(set(map(str.lower, names(scans)))) == 8
    assert volumes(scans) == {None, "v", "v_2"}


# ---- other layouts ------------------------------------------------------------------------------
def test_folders_of_patients(tmp_path):
    for patient in ("anna", "bert"):
        for visit in ("v1", "v2"):
            save(tmp_path / patient / visit / "a.png", picture())
            for i in range(2):
                save(tmp_path / patient / visit / "oct" / f"bscan_{i}.png", picture())
    save(tmp_path / "carl" / "images" / "c.png", picture())
    save(tmp_path / "carl" / "fluid" / "c.png", picture())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "measurements.json").write_text("{}")
    save(tmp_path / "results" / "overlays" / "x.png", picture())
    (tmp_path / "empty").mkdir()

    items, faults = list_items([str(tmp_path)])
    assert faults == {}
    in_use: set[str] = set()
    scans = [scan for item in items for scan in item.scans(in_use)]
    assert names(scans) == ["anna_v1_a", "anna_v2_a", "bert_v1_a", "bert_v2_a", "carl_c"]
    notes = " ".join(note for item in items for note in item.notes)
    assert "1 folders without scans left out: empty" in notes
    assert "1 folders beside the files left out: oct" in notes


def test_volumes_of_patients_keep_their_names(tmp_path):
    for patient in ("anna", "bert"):
        for i in range(3):
            save(tmp_path / patient / f"bscan_{i}.png", picture())
        save(tmp_path / patient / "v.npy", [picture()] * 2)
    items, _ = list_items([str(tmp_path)])
    in_use: set[str] = set()
    scans = [scan for item in items for scan in item.scans(in_use)]
    assert volumes(scans) == {"anna", "anna_v", "bert", "bert_v"}
    assert scans[0].name == "anna_bscan000"


@pytest.mark.parametrize("folder", ["imagesTr", "imagesTs", "img_dir/train"])
def test_images_of_other_programs(tmp_path, folder):
    save(tmp_path / folder / "a_0000.png", picture())
    save(tmp_path / "labelsTr" / "a.png", picture())
    save(tmp_path / "ann_dir" / "train" / "a.png", picture())
    scans = open_all(tmp_path)
    assert [scan.source for scan in scans] == [str(tmp_path / folder / "a_0000.png")]


def test_masks_beside_images_are_not_predicted(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[3:9, 5:15] = 255
    save(tmp_path / "s0.png", picture())
    save(tmp_path / "s0_mask.png", mask)
    save(tmp_path / "x.jpg", picture())
    save(tmp_path / "x.png", mask)
    scans, notes = open_one(tmp_path)
    assert names(scans) == ["s0", "x"]
    assert "2 masks beside their images left out: s0_mask.png, x.png" in notes[0]


def test_the_picture_of_the_surface_is_no_bscan(tmp_path):
    for i in range(5):
        save(tmp_path / f"bscan_{i}.png", picture())
    save(tmp_path / "export.png", picture(60, 60))
    scans, notes = open_one(tmp_path)
    assert positions(scans) == [0, 1, 2, 3, 4]
    assert "export.png left out, 60 x 60 px beside the B-scans" in notes[0]


def test_mat_files_of_any_name(tmp_path):
    images = np.stack([picture(seed=i) for i in range(3)], axis=2)
    write_subject_mat(tmp_path / "left eye.mat", images, np.full(images.shape, np.nan))
    scans = open_all(tmp_path / "left eye.mat")
    assert volumes(scans) == {"left eye"}
    np.testing.assert_array_equal(scans[2].read(), images[:, :, 2])


def test_time_stamps_are_no_positions(tmp_path):
    for stamp in (20240115120000, 20230115120000):
        save(tmp_path / f"oct_bscan_{stamp}.png", picture())
    scans, notes = open_one(tmp_path)
    assert positions(scans) == [0, 1]
    assert "20230115120000" in scans[0].source
    assert "B-scans counted in order" in notes[0]


# ---- one folder, read by `finetune` and by `predict` --------------------------------------------
MASK = np.zeros((40, 60), np.uint8)
MASK[10:15, 20:28] = 255


def write_index(folder, *names) -> None:
    """Images as the B-scans 0, 1, ... of subject 1."""
    lines = ["name,subject,bscan,axial_um,lateral_um,spacing_um"]
    for position, name in enumerate(names):
        lines.append(f"{name},1,{position},4,11,120")
    (folder / "index.csv").write_text("\n".join(lines))


def read_alike(folder) -> list[Scan]:
    """The scans that `predict` reads: those of `finetune`, their places, scales and pixels."""
    scans = open_all(folder)
    ours = sorted(scans, key=lambda scan: scan.position or 0)
    others = list(open_source(folder).scans(labelled_only=False))
    for scan, other in zip(ours, others, strict=True):
        assert (scan.position, scan.scale_um) == (other.position, other.scale_um)
        np.testing.assert_array_equal(scan.read(), other.image)
    return scans


def test_an_index_beside_masks_of_the_same_names(tmp_path):
    for i in range(2):
        save(tmp_path / f"scan{i}.jpg", picture(seed=i))
        save(tmp_path / f"scan{i}.png", MASK)
    write_index(tmp_path, "scan0", "scan1.jpg")
    scans = read_alike(tmp_path)
    assert [scan.source for scan in scans] == [str(tmp_path / f"scan{i}.jpg") for i in range(2)]


def test_an_index_that_lists_a_mask(tmp_path):
    for i in range(2):
        save(tmp_path / f"scan{i}.png", picture(seed=i))
        save(tmp_path / f"scan{i}_mask.png", MASK)
    write_index(tmp_path, "scan0", "scan0_mask")
    for opener in (open_source, open_one):
        with pytest.raises(InputError, match="line 3: there is no image scan0_mask"):
            opener(tmp_path)


def test_an_index_cannot_tell_two_images_of_one_name(tmp_path):
    save(tmp_path / "scan0.png", picture())
    save(tmp_path / "scan0.tif", picture(seed=1))
    save(tmp_path / "scan1.png", picture())
    save(tmp_path / "scan1_mask.png", MASK)
    write_index(tmp_path, "scan0", "scan1")
    for opener in (open_source, open_one):
        with pytest.raises(InputError, match="scan0.png and scan0.tif have the same name"):
            opener(tmp_path)


def test_an_index_names_the_scans_of_nnunet_without_channel(tmp_path):
    for i, name in enumerate("ab"):
        save(tmp_path / "imagesTr" / f"{name}_0000.png", picture(seed=i))
        save(tmp_path / "labelsTr" / f"{name}.png", MASK)
    write_index(tmp_path, "a", "b")
    assert read_alike(tmp_path)[1].truth((40, 60)).fluid.any()


def test_images_that_the_index_does_not_list_have_no_say(tmp_path):
    for i, white in enumerate((250, 200, 4000)):
        pixels = np.linspace(0, white, 40 * 60).reshape(40, 60).astype(np.uint16)
        save(tmp_path / "images" / f"{i}.png", pixels)
    write_index(tmp_path, "0", "1")
    assert read_alike(tmp_path)[0].read().max() == 250


def test_an_image_beside_those_of_duke(tmp_path):
    black = np.zeros(DUKE_SHAPE, np.uint8)
    black[200:250] = 90
    for subject, position in DUKE_ANNOTATED:
        save(tmp_path / "images" / f"{subject}_{position}.png", black)
    lines = [f"{subject}_{position},{subject},{position}" for subject, position in DUKE_ANNOTATED]
    (tmp_path / "index.csv").write_text("\n".join(["name,subject,bscan", *lines]))
    save(tmp_path / "images" / "other.png", picture())
    assert scales_um(open_all(tmp_path)) == {DUKE_SCALE_UM}


def test_the_folder_of_images_is_that_of_the_layout(tmp_path):
    save(tmp_path / "images" / "a.png", picture(seed=1))
    save(tmp_path / "imagesTr" / "b_0000.png", picture(seed=2))
    write_index(tmp_path, "b")
    (scan,) = open_all(tmp_path)
    (other,) = open_source(tmp_path).scans(labelled_only=False)
    np.testing.assert_array_equal(scan.read(), other.image)


def test_the_picture_of_the_surface_is_no_scan_without_labels_either(tmp_path):
    for i in range(5):
        save(tmp_path / f"bscan_{i}.png", picture(seed=i))
    save(tmp_path / "export.png", picture(60, 60))
    read_alike(tmp_path)
    assert "taken for en-face pictures, left out: export.png" in open_source(tmp_path).notes


def test_what_only_finetune_reads_is_said(tmp_path):
    for part, name in (("train", "a"), ("val", "b")):
        save(tmp_path / "parts" / "img_dir" / part / f"{name}.png", picture())
    write_index(tmp_path / "parts", "a", "b")
    items, _ = list_items([str(tmp_path / "parts")])
    assert "index.csv: not read, it is for the images of one folder" in items[0].notes[0]

    save(tmp_path / "mat" / "images" / "a.png", picture())
    (tmp_path / "mat" / "Subject_01.mat").write_bytes(b"")
    _, notes = open_one(tmp_path / "mat")
    assert "1 files of scans beside images/ left out: Subject_01.mat" in notes[0]

    save(tmp_path / "array" / "v.npy", [picture()] * 2)
    write_index(tmp_path / "array", "v")
    assert "index.csv: not read, it is for images" in open_one(tmp_path / "array")[1][0]


# ---- what is none -------------------------------------------------------------------------------
def test_inputs_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan.doc").write_text("")
    save(tmp_path / "good.png", picture())
    expected = {
        "empty": "no scans, it holds nothing",
        "nowhere": "no such file or folder",
        "scan.doc": "unknown kind of file",
    }
    inputs = [str(tmp_path / name) for name in (*expected, "good.png")]
    items, faults = list_items(inputs)
    assert len(items) == 1
    assert len(items[0].scans(set())) == 1
    assert list(faults) == inputs[:3]
    for reason, text in zip(faults.values(), expected.values(), strict=True):
        assert text in reason


def test_what_to_do_with_archives_and_pipes(tmp_path):
    np.savez(tmp_path / "z.npz", a=picture())
    os.mkfifo(tmp_path / "pipe.png")
    _, faults = list_items([str(tmp_path / "z.npz"), str(tmp_path / "pipe.png")])
    assert "save the one that holds the scans as .npy" in faults[str(tmp_path / "z.npz")]
    assert "a pipe or a device" in faults[str(tmp_path / "pipe.png")]


# ---- links that lead nowhere --------------------------------------------------------------------
def linked_volume(tmp_path) -> Path:
    """A folder of links to B-scans, of which the second leads nowhere."""
    folder = tmp_path / "linked"
    folder.mkdir()
    for number in (0, 2):
        save(tmp_path / "disk" / f"{number}.png", picture())
        (folder / f"bscan_{number:02d}.png").symlink_to(tmp_path / "disk" / f"{number}.png")
    (folder / "bscan_01.png").symlink_to(tmp_path / "disk" / "1.png")
    return folder


@pytest.mark.parametrize("volume", [False, True])
def test_a_lost_link_keeps_the_place_of_its_bscan(tmp_path, volume):
    scans = open_all(linked_volume(tmp_path), volume=volume)
    assert positions(scans) == [0, 1, 2]
    with pytest.raises(InputError, match="bscan_01.png: link leads nowhere"):
        scans[1].read()
    assert scans[2].read().shape == picture().shape


@pytest.mark.parametrize("name", ["visit2", "volume.npy", "eye.vol", "index.csv", "S_01.mat"])
@pytest.mark.parametrize("inside", ["", "images"])
def test_lost_links_are_items_that_cannot_be_opened(tmp_path, name, inside):
    save(tmp_path / "in" / inside / "a.png", picture())
    (tmp_path / "in" / name).symlink_to(tmp_path / "nowhere")
    items, faults = list_items([str(tmp_path / "in")])
    assert not faults and len(items[0].scans(set())) == 1
    with pytest.raises(InputError, match=f"{name}: link leads nowhere"):
        items[1].scans(set())


def test_a_folder_of_lost_links_alone(tmp_path):
    save(tmp_path / "in" / "anna" / "a.png", picture())
    (tmp_path / "in" / "bert").symlink_to(tmp_path / "nowhere")
    items, _ = list_items([str(tmp_path / "in")])
    assert [Path(item.source).name for item in items] == ["anna", "bert"]
    _, faults = list_items([str(tmp_path / "in" / "bert")])
    assert "link leads nowhere" in faults[str(tmp_path / "in" / "bert")]


# ---- what is given more than once ---------------------------------------------------------------
def test_a_path_that_is_given_again_is_taken_once(tmp_path):
    for number in (25, 26):
        save(tmp_path / "a" / f"bscan_{number}.png", picture())
    first, second = sorted((tmp_path / "a").iterdir())
    (tmp_path / "link.png").symlink_to(first)
    inputs = [first, first, second, tmp_path / "a" / ".." / "a" / "bscan_26.png"]
    items, _ = list_items([*map(str, inputs), str(tmp_path / "link.png")])
    assert positions(items[0].scans(set())) == [25, 26]
    again = [note for note in items[0].notes if "given more than once, taken once" in note]
    assert len(again) == 3 and again[0].startswith(str(first))
    assert len(open_all("phantom", "phantom")) == len(open_all("phantom"))
    assert len(open_all(tmp_path / "a", f"{tmp_path / 'a'}/")) == 2


def test_a_file_of_two_inputs_is_refused(tmp_path):
    save(tmp_path / "in" / "a" / "1.png", picture())
    file = tmp_path / "in" / "a" / "1.png"
    with pytest.raises(InputError, match="in and .*1.png hold the same file, 1.png: give one"):
        list_items([str(tmp_path / "in"), str(file)])
    with pytest.raises(InputError, match="give one of them"):
        list_items([str(tmp_path / "in"), str(tmp_path / "in" / "a")])


# ---- one volume, by `volume` --------------------------------------------------------------------
def test_volume_says_the_order_where_names_have_other_numbers(tmp_path):
    for number in (26, 25, 125):
        save(tmp_path / "a" / f"bscan_{number}.png", picture())
    (item,), _ = list_items([str(tmp_path / "a")], volume=True)
    assert positions(item.scans(set())) == [0, 1, 2]
    expected = "a: by --volume B-scans lie in order of names: bscan_25 is B-scan 0, bscan_125 B-sc"
    assert any(note.startswith(expected) for note in item.notes)
    for number in range(3):
        save(tmp_path / "b" / f"bscan_{number}.png", picture())
    (item,), _ = list_items([str(tmp_path / "b")], volume=True)
    item.scans(set())
    assert not item.notes


def test_volume_is_refused_for_what_lies_beside_an_index_in_folders_too(tmp_path):
    save(tmp_path / "in" / "anna" / "a.png", picture())
    save(tmp_path / "in" / "bert" / "a.png", picture())
    write_index(tmp_path / "in" / "bert", "a")
    (tmp_path / "in" / "empty").mkdir()
    assert len(open_all(tmp_path / "in")) == 2
    items, faults = list_items([str(tmp_path / "in")], volume=True)
    assert not items  # nor is one of them left out
    (reason,) = faults.values()
    assert "bert: `volume` is for a folder of nothing but images, found index.csv" in reason


def test_where_volume_has_no_effect_it_is_said(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / folder / "bscan_25.png", picture())
    save(tmp_path / "scan.npy", picture())
    inputs = [tmp_path / "a" / "bscan_25.png", tmp_path / "b" / "bscan_25.png"]
    items, _ = list_items([*map(str, inputs), str(tmp_path / "scan.npy"), "phantom"], volume=True)
    for item in items[:2]:
        assert volumes(item.scans(set())) == {None}
        assert "one image is no volume, and images of several folders" in item.notes[0]
        assert "--volume has no effect" in item.notes[0]
    for item in items[2:]:
        assert item.notes == [f"{item.source}: no images, --volume has no effect"]


def test_an_archive_is_no_array(tmp_path):
    np.savez(tmp_path / "z.npz", a=picture())
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(InputError, match="an archive of arrays, expected numbers"):
        open_all(tmp_path / "z.npy")


def test_an_export_in_a_folder_is_one_volume_and_takes_its_pictures(tmp_path):
    path = write_xml(tmp_path / "visit", raster(bscans=4))
    (path.parent / "B2.tif").unlink()
    save(path.parent / "mine.png", picture())
    (item,), faults = list_items([str(path.parent)])
    assert not faults
    scans = item.scans(set())
    assert [scan.name for scan in scans] == [f"export_bscan{index:03d}" for index in (0, 2, 3)]
    assert all(scan.eye == "OD" and len(scan.scale_um) == 3 for scan in scans)
    assert any("1 of its 4 B-scans have no picture" in note for note in item.notes)
    assert any("mine.png" in note for note in item.notes)


def test_xml_that_is_no_export_leaves_a_folder_as_it_is(tmp_path):
    save(tmp_path / "a.png", picture())
    (tmp_path / "a.xml").write_text("<annotation/>")
    (item,), faults = list_items([str(tmp_path)])
    assert not faults and [scan.name for scan in item.scans(set())] == ["a"]
    assert any("a.xml" in note for note in item.notes)


def test_bscans_from_superior_are_counted_from_the_last(tmp_path):
    export = raster(bscans=3, spacing_mm=-0.12)
    (item,), _ = list_items([str(write_vol(tmp_path / "a.vol", export))])
    scans = item.scans(set())
    assert [scan.position for scan in scans] == [2, 1, 0]
    assert [int(scan.read().mean()) for scan in scans] == sorted(
        int(scan.read().mean()) for scan in scans
    )
    assert any("superior one" in note for note in item.notes)
