"""Measures of generated slices: can they be told from real ones, are they diverse, are they copies?

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1, the nose to the right. All functions
take either and use [0, 1].
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataset import load_images
from measures import selection
from measures.evaluation import BATCH
from measures.images import to_grey, to_unit
from measures.samples import SamplingOptions, draw_all, spread_levels
from measures.saved import Parts
from modules import VQVAE
from networks.raster import RasterPrior
from sources.folder import Slices
from utils import progress

FOLDS = 5
COMPONENTS = 50  # principal components that the classifier sees, at most
# Shares of the image's 95th percentile: fluid is darker than the first, the head is brighter than
# the second.
DARK, TISSUE = 0.35, 0.15
FIRST_EVALUATED = 10**6  # number of the first evaluated sample, beyond those of the other figures
FEWEST_TRAINING_SLICES = 100  # to compare samples with, however few samples there are
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003
MS_SSIM_BATCH = 32


def _pool(images, size):
    """Means over cells that cover the image and are equal to within a pixel.

    `(N, S, S)` -> `(N, size, size)`, S at least `size`.
    """
    edges = np.linspace(0, images.shape[1], size + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(images, edges[:-1], axis=1), edges[:-1], axis=2)
    return sums / np.outer(np.diff(edges), np.diff(edges))


def features(images: np.ndarray) -> np.ndarray:
    """Compute fixed features of each image: layout, and texture at four scales, `(N, 512)`.

    Layout is the image at 16 x 16. Texture is the log energy of four octaves of a pyramid of
    differences of Gaussians over 8 x 8 cells, so that blur, noise and a broken cortex show.
    """
    images = to_unit(images)
    parts = [_pool(images, 16).reshape(len(images), -1)]
    before = images
    for octave in range(4):
        after = ndimage.gaussian_filter(images, (0, 2.0**octave, 2.0**octave))
        energy = np.log(_pool((before - after) ** 2, 8) + 1e-5)
        parts.append(energy.reshape(len(images), -1))
        before = after
    return np.concatenate(parts, axis=1)


def two_sample(
    one: np.ndarray,
    other: np.ndarray,
    one_groups: np.ndarray,
    other_groups: np.ndarray,
    seed: int = 0,
) -> tuple[float, list[float]]:
    """Held-out accuracy of a classifier that tells two sets apart; 0.5 is indistinguishable.

    The classifier is a logistic regression on principal components. All slices of a group, which
    is a subject, are in one fold, so that knowing a brain is no help. Both classes weigh the same
    whatever their sizes.

    Args:
        one: Features `(N, F)`.
        other: Features `(M, F)`.
        one_groups: Group of each row, `(N,)`.
        other_groups: Group of each row, `(M,)`. Equal values name the same group on both sides.
        seed: Seed of the folds and of the bootstrap.

    Returns:
        `(accuracy, [low, high])`: the interval is a 95 % bootstrap over groups.

    Reference:
        Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests.
    """
    x = np.concatenate([one, other])
    y = np.repeat([0, 1], [len(one), len(other)])
    groups = np.concatenate([one_groups, other_groups])
    return _accuracy_interval(_held_out(x, y, groups, seed), y, groups, seed)


def _held_out(x, y, groups, seed):
    """Whether each row is classified right by a model that has not seen its group, `(N,)`."""
    right = np.zeros(len(x))
    shuffled = np.random.default_rng(seed).permutation(len(x))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(x[shuffled], y[shuffled], groups[shuffled]):
        train, test = shuffled[train], shuffled[test]
        components = min(COMPONENTS, len(train) - 1, x.shape[1])
        model = make_pipeline(
            StandardScaler(),
            PCA(components, random_state=seed),
            LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"),
        )
        right[test] = model.fit(x[train], y[train]).predict(x[test]) == y[test]
    return right


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
    bandwidth = np.median(np.maximum(_squared_distances(pooled, pooled), 0)[pairs])

    def kernel(a, b):
        return np.exp(-np.maximum(_squared_distances(a, b), 0) / bandwidth)

    within = [(kernel(s, s).sum() - len(s)) / (len(s) * (len(s) - 1)) for s in (one, other)]
    return float(sum(within) - 2 * kernel(one, other).mean())


def _squared_distances(a, b):
    """Squared distances of all rows of two matrices; rounding can make them slightly negative."""
    return (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T


def diversity(images: np.ndarray, levels: np.ndarray, pairs: int = 20, seed: int = 0) -> float:
    """Mean multi-scale SSIM of pairs of slices of one level; higher is less diverse.

    Args:
        images: Slices `(N, S, S)`.
        levels: Level of each slice, `(N,)`.
        pairs: Number of random pairs of one level, at most.
        seed: Seed of the pairs.

    Returns:
        The mean, NaN where no level has two slices.

    Reference:
        Wang et al. 2003, Multi-scale structural similarity for image quality assessment.
    """
    rng, chosen = np.random.default_rng(seed), []
    for level in np.unique(levels):
        here = np.flatnonzero(levels == level)
        couples = np.stack(np.triu_indices(len(here), 1), 1)
        chosen += [here[couple] for couple in rng.permutation(couples)[:pairs]]
    if not chosen:
        return float("nan")
    first, second = np.transpose(chosen)
    images = to_unit(images)[..., None]
    scales = max(1, int(np.log2(images.shape[1] / 11)) + 1)  # 11 pixels: the window of SSIM
    weights = MS_SSIM_WEIGHTS[:scales]
    weights = [weight / sum(weights) for weight in weights]
    values = []
    for begin in range(0, len(first), MS_SSIM_BATCH):
        batch = slice(begin, begin + MS_SSIM_BATCH)
        pair = images[first[batch]], images[second[batch]]
        values.append(tf.image.ssim_multiscale(*pair, 1.0, weights))
    return float(np.concatenate(values).mean())


def nearest(
    images: np.ndarray, others: np.ndarray, size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of `others` for each image.

    Args:
        images: Slices `(N, S, S)`.
        others: Slices `(M, S, S)`.
        size: Pixels of a side to which slices are reduced first.

    Returns:
        `(distances, which)`, both `(N,)`: the root mean square distance, and the index.
    """

    def flat(values):
        return _pool(to_unit(values), min(size, values.shape[1])).reshape(len(values), -1)

    a, b = flat(images), flat(others)
    which = _squared_distances(a, b).argmin(1)
    return np.sqrt(np.mean((a - b[which]) ** 2, axis=1)), which


