"""PNG files hold what was drawn."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dme.drawing.canvas import Letters, fast_png, save_png


@pytest.mark.parametrize("fast", [False, True])
def test_save_png(tmp_path, fast):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = tmp_path / "new" / "a.png"
    save_png(file, picture, fast)
    assert np.array_equal(np.asarray(Image.open(file)), picture)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (33, 20), (1, 1, 3), (40, 23, 3)])
@pytest.mark.parametrize("kind", ["noise", "flat", "turned"])
def test_fast_png_holds_every_pixel(shape, kind):
    """Whole files, by Pillow's account, of pictures in any order in memory."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if kind == "flat":
        picture[:] = 255
    if kind == "turned":
        picture = picture.swapaxes(0, 1)[::-1, ::2]
    content = fast_png(picture)
    Image.open(io.BytesIO(content), formats=("PNG",)).verify()  # the checksums
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == ("L" if picture.ndim == 2 else "RGB")
        assert np.array_equal(np.asarray(image), picture)


def ink(text: str, size: int = 20, anchor: str = "la") -> np.ndarray:
    """Where a text is dark, bool (60, 300)."""
    sheet = Image.new("L", (300, 60), 255)
    Letters(size).write(ImageDraw.Draw(sheet), (150, 30), text, 0, anchor)
    return np.asarray(sheet) < 128


def test_units_are_drawn_without_boxes():
    # a 2 and a 3 that stand higher than the letters' middle, each its own
    two = np.argwhere(ink("\N{SUPERSCRIPT TWO}"))
    assert two[:, 0].max() < np.argwhere(ink("x"))[:, 0].max() - 3
    assert (ink("\N{SUPERSCRIPT TWO}") != ink("\N{SUPERSCRIPT THREE}")).any()
    # a u whose stem goes as deep as a p
    micro = np.argwhere(ink("\N{MICRO SIGN}"))
    assert micro[:, 0].max() > np.argwhere(ink("u"))[:, 0].max() + 2
    # within a text too
    raised = np.argwhere(ink("xx\N{SUPERSCRIPT TWO}") & ~ink("xx"))
    assert raised[:, 0].max() < np.argwhere(ink("xx2"))[:, 0].max() - 3
    stem = np.argwhere(ink("x\N{MICRO SIGN}x"))
    assert stem[:, 0].max() > np.argwhere(ink("xux"))[:, 0].max() + 2
    # accents go, what is left is no box
    assert np.array_equal(ink("\N{LATIN SMALL LETTER E WITH ACUTE}"), ink("e"))
    assert np.array_equal(ink("\N{CJK UNIFIED IDEOGRAPH-4E2D}"), ink("?"))


@pytest.mark.parametrize(("anchor", "share"), [("la", 0), ("ma", 0.5), ("ra", 1)])
def test_text_stands_at_its_anchor(anchor, share):
    letters = Letters(20)
    text = "3 mm\N{SUPERSCRIPT TWO}, 5 \N{MICRO SIGN}m"
    columns = np.argwhere(ink(text, anchor=anchor).any(axis=0))
    assert columns.min() == pytest.approx(150 - share * letters.width(text), abs=2)
    assert columns.max() == pytest.approx(150 + (1 - share) * letters.width(text), abs=3)


def test_text_without_special_signs_is_as_pillow_draws_it():
    for anchor in ("la", "mm", "rd"):
        sheet = Image.new("L", (300, 60), 255)
        font = ImageFont.load_default(size=20)
        ImageDraw.Draw(sheet).text((150, 30), "Fluid 0.5 px", 0, font, anchor)
        rows, columns = np.nonzero(np.asarray(sheet) < 128)
        here_rows, here_columns = np.nonzero(ink("Fluid 0.5 px", anchor=anchor))
        assert here_rows.min() == pytest.approx(rows.min(), abs=1)
        assert here_columns.min() == pytest.approx(columns.min(), abs=1)
