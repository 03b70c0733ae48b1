"""What a prediction left of each scan, read back from its folder: its pixels and the finding."""

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import is_plain_name, sha256_file
from dme.common.tasks import TASKS, Task
from dme.data.image_files import read_pixels
from dme.report.batch import Finding
from dme.report.output_folder import RESULTS
from dme.report.truth import Truth
from dme.report.visits import checked_record
from dme.retina.rows import BOUNDARIES

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

    @property
    def surfaces(self) -> list[dict]:
        """Rows of its pictures of eyes' surfaces, as of `dme.report.surfaces`."""
        return self.record.get("surfaces", [])

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
        return read_pixels(self.unchanged(row["image"]))

    def finding(self, row: dict) -> Finding:
        """What the networks found in it; probabilities in steps of 1/255. Raises InputError."""
        values = self._values(row)
        probability = values["probability"]
        if probability is not None:
            probability = probability.astype(np.float32) / 255
        return Finding(values["mask"], probability, values["rows"])

    def truth(self, row: dict) -> Truth:
        """What graders marked in it. Raises InputError."""
        values = self._values(row)
        return Truth(values["truth"], values["truth_rows"])

    def _values(self, row: dict) -> dict[str, np.ndarray | None]:
        """Arrays of a scan by the names that the page has for them."""
        path = self.unchanged(row["values"])
        pixels = (row["height_px"], row["width_px"])
        lines = (len(BOUNDARIES), row["width_px"])
        values = {}
        try:
            text = path.read_text(encoding="ascii").strip()
            record = json.loads(text.removeprefix("dme.receive(").removesuffix(");"))
            for name in ("mask", "probability", "truth"):
                values[name] = _array(record.get(name), np.uint8, pixels)
            for name in ("rows", "truth_rows"):
                values[name] = _array(record.get(name), np.float32, lines)
        except (ValueError, AttributeError, zlib.error, binascii.Error) as e:
            raise InputError(f"{path}: not as it was written ({e}); predict again") from e
        return values

    def unchanged(self, name: str) -> Path:
        """A file of the results, which must be as it was written."""
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: keep the folder together, or predict again")
        if sha256_file(path) != self.record["files"].get(name):
            raise InputError(
                f"{path} was changed since it was written: put corrections into edited/ "
                "(./run.sh annotate does), not into the results"
            )
        return path


def is_results(folder: Path) -> bool:
    """Whether a folder holds results of a prediction, or the beginning of them."""
    return (folder / RESULTS).is_file()


def open_results(folder: Path) -> Stored:
    """The results of a finished prediction. Raises InputError for anything else."""
    record = checked_record(folder)
    _check_names(folder, record)
    for row in record["scans"]:
        missing = [key for key in NEEDED if key not in row]
        if missing:
            raise InputError(
                f"{folder}: results of an earlier version, without the scans: predict again"
            )
    if not isinstance(record.get("files"), dict) or "input_notes" not in record:
        raise InputError(f"{folder}: results of an earlier version; predict again")
    return Stored(folder, record)


def _check_names(folder: Path, record: dict) -> None:
    """Refuse names that lead out of a folder: files are called after them."""
    names = [row.get("scan") for row in record["scans"]]
    names += [volume["volume"] for volume in record["volumes"]]
    names += [row["volume"] for row in record.get("surfaces", [])]
    for name in names:
        if not isinstance(name, str) or not is_plain_name(name):
            raise InputError(f"{folder}: {name!r} is no name of a scan; predict again")
    for row in record["scans"]:
        for key in NEEDED:
            path = (folder / str(row.get(key, ""))).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise InputError(f"{folder}: {row[key]} lies outside; predict again")


def _array(text: str | None, kind: type, shape: tuple[int, int]) -> np.ndarray | None:
    """Values as `dme.report.scan_files.packed` writes them. Raises ValueError for other sizes."""
    if text is None:
        return None
    content = zlib.decompress(base64.b64decode(text, validate=True))
    stored = np.dtype(kind).newbyteorder("<")
    return np.frombuffer(content, stored).reshape(shape).astype(kind)
