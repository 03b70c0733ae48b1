"""Files of devices and programs other than Spectralis: SYNTHETIC ones, as their writers say."""

import gzip
import struct
import sys

import numpy as np
import pytest
from helpers.device_files import (
    AXIAL_MM,
    LATERAL_MM,
    PRIVATE,
    SPACING_MM,
    volume,
    write_bioptigen,
    write_dicom,
    write_e2e,
    write_fda,
    write_fds,
    write_img,
    write_mhd,
    write_nii,
    write_tiff,
)
from PIL import Image

from dme.common.errors import InputError
from dme.data import nifti
from dme.data.codestreams import stated_size
from dme.data.volume_files import open_volume, volume_reader
from dme.data.volume_scale import scale_fault
from dme.report.inputs import list_items

SCALE_UM = [1e3 * AXIAL_MM, 1e3 * LATERAL_MM, 1e3 * SPACING_MM]
SHALLOW = {
    "a.mhd": write_mhd,
    "a.nii": write_nii,
    "a.nii.gz": write_nii,
    "a.fda": write_fda,
}
DEEP = {"a.mhd": write_mhd, "a.fds": write_fds, "a.oct": write_bioptigen}


def read_all(record) -> np.ndarray:
    return np.stack([record.read(index) for index in range(record.bscans)])


@pytest.mark.parametrize("name", SHALLOW)
def test_eight_bits_are_read_as_they_were_written(name, tmp_path):
    pixels = volume()
    record = open_volume(SHALLOW[name](tmp_path / name, pixels))
    assert np.array_equal(read_all(record), pixels)
    assert record.scale_um == pytest.approx(SCALE_UM)
    assert record.pattern == "raster" and scale_fault(record) is None
    assert not any(text in repr(record) for text in record.private)


@pytest.mark.parametrize("name", DEEP)
def test_sixteen_bits_share_the_white_of_the_volume(name, tmp_path):
    pixels = volume().astype(np.uint16) * 16  # 12 bits
    record = open_volume(DEEP[name](tmp_path / name, pixels))
    assert np.array_equal(read_all(record), np.rint(pixels * (255 / 4095)))
    assert record.scale_um == pytest.approx(SCALE_UM)
    assert record.notes == ("uint16 values scaled by 255/4095",)


def test_floats_are_grey_values_or_refused(tmp_path):
    pixels = volume().astype(np.float32)
    assert np.array_equal(read_all(open_volume(write_mhd(tmp_path / "a.mhd", pixels))), pixels)
    dark = open_volume(write_mhd(tmp_path / "b.mhd", pixels / 255))
    with pytest.raises(InputError, match="b.mhd: B-scan 0 float values .* times 255"):
        dark.read(0)


# ---- MetaImage ----------------------------------------------------------------------------------
def test_metaimage_agrees_with_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    pixels = volume()
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((LATERAL_MM, AXIAL_MM, SPACING_MM))
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    record = open_volume(tmp_path / "a.mhd")
    assert np.array_equal(read_all(record), pixels)
    assert record.scale_um == pytest.approx(SCALE_UM)


def test_labels_of_retouch_come_along(tmp_path):
    pixels = volume()
    labels = (pixels > 100).astype(np.uint8) * 3
    write_mhd(tmp_path / "oct.mhd", pixels)
    write_mhd(tmp_path / "reference.mhd", labels)
    record = open_volume(tmp_path / "oct.mhd")
    assert np.array_equal(record.fluid(2), labels[2] > 0)
    with pytest.raises(InputError, match="holds labels of oct.mhd"):
        open_volume(tmp_path / "reference.mhd")
    (item,), faults = list_items([str(tmp_path)])
    assert len(item.scans(set())) == 4 and not faults
    write_mhd(tmp_path / "reference.mhd", labels[1:])
    with pytest.raises(InputError, match="reference.mhd: .* expected"):
        open_volume(tmp_path / "oct.mhd")


