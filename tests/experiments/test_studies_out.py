"""Studies write into folders of their own: files of others stay."""

import pytest
from helpers.scripts import exit_code, load_script

STUDIES = {
    "graders": ("graders.md", []),
    "held_out": ("reliability.png", []),
    "trust": ("trust.json", ["--runs", "nowhere"]),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_file_of_others_is_not_replaced(name, tmp_path, capsys):
    file_name, words = STUDIES[name]
    file = tmp_path / file_name
    file.write_text("of somebody else")
    assert exit_code(load_script(name), *words, "--out", tmp_path) == 2
    assert f"holds {file_name}, which no run of dme left there" in capsys.readouterr().err
    assert file.read_text() == "of somebody else"
