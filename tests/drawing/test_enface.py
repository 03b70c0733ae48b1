"""En-face maps: colours, orientation, circles."""

import numpy as np
import pytest
from helpers.pixels import extent, is_colour, stripes

from dme.drawing.canvas import Letters
from dme.drawing.enface import COLOURS, FINE, UNKNOWN, Place, Span, map_picture
from dme.retina.etdrs import sector_table

# the map on its picture
LEFT = 28
TOP = 64
WIDTH = 640
RIGHT = LEFT + WIDTH


def test_map_colours_and_orientation():
    values = np.zeros((10, 40))
    values[9, :20] = 30.0  # last B-scan: superior, at the top; left
    values[0, 39] = 15.0
    values[5] = np.nan
    picture = map_picture(values, "v", "fluid (um)", Place((100.0, 400.0)))
    picture = picture[:, :RIGHT]  # without the colour bar
    highest_rows, highest_columns = extent(is_colour(picture[:, :500], COLOURS[-1]))
    half_rows, half_columns = extent(is_colour(picture, COLOURS[2]))  # 15 of 30: in the middle
    unknown_rows, _ = extent(is_colour(picture[:700, 28:60], UNKNOWN))  # beside the letters

    assert highest_rows.stop <= unknown_rows.start
    assert unknown_rows.stop <= half_rows.start
    assert highest_columns.stop <= LEFT + WIDTH / 2 + 2
    assert half_columns.start >= LEFT + WIDTH * 39 / 40 - 1
    assert (picture[unknown_rows.stop + 4, 40:600] == 0).all()  # no fluid is black


def test_map_has_circles_of_the_right_size():
    values = np.zeros((61, 768))
    lateral_um, spacing_um = scale_um = (11.33, 123.0)
    plain = map_picture(values, "v", "um", Place(scale_um))
    picture = map_picture(values, "v", "um", Place(scale_um, centre=(383.5, 30)))

    # along the row through their centre
    height = round(WIDTH * 61 * spacing_um / (768 * lateral_um))
    row = TOP + height // 2
    changed = np.flatnonzero((picture[row] != plain[row]).any(axis=1))
    distance_px = np.abs(changed - (LEFT + 319.5))
    distance_um = distance_px / WIDTH * 768 * lateral_um
    diameters_mm = np.unique(np.round(distance_um / 500))
    np.testing.assert_array_equal(diameters_mm, [1, 3, 6])


def test_colours_of_a_map_start_where_told():
    values = stripes([200, 300, 400, 0], width=4)
    picture = map_picture(values, "v", "um", span=Span(200.0))[TOP:-62, 40:640]
    band = len(picture) // 4
    last_first = picture[band // 2 :: band, 300]
    expected = [(0, 0, 0), COLOURS[4], COLOURS[2], COLOURS[0]]  # nothing at all stays black
    np.testing.assert_array_equal(last_first[:4], expected)

    even = map_picture(np.full((3, 4), 250.0), "v", "um", span=Span(250.0))
    assert (even[100, 300] == COLOURS[0]).all()


@pytest.mark.parametrize("centre", [(383.5, 30), (100, 30)])
def test_every_sector_has_its_number_where_it_lies(monkeypatch, centre):
    """Each number is that of the map under it; what lies beyond the map has none."""
    lateral_um, spacing_um = scale_um = (11.33, 123.0)
    right = (np.arange(768) - centre[0])[None] * lateral_um
    up = (np.arange(61) - centre[1])[:, None] * spacing_um
    steep = np.abs(up) > np.abs(right)
    values = np.where(steep, np.where(up > 0, 100.0, 300.0), np.where(right > 0, 200.0, 400.0))
    values[np.hypot(right, up) < 500] = 50.0
    table = sector_table(values, lateral_um, spacing_um, centre)
    means = [sector["mean_um"] for sector in table]

    written = []

    def write(letters, draw, place, text, *_, **style):
        if style.get("halo"):
            written.append((place, text))

    monkeypatch.setattr(Letters, "write", write)
    picture = map_picture(values, "v", "um", Place(scale_um, centre, sector_values=means))
    height = picture.shape[0] - TOP - 62
    for (x, y), text in written:
        column = int(x / FINE / WIDTH * 768)
        bscan = int((1 - y / FINE / height) * 61)
        assert float(text) == pytest.approx(values[bscan, column], abs=20)
    on_the_map = 9 if centre[0] > 300 else 8
    assert len(written) == on_the_map

    # changes have signs, what is small a decimal, what is unknown no number
    written.clear()
    some = Place(scale_um, centre, sector_values=[4.25, -12.0, None, -0.01], changes=True)
    map_picture(values, "v", "um", some)
    assert [text for _, text in written] == ["+4.2", "-12", "+0.0"]
