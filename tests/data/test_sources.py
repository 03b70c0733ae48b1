"""Sources: what is read, what is refused and with which words."""

import csv
import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from helpers.matfiles import duke_volume, write_subject_mat
from PIL import Image

from dme.common.errors import InputError
from dme.data import phantom
from dme.data.duke import DUKE_ANNOTATED, DUKE_SCALE_UM
from dme.data.images import read_grey, to_grey_uint8
from dme.data.masks import mask_lookup
from dme.data.opening import open_source
from dme.retina.rows import repair_boundaries
from dme.retina.wedge import saturated_wedge, without_wedge

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 6), dtype=np.uint8)  # 4 rows, 6 columns


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def make_folder(
    root: Path, masks: dict[str, np.ndarray] | None = None, index: str | None = None
) -> Path:
    """A folder of images named as the masks, and their masks in fluid/."""
    masks = (
        {"a": np.zeros((4, 6), np.uint8), "b": np.ones((4, 6), np.uint8)}
        if masks is None
        else masks
    )
    for name, mask in masks.items():
        save(root / "images" / f"{name}.png", GREY)
        save(root / "fluid" / f"{name}.png", mask)
    if index is not None:
        (root / "index.csv").write_text(index)
    return root


def small_volume(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """images (4, 6, count) and fluid ids annotated in B-scans 1 (empty) and 3 (ids 2 and 7, two NaN)."""
    images = np.random.default_rng(1).integers(0, 256, (4, 6, count), dtype=np.uint8)
    fluid = np.full((4, 6, count), np.nan)
    fluid[:, :, 1] = 0
    fluid[:, :, 3] = [[0, 2, 2, 0, 0, np.nan], [0, 0, 7, 0, 0, np.nan]] + [[0] * 6] * 2
    return images, fluid


def refused(path, *words: str, grader: int = 1) -> None:
    """Opening or reading `path` raises one InputError line that holds all the words."""
    with pytest.raises(InputError) as caught:
        list(open_source(path, grader).scans())
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# ---- what there is to open ------------------------------------------------------------------------------


def test_without_data_the_phantom_says_so(monkeypatch):
    monkeypatch.setattr(phantom, "phantom_set", lambda: iter(["scan"]), raising=False)
    source = open_source()
    assert (source.kind, source.path) == ("phantom", "")
    assert "SYNTHETIC" in source.description and "nothing about real scans" in source.description
    assert list(source.scans()) == ["scan"]


def test_phantom_is_a_word(monkeypatch, tmp_path):
    monkeypatch.setattr(phantom, "phantom_set", lambda: iter(["scan"]), raising=False)
    monkeypatch.setenv("DME_DATA", str(make_folder(tmp_path)))
    source = open_source("phantom")
    assert (source.kind, source.path, list(source.scans())) == ("phantom", "", ["scan"])
    assert "SYNTHETIC" in source.description and "no DME_DATA" not in source.description
    monkeypatch.setenv("DME_DATA", "phantom")
    assert open_source().description == source.description
    monkeypatch.delenv("DME_DATA")
    assert open_source().sha256 == source.sha256  # the same scans, the same cache


def test_a_changed_phantom_is_a_changed_source(monkeypatch):
    before = open_source().sha256
    monkeypatch.setattr(phantom, "VERSION", phantom.VERSION + 1)
    assert open_source().sha256 != before


def test_dme_data_is_read_and_an_argument_wins(monkeypatch, tmp_path):
    from_variable, from_argument = make_folder(tmp_path / "x"), make_folder(tmp_path / "y")
    monkeypatch.setenv("DME_DATA", str(from_variable))
    assert open_source().path == str(from_variable)
    assert open_source(from_argument).path == str(from_argument)


def test_wrong_paths(tmp_path):
    refused(tmp_path / "nowhere", "no such file or folder", "nowhere", "DME_DATA")
    (tmp_path / "2015_BOE_Chiu.zip").write_bytes(b"PK")
    refused(tmp_path / "2015_BOE_Chiu.zip", "neither a .mat file nor a folder", "unpack")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images", "holds nothing")
    refused(tmp_path, "no images", "2015_BOE_Chiu.zip")


def test_grader_is_1_or_2_and_only_mat_files_have_2(tmp_path):
    refused(make_folder(tmp_path), "grader 3", "expected 1 or 2", grader=3)
    refused(tmp_path, "no grader 2", ".mat", grader=2)


# ---- MATLAB files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_mat_finds_the_annotated_scans(tmp_path, dtype):
    images, fluid = small_volume()
    layers = np.full((8, 6, 5), np.nan)
    layers[:, 2:4, 3] = np.arange(8)[:, None] / 2
    write_subject_mat(tmp_path / "Subject_07.mat", images, fluid, layers, dtype)
    source = open_source(tmp_path)
    empty, wet = source.scans()
    assert (
        source.kind == "mat"
        and "1 subject from" in source.description
        and "grader 1" in source.description
    )
    assert [(s.subject, s.position, s.name) for s in (empty, wet)] == [
        (7, 1, "subject07_bscan01"),
        (7, 3, "subject07_bscan03"),
    ]
    for scan in (empty, wet):
        assert scan.image.dtype == scan.fluid.dtype == np.uint8 and scan.image.flags.c_contiguous
        np.testing.assert_array_equal(scan.image, images[:, :, scan.position])
        assert scan.scale_um is None  # not the Duke volume
    assert not empty.fluid.any() and np.isnan(empty.layers).all()
    expected = np.zeros((4, 6))
    expected[0, 1:3] = expected[1, 2] = 1  # NaN is not fluid
    np.testing.assert_array_equal(wet.fluid, expected)
    assert wet.layers.dtype == empty.layers.dtype == np.float32 and empty.layers.shape == (8, 6)
    np.testing.assert_array_equal(wet.layers, layers[:, :, 3])
    assert any("2 of 5 B-scans annotated, positions 1, 3" in note for note in source.notes)
    assert any("2 px are NaN" in note for note in source.notes)
    notes = list(source.notes)
    list(source.scans())
    assert source.notes == notes  # reading twice does not repeat them


def test_mat_whole_volume(tmp_path):
    images, fluid = small_volume()
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid)
    scans = list(open_source(tmp_path).scans(labelled_only=False))
    assert [s.position for s in scans] == [0, 1, 2, 3, 4]
    assert [s.fluid is None for s in scans] == [True, False, True, False, True]
    np.testing.assert_array_equal(np.stack([s.image for s in scans], axis=2), images)


