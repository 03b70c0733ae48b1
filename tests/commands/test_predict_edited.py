"""`predict --edited`: numbers from corrected masks and boundaries, what is refused, what stays."""

import json

import numpy as np
import pytest
from helpers.knowing_networks import Bright, Knows
from helpers.scan_files import files, flat, indexed, save
from helpers.vendor_files import raster, write_vol
from PIL import Image

from dme.common.files import sealed, write_json
from dme.data.corrections import Annotation, Corrections, Place
from dme.data.nifti import write_nifti
from dme.report.columns import EDITED

CYSTS = [(slice(28, 32), slice(20, 30)), (slice(30, 34), slice(5, 9)), None]
FLUID_PX = [40, 16, 0]
SCALE = ["--scale", "4,10,120"]
SHAPE = (80, 60)
STATE, ADDED, REMOVED, SHIFT = EDITED


@pytest.fixture
def results(predict, tmp_path):
    """Fluid and layers of a volume of three B-scans."""
    for i, cyst in enumerate(CYSTS):
        save(tmp_path / "eye" / f"bscan_{i}.png", indexed(i, cyst=cyst))
    network = Knows([flat(), flat(), flat()], fluid=True)
    task = ["--task", "layers+fluid", "--weights", "n"]
    done = predict(tmp_path / "eye", *task, *SCALE, networks={"n": network})
    assert done.code == 0, done.errors
    return done


def measured(predict, results, *arguments):
    return predict("--edited", results.out, *arguments, out=results.out.parent / "again")


def correct(results, bscan, fluid=None, shift_px=0.0, done=True):
    """Save one B-scan as the person would: a new mask, boundaries moved down."""
    name = f"eye_bscan{bscan:03d}"
    mask = np.asarray(Image.open(results.out / "masks" / f"{name}.png")) // 255
    table = np.loadtxt(results.out / "boundaries" / f"{name}.csv", delimiter=",", skiprows=1)
    rows = table[:, 1:].T.astype(np.float32) + np.float32(shift_px)
    drawn = Annotation(mask if fluid is None else fluid, rows, (), done)
    image = np.zeros(SHAPE, np.uint8)
    corrections = Corrections(results.out / "edited")
    corrections.save(Place(name, "eye", bscan), image, drawn, Annotation(mask, rows))


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}


def test_numbers_follow_the_corrections(predict, results):
    more = np.zeros(SHAPE, np.uint8)
    more[28:32, 20:45] = 1  # 100 px
    correct(results, 0, fluid=more)
    correct(results, 1, shift_px=2)
    correct(results, 2)
    before = bytes_of(results.out)
    done = measured(predict, results)
    assert done.code == 0, done.errors
    first, second, third = done.table()
    assert [row["fluid_px"] for row in (first, second, third)] == ["100", "16", "0"]
    assert (first[STATE], first[ADDED], first[REMOVED], first[SHIFT]) == (
        "changed",
        "60",
        "0",
        "0.0",
    )
    assert second[STATE] == "changed" and float(second[SHIFT]) == pytest.approx(2, abs=1e-3)
    assert third[STATE] == "confirmed"
    assert float(done.volume()["fluid_px"]) == 116
    mask = np.asarray(Image.open(done.out / "masks" / "eye_bscan000.png"))
    np.testing.assert_array_equal(mask, more * 255)
    assert "corrected: 2 of 3 scans, 1 more confirmed; fluid +60 px, -0 px" in done.printed
    assert "corrected: 2 of 3 scans" in done.page()
    assert bytes_of(results.out) == before


def test_without_corrections_everything_is_as_it_was(predict, results):
    correct(results, 2, done=False)
    done = measured(predict, results)
    changed = set(EDITED)
    for old, new in zip(results.table(), done.table(), strict=True):
        assert {key: new[key] for key in new.keys() - changed} == old
        assert new[STATE] == ""
    for folder in ("masks", "boundaries", "maps", "retina_maps", "enface", "scans"):
        for file in (results.out / folder).iterdir():
            again = done.out / folder / file.name
            assert again.read_bytes() == file.read_bytes(), file.name
    for name in ("volumes.csv", "sectors.csv", "retina_sectors.csv"):
        assert done.table(name) == results.table(name)


def test_results_that_were_corrected_can_be_corrected_again(predict, results):
    correct(results, 2, fluid=np.eye(*SHAPE, dtype=np.uint8))
    once = measured(predict, results)
    correct(once, 0, fluid=np.zeros(SHAPE, np.uint8))
    twice = measured(predict, once)
    assert [row["fluid_px"] for row in twice.table()] == ["0", "16", "60"]
    assert [row[STATE] for row in twice.table()] == ["changed", "", ""]


