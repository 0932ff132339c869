"""Two-sample tests: can a classifier, or a kernel, tell two sets of images apart?

Images are uint8 or float `(N, h, w)`, 0 to 255 or 0 to 1. Features of them are `(N, F)`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sources.images import to_unit

FOLDS = 5
BIT_CELLS = 4  # of a side, over which bits are averaged
PAIR_BUCKETS = 512  # of pairs of neighbouring codes, in each direction
PAIR_PRIMES = np.array([7919, 104_729, 1_299_709], "uint64")  # of their hash
PERMUTATIONS = 200  # of groups, for the range of a figure where two sets do not differ
COMPONENTS = 50  # principal components that the classifier sees, at most

# Rows to learn from `(N, ...)`, 0 or 1 for each, unseen rows `(M, ...)`, seed -> 0 or 1, `(M,)`.
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


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


def logistic(x: np.ndarray, y: np.ndarray, unseen: np.ndarray, seed: int = 0) -> np.ndarray:
    """Classify by a logistic regression on principal components.

    Both classes weigh the same whatever their sizes.

    Args:
        x: Features to learn from, `(N, F)`.
        y: 0 or 1 for each, `(N,)`.
        unseen: Features to classify, `(M, F)`.
        seed: Seed of the components.

    Returns:
        0 or 1 for each of the unseen, `(M,)`.
    """
    components = _components(x, seed)
    return _predict(components.transform(x), y, components.transform(unseen))


def _components(x, seed):
    count = min(COMPONENTS, len(x) - 1, x.shape[1])
    return make_pipeline(StandardScaler(), PCA(count, random_state=seed)).fit(x)


def _predict(known, y, unseen):
    if not np.ptp(y):  # all groups of the other set are held out
        return np.full(len(unseen), y[0])
    model = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    return model.fit(known, y).predict(unseen)


def two_sample(
    one: np.ndarray,
    other: np.ndarray,
    one_groups: np.ndarray,
    other_groups: np.ndarray,
    seed: int = 0,
    classify: Classify = logistic,
) -> tuple[float, list[float]]:
    """Held-out accuracy of a classifier that tells two sets apart, see also `null_range`.

    All slices of a group, which is a subject, are in one fold, so that knowing a brain is no help.

    Args:
        one: What the classifier sees of one set, such as features `(N, F)`.
        other: The same of the other set, `(M, F)`.
        one_groups: Group of each row, `(N,)`.
        other_groups: Group of each row, `(M,)`. Equal values name the same group on both sides.
        seed: Seed of the folds, the classifier and the bootstrap.
        classify: The classifier.

    Returns:
        `(accuracy, [low, high])`: the interval is a 95 % bootstrap over groups. It does not cover
        the variation from training on other groups.

    Reference:
        Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests.
    """
    x, y = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
    groups = np.concatenate([one_groups, other_groups])
    right = np.zeros(len(x))
    for train, test in _folds(groups, seed):
        right[test] = classify(x[train], y[train], x[test], seed) == y[test]
    return _accuracy_interval(right, y, groups, seed)


def null_range(
    one: np.ndarray,
    other: np.ndarray,
    one_groups: np.ndarray,
    other_groups: np.ndarray,
    seed: int = 0,
) -> list[float]:
    """Range of the accuracy of `logistic` where two sets do not differ.

    Groups change sides at random, `PERMUTATIONS` times. With few groups the middle of the range
    lies below 0.5. A held-out group is missing from its own side. So the mean of that side moves
    away from it, and the group looks like one of the other side.

    Args:
        one: See `two_sample`.
        other: See `two_sample`.
        one_groups: See `two_sample`.
        other_groups: See `two_sample`.
        seed: Seed of the folds, the classifier and the permutations.

    Returns:
        `[low, high]`: 95 % of these accuracies lie between the two.

    Reference:
        Ojala and Garriga 2010, Permutation Tests for Studying Classifier Performance.
    """
    x, y = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
    groups = np.concatenate([one_groups, other_groups])
    labels = list(_permuted_labels(y, groups, seed))
    right = np.zeros((len(labels), len(x)))
    for train, test in _folds(groups, seed):
        components = _components(x[train], seed)
        known, unseen = components.transform(x[train]), components.transform(x[test])
        for own, y in zip(right, labels):
            own[test] = _predict(known, y[train], unseen) == y[test]
    accuracies = [np.mean([own[y == c].mean() for c in (0, 1)]) for own, y in zip(right, labels)]
    return [float(v) for v in np.percentile(accuracies, (2.5, 97.5))]


def _folds(groups, seed):
    """Rows to learn from, and rows to classify, of each fold."""
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(shuffled, groups=groups[shuffled]):
        yield shuffled[train], shuffled[test]


def _permuted_labels(y, groups, seed):
    """Labels of all rows, `(N,)`, when groups change sides at random.

    A group of both sides swaps them or not. The others are dealt out in the same numbers.
    """
    rng = np.random.default_rng(seed)
    numbers = np.unique(groups, return_inverse=True)[1]
    has = np.stack([np.bincount(numbers[y == c], minlength=numbers.max() + 1) > 0 for c in (0, 1)])
    both = has.all(0)
    for _ in range(PERMUTATIONS):
        swap, dealt = rng.integers(0, 2, len(both)), has[1].astype(int)
        dealt[~both] = rng.permutation(dealt[~both])
        yield np.where(both[numbers], y ^ swap[numbers], dealt[numbers])


def _accuracy_interval(right, y, groups, seed):
    """Mean accuracy of both classes and its 95 % bootstrap over groups."""
    numbers = np.unique(groups, return_inverse=True)[1]
    size = numbers.max() + 1
    # both are (2, groups)
    sums = np.stack([np.bincount(numbers[y == c], right[y == c], size) for c in (0, 1)])
    counts = np.stack([np.bincount(numbers[y == c], minlength=size) for c in (0, 1)])
    accuracy = (sums.sum(1) / counts.sum(1)).mean()
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(size, np.full(size, 1 / size), 1000)  # (1000, groups)
    resampled = ((draws @ sums.T) / np.maximum(draws @ counts.T, 1)).mean(1)
    return float(accuracy), [float(v) for v in np.percentile(resampled, (2.5, 97.5))]


@dataclasses.dataclass(frozen=True)
class CodeMaps:
    """Codes of slices, and what they cost.

    Attributes:
        codes: int32 `(N, H, W)`.
        bits: Bits of each code to the prior, given the slices below, `(N, H, W)`.
        groups: Group of each slice, `(N,)`: a subject, or a drawn brain.
    """

    codes: np.ndarray
    bits: np.ndarray
    groups: np.ndarray

    def pick(self, indices: np.ndarray) -> "CodeMaps":
        """Some of the slices, by their indices or by bool `(N,)`."""
        return CodeMaps(self.codes[indices], self.bits[indices], self.groups[indices])


def judge_codes(drawn: CodeMaps, real: CodeMaps, seed: int = 0) -> dict[str, Any]:
    """Tell drawn codes from real ones: by what the prior says of them, and by neighbouring codes.

    Drawn codes are compared with one half of the real subjects, and so is the other half.

    Args:
        drawn: Codes from the prior.
        real: Codes of slices that it has not seen.
        seed: Seed of folds and intervals.

    Returns:
        Accuracies `bits` and `pairs` of drawn codes, and `bits_real` and `pairs_real` of the other
        half, each with its `_ci95` and its `null_range`, `_null95`. A comparison of fewer than
        `FOLDS` groups is left out.
    """
    chosen = half(real.groups, seed)
    one, other = real.pick(chosen), real.pick(~chosen)
    report = {}
    for suffix, maps in (("", drawn), ("_real", one)):
        count = min(len(maps.codes), len(other.codes))
        pair = [
            some.pick(np.linspace(0, len(some.codes) - 1, count).round().astype(int))
            for some in (maps, other)
        ]
        groups = [some.groups for some in pair]
        if len(np.unique(np.concatenate(groups))) >= FOLDS:
            for name, see in (("bits", _bits_by_cell), ("pairs", _pairs)):
                sets = (*map(see, pair), *groups, seed)
                report |= entries(f"{name}{suffix}", two_sample(*sets), null_range(*sets))
    return report


def half(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows of one half of the groups, drawn at random, bool `(N,)`."""
    names = np.unique(groups)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    return np.isin(groups, chosen)