def test_mat_graders_differ(tmp_path):
    images, fluid = small_volume()
    second = np.where(np.arange(5) == 2, 4.0, np.full((4, 6, 5), np.nan))
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid, fluid2=second)
    (scan,) = open_source(tmp_path / "Subject_01.mat", grader=2).scans()
    assert scan.position == 2 and scan.fluid.all()
    assert open_source(tmp_path, 1).sha256 != open_source(tmp_path, 2).sha256


def test_mat_files_come_in_order_of_subjects(tmp_path):
    images, fluid = small_volume()
    for name in ("Subject_10", "Subject_9", "subject02"):
        write_subject_mat(tmp_path / f"{name}.mat", images, fluid)
    assert [s.subject for s in open_source(tmp_path).scans()] == [2, 2, 9, 9, 10, 10]
    write_subject_mat(tmp_path / "Subject_2.mat", images, fluid)
    refused(tmp_path, "Subject_2.mat", "subject02.mat", "same subject")


def test_mat_v73_has_reversed_axes(tmp_path):
    images, fluid = small_volume()
    with h5py.File(tmp_path / "Subject_03.mat", "w") as f:
        f["images"], f["manualFluid1"] = images.T, fluid.T
    write_subject_mat(tmp_path / "Subject_04.mat", images, fluid)
    new, old = (list(open_source(tmp_path / f"Subject_0{n}.mat").scans()) for n in (3, 4))
    assert [s.position for s in new] == [s.position for s in old] == [1, 3]
    for a, b in zip(new, old, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.fluid, b.fluid)


