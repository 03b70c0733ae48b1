"""`suggest`: which of many scans to label next, as a list, a table and a picture."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dme.common.errors import InputError, with_flags
from dme.common.files import write_json
from dme.drawing.canvas import save_png
from dme.drawing.overlays import overlay
from dme.drawing.panels import contact_sheet
from dme.inference.scan import scale_lines, scale_note
from dme.inference.suggestion import (
    CANDIDATES,
    Choice,
    Look,
    Spot,
    Suggestion,
    choose_with_reasons,
    draw_shifts,
    look_at,
)
from dme.nets.segmenter import Segmenter
from dme.report.inputs import Item
from dme.report.scans import Scan, take_scale
from dme.report.tables import write_csv

LIST = "suggested.csv"
RECORD = "suggested.json"
SHEET = "suggested.png"
FILES = (LIST, SHEET)
COLUMNS = ("rank", "scan", "volume", "bscan", "nats_per_1000_px", "stands_for_scans", "source")
SHEET_COLUMNS = 4
SHEET_WIDTH = 300  # px, of a picture
MOST_UNSURE = 0.02  # share of the pixels that the pictures mark
ORANGE = (255, 168, 60)


@dataclass
class Looked:
    """The scans that could be read, what the network makes of each, and how many were not."""

    scans: list[Scan]
    looks: list[Look]
    skipped: int = 0


def look_at_all(
    model: Segmenter,
    items: Sequence[Item],
    seed: int,
    scale_um: Sequence[float] | None = None,
) -> Looked:
    """Look at the scans of all items; those that cannot be read are said and left out.

    scale_um: axial and lateral um per pixel, in place of what files say.
    """
    looked = Looked([], [])
    shifts = draw_shifts(seed)
    names: set[str] = set()
    guesses: list[str] = []  # how scales were guessed
    with tqdm(desc="look", unit="scan", total=0) as bar:
        for item in items:
            scans = _opened(item, names, scale_um, looked)
            bar.total += len(scans)
            for scan in scans:
                try:
                    image = scan.read_grey()
                    look = look_at(model, image, shifts, scan.scale_um)
                    looked.scans.append(scan)
                    looked.looks.append(look)
                    guesses.append(scale_note(model, image, scan.scale_um))
                except InputError as e:
                    _skip(looked, str(e))
                bar.update()
    for line in scale_lines(guesses):
        print(with_flags(f"note: {line}"))
    return looked


def _opened(
    item: Item, names: set[str], scale_um: Sequence[float] | None, looked: Looked
) -> list[Scan]:
    try:
        scans = item.scans(names)
        item.notes += take_scale(scans, scale_um)
    except InputError as e:
        _skip(looked, str(e))
        return []
    for note in item.notes:
        tqdm.write(f"note: {note}")
    return scans


def _skip(looked: Looked, reason: str) -> None:
    looked.skipped += 1
    tqdm.write(f"skipped: {with_flags(reason)}", file=sys.stderr)


def suggest(looked: Looked, count: int, labelled: Sequence[str]) -> Choice:
    """The scans to label next. labelled: names of those that have labels."""
    known = [scan.name for scan in looked.scans]
    unknown = [name for name in labelled if name not in known]
    if unknown:
        raise InputError(
            f"`labelled` holds {unknown[0]}, which is none of the {len(known)} scans: "
            "give the same scans as when they were labelled"
        )
    spots = [Spot(scan.volume, scan.position) for scan in looked.scans]
    indices = [known.index(name) for name in labelled]
    return choose_with_reasons(looked.looks, spots, count, indices)


def write_suggestions(out: Path, looked: Looked, choice: Choice, record: dict) -> None:
    """The list that `annotate` opens, the picture, and last where they come from."""
    rows = []
    for rank, suggestion in enumerate(choice.suggestions, start=1):
        rows.append(_row(looked, suggestion, rank))
    write_csv(out / LIST, COLUMNS, rows)

    # the pixels that the network is least sure of, on the scans themselves
    pictures = []
    captions = []
    for row, index in zip(rows, choice.indices, strict=True):
        picture = looked.looks[index].picture
        unsure = picture > max(np.quantile(picture, 1 - MOST_UNSURE), 0)
        pictures.append(out / f".{row['rank']}.png")
        save_png(pictures[-1], overlay(looked.scans[index].read_grey(), unsure, ORANGE), fast=True)
        captions.append(f"{row['rank']}: {row['scan']}, {row['nats_per_1000_px']:.2f}")
    try:
        sheet = contact_sheet(pictures, captions, SHEET_COLUMNS, SHEET_WIDTH, strip=0)
    finally:
        for file in pictures:
            file.unlink(missing_ok=True)
    save_png(out / SHEET, sheet)

    scores = {}
    for scan, look in zip(looked.scans, looked.looks, strict=True):
        scores[scan.name] = look.disagreement
    content = {
        "suggested": [row["scan"] for row in rows],
        "stands_for_scans": [row["stands_for_scans"] for row in rows],
        "candidates": choice.candidates,
        "disagreement": scores,
    }
    write_json(out / RECORD, record | content)


def _row(looked: Looked, suggestion: Suggestion, rank: int) -> dict:
    scan = looked.scans[suggestion.index]
    return {
        "rank": rank,
        "scan": scan.name,
        "volume": scan.volume,
        "bscan": scan.position,
        "nats_per_1000_px": 1000 * suggestion.disagreement,
        "stands_for_scans": suggestion.stands_for,
        "source": Path(scan.source).name,
    }


def print_suggestions(looked: Looked, choice: Choice, count: int) -> None:
    """A line for each, the most useful first, and what decided. count: how many were asked for."""
    width = max(len(scan.name) for scan in looked.scans)
    print("rank  " + "scan".ljust(width) + "  disagreement  stands for")
    for rank, suggestion in enumerate(choice.suggestions, start=1):
        name = looked.scans[suggestion.index].name.ljust(width)
        disagreement = f"{1000 * suggestion.disagreement:.2f}"
        print(f"{rank:4}  {name}  {disagreement:>12}  {suggestion.stands_for:>10.1f}")
    for line in reasons(choice, len(looked.scans), count):
        print(line)


def reasons(choice: Choice, scans: int, count: int) -> list[str]:
    """What the two numbers are, and which of them decided. scans: how many were looked at."""
    lines = [
        "disagreement: how much the network contradicts itself when the scan is mirrored or "
        "shifted, in nats per 1000 px",
        f"stands for: how many of all {scans} scans it looks like, itself among them, beyond "
        "those for which labelled scans and the ones above stand",
    ]
    if choice.candidates == choice.unlabelled:
        every = (
            f"all {choice.unlabelled} unlabelled scans, for each asked for may bring {CANDIDATES}"
        )
        lines.append(
            f"candidates: {every}: disagreement decided nothing, only what they stand for"
        )
    else:
        most = f"{choice.candidates} of {choice.unlabelled} unlabelled scans"
        lines.append(
            f"candidates: {most}, those of most disagreement, as many from every eye; of these "
            "the ones that stand for most"
        )
    others = sum(not suggestion.candidate for suggestion in choice.suggestions)
    if others:
        lines.append(
            f"{others} listed though no candidates: some eyes have fewer than their share"
        )
    listed = len(choice.suggestions)
    if listed < count:
        lines.append(f"{listed} listed, not {count}: there are no more unlabelled scans")
    return lines


def read_list(path: Path) -> list[str]:
    """Names of the scans in a list that `suggest` wrote, in its order. Raises InputError."""
    expected = f"expected the {LIST} of ./run.sh suggest, or a table with a column scan"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            names = [row["scan"] for row in csv.DictReader(file)]
    except (KeyError, ValueError, csv.Error) as e:
        raise InputError(f"{path}: no list of scans; {expected}") from e
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}; {expected}") from e
    if not names:
        raise InputError(f"{path}: no scans in it; {expected}")
    return names
