"""Each figure must move as it should: real against real, blurred, copied, lopsided."""

import numpy as np
import pytest
from conftest import LEVELS, draw_slice
from scipy import ndimage

from measures import generation, two_sample
from measures.images import to_unit


@pytest.fixture(scope="module")
def real():
    cases, levels = np.repeat(np.arange(24), LEVELS), np.tile(np.arange(LEVELS), 24)
    images = np.stack(
        [draw_slice(int(case), level)[::2, ::2] for case, level in zip(cases, levels)]
    )
    return images, cases, levels


@pytest.fixture(scope="module")
def blurred(real):
    return ndimage.gaussian_filter(real[0].astype("float32") / 255, (0, 1.5, 1.5))


def halves(cases):
    return cases % 2 == 0


def test_a_classifier_tells_blurred_from_real_but_not_real_from_real(real, blurred):
    """Real from real by chance: neither better, nor worse, which would be as suspicious.

    Halves are drawn. Heads grow with their number, so every second head would lie between two of
    the other half, and be taken for one of them.
    """
    images, cases, _ = real
    half = np.isin(cases, np.random.default_rng(0).permutation(24)[:12])
    x = two_sample.features(images)
    accuracy, (low, high) = two_sample.two_sample(x[half], x[~half], cases[half], cases[~half])
    assert 0.35 < accuracy < 0.65 and low < 0.5 < high and low <= accuracy <= high
    accuracy, (low, _) = two_sample.two_sample(
        two_sample.features(blurred)[half], x[~half], cases[half], cases[~half]
    )
    assert accuracy > 0.95 and low > 0.9


def test_knowing_the_subject_is_no_help():
    """Features that only name the subject, on both sides alike, give chance.

    Without groups they would give 1.
    """
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 8)
    names = rng.normal(size=(40, 30))[subjects] + rng.normal(0, 0.01, (320, 30))
    one = subjects < 20
    accuracy, _ = two_sample.two_sample(names[one], names[~one], subjects[one], subjects[~one])
    assert accuracy < 0.7


def test_mmd_grows_with_the_difference(real, blurred):
    images, cases, _ = real
    even, x = halves(cases), two_sample.features(images)
    same = two_sample.mmd(x[even], x[~even])
    assert abs(same) < 0.05
    assert two_sample.mmd(two_sample.features(blurred)[even], x[~even]) > 5 * abs(same) + 0.05


def test_diversity_is_one_for_copies_of_one_image(real):
    images, _, levels = real
    one_each = np.stack([images[levels == level][0] for level in levels])
    assert generation.diversity(one_each, levels) == pytest.approx(1.0, abs=1e-4)
    assert generation.diversity(images, levels) < 0.98
    assert np.isnan(generation.diversity(images[:1], levels[:1]))


def test_copies_are_found(real):
    images, cases, _ = real
    even = halves(cases)
    distances, which = generation.nearest(images[even], images)
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    assert np.array_equal(images[which], images[even])
    apart, _ = generation.nearest(images[even], images[~even])
    assert apart.min() > 0.01


def test_anatomy_of_a_known_head():
    image = np.zeros((256, 256), "float32")
    y, x = np.mgrid[:256, :256]
    image[(y - 128) ** 2 + (x - 128) ** 2 < 80**2] = 0.8
    whole = generation.anatomy(image[None])
    assert whole["brain_area"][0] == pytest.approx(np.pi * 80**2 / 256**2, rel=0.03)
    assert whole["ventricle_area"][0] == 0
    image[(y - 128) ** 2 + (x - 128) ** 2 < 20**2] = 0.1
    with_ventricle = generation.anatomy(image[None])
    assert with_ventricle["ventricle_area"][0] == pytest.approx(np.pi * 20**2 / 256**2, rel=0.1)
    assert with_ventricle["brain_area"][0] == pytest.approx(whole["brain_area"][0])
    lopsided = image.copy()
    lopsided[60:110, 100:160] = 0.3
    assert generation.anatomy(lopsided[None])["symmetry"][0] < with_ventricle["symmetry"][0] - 0.05


def test_report_on_real_blurred_and_copied_slices(real, blurred):
    images, cases, levels = real
    sets = {
        name: np.isin(cases % 4, rest)
        for name, rest in (("training", (0, 1)), ("validation", (2,)), ("test", (3,)))
    }
    data = {
        name: {"images": images[mask], "levels": levels[mask], "subjects": cases[mask].astype(str)}
        for name, mask in sets.items()
    }
    data["restore"] = lambda some, levels: ndimage.gaussian_filter(to_unit(some), (0, 1.5, 1.5))
    rest = sets["validation"]
    good, _ = generation.evaluate(images[rest], levels[rest], **data)
    bad, _ = generation.evaluate(blurred[rest], levels[rest], **data)
    copied, pairs = generation.evaluate(images[sets["training"]], levels[sets["training"]], **data)
    assert good["two_sample_accuracy"] < 0.75 < bad["two_sample_accuracy"]
    assert bad["two_sample_accuracy_prior"] < bad["two_sample_accuracy"]
    assert bad["two_sample_accuracy_reconstructions"] > 0.9
    assert bad["mmd"] > good["mmd"] + 0.02
    assert copied["nearest_min"] == pytest.approx(0, abs=1e-6)
    assert good["nearest_min"] > 0.01 and pairs[0][2] == copied["nearest_min"]
    assert good["anatomy"]["brain_area"]["inside"] > 0.8
