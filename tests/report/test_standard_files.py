"""Files for other programs, opened in those programs' own readers and compared pixel by pixel."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.device_files import (
    AXIAL_MM,
    LATERAL_MM,
    PRIVATE,
    SPACING_MM,
    volume,
    write_dicom,
    write_mhd,
    write_nii,
    write_tiff,
)
from PIL import Image

from dme.common.errors import InputError
from dme.common.tasks import LAYERS
from dme.data.volume_files import open_volume
from dme.drawing.canvas import save_png
from dme.report.batch import Work
from dme.report.standard_files import write_standard
from dme.report.tables import write_rows
from dme.retina.rows import layer_labels

HEIGHT, WIDTH = 48, 40
SCALE_UM = {"axial_um": 4.0, "lateral_um": 12.0, "spacing_um": 120.0}
NETWORK = SimpleNamespace(weights_name="some-net", weights_sha256="ab" * 32)


class Predicted:
    """A folder with what `predict` leaves of single scans; their fluid and layers are random."""

    def __init__(self, out: Path):
        self.work = Work(out, {"fluid": NETWORK, "layers": NETWORK}, 0.5, False, None)
        self.draw = np.random.default_rng(0)
        self.fluid = {}  # scan -> (H, W)
        self.layers = {}

    def add(self, name, volume=None, position=None, origin=None, **changed):
        out = self.work.out
        height = changed.get("height_px", HEIGHT)
        fluid = (self.draw.random((height, WIDTH)) < 0.3).astype(np.uint8)
        rows = np.sort(self.draw.uniform(0, height, (8, WIDTH)), axis=0)
        rows[:, 3] = np.nan
        save_png(out / f"masks/{name}.png", fluid * 255)
        write_rows(out / f"boundaries/{name}.csv", rows)
        self.fluid[name] = fluid
        self.layers[name] = layer_labels(np.round(rows, 3), height)
        row = {"scan": name, "source": f"{volume}.x", "volume": volume, "bscan": position}
        row |= {"height_px": height, "width_px": WIDTH, **SCALE_UM}
        row |= {"mask": f"masks/{name}.png", "boundaries": f"boundaries/{name}.csv"}
        self.work.rows.append(row | changed)
        if origin:
            self.work.origins[name] = origin

    def add_record(self, record, name="a"):
        """All B-scans of a device's file, as `predict` places them."""
        for index in range(record.bscans):
            position = record.bscans - 1 - index if record.superior_first else index
            scan = f"{name}_bscan{position:03d}"
            self.add(scan, name, position, origin=(record, index))

    def expected(self, record, content, name="a") -> np.ndarray:
        """Labels (N, H, W) in the file's order."""
        by_index = {}
        for scan, (of_record, index) in self.work.origins.items():
            if of_record is record:
                by_index[index] = getattr(self, content)[scan]
        return np.stack([by_index[index] for index in range(record.bscans)])


@pytest.fixture
def predicted(tmp_path) -> Predicted:
    return Predicted(tmp_path / "out")


def write(predicted, *kinds):
    return write_standard(predicted.work, kinds, "abc123")


def test_nifti_lies_as_its_metaimage_in_simpleitk_and_nibabel(predicted, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    nibabel = pytest.importorskip("nibabel")
    turned = {"Offset": "1 -2 3", "TransformMatrix": "0 1 0 1 0 0 0 0 -1"}
    record = open_volume(write_mhd(tmp_path / "a.mhd", volume(), **turned))
    predicted.add_record(record)
    write(predicted, "nifti")
    source = sitk.ReadImage(str(tmp_path / "a.mhd"))
    for content in ("fluid", "layers"):
        path = predicted.work.out / f"nifti/a_{content}.nii.gz"
        expected = predicted.expected(record, content)
        written = sitk.ReadImage(str(path))
        assert np.array_equal(sitk.GetArrayFromImage(written), expected)
        assert written.GetSpacing() == pytest.approx(source.GetSpacing())
        assert written.GetOrigin() == pytest.approx(source.GetOrigin())
        assert written.GetDirection() == pytest.approx(source.GetDirection())
        image = nibabel.load(path)
        assert np.array_equal(np.asarray(image.dataobj), expected.transpose(2, 1, 0))
        assert image.header.get_xyzt_units()[0] == "mm"
        assert f"nifti/a_{content}.nii.gz" in predicted.work.files


def test_nifti_keeps_the_place_of_its_nifti(predicted, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[0, -0.004, 0, 5], [0.012, 0, 0, -6], [0, 0, 0.12, 7], [0, 0, 0, 1.0]])
    for name, code in (("s.nii.gz", "set_sform"), ("q.nii", "set_qform")):
        image = nibabel.Nifti1Image(volume().transpose(2, 1, 0), None)
        getattr(image, code)(affine, 1)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / name)
        stem = name[0]
        predicted.add_record(open_volume(tmp_path / name), stem)
        write(predicted, "nifti")
        written = nibabel.load(predicted.work.out / f"nifti/{stem}_fluid.nii.gz")
        assert np.allclose(written.affine, nibabel.load(tmp_path / name).affine, atol=1e-6)
        assert np.allclose(written.affine, affine, atol=1e-6)


