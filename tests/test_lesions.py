"""Planted lesions: where they are, how strong they are, and that a seed decides them."""

import functools

import lesions
import numpy as np
import pytest
from scipy import ndimage
from shared import draw_slice

from sources.folder import make_split
from utils import InputError

SIDE, SLICES = 96, 5
EVERY = [(kind, strength) for kind in lesions.KINDS for strength in lesions.STRENGTHS]


@functools.cache
def draw_brain(size=SIDE, ventricles=True):
    """A slice like a brain's: textured white matter, grey rim, two ventricles, background 0."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x / 0.68, y / 0.55)
    values = np.where(radius > 0.8 + 0.08 * np.sin(25 * np.arctan2(y, x)), 0.55, 0.85)
    if ventricles:
        values = np.where(np.hypot((x - 0.05) / 0.2, (np.abs(y) - 0.09) / 0.05) < 1, 0.15, values)
    noise = np.random.default_rng(0).normal(0, 0.02, x.shape)
    values = ndimage.gaussian_filter(values, 0.8) + noise
    return np.where(radius < 1, np.clip(values, 0.01, 1), 0).astype("float32")


def stack(**options):
    return np.stack([draw_brain(**options)] * SLICES)


@functools.cache
def plant(kind, strength, seed=0, **options):
    rng = np.random.default_rng(seed)
    return lesions.plant_lesion(stack(**options), kind, strength, rng)


@pytest.mark.parametrize("options", [{}, {"ventricles": False}], ids=["plain", "no ventricles"])
@pytest.mark.parametrize("kind, strength", EVERY)
def test_a_lesion_is_in_the_brain(kind, strength, options):
    images, masks = plant(kind, strength, **options)
    before = stack(**options)
    assert images.dtype == np.float32 and masks.dtype == bool
    assert images.min() == 0 and images.max() <= 1
    np.testing.assert_array_equal(images == 0, before == 0)
    assert masks.any() and not masks[before == 0].any()
    assert np.abs(images - before)[masks].mean() > 0.8 * lesions.VISIBLE


@pytest.mark.parametrize("kind", lesions.KINDS)
def test_a_lesion_runs_through_neighbouring_slices_and_tapers(kind):
    images, masks = plant(kind, "obvious", seed=3)
    reached = np.flatnonzero((images != stack()).any((1, 2)))
    assert len(reached) >= lesions.LEAST_SLICES and (np.diff(reached) == 1).all()
    assert masks[reached].any((1, 2)).all() and not np.delete(masks, reached, axis=0).any()
    areas = masks[reached].sum((1, 2))
    middle = len(reached) // 2
    assert areas[middle] == areas.max() and max(areas[0], areas[-1]) <= areas[middle]
    for above, below in zip(masks[reached][1:], masks[reached][:-1]):
        assert (above & below).any()  # one lesion, not several
    if kind != "wide_ventricles":  # these push tissue aside; faint swelling leaves a mask
        away = ndimage.distance_transform_edt(~masks[reached[middle]]) > 14
        np.testing.assert_array_equal(images[reached[middle]][away], draw_brain()[away])


@pytest.mark.slow
@pytest.mark.parametrize("kind", lesions.KINDS)
def test_strengths_are_ordered_and_the_direction_is_that_of_the_kind(kind):
    changes, areas = [], []
    for strength in lesions.STRENGTHS:
        planted = [plant(kind, strength, seed) for seed in range(2)]
        inside = np.concatenate([(images - stack())[masks] for images, masks in planted])
        changes.append(inside)
        areas.append(sum(masks.sum() for _, masks in planted))
    obvious, moderate, subtle = (np.abs(change).mean() for change in changes)
    assert obvious > moderate > subtle and areas[0] >= 0.9 * areas[-1]
    sign = {"bright": 1, "irregular": 0}.get(kind, -1)
    assert not sign or sign * changes[0].mean() > 0.1


def test_a_seed_decides_and_the_middle_is_drawn_by_itself():
    """The middle section decides the places, so it is what one slice alone would get."""
    for kind in ("dark", "white_matter_spots"):
        images, masks = plant(kind, "moderate", 5)
        again, _ = lesions.plant_lesion(stack(), kind, "moderate", np.random.default_rng(5))
        np.testing.assert_array_equal(images, again)
        assert (plant(kind, "moderate", 6)[0] != images).any()
        rng = np.random.default_rng(5)
        slices = rng.integers(3, SLICES + 1)
        first = rng.integers(0, SLICES - slices + 1)
        inner, middle = np.random.default_rng(rng.integers(2**31)), first + slices // 2
        one = lesions.plant_section(draw_brain(), kind, "moderate", inner)
        np.testing.assert_array_equal(images[middle], one[0])
        np.testing.assert_array_equal(masks[middle], one[1])


def test_an_image_without_a_brain_is_refused():
    with pytest.raises(ValueError, match="`image` must hold a brain"):
        lesions.Brain(np.zeros((SIDE, SIDE), "float32"))


# ---- splits ------------------------------------------------------------------------------------

CASES, LEVELS, STEP = 6, 4, 4


def make_cohort(name="test", cases=CASES):
    slices = [(case, level, f"{case} {level}") for case in range(cases) for level in range(LEVELS)]
    return make_split(name, slices)


@functools.cache
def make_images(cases=CASES):
    slices = [draw_slice(case, level) for case in range(cases) for level in range(LEVELS)]
    return np.stack(slices)[:, ::STEP, ::STEP].astype("float32") / 255


def test_every_case_gets_one_lesion_and_splits_and_seeds_differ():
    planted = lesions.plant_split(make_images(), make_cohort(), seed=0)
    changed = (planted.images != make_images()).any((1, 2)).reshape(CASES, LEVELS)
    reached = planted.masks.any((1, 2)).reshape(CASES, LEVELS)
    assert (reached <= changed).all() and (changed.sum(1) >= lesions.LEAST_SLICES).all()
    pairs = np.stack([planted.kinds, planted.strengths]).reshape(2, CASES, LEVELS)
    assert (pairs == pairs[:, :, :1]).all()
    assert len({tuple(pair) for pair in pairs[:, :, 0].T}) == CASES
    for name, seed in (("validate", 0), ("test", 1)):
        other = lesions.plant_split(make_images(), make_cohort(name), seed)
        assert (other.masks != planted.masks).any()


def test_stacks_with_gaps_are_refused():
    kept = np.flatnonzero(np.arange(CASES * LEVELS) != 2)
    with pytest.raises(InputError, match="case 0 of test is no stack"):
        lesions.plant_split(make_images()[kept], make_cohort().pick(kept), 0)
