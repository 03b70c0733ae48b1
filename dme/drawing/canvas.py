"""Pictures as PNG files, and text on them."""

import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.common.files import atomic_path

# of the PNG format
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = ">IIBBBBB"  # width, height, bits, kind of colour, and three choices that are always 0
GREY = 0
RGB = 2
LESS_ABOVE = 2  # a row is stored less the row above it

Colour = str | tuple[int, ...]

# what the font lacks: figures that are drawn small and high, and a u with a stem
RAISED = {"\N{SUPERSCRIPT TWO}": "2", "\N{SUPERSCRIPT THREE}": "3"}
MICRO = "\N{MICRO SIGN}"
SPECIAL = re.compile(f"([{''.join(RAISED)}{MICRO}])")
RAISED_SIZE = 0.65  # of the letters' size
RAISED_BY = 0.32
# signs with similar ones in ASCII, and what the font has beside that
SIMILAR = {
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{LATIN SMALL LETTER SHARP S}": "ss",
}
KNOWN = "\N{HORIZONTAL ELLIPSIS}\N{PLUS-MINUS SIGN}\N{DEGREE SIGN}"
ACROSS = {"l": 0.0, "m": 0.5, "r": 1.0}  # share of a line left of its anchor


def save_png(path: str | Path, picture: np.ndarray, fast: bool = False) -> None:
    """Write a uint8 (H, W) or (H, W, 3) picture atomically.

    fast: for the many large ones, where the size of the file matters less.
    """
    with atomic_path(path) as temporary:
        if fast:
            temporary.write_bytes(fast_png(picture))
        else:
            Image.fromarray(picture).save(temporary, format="PNG")


def fast_png(picture: np.ndarray) -> bytes:
    """A PNG file of a uint8 (H, W) or (H, W, 3) picture, in half the time that Pillow takes.

    Pillow tries five filters on every row; of scans the difference from the row above is about as
    small as the best of them (PNG specification, W3C 2003). Grey noise has no strings that come
    again: runs of one value are all that is looked for, which is faster and makes smaller files.
    """
    height, width = picture.shape[:2]
    kind, strategy = (GREY, zlib.Z_RLE) if picture.ndim == 2 else (RGB, zlib.Z_DEFAULT_STRATEGY)
    rows = picture.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = LESS_ABOVE
    filtered[:1, 1:] = rows[:1]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256

    packer = zlib.compressobj(level=1, strategy=strategy)
    pixels = packer.compress(filtered) + packer.flush()
    header = struct.pack(HEADER, width, height, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file: its length, name, content and checksum."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


class Letters:
    """Text of one size, `size` px high.

    Pillow's own font, the same on every machine, has no more than the signs of ASCII and a few:
    ², ³ and µ are drawn from its 2, 3 and u; of other letters the accents go.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.font = ImageFont.load_default(size=size)
        self.small = ImageFont.load_default(size=max(1, round(RAISED_SIZE * size)))

    def width(self, text: str) -> float:
        """How many pixels a line of text is long."""
        return sum(self._font(part).getlength(_drawn(part)) for part in _parts(text))

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        place: tuple[float, float],
        text: str,
        colour: Colour = "black",
        anchor: str = "la",
        halo: Colour | None = None,
    ) -> None:
        """A line of text; anchor: as Pillow has it. halo: colour of a rim around the letters."""
        x, y = place
        across, down = anchor
        x -= self.width(text) * ACROSS[across]
        style = {"fill": colour}
        if halo is not None:
            style |= {"stroke_width": max(1, self.size // 12), "stroke_fill": halo}

        # every part stands on the baseline of the whole
        ascent, descent = self.font.getmetrics()
        middle = (ascent + descent) / 2
        baseline = y + {"a": ascent, "m": ascent - middle, "d": -descent, "s": 0}[down]
        for part in _parts(text):
            font = self._font(part)
            raised = RAISED_BY * self.size if part in RAISED else 0
            draw.text((x, baseline - raised), _drawn(part), font=font, anchor="ls", **style)
            if part == MICRO:
                stem = [
                    (x + self.size / 10, baseline - 1),
                    (x + self.size / 10, baseline + descent),
                ]
                draw.line(stem, fill=colour, width=max(1, self.size // 10))
            x += font.getlength(_drawn(part))

    def _font(self, part: str) -> ImageFont.FreeTypeFont:
        return self.small if part in RAISED else self.font


def _parts(text: str) -> list[str]:
    """Pieces of a text: the signs that the font lacks, and what lies between them."""
    return [part for part in SPECIAL.split(text) if part]


def _drawn(part: str) -> str:
    """What the font draws in place of a piece of text."""
    if part in RAISED or part == MICRO:
        return RAISED.get(part, "u")
    for sign, similar in SIMILAR.items():
        part = part.replace(sign, similar)
    plain = unicodedata.normalize("NFKD", part)
    letters = [letter for letter in plain if not unicodedata.combining(letter)]
    return "".join(letter if _in_font(letter) else "?" for letter in letters)


def _in_font(letter: str) -> bool:
    return " " <= letter <= "~" or letter in KNOWN


def writer(draw: ImageDraw.ImageDraw, size: int, colour: Colour = "black") -> Callable[..., None]:
    """A function `write(place, text, fill, anchor)`, letters `size` pixels high."""
    letters = Letters(size)

    def write(
        place: tuple[float, float], text: str, fill: Colour = colour, anchor: str = "la"
    ) -> None:
        letters.write(draw, place, text, fill, anchor)

    return write
