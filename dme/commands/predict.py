"""Find fluid or layers in B-scans: masks, boundaries, overlays, measurements, a report to browse.

INPUT: an image (8 or 16 bit, grey or colour, any size), an array (.npy), a volume (.mat), a folder
of these, or the word phantom for synthetic scans.

./run.sh predict my_scans/ --scale 3.87,11.33,123 --eye OD
./run.sh predict Subject_01.mat --out visit1
./run.sh predict my_scans/ --task layers
./run.sh predict --compare visit1 visit2
./run.sh predict --edited visit1
torchrun --nproc-per-node 4 -m dme predict my_scans/
"""

import argparse
import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dme.common.errors import InputError, with_flags
from dme.common.options import (
    add_options,
    check,
    from_options,
    numbers,
    option_parser,
    setting,
)
from dme.common.scale import given_scale
from dme.common.tasks import TASKS, current_name
from dme.common.threads import let_waiting_threads_sleep
from dme.common.words import BACKBONE_NAMES, EYES, PRECISIONS, SCAN_SUFFIXES, WRITTEN

if TYPE_CHECKING:  # --help is answered without torch
    from dme.nets.segmenter import Segmenter
    from dme.report.inputs import Item
    from dme.report.labelled import Labelled

FIT_THRESHOLD = 0.5  # at which the fits of `trust` are made


@dataclass(frozen=True)
class Settings:
    """What to find in the scans, by which rule, and where they lie in the eye."""

    out: Path | None = setting(None, "results folder (default runs/predict, or runs/compare)")
    overwrite: bool = setting(
        False,
        "replace the results in --out, unless a file of them was changed; "
        "without it a new folder beside it is taken",
    )
    task: str = setting("fluid", "what to find", choices=tuple(TASKS))
    backbone: str | None = setting(
        None, "what the network's must be (default: whatever it is)", choices=BACKBONE_NAMES
    )
    threshold: float = setting(FIT_THRESHOLD, "fluid is where its probability is above")
    precision: str = setting(
        "float32",
        "that networks compute in; bfloat16 is for fluid alone and takes less time",
        choices=PRECISIONS,
    )
    tta: bool = setting(False, "average with the mirrored scan: twice the time")
    scale: str | None = setting(
        None,
        "axial,lateral[,spacing] in um per pixel and B-scan (default: what the source says)",
    )
    volume: bool = setting(False, "the images of a folder are the B-scans of one volume")
    labelled: Path | None = setting(
        None,
        "folder of labelled scans to leave out: of annotate, or as `--data` of finetune",
    )
    force: bool = setting(False, "predict what does not look like a B-scan too")
    trust: Path | None = setting(
        None,
        "what experiments/studies/trust.py left for the network: a predicted Dice and an interval "
        "of the area for every scan (five more predictions of it)",
    )
    eye: str | None = setting(
        None, "right (OD) or left (OS): sectors become nasal and temporal", choices=EYES
    )
    fovea: str | None = setting(
        None,
        "its column, from 0, and B-scan, as numbered in measurements.csv "
        "(default: the pit of the retina's thickness, without one the centre)",
    )
    keep_identifiers: bool = setting(
        False, "leave in the results what a device's file says of the patient, and whole paths"
    )
    keep_dates: bool = setting(False, "leave in the results when a device's scan was taken")
    write: tuple[str, ...] = setting(
        (),
        "masks and layers of whole volumes as files of other programs (dicom-seg: of DICOM files)",
        choices=WRITTEN,
    )

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.threshold < 1:
            found = f"`threshold` {self.threshold} is out of range"
            raise InputError(f"{found}: give 0 or more, below 1")
        if self.trust and (self.tta or self.threshold != FIT_THRESHOLD):
            fitted = f"without `tta`, at `threshold` {FIT_THRESHOLD:g}"
            raise InputError(f"`trust` was fitted {fitted}: leave both out")
        given_scale(self.scale)

    def reported(self) -> dict:
        """What stands in the results file."""
        return {
            "threshold": self.threshold,
            "tta": self.tta,
            "force": self.force,
            "trust": self.trust.name if self.trust else None,
            "scale_um": self.scale_um,
            "eye": self.eye,
            "fovea": self.fovea_place,
        }

    @property
    def scale_um(self) -> tuple[float, ...] | None:
        """Axial, lateral and, if given, spacing."""
        return given_scale(self.scale)

    @property
    def fovea_place(self) -> tuple[float, ...] | None:
        """Column and B-scan."""
        return numbers("fovea", self.fovea, "column,B-scan", (2,))