# ---- masks of other programs --------------------------------------------------------------------
def new_masks() -> np.ndarray:
    """(3, H, W): 50, 20 and 6 px of fluid, which overlap what is there."""
    masks = np.zeros((3, *SHAPE), np.uint8)
    masks[0, 28:33, 20:30] = 1
    masks[1, 30:35, 5:9] = 1
    masks[2, 40:43, 10:12] = 1
    return masks


def as_png(folder, masks):
    for i, mask in enumerate(masks):
        save(folder / f"eye_bscan{i:03d}.png", mask * 255)


def as_pages(folder, masks):
    first, *others = [Image.fromarray(mask * 7) for mask in masks]
    first.save(folder / "eye.tif", save_all=True, append_images=others)


def as_nifti_of_ours(folder, masks):
    write_nifti(folder / "eye.nii.gz", masks, np.eye(4), in_mm=False)


def as_nifti(folder, masks):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(masks.transpose(2, 1, 0).astype(np.int16), np.eye(4))
    nibabel.save(image, folder / "eye.nii.gz")


def as_nifti_of_floats(folder, masks):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(masks.transpose(2, 1, 0).astype(np.float32), np.eye(4))
    nibabel.save(image, folder / "eye.nii")


@pytest.mark.parametrize(
    "write", [as_png, as_pages, as_nifti_of_ours, as_nifti, as_nifti_of_floats]
)
def test_masks_of_other_programs(predict, results, tmp_path, write):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write(folder, new_masks())
    kept = bytes_of(folder)
    done = measured(predict, results, "--masks", folder)
    assert done.code == 0, done.errors
    assert [row["fluid_px"] for row in done.table()] == ["50", "20", "6"]
    assert [row[ADDED] for row in done.table()] == ["10", "4", "6"]
    assert bytes_of(folder) == kept


def test_some_masks_are_enough(predict, results, tmp_path):
    save(tmp_path / "m" / "eye_bscan001.png", np.zeros(SHAPE, np.uint8))
    done = measured(predict, results, "--masks", tmp_path / "m")
    assert [row["fluid_px"] for row in done.table()] == ["40", "0", "0"]
    assert [row[STATE] for row in done.table()] == ["", "changed", ""]


def wrong_size(folder):
    save(folder / "eye_bscan000.png", np.zeros((80, 61), np.uint8))


def unknown_name(folder):
    save(folder / "scan7.png", np.zeros(SHAPE, np.uint8))


def smoothed(folder):
    ramp = np.arange(np.prod(SHAPE), dtype=np.uint32) % 251
    save(folder / "eye_bscan000.png", ramp.reshape(SHAPE).astype(np.uint8))


def too_few_pages(folder):
    as_pages(folder, new_masks()[:2])


def upside_down(folder):
    as_nifti_of_ours(folder, new_masks()[:, ::-1])


def fractions(folder):
    nibabel = pytest.importorskip("nibabel")
    voxels = new_masks().transpose(2, 1, 0) * 0.5
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / "eye.nii")


def other_axes(folder):
    as_nifti_of_ours(folder, np.ascontiguousarray(new_masks().transpose(0, 2, 1)))


def no_nifti(folder):
    (folder / "eye.nii.gz").write_bytes(b"no gzip")


def nothing(folder):
    (folder / "notes.txt").write_text("later")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (wrong_size, ["mask is (80, 61), scan eye_bscan000 is (80, 60)"]),
        (unknown_name, ["there is no scan or volume scan7", "rename it"]),
        (smoothed, ["values between 0 and 255", "interpolated?"]),
        (too_few_pages, ["2 masks, but 3 B-scans were predicted"]),
        (upside_down, ["the masks seem upside down", "save them as the scans lie"]),
        (fractions, ["expected whole numbers 0..255"]),
        (other_axes, ["mask is (60, 80), scan eye_bscan000 is (80, 60)"]),
        (no_nifti, ["not a whole gzip file"]),
        (nothing, ["no masks in it", "eye_bscan000.png"]),
    ],
)
def test_masks_that_cannot_be_are_refused(predict, results, tmp_path, write, words):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write(folder)
    done = measured(predict, results, "--masks", folder)
    assert done.code == 2
    for word in words:
        assert word in done.errors
    assert len(done.errors.splitlines()) == 1
    assert not done.out.exists()


