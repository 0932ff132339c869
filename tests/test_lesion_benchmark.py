"""Figures of the lesion benchmark. Lesions have tests of their own in test_lesions.py."""

from types import SimpleNamespace

import anomaly
import numpy as np
import pytest
from conftest import CODES, draw_slice, make_prior
from judging import accuracy, denoiser, methods
from judging.evidence import Evidence, rank, report_method
from planting import cohort
from sklearn.metrics import average_precision_score, roc_auc_score

import modules
from fitting.run_directory import RunDirectory
from modules import Models
from sources.folder import make_split, open_slices
from utils import InputError

CASES, LEVELS, SIDE = 6, 4, 64
RNG = np.random.default_rng(0)


def make_cohort(name="test", cases=CASES):
    places = [(case, level, f"{case} {level}") for case in range(cases) for level in range(LEVELS)]
    return make_split(name, places, {})


def make_images(cases=CASES):
    slices = [draw_slice(case, level) for case in range(cases) for level in range(LEVELS)]
    step = 256 // SIDE
    return np.stack(slices)[:, ::step, ::step].astype("float32") / 255


@pytest.fixture(scope="module")
def planted():
    return cohort.plant_split(make_images(), make_cohort(), seed=0)


# ---- what is planted ---------------------------------------------------------------------------


def test_every_case_gets_one_body(planted):
    changed = (planted.images != make_images()).any((1, 2)).reshape(CASES, LEVELS)
    reached = planted.masks.any((1, 2)).reshape(CASES, LEVELS)
    assert changed.any(1).all() and (reached <= changed).all()
    assert (changed.sum(1) >= 3).all()
    pairs = np.stack([planted.kinds, planted.strengths]).reshape(2, CASES, LEVELS)
    assert (pairs == pairs[:, :, :1]).all()
    assert len({tuple(pair) for pair in pairs[:, :, 0].T}) == CASES


def test_the_draws_of_splits_and_seeds_differ_and_repeat(planted):
    again = cohort.plant_split(make_images(), make_cohort(), seed=0)
    np.testing.assert_array_equal(again.images, planted.images)
    others = [
        cohort.plant_split(make_images(), make_cohort("validate"), seed=0),
        cohort.plant_split(make_images(), make_cohort(), seed=1),
    ]
    for other in others:
        assert (other.kinds != planted.kinds).any() or (other.strengths != planted.strengths).any()
        assert (other.masks != planted.masks).any()


def test_stacks_with_gaps_are_refused():
    kept = np.arange(CASES * LEVELS) != 2
    with pytest.raises(InputError, match="case 0 of test is no stack"):
        cohort.plant_split(make_images()[kept], make_cohort().pick(np.flatnonzero(kept)), 0)


# ---- how maps are judged -----------------------------------------------------------------------


def test_figures_are_those_of_scikit_learn():
    subjects = RNG.integers(0, 5, 40)
    positive, negative = RNG.normal(1, 1, 40).round(1), RNG.normal(0, 1, 30).round(1)
    weights = accuracy.draws(5)
    values = accuracy.auroc(positive, negative, subjects, subjects[:30], weights)
    truth = np.repeat([1, 0], [40, 30])
    expected = roc_auc_score(truth, np.concatenate([positive, negative]))
    assert values[0] == pytest.approx(expected)
    counts = weights[7]  # a resample is a set in which some subjects come more than once
    times = np.concatenate([counts[subjects], counts[subjects[:30]]])
    scores = np.concatenate([positive, negative])
    assert values[7] == pytest.approx(roc_auc_score(truth, scores, sample_weight=times))

    masks = RNG.random((3, SIDE, SIDE)) < 0.1
    maps, brain = RNG.random(masks.shape) + 0.2 * masks, np.ones(masks.shape, bool)
    judged = accuracy.judge(maps, masks, brain, make_cohort(cases=3).pick([0, 4, 8]))
    one = accuracy.draws(3)[:1]
    inside, outside = (h.astype(float) for h in (judged.inside, judged.outside))
    expected = average_precision_score(masks.ravel(), maps.ravel())
    assert accuracy.average_precision(inside, outside, one)[0] == pytest.approx(expected, abs=0.01)


def test_dice_of_histograms_is_that_of_maps():
    masks = np.zeros((4, SIDE, SIDE), bool)
    masks[:3, 10:20, 10:20] = True
    maps, brain = RNG.random(masks.shape) + masks, RNG.random(masks.shape) < 0.8
    judged = accuracy.judge(maps, masks, brain, make_cohort(cases=1))
    number = 620
    above = (maps > accuracy.EDGES[number]) & brain
    expected = [
        2 * (a & m & b).sum() / (a.sum() + (m & b).sum()) for a, m, b in zip(above, masks, brain)
    ]
    assert 0.1 < expected[0] < 0.9
    np.testing.assert_allclose(accuracy.dice(judged)[:, number], expected)


def judge_maps(planted, maps, control):
    """Evidence of one method about one seed."""
    split, brain = make_cohort(), planted.images > 0
    nothing = np.zeros(maps.shape, bool)
    return Evidence(
        accuracy.judge(maps, planted.masks, brain, split),
        accuracy.judge(control, nothing, brain, split),
        planted.strengths,
        planted.kinds,
        split,
    )


