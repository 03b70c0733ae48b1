"""The scripts of experiments/: loading one, calling it, reading what it leaves."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dme.common.errors import run

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
FOLDERS = [
    ROOT / "dme" / "commands",
    EXPERIMENTS,
    EXPERIMENTS / "studies",
    EXPERIMENTS / "benchmarks",
]


def load_script(name: str) -> ModuleType:
    """Load NAME.py of FOLDERS afresh; neighbours, which bench.py imports, are found meanwhile."""
    path = next(folder / f"{name}.py" for folder in FOLDERS if (folder / f"{name}.py").exists())
    spec = importlib.util.spec_from_file_location(name, path)
    script = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(script)
    scripts = {path.stem for folder in FOLDERS for path in folder.glob("*.py")}
    for neighbour in sys.modules.keys() & scripts - {"__main__"}:  # which is pytest itself
        del sys.modules[neighbour]
    return script


def call_main(script: ModuleType, *arguments) -> int | None:
    """What the script's `main` returns when it is called with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(script.__file__).parent)  # it imports neighbours when it runs
        patch.setattr("sys.argv", [f"{script.__name__}.py", *map(str, arguments)])
        return script.main()


def written_table(script: ModuleType, out: Path, *arguments) -> str:
    """The table that a script of a series leaves in `out`."""
    call_main(script, *arguments, "--out", out)
    return (out / f"{script.__name__}.md").read_text()


def exit_code(script: ModuleType, *arguments) -> int:
    """Exit code of the script with these arguments."""
    with pytest.raises(SystemExit) as left:
        run(lambda: call_main(script, *arguments))
    return left.value.code or 0


def finetune_settings(finetune: ModuleType, *arguments) -> tuple:
    """Finetune, Augment and Recipe as finetune.py understands these arguments."""
    plan = finetune.parse_args([str(word) for word in arguments])
    return plan.finetune, plan.augment, plan.recipe


def column(rows: list[dict], key: str) -> list:
    """The values of a table's column."""
    return [row[key] for row in rows]


def table(path: Path) -> list[dict]:
    """The rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
