"""The page's viewer in a browser: it pages, sorts, zooms, reads values, follows maps."""

import pytest
from helpers.browser import MIDDLE
from helpers.viewer_pages import HEIGHT, WIDTH, scan_rows, write_viewer_page

pytestmark = pytest.mark.browser

COUNT = 12
OPEN = "dme.scan().name"
PLACE = "document.querySelector('#place').textContent"
LOADED = "dme.loaded && dme.scan().bscan === {}"
READOUT = "document.querySelector('#readout').textContent"
NAMES = "Array.from(document.querySelectorAll('#scans .name'), name => name.textContent)"
NUMBERS = "Array.from(document.querySelectorAll('#scans .number'), each => each.textContent)"
STAGE = "[dme.stage.canvas.clientWidth, dme.stage.canvas.clientHeight, dme.scale()]"
# whether an element of the list lies within what is seen of it
SEEN = """(element => {
    const box = element.getBoundingClientRect();
    const list = document.querySelector('#scans').getBoundingClientRect();
    return box.top >= list.top - 1 && box.bottom <= list.bottom + 1;
})(document.querySelector('#scans %s'))"""
SEEN_FLAG = SEEN % ".flag"
SEEN_OPEN = SEEN % "[aria-selected=true]"
ABOUT = "document.querySelector('#about').textContent"
SELECTED = "document.querySelector('#scans [aria-selected=true]').textContent"


@pytest.fixture
def page(tmp_path):
    rows = scan_rows(COUNT)
    rows[3]["doubt"] = "dim"
    rows[7]["doubt"] = "dim; thin"
    for i, row in enumerate(rows):
        row["fluid_area_low_mm2"] = 0.01 * ((7 * i) % COUNT)
        row["fluid_area_high_mm2"] = 1.0
    return write_viewer_page(tmp_path, rows, COUNT)


@pytest.fixture
def viewer(page, browser):
    """The page, with the scan of most fluid open."""
    browser.open(page)
    browser.wait(LOADED.format(COUNT - 1))
    return browser


def place(viewer, column: float, row: float) -> dict[str, float]:
    """Where a pixel of the scan lies on the stage, which may be wider or higher than the scan."""
    width, height, scale = viewer.get(STAGE)
    across = 0.5 + (column + 0.5 - WIDTH / 2) * scale / width
    down = 0.5 + (row + 0.5 - HEIGHT / 2) * scale / height
    return {"across": across, "down": down}


def test_pages_by_keys_slider_and_address(page, viewer):
    viewer.press("ArrowLeft")
    viewer.wait(LOADED.format(10))
    assert viewer.get("location.hash") == "#scan=eye_bscan010"
    viewer.press("ArrowRight")
    viewer.press("ArrowRight")  # there is no next one
    assert viewer.get(OPEN) == "eye_bscan011"
    assert viewer.get(PLACE) == "B-scan 12 of 12"

    # a click into the slider, its keys, and an address
    viewer.click("#slider", across=0.002)
    viewer.wait(LOADED.format(0))
    viewer.press("ArrowRight")
    viewer.wait(LOADED.format(1))
    viewer.open(page, "#scan=eye_bscan005")
    viewer.wait(LOADED.format(5))
    viewer.click("[data-action=previous]")
    viewer.wait(LOADED.format(4))
    assert viewer.faults() == []


def test_the_list_shows_pixels_where_the_scale_is_unknown(tmp_path, browser):
    rows = scan_rows(3)
    rows[0] |= {"fluid_area_mm2": None, "fluid_px": 77}
    rows[1] |= {"fluid_area_mm2": None}  # of a network that looks for layers
    browser.open(write_viewer_page(tmp_path, rows, 3))
    browser.wait(LOADED.format(2))
    assert browser.get(NUMBERS) == ["77 px", "\N{EN DASH}", "0.0200"]