def parse_args() -> tuple[argparse.Namespace, Settings]:
    # what is no setting of a prediction stands beside the settings
    parser = option_parser(__doc__)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help=f"files ({' '.join(SCAN_SUFFIXES)}), folders, or phantom",
    )
    add_options(parser, Settings)
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NETWORK",
        help="name or file (default dme-fluid, for layers octlayers); twice where it takes two",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="results folders of two visits: what changed",
    )
    parser.add_argument(
        "--edited",
        type=Path,
        metavar="RESULTS",
        help="measure these results again, from what annotate left in their folder edited/",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="with --edited: masks from here, also PNG, TIFF or NIfTI files of other programs",
    )
    args = parser.parse_args()
    if sum(map(bool, (args.inputs, args.compare, args.edited))) != 1:
        choices = "INPUT (files, folders or the word phantom), --compare A B, or --edited RESULTS"
        parser.error(f"give {choices}")
    if args.masks and not args.edited:
        parser.error("--masks belongs to --edited RESULTS")
    args.task = current_name(args.task)
    settings = from_options(Settings, args)
    if args.compare and (args.weights or replace(settings, out=None) != Settings()):
        raise InputError(
            "--compare takes results as they are, and beside them --out alone: "
            "give the other options when the visits are predicted"
        )
    return args, settings


def main() -> int:
    """Exit code 0, or 1 if something was skipped."""
    args, settings = parse_args()
    if args.compare:
        return print_comparison(*args.compare, settings.out or Path("runs/compare"))
    if args.edited:
        return measure_edited(args.edited, args.masks, settings)
    if "dicom-seg" in settings.write:
        from dme.report.dicom_seg import require_highdicom

        require_highdicom()
    return predict_scans(args, settings, settings.out or Path("runs/predict"))


def predict_scans(args: argparse.Namespace, settings: Settings, out: Path) -> int:
    """Predict all scans of the inputs into the folder `out`."""
    # before PyTorch is there, beside whose threads others read and write
    let_waiting_threads_sleep()
    # imported only now: --help and wrong options are answered at once
    from dme.common import ranks
    from dme.report import results_folder
    from dme.report.batch import Work
    from dme.report.eyes import check_eye
    from dme.report.inputs import list_items
    from dme.report.journal import Journal
    from dme.report.labelled import labelled_in
    from dme.report.networks import choose_networks, trust_for
    from dme.report.output_folder import folder_for
    from dme.report.privacy import Privacy

    # whatever can be wrong with the arguments is said before anything is written
    scale_um = settings.scale_um
    fovea = settings.fovea_place
    rank, _, device = ranks.join()
    task = TASKS[settings.task]
    networks = choose_networks(task, args.weights, settings.backbone, device, settings.precision)
    trust = trust_for(settings.trust, networks)
    labelled = labelled_in(settings.labelled)
    items, faults = list_items(args.inputs, settings.volume)
    check_eye(settings.eye, [item.source for item in items])
    if not items:
        raise InputError(with_flags("; ".join(faults.values())))

    # what the results will say of this run
    record = record_of(args.inputs, settings, networks, labelled)
    origin = results_folder.Origin(task, settings.eye, fovea, record, settings.write)

    # rank 0 holds the folder; every rank waits until it is ready, then takes its share
    with contextlib.ExitStack() as stack:
        folder = None
        if rank == 0:
            holding = folder_for(out, record["fingerprint"], settings.overwrite)
            folder = stack.enter_context(holding)
            stack.enter_context(results_folder.announced(folder.out, origin))
            print_networks(networks.values(), record["device"])
        folder = ranks.shared(folder)
        journal = stack.enter_context(contextlib.closing(Journal(folder.out, rank)))
        privacy = Privacy(settings.keep_identifiers, settings.keep_dates)
        privacy.add_inputs([*args.inputs, str(out), str(settings.labelled)])
        work = Work(
            folder.out,
            networks,
            settings.threshold,
            settings.tta,
            scale_um,
            settings.force,
            trust,
            journal,
            privacy,
            labelled,
        )
        if rank == 0:
            for source, reason in faults.items():
                work.skip(source, reason)
        work.run(items)
        work.gather()
        journal.close()
        if rank == 0:
            results_folder.complete(work, origin, notes_of(items), folder)
    ranks.leave()
    # torchrun would end rank 0 if another rank failed before it
    return int(rank == 0 and bool(work.skipped))


