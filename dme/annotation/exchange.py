"""What page and server tell each other of a scan, as JSON; nothing that comes in is trusted.

revision    how often the scan was saved since the server started
fluid       lengths of runs, row by row: so many pixels without fluid, with, without, ...
boundaries  base64 of float32, little endian, (8, W)
ungraded    pairs of first and last column
done        true or false
"""

import base64
import binascii
import json
from typing import Any

import numpy as np

from dme.data.corrections import Annotation
from dme.retina.rows import BOUNDARIES, MAX_CROSSING_PX, repair_boundaries

KEYS = {"revision", "fluid", "boundaries", "ungraded", "done"}
MOST_RANGES = 64
BYTES_OF_A_RUN = 10  # in JSON, of a mask whose pixels alternate far less than this allows
BYTES_BESIDE = 1 << 16  # for everything that is short


class Refused(Exception):
    """A request that cannot be: the message says what was found and expected."""


def most_bytes(shape: tuple[int, int]) -> int:
    """How long the JSON of a scan of (height, width) can be."""
    height, width = shape
    return BYTES_OF_A_RUN * height * width // 2 + 48 * width + BYTES_BESIDE


def packed(annotation: Annotation, revision: int) -> dict:
    """What the page gets."""
    boundaries = None
    if annotation.boundaries is not None:
        rows = annotation.boundaries.astype("<f4")
        boundaries = base64.b64encode(rows.tobytes()).decode()
    return {
        "revision": revision,
        "fluid": None if annotation.fluid is None else runs_of(annotation.fluid),
        "boundaries": boundaries,
        "ungraded": [list(columns) for columns in annotation.ungraded],
        "done": annotation.done,
    }


def unpacked(body: bytes, shape: tuple[int, int]) -> tuple[Annotation, int]:
    """What the page sent of a scan of (height, width), and its revision. Raises Refused."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise Refused("the body is no JSON") from e
    if not isinstance(content, dict) or content.keys() != KEYS:
        raise Refused(f"expected the keys {', '.join(sorted(KEYS))} and no others")
    revision = content["revision"]
    if not _whole(revision) or not isinstance(content["done"], bool):
        raise Refused("expected a whole number as revision, true or false as done")

    # what is drawn, each checked against the scan
    fluid = boundaries = None
    if content["fluid"] is not None:
        fluid = mask_of(content["fluid"], shape)
    if content["boundaries"] is not None:
        boundaries = _rows(content["boundaries"], shape)
    ungraded = _ranges(content["ungraded"], shape[1])
    return Annotation(fluid, boundaries, ungraded, content["done"]), revision


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask (H, W) of 0 and 1, the first of them of 0, perhaps 0 long."""
    # a 0 before and a 2 behind: every run ends where the value changes
    flat = np.concatenate([[0], mask.ravel() == 1, [2]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff(ends, prepend=0).tolist()


def mask_of(runs: Any, shape: tuple[int, int]) -> np.ndarray:
    """The mask uint8 (H, W) of such lengths. Raises Refused unless they fill it exactly."""
    height, width = shape
    if not isinstance(runs, list) or not all(_whole(run) for run in runs):
        raise Refused("fluid: expected a list of lengths from 0 on")
    pixels = sum(runs)
    if pixels != height * width:
        raise Refused(f"fluid: {pixels} pixels, expected {height} x {width}")
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.repeat(values, runs).reshape(shape)


def _rows(text: Any, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as e:
        raise Refused("boundaries: expected base64") from e
    if len(content) != 4 * len(BOUNDARIES) * width:
        raise Refused(f"boundaries: {len(content)} bytes, expected 8 x {width} of float32")
    # NaN is what nobody drew; infinity leaves the image
    rows = np.frombuffer(content, "<f4").reshape(len(BOUNDARIES), width).astype(np.float32)
    known = rows[~np.isnan(rows)]
    if known.size and not 0 <= known.min() <= known.max() <= height:
        raise Refused(f"boundaries leave the image, {height} px high")
    repaired, crossing = repair_boundaries(rows)
    if crossing.max() > MAX_CROSSING_PX:
        raise Refused(f"boundaries cross by {crossing.max():.1f} px")
    return repaired


def _ranges(ranges: Any, width: int) -> tuple[tuple[int, int], ...]:
    expected = f"ungraded: expected at most {MOST_RANGES} pairs of columns from 0 to {width - 1}"
    if not isinstance(ranges, list) or len(ranges) > MOST_RANGES:
        raise Refused(expected)
    pairs = []
    for pair in ranges:
        valid = isinstance(pair, list) and len(pair) == 2 and all(_whole(end) for end in pair)
        if not valid or not pair[0] <= pair[1] < width:
            raise Refused(expected)
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _whole(value: Any) -> bool:
    """Whether it is a whole number from 0 on; True is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