def test_mat_boundaries_never_cost_the_fluid(tmp_path):
    images, fluid = (np.repeat(part, 25, axis=0) for part in small_volume())  # 100 px high
    layers = np.full((8, 6, 5), np.nan)
    layers[:, :, 1] = 20 + np.arange(8)[:, None] * 10
    layers[4, 0, 1] = 48  # 2 px above boundary 3 at 50
    layers[4, 5, 1] = 40  # 10 px above it
    layers[7, 4, 1], layers[0, 3, 1], layers[7, 2, 1] = 101, -0.5, np.inf  # outside the image
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid, layers)
    source = open_source(tmp_path)
    scan = list(source.scans())[0]
    np.testing.assert_array_equal(scan.layers[:, 0], [20, 30, 40, 49, 49, 70, 80, 90])
    assert np.isnan(scan.layers[:, 2:]).all()
    np.testing.assert_array_equal(scan.layers[:, 1], layers[:, 1, 1])
    told = "1 boundary crossings up to 3 px repaired, 4 columns with larger ones or rows outside the image"
    assert any(told in note for note in source.notes)


def test_mat_refusals(tmp_path):
    images, fluid = small_volume()
    path = tmp_path / "Subject_01.mat"

    path.write_text("not a matrix\n" * 30)
    refused(path, "Subject_01.mat", "not a readable MATLAB file")
    path.write_bytes(b"")
    refused(path, "not a readable MATLAB file")

    write_subject_mat(path, images, fluid)
    path.write_bytes(path.read_bytes()[:300])
    refused(path, "Subject_01.mat", "not a readable MATLAB file")

    scipy.io.savemat(path, {"images": images})
    refused(path, "no variable manualFluid1")
    scipy.io.savemat(path, {"volume": images})
    refused(path, "no variable images")
    write_subject_mat(path, images, fluid)
    refused(path, "no variable manualFluid2", grader=2)

    write_subject_mat(path, images[:, :, 0], fluid)
    refused(path, "images is uint8 (4, 6)", "(height, width, B-scans)")
    write_subject_mat(path, images, fluid[:, :5])
    refused(path, "manualFluid1 is float64 (4, 5, 5)", "expected numbers (4, 6, 5)")
    write_subject_mat(path, images, fluid, np.zeros((7, 6, 5)))
    refused(path, "manualLayers1 is float64 (7, 6, 5)", "expected numbers (8, 6, 5)")
    scipy.io.savemat(path, {"images": "text", "manualFluid1": fluid})
    refused(path, "images is <U4")

    write_subject_mat(path, images, np.full(fluid.shape, np.nan))
    refused(path, "no B-scan is annotated", "manualFluid1 is all NaN")
    write_subject_mat(path, images, np.where(fluid == 7, -1, fluid))
    refused(path, "manualFluid1 of B-scan 3", "other than ids")
    write_subject_mat(path, images, np.where(fluid == 7, 0.5, fluid))
    refused(path, "manualFluid1 of B-scan 3", "other than ids")

    write_subject_mat(path, images / 255, fluid, dtype=np.float64)
    refused(path, "within 0..1", "multiply them by 255")
    write_subject_mat(path, images * 257.0, fluid, dtype=np.float64)
    refused(path, "images of B-scan 1 leave 0..255")
    broken = images.astype(float)
    broken[0, 0, 3] = np.nan
    write_subject_mat(path, broken, fluid, dtype=np.float64)
    refused(path, "images of B-scan 3", "NaN")

    path.rename(tmp_path / "volume.mat")
    refused(tmp_path, "volume.mat", "subject number", "Subject_NN.mat")


def test_fingerprint_sees_bytes_and_names(tmp_path):
    images, fluid = small_volume()
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid)
    first = open_source(tmp_path).sha256
    assert first == open_source(tmp_path / "Subject_01.mat").sha256 == open_source(tmp_path).sha256
    shutil.copy(tmp_path / "Subject_01.mat", tmp_path / "kept")
    (tmp_path / "Subject_01.mat").rename(tmp_path / "Subject_02.mat")
    assert open_source(tmp_path).sha256 != first

    folder = make_folder(tmp_path / "folder")
    first = open_source(folder).sha256
    (folder / "readme.txt").write_text("not read, so no part of the data")
    assert open_source(folder).sha256 == first
    save(folder / "fluid" / "a.png", np.ones((4, 6), np.uint8))
    changed = open_source(folder).sha256
    (folder / "index.csv").write_text("name,subject,bscan\na,1,0\nb,1,1\n")
    assert len({first, changed, open_source(folder).sha256}) == 3
    assert len(first) == len(hashlib.sha256().hexdigest())


