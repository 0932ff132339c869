"""Maps and their measures; the lesions have tests of their own."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import IMAGE_SIZE, ROOT, draw_slice
from PIL import Image

import anomaly
from utils import InputError

specification = importlib.util.spec_from_file_location("anomaly_benchmark", ROOT / "benchmarks" / "anomaly.py")
benchmark = importlib.util.module_from_spec(specification)
specification.loader.exec_module(benchmark)


def images(count=3):
    small = [Image.fromarray(draw_slice(case, 0)).resize((IMAGE_SIZE, IMAGE_SIZE)) for case in range(count)]
    return np.stack([np.asarray(image) for image in small]).astype("float32") / 255


@pytest.fixture
def small_prior(prior):
    prior.grid = prior.settings["grid"] = 4
    prior.positions = prior.positions[:4, :4]
    return prior


def test_analysis_of_slices(vqvae, small_prior):
    found = anomaly.analyse([(vqvae, small_prior)], images(), np.array([0, 1, 2]), seed=1, draws=2)
    assert found["healed"].shape == found["restored"].shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    for method in anomaly.METHODS:
        maps, scores = found["maps"][method], found["scores"][method]
        assert maps.shape == (3, IMAGE_SIZE, IMAGE_SIZE) and maps.min() >= 0 and not maps[images() == 0].any()
        assert (scores > 0).all() and (scores <= maps.max((1, 2)) + 1e-6).all()
    again = anomaly.analyse([(vqvae, small_prior)], images(), np.array([0, 1, 2]), seed=1, draws=2)
    np.testing.assert_array_equal(found["maps"]["healing"], again["maps"]["healing"])
    twice = anomaly.analyse(2 * [(vqvae, small_prior)], images(), np.array([0, 1, 2]), seed=1, draws=2)  # one model is its own ensemble
    for method in anomaly.METHODS:
        np.testing.assert_allclose(found["maps"][method], twice["maps"][method], rtol=1e-5, atol=1e-7)


def test_an_ensemble_is_of_one_image_size(monkeypatch):
    def load(run):
        return SimpleNamespace(settings={"image_size": int(run)}), SimpleNamespace(settings={"levels": 4})

    monkeypatch.setattr(anomaly.checkpoints, "load_models", load)
    split = SimpleNamespace(levels=np.arange(4))
    assert len(anomaly.load_ensemble(["256", "256"], [split])) == 2
    with pytest.raises(InputError, match="--ensemble must be of image size 256, that of --run. Received: 160 of 160"):
        anomaly.load_ensemble(["256", "160"], [split])


def test_a_residual_counts_less_at_an_edge():
    image = np.zeros((1, 256, 256), "float32")
    image[:, 20:236, 20:236] = 0.4
    image[:, :, 128:] *= 2  # an edge down the middle
    version = image.copy()
    version[:, 100:110, 60:70] -= 0.2
    version[:, 100:110, 123:133] -= 0.2
    found = anomaly._weighed(image, version, 1.0)[0]
    assert found[105, 65] > 1.5 * found[105, 128] > 0


def test_dice_and_its_threshold():
    masks = np.zeros((2, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    maps = np.random.default_rng(0).uniform(0.1, 0.5, masks.shape) + masks
    np.testing.assert_allclose(benchmark.dice(maps, masks, 0.75), 1)
    np.testing.assert_allclose(benchmark.dice(maps, masks, 0.0), 2 * 16 / (16 + 256))
    assert 0.45 < benchmark.best_threshold(maps, masks) < 1.1


def test_figures_of_a_perfect_and_of_a_blind_map():
    masks = np.zeros((40, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    planted, brain, chosen = {"masks": masks}, np.ones(masks.shape, bool), np.arange(40) < 20
    control = np.random.default_rng(0).random(30)
    perfect = benchmark.figures(masks.astype(float), 1 + control.max() + np.zeros(40), control, planted, brain, 0.5, chosen)
    assert perfect == {"auroc": 1.0, "average_precision": 1.0, "dice": 1.0, "slices": 20}
    noise = np.random.default_rng(1).random(masks.shape)
    blind = benchmark.figures(noise, np.random.default_rng(2).random(40), control, planted, brain, 0.5, chosen)
    assert 0.3 < blind["auroc"] < 0.7 and blind["average_precision"] < 0.1 and blind["dice"] < 0.15
