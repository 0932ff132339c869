"""The benchmarks of attributes: scores of people, what a fit leaves out, and drawn people."""

import dataclasses

import attributes
import drawing
import numpy as np
import pytest
from shared import draw_slice
from sklearn.metrics import roc_auc_score

from evaluation import classification
from networks.attributes import Attribute, Attributes
from sources.folder import make_split


def test_ways_are_compared_person_by_person():
    rng, truth = np.random.default_rng(0), np.arange(40) < 15
    good = truth + rng.normal(0, 0.8, 40)
    ways = {"good": good, "ventricles": truth + rng.normal(0, 2, 40), "same": 3 * good}
    report = attributes.compare(ways, truth, np.arange(40).astype(str))
    assert report["good"]["auroc"] == pytest.approx(roc_auc_score(truth, good))
    low, high = report["good"]["auroc_ci95"]
    assert low < report["good"]["auroc"] < high
    assert report["same"]["above_ventricles_ci95"] == report["good"]["above_ventricles_ci95"]
    assert "above_ventricles" not in report["ventricles"]
    pairs = attributes.compare(ways, truth, (np.arange(40) // 2).astype(str))
    assert pairs["good"]["auroc_ci95"] != [low, high]  # scans of a person are drawn together


def test_nobody_helps_to_scale_the_own_answer():
    logs, prior = np.random.default_rng(0).normal(0, 30, (6, 2)), np.array([0.5, 0.5])
    values, subjects = np.array([0, 1, 0, 1, 0, 1]), np.array(list("aabcde"))
    found = attributes.left_out(logs, prior, values, subjects)
    np.testing.assert_allclose(found.sum(1), 1)
    scale = classification.fit_scale(logs[2:], prior, values[2:])
    expected = classification.probabilities(logs[:2], prior, scale)
    np.testing.assert_allclose(found[:2], expected)
    flipped = attributes.left_out(logs, prior, np.array([1, 0, 0, 1, 0, 1]), subjects)
    np.testing.assert_allclose(found[:2], flipped[:2])


def test_coarse_pixels_are_means_of_blocks_and_levels():
    places = [(case, level) for case in (2, 5) for level in range(8)]
    split = make_split("some", [(*place, str(place)) for place in places])
    split = dataclasses.replace(split, facts=dataclasses.replace(split.facts, levels=8))
    images = np.zeros((16, 32, 32), "uint8")
    images[9, 2:4, 4:6] = 255  # level 1 of case 5
    found = attributes.coarse(images, split).reshape(2, 8, 16, 16)
    assert found[1, 1, 1, 2] == 1 and found.sum() == 1
    assert attributes._means(split.levels, split).tolist() == [3.5, 3.5]


def test_regression_learns_from_training_people():
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 2 > 0
    features = rng.normal(0, 1, (60, 5)) + 2 * truth[:, None]
    scores = attributes.regress(features[:40], truth[:40], features[40:])
    assert roc_auc_score(truth[40:], scores) > 0.9


def test_anatomy_is_summarised_by_group():
    rng = np.random.default_rng(0)
    groups = rng.normal([[2], [3], [5]], 1, (3, 16))
    drawn = {
        str(k): drawing.summarise({drawing.AREA: values}, np.arange(16))
        for k, values in enumerate(groups)
    }
    stated = {"0": 1.0, "1": 2.0, "2": 3.0}
    low, high = drawn["1"][drawing.AREA]["ci95"]
    assert low < groups[1].mean() < high
    found = drawing.correlations(stated, drawn)
    expected = np.corrcoef(np.repeat([1, 2, 3], 16), groups.ravel())[0, 1]
    assert found["correlation"] == pytest.approx(expected)
    assert found["correlation_of_means"] > found["correlation"]
    assert drawing.same_order(drawn, drawn, ["1", "2", "0"])
    swapped = {**drawn, "0": drawn["2"], "2": drawn["0"]}
    assert not drawing.same_order(drawn, swapped, ["0", "1", "2"])


def test_who_is_drawn_is_a_value_or_a_stated_size():
    edges = [0.01, 0.02, 0.04]
    known = Attributes(
        (
            Attribute("cdr", ("0", "1"), ((0.0,), (1.0, 2.0))),
            Attribute("ventricles", ("small", "large"), edges=tuple(edges)),
        )
    )
    who, stated = drawing.groups(known, 0)
    assert {name: given.tolist() for name, given in who.items()} == {
        "anyone": [0, 0],
        "cdr 0": [1, 0],
        "cdr 1": [2, 0],
        "ventricles small": [0, 1],
        "ventricles large": [0, 2],
    }
    assert stated == pytest.approx({"ventricles small": 0.015, "ventricles large": 0.03})
    assert drawing.groups(known, 1)[1] == {}  # all sizes are given already


def test_ssim_elsewhere_does_not_see_the_ventricles():
    before = draw_slice(1, 0)[None]
    near, far = before.copy(), before.copy()
    near[:, 110:146, 130:136] = 200  # within the ventricles
    far[:, 110:146, 180:200] = 120
    assert drawing.ssim_elsewhere(before, near) > 0.99
    assert drawing.ssim_elsewhere(before, far) < 0.98
