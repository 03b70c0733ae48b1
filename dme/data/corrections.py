"""A person's corrections of scans, kept so that `finetune --data` reads the folder as it stands.

    images/NAME.png      the scan, once it is done
    fluid/NAME.png       its mask, 0 and 255
    boundaries/NAME.npy  its boundary rows, float32 (8, W)
    index.csv            the scans that are done: eye, B-scan, scale, columns nobody graded
    state.json           of every saved scan: whether it is done, columns nobody graded
    audit.csv            a line per save

Each file is written whole or not at all, so a kill at any moment leaves the last save that ended.
"""

import csv
import json
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import atomic_path, write_json
from dme.data.boundary_files import read_boundaries, write_boundaries
from dme.data.index import (
    INDEX,
    PLACE_COLUMNS,
    SCALE_COLUMNS,
    UNGRADED_COLUMN,
    Ranges,
    ranges_text,
    read_index,
)
from dme.data.masks import read_mask
from dme.drawing.canvas import save_png

STATE = "state.json"
AUDIT = "audit.csv"
FOLDERS = ("images", "fluid", "boundaries")
AUDIT_COLUMNS = (
    "time_utc",
    "scan",
    "added_px",
    "removed_px",
    "boundary_shift_px",
    "ungraded",
    "done",
)


@dataclass(frozen=True)
class Annotation:
    """What is drawn on a scan. None is what nobody draws there."""

    fluid: np.ndarray | None = None  # uint8 (H, W), fluid is 1
    boundaries: np.ndarray | None = None  # rows, float32 (8, W), NaN where unknown
    ungraded: Ranges = ()
    done: bool = False


@dataclass(frozen=True)
class Place:
    """Where a scan belongs: what a line of index.csv says of it."""

    name: str  # of its files
    volume: str | None = None  # None like the B-scan: of an eye that nobody named
    bscan: int | None = None  # from 0
    scale_um: tuple[float, ...] | None = None  # axial, lateral, spacing


@dataclass(frozen=True)
class Change:
    """How an annotation differs from another of the same scan."""

    added_px: int = 0
    removed_px: int = 0
    boundary_shift_px: float | None = None  # mean of the absolute shifts of all boundaries

    @property
    def nothing(self) -> bool:
        return not (self.added_px or self.removed_px or self.boundary_shift_px)


def change(before: Annotation, after: Annotation) -> Change:
    """What became fluid, what no longer is, and how far boundaries moved on average.

    Without a mask or boundaries before, none were there: all fluid is added, no shift is known.
    """
    added_px = removed_px = 0
    if after.fluid is not None:
        fluid = after.fluid == 1
        fluid_before = np.zeros_like(fluid) if before.fluid is None else before.fluid == 1
        added_px = int((fluid & ~fluid_before).sum())
        removed_px = int((fluid_before & ~fluid).sum())

    shift_px = None
    if before.boundaries is not None and after.boundaries is not None:
        moved_px = np.abs(after.boundaries - before.boundaries)
        known = np.isfinite(moved_px)
        shift_px = float(moved_px[known].mean()) if known.any() else None
    return Change(added_px, removed_px, shift_px)


