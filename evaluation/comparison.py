"""Measures of generated slices: can they be told from real ones, are they diverse, are they copies?

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1, the nose to the right. All functions
take either and use [0, 1].
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage

from dataset import codes_below, load_images
from evaluation import selection
from evaluation.brains import decode_all, draw_brain_codes
from evaluation.judges import Pictures, feature_distances, judge, power
from evaluation.metrics import energy_ratios, quality, subject_interval
from evaluation.reconstruction import BATCH, draw_textures
from evaluation.samples import SamplingOptions, draw_slice_codes, spread_levels
from evaluation.saved import ANATOMY, Parts
from evaluation.two_sample import (
    CodeMaps,
    features,
    judge_codes,
    mmd,
    pool,
    squared_distances,
    wasserstein,
)
from modules import Models
from sources.folder import NO_SLICE, Split
from sources.images import to_unit
from utils import progress

# Shares of the image's 95th percentile: fluid is darker than the first, the head is brighter than
# the second.
DARK, TISSUE = 0.35, 0.15
FIRST_EVALUATED = 10**6  # number of the first evaluated sample, beyond those of the other figures
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


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Generated slices.

    Attributes:
        images: uint8 `(N, S, S)`, with texture where the model has one.
        plain: The same codes decoded without texture, uint8 `(N, S, S)`.
        levels: Level of each, `(N,)`.
        maps: Their codes. Groups are brains, or slices that were drawn alone.
    """

    images: np.ndarray
    plain: np.ndarray
    levels: np.ndarray
    maps: CodeMaps


@dataclasses.dataclass(frozen=True)
class Held:
    """Real slices of a split.

    Attributes:
        images: uint8 `(N, S, S)`.
        levels: Level of each, `(N,)`.
        subjects: Subject of each, `(N,)`.
    """

    images: np.ndarray
    levels: np.ndarray
    subjects: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, split: Split) -> "Held":
        """The images of a split."""
        return cls(images, split.levels, split.subjects)

    @classmethod
    def load(cls, split: Split, image_size: int) -> "Held":
        """All slices of a split, with S pixels of a side."""
        return cls.of(load_images(split, image_size), split)

    @property
    def pictures(self) -> Pictures:
        """What judges see of them."""
        return Pictures(self.images, self.subjects.astype(str))


def draw(models: Models, count: int, known: np.ndarray, options: SamplingOptions) -> Drawn:
    """Draw slices at all levels: those of whole brains, if the prior draws any.

    Args:
        models: The networks.
        count: Number of slices.
        known: Levels of the real slices, in rising order.
        options: How codes are drawn.
    """
    prior = models.prior
    if prior.settings["reads_below"]:
        num_levels = prior.settings["num_levels"]
        number = math.ceil(count / len(known))
        drawn = draw_brain_codes(prior, number, options, first=FIRST_EVALUATED)
        codes = np.concatenate(list(drawn))  # (brains, L, H, W)
        levels, groups = (
            np.tile(np.arange(num_levels), number),
            np.repeat(range(number), num_levels),
        )
        chosen = np.flatnonzero(np.isin(levels, known))[:count]
    else:
        levels, groups = spread_levels(count, None, known), np.arange(count)
        drawn = draw_slice_codes(prior, levels, options, first=FIRST_EVALUATED)
        codes = np.concatenate(list(drawn))[:, None]  # a stack of one slice each
        num_levels, chosen = 1, np.arange(count)

    def images(how):
        brains = decode_all(models, codes, how, num_levels, FIRST_EVALUATED)
        return brains.reshape(-1, *brains.shape[2:])[chosen]

    plain = images(dataclasses.replace(options, texture=False))
    textured = images(options) if options.texture and models.texture else plain
    maps = _count_bits(prior, codes.reshape(-1, *codes.shape[2:]), levels, groups)
    return Drawn(textured, plain, levels[chosen], maps.pick(chosen))


def _count_bits(prior, codes, levels, groups):
    """Drawn codes with their bits, given the codes drawn below them in the same group."""
    lower = np.where(np.diff(groups, prepend=-1) == 0, np.arange(len(codes)) - 1, NO_SLICE)
    bits = []
    for begin in progress(range(0, len(codes), BATCH), "counting bits"):
        batch = np.arange(begin, min(begin + BATCH, len(codes)))
        below = codes_below(codes, lower.astype("int32"), batch)
        bits.append(prior.bits(codes[batch], levels[batch], below).numpy())
    return CodeMaps(codes, np.concatenate(bits), np.char.add("drawn ", groups.astype(str)))


def evaluate_samples(
    models: Models,
    results: dict[str, np.ndarray],
    split: Split,
    training: Held,
    other: Held,
    count: int,
    options: SamplingOptions,
) -> tuple[dict[str, Any], Parts]:
    """Draw slices and compute all their figures.

    Args:
        models: The networks.
        results: What `evaluation.reconstruction.evaluate` returned.
        split: The split that was evaluated.
        training: Slices of the training split.
        other: Slices of a split that is neither.
        count: Number of samples.
        options: How codes are drawn.

    Returns:
        `(report, parts)`: `generation` of `metrics.json`, and what the figures of the closest pairs
        and of the anatomy show.
    """
    drawn = draw(models, count, np.unique(split.levels), options)
    restored = {"reconstructions": results["restored"]}
    if models.texture:
        textured = draw_textures(models.texture, results["restored"], split, options.seed)
        restored["textured_reconstructions"] = textured
    real = Held.of(results["images"], split)
    report, pairs = evaluate(drawn, real, training, other, restored)
    maps = CodeMaps(results["codes"], results["bits"], split.subjects.astype(str))
    report["codes"] = judge_codes(drawn.maps, maps)
    closest = selection.closest_parts(drawn.images, drawn.levels, training.images, pairs)
    return report, {**closest, **selection.anatomy_parts(report["anatomy"])}


