"""Predicted layers: rows and numbers of networks that know the truth, the script's files, two visits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import exit_code, load_script, table
from PIL import Image
from torch import nn

import dme
from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.drawing.enface import COLOURS, map_picture
from dme.drawing.layers import FLUID_COLOUR, draw_boundaries
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import PREPROCESS, build_model
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.retina.accuracy import boundary_errors_px
from dme.retina.fluid import FLUID_COLUMNS
from dme.retina.rows import BOUNDARIES, CLASSES, scale_rows
from dme.retina.thickness import THICKNESS_COLUMNS
from dme.retina.wedge import saturated_wedge

FLAT = 9.5 + np.array(
    [0, 8, 16, 24, 32, 40, 48, 56.0]
)  # rows between pixels: 8 px layers, 56 px of retina


class Knows(nn.Module):
    """A network that knows the rows of each scan; the grey level of the first pixel says which scan it is.

    With the class fluid it calls fluid what is brighter than 100. Of all copies, `calls`.
    """

    calls = 0

    def __init__(self, rows, size="native", fluid=False):
        super().__init__()
        self.rows, self.fluid = rows, fluid
        self.classes = [*CLASSES, *["fluid"] * fluid]
        self.preprocess = PREPROCESS | {"size": size}
        self.weights_name, self.weights_sha256, self.arch = (
            "knows.pth",
            "cd" * 32,
            {"backbone": "unet"},
        )
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        Knows.calls += 1
        grey = (x[0, 0] * PREPROCESS["std"][0] + PREPROCESS["mean"][0]).numpy()
        rows = self.rows[int(grey[0, 0].round())]
        rows = np.pad(rows, ((0, 0), (0, x.shape[3] - rows.shape[1])), "edge")
        # share of every pixel that lies in each class
        above = np.clip(rows[:, None] - np.arange(x.shape[2])[:, None] + 0.5, 0, 1)
        ends = [np.zeros((1, *above.shape[1:])), above, np.ones((1, *above.shape[1:]))]
        p = np.diff(np.concatenate(ends), axis=0)
        if self.fluid:
            p = np.concatenate([p * (grey <= 100), (grey > 100)[None]])
        return torch.from_numpy(np.log(p.clip(1e-6)).astype(np.float32))[None]


def scan(index=0, height=80, width=60, cyst=None):
    """Dark, its first pixel the index; a cyst is bright."""
    image = np.zeros((height, width), np.uint8)
    if cyst:
        image[cyst] = 160
    image[0, 0] = index
    return image


def flat(extra_px=0.0, width=60):
    """Rows of an even retina whose ONL+IS is so much thicker."""
    rows = np.tile(FLAT[:, None], (1, width))
    rows[5:] += extra_px
    return rows


# ---- dme.predict_layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2, 17])
def test_the_shipped_network_finds_layers_beside_saturated_wedges(seed):
    made_up = phantom_bscan(seed)
    assert saturated_wedge(made_up.image).any()
    rows = dme.predict_layers(load_model("octlayers"), made_up.image)
    errors = boundary_errors_px(rows, made_up.layers)
    assert errors[-1] < 1.2  # the wedge's edge taken for a layer costs tens of pixels


@pytest.mark.parametrize("size", ["native", "half"])
def test_rows_of_phantoms(size):
    for seed in (0, 1):
        truth = phantom_bscan(seed, 331, 384, fluid=False).layers
        known = scale_rows(truth, (331, 384), (166, 192)) if size == "half" else truth
        found = dme.predict_layers(Knows([known], size), scan(0, 331, 384))
        assert found.dtype == np.float32 and found.shape == (8, 384)
        error = found - truth
        assert np.abs(error).max() <= (
            0.5 if size == "native" else 1.0
        )  # half a pixel of the network's
        assert np.abs(error.mean(axis=1)).max() <= 0.1  # nothing is shifted by half a pixel


def test_fluid_as_the_tenth_class():
    cyst = (slice(28, 32), slice(20, 30))
    network = Knows([flat()], fluid=True)
    mask, probability = dme.predict(network, scan(cyst=cyst))
    assert mask[cyst].all() and mask.sum() == 40 and probability[cyst].min() > 0.99
    # the cyst lies in the third layer and takes nothing from the boundaries
    assert np.abs(dme.predict_layers(network, scan(cyst=cyst)) - flat()).max() < 0.1


def test_fluid_that_another_network_found_lies_within_the_retina():
    cyst = np.zeros((80, 60), np.float32)
    cyst[12:36, 20:40] = 1
    shallow = flat()
    shallow[:4, 20:40] = 36  # the surface and three layers fall to the floor of the cyst
    alone = dme.predict_layers(Knows([shallow]), scan())
    found = dme.predict_layers(Knows([shallow]), scan(), fluid=cyst)
    assert alone[0, 25:35].min() > 30 and found[0].max() < 13
    own = dme.predict_layers(Knows([flat()], fluid=True), scan(), fluid=1 - cyst)
    assert np.abs(own - flat()).max() < 0.1  # a network of ten classes knows fluid by itself


def test_mirrored_scans_average():
    torch.manual_seed(0)
    model = build_model(head="fcn", num_classes=9, width=2, aux=False).eval()
    model.classes, model.preprocess = list(CLASSES), model.preprocess | {"size": "native"}
    image = phantom_bscan(0, 64, 96).image
    straight, mirrored = (
        dme.predict_layers(model, i, tta=True) for i in (image, image[:, ::-1].copy())
    )
    np.testing.assert_allclose(straight, mirrored[:, ::-1], atol=1e-2)


def test_networks_that_cannot():
    network = Knows([flat()])
    with pytest.raises(
        InputError, match="finds above retina, .*, expected a network with the class fluid"
    ):
        dme.predict(network, scan())
    network.classes[1:3] = network.classes[2:0:-1]
    with pytest.raises(
        InputError, match="knows.pth finds .*, expected a network with the nine classes"
    ):
        dme.predict_layers(network, scan())
    with pytest.raises(InputError, match="image: shape .* expected .height, width."):
        dme.predict_layers(Knows([flat()]), np.zeros(5))


# ---- the script -----------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, tmp_path):
    """script(networks, *arguments) runs it with these networks by name; returns the exit code and --out."""
    module = load_script("predict")

    def call(networks, *arguments, out=tmp_path / "out") -> tuple[int, Path]:
        if networks:
            monkeypatch.setattr(module, "load_model", lambda name, device: networks[str(name)])
        return exit_code(module, "--out", out, *arguments), out

    return call


def save(path: Path, images) -> Path:
    np.save(path, np.array(images))
    return path


def files(out: Path) -> set[str]:
    return {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()}


def test_layers_of_single_scans(script, tmp_path, capsys):
    truths = [phantom_bscan(seed, 200, 240, fluid=False).layers for seed in (0, 1)]
    inputs = []
    for i in range(2):
        inputs.append(tmp_path / f"s{i}.png")
        Image.fromarray(scan(i, 200, 240)).save(inputs[-1])
    code, out = script(
        {"octlayers": Knows(truths)}, *inputs, "--task", "layers", "--scale", "4,10"
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
    file = save(tmp_path / "v.npy", [scan(), scan(1)])
    code, out = script({"octlayers": Knows([flat(), flat(4)])}, file, "--task", "layers")
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
    return save(tmp_path / "eye.npy", [scan(i, 104, 64) for i in range(17)]), rows


def test_volume_by_hand(script, volume, capsys):
    file, rows = volume
    options = ["--task", "layers", "--scale", "4,50,200", "--eye", "OD"]
    code, out = script({"octlayers": Knows(rows)}, file, *options)
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
    script({"octlayers": Knows(rows)}, file, *options, "--fovea", "0,11")
    assert re.search(r"\(CST\) 312\.0 um \(5\d % of it scanned\)", capsys.readouterr().out)
    few = save(file.with_name("few.npy"), [scan(0, 104, 64), scan(1, 104, 64)])
    code, out = script({"octlayers": Knows(rows)}, few, *options, "--fovea", "64,1")
    assert code == 1 and "few: no sectors: fovea 64,1 lies outside" in capsys.readouterr().err
    assert table(out / "volumes.csv")[0]["central_subfield_thickness_um"] == ""


def test_missing_scans_are_interpolated(script, tmp_path, volume, capsys):
    for i in (0, 4, 9, 16):
        folder = tmp_path / "few"
        folder.mkdir(exist_ok=True)
        Image.fromarray(scan(i, 104, 64)).save(folder / f"bscan_{i}.png")
    network = {"octlayers": Knows(volume[1])}
    code, out = script(network, tmp_path / "few", "--task", "layers", "--scale", "4,50,200")
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
    file = save(tmp_path / "v.npy", [scan(0, cyst=inl), scan(1, cyst=across), scan(2)])
    found, before = Knows([flat()] * 3, fluid=True), Knows.calls
    arguments = [file, "--task", "both", "--scale", "4,10,120"]
    if networks == 1:
        code, out = script({"m.pth": found}, *arguments, "--weights", "m.pth")
        assert Knows.calls == before + 3
    else:
        found.classes = [*(f"tissue {k}" for k in range(9)), "fluid"]
        code, out = script({"octlayers": Knows([flat()] * 3), "dme-fluid": found}, *arguments)
    said = capsys.readouterr().out
    assert code == 0 and said.count("network: ") == networks and "3 scans, 2 with fluid" in said
    assert "above or below the retina" not in said
    assert "volume v: fluid 80 px, 0.0004 mm3, retina 224.0 um, central subfield" in said
    rows = table(out / "measurements.csv")
    assert list(rows[0]) == list(SCAN_COLUMNS["both"])
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
    assert list(table(out / "volumes.csv")[0]) == list(VOLUME_COLUMNS["both"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Retinal fluid and layers in 3 scans" in page and "Fluid in the layers" in page


def test_fluid_outside_the_retina_is_named(script, tmp_path, capsys):
    within, above = (
        scan(0, cyst=(slice(28, 32), slice(20, 30))),
        scan(1, cyst=(slice(2, 6), slice(20, 25))),
    )
    files = [save(tmp_path / "a.npy", within), save(tmp_path / "b.npy", above)]
    fluid = Knows([flat()] * 2, fluid=True)
    fluid.classes = [*(f"tissue {k}" for k in range(9)), "fluid"]
    script({"octlayers": Knows([flat()] * 2), "dme-fluid": fluid}, *files, "--task", "both")
    note = "note: 20 of 60 px of fluid lie above or below the retina, most in b: there the boundaries are wrong"
    assert note in capsys.readouterr().out


def test_networks_for_a_task(script, tmp_path, capsys):
    file = save(tmp_path / "s.npy", scan())
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
        code, out = script(networks, file, "--task", *arguments)
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
    code, out = script(None, file, "--task", "layers", "--weights", tmp_path / "m.pth")
    assert code == 0
    values = np.loadtxt(out / "boundaries" / "s.csv", delimiter=",", skiprows=1).T
    expected = dme.predict_layers(load_model(tmp_path / "m.pth"), np.load(file))
    np.testing.assert_allclose(values[1:], expected, atol=2e-3)
    assert (np.diff(values[1:], axis=0) >= 0).all() and len(values) == len(ROW_COLUMNS)


def test_another_task_leaves_nothing_of_the_first(script, tmp_path):
    file = save(tmp_path / "v.npy", [scan(0, 80, 60)] * 2)
    network = {"m": Knows([flat()], fluid=True)}
    arguments = [file, "--weights", "m", "--scale", "4,10,120", "--task"]
    _, out = script(network, *arguments, "both")
    script(network, *arguments, "fluid")
    assert files(out) == {
        "measurements.csv",
        "volumes.csv",
        "sectors.csv",
        "measurements.json",
    } | {
        *("contact_sheet.png", "report.html", "maps/v.png"),
        *(f"{folder}/v_bscan00{i}.png" for folder in ("masks", "overlays") for i in range(2)),
    }


# ---- two visits -----------------------------------------------------------------------------------------


def test_comparison_of_thickness(script, tmp_path, capsys):
    file = save(tmp_path / "eye.npy", [scan(0, 80, 64)] * 5)
    arguments = [file, "--scale", "4,50,250", "--weights", "m", "--task"]
    for name, extra_px, task in (
        ("a", 0, "layers"),
        ("b", 7, "layers"),
        ("c", 0, "both"),
        ("d", 0, "fluid"),
    ):
        network = {"m": Knows([flat(extra_px, 64)], fluid=True)}
        assert script(network, *arguments, task, out=tmp_path / name)[0] == 0
    code, out = script(None, "--compare", tmp_path / "a", tmp_path / "b", out=tmp_path / "ab")
    assert code == 0
    rows = {row["place"]: row for row in table(out / "comparison.csv")}
    assert {row["level"] for row in rows.values()} == {"retina"}
    for place in ("center", "inner_left"):
        row = rows[place]
        assert float(row["retina_a_um"]) == pytest.approx(224, abs=0.4)
        assert float(row["retina_change_um"]) == pytest.approx(28, abs=0.4)
        assert float(row["change_percent"]) == pytest.approx(12.5, abs=0.2)
    _, out = script(None, "--compare", tmp_path / "c", tmp_path / "c", out=tmp_path / "cc")
    levels = [row["level"] for row in table(out / "comparison.csv")]
    assert {level: levels.count(level) for level in levels}["bscan"] == 5 and "retina" in levels
    _, out = script(None, "--compare", tmp_path / "c", tmp_path / "d", out=tmp_path / "cd")
    mixed = table(out / "comparison.csv")
    assert {row["level"] for row in mixed} == {
        "bscan",
        "sector",
        "total",
    } and "retina_a_um" not in mixed[0]
    capsys.readouterr()
    assert script(None, "--compare", tmp_path / "a", tmp_path / "d", out=tmp_path / "ad")[0] == 2
    assert "holds fluid, the other layers; predict both with one --task" in capsys.readouterr().err


# ---- pictures -------------------------------------------------------------------------------------------


def test_fluid_is_outlined_and_named():
    rows = np.tile(5.0 + 7 * np.arange(8)[:, None], (1, 300))
    image, fluid = np.full((60, 300), 40, np.uint8), np.zeros((60, 300), np.uint8)
    fluid[8:11, 50:60] = 1
    plain, found = draw_boundaries(image, rows), draw_boundaries(image, rows, fluid)
    white = (found == FLUID_COLOUR).all(-1)
    assert white[16:22, 100:120].sum() == 2 * 20 + 2 * 6 - 4 and white[:120].sum() == 48
    assert white[120:].sum() > 50 and not (plain == FLUID_COLOUR).all(-1).any()
    assert len(BOUNDARIES) == 8


def test_colours_of_a_map_start_where_told():
    values = np.tile(np.array([200.0, 300.0, 400.0, 0.0])[:, None], (1, 4)) + 0
    found = map_picture(values, "v", "um", lowest=200.0)[64:-62, 40:640]
    last_first = [found[len(found) * (2 * k + 1) // 8, 300] for k in range(4)]
    expected = [(0, 0, 0), COLOURS[4], COLOURS[2], COLOURS[0]]  # nothing at all stays black
    np.testing.assert_array_equal(last_first, expected)
    even = map_picture(np.full((3, 4), 250.0), "v", "um", lowest=250.0)
    assert (even[100, 300] == COLOURS[0]).all()
