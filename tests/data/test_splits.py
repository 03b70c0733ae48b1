"""dme.data.splits: named splits and their leak, on the real index where it is there and on
hand-made sets.
"""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.data.duke import EYE_FOLDS, PAPER_VALIDATION
from dme.data.splits import leak, split_indices

SHIFTS = {4: -4, 5: -2, 7: 1, 8: -2}
DUKE = [
    (s, p + SHIFTS.get(s, 0))
    for s in range(1, 11)
    for p in (10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50)
]


class Set(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.subjects)


def make_set(pairs) -> Set:
    subjects, positions = np.array(pairs, np.int64).T
    return Set(subjects=subjects, positions=positions)


def assert_partition(cache, train, validation) -> None:
    assert train.dtype == validation.dtype == np.int64
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(cache)))
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()


def test_paper_split_of_the_real_set(real_data):
    with open(real_data / "chiu2015" / "index.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    cache = make_set([(int(row["subject"]), int(row["bscan"])) for row in rows])
    train, validation = split_indices(cache, "paper")
    assert validation.tolist() == [i for i, row in enumerate(rows) if row["paper_split"] == "val"]
    assert len(train) == 88 and len(validation) == 22
    assert_partition(cache, train, validation)
    assert leak(cache, train, validation) == 21
    assert sum(int(rows[i]["fluid_px"]) == 0 for i in validation) == 11


def test_eye_folds_spread_the_fluid_of_the_real_set(real_data):
    fluid_px = dict.fromkeys(range(1, 11), 0)
    with open(real_data / "chiu2015" / "index.csv", newline="") as f:
        for row in csv.DictReader(f):
            fluid_px[int(row["subject"])] += int(row["fluid_px"])
    assert sum(fluid_px.values()) == 346152
    assert [fluid_px[a] + fluid_px[b] for a, b in EYE_FOLDS] == [87022, 62811, 93790, 51544, 50985]


def test_paper_split_works_in_any_order():
    cache = make_set(np.random.default_rng(0).permutation(DUKE))
    train, validation = split_indices(cache, "paper")
    assert_partition(cache, train, validation)
    chosen = set(
        zip(cache.subjects[validation].tolist(), cache.positions[validation].tolist(), strict=True)
    )
    assert len(validation) == 22 and chosen == set(PAPER_VALIDATION)
    assert leak(cache, train, validation) == 21


def test_paper_split_needs_all_22():
    with pytest.raises(InputError, match="20 of the study's 22 .*--split random"):
        split_indices(
            make_set([pair for pair in DUKE if pair not in ((1, 30), (10, 35))]), "paper"
        )
    with pytest.raises(InputError, match="0 of the study's 22"):
        split_indices(make_set([(1, 0), (2, 0)]), "paper")


def test_random_split_is_80_20_and_seeded():
    cache = make_set(DUKE)
    train, validation = split_indices(cache, "random", seed=3)
    assert len(train) == 88 and len(validation) == 22
    assert_partition(cache, train, validation)
    np.testing.assert_array_equal(validation, split_indices(cache, "random", seed=3)[1])
    assert validation.tolist() != split_indices(cache, "random", seed=4)[1].tolist()
    assert validation.tolist() == sorted(np.random.default_rng(3).permutation(110)[:22].tolist())


@pytest.mark.parametrize("subjects", [range(1, 11), range(1, 8), (2, 3, 5, 7, 11), range(1, 24)])
@pytest.mark.parametrize("folds", [2, 4, 5])
def test_subject_folds_validate_every_subject_once(subjects, folds):
    cache = make_set([(s, p) for s in subjects for p in (0, 5, 9)])
    seen = []
    for fold in range(1, folds + 1):
        train, validation = split_indices(cache, f"subject:{fold}/{folds}")
        assert_partition(cache, train, validation)
        assert not set(cache.subjects[train]) & set(cache.subjects[validation])
        assert leak(cache, train, validation) == 0
        seen += sorted(set(cache.subjects[validation].tolist()))
    assert sorted(seen) == sorted(subjects)


def test_which_eyes_a_fold_holds_out():
    def held_out(pairs, name):
        cache = make_set(pairs)
        return sorted(set(cache.subjects[split_indices(cache, name)[1]].tolist()))

    assert [held_out(DUKE, f"subject:{k}/5") for k in range(1, 6)] == [
        [1, 7],
        [2, 6],
        [3, 5],
        [4, 8],
        [9, 10],
    ]
    assert held_out(DUKE, "subject:2/4") == [2, 6, 10]
    assert held_out([(s, 0) for s in (9, 4, 30, 2, 7, 8, 1)], "subject:1/5") == [1, 9]
    assert held_out([(s, 0) for s in (9, 4, 30, 2, 7, 8, 1)], "subject:5/5") == [8]


@pytest.mark.parametrize(
    ("pairs", "name", "message"),
    [
        (DUKE, "papers", "unknown split 'papers'"),
        (DUKE, "subject:1", "unknown split"),
        (DUKE, "subject:0/5", "K from 1 to N"),
        (DUKE, "subject:6/5", "K from 1 to N"),
        (DUKE, "subject:1/1", "N at least 2"),
        ([(1, 0), (2, 0), (3, 0)], "subject:1/5", "5 folds need 5 subjects, found 3"),
        ([(1, 0), (1, 1)], "random", "leaves no validation scans out of 2"),
        (sorted(PAPER_VALIDATION), "paper", "leaves no training scans out of 22"),
    ],
)
def test_wrong_splits_are_refused(pairs, name, message):
    with pytest.raises(InputError, match=message):
        split_indices(make_set(pairs), name)


def test_leak_counts_neighbours_of_the_same_eye_only():
    # positions in no order: eye 1 has 0, 5, 10, 40 and eye 2 has 45, 50
    cache = make_set([(1, 10), (1, 0), (2, 45), (1, 40), (1, 5), (2, 50)])
    at = {(s, p): i for i, (s, p) in enumerate(zip(cache.subjects, cache.positions, strict=True))}

    def count(train, validation):
        indices = (np.array([at[pair] for pair in side]) for side in (train, validation))
        return leak(cache, *indices)

    assert count([(1, 0), (1, 5), (1, 10), (1, 40)], [(2, 45), (2, 50)]) == 0
    assert count([(1, 0), (2, 45)], [(1, 5), (1, 10), (1, 40), (2, 50)]) == 2
    assert count([(1, 5), (2, 50), (2, 45)], [(1, 0), (1, 10), (1, 40)]) == 2
    assert count([(1, 0), (1, 10)], [(1, 5), (1, 40)]) == 2


@pytest.mark.parametrize("fold", [1, 2, 3, 4])
def test_development_folds_leave_out_what_the_final_scores_need(fold):
    cache = make_set(DUKE)
    train, validation = split_indices(cache, f"dev:{fold}/4")
    sides = [{DUKE[i] for i in side} for side in (train, validation)]
    assert {eye for eye, _ in sides[1]} == set(EYE_FOLDS[fold - 1])
    assert {eye for eye, _ in sides[0]} == set(range(1, 9)) - set(EYE_FOLDS[fold - 1])
    held_back = {pair for pair in DUKE if pair[0] > 8} | set(PAPER_VALIDATION)
    assert sides[0] | sides[1] == set(DUKE) - held_back and not sides[0] & sides[1]


def test_development_folds_need_the_whole_set():
    with pytest.raises(InputError, match=r"split dev:1/4: 21 of the study's 22 validation scans"):
        split_indices(make_set([pair for pair in DUKE if pair != PAPER_VALIDATION[0]]), "dev:1/4")
    with pytest.raises(InputError, match="unknown split 'dev:5/4'"):
        split_indices(make_set(DUKE), "dev:5/4")


def test_all_scans_are_on_both_sides():
    train, validation = split_indices(make_set(DUKE), "all")
    assert train.tolist() == validation.tolist() == list(range(len(DUKE)))
