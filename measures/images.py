"""Grey images as arrays and as files: conversions between [0, 255] and [0, 1], and 8-bit PNGs."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sources.layout import SLICE_SIDE
from utils import replacing

ERODED = 6 / 256  # of a side


def to_grey(images) -> np.ndarray:
    """Bring images to grey values: float in [0, 1], or uint8 already, of any shape -> uint8."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.round(images * 255).astype("uint8")


def to_unit(images) -> np.ndarray:
    """Bring images to [0, 1]: uint8, or float in [0, 1] already, of any shape -> float32."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype("float32") / 255.0
    return images.astype("float32")


def write_png(path: pathlib.Path, image) -> None:
    """Write an image `(S, S)`, float in [0, 1] or uint8, as an 8-bit grey PNG."""
    with replacing(path) as temporary:
        Image.fromarray(to_grey(image)).save(temporary)


def inner_brain(image: np.ndarray) -> np.ndarray:
    """Find the eroded brain, where the edge of the brain mask does not reach: bool `(S, S)`.

    The brain is all that is not 0, with its holes. It loses `ERODED` of a side all around.

    Args:
        image: uint8 `(S, S)`.
    """
    # Training imports this file, and need not wait for it.
    from scipy import ndimage  # noqa: PLC0415

    brain = ndimage.binary_fill_holes(image > 0)
    return ndimage.distance_transform_edt(brain) > ERODED * len(image)


def enlarge(image: np.ndarray) -> np.ndarray:
    """Bring a smaller image, uint8 `(S, S)`, to the size of the slices of a data folder."""
    if len(image) == SLICE_SIDE:
        return image
    size = SLICE_SIDE, SLICE_SIDE
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


# ---- frames: the part of whole slices that the networks see ------------------------------------


def margins(frame: Sequence[int], image_size: int, most: int) -> tuple[int, int, int, int]:
    """Pixels of a slice above, left of, below and right of its frame, at most `most` each.

    Args:
        frame: First row, first column, and the row and column after the last.
        image_size: Pixels S of a side of the slice.
        most: Most pixels to count.
    """
    top, left, bottom, right = frame
    return tuple(min(most, side) for side in (top, left, image_size - bottom, image_size - right))


def cut(images: np.ndarray, frame: Sequence[int]) -> np.ndarray:
    """Frames `(N, h, w)` of whole slices `(N, S, S)`."""
    top, left, bottom, right = frame
    return images[:, top:bottom, left:right]


def fill(frames: np.ndarray, frame: Sequence[int], image_size: int, value: float = 0) -> np.ndarray:
    """Whole slices `(N, S, S)` of frames `(N, h, w)`, the inverse of `cut`.

    Args:
        frames: Values in the frame.
        frame: First row, first column, and the row and column after the last.
        image_size: Pixels S of a side.
        value: Value outside the frame.
    """
    top, left, bottom, right = margins(frame, image_size, image_size)
    padding = (0, 0), (top, bottom), (left, right)
    return np.pad(frames, padding, constant_values=value)


def per_pixel(values: np.ndarray, frame: Sequence[int], image_size: int) -> np.ndarray:
    """Spread values of codes `(N, H, W)` over their pixels: `(N, S, S)`, 0 outside the frame."""
    step = (frame[2] - frame[0]) // values.shape[1]
    blocks = np.kron(values, np.ones((1, step, step), values.dtype))
    return fill(blocks, frame, image_size)
