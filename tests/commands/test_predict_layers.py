"""`predict --task layers` and both: files and numbers of networks that know the truth."""

import re

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Knows
from helpers.page_files import PAGE_FILES, scan_files
from helpers.scan_files import files, flat, indexed, save
from helpers.scripts import table
from PIL import Image

import dme
from dme.data.phantom import phantom_bscan
from dme.drawing.overlays import CYAN
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.retina.fluid import FLUID_COLUMNS
from dme.retina.rows import CLASSES
from dme.retina.thickness import THICKNESS_COLUMNS

LAYERS = ["--task", "layers"]
IN_RESULTS = {"measurements.csv", "measurements.json", "contact_sheet.png", *PAGE_FILES}
CYST = (slice(28, 32), slice(20, 30))  # of 40 px, in the INL


# ---- single scans -------------------------------------------------------------------------------
@pytest.fixture
def truths():
    """Rows (8, 240) of two phantoms of 200 px height."""
    return [phantom_bscan(seed, 200, 240, fluid=False).layers for seed in (0, 1)]


@pytest.fixture
def done(predict, tmp_path, truths):
    """Layers of two single scans."""
    inputs = [save(tmp_path / f"s{i}.png", indexed(i, 200, 240)) for i in range(2)]
    return predict(*inputs, *LAYERS, "--scale", "4,10", networks={"octlayers": Knows(truths)})


def test_files_of_single_scans(done):
    assert done.code == 0
    assert "2 scans; 0 skipped" in done.printed
    expected = set(IN_RESULTS)
    for i in range(2):
        expected |= {f"overlays/s{i}.png", f"profiles/s{i}.png", f"boundaries/s{i}.csv"}
        expected |= scan_files(f"s{i}")
    assert files(done.out) == expected
    for row in done.table():
        assert list(row) == list(SCAN_COLUMNS["layers"])
        assert Image.open(done.out / row["overlay"]).width == 480


def test_boundaries_of_single_scans(done, truths):
    names = ["column", "ilm_px", "nfl_gcl_px", "ipl_inl_px", "inl_opl_px", "opl_onl_px"]
    names += ["is_os_px", "os_rpe_px", "rpe_choroid_px"]
    for row, truth in zip(done.table(), truths, strict=True):
        lines = table(done.out / row["boundaries"])
        assert list(lines[0]) == names
        values = np.array([list(line.values()) for line in lines], float).T  # (9, 240)
        np.testing.assert_array_equal(values[0], np.arange(240))
        assert np.abs(values[1:] - truth).max() <= 0.5


def test_thickness_of_single_scans(done, truths):
    names = ["nfl", "gcl_ipl", "inl", "opl", "onl_is", "os", "rpe", "retina"]
    for row, truth in zip(done.table(), truths, strict=True):
        retina_px = truth[7] - truth[0]
        means_px = [*np.diff(truth, axis=0).mean(1), retina_px.mean()]
        for name, mean_px in zip(names, means_px, strict=True):
            assert float(row[f"{name}_thickness_px"]) == pytest.approx(mean_px, abs=0.1)
            assert float(row[f"{name}_thickness_um"]) == pytest.approx(4 * mean_px, abs=0.4)

    # the same in the results for programs
    results = done.results()
    first = done.table()[0]
    assert results["settings"]["layers_weights"] == "knows.pth"
    assert "weights" not in results["settings"]
    nfl_um = results["scans"][0]["nfl_thickness_um"]
    assert nfl_um == pytest.approx(float(first["nfl_thickness_um"]))


def test_page_of_single_scans(done):
    page = done.page()
    addresses = re.findall(r'(?:src|href)="?([^" >]+)', page)
    assert {"thumbnails/s0.jpg", "profiles/s1.png", "#scan=s1"} <= set(addresses)
    for address in addresses:
        assert address.startswith("#scan=s") or done.has(address), address
    assert "Retinal layers in 2 scans" in page
    assert ">GCL+IPL µm<" in page
    assert "fluid" not in page


