"""The parts of the study that `reproduce` does: the processes of each, and what came out."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import table2

from dme.common.options import check, setting
from dme.common.provenance import ROOT, provenance

# rows of Table 2 and seeds, in the order of worth; the best row has three seeds
CORE = [(10, 0), (6, 0), (10, 1), (10, 2), (2, 0), (5, 0), (9, 0)]
OTHER_ROWS = (7, 8, 11, 1, 3, 4, 12, 13, 18, 19, 20)
OTHERS = [(row, 0) for row in OTHER_ROWS]
PARTS = ("tests", "bench", "pretrain", "table2", "rows", "table1")
SHARED = ("table2", "rows", "table1")  # parts whose runs may share a device

GPU_WIDTH, CPU_WIDTH, REHEARSAL_WIDTH = 64, 16, 4

# seconds on one H200, about
TESTS_S, BENCH_S, CONVERT_S, ROW_S = 70, 90, 5, 30
SCORING_S = 60  # of the pretrained network
TABLE1_S = {"light": 20, "paper": 120}


@dataclass(frozen=True)
class Settings:
    """What is done, on which data, and for how long."""

    only: tuple[str, ...] = setting(PARTS, "parts to do", choices=PARTS)
    minutes: float = setting(0.0, "stop then, whatever is finished; 0: no limit", minimum=0)
    pretrain_minutes: float = setting(3.0, "of pretraining, scoring aside", minimum=0.01)
    pretrain_steps: int | None = setting(None, "instead: as many steps", minimum=1)
    scale: float = setting(0.5, "share of the photographs' size in pretraining", above=0)
    start: str | None = setting(None, "pretraining goes on from this network, a name or file")
    jobs: int = setting(1, "runs of Tables 1 and 2 at a time", minimum=1)
    weights: str | None = setting(
        None, "start Table 2 from this network, a name or file; nothing is pretrained"
    )
    width: int | None = setting(
        None, "of the pretrained network (default 64, on a CPU 16)", minimum=1
    )
    data: str | None = setting(None, "the 110 scans: .mat files or folder (default: DME_DATA)")
    hrf: str | None = setting(None, "the photographs (default: HRF_DATA)")
    amp: str = setting("auto", "auto, off, bf16 or fp16; auto: bf16 or fp16 on a GPU")
    rehearse: bool = setting(False, "every part at width 4, of one step: shows that all runs")
    out: Path = setting(Path("runs/reproduce"), "folder for everything")
    __post_init__ = check


@dataclass(frozen=True)
class Task:
    """A process of its own, finished when `result` is there."""

    part: str
    name: str
    command: list[str]  # the arguments of Python
    result: Path
    seconds: float  # about, on one H200
    folder: Path | None = None  # of its checkpoint, from which an interrupted one goes on
    row: list[str] | None = None  # of Table 2: finetune.py's arguments
    needs: Path | None = None  # a file that an earlier task leaves


# ---- what is to be done


def all_tasks(settings: Settings, gpu: bool) -> list[Task]:
    """Every part's, in order. Each knows the file that it leaves when it is done."""
    width = settings.width or (GPU_WIDTH if gpu else CPU_WIDTH)
    if settings.rehearse:
        width = settings.width or REHEARSAL_WIDTH
    weights = settings.weights or str(settings.out / f"hrf-psp-{width}.pth")

    pretrained = None if settings.weights else Path(weights)

    tasks = [gpu_tests(settings.out)]
    if gpu:
        tasks.append(benchmarks(settings.out, width))
    if not settings.weights:
        tasks += pretraining(settings, width, Path(weights))
    for part, rows in (("table2", CORE), ("rows", OTHERS)):
        tasks += [table2_row(settings, part, weights, number, seed) for number, seed in rows]
    for protocol in ("light", "paper") if gpu else ("light",):
        tasks.append(table1(settings, weights, protocol))
    return [replace(task, needs=pretrained if task.part in SHARED else None) for task in tasks]


def script(name: str, words: str, *more: str | Path) -> list[str]:
    """A command of experiments/; `words` is cut at spaces, what comes after it is not."""
    return [str(ROOT / "experiments" / name), *words.split(), *map(str, more)]


def gpu_tests(out: Path) -> Task:
    report = out / "gpu-tests.xml"
    command = ["-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests"), f"--junit-xml={report}"]
    return Task("tests", "gpu tests", command, report, TESTS_S)


