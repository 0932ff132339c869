"""Whole brains, or stacks of other slices: drawn coarse to fine, each slice given others."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from evaluation import plots
from evaluation.attributes import entities, people
from evaluation.context import FIRST_BRAIN, Context, SamplingOptions
from evaluation.reconstruction import BATCH
from evaluation.samples import decode
from evaluation.stacks import write_slices, write_stack
from networks.attributes import labelled
from networks.order import arrange
from networks.raster import RasterPrior, numbered_seed
from sources.images import to_unit
from utils import progress, spread

SLICES, NAME = "slices", "brain_{:04d}{}.nii.gz"
GIVEN = "slices are drawn coarse to fine; each is given the nearest ones below and above it, and is"
SHOWN_BRAINS = 3  # generated, and as many real ones
BRAIN_CUTS = ("axial", "sagittal", "coronal")
BESIDE_MIDLINE = 0.45  # of the rows of the frame: there a sagittal cut meets a ventricle


class GivenSlices(NamedTuple):
    """Slices that all brains hold.

    Attributes:
        levels: Their levels, `(M,)`, in rising order.
        codes: Their codes, int32 `(M, H, W)`.
    """

    levels: np.ndarray
    codes: np.ndarray


def draws_stacks(prior: RasterPrior) -> bool:
    """Whether a prior draws stacks: it reads neighbouring slices, and knows several levels."""
    return prior.settings["neighbours"] > 0 and prior.settings["num_levels"] > 1


def draw_brain_codes(
    prior: RasterPrior,
    count: int,
    options: SamplingOptions,
    given: GivenSlices | None = None,
    first: int = FIRST_BRAIN,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw the codes of brains, a batch of brains at a time.

    Around slices, of which nobody can know who they show, no attribute is drawn.

    Args:
        prior: The model that draws codes. It reads neighbouring slices.
        count: Number of brains.
        options: How codes are drawn.
        given: Slices that all brains hold, or None.
        first: Number of the first slice. It makes drawings with one seed differ.

    Yields:
        Stacks of all L levels, as `samples.decode` takes them: codes, int32 `(B, L, H, W)`, and
        `(B, L)`.
    """
    num_levels, grid = prior.settings["num_levels"], prior.settings["grid"]
    given = given or GivenSlices(np.arange(0), np.zeros((0, *grid), "int32"))
    missing = np.setdiff1d(np.arange(num_levels), given.levels)
    for begin in progress(range(0, count, BATCH), "drawing stacks", unit="batch"):
        size = min(BATCH, count - begin)
        numbers = first + np.arange(begin, begin + size)[:, None] * num_levels
        numbers = numbers + np.arange(num_levels)
        codes = np.empty((size, num_levels, *grid), "int32")
        codes[:, given.levels] = given.codes
        if len(missing):
            seeds = numbered_seed(options.seed, numbers[:, missing].ravel())
            known = codes[:, given.levels].reshape(-1, *grid) if len(given.levels) else None
            levels = np.concatenate([np.tile(some, size) for some in (given.levels, missing)])
            cases = [np.repeat(np.arange(size), len(some)) for some in (given.levels, missing)]
            order = arrange(np.concatenate(cases), levels, prior.settings["neighbours"], known)
            shown = options.given
            if known is None:
                shown = people(prior.attributes, options, numbers[:, 0])
                shown = np.repeat(shown, len(missing), axis=0)
            wanted = tf.constant(labelled(np.tile(missing, size), shown), tf.int32)
            how = options.drawing, None, order, options.guidance
            drawn = prior.sample(wanted, seeds, *how).numpy()
            codes[:, missing] = drawn.reshape(size, -1, *grid)
        yield codes, numbers


def brains(context: Context, count: int, given: GivenSlices | None, walk: bool) -> dict:
    """Draw and write brains, and show some, beside real brains where there are any.

    A brain becomes `brain_0000.nii.gz`, with what is given of it in the name, and
    `slices/case_000_slice_0.nii.png` and so on, in the layout of a data folder. Both lie over the
    scans of the set, so smaller images are enlarged.

    Args:
        context: The run, and what was evaluated.
        count: Number of brains, at least one.
        given: Slices that all brains hold, or None.
        walk: Whether a figure shows every slice of the first brain.

    Returns:
        `brains` of `metrics.json`.
    """
    start = time.perf_counter()
    folder, options, shown = context.folder / "brains", context.sampling, []
    levels = range(context.models.prior.settings["num_levels"])
    drawn = draw_brain_codes(context.models.prior, count, options, given)
    batches = decode(context.models, drawn, options)
    for number, brain in enumerate(itertools.chain.from_iterable(batches)):
        path = folder / NAME.format(number, entities(context.given))
        note = f"generated{context.of_whom}"
        write_stack(path, brain, levels, context.facts, description=note)
        write_slices(folder / SLICES, brain, [(number, k) for k in levels], context.facts)
        shown += [brain] if number < SHOWN_BRAINS else []
    seconds, shown = time.perf_counter() - start, np.stack(shown)  # (N, K, S, S)
    made = f"{GIVEN} {context.made}."
    if given:
        made += f" Levels {', '.join(map(str, given.levels))} are reconstructions of given slices."
    _draw_cuts(context, shown, levels, made)
    if walk:
        caption = f"Generated slices, not real ones: one {context.stack} from bottom to top; {made}"
        context.draw(plots.samples, "walk.png", to_unit(shown[0]), levels, caption)
    metrics = {"count": count, "seconds": seconds, "first_level": 0, "slices": len(levels)}
    attributes = context.models.prior.attributes
    if len(attributes) and not given:
        shown = people(attributes, options, FIRST_BRAIN + np.arange(count) * len(levels))
        metrics["attributes"] = list(map(attributes.labels, shown))
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
