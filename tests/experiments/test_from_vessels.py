"""Every backbone from fundus vessels, over fluid in scans, to a file that runs without dme."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hrffolder import make_hrf
from helpers.scripts import call_main, load_script
from PIL import Image

from dme.common.files import sha256_file
from dme.data.phantom import phantom_bscan
from dme.inference import export
from dme.inference.scan import predict
from dme.inference.sizes import SIZES
from dme.inference.windows import whole
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, Segmenter, build_model, normalise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Photographs in hrf/, six scans in images/ and fluid/, two without labels in new/."""
    root = tmp_path_factory.mktemp("data")
    make_hrf(root / "hrf", 256, 256)
    for folder in ("images", "fluid", "new"):
        (root / folder).mkdir()
    for seed in range(8):
        scan = phantom_bscan(seed, fluid=True)
        if seed < 6:
            Image.fromarray(scan.image).save(root / "images" / f"{seed}.png")
            Image.fromarray(255 * scan.fluid).save(root / "fluid" / f"{seed}.png")
        else:
            Image.fromarray(scan.image).save(root / "new" / f"{seed}.png")
    return root


@pytest.mark.parametrize("backbone", BACKBONES)
def test_from_vessels_to_an_exported_network(backbone, data, monkeypatch, tmp_path, capsys):
    head = next(iter(BACKBONES[backbone].HEADS))

    def call(name: str, *words) -> str:
        """What a command says; it must find the network to be of this backbone."""
        assert not call_main(load_script(name), *words, "--backbone", backbone)
        return capsys.readouterr().out

    # vessels
    width = 2 if backbone == "unet" else 0.1
    words = f"--scale 1 --steps 3 --batch 2 --heads {head} --width {width}".split()
    call("pretrain_hrf", "--data", data / "hrf", *words, "--out", tmp_path / "pretrained")
    start = tmp_path / "pretrained" / f"best-{head}.pt"
    pretrained = load_model(start)
    (row,) = json.loads((tmp_path / "pretrained" / "results.json").read_text())["rows"]
    assert (row["backbone"], row["head"]) == (backbone, head)
    assert row["weights_sha256"] == pretrained.weights_sha256
    assert pretrained.arch["backbone"] == backbone
    assert pretrained.classes == ["background", "vessel"]

    # fluid
    words = f"--recipe best --iters 3 --batch 2 --crop 128 --split random --head {head}".split()
    tuned = tmp_path / "tuned"
    printed = call("finetune", *words, "--data", data, "--weights", start, "--out", tuned)
    digest = pretrained.weights_sha256[:12]
    network = f"{backbone}, {head} head, width {pretrained.arch['width']}"
    assert f"start: best-{head}.pt (sha256 {digest}), {network}\n" in printed
    model = load_model(tuned / "model.pt")
    assert model.arch == pretrained.arch
    assert model.classes == ["background", "fluid"]
    assert_moved_a_little(model, pretrained)

    # new scans; the threshold is such that the mask is no blank
    image = np.asarray(Image.open(data / "new" / "6.png"))
    _, probability = predict(model, image)
    assert np.ptp(probability) > 1e-3
    middle = float(np.median(probability))
    words = ["--weights", tuned / "model.pt", "--threshold", middle, "--out", tmp_path / "found"]
    printed = call("predict", data / "new", *words)
    digest = sha256_file(tuned / "model.pt")
    assert f"model.pt (sha256 {digest[:12]})" in printed
    assert_predicted(tmp_path / "found", digest, probability > middle)

    # elsewhere
    monkeypatch.setattr(export, "CHECKED", ((2, 37, 50),))
    file = tmp_path / "fluid.pt2"
    words = ["--weights", tuned / "model.pt", "--format", "torch", "--out", file]
    printed = call("export", *words)
    assert "2 x 1 x 37 x 50" in printed and "classes background, fluid" in printed
    about = metadata(file)
    assert (about["weights_sha256"], about["arch"]["backbone"]) == (digest, backbone)
    half = SIZES["half"].image(torch.tensor(image))[None]
    with torch.inference_mode():
        expected = whole(model, normalise(half, model.preprocess)).softmax(1)
    exported = export.open_torch(file)(half[None].float())
    np.testing.assert_allclose(exported, expected, atol=1e-5)


def metadata(file: Path) -> dict:
    """What an exported file says about itself."""
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("metadata.json")]
        return json.loads(archive.read(name))


def assert_moved_a_little(model: Segmenter, start: Segmenter) -> None:
    """The first steps are small: both parts left their start, and are far from fresh weights."""
    torch.manual_seed(1)
    fresh = build_model(**model.arch)
    for part in ("backbone.", "head."):
        moved, apart = 0.0, 0.0
        for name, value in model.named_parameters():
            if name.startswith(part) and value.ndim == 4:  # a kernel
                moved = max(moved, (value - start.get_parameter(name)).abs().max().item())
                apart = max(apart, (value - fresh.get_parameter(name)).abs().max().item())
        assert 0 < moved < 1e-3 < apart


def assert_predicted(folder: Path, digest: str, expected: np.ndarray) -> None:
    """Both scans were predicted by the network of that sha256; the first one's mask is given."""
    found = json.loads((folder / "measurements.json").read_text())
    assert found["settings"]["weights_sha256"] == digest
    assert [scan["scan"] for scan in found["scans"]] == ["6", "7"] and not found["skipped"]
    mask = np.asarray(Image.open(folder / found["scans"][0]["mask"])) > 0
    assert 0.3 < mask.mean() < 0.7
    assert (mask != expected).mean() < 1e-3
