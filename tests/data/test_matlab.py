"""MATLAB files: what is read, what is refused and with which words."""

import h5py
import numpy as np
import pytest
import scipy.io
from helpers.matfiles import duke_volume, small_volume, write_subject_mat
from helpers.scanfolder import places, read_scans, refused

from dme.common.errors import InputError
from dme.data import matlab, phantom
from dme.data.duke import DUKE_SCALE_UM
from dme.data.opening import open_source


def any_has(notes, text):
    return any(text in note for note in notes)


@pytest.fixture
def layers():
    """Rows (8, 6, 5), of two columns of B-scan 3."""
    rows = np.full((8, 6, 5), np.nan)
    rows[:, 2:4, 3] = np.arange(8)[:, None] / 2
    return rows


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_annotated_scans_are_found(tmp_path, layers, dtype):
    images, fluid = small_volume()
    write_subject_mat(tmp_path / "Subject_07.mat", images, fluid, layers, dtype)
    source = open_source(tmp_path)
    scans = list(source.scans())
    assert source.kind == "mat"
    assert "1 subject from" in source.description and "grader 1" in source.description
    assert places(scans) == [(7, 1), (7, 3)]
    assert [scan.name for scan in scans] == ["subject07_bscan01", "subject07_bscan03"]
    for scan in scans:
        assert scan.image.dtype == scan.fluid.dtype == np.uint8
        assert scan.image.flags.c_contiguous
        np.testing.assert_array_equal(scan.image, images[:, :, scan.position])
        assert scan.layers.dtype == np.float32
        assert scan.scale_um is None  # not the Duke volume

    empty, wet = scans
    assert not empty.fluid.any()
    assert empty.layers.shape == (8, 6)
    assert np.isnan(empty.layers).all()
    expected = np.zeros((4, 6))
    expected[0, 1:3] = expected[1, 2] = 1  # NaN is not fluid
    np.testing.assert_array_equal(wet.fluid, expected)
    np.testing.assert_array_equal(wet.layers, layers[:, :, 3])


def test_notes_are_not_repeated(tmp_path, layers):
    write_subject_mat(tmp_path / "Subject_07.mat", *small_volume(), layers)
    source = open_source(tmp_path)
    list(source.scans())
    notes = list(source.notes)
    assert any_has(notes, "2 of 5 B-scans annotated, positions 1, 3")
    assert any_has(notes, "2 px are NaN")
    list(source.scans())
    assert source.notes == notes


def test_whole_volume(tmp_path):
    images, fluid = small_volume()
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid)
    scans = list(open_source(tmp_path).scans(labelled_only=False))
    assert [scan.position for scan in scans] == [0, 1, 2, 3, 4]
    assert [scan.fluid is None for scan in scans] == [True, False, True, False, True]
    np.testing.assert_array_equal(np.stack([scan.image for scan in scans], axis=2), images)


def test_graders_differ(tmp_path):
    images, fluid = small_volume()
    second = np.full((4, 6, 5), np.nan)
    second[:, :, 2] = 0
    second[1, :, 2] = 4
    path = tmp_path / "Subject_01.mat"
    write_subject_mat(path, images, fluid, fluid2=second)
    (scan,) = open_source(path, grader=2).scans()
    assert scan.position == 2
    np.testing.assert_array_equal(scan.fluid, second[:, :, 2] == 4)
    assert open_source(tmp_path, 1).sha256 != open_source(tmp_path, 2).sha256


def test_files_come_in_order_of_subjects(tmp_path):
    for name in ("Subject_10", "Subject_9", "subject02"):
        write_subject_mat(tmp_path / f"{name}.mat", *small_volume())
    assert [scan.subject for scan in read_scans(tmp_path)] == [2, 2, 9, 9, 10, 10]
    write_subject_mat(tmp_path / "Subject_2.mat", *small_volume())
    refused(tmp_path, "Subject_2.mat", "subject02.mat", "same subject")


def test_v73_has_reversed_axes(tmp_path):
    images, fluid = small_volume()
    new = tmp_path / "Subject_03.mat"
    old = tmp_path / "Subject_04.mat"
    with h5py.File(new, "w") as file:
        file["images"] = images.T
        file["manualFluid1"] = fluid.T
    write_subject_mat(old, images, fluid)
    assert places(read_scans(new)) == [(3, 1), (3, 3)]
    assert places(read_scans(old)) == [(4, 1), (4, 3)]
    for scan, other in zip(read_scans(new), read_scans(old), strict=True):
        np.testing.assert_array_equal(scan.image, other.image)
        np.testing.assert_array_equal(scan.fluid, other.fluid)


