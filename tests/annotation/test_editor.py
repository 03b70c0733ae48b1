"""The page of `annotate` in a browser: paint, undo, save, reload, boundaries, two windows."""

import json
import threading
import time

import numpy as np
import pytest
from helpers.browser import Browser
from helpers.scan_files import flat, indexed
from PIL import Image

from dme.annotation.page import leave_scan, write_editor_page
from dme.annotation.server import Drawable, Server
from dme.annotation.sheets import Sheet
from dme.data.corrections import Annotation, Corrections, Place
from dme.report.scan_files import write_values

pytestmark = pytest.mark.browser

SHAPE = (80, 120)
CYST = (slice(28, 32), slice(20, 30))
READY = "dme.edit.sheet !== null && dme.edit.sheet.index === {}"
IDLE = "dme.edit.sheet && !dme.edit.sheet.dirty && !dme.edit.trouble"


@pytest.fixture(scope="module")
def browser():
    """One window for all tests, since its start takes longest."""
    browser = Browser()
    yield browser
    browser.close()


def sheet(page, number: int) -> Sheet:
    """A scan with a cyst, even boundaries and a probability that is high around the cyst."""
    name = f"eye_bscan{number:03d}"
    image = indexed(number, *SHAPE, CYST)
    fluid = np.zeros(SHAPE, np.uint8)
    fluid[CYST] = 1
    probability = np.zeros(SHAPE, np.uint8)
    probability[26:34, 18:32] = 200
    rows = flat(width=SHAPE[1]).astype(np.float32)
    files = leave_scan(page, name, image)
    values = {"mask": fluid, "probability": probability, "rows": rows}
    write_values(page / files["values"], name, values)
    original = Annotation(fluid, rows)
    place = Place(name, "eye", number, (4.0, 10.0, 120.0))
    drawable = Drawable(place, SHAPE, image.copy, lambda: original)
    size = {"height_px": SHAPE[0], "width_px": SHAPE[1]}
    scale = {"axial_um": 4.0, "lateral_um": 10.0, "spacing_um": 120.0}
    where = {"scan": name, "volume": "eye", "bscan": number, "doubt": "", "boundaries": ""}
    return Sheet(drawable, where | size | scale | files)


@pytest.fixture
def server(tmp_path):
    page = tmp_path / "page"
    sheets = [sheet(page, number) for number in range(3)]
    write_editor_page(page, page, sheets, [], [("scans", "made up")])
    corrections = Corrections(tmp_path / "edited")
    server = Server([each.drawable for each in sheets], corrections, [page])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def saved(tmp_path, number=0) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "edited" / "fluid" / f"eye_bscan{number:03d}.png"))


PLACE = """(() => {{
    const box = dme.stage.canvas.getBoundingClientRect();
    const scale = dme.scale();
    return [box.x + box.width / 2 + ({0} - dme.stage.centre[0]) * scale,
        box.y + box.height / 2 + ({1} - dme.stage.centre[1]) * scale];
}})()"""


