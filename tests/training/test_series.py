"""A series of runs, with small scripts in place of a training."""

import argparse
import json
from pathlib import Path

import pytest

import dme.training.series
from dme.common.errors import InputError
from dme.training.series import (
    add_arguments,
    finished,
    gather,
    leave_table,
    results_folder,
    run_missing,
)

# Leaves a results.json that says how it was called, unless its first argument is how to end.
SCRIPT = """
import json, pathlib, sys
how, out = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
with open(out.parent / "calls", "a") as calls:
    calls.write(out.name + "\\n")
out.mkdir(exist_ok=True)
(out / "last.pt").touch()
if how == "fail":
    sys.exit("no luck")
if how == "exit-130":
    sys.exit(130)
if how == "interrupt":
    raise KeyboardInterrupt
data = "other" if how == "other-data" else "same"
result = {"data_sha256": data, "score": len(sys.argv), "called": sys.argv[1:]}
(out / "results.json").write_text(json.dumps(result))
"""


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    """Where runs go, with the list of those that were started in `calls`."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "fake.py").write_text(SCRIPT)
    monkeypatch.setattr(dme.training.series, "ROOT", tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def rows(tmp_path) -> Path:
    """Where the files of finished runs go."""
    return tmp_path / "rows"


def started(out: Path) -> list[str]:
    return (out / "calls").read_text().split() if (out / "calls").exists() else []


def test_runs_are_kept_and_never_run_again(out, rows, capsys):
    runs = {"b": ["--lr", "0.1"], "a": ["--lr", "0.2", "--flip"]}
    results = run_missing("fake.py", runs, out, rows)
    assert started(out) == ["b", "a"] and list(results) == ["b", "a"]
    assert results["a"] == {
        "arguments": ["--lr", "0.2", "--flip"],
        "data_sha256": "same",
        "score": 6,
        "called": ["--lr", "0.2", "--flip", "--out", str(out / "a")],
    }
    assert json.loads((rows / "a.json").read_text()) == results["a"]
    assert "== a (1 of 2 done): fake.py --lr 0.2 --flip" in capsys.readouterr().out

    (rows / "b.json").unlink()
    more = runs | {"c": ["--seed", "1"]}
    assert finished(more, rows) == {"a": results["a"]}
    again = run_missing("fake.py", more, out, rows)
    assert started(out) == ["b", "a", "b", "c"] and list(again) == ["b", "a", "c"]
    assert again == finished(more, rows)
    assert run_missing("fake.py", more, out, rows) == again
    assert len(started(out)) == 4


def test_a_run_with_a_checkpoint_is_continued(out, rows):
    (out / "a").mkdir()
    (out / "a" / "last.pt").touch()
    (out / "b").mkdir()
    results = run_missing("fake.py", {"a": ["-x"], "b": ["-x"]}, out, rows)
    assert results["a"]["called"] == ["-x", "--out", str(out / "a"), "--resume"]
    assert results["b"]["called"] == ["-x", "--out", str(out / "b")]
    assert results["a"]["arguments"] == ["-x"]


def test_a_run_that_fails_keeps_those_before_it(out, rows):
    runs = {"a": ["-x"], "b": ["fail"], "c": ["-x"]}
    told = "run b failed with exit code 1 .*; 1 of 3 are done in .*rows, the same"
    with pytest.raises(InputError, match=told):
        run_missing("fake.py", runs, out, rows)
    assert started(out) == ["a", "b"] and list(finished(runs, rows)) == ["a"]
    assert [f.name for f in (rows).iterdir()] == ["a.json"]


def test_a_run_on_other_data_is_kept_apart(out, rows):
    runs = {"a": ["-x"], "b": ["other-data"], "c": ["-x"]}
    told = "rows were made on different data; keep one folder per data set"
    with pytest.raises(InputError, match=told):
        run_missing("fake.py", runs, out, rows)
    assert started(out) == ["a", "b"] and list(finished(runs, rows)) == ["a"]


@pytest.mark.parametrize("how", ["exit-130", "interrupt"])
def test_ctrl_c_ends_the_series(out, rows, how):
    """A script that catches it leaves with 130, one that does not dies of the signal."""
    with pytest.raises(KeyboardInterrupt):
        run_missing("fake.py", {"a": [how], "b": ["-x"]}, out, rows)
    assert started(out) == ["a"] and not (rows).exists()


def test_a_result_made_with_other_arguments_is_refused(out, rows):
    run_missing("fake.py", {"a": ["--lr", "0.1"], "b": ["-x"]}, out, rows)
    before = (rows / "a.json").read_bytes()
    other = {"a": ["--lr", "0.2"], "c": ["-x"]}
    told = r"a\.json was made with --lr 0\.1; expected --lr 0\.2; give the same options, choose "
    with pytest.raises(InputError, match=told):
        run_missing("fake.py", other, out, rows)
    with pytest.raises(InputError, match=told):
        finished(other, rows)
    assert started(out) == ["a", "b"] and (rows / "a.json").read_bytes() == before
    # what nobody asks for is not looked at
    assert list(finished({"b": ["-x"]}, rows)) == ["b"]


@pytest.mark.parametrize(
    "content", [b"", b'{"arguments": ["-x"], "sco', b"[]", b"7", b'{"score": 1}', b"\xff\xfe\x00"]
)
def test_a_damaged_result_is_refused(out, rows, content):
    (rows).mkdir()
    (rows / "a.json").write_bytes(content)
    told = r"a\.json is damaged or no result of this script; delete it"
    with pytest.raises(InputError, match=told):
        run_missing("fake.py", {"b": ["-x"], "a": ["-x"]}, out, rows)
    assert started(out) == []


def test_nothing_is_finished_before_the_first_run(rows):
    assert finished({"a": ["-x"]}, rows) == {}


@pytest.mark.parametrize("words", [[], ["--results", "elsewhere"]])
def test_the_noun_of_a_series_is_said_once(out, words, monkeypatch, capsys):
    """Files, errors and the printed places all follow the noun that the options were made for."""
    monkeypatch.chdir(out)
    parser = argparse.ArgumentParser()
    add_arguments(parser, "study", "folds")
    args = parser.parse_args([*words, "--print"])
    folder = results_folder(args)
    assert folder == Path("elsewhere" if words else "study/folds")
    with pytest.raises(InputError, match=f"no finished folds in {folder}; run without --print"):
        gather(args, {"a": ["-x"]}, script="fake.py")

    args.print = False
    args.out.mkdir()  # where the script in place of a training counts its calls
    assert list(gather(args, {"a": ["-x"]}, script="fake.py")) == ["a"]
    assert (folder / "a.json").exists()
    leave_table(args, "study", "| a |\n")
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["table: study/study.md", f"folds: {folder}"]
    assert Path("study/study.md").read_text() == "| a |\n"
