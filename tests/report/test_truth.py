"""What graders marked beside the scans that are predicted: found, understood, shown."""

import json

import numpy as np
import pytest
from helpers.device_files import volume, write_mhd
from helpers.matfiles import write_subject_mat
from helpers.scan_files import picture, save

from dme.common.errors import InputError
from dme.report.inputs import list_items
from dme.report.journal import sha256_of
from dme.report.truth import Truth, folder_truth

SHAPE = (40, 60)


def mask(value: int) -> np.ndarray:
    """Fluid of 5 x 8 px, as `picture` has it."""
    fluid = np.zeros(SHAPE, np.uint8)
    fluid[10:15, 20:28] = value
    return fluid


def test_masks_of_a_folder_are_understood_together(tmp_path):
    save(tmp_path / "fluid" / "a.png", mask(3))
    save(tmp_path / "fluid" / "b.png", mask(1))
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", picture())
    rows = np.tile(np.arange(8, dtype=np.float32)[:, None], (1, 60))
    (tmp_path / "boundaries").mkdir()
    np.save(tmp_path / "boundaries" / "c.npy", rows)

    notes = []
    truth = folder_truth(tmp_path, ["a", "b", "c"], notes)
    assert "2 masks of graders are shown beside: instance ids 1..3" in notes[0]
    np.testing.assert_array_equal(truth.read("a", SHAPE).fluid, mask(1))
    assert truth.read("a", SHAPE).rows is None
    assert truth.read("c", SHAPE).fluid is None
    np.testing.assert_array_equal(truth.read("c", SHAPE).rows, rows)
    with pytest.raises(InputError, match=r"mask is \(40, 60\), its image is \(40, 50\)"):
        truth.read("a", (40, 50))


def test_masks_that_are_not_understood_are_noted_and_not_shown(tmp_path):
    save(tmp_path / "images" / "a.png", picture())
    odd = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    save(tmp_path / "fluid" / "a.png", odd)
    notes = []
    assert folder_truth(tmp_path, ["a"], notes) is None
    assert notes[0].startswith("graders' masks not shown: masks hold")


def test_labels_of_another_layout_belong_to_their_images(tmp_path):
    save(tmp_path / "imagesTr" / "case_0000.png", picture())
    save(tmp_path / "labelsTr" / "case.png", mask(1))
    (item,) = list_items([str(tmp_path)])[0]
    (scan,) = item.scans(set())
    np.testing.assert_array_equal(scan.truth(SHAPE).fluid, mask(1))


@pytest.mark.parametrize("part", ["", "train"])
def test_classes_of_a_benchmark_are_what_its_list_says(tmp_path, part):
    for name, value in (("a", 1), ("b", 2)):
        save(tmp_path / part / "bscan" / f"{name}.png", picture())
        save(tmp_path / part / "semseg" / f"{name}.png", mask(value))
    classes = {"Background": 0, "Drusen": 1, "IRF": 2}
    content = {label: {"value": value, "label": label} for label, value in classes.items()}
    (tmp_path / "INFO.json").write_text(json.dumps(content))
    (item,) = list_items([str(tmp_path)])[0]
    drusen, fluid = [scan.truth(SHAPE).fluid for scan in item.scans(set())]
    assert not drusen.any()
    np.testing.assert_array_equal(fluid, mask(1))


def test_folders_without_labels_and_mat_files(tmp_path):
    file = save(tmp_path / "alone" / "a.png", picture())
    (item,) = list_items([str(file.parent)])[0]
    assert item.scans(set())[0].truth is None
    assert not item.notes

    images = np.stack([picture(), picture(seed=1)], axis=2)
    fluid = np.full(images.shape, np.nan)
    fluid[:, :, 1] = mask(2)
    file = tmp_path / "Subject_01.mat"
    write_subject_mat(file, images, fluid)
    (item,) = list_items([str(file)])[0]
    first, second = item.scans(set())
    assert first.truth(SHAPE).arrays() == []
    np.testing.assert_array_equal(second.truth(SHAPE).fluid, mask(1))


def test_labels_beside_a_metaimage_are_its_graders_marks(tmp_path):
    pixels = volume()
    labels = np.zeros_like(pixels)
    for kind in (1, 2, 3):
        labels[kind, 5:9, 4 * kind : 4 * kind + 3] = kind
    write_mhd(tmp_path / "oct.mhd", pixels)
    write_mhd(tmp_path / "reference.mhd", labels)
    (item,) = list_items([str(tmp_path)])[0]
    scans = item.scans(set())
    assert any("masks of graders" in note for note in item.notes)
    for scan, expected in zip(scans, labels > 0, strict=True):
        truth = scan.truth(pixels.shape[1:])
        np.testing.assert_array_equal(truth.fluid, expected)
        assert truth.fluid.dtype == np.uint8 and truth.rows is None


def test_truth_decides_whether_a_scan_is_taken_over():
    image = picture()
    alone = sha256_of([image, *Truth().arrays()])
    marked = sha256_of([image, *Truth(mask(1)).arrays()])
    other = sha256_of([image, *Truth(np.roll(mask(1), 1)).arrays()])
    assert len({alone, marked, other}) == 3
