"""Frames: the part of whole slices that the networks see.

A frame is its first row, its first column, and the row and the column after the last.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from networks import check_range


def check_frame(frame: Sequence[int], image_size: int, step: int) -> None:
    """Check a frame, which may come from a stranger's model file.

    Raises:
        ValueError: It is no part of the slice, or its edges are no multiples of `step` apart.
    """
    check_range("frame", frame, int, 0, image_size, length=4)
    top, left, bottom, right = frame
    if top >= bottom or left >= right or (bottom - top) % step or (right - left) % step:
        raise ValueError(
            f"`frame` must be part of the slice, in steps of {step}. Received: frame={frame}"
        )


def cut(images, frame: Sequence[int]):
    """Frames `(B, h, w, ...)` of slices `(B, S, S, ...)`, arrays or tensors."""
    top, left, bottom, right = frame
    return images[:, top:bottom, left:right]


def pad(frames: tf.Tensor, sides: Sequence[int]) -> tf.Tensor:
    """Frames `(B, h, w, 1)` with zeros above, left of, below and right of them."""
    top, left, bottom, right = sides
    return tf.pad(frames, [[0, 0], [top, bottom], [left, right], [0, 0]])


def fill(frames: tf.Tensor, frame: Sequence[int], size: int) -> tf.Tensor:
    """Slices `(B, S, S, 1)` of frames `(B, h, w, 1)`, exactly 0 outside: the inverse of `cut`."""
    return pad(frames, margins(frame, size, size))


def margins(frame: Sequence[int], image_size: int, most: int) -> tuple[int, int, int, int]:
    """Pixels of a slice above, left of, below and right of its frame, at most `most` each."""
    top, left, bottom, right = frame
    return tuple(min(most, side) for side in (top, left, image_size - bottom, image_size - right))


def per_pixel(values: np.ndarray, frame: Sequence[int], image_size: int) -> np.ndarray:
    """Spread values of codes `(N, H, W)` over their pixels: `(N, S, S)`, 0 outside the frame."""
    step = (frame[2] - frame[0]) // values.shape[1]
    blocks = np.kron(values, np.ones((1, step, step), values.dtype))
    top, left, bottom, right = margins(frame, image_size, image_size)
    return np.pad(blocks, ((0, 0), (top, bottom), (left, right)))
