"""What a prediction left of each scan, read back from its folder: the scan, and what was found."""

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from dme.report.scan_files import CALL

from dme.common.errors import InputError
from dme.common.files import sha256_file, unsealed
from dme.common.tasks import TASKS, Task
from dme.data.image_files import read_pixels
from dme.report.batch import Finding
from dme.report.visits import RESULTS, read_results
from dme.retina.rows import BOUNDARIES
from dme.retina.volume import SCALE

NEEDED = ("image", "values")  # files of a scan, which earlier versions did not leave


@dataclass(frozen=True)
class Stored:
    """The results in a folder. rows: of its scans, as in measurements.json."""

    folder: Path
    record: dict

    @property
    def rows(self) -> list[dict]:
        return self.record["scans"]

    @property
    def volumes(self) -> list[dict]:
        return self.record["volumes"]

    @cached_property
    def task(self) -> Task:
        """What was looked for: the networks tell."""
        settings = self.record["settings"]
        parts = []
        if "layers_weights" in settings:
            parts.append("layers")
        if "weights" in settings:
            parts.append("fluid")
        return TASKS["+".join(parts)]

    def image(self, row: dict) -> np.ndarray:
        """The scan, uint8 (H, W). Raises InputError for a file that was changed."""
        return read_pixels(self._unchanged(row["image"]))

    def finding(self, row: dict) -> Finding:
        """What the networks found in it; probabilities in steps of 1/255. Raises InputError."""
        path = self._unchanged(row["values"])
        height, width = row["height_px"], row["width_px"]
        try:
            text = path.read_text(encoding="ascii").strip()
            values = json.loads(text.removeprefix(f"{CALL}(").removesuffix(");"))
            mask = _array(values.get("mask"), np.uint8, (height, width))
            probability = _array(values.get("probability"), np.uint8, (height, width))
            rows = _array(values.get("rows"), np.float32, (len(BOUNDARIES), width))
        except (ValueError, AttributeError, zlib.error, binascii.Error) as e:
            raise InputError(f"{path}: not as `predict` wrote it ({e}); predict again") from e
        if probability is not None:
            probability = probability.astype(np.float32) / 255
        return Finding(mask, probability, rows)

    def _unchanged(self, name: str) -> Path:
        """A file of the results, which must be as it was written."""
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: keep the folder together, or predict again")
        if sha256_file(path) != self.record["files"].get(name):
            raise InputError(
                f"{path} was changed since it was written: put corrections into edited/ "
                "(`annotate` does), not into the results"
            )
        return path


def is_results(folder: Path) -> bool:
    """Whether a folder holds results of a prediction, or the beginning of them."""
    return (folder / RESULTS).is_file()


def open_results(folder: Path) -> Stored:
    """The results of a finished prediction. Raises InputError for anything else."""
    read_results(folder)  # which checks them
    record = unsealed(json.loads((folder / RESULTS).read_text(encoding="utf-8")))
    for row in record["scans"]:
        missing = [key for key in NEEDED if key not in row]
        if missing:
            raise InputError(
                f"{folder}: results of an earlier version, without the scans: predict again"
            )
    if not isinstance(record.get("files"), dict):
        raise InputError(f"{folder}: results without checksums; predict again")
    return Stored(folder, record)


def scale_of(row: dict) -> tuple[float, ...] | None:
    """Axial, lateral and spacing of a scan or a volume, as far as they are known."""
    known = [row[key] for key in SCALE if row[key] is not None]
    return tuple(known) or None


def _array(text: str | None, kind: type, shape: tuple[int, int]) -> np.ndarray | None:
    """Values as `dme.report.scan_files.packed` writes them. Raises ValueError for other sizes."""
    if text is None:
        return None
    content = zlib.decompress(base64.b64decode(text, validate=True))
    stored = np.dtype(kind).newbyteorder("<")
    return np.frombuffer(content, stored).reshape(shape).astype(kind)
