"""Small files as other devices and programs write them, SYNTHETIC, with planted names."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from dme.data.nifti import itk_affine, write_nifti

AXIAL_MM = 0.004
LATERAL_MM = 0.012
SPACING_MM = 0.12
# of a patient that there is not
PRIVATE = {
    "PatientName": "Planteau^Zoe",
    "PatientID": "PATNUM77",
    "PatientBirthDate": "19500203",
    "AccessionNumber": "ACCNUM31",
    "DeviceSerialNumber": "SERNUM99",
    "AcquisitionDateTime": "20190506101112",
    "InstitutionName": "Planted Clinic",
}


def volume(bscans=4, height=48, width=40, seed=0) -> np.ndarray:
    """B-scans uint8 (N, H, W): a bright band in the dark, elsewhere in each."""
    rows = np.arange(height)[:, None] + np.zeros(width)
    pixels = np.random.default_rng(seed).integers(0, 20, (bscans, height, width))
    for index in range(bscans):
        pixels[index] += np.where(abs(rows - height / 2 - index) < 6, 160 + index, 0).astype(int)
    return pixels.astype(np.uint8)


def write_mhd(path: Path, pixels: np.ndarray, **changed) -> Path:
    kinds = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "float32": "MET_FLOAT"}
    bscans, height, width = pixels.shape
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "DimSize": f"{width} {height} {bscans}",
        "ElementSpacing": f"{LATERAL_MM} {AXIAL_MM} {SPACING_MM}",
        "ElementType": kinds[pixels.dtype.name],
    } | changed
    lines.setdefault("ElementDataFile", path.with_suffix(".raw").name)
    lines["ElementDataFile"] = lines.pop("ElementDataFile")  # which is the last line
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
    path.with_suffix(".raw").write_bytes(pixels.tobytes())
    return path


def write_nii(path: Path, pixels: np.ndarray) -> Path:
    """uint8 volumes, packed or not."""
    packed = path.with_name(f"{path.name.split('.')[0]}.nii.gz")
    write_nifti(packed, pixels, itk_affine((LATERAL_MM, AXIAL_MM, SPACING_MM)), True)
    if path.name.endswith(".gz"):
        return packed
    import gzip

    path.write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return path


def topcon_parts(parts: dict[str, bytes]) -> bytes:
    content = struct.pack("<4s3sII", b"FOCT", b"FDA", 2, 0)
    for name, data in parts.items():
        content += bytes([len(name)]) + name.encode() + struct.pack("<I", len(data)) + data
    return content + b"\0"


def _topcon_common(width: int, bscans: int) -> dict[str, bytes]:
    wide_mm = LATERAL_MM * width
    high_mm = SPACING_MM * bscans
    patient = struct.pack("<32s32s32s8s", b"PATNUM77", b"Zoe", b"Planteau", b"")
    patient += struct.pack("<B3H", 2, 1950, 2, 3) + bytes(400)
    capture = struct.pack("<BBI100s6H", 1, 2, 7, b"label", 2019, 5, 6, 10, 11, 12)
    device = struct.pack("<16s16s16s16s16s", b"3DOCT-2000", b"SERNUM99", b"SPECSN98", b"8", b"")
    return {
        "@PARAM_SCAN_04": struct.pack(
            "<3I5dBB", 1, 2, 3, wide_mm, high_mm, AXIAL_MM * 1e3, 0, 0, 0, 0
        ),
        "@PATIENT_INFO_02": patient,
        "@CAPTURE_INFO_02": capture,
        "@HW_INFO_03": device + struct.pack("<10H", *range(10)),
    }


def write_fds(path: Path, pixels: np.ndarray, mode=2) -> Path:
    """uint16 B-scans."""
    bscans, height, width = pixels.shape
    head = struct.pack("<B4IBI", mode, width, height, 16, bscans, 0, pixels.nbytes)
    parts = {"@IMG_SCAN_03": head + pixels.astype("<u2").tobytes()}
    path.write_bytes(topcon_parts(parts | _topcon_common(width, bscans)))
    return path


def write_fda(path: Path, pixels: np.ndarray, mode=2) -> Path:
    """uint8 B-scans as lossless JPEG 2000."""
    bscans, height, width = pixels.shape
    content = struct.pack("<B6I", mode, 0, 0, width, height, bscans, 0)
    for bscan in pixels:
        picture = io.BytesIO()
        Image.fromarray(bscan).save(picture, "JPEG2000")
        content += struct.pack("<I", picture.tell()) + picture.getvalue()
    path.write_bytes(topcon_parts({"@IMG_JPEG": content} | _topcon_common(width, bscans)))
    return path


def write_img(path: Path, pixels: np.ndarray) -> Path:
    """B-scans of 1024 rows."""
    path.write_bytes(np.ascontiguousarray(pixels[:, ::-1, ::-1]).tobytes())
    return path


def write_bioptigen(path: Path, pixels: np.ndarray, **changed) -> Path:
    """uint16 B-scans."""
    bscans, height, width = pixels.shape
    integers = {
        "FRAMECOUNT": bscans,
        "LINECOUNT": width,
        "LINELENGTH": height,
        "SAMPLEFORMAT": 2,
    }
    floats = {
        "SCANDEPTH": AXIAL_MM * height,
        "SCANLENGTH": 0.0,
        "AZSCANLENGTH": LATERAL_MM * width,
        "ELSCANLENGTH": SPACING_MM * bscans,
        "OBJECTDISTANCE": 0.0,
        "SCANANGLE": 0.0,
    }
    last = {"SCANS": bscans, "FRAMES": 1, "DOPPLERFLAG": 0} | changed
    content = struct.pack("<IH", 0x0C7DA7A5, 266) + _field("FRAMEHEADER", bytes(4))[:-4]
    for name, value in integers.items():
        content += _field(name, struct.pack("<I", value))
    content += _field("DESCRIPTION", b"PATNUM77")
    for axis in "XY":
        content += _field(f"{axis}MIN", struct.pack("<d", 0))
        content += _field(f"{axis}MAX", struct.pack("<d", 1))
        content += _field(f"{axis}CAPTION", b"mm")
    content += _field("SCANTYPE", struct.pack("<I", last.pop("SCANTYPE", 1)))
    for name, value in floats.items():
        content += _field(name, struct.pack("<d", value))
    for name, value in last.items():
        content += _field(name, struct.pack("<I", value))
    content += _field("CONFIG", bytes(8)) + bytes(4)
    for bscan in pixels:
        content += _field("FRAMEDATA", bytes(4))[:-4]
        content += _field("FRAMEDATETIME", struct.pack("<8H", 2019, 5, 1, 6, 10, 11, 12, 0))
        content += _field("FRAMETIMESTAMP", struct.pack("<d", 0))
        content += _field("FRAMELINES", struct.pack("<I", width))
        content += _field("FRAMESAMPLES", bscan.T.astype("<u2").tobytes()) + bytes(4)
    path.write_bytes(content)
    return path


def _field(name: str, data: bytes) -> bytes:
    return struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", len(data)) + data


def write_tiff(path: Path, pixels: np.ndarray) -> Path:
    pages = [Image.fromarray(bscan) for bscan in pixels]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def write_dicom(path: Path, pixels: np.ndarray, syntax=None, **changed) -> Path:
    """A multi-frame file with planted names; syntax: a transfer syntax to compress it with."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    bscans = len(pixels)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["instance"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    for level in ("Study", "Series"):
        setattr(header, f"{level}InstanceUID", generate_uid(entropy_srcs=[level]))
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    for keyword, value in PRIVATE.items():
        setattr(header, keyword, value)
    header.StudyDate = "20190506"
    header.StudyTime = "101112"
    header.StudyID = "STUDYNUM5"
    header.ReferringPhysicianName = "Refplant^Ada"
    header.PatientSex = "F"
    header.Modality = "OPT"
    header.Manufacturer = "Maker"
    header.ManufacturerModelName = "Model"
    header.ImageLaterality = "R"
    header.SeriesNumber = 3
    header.InstanceNumber = 1
    _add_pixels(header, pixels)
    _add_places(header, bscans)
    for keyword, value in changed.items():
        setattr(header, keyword, value)
    if syntax:
        header.compress(syntax)
    header.save_as(path, enforce_file_format=True)
    return path


