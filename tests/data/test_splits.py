"""Named splits and their leak, on the real index where it is there and on hand-made sets."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.data.duke import DUKE_ANNOTATED, EYE_FOLDS, PAPER_VALIDATION
from dme.data.splits import leak, only_named, split_indices

DUKE = sorted(DUKE_ANNOTATED)


class Set(SimpleNamespace):
    """Subjects, positions and fluid of a cache."""

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def places(self) -> list[tuple[int, int]]:
        """(subject, position) of every scan."""
        return list(zip(self.subjects.tolist(), self.positions.tolist(), strict=True))

    def places_of(self, indices) -> set[tuple[int, int]]:
        """Those of some scans."""
        return {self.places[i] for i in indices}


def make_set(pairs) -> Set:
    subjects, positions = np.array(pairs, np.int64).T
    return Set(subjects=subjects, positions=positions, fluid=None)


def without(*pairs):
    return make_set([pair for pair in DUKE if pair not in pairs])


def assert_partition(cache, train, validation) -> None:
    assert train.dtype == validation.dtype == np.int64
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(cache)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


@pytest.fixture(scope="module")
def real_rows(real_data):
    with open(real_data / "chiu2015" / "index.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---- paper ------------------------------------------------------------------------------------


def test_paper_split_of_the_real_set(real_rows):
    cache = make_set([(int(row["subject"]), int(row["bscan"])) for row in real_rows])
    train, validation = split_indices(cache, "paper")
    expected = [i for i, row in enumerate(real_rows) if row["paper_split"] == "val"]
    assert validation.tolist() == expected
    assert len(train) == 88 and len(validation) == 22
    assert_partition(cache, train, validation)
    assert leak(cache, train, validation) == 21
    assert [real_rows[i]["fluid_px"] for i in validation].count("0") == 11


def test_paper_split_works_in_any_order():
    cache = make_set(np.random.default_rng(0).permutation(DUKE))
    train, validation = split_indices(cache, "paper")
    assert_partition(cache, train, validation)
    assert len(validation) == 22
    assert cache.places_of(validation) == set(PAPER_VALIDATION)
    assert leak(cache, train, validation) == 21


def test_paper_split_needs_all_22():
    with pytest.raises(InputError, match="20 of the study's 22 .*`split` random"):
        split_indices(without((1, 30), (10, 35)), "paper")
    with pytest.raises(InputError, match="0 of the study's 22"):
        split_indices(make_set([(1, 0), (2, 0)]), "paper")


# ---- random, all ------------------------------------------------------------------------------


def test_random_split_leaves_fluid_on_both_sides():
    """Of five scans one validates: of two with fluid it is one, whatever the seed's first draw."""
    cache = make_set([(1, position) for position in range(5)])
    first = [split_indices(cache, "random", seed)[1][0] for seed in range(20)]
    cache.fluid = [np.full((2, 2), label, np.uint8) for label in (0, 1, 255, 1, 0)]
    drawn = [split_indices(cache, "random", seed)[1].tolist() for seed in range(20)]
    assert all(validation in ([1], [3]) for validation in drawn)
    kept = [place for place, wanted in zip(drawn, first, strict=True) if wanted in (1, 3)]
    assert kept == [[wanted] for wanted in first if wanted in (1, 3)] and len(set(first)) > 3

    # where it cannot be, the set is left to what refuses it
    cache.fluid = cache.fluid[:1] * 5
    _, validation = split_indices(cache, "random", 0)
    assert len(validation) == 1


def test_random_split_is_80_20_and_seeded():
    cache = make_set(DUKE)
    train, validation = split_indices(cache, "random", seed=3)
    assert len(train) == 88 and len(validation) == 22
    assert_partition(cache, train, validation)
    _, again = split_indices(cache, "random", seed=3)
    _, other = split_indices(cache, "random", seed=4)
    np.testing.assert_array_equal(validation, again)
    assert validation.tolist() != other.tolist()
    order = np.random.default_rng(3).permutation(110)
    assert validation.tolist() == sorted(order[:22].tolist())


