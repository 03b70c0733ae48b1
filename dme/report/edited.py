"""`predict --edited`: every number, map and page again, from what a person corrected.

Nothing is predicted: scans and findings are read back from the results, masks and boundaries from
the corrections. The new results go into a folder of their own; which scans were changed, and by
how much, stands in its tables.
"""

import contextlib
import hashlib
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.common.provenance import provenance
from dme.data.corrections import STATE, Annotation, Change, Corrections, change
from dme.data.outside_masks import Slot, read_outside_masks, with_unknown
from dme.report import results_folder
from dme.report.batch import Finding, Job, Work
from dme.report.columns import EDITED
from dme.report.eyes import ORIGIN, VolumePlace, eye_in_name
from dme.report.inputs import Item
from dme.report.journal import Journal, Left
from dme.report.output_folder import fingerprint_of, folder_for
from dme.report.privacy import Privacy
from dme.report.scans import Scan
from dme.report.stored import Stored, open_results
from dme.report.surfaces import surface_file
from dme.retina.volume import scale_of

PROBABILITY = "mean_fluid_probability"
CHANGED = "changed"
FOUND = ("found", "centre")  # a fovea that nobody gave
CONFIRMED = "confirmed"  # a person said that it is done, and changed nothing


class Edits:
    """What a person made of the scans of a prediction, by their names."""

    def __init__(self, stored: Stored, folder: Path) -> None:
        """folder: of `annotate`, or of masks that were edited elsewhere. Raises InputError."""
        self.shapes = {row["scan"]: (row["height_px"], row["width_px"]) for row in stored.rows}
        self.corrections: Corrections | None = None
        self.masks: dict[str, np.ndarray] = {}
        if (folder / STATE).is_file():
            self.corrections = Corrections(folder)
            self._check(folder)
        else:
            slots = []
            for row in stored.rows:
                shape = self.shapes[row["scan"]]
                slots.append(Slot(row["scan"], row["volume"], row["bscan"], shape))
            self.masks = read_outside_masks(folder, slots, _Masks(stored))

    def _check(self, folder: Path) -> None:
        """Every one can be read, and is of a scan of these results."""
        if not self.corrections.names:
            raise InputError(
                f"{folder}: nothing was saved in it; correct scans with ./run.sh annotate"
            )
        for name in self.corrections.names:
            if name not in self.shapes:
                raise InputError(f"{folder}: {name} is none of the scans of these results")
            self.corrections.read(name, self.shapes[name])

    def of(self, name: str, original: Annotation) -> Annotation | None:
        """What is drawn on a scan now, None if nobody touched it. original: what was found."""
        if self.corrections is not None:
            return self.corrections.read(name, self.shapes[name])
        if name not in self.masks:
            return None
        if original.fluid is None:
            raise InputError("these results hold no fluid, and the masks are of fluid")
        return Annotation(with_unknown(self.masks[name], original.fluid), original.boundaries)

    def sha256(self) -> str:
        """Of everything that is drawn."""
        digest = hashlib.sha256()
        for name, shape in self.shapes.items():
            drawn = Annotation(self.masks.get(name))
            if self.corrections is not None:
                drawn = self.corrections.read(name, shape) or Annotation()
            for array in (drawn.fluid, drawn.boundaries):
                digest.update(name.encode("utf-8", "replace") + b"\0")
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
            digest.update(str((drawn.ungraded, drawn.done)).encode())
        return digest.hexdigest()


class _Masks(dict):
    """What the network found, by the names of scans, read when it is asked for."""

    def __init__(self, stored: Stored) -> None:
        super().__init__({row["scan"]: row for row in stored.rows})
        self.stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        mask = self.stored.finding(super().__getitem__(name)).mask
        if mask is None:
            raise InputError("these results hold no fluid, and the masks are of fluid")
        return mask


@dataclass(frozen=True)
class EditedFinding(Finding):
    """What holds of a scan now."""

    state: str = ""  # CHANGED, CONFIRMED, or neither
    change: Change = field(default_factory=Change)


@dataclass
class EditedWork(Work):
    """Measures what is drawn in place of predicting."""

    stored: Stored | None = None
    edits: Edits | None = None

    def __post_init__(self) -> None:
        self.by_name = {row["scan"]: row for row in self.stored.rows}

    def _finding(self, job: Job) -> EditedFinding:
        finding = self.stored.finding(self.by_name[job.scan.name])
        original = Annotation(finding.mask, finding.boundaries)
        drawn = self.edits.of(job.scan.name, original)
        if drawn is None:
            return EditedFinding(**vars(finding))
        changed = change(original, drawn)
        state = ""
        if not changed.nothing:
            state = CHANGED
        elif drawn.done:
            state = CONFIRMED

        # what a person does not draw stays as it was found
        mask = finding.mask if drawn.fluid is None else drawn.fluid
        boundaries = finding.boundaries if drawn.boundaries is None else drawn.boundaries
        return EditedFinding(mask, finding.probability, boundaries, state, changed)

    def _measure(self, job: Job, finding: EditedFinding) -> Left:
        """As of a prediction, with what a person changed in columns of its own."""
        left = super()._measure(job, finding)
        earlier = self.by_name[job.scan.name]
        if finding.state != CHANGED and PROBABILITY in earlier:
            left.row[PROBABILITY] = earlier[PROBABILITY]  # here it is in steps of 1/255

        # what only a network can say of a scan holds until it is changed
        for key in earlier.keys() - left.row.keys() - set(EDITED):
            value = earlier[key]
            if finding.state == CHANGED:
                value = [] if isinstance(value, list) else None
            left.row[key] = value
        left.row |= dict(zip(EDITED, [finding.state, *vars(finding.change).values()], strict=True))
        return left

    def _rule(self, finding: EditedFinding) -> str:
        return "corrected by hand" if finding.state == CHANGED else super()._rule(finding)