def test_faults_of_metaimages_are_one_line(tmp_path):
    path = tmp_path / "a.mhd"
    for changed, message in (
        ({"DimSize": "40 48 5"}, "describes 9600 bytes, a.raw has 7680"),
        ({"DimSize": "40 48"}, "DimSize is 40 48, expected 3 numbers"),
        ({"DimSize": "40 1e3 4"}, "expected 3 numbers"),
        ({"DimSize": "99999999999 48 4"}, "B-scans of 48 x 99999999999 px"),
        ({"ElementSpacing": "nan 1 1"}, "ElementSpacing is nan 1 1"),
        ({"ElementType": "MET_DOUBLE"}, "ElementType MET_DOUBLE"),
        ({"CompressedData": "True"}, "save it uncompressed"),
        ({"ElementDataFile": "../a.raw"}, "'../a.raw', expected the name of a .raw file"),
        ({"ElementDataFile": "LOCAL"}, "'LOCAL', expected the name"),
        ({"ElementDataFile": "b.raw"}, "b.raw is not beside it"),
        ({"ObjectType": "Tube"}, "no MetaImage header of an image"),
    ):
        write_mhd(path, volume(), **changed)
        with pytest.raises(InputError, match=message) as error:
            open_volume(path)
        assert "\n" not in str(error.value)
    record = open_volume(write_mhd(path, volume(), ElementSpacing="12 4 120"))
    assert "look like m" in scale_fault(record) or "um" in scale_fault(record)


# ---- NIfTI --------------------------------------------------------------------------------------
def test_nifti_agrees_with_nibabel(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pixels = volume()
    columns_first = pixels.transpose(2, 1, 0)
    affine = np.diag([-LATERAL_MM, -AXIAL_MM, SPACING_MM, 1])
    for dtype, factor in ((np.uint8, 1), (np.int16, 1), (np.float32, 1), (np.uint16, 16)):
        image = nibabel.Nifti1Image(columns_first.astype(dtype) * dtype(factor), affine)
        image.header.set_xyzt_units("mm")
        for name in (f"{dtype.__name__}.nii", f"{dtype.__name__}.nii.gz"):
            nibabel.save(image, tmp_path / name)
            record = open_volume(tmp_path / name)
            expected = pixels if factor == 1 else np.rint(pixels * (16 * 255 / 4095))
            assert np.array_equal(read_all(record), expected)
            assert record.scale_um == pytest.approx(SCALE_UM)


def test_faults_of_nifti_are_one_line(tmp_path):
    path = tmp_path / "a.nii"
    whole = write_nii(path, volume()).read_bytes()

    def fault(offset: int, kind: str, *values) -> str:
        content = bytearray(whole)
        struct.pack_into(f"<{kind}", content, offset, *values)
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            open_volume(path)
        return str(error.value)

    assert "no NIfTI-1 header" in fault(0, "i", 540)
    assert "header and numbers in two files" in fault(344, "4s", b"ni1\0")
    assert "describes 9952 bytes, the file has 8032" in fault(46, "h", 5)
    assert "B-scans of 48 x 32000 px" in fault(42, "h", 32000)
    assert "axes (40, 48, 4, 2), expected" in fault(40, "5h", 4, 40, 48, 4, 2)
    assert "type 2 with 16 bits" in fault(72, "h", 16)
    assert "type 128 with 24 bits" in fault(70, "2h", 128, 24)  # colour
    assert "contradicts itself" in fault(80, "f", 0.02)
    assert "numbers at byte nan" in fault(108, "f", float("nan"))
    assert "values times -1" in fault(112, "f", -1)
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="it is damaged or ends early"):
        open_volume(path)


def test_a_gzip_file_is_looked_at_before_it_is_unpacked(tmp_path):
    path = tmp_path / "a.nii.gz"
    whole = gzip.decompress(write_nii(path, volume()).read_bytes())
    header = bytearray(whole)
    struct.pack_into("<4h", header, 40, 3, 4000, 4000, 100)
    path.write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(InputError, match="its header describes 1600000352 bytes"):
        open_volume(path)
    path.write_bytes(gzip.compress(whole + bytes(1 << 22)))  # more than it says
    with pytest.raises(InputError, match="unpacked it has 8033 or more"):
        open_volume(path)
    path.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(InputError, match="not a whole gzip file"):
        open_volume(path)