# ---- folders --------------------------------------------------------------------------------------------


def test_folder_without_index(tmp_path):
    empty = np.zeros((4, 6), np.uint8)
    source = open_source(
        make_folder(tmp_path, {"scan10": empty, "scan9": empty + 1, "Scan1": empty})
    )
    scans = list(source.scans())
    assert [s.name for s in scans] == ["Scan1", "scan9", "scan10"]
    assert [(s.subject, s.position) for s in scans] == [(1, 0), (1, 1), (1, 2)]
    np.testing.assert_array_equal(scans[1].fluid, np.ones((4, 6)))
    np.testing.assert_array_equal(scans[0].image, GREY)
    assert source.kind == "folder" and "3 B-scans" in source.description
    assert any(
        "subjects unknown" in note and "no split by subject" in note for note in source.notes
    )
    assert "masks: binary 0/1, 1 is fluid" in source.notes


def test_folder_names_can_carry_the_subject(tmp_path):
    empty = np.zeros((4, 6), np.uint8)
    source = open_source(
        make_folder(tmp_path, {"subject2_10": empty, "subject2_9": empty, "Subject_1_3": empty})
    )
    assert [(s.subject, s.position) for s in source.scans()] == [(1, 3), (2, 9), (2, 10)]
    assert any("from the file names" in note for note in source.notes)


def test_folder_with_index(tmp_path):
    header = "\ufeffname,subject,bscan,paper_split,axial_um,lateral_um,spacing_um\n"
    source = open_source(
        make_folder(tmp_path, index=header + "a.png,10,3,train,,,\nb,2,7,val,3.5,11,120\n")
    )
    b, a = source.scans()
    assert (b.name, b.subject, b.position, b.scale_um) == ("b", 2, 7, (3.5, 11.0, 120.0))
    assert (a.name, a.subject, a.position, a.scale_um) == ("a", 10, 3, None)
    assert b.fluid.all() and not a.fluid.any()


@pytest.mark.parametrize(
    "index, words",
    [
        ("name,subject\na,1\n", ["no column bscan", "found name, subject"]),
        ("", ["no column name, subject, bscan"]),
        ("name,subject,bscan\n", ["no rows"]),
        ("name,subject,bscan\na,1,0\nc,1,1\n", ["line 3", "no image c"]),
        ("name,subject,bscan\na,1,0\nb,1,0\n", ["a and b are both subject 1, B-scan 0"]),
        ("name,subject,bscan\na,1,x\n", ["line 2", "bscan >= 0"]),
        ("name,subject,bscan\na,0,1\n", ["line 2", "subject >= 1"]),
        ("name,subject,bscan\na\n", ["line 2", "subject >= 1"]),
        (
            "name,subject,bscan,axial_um\na,1,1,3.9\n",
            ["line 2", "axial_um, lateral_um, spacing_um"],
        ),
        (
            "name,subject,bscan,axial_um,lateral_um,spacing_um\na,1,1,0,1,1\n",
            ["line 2", "axial_um"],
        ),
        (
            "name,subject,bscan,axial_um,lateral_um,spacing_um\na,1,1,nan,1,1\n",
            ["line 2", "axial_um"],
        ),
        (
            "name,subject,bscan,axial_um,lateral_um,spacing_um\na,1,1,1,inf,1\n",
            ["line 2", "axial_um"],
        ),
        ("name,subject,bscan\na,1,0\na.png,2,0\n", ["line 3", "a is listed twice"]),
    ],
)
def test_index_refusals(tmp_path, index, words):
    refused(
        make_folder(tmp_path, index=index), "index.csv" if "both" not in words[0] else "", *words
    )


