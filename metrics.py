"""Measures: the SSIM of Wang et al. 2004 as figure and as training loss, PSNR, intervals, and baselines in bits.

Images are float32 `(B, S, S, 1)` in [0, 1].
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al. 2004, section III-B
C1, C2 = 0.01**2, 0.03**2  # for data range 1
SSIM_BORDER = SSIM_WINDOW // 2  # pixels at each edge where the window would leave the image


@functools.lru_cache
def _window_matrix(size):
    """Gaussian window slid along one axis, as a matrix `(size - 10, size)`."""
    weights = np.exp(-0.5 * (np.arange(SSIM_WINDOW) - SSIM_BORDER) ** 2 / SSIM_SIGMA**2)
    rows = [np.pad(weights / weights.sum(), (i, size - SSIM_WINDOW - i)) for i in range(size - SSIM_WINDOW + 1)]
    return np.array(rows, "float32")


def _moments(images, reconstructions):
    """Means, variances and covariance in the window around each pixel of two images, `(B, S - 10, S - 10)` each.

    Two small matrix products a moment make them several times as fast as the convolutions of `tf.image.ssim`.
    """
    window = tf.constant(_window_matrix(images.shape[1]))
    x, y = tf.cast(images[..., 0], tf.float32), tf.cast(reconstructions[..., 0], tf.float32)

    def mean(values):
        return tf.matmul(tf.matmul(window[None], values), window, transpose_b=True)

    mean_x, mean_y = mean(x), mean(y)
    return mean_x, mean_y, mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y


def _ssim(mean_x, mean_y, variance_x, variance_y, covariance):
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance * (2 * covariance + C2) / (variance_x + variance_y + C2)


def ssim_map(images, reconstructions):
    """Structural similarity at every pixel whose window lies inside the image.

    Data range 1, 11 x 11 Gaussian window of sigma 1.5, population moments (Wang et al. 2004, equation 13).

    Args:
        images, reconstructions: `(B, S, S, 1)` in [0, 1], S at least 11.

    Returns:
        float32 `(B, S - 10, S - 10)`.
    """
    return _ssim(*_moments(images, reconstructions))


@keras.saving.register_keras_serializable(package="brain_vqvae")
def ssim(images, reconstructions):
    """Mean SSIM of each image with its clipped reconstruction, `(B,)`."""
    return tf.reduce_mean(ssim_map(images, tf.clip_by_value(reconstructions, 0.0, 1.0)), axis=(1, 2))


@keras.saving.register_keras_serializable(package="brain_vqvae")
class ReconstructionLoss(keras.losses.Loss):
    """`3 MSE + 0.3 MAE + ssim_weight (1 - SSIM) + contrast_weight (1 - contrast)`, an image.

    Contrast is SSIM's factor of that name (Wang et al. 2004, equation 9): it compares the two variances in a window and asks
    for no covariance, so it holds against the blur to which the other terms lead. The squared error weighs ten times
    the absolute one because it is about a tenth of it at these errors.
    """

    def __init__(self, ssim_weight=1.0, contrast_weight=3.0, **kwargs):
        super().__init__(**kwargs)
        self.ssim_weight, self.contrast_weight = ssim_weight, contrast_weight

    def call(self, images, reconstructions):
        error = images - reconstructions
        loss = tf.reduce_mean(3.0 * error**2 + 0.3 * tf.abs(error), axis=(1, 2, 3))
        if self.ssim_weight or self.contrast_weight:
            moments = _moments(images, reconstructions)
            # rounding makes a variance of zero negative, and a root has no gradient there: half of C2 keeps away from it
            x, y = (tf.maximum(variance, 0.0) + C2 / 2 for variance in moments[2:4])
            contrast = 2 * tf.sqrt(x * y) / (x + y)
            terms = self.ssim_weight * (1.0 - _ssim(*moments)) + self.contrast_weight * (1.0 - contrast)
            loss += tf.reduce_mean(terms, axis=(1, 2))
        return loss

    def get_config(self):
        return {**super().get_config(), "ssim_weight": self.ssim_weight, "contrast_weight": self.contrast_weight}


def brain_ssim(images, maps):
    """Mean of SSIM maps `(B, S - 10, S - 10)` over the pixels that are not background in the original, `(B,)`.

    NaN for an image that is all background.
    """
    inside = slice(SSIM_BORDER, -SSIM_BORDER)
    brain = np.asarray(images)[:, inside, inside, 0] > 0
    with np.errstate(invalid="ignore"):
        return (np.asarray(maps) * brain).sum((1, 2)) / brain.sum((1, 2))


def psnr(images, reconstructions):
    """Peak signal-to-noise ratio in dB of each image, data range 1, `(B,)`."""
    mse = np.mean((np.asarray(images) - np.asarray(reconstructions)) ** 2, axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(mse, 1e-10))


def detail(images, reconstructions):
    """How much fine detail reconstructions keep, as ratios to the originals; 1 is all of it, less is blur.

    Args:
        images, reconstructions: uint8 `(N, S, S)`.

    Returns:
        dict of `gradient_ratio`, mean gradient magnitude at the pixels that are not background in the original, and
        `spectrum_ratio`, energy of the spatial frequencies from 1/8 to 1/3 cycles a pixel. NaN where the originals have none.
    """
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(images.shape[1]), np.fft.fftfreq(images.shape[2]), indexing="ij"))
    fine = (frequency >= 1 / 8) & (frequency <= 1 / 3)
    sums = np.zeros((2, 2))
    for pair in zip(images, reconstructions):
        for row, image in zip(sums, pair):
            image = image / 255.0
            row += np.hypot(*np.gradient(image))[pair[0] > 0].sum(), (np.abs(np.fft.fft2(image)[fine]) ** 2).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient, spectrum = sums[1] / sums[0]
    return {"gradient_ratio": float(gradient), "spectrum_ratio": float(spectrum)}


def subject_interval(values, cases, resamples=2000, seed=0):
    """95 % bootstrap interval of the mean of `values` (N,), resampling subjects: slices of one are no independent draws.

    Args:
        values: a figure a slice, `(N,)`.
        cases: the subject of each slice, `(N,)`.
    """
    _, subject = np.unique(cases, return_inverse=True)
    sums, counts = np.bincount(subject, weights=values), np.bincount(subject)
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return [float(bound) for bound in np.percentile(means, (2.5, 97.5))]


def code_counts(codes, codebook_size):
    """How often each code stands at each position: codes `(N, H, W)` -> int32 `(H, W, K)`."""
    _, height, width = codes.shape
    place = np.arange(height * width).reshape(height, width)
    flat = np.bincount((place * codebook_size + codes).ravel(), minlength=height * width * codebook_size)
    return flat.reshape(height, width, codebook_size).astype("int32")


def usage(codes, codebook_size):
    """`(codes used, perplexity)` of codes of any shape."""
    probability = np.bincount(np.ravel(codes), minlength=codebook_size) / np.size(codes)
    probability = probability[probability > 0]
    return len(probability), float(np.exp(-np.sum(probability * np.log(probability))))


def baseline_bits(codes, counts):
    """Bits of each code under three models without context, fitted to the training codes.

    Args:
        codes: `(N, H, W)` to describe.
        counts: training counts `(H, W, K)` from `code_counts`.

    Returns:
        dict of `uniform`, `unigram` (one histogram, add-one smoothed) and `position` (a histogram a position,
        smoothed towards the unigram with the weight of one slice in a hundred, so that it is no straw man), each `(N, H, W)`.
    """
    size = counts.shape[-1]
    unigram = counts.sum((0, 1)) + 1.0
    unigram /= unigram.sum()
    slices = counts[0, 0].sum()
    position = (counts + 0.01 * slices * unigram) / (1.01 * slices)
    rows, columns = np.indices(codes.shape[1:])
    return {"uniform": np.full(codes.shape, math.log2(size)), "unigram": -np.log2(unigram[codes]), "position": -np.log2(position[rows, columns, codes])}


def brain_places(images, grid):
    """Places of the code map with brain in their pixels: uint8 `(N, S, S)` -> bool `(N, grid, grid)`."""
    step = images.shape[1] // grid
    return (images.reshape(len(images), grid, step, grid, step) > 0).any((2, 4))
