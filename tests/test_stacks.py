"""Figures of drawn brains must move as they should: copies, shuffled slices, wider ventricles."""

import types

import numpy as np
import pytest
from conftest import draw_slice
from test_samples import facts

from evaluation import report, selection, stacks, two_sample
from evaluation.samples import SamplingOptions
from modules import Models
from sources.folder import make_split

LEVELS, SIDE = 6, 64
FRAME = 0, 0, SIDE, SIDE


def make_brains(cases):
    slices = [[draw_slice(case, level)[::4, ::4] for level in range(LEVELS)] for case in cases]
    return np.stack(slices)


@pytest.fixture(scope="module")
def training():
    return make_brains(range(20, 24))


@pytest.fixture(scope="module")
def evaluated(training):
    """Generated brains are those of training, and every second of their slices is mirrored."""
    real = make_brains(range(10))
    restored = np.clip(real, 0, 200)
    generated = training.copy()
    generated[:, ::2] = generated[:, ::2, :, ::-1]
    textured = np.clip(generated.astype(int) + 8 * (np.arange(SIDE) % 2), 0, 255).astype("uint8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "PERMUTATIONS", 20)
        return stacks.evaluate(generated, restored, real, training, FRAME, textured)


def test_slices_that_do_not_hang_together_are_unlike_their_neighbours(evaluated):
    still = np.repeat(make_brains([1])[:, :1], 4, axis=1)
    np.testing.assert_allclose(stacks.neighbour_ssim(still), 1, atol=1e-6)
    ssim = evaluated["neighbour_ssim"]
    assert ssim["generated"]["mean"] < ssim["real"]["mean"] - 0.1
    assert len(ssim["generated"]["by_level"]) == LEVELS - 1


def test_ventricles_are_measured_by_level_and_between_brains(evaluated, training):
    areas = evaluated["ventricles"]
    assert areas["generated"]["by_level"] == pytest.approx(areas["training"]["by_level"], rel=0.05)
    assert areas["generated"]["mean"] == pytest.approx(np.mean(areas["generated"]["by_level"]))
    assert areas["training"]["sd"] == 0  # all have the same ellipses
    wider = training.copy()
    wider[:2, :, 28:36, 20:44] = 20
    volumes = stacks._volumes(stacks.ventricles(wider))
    assert volumes["mean"] > 1.2 * areas["training"]["mean"] and volumes["sd"] > 0.001


def test_copies_of_training_brains_are_found(training, monkeypatch):
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 5)
    real = make_brains(range(5))
    copied = stacks.evaluate(training, real, real, training, FRAME)["nearest"]
    assert copied["generated_min"] == copied["generated_mean"] == 0
    assert copied["real_min"] == copied["reconstructions_min"] > 0.01


def test_a_classifier_tells_mirrored_slices_by_their_cuts(evaluated):
    assert evaluated["two_sample_accuracy"] > 0.9 and evaluated["count"] == 4
    assert evaluated["two_sample_accuracy_textured_to_real"] > 0.95
    low, high = evaluated["two_sample_accuracy_reconstructions_null95"]
    assert low <= evaluated["two_sample_accuracy_reconstructions"] <= high < 0.9


def test_few_cases_are_not_compared():
    split = make_split("test", [(1, level, f"{level}") for level in range(LEVELS)], {})
    prior = types.SimpleNamespace(settings={"num_levels": LEVELS})
    measured = stacks.evaluate_brains(
        Models(None, prior), {}, split, None, split, SamplingOptions(0)
    )
    assert measured == {"reason": "1 cases of the split have all 6 levels"}


def test_the_ventricles_are_drawn_along_the_levels(evaluated, tmp_path):
    parts = selection.ventricle_parts(evaluated["ventricles"])
    assert parts["ventricles"]["real"].shape == (LEVELS,)
    report.FIGURES["ventricles"](tmp_path / "a.png", parts, facts())
    assert (tmp_path / "a.png").stat().st_size > 10_000
