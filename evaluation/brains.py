"""Whole brains, or stacks of other slices: drawn from bottom to top, each given those below it."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from evaluation import plots
from evaluation.context import FIRST_BRAIN, Context, SamplingOptions
from evaluation.reconstruction import BATCH
from evaluation.samples import decode
from evaluation.stacks import write_slices, write_stack
from networks.neighbours import NO_CODE, SLICES_BELOW
from networks.raster import RasterPrior, numbered_seed
from sources.images import to_unit
from utils import progress, spread

SLICES, NAME = "slices", "brain_{:04d}.nii.gz"
SHOWN_BRAINS = 3  # generated, and as many real ones
BRAIN_CUTS = ("axial", "sagittal", "coronal")
BESIDE_MIDLINE = 0.45  # of the rows of the frame: there a sagittal cut meets a ventricle


class FirstSlice(NamedTuple):
    """The slice that all brains begin with.

    Attributes:
        level: Its level k.
        codes: Its codes, int32 `(H, W)`.
    """

    level: int
    codes: np.ndarray


def draws_stacks(prior: RasterPrior) -> bool:
    """Whether a prior draws stacks of slices: it reads those below, and knows several levels."""
    return prior.settings["reads_below"] and prior.settings["num_levels"] > 1


def draw_brain_codes(
    prior: RasterPrior,
    count: int,
    options: SamplingOptions,
    begin: FirstSlice | None = None,
    first: int = FIRST_BRAIN,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw the codes of brains from bottom to top, a batch of brains at a time.

    Args:
        prior: The model that draws codes. It reads the slices below.
        count: Number of brains.
        options: How codes are drawn.
        begin: Slice at level k that all brains begin with. None begins every brain anew at level 0.
        first: Number of the first slice. It makes drawings with one seed differ.

    Yields:
        Stacks, as `samples.decode` takes them: codes, int32 `(B, L - k, H, W)`, and `(B, L - k)`.
    """
    num_levels, grid = prior.settings["num_levels"], prior.settings["grid"]
    start = np.full((SLICES_BELOW, *grid), NO_CODE, "int32")
    if begin:
        start[0] = begin.codes
    levels = np.arange(begin.level if begin else 0, num_levels)
    drawn = levels[1:] if begin else levels
    for batch in progress(range(0, count, BATCH), "drawing stacks", unit="batch"):
        size, number = min(BATCH, count - batch), first + batch * num_levels
        below = np.tile(start, (size, 1, 1, 1))
        slices = [below[:, :1]] if begin else []
        if len(drawn):
            lowest = tf.constant(drawn[0], tf.int32)
            seeds = numbered_seed(options.seed, number + drawn)
            slices.append(prior.sample_upward(tf.constant(below), lowest, seeds, options.drawing))
        numbers = number + num_levels * np.arange(size)[:, None] + levels
        yield np.concatenate(slices, axis=1), numbers


def brains(context: Context, count: int, begin: FirstSlice | None, walk: bool) -> dict:
    """Draw and write brains, and show some, beside real brains where there are any.

    A brain becomes `brain_0000.nii.gz` and `slices/case_000_slice_0.nii.png` and so on, in the
    layout of a data folder. Both lie over the scans of the set, so smaller images are enlarged.

    Args:
        context: The run, and what was evaluated.
        count: Number of brains, at least one.
        begin: Slice that all brains begin with, or None.
        walk: Whether a figure shows every slice of the first brain.

    Returns:
        `brains` of `metrics.json`.
    """
    start, level = time.perf_counter(), begin.level if begin else 0
    folder, options, shown = context.folder / "brains", context.sampling, []
    levels = range(level, context.models.prior.settings["num_levels"])
    drawn = draw_brain_codes(context.models.prior, count, options, begin)
    batches = decode(context.models, drawn, options)
    for number, brain in enumerate(itertools.chain.from_iterable(batches)):
        write_stack(folder / NAME.format(number), brain, levels, context.facts)
        write_slices(folder / SLICES, brain, [(number, k) for k in levels], context.facts)
        shown += [brain] if number < SHOWN_BRAINS else []
    seconds, shown = time.perf_counter() - start, np.stack(shown)  # (N, K, S, S)
    made = f"each slice is given the two slices below it and {context.made}."
    made += " The lowest slice is a reconstruction of the given one." if begin else ""
    _draw_cuts(context, shown, levels, made)
    if walk:
        caption = f"Generated slices, not real ones: one {context.stack} from bottom to top; {made}"
        context.draw(plots.samples, "walk.png", to_unit(shown[0]), levels, caption)
    metrics = {"count": count, "seconds": seconds, "first_level": level, "slices": len(levels)}
    return {"brains": metrics}


def _draw_cuts(context, shown, levels, made):
    """Cuts of generated brains, and of as many real ones that have all their levels."""
    frame, facts, real, beside = context.models.vqvae.frame, context.facts, {}, ""
    middle, affine = levels[len(levels) // 2], facts.affine or np.eye(4)
    across, _, thickness, _ = np.linalg.norm(affine[:3], axis=0)  # mm, in the size of the set
    names = "slice", "along rows", "along columns"
    rows = f"slice at level {middle}, cut along the rows and along the columns, lowest level below."
    if facts.brain:
        names = BRAIN_CUTS
        rows = (
            f"axial cut (level {middle}), sagittal cut beside the midline, coronal cut; the nose "
            f"is to the right, and one row of a cut is one slice of {thickness:.3g} mm. Each slice "
            "has a grey scale of its own, in real brains too, which makes the bands."
        )
    stacks = context.split.stacks(levels) if context.split else []
    if len(stacks):
        stacks = stacks[spread(len(stacks), len(shown))]
        real = cuts(to_unit(context.results["images"][stacks]), frame, names)
        beside = f" Beside them {context.source}."
    drawn = f"A generated {context.stack}, not a real one"
    if len(shown) > 1:
        drawn = f"{len(shown)} generated {context.stack}s, not real ones"
    caption = f"{drawn}: {made}{beside} Rows: {rows}"
    aspect = thickness / (across * facts.side / shown.shape[-1])
    generated = cuts(to_unit(shown), frame, names)
    context.draw(plots.brains, "brains.png", generated, real, frame, caption, aspect)


def cuts(
    brains: np.ndarray, frame: Sequence[int], names: Sequence[str] = BRAIN_CUTS
) -> dict[str, np.ndarray]:
    """Cut brains through the middle of the frame; a sagittal cut passes beside the midline.

    Args:
        brains: Stacks `(N, K, S, S)` from bottom to top, the nose to the right.
        frame: Part of the slices that is not empty.
        names: What the three cuts are called.

    Returns:
        By name: the middle slice `(N, S, S)`, a cut along the rows and one along the columns, both
        `(N, K, S)`.
    """
    top, left, bottom, right = frame
    row, column = round(top + BESIDE_MIDLINE * (bottom - top)), (left + right) // 2
    planes = brains[:, brains.shape[1] // 2], brains[:, :, row], brains[:, :, :, column]
    return dict(zip(names, planes))