def test_values_under_the_cursor(viewer):
    viewer.driver.execute_script("dme.open(3)")
    viewer.wait(LOADED.format(3))
    viewer.move("#stage canvas", **place(viewer, 25, 12))
    text = viewer.get(READOUT)
    for expected in (
        "column 25",
        "row 12",
        "fluid probability 0.80, fluid",
        "GCL+IPL 16 µm",
        "retina 112 µm",
    ):
        assert expected in text
    assert "grader fluid" in text
    viewer.move("#stage canvas", **place(viewer, 0, 2))
    assert "0.20" in viewer.get(READOUT)
    assert "retina unknown" in viewer.get(READOUT)

    # by keys: to the right by Shift and the arrow
    viewer.click("#stage canvas", **place(viewer, 25, 12))
    viewer.press("ArrowRight", "Shift")
    assert viewer.get("dme.stage.cursor[0]") == 26
    assert viewer.get(OPEN) == "eye_bscan003"
    viewer.wait("document.querySelector('#aloud').textContent.includes('column 26')")


def test_a_click_leaves_the_cursor_where_it_is(viewer):
    viewer.click("#stage canvas", **place(viewer, 25, 12))
    viewer.leave("#stage canvas")
    assert viewer.get("dme.stage.cursor") == [25, 12]
    viewer.leave("#stage canvas", down=-0.1)
    assert viewer.get("dme.stage.cursor") is None


def test_layers_are_toggled_with_an_opacity(viewer):
    def colour(column: float, row: float) -> tuple[int, int, int]:
        return viewer.colour("#stage canvas", **place(viewer, column, row))

    def ilm_is_seen() -> bool:  # a thin red line at 4.5
        return any(colour(50, 4.5 + away)[0] > 150 for away in (-0.1, 0, 0.1))

    # the scan is 100 everywhere; fluid is blue, at its rim more so
    red, green, blue = colour(20, 16)
    assert (red < 80, green > 200, blue > 230) == (True, True, True)
    assert colour(23, 12)[2] > 120
    assert ilm_is_seen()
    assert colour(50, 38) == (100, 100, 100)
    viewer.click("[data-layer=fluid]")
    assert colour(20, 16) == (100, 100, 100)
    assert viewer.get("document.querySelector('[data-layer=fluid]').ariaPressed") == "false"
    viewer.press("f")  # the focus is in the viewer
    assert colour(20, 16)[2] > 230

    shown = "Array.from(dme.drawn, layer => layer.shown && layer.group)"
    assert viewer.get(shown).count("boundaries") == 8
    viewer.click("[data-layer=boundary0]")
    assert viewer.get(shown).count("boundaries") == 7
    assert not ilm_is_seen()
    viewer.click("[data-layer='all boundaries']")
    assert viewer.get(shown).count("boundaries") == 8
    viewer.press("b")
    assert viewer.get(shown).count("boundaries") == 0
    viewer.driver.execute_script("""
        const opacity = document.querySelector("[data-layer='opacity of fluid']");
        opacity.value = 50;
        opacity.dispatchEvent(new Event('input'));
    """)
    assert 160 < colour(20, 16)[2] < 195
    assert viewer.faults() == []


def test_zoom_and_pan(viewer):
    viewer.click("[data-action=in]")
    viewer.click("[data-action=in]")
    assert viewer.get("dme.stage.zoom") == pytest.approx(2.25)
    assert viewer.get("document.querySelector('#zoom').textContent") == "225 %"
    before = viewer.get("dme.stage.centre")
    viewer.move("#stage canvas")
    viewer.actions.click_and_hold().move_by_offset(-60, -40).release().perform()
    after = viewer.get("dme.stage.centre")
    assert after[0] > before[0]
    assert after[1] > before[1]
    viewer.press("ArrowLeft")  # scans of one size keep what is seen
    viewer.wait(LOADED.format(10))
    assert viewer.get("dme.stage.centre") == pytest.approx(after)
    viewer.press("0")
    assert viewer.get("dme.stage.zoom") == 1


def test_maps_open_what_lies_under_a_click(viewer):
    # the last B-scan is at the top
    for bscan in (2, 9):
        viewer.click("#maps canvas", down=(COUNT - bscan - 0.5) / COUNT)
        viewer.wait(LOADED.format(bscan))
    assert viewer.get("document.querySelector('#maps canvas').ariaValueNow") == "9"
    viewer.press("ArrowUp")
    viewer.wait(LOADED.format(10))
    line = "dme.lineOf(dme.volumes[0].maps[0], dme.scan().bscan)"
    assert viewer.get(line) == pytest.approx([0, 400 * 1.5 / 12, 640, 400 * 1.5 / 12])
    assert viewer.faults() == []


