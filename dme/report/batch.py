"""Many scans, in order: of each remain its files, a row of numbers, a line of a map.

While the networks look at some scans, threads read the next ones and write what was found in those
before: at most AHEAD and BEHIND of them, however many there are.
"""

import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError, with_flags
from dme.common.tasks import Task
from dme.common.threads import in_order
from dme.data.images import to_grey_uint8
from dme.data.volume_record import VolumeRecord
from dme.drawing.canvas import save_png
from dme.drawing.layers import draw_boundaries, thickness_profile
from dme.drawing.overlays import STRIP, scan_overlay
from dme.inference.scan import class_probabilities, fluid_mask, layer_rows, scale_note
from dme.inference.sizes import BY_RETINA
from dme.inference.trust import TrustFit, quantities_of
from dme.nets.segmenter import Segmenter
from dme.report.device_layers import device_distances
from dme.report.doubts import SEPARATOR, UNSURE, doubts_of
from dme.report.eyes import VolumePlace, place_of
from dme.report.inputs import Item, Scan
from dme.report.journal import Journal, Left
from dme.report.labelled import Labelled
from dme.report.privacy import Privacy
from dme.report.scan_files import write_thumbnail, write_values
from dme.report.scans import take_scale
from dme.report.tables import write_rows
from dme.report.truth import Truth
from dme.report.wording import amount, counted
from dme.retina.fluid import area_mm2, measure_fluid_in_layers, measure_scan
from dme.retina.plausible import impossible_columns
from dme.retina.recognise import oddities_of
from dme.retina.thickness import measure_layers, retina_px
from dme.retina.volume import SCALE
from dme.retina.wedge import columns_with_data, saturated_wedge

FOLDERS = ("masks", "boundaries", "profiles", "overlays")
WRITERS = min(4, os.cpu_count() or 1)  # threads that measure, draw and write
LOOKERS = 4  # scans at most that networks look at side by side, which takes memory for each
# scans that are read or wait for a network, and that are written or wait for it
AHEAD = 2
BEHIND = WRITERS + 1

Scale = tuple[float, ...] | None  # um: axial, lateral, spacing, as far as they are known


@dataclass(frozen=True)
class Answers:
    """What the networks say of a scan."""

    by_class: dict[str, Tensor]  # "fluid", "layers" -> probabilities (classes, H, W)
    notes: list[str] = field(default_factory=list)  # on the scale at which it entered
    quantities: np.ndarray | None = None  # from which trust is judged


@dataclass(frozen=True)
class Finding:
    """What the networks see in a scan; None is what no network looks for."""

    mask: np.ndarray | None = None  # uint8 (H, W), fluid is 1
    probability: np.ndarray | None = None  # of fluid, float32 (H, W)
    boundaries: np.ndarray | None = None  # rows, float32 (8, W)


@dataclass
class Job:
    """A scan on its way from its file to its row; each step fills in what the next ones need."""

    order: int  # among all scans
    scan: Scan
    fault: str | None = None  # why it is skipped
    # once it is read
    image: np.ndarray | None = None  # uint8 (H, W)
    truth: Truth | None = None
    oddities: list[str] = field(default_factory=list)
    start: dict = field(default_factory=dict)  # what is known of its row
    # once the networks looked at it, and once all is written; of an earlier run the latter alone
    answers: Answers | None = None
    left: Left | None = None

    @property
    def pixels(self) -> list[np.ndarray]:
        """The image, and what graders marked in it."""
        return [self.image, *self.truth.arrays()]


