"""What a user gets: the commands `dme` and `./run.sh`, and the wheel, away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dme

ROOT = Path(dme.__file__).parents[1]


def call(*command, folder: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def python_block(readme: str) -> str:
    """The first Python code of a README that predicts."""
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    return next(block for block in blocks if "dme.predict(" in block)


def test_dme_lists_its_commands(tmp_path):
    for words in ([], ["--help"], ["help"]):
        done = call(sys.executable, "-m", "dme", *words, folder=tmp_path, PYTHONPATH=str(ROOT))
        assert done.returncode == 0 and not done.stderr
        for name in ("predict", "finetune", "prepare", "weights", "export"):
            assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    done = call(sys.executable, "-m", "dme", "--version", folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == f"dme {dme.__version__}\n"


def test_dme_refuses_an_unknown_command(tmp_path):
    done = call(sys.executable, "-m", "dme", "predit", folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "error: unknown command 'predit'; dme --help lists what there is\n"


def test_dme_lists_its_commands_without_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; "
        "from dme.__main__ import main; main()"
    )
    done = call(sys.executable, "-c", code, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and "usage: dme COMMAND" in done.stdout


ANSWERS = """
import runpy, sys
sys.modules["torch"] = None  # importing it fails
for script in sys.argv[1:]:
    folder = script.rpartition("/")[0]
    sys.path.insert(0, folder)
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        assert not left.code, script
    sys.path.remove(folder)
"""


def test_every_script_explains_itself_without_torch():
    scripts = []
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        is_script = '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        if is_script and path.name != "__main__.py":  # which runs the others
            scripts.append(path)
    assert len(scripts) >= 18
    done = call(sys.executable, "-c", ANSWERS, *scripts, folder=ROOT, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(scripts)


def test_run_sh_installs_nothing_to_answer(tmp_path):
    script = shutil.copy(ROOT / "run.sh", tmp_path)
    for words, status in ((["--help"], 0), ([], 0), (["help"], 0), (["predit"], 2)):
        done = call("bash", script, *words, folder=tmp_path, PYTHON="/does/not/exist")
        assert done.returncode == status
    assert done.stderr == "error: unknown command 'predit'; ./run.sh lists what there is\n"
    assert [file.name for file in tmp_path.iterdir()] == ["run.sh"]


COMMANDS = re.findall(r"^  (\w+)  ", (ROOT / "run.sh").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", [["--help"], ["--out", "x", "-h"]])
def test_run_sh_explains_a_command_before_it_installs(tmp_path, command, words):
    shutil.copy(ROOT / "run.sh", tmp_path)
    for folder in ("dme", "experiments"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    bare = tmp_path / "python"  # without site-packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    environment = {"PYTHON": str(bare), "PYTHONPATH": ""}
    before = os.times()
    done = call("bash", tmp_path / "run.sh", command, *words, folder=tmp_path, **environment)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert len(done.stdout) > 50
    assert not (tmp_path / ".venv").exists()
    assert after.children_user - before.children_user < 1  # seconds


def test_a_script_beside_a_checkout_called_dme(tmp_path):
    (tmp_path / "dme").mkdir()
    shutil.copy(ROOT / "__init__.py", tmp_path / "dme")
    (tmp_path / "dme" / "dme").symlink_to(ROOT / "dme")
    (tmp_path / "dme" / "weights").symlink_to(ROOT / "weights")
    (tmp_path / "script.py").write_text(
        "import dme\n"
        "from dme.common.words import EYES\n"
        "print(dme.__version__, callable(dme.load_model), EYES, len(dme.__path__))\n"
    )
    done = call(sys.executable, "script.py", folder=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{dme.__version__} True ('OD', 'OS') 1\n"


def test_a_script_run_by_its_folder_is_as_if_called_itself(tmp_path):
    """As ./run.sh runs it: neighbours are found, arguments and exit code are its own."""
    for name in ("studies/crossval.py", "table2.py", "benchmarks/bench.py"):
        script = ROOT / "experiments" / name
        alone = call(sys.executable, script, "--nonsense", folder=tmp_path, PYTHONPATH=str(ROOT))
        words = (ROOT / "experiments", script, "--nonsense")
        done = call(sys.executable, *words, folder=tmp_path, PYTHONPATH=str(ROOT))
        assert (done.returncode, done.stdout, done.stderr) == (2, alone.stdout, alone.stderr)


def test_run_sh_installs_what_a_command_needs(tmp_path):
    """A stand-in for Python notes what it is asked to do; what is there is not installed again."""
    script = shutil.copy(ROOT / "run.sh", tmp_path)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/bin/dme"; '
        'chmod +x "$3/bin/dme"; fi\n'
    )
    python.chmod(0o755)

    def calls(command: str) -> list[str]:
        (tmp_path / "calls").write_text("")
        done = call(
            "bash", script, command, folder=tmp_path, PYTHON=str(python), TORCH_VERSION="9"
        )
        assert done.returncode == 0, done.stderr
        assert ("a download of about" in done.stderr) == (
            "torch==9" in (tmp_path / "calls").read_text()
        )
        lines = (tmp_path / "calls").read_text().splitlines()
        return [line.split()[-1].replace(str(tmp_path), ".") for line in lines]

    assert calls("predict") == ["./.venv", "torch==9", ".", "./experiments/predict.py"]
    assert calls("predict") == ["./experiments/predict.py"]
    assert calls("finetune") == [".[train]", "./experiments/finetune.py"]
    assert calls("transfer") == ["./experiments/studies/transfer.py"]
    assert calls("test") == [".[test]", "pytest"]
    assert calls("test") == ["pytest"]
    marker = tmp_path / ".venv" / "installed"
    assert marker.read_text().splitlines() == ["torch 9", "train", "test"]
    marker.write_text("torch 8\n")  # another version: everything anew
    assert calls("weights") == ["./.venv", "torch==9", ".", "./experiments/weights.py"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel was installed; what it needs is here already."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("dme", "weights"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = call(*pip, "wheel", "--no-deps", "-w", folder, source, folder=folder)
    assert build.returncode == 0, build.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "packages"
    assert wheel.stat().st_size < 40e6  # without the network of the study's width
    done = call(*pip, "install", "--no-deps", "--target", target, wheel, folder=folder)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_the_wheel_predicts_from_another_folder(installed, tmp_path):
    program = installed / "bin" / "dme"
    seen = {"PYTHONPATH": str(installed)}
    where = call(sys.executable, "-c", "import dme; print(dme.__file__)", folder=tmp_path, **seen)
    assert Path(where.stdout.strip()).is_relative_to(installed)
    assert (installed / "dme" / "py.typed").is_file()

    done = call(program, "predict", "phantom", "--out", "found", folder=tmp_path, **seen)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found" / "report.html").exists() and any(
        tmp_path.glob("found/masks/*.png")
    )
    record = (tmp_path / "found" / "measurements.json").read_text()
    assert '"command": "dme predict phantom --out found"' in record

    block = python_block((ROOT / "README.md").read_text(encoding="utf-8"))
    done = call(sys.executable, "-c", block, folder=tmp_path, **seen)
    assert done.returncode == 0, done.stderr
    listed = call(program, "weights", folder=tmp_path, **seen)
    assert "dme-fluid (shipped)" in listed.stdout