def entries(
    name: str, measured: tuple[float, list[float]], null: list[float]
) -> dict[str, float | list[float]]:
    """Entries of `metrics.json` for what `two_sample` and `null_range` give."""
    accuracy, interval = measured
    return {name: accuracy, f"{name}_ci95": interval, f"{name}_null95": null}


def _bits_by_cell(maps):
    return pool(maps.bits, BIT_CELLS).reshape(len(maps.bits), -1)


def _pairs(maps):
    """Roots of the counts of neighbouring codes, which are hashed: `(N, 2 PAIR_BUCKETS)`."""
    codes = maps.codes.astype("uint64")
    neighbours = (codes[:, :, :-1], codes[:, :, 1:]), (codes[:, :-1], codes[:, 1:])
    counts = []
    for first, second in neighbours:
        mixed = (first * PAIR_PRIMES[0] + second * PAIR_PRIMES[1]) % PAIR_PRIMES[2] % PAIR_BUCKETS
        rows = mixed.reshape(len(codes), -1).astype(int)
        counts.append([np.bincount(row, minlength=PAIR_BUCKETS) for row in rows])
    return np.sqrt(np.concatenate(counts, axis=1))


def mmd(one: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel of median bandwidth.

    Args:
        one: Features `(N, F)`.
        other: Features `(M, F)`.

    Reference:
        Gretton et al. 2012, A Kernel Two-Sample Test, equation 3.
    """
    pooled = StandardScaler().fit_transform(np.concatenate([one, other]).astype("float64"))
    one, other = pooled[: len(one)], pooled[len(one) :]
    pairs = np.triu_indices(len(pooled), 1)
    bandwidth = np.median(np.maximum(squared_distances(pooled, pooled), 0)[pairs])

    def kernel(a, b):
        return np.exp(-np.maximum(squared_distances(a, b), 0) / bandwidth)

    within = [(kernel(s, s).sum() - len(s)) / (len(s) * (len(s) - 1)) for s in (one, other)]
    return float(sum(within) - 2 * kernel(one, other).mean())


def wasserstein(one: tuple, other: tuple, seed: int = 0) -> dict[str, Any]:
    """Distance between the distributions of a figure, at each level of both sets, and its mean.

    The distance of finite sets is above 0 even if they do not differ. So the range beside it is
    that of distances where groups change sides at random. A bootstrap would add distance.

    Args:
        one: Values, levels and groups, each `(N,)`.
        other: Values, levels and groups, each `(M,)`. Equal groups are the same on both sides.
        seed: Seed of the permutations.

    Returns:
        dict of `wasserstein`, the mean over levels, and `wasserstein_by_level`, by rising level.
        Each has its null range `_null95`: where the sets do not differ, 95 % of distances lie in
        it. A distance or a range is NaN where a side has no slices.
    """
    values, levels = (np.concatenate(pair) for pair in list(zip(one, other))[:2])
    groups = np.concatenate([np.asarray(own[2]).astype(str) for own in (one, other)])
    y = np.repeat([0, 1], [len(own[0]) for own in (one, other)])
    shared = [np.flatnonzero(levels == level) for level in np.intersect1d(one[1], other[1])]

    def distances(y):
        return [_distance(values[rows], y[rows]) for rows in shared]

    by_level = distances(y)
    null = np.array([distances(labels) for labels in _permuted_labels(y, groups, seed)])
    return {
        "wasserstein": float(_defined(by_level).mean()),
        "wasserstein_null95": _middle([_defined(row).mean() for row in null]),
        "wasserstein_by_level": by_level,
        "wasserstein_by_level_null95": [_middle(column) for column in null.T],
    }


def _distance(values, y):
    sets = [values[y == side] for side in (0, 1)]
    return float(stats.wasserstein_distance(*sets)) if all(map(len, sets)) else math.nan


def _middle(values):
    """The range in which 95 % of values lie."""
    return [float(v) for v in np.percentile(_defined(values), (2.5, 97.5))]


def _defined(values):
    """Values that are no NaN, or one NaN if all are."""
    values = np.asarray(values, float)
    defined = values[~np.isnan(values)]
    return defined if len(defined) else np.array([math.nan])


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances of all rows of two matrices, `(N, F)` and `(M, F)` -> `(N, M)`.

    Rounding can make them slightly negative.
    """
    return (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
