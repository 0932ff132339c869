"""Frames: the part of whole slices that the networks see."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def cut(images, frame: Sequence[int]):
    """Frames `(B, h, w, ...)` of slices `(B, S, S, ...)`, arrays or tensors."""
    top, left, bottom, right = frame
    return images[:, top:bottom, left:right]


def fill(frames: tf.Tensor, frame: Sequence[int], size: int) -> tf.Tensor:
    """Slices `(B, S, S, 1)` of frames `(B, h, w, 1)`, exactly 0 outside: the inverse of `cut`."""
    top, left, bottom, right = frame
    return tf.pad(frames, [[0, 0], [top, size - bottom], [left, size - right], [0, 0]])


def margins(frame: Sequence[int], image_size: int, most: int) -> tuple[int, int, int, int]:
    """Pixels of a slice above, left of, below and right of its frame, at most `most` each.

    Args:
        frame: First row, first column, and the row and column after the last.
        image_size: Pixels S of a side of the slice.
        most: Most pixels to count.
    """
    top, left, bottom, right = frame
    return tuple(min(most, side) for side in (top, left, image_size - bottom, image_size - right))


def per_pixel(values: np.ndarray, frame: Sequence[int], image_size: int) -> np.ndarray:
    """Spread values of codes `(N, H, W)` over their pixels: `(N, S, S)`, 0 outside the frame."""
    step = (frame[2] - frame[0]) // values.shape[1]
    blocks = np.kron(values, np.ones((1, step, step), values.dtype))
    top, left, bottom, right = margins(frame, image_size, image_size)
    return np.pad(blocks, ((0, 0), (top, bottom), (left, right)))
