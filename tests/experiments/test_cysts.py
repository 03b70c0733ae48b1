"""The ILM above cysts: which columns count, and what the table says of networks."""

import json

import numpy as np
import pytest
from helpers.knowing_networks import Knows
from helpers.scripts import call_main, exit_code, load_script
from PIL import Image

import dme.inference.scan  # noqa: F401, which must not meet a patched loading first
from dme.bscan import BScan

HEIGHT, WIDTH = 80, 60


@pytest.fixture
def script():
    return load_script("cysts")


def scan(index: int, cyst: bool) -> BScan:
    """An even retina of 56 px; a cyst takes 28 px of ten columns, and 7 px of ten others."""
    image = np.random.default_rng(index).integers(30, 90, (HEIGHT, WIDTH)).astype(np.uint8)
    image[0, 0] = index
    rows = np.tile(9.5 + 8 * np.arange(8, dtype=np.float32)[:, None], (1, WIDTH))
    fluid = np.zeros((HEIGHT, WIDTH), np.uint8)
    if cyst:
        fluid[20:48, 10:20] = 1
        fluid[20:27, 40:50] = 1
    return BScan(f"s{index}", image, fluid, rows, subject=index + 1, position=0)


@pytest.fixture
def sets(monkeypatch, tmp_path):
    """Two synthetic eyes, and a folder of two healthy ones."""
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "dme.data.phantom_cysts.held_out_scans", lambda: iter([scan(0, True), scan(1, True)])
    )
    for name in ("images", "boundaries"):
        (tmp_path / "healthy" / name).mkdir(parents=True)
    for index in (2, 3):
        healthy = scan(index, False)
        Image.fromarray(healthy.image).save(tmp_path / "healthy" / "images" / f"s{index}.png")
        np.save(tmp_path / "healthy" / "boundaries" / f"s{index}.npy", healthy.layers)
    return tmp_path / "healthy"


def network(ilm_px: float, all_px: float = 0.0) -> Knows:
    """Its ILM is so much too low over the cyst, and its other boundaries are, everywhere."""
    rows = []
    for index in range(4):
        wrong = scan(index, False).layers.astype(np.float64)
        wrong[1:] += all_px
        if index < 2:
            wrong[0, 10:20] += ilm_px
        rows.append(wrong)
    return Knows(rows)


def test_errors_over_cysts_and_beside_them(script, sets, monkeypatch, tmp_path):
    networks = {"a.pt": network(6.0), "b.pt": network(0.0, all_px=1.0)}
    # the network's rows are smoothed where they jump: here they come as they are
    monkeypatch.setattr("dme.nets.loading.load_model", lambda name: networks[name])
    monkeypatch.setattr(
        "dme.inference.scan.predict_layers",
        lambda model, image, scale_um: model.rows[int(image[0, 0])],
    )
    out = tmp_path / "out"
    call_main(script, "--weights", "a.pt", "b.pt", "--healthy", sets, "--out", out)
    result = json.loads((out / "results.json").read_text())
    first, second = (network["errors_px"] for network in result["networks"])
    assert first["cysts"]["ilm_cysts"] == [6.0, 6.0]
    assert first["cysts"]["all_cysts"] == [6.0 / 8, 6.0 / 8]
    assert first["cysts"]["ilm_beside"] == [0.0, 0.0]
    assert first["healthy"]["ilm_cysts"] == [None, None]
    assert second["cysts"]["ilm_cysts"] == [0.0, 0.0]
    assert second["healthy"]["all_beside"] == [0.875, 0.875]

    # the healthy scans are of one eye, as nothing says whose they are
    table = (out / "cysts.md").read_text()
    assert "| ILM over cysts | 6.00 (6.00 to 6.00) | 0.00 (0.00 to 0.00) |" in table
    assert "SYNTHETIC" in table
    assert "| all boundaries | 0.00 | 0.88 |" in table
    assert "off by more than 5 px there | 2 of 2 | 0 of 2 |" in table
    assert table.count("over cysts |") == 2  # none in healthy eyes


def test_scans_without_boundaries_are_refused(script, sets, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("dme.nets.loading.load_model", lambda name: network(0.0))
    assert exit_code(script, "--healthy", sets / "images", "--out", tmp_path / "out") == 2
    assert "have no layer boundaries" in capsys.readouterr().err
