"""Whole brains: stacks of slices drawn from bottom to top, each given the slices below it."""

import functools
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dataset import load_images
from evaluation import plots
from evaluation.context import Context, SamplingOptions, Section
from evaluation.reconstruction import BATCH, check_levels
from modules import Models
from networks.neighbours import NO_CODE, SLICES_BELOW
from networks.raster import RasterPrior, numbered_seed
from sources.folder import Split
from sources.images import enlarge, to_grey, to_unit, write_png
from sources.layout import slice_name
from sources.volumes import write_volume
from utils import InputError, progress, spread

FIRST_BRAIN = 2 * 10**6  # number of the first slice of the first brain, beyond those of samples
SLICES, NAME = "slices", "brain_{:04d}.nii.gz"
SHOWN_BRAINS = 3  # generated, and as many real ones
BESIDE_MIDLINE = 0.45  # of the rows of the frame: there a sagittal cut meets a ventricle


class FirstSlice(NamedTuple):
    """The slice that all brains begin with.

    Attributes:
        level: Its level k.
        codes: Its codes, int32 `(H, W)`.
    """

    level: int
    codes: np.ndarray


def plan(
    models: Models,
    run: os.PathLike | str,
    count: int | None,
    first: Split | None,
    walk: bool,
) -> tuple[int, FirstSlice | None]:
    """Decide how many brains to draw, and what they begin with.

    Args:
        models: The networks.
        run: Their run, for messages.
        count: Number of brains that is asked for, or None for the usual one.
        first: The one slice that all brains begin with, or None.
        walk: Whether a figure of a brain is asked for.

    Returns:
        The number of brains, and what all of them begin with, or None.

    Raises:
        InputError: Brains are asked for, and the prior does not read the slices below.
    """
    vqvae, prior, _ = models
    if not prior.settings["reads_below"]:
        if count or first or walk:
            raise InputError(
                f"the prior of {run} does not read the slices below, so it draws single slices: "
                "leave out --brains, --from-slice and --walk, or train without --slices-alone."
            )
        return 0, None
    count = 1 if count is None else max(count, int(walk))
    if first is None:
        return count, None
    check_levels(run, prior, first)
    images = to_unit(load_images(first, vqvae.settings["image_size"]))[..., None]
    codes = prior.choose_codes(vqvae.distances(images), first.levels)
    return max(count, 1), FirstSlice(int(first.levels[0]), np.asarray(codes)[0])


def draw_brain_codes(
    prior: RasterPrior,
    count: int,
    options: SamplingOptions,
    begin: FirstSlice | None = None,
    first: int = FIRST_BRAIN,
) -> Iterator[np.ndarray]:
    """Draw the codes of brains from bottom to top, a batch of brains at a time.

    Args:
        prior: The model that draws codes. It reads the slices below.
        count: Number of brains.
        options: How codes are drawn.
        begin: Slice at level k that all brains begin with. None begins every brain anew at level 0.
        first: Number of the first slice. It makes drawings with one seed differ.

    Yields:
        codes, int32 `(B, L - k, H, W)`.
    """
    num_levels, grid = prior.settings["num_levels"], prior.settings["grid"]
    start = np.full((SLICES_BELOW, *grid), NO_CODE, "int32")
    level = -1
    if begin:
        level, start[0] = begin
    levels = np.arange(level + 1, num_levels)
    for batch in progress(range(0, count, BATCH), "drawing brains", unit="batch"):
        below = np.tile(start, (min(BATCH, count - batch), 1, 1, 1))
        slices = [below[:, :1]] if begin else []
        if len(levels):
            codes = prior.sample_upward(
                tf.constant(below),
                tf.constant(levels[0], tf.int32),
                numbered_seed(options.seed, first + batch * num_levels + levels),
                options.drawing,
            )
            slices.append(codes)
        yield np.concatenate(slices, axis=1)


def decode_brains(
    models: Models, codes: np.ndarray, options: SamplingOptions, num_levels: int, first: int
) -> np.ndarray:
    """Decode brains. The texture of a slice is drawn given the drawn slice below it.

    Args:
        models: The networks.
        codes: Codes of brains from some level up to the highest, `(N, K, H, W)`.
        options: How textures are drawn.
        num_levels: Number L of slice levels.
        first: Number of the slice of the first brain at level 0.

    Returns:
        uint8 `(N, K, S, S)`.
    """
    brains, lowest = [], num_levels - codes.shape[1]
    for begin in range(0, len(codes), BATCH):
        batch = codes[begin : begin + BATCH]
        numbers = first + (begin + np.arange(len(batch))) * num_levels
        below, slices = None, []
        upward = progress(np.moveaxis(batch, 1, 0), "decoding brains", batch.shape[1], "slice")
        for level, of_level in enumerate(upward, lowest):
            below = options.decode(models, of_level, numbers + level, below)
            slices.append(to_grey(below)[..., 0])
        brains.append(np.stack(slices, axis=1))
    return np.concatenate(brains)


