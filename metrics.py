"""Measures: the SSIM of Wang et al. 2004 as figure and as training loss, PSNR, intervals, and baselines in bits.

Images are float32 `(B, S, S, 1)` in [0, 1].
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al. 2004, section III-B
SSIM_BORDER = SSIM_WINDOW // 2  # pixels at each edge where the window would leave the image


@functools.lru_cache
def _window_matrix(size):
    """Gaussian window slid along one axis, as a matrix `(size - 10, size)`."""
    weights = np.exp(-0.5 * (np.arange(SSIM_WINDOW) - SSIM_BORDER) ** 2 / SSIM_SIGMA**2)
    rows = [np.pad(weights / weights.sum(), (i, size - SSIM_WINDOW - i)) for i in range(size - SSIM_WINDOW + 1)]
    return np.array(rows, "float32")


def ssim_map(images, reconstructions):
    """Structural similarity at every pixel whose window lies inside the image.

    Data range 1, 11 x 11 Gaussian window of sigma 1.5, population moments (Wang et al. 2004, equation 13).
    Equals `tf.image.ssim`; two small matrix products a moment make it several times as fast as its convolutions.

    Args:
        images, reconstructions: `(B, S, S, 1)` in [0, 1], S at least 11.

    Returns:
        float32 `(B, S - 10, S - 10)`.
    """
    window = tf.constant(_window_matrix(images.shape[1]))
    x, y = tf.cast(images[..., 0], tf.float32), tf.cast(reconstructions[..., 0], tf.float32)

    def mean(values):
        return tf.matmul(tf.matmul(window[None], values), window, transpose_b=True)

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * (2 * covariance + c2) / (variances + c2)


@keras.saving.register_keras_serializable(package="brain_vqvae")
def ssim(images, reconstructions):
    """Mean SSIM of each image with its clipped reconstruction, `(B,)`."""
    return tf.reduce_mean(ssim_map(images, tf.clip_by_value(reconstructions, 0.0, 1.0)), axis=(1, 2))


@keras.saving.register_keras_serializable(package="brain_vqvae")
class ReconstructionLoss(keras.losses.Loss):
    """Pixel and structure term: `10 MSE + MAE + ssim_weight (1 - SSIM)`, an image.

    The squared error weighs ten times the absolute one because it is about a tenth of it at these errors.
    """

    def __init__(self, ssim_weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.ssim_weight = ssim_weight

    def call(self, images, reconstructions):
        error = images - reconstructions
        loss = tf.reduce_mean(10.0 * error**2 + tf.abs(error), axis=(1, 2, 3))
        if self.ssim_weight:
            loss += self.ssim_weight * (1.0 - tf.reduce_mean(ssim_map(images, reconstructions), axis=(1, 2)))
        return loss

    def get_config(self):
        return {**super().get_config(), "ssim_weight": self.ssim_weight}


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
    """Mean bits a code under three models without context, fitted to the training codes.

    Args:
        codes: `(N, H, W)` to describe.
        counts: training counts `(H, W, K)` from `code_counts`.

    Returns:
        dict of `uniform`, `unigram` (one histogram, add-one smoothed) and `position` (a histogram a position,
        smoothed towards the unigram with the weight of one slice in a hundred, so that it is no straw man).
    """
    size = counts.shape[-1]
    unigram = counts.sum((0, 1)) + 1.0
    unigram /= unigram.sum()
    slices = counts[0, 0].sum()
    position = (counts + 0.01 * slices * unigram) / (1.01 * slices)
    rows, columns = np.indices(codes.shape[1:])
    return {
        "uniform": math.log2(size),
        "unigram": float(-np.log2(unigram[codes]).mean()),
        "position": float(-np.log2(position[rows, columns, codes]).mean()),
    }
