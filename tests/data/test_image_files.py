"""Image files: which formats, how large, how deep, which way up, and damage that Pillow skips."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.scanfolder import refused, save
from PIL import Image

from dme.common.errors import InputError
from dme.data import image_files, phantom
from dme.data.image_files import read_picture
from dme.data.images import peak_of, read_grey, refuse_inverted, survey_images, to_scan
from dme.data.opening import open_source

# 12 bits, as many cameras have them, and what they are in 8
DEEP = np.random.default_rng(0).integers(0, 4096, (31, 40)).astype(np.uint16)
DEEP[0, :2] = 0, 4095
SHALLOW = np.rint(DEEP * (255 / 4095)).astype(np.uint8)
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6)


# ---- formats and sizes --------------------------------------------------------------------------
def test_no_program_in_a_file_is_run(tmp_path):
    program = (
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        f"({tmp_path}/seen) (w) file closefile showpage\n"
    )
    (tmp_path / "scan.png").write_text(program)
    refused(tmp_path, "scan.png", "it is no PNG, TIFF, JPEG or BMP, whatever its name")
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "ICO", "WEBP", "PDF"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, kind):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "scan.png", format=kind)
    refused(tmp_path, "scan.png", "it is no PNG, TIFF, JPEG or BMP")


def png(header: bytes, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    return content


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    side = 13300
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "scan.png").write_bytes(png(header, b"nothing of that size"))
    refused(tmp_path, "scan.png", "13300 x 13300 px", "at most 16 million")


def test_too_many_bytes_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "scan.png", GREY)
    monkeypatch.setattr(image_files, "MOST_BYTES", 20)
    refused(tmp_path, "scan.png", "expected at most", "MiB for one B-scan")


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "scan.png")
    with pytest.raises(InputError, match="expected a file; a folder, pipe or device"):
        read_picture(tmp_path / "scan.png")


@pytest.mark.parametrize("place", [20, 45, 55])
def test_damage_in_a_png_is_seen(tmp_path, place):
    path = save(tmp_path / "scan.png", GREY)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable image"):
        read_picture(path)


# ---- depth --------------------------------------------------------------------------------------
def deep_png(path: Path, channels: np.ndarray) -> None:
    """16 bits a channel, which Pillow cannot write: (H, W, 2) grey and alpha, 3 RGB, 4 RGBA."""
    height, width, count = channels.shape
    kind = {2: 4, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(png(header, rows))


def deep_tiff(
    path: Path, channels: np.ndarray, photometric: int, order: str, packed: bool = False
) -> None:
    """TIFF of 16 bits a channel; order "<" or ">". packed: compressed, for another decoder."""
    height, width, count = channels.shape
    data = channels.astype(f"{order}u2").tobytes()
    compression = 1
    if packed:
        data = zlib.compress(data)
        compression = 8
    tags = 10
    start = 8 + 2 + 12 * tags + 4 + 8
    depths = 16 if count == 1 else start - 8
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, count, depths),
        (259, 3, 1, compression),
    ]
    entries += [(262, 3, 1, photometric), (273, 4, 1, start), (277, 3, 1, count)]
    entries += [(278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)]
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    content = mark + struct.pack(f"{order}IH", 8, tags)
    for tag, kind, number, value in entries:
        short = kind == 3 and number == 1
        content += struct.pack(f"{order}HHI", tag, kind, number)
        if short:
            content += struct.pack(f"{order}HH", value, 0)
        else:
            content += struct.pack(f"{order}I", value)
    content += struct.pack(f"{order}IHHHH", 0, 16, 16, 16, 16) + data
    path.write_bytes(content)


def colours(count: int) -> np.ndarray:
    """The same grey in all channels, alpha being opaque."""
    alpha = np.full_like(DEEP, 65535)
    channels = {1: [DEEP], 2: [DEEP, alpha], 3: [DEEP] * 3, 4: [DEEP] * 3 + [alpha]}
    return np.dstack(channels[count])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_png_of_12_bits_in_16_with_colour_or_alpha(tmp_path, count):
    deep_png(tmp_path / "scan.png", colours(count))
    grey, how = read_grey(tmp_path / "scan.png")
    np.testing.assert_array_equal(grey, SHALLOW)
    assert "16-bit values scaled by 255/4095" in how


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("count", [1, 3])
def test_tiff_of_12_bits_in_16(tmp_path, count, order, packed):
    deep_tiff(tmp_path / "scan.tif", colours(count), 1 if count == 1 else 2, order, packed)
    grey, how = read_grey(tmp_path / "scan.tif")
    np.testing.assert_array_equal(grey, SHALLOW)
    assert "16-bit values scaled by 255/4095" in how


def test_all_16_bits_of_colour_are_read(tmp_path):
    wide = np.random.default_rng(1).integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    deep_png(tmp_path / "scan.png", wide)
    deep_tiff(tmp_path / "scan.tif", wide, 2, "<")
    np.testing.assert_array_equal(read_picture(tmp_path / "scan.png").pixels, wide)
    np.testing.assert_array_equal(read_picture(tmp_path / "scan.tif").pixels, wide)


@pytest.mark.parametrize("packed", [False, True])
def test_tiff_whose_white_is_zero(tmp_path, packed):
    deep_tiff(tmp_path / "scan.tif", (4095 - DEEP)[:, :, None], 0, "<", packed)
    grey, how = read_grey(tmp_path / "scan.tif")
    np.testing.assert_array_equal(grey, 255 - np.rint((4095 - DEEP) * (255 / 4095)))
    assert np.abs(grey - SHALLOW.astype(int)).max() <= 1
    assert "white is zero: inverted" in how


def test_one_white_for_colour_and_grey_of_a_set(tmp_path):
    deep_png(tmp_path / "colour.png", colours(3) // 8)
    save(tmp_path / "grey.png", DEEP)
    scans = {scan.name: scan.image for scan in open_source(tmp_path).scans()}
    np.testing.assert_array_equal(scans["colour"], np.rint(DEEP // 8 * (255 / 4095)))
    np.testing.assert_array_equal(scans["grey"], SHALLOW)


def test_a_few_hot_pixels_do_not_darken_the_rest(tmp_path):
    hot = np.random.default_rng(0).integers(0, 4096, (60, 80)).astype(np.uint16)
    hot[7, :3] = 65535
    assert peak_of(hot) <= 4095
    grey, how = read_grey(save(tmp_path / "scan.png", hot))
    expected = np.minimum(np.rint(hot * (255 / 4095)), 255)
    np.testing.assert_array_equal(grey, expected)
    assert "255/4095" in how
    assert peak_of(np.array([[3, 60000]], np.uint16)) == 60000  # half of an image is not few


def test_images_of_less_depth_than_others_are_said(tmp_path):
    dark = save(tmp_path / "dark.png", DEEP)
    bright = save(tmp_path / "bright.png", DEEP * 16)
    (note,) = survey_images([dark, bright]).notes
    assert "1 image (dark.png) is dark beside the other 16-bit images" in note
    assert survey_images([bright]).notes == []


# ---- which way up -------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(tmp_path, suffix, orientation):
    upright = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
    # what a camera stores that is to be turned so
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"scan.{suffix}"
    options = {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    grey, _ = read_grey(path)
    assert grey.shape == upright.shape
    assert np.abs(grey - upright.astype(int)).max() <= 2
    survey = survey_images([path])
    assert survey.shapes == {path: upright.shape}
    assert len(survey.notes) == (orientation > 1)


def test_masks_are_turned_as_their_images(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 5:15] = 1
    for folder, pixels in (("images", mask * 90), ("fluid", mask)):
        (tmp_path / folder).mkdir()
        stored = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
        stored.save(tmp_path / folder / "a.png", exif=exif)
    source = open_source(tmp_path)
    (scan,) = source.scans()
    np.testing.assert_array_equal(scan.fluid, mask)
    assert any("turned as EXIF orientation says" in note for note in source.notes)


# ---- black on white -----------------------------------------------------------------------------
def test_black_on_white_is_refused(tmp_path):
    scan = phantom.phantom_bscan(0).image
    save(tmp_path / "normal.png", scan)
    assert len(list(open_source(tmp_path).scans())) == 1
    save(tmp_path / "inverted.png", 255 - scan)
    refused(tmp_path, "inverted.png", "background is brighter than the retina", "white on black")


def test_no_real_scan_is_taken_for_black_on_white(real_data):
    for folder in ("chiu2015/images", "chiu2015/subject01_volume", "octlayers/images"):
        for file in sorted((real_data / folder).glob("*.png"))[::5]:
            scan = np.asarray(Image.open(file).convert("L"))
            refuse_inverted(scan)
            with pytest.raises(ValueError, match="brighter than the retina"):
                refuse_inverted(255 - scan)


def test_true_and_false_are_no_scan():
    with pytest.raises(ValueError, match="true and false, a mask"):
        to_scan(np.eye(40, dtype=bool))