def test_boundaries_never_cost_the_fluid(tmp_path):
    images, fluid = small_volume()
    tall_images = np.repeat(images, 25, axis=0)  # 100 px high
    tall_fluid = np.repeat(fluid, 25, axis=0)
    layers = np.full((8, 6, 5), np.nan)
    layers[:, :, 1] = 20 + np.arange(8)[:, None] * 10
    layers[4, 0, 1] = 48  # 2 px above boundary 3 at 50
    layers[4, 5, 1] = 40  # 10 px above it
    layers[7, 4, 1] = 101  # outside the image, as the next two
    layers[0, 3, 1] = -0.5
    layers[7, 2, 1] = np.inf
    write_subject_mat(tmp_path / "Subject_01.mat", tall_images, tall_fluid, layers)

    source = open_source(tmp_path)
    rows = next(source.scans()).layers
    np.testing.assert_array_equal(rows[:, 0], [20, 30, 40, 49, 49, 70, 80, 90])
    np.testing.assert_array_equal(rows[:, 1], layers[:, 1, 1])
    assert np.isnan(rows[:, 2:]).all()
    assert len(list(source.scans())) == 2
    repaired = "1 boundary crossings up to 3 px repaired"
    outside = "4 columns with larger ones or rows outside the image"
    assert any_has(source.notes, f"{repaired}, {outside}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "Subject_01.mat"


def test_broken_files_are_refused(path):
    path.write_text("not a matrix\n" * 30)
    refused(path, "Subject_01.mat", "not a readable MATLAB file")
    path.write_bytes(b"")
    refused(path, "not a readable MATLAB file")
    write_subject_mat(path, *small_volume())
    path.write_bytes(path.read_bytes()[:300])
    refused(path, "Subject_01.mat", "not a readable MATLAB file")


def test_missing_variables_are_refused(path):
    images, fluid = small_volume()
    scipy.io.savemat(path, {"images": images})
    refused(path, "no variable manualFluid1")
    scipy.io.savemat(path, {"volume": images})
    refused(path, "no variable images")
    write_subject_mat(path, images, fluid)
    refused(path, "no variable manualFluid2", grader=2)


def test_wrong_shapes_are_refused(path):
    images, fluid = small_volume()
    write_subject_mat(path, images[:, :, 0], fluid)
    refused(path, "images is uint8 (4, 6)", "(height, width, B-scans)")
    write_subject_mat(path, images, fluid[:, :5])
    refused(path, "manualFluid1 is float64 (4, 5, 5)", "expected numbers (4, 6, 5)")
    write_subject_mat(path, images, fluid, np.zeros((7, 6, 5)))
    refused(path, "manualLayers1 is float64 (7, 6, 5)", "expected numbers (8, 6, 5)")
    scipy.io.savemat(path, {"images": "text", "manualFluid1": fluid})
    refused(path, "images is <U4")


def test_wrong_fluid_is_refused(path):
    images, fluid = small_volume()
    write_subject_mat(path, images, np.full(fluid.shape, np.nan))
    refused(path, "no B-scan is annotated", "manualFluid1 is all NaN")
    for value in (-1, 0.5):
        write_subject_mat(path, images, np.where(fluid == 7, value, fluid))
        refused(path, "manualFluid1 of B-scan 3", "other than ids")


def test_wrong_grey_values_are_refused(path):
    images, fluid = small_volume()
    write_subject_mat(path, images / 255, fluid, dtype=np.float64)
    refused(path, "..1, expected grey values 0..255", "scale them (0..1 times 255)")
    write_subject_mat(path, images * 257.0, fluid, dtype=np.float64)
    refused(path, "B-scan 1: float values", "expected grey values 0..255")
    broken = images.astype(float)
    broken[0, 0, 3] = np.nan
    write_subject_mat(path, broken, fluid, dtype=np.float64)
    refused(path, "B-scan 3", "NaN")


def test_12_bits_in_16_keep_their_brightness(path):
    images, fluid = small_volume()
    write_subject_mat(path, images.astype(np.uint16) * 16, fluid, dtype=np.uint16)
    source = open_source(path)
    for scan in source.scans():
        expected = np.rint(images[:, :, scan.position] * (16 * 255 / 4095))
        np.testing.assert_array_equal(scan.image, expected)
    assert any_has(source.notes, "16-bit values scaled by 255/4095")


def test_masks_that_are_mostly_fluid_are_refused(path):
    images, fluid = small_volume()
    fluid[:2, 5, 3] = 0  # where it is NaN
    write_subject_mat(path, images, fluid + 1)  # 1 is the background
    refused(path, "manualFluid1: values 1 (93.75 %)", "none is 0", "`fluid_value`")
    inverted = np.where(np.isnan(fluid), np.nan, fluid == 0)
    write_subject_mat(path, images, inverted)
    refused(
        path, "would be fluid, expected at most 30 % of all pixels", "`fluid_value`, 0 perhaps"
    )
    list(open_source(path).scans(labelled_only=False))  # to predict, masks are not needed


def test_layers_and_fluid_in_one_map_need_the_value_of_fluid(path):
    images, fluid = small_volume()
    labels = np.where(np.isnan(fluid), np.nan, np.where(fluid > 0, 8, 0))
    labels[2][~np.isnan(labels[2])] = 1
    labels[3][~np.isnan(labels[3])] = 2
    write_subject_mat(path, images, labels)
    refused(path, "several reach from side to side, as layers do", "`fluid_value`")
    source = open_source(path, fluid_value=(8,))
    empty, wet = source.scans()
    assert not empty.fluid.any()
    np.testing.assert_array_equal(wet.fluid, labels[:, :, 3] == 8)
    assert any_has(source.notes, "manualFluid1: fluid is 8, as `fluid_value` says")
    assert source.sha256 != open_source(path).sha256


def hdf5(path, **datasets):
    """A MATLAB v7.3 file whose images are made by a function of the open file."""
    with h5py.File(path, "w") as file:
        for name, make in datasets.items():
            make(file, name)


def test_hdf5_may_not_name_other_files(path, tmp_path):
    """What an input file says must not make us read another one."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"TOP SECRET KEY " * 1400)
    shape = (5, 64, 48)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["images"] = np.ones(shape, np.uint8)

    def external_storage(file, name):
        file.create_dataset(name, shape, "u1", external=[(str(secret), 0, 5 * 64 * 48)])

    def external_link(file, name):
        file[name] = h5py.ExternalLink(str(other), "/images")

    def virtual(file, name):
        layout = h5py.VirtualLayout(shape, "u1")
        layout[:] = h5py.VirtualSource(str(other), "images", shape)
        file.create_virtual_dataset(name, layout)

    def soft_link(file, name):
        file["far"] = h5py.ExternalLink(str(other), "/")
        file[name] = h5py.SoftLink("/far/images")

    def group(file, name):
        file.create_group(name)

    for make in (external_storage, external_link, virtual, soft_link, group):
        hdf5(path, images=make)
        with pytest.raises(InputError, match="images is .*expected numbers in the file itself"):
            list(open_source(path).scans(labelled_only=False))


@pytest.mark.parametrize("new", [False, True])
def test_too_large_variables_are_refused_before_they_are_read(path, monkeypatch, new):
    images, fluid = small_volume()
    write_subject_mat(path, images, fluid)
    if new:
        hdf5(path, images=lambda file, name: file.create_dataset(name, data=images.T))
    monkeypatch.setattr(matlab, "MOST_BYTES", 100)
    refused(path, "images (", "takes 0 MiB, expected at most 0 MiB", "fewer B-scans")


def test_other_variables_are_named(path):
    scipy.io.savemat(path, {"oct": small_volume()[0]})
    refused(path, "no variable images", "it holds oct (4, 6, 5)", "under those names")
    hdf5(path, oct=lambda file, name: file.create_dataset(name, data=np.ones((5, 6, 4))))
    refused(path, "no variable images", "it holds oct")


def test_black_on_white_is_refused(path):
    scan = phantom.phantom_bscan(0)
    fluid = (scan.fluid == 1)[:, :, None]
    write_subject_mat(path, 255 - scan.image[:, :, None], fluid)
    refused(path, "B-scan 0: its background is brighter than the retina")


def test_subject_numbers_of_ten_digits_are_refused(tmp_path):
    write_subject_mat(tmp_path / f"Subject_{10**19}.mat", *small_volume())
    refused(tmp_path, "rename it to Subject_NN.mat", "up to nine digits")


def test_a_name_without_subject_is_refused(tmp_path):
    write_subject_mat(tmp_path / "volume.mat", *small_volume())
    refused(tmp_path, "volume.mat", "subject number", "Subject_NN.mat")


@pytest.mark.parametrize("subject, dtype", [(4, np.uint8), (7, np.float64)])
def test_real_pixels_equal_the_folder(real_data, tmp_path, subject, dtype):
    images, fluid = duke_volume(real_data / "chiu2015", subject)
    layers = np.full((8, 768, 61), np.nan)
    path = tmp_path / f"Subject_{subject:02d}.mat"
    write_subject_mat(path, images, fluid, layers, dtype)
    from_mat = read_scans(tmp_path)
    every = open_source(real_data / "chiu2015").scans()
    from_folder = [scan for scan in every if scan.subject == subject]
    assert len(from_mat) == len(from_folder) == 11
    assert places(from_mat) == places(from_folder)
    for scan, other in zip(from_mat, from_folder, strict=True):
        assert scan.scale_um == other.scale_um == DUKE_SCALE_UM
        np.testing.assert_array_equal(scan.image, other.image)
        np.testing.assert_array_equal(scan.fluid, other.fluid)
