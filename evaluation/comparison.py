"""Generated slices beside real ones: can they be distinguished, are they diverse, are they copies?

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1, the nose to the right.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from dataset import load_images
from evaluation import brain_comparison, curves, plots
from evaluation.anatomy import anatomy_curves, compare_anatomy
from evaluation.brains import decode_brains, draw_brain_codes
from evaluation.context import Context, SamplingOptions, Section
from evaluation.metrics import diversity, energy_ratios, inner_brain, quality
from evaluation.panels import GREY_SCALE
from evaluation.reconstruction import draw_textures
from evaluation.samples import SHOWN_PAIRS, draw_slice_codes, spread_levels
from evaluation.two_sample import accuracy, features, pool, squared_distances, two_sample
from modules import Models
from sources.folder import Split
from sources.images import to_grey, to_unit
from utils import clean_name, progress, spread

FIRST_EVALUATED = 10**6  # number of the first evaluated sample, beyond those of the other figures
SHARE = 0.5  # of slices that are damaged to see what the classifier can find


class SliceSet(NamedTuple):
    """Slices, and whose they are.

    Attributes:
        images: uint8 `(N, S, S)`.
        levels: Level of each slice, `(N,)`.
        groups: Subject, drawn brain or drawn slice of each, str `(N,)`.
    """

    images: np.ndarray
    levels: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, split: Split) -> "SliceSet":
        """Images of the slices of a split."""
        return cls(images, split.levels, split.subjects)

    def first(self, count: int) -> "SliceSet":
        """So many of them, spread over all."""
        chosen = spread(len(self.images), count)
        return SliceSet(*(values[chosen] for values in self))


# ---- measures ----------------------------------------------------------------------------------


def inside_brain(images: np.ndarray) -> np.ndarray:
    """Slices with 0 outside the eroded brain, where the edge of the brain mask is no help.

    Args:
        images: uint8 `(N, S, S)`.
    """
    return images * np.stack([inner_brain(image) for image in images])


def _whole(images):
    return images


PARTS = {"": _whole, "_inside": inside_brain}  # of slices, by the ending of the accuracy's name


def compare_pairs(pairs: dict[str, tuple[SliceSet, SliceSet]]) -> dict[str, Any]:
    """Distinguish two sets of slices at a time, by whole slices and inside the brain.

    Both sides are reduced to equal numbers of slices.

    Args:
        pairs: Sets by the name of the accuracy. Equal groups on both sides are the same subject.

    Returns:
        What `two_sample` says of each, and of `_inside`.
    """
    report, tasks = {}, list(itertools.product(pairs, PARTS))
    for name, part in progress(tasks, "comparing slices", unit="pair"):
        count = min(len(some.images) for some in pairs[name])
        sets = [some.first(count) for some in pairs[name]]
        seen = [features(PARTS[part](some.images)) for some in sets]
        report |= two_sample(f"{name}{part}", *seen, *(some.groups for some in sets))
    return report


def power(one: SliceSet, other: SliceSet, seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Say what the classifier can find: its accuracy when `SHARE` of real slices are damaged.

    Args:
        one: Real slices, of which some are damaged.
        other: Real slices to compare with.
        seed: Seed of which slices are damaged.

    Returns:
        Accuracy by `pyramid` or `pyramid_inside`, damage and share.
    """
    count = min(len(one.images), len(other.images))
    one, other = one.first(count), other.first(count)
    chosen = np.random.default_rng(seed).permutation(count)[: round(SHARE * count)]
    report = {f"pyramid{part}": {} for part in PARTS}
    for part, damage in progress(list(itertools.product(PARTS, DAMAGES)), "measuring power"):
        images = one.images.copy()
        images[chosen] = DAMAGES[damage](one.images)[chosen]
        seen = [features(PARTS[part](some)) for some in (images, other.images)]
        value = accuracy(*seen, one.groups, other.groups, seed)
        report[f"pyramid{part}"][damage] = {str(SHARE): value}
    return report


