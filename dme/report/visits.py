"""Results of an earlier `predict`, read and checked: numbers, maps, en-face pictures."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dme.common.errors import InputError
from dme.common.files import unsealed
from dme.data.image_files import read_pixels
from dme.report.output_folder import RESULTS
from dme.report.tables import read_rows
from dme.retina.volume import SECTORS, enface_map

# what the comparison reads of a volume and of its scans, by what was measured
VOLUME_NUMBERS = (
    "height_px",
    "width_px",
    "first_bscan",
    "last_bscan",
    "first_measured",
    "last_measured",
    "fovea_column",
    "fovea_bscan",
)
VOLUME_KEYS = ("volume", "axial_um", "lateral_um", "spacing_um", "eye")
SECTOR_KEYS = {"fluid": "volume_mm3", "retina": "mean_um"}
WEIGHTS = {"fluid": "weights_sha256", "retina": "layers_weights_sha256"}


@dataclass(frozen=True)
class Visit:
    """Results of one prediction: its folder and what measurements.json holds of it."""

    folder: str | Path
    settings: dict
    scans: list[dict]
    volumes: list[dict]

    def names(self) -> list[str]:
        """Of the volumes."""
        return [volume["volume"] for volume in self.volumes]

    def measures(self, kind: str) -> bool:
        """Whether fluid or retina was looked for: a network for it is named."""
        return WEIGHTS[kind] in self.settings

    def bscans(self, volume: dict) -> list[dict]:
        """The scans of a volume."""
        return [scan for scan in self.scans if scan["volume"] == volume["volume"]]

    def areas_mm2(self, volume: dict) -> dict[int, float]:
        """Fluid of a volume's B-scans by position."""
        return {scan["bscan"]: scan["fluid_area_mm2"] for scan in self.bscans(volume)}

    def map_um(self, volume: dict, kind: str) -> np.ndarray | None:
        """Thickness (B-scans, columns), from the files beside the numbers; None without them."""
        read = _mask_lines if kind == "fluid" else _retina_lines
        columns = {}
        for scan in self.bscans(volume):
            try:
                columns[scan["bscan"]] = read(Path(self.folder), scan)
            except (InputError, OSError, ValueError, LookupError, TypeError):
                return None
            if columns[scan["bscan"]].shape != (volume["width_px"],):
                return None
        first, last = volume["first_bscan"], volume["last_bscan"]
        thickness = enface_map(columns, first, last, volume.get("bscan_rows"))
        return thickness * (volume["axial_um"] or 1)

    def enface(self, volume: dict) -> np.ndarray | None:
        """Brightness (B-scans, columns), the first B-scan first; None without its picture."""
        shape = (volume["last_bscan"] - volume["first_bscan"] + 1, volume["width_px"])
        try:
            picture = read_pixels(Path(self.folder) / volume["enface"])
        except (InputError, KeyError, TypeError):
            return None
        return picture[::-1] if picture.shape == shape else None


def _mask_lines(folder: Path, scan: dict) -> np.ndarray:
    return (read_pixels(folder / scan["mask"]) > 0).sum(axis=0)


def _retina_lines(folder: Path, scan: dict) -> np.ndarray:
    rows = read_rows(folder / scan["boundaries"])
    return rows[-1] - rows[0]


def read_results(folder: str | Path) -> Visit:
    """What a finished `predict` left in a folder. Raises InputError for anything else."""
    return _visit(folder, checked_record(folder))


def _visit(folder: str | Path, record: dict) -> Visit:
    return Visit(folder, record["settings"], record["scans"], record["volumes"])


def checked_record(folder: str | Path) -> dict:
    """All that measurements.json holds of a finished `predict`.

    Raises InputError for anything else, and where a number is missing that `Visit` speaks of.
    """
    path = Path(folder) / RESULTS
    try:
        record = unsealed(json.loads(path.read_text(encoding="utf-8")))
        visit = _visit(folder, record)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        reason = str(getattr(e, "strerror", None) or e)
        if isinstance(e, KeyError):
            reason = f"it has no {e.args[0]}"
        raise InputError(
            f"{folder} holds no results of ./run.sh predict (no readable {path.name}: {reason})"
        ) from e
    if not record.get("finished"):
        raise InputError(f"{folder}: the prediction did not finish; run it again")
    fault = _fault(visit)
    if fault:
        raise InputError(
            f"{path}: {fault}; it is damaged or of another version: predict this visit again"
        )
    return record


def _fault(visit: Visit) -> str | None:
    """What is missing in the results, or no number; None if they are as they should be."""
    if not isinstance(visit.settings, dict):
        return "settings are no table"
    for name in ("scans", "volumes"):
        rows = getattr(visit, name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return f"{name} are no list of tables"
    for volume in visit.volumes:
        fault = _volume_fault(visit, volume)
        if fault:
            return fault
    return None


def _volume_fault(visit: Visit, volume: dict) -> str | None:
    missing = [key for key in (*VOLUME_KEYS, *VOLUME_NUMBERS) if key not in volume]
    if missing:
        return f"a volume has no {missing[0]}"
    wrong = _no_number(volume, VOLUME_NUMBERS)
    if wrong:
        return f"{wrong} of volume {volume['volume']} is no number"
    rows_at = volume.get("bscan_rows")
    count = volume["last_bscan"] - volume["first_bscan"] + 1
    if rows_at is not None and not _are_numbers(rows_at, count):
        return f"bscan_rows of volume {volume['volume']} are no {count} numbers"

    for kind, key in SECTORS.items():
        if not visit.measures(kind):
            continue
        sectors = volume.get(key)
        if not isinstance(sectors, list) or len(sectors) not in (0, 9):
            return f"{key} of volume {volume['volume']} are not nine"
        for sector in sectors:
            if not isinstance(sector, dict) or "sector" not in sector:
                return f"a sector of volume {volume['volume']} has no name"
            value = sector.get(SECTOR_KEYS[kind])
            unknown = kind == "retina" and value is None
            if not unknown and not _is_number(value):
                return f"{SECTOR_KEYS[kind]} of sector {sector['sector']} is no number"
            if sector.get("mean_um") is not None and not _is_number(sector["mean_um"]):
                return f"mean_um of sector {sector['sector']} is no number"
        if kind == "fluid" and sectors and _no_number(volume, ["fluid_volume_mm3"]):
            return f"fluid_volume_mm3 of volume {volume['volume']} is no number"
    return _scans_fault(visit, volume)


def _scans_fault(visit: Visit, volume: dict) -> str | None:
    keys = ["bscan"]
    if visit.measures("fluid") and volume["sectors"]:
        keys.append("fluid_area_mm2")
    if any("volume" not in scan for scan in visit.scans):
        return "a scan has no volume"
    for scan in visit.bscans(volume):
        wrong = _no_number(scan, keys)
        if wrong:
            return f"{wrong} of a scan of volume {volume['volume']} is no number"
    return None


def _no_number(row: dict, keys: Iterable[str]) -> str | None:
    """The first of the keys that holds no finite number."""
    for key in keys:
        if not _is_number(row.get(key)):
            return key
    return None


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
