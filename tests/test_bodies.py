"""Lesions that run through several slices."""

import numpy as np
import pytest
from planting import bodies, lesions
from test_lesions import draw_brain

STACK = np.stack([draw_brain(size=128)] * 9)


@pytest.mark.parametrize("kind", lesions.KINDS)
def test_a_body_runs_through_neighbouring_slices_and_tapers(kind):
    planted, masks = bodies.plant_body(STACK, kind, "obvious", np.random.default_rng(3))
    reached = np.flatnonzero((planted != STACK).any((1, 2)))
    assert 3 <= len(reached) <= 9 and (np.diff(reached) == 1).all()
    assert masks[reached].any((1, 2)).all() and not np.delete(masks, reached, axis=0).any()
    areas = masks[reached].sum((1, 2))
    middle = len(reached) // 2
    assert areas[middle] == areas.max() and areas[0] <= areas[middle] and areas[-1] <= areas[middle]
    for above, below in zip(masks[reached][1:], masks[reached][:-1]):
        assert (above & below).any()  # one body, not several


@pytest.mark.parametrize("kind", lesions.KINDS)
def test_the_middle_is_a_lesion_of_a_slice_and_a_seed_decides(kind):
    one, masks = bodies.plant_body(STACK, kind, "moderate", np.random.default_rng(5))
    other, _ = bodies.plant_body(STACK, kind, "moderate", np.random.default_rng(5))
    np.testing.assert_array_equal(one, other)
    rng = np.random.default_rng(5)
    slices, first = rng.integers(3, 10), None
    first = rng.integers(0, 9 - slices + 1)
    seed, middle = rng.integers(2**31), first + slices // 2
    alone, mask = lesions.plant(STACK[middle], kind, "moderate", np.random.default_rng(seed))
    np.testing.assert_array_equal(one[middle], alone)
    np.testing.assert_array_equal(masks[middle], mask)
    third, _ = bodies.plant_body(STACK, kind, "moderate", np.random.default_rng(6))
    assert (third != one).any()
