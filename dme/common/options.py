"""Settings and their command line from one place: fields that know range, choices and help.

    @dataclass(frozen=True)
    class Settings:
        batch: int = setting(2, "images per forward pass", minimum=1)
        __post_init__ = check

    settings = parsed(__doc__, Settings)  # --batch 2

Python's standard library alone is needed, so `--help` answers at once.
"""

import argparse
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import Field, field, fields
from typing import Any, NoReturn

from dme.common.errors import InputError, by_door


def setting(
    default: Any,
    help: str | None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Sequence | None = None,
    aliases: Sequence[str] = (),
) -> Any:
    """A dataclass field that is also an option, or merely checked where `help` is None.

    minimum, maximum: inclusive. above: exclusive. They and `choices` hold for all values but None.
    aliases: other names of the option, without dashes. A help text may say in brackets what None,
    the default, stands for; other defaults are appended to it.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices}
    return field(default=default, metadata={"help": help, "aliases": aliases, **limits})


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, without their whole usage before it."""

    def error(self, message: str) -> NoReturn:
        in_one_line = " ".join(message.splitlines())
        self.exit(2, f"error: {in_one_line}; see --help\n")


def option_parser(doc: str | None) -> OneLineParser:
    """A parser that shows a script's docstring as it stands, but for how commands are called."""
    show = argparse.RawDescriptionHelpFormatter
    return OneLineParser(description=by_door(doc or ""), formatter_class=show)


def add_options(
    parser: Any, settings: type, defaults: Any = None, only: Sequence[str] | None = None
) -> None:
    """One option per `setting` of a dataclass: --max-class-share of max_class_share.

    The annotation gives the type: `X | None` is X, bool a pair --name and --no-name,
    `tuple[X, ...]` one or more X. parser: also a group of one. defaults: an instance, a preset
    say, whose values are the defaults. only: names of the settings to add, all if not given.
    """
    annotations = typing.get_type_hints(settings)
    for item in _settings(settings):
        if item.metadata["help"] is None or (only is not None and item.name not in only):
            continue
        default = item.default if defaults is None else getattr(defaults, item.name)
        names = ["--" + name.replace("_", "-") for name in (item.name, *item.metadata["aliases"])]
        text = item.metadata["help"].replace("%", "%%")
        parser.add_argument(
            *names,
            dest=item.name,
            default=default,
            help=text + _default_text(default),
            **_parsing(annotations[item.name], item.metadata["choices"]),
        )


def from_options(settings: type, args: argparse.Namespace, defaults: Any = None) -> Any:
    """The dataclass with what the command line says; what it cannot say is as in `defaults`."""
    values = {}
    for item in _settings(settings):
        value = getattr(args, item.name, getattr(defaults or settings, item.name))
        values[item.name] = tuple(value) if isinstance(value, list) else value
    made = settings(**values)
    check(made)
    return made


def parsed(doc: str | None, settings: type) -> Any:
    """The dataclass as the command line says it, of a script that takes nothing else.

    doc: the script's docstring, which --help shows.
    """
    parser = option_parser(doc)
    add_options(parser, settings)
    return from_options(settings, parser.parse_args())


def option_values(settings: Any) -> dict[str, Any]:
    """The values that the command line can say, by name."""
    offered = (item for item in _settings(settings) if item.metadata["help"] is not None)
    return {item.name: getattr(settings, item.name) for item in offered}


def check(settings: Any) -> None:
    """Raise InputError for a value that is not finite, out of its range or none of its choices."""
    for item in _settings(settings):
        value = getattr(settings, item.name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(each is None or _allowed(each, item.metadata) for each in values):
            raise InputError(f"{item.name} is {value}; expected {_expected(item.metadata)}")


def _settings(settings: Any) -> Iterator[Field]:
    """The fields that `setting` made."""
    return (item for item in fields(settings) if "aliases" in item.metadata)


def _allowed(value: Any, limits: typing.Mapping) -> bool:
    if limits["choices"] is not None and value not in limits["choices"]:
        return False
    if not isinstance(value, int | float):
        return True
    at_least = limits["minimum"] is None or value >= limits["minimum"]
    at_most = limits["maximum"] is None or value <= limits["maximum"]
    above = limits["above"] is None or value > limits["above"]
    return math.isfinite(value) and at_least and at_most and above


def _expected(limits: typing.Mapping) -> str:
    """What a value should be, in words."""
    if limits["choices"] is not None:
        return "one of " + ", ".join(map(str, limits["choices"]))
    if limits["minimum"] is not None and limits["maximum"] is not None:
        return f"a number from {limits['minimum']} to {limits['maximum']}"
    words = {"minimum": "at least", "above": "above", "maximum": "at most"}
    parts = [f"{word} {limits[key]}" for key, word in words.items() if limits[key] is not None]
    return "a finite number" + (" " + " and ".join(parts) if parts else "")


def _parsing(annotation: Any, choices: Sequence | None) -> dict:
    """How argparse reads a value of that type; `check` looks at choices, and says so in a line."""
    if isinstance(annotation, types.UnionType):  # X | None
        (annotation,) = set(typing.get_args(annotation)) - {types.NoneType}
    metavar = None if choices is None else f"{{{','.join(map(str, choices))}}}"
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is tuple:
        return {"type": typing.get_args(annotation)[0], "nargs": "+", "metavar": metavar}
    return {"type": annotation, "metavar": metavar}


def _default_text(default: Any) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return f" (default {'on' if default else 'off'})"
    values = default if isinstance(default, tuple) else (default,)
    return f" (default {' '.join(map(str, values))})".replace("%", "%%")


def numbers(
    name: str, text: str | None, expected: str, counts: tuple[int, ...]
) -> tuple[float, ...] | None:
    """So many numbers from 0 with commas between them. Raises InputError for anything else."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    valid = all(math.isfinite(value) and value >= 0 for value in values)
    if len(values) not in counts or not valid:
        raise InputError(f"`{name}` {text}: expected {expected}, finite numbers from 0")
    return values