def test_index_may_choose_images_and_says_so(tmp_path):
    source = open_source(make_folder(tmp_path, index="name,subject,bscan\nb,1,0\n"))
    assert [s.name for s in source.scans()] == ["b"]
    assert "images not in index.csv without use, left out: a" in source.notes


def test_images_directly_in_the_folder_are_unlabelled(tmp_path):
    save(tmp_path / "x.png", GREY)
    save(tmp_path / "._x.png", GREY)  # macOS leaves such files, and they are no images
    source = open_source(tmp_path)
    (scan,) = source.scans()
    assert scan.fluid is None and scan.layers is None and scan.scale_um is None
    assert "no fluid labels" in source.description and any(
        "without fluid labels" in n for n in source.notes
    )


def test_mask_folder_refusals(tmp_path):
    root = make_folder(tmp_path / "size")
    save(root / "fluid" / "b.png", np.zeros((4, 7), np.uint8))
    refused(root, "b.png", "mask is (4, 7)", "image is (4, 6)")
    (root / "fluid" / "b.png").unlink()
    refused(root, "no mask for b")
    save(root / "fluid" / "b.jpg", np.zeros((4, 6), np.uint8))
    refused(root, "b.jpg", "JPEG", "PNG")
    save(root / "fluid" / "b.bmp", np.zeros((4, 6), np.uint8))
    refused(root, "b.jpg", "b.bmp", "same name")
    (root / "masks").mkdir()
    refused(root, "both fluid/ and masks/")

    deep = np.zeros((4, 6), np.uint16)
    deep[0, 0] = 300
    refused(make_folder(tmp_path / "deep", {"a": deep}), "a.png", "mask values 0..300", "0..255")
    colour = np.zeros((4, 6, 3), np.uint8)
    colour[0, 0, 1] = 255
    refused(make_folder(tmp_path / "colour", {"a": colour}), "a.png", "coloured mask")
    soft = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save(tmp_path / "soft" / "images" / "a.png", soft)
    save(tmp_path / "soft" / "masks" / "a.png", soft)
    refused(tmp_path / "soft", "254 values between 0 and 255", "nearest")


def test_masks_without_an_image_are_left_out_and_named(tmp_path):
    root = make_folder(tmp_path)
    (root / "images" / "b.png").unlink()
    source = open_source(root)
    assert len(list(source.scans())) == 1
    assert "masks without use, left out: b" in source.notes


# value sets of the masks of a whole set -> what value 0, 1, 3 and 255 of a mask become
MASK_TABLE = [
    ({0}, {0: 0}, "all empty"),
    ({0, 1}, {0: 0, 1: 1}, "binary 0/1"),
    ({1}, {1: 1}, "binary 0/1"),
    ({0, 255}, {0: 0, 255: 1}, "binary 0/255"),
    ({0, 1, 255}, {0: 0, 1: 1, 255: 255}, "255 is ignore"),
    ({0, 1, 3, 15}, {0: 0, 1: 1, 3: 1, 15: 1}, "instance ids 1..15, fluid is id > 0"),
    ({0, 3, 255}, {0: 0, 3: 1, 255: 255}, "instance ids 3..3, fluid is id > 0, 255 is ignore"),
]


@pytest.mark.parametrize("values, expected, text", MASK_TABLE)
def test_mask_lookup(values, expected, text):
    lookup, meaning = mask_lookup(values)
    assert {value: int(lookup[value]) for value in values} == expected
    assert text in meaning and ("ignore" in meaning) == (255 in expected.values())


