"""Anomaly maps and their scores. The lesions of the benchmark have tests of their own."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import IMAGE_SIZE, draw_slice, make_prior
from PIL import Image

from fitting import ensemble
from measures import healing
from utils import InputError


def images(count=3):
    small = [
        Image.fromarray(draw_slice(case, 0)).resize((IMAGE_SIZE, IMAGE_SIZE))
        for case in range(count)
    ]
    return np.stack([np.asarray(image) for image in small]).astype("float32") / 255


def analyse(models):
    return healing.analyse(models, images(), np.array([0, 1, 2]), seed=1, draws=2)


def test_analysis_of_slices(vqvae):
    models = [(vqvae, make_prior(grid=4))]
    results = analyse(models)
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    assert results["healed"].shape == results["restored"].shape == shape
    for method in healing.METHODS:
        maps, scores = results["maps"][method], results["scores"][method]
        assert maps.shape == shape
        assert maps.min() >= 0 and not maps[images() == 0].any()
        assert (scores > 0).all() and (scores <= maps.max((1, 2)) + 1e-6).all()
    again = analyse(models)
    np.testing.assert_array_equal(results["maps"]["healing"], again["maps"]["healing"])
    twice = analyse(2 * models)  # a model is an ensemble with itself
    for method in healing.METHODS:
        one, two = results["maps"][method], twice["maps"][method]
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def test_a_reading_of_mirror_images_is_mirrored_back(vqvae):
    prior, levels = make_prior(grid=4), np.array([0, 1, 2])
    straight = healing.read(vqvae, prior, images()[:, ::-1], levels + 4, seed=1, draws=2)
    mirrored = healing._read_mirrored(vqvae, prior, images(), levels, seed=1, draws=2)
    np.testing.assert_array_equal(mirrored.surprise, straight.surprise[:, ::-1])
    np.testing.assert_array_equal(mirrored.healed, straight.healed[:, ::-1])


def test_an_ensemble_is_of_one_image_size(monkeypatch):
    def load(run):
        vqvae = SimpleNamespace(settings={"image_size": int(run)})
        return vqvae, SimpleNamespace(settings={"num_levels": 4})

    monkeypatch.setattr(ensemble, "load_models", load)
    split = SimpleNamespace(levels=np.arange(4))
    assert len(ensemble.load_ensemble(["256", "256"], [split])) == 2
    message = "--ensemble must be of image size 256, that of --run. Received: 160 of 160"
    with pytest.raises(InputError, match=message):
        ensemble.load_ensemble(["256", "160"], [split])


def test_a_residual_counts_less_at_an_edge():
    image = np.zeros((1, 256, 256), "float32")
    image[:, 20:236, 20:236] = 0.4
    image[:, :, 128:] *= 2  # an edge down the middle
    version = image.copy()
    version[:, 100:110, 60:70] -= 0.2
    version[:, 100:110, 123:133] -= 0.2
    residual = healing._residual(image, version, 1.0)[0]
    assert residual[105, 65] > 1.5 * residual[105, 128] > 0