def test_all_scans_are_on_both_sides():
    train, validation = split_indices(make_set(DUKE), "all")
    assert train.tolist() == validation.tolist() == list(range(len(DUKE)))


# ---- by subject -------------------------------------------------------------------------------


def test_eye_folds_spread_the_fluid_of_the_real_set(real_rows):
    fluid_px = dict.fromkeys(range(1, 11), 0)
    for row in real_rows:
        fluid_px[int(row["subject"])] += int(row["fluid_px"])
    assert sum(fluid_px.values()) == 346152
    of_folds = [fluid_px[first] + fluid_px[second] for first, second in EYE_FOLDS]
    assert of_folds == [87022, 62811, 93790, 51544, 50985]


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


def held_out(pairs, name):
    """Subjects on the side of validation."""
    cache = make_set(pairs)
    _, validation = split_indices(cache, name)
    return sorted(set(cache.subjects[validation].tolist()))


def test_which_eyes_a_fold_holds_out():
    assert held_out(DUKE, "subject:1/5") == [1, 7]
    assert held_out(DUKE, "subject:2/5") == [2, 6]
    assert held_out(DUKE, "subject:3/5") == [3, 5]
    assert held_out(DUKE, "subject:4/5") == [4, 8]
    assert held_out(DUKE, "subject:5/5") == [9, 10]
    assert held_out(DUKE, "subject:2/4") == [2, 6, 10]
    others = [(s, 0) for s in (9, 4, 30, 2, 7, 8, 1)]
    assert held_out(others, "subject:1/5") == [1, 9]
    assert held_out(others, "subject:5/5") == [8]


# ---- development ------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [1, 2, 3, 4])
def test_development_folds_leave_out_what_the_final_scores_need(fold):
    cache = make_set(DUKE)
    train, validation = map(cache.places_of, split_indices(cache, f"dev:{fold}/4"))
    eyes = set(EYE_FOLDS[fold - 1])
    assert {eye for eye, _ in validation} == eyes
    assert {eye for eye, _ in train} == set(range(1, 9)) - eyes
    unseen = {pair for pair in DUKE if pair[0] > 8} | set(PAPER_VALIDATION)
    assert train | validation == DUKE_ANNOTATED - unseen
    assert not train & validation


def test_development_folds_need_the_whole_set():
    with pytest.raises(InputError, match=r"split dev:1/4: 21 of the study's 22 validation scans"):
        split_indices(without(PAPER_VALIDATION[0]), "dev:1/4")
    with pytest.raises(InputError, match="unknown split 'dev:5/4'"):
        split_indices(make_set(DUKE), "dev:5/4")


# ---- what is refused, and what leaks ----------------------------------------------------------


@pytest.mark.parametrize(
    "pairs, name, message",
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
    pairs = [(1, 10), (1, 0), (2, 45), (1, 40), (1, 5), (2, 50)]
    cache = make_set(pairs)

    def count(train, validation):
        train_indices = np.array([pairs.index(pair) for pair in train])
        validation_indices = np.array([pairs.index(pair) for pair in validation])
        return leak(cache, train_indices, validation_indices)

    assert count([(1, 0), (1, 5), (1, 10), (1, 40)], [(2, 45), (2, 50)]) == 0
    assert count([(1, 0), (2, 45)], [(1, 5), (1, 10), (1, 40), (2, 50)]) == 2
    assert count([(1, 5), (2, 50), (2, 45)], [(1, 0), (1, 10), (1, 40)]) == 2
    assert count([(1, 0), (1, 10)], [(1, 5), (1, 40)]) == 2


def test_training_scans_by_name():
    cache = SimpleNamespace(names=["a", "b", "c", "d"])
    train = np.array([0, 1, 3])
    assert only_named(cache, train, ()) is train
    chosen = only_named(cache, train, ("d", "a"))
    assert chosen.tolist() == [0, 3] and chosen.dtype == np.int64
    for names, message in (
        (("a", "c"), "holds c; expected names of the split's 3 training scans: a, b, d"),
        (("a", "e"), "holds e; expected names"),
        (("a", "a"), "expected each name once"),
    ):
        with pytest.raises(InputError, match=message):
            only_named(cache, train, names)