def test_mask_meaning_is_that_of_the_whole_set(tmp_path):
    """A mask of 0 and 255 is fluid in a binary set, but ignore in a set that has ids."""
    white = np.where(np.arange(6) < 2, 255, 0).astype(np.uint8) * np.ones((4, 1), np.uint8)
    (scan,) = open_source(make_folder(tmp_path / "binary", {"a": white})).scans()
    np.testing.assert_array_equal(scan.fluid, white // 255)
    source = open_source(
        make_folder(tmp_path / "ids", {"a": white, "b": np.full((4, 6), 2, np.uint8)})
    )
    a, b = source.scans()
    np.testing.assert_array_equal(a.fluid, white)
    assert b.fluid.all() and b.fluid.max() == 1
    assert "masks: instance ids 2..2, fluid is id > 0, 255 is ignore" in source.notes


def test_mask_files_of_all_kinds(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    palette = Image.fromarray(mask).convert("P")
    palette.putpalette(
        [200, 200, 200, 0, 0, 0]
    )  # 1 is the darker colour: colours would turn the mask around
    reverse = Image.fromarray(1 - mask).convert("P")
    reverse.putpalette([255, 255, 255, 0, 0, 0])  # white comes first, as Pillow's quantize has it
    files = {
        "reverse": reverse,
        "bit": Image.fromarray(mask.astype(bool)),
        "grey": Image.fromarray(mask),
        "palette": palette,
        "rgb": Image.fromarray(np.repeat(mask[..., None], 3, axis=2)),
        "rgba": Image.fromarray(np.dstack([mask] * 3 + [np.full_like(mask, 255)])),
        "deep": Image.fromarray(mask.astype(np.uint16)),
    }
    for name, image in files.items():
        make_folder(tmp_path / name, {"a": mask})
        image.save(tmp_path / name / "fluid" / "a.png")
        assert Image.open(tmp_path / name / "fluid" / "a.png").mode == image.mode
        (scan,) = open_source(tmp_path / name).scans()
        np.testing.assert_array_equal(scan.fluid, mask, err_msg=name)


# ---- grey values ----------------------------------------------------------------------------------------


def test_grey_images_are_unchanged():
    grey, how = to_grey_uint8(GREY)
    np.testing.assert_array_equal(grey, GREY)
    assert how == ""


def test_colour_becomes_luma():
    rgb = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    grey, how = to_grey_uint8(rgb)
    assert np.abs(grey - rgb @ [0.299, 0.587, 0.114]).max() <= 0.51
    assert "luma" in how and "alpha" not in how
    same, how = to_grey_uint8(np.dstack([GREY, GREY, GREY, np.zeros_like(GREY)]))
    np.testing.assert_array_equal(same, GREY)
    assert "luma" in how and "alpha dropped" in how
    same, how = to_grey_uint8(np.dstack([GREY, np.zeros_like(GREY)]))
    np.testing.assert_array_equal(same, GREY)
    assert how == "alpha dropped"


@pytest.mark.parametrize(
    "values, peak, expected, white",
    [
        ([0, 257, 32896, 65535], None, [0, 1, 128, 255], 65535),  # full range: divided by 257
        ([0, 16, 2048, 4095], None, [0, 1, 128, 255], 4095),  # 12 bits
        ([0, 16, 2048, 3000], None, [0, 1, 128, 187], 4095),
        ([0, 16, 2048, 3000], 60000, [0, 0, 8, 12], 65535),  # a dark image of a full-range set
        ([0, 1, 7, 200], None, [0, 1, 7, 200], 255),  # 8-bit values in a 16-bit file
    ],
)
def test_16_bit_scaling(values, peak, expected, white):
    grey, how = to_grey_uint8(np.array([values], np.uint16), peak)
    assert grey.tolist() == [expected] and grey.dtype == np.uint8
    assert how == f"16-bit values scaled by 255/{white}"


def test_16_bit_white_is_that_of_the_set(tmp_path):
    dark = np.full((4, 6), 1000, np.uint16)
    bright = np.full((4, 6), 65535, np.uint16)
    save(tmp_path / "dark.png", dark)
    save(tmp_path / "light.tif", bright)
    save(tmp_path / "grey.png", GREY)
    source = open_source(tmp_path)
    scans = {s.name: s.image for s in source.scans()}
    assert scans["dark"].max() == round(1000 / 257) and scans["light"].min() == 255
    np.testing.assert_array_equal(scans["grey"], GREY)
    assert "2 of 3 images: 16-bit values scaled by 255/65535" in source.notes


def test_image_files_of_all_kinds(tmp_path):
    flat = np.full((8, 8), 90, np.uint8)
    for suffix in ("png", "tif", "tiff", "jpg", "jpeg", "bmp", "PNG"):
        save(tmp_path / suffix / f"a.{suffix}", flat)
        (scan,) = open_source(tmp_path / suffix).scans()
        np.testing.assert_array_equal(scan.image, flat)
    one_bit = np.eye(6, dtype=bool)
    np.testing.assert_array_equal(read_grey(save(tmp_path / "bit.png", one_bit))[0], one_bit * 255)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 10, 10, 200, 200, 200])
    palette.save(tmp_path / "palette.png")
    assert read_grey(tmp_path / "palette.png")[0].tolist() == [[10, 200]]


