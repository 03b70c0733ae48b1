"""The size that a compressed picture states: JPEG, JPEG-LS, JPEG 2000, before it is decoded."""

import struct

JPEG = b"\xff\xd8"
JPEG2000 = b"\xff\x4f\xff\x51"
JP2 = b"\0\0\0\x0cjP  "  # a file around a stream of JPEG 2000
LONGEST_BOXES = 1 << 14  # bytes of a JP2 file before its stream
# markers of JPEG that begin a frame: all kinds but tables (c4), extensions (c8), arithmetic (cc)
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
SIDES = struct.Struct(">HH")
# of JPEG 2000: right and lower edge, left and upper one, of the tiles the same, colours
SIZES = struct.Struct(">8IH")
MOST_COLOURS = 4


def stated_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) px of a compressed picture; None for another kind or a damaged one."""
    if content.startswith(JPEG):
        return _of_jpeg(content)
    if content.startswith(JP2):
        start = content.find(JPEG2000, 0, LONGEST_BOXES)
        content = content[start:] if start > 0 else b""
    if content.startswith(JPEG2000):
        return _of_jpeg2000(content)
    return None


def _of_jpeg(content: bytes) -> tuple[int, int] | None:
    """Of the segments, each a marker and its length, the first that begins a frame."""
    offset = 2
    while offset + 10 <= len(content) and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker in FRAMES and content[offset + 9] <= MOST_COLOURS:
            return SIDES.unpack_from(content, offset + 5)
        if marker == 0xFF:  # fills a gap
            offset += 1
            continue
        offset += 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")
    return None


def _of_jpeg2000(content: bytes) -> tuple[int, int] | None:
    if len(content) < 8 + SIZES.size:
        return None
    right, lower, left, upper, *_, colours = SIZES.unpack_from(content, 8)
    if right <= left or lower <= upper or colours > MOST_COLOURS:
        return None
    return lower - upper, right - left
