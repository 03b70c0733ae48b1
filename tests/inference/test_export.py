"""Exported files against the network: sizes, batches, meaning, metadata, and what is refused."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import ROOT, exit_code, load_script
from PIL import Image
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.inference import export
from dme.inference.scan import predict, probabilities
from dme.inference.sizes import SIZES
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, build_model

# batch, height, width
SHAPES = [
    (1, 64, 96),
    (2, 37, 50),
    (3, 100, 75),
    (1, 161, 90),
    (1, 16, 16),
    (1, 1, 7),
]


def network(backbone="unet", head="psp"):
    """Narrow, of three classes; weights that spread probabilities over 0..1 and let BN matter."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    width = 2 if backbone == "unet" else 0.1
    model = build_model(backbone, head, num_classes=3, width=width, head_channels=8)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        model.head.classifier.weight.mul_(100)
    model.preprocess = model.preprocess | {"size": "native"}
    return model.eval()


def images(batch: int, height: int, width: int, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    tall = -(-height // 5)
    wide = -(-width // 5)
    coarse = torch.rand(batch, channels, tall, wide, generator=generator)
    return F.interpolate(255 * coarse, (height, width), mode="bilinear")


def expected(model, image: torch.Tensor) -> np.ndarray:
    """With no function of the export: grey levels, padded input, network, softmax, cropped."""
    mean = torch.tensor(model.preprocess["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(model.preprocess["std"]).view(1, -1, 1, 1)
    height, width = image.shape[2:]
    rows = torch.arange(-(-height // 16) * 16).clamp(max=height - 1)
    columns = torch.arange(-(-width // 16) * 16).clamp(max=width - 1)
    x = ((image - mean) / std)[:, :, rows][..., columns]
    with torch.no_grad():
        logits = F.interpolate(model(x), x.shape[2:], mode="bilinear", align_corners=False)
    return logits.softmax(1)[..., :height, :width].numpy()


def assert_equal(exported, model, channels: int = 1) -> None:
    for shape in SHAPES:
        image = images(*shape, channels)
        reference = expected(model, image)
        if shape[1] >= 37:  # else equality says little
            assert np.ptp(reference, (0, 2, 3)).max() > 0.1
        result = exported(image)
        assert result.shape == reference.shape
        np.testing.assert_allclose(result, reference, atol=1e-5, err_msg=str(shape))


@functools.cache
def traced(backbone="unet", head="psp", channels=1):
    """A network and its graph, which takes seconds."""
    model = network(backbone, head)
    return model, export.trace(export.Exportable(model), channels)


@pytest.fixture
def onnx():
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"{package} is not installed: pip install -e '.[export]'"
        )
    return pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")


# ---- files
# ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torch_file(tmp_path):
    model, program = traced()
    path = tmp_path / "psp.pt2"
    export.write_torch(program, export.describe(model), path)
    exported = export.open_torch(path)
    assert_equal(exported, model)

    content = {"metadata.json": ""}
    torch.export.load(str(path), extra_files=content)
    about = json.loads(content["metadata.json"])
    assert (about["classes"], about["preprocess"]) == (model.classes, model.preprocess)
    assert str(Path.cwd()).encode() not in path.read_bytes()

    # metadata "as_in_dme" gives what predict gives
    scan = images(1, 300, 330)[0, 0].round().byte()
    found = exported(scan[None, None].float())[0]
    np.testing.assert_allclose(found, probabilities(model, scan), atol=1e-5)


@pytest.mark.slow
def test_onnx_file(onnx, tmp_path):
    model, program = traced()
    path = tmp_path / "psp.onnx"
    export.write_onnx(program, export.describe(model), path)
    assert_equal(export.open_onnx(path), model)

    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    axes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (content.graph.input[0], content.graph.output[0])
    ]
    assert axes == [["batch", 1, "height", "width"], ["batch", 3, "height", "width"]]
    about = {entry.key: entry.value for entry in content.metadata_props}
    assert json.loads(about["classes"]) == model.classes
    assert json.loads(about["preprocess"]) == model.preprocess
    assert "Not a medical device" in about["title"]
    assert str(Path.cwd()).encode() not in path.read_bytes()


@functools.cache
def traced_at(size):
    """A network that scans enter at that size, and its graph."""
    model = network()
    model.classes = ["background", "fluid", "other"]
    model.preprocess = model.preprocess | {"size": size}
    return model, export.trace(export.Exportable(model), 1)


SCANS = [(496, 768), (161, 243), (256, 256), (300, 1001), (37, 50)]


def assert_as_predicted(exported, model) -> None:
    """What dme finds in a scan of any size, which the file is given as it is."""
    for height, width in SCANS:
        scan = images(1, height, width)[0, 0].round().byte()
        found = exported(scan[None, None].float())[0]
        reference = probabilities(model, scan).numpy()
        assert np.ptp(reference[1]) > 0.1
        np.testing.assert_allclose(found, reference, atol=1e-4, err_msg=f"{height} x {width}")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["half", "512"])
def test_resizing_is_in_the_graph(size, tmp_path):
    model, program = traced_at(size)
    export.write_torch(program, {}, tmp_path / "m.pt2")
    assert_as_predicted(export.open_torch(tmp_path / "m.pt2"), model)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["half", "512"])
def test_resizing_is_in_the_onnx_graph(onnx, size, tmp_path):
    model, program = traced_at(size)
    export.write_onnx(program, {}, tmp_path / "m.onnx")
    assert_as_predicted(export.open_onnx(tmp_path / "m.onnx"), model)


@pytest.mark.parametrize("name", ["half", "512"])
def test_pixels_enter_as_in_dme(name):
    enter, _ = export.WAYS[name]
    for shape in (*SCANS, (16, 7), (1, 1), (600, 513)):
        generator = torch.Generator().manual_seed(1)
        scan = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        found = enter(scan[None, None].float())[0, 0]
        assert torch.equal(found, SIZES[name].image(scan).float()), shape


def readme_lines() -> list[str]:
    """The README's two programs: for networks of a scan's own pixels, and for the others."""
    text = (ROOT / "dme" / "inference" / "README.md").read_text("utf-8")
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    return programs


@pytest.mark.slow
def test_the_readmes_lines_find_what_predict_finds(onnx, tmp_path):
    """They run without dme."""
    lines = readme_lines()[0]
    model = load_model("devices-psp")
    model.preprocess = {key: model.preprocess[key] for key in ("mean", "std")} | {"size": "half"}
    program = export.trace(export.Exportable(model), 1)
    export.write_onnx(program, export.describe(model), tmp_path / "network.onnx")
    scan = phantom_bscan(2).image
    Image.fromarray(scan).save(tmp_path / "scan.png")

    lines = "import sys; sys.modules['dme'] = sys.modules['torch'] = None\n" + lines
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    program = [sys.executable, "-c", lines]
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    expected, _ = predict(model, scan)
    assert expected.sum() > 100
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert ((mask > 0) != expected).sum() <= 2  # probabilities of 0.5
    assert done.stdout == f"{(mask > 0).sum()} px of fluid\n"


# ---- networks of a physical scale and one brightness
# ---------------------------------------------
ENTERING = {"size": "um", "um_per_px": [7.74, 22.66], "brightness": "matched"}


@functools.cache
def physical():
    model = network()
    model.classes = ["background", "fluid", "other"]
    model.preprocess = model.preprocess | ENTERING
    return model


def physical_scans() -> list[tuple[np.ndarray, tuple[float, float]]]:
    """A phantom scan, one of another scale, and one with wedge and empty columns; um per pixel."""
    scan = phantom_bscan(4, fluid=True).image
    finer = Image.fromarray(scan).resize((500, 700), Image.Resampling.BICUBIC)
    framed = scan[100:420].copy()
    framed[:40, 200:] = 255
    framed[:, :30] = 0
    scale = (3.87, 11.33)
    of_finer = (3.87 * 496 / 700, 11.33 * 768 / 500)
    return [(scan, scale), (np.asarray(finer), of_finer), (framed, scale)]


def follow(lines: str, folder: Path, scan: np.ndarray, scale_um, session) -> np.ndarray:
    """The probability of fluid that the README's lines find, with a file's session."""
    shutil.copy(ROOT / "dme" / "retina" / "wedge.py", folder / "wedge.py")
    Image.fromarray(scan).save(folder / "scan.png")
    lines = lines.replace("(3.87, 11.33)", str(scale_um))
    made = SimpleNamespace(InferenceSession=lambda path: session)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setitem(sys.modules, "onnxruntime", made)
        patch.delitem(sys.modules, "wedge", raising=False)
        exec(lines, {})
    return np.load(folder / "probability.npy")


class Session:
    """What onnxruntime's sessions offer, of a function from images to probabilities."""

    def __init__(self, exported, model):
        self.exported = exported
        self.about = export.describe(model)

    def get_modelmeta(self):
        written = {key: json.dumps(value) for key, value in self.about.items()}
        return SimpleNamespace(custom_metadata_map=written)

    def run(self, names, given):
        return [np.asarray(self.exported(torch.from_numpy(given["image"])))]


def assert_found_as_predicted(exported, folder) -> None:
    model = physical()
    for scan, scale_um in physical_scans():
        _, reference = predict(model, scan, scale_um=scale_um)
        assert np.ptp(reference) > 0.5
        session = Session(exported, model)
        found = follow(readme_lines()[1], folder, scan, scale_um, session)
        assert found.shape == scan.shape
        # a grey value that lies between two may be rounded the other way
        assert np.quantile(np.abs(found - reference), 0.999) < 1e-3
        assert ((found > 0.5) != (reference > 0.5)).mean() < 1e-4


def test_what_the_file_leaves_is_told_exactly(tmp_path):
    assert_found_as_predicted(export.Exportable(physical()), tmp_path)


@pytest.mark.slow
def test_the_readmes_lines_enter_as_predict_does(onnx, tmp_path):
    model = physical()
    path = tmp_path / "fluid.onnx"
    program = export.trace(export.Exportable(model), 1)
    export.write_onnx(program, export.describe(model), path)
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(about["entry"]) == json.loads(json.dumps(export.entry_of(model.preprocess)))
    assert_found_as_predicted(export.open_onnx(path), tmp_path)
    export.write_torch(program, export.describe(model), tmp_path / "fluid.pt2")
    assert_found_as_predicted(export.open_torch(tmp_path / "fluid.pt2"), tmp_path)


def test_a_window_at_one_brightness_is_refused():
    model = network()
    model.preprocess = model.preprocess | {"size": "512", "brightness": "matched"}
    model.weights_name = "sliding.pth"
    with pytest.raises(InputError, match="sliding.pth takes scans at one brightness and slides"):
        export.Exportable(model)


OTHERS = [(backbone, head) for backbone, kind in BACKBONES.items() for head in kind.HEADS]
OTHERS.remove(("unet", "psp"))


@pytest.mark.slow
@pytest.mark.parametrize("backbone, head", OTHERS)
def test_every_other_network(backbone, head, tmp_path):
    model, program = traced(backbone, head, 3)
    export.write_torch(program, {}, tmp_path / "m.pt2")
    assert_equal(export.open_torch(tmp_path / "m.pt2"), model, 3)


@pytest.mark.slow
@pytest.mark.parametrize("backbone, head", OTHERS)
def test_every_other_network_in_onnx(backbone, head, onnx, tmp_path):
    model, program = traced(backbone, head, 3)
    export.write_onnx(program, {}, tmp_path / "m.onnx")
    assert_equal(export.open_onnx(tmp_path / "m.onnx"), model, 3)


def test_the_network_stays_as_it_was():
    model = network().train()
    export.Exportable(model)
    assert model.training
    assert model.aux_head is not None
    assert next(model.parameters()).requires_grad


@pytest.mark.parametrize("size", [(6, 12), (37, 50), (31, 48), (3, 4), (1, 1), (97, 7)])
def test_adaptive_pool(size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for bins in (1, 2, 3, 6):
        found = export.adaptive_avg_pool2d(x, [bins, bins])
        torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, bins), atol=1e-6, rtol=0)


def test_differences_are_those_of_the_worst_pixel():
    wrapped = export.Exportable(network())

    def one_pixel_off(image):
        found = wrapped(image).numpy()
        found[-1, 0, -1, -1] += 0.5
        return found

    found = dict(export.differences(one_pixel_off, wrapped, 3))
    assert {shape[0] for shape in found} == {1, 2}
    assert {shape[1] for shape in found} == {3}
    assert any(side % 2 and side % 6 for shape in found for side in shape[2:])
    assert all(abs(difference - 0.5) < 1e-6 for difference in found.values())


# ---- the script
# -----------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, tmp_path):
    module = load_script("export")
    save_model(network(), tmp_path / "ours.pth")
    monkeypatch.chdir(tmp_path)
    graph = traced()[1]  # of the same weights
    monkeypatch.setattr(export, "trace", lambda network, channels: graph)

    def call(*arguments) -> int:
        return exit_code(module, *arguments)

    call.module = module
    return call


def test_script(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(export, "CHECKED", SHAPES[:2])
    assert script("--weights", "ours.pth", "--backbone", "unet", "--format", "torch") == 0
    printed = capsys.readouterr().out
    assert "1 x 1 x 64 x 96" in printed
    assert "2 x 1 x 37 x 50" in printed
    with zipfile.ZipFile("runs/export/ours.pt2") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("metadata.json")]
        about = json.loads(archive.read(name))
    assert about["weights"] == "ours.pth"
    assert len(about["weights_sha256"]) == 64
    assert about["commit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours.pt2", "ours.onnx"])
def test_only_exported_files_are_replaced(script, monkeypatch, capsys, name):
    if name.endswith("onnx"):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    monkeypatch.setattr(export, "CHECKED", SHAPES[:1])
    file_format = {".pt2": "torch", ".onnx": "onnx"}[Path(name).suffix]
    arguments = ("--weights", "ours.pth", "--format", file_format, "--out", name)
    Path(name).write_text("mine")
    assert script(*arguments) == 2
    assert f"error: {name} is there already: move it away" in capsys.readouterr().err
    assert Path(name).read_text() == "mine"
    Path(name).unlink()
    assert script(*arguments) == 0
    assert script(*arguments) == 0  # one of ours gives way


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_file_that_differs_is_not_kept(script, monkeypatch, tmp_path, capsys, wrong):
    monkeypatch.setattr(export, "CHECKED", SHAPES[1:2])
    monkeypatch.setattr(
        export,
        "open_torch",
        lambda path: lambda image: expected(network(), image) + np.float32(wrong),
    )
    out = tmp_path / "out" / "m.pt2"
    assert script("--weights", "ours.pth", "--format", "torch", "--out", out) == 2
    assert "nothing written" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "nothing"], "unknown weights 'nothing'"),
        (["--weights", "absent.pth"], "absent.pth is not there"),
        (["--out", "fluid.onnx"], "with --format torch its name must end in .pt2"),
        (
            ["--backbone", "mobilenet_v2"],
            "--backbone mobilenet_v2 does not fit .*ours.pth.* is unet",
        ),
        (["--channels", "2"], "ours.pth can be given 1 .grey. or 3"),
        (["--out", "ours.pth/m.pt2"], "cannot write"),
    ],
)
def test_refused(script, capsys, arguments, message):
    assert script("--weights", "ours.pth", "--format", "torch", *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])


def test_missing_packages(script, monkeypatch, capsys):
    script.module.find_spec = lambda name: None
    assert script("--weights", "ours.pth") == 2
    message = "--format onnx needs onnx and onnxscript; install with: "
    error = capsys.readouterr().err
    assert message in error
    assert "pip install onnx onnxscript onnxruntime" in error


def test_unchecked_is_said(script, monkeypatch, tmp_path, capsys):
    script.module.find_spec = lambda name: None if name == "onnxruntime" else object()
    monkeypatch.setattr(
        export, "write_onnx", lambda program, about, path: path.write_text("graph")
    )
    assert script("--weights", "ours.pth", "--out", "m.onnx") == 0
    printed = capsys.readouterr()
    assert "not checked" in printed.err
    assert "pip install onnxruntime" in printed.err
    assert "difference" not in printed.out
    assert Path("m.onnx").read_text() == "graph"
