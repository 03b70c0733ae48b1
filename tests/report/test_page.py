"""The page: what is in it, and in a browser how it answers."""

import re
from pathlib import Path

import numpy as np
import pytest

from dme.drawing import html
from dme.drawing.canvas import save_png
from dme.drawing.html import Column, Table
from dme.drawing.overlays import STRIP
from dme.report.page import Page
from dme.report.scan_files import write_thumbnail

ROWS = [
    ("b<i>", 2.5, 9),
    ("a10", None, 100),
    ("a9", 7.25, 11),
    ("c", 0.0, 10),
]


@pytest.fixture
def page(tmp_path) -> Path:
    rows = []
    for i, (name, area_mm2, regions) in enumerate(ROWS):
        picture = np.full((60 + STRIP, 90, 3), 50 + 40 * i, np.uint8)
        save_png(tmp_path / "overlays" / f"{i}.png", picture)
        write_thumbnail(tmp_path / "thumbnails" / f"{i}.jpg", picture, STRIP)
        row = {"scan": name, "area": area_mm2, "regions": regions}
        row |= {"overlay": f"overlays/{i}.png", "thumbnail": f"thumbnails/{i}.jpg"}
        rows.append(row)
    columns = [
        Column("scan", "scan"),
        Column("area", "area mm2", 2),
        Column("regions", "regions"),
    ]
    scans = Table("Scans", columns, rows, "area", "overlay", "thumbnail")
    none = Table("None", columns, [])
    plain = Table("Plain", columns[:2], rows[:2])
    tables = [scans, none, plain]
    headline = [("scans", "4"), ("with fluid", "2")]
    skipped = [("bad<script>.png", "not an image & no scan")]
    facts = [("network", "n1")]
    Page("Fluid & more", headline, skipped, tables, facts).write(tmp_path / "report.html")
    return tmp_path / "report.html"


def test_page_needs_its_folder_alone_and_escapes(page):
    text = page.read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|href)="?([^" >]+)', text)
    assert len(addresses) == 2 * 4 + 2
    for address in addresses:
        assert (page.parent / address).is_file(), address
    for file in (page.parent / "viewer").iterdir():
        brought = file.read_text(encoding="utf-8")
        assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp", brought), file
    for expected in (
        "b&lt;i&gt;",
        "bad&lt;script&gt;.png",
        "not an image &amp; no scan",
        "Not a medical device",
        "<title>Fluid &amp; more</title>",
        "Skipped (1)",
    ):
        assert expected in text
    for unexpected in ("http:", "https:", "//", "{{", "@import", "b<i>", ">None<", "style="):
        assert unexpected not in text
    assert "default-src 'none'; script-src 'self' file:;" in text
    assert "unsafe" not in text


def test_page_is_sorted_and_has_thumbnails(page):
    text = page.read_text(encoding="utf-8")
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r"<td class=text>(.*?)</td>", body) == ["a9", "b&lt;i&gt;", "a10", "c"]
    rows = body.split("<tr>")[1:]
    for i, row in zip([2, 0, 1, 3], rows, strict=True):
        assert f'src="thumbnails/{i}.jpg"' in row
    assert ">7.25</td>" in rows[0]
    assert ">11</td>" in rows[0]
    assert 'data-value=""' in rows[2]
    assert "width=220 height=147" in rows[0]  # of 90 x 60: without the legend