def benchmarks(out: Path, width: int) -> Task:
    command = script("benchmarks/gpu.py", f"--repeats 3 --width {width} --out", out)
    return Task("bench", "benchmarks", command, out / "gpu.json", BENCH_S)


def pretraining(settings: Settings, width: int, weights: Path) -> list[Task]:
    """A network of fundus vessels, then the file of its `weights`, kernels in float16."""
    folder = settings.out / f"pretrain-{width}"
    steps = 1 if settings.rehearse else settings.pretrain_steps
    length = f"--steps {steps}" if steps else f"--minutes {settings.pretrain_minutes:g}"
    recipe = f"--recipe openmmlab --scale {settings.scale:g} --heads psp --width {width}"
    photographs = ["--data", settings.hrf] if settings.hrf else []
    start = ["--start", settings.start] if settings.start else []
    train = script(
        "pretrain_hrf.py",
        f"{recipe} {length} --amp {settings.amp}",
        *photographs,
        *start,
        "--out",
        folder,
    )
    convert = script("weights.py", "--half --convert", folder / "best-psp.pt", "--out", weights)
    seconds = 60 * settings.pretrain_minutes + SCORING_S
    return [
        Task("pretrain", "pretraining", train, folder / "results.json", seconds, folder),
        Task("pretrain", "float16", convert, weights, CONVERT_S),
    ]


def table2_row(settings: Settings, part: str, weights: str, number: int, seed: int) -> Task:
    ((name, arguments),) = table2.run_of(number, seed, weights, settings.amp).items()
    folder = settings.out / "runs" / name
    length = "--iters 1" if settings.rehearse else ""
    data = ["--data", settings.data] if settings.data else []
    command = script("finetune.py", "", *arguments, *length.split(), *data, "--out", folder)
    result = settings.out / "table2" / f"{name}.json"
    title = f"row {number}, seed {seed}"
    return Task(part, title, command, result, ROW_S, folder, arguments)


def table1(settings: Settings, weights: str, protocol: str) -> Task:
    folder = settings.out / f"table1-{protocol}"
    networks = [weights] if settings.rehearse else [weights, "hrf-fcn", "hrf-deeplabv3"]
    data = ["--data", settings.data] if settings.data else []
    command = script(
        "baseline.py", f"--protocol {protocol} --weights", *networks, *data, "--out", folder
    )
    result = folder / "results.json"
    return Task("table1", f"Table 1, {protocol}", command, result, TABLE1_S[protocol])


# ---- what came out


def summarise(settings: Settings, tasks: Iterable[Task]) -> str:
    """What is finished, as text and tables."""
    origin = provenance()
    done = {task.name: task for task in tasks if task.result.exists()}
    rows = {task.result.stem: read(task) for task in done.values() if task.row}

    paragraphs = [f"# The study, reproduced on {origin['device']}", f"Commit {origin['commit']}."]
    if settings.rehearse:
        paragraphs.append("REHEARSAL: these numbers mean nothing.")
    if "gpu tests" in done:
        paragraphs.append(gpu_test_counts(done["gpu tests"].result))
    if "pretraining" in done:
        paragraphs.append(vessels_found(read(done["pretraining"])))
    if rows:
        paragraphs.append(table2.markdown(table2.ROWS | table2.EXTENDED, rows).rstrip("\n"))
    for name, task in done.items():
        if task.part == "table1":
            title = f"{name}: mean IoU of the class read as fluid, published and here"
            paragraphs += [title, "\n".join(table1_lines(read(task)))]
    return "\n\n".join(paragraphs) + "\n"


def read(task: Task) -> dict:
    return json.loads(task.result.read_text())


def gpu_test_counts(report: Path) -> str:
    """From pytest's report in JUnit's format."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    counts = [f"{suite.get(name)} {name}" for name in ("tests", "failures", "errors", "skipped")]
    return "gpu tests: " + ", ".join(counts)


def vessels_found(result: dict) -> str:
    row = result["rows"][0]
    size = f"{result['scale']:g} of their size"
    return (
        f"Pretrained: width {row['width']}, {result['training_minutes']:.1f} minutes, "
        f"vessel Dice {row['dice_scale']:.4f} on 30 photographs at {size}"
    )


def table1_lines(result: dict) -> list[str]:
    lines = []
    for row in result["rows"]:
        network = f"{row['arch']['head']}, width {row['arch']['width']}"
        lines.append(f"- {network}: {row['published']:.4f}, {row['table1_measure']:.4f}")
    return lines
