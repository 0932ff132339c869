"""Figures of the benchmark of anomaly maps. Lesions have tests of their own in test_lesions.py."""

import warnings
from types import SimpleNamespace

import anomaly
import detection
import numpy as np
import pytest
from lesions import Planted, plant_split
from shared import CODES, make_prior
from sklearn.metrics import average_precision_score, roc_auc_score
from test_lesions import make_cohort, make_images

import modules
from modules import Models

RNG = np.random.default_rng(0)
SIDE = 64


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(detection, "RESAMPLES", 20)


@pytest.fixture(scope="module")
def planted():
    return plant_split(make_images(), make_cohort(), seed=0)


def evidence_of(scores, subjects):
    count = len(scores)
    blank = np.zeros((count, 1)), np.zeros((count, 1)), subjects
    return detection.Evidence(scores[:, None], *blank, *np.full((2, count), ""))


def test_auroc_is_that_of_scikit_learn_in_every_draw_of_subjects():
    subjects = RNG.integers(0, 5, 40)
    positive, negative = RNG.normal(1, 1, 40).round(1), RNG.normal(0, 1, 30).round(1)
    weights = detection.draw_subjects(5)
    sides = evidence_of(positive, subjects), evidence_of(negative, subjects[:30])
    values = detection.auroc(*sides, 0, weights)
    truth, scores = np.repeat([1, 0], [40, 30]), np.concatenate([positive, negative])
    assert values[0] == pytest.approx(roc_auc_score(truth, scores))
    counts = weights[7]  # a resample is a set in which some subjects come more than once
    times = np.concatenate([counts[subjects], counts[subjects[:30]]])
    assert values[7] == pytest.approx(roc_auc_score(truth, scores, sample_weight=times))


def test_average_precision_and_dice_are_those_of_the_pixels():
    split = make_cohort(cases=3)
    masks = RNG.random((len(split), SIDE, SIDE)) < 0.1
    images = (RNG.random(masks.shape) < 0.8).astype("float32")
    maps = RNG.random(masks.shape) + 0.2 * masks
    some = Planted(images, masks, *np.full((2, len(split)), "dark"))
    evidence = detection.gather_evidence(maps, some, split)
    brain = images > 0
    none = evidence.pick(np.zeros(len(split), bool))
    precision = detection.average_precision(evidence, none, detection.draw_subjects(3)[:1])[0]
    assert precision == pytest.approx(average_precision_score(masks[brain], maps[brain]), abs=0.01)
    number = 620
    above, inside = (maps > detection.EDGES[number]) & brain, masks & brain
    expected = 2 * (above & inside).sum((1, 2)) / (above.sum((1, 2)) + inside.sum((1, 2)))
    assert 0.1 < expected[0] < 0.9
    np.testing.assert_allclose(detection.dice(evidence)[:, number], expected)


def gather(planted, maps, control):
    nothing = Planted(make_images(), np.zeros_like(planted.masks), *np.full((2, len(maps)), ""))
    split = make_cohort()
    return detection.gather_evidence(maps, planted, split), detection.gather_evidence(
        control, nothing, split
    )


def report_of(sides):
    return detection.report_method(*sides, detection.choose("v", *sides))


def test_figures_of_a_perfect_and_of_a_blind_map(planted):
    noise = RNG.random((2, *planted.masks.shape))
    report = report_of(gather(planted, 5.0 * planted.masks + 0.1 * noise[0], 0.1 * noise[1]))
    for name in ("auroc", "average_precision", "dice"):
        assert report[name] == pytest.approx(1) and report[f"{name}_ci95"][0] > 0.99
    shown = planted.masks.any((1, 2)).sum()
    assert report["control"]["brain_above_threshold"] == 0 == report["control"]["slices"] - 24
    assert report["beside"]["auroc"] == 1 and report["beside"]["brain_above_threshold"] == 0
    assert report["beside"]["slices"] + shown == 24
    for groups in (report["by_kind"], report["by_size"]):
        rows = [row for group in groups.values() for row in group.values()]
        assert sum(row["slices"] for row in rows) == shown == report["slices"]
    blind = report_of(gather(planted, *noise))
    low, high = blind["auroc_ci95"]
    assert 0.2 < blind["auroc"] < 0.8 and low < blind["auroc"] < high
    assert blind["average_precision"] < 0.2 and blind["dice"] < 0.3


@pytest.mark.slow
def test_every_method_is_measured_and_shown(monkeypatch, capsys):
    blocks = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    vqvae = modules.VQVAE(SIDE, codebook_size=CODES, code_dim=4, width=8, **blocks)
    images, splits = make_images(), {name: make_cohort(name) for name in ("validate", "test")}
    monkeypatch.setattr(anomaly, "load_images", lambda *_: (255 * images).astype("uint8"))
    slices = SimpleNamespace(splits={**splits, "train": splits["test"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a draw of few subjects may have no lesion
        report = anomaly.compare_methods(slices, Models(vqvae, make_prior(8, blocks=2)), 1)
    assert list(report) == ["healing", "surprise", "error", "z-map", "intensity"]
    for method, figures in report.items():
        assert figures["control"]["slices"] == len(images)
        # Smoothing along the levels is open to all. The surprise of healing is smoothed already.
        along = [name for name in figures["validation"] if "along levels" in name]
        assert bool(along) == (method not in ("healing", "surprise"))
    anomaly.show("figures", report)
    assert "figures, healing, by strength, " in capsys.readouterr().out
