"""Whether slices are masked, and what a lossy file format left around masked brains.

Slices that were stored as JPEG once have grey values of 1 to 12 around the brain, and some brighter
specks. They say nothing about anatomy, but a model would spend bits on them. So they are set to 0
when slices of such a set are read. Slices with scalp are left alone, because there the air has
noise of its own.
"""

from collections.abc import Iterable

import numpy as np
import scipy  # which loads `ndimage` at its first use

from sources.facts import OASIS, DataFacts
from sources.layout import BOTTOM, LEFT, RIGHT, SLICE_SIDE, TOP

NOISE = 8  # grey values up to this may be noise of the air around a head
SCALP_PIXELS = 50  # a slice of 256 x 256 with more bright pixels beyond the brain shows scalp
FEW_UNMASKED = 0.05  # share of the slices, below which a set is masked

DARK = 12  # highest grey value of the residue
LEAST_BACKGROUND = 0.1  # share of a masked slice that is dark, at least half of it exactly black
LEAST_PIECE = 0.01  # a piece that is smaller than this share of the largest one is a speck
EIGHT_NEIGHBOURS = np.ones((3, 3))


def is_unmasked(image: np.ndarray, facts: DataFacts) -> bool:
    """Whether a slice, uint8 `(S, S)`, shows something around the organ.

    Brains lie in one place, and a slice with scalp is bright beyond it. Another organ may lie
    anywhere. There a masked slice has a background, which is black but for residue.
    """
    side = len(image)
    if facts.brain:
        top, bottom, left, right = (e * side // SLICE_SIDE for e in (TOP, BOTTOM, LEFT, RIGHT))
        bright = image > NOISE
        beyond = np.count_nonzero(bright) - np.count_nonzero(bright[top:bottom, left:right])
        return beyond * SLICE_SIDE**2 > SCALP_PIXELS * side**2
    if facts.content:
        top, left, bottom, right = facts.content
        image = image[top:bottom, left:right]
    black, dark = np.count_nonzero(image == 0), np.count_nonzero(image <= DARK)
    return dark < LEAST_BACKGROUND * image.size or 2 * black < dark


def is_masked(images: Iterable[np.ndarray], facts: DataFacts) -> bool:
    """Whether a set is masked: as its facts say, else found in its slices, uint8 `(S, S)` each."""
    if facts.masked is not None:
        return facts.masked
    return float(np.mean([is_unmasked(image, facts) for image in images])) < FEW_UNMASKED


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


def frame_of(
    occupied: np.ndarray, reduction: int, facts: DataFacts = OASIS
) -> tuple[int, int, int, int]:
    """Smallest frame that holds everything in slices and in their mirror images.

    Args:
        occupied: Pixels that are above 0 in any slice, bool `(S, S)`.
        reduction: Pixels that share one code. The edges of the frame are multiples of it.
        facts: They say what a mirror image is.

    Returns:
        First row, first column, and the row and column after the last. Where nothing is occupied
        it is the whole slice.
    """
    edges, occupied = [], occupied | facts.mirrored(occupied)
    for mask in (occupied, occupied.T):
        places = np.flatnonzero(mask.any(1))
        first, last = (places[0], places[-1]) if len(places) else (0, len(mask) - 1)
        edges.append((first // reduction * reduction, -(-(last + 1) // reduction) * reduction))
    (top, bottom), (left, right) = edges
    return int(top), int(left), int(bottom), int(right)
