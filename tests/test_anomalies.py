"""Anomaly maps and their scores. The lesions of the benchmark have tests of their own."""

import numpy as np
import pytest
from PIL import Image
from shared import IMAGE_SIZE, draw_slice, make_prior, make_vqvae

from evaluation import anomalies
from modules import Models
from sources.folder import make_split


@pytest.fixture(scope="module")
def models():
    return Models(make_vqvae(), make_prior(grid=4, blocks=2))


def images(count=3):
    small = [
        Image.fromarray(draw_slice(case, 0)).resize((IMAGE_SIZE, IMAGE_SIZE))
        for case in range(count)
    ]
    return np.stack([np.asarray(image) for image in small]).astype("float32") / 255


def make_stack(levels=(0, 1, 2)):
    return make_split("test", [(1, level, f"slice {level}") for level in levels])


def analyse(models):
    return anomalies.analyse(models, images(), make_stack(), seed=1)


def test_analysis_of_slices(models):
    results = analyse(models)
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    assert results["healed"].shape == results["restored"].shape == shape
    for method in anomalies.METHODS:
        maps, scores = results["maps"][method], results["scores"][method]
        assert maps.shape == shape
        assert maps.min() >= 0 and not maps[images() == 0].any()
        assert (scores > 0).all() and (scores <= maps.max((1, 2)) + 1e-6).all()
    again = analyse(models)
    np.testing.assert_array_equal(results["maps"]["healing"], again["maps"]["healing"])


def test_a_slice_and_its_mirror_image_read_the_same(models):
    """Each is read as it is and mirrored, and what the mirror image says is mirrored back."""
    stack = make_split("test", [(case, 2, f"case {case}") for case in (1, 2)])  # each is alone
    models = models._replace(prior=make_prior(grid=4))
    straight = anomalies.Reader(models, stack, seed=1)
    swapped = anomalies.Reader(models, stack, seed=1)
    swapped.levels = swapped.levels[::-1]
    pair, batch = images(2), np.arange(2)
    one, other = straight.read(pair, batch), swapped.read(pair[:, ::-1], batch)
    np.testing.assert_allclose(one["surprise"], other["surprise"][:, ::-1], atol=1e-5)
    assert straight.healed.shape == (len(anomalies.LIMITS), 2, 2, 4, 4)
    first, second = straight.healed[:, 0], straight.healed[:, 1]
    assert (first != second).any()


def test_each_version_has_its_own_limit(models, monkeypatch):
    monkeypatch.setattr(anomalies, "LIMITS", (1e6, -1e6))
    reader = anomalies.Reader(models, make_stack(), seed=1)
    pair = images(1)
    reader.read(pair, np.array([1]))  # the first of the stack
    both = np.concatenate([pair, pair[:, ::-1]])[..., None]
    nearest = np.asarray(models.vqvae.encode(both))
    kept, drawn = reader.healed[:, :, 1]
    np.testing.assert_array_equal(kept, nearest)
    assert (drawn != nearest).mean() > 0.5


def test_neighbours_are_the_healed_ones(models):
    """A lesion changes what is read beside it only through what was healed."""
    stack, values = make_stack(), images()
    reader = anomalies.Reader(models, stack, seed=1)
    readings = {i: reader.read(values[i : i + 1], np.array([i])) for i in (1, 0, 2)}
    again = anomalies.Reader(models, stack, seed=1)
    again.healed[:, :, 1] = reader.healed[:, :, 1]
    above = again.read(values[2:], np.array([2]))
    np.testing.assert_array_equal(above["surprise"], readings[2]["surprise"])
    again.healed[:, :, 1] = (reader.healed[:, :, 1] + 1) % 16
    other = again.read(values[2:], np.array([2]))
    assert np.abs(other["surprise"] - readings[2]["surprise"]).max() > 1e-4


@pytest.mark.parametrize("mirror, sides", [("none", 1), ("rows", 2), ("columns", 2)])
def test_mirror_images_are_read_where_the_prior_knows_them(models, mirror, sides):
    prior = make_prior(grid=4, blocks=1, mirror=mirror)
    reader = anomalies.Reader(models._replace(prior=prior), make_stack(), seed=1)
    assert reader.healed.shape[1] == len(reader.sides) == len(reader.levels) == sides
    found = reader.read(images(1), np.array([1]))
    assert found["surprise"].shape == (1, IMAGE_SIZE, IMAGE_SIZE)


def test_slices_of_a_stack_are_mapped_in_their_order(models):
    """Cases of other heights are read in batches that differ from the order of the split."""
    places = [(1, 0), (1, 1), (2, 0)]
    split = make_split("test", [(case, k, f"{case} {k}") for case, k in places])
    results = anomalies.analyse(models, images(), split, seed=1)
    lone = anomalies.analyse(models, images()[2:], split.pick([2]), seed=1)
    np.testing.assert_allclose(results["restored"][2], lone["restored"][0], atol=1e-5)


def test_scores_in_a_case_are_relative_to_its_other_slices():
    cases = np.array([1, 1, 1, 2])
    relative = anomalies.scores_in_case(np.array([1.0, 2.0, 6.0, 5.0]), cases)
    np.testing.assert_allclose(relative, [1 / 4, 2 / 3.5, 6 / 1.5, np.nan])


def test_a_residual_counts_less_at_an_edge():
    image = np.zeros((1, 256, 256), "float32")
    image[:, 20:236, 20:236] = 0.4
    image[:, :, 128:] *= 2  # an edge down the middle
    version = image.copy()
    version[:, 100:110, 60:70] -= 0.2
    version[:, 100:110, 123:133] -= 0.2
    residual = anomalies.residual(image, version)[0]
    assert residual[105, 65] > 1.5 * residual[105, 128] > 0


def test_surprise_is_smoothed_along_the_levels_of_a_case():
    places = [(1, 0), (1, 1), (1, 4), (2, 0)]
    split = make_split("test", [(case, k, f"{case} {k}") for case, k in places])
    maps = np.zeros((4, 2, 2), "float32")
    maps[0] = 1.0
    smoothed = anomalies.along_levels(maps, split)[:, 0, 0]
    near, far = np.exp(-0.5 * (np.array([1, 4]) / anomalies.LEVEL_SIGMA) ** 2)
    next_to_both = np.exp(-0.5 * (3 / anomalies.LEVEL_SIGMA) ** 2)
    expected = [
        1 / (1 + near + far),
        near / (near + 1 + next_to_both),
        far / (far + next_to_both + 1),
        0,
    ]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-5)
    same = np.ones_like(maps)
    np.testing.assert_allclose(anomalies.along_levels(same, split), same, rtol=1e-6)
