"""Figures of the lesion benchmark. Lesions have tests of their own in test_lesions.py."""

import anomaly
import numpy as np
import pytest
from conftest import draw_slice

from utils import InputError


def test_dice_and_its_threshold():
    masks = np.zeros((2, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    maps = np.random.default_rng(0).uniform(0.1, 0.5, masks.shape) + masks
    np.testing.assert_allclose(anomaly.dice(maps, masks, 0.75), 1)
    np.testing.assert_allclose(anomaly.dice(maps, masks, 0.0), 2 * 16 / (16 + 256))
    assert 0.45 < anomaly.best_threshold(maps, masks) < 1.1


def test_figures_of_a_perfect_and_of_a_blind_map():
    masks = np.zeros((40, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    brain, chosen = np.ones(masks.shape, bool), np.arange(40) < 20
    control = np.random.default_rng(0).random(30)
    sure = 1 + control.max() + np.zeros(40)
    perfect = anomaly.Result(masks.astype(float), sure, control, masks, brain, threshold=0.5)
    assert anomaly.figures(perfect, chosen) == {
        "auroc": 1.0,
        "average_precision": 1.0,
        "dice": 1.0,
        "slices": 20,
    }
    noise = np.random.default_rng(1).random(masks.shape)
    guesses = np.random.default_rng(2).random(40)
    blind = anomaly.Result(noise, guesses, control, masks, brain, threshold=0.5)
    figures = anomaly.figures(blind, chosen)
    assert 0.3 < figures["auroc"] < 0.7
    assert figures["average_precision"] < 0.1 and figures["dice"] < 0.15


def test_every_kind_and_strength_is_planted_once_and_the_rest_is_control():
    images = np.stack([draw_slice(case, 0) for case in range(20)]).astype("float32") / 255
    planted = anomaly.plant(images, each=1, seed=0)
    pairs = set(zip(planted.kinds, planted.strengths))
    assert len(planted.images) == len(pairs) == len(anomaly.KINDS) * len(anomaly.STRENGTHS) == 18
    assert sorted([*planted.index, *planted.control]) == list(range(20))
    changed = np.abs(planted.images - images[planted.index]).max((1, 2)) > 0
    assert changed.all() and planted.masks.any((1, 2)).all()
    with pytest.raises(InputError, match="asks for 18 slices and some for the control"):
        anomaly.plant(images[:18], each=1, seed=0)
