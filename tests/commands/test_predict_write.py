"""`predict --write`: files for other programs beside the results."""

import numpy as np
import pytest
from helpers.device_files import volume, write_dicom, write_mhd
from PIL import Image


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
