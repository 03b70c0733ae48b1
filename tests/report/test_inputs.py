"""Inputs: which scans, names, volumes and scales come from files, folders, arrays and volumes."""

import numpy as np
import pytest
from helpers.matfiles import write_subject_mat
from helpers.scan_files import picture, save

from dme.common.errors import InputError
from dme.report.inputs import list_items


def opened(*inputs, volume=False):
    items, faults = list_items([str(i) for i in inputs], volume)
    taken: set[str] = set()
    return [scan for item in items for scan in item.scans(taken)], faults


def places(scans):
    return [(scan.name, scan.volume, scan.position) for scan in scans]


def test_a_folder_is_a_list_of_scans_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "x.bmp", ".hidden.png"):
        save(tmp_path / name, picture())
    save(tmp_path / "fluid" / "2.png", picture())
    (tmp_path / "notes.txt").write_text("")
    items, _ = list_items([str(tmp_path)])
    assert places(items[0].scans(set())) == [
        ("2", None, None),
        ("10", None, None),
        ("x", None, None),
    ]
    assert "1 files of other kinds left out: notes.txt" in items[0].notes[0]
    scans, _ = opened(tmp_path, volume=True)
    label = tmp_path.name
    assert places(scans) == [(f"{label}_bscan{i:03d}", label, i) for i in range(3)]


def test_names_that_tell_volumes(tmp_path):
    for i in (0, 1, 12):
        save(tmp_path / "eye" / f"bscan_{i:02d}.png", picture())
    assert [scan.position for scan in opened(tmp_path / "eye")[0]] == [0, 1, 12]
    assert {scan.volume for scan in opened(tmp_path / "eye")[0]} == {"eye"}
    assert (
        opened(*sorted((tmp_path / "eye").iterdir()))[0][2].volume == "eye"
    )  # a shell's eye/*.png
    for subject in (1, 2):
        for i in (3, 4):
            save(tmp_path / "set" / "images" / f"subject{subject}_{i}.png", picture())
    expected = [("set_subject1", 3), ("set_subject1", 4), ("set_subject2", 3), ("set_subject2", 4)]
    assert [(s.volume, s.position) for s in opened(tmp_path / "set")[0]] == expected
    save(tmp_path / "eye" / "bscan_1.png", picture())
    with pytest.raises(InputError, match="bscan_01.png.* are both B-scan 1 of volume eye"):
        opened(tmp_path / "eye")


def test_index_gives_volumes_and_scale(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", picture())
    lines = [
        "name,subject,bscan,axial_um,lateral_um,spacing_um",
        "b.png,4,7,3.9,11,120",
        "a,4,8,3.9,11,120",
    ]
    (tmp_path / "index.csv").write_text("\n".join(lines))
    items, _ = list_items([str(tmp_path)])
    scans = items[0].scans(set())
    volume = f"{tmp_path.name}_subject04"
    assert places(scans) == [(f"{volume}_bscan008", volume, 8), (f"{volume}_bscan007", volume, 7)]
    assert {scan.scale_um for scan in scans} == {(3.9, 11.0, 120.0)}
    assert "1 images without a line" in items[0].notes[0]


def test_arrays(tmp_path):
    stack = np.stack([picture(seed=i) for i in range(3)])
    grey, colour = picture(seed=5), np.repeat(picture(seed=6)[..., None], 3, 2)
    arrays = {"v": stack, "g": grey, "c": colour, "one": grey[..., None]}
    files = [save(tmp_path / f"{name}.npy", array) for name, array in arrays.items()]
    scans, _ = opened(*files)
    assert places(scans) == [
        ("v_bscan000", "v", 0),
        ("v_bscan001", "v", 1),
        ("v_bscan002", "v", 2),
    ] + [
        ("g", None, None),
        ("c", None, None),
        ("one", None, None),
    ]
    for scan, pixels in zip(scans, [*stack, grey, colour[..., 0], grey], strict=True):
        np.testing.assert_array_equal(scan.read(), pixels)


def test_16_bit_sets_have_one_white(tmp_path):
    dark, bright = np.full((4, 5), 200, np.uint16), np.full((4, 5), 4000, np.uint16)
    for folder in ("one", "two"):
        save(tmp_path / folder / "dark.png", dark)
    save(tmp_path / "two" / "bright.tif", bright)
    save(tmp_path / "v.npy", np.stack([dark, bright]))
    assert opened(tmp_path / "one")[0][0].read()[0, 0] == 200
    scaled = round(200 * 255 / 4095)
    assert {s.name: s.read()[0, 0] for s in opened(tmp_path / "two")[0]}["dark"] == scaled
    assert opened(tmp_path / "v.npy")[0][0].read()[0, 0] == scaled
    # a file that is no image is not what decides
    (tmp_path / "two" / "broken.png").write_bytes(b"no")
    assert {s.name: s for s in opened(tmp_path / "two")[0]}["dark"].read()[0, 0] == scaled


def test_mat_volume(tmp_path):
    images = np.stack([picture(seed=i) for i in range(5)], axis=2)
    write_subject_mat(tmp_path / "Subject_03.mat", images, np.full(images.shape, np.nan))
    items, _ = list_items([str(tmp_path / "Subject_03.mat")])
    scans = items[0].scans(set())
    assert [scan.position for scan in scans] == [0, 1, 2, 3, 4] and scans[0].volume == "Subject_03"
    np.testing.assert_array_equal(scans[3].read(), images[:, :, 3])
    assert scans[0].scale_um is None and "scale unknown" in items[0].notes[0]


def test_same_names_stay_apart(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / folder / "Eye.png", picture())
        save(tmp_path / folder / "eye.bmp", picture())
        save(tmp_path / folder / "v.npy", np.stack([picture()] * 2))
    scans, _ = opened(tmp_path / "a", tmp_path / "b")
    names = [scan.name.lower() for scan in scans]
    assert len(set(names)) == len(names) == 8
    assert {scan.volume for scan in scans} == {None, "v", "v_2"}


def test_inputs_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan.dcm").write_text("")
    np.savez(tmp_path / "z.npz", a=picture())
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    save(tmp_path / "good.png", picture())
    inputs = [tmp_path / name for name in ("empty", "nowhere", "scan.dcm", "good.png")]
    scans, faults = opened(*inputs)
    assert len(scans) == 1
    reasons = ["no scans, it holds nothing", "no such file or folder", "unknown kind of file"]
    for (path, text), expected, reason in zip(faults.items(), inputs, reasons, strict=False):
        assert path == str(expected) and reason in text
    with pytest.raises(InputError, match="an archive of arrays, expected numbers"):
        opened(tmp_path / "z.npy")


def test_the_duke_set_brings_its_scale(real_data):
    items, _ = list_items([str(real_data / "chiu2015")])
    scans = items[0].scans(set())
    assert len(scans) == 110 and len({scan.volume for scan in scans}) == 10
    assert {scan.scale_um for scan in scans} == {(3.87, 11.33, 123.0)}
    assert any("3.87/11.33/123" in note for note in items[0].notes)
