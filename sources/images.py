"""Grey images as arrays and as files: conversions between [0, 255] and [0, 1], and 8-bit PNGs."""

import pathlib

import numpy as np
from PIL import Image

from sources.layout import SLICE_SIDE
from utils import replacing


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


def enlarge(image: np.ndarray) -> np.ndarray:
    """Bring a smaller image, uint8 `(S, S)`, to the size of the slices of a data folder."""
    if len(image) == SLICE_SIDE:
        return image
    size = SLICE_SIDE, SLICE_SIDE
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
