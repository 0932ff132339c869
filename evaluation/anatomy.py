"""Anatomy of slices: areas of brain and ventricles, symmetry, contrast, level by level.

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1. Brains have the nose to the right.
"""

import functools
from typing import Any

import numpy as np
from scipy import ndimage

from evaluation.metrics import subject_interval
from sources.anatomy import regions
from sources.facts import OASIS, DataFacts
from sources.images import to_unit

ANATOMY = ("brain_area", "ventricle_area", "symmetry", "white_over_grey")


def measured(facts: DataFacts) -> tuple[str, ...]:
    """Those of `ANATOMY` that mean something in a set."""
    if facts.brain:
        return ANATOMY
    return () if facts.mirror == "none" else ("symmetry",)


def anatomy(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measure the anatomy of each slice.

    Returns:
        dict of `(N,)` each. `brain_area` and `ventricle_area`: shares of the image. `symmetry`:
        correlation of the two halves. `white_over_grey`: 90th over 40th percentile in the brain.
        `upper_ventricle_area`: of the ventricle area, what lies above the middle row of the brain.
        `sources.anatomy` says what ventricles are.
    """
    slices = [_slice_anatomy(image) for image in to_unit(images)]
    return {name: np.nan_to_num(np.array([s[name] for s in slices])) for name in slices[0]}


def _slice_anatomy(image):
    size = len(image)
    smooth, head, inner = regions(image, size)
    grey, white = np.percentile(smooth[head], (40, 90)) if head.any() else (1.0, 1.0)
    blurred = ndimage.gaussian_filter(image, size / 64)
    rows = np.flatnonzero(head.any(1))
    middle = rows[0] + rows[-1] if len(rows) else size - 1  # twice the middle row of the brain
    return {
        "brain_area": head.mean(),
        "ventricle_area": inner.mean(),
        "upper_ventricle_area": inner[: (middle + 1) // 2].sum() / inner.size,
        "symmetry": _symmetry(blurred, head, middle),
        "white_over_grey": white / max(grey, 1e-3),
    }


def _symmetry(blurred, head, middle):
    """Correlation of an image with its mirror image about the middle row of the brain."""
    size = len(blurred)
    mirror = np.clip(middle - np.arange(size), 0, size - 1)
    both = head & head[mirror]
    if both.sum() <= 2:
        return 0.0
    return np.corrcoef(blurred[both], blurred[mirror][both])[0, 1]


def compare_anatomy(
    sets: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], facts: DataFacts = OASIS
) -> dict[str, Any]:
    """Compare the anatomy of drawn, real and other real slices, overall and by level.

    Args:
        sets: Images, levels and groups of `samples`, of `real`, and of `validation`, which are
            real slices of other people. A group is a person or a drawn stack.
        facts: What is known of the real slices.

    Returns:
        `anatomy` of `metrics.json`: `levels`, which are those that all sets have, and for each
        `measured` figure the mean of each set, and its means by level with a 95 % bootstrap over
        groups.
    """
    shared = functools.reduce(np.intersect1d, [levels for _, levels, _ in sets.values()])
    report = {"levels": shared.tolist(), **{figure: {} for figure in measured(facts)}}
    for name, (images, levels, groups) in sets.items():
        kept = np.isin(levels, shared)
        levels, groups = levels[kept], groups[kept]
        by_level = [levels == level for level in shared]
        images = images.swapaxes(1, 2) if facts.mirror == "columns" else images
        found = anatomy(images[kept])
        for figure, values in ((figure, found[figure]) for figure in measured(facts)):
            report[figure] |= {
                name: float(values.mean()),
                f"{name}_by_level": [float(values[here].mean()) for here in by_level],
                f"{name}_by_level_ci95": [
                    subject_interval(values[here], groups[here]) for here in by_level
                ],
            }
    return report
