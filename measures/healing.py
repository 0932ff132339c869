"""Anomaly maps: what in a slice a model of healthy slices would not have put there.

Images are float32 `(N, S, S)` in [0, 1], 0 outside the brain.

Reference:
    Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection and segmentation with
    transformers.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from scipy import ndimage

from dataset import load_images
from measures.evaluation import BATCH
from measures.images import per_pixel, to_unit
from measures.saved import METHODS
from modules import VQVAE
from networks.raster import RasterPrior, mirrored_level, numbered_seed
from sources.folder import Split
from utils import progress

DRAWS = 2  # healed versions of each reading of a slice
LIMIT = 2.2  # surprise above which a code is drawn anew
REFERENCE_SIDE = 256  # pixels of a side at which the two sigmas hold; they grow with the image
MAP_SIGMA, SURPRISE_SIGMA = 3.0, 6.0  # pixels
GRADIENT_SIGMA = 1.5  # pixels
EDGE = 0.05  # gradient, a pixel, at which a residual counts half
SCORED = 0.01  # share of the image's pixels, the highest, whose mean is the score of a slice


def settings(num_models: int, seed: int) -> dict:
    """Settings behind maps and scores, as `anomaly.json` names them."""
    # Every model reads a slice and its mirror image.
    draws = 2 * DRAWS * num_models
    return {"methods": list(METHODS), "draws": draws, "limit": LIMIT, "seed": seed}


def load_slices(models: list[tuple[VQVAE, RasterPrior]], split: Split) -> np.ndarray:
    """Load the images of a split in the size that the models read, `(N, S, S)`."""
    return to_unit(load_images(split, models[0][0].settings["image_size"]))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one model read of slices or of their mirror images.

    Attributes:
        surprise: Surprise of the code at each pixel, `(N, S, S)`.
        healed: Mean of the healed versions, `(N, S, S)`.
        restored: Reconstruction from the nearest codes, `(N, S, S)`; None for mirror images.
    """

    surprise: np.ndarray
    healed: np.ndarray
    restored: np.ndarray | None = None


def analyse(
    models: list[tuple[VQVAE, RasterPrior]],
    images: np.ndarray,
    levels: np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict:
    """Map and score what is unusual in slices, by reconstruction error and by healing.

    Healing draws the codes that surprise the prior anew, several times, and decodes them. Its map
    is the root of what differs from the slice, weighed by the surprise. The surprise is the mean
    over two descriptions of a slice. The nearest codes change with a faint lesion too, but also by
    chance. The codes that the prior would choose surprise only where the image insists.

    The prior knows only what comes before a code in raster order. So every model reads a slice
    twice: as it is, and as its mirror image, from the other side. What several models read is
    averaged; a model with a finer grid sees smaller lesions.

    Residuals of both methods are divided by the gradient of the image, so that steep edges do not
    hide lesions. They are smoothed with their sign, so that displaced edges cancel.

    Args:
        models: Pairs of VQ-VAE and prior, all of one image size.
        images: `(N, S, S)` of that image size.
        levels: Level of each slice, `(N,)`; the priors know all of them.
        seed: Seed of the draws.
        draws: Number of healed versions of each reading.

    Returns:
        dict of `restored` and `healed`, images `(N, S, S)`, and of `maps` and `scores`. These hold
        for each of `METHODS` a map `(N, S, S)`, 0 or more and 0 outside the brain, and scores
        `(N,)`.
    """
    parts = []
    for begin in progress(range(0, len(images), BATCH), "mapping anomalies"):
        batch = slice(begin, begin + BATCH)
        parts.append(_analyse_batch(models, images[batch], levels[batch], seed + begin, draws))
    results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    maps = {method: results.pop(method) for method in METHODS}
    scores = {method: _scores(values) for method, values in maps.items()}
    return {**results, "maps": maps, "scores": scores}


def _scores(maps):
    """Mean of the highest pixels of each map, `(N,)`."""
    count = max(1, round(SCORED * maps[0].size))
    return np.sort(maps.reshape(len(maps), -1), axis=1)[:, -count:].mean(1)


def _analyse_batch(models, images, levels, seed, draws):
    scale = images.shape[1] / REFERENCE_SIDE
    straight = [read(*model, images, levels, seed, draws) for model in models]
    mirrored = [_read_mirrored(*model, images, levels, seed + 1, draws) for model in models]
    readings = straight + mirrored
    surprise = np.mean([reading.surprise for reading in readings], axis=0)
    healed = np.mean([reading.healed for reading in readings], axis=0)
    restored = np.mean([reading.restored for reading in straight], axis=0)
    weight = _smooth(surprise, SURPRISE_SIGMA * scale)
    return {
        "restored": restored,
        "healed": healed,
        "error": _residual(images, restored, scale),
        "healing": np.sqrt(_residual(images, healed, scale)) * weight,
    }


def read(
    vqvae: VQVAE,
    prior: RasterPrior,
    images: np.ndarray,
    levels: np.ndarray,
    seed: int,
    draws: int,
    restore: bool = True,
) -> Reading:
    """Let one model read slices: how surprising they are, and what it would put there instead.

    Args:
        vqvae: The model that codes and decodes.
        prior: The model that is surprised and draws codes anew.
        images: `(N, S, S)`.
        levels: Level of each image, `(N,)`.
        seed: Seed of the draws.
        draws: Number of healed versions, which are averaged.
        restore: Whether the reconstruction is wanted.
    """
    levels = tf.constant(levels, tf.int32)
    distances = vqvae.distances(images[..., None])
    nearest = prior.describe(distances, levels, 0.0)  # (N, H, W)
    likely = prior.describe(distances, levels)
    surprises = [np.maximum(prior.surprise(codes, levels), 0.0) for codes in (nearest, likely)]
    surprise = np.mean(surprises, axis=0)
    seeds = [numbered_seed(seed, draw) for draw in range(draws)]
    healed = [_decode(vqvae, prior.heal(nearest, levels, LIMIT, number)) for number in seeds]
    return Reading(
        surprise=per_pixel(surprise, vqvae.frame, images.shape[1]),  # (N, S, S)
        healed=np.mean(healed, axis=0),
        restored=_decode(vqvae, nearest) if restore else None,
    )


def _read_mirrored(vqvae, prior, images, levels, seed, draws):
    """Read the mirror images of slices, and mirror the reading back."""
    levels = mirrored_level(levels, prior.settings["num_levels"])
    reading = read(vqvae, prior, images[:, ::-1], levels, seed, draws, restore=False)
    return Reading(reading.surprise[:, ::-1], reading.healed[:, ::-1])


def _decode(vqvae, codes):
    return vqvae.decode(codes).numpy()[..., 0]


def _smooth(images, sigma, order=(0, 0)):
    return ndimage.gaussian_filter(images, (0, sigma, sigma), order=(0, *order))


def _residual(images, version, scale):
    """Smoothed residual of images and a version of them, damped at edges, `(N, S, S)`."""
    slopes = [_smooth(images, GRADIENT_SIGMA * scale, order) for order in ((0, 1), (1, 0))]
    gradient = np.hypot(*slopes) / scale
    residual = (images - version) / (1 + gradient / EDGE)
    return np.abs(_smooth(residual, MAP_SIGMA * scale)) * (images > 0)