def test_a_retina_of_no_thickness_is_told_in_table_terminal_and_page(predict, tmp_path):
    inputs = [save(tmp_path / f"s{i}.png", indexed(i)) for i in range(2)]
    networks = {"octlayers": Knows([flat() * 0.1 + 20, flat()])}
    done = predict(*inputs, *LAYERS, "--scale", "4,10", networks=networks)
    doubts = [row["doubt"].split("; ") for row in done.table()]
    doubt = "retina of almost no thickness (mean below 100 um)"
    assert [doubt in scan for scan in doubts] == [True, False]
    assert f"note: 1 of 2 scans doubtful: {doubt}: s0\n" in done.printed
    listed = done.page().split('id="doubtful"')[1].split("</section>")[0]
    assert "retina of almost no thickness" in listed


def test_without_scale_it_says_so(predict, tmp_path):
    file = save(tmp_path / "v.npy", [indexed(), indexed(1)])
    done = predict(file, *LAYERS, networks={"octlayers": Knows([flat(), flat(4)])})
    assert done.code == 0
    note = "scale unknown for 2 of 2 scans: pixels only; give it with --scale"
    assert done.printed.count(note) == 1
    central = "central subfield thickness (CST) unknown without scale"
    assert f"volume v: retina 58.0 px, {central}" in done.printed

    thin, thick = done.table()
    assert float(thick["retina_thickness_px"]) == pytest.approx(60, abs=0.05)
    assert {thin[key] for key in THICKNESS_COLUMNS["um"]} == {""}
    volume = done.volume()
    assert float(volume["retina_thickness_px"]) == pytest.approx(58, abs=0.05)
    assert volume["retina_thickness_um"] == ""
    assert volume["central_subfield_thickness_um"] == ""
    assert done.has("retina_maps/v.png")
    assert not done.has("retina_sectors.csv")


# ---- a volume -----------------------------------------------------------------------------------
@pytest.fixture
def volume(tmp_path):
    """File and rows of 17 B-scans 0.2 mm apart, 80 columns of 40 um.

    Each is 2 px (8 um) thicker than the one below it.
    """
    rows = [flat(2 * i, 80) for i in range(17)]
    return save(tmp_path / "eye.npy", [indexed(i, 104, 80) for i in range(17)]), rows


OPTIONS = [*LAYERS, "--scale", "4,40,200", "--eye", "OD"]
MIDDLE_UM = 4 * (56 + 16)  # thickness in the centre of the volume


def test_volume_by_hand(predict, volume):
    file, rows = volume
    done = predict(file, *OPTIONS, networks={"octlayers": Knows(rows)})
    assert done.code == 0
    assert "central subfield thickness (CST) 288.0 um" in done.printed
    numbers = done.volume()
    assert list(numbers) == list(VOLUME_COLUMNS["layers"])
    assert numbers["retina_map"] == "retina_maps/eye.png"
    # a plane: the mean over whatever lies symmetric around the centre is the value there
    assert float(numbers["central_subfield_thickness_um"]) == pytest.approx(MIDDLE_UM, abs=0.4)
    assert float(numbers["retina_thickness_um"]) == pytest.approx(MIDDLE_UM, abs=0.4)

    page = done.page()
    assert "<b>288 µm</b><span>central subfield thickness" in page
    assert "retina_maps/eye.png" in page
    assert "ETDRS sectors: thickness of the retina" in page


def test_sectors_by_hand(predict, volume):
    file, rows = volume
    sectors = predict(file, *OPTIONS, networks={"octlayers": Knows(rows)}).table(
        "retina_sectors.csv"
    )
    assert list(sectors[0]) == list(SECTOR_COLUMNS)
    assert len(sectors) == 9
    mean_um = {row["sector"]: float(row["mean_um"]) for row in sectors}
    # the centroid of a quarter of the inner ring is 0.975 mm from the centre: there 9.75 px more
    ring = (1.5**3 - 0.5**3) / (1.5**2 - 0.5**2)
    centroid_mm = 2 * np.sin(np.pi / 4) / (3 * np.pi / 4) * ring
    for sector, mm in {
        "center": 0,
        "inner_superior": centroid_mm,
        "inner_inferior": -centroid_mm,
        "inner_nasal": 0,
        "inner_temporal": 0,
    }.items():
        assert mean_um[sector] == pytest.approx(MIDDLE_UM + 40 * mm, abs=0.8), sector
    volume_mm3 = np.pi / 4 * MIDDLE_UM / 1000
    assert float(sectors[0]["volume_mm3"]) == pytest.approx(volume_mm3, rel=0.01)


