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

from dataset import load_images
from measures import selection
from measures.evaluation import BATCH
from measures.images import to_grey, to_unit
from measures.samples import SamplingOptions, draw_all, spread_levels
from measures.saved import Parts
from measures.two_sample import features, mmd, pool, squared_distances, two_sample
from modules import VQVAE
from networks.raster import RasterPrior
from sources.folder import Slices
from utils import progress

# Shares of the image's 95th percentile: fluid is darker than the first, the head is brighter than
# the second.
DARK, TISSUE = 0.35, 0.15
FIRST_EVALUATED = 10**6  # number of the first evaluated sample, beyond those of the other figures
FEWEST_TRAINING_SLICES = 100  # to compare samples with, however few samples there are
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003
MS_SSIM_BATCH = 32


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
        return pool(to_unit(values), size).reshape(len(values), -1)

    a, b = flat(images), flat(others)
    which = squared_distances(a, b).argmin(1)
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


def load_real(
    slices: Slices, known: dict[str, np.ndarray], image_size: int
) -> dict[str, dict[str, np.ndarray]]:
    """Load all slices: `images`, `levels` and `subjects` by split.

    Args:
        slices: The data.
        known: Images uint8 `(N, S, S)` of the splits that are loaded already, by split.
        image_size: Pixels S of a side.
    """
    real = {}
    for name, split in slices.splits.items():
        images = known[name] if name in known else load_images(split, image_size)
        real[name] = {"images": images, "levels": split.levels, "subjects": split.subjects}
    return real


def evaluate_samples(
    vqvae: VQVAE,
    prior: RasterPrior,
    real: dict[str, dict[str, np.ndarray]],
    count: int,
    options: SamplingOptions,
    rate_weight: float | None = None,
) -> tuple[dict[str, Any], Parts]:
    """Draw slices, spread over all levels like the real ones, and compute all their figures.

    Args:
        vqvae: The model that codes and decodes.
        prior: The model that draws codes.
        real: What `load_real` returned.
        count: Number of samples.
        options: How codes are drawn.
        rate_weight: Price of one bit when codes are chosen; see `RasterPrior.describe`.

    Returns:
        `(report, parts)`: `generation` of `metrics.json`, and what the figure of the closest pairs
        shows.
    """
    levels = spread_levels(count, None, np.unique(real["test"]["levels"]))
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