def test_flagged_scans_stand_first(tmp_path, browser):
    """Most doubts first, then the widest interval, at the top of a list that does not scroll."""
    count = 40  # more than the list shows at once
    rows = scan_rows(count)
    rows[3]["doubt"] = "dim"
    rows[7]["doubt"] = "dim; thin"
    for i, row in enumerate(rows):
        row["fluid_area_low_mm2"] = 0.01 * (7 * i % count)
        row["fluid_area_high_mm2"] = 1.0
    page = write_viewer_page(tmp_path, rows, COUNT)
    browser.open(page)
    browser.wait(LOADED.format(count - 1))  # that of most fluid is open
    assert browser.get("document.querySelector('#sorting').value") == "flags"
    others = sorted({*range(count)} - {3, 7}, key=lambda i: 7 * i % count)
    expected = [f"eye_bscan{i:03d}" for i in (7, 3, *others)]
    assert browser.get(NAMES) == expected
    assert browser.get(SEEN_FLAG) and not browser.get(SEEN_OPEN)

    # the open scan is scrolled to once it was chosen, by a key or by the address
    browser.press("ArrowLeft")
    browser.wait(LOADED.format(count - 2))
    assert browser.get(SEEN_OPEN)
    browser.open(page, f"#scan={expected[-1]}")
    browser.wait("dme.loaded")
    assert browser.get(SEEN_OPEN) and not browser.get(SEEN_FLAG)


def test_without_doubts_the_list_is_by_name(tmp_path, browser):
    browser.open(write_viewer_page(tmp_path, scan_rows(3), 3))
    browser.wait(LOADED.format(2))
    assert browser.get("document.querySelector('#sorting').value") == ""
    assert browser.get(NAMES) == ["eye_bscan000", "eye_bscan001", "eye_bscan002"]
    assert browser.get("document.querySelector('#flagged').parentElement.hidden")


def test_list_sorts_by_whatever_there_is(viewer):
    choices = "Array.from(document.querySelector('#sorting').options, option => option.text)"
    assert viewer.get(choices)[:4] == ["name", "doubt", "fluid mm²", "retina µm"]
    assert viewer.get(choices)[4:] == ["fluid area low mm²", "fluid area high mm²"]
    choose = "document.querySelector('#sorting').value = '{}';"
    choose += "document.querySelector('#sorting').dispatchEvent(new Event('change'))"
    viewer.driver.execute_script(choose.format("flags"))
    assert viewer.get(NAMES)[:3] == ["eye_bscan007", "eye_bscan003", "eye_bscan000"]
    viewer.driver.execute_script(choose.format("fluid_area_low_mm2"))
    assert viewer.get(NAMES)[0] == "eye_bscan005"  # 7 * 5 is 11 modulo 12
    viewer.click("#direction")
    assert viewer.get(NAMES)[0] == "eye_bscan000"

    # with the interval of the open one, and only the doubtful
    assert "0.1100 (0.0500 to 1.0000)" in viewer.get(
        "document.querySelector('#about').textContent"
    )
    viewer.click("#flagged")
    assert set(viewer.get(NAMES)) == {"eye_bscan003", "eye_bscan007"}
    viewer.click("#scans li:nth-child(2)")
    assert viewer.get(OPEN) == viewer.get(NAMES)[1]
    viewer.press("ArrowUp")
    assert viewer.get(OPEN) == viewer.get(NAMES)[0]
    assert viewer.get(
        "document.querySelector('#scans [aria-selected=true]').textContent"
    ).startswith(viewer.get(OPEN))


def test_tables_open_scans_in_the_viewer(viewer):
    viewer.click("tbody tr:nth-child(4) td.text a")
    viewer.wait(LOADED.format(COUNT - 4))
    viewer.click("tbody tr:nth-child(6) img")
    viewer.wait(LOADED.format(COUNT - 6))
    viewer.driver.execute_script("document.querySelector('#doubtful').open = true")
    viewer.click("#doubtful a")
    viewer.wait(LOADED.format(3))
    assert viewer.faults() == []


def test_missing_files_are_said(page, browser):
    (page.parent / "scans" / "11.js").unlink()
    (page.parent / "scans" / "11.png").unlink()
    browser.open(page)
    browser.wait("dme.loaded")
    assert "not beside this page" in browser.get(READOUT)
    browser.press("ArrowLeft")
    browser.wait(LOADED.format(10) + " && dme.values !== null")