def measure_edited(results: Path, masks: Path | None, settings: Settings) -> int:
    """Measure again what a person corrected; everything else is as it was predicted."""
    from dme.report.edited import remeasure

    usual = Settings(out=settings.out, overwrite=settings.overwrite)
    if settings != usual:
        raise InputError(
            "with --edited nothing is predicted: of the settings only `out` and `overwrite` apply"
        )
    name = results.resolve().name
    return remeasure(
        results, masks, settings.out or results.parent / f"{name}-edited", settings.overwrite
    )


def record_of(
    inputs: list[str],
    settings: Settings,
    networks: "dict[str, Segmenter]",
    labelled: "Labelled | None" = None,
) -> dict:
    """Where the results come from: provenance, inputs, settings, and a fingerprint of all that."""
    from dme.common.provenance import provenance
    from dme.report.networks import network_settings
    from dme.report.output_folder import fingerprint_of
    from dme.retina.fluid import CONNECTIVITY

    record = provenance()
    record["inputs"] = inputs
    record["settings"] = {
        **network_settings(networks),
        **settings.reported(),
        "connectivity": CONNECTIVITY,
    }
    # what decides beside them
    kind = {"task": settings.task, "volume": settings.volume}
    if settings.keep_identifiers or settings.keep_dates:
        kind["keep"] = (settings.keep_identifiers, settings.keep_dates)
    if settings.write:
        kind["write"] = settings.write
    if labelled:
        kind["labelled"] = record["settings"]["labelled"] = labelled.names
    record["fingerprint"] = fingerprint_of(inputs, kind, record)
    return record


def notes_of(items: "Iterable[Item]") -> list[str]:
    """What was noticed when the inputs were opened."""
    return [note for item in items for note in item.notes]


def print_networks(networks: "Iterable[Segmenter]", device: str) -> None:
    """A line for each, where one may have two tasks."""
    from dme.nets.folding import precision_of

    for model in dict.fromkeys(networks):
        weights = f"{model.weights_name} (sha256 {model.weights_sha256[:12]})"
        print(f"network: {weights}, {precision_of(model)}, {device}")


def print_comparison(folder_a: str, folder_b: str, out: Path) -> int:
    """What changed from visit A to B: on the screen, in comparison.csv, and as a page.

    out: the folder for both, or for one beside it where it holds anything already.
    """
    from dme.common.provenance import provenance
    from dme.report.compare import change_columns, change_lines, compare
    from dme.report.compare_page import write_comparison_page
    from dme.report.output_folder import new_folder
    from dme.report.tables import write_csv

    if os.path.realpath(folder_a) == os.path.realpath(folder_b):
        raise InputError(f"--compare {folder_a} {folder_b}: one folder twice; give two visits")
    comparison = compare(folder_a, folder_b)
    rows = comparison.rows
    with new_folder(out) as folder:
        print(f"A: {folder_a}\nB: {folder_b}")
        print(
            "not registered: B-scans pair by position, sectors lie around the centre of each visit"
        )
        for note in comparison.notes():
            print(with_flags(note))
        for line in change_lines(rows):
            print(line)
        write_csv(folder.out / "comparison.csv", change_columns(rows), rows)
        write_comparison_page(folder.out, comparison, provenance())
    written = "open comparison.html; comparison.csv. Not a medical device."
    print(f"\nwrote {folder.out}: {written}")
    return 0
