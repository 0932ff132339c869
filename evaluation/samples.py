"""New slices: codes drawn from the prior at given levels, and decoded."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from evaluation import plots
from evaluation.context import Context, Figure, SamplingOptions, Section
from evaluation.panels import GREY_SCALE
from evaluation.reconstruction import BATCH, shown_slices, slice_titles
from modules import Models
from networks.raster import RasterPrior, numbered_seed
from sources.folder import Split
from sources.images import to_grey, to_unit, write_png
from utils import InputError, progress, spread

COMPLETIONS = 3  # drawings of each missing half
COMPLETION_STRIDE = 1000  # numbers of slices between two drawings of the same half
SHOWN_SAMPLES = 64  # in the figure of samples, at most
SHOWN_PAIRS = 8  # of a real and a generated slice


def spread_levels(count: int, level: int | None, known: np.ndarray) -> np.ndarray:
    """Choose the levels of samples: all at one level, or spread evenly over the known levels.

    Args:
        count: Number of samples.
        level: Level of all samples, or None to spread them.
        known: Levels of the data in rising order.

    Returns:
        `(count,)`.

    Raises:
        InputError: `level` is not among the known levels.
    """
    if level is None:
        places = np.linspace(0, len(known) - 1, count).round().astype(int)
        return known[places]
    if level not in known:
        raise InputError(
            f"--slice must be a level of the data, {known.min()} to {known.max()}. "
            f"Received: {level}"
        )
    return np.full(count, level, known.dtype)


class Given(NamedTuple):
    """Codes that stay, where only the rest of slices is drawn.

    Attributes:
        codes: int32 `(N, H, W)`.
        rows: Number of rows, the upper ones, that stay.
    """

    codes: np.ndarray
    rows: int


def draw_slice_codes(
    prior: RasterPrior,
    levels: np.ndarray,
    options: SamplingOptions,
    first: int = 0,
    given: Given | None = None,
) -> Iterator[np.ndarray]:
    """Draw the codes of slices batch by batch, each slice by itself.

    Args:
        prior: The model that draws codes.
        levels: Level of each slice, `(N,)`.
        options: How codes are drawn.
        first: Number of the first slice. It makes drawings with one seed differ.
        given: Codes to begin from, or None.

    Yields:
        codes, int32 `(B, H, W)`.
    """
    for begin in range(0, len(levels), BATCH):
        batch = slice(begin, begin + BATCH)
        codes = prior.sample(
            tf.constant(levels[batch]),
            numbered_seed(options.seed, first + begin),
            options.drawing,
            None if given is None else tf.constant(given.codes[batch], tf.int32),
            given.rows if given else 0,
        )
        yield np.asarray(codes)


def draw_slices(
    models: Models,
    levels: np.ndarray,
    options: SamplingOptions,
    first: int = 0,
    given: Given | None = None,
) -> Iterator[np.ndarray]:
    """Generate slices batch by batch, so that memory does not grow with their number.

    Args:
        models: The networks.
        levels: Level of each slice, `(N,)`.
        options: How codes and textures are drawn.
        first: Number of the first slice. It makes drawings with one seed differ.
        given: Codes to begin from, or None.

    Yields:
        Images in [0, 1], float32 `(B, S, S)`.
    """
    for codes in draw_slice_codes(models.prior, levels, options, first, given):
        numbers = first + np.arange(len(codes))
        yield options.decode(models, codes, numbers).numpy()[..., 0]
        first += len(codes)


def draw_all(
    models: Models,
    levels: np.ndarray,
    options: SamplingOptions,
    title: str,
    first: int = 0,
    given: Given | None = None,
) -> np.ndarray:
    """Draw all slices of `draw_slices` at once and show progress under a title.

    Returns:
        uint8 `(N, S, S)`, at least one.
    """
    batches = draw_slices(models, levels, options, first, given)
    steps = -(-len(levels) // BATCH)
    return np.concatenate([to_grey(batch) for batch in progress(batches, title, steps)])


def sample(context: Context, levels: np.ndarray) -> Section:
    """Draw and write samples, if any, and show some, beside real slices where there are any.

    Args:
        context: The run, and what was evaluated.
        levels: Level of each sample, `(N,)`.
    """
    begin = time.perf_counter()
    shown, paired = spread(len(levels), SHOWN_SAMPLES), spread(len(levels), SHOWN_PAIRS)
    kept = write_samples(context, levels, {*shown.tolist(), *paired.tolist()})
    sampling, figures = context.sampling, {}
    if len(levels):
        figures["samples"] = _samples_figure(context, kept, levels, shown)
    if len(levels) and context.split:
        figures["comparison"] = _comparison_figure(context, kept, levels, paired)
    seconds = time.perf_counter() - begin
    has_texture = sampling.texture and bool(context.models.texture)
    options = {**dataclasses.asdict(sampling), "texture": has_texture}
    metrics = {"count": len(levels), "seconds": seconds, **options}
    return Section({"samples": metrics}, figures)


def write_samples(context: Context, levels: np.ndarray, kept: set[int]) -> dict[int, np.ndarray]:
    """Draw slices, write each as a PNG into `samples`, and keep a few of them in memory.

    Args:
        context: The run.
        levels: Level of each slice, `(N,)`.
        kept: Numbers of the slices to keep.

    Returns:
        The kept slices, uint8 `(S, S)`, by their numbers.
    """
    images, number = {}, 0
    batches = draw_slices(context.models, levels, context.sampling)
    for batch in progress(batches, "drawing samples", -(-len(levels) // BATCH)):
        for image in to_grey(batch):
            name = f"sample_{number:04d}_slice_{levels[number]}.png"
            write_png(context.folder / "samples" / name, image)
            if number in kept:
                images[number] = image
            number += 1
    return images


def _stacked(kept, numbers):
    return to_unit(np.stack([kept[number] for number in numbers]))


def _samples_figure(context, kept, levels, shown) -> Figure:
    part = f" {len(shown)} of {len(levels):,} are shown, evenly spread."
    part = part if len(shown) < len(levels) else ""
    return functools.partial(
        plots.samples,
        images=_stacked(kept, shown),
        levels=levels[shown],
        caption=f"Generated slices, not real ones: {context.made}.{part}",
    )


def _comparison_figure(context, kept, levels, paired) -> Figure:
    """Pairs of a real and a generated slice, in an order that only the caption tells."""
    beside = [nearest_slice(context.split, levels[number], number) for number in paired]
    real, generated = to_unit(context.results["images"][beside]), _stacked(kept, paired)
    generated_below = np.random.default_rng(context.sampling.seed).random(len(paired)) < 0.5
    below = generated_below[:, None, None]
    answers = ", ".join("lower" if is_below else "upper" for is_below in generated_below)
    caption = (
        f"Real slices of {context.source}, beside generated ones, {context.made}. The two slices "
        "of a pair have the same level. Generated, from left to right: "
        f"{answers}. {GREY_SCALE}"
    )
    return functools.partial(
        plots.rows_of_images,
        rows=[
            plots.Row(np.where(below, real, generated)),
            plots.Row(np.where(below, generated, real)),
        ],
        content=np.concatenate([real, generated]),
        titles=[f"level {level}" for level in levels[paired]],
        caption=caption,
        title_size=8,
    )


def describe_model(context: Context) -> Section:
    """Say what draws samples, as `metrics.json` says it where no slices were evaluated."""
    vqvae = context.models.vqvae
    data = {"image_size": vqvae.settings["image_size"], "frame": list(vqvae.frame)}
    return Section({"data": data, "codebook": {"size": vqvae.settings["codebook_size"]}})


def nearest_slice(split: Split, level: int, number: int) -> int:
    """Find a slice at a level, or at the nearest level; another number gives another subject."""
    distance = np.abs(split.levels - level)
    candidates = np.flatnonzero(distance == distance.min())
    return candidates[number % len(candidates)]


def complete(context: Context) -> Section:
    """Draw the lower half of slices several times, without texture, as the upper half has none."""
    models, options = context.models, dataclasses.replace(context.sampling, texture=False)
    shown = shown_slices(len(context.split))
    codes, levels = context.results["codes"][shown], context.split.levels[shown]
    rows, drawings = codes.shape[1] // 2, []
    for number in range(COMPLETIONS):
        title, first = f"drawing completion {number + 1}", COMPLETION_STRIDE * number
        drawings.append(draw_all(models, levels, options, title, first, Given(codes, rows)))
    restored = to_unit(context.results["restored"][shown])
    top, _, bottom, _ = models.vqvae.frame
    edge = top + rows * (bottom - top) // codes.shape[1]  # in pixels
    halves = restored.copy()
    halves[:, edge:] = 0
    panels = [plots.Row(restored, "reconstruction"), plots.Row(halves, "given")]
    for number, images in enumerate(drawings, start=1):
        panels.append(plots.Row(to_unit(images), f"drawing {number}", line=edge))
    caption = (
        f"{context.source}. {context.model}: the codes of the upper half are given, those of the "
        f"lower half are {options.drawn}, {COMPLETIONS} times. The line separates what was given "
        f"from what was drawn. {GREY_SCALE}"
    )
    figure = functools.partial(
        plots.rows_of_images,
        rows=panels,
        content=restored,
        titles=slice_titles(context.split, shown),
        caption=caption,
    )
    return Section(figures={"completions": figure})
