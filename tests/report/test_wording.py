"""From how much fluid on a scan counts as one with fluid."""

import pytest

from dme.report.wording import count_wet, least_fluid


def row(fluid_px: int, area_mm2: float | None = None) -> dict:
    return {"fluid_px": fluid_px, "fluid_area_mm2": area_mm2}


@pytest.mark.parametrize(
    ("rows", "count", "least"),
    [
        ([row(0), row(1), row(24), row(25), row(900)], 2, "at least 25 px"),
        ([row(24, 0.0009), row(20, 0.001), row(3, 0.2)], 2, "at least 0.001 mm2"),
        # where only some have a scale, the others are counted by their pixels
        (
            [row(24), row(25), row(20, 0.001)],
            2,
            "at least 0.001 mm2, 25 px in 2 scans without scale",
        ),
    ],
)
def test_a_few_pixels_are_no_scan_with_fluid(rows, count, least):
    assert count_wet(rows) == count
    assert least_fluid(rows) == least
