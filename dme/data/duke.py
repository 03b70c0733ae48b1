"""What is known of Duke's set, 2015_BOE_Chiu: its size and scale, what was annotated, the study's
splits.
"""

from collections.abc import Iterable

Pair = tuple[int, int]  # (subject, position) or (height, width)

DUKE_SHAPE = (496, 768)  # height and width of a B-scan, px
DUKE_BSCANS = 61  # in a volume
DUKE_SCALE_UM = (3.87, 11.33, 123.0)  # axial, lateral, spacing: the values eyepy uses
DUKE_NOTE = "scale 3.87/11.33/123 um (axial, lateral, spacing) supplied for Duke 2015_BOE_Chiu"
DUKE_RECOGNISED = f"recognised by its 110 subjects and positions: {DUKE_NOTE}"

# B-scans of a volume that the graders annotated, and by how much those of four eyes are shifted
DUKE_POSITIONS = (10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50)
_SHIFTS = {4: -4, 5: -2, 7: 1, 8: -2}
# (subject, position) of the 110 published annotations: to recognise the set, never to read it.
DUKE_ANNOTATED = frozenset(
    (subject, position + _SHIFTS.get(subject, 0))
    for subject in range(1, 11)
    for position in DUKE_POSITIONS
)

# First and last column with fluid in the truth of all ten eyes, those under test included. It is
# not what the graders looked at: only a .mat file's layer rows tell that.
FLUID_COLUMNS = (99, 624)

# The study's 22 validation scans as (subject, position). 11 of them hold no fluid.
_PAPER_VALIDATION = {
    1: (30,),
    2: (20, 50),
    3: (10, 50),
    4: (6, 28),
    5: (33, 48),
    7: (16, 21, 46),
    8: (18, 23, 30, 43),
    9: (10, 50),
    10: (10, 15, 30, 35),
}
PAPER_VALIDATION = tuple(
    (subject, position)
    for subject, positions in _PAPER_VALIDATION.items()
    for position in positions
)

# Two eyes per fold. Eyes 3 and 9 hold least fluid, eyes 1 and 5 about a quarter of all each:
# neither couple shares a fold. Given (4, 8) and (9, 10), no other pairing spreads the fluid of
# grader 1 more evenly: 87022, 62811, 93790, 51544 and 50985 px.
EYE_FOLDS = (
    (1, 7),
    (2, 6),
    (3, 5),
    (4, 8),
    (9, 10),
)


def is_duke(
    places: Iterable[Pair],
    shapes: Iterable[Pair] | None = None,
) -> bool:
    """Whether scans at these places are the 110 that Duke's graders annotated.

    places: (subject, position) of every scan. shapes: their (height, width); None leaves them
    open.
    """
    of_its_shape = shapes is None or set(shapes) == {DUKE_SHAPE}
    return of_its_shape and set(places) == DUKE_ANNOTATED


def is_duke_volume(shape: tuple[int, ...]) -> bool:
    """Whether a volume (H, W, B-scans) has the shape of those of Duke's set."""
    return tuple(shape) == (*DUKE_SHAPE, DUKE_BSCANS)
