"""The named checkpoints.

Their names are in weights/zoo.json: an entry with `file` ships beside it, one with `url` is
fetched by `dme.nets.download.download`, and by nothing else.
"""

import json
from pathlib import Path

from dme.common.errors import InputError
from dme.common.files import cache_folder

# An installed package holds the folder weights/ as dme/zoo; a clone (also pip install -e) has it
# beside dme/
INSTALLED = Path(__file__).parents[1] / "zoo"
ZOO = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "weights"


def known() -> dict[str, dict]:
    """The named checkpoints by name.

    Each with arch, reported, licence, trained_on, sha256, and `file` or `url`.
    """
    return json.loads((ZOO / "zoo.json").read_text(encoding="utf-8"))


def path_of(name: str) -> Path:
    """Where a named checkpoint is or will be: shipped, or in $DME_CACHE/weights.

    Without that variable in ~/.cache/dme/weights. Raises InputError for another name.
    """
    entries = known()
    if name not in entries:
        raise InputError(
            f"unknown weights {name!r}; give a file (.pth) or one of {', '.join(entries)}"
        )
    if "file" in entries[name]:
        return ZOO / entries[name]["file"]
    return cache_folder() / "weights" / f"{name}.pth"
