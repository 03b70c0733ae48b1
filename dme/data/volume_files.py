"""Files of devices -> volumes: which module reads which kind of file."""

from importlib import import_module
from pathlib import Path

from dme.common.errors import InputError
from dme.common.words import VOLUME_READERS
from dme.data.heidelberg_xml import is_export
from dme.data.volume_record import VolumeRecord


def volume_reader(name: str) -> str | None:
    """The module of dme.data that reads files of this name; None if none does."""
    name = name.lower()
    for suffix, module in VOLUME_READERS.items():
        if name.endswith(suffix):
            return module
    return None


def holds_volume(file: Path) -> bool:
    """Whether a file that lies in a folder is a device's: not every XML is an export."""
    reader = volume_reader(file.name)
    return reader is not None and (reader != "heidelberg_xml" or is_export(file))


def names_pictures(file: Path) -> bool:
    """Whether a device's file says which of the pictures beside it are its B-scans."""
    return volume_reader(file.name) == "heidelberg_xml"


def open_volume(path: Path) -> VolumeRecord:
    """The volume of a file of a device, its pixels not yet read. Raises InputError."""
    module = volume_reader(path.name)
    if module is None:
        expected = f"expected one of {' '.join(VOLUME_READERS)}"
        raise InputError(f"{path}: unknown kind of file; {expected}")
    if not path.is_file():
        raise InputError(f"{path}: expected a file; a folder, pipe or device holds no volume")
    return import_module(f"dme.data.{module}").open_volume(path)
