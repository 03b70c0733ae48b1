"""`predict --task layers` and both: files and numbers of networks that know the truth."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Knows
from helpers.scan_files import files, flat, indexed, save
from helpers.scripts import table
from PIL import Image

import dme
from dme.data.phantom import phantom_bscan
from dme.drawing.layers import FLUID_COLOUR
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.retina.fluid import FLUID_COLUMNS
from dme.retina.rows import CLASSES
from dme.retina.thickness import THICKNESS_COLUMNS


def test_layers_of_single_scans(script, tmp_path, capsys):
    truths = [phantom_bscan(seed, 200, 240, fluid=False).layers for seed in (0, 1)]
    inputs = []
    for i in range(2):
        inputs.append(tmp_path / f"s{i}.png")
        Image.fromarray(indexed(i, 200, 240)).save(inputs[-1])
    code, out = script(
        *inputs, "--task", "layers", "--scale", "4,10", networks={"octlayers": Knows(truths)}
    )
    assert code == 0 and "2 scans; 0 skipped" in capsys.readouterr().out
    per_scan = [
        f"{folder}/s{i}" for folder in ("overlays", "profiles", "boundaries") for i in range(2)
    ]
    expected = {f + (".csv" if f.startswith("boundaries") else ".png") for f in per_scan}
    assert files(out) == expected | {
        "measurements.csv",
        "measurements.json",
        "contact_sheet.png",
        "report.html",
    }
    rows = table(out / "measurements.csv")
    assert [list(row) for row in rows] == [list(SCAN_COLUMNS["layers"])] * 2
    for row, truth in zip(rows, truths, strict=True):
        lines = table(out / row["boundaries"])
        assert list(lines[0]) == ["column", "ilm_px", "nfl_gcl_px", "ipl_inl_px", "inl_opl_px"] + [
            "opl_onl_px",
            "is_os_px",
            "os_rpe_px",
            "rpe_choroid_px",
        ]
        values = np.array([[float(value) for value in line.values()] for line in lines]).T
        np.testing.assert_array_equal(values[0], np.arange(240))
        assert np.abs(values[1:] - truth).max() <= 0.5
        means_px = [*np.diff(truth, axis=0).mean(1), (truth[7] - truth[0]).mean()]
        names = ["nfl", "gcl_ipl", "inl", "opl", "onl_is", "os", "rpe", "retina"]
        for name, mean_px in zip(names, means_px, strict=True):
            assert float(row[f"{name}_thickness_px"]) == pytest.approx(mean_px, abs=0.1)
            assert float(row[f"{name}_thickness_um"]) == pytest.approx(4 * mean_px, abs=0.4)
        assert Image.open(out / row["overlay"]).width == 480
    found = json.loads((out / "measurements.json").read_text())
    assert (
        found["settings"]["layers_weights"] == "knows.pth" and "weights" not in found["settings"]
    )
    assert found["scans"][0]["nfl_thickness_um"] == pytest.approx(
        float(rows[0]["nfl_thickness_um"])
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|href)="?([^" >]+)', page)
    assert {"overlays/s0.png", "profiles/s1.png"} <= set(addresses)
    for address in addresses:
        assert address.startswith("data:image/") or (out / address).is_file(), address
    assert "Retinal layers in 2 scans" in page and ">GCL+IPL µm<" in page and "fluid" not in page


def test_without_scale_it_says_so(script, tmp_path, capsys):
    file = save(tmp_path / "v.npy", [indexed(), indexed(1)])
    code, out = script(file, "--task", "layers", networks={"octlayers": Knows([flat(), flat(4)])})
    said = capsys.readouterr().out
    assert (
        code == 0
        and said.count("scale unknown for 2 of 2 scans: pixels only; give it with --scale") == 1
    )
    assert (
        "volume v: retina 58.0 px, central subfield thickness (CST) unknown without scale" in said
    )
    one, two = table(out / "measurements.csv")
    assert float(two["retina_thickness_px"]) == pytest.approx(60, abs=0.05)
    assert {one[key] for key in THICKNESS_COLUMNS["um"]} == {""}
    (volume,) = table(out / "volumes.csv")
    assert float(volume["retina_thickness_px"]) == pytest.approx(58, abs=0.05)
    assert volume["retina_thickness_um"] == volume["central_subfield_thickness_um"] == ""
    assert (out / "retina_maps" / "v.png").is_file() and not (out / "retina_sectors.csv").exists()


@pytest.fixture
def volume(tmp_path):
    """17 B-scans 0.2 mm apart, 64 columns of 50 um; each is 2 px (8 um) thicker than the one below it."""
    rows = [flat(2 * i, 64) for i in range(17)]
    return save(tmp_path / "eye.npy", [indexed(i, 104, 64) for i in range(17)]), rows


def test_volume_by_hand(script, volume, capsys):
    file, rows = volume
    options = ["--task", "layers", "--scale", "4,50,200", "--eye", "OD"]
    code, out = script(file, *options, networks={"octlayers": Knows(rows)})
    assert code == 0 and "central subfield thickness (CST) 288.0 um" in capsys.readouterr().out
    (found,) = table(out / "volumes.csv")
    assert (
        list(found) == list(VOLUME_COLUMNS["layers"])
        and found["retina_map"] == "retina_maps/eye.png"
    )
    # a plane: the mean over whatever lies symmetric around the centre is the value there
    middle = 4 * (56 + 16)
    assert float(found["central_subfield_thickness_um"]) == pytest.approx(middle, abs=0.4)
    assert float(found["retina_thickness_um"]) == pytest.approx(middle, abs=0.4)
    sectors = table(out / "retina_sectors.csv")
    assert list(sectors[0]) == list(SECTOR_COLUMNS) and len(sectors) == 9
    mean_um = {row["sector"]: float(row["mean_um"]) for row in sectors[:5]}
    # the centroid of a quarter of the inner ring lies 0.975 mm from the centre, where it is 9.75 px thicker
    centroid = 2 * np.sin(np.pi / 4) / (3 * np.pi / 4) * (1.5**3 - 0.5**3) / (1.5**2 - 0.5**2)
    expected = {"center": 0, "inner_superior": centroid, "inner_inferior": -centroid}
    expected |= {"inner_nasal": 0, "inner_temporal": 0}
    for sector, mm in expected.items():
        assert mean_um[sector] == pytest.approx(middle + 40 * mm, abs=0.8), sector
    assert float(sectors[0]["volume_mm3"]) == pytest.approx(np.pi / 4 * middle / 1000, rel=0.01)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (
        "<b>288 µm</b><span>central subfield thickness" in page and "retina_maps/eye.png" in page
    )
    assert "ETDRS sectors: thickness of the retina" in page

    # elsewhere, where half of the circle is outside the scan; and outside
    script(file, *options, "--fovea", "0,11", networks={"octlayers": Knows(rows)})
    assert re.search(r"\(CST\) 312\.0 um \(5\d % of it scanned\)", capsys.readouterr().out)
    few = save(file.with_name("few.npy"), [indexed(0, 104, 64), indexed(1, 104, 64)])
    code, out = script(few, *options, "--fovea", "64,1", networks={"octlayers": Knows(rows)})
    assert code == 1 and "few: no sectors: fovea 64,1 lies outside" in capsys.readouterr().err
    assert table(out / "volumes.csv")[0]["central_subfield_thickness_um"] == ""


def test_missing_scans_are_interpolated(script, tmp_path, volume, capsys):
    for i in (0, 4, 9, 16):
        folder = tmp_path / "few"
        folder.mkdir(exist_ok=True)
        Image.fromarray(indexed(i, 104, 64)).save(folder / f"bscan_{i}.png")
    network = {"octlayers": Knows(volume[1])}
    code, out = script(
        tmp_path / "few", "--task", "layers", "--scale", "4,50,200", networks=network
    )
    assert (
        code == 0 and "13 B-scans missing within volumes: interpolated" in capsys.readouterr().out
    )
    (found,) = table(out / "volumes.csv")
    assert float(found["central_subfield_thickness_um"]) == pytest.approx(288, abs=0.4)


@pytest.mark.parametrize("networks", [1, 2])
def test_both_by_one_network_or_two(script, tmp_path, networks, capsys):
    inl, across = (
        (slice(28, 32), slice(20, 30)),
        (slice(40, 44), slice(20, 30)),
    )  # 2 rows of OPL, 2 of ONL
    file = save(tmp_path / "v.npy", [indexed(0, cyst=inl), indexed(1, cyst=across), indexed(2)])
    found, before = Knows([flat()] * 3, fluid=True), Knows.calls
    arguments = [file, "--task", "both", "--scale", "4,10,120"]
    if networks == 1:
        code, out = script(*arguments, "--weights", "m.pth", networks={"m.pth": found})
        assert Knows.calls == before + 3
    else:
        found.classes = [*(f"tissue {k}" for k in range(9)), "fluid"]
        code, out = script(
            *arguments, networks={"octlayers": Knows([flat()] * 3), "dme-fluid": found}
        )
    said = capsys.readouterr().out
    assert code == 0 and said.count("network: ") == networks and "3 scans, 2 with fluid" in said
    assert "above or below the retina" not in said
    assert "volume v: fluid 80 px, 0.0004 mm3, retina 224.0 um, central subfield" in said
    rows = table(out / "measurements.csv")
    assert list(rows[0]) == list(SCAN_COLUMNS["layers+fluid"])
    for row, expected in zip(rows, ({"inl": 40}, {"opl": 20, "onl_is": 20}, {}), strict=True):
        for px, mm2 in zip(FLUID_COLUMNS["px"], FLUID_COLUMNS["mm2"], strict=True):
            count = expected.get(px.removeprefix("fluid_").removesuffix("_px"), 0)
            if networks == 1:  # the boundaries give way a little to fluid across two layers
                assert float(row[mm2]) == pytest.approx(int(row[px]) * 40 / 1e6)
                assert abs(int(row[px]) - count) <= 20 * ("opl" in expected)
            else:
                assert (int(row[px]), float(row[mm2])) == (count, pytest.approx(count * 40 / 1e6))
        assert sum(int(row[key]) for key in FLUID_COLUMNS["px"]) == int(row["fluid_px"])
    drawn = np.asarray(Image.open(out / rows[0]["overlay"]))
    assert (drawn[56, 40:60] == FLUID_COLOUR).all()  # the cyst's upper edge, twice as large
    assert {"maps/v.png", "retina_maps/v.png", "sectors.csv", "retina_sectors.csv"} <= files(out)
    assert list(table(out / "volumes.csv")[0]) == list(VOLUME_COLUMNS["layers+fluid"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Retinal fluid and layers in 3 scans" in page and "Fluid in the layers" in page


def test_fluid_outside_the_retina_is_named(script, tmp_path, capsys):
    within, above = (
        indexed(0, cyst=(slice(28, 32), slice(20, 30))),
        indexed(1, cyst=(slice(2, 6), slice(20, 25))),
    )
    files = [save(tmp_path / "a.npy", within), save(tmp_path / "b.npy", above)]
    fluid = Knows([flat()] * 2, fluid=True)
    fluid.classes = [*(f"tissue {k}" for k in range(9)), "fluid"]
    script(
        *files, "--task", "both", networks={"octlayers": Knows([flat()] * 2), "dme-fluid": fluid}
    )
    note = "note: 20 of 60 px of fluid lie above or below the retina, most in b: there the boundaries are wrong"
    assert note in capsys.readouterr().out


def test_networks_for_a_task(script, tmp_path, capsys):
    file = save(tmp_path / "s.npy", indexed())
    layers, both = Knows([flat()]), Knows([flat()], fluid=True)
    fluid = Knows([flat()])
    fluid.classes = ["background", "fluid"]
    networks = {"dme-fluid": fluid, "octlayers": layers, "both": both}
    for arguments, text in [
        (
            ["layers", "--weights", "dme-fluid"],
            "finds background, fluid, expected a network with the nine",
        ),
        (
            ["fluid", "--weights", "octlayers"],
            "finds above retina, .*, expected a network with the class fl",
        ),
        (
            ["both", "--weights", "octlayers"],
            "expected a network with the class fluid; fine-tune one",
        ),
        (
            ["fluid", "--weights", "dme-fluid", "--weights", "both"],
            "--task fluid has no use for knows.pth",
        ),
    ]:
        code, out = script(file, "--task", *arguments, networks=networks)
        stderr = capsys.readouterr().err
        assert code == 2 and len(re.findall(f"^error: .*{text}.*$", stderr, re.M)) == 1, stderr
        assert stderr.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("size", ["native", "half"])
def test_a_real_network_from_a_file(script, tmp_path, size):
    torch.manual_seed(0)
    model = build_model(head="psp", num_classes=9, width=2)
    model.classes, model.preprocess = list(CLASSES), model.preprocess | {"size": size}
    save_model(model, tmp_path / "m.pth")
    file = save(tmp_path / "s.npy", phantom_bscan(0, 67, 95).image)
    code, out = script(file, "--task", "layers", "--weights", tmp_path / "m.pth", networks={})
    assert code == 0
    values = np.loadtxt(out / "boundaries" / "s.csv", delimiter=",", skiprows=1).T
    expected = dme.predict_layers(load_model(tmp_path / "m.pth"), np.load(file))
    np.testing.assert_allclose(values[1:], expected, atol=2e-3)
    assert (np.diff(values[1:], axis=0) >= 0).all() and len(values) == len(ROW_COLUMNS)


def test_another_task_leaves_nothing_of_the_first(script, tmp_path):
    file = save(tmp_path / "v.npy", [indexed(0, 80, 60)] * 2)
    network = {"m": Knows([flat()], fluid=True)}
    arguments = [file, "--weights", "m", "--scale", "4,10,120", "--task"]
    _, out = script(*arguments, "both", networks=network)
    script(*arguments, "fluid", networks=network)
    assert files(out) == {
        "measurements.csv",
        "volumes.csv",
        "sectors.csv",
        "measurements.json",
    } | {
        *("contact_sheet.png", "report.html", "maps/v.png"),
        *(f"{folder}/v_bscan00{i}.png" for folder in ("masks", "overlays") for i in range(2)),
    }