def test_fovea_elsewhere(predict, volume):
    """Where half of the circle is outside the scan; and outside."""
    file, rows = volume
    networks = {"octlayers": Knows(rows)}
    done = predict(file, *OPTIONS, "--fovea", "0,11", networks=networks)
    assert re.search(r"\(CST\) 312\.0 um \(5\d % of it scanned\)", done.printed)

    few = save(file.with_name("few.npy"), [indexed(0, 104, 80), indexed(1, 104, 80)])
    done = predict(few, *OPTIONS, "--fovea", "80,1", networks=networks)
    assert done.code == 1
    assert "few: no sectors: fovea 80,1 lies outside" in done.errors
    assert done.volume()["central_subfield_thickness_um"] == ""


def test_missing_scans_are_interpolated(predict, tmp_path, volume):
    _, rows = volume
    for i in (0, 4, 9, 16):
        save(tmp_path / "few" / f"bscan_{i}.png", indexed(i, 104, 80))
    options = [*LAYERS, "--scale", "4,40,200"]
    done = predict(tmp_path / "few", *options, networks={"octlayers": Knows(rows)})
    assert done.code == 0
    assert "13 B-scans missing within volumes: interpolated" in done.printed
    thickness_um = float(done.volume()["central_subfield_thickness_um"])
    assert thickness_um == pytest.approx(288, abs=0.4)


# ---- fluid and layers ---------------------------------------------------------------------------
def fluid_network(scans: int) -> Knows:
    """Finds fluid alone: the names of its other classes are no layers."""
    network = Knows([flat()] * scans, fluid=True)
    network.classes = [*(f"tissue {k}" for k in range(9)), "fluid"]
    return network


@pytest.fixture(params=["one network", "two networks"])
def both(request, predict, tmp_path):
    """Fluid and layers of three scans: a cyst in the INL, one across OPL and ONL, none."""
    across = (slice(40, 44), slice(20, 30))  # 2 rows of OPL, 2 of ONL
    scans = [indexed(0, cyst=CYST), indexed(1, cyst=across), indexed(2)]
    file = save(tmp_path / "v.npy", scans)
    arguments = [file, "--task", "both", "--scale", "4,10,120"]
    if request.param == "two networks":
        networks = {"octlayers": Knows([flat()] * 3), "dme-fluid": fluid_network(3)}
        return 2, predict(*arguments, networks=networks)

    calls = Knows.calls
    networks = {"m.pth": Knows([flat()] * 3, fluid=True)}
    done = predict(*arguments, "--weights", "m.pth", networks=networks)
    assert Knows.calls == calls + 3
    return 1, done


def test_both_by_one_network_or_two(both):
    networks, done = both
    assert done.code == 0
    assert done.printed.count("network: ") == networks
    assert "3 scans, 2 with fluid" in done.printed
    assert "above or below the retina" not in done.printed
    volume = "volume v: fluid 80 px, 0.0004 mm3, retina 224.0 um, central subfield"
    assert volume in done.printed

    rows = done.table()
    assert list(rows[0]) == list(SCAN_COLUMNS["layers+fluid"])
    drawn = np.asarray(Image.open(done.out / rows[0]["overlay"]))
    assert (drawn[56, 40:60] == CYAN).all()  # the cyst's upper edge, twice as large
    maps = {"maps/v.png", "retina_maps/v.png", "sectors.csv", "retina_sectors.csv"}
    assert maps <= files(done.out)
    assert list(done.volume()) == list(VOLUME_COLUMNS["layers+fluid"])
    page = done.page()
    assert "Retinal fluid and layers in 3 scans" in page
    assert "Fluid in the layers" in page


