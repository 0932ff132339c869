"""Whether slices are brain-masked, and what a lossy file format left around masked brains.

Slices that were stored as JPEG once have grey values of 1 to 12 around the brain, and some brighter
specks. They say nothing about anatomy, but a model would spend bits on them. So they are set to 0
when slices are read. Slices with scalp are left alone, because there the air has noise of its own.
"""

from collections.abc import Iterable

import numpy as np
import scipy  # which loads `ndimage` at its first use

from sources.layout import BOTTOM, LEFT, RIGHT, TOP

NOISE = 8  # grey values up to this may be noise of the air around a head
SCALP_PIXELS = 50  # a slice with more bright pixels beyond the brain shows scalp
FEW_WITH_SCALP = 0.05  # share of the slices, below which a set is brain-masked

DARK = 12  # highest grey value of the residue
LEAST_PIECE = 0.01  # a piece that is smaller than this share of the largest one is a speck
EIGHT_NEIGHBOURS = np.ones((3, 3))


def shows_scalp(image: np.ndarray) -> bool:
    """Whether a slice, uint8 `(256, 256)`, is bright outside the rows and columns of the brain."""
    bright = image > NOISE
    return (
        np.count_nonzero(bright) - np.count_nonzero(bright[TOP:BOTTOM, LEFT:RIGHT]) > SCALP_PIXELS
    )


def are_masked(with_scalp: Iterable[bool]) -> bool:
    """Whether a set is brain-masked, from what `shows_scalp` says of each of its slices."""
    return float(np.mean(list(with_scalp))) < FEW_WITH_SCALP


def remove_residue(image: np.ndarray) -> np.ndarray:
    """Set the residue of a brain-masked slice to 0.

    Two things are residue: grey values up to `DARK` that are connected to the edge of the image
    through such values, and specks apart from the brain. So a dark ventricle stays.

    Args:
        image: uint8 `(S, S)`.

    Returns:
        uint8 `(S, S)`. No pixel is brighter than before.
    """
    inside = scipy.ndimage.binary_fill_holes(image > DARK)
    pieces, count = scipy.ndimage.label(inside, EIGHT_NEIGHBOURS)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    is_brain = sizes >= LEAST_PIECE * sizes.max()
    is_brain[0] = False
    return np.where(is_brain[pieces], image, 0) if count else np.zeros_like(image)


def frame_of(occupied: np.ndarray, reduction: int) -> tuple[int, int, int, int]:
    """Smallest frame that holds everything in slices and in their mirror images.

    Args:
        occupied: Pixels that are above 0 in any slice, bool `(S, S)`.
        reduction: Pixels that share one code. The edges of the frame are multiples of it.

    Returns:
        First row, first column, and the row and column after the last. Where nothing is occupied
        it is the whole slice.
    """
    edges = []
    for mask in (occupied | occupied[::-1], occupied.T):  # left and right are rows
        places = np.flatnonzero(mask.any(1))
        first, last = (places[0], places[-1]) if len(places) else (0, len(mask) - 1)
        edges.append((first // reduction * reduction, -(-(last + 1) // reduction) * reduction))
    (top, bottom), (left, right) = edges
    return int(top), int(left), int(bottom), int(right)