def test_image_refusals(tmp_path):
    save(tmp_path / "a.png", RNG.integers(0, 256, (64, 64), dtype=np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, "a.png", "not a readable image")
    (tmp_path / "a.png").write_text("nothing")
    refused(tmp_path, "a.png", "not a readable image")
    (tmp_path / "a.png").write_bytes(b"")
    refused(tmp_path, "a.png", "not a readable image")
    (tmp_path / "a.png").unlink()

    page = Image.fromarray(GREY)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    refused(tmp_path, "stack.tif", "3 pages", "one B-scan per file")
    (tmp_path / "stack.tif").unlink()
    for value in (np.nan, 0.5):
        save(tmp_path / "float.tif", np.full((4, 6), value, np.float32))
        refused(tmp_path, "float.tif", "float32", "expected 8- or 16-bit")
    save(tmp_path / "float.tif", np.full((4, 6), 70000, np.int32))
    refused(tmp_path, "float.tif", "int32", "expected 8- or 16-bit")
    save(tmp_path / "float.png", GREY)
    refused(tmp_path, "float.tif", "float.png", "same name")


# ---- boundaries and the wedge ---------------------------------------------------------------------------


def test_repair_boundaries_moves_only_what_crosses():
    rows = np.array([[1.0, 1, 5, 1], [2, 4, 3, np.nan], [3, 3, 4, 0.5]])
    repaired, crossing = repair_boundaries(rows)
    np.testing.assert_array_equal(crossing, [[0, 0, 0, 0], [0, 0, 2, 0], [0, 1, 1, 0.5]])
    np.testing.assert_array_equal(
        repaired, [[1, 1, 4, 0.75], [2, 3.5, 4, np.nan], [3, 3.5, 4.5, 0.75]]
    )
    assert repaired.dtype == np.float32


def test_folder_boundaries(tmp_path):
    rows = np.linspace(0, 3, 8)[:, None] * np.ones(6)
    rows[:, 5] = np.nan
    make_folder(tmp_path)
    (tmp_path / "boundaries").mkdir()
    path = tmp_path / "boundaries" / "a.npy"

    np.save(path, rows)
    source = open_source(tmp_path)
    a, b = source.scans()
    assert b.layers is None and a.layers.dtype == np.float32
    np.testing.assert_array_equal(a.layers, rows.astype(np.float32))
    assert not any("crossings" in note for note in source.notes)

    crossed = rows.copy()
    crossed[3, 1], crossed[4, 1] = rows[4, 1], rows[3, 1]
    np.save(path, crossed)
    source = open_source(tmp_path)
    scan = next(scan for scan in list(source.scans()) if scan.name == "a")
    assert (np.diff(scan.layers[:, :5], axis=0) >= 0).all()
    assert (
        f"boundaries: 1 crossings in 1 of 1 files repaired, largest {3 / 7:.2f} px" in source.notes
    )

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


def test_saturated_wedge_touches_top_or_bottom():
    image = np.zeros((5, 7), np.uint8)
    image[0, :3] = image[1, :2] = 255  # wedge above
    image[4, 5:] = 255  # and below
    image[2, 4] = 255  # an isolated bright spot
    image[0, 5] = 254  # nearly saturated
    expected = np.zeros((5, 7), bool)
    expected[0, :3] = expected[1, :2] = expected[4, 5:] = True
    wedge = saturated_wedge(image)
    assert wedge.dtype == bool
    np.testing.assert_array_equal(wedge, expected)
    assert not saturated_wedge(np.full((3, 3), 254, np.uint8)).any()


# ---- the Duke set ---------------------------------------------------------------------------------------


def fake_duke(root: Path, height: int = 496) -> Path:
    """110 blank images with the published subjects and positions."""
    rows = "".join(f"s{s}b{p},{s},{p}\n" for s, p in DUKE_ANNOTATED)
    save(root / "blank.png", np.zeros((height, 768), np.uint8))
    (root / "images").mkdir()
    for s, p in DUKE_ANNOTATED:
        shutil.copy(root / "blank.png", root / "images" / f"s{s}b{p}.png")
    (root / "index.csv").write_text("name,subject,bscan\n" + rows)
    return root


def test_duke_folder_is_recognised_by_positions_and_size(tmp_path):
    source = open_source(fake_duke(tmp_path / "duke"))
    assert {s.scale_um for s in source.scans()} == {DUKE_SCALE_UM}
    assert any("recognised" in n and "Duke 2015_BOE_Chiu" in n for n in source.notes)

    other = fake_duke(tmp_path / "other", height=256)
    assert {s.scale_um for s in open_source(other).scans()} == {None}
    index = tmp_path / "duke" / "index.csv"
    index.write_text(index.read_text().replace(",4,6\n", ",4,7\n"))
    assert {s.scale_um for s in open_source(tmp_path / "duke").scans()} == {None}


@pytest.fixture(scope="module")
def real_folder(real_data):
    source = open_source(real_data / "chiu2015")
    return source, list(source.scans())


def test_real_folder(real_data, real_folder):
    source, scans = real_folder
    assert {(s.subject, s.position) for s in scans} == DUKE_ANNOTATED
    assert {s.scale_um for s in scans} == {DUKE_SCALE_UM}
    with open(real_data / "chiu2015" / "index.csv", newline="") as f:
        fluid_px = {row["name"]: int(row["fluid_px"]) for row in csv.DictReader(f)}
    assert {s.name: int((s.fluid == 1).sum()) for s in scans} == fluid_px
    assert "masks: instance ids 1..15, fluid is id > 0" in source.notes
    volume = {
        s.position: s.image
        for s in open_source(real_data / "chiu2015" / "subject01_volume").scans()
    }
    assert len(volume) == 61
    np.testing.assert_array_equal(volume[10], scans[0].image)


@pytest.mark.parametrize("subject, dtype", [(4, np.uint8), (7, np.float64)])
def test_mat_of_real_pixels_equals_the_folder(real_data, real_folder, tmp_path, subject, dtype):
    images, fluid = duke_volume(real_data / "chiu2015", subject)
    layers = np.full((8, 768, 61), np.nan)
    write_subject_mat(tmp_path / f"Subject_{subject:02d}.mat", images, fluid, layers, dtype)
    from_mat = list(open_source(tmp_path).scans())
    from_folder = [s for s in real_folder[1] if s.subject == subject]
    assert len(from_mat) == len(from_folder) == 11
    for a, b in zip(from_mat, from_folder, strict=True):
        assert (a.subject, a.position, a.scale_um) == (b.subject, b.position, b.scale_um)
        assert a.scale_um == DUKE_SCALE_UM
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.fluid, b.fluid)


def test_real_layers_are_repaired(real_data):
    source = open_source(real_data / "octlayers")
    scans = list(source.scans())
    assert len(scans) == 70 and {s.subject for s in scans} == set(range(1, 8))
    for scan in scans:
        stored = np.load(real_data / "octlayers" / "boundaries" / f"{scan.name}.npy")
        assert scan.layers.shape == (8, scan.image.shape[1])
        assert (np.diff(scan.layers, axis=0) >= 0).all()
        sound = (np.diff(stored, axis=0) >= 0).all(axis=0)
        np.testing.assert_array_equal(scan.layers[:, sound], stored[:, sound])
        assert np.abs(scan.layers - stored).max() <= 3
    assert any("16 of 70 files" in note for note in source.notes)


def test_without_wedge_it_is_as_dark_as_the_lower_quartile():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert without_wedge(image) is image
    image[0] = 255
    filled = without_wedge(image)
    assert filled.dtype == np.uint8 and (filled[0] == 8).all() and (filled[1:] == image[1:]).all()
    white = np.full((3, 3), 255, np.uint8)
    assert (without_wedge(white) == white).all()  # there is nothing else
