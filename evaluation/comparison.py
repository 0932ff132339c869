"""Generated slices beside real ones: can they be distinguished, are they diverse, are they copies?

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from dataset import load_images
from evaluation import brain_comparison, plots
from evaluation.anatomy import compare_anatomy, measured
from evaluation.brains import draw_brain_codes, draws_stacks
from evaluation.context import FIRST_COMPARED, Context, SamplingOptions
from evaluation.metrics import content_box, diversity, inner_brain, not_black, quality
from evaluation.plots import GREY_SCALE
from evaluation.reconstruction import draw_textures
from evaluation.samples import SHOWN_PAIRS, decode, draw_slice_codes, spread_levels
from evaluation.two_sample import Rows, accuracy, features, nearest, two_sample
from modules import Models
from networks.frames import cut
from sources.facts import OASIS, DataFacts
from sources.folder import Split
from sources.images import to_grey, to_unit
from utils import progress, spread

SHARE = 0.5  # of slices that are damaged to see what the classifier can find
PAIRS = {
    "two_sample_accuracy": ("samples", "real"),
    "two_sample_accuracy_prior": ("plain", "reconstructions"),
    "two_sample_accuracy_reconstructions": ("reconstructions", "real"),
    "two_sample_accuracy_real": ("validation", "real"),
    "two_sample_accuracy_textured_reconstructions": ("textured_reconstructions", "real"),
}  # sets that the classifier distinguishes
NEAREST_SIDE = 64  # pixels of a side to which slices are reduced before they are compared


class SliceSet(NamedTuple):
    """Slices, and whose they are.

    Attributes:
        images: uint8 `(N, S, S)`.
        levels: Level of each slice, `(N,)`.
        groups: Subject, drawn stack or drawn slice of each, str `(N,)`.
    """

    images: np.ndarray
    levels: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, split: Split) -> "SliceSet":
        """Images of the slices of a split."""
        return cls(images, split.levels, split.subjects)


# ---- measures ----------------------------------------------------------------------------------


def inside_brain(images: np.ndarray) -> np.ndarray:
    """Slices with 0 outside the eroded brain, where the edge of the brain mask is no help.

    Args:
        images: uint8 `(N, S, S)`.
    """
    return images * np.stack([inner_brain(image) for image in images])


PARTS = {"": np.asarray, "_inside": inside_brain}  # of slices, by the ending of a name


def slice_rows(slices: SliceSet, part: str) -> Rows:
    """What the classifier sees of slices, or of one of `PARTS` of them."""
    return Rows(features(PARTS[part](slices.images)), slices.groups)


def equal_numbers(*sets: SliceSet) -> list[SliceSet]:
    """Sets reduced to as many slices as the smallest has, spread over all."""
    least = min(len(some.images) for some in sets)
    return [
        SliceSet(*(values[spread(len(some.images), least)] for values in some)) for some in sets
    ]


def power(
    one: SliceSet, other: SliceSet, facts: DataFacts = OASIS
) -> dict[str, dict[str, dict[str, float]]]:
    """Say what the classifier can find: its accuracy when `SHARE` of real slices are damaged.

    Args:
        one: Real slices, of which some are damaged.
        other: Real slices to compare with.
        facts: What is known of the slices. They are mirrored only where that makes others of them.

    Returns:
        Accuracy by `pyramid` or `pyramid_inside`, damage and share.
    """
    one, other = equal_numbers(one, other)
    count = len(one.images)
    chosen = np.random.default_rng(0).permutation(count)[: round(SHARE * count)]
    report = {f"pyramid{part}": {} for part in PARTS}
    mirrored = {} if facts.mirror == "none" else {"mirrored": facts.mirrored}
    damages = {**mirrored, **DAMAGES}
    for part, damage in progress(list(itertools.product(PARTS, damages)), "measuring power"):
        images = one.images.copy()
        images[chosen] = damages[damage](one.images)[chosen]
        damaged = slice_rows(one._replace(images=images), part)
        value = accuracy(damaged, slice_rows(other, part))
        report[f"pyramid{part}"][damage] = {str(SHARE): value}
    return report


def _of_two_slices(images):
    """The lower half of each slice from a slice far away, which in a split is of another level."""
    half = images.shape[1] // 2
    return np.concatenate([images[:, :half], np.roll(images, len(images) // 3, 0)[:, half:]], 1)


def _blurred(images):
    return to_grey(ndimage.gaussian_filter(to_unit(images), (0, 0.5, 0.5)))


DAMAGES = {"lower_half_of_another": _of_two_slices, "blurred": _blurred}


# ---- the comparison ----------------------------------------------------------------------------


def draw(
    models: Models, count: int, known: np.ndarray, options: SamplingOptions
) -> tuple[SliceSet, SliceSet]:
    """Draw slices at all levels: those of whole stacks, if the prior draws any.

    Args:
        models: The networks.
        count: Number of slices N.
        known: Levels of the real slices, in rising order.
        options: How codes are drawn.

    Returns:
        The slices with texture, where it is wanted and the run has one, and without.
    """
    prior = models.prior
    if draws_stacks(prior):
        number = math.ceil(count / len(known))
        levels = np.tile(np.arange(prior.settings["num_levels"]), (number, 1))
        drawn = draw_brain_codes(prior, number, options, first=FIRST_COMPARED)
    else:
        levels = spread_levels(count, None, known)[:, None]  # stacks of one slice each
        drawn = draw_slice_codes(prior, levels[:, 0], options, FIRST_COMPARED)
    drawn, groups = list(drawn), np.repeat(np.arange(len(levels)), levels.shape[1])
    chosen = np.flatnonzero(np.isin(levels, known))[:count]

    def decoded(options):
        stacks = np.concatenate(list(decode(models, drawn, options)))
        images = stacks.reshape(-1, *stacks.shape[2:])[chosen]
        names = np.char.add("drawn ", groups[chosen].astype(str))
        return SliceSet(images, levels.ravel()[chosen], names)

    plain = decoded(options._replace(texture=False))
    return decoded(options) if options.texture else plain, plain


def compare(context: Context, count: int) -> dict[str, Any]:
    """Draw slices, and stacks where the prior draws any, and compare them with real ones.

    Args:
        context: The run, and what was evaluated; its slices are those of the training.
        count: Number of slices to draw.

    Returns:
        `generation` of `metrics.json`.
    """
    models, split, results = context.models, context.split, context.results
    size, splits = models.vqvae.settings["image_size"], context.slices.splits
    sets = {
        "real": SliceSet.of(results["images"], split),
        "reconstructions": SliceSet.of(results["restored"], split),
    }
    unseen = "test" if split.name == "validate" else "validate"
    for role, name in (("training", "train"), ("validation", unseen)):
        sets[role] = SliceSet.of(load_images(splits[name], size), splits[name])
    known = np.unique(split.levels)
    sets["samples"], sets["plain"] = draw(models, count, known, context.sampling)
    if models.texture:
        drawn = draw_textures(models.texture, results["restored"], split, context.sampling.seed)
        sets["textured_reconstructions"] = SliceSet.of(drawn, split)
    report, distances, which = compare_slices(sets, split.facts)
    _draw_closest(context, sets, distances, which, report)
    if report.get("anatomy", {}).get("levels"):
        _draw_anatomy(context, report)
    if draws_stacks(models.prior):
        report["brains"] = brain_comparison.compare(context, sets["training"].images)
    return {"generation": report}


def compare_slices(
    sets: dict[str, SliceSet], facts: DataFacts = OASIS
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Compute all figures of generated slices for `metrics.json`.

    Args:
        sets: Sets by their names: generated `samples`, and the same without texture as `plain`;
            `real` slices that the models have not seen, their `reconstructions`, and
            `textured_reconstructions` where there are any; `training` slices; and `validation`,
            real slices of other people, which say how far real sets are apart.
        facts: What is known of the real slices.

    Returns:
        The report, and what `nearest` says of samples among the training slices.
    """
    samples, real, validation = (sets[name] for name in ("samples", "real", "validation"))
    restored = {name: some for name, some in sets.items() if "reconstructions" in name}
    pairs, rows = {name: pair for name, pair in PAIRS.items() if {*pair} <= {*sets}}, {}
    for name, part in progress(list(itertools.product(pairs, PARTS)), "describing slices"):
        equal = equal_numbers(*(sets[one] for one in pairs[name]))
        rows[f"{name}{part}"] = tuple(slice_rows(some, part) for some in equal)
    distances, which = nearest(samples.images, sets["training"].images, NEAREST_SIDE)
    real_distances, _ = nearest(real.images, sets["training"].images, NEAREST_SIDE)
    report = {
        "samples": len(samples.images),
        **two_sample(rows),
        "power": power(validation, real, facts),
        "diversity": diversity(samples.images, samples.levels),
        "diversity_real": diversity(real.images, real.levels),
        "diversity_validation": diversity(validation.images, validation.levels),
        "nearest_min": float(distances.min()),
        "nearest_mean": float(distances.mean()),
        "nearest_real_p1": float(np.percentile(real_distances, 1)),
        "nearest_real_mean": float(real_distances.mean()),
    }
    if measured(facts):
        compared = {"samples": samples, "real": real, "validation": validation}
        report["anatomy"] = compare_anatomy(compared, facts)
    box, shown = content_box(facts, real.images.shape[1]), not_black(real.images)
    report["quality"] = {
        name: quality(*(cut(images[shown], box) for images in (real.images, some.images)))
        for name, some in restored.items()
    }
    return report, distances, which