def test_phone_needs_no_sideways_scrolling(page, browser):
    browser.needs_chromium()
    emulate = "Emulation.setDeviceMetricsOverride"
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd(emulate, phone)
    try:
        browser.open(page)
        browser.wait("dme.loaded")
        assert browser.get("document.documentElement.scrollWidth") == 390
        assert browser.get("document.querySelector('#stage').clientWidth") == 390
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_several_volumes_are_paged_apart(tmp_path, browser):
    rows = scan_rows(3) + scan_rows(2, volume=None)
    for row in rows[3:]:
        row["scan"] = row["scan"].replace("eye", "single")
        row["fluid_area_mm2"] = None
    browser.open(write_viewer_page(tmp_path, rows, 5))
    browser.wait("dme.loaded")
    assert browser.get(PLACE) == "B-scan 3 of 3"
    browser.press("ArrowRight")  # not into the next volume
    assert browser.get(OPEN) == "eye_bscan002"
    browser.driver.execute_script("""
        const volumes = document.querySelector('#volumes');
        volumes.value = '';
        volumes.dispatchEvent(new Event('change'));
    """)
    browser.wait("dme.loaded")
    assert browser.get(PLACE) == "scan 1 of 2"
    assert browser.get("document.querySelector('#maps').hidden")
    browser.press("ArrowRight")
    assert browser.get(OPEN) == "single_bscan001"
    assert browser.faults() == []


def test_fingers_zoom_and_pan(page, browser):
    browser.needs_chromium()
    touch = "Input.dispatchTouchEvent"
    browser.open(page)
    browser.wait("dme.loaded")
    x, y = browser.driver.execute_script(MIDDLE, "#stage canvas", 0.5, 0.5)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [
            {"x": x + right, "y": y + down, "id": i} for i, (right, down) in enumerate(places)
        ]
        browser.driver.execute_cdp_cmd(touch, {"type": kind, "touchPoints": points})

    fingers("touchStart", (-40, 0))
    fingers("touchStart", (-40, 0), (40, 0))
    for away in (60, 80, 100):
        fingers("touchMove", (-away, 0), (away, 0))
    fingers("touchEnd")
    browser.wait("dme.stage.zoom > 2")
    assert browser.get("getComputedStyle(dme.stage.canvas).touchAction") == "none"
    left = browser.get("dme.stage.centre[0]")
    fingers("touchStart", (0, 0))
    for away in (20, 40, 60):
        fingers("touchMove", (-away, 0))
    fingers("touchEnd")
    browser.wait(f"dme.stage.centre[0] > {left}")


def test_a_volume_opens_in_less_than_a_second_of_work(tmp_path, browser):
    browser.needs_chromium()
    page = write_viewer_page(tmp_path, scan_rows(61), 61)
    browser.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    browser.open(page)
    browser.wait(LOADED.format(60))
    metrics = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    assert {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"] < 1


def test_single_scans_have_no_maps(tmp_path, browser):
    page = write_viewer_page(tmp_path, scan_rows(3, volume=None), 3)
    browser.open(page)
    browser.wait("dme.loaded")
    assert browser.get("document.querySelector('#maps').hidden")
    assert browser.get(PLACE) == "scan 3 of 3"
    assert browser.faults() == []


@pytest.mark.parametrize(
    ("kinds", "groups", "readout"),
    [
        (("mask", "probability"), ["Fluid"], "fluid in this column 28 µm"),
        (("rows",), ["Boundaries"], "retina 112 µm"),
        (("mask", "probability", "truth"), ["Fluid", "Graders"], "grader no fluid"),
    ],
)
def test_what_nobody_looked_for_is_not_offered(tmp_path, browser, kinds, groups, readout):
    rows = scan_rows(3)
    if "rows" not in kinds:
        for row in rows:
            del row["boundaries"]
    browser.open(write_viewer_page(tmp_path, rows, 3, kinds))
    browser.wait("dme.loaded")
    legends = "Array.from(document.querySelectorAll('#layers legend'), text => text.textContent)"
    assert browser.get(legends) == groups
    browser.driver.execute_script("dme.setCursor([20, 12])")
    assert readout in browser.get(READOUT)
    assert browser.faults() == []
