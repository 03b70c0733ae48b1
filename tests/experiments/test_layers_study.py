"""Leave one eye out: the runs that are asked for, and the table from made-up ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError

STARTS = ("hrf-fcn", "phantom", "none")


@pytest.fixture(scope="module")
def script():
    return load_script("layers")


@pytest.fixture
def call(script, monkeypatch, tmp_path):
    def call(*words) -> str:
        monkeypatch.chdir(tmp_path)
        return written_table(script, Path("out"), *words)

    return call


def write(folder: Path, start: str, eye: int, errors, data="a" * 64, kind="folder") -> None:
    weights = "out/phantom/model.pt" if start == "phantom" else start
    words = (
        f"--recipe layers --amp auto --seed 0 --split subject:{eye}/7 --weights {weights}".split()
    )
    content = {
        "arguments": words,
        "data_kind": kind,
        "data_sha256": data,
        "arch": {"backbone": "unet", "head": "psp", "width": 16},
        "boundary_errors_px_per_scan": errors,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{start}-{eye}.json").write_text(json.dumps(content))


def test_errors_over_the_scans_of_all_eyes(call, tmp_path):
    folder = tmp_path / "out" / "runs"
    write(folder, "none", 1, [[1.0] * 8 + [1.0], [3.0] * 7 + [None, 3.0]])
    write(folder, "none", 4, [[2.0] * 9])
    write(folder, "phantom", 1, [[0.5] * 9, [0.5] * 9])
    text = call("--print")
    sd = np.std([1, 3, 2], ddof=1)
    cell = f"2.00 ± {sd:.2f}"
    last = f"1.50 ± {np.std([1, 2], ddof=1):.2f}"  # of the last boundary one scan says nothing
    # eye 1 has 1 and 3, eye 4 has 2: any two eyes drawn have a mean of 2
    assert (
        f"| nothing | 2 | 3 | {cell} | 2.00 to 2.00 | {2 * 3.87:.1f} | {' | '.join([cell] * 7)} "
        f"| {last} |"
    ) in text
    assert "| synthetic scans | 1 | 2 | 0.50 ± " in text and "vessels" not in text
    assert "1.30 ± 0.48 px" in text and "on real scans" in text


def test_two_starts_eye_by_eye(call, tmp_path):
    folder = tmp_path / "out" / "runs"
    for eye, better in ((1, 0.9), (2, 1.05)):
        write(folder, "none", eye, [[1.0] * 9, [1.0] * 9])
        write(folder, "phantom", eye, [[better] * 9, [better - 0.2] * 9])
    write(folder, "hrf-fcn", 2, [[1.5] * 9, [1.5] * 9])
    text = call("--print")
    assert "| synthetic scans | nothing | 2 | -0.125 (-0.200 to -0.050) | 0 of 2 |" in text
    assert "| vessels (HRF) | nothing | 1 | +0.500 (+0.500 to +0.500) | 1 of 1 |" in text
    assert "| vessels (HRF) | synthetic scans | 1 | +0.550 (" in text


@pytest.mark.parametrize("kind", ["phantom", "cysts"])
def test_synthetic_scans_say_so(call, tmp_path, kind):
    write(tmp_path / "out" / "runs", "none", 1, [[1.0] * 9, [2.0] * 9], kind=kind)
    text = call("--print")
    assert "on SYNTHETIC scans" in text and "1.30" not in text


def test_a_folder_with_a_space_in_its_name(script, monkeypatch):
    asked = []
    monkeypatch.setattr(script.series, "run_missing", lambda *_: {})
    monkeypatch.setattr(script.series, "gather", lambda args, runs: asked.append(runs) or {})
    monkeypatch.setattr(script, "markdown", lambda *_: "")
    monkeypatch.setattr(script.series, "write_table", lambda *_: None)
    exit_code(script, "--out", "my runs", "--starts", "phantom", "--eyes", 1)
    assert asked[0]["phantom-1"][-2:] == ["--weights", str(Path("my runs", "phantom", "model.pt"))]


def test_every_eye_is_left_out_from_every_start(script, call, monkeypatch):
    series = []
    monkeypatch.setattr(
        script.series, "run_missing", lambda name, runs, out, results: series.append(runs) or {}
    )
    with pytest.raises(InputError, match="no finished runs"):
        call("--amp", "bf16")
    phantom, cysts, runs = series
    words = "--recipe layers --amp bf16 --seed 0 --data phantom --split random --weights none"
    assert phantom == {"phantom": words.split()}
    entry = "--size um --match-brightness"
    assert cysts == {"cysts": f"{words} {entry} --synthetic 60".split()}
    assert len(runs) == 28
    assert {name.rsplit("-", 1)[0] for name in runs} == {*STARTS, "cysts"}
    assert (
        runs["none-7"]
        == "--recipe layers --amp bf16 --seed 0 --split subject:7/7 --weights none".split()
    )
    assert runs["phantom-2"][-1] == "out/phantom/model.pt"
    last = f"--weights out/cysts/model.pt {entry} --scale 3.87,11.33 --synthetic 20".split()
    assert runs["cysts-2"][-len(last) :] == last
    series.clear()
    with pytest.raises(InputError, match="no finished runs"):
        call("--starts", "none", "--eyes", "3")
    assert [list(runs) for runs in series] == [["none-3"]]  # nobody asked for synthetic scans


def test_runs_on_other_data_are_refused(call, tmp_path):
    write(tmp_path / "out" / "runs", "none", 1, [[1.0] * 9])
    write(tmp_path / "out" / "runs", "none", 2, [[1.0] * 9], data="b" * 64)
    with pytest.raises(InputError, match="different data"):
        call("--print")


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "no finished runs" in capsys.readouterr().err
