"""Stacks with gaps, completed: missing slices are drawn given those below and above them."""

import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dataset import load_images
from evaluation.context import FIRST_FILLED, Context, SamplingOptions
from evaluation.metrics import quality
from evaluation.reconstruction import BATCH, choose_codes
from evaluation.stacks import write_slices, write_stack
from modules import Models
from networks.attributes import labelled
from networks.order import arrange
from networks.raster import numbered_seed
from sources.folder import Split
from sources.images import to_grey, to_unit
from utils import progress

FOLDER, STACK = "fill", "case_{:03d}.nii.gz"
KEPT = {"every_second_slice": 2, "every_fourth_slice": 4}  # of stacks whose gaps are known
STACKS = 8  # that are drawn together


class Gaps(NamedTuple):
    """Slices that are missing between others of their case, N of them.

    Attributes:
        cases: Case of each, int32 `(N,)`.
        levels: Level of each, int32 `(N,)`.
        below: Index of the next slice below that is there, `(N,)`. The next one above is that
            index + 1.
    """

    cases: np.ndarray
    levels: np.ndarray
    below: np.ndarray


def gaps_of(split: Split) -> Gaps:
    """The slices that are missing in a split, by case and level."""
    cases, levels = split.cases.tolist(), split.levels.tolist()
    rows = [
        (cases[i], level, i)
        for i in range(len(split) - 1)
        if cases[i] == cases[i + 1]
        for level in range(levels[i] + 1, levels[i + 1])
    ]
    return Gaps(*np.array(rows, "int32").reshape(-1, 3).T)


def draw_gaps(
    models: Models, split: Split, images: np.ndarray, options: SamplingOptions
) -> tuple[Gaps, np.ndarray]:
    """Draw the codes of the missing slices of a split, `(N, H, W)`.

    Args:
        models: The networks.
        split: The slices that are there.
        images: Their images, uint8 `(M, S, S)`.
        options: How codes are drawn.
    """
    gaps = gaps_of(split)
    codes = choose_codes(models, split.cases, split.levels, images, options.given)
    drawn = np.empty((len(gaps.cases), *codes.shape[1:]), "int32")
    numbers, cases = FIRST_FILLED + np.arange(len(drawn)), np.unique(gaps.cases)
    for begin in progress(range(0, len(cases), STACKS), "drawing missing slices"):
        some = cases[begin : begin + STACKS]
        there, wanted = (np.flatnonzero(np.isin(x.cases, some)) for x in (split, gaps))
        places = [
            np.concatenate([getattr(split, name)[there], getattr(gaps, name)[wanted]])
            for name in ("cases", "levels")
        ]
        order = arrange(*places, models.prior.settings["neighbours"], codes[there])
        seeds = numbered_seed(options.seed, numbers[wanted])
        levels = tf.constant(labelled(gaps.levels[wanted], options.given))
        drawn[wanted] = models.prior.sample(levels, seeds, options.drawing, neighbours=order)
    return gaps, drawn


def decode_gaps(
    models: Models,
    split: Split,
    images: np.ndarray,
    gaps: Gaps,
    codes: np.ndarray,
    options: SamplingOptions,
) -> np.ndarray:
    """Images of drawn slices, uint8 `(N, S, S)`, each with its texture given the slice below it."""
    filled = np.empty((len(codes), *images.shape[1:]), "uint8")
    height = gaps.levels - split.levels[gaps.below]  # above the next slice that is there
    for k in range(1, height.max(initial=0) + 1):
        here = np.flatnonzero(height == k)
        for batch in np.split(here, range(BATCH, len(here), BATCH)):
            restored = models.vqvae.decode(codes[batch])
            if options.texture:
                below = images[gaps.below[batch]] if k == 1 else filled[batch - 1]
                seeds = numbered_seed(options.seed, FIRST_FILLED + batch)
                restored = models.texture.draw(restored, seeds, to_unit(below)[..., None])
            filled[batch] = to_grey(restored)[..., 0]
    return filled


def fill(context: Context, split: Split) -> dict[str, Any]:
    """Complete the stacks of a split, and write them as slices and volumes.

    Args:
        context: The run.
        split: Slices, some of them missing.

    Returns:
        `fill` of `metrics.json`.
    """
    begin, (models, options) = time.perf_counter(), (context.models, context.sampling)
    images = load_images(split, models.vqvae.settings["image_size"])
    gaps, codes = draw_gaps(models, split, images, options)
    filled = decode_gaps(models, split, images, gaps, codes, options)
    folder = context.folder / FOLDER
    for case in np.unique(split.cases).tolist():
        parts = [(split, images), (gaps, filled)]
        levels = np.concatenate([some.levels[some.cases == case] for some, _ in parts])
        stack = np.concatenate([shown[some.cases == case] for some, shown in parts])
        order = np.argsort(levels)
        places = [(case, level) for level in levels[order].tolist()]
        write_slices(folder / "slices", stack[order], places, context.facts)
        path = folder / STACK.format(case)
        note = f"slices between those of {split.name} are generated{context.of_whom}"
        write_stack(path, stack[order], levels[order].tolist(), split.facts, case, note)
    seconds = time.perf_counter() - begin
    counts = {"cases": len(np.unique(split.cases)), "given": len(split), "drawn": len(filled)}
    return {"fill": {**counts, "seconds": seconds}}


def measure_fill(context: Context) -> dict[str, Any]:
    """Leave slices of the evaluated split out, and compare what is drawn there with them.

    Beside it stand the slice that linear interpolation gives, the nearest slice that is there, and
    the reconstruction of the slice itself, which no drawing can be better than. An interpolation is
    a mean: it is nearer than any drawing, and has little detail.

    Returns:
        `fill` of `metrics.json`: `quality` of each, by what was kept of a stack.
    """
    split, images = context.split, context.results["images"]
    plain = context.sampling._replace(texture=False)
    report = {}
    for name, every in KEPT.items():
        kept = split.levels % every == 0
        known, shown = split.pick(np.flatnonzero(kept)), images[kept]
        gaps, codes = draw_gaps(context.models, known, shown, context.sampling)
        places = {place: i for i, place in enumerate(zip(split.cases, split.levels))}
        is_there = np.array([place in places for place in zip(gaps.cases, gaps.levels)], bool)
        missing = np.array([places[p] for p in zip(gaps.cases, gaps.levels) if p in places], int)
        if not len(missing):
            continue
        given = context.models, known, shown, gaps, codes
        ways = {"drawn": decode_gaps(*given, plain), **between(known, shown, gaps)}
        if context.sampling.texture:
            ways["drawn_with_texture"] = decode_gaps(*given, context.sampling)
        ways = {way: values[is_there] for way, values in ways.items()}
        ways["reconstructions"] = context.results["restored"][missing]
        figures = {way: quality(images[missing], values) for way, values in ways.items()}
        report[name] = {"missing": len(missing), **figures}
    return {"fill": report}


def between(split: Split, images: np.ndarray, gaps: Gaps) -> dict[str, np.ndarray]:
    """Missing slices by simple means, uint8 `(N, S, S)`: `interpolated` linearly, and `nearest`."""
    low, high = split.levels[gaps.below], split.levels[gaps.below + 1]
    share = (gaps.levels - low) / (high - low)
    weights = share[:, None, None].astype("float32")
    lower, upper = (to_unit(images[gaps.below + k]) for k in (0, 1))
    return {
        "interpolated": to_grey(lower + weights * (upper - lower)),
        "nearest": images[gaps.below + (share > 0.5)],
    }
