"""Pictures that are no B-scans, or not as networks know them: by simple rules, without a network.

A B-scan is a picture of layers: once its columns are shifted to follow the curve of the retina,
they show one depth profile, bright in the retina, dark above and below. Photographs, X-rays and
noise do not. All is measured on the means of ROWS x COLUMNS blocks, so that size, speckle and
sharpness count little. The limits lie between what real scans, mildly changed ones too, and other
pictures give (`experiments/studies/recognition.py`).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from dme.retina.greys import grey_counts, percentiles
from dme.retina.outlines import NEIGHBOURS
from dme.retina.wedge import saturated_wedge

LEAST_SIDE = 64  # px; of smaller pictures nothing is said
ROWS = 96
COLUMNS = 48
WHITE = 200  # mean of a block of the wedge, noisy or not; the retina's lie below
LEAST_COLUMNS = 16  # that are not of one grey
ONE_GREY = 3  # grey values between the darkest and brightest block

# how columns follow their neighbours
MOST_STEP = 3  # blocks that the retina rises or falls from one column to the next
FOLLOWED = 6  # columns of whose mean the next is a shifted copy
MARGIN = 8  # rows at the ends, which shifts bring in

# limits between real scans and other pictures
EMPTY_RANGE = 10  # grey values between the darkest and the brightest hundredth
NOISE = 0.4  # median correlation of columns with those they follow
NO_PROFILE = 0.2  # share of the variation that the common profile explains: no B-scan
# a steep retina, in a long eye, leaves as little; with edges that stand it is one only if columns
# follow each other closely
LITTLE_PROFILE = 0.28
POOR_PROFILE = 0.45
STANDING = 0.8  # of all steepness so much lies along columns; less: edges that stand
CLOSELY = 0.9  # median correlation
FAINT = 20  # grey values by which the retina stands out
GOOD_PROFILE = 0.5  # of half a picture, beside another one
MIRRORED = -0.05  # rising less falling edges of the profile, downwards, in squares

# black on white
LEAST_PIXELS = 1024
BRIGHT_MEDIAN = 140
HIGH_MEDIAN = 0.62  # between the darkest and the brightest hundredth

# colours: how far the largest channel lies above the smallest
COLOURED = 48
MOSTLY_COLOURED = 0.2  # of the pixels: a colour map or a photograph
DRAWN_COLOURED = 0.0002  # marks that were drawn

# letters and lines that were drawn in white
DRAWN_WHITE = 200
LEAST_DRAWN_PX = 6
MOST_DRAWN_PX = 2000
DARK = 80
DARK_AROUND = 0.6  # of the pixels around it
LETTERS = 3  # at least
LONG_PX = 30  # of a line


@dataclass(frozen=True)
class Oddity:
    """What was seen in a picture, and what to do; refused: results of it would mean nothing."""

    seen: str
    remedy: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.seen}: {self.remedy}"


COLOURS = Oddity("a picture in colours (a colour map, a photograph?)", "export it in grey", True)
INVERTED = Oddity(
    "its background is brighter than the retina",
    "export it white on black, or invert it (255 minus the value)",
    True,
)
EMPTY = Oddity("an empty picture", "leave it out, or export it again", True)
NOISE_ONLY = Oddity("noise or a texture, no layers", "leave it out, or export it again", True)
BESIDE = Oddity("a B-scan beside another picture", "cut it out, or export B-scans alone", True)
OTHER = Oddity("another picture than a B-scan (a photograph, an X-ray?)", "leave it out", True)
NO_RETINA = Oddity("next to no retina", "leave it out, or scan again")
UPSIDE_DOWN = Oddity("it seems to be upside down", "turn it, the vitreous belongs at the top")
MARKED = Oddity("letters or lines drawn into it", "export it without text and calipers")


@dataclass(frozen=True)
class Profile:
    """The depth profile that the columns of a picture share, in blocks, and how well they do."""

    depth: np.ndarray  # (ROWS,), median over the columns, which follow the retina
    explained: float  # share of the variation that the profile explains, 1 at most
    followed: float  # median correlation of a column with those before it

    @property
    def contrast(self) -> float:
        """Grey values by which its brightest row stands out."""
        return float(self.depth.max() - np.percentile(self.depth, 20))

    @property
    def rising(self) -> float:
        """1 where all edges are from dark to bright downwards, -1 where all are the other way.

        The retina begins with a sharp edge and fades out below.
        """
        steps = np.diff(self.depth)
        up = (steps[steps > 0] ** 2).sum()
        down = (steps[steps < 0] ** 2).sum()
        return float((up - down) / max(up + down, 1e-6))


def oddities_of(pixels: np.ndarray) -> list[Oddity]:
    """What is odd about a picture, uint8 (H, W) or (H, W, 3); refused ones end the list.

    Pictures below LEAST_SIDE are not judged.
    """
    if min(pixels.shape[:2]) < LEAST_SIDE:
        return []
    oddities = []
    grey = pixels
    if pixels.ndim == 3:
        coloured = coloured_pixels(pixels)
        if coloured.mean() > MOSTLY_COLOURED:
            return [COLOURS]
        grey = np.where(coloured, 0, pixels.mean(axis=2)).astype(np.uint8)
        if coloured.mean() > DRAWN_COLOURED:
            oddities.append(MARKED)

    if is_inverted(grey):
        return [*oddities, INVERTED]
    blocks = blocks_of(grey)
    oddity = _nothing_seen(grey, blocks)
    if oddity:
        return [*oddities, oddity]
    profile = common_profile(blocks)
    oddity = _no_bscan(grey, blocks, profile)
    if oddity:
        return [*oddities, oddity]
    if MARKED not in oddities and has_marks(grey):
        oddities.append(MARKED)
    if profile.contrast < FAINT:
        oddities.append(NO_RETINA)
    elif profile.rising < MIRRORED:
        oddities.append(UPSIDE_DOWN)
    return oddities


def coloured_pixels(pixels: np.ndarray) -> np.ndarray:
    """Where a picture uint8 (H, W, 3) is far from grey, bool (H, W)."""
    return np.ptp(pixels, axis=2) > COLOURED


def has_colours(pixels: np.ndarray) -> bool:
    """Whether pixels of any kind are 8-bit colours (H, W, 3 or 4), not grey in three channels."""
    channels = pixels.shape[2:]
    if pixels.dtype != np.uint8 or channels not in ((3,), (4,)):
        return False
    return bool(coloured_pixels(pixels[:, :, :3]).mean() > DRAWN_COLOURED)


def is_inverted(grey: np.ndarray) -> bool:
    """Whether the background of a B-scan uint8 (H, W) is brighter than its retina.

    Most pixels are background: half of them lie near the dark end, at no more than a third of the
    way to the bright one in every scan of the sets this was built with, and inverted at two thirds
    or more.
    """
    if grey.size < LEAST_PIXELS or percentiles(grey_counts(grey), (50,)) < BRIGHT_MEDIAN:
        return False
    inside = grey[~saturated_wedge(grey)]
    if inside.size < LEAST_PIXELS:
        return False
    dark, median, bright = np.percentile(inside, (1, 50, 99))
    skewed = inside.mean() < median
    high = median - dark > HIGH_MEDIAN * (bright - dark)
    return bool(skewed and median >= BRIGHT_MEDIAN and high)


def _nothing_seen(grey: np.ndarray, blocks: np.ndarray) -> Oddity | None:
    """Why a picture uint8 (H, W), whose blocks these are, shows nothing; None if it may."""
    counts = grey_counts(grey, ~saturated_wedge(grey))
    if not counts.any() or np.ptp(percentiles(counts, (1, 99))) < EMPTY_RANGE:
        return EMPTY
    if blocks.shape[1] < LEAST_COLUMNS:
        return NOISE_ONLY
    return None


def _no_bscan(grey: np.ndarray, blocks: np.ndarray, profile: Profile) -> Oddity | None:
    """Why a picture uint8 (H, W) is no B-scan, None if it may be one; profile: of its blocks."""
    if profile.followed < NOISE:
        return NOISE_ONLY

    # edges of photographs stand and lie, those of a retina lie
    least = LITTLE_PROFILE if profile.followed > CLOSELY else POOR_PROFILE
    if vertical_share(blocks) > STANDING:
        least = NO_PROFILE
    if profile.explained < least:
        return BESIDE if _half_is_bscan(grey) else OTHER
    return None


def _half_is_bscan(grey: np.ndarray) -> bool:
    """Whether the left or the right half of a picture is a B-scan by itself."""
    middle = grey.shape[1] // 2
    for half in (grey[:, :middle], grey[:, middle:]):
        blocks = blocks_of(half)
        if blocks.shape[1] < LEAST_COLUMNS:
            continue
        profile = common_profile(blocks)
        if profile.explained > GOOD_PROFILE and profile.contrast > FAINT:
            return vertical_share(blocks) > STANDING
    return False


# ---- blocks and their profile -------------------------------------------------------------------
def blocks_of(grey: np.ndarray) -> np.ndarray:
    """Block means float32 (ROWS, at most COLUMNS) of a picture uint8 (H, W).

    The wedge is as dark as the lower quartile of the rest; columns of one grey are left out.
    """
    picture = Image.fromarray(np.ascontiguousarray(grey))
    blocks = np.asarray(picture.resize((COLUMNS, ROWS), Image.Resampling.BOX), np.float32)
    white = blocks > WHITE
    if not white.all():
        blocks = np.where(white, np.percentile(blocks[~white], 25), blocks)
    return blocks[:, np.ptp(blocks, axis=0) > ONE_GREY]


def common_profile(blocks: np.ndarray) -> Profile:
    """The profile of blocks (ROWS, columns): each column is shifted to follow those before it."""
    smooth = ndimage.gaussian_filter1d(blocks, 1, axis=0)
    steps = np.arange(-MOST_STEP, MOST_STEP + 1)[:, None]
    depths = np.arange(len(smooth))
    shifts = [0]
    followed = []
    before = [smooth[:, 0]]
    for column in smooth.T[1:]:
        candidates = column[(depths + shifts[-1] + steps) % len(column)]  # (steps, ROWS)
        correlation = _correlations(candidates, np.mean(before[-FOLLOWED:], axis=0))
        best = int(correlation.argmax())
        followed.append(correlation[best])
        shifts.append(shifts[-1] + int(steps[best, 0]))
        before.append(candidates[best])

    # all where the middle one lies
    middle = int(np.median(shifts))
    columns = zip(blocks.T, shifts, strict=True)
    aligned = np.stack([np.roll(column, middle - shift) for column, shift in columns])
    profile = np.median(aligned, axis=0)
    left = ((aligned - profile) ** 2).mean()
    explained = 1 - left / (aligned.var() + 1)
    depth = ndimage.gaussian_filter1d(profile, 1)
    return Profile(depth, float(explained), float(np.median(followed)))


def _correlations(candidates: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Of each candidate (n, ROWS) with the template (ROWS,), the margins left out."""
    x = candidates[:, MARGIN:-MARGIN]
    y = template[MARGIN:-MARGIN]
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean()
    return (x @ y) / (np.sqrt((x * x).sum(axis=1) * (y @ y)) + 1)