def test_a_scale_that_was_given_replaces_the_sources(predicted, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    predicted.add_record(open_volume(write_nii(tmp_path / "a.nii", volume())))
    for row in predicted.work.rows:
        row["axial_um"] = 2.0
    write(predicted, "nifti")
    image = nibabel.load(predicted.work.out / "nifti/a_fluid.nii.gz")
    assert image.header.get_zooms() == pytest.approx((LATERAL_MM, 0.002, SPACING_MM))


def test_pages_of_bscans_that_were_not_predicted_are_unknown(predicted):
    for position in (3, 4, 6):
        predicted.add(f"v_bscan{position:03d}", "v", position)
    predicted.add("single")
    write(predicted, "tiff")
    with Image.open(predicted.work.out / "tiff/v_fluid.tif") as image:
        assert image.n_frames == 4
        pages = []
        for index in range(4):
            image.seek(index)
            pages.append(np.asarray(image))
    assert (pages[2] == 255).all()
    for page, position in zip((0, 1, 3), (3, 4, 6), strict=True):
        assert np.array_equal(pages[page], predicted.fluid[f"v_bscan{position:03d}"])
    with Image.open(predicted.work.out / "tiff/single_layers.tif") as image:
        assert image.n_frames == 1
        assert np.array_equal(np.asarray(image), predicted.layers["single"])
    assert (predicted.layers["single"][:, 3] == 255).all()


def test_tiff_masks_of_tiff_pages_in_their_order(predicted, tmp_path):
    record = open_volume(write_tiff(tmp_path / "a.tif", volume()))
    predicted.add_record(record)
    write(predicted, "tiff")
    with Image.open(predicted.work.out / "tiff/a_layers.tif") as image:
        assert image.n_frames == 4
        image.seek(2)
        assert np.array_equal(np.asarray(image), predicted.expected(record, "layers")[2])


def test_bscans_of_different_sizes_are_skipped_with_a_line(predicted, capsys):
    predicted.add("v_bscan000", "v", 0)
    predicted.add("v_bscan001", "v", 1, height_px=HEIGHT + 1)
    write(predicted, "nifti")
    (skipped,) = predicted.work.skipped
    assert "different sizes" in skipped["reason"]


# ---- DICOM --------------------------------------------------------------------------------------
def frames_of(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """(segment's label, number of the source's frame from 1) -> mask, read by pydicom alone."""
    pydicom = pytest.importorskip("pydicom")
    content = pydicom.dcmread(path)
    labels = {item.SegmentNumber: item.SegmentLabel for item in content.SegmentSequence}
    pixels = content.pixel_array.reshape(-1, content.Rows, content.Columns)
    shared = content.SharedFunctionalGroupsSequence[0]
    frames = {}
    for page, group in zip(pixels, content.PerFrameFunctionalGroupsSequence, strict=True):
        if "SegmentIdentificationSequence" not in group:
            segment = shared.SegmentIdentificationSequence[0]
        else:
            segment = group.SegmentIdentificationSequence[0]
        number = segment.ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        frames[labels[number], int(source.get("ReferencedFrameNumber", 1))] = page
    return frames


@pytest.mark.parametrize("placed", [True, False])
def test_dicom_segmentation_references_the_frames(predicted, tmp_path, placed):
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    changed = {} if placed else {"PerFrameFunctionalGroupsSequence": []}
    path = write_dicom(tmp_path / "a.dcm", volume(), **changed)
    record = open_volume(path)
    assert record.superior_first is placed
    predicted.add_record(record)
    assert write(predicted, "dicom-seg") == []

    # pixel by pixel, at the frame of the source that shows them
    fluid = predicted.expected(record, "fluid")
    layers = predicted.expected(record, "layers")
    frames = frames_of(predicted.work.out / "dicom_seg/a_fluid.dcm")
    assert len(frames) == 4
    for index in range(4):
        assert np.array_equal(frames["fluid", index + 1], fluid[index])
    frames = frames_of(predicted.work.out / "dicom_seg/a_layers.dcm")
    assert len(frames) == 4 * len(LAYERS)
    for index in range(4):
        for number, name in enumerate(LAYERS, 1):
            assert np.array_equal(frames[name, index + 1], layers[index] == number)

    # study and frame UIDs, scale and network
    source = pydicom.dcmread(path)
    written = pydicom.dcmread(predicted.work.out / "dicom_seg/a_fluid.dcm")
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    same_frame = written.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert same_frame is placed
    reference = written.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == source.SeriesInstanceUID
    instance = reference.ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == pytest.approx([AXIAL_MM, LATERAL_MM])
    segment = written.SegmentSequence[0]
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("some-net", "ab" * 6)


def test_dicom_segmentation_tells_nothing_of_the_patient(predicted, tmp_path):
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    record = open_volume(write_dicom(tmp_path / "a.dcm", volume()))
    predicted.add_record(record)
    write(predicted, "dicom-seg")
    path = predicted.work.out / "dicom_seg/a_fluid.dcm"
    content = path.read_bytes()
    for text in (*record.private, *PRIVATE.values(), "20190506", "101112", str(tmp_path)):
        assert text.encode() not in content
    header = pydicom.dcmread(path)
    assert not header.PatientName and not header.PatientID and not header.StudyDate

    # the date alone, then all of it
    predicted.work.privacy.keep_dates = True
    write(predicted, "dicom-seg")
    header = pydicom.dcmread(path)
    assert header.StudyDate == "20190506" and not header.StudyTime and not header.PatientID
    predicted.work.privacy.keep_identifiers = True
    write(predicted, "dicom-seg")
    header = pydicom.dcmread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
        assert header[keyword].value == PRIVATE[keyword]


def test_a_file_of_one_frame_without_functional_groups(predicted, tmp_path):
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    path = write_dicom(tmp_path / "a.dcm", volume(1))
    source = pydicom.dcmread(path)
    for keyword in ("NumberOfFrames", "FrameOfReferenceUID"):
        del source[keyword]
    for groups in ("Shared", "PerFrame"):
        del source[f"{groups}FunctionalGroupsSequence"]
    secondary_capture = "1.2.840.10008.5.1.4.1.1.7"
    source.SOPClassUID = secondary_capture
    source.file_meta.MediaStorageSOPClassUID = secondary_capture
    source.Modality = "OT"
    source.PixelSpacing = [AXIAL_MM, LATERAL_MM]
    source.save_as(path)
    record = open_volume(path)
    assert record.pattern == "line" and record.scale_um == pytest.approx((4, 12))
    predicted.add("a", origin=(record, 0))
    write(predicted, "dicom-seg")
    frames = frames_of(predicted.work.out / "dicom_seg/a_fluid.dcm")
    assert np.array_equal(frames["fluid", 1], predicted.fluid["a"])


def test_only_dicom_becomes_dicom(predicted, tmp_path):
    pytest.importorskip("highdicom")
    predicted.add_record(open_volume(write_mhd(tmp_path / "a.mhd", volume())))
    (note,) = write(predicted, "dicom-seg")
    assert note == "no DICOM segmentation, as their files are no DICOM: a"
    assert not (predicted.work.out / "dicom_seg").exists()


def test_dicom_segmentation_without_highdicom_is_one_line(monkeypatch):
    import sys

    from dme.report.dicom_seg import require_highdicom

    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"needs the package highdicom: pip install 'dme\[dicom"):
        require_highdicom()
