"""Files of one scan for the page: a small picture of its overlay, and its pixels' values.

A page that was opened as a file may read neither the pixels of pictures nor other files; it may
run scripts beside it. So the values are a script that hands them over.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.files import atomic_path
from dme.drawing.panels import fitting

THUMBNAIL_PX = 220  # width
THUMBNAIL_QUALITY = 82  # of JPEG
KINDS = {np.dtype(np.uint8): "u1", np.dtype(np.float32): "<f4"}  # whatever the machine's order


def write_thumbnail(path: Path, picture: np.ndarray, strip: int) -> None:
    """A small JPEG of a picture uint8 (H, W, 3) without the strip at its foot."""
    small = fitting(Image.fromarray(picture), THUMBNAIL_PX, strip)
    with atomic_path(path) as temporary:
        small.save(temporary, format="JPEG", quality=THUMBNAIL_QUALITY)


def write_values(path: Path, name: str, values: Mapping[str, np.ndarray | None]) -> None:
    """A script that calls `dme.receive` with a scan's name and arrays of uint8 or float32.

    Each is the base64 of a zlib stream of its values, row by row; what is None is left out.
    """
    record = {"name": name}
    for key, array in values.items():
        if array is not None:
            record[key] = packed(array)
    with atomic_path(path) as temporary:
        temporary.write_text(f"dme.receive({json.dumps(record)});\n", encoding="ascii")


def packed(array: np.ndarray) -> str:
    """Values of an array as text."""
    plain = np.ascontiguousarray(array, KINDS[array.dtype])
    return base64.b64encode(zlib.compress(plain.tobytes())).decode()
