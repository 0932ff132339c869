"""Anatomy of slices: areas of brain and ventricles, symmetry, contrast, level by level.

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1, the nose to the right.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, stats

from evaluation.metrics import middle95, subject_interval
from evaluation.two_sample import permuted_labels
from sources.images import to_unit

ANATOMY = ("brain_area", "ventricle_area", "symmetry", "white_over_grey")
# Shares of the image's 95th percentile: fluid is darker than the first, the head is brighter than
# the second.
DARK, TISSUE = 0.35, 0.15
# Curve of the figure -> ending of the range around it.
CURVES = {
    "samples": "ci95",
    "real": "ci95",
    "validation": "ci95",
    "wasserstein": "null95",
    "wasserstein_validation": "null95",
}


def anatomy(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measure the anatomy of each slice.

    Returns:
        dict of `(N,)` each. `brain_area` and `ventricle_area`: shares of the image. `symmetry`:
        correlation of the two halves. `white_over_grey`: 90th over 40th percentile in the brain.
        Ventricles are the fluid in the middle: dark, and at least a fifth of the brain's height
        away from its outline.
    """
    slices = [_slice_anatomy(image) for image in to_unit(images)]
    return {name: np.nan_to_num(np.array([s[name] for s in slices])) for name in ANATOMY}


def _slice_anatomy(image):
    size = image.shape[0]
    smooth = ndimage.gaussian_filter(image, size / 256)
    level = np.percentile(smooth[smooth > 0.05], 95) if (smooth > 0.05).any() else 1.0
    head = ndimage.binary_fill_holes(smooth > TISSUE * level)
    rows = np.flatnonzero(head.any(1))
    height = len(rows) or 1
    depth = ndimage.distance_transform_edt(head)
    grey, white = np.percentile(smooth[head], (40, 90)) if head.any() else (1.0, 1.0)
    return {
        "brain_area": head.mean(),
        "ventricle_area": ((smooth < DARK * level) & (depth > 0.2 * height)).mean(),
        "symmetry": _symmetry(ndimage.gaussian_filter(image, size / 64), head, rows),
        "white_over_grey": white / max(grey, 1e-3),
    }


def _symmetry(blurred, head, rows):
    """Correlation of an image with its mirror image about the middle of the head's rows."""
    size = len(blurred)
    middle = (rows[0] + rows[-1]) if len(rows) else size - 1
    mirror = np.clip(middle - np.arange(size), 0, size - 1)
    both = head & head[mirror]
    if both.sum() <= 2:
        return 0.0
    return np.corrcoef(blurred[both], blurred[mirror][both])[0, 1]


class Values(NamedTuple):
    """One figure of some slices.

    Attributes:
        values: The figure of each slice, `(N,)`.
        levels: Level of each slice, `(N,)`.
        groups: Subject or drawn brain of each slice, str `(N,)`.
    """

    values: np.ndarray
    levels: np.ndarray
    groups: np.ndarray


def compare_anatomy(sets: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Compare the anatomy of drawn, real and other real slices, overall and by level.

    Args:
        sets: Images, levels and groups of `samples`, of `real`, and of `validation`, which are
            real slices of other people.

    Returns:
        `anatomy` of `metrics.json`: `levels`, which are those that all sets have, and for each of
        `ANATOMY` its means, and Wasserstein distances to the real slices of one level at a time.
        Means by level have a 95 % bootstrap over people or drawn brains.
    """
    shared = functools.reduce(np.intersect1d, [levels for _, levels, _ in sets.values()])
    measured = {}
    for name, (images, levels, groups) in sets.items():
        kept = np.isin(levels, shared)
        measured[name] = anatomy(images[kept]), levels[kept], groups[kept]
    report = {"levels": shared.tolist()}
    for figure in ANATOMY:
        rows = {name: Values(found[figure], *rest) for name, (found, *rest) in measured.items()}
        report[figure] = {name: float(row.values.mean()) for name, row in rows.items()}
        for name, row in rows.items():
            report[figure] |= _means_by_level(name, row)
        report[figure] |= wasserstein("wasserstein", rows["samples"], rows["real"])
        report[figure] |= wasserstein("wasserstein_validation", rows["validation"], rows["real"])
    return report


def _means_by_level(name, row):
    here = [row.levels == level for level in np.unique(row.levels)]
    return {
        f"{name}_by_level": [float(row.values[rows].mean()) for rows in here],
        f"{name}_by_level_ci95": [
            subject_interval(row.values[rows], row.groups[rows]) for rows in here
        ],
    }


def wasserstein(name: str, one: Values, other: Values, seed: int = 0) -> dict[str, Any]:
    """Distance between the distributions of a figure, at each level of both sets, and its mean.

    The distance of finite sets is above 0 even if they do not differ. So the range beside it is
    that of distances where groups change sides at random. A bootstrap would add distance.

    Args:
        name: Name of the distance.
        one: A set.
        other: Another. Equal groups are the same on both sides.
        seed: Seed of the permutations.

    Returns:
        dict of `name`, the mean over levels, and `name_by_level`, by rising level. Each has its
        null range `_null95`: where the sets do not differ, 95 % of distances lie in it. A distance
        or a range is NaN where a side has no slices.
    """
    values, levels, groups = map(np.concatenate, zip(one, other))
    y = np.repeat([0, 1], [len(one.values), len(other.values)])
    shared = [np.flatnonzero(levels == level) for level in np.intersect1d(one.levels, other.levels)]

    def distances(y):
        return [_distance(values[rows], y[rows]) for rows in shared]

    by_level = distances(y)
    null = np.array([distances(labels) for labels in permuted_labels(y, groups, seed)])
    return {
        name: float(_defined(by_level).mean()),
        f"{name}_null95": middle95(_defined([_defined(row).mean() for row in null])),
        f"{name}_by_level": by_level,
        f"{name}_by_level_null95": [middle95(_defined(column)) for column in null.T],
    }


def _distance(values, y):
    sets = [values[y == side] for side in (0, 1)]
    return float(stats.wasserstein_distance(*sets)) if all(map(len, sets)) else math.nan


def _defined(values):
    """Values that are no NaN, or one NaN if all are."""
    values = np.asarray(values, float)
    defined = values[~np.isnan(values)]
    return defined if len(defined) else np.array([math.nan])


def anatomy_curves(report: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of the figure of `compare_anatomy`: `levels` `(L,)`, and `(F, L, 3)` by curve.

    Each curve has a mean or a distance, and the ends of its range. Levels at which a distance is
    undefined are left out.
    """
    curves, size = {}, (len(ANATOMY), len(report["levels"]))
    for curve, ending in CURVES.items():
        middle = [report[figure][f"{curve}_by_level"] for figure in ANATOMY]
        ends = [report[figure][f"{curve}_by_level_{ending}"] for figure in ANATOMY]
        parts = np.reshape(middle, (*size, 1)), np.reshape(ends, (*size, 2))
        curves[curve] = np.concatenate(parts, axis=-1)
    defined = np.all([np.isfinite(values).all((0, 2)) for values in curves.values()], axis=0)
    levels = np.array(report["levels"])[defined]
    return {"levels": levels, **{curve: values[:, defined] for curve, values in curves.items()}}
