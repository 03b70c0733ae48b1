"""The table of the parts of a prediction that the README shows, from what bench.py predict left.

python experiments/benchmarks/predict_table.py --results experiments/results/bench
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dme.common.errors import InputError, run
from dme.common.tables import table_head, table_line

# part of a scan, as in predict_watch.py -> in words
OF_A_SCAN = {
    "decode": "decode",
    "check": "is it a B-scan?",
    "entry": "entry: sizes, brightness, back to the scan's pixels",
    "network": "network",
    "boundaries": "boundaries",
    "measures": "measures, journal",
    "pictures": "overlay, profile",
    "files": "PNG, JPEG, CSV and values to files",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("runs/bench"), help="of bench.py")
    print(markdown(parser.parse_args().results), end="")


def markdown(results: Path) -> str:
    """The table. Raises InputError when the bench is not finished."""
    path = results / "predict.json"
    if not path.exists():
        raise InputError(f"{path} is not there; run bench.py predict first")
    return "\n".join(lines(json.loads(path.read_text()))) + "\n"


def lines(content: dict) -> list[str]:
    """Lines of the table, a column for each task: parts, then what a user waits for."""
    warm = [runs["warm"] for runs in content["tasks"].values()]
    cold = [runs["cold"] for runs in content["tasks"].values()]
    title = f"{content['scans']} scans, medians of {content['repeats']} runs"
    table = table_head([title, *content["tasks"]])

    def add(title: str, cell: Callable[[dict], str], runs: Sequence[dict] = warm) -> None:
        table.append(table_line([title, *map(cell, runs)]))

    # until the scans begin, of every scan, and when they are done: the parts
    add("start: Python", partial(moment, "python"))
    add("start: packages", lambda seen: seconds(apart(seen, "python", "imports")))
    add("start: networks", lambda seen: seconds(seen["wall_s"]["networks"]))
    for part, words in OF_A_SCAN.items():
        add(f"a scan: {words}", partial(of_a_scan, part))
    add("a scan: all parts, side by side", side_by_side)
    add("end: volumes, tables, page", lambda seen: seconds(seen["wall_s"]["page"]))

    # what a user waits for
    for title, name in (("first prediction after", "first prediction"), ("all after", "end")):
        add(title, partial(moment, name))
        add(f"{title}, cold", partial(moment, name), cold)
        add(f"{title}, processor", partial(moment, name, clock="processor_at_s"))
    add("read from the disk, cold", lambda seen: f"{seen['read_mb']:.0f} MB", cold)
    add("most memory", lambda seen: f"{seen['most_memory_mb']:.0f} MB")
    return table


def moment(name: str, prediction: dict, clock: str = "since_start_s") -> str:
    """When a moment was reached."""
    return seconds(prediction[clock][name])


def of_a_scan(part: str, prediction: dict) -> str:
    """Milliseconds of a part, in brackets the processor's by the thread that called it."""
    if part not in prediction["wall_s"]:
        return ""
    wall_ms = 1e3 * prediction["wall_s"][part] / prediction["scans"]
    thread_ms = 1e3 * prediction["thread_s"][part] / prediction["scans"]
    return f"{wall_ms:.1f} ms ({thread_ms:.1f})"


def side_by_side(prediction: dict) -> str:
    """Milliseconds of a scan in all, and as a share of its parts one after the other."""
    scans_s = apart(prediction, "scans begin", "scans end")
    parts_s = sum(prediction["wall_s"].get(part, 0) for part in OF_A_SCAN)
    return f"{1e3 * scans_s / prediction['scans']:.1f} ms, {scans_s / parts_s:.2f} of the sum"


def apart(prediction: dict, begin: str, end: str) -> float:
    """Seconds from one moment of a run to another."""
    return prediction["since_start_s"][end] - prediction["since_start_s"][begin]


def seconds(value: float) -> str:
    return f"{value:.2f} s"


if __name__ == "__main__":
    run(main)
