"""Planted lesions: where they are, how strong they are, and that a seed decides them."""

import functools

import numpy as np
import pytest
from planting import lesions
from scipy import ndimage

BOTH = [(kind, strength) for kind in lesions.KINDS for strength in lesions.STRENGTHS]


@functools.lru_cache
def draw_brain(size=256, ventricles=True):
    """A slice like a brain's: textured white matter, grey rim, two ventricles, background 0."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x / 0.68, y / 0.55)
    values = np.where(radius > 0.8 + 0.08 * np.sin(25 * np.arctan2(y, x)), 0.55, 0.85)
    if ventricles:
        values = np.where(np.hypot((x - 0.05) / 0.2, (np.abs(y) - 0.09) / 0.05) < 1, 0.15, values)
    values = ndimage.gaussian_filter(values, 0.8) + np.random.default_rng(0).normal(
        0, 0.02, x.shape
    )
    return np.where(radius < 1, np.clip(values, 0.01, 1), 0).astype("float32")


@functools.lru_cache
def plant(kind, strength, seed=0, **options):
    return lesions.plant(draw_brain(**options), kind, strength, np.random.default_rng(seed))


def change(kind, strength):
    """Mean absolute change inside the mask, over seeds."""
    planted = [plant(kind, strength, seed) for seed in range(5)]
    return np.mean([np.abs(image - draw_brain())[mask].mean() for image, mask in planted])


@pytest.mark.parametrize(
    "options", [{}, {"ventricles": False}, {"size": 128}], ids=["plain", "no ventricles", "small"]
)
@pytest.mark.parametrize("kind, strength", BOTH)
def test_lesion_is_in_the_brain(kind, strength, options):
    brain, (image, mask) = draw_brain(**options), plant(kind, strength, **options)
    assert (
        image.shape == mask.shape == brain.shape
        and image.dtype == np.float32
        and mask.dtype == bool
    )
    assert image.min() == 0 and image.max() <= 1
    np.testing.assert_array_equal(image == 0, brain == 0)
    assert mask.any() and not mask[brain == 0].any()
    assert np.abs(image - brain)[mask].mean() > lesions.VISIBLE


@pytest.mark.parametrize(
    "kind, strength", [(kind, strength) for kind, strength in BOTH if kind != "wide_ventricles"]
)
def test_nothing_changes_away_from_the_lesion(kind, strength):
    for seed in range(5):
        image, mask = plant(kind, strength, seed)
        away = ndimage.distance_transform_edt(~mask) > (
            14 if kind == "irregular" else 8
        )  # faint swelling leaves the mask
        np.testing.assert_array_equal(image[away], draw_brain()[away])


@pytest.mark.parametrize("kind", lesions.KINDS)
def test_strengths_are_ordered(kind):
    obvious, moderate, subtle = (
        change(kind, strength) for strength in ("obvious", "moderate", "subtle")
    )
    areas = [
        np.mean([plant(kind, strength, seed)[1].sum() for seed in range(5)])
        for strength in ("obvious", "subtle")
    ]
    assert obvious > moderate > subtle and areas[0] >= 0.9 * areas[1]


def test_direction_of_the_change():
    for kind, sign in {
        "bright": 1,
        "dark": -1,
        "white_matter_spots": -1,
        "resection": -1,
        "wide_ventricles": -1,
    }.items():
        image, mask = plant(kind, "obvious")
        assert sign * (image - draw_brain())[mask].mean() > 0.1, kind


@pytest.mark.parametrize("kind", lesions.KINDS)
def test_randomness_is_the_generators(kind):
    image, mask = plant(kind, "moderate", 1)
    again, other = (
        lesions.plant(draw_brain(), kind, "moderate", np.random.default_rng(seed))
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])
    assert (image != other[0]).any() and (mask != other[1]).any()


def test_specks_around_the_brain_stay():
    brain = draw_brain().copy()
    brain[20:30:3, 20:30:3] = 0.01
    brain[100:150:4, 2] = 0.02
    for kind in lesions.KINDS:
        image, mask = lesions.plant(brain, kind, "obvious", np.random.default_rng(0))
        np.testing.assert_array_equal(image[draw_brain() == 0], brain[draw_brain() == 0])
        assert not mask[draw_brain() == 0].any()


def test_a_section_that_changes_nothing_has_no_mask(monkeypatch):
    def unchanged(image, *_):
        return image, np.zeros(image.shape)

    monkeypatch.setitem(lesions.MAKERS, "dark", unchanged)
    image, mask = lesions.plant(draw_brain(), "dark", "subtle", np.random.default_rng(0))
    np.testing.assert_array_equal(image, draw_brain())
    assert not mask.any()


def test_errors():
    rng, brain = np.random.default_rng(0), draw_brain()
    with pytest.raises(ValueError, match="`kind` must be one of .*Received: kind='haze'"):
        lesions.plant(brain, "haze", "subtle", rng)
    with pytest.raises(ValueError, match="`strength` must be one of .*Received: strength='huge'"):
        lesions.plant(brain, "dark", "huge", rng)
    for image in (
        np.zeros_like(brain),
        np.where(np.indices(brain.shape).sum(0) < 20, brain.max(), 0),
    ):
        with pytest.raises(ValueError, match="`image` must hold a brain"):
            lesions.plant(image, "dark", "subtle", rng)
    for image in (brain[:100], brain[..., None], brain * 255, brain * np.nan):
        with pytest.raises(ValueError, match="`image` must be .*Received: shape="):
            lesions.plant(image, "dark", "subtle", rng)