class Corrections:
    """The corrections in a folder; one process at a time may save (`dme.common.folders.owned`)."""

    def __init__(self, root: Path) -> None:
        """Raises InputError for a state that cannot be, and for folders that lead elsewhere."""
        for name in FOLDERS:
            if (root / name).is_symlink():
                raise InputError(f"{root / name} is a link; corrections are kept in plain folders")
        self.root = root
        self.state: dict[str, dict] = _read_state(root / STATE)

    @property
    def names(self) -> list[str]:
        """Of the scans that were saved."""
        return list(self.state)

    def is_done(self, name: str) -> bool:
        return name in self.state and self.state[name]["done"]

    def read(self, name: str, shape: tuple[int, int]) -> Annotation | None:
        """What was saved of a scan of (height, width), None if nothing was.

        Raises InputError for files that somebody made unreadable, or of another size.
        """
        if name not in self.state:
            return None
        fluid = boundaries = None
        mask_file = self._file("fluid", name)
        if mask_file.is_file():
            fluid = read_drawn_mask(mask_file, shape)
        boundary_file = self._file("boundaries", name)
        if boundary_file.is_file():
            boundaries, _ = read_boundaries(boundary_file, shape)
        state = self.state[name]
        ungraded = tuple((first, last) for first, last in state["ungraded"])
        return Annotation(fluid, boundaries, ungraded, state["done"])

    def save(
        self, place: Place, image: np.ndarray, annotation: Annotation, before: Annotation
    ) -> Change:
        """Write what is drawn on a scan, and a line of the audit.

        image: the scan, uint8 (H, W), kept beside its mask once it is done. before: what was there
        until now. Returns how the two differ.
        """
        # each of these is whole or as it was
        if annotation.fluid is not None:
            save_png(self._file("fluid", place.name), (annotation.fluid == 1) * np.uint8(255))
        if annotation.boundaries is not None:
            write_boundaries(self._file("boundaries", place.name), annotation.boundaries)
        if annotation.done:
            save_png(self._file("images", place.name), image)

        # then what ties them together
        changed = change(before, annotation)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.state[place.name] = {
            "done": annotation.done,
            "ungraded": [list(columns) for columns in annotation.ungraded],
            "saved_utc": now,
            **_state_of(place),
        }
        write_json(self.root / STATE, self.state)
        self._audit(now, place.name, annotation, changed)
        self._write_index()
        return changed

    def update_places(self, places: Iterable[Place]) -> None:
        """Say anew where scans that were saved belong: earlier versions guessed some."""
        state = dict(self.state)
        for place in places:
            if place.name in state:
                state[place.name] = state[place.name] | _state_of(place)
        guessed = [name for name in state if state[name] != self.state[name]]
        if guessed:
            self.state = state
            write_json(self.root / STATE, self.state)
            self._write_index(guessed)

    def _file(self, folder: str, name: str) -> Path:
        return self.root / folder / (name + (".npy" if folder == "boundaries" else ".png"))

    def _write_index(self, guessed: Collection[str] = ()) -> None:
        """The scans that are done, as `dme.data.index.read_index` reads them.

        Volumes are subjects from 1, in the order in which scans of them were saved first. Where
        the eye is unknown a person may have written it there: it stays, but for `guessed` scans.
        """
        by_hand = self._places_in_index()
        volumes = [state["volume"] for state in self.state.values()]
        named = dict.fromkeys(volume for volume in volumes if volume is not None)
        subjects = {volume: subject for subject, volume in enumerate(named, start=1)}
        with atomic_path(self.root / INDEX) as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow([*PLACE_COLUMNS, *SCALE_COLUMNS, UNGRADED_COLUMN])
                for name, state in self.state.items():
                    if not state["done"]:
                        continue
                    place = (subjects.get(state["volume"]), state["bscan"])
                    if state["volume"] is None and name not in guessed:
                        place = by_hand.get(name, place)
                    table.writerow(_index_line(name, place, state))

    def _places_in_index(self) -> dict[str, tuple[int | None, int | None]]:
        """Subject and B-scan of the scans in index.csv. Raises InputError for a damaged one."""
        path = self.root / INDEX
        if not path.is_file() or not path.read_text(encoding="utf-8-sig").strip().count("\n"):
            return {}
        images = [image.stem for image in (self.root / "images").glob("*.png")]
        return {row.name: row.place for row in read_index(path, images)}

    def _audit(self, now: str, name: str, annotation: Annotation, changed: Change) -> None:
        shift_px = changed.boundary_shift_px
        shift = "" if shift_px is None else f"{shift_px:.3f}"
        done = "yes" if annotation.done else "no"
        line = [now, name, changed.added_px, changed.removed_px, shift]
        append_line(
            self.root / AUDIT, AUDIT_COLUMNS, [*line, ranges_text(annotation.ungraded), done]
        )


def done_names(folder: Path) -> list[str]:
    """Of the scans that are done in a folder that `annotate` made."""
    corrections = Corrections(folder)
    return [name for name in corrections.names if corrections.is_done(name)]


def read_drawn_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A mask of 0 and 1, or of 0 and 255, as uint8 (H, W) of 0 and 1.

    shape: (height, width) of its scan. Raises InputError for another size and for other values.
    """
    mask = read_mask(path)
    if mask.shape != tuple(shape):
        raise InputError(f"{path}: mask is {mask.shape}, its scan is {tuple(shape)}")
    values = np.unique(mask).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        shown = ", ".join(map(str, values[:8]))
        raise InputError(
            f"{path}: values {shown}, expected 0 and 255 or 0 and 1 (fluid); save it unsmoothed"
        )
    return (mask > 0).astype(np.uint8)


def append_line(path: Path, columns: Iterable[str], values: Iterable) -> None:
    """Add a line to a CSV file and have it on the disk; a line that a kill cut is ended first."""
    with open(path, "a+", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            table.writerow(columns)
        elif not path.read_bytes().endswith(b"\n"):
            file.write("\r\n")
        table.writerow(values)
        file.flush()
        os.fsync(file.fileno())


def remove_parts(root: Path) -> None:
    """Remove what a kill left of files that were being written. Nobody else may write there."""
    for folder in (root, *(root / name for name in FOLDERS)):
        for part in folder.glob(".*.part"):
            part.unlink()


def _state_of(place: Place) -> dict:
    """What the state says of a scan's place, as JSON has it."""
    scale_um = list(place.scale_um) if place.scale_um else None
    return {"volume": place.volume, "bscan": place.bscan, "scale_um": scale_um}


def _index_line(name: str, place: tuple[int | None, int | None], state: dict) -> list:
    """place: subject and B-scan, both None where the eye is unknown."""
    scale_um = list(state["scale_um"] or ())
    scale_um += [""] * (len(SCALE_COLUMNS) - len(scale_um))  # the spacing may be unknown alone
    ungraded = ranges_text(tuple((first, last) for first, last in state["ungraded"]))
    return [name, *place, *scale_um, ungraded]  # None is an empty cell


def _read_state(path: Path) -> dict[str, dict]:
    """State of the saved scans by name, empty without any. Raises InputError for anything else."""
    if not path.exists():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        for scan in state.values():
            if "volume" not in scan:  # of an earlier version
                scan["volume"] = f"subject {scan.pop('subject')}"
            scan["done"], scan["volume"], scan["bscan"], scan["scale_um"]
            for first, last in scan["ungraded"]:
                int(first), int(last)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"{path}: not as ./run.sh annotate wrote it ({e}): move the folder away, or restore it"
        ) from e
    return state