def test_figures_of_a_perfect_and_of_a_blind_map(planted):
    noise = RNG.random((2, *planted.masks.shape))
    perfect = judge_maps(planted, 5.0 * planted.masks + 0.1 * noise[0], 0.1 * noise[1])
    blind = judge_maps(planted, *noise)
    ranked = rank({"blind": blind, "perfect": perfect})
    report = report_method(perfect, ranked)
    assert report["variant"] == "perfect" and list(report["validation"]) == ["perfect", "blind"]
    assert report["validation"]["perfect"]["auroc"] == 1
    for name in ("auroc", "average_precision", "dice"):
        assert report[name] == pytest.approx(1) and report[f"{name}_ci95"][0] > 0.99
    assert report["slices"] == planted.masks.any((1, 2)).sum()
    assert report["by_case"]["auroc"] == 1 and report["by_case"]["cases"] == CASES
    assert report["control"]["brain_above_threshold"] == 0
    beside = report["beside"]
    assert beside["auroc"] == 1 and beside["brain_above_threshold"] == 0
    assert beside["slices"] + report["slices"] == len(planted.kinds)
    sizes = report["by_size"]
    assert sum(row.get("slices", 0) for row in sizes.values()) == report["slices"]
    assert sum(planted.masks.sum((1, 2)) > 255) == sum(
        sizes[name].get("slices", 0) for name in ("256_to_1023", "1024_or_more")
    )
    strengths = report["by_strength"].values()
    assert sum(row["slices"] for row in strengths) == report["slices"]
    report = report_method(blind, rank({"blind": blind}))
    assert 0.2 < report["auroc"] < 0.8 and report["average_precision"] < 0.2
    low, high = report["auroc_ci95"]
    assert low < report["auroc"] < high and report["dice"] < 0.3


def test_a_blind_map_that_likes_some_people_is_seen_through(planted):
    """A method that scores people and levels, and no body, has that AUROC without bodies too."""
    liked = np.arange(len(planted.kinds)) / len(planted.kinds)
    maps = np.broadcast_to(liked[:, None, None], planted.masks.shape)
    evidence = judge_maps(planted, maps, maps)
    report = report_method(evidence, rank({"blind": evidence}))
    rows = [report, *report["by_strength"].values()]
    assert all(row["auroc"] == row["auroc_without_bodies"] for row in rows)
    assert max(abs(row["auroc"] - 0.5) for row in rows) > 0.1  # far from chance by itself
    assert report["bodies"] == sum(row["bodies"] for row in rows[1:]) == CASES


# ---- the whole benchmark -----------------------------------------------------------------------


@pytest.mark.slow
def test_every_method_is_measured(monkeypatch, capsys):
    blocks = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    vqvae = modules.VQVAE(SIDE, codebook_size=CODES, code_dim=4, width=8, **blocks)
    models = [Models(vqvae, make_prior(grid=8, blocks=2))]
    images = make_images()
    given = {name: (images, make_cohort(name)) for name in anomaly.SPLITS}
    monkeypatch.setattr(anomaly, "read_split", lambda _slices, name, _models: given[name])
    monkeypatch.setattr(anomaly, "load_images", lambda *_: (255 * images).astype("uint8"))
    slices = SimpleNamespace(splits={"train": given["test"][1]})
    report = anomaly.compare_methods(slices, models, vqvae, 2)
    assert list(report) == ["healing", "surprise", "error", "z-map", "intensity", "denoiser"]
    for method, own in report.items():
        assert own["by_case"]["cases"] == 2 * CASES
        assert own["control"]["slices"] == len(images)
        # Smoothing along the levels is open to all. The surprise of healing is smoothed already.
        along = [name for name in own["validation"] if "along levels" in name]
        assert bool(along) == (method not in ("healing", "surprise"))
    anomaly.show(report)
    assert "by case, obvious" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:All-NaN slice")  # a draw of few subjects may have no body
def test_limits_are_compared_on_other_validation_bodies(vqvae, monkeypatch):
    images, split, planted = make_images(2)[:, ::2, ::2], make_cohort("validate", 2), []
    monkeypatch.setattr(anomaly, "read_split", lambda _slices, name, _models: (images, split))
    plant_split = anomaly.plant_split
    monkeypatch.setattr(
        anomaly, "plant_split", lambda *given: planted.append(given[-1]) or plant_split(*given)
    )
    monkeypatch.setattr(methods, "COMPARED_LIMITS", ((2.0,), (9.0, 9.0)))
    report = anomaly.compare_limits(None, [Models(vqvae, make_prior(grid=4, blocks=2))], 2)
    assert set(report) == {"2", "9 9"} and planted == [200, 201]
    assert all(own["variant"] == name for name, own in report.items())


def test_limits_are_compared_without_rivals(capsys):
    with pytest.raises(SystemExit):
        anomaly.parse(["--run", "x", "--data", "y", "--limits", "--denoiser", "z.keras"])
    assert "healing alone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_denoiser_is_trained_once(trained_run, slices_folder, tmp_path, monkeypatch):
    run, slices, path = RunDirectory(trained_run), open_slices(slices_folder), tmp_path / "x.keras"
    model = denoiser.load_denoiser(path, run, slices)
    clean = np.zeros((1, *model.input_shape[1:]), "float32")
    assert model(clean).shape == clean.shape
    written = path.read_bytes()
    denoiser.load_denoiser(path, run, slices)
    assert path.read_bytes() == written
    monkeypatch.setattr(denoiser, "NOISE", 0.3)
    with pytest.raises(InputError, match="remove it"):
        denoiser.load_denoiser(path, run, slices)
    noisy, target = denoiser.noisy(lambda: (clean[0] + 0.5, clean[0]))()
    assert np.std(noisy) > 0.01 and not np.any(target)