# ---- refused ------------------------------------------------------------------------------------
def test_results_that_were_changed_are_refused(predict, results):
    correct(results, 0)
    values = results.out / "scans" / "eye_bscan001.js"
    values.write_text(values.read_text().replace("A", "B", 1))
    done = measured(predict, results)
    assert done.code != 0
    assert "eye_bscan001.js was changed since it was written" in done.errors


def test_corrections_of_other_scans_are_refused(predict, results):
    correct(results, 0)
    state = results.out / "edited" / "state.json"
    text = state.read_text()
    state.write_text(text.replace("eye_bscan000", "another"))
    assert "another is none of the scans" in measured(predict, results).errors
    state.write_text('{"eye_bscan000": 3}')
    assert "not as ./run.sh annotate wrote it" in measured(predict, results).errors
    state.write_text(text)
    save(results.out / "edited" / "fluid" / "eye_bscan000.png", np.zeros((8, 6), np.uint8))
    assert "mask is (8, 6), its scan is (80, 60)" in measured(predict, results).errors


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scan", "../../elsewhere", "is no name of a scan"),
        ("scan", 7, "is no name of a scan"),
        ("image", "../secret.png", "lies outside"),
    ],
)
def test_results_that_lead_elsewhere_are_refused(predict, results, key, value, words):
    correct(results, 0)
    record = results.results()
    record["scans"][1][key] = value
    write_json(results.out / "measurements.json", sealed(record))
    done = measured(predict, results)
    assert done.code == 2 and words in done.errors
    assert not done.out.exists()


def test_corrections_behind_a_link_are_refused(predict, results, tmp_path):
    correct(results, 0)
    (results.out / "edited" / "images").rename(tmp_path / "elsewhere")
    (results.out / "edited" / "images").symlink_to(tmp_path / "elsewhere")
    assert "images is a link" in measured(predict, results).errors


def test_arguments_that_contradict_each_other(predict, results, tmp_path):
    assert "no such folder; correct scans with" in measured(predict, results).errors
    correct(results, 0)
    assert "only --out and --overwrite apply" in measured(predict, results, "--tta").errors
    both = predict(tmp_path, "--edited", results.out)
    assert both.code == 2 and "or --edited RESULTS" in both.errors
    alone = predict(tmp_path, "--masks", tmp_path)
    assert "--masks belongs to --edited" in alone.errors
    nothing = predict("--edited", tmp_path)
    assert "holds no results" in nothing.errors


def test_fluid_alone(predict, tmp_path):
    save(tmp_path / "in" / "wet.png", indexed(0, cyst=CYSTS[0]))
    results = predict(tmp_path / "in", "--weights", "n", networks={"n": Bright()})
    save(tmp_path / "m" / "wet.png", np.zeros(SHAPE, np.uint8))
    done = measured(predict, results, "--masks", tmp_path / "m")
    assert [row["fluid_px"] for row in done.table()] == ["0"]
    record = json.loads((done.out / "measurements.json").read_text())
    assert record["settings"] == results.results()["settings"]
    assert record["edited"]["results"] == results.out.name  # no path of the machine


def test_pictures_of_the_surface_stay_unless_their_fluid_was_corrected(predict, tmp_path):
    results = predict(write_vol(tmp_path / "a.vol", raster()))
    assert results.has("surfaces/a.png")
    with Image.open(results.out / "masks" / "a_bscan001.png") as picture:
        mask = np.asarray(picture) // 255
    corrections = Corrections(results.out / "edited")

    def again(fluid, name):
        place = Place("a_bscan001", "a", 1)
        corrections.save(
            place, np.zeros_like(mask), Annotation(fluid, done=True), Annotation(mask)
        )
        return predict("--edited", results.out, out=tmp_path / name)

    # confirmed
    done = again(mask, "same")
    assert done.code == 0, done.errors
    pictures = [folder / "surfaces/a.png" for folder in (results.out, done.out)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert done.results()["surfaces"] == results.results()["surfaces"]
    assert "surfaces/a.png" in done.results()["files"] and "surfaces/a.png" in done.page()

    # one pixel is enough
    changed = mask.copy()
    changed[tuple(np.argwhere(mask)[0])] = 0
    done = again(changed, "changed")
    assert done.code == 0 and not done.has("surfaces")
    assert "its en-face picture shows the network's fluid: not copied" in done.printed

    # nor is one that somebody changed
    pictures[0].write_bytes(pictures[1].read_bytes() + b"0")
    done = again(mask, "touched")
    assert done.code == 2 and "was changed since it was written" in done.errors
