"""Results: JSON's own types, and where a result comes from."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dme.common import provenance as origin
from dme.common.files import plain, write_json
from dme.common.provenance import provenance


def test_plain():
    given = {
        1: (Path("a") / "b", np.float32(0.5), np.int64(7), np.bool_(True)),
        "nan": [math.nan, math.inf, np.float64("nan"), 1.5],
        "array": np.array([[1.0, math.nan], [3.0, 4.0]]),
        "counts": torch.tensor([2**60, -1]),
        "rest": [None, True, "text"],
    }
    expected = {
        "1": ["a/b", 0.5, 7, True],
        "nan": [None, None, None, 1.5],
        "array": [[1.0, None], [3.0, 4.0]],
        "counts": [2**60, -1],
        "rest": [None, True, "text"],
    }
    assert plain(given) == expected
    assert [type(v) for v in plain(given)["1"]] == [str, float, int, bool]


def test_write_json(tmp_path):
    given = {
        "score": math.nan,
        "counts": np.eye(2, dtype=np.int64),
        "text": ["[\n 1", "{}"],
        "none": [],
    }
    write_json(tmp_path / "new" / "a.json", given)
    text = (tmp_path / "new" / "a.json").read_text()
    assert json.loads(text) == given | {"score": None, "counts": [[1, 0], [0, 1]]}
    assert "NaN" not in text
    assert (
        ' "counts": [[1, 0], [0, 1]],' in text.splitlines()
    )  # a key and all it holds take one line
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "a.json", {"unknown": object()})
    assert (tmp_path / "new" / "a.json").read_text() == text  # a failed write leaves the old file
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.json"]


def test_provenance(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments/prepare.py", "--data", "my scans"])
    found = provenance()
    assert found.keys() == {"command", "commit", "time_utc", "versions", "device"}
    assert found["command"] == "python experiments/prepare.py --data 'my scans'"
    monkeypatch.setattr(sys, "argv", [str(origin.ROOT / "experiments" / "bench.py"), "cache"])
    assert (
        provenance()["command"] == "python experiments/bench.py cache"
    )  # the checkout's place says nothing
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["time_utc"].endswith("Z")
    assert found["device"]


def test_commit(monkeypatch, tmp_path):
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True
        )

    monkeypatch.setattr(origin, "ROOT", tmp_path)
    assert provenance()["commit"] == "unknown"  # no checkout
    git("init", "-q")
    (tmp_path / "record.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = provenance()["commit"]
    assert len(clean) == 12
    assert int(clean, 16)
    (tmp_path / "record.py").write_text("2")
    assert provenance()["commit"] == clean + "+changes"
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(origin, "ROOT", tmp_path / "site-packages")
    assert provenance()["commit"] == "unknown"  # the checkout is somebody else's
