"""Files of devices -> volumes: which module reads which kind of file."""

from importlib import import_module
from pathlib import Path

from dme.common.errors import InputError
from dme.common.words import VOLUME_READERS
from dme.data import metaimage, tiff_pages
from dme.data.heidelberg_xml import is_export
from dme.data.volume_record import VolumeRecord

DICOM = b"DICM"  # at byte DICOM_AT of a file
DICOM_AT = 128


def volume_reader(path: Path) -> str | None:
    """The module of dme.data that reads a file as a volume; None if none does.

    Known by the name; DICOM also without one, and TIFF where it has several pages.
    """
    name = path.name.lower()
    for suffix, module in VOLUME_READERS.items():
        if name.endswith(suffix):
            return module
    if name.endswith(tiff_pages.SUFFIXES) and tiff_pages.page_count(path) > 1:
        return "tiff_pages"
    if not path.suffix and path.is_file() and _begins_as_dicom(path):
        return "dicom"
    return None


def holds_volume(file: Path) -> bool:
    """Whether a file that lies in a folder is a device's: not every XML is an export."""
    reader = volume_reader(file)
    return reader is not None and (reader != "heidelberg_xml" or is_export(file))


def names_pictures(file: Path) -> bool:
    """Whether a device's file says which of the pictures beside it are its B-scans."""
    return volume_reader(file) == "heidelberg_xml"


def is_part(path: Path) -> bool:
    """Whether a file belongs to a volume beside it: the numbers or the labels of a .mhd."""
    numbers = path.suffix.lower() == ".raw" and path.with_suffix(".mhd").is_file()
    return numbers or metaimage.is_reference(path)


def _begins_as_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(DICOM) + DICOM_AT)[DICOM_AT:] == DICOM
    except OSError:  # reading it will say why
        return False


def open_volume(path: Path) -> VolumeRecord:
    """The volume of a file of a device, its pixels not yet read. Raises InputError."""
    module = volume_reader(path)
    if module is None:
        expected = f"expected one of {' '.join(VOLUME_READERS)}"
        raise InputError(f"{path}: unknown kind of file; {expected}")
    if not path.is_file():
        raise InputError(f"{path}: expected a file; a folder, pipe or device holds no volume")
    return import_module(f"dme.data.{module}").open_volume(path)
