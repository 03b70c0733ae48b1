"""What `predict` refuses and flags: real scans and changed copies of them, and other pictures.

python experiments/studies/recognition.py --scans chiu2015/images --pictures hrf/images

Every scan is also turned into what it should not be: inverted, upside down, in colours, with a
caliper, beside another picture. Other pictures are those of --pictures, and text, noise and blank
ones, which are made here (SYNTHETIC).
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.options import add_options, check, from_options, option_parser, setting
from dme.common.provenance import provenance
from dme.common.tables import table_head, table_line
from dme.common.words import IMAGE_SUFFIXES
from dme.data.images import read_as_seen, to_grey_uint8
from dme.data.phantom import phantom_bscan
from dme.data.source import files_in
from dme.retina.recognise import oddities_of

SEEN_AS_SCAN = "nothing odd"
LARGEST = 900  # px, to which photographs are reduced
SIDES = (496, 256)  # of pictures that are made up
WHITE = 255


@dataclass(frozen=True)
class Settings:
    """Which pictures are judged."""

    out: Path = setting(Path("runs/recognition.json"), "results file")
    every: int = setting(1, "of the scans every so many are taken", minimum=1)
    phantoms: int = setting(20, "SYNTHETIC scans beside the real ones", minimum=0)
    __post_init__ = check


def main() -> None:
    parser = option_parser(__doc__)
    add_options(parser, Settings)
    parser.add_argument("--scans", nargs="+", type=Path, default=[], help="folders of real scans")
    parser.add_argument("--pictures", nargs="+", type=Path, default=[], help="of other pictures")
    args = parser.parse_args()
    settings = from_options(Settings, args)
    record = provenance()
    files = [file for folder in args.scans for file in _files(folder)][:: settings.every]
    others = {file: reduced(file) for folder in args.pictures for file in _files(folder)}

    # what each kind of picture was taken for
    kinds: dict[str, Counter] = {}
    odd: dict[str, str] = {}  # real scans, changed mildly or not, that were not taken for scans
    seconds = []
    for name, kind, pixels in pictures(files, others, settings.phantoms):
        start = time.perf_counter()
        verdict = "; ".join(oddity.seen for oddity in oddities_of(pixels)) or SEEN_AS_SCAN
        seconds.append(time.perf_counter() - start)
        kinds.setdefault(kind, Counter())[verdict] += 1
        if kind.startswith("real") and verdict != SEEN_AS_SCAN:
            odd[f"{name} {kind}"] = verdict

    # the table, and where it comes from
    record |= {
        "scans": len(files),
        "pictures": len(others),
        "seconds_per_picture": float(np.median(seconds)),
        "kinds": {kind: dict(counts.most_common()) for kind, counts in kinds.items()},
        "false": odd,
    }
    write_json(settings.out, record)
    print(markdown(kinds))
    print(f"\n{len(odd)} real scans taken for something else; written: {settings.out}")


def _files(folder: Path) -> list[Path]:
    files = files_in(folder, IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder}: no images, expected files {' '.join(IMAGE_SUFFIXES)}")
    return list(files.values())


def reduced(file: Path) -> np.ndarray:
    """A photograph, uint8 (H, W) or (H, W, 3), of at most LARGEST px a side."""
    picture = Image.fromarray(read_as_seen(file))
    picture.thumbnail((LARGEST, LARGEST))
    return np.asarray(picture)


def pictures(
    files: list[Path], others: dict[Path, np.ndarray], phantoms: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, kind and pixels of all that is judged."""
    rng = np.random.default_rng(0)
    photographs = [in_grey(pixels) for pixels in others.values()]
    for number, file in enumerate(files):
        scan = in_grey(read_as_seen(file))
        for kind, pixels in mildly_changed(scan, rng):
            yield file.stem, f"real, {kind}", pixels
        for kind, pixels in as_it_should_not_be(scan):
            yield file.stem, kind, pixels
        if photographs:
            photograph = photographs[number % len(photographs)]
            yield file.stem, "beside a photograph", side_by_side(photograph, scan)
    for seed in range(phantoms):
        yield f"phantom {seed}", "SYNTHETIC scan", phantom_bscan(seed).image
    for file, pixels in others.items():
        yield file.stem, f"pictures of {file.parent.name or 'a folder'}", pixels
        yield file.stem, f"pictures of {file.parent.name or 'a folder'}, grey", in_grey(pixels)
    yield from made_up(rng)


