"""The loop for one eye: tiny networks on SYNTHETIC scans, and the table from made-up runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.finetuning import make_folder
from helpers.scripts import exit_code, load_script, written_table

from dme.commands import finetune
from dme.common.errors import InputError

SCANS = 16
INDEX = "name,subject,bscan\n" + "".join(f"scan{i:02},{1 + i // 8},{i}\n" for i in range(SCANS))


@pytest.fixture
def script():
    return load_script("one_eye")


@pytest.fixture
def eye(script):
    """Found fluid is most in the third of eleven scans."""
    counts = np.zeros((11, 2, 2), int)
    counts[:, 0, 0] = 90
    counts[2] = [[80, 5], [5, 10]]
    return script.Eye(4, "fold1", [f"img_{i:03}" for i in range(11)], counts)


def test_the_first_has_most_fluid_and_the_next_are_far(eye):
    assert eye.corrected == ["img_002", "img_010", "img_006", "img_000"]


def result_of(eye, hit: int, missed: int, corrected_hit: int = 0) -> dict:
    """Every scan that is not corrected has these pixels."""
    counts = []
    for name in eye.names:
        pixels = corrected_hit if name in eye.corrected else hit
        counts.append([[90, 0], [missed, pixels]])
    return {
        "scans": eye.names,
        "subjects": [eye.number] * len(eye.names),
        "counts_per_scan": {"native": counts},
        "data_kind": "folder",
        "data_sha256": "a",
    }


def test_only_scans_never_corrected_are_scored(script, eye):
    results = {"fold1": result_of(eye, 6, 4, corrected_hit=1000)}
    for count, hit in ((1, 6), (2, 8), (4, 9)):
        results[eye.run_name(count)] = result_of(eye, hit, 10 - hit, corrected_hit=99)
    text = script.markdown([eye], results)
    before, second, last = 12 / 16, 16 / 18, 18 / 19
    row = f"{before:.4f} | {before:.4f} | {second:.4f} | {last:.4f} |"
    assert f"| 4 | 7 | {row}" in text and f"| all | 7 | {row}" in text
    gain = f"{last - before:+.4f} pooled, {last - before:.4f} mean over eyes"
    assert f"- 4 corrected: {gain}; better in 1 of 1 eyes." in text
    assert "better in 0 of 1 eyes" in text and "Missing" not in text

    del results[eye.run_name(4)]
    assert "Missing: runs of eyes 4." in script.markdown([eye], results)
    assert np.asarray(script.picture([eye], results)).ndim == 3


def test_series_of_tiny_networks(script, monkeypatch, tmp_path):
    calls = []

    def train(path: Path, arguments: list[str], out: Path) -> int:
        from dme.training.fine_tuning import fine_tune

        calls.append(out.name)
        fine_tune(finetune.parse_args([*arguments, "--out", str(out)]))
        return 0

    monkeypatch.setattr(script.series, "_run", train)
    monkeypatch.setattr(script, "FOLDS", 2)
    tiny = "--recipe best --iters 2 --batch 2 --size native"
    monkeypatch.setattr(script, "BEFORE", f"{tiny} --width 2 --weights none")
    ways = {"fast": f"{tiny} --split all --lr 1e-3", script.CHOSEN: f"{tiny} --split all"}
    monkeypatch.setattr(script, "TUNINGS", ways)
    chosen = script.CHOSEN.replace(" ", "-")
    data = make_folder(tmp_path / "data", wet=(1,) * SCANS, sides=((64, 96),), index=INDEX)
    monkeypatch.setenv("DME_DATA", str(data))
    out = tmp_path / "out"
    words = ("--data", data, "--amp", "off", "--folds", "2")
    text = written_table(script, out, *words)
    made = [f"{chosen}-eye2-{count}" for count in (1, 2, 4)]
    assert calls == ["fold2", *made, "fast-eye2-4"]
    assert "| 2 | 4 |" in text and "Missing" not in text
    assert "| fast |" in text and f"| {script.CHOSEN} |" in text
    assert (out / "one_eye.png").read_bytes().startswith(b"\x89PNG")

    # each learned from scans of this eye alone, and started from the network that never saw it
    for count in (1, 2, 4):
        result = json.loads((out / "runs" / f"{chosen}-eye2-{count}.json").read_text())
        names = result["settings"]["train_on"]
        assert len(names) == count and all(int(name[-2:]) >= 8 for name in names)
        assert result["settings"]["weights"].endswith("fold2/model.pt")
    assert written_table(script, out, "--amp", "off", "--folds", "2", "--print") == text
    assert len(calls) == 5


def test_an_eye_without_scans_to_spare_is_refused(script, eye):
    result = result_of(eye, 6, 4)
    result["subjects"] = [1] * 7 + [2] * 4
    with pytest.raises(InputError, match="eye 2 has 4 scans; expected more than 4"):
        script.eyes_of("fold1", result)


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "run without --print first" in capsys.readouterr().err
