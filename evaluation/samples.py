"""New slices: codes drawn from the prior at given levels, and decoded."""

import itertools
import time
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from evaluation import plots
from evaluation.attributes import entities, people
from evaluation.context import COMPLETION_STRIDE, Context, SamplingOptions
from evaluation.plots import GREY_SCALE
from evaluation.reconstruction import BATCH, shown_slices, slice_titles
from modules import Models
from networks.attributes import labelled
from networks.neighbours import NO_CODE
from networks.raster import RasterPrior, numbered_seed
from sources.folder import Split
from sources.images import to_grey, to_unit, write_png
from utils import InputError, progress, spread

COMPLETIONS = 3  # drawings of each missing half
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


def draw_slice_codes(
    prior: RasterPrior, levels: np.ndarray, options: SamplingOptions, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw the codes of slices batch by batch, each slice by itself, of people as `people` says.

    Args:
        prior: The model that draws codes.
        levels: Level of each slice, `(N,)`.
        options: How codes are drawn.
        first: Number of the first slice. It makes drawings with one seed differ.

    Yields:
        Stacks of one slice, as `decode` takes them: codes, int32 `(B, 1, H, W)`, and `(B, 1)`.
    """
    for begin in progress(range(0, len(levels), BATCH), "drawing slices"):
        batch = levels[begin : begin + BATCH]
        numbers = first + begin + np.arange(len(batch))
        seeds = numbered_seed(options.seed, numbers)
        levels_of = labelled(batch, people(prior.attributes, options, numbers))
        codes = np.asarray(prior.sample(tf.constant(levels_of), seeds, options.drawing))
        yield codes[:, None], numbers[:, None]


def decode(
    models: Models, drawn: Iterable[tuple[np.ndarray, np.ndarray]], options: SamplingOptions
) -> Iterator[np.ndarray]:
    """Decode stacks of slices batch by batch, so that memory does not grow with their number.

    The texture of a slice is drawn given the drawn slice below it.

    Args:
        models: The networks.
        drawn: Codes of each batch from bottom to top, int32 `(B, K, H, W)`, and the number of each
            slice, which tells its random numbers apart, `(B, K)`.
        options: How textures are drawn.

    Yields:
        uint8 `(B, K, S, S)`.
    """
    for codes, numbers in drawn:
        below, slices = None, []
        for k in progress(range(codes.shape[1]), "decoding", unit="slice"):
            image = models.vqvae.decode(codes[:, k])  # (B, S, S, 1)
            if options.texture:
                image = models.texture.draw(
                    image, numbered_seed(options.seed, numbers[:, k]), below
                )
            slices.append(to_grey(image)[..., 0])
            below = image
        yield np.stack(slices, axis=1)


def sample(context: Context, levels: np.ndarray) -> dict:
    """Draw and write samples, if any, and show some, beside real slices where there are any.

    Args:
        context: The run, and what was evaluated.
        levels: Level of each sample, `(N,)`.

    Returns:
        `samples` of `metrics.json`.
    """
    begin, sampling = time.perf_counter(), context.sampling
    shown, paired = spread(len(levels), SHOWN_SAMPLES), spread(len(levels), SHOWN_PAIRS)
    drawn = draw_slice_codes(context.models.prior, levels, sampling)
    batches = decode(context.models, drawn, sampling)
    kept = {}  # only those of the figures stay in memory
    for number, (image,) in enumerate(itertools.chain.from_iterable(batches)):
        name = f"sample_{number:04d}_slice_{levels[number]}{entities(context.given)}.png"
        write_png(context.folder / "samples" / name, image)
        if number in shown or number in paired:
            kept[number] = image
    seconds = time.perf_counter() - begin
    if len(levels):
        caption = f"Generated slices, not real ones: {context.made}."
        if len(shown) < len(levels):
            caption += f" {len(shown)} of {len(levels):,} are shown, evenly spread."
        context.draw(plots.samples, "samples.png", _stacked(kept, shown), levels[shown], caption)
    if len(levels) and context.split:
        _draw_comparison(context, _stacked(kept, paired), paired, levels[paired])
    options = {**sampling._asdict(), **sampling.drawing._asdict()}
    del options["drawing"], options["given"]
    return {"samples": {"count": len(levels), "seconds": seconds, **options}}


def _stacked(kept, numbers):
    return to_unit(np.stack([kept[number] for number in numbers]))


def _draw_comparison(context, generated, numbers, levels):
    """Pairs of a real and a generated slice, in an order that only the caption tells."""
    beside = [nearest_slice(context.split, *pair) for pair in zip(levels, numbers)]
    real = to_unit(context.results["images"][beside])
    generated_below = np.random.default_rng(context.sampling.seed).random(len(numbers)) < 0.5
    below = generated_below[:, None, None]
    answers = ", ".join("lower" if is_below else "upper" for is_below in generated_below)
    caption = (
        f"Real slices of {context.source}, beside generated ones, {context.made}. The two slices "
        "of a pair have the same level. Generated, from left to right: "
        f"{answers}. {GREY_SCALE}"
    )
    context.draw(
        plots.rows_of_images,
        "comparison.png",
        [
            plots.Row(np.where(below, real, generated)),
            plots.Row(np.where(below, generated, real)),
        ],
        content=np.concatenate([real, generated]),
        titles=[f"level {level}" for level in levels],
        caption=caption,
    )


def nearest_slice(split: Split, level: int, number: int) -> int:
    """Find a slice at a level, or at the nearest level; another number gives another subject."""
    distance = np.abs(split.levels - level)
    candidates = np.flatnonzero(distance == distance.min())
    return candidates[number % len(candidates)]


def complete(context: Context) -> None:
    """Draw half of slices several times, without texture, as the given half has none.

    What is drawn is the second half of the scan: it knows the first, and no prior knows more.
    """
    (vqvae, prior, _), options = context.models, context.sampling
    shown = shown_slices(len(context.split))
    codes, levels = context.results["codes"][shown], context.split.levels[shown]
    restored = to_unit(context.results["restored"][shown])
    # Lines of the scan are rows of the map, or columns where these hold both mirror halves.
    axis, halves = 0, ("upper", "lower")
    if prior.settings["mirror"] == "rows":
        axis, halves = 1, ("back", "front") if context.facts.brain else ("left", "right")
    count, first, end = codes.shape[1 + axis], vqvae.frame[axis], vqvae.frame[axis + 2]
    edge = first + count // 2 * (end - first) // count  # in pixels
    given, seen = codes.copy(), restored.copy()
    given.swapaxes(0, 1 + axis)[count // 2 :] = NO_CODE
    seen.swapaxes(0, 1 + axis)[edge:] = 0
    panels = [plots.Row(restored, "reconstruction"), plots.Row(seen, "given")]
    for number in progress(range(COMPLETIONS), "drawing completions"):
        seeds = numbered_seed(options.seed, COMPLETION_STRIDE * number + np.arange(len(codes)))
        told = tf.constant(labelled(levels, options.given))
        drawn = prior.sample(told, seeds, options.drawing, tf.constant(given))
        images = to_unit(to_grey(vqvae.decode(drawn))[..., 0])
        panels.append(plots.Row(images, f"drawing {number + 1}", line=(axis, edge)))
    caption = (
        f"{context.source}. {context.model}: the codes of the {halves[0]} half are given, those of "
        f"the {halves[1]} half are {context.drawn}, {COMPLETIONS} times. The line separates what "
        f"was given from what was drawn. {GREY_SCALE}"
    )
    titles = slice_titles(context.split, shown)
    context.draw(plots.rows_of_images, "completions.png", panels, titles, caption)