def anatomy(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measure the anatomy of each slice.

    Returns:
        dict of `(N,)` each. `brain_area` and `ventricle_area`: shares of the image. `symmetry`:
        correlation of the two halves. `white_over_grey`: 90th over 40th percentile in the brain.
        Ventricles are the fluid in the middle: dark, and at least a fifth of the brain's height
        away from its outline.
    """
    slices = [_slice_anatomy(image) for image in to_unit(images)]
    return {name: np.nan_to_num(np.array([s[name] for s in slices])) for name in slices[0]}


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


def evaluate_samples(
    vqvae: VQVAE,
    prior: RasterPrior,
    slices: Slices,
    known: dict[str, np.ndarray],
    count: int,
    options: SamplingOptions,
    rate_weight: float | None = None,
) -> tuple[dict[str, Any], Parts]:
    """Draw slices, spread over all levels like the real ones, and compute all their figures.

    Args:
        vqvae: The model that codes and decodes.
        prior: The model that draws codes.
        slices: Real slices, the training ones among them.
        known: Images uint8 `(N, S, S)` of the splits that are loaded already, by split.
        count: Number of samples.
        options: How codes are drawn.
        rate_weight: Price of one bit when codes are chosen; see `RasterPrior.describe`.

    Returns:
        `(report, parts)`: `generation` of `metrics.json`, and what the figure of the closest pairs
        shows.
    """
    real = {}
    for name, split in slices.splits.items():
        images = known.get(name)
        if images is None:
            images = load_images(split, vqvae.settings["image_size"])
        real[name] = {"images": images, "levels": split.levels, "subjects": split.subjects}
    levels = spread_levels(count, None, np.unique(slices.splits["test"].levels))
    title = "drawing samples to evaluate"
    drawn = draw_all(vqvae, prior, levels, options, title, first=FIRST_EVALUATED)
    restore = functools.partial(_restore, vqvae, prior, rate_weight)
    report, pairs = evaluate(drawn, levels, real["test"], real["train"], real["validate"], restore)
    return report, selection.closest_parts(drawn, levels, real["train"]["images"], pairs)


def _restore(vqvae, prior, rate_weight, images, levels):
    """Reconstructions uint8 `(N, S, S)` of images of the same type and shape."""
    restored = []
    for begin in progress(range(0, len(images), BATCH), "reconstructing training slices"):
        batch = slice(begin, begin + BATCH)
        distances = vqvae.distances(to_unit(images[batch])[..., None])
        codes = prior.describe(distances, levels[batch], rate_weight)
        restored.append(to_grey(vqvae.decode(codes))[..., 0])
    return np.concatenate(restored)


def evaluate(
    samples: np.ndarray,
    sample_levels: np.ndarray,
    test: dict[str, np.ndarray],
    training: dict[str, np.ndarray],
    validation: dict[str, np.ndarray],
    restore: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[dict[str, Any], list[tuple[int, int, float]]]:
    """Compute all figures of generated slices for `metrics.json`.

    Args:
        samples: Generated images `(N, S, S)`.
        sample_levels: Their levels `(N,)`.
        test: `images`, `levels` and `subjects` of the real slices of the test split.
        training: The same of the training split.
        validation: The same of the validation split.
        restore: Function of images `(N, S, S)` and their levels to their reconstructions.

    Returns:
        `(report, pairs)`. Pairs are `(sample, training slice, distance)`, closest first.
    """
    report = {"samples": len(samples), **_two_samples(samples, training, restore)}
    drawn_features, test_features = features(samples), features(test["images"])
    report |= {
        "mmd": mmd(drawn_features, test_features),
        "mmd_real": mmd(features(validation["images"]), test_features),
        "diversity": diversity(samples, sample_levels),
        "diversity_real": diversity(test["images"], test["levels"]),
        "diversity_validation": diversity(validation["images"], validation["levels"]),
    }
    distances, which = nearest(samples, training["images"])
    real_distances, _ = nearest(test["images"], training["images"])
    report |= {
        "nearest_min": float(distances.min()),
        "nearest_mean": float(distances.mean()),
        "nearest_real_p1": float(np.percentile(real_distances, 1)),
        "nearest_real_mean": float(real_distances.mean()),
        "anatomy": _anatomy_report(samples, test["images"], validation["images"]),
    }
    order = np.argsort(distances)
    return report, [(int(i), int(which[i]), float(distances[i])) for i in order]


def _two_samples(samples, training, restore):
    """Two-sample accuracies of samples, real slices and reconstructions, two at a time."""
    rng = np.random.default_rng(0)
    # Slices of many subjects, because a few subjects can be told apart by themselves.
    order = rng.permutation(len(training["images"]))
    chosen = order[: max(len(samples), FEWEST_TRAINING_SLICES)]
    images, levels = training["images"][chosen], training["levels"][chosen]
    subjects = rng.permutation(np.unique(training["subjects"]))
    owners = training["subjects"][chosen]
    half = np.isin(owners, subjects[: len(subjects) // 2])
    drawn, real, restored = features(samples), features(images), features(restore(images, levels))
    # Each sample is a subject of its own.
    own = np.array([f"sample {i}" for i in range(len(samples))])
    comparisons = {
        "two_sample_accuracy": (drawn, real, own, owners),
        "two_sample_accuracy_prior": (drawn, restored, own, owners),
        "two_sample_accuracy_reconstructions": (restored, real, owners, owners),
        "two_sample_accuracy_real": (real[half], real[~half], owners[half], owners[~half]),
    }
    report = {}
    for name, comparison in comparisons.items():
        report[name], report[f"{name}_ci95"] = two_sample(*comparison)
    return report


def _anatomy_report(samples, real, validation):
    """Means of each anatomical figure, and how many slices lie inside the range of real ones."""
    report = {}
    drawn, validated = anatomy(samples), anatomy(validation)
    for name, values in anatomy(real).items():
        low, high = np.percentile(values, (1, 99))
        report[name] = {
            "samples": float(drawn[name].mean()),
            "real": float(values.mean()),
            "validation": float(validated[name].mean()),
            "real_range": [float(low), float(high)],
            "inside": _share_inside(drawn[name], low, high),
            "inside_validation": _share_inside(validated[name], low, high),
        }
    return report


def _share_inside(values, low, high):
    return float(np.mean((values >= low) & (values <= high)))
