"""The bench predict: what is watched, and what is made of it."""

import importlib
import json
import sys
import time

import pytest
from helpers.scan_files import picture, save
from helpers.scripts import EXPERIMENTS, call_main, exit_code, load_script

from dme.common.errors import InputError


@pytest.fixture
def watch():
    return load_script("predict_watch")


@pytest.fixture
def parts(monkeypatch):
    """predict_parts, with its neighbours."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "benchmarks")
    for name in ("predict_parts", "predict_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("predict_parts")


def test_every_part_is_a_function_of_the_library(watch):
    """Found where it is called: a new name there would leave a part unseen."""
    table = load_script("predict_table")
    assert set(table.OF_A_SCAN) == set(watch.PARTS) - {"networks", "page"}
    for places in watch.PARTS.values():
        for place in places:
            module, _, name = place.partition(":")
            owner = importlib.import_module(module)
            for part in name.split("."):
                owner = getattr(owner, part)
            assert callable(owner)


def test_a_part_within_another_counts_once(watch):
    seen = watch.Watch()
    inner = seen.timed("inner", lambda: time.sleep(0.05))

    def work() -> str:
        time.sleep(0.02)
        inner()
        inner()
        return "done"

    assert seen.timed("outer", work)() == "done"
    assert 0.1 <= seen.wall_s["inner"]
    assert 0.02 <= seen.wall_s["outer"] < seen.wall_s["inner"]
    assert seen.thread_s["outer"] + seen.thread_s["inner"] < 0.05  # asleep

    def broken() -> None:
        raise InputError("as it should")

    with pytest.raises(InputError):
        seen.timed("broken", broken)()
    assert seen.wall_s["broken"] > 0 and not seen.local.calls


def run_of(end: float, network: float) -> dict:
    since = {"python": 0.1, "imports": 1.0, "scans begin": 1.5, "first prediction": 1.7}
    return {
        "wall_s": {"network": network, "networks": 0.1, "files": 1.0, "page": 0.5},
        "thread_s": {"network": network, "networks": 0.1, "files": 0.5, "page": 0.5},
        "since_start_s": since | {"scans end": end - 0.5, "end": end},
        "processor_at_s": {"first prediction": 1.6, "end": end - 1},
        "scans": 10,
        "most_memory_mb": 400.0,
        "read_mb": 12.0,
    }


def test_the_table_of_runs(parts):
    warm = parts.medians([run_of(4, 2.0), run_of(6, 3.0), run_of(5, 9.0)])
    assert warm["wall_s"]["network"] == 3
    assert warm["end_range_s"] == [4, 6]
    tasks = {"fluid": {"warm": warm, "cold": run_of(9, 2.0)}}
    lines = parts.lines({"tasks": tasks, "scans": 10, "repeats": 3})
    assert "| a scan: network | 300.0 ms (300.0) |" in lines
    assert "| a scan: PNG, JPEG, CSV and values to files | 100.0 ms (50.0) |" in lines
    assert "| a scan: boundaries |  |" in lines  # which nobody looked for
    # 3 s from the first scan to the last, 4 s one part after the other
    assert "| a scan: all parts, side by side | 300.0 ms, 0.75 of the sum |" in lines
    assert "| all after, cold | 9.00 s |" in lines
    assert "| all after, processor | 4.00 s |" in lines


def test_which_volume(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("DME_DATA", str(tmp_path))
    assert parts.volume_of(None) == (["phantom"], "SYNTHETIC phantom scans")
    (tmp_path / parts.VOLUME).mkdir()
    assert parts.volume_of(None)[0] == [str(tmp_path / parts.VOLUME), *parts.DUKE]
    assert parts.volume_of(str(tmp_path))[0] == [str(tmp_path)]
    with pytest.raises(InputError, match="no such file or folder"):
        parts.volume_of(str(tmp_path / "none"))
    assert exit_code(load_script("predict_table"), "--results", tmp_path) == 2


@pytest.mark.slow
def test_a_whole_bench(parts, tmp_path, monkeypatch, capsys):
    """Of one small scan, one task; the system forgets nothing."""
    monkeypatch.setattr(parts, "TASKS", ("fluid",))
    monkeypatch.setattr(parts, "forget", lambda data: None)
    bench = load_script("bench")
    monkeypatch.setitem(sys.modules, "predict_parts", parts)
    scan = save(tmp_path / "a.png", picture())
    call_main(bench, "predict", "--repeats", 1, "--data", scan, "--out", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "predict.json").read_text())
    warm = written["tasks"]["fluid"]["warm"]
    moments = list(warm["since_start_s"].values())
    assert moments == sorted(moments) and written["scans"] == 1
    assert warm["wall_s"]["network"] > 0 and "boundaries" not in warm["wall_s"]
    assert "| a scan: network |" in capsys.readouterr().out
