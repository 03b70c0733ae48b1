"""`predict --write`: files for other programs beside the results."""

import gzip

import numpy as np
import pytest
from helpers.device_files import (
    volume,
    write_bioptigen,
    write_dicom,
    write_e2e,
    write_fda,
    write_fds,
    write_img,
    write_mhd,
)
from PIL import Image

from dme.data.nifti import itk_affine, write_nifti


def test_files_for_other_programs_are_results_like_others(predict, tmp_path):
    path = write_mhd(tmp_path / "a.mhd", volume(height=64, width=64))
    done = predict(path, "--write", "nifti", "tiff")
    assert done.code == 0 and "nifti/, tiff/" in done.printed
    files = done.results()["files"]
    assert {"nifti/a_fluid.nii.gz", "tiff/a_fluid.tif"} <= files.keys()
    with Image.open(done.out / "tiff/a_fluid.tif") as pages:
        for index in range(4):
            pages.seek(index)
            with Image.open(done.out / f"masks/a_bscan{index:03d}.png") as mask:
                assert np.array_equal(np.asarray(pages) * 255, np.asarray(mask))
            assert np.asarray(pages).any()

    # replaced with the others, or gone with them
    done = predict(path, "--write", "nifti", "--overwrite")
    assert done.code == 0 and done.has("nifti") and not done.has("tiff")


def test_a_segmentation_of_a_dicom_file(predict, tmp_path):
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    path = write_dicom(tmp_path / "a.dcm", volume(height=64, width=64))
    done = predict(path, "--write", "dicom-seg")
    assert done.code == 0
    content = pydicom.dcmread(done.out / "dicom_seg/a_fluid.dcm")
    pixels = content.pixel_array
    # the first frame is the superior one, the last B-scan
    with Image.open(done.out / "masks/a_bscan003.png") as mask:
        masks = [np.asarray(mask) > 0]
    numbers = []
    for group in content.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        numbers.append(int(source.ReferencedFrameNumber))
    assert np.array_equal(pixels[numbers.index(1)] > 0, masks[0])


def test_what_cannot_be_written_is_said(predict, tmp_path):
    path = write_mhd(tmp_path / "a.mhd", volume(height=64, width=64))
    done = predict(path, "--write", "png")
    assert done.code == 2 and "write is" in done.errors and "nifti" in done.errors


DEEP = volume(height=64, width=64).astype(np.uint16) * 16
CUBE = volume(bscans=2, height=1024, width=256)
WRITERS = {
    "dcm": lambda path: write_dicom(path, DEEP),
    "fda": lambda path: write_fda(path, volume(height=64, width=64)),
    "fds": lambda path: write_fds(path, DEEP),
    "oct": lambda path: write_bioptigen(path, DEEP),
    "img": lambda path: write_img(path, CUBE),
    "e2e": lambda path: write_e2e(path, volume(height=64, width=64)),
}
NAME = "PATNUM77_Macular Cube 256x2_5-6-2019_10-11-12_OS_sn99871_cube_z"
PLANTED = (
    "PATNUM77",
    "Planteau",
    "Zoe",
    "Refplant",
    "SERNUM99",
    "SPECSN98",
    "ACCNUM31",
    "STUDYNUM5",
)
DATES = (
    "19500203",
    "1950-02-03",
    "20190506",
    "2019-05-06",
    "5-6-2019",
    "101112",
    "10-11-12",
    "10:11:12",
)


def write_tiff_of(path, pixels):
    """Pages with a text, an artist and a moment of their own."""
    pages = [Image.fromarray(bscan) for bscan in pixels]
    tags = {270: "Planteau^Zoe PATNUM77", 315: "Refplant", 306: "2019:05:06 10:11:12"}
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo=tags)
    return path


def write_nifti_of(path, pixels):
    """With a name in the header's texts."""
    write_nifti(path, pixels, itk_affine((0.012, 0.004, 0.12)), True)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[148:228] = b"Planteau^Zoe PATNUM77 2019-05-06".ljust(80, b"\0")  # descrip
    content[14:32] = b"SERNUM99".ljust(18, b"\0")  # db_name
    path.write_bytes(gzip.compress(bytes(content)))
    return path


WITHOUT_FIELDS = {
    "mhd": lambda path: write_mhd(path, CUBE[:, :64, :64], PatientID="PATNUM77", Comment="Zoe"),
    "tif": lambda path: write_tiff_of(path, CUBE[:, :64, :64]),
    "nii.gz": lambda path: write_nifti_of(path, CUBE[:, :64, :64]),
}


@pytest.mark.parametrize("kind", WITHOUT_FIELDS)
def test_texts_of_files_without_a_patient_go_nowhere(predict, tmp_path, kind):
    path = WITHOUT_FIELDS[kind](tmp_path / f"a.{kind}")
    done = predict(path, "--write", "nifti", "tiff")
    assert done.code == 0
    assert_nothing_planted(done.out, tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_no_file_for_other_programs_tells_who_it_is(predict, tmp_path, kind):
    if kind == "dcm":
        pytest.importorskip("highdicom")
    path = WRITERS[kind](tmp_path / f"{NAME}.{kind}")
    seg = ("dicom-seg",) if kind == "dcm" else ()
    done = predict(path, "--write", "nifti", "tiff", *seg)
    assert done.code == 0
    assert_nothing_planted(done.out, tmp_path)


def assert_nothing_planted(out, tmp_path):
    """Neither in names nor in the content of files."""
    written = sorted(file for file in out.rglob("*") if file.is_file())
    assert len(written) > 6
    for file in written:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content += gzip.decompress(content)
        for planted in (*PLANTED, *DATES, "sn99871", str(tmp_path)):
            assert planted not in str(file.relative_to(out)), file
            assert planted.encode() not in content, (file, planted)