def test_of_gzip_files_one_at_a_time_is_kept(tmp_path):
    records = []
    for seed in range(3):
        path = write_nii(tmp_path / f"{seed}.nii.gz", volume(seed=seed))
        records.append(open_volume(path))
    for seed, record in enumerate(records):
        assert np.array_equal(read_all(record), volume(seed=seed))
    assert nifti._content.cache_info().currsize == 1


# ---- Topcon, Zeiss, Bioptigen -------------------------------------------------------------------
def test_topcon_says_eye_device_date_and_what_is_private(tmp_path):
    record = open_volume(write_fda(tmp_path / "a.fda", volume()))
    assert (record.eye, record.device, record.date) == ("OS", "3DOCT-2000", "2019-05-06")
    assert {"PATNUM77", "Planteau", "Zoe", "SERNUM99"} <= set(record.private)
    radial = open_volume(write_fda(tmp_path / "b.fda", volume(), mode=3))
    assert radial.pattern == "radial" and radial.gaps_um is None and len(radial.scale_um) == 2


def test_a_topcon_picture_of_another_size_is_damage(tmp_path):
    path = tmp_path / "a.fda"
    content = write_fda(path, volume()).read_bytes()
    offset = content.index(b"\xff\x4f\xff\x51") + 8
    changed = bytearray(content)
    struct.pack_into(">I", changed, offset, 1 << 30)
    path.write_bytes(changed)
    with pytest.raises(InputError, match="B-scan 0 is .*1073741824.* px, expected a JPEG 2000"):
        open_volume(path).read(0)
    path.write_bytes(content[:-1200])
    with pytest.raises(InputError, match="damaged or ends early"):
        open_volume(path)


def test_a_zeiss_cube_stands_upright_and_has_no_scale(tmp_path):
    pixels = volume(bscans=3, height=1024, width=256)
    name = "PCZMI7_Macular Cube 256x3_1-2-2019_10-11-12_OS_sn4711_cube_z.img"
    record = open_volume(write_img(tmp_path / name, pixels))
    assert np.array_equal(read_all(record), pixels)
    assert record.eye == "OS" and record.superior_first and record.scale_um is None
    assert set(record.private) == {"PCZMI7", "1-2-2019", "10-11-12", "sn4711"}
    assert "--scale" in record.notes[-1]
    with pytest.raises(InputError, match="786432 bytes, expected those of 512x128 or 200x200"):
        open_volume(write_img(tmp_path / "cube.img", pixels))


def test_repeated_places_of_bioptigen_are_no_raster(tmp_path):
    pixels = volume().astype(np.uint16)
    record = open_volume(write_bioptigen(tmp_path / "a.oct", pixels, SCANS=2, FRAMES=2))
    assert record.pattern == "other" and record.gaps_um is None
    record = open_volume(write_bioptigen(tmp_path / "a.oct", pixels, SCANTYPE=3))
    assert record.pattern == "radial"
    with pytest.raises(InputError, match="a Doppler scan"):
        open_volume(write_bioptigen(tmp_path / "a.oct", pixels, DOPPLERFLAG=1))
    (tmp_path / "b.oct").write_bytes(pixels.astype(np.float32).tobytes())
    with pytest.raises(InputError, match="Optovue's .oct is not read .* export"):
        open_volume(tmp_path / "b.oct")


# ---- TIFF ---------------------------------------------------------------------------------------
def test_pages_of_a_tiff_are_a_volume(tmp_path):
    pixels = volume()
    path = write_tiff(tmp_path / "a.tif", pixels)
    record = open_volume(path)
    assert np.array_equal(read_all(record), pixels) and record.scale_um is None
    deep = open_volume(write_tiff(tmp_path / "b.tiff", pixels.astype(np.uint16) * 16))
    assert np.array_equal(read_all(deep), np.rint(pixels * (16 * 255 / 4095)))
    colour = open_volume(write_tiff(tmp_path / "c.tif", np.stack([pixels] * 3, axis=-1)))
    assert np.abs(read_all(colour).astype(int) - pixels).max() <= 1

    # beside images of one page in a folder, each is its own item
    Image.fromarray(pixels[0]).save(tmp_path / "single.tif")
    items, faults = list_items([str(tmp_path)])
    assert sorted(len(item.scans(set())) for item in items) == [1, 4, 4, 4] and not faults
    (item,), _ = list_items([str(path)])
    assert [scan.position for scan in item.scans(set())] == [0, 1, 2, 3]


