"""Each figure must move as it should: real beside real, blurred, copied, lopsided, mirrored."""

import types

import numpy as np
import pytest
from scipy import ndimage
from shared import LEVELS, draw_slice

from evaluation import anatomy, brain_comparison, comparison, plots, two_sample
from evaluation.comparison import SliceSet
from evaluation.context import Context, SamplingOptions
from evaluation.two_sample import Rows
from modules import Models
from sources.facts import OASIS
from sources.folder import make_split
from sources.images import to_grey

CASES, SIDE = 20, 64


@pytest.fixture(scope="module")
def real():
    cases, levels = np.repeat(np.arange(CASES), LEVELS), np.tile(np.arange(LEVELS), CASES)
    images = [draw_slice(int(case), int(level))[::4, ::4] for case, level in zip(cases, levels)]
    return SliceSet(np.stack(images), levels, cases.astype(str))


@pytest.fixture(scope="module")
def blurred(real):
    smooth = ndimage.gaussian_filter(real.images.astype("float32") / 255, (0, 1, 1))
    return real._replace(images=to_grey(smooth))


def of_cases(slices, cases):
    """Those of some cases."""
    return SliceSet(*(values[np.isin(slices.groups.astype(int), cases)] for values in slices))


@pytest.fixture
def few_permutations(monkeypatch):
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 6)


# ---- the classifier ----------------------------------------------------------------------------


def distinguish(one, other):
    pair = comparison.slice_rows(one, ""), comparison.slice_rows(other, "")
    found = two_sample.two_sample({"accuracy": pair})
    return found["accuracy"], found["accuracy_ci95"], found["accuracy_null95"]


def test_a_classifier_distinguishes_blurred_from_real_but_not_real_from_real(
    real, blurred, few_permutations
):
    """Real from real by chance: neither better, nor worse, which would be as suspicious.

    Halves are drawn. Heads grow with their number, so every second head would lie between two of
    the other half, and be taken for one of them.
    """
    half = np.random.default_rng(0).permutation(CASES)[: CASES // 2]
    other = of_cases(real, np.setdiff1d(np.arange(CASES), half))
    accuracy, (low, high), _ = distinguish(of_cases(real, half), other)
    assert 0.35 < accuracy < 0.65 and low < 0.5 < high and low <= accuracy <= high
    accuracy, (low, _), (_, highest_by_chance) = distinguish(of_cases(blurred, half), other)
    assert accuracy > 0.95 and low > 0.9 > highest_by_chance


def test_knowing_the_subject_is_no_help():
    """Features that only name the subject, on both sides alike, give chance.

    Without groups they would give 1.
    """
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 8)
    names = rng.normal(size=(40, 30))[subjects] + rng.normal(0, 0.01, (320, 30))
    one = subjects < 20
    pair = Rows(names[one], subjects[one]), Rows(names[~one], subjects[~one])
    assert two_sample.accuracy(*pair) < 0.7


