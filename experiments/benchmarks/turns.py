"""Ways to do the same work, timed in turns, and the limits of the machine they run on."""

import itertools
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from dme.training.run_folder import Stopwatch

Way = Callable[[], object]
Ways = dict[str, Way]  # by name
Rows = dict[str, dict]  # what was measured of each way
Limits = dict[str, float]  # of the machine, per second
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TURN_S = 0.3  # a turn lasts at least as long, or a busy machine decides what a short way takes


def clock() -> tuple[Callable[[], float], str]:
    """The function that tells the seconds, and what they are.

    With one thread those the CPU spent on this process, which do not run while other work has the
    core.
    """
    if DEVICE.type == "cuda":
        return _wall_after_device, "seconds"
    if torch.get_num_threads() > 1:
        return time.perf_counter, "seconds"
    return time.process_time, "CPU seconds of one thread"


def _wall_after_device() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def stopwatch() -> Stopwatch:
    """Of the phases of one piece of work, by `clock`; on a GPU by events, for which none waits."""
    return Stopwatch(DEVICE, clock()[0])


def in_turns(ways: Ways, repeats: int, turn_s: float = TURN_S) -> Rows:
    """Seconds of every way, warm: `repeats` rounds that take the ways in turn.

    A turn is as many calls as last `turn_s`, and counts as their mean. ratio: the median over
    rounds of this way's seconds by those of the first way in the same round, so that a busy
    machine hits both. A way may return its Stopwatch, of whose phases the medians over the calls
    are kept.
    """
    # the first call prepares, the second says how many make a turn
    calls = {}
    for way in ways.values():
        way()
    for name, way in ways.items():
        call_s, _ = _turn(way, 1)
        calls[name] = math.ceil(turn_s / max(call_s, 1e-6))

    # the rounds
    seconds = {name: [] for name in ways}
    phases = {name: [] for name in ways}
    for _ in tqdm(range(repeats), desc="rounds", unit="round", leave=False):
        for name, way in ways.items():
            mean, watches = _turn(way, calls[name])
            seconds[name].append(mean)
            phases[name] += [watch.seconds() for watch in watches]

    # every way beside the first
    first = next(iter(seconds.values()))
    rows = {}
    for name in ways:
        rows[name] = _row(seconds[name], first) | {"calls_per_turn": calls[name]}
        if phases[name]:
            rows[name]["phases_s"] = _medians(phases[name])
    return rows