def test_pages_of_two_sizes_are_refused(tmp_path):
    pages = [Image.fromarray(volume()[0]), Image.fromarray(volume(height=40)[0])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="page 1 is 40 x 40 px, the first is 48 x 40"):
        open_volume(tmp_path / "a.tif")


# ---- DICOM --------------------------------------------------------------------------------------
def test_dicom_without_pydicom_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=r"pydicom: pip install 'dme\[dicom\]'"):
        open_volume(tmp_path / "a.dcm")


def test_dicom_frames_scale_eye_and_places(tmp_path):
    pytest.importorskip("pydicom")
    pixels = volume()
    record = open_volume(write_dicom(tmp_path / "a.dcm", pixels))
    assert np.array_equal(read_all(record), pixels)
    assert record.scale_um == pytest.approx(SCALE_UM)
    assert record.gaps_um == pytest.approx([SCALE_UM[2]] * 3) and scale_fault(record) is None
    assert record.pattern == "raster" and record.superior_first and record.eye == "OD"
    assert (record.device, record.date) == ("Maker Model", "2019-05-06")
    assert set(PRIVATE.values()) | {"Zoe", "Planteau", "STUDYNUM5"} <= set(record.private)
    assert not any(text in repr(record) for text in record.private)

    # named by nothing but its content
    path = write_dicom(tmp_path / "IM000001", pixels.astype(np.uint16) * 16)
    assert volume_reader(path) == "dicom"
    assert np.array_equal(read_all(open_volume(path)), np.rint(pixels * (16 * 255 / 4095)))


@pytest.mark.parametrize("syntax", ["JPEG2000Lossless", "JPEGLSLossless", "RLELossless"])
def test_compressed_dicom(syntax, tmp_path):
    uid = pytest.importorskip("pydicom.uid")
    pixels = volume()
    try:
        path = write_dicom(tmp_path / "a.dcm", pixels, getattr(uid, syntax))
    except RuntimeError:
        pytest.skip(f"no package here encodes {syntax}")
    assert np.array_equal(read_all(open_volume(path)), pixels)
    deep = pixels.astype(np.uint16) * 16
    path = write_dicom(tmp_path / "b.dcm", deep, getattr(uid, syntax))
    assert np.array_equal(read_all(open_volume(path)), np.rint(deep * (255 / 4095)))


def test_a_missing_decoder_is_one_line(tmp_path, monkeypatch):
    uid = pytest.importorskip("pydicom.uid")
    decoders = pytest.importorskip("pydicom.pixels.decoders.base")
    path = write_dicom(tmp_path / "a.dcm", volume(), uid.RLELossless)
    monkeypatch.setattr(decoders.Decoder, "available_plugins", ("gdcm",))
    with pytest.raises(InputError, match="no package here decodes RLE Lossless: pip install"):
        open_volume(path)


def test_contradictions_in_dicom_are_one_line(tmp_path):
    pytest.importorskip("pydicom")
    path = tmp_path / "a.dcm"
    for changed, message in (
        ({"Modality": "OP"}, "modality OP, expected OPT"),
        ({"NumberOfFrames": 400}, "400 frames of 48 x 40 px take 768000 bytes"),
        ({"NumberOfFrames": 3}, "functional groups of 4"),
        ({"Rows": 60000}, "B-scans of 60000 x 40 px"),
        ({"BitsAllocated": 32}, "1 values of 32 bits"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "black on white"),
    ):
        write_dicom(path, volume(), **changed)
        with pytest.raises(InputError, match=message) as error:
            open_volume(path)
        assert "\n" not in str(error.value)
    both = open_volume(write_dicom(path, volume(), Laterality="L"))
    assert both.eye is None and "both eyes" in both.notes[-1]


