"""A run's folder: held by one run, made and removed with it, and no other program's."""

import json

import pytest
from helpers.scripts import exit_code, load_script

from dme.common.errors import InputError
from dme.common.folders import owned, read_record, refuse_foreign

RECORD = {"command": "python x.py", "commit": "unknown", "versions": {}}


def test_a_folder_is_held_once(tmp_path):
    out = tmp_path / "runs" / "a"
    with owned(out):
        with pytest.raises(InputError, match="another run writes into .*a: wait for it"):
            with owned(out):
                pass
        assert out.is_dir()
    assert not out.exists()  # nothing was left in it
    with owned(out):
        (out / "result").touch()
    assert [path.name for path in out.iterdir()] == ["result"]


def test_a_folder_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), owned(tmp_path / "a"):
        raise KeyboardInterrupt
    with owned(tmp_path / "a"):
        pass


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "not JSON", '{"command": "x", "commit": "y"}', "[" * 5000]
)
def test_a_record_of_ours_is_told_from_others(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    assert read_record(path) is None
    with pytest.raises(InputError, match="holds results.json, which no run of dme left there"):
        refuse_foreign(tmp_path, "results.json")
    path.write_text(json.dumps(RECORD))
    assert read_record(path) == RECORD
    refuse_foreign(tmp_path, "results.json", ["panel.png"])


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("prepare", "results.json"),
        ("prepare", "examples.png"),
        ("baseline", "results.json"),
        ("baseline", "panel.png"),
    ],
)
def test_commands_leave_other_programs_results_alone(tmp_path, capsys, script, name):
    (tmp_path / name).write_text("mine")
    assert exit_code(load_script(script), "--data", "phantom", "--out", tmp_path) == 2
    message = f"{tmp_path} holds {name}, which no run of dme left there: choose a new folder"
    assert message in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