def _add_pixels(header, pixels: np.ndarray) -> None:
    bscans, height, width = pixels.shape
    header.Rows = height
    header.Columns = width
    header.NumberOfFrames = bscans
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = pixels.dtype.itemsize * 8
    header.BitsStored = header.BitsAllocated
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = 0
    header.PixelData = pixels.tobytes()


def _add_places(header, bscans: int) -> None:
    """Rows run to the left of the patient, columns to the back, frames down."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    measures = Dataset()
    measures.PixelSpacing = [AXIAL_MM, LATERAL_MM]
    measures.SliceThickness = SPACING_MM
    orientation = Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for index in range(bscans):
        position = Dataset()
        position.ImagePositionPatient = [0, 0, -SPACING_MM * index]
        group = Dataset()
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = Sequence(groups)


def ufloat(grey: np.ndarray) -> np.ndarray:
    """Grey values 0 to 255 as reflectivity, its fourth power, in the 16 bits of an .e2e file."""
    reflectivity = np.maximum((grey / 255) ** 4, 2.0**-60)
    exponent = np.floor(np.log2(reflectivity)).astype(int)
    mantissa = np.floor((reflectivity / 2.0**exponent - 1) * 1024).astype(int)
    return ((exponent + 63) * 1024 + mantissa).astype("<u2")


def write_e2e(path: Path, pixels: np.ndarray, sides=b"L", key=(5, 6, 7)) -> Path:
    """uint8 B-scans side by side, the first the lowest."""
    bscans, height, width = pixels.shape
    parts = []  # type, slice, number among its kind, content
    parts.append(
        (
            9,
            -1,
            0,
            b"Zoe".ljust(31, b"\0")
            + b"Planteau".ljust(66, b"\0")
            + struct.pack("<IB", 64 * (2433316 + 14558805), 0)  # 1950-02-03 as a Julian day
            + b"PATNUM77".ljust(25, b"\0"),
        )
    )
    for side in sides:
        parts.append((11, -1, 0, bytes(14) + bytes([side]) + bytes(12)))
    ticks = 132016110720000000  # 2019-05-06, 10:11:12
    for index in range(bscans):
        y = -5 + index
        place = struct.pack("<3I4fIfff", 0, height, width, -7.5, y, 7.5, y, 0, 0, AXIAL_MM, 0)
        place += struct.pack("<I2fI4I2fIQ", 0, 0, 0, 0, width, bscans, index, 1, 0, y, 0, ticks)
        parts.append((10004, 2 * index, 0xFFFF, place + bytes(300)))
        picture = struct.pack("<5I", 0, 35652097, height * width, height, width)
        parts.append((0x40000000, 2 * index, 1, picture + ufloat(pixels[index]).tobytes()))
    enface = struct.pack("<5I", 0, 33620481, 16, 4, 4) + bytes(16)
    parts.append((0x40000000, -1, 0, enface))

    # directories of at most 8 entries, each before its containers; the last names the one before
    content = b"CMDb".ljust(12, b"\0") + struct.pack("<I", 100) + bytes(20)
    directories = []
    body = b""
    at = 36 + 52
    for first in range(0, len(parts), 8):
        group = parts[first : first + 8]
        place = at + len(body)
        begin = place + 52 + 44 * len(group)
        entries = containers = b""
        for kind, number, copy, data in group:
            here = begin + len(containers)
            entries += struct.pack("<4I", place, here, len(data), 0)
            entries += struct.pack("<3Ii2H2I", *key, number, copy, 0, kind, 0)
            containers += b"MDbData".ljust(12, b"\0")
            containers += struct.pack("<5I", 0, place, here, len(data), 0)
            containers += struct.pack("<3Ii2H2I", *key, number, copy, 0, kind, 0) + data
        before = directories[-1] if directories else 0
        body += _directory(b"MDbDir", len(group), place, before) + entries + containers
        directories.append(place)
    path.write_bytes(content + _directory(b"MDbMDir", 0, directories[-1], 0) + body)
    return path


def _directory(magic: bytes, entries: int, current: int, before: int) -> bytes:
    start = magic.ljust(12, b"\0") + struct.pack("<I", 100) + bytes(20)
    return start + struct.pack("<4I", entries, current, before, 0)