def test_long_tables_keep_their_rest_beside_the_page(page, monkeypatch):
    monkeypatch.setattr(html, "ROWS_INSIDE", 2)
    columns = [Column("scan", "scan"), Column("area", "area mm2", 2)]
    rows = [{"scan": f'a"{i}</script>', "area": float(i)} for i in range(5)]
    Page("Long", [], [], [Table("T", columns, rows)], []).write(page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<tr>") == 1 + 2
    assert "show all 5 rows" in text
    rest = (page.parent / "viewer" / "rows-0.js").read_text(encoding="utf-8")
    assert rest.count("<tr>") == 3
    assert "</script>" not in rest


def test_nothing_is_left_of_a_failed_page(page, tmp_path):
    before = page.read_bytes()
    rows = [{"scan": "x", "overlay": "overlays/none.png"}]
    table = Table("T", [Column("scan", "scan")], rows, picture="overlay")
    with pytest.raises(FileNotFoundError):
        Page("t", [], [], [table], []).write(page)
    assert page.read_bytes() == before
    assert not list(tmp_path.glob(".*part"))


# what the page shows, in JavaScript
NAMES = "Array.from(document.querySelector('tbody').rows, row => row.cells[1].textContent)"
STATES = "Array.from(document.querySelectorAll('th[aria-sort]'), th => th.ariaSort)"
PLAIN_NAME = "document.querySelectorAll('tbody')[1].rows[0].cells[0].textContent"
SHOWN = "document.querySelector('dialog').open && document.querySelector('dialog img').src"
CAPTION = "document.querySelector('dialog p').textContent"
SHOWN_WIDTH = "document.querySelector('dialog img').getBoundingClientRect().width"
IS_LARGE = "document.querySelector('dialog img').naturalHeight === 84"


@pytest.mark.browser
def test_sort_in_a_browser(page, browser):
    browser.open(page)
    assert browser.get(NAMES) == ["a9", "b<i>", "a10", "c"]

    # area: from largest first to smallest first, unknown last
    browser.click("th:nth-child(3) button")
    assert browser.get(NAMES) == ["c", "b<i>", "a9", "a10"]
    assert browser.get(STATES)[:3] == ["none", "ascending", "none"]
    browser.click("th:nth-child(3) button")
    assert browser.get(NAMES) == ["a9", "b<i>", "c", "a10"]
    browser.click("th:nth-child(2) button")  # names, in natural order
    assert browser.get(NAMES) == ["a9", "a10", "b<i>", "c"]
    browser.click("th:nth-child(4) button")  # numbers, not texts: 100, 11, 10, 9
    assert browser.get(NAMES) == ["a10", "a9", "c", "b<i>"]
    assert browser.get(PLAIN_NAME) == "b<i>"
    assert browser.faults() == []


@pytest.mark.browser
def test_long_tables_are_sorted_whole_in_a_browser(page, browser, monkeypatch):
    monkeypatch.setattr(html, "ROWS_INSIDE", 2)
    columns = [Column("scan", "scan"), Column("area", "area mm2", 2)]
    rows = [{"scan": f"<b>{i}", "area": float(i)} for i in range(5)]
    Page("Long", [], [], [Table("T", columns, rows)], []).write(page)
    browser.open(page)
    names = NAMES.replace("cells[1]", "cells[0]")
    assert browser.get(names) == ["<b>0", "<b>1"]
    browser.click("th:nth-child(2) button")
    browser.wait("document.querySelectorAll('tbody tr').length === 5")
    assert browser.get(names) == ["<b>4", "<b>3", "<b>2", "<b>1", "<b>0"]
    assert browser.get("document.querySelector('.rest')") is None
    assert browser.faults() == []


@pytest.mark.browser
def test_enlarge_in_a_browser(page, browser):
    browser.open(page)
    browser.click("th:nth-child(4) button")  # a10, a9, c, b<i>
    assert browser.get(SHOWN) is False
    browser.click("tbody .picture img")
    assert browser.get(SHOWN).endswith("overlays/1.png")
    browser.wait(IS_LARGE)  # the file, not the thumbnail
    assert "a10" in browser.get(CAPTION)
    assert browser.get(SHOWN_WIDTH) > 300

    # on, to the next pictures, and round
    browser.press("ArrowRight")
    assert browser.get(SHOWN).endswith("overlays/2.png")
    browser.click("dialog button[value='1']")
    browser.click("dialog button[value='1']")
    assert browser.get(SHOWN).endswith("overlays/0.png")
    browser.press("ArrowRight")
    assert browser.get(SHOWN).endswith("overlays/1.png")
    browser.press("Escape")
    assert browser.get(SHOWN) is False
    assert browser.faults() == []


@pytest.mark.browser
def test_page_without_its_pictures_in_a_browser(page, browser):
    (page.parent / "overlays").rename(page.parent / "elsewhere")  # some files were left behind
    browser.open(page)
    browser.click("tbody tr:nth-child(2) .picture")
    browser.wait("document.querySelector('dialog img').src.endsWith('thumbnails/0.jpg')")
    assert "not found" in browser.get(CAPTION)


def test_flagged_rows_come_first_each_part_by_size(tmp_path):
    rows = [
        {"scan": "small", "area": 1.0, "doubt": "dim"},
        {"scan": "largest", "area": 9.0, "doubt": ""},
        {"scan": "large", "area": 5.0, "doubt": "dim"},
        {"scan": "medium", "area": 3.0, "doubt": ""},
    ]
    columns = [Column("scan", "scan"), Column("area", "area mm2", 2)]
    parts = html.table_html(Table("Scans", columns, rows, "area", first="doubt"), tmp_path)
    order = [re.search("large(st)?|small|medium", row)[0] for row in parts.rows]
    assert order == ["large", "small", "largest", "medium"]