def _draw_closest(context, sets, distances, which, report):
    """The samples that are closest to a training slice, above these slices."""
    numbers = np.argsort(distances)[:SHOWN_PAIRS]
    generated = to_unit(sets["samples"].images[numbers])
    real = to_unit(sets["training"].images[which[numbers]])
    labels = zip(sets["samples"].levels[numbers], distances[numbers])
    caption = (
        f"The {len(numbers)} of {report['samples']:,} generated slices that are closest to a "
        f"training slice of {context.split.facts.name}, with the root mean square distance "
        f"at {NEAREST_SIDE} x {NEAREST_SIDE} pixels. One in a hundred real slices of the "
        f"{context.split.name} split is closer than {report['nearest_real_p1']:.3f} to one. "
        f"{GREY_SCALE}"
    )
    context.draw(
        plots.rows_of_images,
        "closest.png",
        [plots.Row(generated, "generated"), plots.Row(real, "nearest")],
        content=np.concatenate([real, generated]),
        titles=[f"level {level}, {distance:.3f}" for level, distance in labels],
        caption=caption,
    )


def _draw_anatomy(context, report):
    caption = (
        f"Anatomy by level. Samples: {report['samples']:,} generated slices, {context.made}. "
        f"Real: slices of {context.source}. Validation: real slices of other people. Areas are "
        f"shares of the image. Means, with a 95 % bootstrap over people or drawn {context.stack}s."
    )
    context.draw(plots.anatomy, "anatomy.png", report["anatomy"], caption)
