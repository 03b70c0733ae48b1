"""The house: what may import what, what `import dme` brings, that no module hides a function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dme

PACKAGE = Path(dme.__file__).parent
# from the roof to the cellar: a file imports from its own folder and from those further down
FLOORS = [
    "__main__",
    "commands",
    "report",
    "training",
    "inference",
    "data",
    "drawing",
    "nets",
    "retina",
    ("bscan", "losses", "metrics"),
    "ops",
    "common",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def floor_of(module: str) -> int:
    """Floor of a dotted name below dme, such as dme.nets.unet."""
    room = module.split(".")[1]
    for number, floor in enumerate(FLOORS):
        if room == floor or room in floor and isinstance(floor, tuple):
            return number
    raise AssertionError(f"{module} lies on no floor: add its folder to FLOORS")


def name_of(path: Path) -> str:
    """Dotted name of a module's file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Modules of dme that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:  # `from dme.data import phantom` imports a module, not a name
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {name for name in found if name.split(".")[0] == "dme"}


def test_imports_only_go_down():
    for module, path in MODULES.items():
        for other in imported(path):
            if (module, other) == ("dme.__main__", "dme"):  # which says the version
                continue
            assert other != "dme", f"{module} imports from the roof: name the module below"
            assert floor_of(other) >= floor_of(module), (
                f"{module} imports {other}, which lies above it"
            )


def test_no_circle():
    """There is an order of modules in which each imports only earlier ones; floors order folders."""
    arrows = {
        module: imported(path) & MODULES.keys() - {module} for module, path in MODULES.items()
    }
    while arrows:
        free = {module for module, others in arrows.items() if not others & arrows.keys()}
        assert free, f"these import each other: {', '.join(sorted(arrows))}"
        arrows = {module: others for module, others in arrows.items() if module not in free}


def test_no_module_hides_a_public_function():
    """`dme.predict` is the function. Only a command, which nothing imports, has a function's name."""
    functions = {name for name in dme.__all__ if callable(getattr(dme, name))}
    assert {"predict", "scores", "load_model"} <= functions
    assert not functions & {
        module.rpartition(".")[2] for module in MODULES if ".commands." not in module
    }
    assert not [
        module
        for module in MODULES
        if any("dme.commands." in name for name in imported(MODULES[module]))
    ]


def test_public_names():
    assert set(dme.__all__) <= set(dir(dme))
    for name in dme.__all__:
        assert getattr(dme, name) is not None
    assert dme.losses.dice and dme.predict.__name__ == "predict"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dme.nothing  # noqa: B018


def test_import_brings_the_standard_library_alone():
    code = "import sys; before = set(sys.modules); import dme; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    roots = {name.split(".")[0] for name in done.stdout.split()}
    assert roots - sys.stdlib_module_names == {"dme"}
    assert "dme.losses" not in done.stdout
