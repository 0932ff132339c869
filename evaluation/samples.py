"""New slices: codes drawn from the prior at given levels, and decoded."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from evaluation import selection
from evaluation.reconstruction import BATCH
from evaluation.saved import Parts
from modules import VQVAE, Models
from networks.raster import RasterPrior, numbered_seed
from sources.folder import Split
from sources.images import to_grey, write_png
from utils import InputError, progress

COMPLETIONS = 3  # drawings of each missing half
COMPLETION_STRIDE = 1000  # numbers of slices between two drawings of the same half


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How codes are drawn; `networks.logits.draw` says what each option does.

    Attributes:
        seed: Seed of all random numbers. The same seed gives the same slices.
        temperature: Divisor of the logits.
        top_k: Number of likeliest codes to draw among, 0 for all.
        top_p: Probability that the codes to draw among reach together.
        texture: Whether to draw the fine grain that codes lose, where the model can.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    texture: bool = True

    def decode(
        self, models: Models, codes: np.ndarray, numbers: np.ndarray, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Decode drawn codes, and draw the texture where it is wanted and the run has one.

        Args:
            models: The networks.
            codes: int32 `(B, H, W)`.
            numbers: Number of each slice, which tells its random numbers apart, `(B,)`.
            below: Drawn slices below, `(B, S, S, 1)`, or None.

        Returns:
            Slices in [0, 1], float32 `(B, S, S, 1)`.
        """
        restored = models.vqvae.decode(codes)
        if not (self.texture and models.texture):
            return restored
        return models.texture.draw(restored, numbered_seed(self.seed, numbers), below)


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
    prior: RasterPrior,
    levels: np.ndarray,
    options: SamplingOptions,
    given: np.ndarray | None = None,
    rows: int = 0,
    first: int = 0,
) -> Iterator[np.ndarray]:
    """Draw the codes of slices batch by batch, each slice by itself.

    Args:
        prior: The model that draws codes.
        levels: Level of each slice, `(N,)`.
        options: How codes are drawn.
        given: Codes to begin from, `(N, H, W)`, or None.
        rows: Number of rows that are kept of `given`.
        first: Number of the first slice. It tells drawings with one seed apart.

    Yields:
        codes, int32 `(B, H, W)`.
    """
    for begin in range(0, len(levels), BATCH):
        batch = slice(begin, begin + BATCH)
        codes = prior.sample(
            tf.constant(levels[batch]),
            numbered_seed(options.seed, first + begin),
            options.temperature,
            options.top_k,
            options.top_p,
            None if given is None else tf.constant(given[batch], tf.int32),
            rows,
        )
        yield np.asarray(codes)


def draw_slices(
    models: Models,
    levels: np.ndarray,
    options: SamplingOptions,
    first: int = 0,
    **how,
) -> Iterator[np.ndarray]:
    """Generate slices batch by batch, so that memory does not grow with their number.

    Args:
        models: The networks.
        levels: See `draw_slice_codes`.
        options: How codes and textures are drawn.
        first: See `draw_slice_codes`.
        **how: Other arguments of `draw_slice_codes`.

    Yields:
        Images in [0, 1], float32 `(B, S, S)`.
    """
    for codes in draw_slice_codes(models.prior, levels, options, first=first, **how):
        numbers = first + np.arange(len(codes))
        yield options.decode(models, codes, numbers).numpy()[..., 0]
        first += len(codes)


def draw_all(
    models: Models,
    levels: np.ndarray,
    options: SamplingOptions,
    title: str,
    **how,
) -> np.ndarray:
    """Draw all slices at once and show progress.

    Args:
        models: The networks.
        levels: See `draw_slices`; at least one.
        options: See `draw_slices`.
        title: Name of the work in the progress bar.
        **how: Other arguments of `draw_slices`.

    Returns:
        uint8 `(N, S, S)`.
    """
    batches = draw_slices(models, levels, options, **how)
    steps = -(-len(levels) // BATCH)
    return np.concatenate([to_grey(batch) for batch in progress(batches, title, steps)])


def write_samples(
    models: Models,
    levels: np.ndarray,
    options: SamplingOptions,
    folder: pathlib.Path,
    kept: np.ndarray,
) -> np.ndarray:
    """Draw slices, write each as a PNG, and keep a few of them in memory.

    Args:
        models: The networks.
        levels: Level of each slice, `(N,)`; at least one.
        options: See `draw_slices`.
        folder: Folder for the PNGs.
        kept: Numbers of the slices to keep, in rising order.

    Returns:
        The kept slices, uint8 `(len(kept), S, S)`.
    """
    number, wanted, images = 0, set(kept.tolist()), []
    batches = draw_slices(models, levels, options)
    for batch in progress(batches, "drawing samples", -(-len(levels) // BATCH)):
        for image in to_grey(batch):
            write_png(folder / f"sample_{number:04d}_slice_{levels[number]}.png", image)
            if number in wanted:
                images.append(image)
            number += 1
    return np.stack(images)


def sample(
    models: Models,
    levels: np.ndarray,
    options: SamplingOptions,
    results: dict[str, np.ndarray] | None,
    split: Split | None,
    folder: pathlib.Path,
) -> tuple[dict[str, Any], Parts]:
    """Draw and write the samples, if any, and choose those that figures show.

    Args:
        models: The networks.
        levels: Level of each sample, `(N,)`.
        options: See `draw_slices`.
        results: What `evaluation.reconstruction.evaluate` returned, or None without slices.
        split: The split whose real slices stand beside samples, or None.
        folder: Folder for the PNGs.

    Returns:
        `(metrics, parts)`: `samples` of `metrics.json`, and what figures show.
    """
    begin, parts = time.perf_counter(), {}
    if len(levels):
        kept = selection.kept_samples(len(levels))
        images = write_samples(models, levels, options, folder, kept)
        parts = selection.sample_parts(images, levels, results, split)
    seconds = time.perf_counter() - begin
    how = {**dataclasses.asdict(options), "texture": options.texture and bool(models.texture)}
    return {"count": len(levels), "seconds": seconds, **how}, parts


def describe_model(vqvae: VQVAE) -> dict[str, Any]:
    """Say what draws samples, as `metrics.json` says it where no slices were evaluated."""
    size, codebook_size = vqvae.settings["image_size"], vqvae.settings["codebook_size"]
    data = {"image_size": size, "frame": list(vqvae.frame)}
    return {"data": data, "codebook": {"size": codebook_size}}


def complete(models: Models, slices: dict[str, np.ndarray], options: SamplingOptions) -> Parts:
    """Draw the lower half of slices several times, without texture, as the upper half has none.

    Args:
        models: The networks.
        slices: `codes` `(N, H, W)` and `levels` `(N,)` of the slices.
        options: See `draw_slices`.
    """
    codes, levels = slices["codes"], slices["levels"]
    rows = codes.shape[1] // 2
    drawings, options = [], dataclasses.replace(options, texture=False)
    for number in range(COMPLETIONS):
        title, first = f"drawing completion {number + 1}", COMPLETION_STRIDE * number
        half = {"given": codes, "rows": rows, "first": first}
        drawings.append(draw_all(models, levels, options, title, **half))
    return {"completions": {"drawings": np.stack(drawings), "rows": rows}}