def vertical_share(blocks: np.ndarray) -> float:
    """Share of the squared differences between blocks (ROWS, columns) that lies along columns."""
    smooth = ndimage.gaussian_filter(blocks, 1)
    along = np.diff(smooth, axis=0)[:, :-1]
    across = np.diff(smooth, axis=1)[:-1] * COLUMNS / ROWS
    down = (along**2).sum()
    return float(down / (down + (across**2).sum() + 1))


# ---- what was drawn into a picture --------------------------------------------------------------
def has_marks(grey: np.ndarray) -> bool:
    """Whether a picture uint8 (H, W) holds letters or a line: white, and dark all around.

    Reflexes are as white, but the retina or their own rim lies around them; the wedge touches the
    border.
    """
    height, width = grey.shape
    regions, _ = ndimage.label(grey >= DRAWN_WHITE, NEIGHBOURS)
    sizes = np.bincount(regions.ravel())
    letters = 0
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):
        inside = rows.start > 0 and rows.stop < height and columns.start > 0
        if not inside or columns.stop == width:
            continue
        if not LEAST_DRAWN_PX <= sizes[number] <= MOST_DRAWN_PX:
            continue

        # a region, and one pixel more on every side
        around = (
            slice(rows.start - 1, rows.stop + 1),
            slice(columns.start - 1, columns.stop + 1),
        )
        mark = regions[around] == number
        rim = ndimage.binary_dilation(mark, NEIGHBOURS) & ~mark
        if (grey[around][rim] > DARK).mean() > 1 - DARK_AROUND:
            continue
        letters += 1
        if letters >= LETTERS or max(mark.shape) > LONG_PX:
            return True
    return False