def test_fluid_in_layers_by_hand(both):
    networks, done = both
    expected = ({"inl": 40}, {"opl": 20, "onl_is": 20}, {})
    for row, counts in zip(done.table(), expected, strict=True):
        # with one network the boundaries give way a little to fluid across two layers
        tolerance_px = 20 if networks == 1 and "opl" in counts else 0
        total_px = 0
        for px, mm2 in zip(FLUID_COLUMNS["px"], FLUID_COLUMNS["mm2"], strict=True):
            count = counts.get(px.removeprefix("fluid_").removesuffix("_px"), 0)
            found_px = int(row[px])
            total_px += found_px
            assert abs(found_px - count) <= tolerance_px
            assert float(row[mm2]) == pytest.approx(found_px * 40 / 1e6)
        assert total_px == int(row["fluid_px"])


def test_fluid_outside_the_retina_is_named(predict, tmp_path):
    within = save(tmp_path / "a.npy", indexed(0, cyst=CYST))
    above = save(tmp_path / "b.npy", indexed(1, cyst=(slice(2, 6), slice(20, 25))))
    networks = {"octlayers": Knows([flat()] * 2), "dme-fluid": fluid_network(2)}
    done = predict(within, above, "--task", "both", networks=networks)
    share = "note: 20 of 60 px of fluid lie above or below the retina, most in b"
    assert f"{share}: there the boundaries are wrong" in done.printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "layers --weights dme-fluid",
            "finds background, fluid, expected a network with the nine",
        ),
        (
            "fluid --weights octlayers",
            "finds above retina, .*, expected a network with the class fl",
        ),
        ("both --weights octlayers", "expected a network with the class fluid; fine-tune one"),
        (
            "fluid --weights dme-fluid --weights both",
            "--task fluid has no use for knows.pth: leave it out of --weights",
        ),
    ],
)
def test_networks_for_a_task(predict, tmp_path, arguments, message):
    file = save(tmp_path / "s.npy", indexed())
    fluid = Knows([flat()])
    fluid.classes = ["background", "fluid"]
    networks = {
        "dme-fluid": fluid,
        "octlayers": Knows([flat()]),
        "both": Knows([flat()], fluid=True),
    }
    done = predict(file, "--task", *arguments.split(), networks=networks)
    assert done.code == 2
    assert len(re.findall(f"^error: .*{message}.*$", done.errors, re.M)) == 1, done.errors
    assert done.errors.count("\n") == 1
    assert not done.out.exists()


@pytest.mark.parametrize("size", ["native", "half"])
def test_a_real_network_from_a_file(predict, tmp_path, size):
    torch.manual_seed(0)
    model = build_model(head="psp", num_classes=9, width=2)
    model.classes = list(CLASSES)
    model.preprocess = model.preprocess | {"size": size}
    weights = tmp_path / "m.pth"
    save_model(model, weights)
    image = phantom_bscan(0, 67, 95).image
    file = save(tmp_path / "s.npy", image)
    done = predict(file, *LAYERS, "--weights", weights, networks={})
    assert done.code == 0

    values = np.loadtxt(done.out / "boundaries" / "s.csv", delimiter=",", skiprows=1).T
    expected = dme.predict_layers(load_model(weights), image)
    np.testing.assert_allclose(values[1:], expected, atol=2e-3)
    assert (np.diff(values[1:], axis=0) >= 0).all()
    assert len(values) == len(ROW_COLUMNS)


def test_another_task_leaves_nothing_of_the_first(predict, tmp_path):
    file = save(tmp_path / "v.npy", [indexed(0, 80, 60)] * 2)
    networks = {"m": Knows([flat()], fluid=True)}
    arguments = [file, "--weights", "m", "--scale", "4,10,120", "--task"]
    predict(*arguments, "both", networks=networks)
    done = predict(*arguments, "fluid", "--overwrite", networks=networks)
    expected = IN_RESULTS | {"volumes.csv", "sectors.csv", "maps/v.png", "enface/v.png"}
    for i in range(2):
        expected |= {f"masks/v_bscan00{i}.png", f"overlays/v_bscan00{i}.png"}
        expected |= scan_files(f"v_bscan00{i}")
    assert files(done.out) == expected
