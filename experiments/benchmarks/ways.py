"""Ways to run one network on a CPU: dme's precisions and batches, compilers, other runtimes.

Of others those that are installed: pip install -e '.[bench]'.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import peers
import torch
from torch import Tensor

from dme.inference.export import adaptive_avg_pool2d
from dme.inference.windows import WINDOW
from dme.nets.folding import folded
from dme.nets.segmenter import Segmenter

Run = Callable[[Tensor], Tensor]  # normalised, padded (N, C, H, W) -> logits (N, classes, H', W')
REFERENCE = "dme, float32"
BATCH = 4  # scans at once, where a way takes several
OVERLAP = 0.25  # MONAI's default


class Way(NamedTuple):
    """A network ready to run, and the seconds it took to make and to call once."""

    run: Run
    warm_up_s: float
    batch: int = 1


def ways_of(model: Segmenter, calibration: list[Tensor], word: str = "") -> dict[str, Way]:
    """REFERENCE, then the ways with that word in their name; on as many threads as PyTorch has.

    calibration: what enters the network of some training scans, (1, C, H, W) each; their shape is
    the one that exported networks take.
    """
    float32 = folded(model)
    bfloat16 = folded(model, "bfloat16")
    makers: dict[str, Callable[[], Run]] = {
        REFERENCE: lambda: float32,
        "dme, bfloat16": lambda: bfloat16,
        "dme as loaded, nothing folded": lambda: model,
        "torch.compile, float32": partial(compiled, float32),
        "torch.compile, bfloat16": partial(compiled, bfloat16),
    }
    if peers.installed("monai"):
        makers["MONAI, windows of 256, our network"] = lambda: partial(monai_window, float32)

    # runtimes read one ONNX file; the first of them exports it
    with tempfile.TemporaryDirectory() as temporary:
        file = cache(lambda: exported(float32, calibration[0], Path(temporary)))
        if peers.installed("onnx", "onnxscript", "onnxruntime"):
            makers["onnxruntime, float32"] = lambda: onnxruntime_run(file())
            makers["onnxruntime, int8"] = lambda: onnxruntime_int8(file(), calibration)
            if peers.installed("openvino"):
                makers["OpenVINO, float32"] = lambda: openvino_run(file(), "f32")
                makers["OpenVINO, bfloat16"] = lambda: openvino_run(file(), "bf16")
            if peers.installed("openvino", "nncf"):
                makers["OpenVINO, int8"] = lambda: openvino_int8(file(), calibration)
        ways = {}
        for name, make in makers.items():
            if name != REFERENCE and word not in name:
                continue
            try:
                ways[name] = _warm(make, calibration[0])
                print(f"ready after {ways[name].warm_up_s:.1f} s: {name}", flush=True)
            except RuntimeError as e:  # of another library: the other ways are worth measuring
                if name.startswith("dme"):
                    raise
                print(f"{name} cannot run this network and is left out: {e}", flush=True)

    # our ways take several scans too
    for name in (REFERENCE, "dme, bfloat16"):
        if name in ways:
            ways[f"{name}, {BATCH} scans at once"] = ways[name]._replace(batch=BATCH)
    return ways


def _warm(make: Callable[[], Run], x: Tensor) -> Way:
    began = time.perf_counter()
    run = make()
    run(x)
    return Way(run, time.perf_counter() - began)


def compiled(network: Segmenter) -> Run:
    """By inductor, weights frozen into the code."""
    return torch.compile(network, options={"freezing": True})


def monai_window(network: Segmenter, x: Tensor) -> Tensor:
    """As MONAI's users call it: windows that overlap by a quarter, one at a time."""
    from monai.inferers import sliding_window_inference

    return sliding_window_inference(x, WINDOW, 1, network, overlap=OVERLAP)


def exported(network: Segmenter, x: Tensor, folder: Path) -> Path:
    """An ONNX file of the network for inputs of the shape of x."""
    path = folder / "network.onnx"
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    program = torch.export.export(network, (x.contiguous(),))
    # PyTorch's exporter makes hundreds of operations of a pooling whose bins differ in size
    pooling = {torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d}
    file = torch.onnx.export(
        program.run_decompositions(pooling),
        input_names=["x"],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
    )
    file.save(path, external_data=False)
    return path


def onnxruntime_run(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.contiguous().numpy()})[0])


def onnxruntime_int8(file: Path, calibration: list[Tensor]) -> Run:
    """Its static quantisation: 8 bits, weights by channel, ranges seen in the calibration."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.inputs, None)
            return None if x is None else {"x": x.contiguous().numpy()}

    small = file.with_name("int8.onnx")
    quantize_static(
        file,
        small,
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnxruntime_run(small)


def openvino_run(file: Path, precision: str) -> Run:
    import openvino

    return _openvino_compiled(openvino.Core().read_model(file), precision)


def openvino_int8(file: Path, calibration: list[Tensor]) -> Run:
    """By NNCF with its defaults: 8 bits, weights by channel; what stays wider is bfloat16."""
    import nncf
    import openvino

    network = openvino.Core().read_model(file)
    inputs = nncf.Dataset([x.contiguous().numpy() for x in calibration])
    network = nncf.quantize(network, inputs, subset_size=len(calibration))
    return _openvino_compiled(network, "bf16")


def _openvino_compiled(network: Any, precision: str) -> Run:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    program = openvino.Core().compile_model(network, "CPU", settings)
    return lambda x: torch.from_numpy(program(x.contiguous().numpy())[0])
