"""Where the brain and its ventricles are in an axial slice, and how large they are in people."""

from typing import NamedTuple

import numpy as np
import scipy  # which loads `ndimage` at its first use

from sources.facts import DataFacts

# Shares of the image's 95th percentile: fluid is darker than the first, the head is brighter than
# the second.
DARK, TISSUE = 0.35, 0.15
MEASURED_SIDE = 128  # pixels; larger slices are halved, which is enough for areas and far faster
MARGIN = 4  # pixels around a brain that smoothing still changes


class Regions(NamedTuple):
    """Regions of a slice, each `(H, W)`.

    Attributes:
        smooth: The slice without noise, in [0, 1].
        head: Whether a pixel is in the head, which in a masked slice is the brain.
        ventricles: Whether it is in the ventricles.
    """

    smooth: np.ndarray
    head: np.ndarray
    ventricles: np.ndarray


def regions(image: np.ndarray, side: int) -> Regions:
    """Find the brain and its ventricles, the fluid in its middle.

    That is dark, and at least a fifth of the height of the brain away from its outline.

    Args:
        image: A slice or what is lit of it, float `(H, W)` in [0, 1].
        side: Pixels of a side of the slice.
    """
    smooth = scipy.ndimage.gaussian_filter(image, side / 256)
    lit = smooth[smooth > 0.05]
    level = np.percentile(lit, 95) if len(lit) else 1.0
    head = scipy.ndimage.binary_fill_holes(smooth > TISSUE * level)
    height = np.count_nonzero(head.any(1)) or 1
    depth = scipy.ndimage.distance_transform_edt(head)
    return Regions(smooth, head, (smooth < DARK * level) & (depth > 0.2 * height))


def measured(
    images: np.ndarray, cases: np.ndarray, facts: DataFacts
) -> dict[str, dict[int, float]]:
    """Measure attributes of people: the size of their ventricles and of their brain.

    Args:
        images: Slices without residue, uint8 `(N, S, S)`.
        cases: Case of each, `(N,)`.
        facts: What is known of the set.

    Returns:
        `ventricles` and `brain`: their share of the stack by case. Cases that lack slices are left
        out, because areas differ by level. Nothing is measured in a set that does not show axial
        brains and them alone.
    """
    if not (facts.brain and facts.masked):
        return {}
    shares = {
        case: _shares(images[cases == case])
        for case in np.unique(cases).tolist()
        if np.count_nonzero(cases == case) == facts.levels
    }
    names = ("ventricles", "brain") if shares else ()
    return {name: {case: of[i] for case, of in shares.items()} for i, name in enumerate(names)}


def _shares(stack):
    """Shares of a stack `(K, S, S)` that are ventricles, and brain."""
    if stack.shape[1] > MEASURED_SIDE:
        quarters = (stack[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
        stack = sum(part.astype("float32") for part in quarters) / 4
    side, lit = stack.shape[1], stack.any(0)
    if not lit.any():
        return 0.0, 0.0
    box = []
    for axis in (1, 0):
        places = np.flatnonzero(lit.any(axis))
        box.append(slice(max(0, places[0] - MARGIN), places[-1] + MARGIN + 1))
    found = [regions(image, side) for image in stack[:, *box].astype("float32") / 255]
    sums = np.sum([(of.ventricles.sum(), of.head.sum()) for of in found], axis=0)
    ventricles, brain = sums / stack.size
    return float(ventricles), float(brain)
