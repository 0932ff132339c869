"""Two-sample tests: can a classifier tell two sets of images apart?

It is a logistic regression on principal components of fixed features, and it is tested on groups
that it has not seen. Images are uint8 or float `(N, h, w)`, 0 to 255 or 0 to 1. A group is a
subject, a drawn brain, or a slice that was drawn by itself.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.metrics import middle95
from sources.images import to_unit
from utils import progress

SEED = 0  # of folds, classifier, bootstrap and permutations
FOLDS = 5
PERMUTATIONS = 200  # of groups, for the range of a figure where two sets do not differ
COMPONENTS = 50  # principal components that the classifier sees, at most


def pool(images: np.ndarray, size: int) -> np.ndarray:
    """Average over cells that cover the image and are equal to within a pixel.

    Args:
        images: `(N, h, w)`.
        size: Cells of a side. A shorter side has a cell for each pixel.

    Returns:
        `(N, size, size)`.
    """
    areas = 1
    for axis in (1, 2):
        length = images.shape[axis]
        edges = np.linspace(0, length, min(size, length) + 1).astype(int)
        images = np.add.reduceat(images, edges[:-1], axis=axis)
        areas = np.multiply.outer(areas, np.diff(edges))
    return images / areas


def features(images: np.ndarray) -> np.ndarray:
    """Compute fixed features of each image `(h, w)`: layout, and texture at four scales.

    They are `(N, 512)`, or fewer where a side is shorter than 16 pixels.

    Layout is the image at 16 x 16. Texture is the log energy of four octaves of a pyramid of
    differences of Gaussians over 8 x 8 cells, so that blur, noise and a broken cortex show.
    """
    images = to_unit(images)
    parts = [pool(images, 16).reshape(len(images), -1)]
    before = images
    for octave in range(4):
        after = ndimage.gaussian_filter(images, (0, 2.0**octave, 2.0**octave))
        energy = np.log(pool((before - after) ** 2, 8) + 1e-5)
        parts.append(energy.reshape(len(images), -1))
        before = after
    return np.concatenate(parts, axis=1)


class Rows(NamedTuple):
    """Features of a set of images.

    Attributes:
        features: `(N, F)`.
        groups: Group of each row, str `(N,)`. All rows of a group are in one fold, so that knowing
            a brain is no help. Equal values in two sets name the same group.
    """

    features: np.ndarray
    groups: np.ndarray


def two_sample(pairs: dict[str, tuple[Rows, Rows]]) -> dict[str, Any]:
    """Held-out accuracy of a classifier that distinguishes two sets, for some pairs of sets.

    The null range is that of the accuracy where the sets do not differ: groups change sides at
    random, `PERMUTATIONS` times. With few groups its middle lies below 0.5. A held-out group is
    missing from its own side. So the mean of that side moves away from it, and the group looks like
    one of the other side.

    Args:
        pairs: Both sets by the name of the accuracy.

    Returns:
        dict of each accuracy in [0, 1] by its name, `_ci95` and `_null95`. The first interval is a
        95 % bootstrap over groups. It does not cover the variation from training on other groups.
        In the second 95 % of the accuracies lie where the sets do not differ.

    References:
        Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests.
        Ojala and Garriga 2010, Permutation Tests for Studying Classifier Performance.
    """
    report = {}
    for name, pair in progress(pairs.items(), "distinguishing sets", len(pairs), "pair"):
        x, groups, y = _joined(*pair)
        labels = [y, *permuted_labels(y, groups)]
        right = _classified(x, labels, groups)
        value, *null = map(_mean_of_sides, right, labels)
        interval = _interval(right[0], y, groups)
        report |= {name: value, f"{name}_ci95": interval, f"{name}_null95": middle95(null)}
    return report


def accuracy(one: Rows, other: Rows) -> float:
    """The accuracy of `two_sample` alone, which takes a small part of the time."""
    x, groups, y = _joined(one, other)
    return _mean_of_sides(*_classified(x, [y], groups), y)


def _joined(one, other):
    """Features, groups and sides of all rows of two sets."""
    y = np.repeat([0, 1], [len(one.groups), len(other.groups)])
    return *map(np.concatenate, zip(one, other)), y


def _mean_of_sides(right, y):
    """Mean accuracy of both sides."""
    return float(np.mean([right[y == c].mean() for c in (0, 1)]))


def _classified(x, labels, groups):
    """Whether each row is classified rightly, `(P, N)`, for P labellings `(N,)` of the rows."""
    right = np.zeros((len(labels), len(x)))
    for train, test in _folds(groups):
        count = min(COMPONENTS, len(train) - 1, x.shape[1])
        components = make_pipeline(StandardScaler(), PCA(count, random_state=SEED)).fit(x[train])
        known, unseen = components.transform(x[train]), components.transform(x[test])
        for row, y in zip(right, labels):
            row[test] = _predict(known, y[train], unseen) == y[test]
    return right


def _predict(known, y, unseen):
    """Sides of unseen rows. Both sides weigh the same whatever their sizes."""
    if not np.ptp(y):  # all groups of the other set are held out
        return np.full(len(unseen), y[0])
    model = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    return model.fit(known, y).predict(unseen)


def _folds(groups):
    """Rows to learn from, and rows to classify, of each fold."""
    shuffled = np.random.default_rng(SEED).permutation(len(groups))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for train, test in folds.split(shuffled, groups=groups[shuffled]):
        yield shuffled[train], shuffled[test]


def permuted_labels(y: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the labels of all rows when groups change sides at random, `PERMUTATIONS` times.

    A group of both sides swaps them or not. The others are dealt out in the same numbers.

    Args:
        y: Side of each row, 0 or 1, `(N,)`.
        groups: Group of each row, `(N,)`.
    """
    rng = np.random.default_rng(SEED)
    numbers = np.unique(groups, return_inverse=True)[1]
    has = np.stack([np.bincount(numbers[y == c], minlength=numbers.max() + 1) > 0 for c in (0, 1)])
    both = has.all(0)
    for _ in range(PERMUTATIONS):
        swap, dealt = rng.integers(0, 2, len(both)), has[1].astype(int)
        dealt[~both] = rng.permutation(dealt[~both])
        yield np.where(both[numbers], y ^ swap[numbers], dealt[numbers])