@dataclass(frozen=True)
class Gaps:
    """What is measured of a device's record: how far apart B-scans lie, inferior ones first."""

    gaps_um: tuple[float, ...]
    superior_first: bool = False


@dataclass
class StoredItem(Item):
    """All scans of earlier results, under the names that they have there."""

    stored: Stored | None = None

    def scans(self, names: set[str], privacy: Privacy | None = None) -> list[Scan]:
        return [self._scan(row) for row in self.stored.rows]

    def _scan(self, row: dict) -> Scan:
        return Scan(
            name=row["scan"],
            source=row["source"],
            read=partial(self.stored.image, row),
            volume=row["volume"],
            position=row["bscan"],
            scale_um=scale_of(row),
            truth=lambda shape: self.stored.truth(row),
        )


def remeasure(results: Path, masks: Path | None, out: Path, overwrite: bool) -> int:
    """Measure again, from corrections, what a prediction found; returns the exit code.

    results: the folder of the prediction. masks: the folder of the corrections, by default edited/
    in it. out: for the new results. Raises InputError for corrections that cannot be, before
    anything is written.
    """
    # what there is
    record = provenance()
    stored = open_results(results)
    folder = masks or results / "edited"
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; correct scans with ./run.sh annotate, or give `masks`"
        )
    edits = Edits(stored, folder)
    settings = stored.record["settings"]
    record["inputs"] = [str(results)]
    record["settings"] = settings
    record["edited"] = {
        "results": str(results),
        "masks": str(folder),
        "sha256": edits.sha256(),
        "command": stored.record["command"],
        "time_utc": stored.record["time_utc"],
    }
    record["fingerprint"] = fingerprint_of([str(results)], record["edited"], record)
    origin = results_folder.Origin(stored.task, None, None, record)

    # measured as a prediction is
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_for(out, record["fingerprint"], overwrite))
        stack.enter_context(results_folder.announced(folder.out, origin))
        with contextlib.closing(Journal(folder.out, 0)) as journal:
            work = _work(folder.out, stored, edits, journal)
            work.run([StoredItem(str(results), list, stored=stored)])
            work.gather()
        notes = [_note(work.rows), *_keep_surfaces(stored, work)]
        for note in notes:
            print(note)
        results_folder.complete(work, origin, [*stored.record["input_notes"], *notes], folder)
    return int(bool(work.skipped))


def _work(out: Path, stored: Stored, edits: Edits, journal: Journal) -> EditedWork:
    settings = stored.record["settings"]
    work = EditedWork(
        out,
        networks={},
        threshold=settings["threshold"],
        tta=settings["tta"],
        scale_um=None,
        journal=journal,
        stored=stored,
        edits=edits,
    )
    work.skipped = list(stored.record["skipped"])
    for volume in stored.volumes:  # which may reach beyond the scans that could be read
        work.ranges[volume["volume"]] = (volume["first_bscan"], volume["last_bscan"])
        work.places[volume["volume"]] = _place_of(volume)
    return work


def _place_of(volume: dict) -> VolumePlace:
    """Where a volume lies, as it was said; a fovea that was found is looked for again."""
    fovea = None
    if volume.get("fovea_from") not in FOUND and volume["fovea_column"] is not None:
        fovea = (volume["fovea_column"], volume["fovea_bscan"])
    gaps = None
    if volume.get("bscan_rows"):
        gaps_um = np.diff(volume["bscan_rows"]) * volume["spacing_um"]
        gaps = Gaps(tuple(gaps_um.tolist()))
    origin = {key: volume[key] for key in ORIGIN if key in volume}
    return VolumePlace(volume["eye"], fovea, eye_in_name(volume["volume"]), gaps, origin)


def _keep_surfaces(stored: Stored, work: Work) -> list[str]:
    """Copy pictures of eyes' surfaces; notes of those whose fluid is no longer what is drawn."""
    _, added, removed, _ = EDITED
    changed = {row["volume"] for row in work.rows if row[added] or row[removed]}
    notes = []
    for row in stored.surfaces:
        name = row["volume"]
        if name in changed:
            notes.append(f"{name}: its en-face picture shows the network's fluid: not copied")
            continue
        with atomic_path(work.out / surface_file(name)) as temporary:
            shutil.copyfile(stored.unchanged(surface_file(name)), temporary)
        work.surfaces.append(row)
    return notes


def _note(rows: list[dict]) -> str:
    """What a person changed, in a line."""
    state, added, removed, shift = EDITED
    changed = [row for row in rows if row[state] == CHANGED]
    confirmed = sum(row[state] == CONFIRMED for row in rows)
    text = f"corrected: {len(changed)} of {len(rows)} scans, {confirmed} more confirmed"
    if any(row[added] or row[removed] for row in changed):
        total = [sum(row[key] for row in changed) for key in (added, removed)]
        text += f"; fluid +{total[0]} px, -{total[1]} px"
    shifts_px = [row[shift] for row in changed if row[shift]]
    if shifts_px:
        mean_px = sum(shifts_px) / len(shifts_px)
        text += f"; boundaries of {len(shifts_px)} scans moved by {mean_px:.2f} px on average"
    return text
