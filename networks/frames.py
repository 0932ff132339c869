"""Frames: the part of whole slices that the networks see."""

from collections.abc import Sequence

import tensorflow as tf


def cut(images: tf.Tensor, frame: Sequence[int]) -> tf.Tensor:
    """Frames `(B, h, w, 1)` of slices `(B, S, S, 1)`."""
    top, left, bottom, right = frame
    return images[:, top:bottom, left:right]


def fill(frames: tf.Tensor, frame: Sequence[int], size: int) -> tf.Tensor:
    """Slices `(B, S, S, 1)` of frames `(B, h, w, 1)`, exactly 0 outside: the inverse of `cut`."""
    top, left, bottom, right = frame
    return tf.pad(frames, [[0, 0], [top, size - bottom], [left, size - right], [0, 0]])