def _interval(right, y, groups):
    """95 % bootstrap over groups of `_mean_of_sides`."""
    numbers = np.unique(groups, return_inverse=True)[1]
    size = numbers.max() + 1
    # both are (2, groups)
    sums = np.stack([np.bincount(numbers[y == c], right[y == c], size) for c in (0, 1)])
    counts = np.stack([np.bincount(numbers[y == c], minlength=size) for c in (0, 1)])
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(size, np.full(size, 1 / size), 1000)  # (1000, groups)
    resampled = ((draws @ sums.T) / np.maximum(draws @ counts.T, 1)).mean(1)
    return middle95(resampled)


def half(groups: np.ndarray) -> np.ndarray:
    """Rows of one half of the groups, drawn at random, bool `(N,)`."""
    names = np.unique(groups)
    chosen = np.random.default_rng(SEED).permutation(names)[: len(names) // 2]
    return np.isin(groups, chosen)


def nearest(images: np.ndarray, others: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of `others` for each image, or for each stack of images.

    Args:
        images: `(N, ..., S, S)`.
        others: `(M, ..., S, S)`.
        size: Pixels of a side to which all are reduced first.

    Returns:
        `(distances, which)`, both `(N,)`: the root mean square distance, and the index.
    """

    def flat(values):
        return pool(to_unit(values).reshape(-1, *values.shape[-2:]), size).reshape(len(values), -1)

    a, b = flat(images), flat(others)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    which = squares.argmin(1)
    return np.sqrt(np.mean((a - b[which]) ** 2, axis=1)), which
