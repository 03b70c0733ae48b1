"""Everything the project can read -> a source: Duke `.mat` files, a folder of images, the phantom.

`open_source` looks at names, index and fingerprint; pixels are read later.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import refuse_lost_links
from dme.data import phantom, phantom_cysts, phantom_devices
from dme.data.corrections import STATE, done_names
from dme.data.folder import open_folder
from dme.data.matlab import open_mat
from dme.data.source import Source, files_in

DEVICES = "phantom:devices"
CYSTS = "phantom:cysts"


def open_source(
    path: str | Path | None = None, grader: int = 1, fluid_value: tuple[int, ...] | None = None
) -> Source:
    """Open `path`, else what the environment variable DME_DATA names, else the synthetic phantom.

    The word `phantom` asks for the latter, `phantom:devices` for synthetic scans of a device that
    no training sees, with fluid in, under and below the retina, `phantom:cysts` for synthetic
    eyes that no training sees, with a large cyst under the ILM.
    `.mat`: one `Subject_NN.mat` of the Duke / Kaggle set or a folder of them, annotations of
    grader 1 or 2. Folder: `images/`, or images directly in it; beside them, optional and
    same-named, `fluid/` or `masks/` (`dme.data.layout` knows more layouts) and `boundaries/*.npy`
    (float (8, W)); and `index.csv`: name, subject, bscan and, if the scale is known, axial_um,
    lateral_um, spacing_um.
    fluid_value: the values of masks that are fluid; by default `dme.data.masks` finds out in a
    folder, and refuses what it does not understand, and all ids of a .mat file are.
    """
    # the phantom
    path = path or os.environ.get("DME_DATA")
    if grader not in (1, 2):
        raise InputError(f"grader {grader} does not exist: expected 1 or 2")
    fluid_value = tuple(fluid_value or ())
    _check_values(fluid_value, path)
    if not path:
        return _open_phantom("no DME_DATA given")
    if path == "phantom":
        return _open_phantom("as asked")
    if path == DEVICES:
        return _open_devices()
    if path == CYSTS:
        return _open_cysts()

    # files of MATLAB, or a folder of images
    root = Path(path)
    if not root.exists():
        raise InputError(
            f"no such file or folder: {root}; give a .mat file or a folder (`data` or DME_DATA)"
        )
    if root.is_file() and root.suffix.lower() != ".mat":
        raise InputError(
            f"{root} is neither a .mat file nor a folder: unpack archives, put images in a folder"
        )
    if root.is_dir():
        refuse_lost_links(root)
    if root.is_file() or files_in(root, (".mat",)):
        return open_mat(root, grader, fluid_value=fluid_value)
    if grader != 1:
        raise InputError(
            f"no grader {grader} in {root}: only .mat files have two; a folder has grader 1"
        )
    return open_folder(root, fluid_value)


def _check_values(fluid_value: tuple[int, ...], path: str | Path | None) -> None:
    if fluid_value and path in (None, "", "phantom", DEVICES, CYSTS):
        raise InputError("`fluid_value` is for masks in files, not for the phantom: leave it out")
    if not all(0 <= value <= 255 for value in fluid_value):
        text = " ".join(map(str, fluid_value))
        raise InputError(f"`fluid_value` {text}: expected values of masks, 0 to 255")


def _open_phantom(why: str) -> Source:
    text = f"SYNTHETIC phantom B-scans, {why} (results say nothing about real scans)"
    version = f"phantom_set() version {phantom.VERSION}"
    return _synthetic("phantom", version, text, phantom.phantom_set)


def _open_devices() -> Source:
    text = "SYNTHETIC B-scans of a device that no training sees (they say nothing about real ones)"
    version = f"held_out_scans() version {phantom_devices.VERSION}"
    return _synthetic("devices", version, text, phantom_devices.held_out_scans)


def _open_cysts() -> Source:
    text = "SYNTHETIC eyes with large cysts that no training sees (they say nothing of real ones)"
    version = f"cysts, held_out_scans() version {phantom_cysts.VERSION}"
    return _synthetic("cysts", version, text, phantom_cysts.held_out_scans)


def _synthetic(
    kind: str, version: str, description: str, scans: Callable[[], Iterator[BScan]]
) -> Source:
    """Scans that a function makes up; version: what makes them, in the fingerprint."""
    digest = hashlib.sha256(f"{version}\n".encode())
    reader = partial(_read_synthetic, scans)
    return Source(kind, "", digest.hexdigest(), description, reader)


def _read_synthetic(
    scans: Callable[[], Iterator[BScan]], source: Source, labelled_only: bool
) -> Iterator[BScan]:
    return scans()


def labelled_names(folder: Path) -> list[str]:
    """Names of the scans that somebody labelled: those done in a folder of annotate, or all those
    with labels in another source. Raises InputError for none."""
    if not folder.exists():
        raise InputError(f"`labelled` {folder}: no such file or folder; give the labelled scans")
    if (folder / STATE).is_file():
        return done_names(folder)
    source = open_source(folder)
    names = []
    for scan in source.scans():
        if scan.fluid is not None or scan.layers is not None:
            names.append(scan.name)
    if not names:
        raise InputError(f"no scan of {source.description} has labels; give those you labelled")
    return names
