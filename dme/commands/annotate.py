"""Correct scans in a browser: fluid and boundaries; what is done is a folder to train on.

SCANS: results of predict, whose findings are corrected, or a folder of scans, from nothing.

./run.sh annotate runs/predict
./run.sh annotate my_scans/ --task layers+fluid
./run.sh annotate runs/predict --order runs/suggest/suggested.csv
"""

import argparse
import contextlib
import tempfile
import webbrowser
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from dme.common.errors import InputError, by_door
from dme.common.options import add_options, check, from_options, option_parser, setting
from dme.common.tasks import TASKS, current_name

if TYPE_CHECKING:  # --help is answered without NumPy
    from dme.annotation.sheets import Sheet
    from dme.data.corrections import Corrections


@dataclass(frozen=True)
class Settings:
    """What is drawn, in which order, and where it is kept."""

    out: Path | None = setting(
        None, "folder for what is drawn (default RESULTS/edited, of scans runs/annotate)"
    )
    order: Path | None = setting(None, "open the scans of this list, suggested.csv say, in order")
    task: str | None = setting(
        None,
        "what is drawn on a folder of scans (default fluid); of results what they hold",
        choices=tuple(TASKS),
    )
    volume: bool = setting(False, "the images of a folder are the B-scans of one volume")
    port: int = setting(0, "of the server on this machine, 0 for any", minimum=0, maximum=65535)
    browser: bool = setting(True, "open the page in the browser")

    def __post_init__(self) -> None:
        check(self)


def main() -> int:
    scans, settings = parse_args()
    # imported only now: --help and wrong options are answered at once
    from dme.annotation.server import Server
    from dme.common.folders import owned
    from dme.data.corrections import Corrections, remove_parts
    from dme.report.stored import is_results

    from_results = is_results(scans)
    out = settings.out
    if out is None:
        out = scans / "edited" if from_results else Path("runs/annotate")
    with contextlib.ExitStack() as stack:
        # what is drawn lies in a folder that this process holds, the page in one that goes
        stack.enter_context(owned(out))
        remove_parts(out)
        corrections = Corrections(out)
        page = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dme-annotate-")))
        folders = [page, scans] if from_results else [page]
        sheets = prepare(page, scans, settings, corrections)

        drawables = [sheet.drawable for sheet in sheets]
        server = stack.enter_context(Server(drawables, corrections, folders, settings.port))
        done = sum(corrections.is_done(sheet.drawable.place.name) for sheet in sheets)
        print(f"{len(sheets)} scans, {done} of them done; what you draw is kept in {out}")
        print(f"open {server.address}", flush=True)
        print("Ctrl-C ends it; only this machine can reach it, only by this address", flush=True)
        if settings.browser:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        data = quote(str(out))
        command = f"./run.sh finetune --recipe fluid --data {data} --split random"
        print(by_door(f"\nended; train on what is done: {command}"))
    return 0


def parse_args() -> tuple[Path, Settings]:
    parser = option_parser(__doc__)
    parser.add_argument("scans", metavar="SCANS", help="results of predict, or a folder of scans")
    add_options(parser, Settings)
    args: argparse.Namespace = parser.parse_args()
    args.task = args.task and current_name(args.task)
    return Path(args.scans), from_options(Settings, args)


def prepare(
    page: Path, scans: Path, settings: Settings, corrections: "Corrections"
) -> "list[Sheet]":
    """The scans in the order in which they are opened, and the page for them."""
    from dme.annotation.page import leave_scan, write_editor_page
    from dme.annotation.sheets import in_order, sheets_of_results, sheets_of_scans
    from dme.report.stored import is_results, open_results
    from dme.report.suggestions import read_list

    volumes = []
    if is_results(scans):
        if settings.task or settings.volume:
            raise InputError("`task` and `volume` are for scans that were not predicted")
        stored = open_results(scans)
        sheets = sheets_of_results(stored)
        volumes = stored.volumes
    else:
        task = TASKS[settings.task or "fluid"]
        sheets = sheets_of_scans([str(scans)], settings.volume, task, partial(leave_scan, page))
    check_kept(corrections, sheets)
    corrections.update_places(sheet.drawable.place for sheet in sheets)
    if settings.order is not None:
        sheets = in_order(sheets, read_list(settings.order), str(settings.order))
        volumes = []
    facts = [("scans", str(scans)), ("kept in", str(corrections.root))]
    write_editor_page(page, scans, sheets, volumes, facts)
    return sheets


def check_kept(corrections: "Corrections", sheets: "list[Sheet]") -> None:
    """Refuse, before anything is shown, what was drawn on scans of another size."""
    for sheet in sheets:
        try:
            corrections.read(sheet.drawable.place.name, sheet.drawable.shape)
        except InputError as e:
            raise InputError(
                f"{e}; is {corrections.root} of other scans? Choose another `out`"
            ) from e
