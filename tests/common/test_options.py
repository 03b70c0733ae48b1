import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dme.common.errors import InputError
from dme.common.options import (
    add_options,
    check,
    from_options,
    option_parser,
    option_values,
    setting,
)


@dataclass(frozen=True)
class Settings:
    batch: int = setting(2, "images", minimum=1, aliases=("batch_size",))
    max_class_share: float = setting(0.75, "share, 100% is all", minimum=0, maximum=1)
    lr: float = setting(0.01, "rate", above=0)
    optimizer: str = setting("sgd", "which", choices=("sgd", "adam"))
    flip: bool = setting(False, "mirror")
    width: float | None = setting(None, "channels (default: the checkpoint's)", above=0)
    out: Path = setting(Path("runs"), "folder")
    seeds: tuple[int, ...] = setting((0,), "one run each", minimum=0)
    hidden: int = 7
    inner: int = setting(1, None, minimum=1)

    def __post_init__(self) -> None:
        check(self)


def parsed(*arguments, defaults=None, only=None):
    parser = option_parser("doc")
    add_options(parser, Settings, defaults, only)
    return from_options(Settings, parser.parse_args(arguments), defaults)


def test_without_options_the_defaults_hold():
    assert parsed() == Settings()


def test_every_type_is_read_from_its_annotation():
    settings = parsed(
        *("--batch", "3", "--max-class-share", "0.5", "--lr", "1e-3", "--optimizer", "adam"),
        *("--flip", "--width", "8", "--out", "elsewhere", "--seeds", "1", "2"),
    )
    assert settings == Settings(3, 0.5, 1e-3, "adam", True, 8.0, Path("elsewhere"), (1, 2))
    assert isinstance(settings.width, float)
    assert isinstance(settings.out, Path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "many"], "error: argument --batch/--batch-size: invalid int value: 'many'"),
        (["--batch"], "error: argument --batch/--batch-size: expected one argument"),
        (["--colour", "red"], "error: unrecognized arguments: --colour red"),
        (["two\nlines"], "error: unrecognized arguments: two lines"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        parsed(*arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"{message}; see --help\n"


def test_old_names_are_accepted():
    assert parsed("--batch-size", "5").batch == 5


def test_a_preset_gives_the_defaults_and_options_change_it():
    preset = replace(Settings(), batch=6, flip=True)
    assert parsed(defaults=preset) == preset
    assert parsed("--no-flip", defaults=preset) == replace(preset, flip=False)


def test_what_has_no_option_stays_as_in_the_preset():
    preset = replace(Settings(), batch=6, inner=3)
    assert parsed("--lr", "1", defaults=preset, only=["lr"]) == replace(preset, lr=1.0)
    with pytest.raises(SystemExit):
        parsed("--batch", "1", only=["lr"])
    with pytest.raises(SystemExit):
        parsed("--inner", "1")


def test_option_values_are_those_of_the_command_line():
    values = option_values(Settings(batch=9))
    assert values["batch"] == 9
    assert values["optimizer"] == "sgd"
    assert not {"hidden", "inner"} & values.keys()


def test_a_wrong_choice_gets_one_line():
    with pytest.raises(InputError, match="optimizer is lion; expected one of sgd, adam"):
        parsed("--optimizer", "lion")


def test_help_says_defaults_once(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "images (default 2)",
        "share, 100% is all (default 0.75)",
        "mirror (default off)",
        "channels (default: the checkpoint's)",
        "one run each (default 0)",
        "folder (default runs)",
    ):
        assert expected in text
    assert text.count("default") == 8
    assert "{sgd,adam}" in text
    assert "hidden" not in text
    assert "inner" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch is 0; expected a finite number at least 1"),
        ({"max_class_share": 1.5}, "max_class_share is 1.5; expected a number from 0 to 1"),
        ({"lr": 0.0}, "lr is 0.0; expected a finite number above 0"),
        ({"lr": math.nan}, "lr is nan; expected a finite number above 0"),
        ({"width": math.inf}, "width is inf; expected a finite number above 0"),
        ({"optimizer": "lion"}, "optimizer is lion; expected one of sgd, adam"),
        ({"inner": 0}, "inner is 0; expected a finite number at least 1"),
        ({"seeds": (0, -1)}, r"seeds is \(0, -1\); expected a finite number at least 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        Settings(**change)


def test_needs_no_package():
    code = "import dme.common.options, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "False False\n"