def test_the_null_range_is_of_groups_that_change_sides(monkeypatch):
    """Groups differ, the two sets do not. Then accuracy lies in the range, else far above it."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(16), 6)
    rows = rng.normal(size=(16, 20))[groups] + rng.normal(0, 0.3, (96, 20))
    one, other = groups < 8, groups >= 8
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 60)
    pair = Rows(rows[one], groups[one]), Rows(rows[other], groups[other])
    found = two_sample.two_sample({"a": pair})
    low, high = found["a_null95"]
    assert low < found["a"] < high and 0.1 < low < 0.4 and 0.5 < high < 0.8
    moved = pair[0]._replace(features=rows[one] + 3)
    assert two_sample.accuracy(moved, pair[1]) > 0.95


@pytest.mark.parametrize("few", [1, 2])
def test_few_groups_of_one_set_are_no_error(few, few_permutations):
    """Each fold must then do without a set now and then."""
    rng = np.random.default_rng(0)
    one = Rows(rng.normal(size=(6 * few, 3)), np.repeat(["a", "b"][:few], 6))
    other = Rows(rng.normal(size=(6 * 17, 3)), np.repeat(np.arange(17).astype(str), 6))
    found = two_sample.two_sample({"a": (one, other)})
    assert 0 <= found["a"] <= 1 and 0 <= found["a_null95"][0] <= found["a_null95"][1] <= 1


def test_groups_change_sides_as_wholes():
    """Two groups of each side are dealt out. The one of both sides swaps its rows or keeps them."""
    groups = np.array(["a", "a", "b", "c", "c", "d", "e", "e"])
    y = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    seen = {tuple(sides.tolist()) for sides in two_sample.permuted_labels(y, groups)}
    assert len(seen) == 6 * 2 and tuple(y) in seen
    for sides in map(np.array, seen):
        assert sides[0] == sides[1] and sides[3] == sides[4] and sides[6] != sides[7]
        assert sides[[0, 2, 3, 5]].sum() == 2


def test_slices_that_are_damaged_are_distinguished(real):
    found = comparison.power(real, real)
    assert set(found) == {"pyramid", "pyramid_inside"}
    for by_damage in found.values():
        assert set(by_damage) == {"mirrored", "lower_half_of_another", "blurred"}
        # Half of the slices cannot be told apart.
        assert 0.55 < by_damage["blurred"]["0.5"] < 0.8


def test_inside_is_the_eroded_brain_alone():
    image = np.zeros((1, 256, 256), "uint8")
    image[0, 50:200, 60:190] = 100
    image[0, 120:130, 120:130] = 0  # a hole belongs to the brain
    expected = np.zeros_like(image)
    expected[0, 56:194, 66:184] = image[0, 56:194, 66:184]
    np.testing.assert_array_equal(comparison.inside_brain(image), expected)


# ---- slices ------------------------------------------------------------------------------------


def test_copies_are_found(real):
    distances, which = two_sample.nearest(real.images[::2], real.images, SIDE)
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    np.testing.assert_array_equal(which, np.arange(len(real.images))[::2])
    even, odd = (of_cases(real, np.arange(first, CASES, 2)) for first in (0, 1))
    assert two_sample.nearest(even.images, odd.images, SIDE)[0].min() > 0.01
    stacks = real.images.reshape(CASES, LEVELS, SIDE, SIDE)  # as wholes
    np.testing.assert_array_equal(two_sample.nearest(stacks[5:7], stacks, 32)[1], [5, 6])


def test_anatomy_of_a_known_head():
    image = np.zeros((256, 256), "float32")
    y, x = np.mgrid[:256, :256]
    image[(y - 128) ** 2 + (x - 128) ** 2 < 80**2] = 0.8
    whole = anatomy.anatomy(image[None])
    assert whole["brain_area"][0] == pytest.approx(np.pi * 80**2 / 256**2, rel=0.03)
    assert whole["ventricle_area"][0] == 0
    image[(y - 128) ** 2 + (x - 128) ** 2 < 20**2] = 0.1
    with_ventricle = anatomy.anatomy(image[None])
    assert with_ventricle["ventricle_area"][0] == pytest.approx(np.pi * 20**2 / 256**2, rel=0.1)
    assert with_ventricle["brain_area"][0] == pytest.approx(whole["brain_area"][0])
    lopsided = image.copy()
    lopsided[60:110, 100:160] = 0.3
    assert anatomy.anatomy(lopsided[None])["symmetry"][0] < with_ventricle["symmetry"][0] - 0.05


@pytest.mark.slow
def test_report_on_real_blurred_and_copied_slices(
    real, blurred, few_permutations, monkeypatch, tmp_path
):
    training, validation, test = (
        of_cases(real, [c for c in range(CASES) if c % 4 in rest]) for rest in ((0, 1), (2,), (3,))
    )
    known = {
        "training": training,
        "validation": validation,
        "real": test,
        "reconstructions": of_cases(blurred, range(3, CASES, 4)),
    }

    def report(samples, plain):
        found, *_ = comparison.compare_slices({**known, "samples": samples, "plain": plain})
        return found

    monkeypatch.setattr(comparison, "power", lambda *_: {})
    good = report(validation, of_cases(blurred, range(2, CASES, 4)))
    monkeypatch.setattr(comparison, "compare_anatomy", lambda *_: {})
    bad = report(*2 * (of_cases(blurred, range(2, CASES, 4)),))
    for part in ("", "_inside"):
        assert good[f"two_sample_accuracy{part}"] < 0.75 < bad[f"two_sample_accuracy{part}"]
        assert bad[f"two_sample_accuracy_reconstructions{part}"] > 0.9
    assert bad["two_sample_accuracy_prior"] < bad["two_sample_accuracy"]
    assert bad["two_sample_accuracy_real"] < 0.75
    low, high = bad["two_sample_accuracy_real_null95"]
    assert low < high < bad["two_sample_accuracy"] and bad["two_sample_accuracy_real"] < high
    assert good["nearest_min"] > 0.01 and bad["nearest_real_mean"] == good["nearest_real_mean"]
    assert set(good["quality"]) == {"reconstructions"}
    assert 0.5 < good["quality"]["reconstructions"]["ssim"] < 1

    area = good["anatomy"]["brain_area"]
    assert good["anatomy"]["levels"] == list(range(LEVELS))
    assert area["samples"] == area["validation"]  # the same slices
    for mean, (low, high) in zip(area["samples_by_level"], area["samples_by_level_ci95"]):
        assert low < mean < high
    plots.anatomy(tmp_path / "anatomy.png", good["anatomy"], "A caption.")
    assert (tmp_path / "anatomy.png").stat().st_size > 10_000


# ---- brains ------------------------------------------------------------------------------------


def make_brains(cases, levels=6):
    slices = [[draw_slice(case, level)[::4, ::4] for level in range(levels)] for case in cases]
    return np.stack(slices)


@pytest.fixture(scope="module")
def brains():
    """Generated brains are those of training, and every second of their slices is mirrored."""
    real, training = make_brains(range(10)), make_brains(range(20, 24))
    generated = training.copy()
    generated[:, ::2] = generated[:, ::2, :, ::-1]
    restored = np.clip(real, 0, 200)
    return {
        "generated": generated, "reconstructions": restored, "real": real, "training": training,
    }  # fmt: skip


@pytest.fixture(scope="module")
def compared(brains):
    stripes = 8 * (np.arange(SIDE) % 2)
    textured = np.clip(brains["generated"].astype(int) + stripes, 0, 255).astype("uint8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "PERMUTATIONS", 6)
        return brain_comparison.compare_brains(brains, (0, 0, SIDE, SIDE), textured)


def test_slices_that_do_not_hang_together_are_unlike_their_neighbours(brains, compared):
    still = np.repeat(brains["real"][:1, :1], 4, axis=1)
    np.testing.assert_allclose(brain_comparison.neighbour_ssim(still), 1, atol=1e-6)
    ssim = compared["neighbour_ssim"]
    assert ssim["generated"]["mean"] < ssim["real"]["mean"] - 0.1
    assert len(ssim["generated"]["by_level"]) == 6 - 1


def test_ventricles_are_measured_by_level_and_between_brains(brains, compared, tmp_path):
    areas = compared["ventricles"]
    assert areas["generated"]["by_level"] == pytest.approx(areas["training"]["by_level"], rel=0.05)
    assert areas["generated"]["mean"] == pytest.approx(np.mean(areas["generated"]["by_level"]))
    assert areas["training"]["sd"] == 0  # all have the same ellipses
    wider = brains["training"].copy()
    wider[:2, :, 28:36, 20:44] = 20
    volumes = brain_comparison.anatomy_of_brains(wider)["ventricles"]
    assert volumes["mean"] > 1.2 * areas["training"]["mean"] and volumes["sd"] > 0.001
    assert areas["training"]["upper_share"]["0.5"] == pytest.approx(0.5, abs=0.02)
    one_sided = brains["training"].copy()
    one_sided[:2, :, 24:32, 20:44] = 20
    sides = brain_comparison.anatomy_of_brains(one_sided)
    assert sides["ventricles"]["upper_share"]["0.95"] > 0.55
    symmetry = compared["symmetry"]["training"]["mean"]
    assert sides["symmetry"]["mean"] < symmetry - 0.01
    by_level = {name: np.array(found["by_level"]) for name, found in areas.items()}
    plots.ventricles(tmp_path / "ventricles.png", by_level, "A caption.")
    assert (tmp_path / "ventricles.png").stat().st_size > 5_000


def test_a_classifier_distinguishes_mirrored_slices_by_their_cuts(compared):
    assert compared["two_sample_accuracy"] > 0.9 and compared["count"] == 4
    assert 0.01 < compared["nearest"]["generated_min"] <= compared["nearest"]["generated_mean"]
    assert compared["two_sample_accuracy_textured_to_real"] > 0.95
    low, high = compared["two_sample_accuracy_reconstructions_null95"]
    assert low <= compared["two_sample_accuracy_reconstructions"] <= high < 0.9


def test_few_cases_are_not_compared(tmp_path):
    split = make_split("test", [(1, level, f"{level}") for level in range(6)])
    models = Models(None, types.SimpleNamespace(settings={"num_levels": 6}))
    slices = types.SimpleNamespace(splits={"train": split})
    context = Context(models, OASIS, SamplingOptions(0), split, slices)
    reason = "1 cases of the split have all 6 levels"
    assert brain_comparison.compare(context, None) == {"reason": reason}