def _mirrored(images):
    return images[:, ::-1]  # left and right are rows, because the nose is to the right


def _of_two_slices(images):
    """The lower half of each slice from a slice far away, which in a split is of another level."""
    half = images.shape[1] // 2
    return np.concatenate([images[:, :half], np.roll(images, len(images) // 3, 0)[:, half:]], 1)


def _blurred(images):
    return to_grey(ndimage.gaussian_filter(to_unit(images), (0, 0.5, 0.5)))


DAMAGES = {"mirrored": _mirrored, "lower_half_of_another": _of_two_slices, "blurred": _blurred}


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


# ---- the comparison ----------------------------------------------------------------------------


def draw(
    models: Models, count: int, known: np.ndarray, options: SamplingOptions
) -> tuple[SliceSet, SliceSet]:
    """Draw slices at all levels: those of whole brains, if the prior draws any.

    Args:
        models: The networks.
        count: Number of slices N.
        known: Levels of the real slices, in rising order.
        options: How codes are drawn.

    Returns:
        The slices with texture, where it is wanted and the run has one, and without.
    """
    prior = models.prior
    if prior.settings["reads_below"]:
        num_levels = prior.settings["num_levels"]
        number = math.ceil(count / len(known))
        drawn = draw_brain_codes(prior, number, options, first=FIRST_EVALUATED)
        codes = np.concatenate(list(drawn))  # (brains, L, H, W)
        levels = np.tile(np.arange(num_levels), number)
        groups = np.repeat(range(number), num_levels)
        chosen = np.flatnonzero(np.isin(levels, known))[:count]
    else:
        levels, groups = spread_levels(count, None, known), np.arange(count)
        drawn = draw_slice_codes(prior, levels, options, first=FIRST_EVALUATED)
        codes = np.concatenate(list(drawn))[:, None]  # a stack of one slice each
        num_levels, chosen = 1, np.arange(count)

    def decoded(options):
        brains = decode_brains(models, codes, options, num_levels, FIRST_EVALUATED)
        images = brains.reshape(-1, *brains.shape[2:])[chosen]
        return SliceSet(images, levels[chosen], np.char.add("drawn ", groups[chosen].astype(str)))

    plain = decoded(dataclasses.replace(options, texture=False))
    return decoded(options) if options.texture and models.texture else plain, plain


def compare(context: Context, count: int) -> Section:
    """Draw slices, and brains where the prior draws any, and compare them with real ones.

    Args:
        context: The run, and what was evaluated; its slices are those of the training.
        count: Number of slices to draw.

    Returns:
        `generation` of `metrics.json`, and figures of the closest pairs and of the anatomy.
    """
    models, split, results = context.models, context.split, context.results
    size, others = models.vqvae.settings["image_size"], context.slices.splits
    training, validation = (
        SliceSet.of(load_images(others[name], size), others[name])
        for name in ("train", "test" if split.name == "validate" else "validate")
    )
    samples, plain = draw(models, count, np.unique(split.levels), context.sampling)
    restored = {"reconstructions": SliceSet.of(results["restored"], split)}
    if models.texture:
        drawn = draw_textures(models.texture, results["restored"], split, context.sampling.seed)
        restored["textured_reconstructions"] = SliceSet.of(drawn, split)
    real = SliceSet.of(results["images"], split)
    report, closest = compare_slices(samples, plain, real, training, validation, restored)
    figures = {
        "closest": _closest_figure(context, samples, training, closest, report),
        **_anatomy_figure(context, report),
    }
    if models.prior.settings["reads_below"]:
        section = brain_comparison.compare(context, training.images)
        report["brains"], figures = section.metrics, figures | section.figures
    return Section({"generation": report}, figures)


def compare_slices(
    samples: SliceSet,
    plain: SliceSet,
    real: SliceSet,
    training: SliceSet,
    validation: SliceSet,
    restored: dict[str, SliceSet],
) -> tuple[dict[str, Any], list[tuple[int, int, float]]]:
    """Compute all figures of generated slices for `metrics.json`.

    Args:
        samples: Generated slices.
        plain: The same slices without texture.
        real: Real slices that the models have not seen.
        training: Slices that they learned from.
        validation: Real slices of other subjects, which say how far real sets are apart.
        restored: `reconstructions` of `real`, and `textured_reconstructions` where there are any.

    Returns:
        `(report, pairs)`. Pairs are `(sample, training slice, distance)`, closest first.
    """
    pairs = {
        "two_sample_accuracy": (samples, real),
        "two_sample_accuracy_prior": (plain, restored["reconstructions"]),
        "two_sample_accuracy_reconstructions": (restored["reconstructions"], real),
        "two_sample_accuracy_real": (validation, real),
    }
    if "textured_reconstructions" in restored:
        textured = restored["textured_reconstructions"]
        pairs["two_sample_accuracy_textured_reconstructions"] = textured, real
    distances, which = nearest(samples.images, training.images)
    real_distances, _ = nearest(real.images, training.images)
    order = np.argsort(distances)
    sets = {"samples": samples, **restored, "validation": validation}
    report = {
        "samples": len(samples.images),
        **compare_pairs(pairs),
        "power": power(validation, real),
        "diversity": diversity(samples.images, samples.levels),
        "diversity_real": diversity(real.images, real.levels),
        "diversity_validation": diversity(validation.images, validation.levels),
        "nearest_min": float(distances.min()),
        "nearest_mean": float(distances.mean()),
        "nearest_real_p1": float(np.percentile(real_distances, 1)),
        "nearest_real_mean": float(real_distances.mean()),
        "anatomy": compare_anatomy({"samples": samples, "real": real, "validation": validation}),
        "energy": {name: energy_ratios(some.images, real.images) for name, some in sets.items()},
        "quality": {name: quality(real.images, some.images) for name, some in restored.items()},
    }
    return report, [(int(i), int(which[i]), float(distances[i])) for i in order]


def _closest_figure(context, samples, training, pairs, report):
    """The samples that are closest to a training slice, above these slices."""
    numbers, others, distances = (np.array(column) for column in zip(*pairs[:SHOWN_PAIRS]))
    generated, real = to_unit(samples.images[numbers]), to_unit(training.images[others])
    labels = zip(samples.levels[numbers], distances)
    caption = (
        f"The {len(numbers)} of {report['samples']:,} generated slices that are closest to a "
        f"training slice of {clean_name(context.slices.name)}, with the root mean square distance "
        "at 64 x 64 pixels. One in a hundred real test slices is closer than "
        f"{report['nearest_real_p1']:.3f} to a training slice. {GREY_SCALE}"
    )
    return functools.partial(
        plots.rows_of_images,
        rows=[plots.Row(generated, "generated"), plots.Row(real, "nearest")],
        content=np.concatenate([real, generated]),
        titles=[f"level {level}, {distance:.3f}" for level, distance in labels],
        caption=caption,
        title_size=8,
    )


def _anatomy_figure(context, report):
    """The anatomy by level. There is no figure where all levels lack a distance."""
    measured = anatomy_curves(report["anatomy"])
    if not len(measured["levels"]):
        return {}
    caption = (
        f"Anatomy by level. Samples: {report['samples']:,} generated slices, {context.made}. "
        f"Real: slices of {context.source}. Validation: real slices of other people. Areas are "
        "shares of the image. Upper row: means, with a 95 % bootstrap over people or drawn brains. "
        "Lower row: Wasserstein distances to the real slices of the same level; in the shaded "
        "range 95 % of the distances of samples would lie if the two sets did not differ; dotted: "
        "the upper end of this range for validation."
    )
    return {"anatomy": functools.partial(curves.anatomy, measured=measured, caption=caption)}
