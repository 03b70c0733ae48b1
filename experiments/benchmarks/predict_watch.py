"""`predict` with a watch on its parts: what bench.py predict starts, once for every run.

python experiments/benchmarks/predict_watch.py WATCHED.json STARTED INPUT... [options of predict]

STARTED: the clock (time.time) when the process was started.
"""

import sys
import time

REACHED_PYTHON = time.time()  # before anything is imported

import importlib  # noqa: E402
import threading  # noqa: E402
from argparse import REMAINDER  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

from dme.common.errors import run  # noqa: E402
from dme.common.options import option_parser  # noqa: E402
from dme.common.threads import let_waiting_threads_sleep  # noqa: E402

# part of a prediction -> functions (as they are called: module, then name) whose time is its own;
# what they call and is another part counts for that one alone
PARTS = {
    "networks": ["dme.report.networks:choose_networks"],
    "decode": ["dme.report.batch:Work._read"],
    "check": ["dme.report.batch:oddities_of"],
    "entry": ["dme.report.batch:class_probabilities", "dme.report.batch:scale_note"],
    "network": ["dme.nets.segmenter:Segmenter.forward"],
    "boundaries": ["dme.report.batch:layer_rows"],
    "measures": ["dme.report.batch:Work._leave", "dme.report.batch:Work._keep"],
    "pictures": ["dme.report.batch:Work._overlay", "dme.report.batch:thickness_profile"],
    "files": [
        "dme.report.batch:save_png",
        "dme.report.batch:write_thumbnail",
        "dme.report.batch:write_values",
        "dme.report.batch:write_rows",
        "dme.report.journal:sha256_file",
    ],
    "page": ["dme.report.results_folder:complete"],
}
FIRST = "dme.report.batch:Work._keep"  # whose first end is the first prediction


class Watch:
    """Seconds of every part, by the wall's clock and by that of the thread."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = defaultdict(float)
        self.thread_s: dict[str, float] = defaultdict(float)
        # name -> time.time(), and the processor's seconds, of the first time
        self.moments: dict[str, tuple[float, float]] = {}
        self.lock = threading.Lock()
        self.local = threading.local()

    def reach(self, moment: str) -> None:
        self.moments.setdefault(moment, (time.time(), time.process_time()))

    def timed(self, part: str, function: Callable) -> Callable:
        """The function, its time added to the part's, less that of parts that it calls."""

        def call(*args: object, **options: object) -> object:
            calls = self.local.__dict__.setdefault("calls", [])
            calls.append([0.0, 0.0])  # of the parts that this call calls
            wall, thread = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent = (time.perf_counter() - wall, time.thread_time() - thread)
                inner = calls.pop()
                if calls:
                    calls[-1] = [a + b for a, b in zip(calls[-1], spent, strict=True)]
                with self.lock:
                    self.wall_s[part] += spent[0] - inner[0]
                    self.thread_s[part] += spent[1] - inner[1]

        return call

    def marks(self, function: Callable, begin: str, end: str) -> Callable:
        """The function, the first time that it is called and that it returns kept as moments."""

        def call(*args: object, **options: object) -> object:
            self.reach(begin)
            result = function(*args, **options)
            self.reach(end)
            return result

        return call


def replace(place: str, change: Callable[[Callable], Callable]) -> None:
    """Put a changed function where MODULE:NAME or MODULE:CLASS.NAME is."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *classes, name = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    setattr(owner, name, change(getattr(owner, name)))


def main() -> int:
    """Predict as the command does; the watch's numbers go into a file. Returns its exit code."""
    parser = option_parser(__doc__)
    parser.add_argument("watched", type=Path, metavar="WATCHED.json")
    parser.add_argument("started", type=float, metavar="STARTED")
    parser.add_argument("words", nargs=REMAINDER, metavar="INPUT", help="as of predict")
    args = parser.parse_args()
    sys.argv = ["dme predict", *args.words]
    let_waiting_threads_sleep()  # as the command does; the watch brings PyTorch before it can
    from dme.commands import predict
    from dme.common.files import write_json

    watch = Watch()
    for part, places in PARTS.items():
        for place in places:
            replace(place, lambda function, part=part: watch.timed(part, function))
    replace(FIRST, lambda function: watch.marks(function, "", "first prediction"))
    replace(
        "dme.report.batch:Work.run",
        lambda function: watch.marks(function, "scans begin", "scans end"),
    )
    watch.reach("imports")
    code = predict.main()
    watch.reach("end")

    since_start = {"python": REACHED_PYTHON - args.started}
    processor = {}
    for moment in ("imports", "scans begin", "first prediction", "scans end", "end"):
        reached, processor[moment] = watch.moments[moment]
        since_start[moment] = reached - args.started
    content = {
        "wall_s": watch.wall_s,
        "thread_s": watch.thread_s,
        "since_start_s": since_start,
        "processor_at_s": processor,
    }
    write_json(args.watched, content)
    return code


if __name__ == "__main__":
    run(main)