class Person:
    """Somebody who draws; places are x, y of the scan."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser = browser
        browser.driver.get("about:blank")
        browser.faults()  # of the page before
        browser.driver.get(server.address)
        browser.wait("typeof dme !== 'undefined' && dme.edit && " + READY.format(0))
        self.view()

    def view(self) -> None:
        self.browser.get("dme.stage.canvas.scrollIntoView({block: 'center'})")

    def drag(self, *places: tuple[float, float]) -> None:
        actions = self.browser.actions
        pointer = actions.w3c_actions.pointer_action
        for number, place in enumerate(places):
            x, y = self.browser.get(PLACE.format(*place))
            pointer.move_to_location(round(x), round(y))
            if number == 0:
                pointer.pointer_down()
        pointer.pointer_up()
        actions.perform()

    def choose(self, tool: str, **settings: float) -> None:
        self.browser.click(f"button[data-tool={tool}]")
        for key, value in settings.items():
            self.browser.get(f"dme.edit.settings.{key} = {value}")
        self.view()

    def press(self, title: str) -> None:
        self.browser.click(f'.editor button[title^="{title}"]')

    def save(self) -> None:
        self.press("save")
        self.browser.wait(IDLE)
        self.view()

    def mask(self) -> np.ndarray:
        values = self.browser.get("Array.from(dme.values.mask)")
        return np.array(values, np.uint8).reshape(SHAPE)

    def rows(self) -> np.ndarray:
        values = self.browser.get("Array.from(dme.values.rows)")
        return np.array(values, np.float64).reshape(8, -1)


@pytest.fixture
def person(browser, server):
    person = Person(browser, server)
    yield person
    assert not [fault for fault in browser.faults() if '"javascript"' in fault]


def test_paint_save_reload_undo(person, tmp_path):
    browser = person.browser
    person.choose("brush", radius=2)
    person.drag((10.5, 60.5), (14.5, 60.5))
    painted = person.mask()
    assert painted[60, 9:17].all() and not painted[60, :8].any() and painted[59:62, 12].all()
    assert painted[CYST].all()
    person.save()
    np.testing.assert_array_equal(saved(tmp_path), painted * 255)

    # erase part of the cyst, take it back, do it again
    person.choose("eraser", radius=1)
    person.drag((22.5, 29.5), (23.5, 29.5))
    erased = person.mask()
    assert not erased[29, 22:24].any()
    person.press("undo")
    np.testing.assert_array_equal(person.mask(), painted)
    person.press("redo")
    np.testing.assert_array_equal(person.mask(), erased)

    # another scan: leaving saves; the way back shows what was saved
    browser.get("dme.open(1)")
    browser.wait(READY.format(1))
    deadline = time.monotonic() + 10  # that it was saved before says nothing
    while (saved(tmp_path) != erased * 255).any() and time.monotonic() < deadline:
        time.sleep(0.05)
    np.testing.assert_array_equal(saved(tmp_path), erased * 255)
    browser.driver.refresh()
    browser.wait("typeof dme !== 'undefined' && dme.edit && " + READY.format(1))
    browser.get("dme.open(0)")
    browser.wait(READY.format(0))
    np.testing.assert_array_equal(person.mask(), erased)

    # the first step back after a reload leads to what was found
    person.press("undo")
    found = np.zeros(SHAPE, np.uint8)
    found[CYST] = 1
    np.testing.assert_array_equal(person.mask(), found)
    person.save()
    np.testing.assert_array_equal(saved(tmp_path), found * 255)


def test_assisted_brush_and_fill(person):
    person.choose("assisted", radius=10, above=0.5)
    person.drag((25.5, 30.5), (26.5, 30.5))
    painted = person.mask()
    inside = np.zeros(SHAPE, bool)
    inside[26:34, 18:32] = True
    assert painted[26:34, 20:32].all() and not painted[~inside].any()

    # fluid that is clicked goes; an outline that is clicked inside is filled, within its layer
    person.choose("fill")
    person.drag((25.5, 30.5))
    assert not person.mask().any()
    person.choose("brush", radius=0.5)
    person.drag((10.5, 70.5), (20.5, 70.5), (20.5, 76.5), (10.5, 76.5), (10.5, 70.5))
    person.choose("fill")
    person.drag((15.5, 73.5))
    assert person.mask()[70:77, 10:21].all() and person.mask().sum() == 77
    person.drag((40.5, 75.5))  # outside: the rest below the retina
    assert not person.mask()[:66].any()


def test_an_outline_that_is_open_is_not_filled(person):
    person.browser.get("dme.values.rows = null")
    before = person.mask()
    person.choose("fill")
    person.drag((50.5, 5.5))
    np.testing.assert_array_equal(person.mask(), before)
    assert "is open" in person.browser.get("document.querySelector('.says').textContent")


def test_a_dragged_boundary_takes_its_neighbours_along(person, tmp_path):
    person.choose("boundary", reach=10)
    found = person.rows()
    person.drag((30.5, found[7, 30] + 0.5), (30.5, found[7, 30] + 4.5))
    moved = person.rows() - found
    assert moved[7, 30] == pytest.approx(4, abs=0.3)
    assert moved[7, 25] == pytest.approx(moved[7, 30] / 2, abs=0.1)  # half-way: half as far
    assert abs(moved[7, 20]) < 1e-4 and not moved[:7].any() and not moved[7, 41:].any()
    assert (np.diff(moved[7, 20:31]) >= 0).all()

    # a second point leaves the first where it is; boundaries do not cross
    now = person.rows()
    person.drag((36.5, now[7, 36] + 0.5), (36.5, 10.5))
    again = person.rows()
    assert again[7, 30] == pytest.approx(now[7, 30], abs=1e-4)
    assert (np.diff(again, axis=0) >= 0).all()
    person.save()
    rows = np.load(tmp_path / "edited" / "boundaries" / "eye_bscan000.npy")
    np.testing.assert_allclose(rows, again, atol=1e-5)


def test_boundaries_from_nothing(person):
    person.browser.get("dme.values.rows.fill(NaN, 0, 120) && null")
    person.choose("boundary")
    for place in ((10.5, 5.5), (40.5, 3.5), (25.5, 7.5)):
        person.drag(place)
    rows = person.browser.get("Array.from(dme.values.rows.slice(0, 120), x => isNaN(x) ? -1 : x)")
    assert rows[9] == -1 and rows[41] == -1
    assert rows[10] == pytest.approx(5, abs=0.3) and rows[25] == pytest.approx(7, abs=0.3)
    between = np.array(rows[10:41])
    assert (np.diff(between[:16]) >= -1e-5).all() and (np.diff(between[15:]) <= 1e-5).all()


def test_what_the_network_drew_stays_beside_what_is_drawn_from_nothing(person):
    person.browser.get("dme.values.rows.fill(NaN, 0, 30) && null")
    person.choose("boundary", reach=10)
    for place in ((5.5, 5.5), (20.5, 6.5)):
        person.drag(place)
    rows = "Array.from(dme.values.rows.slice(0, 120), x => isNaN(x) ? -1 : x)"
    before = person.browser.get(rows)
    assert before[5] == pytest.approx(5, abs=0.3) and before[4] == before[21] == -1
    person.drag((80.5, before[80] + 0.5), (80.5, before[80] - 2.5))
    after = person.browser.get(rows)
    assert after[:70] == before[:70] and after[80] == pytest.approx(before[80] - 3, abs=0.3)


def test_ungraded_columns_and_done(person, tmp_path):
    person.choose("ungraded")
    person.drag((0.5, 40), (9.5, 40))
    person.drag((50.5, 40), (119.5, 40))
    assert person.browser.get("JSON.stringify(dme.edit.sheet.ungraded)") == "[[0,9],[50,119]]"
    person.drag((5.5, 40), (15.5, 40))  # joins the first
    person.drag((55.5, 40))  # a click takes one away
    person.browser.click(".done input")
    person.browser.wait("dme.edit.states[0].done")
    state = json.loads((tmp_path / "edited" / "state.json").read_text())["eye_bscan000"]
    assert state["ungraded"] == [[0, 15]] and state["done"]
    index = (tmp_path / "edited" / "index.csv").read_text()
    assert "eye_bscan000,1,0,4.0,10.0,120.0,0-15" in index
    assert person.browser.get("document.querySelectorAll('#scans .is-done').length") == 1
    person.press("the next scan")
    person.browser.wait(READY.format(1))


def test_the_second_window_is_told(person, server, tmp_path):
    browser = person.browser
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    second = Person(browser, server)
    second.choose("brush", radius=1)
    second.drag((5.5, 70.5))
    second.save()
    theirs = saved(tmp_path)

    browser.driver.close()
    browser.driver.switch_to.window(first)
    person.choose("brush", radius=1)
    person.drag((50.5, 70.5))
    person.press("save")
    browser.wait("dme.edit.trouble !== null")
    assert "another window" in browser.get("document.querySelector('.says').textContent")
    np.testing.assert_array_equal(saved(tmp_path), theirs)
    person.press("what the other window saved goes")
    browser.wait(IDLE)
    assert saved(tmp_path)[70, 50] == 255 and saved(tmp_path)[70, 5] == 0


def test_a_server_that_is_gone_is_said(person, server):
    person.choose("brush", radius=1)
    person.drag((5.5, 70.5))
    server.shutdown()
    server.server_close()
    person.press("save")
    person.browser.wait("dme.edit.trouble !== null")
    assert "the server does not answer" in person.browser.get("dme.edit.trouble.text")
    assert person.browser.get("dme.edit.sheet.dirty")
