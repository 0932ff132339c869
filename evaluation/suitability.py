"""Whether slices are such as the models of a run know: by their levels, place and likelihood."""

import os

import numpy as np
import tensorflow as tf
from scipy import stats

from evaluation.metrics import not_black
from fitting.run_directory import RunDirectory, read_history
from modules import Models
from networks.frames import cut
from networks.raster import RasterPrior
from sources.folder import Split
from sources.images import to_unit
from utils import InputError, spread

LOOKED_AT = 16  # slices whose likelihood is measured, at most
# A slice is unlikely that takes more bits than training slices take without context, times the
# first, and more than validation slices take given their neighbours, times the second. In bits a
# code of both shipped models, OASIS slices that they never saw take 4.8 and 4.3, and such slices
# with the nose to the other side 7.3 and 6.2, turned by 90 degrees 8.9 and 6.9. The limits are 5.4
# and 5.6.
OF_NO_CONTEXT, OF_VALIDATION = 0.9, 1.5
MUCH = 0.01  # share of the pixels of a slice
FEW = 0.5  # share of unlikely slices that is no reason to warn


def check_levels(run: os.PathLike | str, prior: RasterPrior, split: Split) -> None:
    """Check that the prior of a run knows every level of a split.

    Raises:
        InputError: It does not.
    """
    known = prior.settings["num_levels"]
    if split.levels.max() >= known:
        raise InputError(
            f"there are slices up to number {split.levels.max()}, and the prior of {run} knows "
            f"0 to {known - 1}: train a run on such data."
        )


def warn_of_masking(learned: bool | None, split: Split) -> None:
    """Warn where a model of masked slices gets slices that are not masked, or the other way round.

    Args:
        learned: Whether it learned from masked slices. None is unknown.
        split: The slices that it gets.
    """
    kinds = {True: "masked slices", False: "slices that are not masked"}
    if split.facts.brain:
        kinds = {True: "brain-masked slices", False: "slices with scalp"}
    if learned is not None and learned != split.masked:
        _warn(
            f"the model learned from {kinds[learned]} and gets {kinds[split.masked]}: its figures "
            "and maps say little."
        )


def warn_of_strange_slices(
    run: RunDirectory, models: Models, counts: np.ndarray, split: Split, images: np.ndarray
) -> None:
    """Warn where slices look unlike those of the training, as if they were turned or mirrored.

    Args:
        run: The run.
        models: Its networks.
        counts: Count of each code at each place in training, `(H, W, K)`.
        split: The slices.
        images: uint8 `(N, S, S)`, the size of the networks.
    """
    lost = lost_pixels(images, models.vqvae.frame)
    cut_off = lost > MUCH
    if cut_off.any():
        _warn(
            f"{cut_off.sum()} of {len(split)} slices reach out of the frame, which the model sees, "
            f"with {lost[cut_off].mean():.1%} of their pixels."
        )
    shown = np.flatnonzero(not_black(images))
    chosen = shown[spread(len(shown), LOOKED_AT)]
    pixels = to_unit(images[chosen])[..., None]
    levels = tf.constant(split.levels[chosen])
    codes = models.prior.choose_codes(models.vqvae.distances(pixels), levels)
    warn_of_unlikely(run, counts, np.asarray(models.prior.bits(codes, levels)))


def lost_pixels(images: np.ndarray, frame: tuple[int, int, int, int]) -> np.ndarray:
    """Share of the pixels of slices `(N, S, S)` above 0 that lie outside the frame, `(N,)`."""
    inside = np.count_nonzero(cut(images, frame), axis=(1, 2))
    everywhere = np.count_nonzero(images, axis=(1, 2))
    return (everywhere - inside) / np.maximum(everywhere, 1)


def warn_of_unlikely(run: RunDirectory, counts: np.ndarray, bits: np.ndarray) -> None:
    """Warn where most slices are far less likely than those of the training.

    Args:
        run: The run.
        counts: See `warn_of_strange_slices`.
        bits: Bits of each code of slices to a prior that is told no neighbours, `(N, H, W)`.
    """
    validated = min((row["val_loss"] for row in read_history(run.history("prior"))), default=0.0)
    without_context = stats.entropy(counts, base=2, axis=-1).mean()
    limit = max(OF_NO_CONTEXT * without_context, OF_VALIDATION * validated)
    unlikely = bits.mean((1, 2)) > limit
    if unlikely.mean() > FEW:
        _warn(
            f"{unlikely.sum()} of {len(unlikely)} slices look unlike those of the training "
            f"({bits.mean():.1f} bits a code, where {limit:.1f} are many): are they turned, "
            "mirrored, inverted or of another kind? Then their figures and maps say little."
        )


def _warn(text):
    print(f"WARNING: {text}", flush=True)