def _row(seconds: list[float], first: list[float]) -> dict[str, float]:
    """What is kept of a way's rounds, beside the first way's."""
    ratios = [own / other for own, other in zip(seconds, first, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
    }


def _medians(calls: list[dict[str, float]]) -> dict[str, float]:
    """By phase, over the calls."""
    medians = {}
    for phase in calls[0]:
        medians[phase] = statistics.median(call[phase] for call in calls)
    return medians


def _turn(way: Way, calls: int) -> tuple[float, list[Stopwatch]]:
    """Mean seconds of `calls` calls, and the Stopwatches they returned.

    A GPU is waited for once, at the end: it may lag behind the host as in real work.
    """
    now = clock()[0]
    watches = []
    if DEVICE.type == "cuda":
        began = now()
        for _ in range(calls):
            result = way()
            if isinstance(result, Stopwatch):
                watches.append(result)
        return (now() - began) / calls, watches

    spent = 0.0
    for _ in range(calls):
        began = now()
        result = way()
        spent += now() - began
        if isinstance(result, Stopwatch):
            watches.append(result)
        del result  # freeing it belongs to nobody
    return spent / calls, watches


def add_peaks(ways: Ways, rows: Rows) -> None:
    """Add to each row what one call holds at most beyond what was held before: peak_bytes.

    Of the GPU's memory; on a CPU of what PyTorch and NumPy allocate.
    """
    for name, way in ways.items():
        peak = _peak_of_gpu if DEVICE.type == "cuda" else _peak_of_cpu
        rows[name]["peak_bytes"] = peak(way)


def _peak_of_gpu(way: Way) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    way()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_of_cpu(way: Way) -> int:
    tracemalloc.start()  # NumPy reports to it, PyTorch to its own profiler
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        way()
    by_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    # running sum of what was allocated and freed
    events.sort(key=lambda e: e.start_ns())
    in_use = itertools.accumulate(e.nbytes() for e in events)
    return by_numpy + max(in_use, default=0)


def with_limits(ways: Ways, repeats: int) -> tuple[Rows, Limits]:
    """in_turns, and what PyTorch reaches on this machine in the same rounds, per second.

    copy_bytes: read and written by copying a tensor that no cache holds. float32_flop,
    bfloat16_flop: operations of a product of two matrices or of a 3x3 convolution of 256 channels,
    whichever does more.
    """
    source = torch.ones(1 << 25, device=DEVICE)  # 128 MiB
    target = torch.empty_like(source)
    limits: Ways = {"copy_bytes": lambda: target.copy_(source)}
    amounts = {"copy_bytes": 2 * source.nbytes}
    for dtype in (torch.float32, torch.bfloat16):
        for name, (way, flop) in _arithmetic(dtype).items():
            limits[name] = way
            amounts[name] = flop

    # of product and convolution the faster one is the limit
    rows = in_turns(ways | limits, repeats)
    reached = {name: amount / rows.pop(name)["median_s"] for name, amount in amounts.items()}
    for name in ("float32", "bfloat16"):
        product = reached.pop(f"{name} product")
        convolution = reached.pop(f"{name} convolution")
        reached[f"{name}_flop"] = max(product, convolution)
    return rows, reached


def _arithmetic(dtype: torch.dtype) -> dict[str, tuple[Way, int]]:
    """A product of matrices and a convolution, each with its number of operations."""
    side, batch = (4096, 64) if DEVICE.type == "cuda" else (512, 1)
    matrix = torch.randn(side, side, device=DEVICE).to(dtype)
    image = torch.randn(batch, 256, 48, 48, device=DEVICE)
    image = image.to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=DEVICE)
    kernel = kernel.to(dtype, memory_format=torch.channels_last)
    name = str(dtype).removeprefix("torch.")
    return {
        f"{name} product": (lambda: matrix @ matrix, 2 * side**3),
        f"{name} convolution": (
            lambda: F.conv2d(image, kernel, padding=1),
            2 * 9 * 256 * image.numel(),
        ),
    }


def report(title: str, rows: Rows) -> None:
    """Print one row per way, the ratio first; memory where `add_peaks` measured it."""
    peaks = all("peak_bytes" in row for row in rows.values())
    memory_title = "peak MiB" if peaks else ""
    print(f"\n{title}\n   ratio  (min .. max)   median ms  (min .. max)    {memory_title}")
    for name, row in rows.items():
        ratios = f"{row['ratio']:8.2f}  {row['ratio_min']:.2f} .. {row['ratio_max']:.2f}"
        spread = f"{1e3 * row['min_s']:.1f} .. {1e3 * row['max_s']:.1f}"
        memory = f"{row['peak_bytes'] / 2**20:8.1f}  " if peaks else ""
        print(f"{ratios:24} {1e3 * row['median_s']:8.1f}  {spread:17} {memory}{name}")


def report_limits(flop: int, rows: Rows, limits: Limits) -> None:
    """Print, and add to each row, the share of its precision's limit at which it does `flop`.

    bfloat16 is the precision of a way whose name holds the word, float32 of the others.
    """
    print(f"limits, same rounds: copy {limits['copy_bytes'] / 1e9:.1f} GB/s, ", end="")
    print(f"float32 {limits['float32_flop'] / 1e9:.0f} and ", end="")
    print(f"bfloat16 {limits['bfloat16_flop'] / 1e9:.0f} GFLOP/s")
    print(f"{flop / 1e9:.1f} GFLOP in OpenMMLab's order, done at a share of the limit of")
    for name, row in rows.items():
        precision = "bfloat16" if "bfloat16" in name else "float32"
        share = row["of_limit"] = flop / row["median_s"] / limits[f"{precision}_flop"]
        print(f"  {100 * share:3.0f} % {name}")
