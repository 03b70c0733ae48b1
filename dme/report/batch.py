"""Many scans, one after the other: of each remain its files, a row of numbers and, in a volume, a line."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import distributed
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError
from dme.drawing.canvas import save_picture
from dme.drawing.layers import draw_boundaries, thickness_profile
from dme.drawing.overlays import scan_overlay
from dme.inference.scan import class_probabilities, fluid_mask, layer_rows
from dme.nets.segmenter import Segmenter
from dme.report.inputs import Item, Scan
from dme.report.tables import write_rows
from dme.report.wording import amount
from dme.retina.fluid import measure_fluid_in_layers, measure_scan
from dme.retina.thickness import measure_layers, retina_px
from dme.retina.volume import SCALE

FOLDERS = ("masks", "boundaries", "profiles", "overlays")


@dataclass
class Work:
    """Predicts scans one at a time into FOLDERS of `out`; bad ones are reported and skipped."""

    out: Path
    networks: dict[
        str, Segmenter
    ]  # what to find, "fluid", "layers" or both -> the network that finds it
    threshold: float
    tta: bool
    scale_um: tuple[float, ...] | None  # in place of the source's, as far as it goes
    rows: list[dict] = field(default_factory=list)
    skipped: list[dict] = field(default_factory=list)  # source, reason
    # thickness in px of each column (W,): (volume, "fluid" or "retina") -> B-scan -> line; and of each volume
    # the first and last B-scan to expect
    columns: dict[tuple[str, str], dict[int, np.ndarray]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    ranges: dict[str, list[int]] = field(default_factory=dict)

    def run(self, items: list[Item]) -> None:
        """Under torchrun every rank takes its share of the scans."""
        rank, world = ranks.rank(), ranks.world_size()
        count, taken = 0, set()
        with tqdm(desc="predict", unit="scan", total=0, disable=rank > 0) as bar:
            for item in items:
                try:
                    scans = item.scans(taken)
                except InputError as e:
                    if rank == 0:
                        self.skip(item.source, str(e))
                    continue
                for note in item.notes if rank == 0 else ():
                    tqdm.write(f"note: {note}".encode(errors="replace").decode())  # odd file names
                for scan in scans:
                    if scan.volume:
                        first, last = self.ranges.get(scan.volume, [scan.position] * 2)
                        self.ranges[scan.volume] = [
                            min(first, scan.position),
                            max(last, scan.position),
                        ]
                mine = [(i, scan) for i, scan in enumerate(scans, count) if i % world == rank]
                count += len(scans)
                bar.total += len(mine)
                for i, scan in mine:
                    try:
                        self.predict_scan(i, scan)
                    except InputError as e:
                        self.skip(scan.source, str(e))
                    bar.update()

    def skip(self, source: str, reason: str) -> None:
        reason = reason.removeprefix(f"{source}: ")
        tqdm.write(f"skipped: {source}: {reason}", file=sys.stderr)
        self.skipped.append({"source": source, "reason": reason})

    def predict_scan(self, order: int, scan: Scan) -> None:
        image = scan.read()
        models = dict.fromkeys(self.networks.values())  # one network may find both
        seen = {model: class_probabilities(model, image, self.tta) for model in models}
        mask = probability = boundaries = None
        if model := self.networks.get("fluid"):
            mask, probability = fluid_mask(model, seen[model], self.threshold)
        if model := self.networks.get("layers"):
            boundaries = layer_rows(model, seen[model], probability)
        own, given = scan.scale_um or (), self.scale_um or ()
        scale_um = (*given, *own[len(given) :]) or None
        row = {
            "order": order,
            "scan": scan.name,
            "source": scan.source,
            "volume": scan.volume,
            "bscan": scan.position,
            "height_px": image.shape[0],
            "width_px": image.shape[1],
            **dict(zip(SCALE, (*(scale_um or ()), None, None, None), strict=False)),
        }
        columns_px = {}
        if mask is not None:
            row |= measure_scan(mask, probability, scale_um) | {"mask": f"masks/{scan.name}.png"}
            save_picture(self.out / row["mask"], mask * 255)
            columns_px["fluid"] = mask.sum(0, dtype=np.int32)
        if boundaries is not None:
            files = {
                "boundaries": f"boundaries/{scan.name}.csv",
                "profile": f"profiles/{scan.name}.png",
            }
            row |= measure_layers(boundaries, scale_um) | files
            write_rows(self.out / row["boundaries"], boundaries)
            profile = thickness_profile(boundaries, *(scale_um or ())[:2], title=scan.name)
            save_picture(self.out / row["profile"], profile)
            columns_px["retina"] = retina_px(boundaries)
        if mask is not None and boundaries is not None:
            row |= measure_fluid_in_layers(boundaries, mask, scale_um)
        row["overlay"] = f"overlays/{scan.name}.png"
        if boundaries is None:
            many = f"{row['regions']} region{'s' * (row['regions'] != 1)}"
            legend = f"fluid: {amount(row)}, {many} (probability above {self.threshold:g})"
            save_picture(self.out / row["overlay"], scan_overlay(image, mask, legend))
        else:
            save_picture(self.out / row["overlay"], draw_boundaries(image, boundaries, mask))
        self.rows.append(row)
        if scan.volume:
            for of, line in columns_px.items():
                self.columns[scan.volume, of][scan.position] = line

    def gather(self) -> None:
        """Bring the scans of all ranks together, in order."""
        parts = [(self.rows, self.skipped, dict(self.columns))]
        if ranks.world_size() > 1:
            parts *= ranks.world_size()
            distributed.all_gather_object(parts, parts[0])
        self.rows = sorted(
            (row for rows, _, _ in parts for row in rows), key=lambda row: row.pop("order")
        )
        self.skipped = [fault for _, skipped, _ in parts for fault in skipped]
        self.columns = defaultdict(dict)
        for _, _, columns in parts:
            for of_volume, lines in columns.items():
                self.columns[of_volume] |= lines
