"""Whether slices are such as the models of a run know: by their levels, place and likelihood."""

import os

import numpy as np
import tensorflow as tf
from scipy import stats

from evaluation.metrics import lost_pixels, not_black
from evaluation.reconstruction import read_code_counts
from fitting.run_directory import RunDirectory, read_history
from modules import Models
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
OF_NO_CONTEXT, OF_VALIDATION = 0.9, 2.0
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
    if learned is not None and learned != split.masked:
        gets, knows = "slices that are not masked", "masked slices"
        if split.facts.brain:
            gets, knows = "slices with scalp", "brain-masked slices"
        gets, knows = (knows, gets) if split.masked else (f"{gets}, or turned ones", knows)
        _warn(f"the model learned from {knows} and gets {gets}: its figures and maps say little.")


def warn_of_strange_slices(
    run: RunDirectory, models: Models, split: Split, images: np.ndarray
) -> None:
    """Warn where slices look unlike those of the training, as if they were turned or mirrored.

    Args:
        run: The run.
        models: Its networks.
        split: The slices.
        images: uint8 `(N, S, S)`, the size of the networks.

    Raises:
        InputError: The counts of the codes of the run are missing or damaged.
    """
    vqvae, prior, _ = models
    counts = read_code_counts(run.code_counts, vqvae)
    warn_of_masking(vqvae.settings["masked"], split)
    lost = lost_pixels(images, vqvae.frame)
    cut_off = lost > MUCH
    if cut_off.any():
        _warn(
            f"{cut_off.sum()} of {len(split)} slices reach out of the frame, which the model sees, "
            f"with {lost[cut_off].mean():.1%} of their pixels."
        )
    shown = np.flatnonzero(not_black(images))
    chosen = shown[spread(len(shown), LOOKED_AT)]
    levels = tf.constant(split.levels[chosen])
    codes = prior.choose_codes(vqvae.distances(to_unit(images[chosen])[..., None]), levels)
    warn_of_unlikely(run, counts, np.asarray(prior.bits(codes, levels)))


def warn_of_unlikely(run: RunDirectory, counts: np.ndarray, bits: np.ndarray) -> None:
    """Warn where most slices are far less likely than those of the training.

    Args:
        run: The run.
        counts: Count of each code at each place in training, `(H, W, K)`.
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