def evaluate(
    drawn: Drawn, real: Held, training: Held, other: Held, restored: dict[str, np.ndarray]
) -> tuple[dict[str, Any], list[tuple[int, int, float]]]:
    """Compute all figures of generated slices for `metrics.json`.

    Args:
        drawn: Generated slices.
        real: Real slices that the models have not seen.
        training: Slices that they learned from.
        other: Real slices of other subjects, which say how far real sets are apart.
        restored: `reconstructions` of `real`, uint8 `(N, S, S)`, and others of them by name.

    Returns:
        `(report, pairs)`. Pairs are `(sample, training slice, distance)`, closest first.
    """
    report = {"samples": len(drawn.images), **_two_samples(drawn, real, other, restored)}
    drawn_features, real_features = features(drawn.images), features(real.images)
    report |= {
        "mmd": mmd(drawn_features, real_features),
        "mmd_real": mmd(features(other.images), real_features),
        "diversity": diversity(drawn.images, drawn.levels),
        "diversity_real": diversity(real.images, real.levels),
        "diversity_validation": diversity(other.images, other.levels),
    }
    distances, which = nearest(drawn.images, training.images)
    real_distances, _ = nearest(real.images, training.images)
    report |= {
        "nearest_min": float(distances.min()),
        "nearest_mean": float(distances.mean()),
        "nearest_real_p1": float(np.percentile(real_distances, 1)),
        "nearest_real_mean": float(real_distances.mean()),
        "anatomy": _anatomy_report(drawn, real, other),
    }
    sets = {"samples": drawn.images, **restored, "validation": other.images}
    report["energy"] = {name: energy_ratios(some, real.images) for name, some in sets.items()}
    report["quality"] = {name: quality(real.images, some) for name, some in restored.items()}
    known = real.images, training.images, training.levels
    report["features"] = feature_distances(sets, *known)
    order = np.argsort(distances)
    return report, [(int(i), int(which[i]), float(distances[i])) for i in order]


def _two_samples(drawn, real, other, restored):
    """Accuracies of the judges, two sets at a time, and those of each judge."""
    subjects = real.pictures.groups
    comparisons = {
        "": (Pictures(drawn.images, drawn.maps.groups), real.pictures),
        "_prior": (
            Pictures(drawn.plain, drawn.maps.groups),
            Pictures(restored["reconstructions"], subjects),
        ),
        **{
            f"_{name}": (Pictures(some, subjects), real.pictures) for name, some in restored.items()
        },
        "_real": (other.pictures, real.pictures),
    }
    report, judges = {}, {}
    for name, sets in comparisons.items():
        title = name.replace("_", " ").strip() or "samples"
        found = judge(*sets, title)
        judges[title.replace(" ", "_")] = found.pop("judges")
        report |= {
            f"two_sample_{part.replace('accuracy', f'accuracy{name}', 1)}": value
            for part, value in found.items()
            if part != "slices"
        }
    return {**report, "judges": judges, "power": power(other.pictures, real.pictures)}


def _anatomy_report(drawn, real, other):
    """Each anatomical figure of drawn, real and other slices: overall and by level.

    Means by level have a 95 % bootstrap over people or drawn brains. Wasserstein distances are to
    the real slices, of one level at a time. All levels are those that the three sets have.
    """
    sets = {
        "samples": (drawn, drawn.maps.groups),
        "real": (real, real.subjects),
        "validation": (other, other.subjects),
    }
    shared = functools.reduce(np.intersect1d, [some.levels for some, _ in sets.values()])
    measured = {}
    for name, (some, groups) in sets.items():
        kept = np.isin(some.levels, shared)
        figures = anatomy(some.images[kept])
        measured[name] = figures, some.levels[kept], groups[kept]
    report = {"levels": shared.tolist()}
    for figure in ANATOMY:
        rows = {name: (figures[figure], *rest) for name, (figures, *rest) in measured.items()}
        own = report[figure] = {name: float(values.mean()) for name, (values, *_) in rows.items()}
        for name, row in rows.items():
            own |= _means_by_level(name, *row)
        for name, suffix in (("samples", ""), ("validation", "_validation")):
            distances = wasserstein(rows[name], rows["real"])
            own |= {
                key.replace("wasserstein", f"wasserstein{suffix}"): value
                for key, value in distances.items()
            }
    return report


def _means_by_level(name, values, levels, groups):
    here = [levels == level for level in np.unique(levels)]
    return {
        f"{name}_by_level": [float(values[rows].mean()) for rows in here],
        f"{name}_by_level_ci95": [subject_interval(values[rows], groups[rows]) for rows in here],
    }