def in_grey(pixels: np.ndarray) -> np.ndarray:
    return to_grey_uint8(pixels)[0]


def mildly_changed(scan: np.ndarray, rng: np.random.Generator) -> Iterator:
    """Kind and pixels of a scan as it is, and of copies that are still scans."""
    values = scan.astype(np.float32)
    yield "as it is", scan
    for gamma in (0.8, 1.25):
        yield f"gamma {gamma}", in_bytes(255 * (values / 255) ** gamma)
    yield "speckle 0.2", in_bytes(values * (1 + 0.2 * rng.standard_normal(scan.shape)))
    for shift in (-20, 20):
        rows = np.arange(len(scan)) - shift
        yield f"shifted by {shift} px", scan[rows.clip(0, len(scan) - 1)]
        yield f"rolled by {shift} px", np.roll(scan, shift, axis=0)
    height, width = scan.shape
    for factor in (0.9, 1.1):
        size = (round(width * factor), round(height * factor))
        scaled = Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC)
        yield f"scaled by {factor}", np.asarray(scaled)


def as_it_should_not_be(scan: np.ndarray) -> Iterator:
    """Kind and pixels of a scan that was turned into what is to be recognised."""
    yield "inverted", 255 - scan
    yield "upside down", scan[::-1]
    share = scan / np.float32(255)
    jet = [1.5 - np.abs(4 * share - middle) for middle in (3, 2, 1)]
    yield "in jet colours", in_bytes(255 * np.stack(jet, axis=-1).clip(0, 1))
    hot = [3 * share - start for start in (0, 1, 2)]
    yield "in hot colours", in_bytes(255 * np.stack(hot, axis=-1).clip(0, 1))

    # a scale bar with its length
    picture = Image.fromarray(scan)
    draw = ImageDraw.Draw(picture)
    foot = len(scan) - 40
    draw.text((30, foot), "200 um", fill=WHITE)
    draw.line((30, foot + 20, 130, foot + 20), fill=WHITE)
    yield "with a caliper", np.asarray(picture)


def side_by_side(photograph: np.ndarray, scan: np.ndarray) -> np.ndarray:
    """A square picture, then the scan, as viewers export them."""
    side = len(scan)
    square = Image.fromarray(photograph).resize((side, side))
    return np.hstack([np.asarray(square), scan])


def made_up(rng: np.random.Generator) -> Iterator[tuple[str, str, np.ndarray]]:
    """Text, noise and blank pictures."""
    for side in SIDES:
        shape = (side, side * 3 // 2)
        for level in (0, 90, WHITE):
            yield f"grey {level}", "SYNTHETIC blank", np.full(shape, level, np.uint8)
        for level in (40, 120, 255):
            noise = rng.integers(0, level, shape).astype(np.uint8)
            yield f"below {level}", "SYNTHETIC noise", noise
        yield "speckle", "SYNTHETIC noise", in_bytes(rng.exponential(30, shape))
        for width in (2, 6, 15, 40):
            noise = ndimage.gaussian_filter(rng.standard_normal(shape), width)
            noise = 255 * (noise - noise.min()) / np.ptp(noise)
            yield f"smooth {width}", "SYNTHETIC smooth noise", in_bytes(noise)
        for lines in (3, 10, 20):
            page = Image.new("L", shape[::-1], 0)
            draw = ImageDraw.Draw(page)
            for line in range(lines):
                draw.text((10, 8 + 12 * line), "OCT of the macula, no fluid seen", fill=WHITE)
            yield f"{lines} lines", "SYNTHETIC text, white", np.asarray(page)
            yield f"{lines} lines", "SYNTHETIC text, black", 255 - np.asarray(page)


def in_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def markdown(kinds: dict[str, Counter]) -> str:
    lines = table_head(["picture", "taken for", "of"])
    for kind, counts in kinds.items():
        total = sum(counts.values())
        verdicts = ", ".join(f"{seen}: {count}" for seen, count in counts.most_common())
        lines.append(table_line([kind, verdicts, total]))
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
