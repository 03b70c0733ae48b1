"""What is known of Duke's set, 2015_BOE_Chiu: its scale, what was annotated, the study's splits of it."""

DUKE_SCALE_UM = (
    3.87,
    11.33,
    123.0,
)  # axial, lateral, spacing of Duke 2015_BOE_Chiu, the values eyepy uses
DUKE_NOTE = "scale 3.87/11.33/123 um (axial, lateral, spacing) supplied for Duke 2015_BOE_Chiu"
_SHIFTS = {4: -4, 5: -2, 7: 1, 8: -2}
# (subject, position) of the 110 published annotations: to recognise the set, never to read it.
DUKE_ANNOTATED = frozenset(
    (s, p + _SHIFTS.get(s, 0))
    for s in range(1, 11)
    for p in (10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50)
)

# First and last column with fluid in Duke's set: where its graders worked, when no layer rows tell
GRADED_COLUMNS, DUKE_WIDTH = (99, 624), 768

# The study's 22 validation scans as (subject, position) of Duke's 2015_BOE_Chiu. 11 of them hold no fluid.
PAPER_VALIDATION = (
    *(
        (1, 30),
        (2, 20),
        (2, 50),
        (3, 10),
        (3, 50),
        (4, 6),
        (4, 28),
        (5, 33),
        (5, 48),
        (7, 16),
        (7, 21),
    ),
    *(
        (7, 46),
        (8, 18),
        (8, 23),
        (8, 30),
        (8, 43),
        (9, 10),
        (9, 50),
        (10, 10),
        (10, 15),
        (10, 30),
        (10, 35),
    ),
)

# Two eyes per fold. Eyes 3 and 9 hold least fluid, eyes 1 and 5 about a quarter of all each: neither couple
# shares a fold. Given (4, 8) and (9, 10), no other pairing spreads the fluid of grader 1 more evenly:
# 87022, 62811, 93790, 51544 and 50985 px.
EYE_FOLDS = ((1, 7), (2, 6), (3, 5), (4, 8), (9, 10))
