"""Overlays, maps, contact sheets, and the page: what is in it, and in a browser how it answers."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from dme.drawing.canvas import save_picture
from dme.drawing.enface import COLOURS, UNKNOWN, map_picture
from dme.drawing.overlays import CYAN, STRIP, scan_overlay
from dme.drawing.panels import contact_sheet
from dme.report.page import Column, Table, write_report

# ---- pictures -------------------------------------------------------------------------------------------


def test_overlay_keeps_the_scan_and_adds_a_legend():
    image = np.random.default_rng(0).integers(0, 200, (300, 400)).astype(np.uint8)
    mask = np.zeros_like(image)
    mask[100:120, 50:90] = 1
    found = scan_overlay(image, mask, "fluid: 0.1 mm2")
    assert found.shape == (300 + STRIP, 400, 3)
    outside = mask == 0
    np.testing.assert_array_equal(found[:300][outside], np.repeat(image[outside][:, None], 3, 1))
    contour = (found[:300] == CYAN).all(2)
    assert (
        contour.sum() == 2 * 20 + 2 * 40 - 4 and contour[100, 50:90].all() and not contour[105, 60]
    )
    legend = found[300:]
    assert (
        (legend == CYAN).all(2).any()
        and (legend[:, 36:] == 255).all(2).any()
        and (legend[0] == 0).all()
    )


def test_small_scans_are_enlarged_and_the_legend_always_fits():
    image, mask = np.full((20, 50), 90, np.uint8), np.zeros((20, 50), np.uint8)
    mask[5, 10] = 1
    found = scan_overlay(
        image, mask, "a legend that is much longer than the scan is wide, by far " * 2
    )
    assert found.shape[0] == 20 * 7 + STRIP and found.shape[1] > 50 * 7
    assert (found[35:42, 70:77] == CYAN).all(2).any() and (found[0, : 50 * 7] == 90).all()
    assert found[-STRIP:, -8:].max() == 0  # the text ends before the border
    assert scan_overlay(image[:1, :1], mask[:1, :1], "x").shape[0] == 8 + STRIP


def test_map_colours_and_orientation():
    values = np.zeros((10, 40))
    values[9, :20] = 30.0  # last B-scan: superior, at the top; left
    values[0, 39] = 15.0
    values[5] = np.nan
    found = map_picture(values, "v", "fluid (um)", (100.0, 400.0))
    at = np.argwhere((found == COLOURS[-1]).all(2) & (np.arange(found.shape[1]) < 500))
    assert len(at) and at[:, 1].max() < 28 + 640 / 2 + 2
    unknown = np.argwhere((found[:700, :668] == UNKNOWN).all(2))
    assert at[:, 0].max() < unknown[:, 0].min()
    half = np.argwhere((found[:, :668] == COLOURS[2]).all(2))  # 15 of 30: the middle of the scale
    assert half[:, 0].min() > unknown[:, 0].max() and half[:, 1].min() >= 28 + 640 * 39 / 40 - 1
    assert (found[unknown[:, 0].max() + 5, 40:600] == 0).all()  # no fluid is black


def test_map_has_circles_of_the_right_size():
    values = np.zeros((61, 768))
    plain = map_picture(values, "v", "um", (11.33, 123.0))
    found = map_picture(values, "v", "um", (11.33, 123.0), centre=(383.5, 30))
    height = round(640 * 61 * 123 / (768 * 11.33))
    row = 64 + height // 2
    changed = np.flatnonzero((found[row] != plain[row]).any(1))
    radii_px = np.unique(np.round(np.abs(changed - (28 + 319.5)) / 640 * 768 * 11.33 / 500))
    np.testing.assert_array_equal(radii_px, [1, 3, 6])  # 0.5, 1.5 and 3 mm


def test_contact_sheet(tmp_path):
    files = []
    for i in range(5):
        files.append(tmp_path / f"{i}.png")
        save_picture(files[-1], np.full((50 + STRIP, 100, 3), 40 * i, np.uint8))
    found = contact_sheet(
        files, ["a name that is far too long for its picture " * 3] * 5, columns=3, width=90
    )
    cell = 45 + 22
    assert found.shape == (6 + 2 * cell, 6 + 3 * 96, 3)
    for i in range(5):
        top, left = 6 + (i // 3) * cell, 6 + (i % 3) * 96
        assert (found[top : top + 45, left : left + 90] == 40 * i).all()
        between = found[top + 45 : top + cell, left + 90 : left + 96]
        assert (between == between[0, 0]).all()  # no caption runs into the next


# ---- the page -------------------------------------------------------------------------------------------

ROWS = [("b<i>", 2.5, 9), ("a10", None, 100), ("a9", 7.25, 11), ("c", 0.0, 10)]


@pytest.fixture
def page(tmp_path) -> Path:
    rows = []
    for i, (name, area_mm2, regions) in enumerate(ROWS):
        picture = np.full((60 + STRIP, 90, 3), 50 + 40 * i, np.uint8)
        save_picture(tmp_path / "overlays" / f"{i}.png", picture)
        rows.append(
            {"scan": name, "area": area_mm2, "regions": regions, "overlay": f"overlays/{i}.png"}
        )
    columns = [Column("scan", "scan"), Column("area", "area mm2", 2), Column("regions", "regions")]
    tables = [
        Table("Scans", columns, rows, rank="area", picture="overlay", strip=STRIP, thumbnails=3),
        Table("None", columns, []),
        Table("Plain", columns[:2], rows[:2]),
    ]
    headline = [("scans", "4"), ("with fluid", "2")]
    skipped = [("bad<script>.png", "not an image & no scan")]
    write_report(
        tmp_path / "report.html", "Fluid & more", headline, tables, [("network", "n1")], skipped
    )
    return tmp_path / "report.html"


def test_page_stands_alone_and_escapes(page):
    text = page.read_text(encoding="utf-8")
    for address in re.findall(r'(?:src|href)="?([^" >]+)', text) + re.findall(
        r"url\(([^)]*)", text
    ):
        assert address.startswith("data:image/") or (page.parent / address).is_file(), address
    assert "http" not in text and "{{" not in text and "@import" not in text
    assert "b&lt;i&gt;" in text and "b<i>" not in text
    assert "bad&lt;script&gt;.png" in text and "not an image &amp; no scan" in text
    assert "Not a medical device" in text and "<title>Fluid &amp; more</title>" in text
    assert "Skipped (1)" in text and ">None<" not in text


def test_page_is_sorted_and_has_thumbnails_of_the_first(page):
    text = page.read_text(encoding="utf-8")
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r"<td class=text>(.*?)</td>", body) == ["a9", "b&lt;i&gt;", "a10", "c"]
    rows = body.split("<tr>")[1:]
    assert [("data:image/jpeg" in row) for row in rows] == [True, True, True, False]
    assert ">7.25</td>" in rows[0] and ">11</td>" in rows[0] and 'data-value=""' in rows[2]
    assert "pictures of the first 3" in text
    size = re.search(r"width=(\d+) height=(\d+)", rows[0])
    assert (int(size[1]), int(size[2])) == (220, 147)  # 90 x 60: without the legend


def test_nothing_is_left_of_a_failed_page(page, tmp_path):
    before = page.read_bytes()
    (tmp_path / "overlays" / "0.png").unlink()
    rows = [{"scan": "x", "overlay": "overlays/0.png"}]
    with pytest.raises(FileNotFoundError):
        write_report(
            page, "t", [], [Table("T", [Column("scan", "scan")], rows, picture="overlay")], [], []
        )
    assert page.read_bytes() == before and not list(tmp_path.glob(".*part"))


# ---- in a browser ---------------------------------------------------------------------------------------


class Browser:
    """Headless Chromium, spoken to over its debugging pipe."""

    def __init__(self, program: str, profile: Path):
        (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()
        options = (
            "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        )
        command = f'exec "{program}" {options} --user-data-dir="{profile}" 3<&{read_there} 4>&{write_there}'
        self.process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(read_there, write_there), stderr=subprocess.DEVNULL
        )
        os.close(read_there), os.close(write_there)
        self.answers, self.requests = os.fdopen(read_here, "rb"), os.fdopen(write_here, "wb")
        self.count, self.session, self.events = 0, None, []

    def call(self, method: str, **params) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.requests.write(json.dumps(message).encode() + b"\0")
        self.requests.flush()
        while True:
            text = b""
            while not text.endswith(b"\0"):
                byte = self.answers.read(1)
                assert byte, "Chromium ended"
                text += byte
            answer = json.loads(text[:-1])
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.call("Runtime.enable")
        self.call("Page.enable")
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def get(self, expression: str):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        for _ in range(200):
            if self.get(expression):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def click(self, selector: str) -> None:
        where = self.get(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=where[0],
                y=where[1],
                button="left",
                clickCount=1,
            )

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def close(self) -> None:
        self.requests.close()
        self.process.terminate()
        self.process.wait(20)
        self.answers.close()


@pytest.fixture
def browser(tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(names)})")
    browser = Browser(program, tmp_path / "profile")
    yield browser
    browser.close()


def test_sort_and_enlarge_in_chromium(page, browser):
    browser.open(page)
    names = "Array.from(document.querySelectorAll('table')[0].tBodies[0].rows, row => row.cells[1].textContent)"
    states = "Array.from(document.querySelectorAll('th[aria-sort]'), th => th.ariaSort)"
    assert browser.get(names) == ["a9", "b<i>", "a10", "c"]

    browser.click(
        "th:nth-child(3) button"
    )  # area: from largest first to smallest first, unknown last
    assert browser.get(names) == ["c", "b<i>", "a9", "a10"]
    assert browser.get(states)[:3] == ["none", "ascending", "none"]
    browser.click("th:nth-child(3) button")
    assert browser.get(names) == ["a9", "b<i>", "c", "a10"]
    browser.click("th:nth-child(2) button")  # names, in natural order
    assert browser.get(names) == ["a9", "a10", "b<i>", "c"]
    browser.click("th:nth-child(4) button")  # numbers, not texts: 100, 11, 10, 9
    assert browser.get(names) == ["a10", "a9", "c", "b<i>"]
    assert (
        browser.get("document.querySelectorAll('tbody')[1].rows[0].cells[0].textContent") == "b<i>"
    )

    shown = "document.querySelector('dialog').open && document.querySelector('dialog img').src"
    assert browser.get(shown) is False
    browser.click("tbody .picture img")
    assert browser.get(shown).endswith("overlays/1.png")
    browser.wait(
        "document.querySelector('dialog img').naturalHeight === 84"
    )  # the file, not the thumbnail
    assert "a10" in browser.get("document.querySelector('dialog p').textContent")
    assert browser.get("document.querySelector('dialog img').getBoundingClientRect().width") > 300
    browser.press("ArrowRight", 39)
    assert browser.get(shown).endswith("overlays/2.png")
    browser.click("dialog button[value='1']")
    browser.click("dialog button[value='1']")  # to the picture without a thumbnail ... and round
    assert browser.get(shown).endswith("overlays/0.png")
    browser.press("ArrowRight", 39)
    assert browser.get(shown).endswith("overlays/1.png")
    browser.press("Escape", 27)
    assert browser.get(shown) is False
    assert not [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]


def test_page_without_its_pictures_in_chromium(page, browser):
    (page.parent / "overlays").rename(page.parent / "elsewhere")  # someone was sent the page alone
    browser.open(page)
    browser.click("tbody tr:nth-child(2) .picture")
    browser.wait("document.querySelector('dialog img').src.startsWith('data:image/jpeg')")
    assert "not found" in browser.get("document.querySelector('dialog p').textContent")