def test_the_size_that_a_compressed_picture_states():
    assert stated_size(b"") is None and stated_size(b"\xff\xd8\xff") is None
    start = b"\xff\xd8\xff\xe0\0\4ab" + b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", 48, 40) + b"\1"
    assert stated_size(start) == (48, 40)
    assert stated_size(start[:-1] + b"\x09") is None  # colours
    sizes = struct.pack(">8IH", 45, 50, 5, 2, 45, 50, 0, 0, 1)
    stream = b"\xff\x4f\xff\x51" + b"\0\x2f\0\0" + sizes
    assert stated_size(stream) == (48, 40)
    assert stated_size(b"\0\0\0\x0cjP  \r\n" + stream) == (48, 40)
    assert stated_size(stream[:20]) is None


# ---- Heidelberg .e2e ----------------------------------------------------------------------------
def test_an_e2e_file_has_all_but_a_lateral_scale(tmp_path):
    pixels = volume(bscans=12)
    record = open_volume(write_e2e(tmp_path / "a.e2e", pixels))
    assert record.bscans == 12 and record.shape == (48, 40) and record.pattern == "raster"
    assert np.abs(read_all(record).astype(int) - pixels).max() <= 1
    assert (record.eye, record.date) == ("OS", "2019-05-06")
    assert record.scale_um is None and record.axial_um == pytest.approx(SCALE_UM[0])
    assert "no lateral scale in mm: give it with --scale (axial 4 um by the file)" in str(record)
    moments = {"1950-02-03", "2019-05-06", "10:11:12"}
    assert set(record.private) == {"PATNUM77", "Planteau", "Zoe"} | moments
    both = open_volume(write_e2e(tmp_path / "b.e2e", pixels, sides=b"LR"))
    assert both.eye is None and "both eyes" in both.notes[-1]
    multiple = b"E2EMultipleVolumeFile".ljust(64, b"\0") + (tmp_path / "a.e2e").read_bytes()
    (tmp_path / "c.e2e").write_bytes(multiple)
    assert np.array_equal(read_all(open_volume(tmp_path / "c.e2e")), read_all(record))


def test_faults_of_e2e_files_are_one_line(tmp_path):
    path = tmp_path / "a.e2e"
    whole = write_e2e(path, volume()).read_bytes()
    (place,) = struct.unpack_from("<I", whole, 36 + 40)
    picture = whole.index(struct.pack("<4I", 35652097, 1920, 48, 40)) + 8  # a B-scan's size

    def fault(offset: int, kind: str, *values) -> str:
        content = bytearray(whole)
        struct.pack_into(f"<{kind}", content, offset, *values)
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            open_volume(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no .e2e file" in fault(36, "4s", b"none")
    assert "directories without end" in fault(place + 44, "I", place)
    assert f"byte {place} is no directory" in fault(place, "4s", b"none")
    assert "takes bytes" in fault(place + 36, "I", 1 << 30)  # entries
    assert "container at byte" in fault(place + 52 + 12 + 12, "I", 77)  # series
    assert "B-scans of 100000 x 40 px" in fault(picture, "I", 100000)
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is damaged"):
        open_volume(path)


def test_several_series_in_one_e2e_file_are_refused(tmp_path):
    path = write_e2e(tmp_path / "a.e2e", volume(bscans=6))
    content = bytearray(path.read_bytes())
    # the last container's series, in its entry and in its own head, becomes another
    (place,) = struct.unpack_from("<I", content, 36 + 40)
    entries = struct.unpack_from("<I", content, place + 36)[0]
    for number in range(entries):
        entry = place + 52 + 44 * number
        (begin,) = struct.unpack_from("<I", content, entry + 4)
        struct.pack_into("<I", content, entry + 24, 8)
        struct.pack_into("<I", content, begin + 40, 8)
    path.write_bytes(content)
    with pytest.raises(InputError, match="2 series, of .* B-scans, expected one: export each"):
        open_volume(path)
