"""Named splits of a set of B-scans into training and validation indices, and how much a split
leaks.
"""

import re
from collections.abc import Sequence

import numpy as np

from dme.common.errors import InputError
from dme.data.cache import Cache
from dme.data.duke import EYE_FOLDS, PAPER_VALIDATION
from dme.data.mirage import PARTS
from dme.data.source import listing

DRAWS = 100  # of a random split, until both sides hold fluid
DEVELOPMENT_FOLDS = 4  # of EYE_FOLDS; the eyes of the last one stay unseen until the end


def split_indices(cache: Cache, name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, validation) into the cache: int64, sorted, disjoint but for `all`.

    paper: the study's own validation scans; everything else trains. Leaks: see `leak`.
    random: 80:20 by B-scan, drawn from `seed`, fluid on both sides if it can be. Leaks too.
    subject:K/N: fold K (from 1) of N validates, no eye is on both sides. With N = 5 and eyes 1..10
    the folds are EYE_FOLDS; otherwise the sorted subjects are dealt round-robin.
    all: every scan is on both sides, for a network to be used; its scores say nothing.
    dev:K/4: to choose a recipe by. Fold K of eyes 1..8 validates, the others of these eyes train;
    eyes 9 and 10 and the scans of `paper`'s validation are on neither side, so that they stay
    unseen until the end.
    folders: the parts that the data came in: names that begin with train_ train, those with val_
    validate, those with test_ are on neither side.

    Raises InputError for an unknown name, a fold out of range, or a set that the split does not
    fit.
    """
    if name == "all":
        every = np.arange(len(cache))
        return every, every.copy()

    # which scans are used, and which of them validate
    used = np.ones(len(cache), bool)
    development = re.fullmatch(r"dev:([1-4])/4", name)
    by_subject = re.fullmatch(r"subject:(\d+)/(\d+)", name)
    if name == "paper":
        validates = _paper_validation(cache, name)
    elif name == "random":
        validates = _random_fifth(cache, seed)
    elif development:
        folds = EYE_FOLDS[:DEVELOPMENT_FOLDS]
        used = np.isin(cache.subjects, folds) & ~_paper_validation(cache, name)
        fold = int(development[1])
        validates = np.isin(cache.subjects, folds[fold - 1])
    elif name == "folders":
        validates, tests = _parts(cache, name)
        used = ~tests
    elif by_subject:
        fold, folds = map(int, by_subject.groups())
        subjects = _held_out_subjects(cache, name, fold, folds)
        validates = np.isin(cache.subjects, subjects)
    else:
        expected = "paper, random, subject:K/N such as subject:1/5, dev:K/4, folders or all"
        raise InputError(f"unknown split {name!r}: expected {expected}")

    train = np.flatnonzero(used & ~validates).astype(np.int64)
    validation = np.flatnonzero(used & validates).astype(np.int64)
    for side, indices in {"training": train, "validation": validation}.items():
        if indices.size == 0:
            raise InputError(
                f"split {name} leaves no {side} scans out of {len(cache)}: use a larger set"
            )
    return train, validation


def only_named(cache: Cache, train: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Those of the training scans, indices (N,), that have these names; all if none is given.

    Raises InputError for a name that is of no training scan, or stands there twice.
    """
    if not names:
        return train
    by_name = {cache.names[i]: int(i) for i in train}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InputError(
            f"`train_on` holds {listing(unknown)}; expected names of the split's "
            f"{len(by_name)} training scans: {listing(list(by_name))}"
        )
    if len(set(names)) < len(names):
        raise InputError(f"`train_on` holds {listing(names)}; expected each name once")
    return np.array(sorted(by_name[name] for name in names), np.int64)


def _paper_validation(cache: Cache, name: str) -> np.ndarray:
    """Which scans are of the study's validation, bool (N,). Raises InputError unless all are
    there.
    """
    present = len(set(PAPER_VALIDATION) & set(cache.places))
    if present < len(PAPER_VALIDATION):
        found = (
            f"{present} of the study's {len(PAPER_VALIDATION)} validation scans are in this set"
        )
        raise InputError(f"split {name}: {found}, expected all (10 Duke eyes): use `split` random")
    return np.array([place in PAPER_VALIDATION for place in cache.places])


def _parts(cache: Cache, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which scans are of the part val, and which of test; the others are of train."""
    parts = [scan.partition("_")[0] for scan in cache.names]
    others = set(parts) - set(PARTS)
    if others:
        found = f"names that begin with {min(others)}"
        expected = "expected those of a set in train/, val/ and test/, as MIRAGE's are"
        raise InputError(f"split {name}: {found}, {expected}: use `split` random")
    return np.array([part == "val" for part in parts]), np.array(
        [part == "test" for part in parts]
    )


def _random_fifth(cache: Cache, seed: int) -> np.ndarray:
    """Which scans validate, bool (N,): the first draw with fluid on both sides, else the first."""
    count = len(cache)
    wet = np.ones(count, bool)
    if cache.fluid is not None:
        wet = np.array([(mask == 1).any() for mask in cache.fluid], bool)
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        chosen = np.zeros(count, bool)
        chosen[generator.permutation(count)[: round(count / 5)]] = True
        if wet[chosen].any() and wet[~chosen].any():
            return chosen
        draws.append(chosen)
    return draws[0]


def _held_out_subjects(cache: Cache, name: str, fold: int, folds: int) -> Sequence[int]:
    """Subjects of fold `fold` (from 1) of `folds`."""
    if folds < 2 or not 1 <= fold <= folds:
        raise InputError(f"split {name}: expected subject:K/N with N at least 2 and K from 1 to N")
    subjects = sorted(set(cache.subjects.tolist()))
    if len(subjects) < folds:
        found = f"{folds} folds need {folds} subjects, found {len(subjects)}"
        raise InputError(f"split {name}: {found}; use fewer folds or `split` random")
    ten_eyes = subjects == list(range(1, 11))
    if ten_eyes and folds == len(EYE_FOLDS):
        return EYE_FOLDS[fold - 1]
    return subjects[fold - 1 :: folds]


def leak(cache: Cache, train: np.ndarray, validation: np.ndarray) -> int:
    """How many validation scans have a neighbour in training: the previous or next of their eye.

    Neighbouring B-scans of one eye are near copies, so such scores say little about unseen eyes.
    """
    order = np.lexsort((cache.positions, cache.subjects))
    subjects = cache.subjects[order]
    trains = np.isin(order, train)
    same_eye = subjects[1:] == subjects[:-1]
    beside = np.zeros(len(order), bool)
    beside[1:] |= same_eye & trains[:-1]
    beside[:-1] |= same_eye & trains[1:]
    return int((beside & np.isin(order, validation)).sum())