def draw_brains(
    models: Models,
    count: int,
    options: SamplingOptions,
    begin: FirstSlice | None = None,
    first: int = FIRST_BRAIN,
) -> Iterator[np.ndarray]:
    """Draw brains from bottom to top, a batch of them at a time.

    Args:
        models: The networks.
        count: Number of brains.
        options: How codes and textures are drawn.
        begin: Slice at level k that all brains begin with, or None for k = 0.
        first: Number of the first slice. It makes drawings with one seed differ.

    Yields:
        Brains, uint8 `(B, L - k, S, S)`.
    """
    num_levels, number = models.prior.settings["num_levels"], first
    for codes in draw_brain_codes(models.prior, count, options, begin, first):
        yield decode_brains(models, codes, options, num_levels, number)
        number += len(codes) * num_levels


def write_brains(
    folder: pathlib.Path, brains: Iterator[np.ndarray], level: int, kept: int
) -> np.ndarray:
    """Write brains as volumes and as slices, and keep the first of them in memory.

    A brain becomes `brain_0000.nii.gz` and `slices/case_000_slice_0.nii.png` and so on, in the
    layout of a data folder. Both have voxels of 1 mm, so smaller images are enlarged.

    Args:
        folder: Folder to write into.
        brains: What `draw_brains` yields.
        level: Level of the lowest slice.
        kept: Number of brains to keep.

    Returns:
        The first brains, uint8 `(kept, K, S, S)`.
    """
    number, first = 0, []
    for batch in brains:
        for brain in batch:
            first += [brain] if number < kept else []
            slices = [enlarge(image) for image in brain]
            write_volume(folder / NAME.format(number), np.stack(slices), level)
            for k, image in enumerate(slices, start=level):
                write_png(folder / SLICES / slice_name(number, k), image)
            number += 1
    return np.stack(first)


def brains(context: Context, count: int, begin: FirstSlice | None, walk: bool) -> Section:
    """Draw and write brains, and show some, beside real brains where there are any.

    Args:
        context: The run, and what was evaluated.
        count: Number of brains, at least one.
        begin: Slice that all brains begin with, or None.
        walk: Whether a figure shows every slice of the first brain.
    """
    start, level = time.perf_counter(), begin.level if begin else 0
    drawn = draw_brains(context.models, count, context.sampling, begin)
    shown = write_brains(context.folder / "brains", drawn, level, SHOWN_BRAINS)  # (N, K, S, S)
    figures = {"brains": _cuts_figure(context, shown, level)}
    if walk:
        caption = (
            "Generated slices, not real ones: one brain from bottom to top. Each slice is given "
            f"the two slices below it and {context.made}."
        )
        levels = np.arange(level, level + shown.shape[1])
        walked = {"images": to_unit(shown[0]), "levels": levels, "caption": caption}
        figures["walk"] = functools.partial(plots.samples, **walked)
    seconds = time.perf_counter() - start
    metrics = {"count": count, "seconds": seconds, "first_level": level, "slices": shown.shape[1]}
    return Section({"brains": metrics}, figures)


def _cuts_figure(context, shown, level):
    """Cuts of generated brains, and of as many real ones that have all their levels."""
    frame, real = context.models.vqvae.frame, {}
    if context.split is not None:
        stacks = context.split.stacks(range(level, level + shown.shape[1]))
        if len(stacks):
            beside = stacks[spread(len(stacks), len(shown))]
            real = cuts(to_unit(context.results["images"][beside]), frame)
    drawn = "A generated brain, not a real one"
    if len(shown) > 1:
        drawn = f"{len(shown)} generated brains, not real ones"
    source = f" Beside them {context.source}." if real else ""
    caption = (
        f"{drawn}: each slice is given the two slices below it and {context.made}.{source} Rows: "
        f"axial cut (level {level + shown.shape[1] // 2}), sagittal cut beside the midline, "
        "coronal cut; the nose is to the right, and one row of a cut is one slice of 1 mm. Each "
        "slice has a grey scale of its own, in real brains too, which makes the bands."
    )
    generated = cuts(to_unit(shown), frame)
    return functools.partial(
        plots.brains, generated=generated, real=real, frame=frame, caption=caption
    )


def cuts(brains: np.ndarray, frame: Sequence[int]) -> dict[str, np.ndarray]:
    """Cut brains through the middle of the frame; a sagittal cut passes beside the midline.

    Args:
        brains: Stacks `(N, K, S, S)` from bottom to top, the nose to the right.
        frame: Part of the slices that is not empty.

    Returns:
        `axial` `(N, S, S)`, `coronal` `(N, K, S)` and `sagittal` `(N, K, S)`.
    """
    top, left, bottom, right = frame
    row, column = round(top + BESIDE_MIDLINE * (bottom - top)), (left + right) // 2
    return {
        "axial": brains[:, brains.shape[1] // 2],
        "coronal": brains[:, :, :, column],
        "sagittal": brains[:, :, row],
    }
