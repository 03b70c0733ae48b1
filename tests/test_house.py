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
    {"__main__"},
    {"commands"},
    {"annotation"},
    {"report"},
    {"training"},
    {"inference"},
    {"data"},
    {"drawing"},
    {"nets"},
    {"retina"},
    {"bscan", "losses", "metrics"},
    {"ops"},
    {"common"},
]


def name_of(path: Path) -> str:
    """Dotted name of a module's file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
del MODULES["dme"]  # the roof itself


def floor_of(module: str) -> int:
    """Floor of a dotted name below dme, such as dme.nets.unet."""
    room = module.split(".")[1]
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"{module} lies on no floor: add its folder to FLOORS")


def imported(module: str) -> set[str]:
    """Modules of dme that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:  # `from dme.data import phantom` imports a module
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    if module == "dme.__main__":
        names.discard("dme")  # which says the version
    return {name for name in names if name.split(".")[0] == "dme"}


ARROWS = {module: imported(module) for module in MODULES}


def test_imports_only_go_down():
    for module, others in ARROWS.items():
        for other in others:
            assert other != "dme", f"{module} imports from the roof: name the module below"
            assert floor_of(other) >= floor_of(module), (
                f"{module} imports {other}, which lies above it"
            )


def test_no_circle():
    """There is an order in which each module imports only earlier ones."""
    left = {module: others & MODULES.keys() - {module} for module, others in ARROWS.items()}
    while left:
        free = {module for module, others in left.items() if not others & left.keys()}
        assert free, f"these import each other: {', '.join(sorted(left))}"
        left = {module: others for module, others in left.items() if module not in free}


def test_no_module_hides_a_public_function():
    """`dme.predict` is the function. Only a command, which nothing imports, is called alike."""
    functions = {name for name in dme.__all__ if callable(getattr(dme, name))}
    assert {"predict", "scores", "load_model"} <= functions
    for module, others in ARROWS.items():
        if ".commands." not in module:
            assert module.rpartition(".")[2] not in functions
        assert not any(".commands." in other for other in others)


def test_public_names():
    assert set(dme.__all__) <= set(dir(dme))
    for name in dme.__all__:
        assert getattr(dme, name) is not None
    assert dme.losses.dice
    assert dme.predict.__name__ == "predict"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dme.nothing  # noqa: B018


def test_import_brings_the_standard_library_alone():
    code = "import sys; before = set(sys.modules); import dme; print(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    roots = {name.split(".")[0] for name in done.stdout.split()}
    assert roots - sys.stdlib_module_names == {"dme"}
    assert "dme.losses" not in done.stdout
