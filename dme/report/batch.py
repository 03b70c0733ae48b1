"""Many scans, one after the other: of each remain its files, a row of numbers, a line of a map."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import distributed
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError, with_flags
from dme.common.tasks import Task
from dme.data.images import to_grey_uint8
from dme.data.volume_record import VolumeRecord
from dme.drawing.canvas import save_png
from dme.drawing.layers import draw_boundaries, thickness_profile
from dme.drawing.overlays import STRIP, scan_overlay
from dme.inference.scan import class_probabilities, fluid_mask, layer_rows, scale_note
from dme.inference.trust import TrustFit, quantities_of
from dme.nets.segmenter import Segmenter
from dme.report.device_layers import device_distances
from dme.report.doubts import SEPARATOR, UNSURE, doubts_of
from dme.report.eyes import VolumePlace, place_of
from dme.report.inputs import Item, Scan
from dme.report.journal import Journal, Left
from dme.report.privacy import Privacy
from dme.report.scan_files import write_image, write_thumbnail, write_values
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


Scale = tuple[float, ...] | None  # um: axial, lateral, spacing, as far as they are known


@dataclass(frozen=True)
class Finding:
    """What the networks see in a scan; None is what no network looks for."""

    mask: np.ndarray | None = None  # uint8 (H, W), fluid is 1
    probability: np.ndarray | None = None  # of fluid, float32 (H, W)
    boundaries: np.ndarray | None = None  # rows, float32 (8, W)


@dataclass
class Work:
    """Predicts scans one at a time into FOLDERS of `out`; bad ones are reported and skipped."""

    out: Path
    networks: dict[str, Segmenter]  # "fluid", "layers" or both -> the network that finds it
    threshold: float
    tta: bool
    scale_um: Scale  # in place of the source's, as far as it goes
    force: bool = False  # predict pictures that are no B-scans too
    trust: TrustFit | None = None  # of the network that finds fluid
    journal: Journal | None = None  # of what is done, for a run that goes on after a kill
    privacy: Privacy = field(default_factory=Privacy)
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
        rank = ranks.rank()
        world = ranks.world_size()
        names: set[str] = set()
        count = 0
        with tqdm(desc="predict", unit="scan", total=0, disable=rank > 0) as bar:
            for item in items:
                scans = list(enumerate(self._open(item, names), count))
                count += len(scans)
                mine = [(order, scan) for order, scan in scans if order % world == rank]
                bar.total += len(mine)
                for order, scan in mine:
                    try:
                        self.predict_scan(order, scan)
                    except InputError as e:
                        self.skip(scan.source, str(e), scan.shown_source)
                    bar.update()

    def _open(self, item: Item, names: set[str]) -> list[Scan]:
        """Its scans, after its notes were shown; none where it cannot be opened."""
        first_rank = ranks.rank() == 0
        try:
            scans = item.scans(names, self.privacy)
            item.notes += take_scale(scans, self.scale_um)
        except InputError as e:
            if first_rank:
                self.skip(item.source, str(e))
            return []

        if first_rank:
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

    def predict_scan(self, order: int, scan: Scan) -> None:
        """Find, measure, leave files and a row. order: of this scan among all."""
        seen = scan.read()
        oddities = self._checked(seen)
        image, _ = to_grey_uint8(seen)  # (H, W)
        truth = _truth_of(scan, image)
        scale_um = scan.scale_um
        start = {
            "order": order,
            "scan": scan.name,
            "source": scan.shown_source or scan.source,
            "volume": scan.volume,
            "bscan": scan.position,
            "height_px": image.shape[0],
            "width_px": image.shape[1],
            **dict.fromkeys(SCALE),
            **dict(zip(SCALE, scale_um or (), strict=False)),
        }

        # a run that was killed may have done it
        pixels = [image, *truth.arrays()]
        left = self.journal.take(start, pixels) if self.journal else None
        if left is None:
            left = self._predict(scan, image, truth, start | {"doubt": oddities})
            if self.journal:
                left = self.journal.add(left, pixels)
        self.rows.append(left.row)

        # lines of the volume's maps
        if scan.volume:
            self.brightness[scan.volume][scan.position] = mean_grey(image)
            for kind, line in left.lines.items():
                self.thickness_px[scan.volume, kind][scan.position] = line

    def _checked(self, pixels: np.ndarray) -> list[str]:
        """What is odd about a picture, as doubts; InputError if it is refused, unless forced."""
        oddities = oddities_of(pixels)
        for oddity in oddities:
            if oddity.refused and not self.force:
                raise InputError(f"{oddity}; or go on with `force`")
        return [str(oddity) for oddity in oddities]

    def _predict(self, scan: Scan, image: np.ndarray, truth: Truth, start: dict) -> Left:
        """Find, measure, save; start: what is known of the row, its doubts a list."""
        finding = self._find(scan, image)
        scale_um = scan.scale_um
        axial_um = scale_um[0] if scale_um else None
        row = dict(start)
        doubts = start["doubt"] + doubts_of(image, finding.boundaries, axial_um)
        for model in dict.fromkeys(self.networks.values()):
            if note := scale_note(model, image, scale_um):
                doubts.append(note)
        row["doubt"] = SEPARATOR.join(dict.fromkeys(doubts))

        # what cannot be a retina counts for nothing; in the volume's map it is of no thickness
        lines = {}
        if finding.boundaries is not None:
            impossible = impossible_columns(finding.boundaries, len(image), axial_um)
            if scan.volume:
                lines["retina"] = np.where(impossible, 0.0, retina_px(finding.boundaries))
            finding.boundaries[:, impossible] = np.nan
            row["left_out_columns"] = int(impossible.sum())

        # numbers and files of fluid, of layers, and of fluid in layers
        if finding.mask is not None:
            row |= self._leave_fluid(scan, finding, scale_um)
        if finding.mask is not None and self.trust:
            row |= self._believed(image, finding, scale_um)
            if row.pop("flagged"):
                row["doubt"] = SEPARATOR.join(filter(None, (row["doubt"], UNSURE)))
        if finding.boundaries is not None:
            row |= self._leave_layers(scan, finding, scale_um)
        if finding.mask is not None and finding.boundaries is not None:
            row |= measure_fluid_in_layers(finding.boundaries, finding.mask, scale_um)
        row |= self._leave_pictures(scan, image, finding, row)
        row["values"] = f"scans/{scan.name}.js"
        write_values(self.out / row["values"], scan.name, values_of(finding, truth))

        if scan.volume and finding.mask is not None:
            lines["fluid"] = fluid_thickness_px(image, finding.mask)
        return Left(row, lines)

    def _find(self, scan: Scan, image: np.ndarray) -> Finding:
        # one network may find both, and runs once
        scale_um = scan.scale_um
        probabilities = {}
        for model in self.networks.values():
            if model not in probabilities:
                probabilities[model] = class_probabilities(model, image, self.tta, scale_um)

        mask = probability = boundaries = None
        if "fluid" in self.networks:
            model = self.networks["fluid"]
            mask, probability = fluid_mask(model, probabilities[model], self.threshold)
        if "layers" in self.networks:
            model = self.networks["layers"]
            boundaries = layer_rows(model, image, probabilities[model], probability)
        return Finding(mask, probability, boundaries)

    def _leave_fluid(self, scan: Scan, finding: Finding, scale_um: Scale) -> dict:
        """Save the mask; returns its columns."""
        row = measure_scan(finding.mask, finding.probability, scale_um)
        row["mask"] = f"masks/{scan.name}.png"
        save_png(self.out / row["mask"], finding.mask * 255, fast=True)
        return row

    def _believed(self, image: np.ndarray, finding: Finding, scale_um: Scale) -> dict:
        """How far the fluid of a scan can be believed, and whether that is too little."""
        model = self.networks["fluid"]
        quantities = quantities_of(model, image, finding.probability, scale_um)
        trust = self.trust.judge(quantities, float(finding.mask.mean()))
        return {
            "predicted_dice": trust.dice,
            "fluid_area_low_mm2": area_mm2(trust.low_share * image.size, scale_um),
            "fluid_area_high_mm2": area_mm2(trust.high_share * image.size, scale_um),
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
        write_image(self.out / files["image"], image)
        return files

    def _overlay(self, image: np.ndarray, finding: Finding, row: dict) -> np.ndarray:
        if finding.boundaries is not None:
            return draw_boundaries(image, finding.boundaries, finding.mask)
        regions = counted(row["regions"], "region")
        legend = f"fluid: {amount(row)}, {regions} ({self._rule()})"
        return scan_overlay(image, finding.mask, legend)

    def _rule(self) -> str:
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
