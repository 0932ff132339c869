"""Structural similarity (SSIM), and the loss of the VQ-VAE that is built on it.

Images are float32 `(B, S, S, 1)` in [0, 1], frames `(B, h, w, 1)`.

Reference:
    Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity.
"""

import functools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from networks.frames import margins, pad

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; section III-B
C1, C2 = 0.01**2, 0.03**2  # for data range 1
SSIM_BORDER = SSIM_WINDOW // 2  # pixels at each edge where the window would leave the image


@functools.lru_cache
def _window_matrix(size):
    """Gaussian window at each place along one axis, as a matrix `(size - 10, size)`."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_BORDER
    weights = np.exp(-0.5 * offsets**2 / SSIM_SIGMA**2)
    weights = weights / weights.sum()
    places = size - SSIM_WINDOW + 1
    rows = [np.pad(weights, (i, places - 1 - i)) for i in range(places)]
    return np.array(rows, "float32")


def _moments(images, reconstructions):
    """Means, variances and covariance in the window around each pixel, `(B, h - 10, w - 10)` each.

    Two small matrix products a moment are several times as fast as the convolutions of
    `tf.image.ssim`.
    """
    down, across = (tf.constant(_window_matrix(size)) for size in images.shape[1:3])
    x = tf.cast(images[..., 0], tf.float32)  # (B, h, w)
    y = tf.cast(reconstructions[..., 0], tf.float32)

    def mean(values):
        return tf.matmul(tf.matmul(down[None], values), across, transpose_b=True)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    return mean_x, mean_y, variance_x, variance_y, mean(x * y) - mean_x * mean_y


def _ssim(mean_x, mean_y, variance_x, variance_y, covariance):
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance * (2 * covariance + C2) / (variance_x + variance_y + C2)


def ssim_map(images, reconstructions) -> tf.Tensor:
    """Compute structural similarity at every pixel whose window lies inside the image.

    Data range 1, 11 x 11 Gaussian window of sigma 1.5, population moments (Wang et al. 2004,
    equation 13). Images `(B, S, S, 1)` with S at least 11 give float32 `(B, S - 10, S - 10)`.
    """
    return _ssim(*_moments(images, reconstructions))


def ssim(images, reconstructions) -> tf.Tensor:
    """Compute the mean SSIM of each image with its clipped reconstruction, `(B,)`."""
    return tf.reduce_mean(ssim_map(images, tf.clip_by_value(reconstructions, 0.0, 1.0)), (1, 2))


def frame_ssim(images, reconstructions, frame: Sequence[int], image_size: int) -> tf.Tensor:
    """Compute the mean SSIM of whole slices `(B,)` from their frames, outside of which both are 0.

    A window that does not reach the frame sees zeros on both sides, where SSIM is 1. So the figure
    is that of `ssim` on the whole slices.

    Args:
        images: Frames of originals, `(B, h, w, 1)` in [0, 1].
        reconstructions: Frames of reconstructions. They are clipped.
        frame: See `networks.frames`.
        image_size: Pixels S of a side of the slices.
    """
    sides = margins(frame, image_size, SSIM_WINDOW - 1)
    clipped = tf.clip_by_value(reconstructions, 0.0, 1.0)
    maps = ssim_map(pad(images, sides), pad(clipped, sides))
    places = (image_size - SSIM_WINDOW + 1) ** 2
    return 1.0 - tf.reduce_sum(1.0 - maps, axis=(1, 2)) / places


class ReconstructionLoss(keras.losses.Loss):
    """`3 MSE + 0.3 MAE + ssim_weight (1 - SSIM) + contrast_weight (1 - contrast)` of each image.

    Contrast is the factor of SSIM with that name (Wang et al. 2004, equation 9). It compares the
    two variances in a window and needs no covariance, so it works against the blur that the
    other terms favour. The squared error weighs ten times the absolute error, because it is about
    a tenth of it at these errors.

    Args:
        ssim_weight: Weight of `1 - SSIM`, 0 or more.
        contrast_weight: Weight of `1 - contrast`, 0 or more.
        sides: Zeros above, left of, below and right of the images, so that a window may reach
            over their edges. See `margins`.
    """

    def __init__(self, ssim_weight=1.0, contrast_weight=3.0, sides=(0, 0, 0, 0), **kwargs):
        super().__init__(**kwargs)
        self.ssim_weight, self.contrast_weight = ssim_weight, contrast_weight
        self.sides = tuple(sides)

    def call(self, images, reconstructions):
        error = images - reconstructions
        loss = tf.reduce_mean(3.0 * error**2 + 0.3 * tf.abs(error), axis=(1, 2, 3))
        if self.ssim_weight or self.contrast_weight:
            if any(self.sides):
                images = pad(images, self.sides)
                reconstructions = pad(reconstructions, self.sides)
            moments = _moments(images, reconstructions)
            # Rounding can make a variance of zero negative, and a root has no gradient at zero:
            # half of C2 keeps away from both.
            x, y = (tf.maximum(variance, 0.0) + C2 / 2 for variance in moments[2:4])
            contrast = 2 * tf.sqrt(x * y) / (x + y)
            terms = self.ssim_weight * (1.0 - _ssim(*moments))
            terms += self.contrast_weight * (1.0 - contrast)
            loss += tf.reduce_mean(terms, axis=(1, 2))
        return loss