@dataclass
class Work:
    """Predicts scans into FOLDERS of `out`; bad ones are reported and skipped."""

    out: Path
    networks: dict[str, Segmenter]  # "fluid", "layers" or both -> the network that finds it
    threshold: float
    tta: bool
    scale_um: Scale  # in place of the source's, as far as it goes
    force: bool = False  # predict pictures that are no B-scans too
    trust: TrustFit | None = None  # of the network that finds fluid
    journal: Journal | None = None  # of what is done, for a run that goes on after a kill
    privacy: Privacy = field(default_factory=Privacy)
    labelled: Labelled | None = None  # scans to leave out
    rows: list[dict] = field(default_factory=list)
    skipped: list[dict] = field(default_factory=list)  # source, reason
    # of (volume, "fluid" or "retina"): B-scan -> thickness in px of every column, (W,)
    thickness_px: dict[tuple[str, str], dict[int, np.ndarray]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    # of each volume: B-scan -> mean grey of every column, (W,)
    brightness: dict[str, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    # of each volume: first and last B-scan to expect, and where it lies
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    places: dict[str, VolumePlace] = field(default_factory=dict)
    # of each volume of a device's file, and of scans in no volume by the name of the first
    records: dict[str, VolumeRecord] = field(default_factory=dict)
    # of scans of devices' files: name -> the file's record, and the B-scan's index in it
    origins: dict[str, tuple[VolumeRecord, int]] = field(default_factory=dict)
    # pictures of eyes' surfaces that are in `out` already, rows as of dme.report.surfaces
    surfaces: list[dict] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # name in `out` -> sha256

    def run(self, items: list[Item]) -> None:
        """Under torchrun every rank takes its share of the scans."""
        with tqdm(desc="predict", unit="scan", total=0, disable=ranks.rank() > 0) as bar:
            self.predict(self._jobs(items, bar), bar.update)
        note = self.labelled.unknown_note() if self.labelled else ""
        if note:
            items[-1].notes.append(note)
            if ranks.rank() == 0:
                print(f"note: {note}")

    def _jobs(self, items: list[Item], bar: tqdm) -> Iterator[Job]:
        """The scans of this rank, and on rank 0 the items that cannot be opened."""
        rank = ranks.rank()
        world = ranks.world_size()
        names: set[str] = set()
        count = 0
        for item in items:
            try:
                scans = self._open(item, names)
            except InputError as e:
                if rank == 0:
                    bar.total += 1
                    yield Job(count, Scan(item.source, item.source, list), fault=str(e))
                continue
            jobs = [Job(order, scan) for order, scan in enumerate(scans, count)]
            count += len(jobs)
            mine = [job for job in jobs if job.order % world == rank]
            bar.total += len(mine)
            yield from mine

    def predict(self, jobs: Iterable[Job], done: Callable[[], object] = lambda: None) -> None:
        """Find, measure, leave files and a row of every scan; `done` is called after each."""
        with contextlib.ExitStack() as stack:
            lookers = stack.enter_context(side_by_side(self.networks.values()))
            # each step of a scan has threads of its own
            pools = []
            for threads in (1, lookers, WRITERS):
                pools.append(stack.enter_context(ThreadPoolExecutor(threads)))
            read = in_order(pools[0], partial(_unless_faulty, self._read), jobs, AHEAD)
            seen = in_order(pools[1], partial(_unless_faulty, self._look), read, lookers + 1)
            for job in in_order(pools[2], partial(_unless_faulty, self._leave), seen, BEHIND):
                self._keep(job)
                done()

    def _open(self, item: Item, names: set[str]) -> list[Scan]:
        """Its scans, after its notes were shown. Raises InputError where it cannot be opened."""
        scans = item.scans(names, self.privacy)
        item.notes += take_scale(scans, self.scale_um)
        if self.labelled:
            scans = self.labelled.without(scans, item.notes)
        if ranks.rank() == 0:
            for note in item.notes:  # with odd file names
                tqdm.write(f"note: {note}".encode(errors="replace").decode())

        # every rank knows how far volumes reach, and where they lie
        opened = None
        for scan in scans:
            if scan.record is not None and scan.record is not opened:
                self.records[scan.volume or scan.name] = scan.record
                opened = scan.record
            if scan.record:
                self.origins[scan.name] = (scan.record, scan.index)
            if scan.volume:
                first, last = self.ranges.get(scan.volume, (scan.position, scan.position))
                first = min(first, scan.position)
                self.ranges[scan.volume] = (first, max(last, scan.position))
                if scan.record:  # which counts those without a picture too
                    self.ranges[scan.volume] = (0, scan.record.bscans - 1)
                place = place_of(scan, self.privacy.keep_dates)
                self.places.setdefault(scan.volume, place)
        return scans

    def skip(self, source: str, reason: str, shown: str | None = None) -> None:
        """Say why a source was left out, and keep it for the report. shown: its name there."""
        reason = with_flags(reason.removeprefix(f"{source}: "))
        tqdm.write(f"skipped: {source}: {reason}", file=sys.stderr)
        if shown:
            reason = reason.replace(source, shown)
        self.skipped.append({"source": shown or source, "reason": reason})

    def _read(self, job: Job) -> None:
        """The pixels of a scan, and what is known of its row."""
        scan = job.scan
        seen = scan.read()
        job.oddities = self._checked(seen)
        job.image, _ = to_grey_uint8(seen)
        job.truth = _truth_of(scan, job.image)
        job.start = {
            "order": job.order,
            "scan": scan.name,
            "source": scan.shown_source or scan.source,
            "volume": scan.volume,
            "bscan": scan.position,
            "height_px": job.image.shape[0],
            "width_px": job.image.shape[1],
            **dict.fromkeys(SCALE),
            **dict(zip(SCALE, scan.scale_um or (), strict=False)),
        }

    def _keep(self, job: Job) -> None:
        """What remains of a scan, in the order of the scans."""
        scan = job.scan
        if job.fault:
            self.skip(scan.source, job.fault, scan.shown_source)
            return
        left = job.left
        if self.journal and job.answers:
            left = self.journal.add(left, job.pixels)
        self.rows.append(left.row)

        # lines of the volume's maps
        if scan.volume:
            self.brightness[scan.volume][scan.position] = mean_grey(job.image)
            for kind, line in left.lines.items():
                self.thickness_px[scan.volume, kind][scan.position] = line

    def _checked(self, pixels: np.ndarray) -> list[str]:
        """What is odd about a picture, as doubts; InputError if it is refused, unless forced."""
        oddities = oddities_of(pixels)
        for oddity in oddities:
            if oddity.refused and not self.force:
                raise InputError(f"{oddity}; or go on with `force`")
        return [str(oddity) for oddity in oddities]

    def _look(self, job: Job) -> None:
        """Let the networks look at a scan, unless a run that was killed has done it."""
        if self.journal:
            job.left = self.journal.take(job.start, job.pixels)
        if job.left is not None:
            return
        # one network may find both, and runs once
        answers = {}
        notes = []
        for model in dict.fromkeys(self.networks.values()):
            answers[model] = class_probabilities(model, job.image, self.tta, job.scan.scale_um)
            note = scale_note(model, job.image, job.scan.scale_um)
            if note and note != BY_RETINA:  # which the line on unknown scales says of all
                notes.append(note)
        by_class = {target: answers[model] for target, model in self.networks.items()}

        quantities = None
        if self.trust:
            model = self.networks["fluid"]
            _, probability = fluid_mask(model, by_class["fluid"], self.threshold)
            quantities = quantities_of(model, job.image, probability, job.scan.scale_um)
        job.answers = Answers(by_class, notes, quantities)

    def _leave(self, job: Job) -> None:
        """Measure what was found, and write its files; those of an earlier run are there."""
        if job.left is None:
            job.left = self._measure(job, self._finding(job))
            job.answers = replace(job.answers, by_class={})  # which are large

    def _finding(self, job: Job) -> Finding:
        by_class = job.answers.by_class
        mask = probability = boundaries = None
        if "fluid" in by_class:
            model = self.networks["fluid"]
            mask, probability = fluid_mask(model, by_class["fluid"], self.threshold)
        if "layers" in by_class:
            model = self.networks["layers"]
            boundaries = layer_rows(model, job.image, by_class["layers"], probability)
        return Finding(mask, probability, boundaries)

    def _measure(self, job: Job, finding: Finding) -> Left:
        """The row of a scan and its lines of the volume's maps; writes its files."""
        scan = job.scan
        scale_um = scan.scale_um
        axial_um = scale_um[0] if scale_um else None
        row = dict(job.start)
        doubts = job.oddities + doubts_of(job.image, finding.boundaries, axial_um)
        row["doubt"] = SEPARATOR.join(dict.fromkeys(doubts + job.answers.notes))

        # what cannot be a retina counts for nothing; in the volume's map it is of no thickness
        lines = {}
        if finding.boundaries is not None:
            impossible = impossible_columns(finding.boundaries, len(job.image), axial_um)
            if scan.volume:
                lines["retina"] = np.where(impossible, 0.0, retina_px(finding.boundaries))
            finding.boundaries[:, impossible] = np.nan
            row["left_out_columns"] = int(impossible.sum())

        # numbers and files of fluid, of layers, and of fluid in layers
        if finding.mask is not None:
            row |= self._leave_fluid(scan, finding, scale_um)
        if job.answers.quantities is not None:
            row |= self._believed(job, finding)
            if row.pop("flagged"):
                row["doubt"] = SEPARATOR.join(filter(None, (row["doubt"], UNSURE)))
        if finding.boundaries is not None:
            row |= self._leave_layers(scan, finding, scale_um)
        if finding.mask is not None and finding.boundaries is not None:
            row |= measure_fluid_in_layers(finding.boundaries, finding.mask, scale_um)
        row |= self._leave_pictures(scan, job.image, finding, row)
        row["values"] = f"scans/{scan.name}.js"
        write_values(self.out / row["values"], scan.name, values_of(finding, job.truth))

        if scan.volume and finding.mask is not None:
            lines["fluid"] = fluid_thickness_px(job.image, finding.mask)
        return Left(row, lines)

    def _leave_fluid(self, scan: Scan, finding: Finding, scale_um: Scale) -> dict:
        """Save the mask; returns its columns."""
        row = measure_scan(finding.mask, finding.probability, scale_um)
        row["mask"] = f"masks/{scan.name}.png"
        save_png(self.out / row["mask"], finding.mask * 255, fast=True)
        return row

    def _believed(self, job: Job, finding: Finding) -> dict:
        """How far the fluid of a scan can be believed, and whether that is too little."""
        trust = self.trust.judge(job.answers.quantities, float(finding.mask.mean()))
        pixels = job.image.size
        return {
            "predicted_dice": trust.dice,
            "fluid_area_low_mm2": area_mm2(trust.low_share * pixels, job.scan.scale_um),
            "fluid_area_high_mm2": area_mm2(trust.high_share * pixels, job.scan.scale_um),
            "flagged": trust.flagged,
        }

    def _leave_layers(self, scan: Scan, finding: Finding, scale_um: Scale) -> dict:
        """Save boundaries and profile; returns their columns."""
        row = measure_layers(finding.boundaries, scale_um)
        row |= device_distances(scan, finding.boundaries)
        row["boundaries"] = f"boundaries/{scan.name}.csv"
        row["profile"] = f"profiles/{scan.name}.png"
        write_rows(self.out / row["boundaries"], finding.boundaries)
        axial_um, lateral_um, *_ = scale_um or (None, None)
        profile = thickness_profile(finding.boundaries, axial_um, lateral_um, scan.name)
        save_png(self.out / row["profile"], profile, fast=True)
        return row

    def _leave_pictures(
        self, scan: Scan, image: np.ndarray, finding: Finding, row: dict
    ) -> dict[str, str]:
        """Save the overlay, large and small, and the scan as it is; returns their columns."""
        files = {
            "overlay": f"overlays/{scan.name}.png",
            "thumbnail": f"thumbnails/{scan.name}.jpg",
            "image": f"scans/{scan.name}.png",
        }
        overlay = self._overlay(image, finding, row)
        save_png(self.out / files["overlay"], overlay, fast=True)
        legend = 0 if finding.boundaries is not None else STRIP
        write_thumbnail(self.out / files["thumbnail"], overlay, legend)
        save_png(self.out / files["image"], image, fast=True)
        return files

    def _overlay(self, image: np.ndarray, finding: Finding, row: dict) -> np.ndarray:
        if finding.boundaries is not None:
            return draw_boundaries(image, finding.boundaries, finding.mask)
        regions = counted(row["regions"], "region")
        legend = f"fluid: {amount(row)}, {regions} ({self._rule(finding)})"
        return scan_overlay(image, finding.mask, legend)

    def _rule(self, finding: Finding) -> str:
        """What is fluid, in words."""
        return f"probability above {self.threshold:g}"

    def gather(self) -> None:
        """Bring the scans of all ranks together, in order."""
        # what every rank found; alone there is one
        files = self.journal.files if self.journal else {}
        mine = (self.rows, self.skipped, dict(self.thickness_px), dict(self.brightness), files)
        parts = [mine]
        if ranks.world_size() > 1:
            parts = [None] * ranks.world_size()
            distributed.all_gather_object(parts, mine)

        # put together as if one rank had done it all
        self.rows = []
        self.skipped = []
        self.thickness_px = defaultdict(dict)
        self.brightness = defaultdict(dict)
        for rows, skipped, thickness_px, brightness, files in parts:
            self.rows += rows
            self.files |= files
            self.skipped += skipped
            for key, lines in thickness_px.items():
                self.thickness_px[key] |= lines
            for volume, lines in brightness.items():
                self.brightness[volume] |= lines
        self.rows.sort(key=lambda row: row.pop("order"))


@contextlib.contextmanager
def side_by_side(networks: Iterable[Segmenter]) -> Iterator[int]:
    """How many scans networks look at side by side; PyTorch's threads are shared out to them.

    Threads that have one scan between them wait for each other, the more so beside others that
    read and write. On a GPU scans follow each other.
    """
    threads = torch.get_num_threads()
    on_cpu = all(next(model.parameters()).is_cpu for model in networks)
    lookers = min(threads, LOOKERS) if on_cpu else 1
    torch.set_num_threads(threads // lookers)
    try:
        yield lookers
    finally:
        torch.set_num_threads(threads)


def _unless_faulty(step: Callable[[Job], None], job: Job) -> Job:
    """The scan after a step, or with the reason why it is skipped."""
    if job.fault is None:
        try:
            step(job)
        except InputError as e:
            job.fault = str(e)
    return job


def fluid_thickness_px(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fluid in every column (W,), NaN where the image uint8 (H, W) has no data."""
    fluid_px = mask.sum(0, dtype=np.int32)
    unknown = ~columns_with_data(image) & (fluid_px == 0)
    return np.where(unknown, np.nan, fluid_px) if unknown.any() else fluid_px


def mean_grey(image: np.ndarray) -> np.ndarray:
    """Mean (W,) of the columns of an image uint8 (H, W), its wedge left out, 0 without data."""
    inside = ~saturated_wedge(image)
    total = (image * inside).sum(axis=0, dtype=np.float32)
    return total / np.maximum(inside.sum(axis=0), 1)


def _truth_of(scan: Scan, image: np.ndarray) -> Truth:
    """What graders marked in a scan; of files that do not fit it the reason is said."""
    if scan.truth is None:
        return Truth()
    try:
        return scan.truth(image.shape)
    except InputError as e:
        tqdm.write(f"note: graders' marks not shown: {e}")
        return Truth()


def values_of(finding: Finding, truth: Truth) -> dict[str, np.ndarray | None]:
    """What the page knows of the pixels of a scan, by the names that its scripts use."""
    probability = finding.probability
    if probability is not None:
        probability = np.round(probability * 255).astype(np.uint8)
    return {
        "mask": finding.mask,
        "probability": probability,
        "rows": finding.boundaries,
        "truth": truth.fluid,
        "truth_rows": truth.rows,
    }


def legend_height(task: Task) -> int:
    """Height in px of the strip at the foot of overlays; those with layers have other legends."""
    return 0 if task.finds_layers else STRIP
