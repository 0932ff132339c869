import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from shared import draw_slice
from skimage.metrics import structural_similarity

from evaluation import metrics
from fitting.training_data import code_counts
from networks import losses


def pair(sigma=0.05):
    image = (np.stack([draw_slice(1, 0), draw_slice(2, 3)]) / 255.0).astype("float32")[..., None]
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return image, np.clip(image + noise, 0, 1).astype("float32")


def test_ssim_equals_scikit_image():
    images, noisy = pair()
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    expected = [
        structural_similarity(a[..., 0], b[..., 0], use_sample_covariance=False, **settings)
        for a, b in zip(images.astype("float64"), noisy.astype("float64"))
    ]
    np.testing.assert_allclose(losses.ssim(images, noisy), expected, atol=1e-4)


def test_ssim_clips_the_reconstruction_and_is_one_for_equals():
    images, _ = pair()
    np.testing.assert_allclose(losses.ssim(images, images), 1.0, atol=1e-6)
    overshoot = np.where(images == 0, -0.5, images)
    np.testing.assert_allclose(losses.ssim(images, overshoot.astype("float32")), 1.0, atol=1e-6)


def test_brain_ssim_ignores_the_background():
    images, _ = pair()
    spoilt = images.copy()
    spoilt[:, :40] += 0.2  # rows far above the head
    maps = losses.ssim_map(images, spoilt)
    assert losses.ssim(images, spoilt).numpy().max() < 0.95
    np.testing.assert_allclose(metrics.brain_ssim(images, maps), 1.0, atol=1e-4)


def test_brain_psnr_is_that_of_the_brain_alone():
    images, noisy = pair()
    noisy[:, :40] += 0.2  # rows far above the head
    expected = []
    for image, other in zip(images[..., 0].astype("float64"), noisy[..., 0]):
        errors = (image - other)[image > 0]
        expected.append(10 * np.log10(1 / np.mean(errors**2)))
    np.testing.assert_allclose(metrics.brain_psnr(images, noisy), expected, rtol=1e-5)
    assert (metrics.psnr(images, noisy) < metrics.brain_psnr(images, noisy)).all()
    np.testing.assert_allclose(metrics.psnr(images, images + 0.1), 20.0, rtol=1e-5)
    assert np.isnan(metrics.brain_psnr(np.zeros_like(images), noisy)).all()


def test_interval_resamples_subjects_not_slices():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(8), 32)
    values = rng.normal(0, 1, 8)[subjects] + rng.normal(0, 0.01, 256)
    low, high = metrics.subject_interval(values, subjects)
    assert low < values.mean() < high
    # The slices alone would promise far more than eight subjects can.
    assert high - low > 4 * values.std() / np.sqrt(256)
    assert metrics.subject_interval(values, subjects) == [low, high]


def test_loss_is_the_sum_of_its_terms():
    images, noisy = pair()
    error = images - noisy
    pixels = (3 * error**2 + 0.3 * np.abs(error)).mean((1, 2, 3))
    without_windows = losses.ReconstructionLoss(0.0, 0.0).call(images, noisy)
    np.testing.assert_allclose(without_windows, pixels, rtol=1e-5)
    with_ssim = losses.ReconstructionLoss(2.0, 0.0).call(images, noisy)
    dissimilarity = 1 - losses.ssim(images, noisy).numpy()
    np.testing.assert_allclose(with_ssim - pixels, 2 * dissimilarity, rtol=1e-4)


def test_contrast_term_punishes_blur_and_asks_for_no_covariance():
    _, images = pair()
    loss = losses.ReconstructionLoss(0.0, 1.0)
    pixels = losses.ReconstructionLoss(0.0, 0.0)

    def contrast(other):
        return np.asarray(loss.call(images, other) - pixels.call(images, other))

    np.testing.assert_allclose(contrast(images), 0, atol=1e-5)
    assert (contrast(ndimage.gaussian_filter(images, (0, 1.5, 1.5, 0))) > 0.05).all()
    texture = np.random.default_rng(0).normal(0, 0.1, (2, *images.shape)).astype("float32")
    between_textures = loss.call(*texture) - pixels.call(*texture)
    np.testing.assert_allclose(np.asarray(between_textures), 0, atol=0.05)
    one = tf.zeros_like(images)
    with tf.GradientTape() as tape:
        tape.watch(one)
        value = loss.call(images * 0, one)
    # All background has no variance, and a root has no slope there.
    assert np.isfinite(tape.gradient(value, one)).all()


def test_detail_of_known_blur():
    images = np.round(np.random.default_rng(0).random((3, 64, 64)) * 255).astype("uint8")
    same = metrics.detail(images, images)
    assert same == pytest.approx(
        {"gradient_ratio": 1.0, "spectrum_ratio": 1.0, "fine_correlation": 1.0}
    )
    y, x = np.mgrid[:64, :64]
    wave = np.stack([128 + 100 * np.cos(2 * np.pi * x / 5)])  # 1/5 of a cycle a pixel: in the band
    whole, flat = (np.round(128 + (wave - 128) / by).astype("uint8") for by in (1, 2))
    half = metrics.detail(whole, flat)
    assert half["gradient_ratio"] == pytest.approx(0.5, abs=0.01)
    assert half["spectrum_ratio"] == pytest.approx(0.25, abs=0.01)
    assert half["fine_correlation"] == pytest.approx(1, abs=0.01)  # the same waves, in phase


def test_invented_detail_has_energy_and_no_correlation():
    """The sharp edge of a brain has fine frequencies too, which are the same in both images."""
    y, x = np.mgrid[:128, :128] - 64
    brain = np.hypot(y / 50, x / 42) < 1
    folds = np.random.default_rng(0).integers(60, 200, (2, 3, *brain.shape))
    detail = metrics.detail(*np.where(brain, folds, 0).astype("uint8"))
    assert detail["spectrum_ratio"] == pytest.approx(1, abs=0.1)
    assert abs(detail["fine_correlation"]) < 0.1


def test_baselines_against_hand_counts():
    training = np.array([[[0, 1]], [[0, 1]], [[0, 2]], [[0, 2]]])
    counts = code_counts(training, 4)
    assert counts.shape == (1, 2, 4) and counts.sum() == 8
    np.testing.assert_array_equal(counts[0, 0], [4, 0, 0, 0])
    np.testing.assert_array_equal(counts[0, 1], [0, 2, 2, 0])
    bits = {name: values.mean() for name, values in metrics.baseline_bits(training, counts).items()}
    assert bits["uniform"] == 2.0
    unigram = -np.mean(np.log2(np.array([5, 3] * 2 + [5, 3] * 2) / 12))
    np.testing.assert_allclose(bits["unigram"], unigram)
    assert bits["position"] == pytest.approx(0.5, abs=0.03)


def test_diversity_is_one_for_copies_of_one_image():
    levels = np.arange(8) % 4
    images = np.stack([draw_slice(case, 0)[::2, ::2] for case in range(8)])
    copies = images[levels]
    assert metrics.diversity(copies, levels) == pytest.approx(1.0, abs=1e-4)
    assert metrics.diversity(images, levels) < 0.98
    assert np.isnan(metrics.diversity(images[:1], levels[:1]))


def test_usage():
    assert metrics.usage(np.array([0, 0, 3, 3]), 8) == (2, pytest.approx(2.0))


def test_brain_places_are_those_with_any_brain():
    images = np.zeros((1, 16, 16), "uint8")
    images[0, 9, 2] = 1
    places = metrics.brain_places(images, (0, 0, 16, 16), (2, 2))
    np.testing.assert_array_equal(places, [[[False, False], [True, False]]])
