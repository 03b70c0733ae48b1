"""Which scans to label next: disagreement of views, and a choice that spreads over eyes."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Bright, grey_values
from torch.nn import functional as F

from dme.inference.suggestion import (
    CANDIDATES,
    MOST_SHIFT,
    SHIFTED,
    Look,
    Spot,
    choose,
    choose_with_reasons,
    draw_shifts,
    look_at,
)


class Encoder(Bright):
    """Bright, with an encoder whose deepest features are means of the image."""

    def backbone(self, x):
        grey = grey_values(x)
        return [grey, F.adaptive_avg_pool2d(grey, 4).repeat(1, 3, 1, 1)]


class Leaning(Encoder):
    """Calls fluid whatever lies in the left half of what it sees, surely."""

    def forward(self, x):
        left = torch.zeros_like(grey_values(x))
        left[..., : x.shape[-1] // 2] = 1
        return torch.cat([20 * (1 - left), 20 * left], 1)


def image(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 90, (48, 64)).astype(np.uint8)


# ---- disagreement -------------------------------------------------------------------------------
def test_a_network_that_looks_at_each_pixel_agrees_with_itself():
    look = look_at(Encoder(), image(), draw_shifts(0))
    assert look.disagreement == pytest.approx(0, abs=1e-6)
    assert look.picture.shape == (48, 64)
    np.testing.assert_allclose(look.features, image().mean(), atol=0.1)


def test_a_network_that_depends_on_the_place_disagrees():
    """Half of its views say fluid, half do not: ln 2 nats where no shift reaches."""
    shifts = [(0, 4), (0, -4)]
    look = look_at(Leaning(), image(), shifts)
    assert look.picture[10, 10] == pytest.approx(np.log(2), abs=1e-3)
    assert look.picture[10, 50] == pytest.approx(np.log(2), abs=1e-3)
    assert 0.5 < look.disagreement < np.log(2)


def test_scans_enter_at_their_scale():
    """A copy of twice as many pixels, at half the um per pixel, looks as the scan does."""

    class Physical(Encoder):
        entered: ClassVar[list] = []

        def forward(self, x):
            self.entered.append(tuple(x.shape[-2:]))
            return super().forward(x)

    model = Physical()
    model.preprocess |= {"size": "um", "um_per_px": (8.0, 20.0)}
    scan = image()
    copy = scan.repeat(2, axis=0).repeat(2, axis=1)
    looks = []
    for pixels, scale_um in ((scan, (8.0, 20.0)), (copy, (4.0, 10.0))):
        looks.append(look_at(model, pixels, [(0, 4)], scale_um))
    assert set(model.entered) == {(48, 64)}
    np.testing.assert_allclose(looks[0].features, looks[1].features, atol=0.5)


def test_shifts_follow_the_seed():
    shifts = draw_shifts(3)
    assert shifts == draw_shifts(3) != draw_shifts(4)
    assert len(shifts) == SHIFTED
    assert all(1 <= abs(side) <= MOST_SHIFT for shift in shifts for side in shift)


# ---- the choice ---------------------------------------------------------------------------------
def looks(disagreements, kinds=None) -> list[Look]:
    """Looks with these disagreements; scans of one kind look the same."""
    kinds = kinds or range(len(disagreements))
    features = np.eye(len(disagreements), dtype=np.float32)
    made = []
    for value, kind in zip(disagreements, kinds, strict=True):
        made.append(Look(value, np.zeros((2, 2), np.float32), features[kind]))
    return made


def test_every_eye_gives_its_share():
    generator = np.random.default_rng(0)
    spots = [Spot(f"eye{i // 11}", i % 11) for i in range(88)]
    chosen = choose(looks(generator.random(88)), spots, 8)
    assert sorted(i // 11 for i in chosen) == list(range(8))
    twice = choose(looks(generator.random(88)), spots, 16)
    assert sorted(i // 11 for i in twice) == sorted([*range(8)] * 2)


def test_only_the_most_uncertain_are_candidates():
    values = np.linspace(0, 1, 22)
    spots = [Spot("a", i) for i in range(11)] + [Spot("b", i) for i in range(11)]
    chosen = choose(looks(values), spots, 2)
    assert {i // 11 for i in chosen} == {0, 1}
    assert all(i % 11 >= 11 - CANDIDATES for i in chosen)


def test_of_equally_uncertain_scans_the_one_that_stands_for_more_comes_first():
    kinds = [0, 1, 2, 2, 2, 2]
    chosen = choose(looks([0.9, 0.8, 0.9, 0.1, 0.1, 0.1], kinds), [Spot(None)] * 6, 1)
    assert chosen == [2]


def test_the_numbers_that_decide_are_told():
    """Of two kinds, three scans and one: what the first chosen stands for, then what is left."""
    kinds = [0, 0, 0, 1, 2]
    scans = looks([0.9, 0.1, 0.1, 0.8, 0.1], kinds)
    choice = choose_with_reasons(scans, [Spot(None)] * 5, 1)
    assert (choice.candidates, choice.unlabelled, choice.indices) == (2, 5, [0])
    choice = choose_with_reasons(scans, [Spot(None)] * 5, 9)
    assert choice.candidates == choice.unlabelled == 5
    numbers = [suggestion.stands_for for suggestion in choice.suggestions]
    assert numbers == pytest.approx([3, 1, 1, 0, 0], abs=0.2)
    assert [suggestion.disagreement for suggestion in choice.suggestions][:2] == [0.9, 0.8]
    assert all(suggestion.candidate for suggestion in choice.suggestions)

    # eyes with too few scans leave their share to others, which are no candidates
    spots = [Spot("a"), *[Spot("b")] * 10]
    choice = choose_with_reasons(looks(np.linspace(0, 1, 11)), spots, 4, labelled=[1])
    assert (choice.candidates, choice.unlabelled) == (5, 10)
    assert [suggestion.candidate for suggestion in choice.suggestions].count(False) == 1


def test_near_b_scans_are_not_both_chosen():
    kinds = [0, 0, 0, 1, 2, 3]
    spots = [Spot("a", position) for position in (0, 1, 60, 20, 30, 40)]
    chosen = choose(looks([1, 1, 1, 0.5, 0, 0], kinds), spots, 2)
    assert not {0, 1} <= set(chosen)


def test_labelled_scans_count_as_chosen():
    spots = [Spot(eye, position) for eye in "ab" for position in range(4)]
    values = [0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4]
    (chosen,) = choose(looks(values), spots, 1, labelled=[0])
    assert chosen >= 4  # the other eye
    everything = choose(looks(values), spots, 20, labelled=[0, 5])
    assert sorted(everything) == [1, 2, 3, 4, 6, 7]
    assert choose(looks(values), spots, 3, labelled=range(8)) == []


def test_the_choice_is_the_same_every_time():
    spots = [Spot(None) for _ in range(9)]
    same = looks([0.5] * 9, [0] * 9)
    assert choose(same, spots, 3) == choose(same, spots, 3) == [0, 1, 2]
