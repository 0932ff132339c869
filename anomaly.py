"""Anomaly maps: what in a slice a model of healthy slices would not have put there.

Images are float32 `(N, S, S)` in [0, 1], 0 outside the brain.

Reference:
    Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection and segmentation with transformers.
"""

import numpy as np
import tensorflow as tf
from scipy import ndimage

import checkpoints
import evaluation
from utils import InputError

METHODS = ("error", "healing")
DRAWS = 2  # healed versions of each reading of a slice
LIMIT = 2.2  # surprise from which on a code is drawn anew
BATCH = 16
MAP_SIGMA, SURPRISE_SIGMA = 3.0, 6.0  # pixels of an image side of 256
EDGE = 0.05  # gradient, a pixel, at which a residual counts half
SCORED = 0.01  # of the image's pixels, the highest, make a slice's score


def load_ensemble(runs, splits):
    """`(vqvae, prior)` of each of the runs that read slices together.

    Raises:
        InputError: a model cannot be loaded, does not know the levels of the splits, or is of another image size than the first.
    """
    models = [checkpoints.load_models(run) for run in runs]
    size = models[0][0].settings["image_size"]
    for run, (vqvae, prior) in zip(runs, models):
        for split in splits:
            evaluation.check_levels(run, prior, split)
        if vqvae.settings["image_size"] != size:
            raise InputError(f"--ensemble must be of image size {size}, that of --run. Received: {run} of {vqvae.settings['image_size']}")
    return models


def analyse(models, images, levels, seed=0, draws=DRAWS):
    """Anomaly maps and scores of slices by two methods: reconstruction error, and healing through the prior.

    Healing draws codes that surprise the prior anew, several times, decodes them, and weighs the root of what differs by the surprise.
    That is the mean surprise of two descriptions of the slice: its nearest codes, which change with a faint lesion too but also by chance,
    and those that the prior would choose, which are surprising only where the image insists.
    The prior knows only what comes before a code in raster order, so a slice is read twice: as it is, and as its mirror image,
    from the other side. What several models read of a slice is averaged: one of a finer grid sees smaller lesions. Residuals of either method
    are divided by the gradient of the image, so that steep edges do not drown lesions, and smoothed with their sign, so that displaced edges cancel.

    Args:
        models: pairs of VQ-VAE and prior, see `load_ensemble`.
        images: `(N, S, S)` of the models' image size.
        levels: `(N,)`, levels that the priors know.
        seed: of the draws.
        draws: healed versions of each reading, averaged.

    Returns:
        dict of `restored` and `healed` (mean of the draws), images `(N, S, S)`; and for each method of `METHODS` its `maps` `(N, S, S)`,
        0 outside the brain and up, and `scores` `(N,)`.
    """
    parts = [_analyse(models, images[i : i + BATCH], levels[i : i + BATCH], seed + i, draws) for i in range(0, len(images), BATCH)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in ("restored", "healed", *METHODS)}
    count = max(1, round(SCORED * images[0].size))
    highest = {name: np.sort(found[name].reshape(len(images), -1), axis=1)[:, -count:] for name in METHODS}
    return {"restored": found["restored"], "healed": found["healed"], "maps": {name: found[name] for name in METHODS},
            "scores": {name: values.mean(1) for name, values in highest.items()}}


def _analyse(models, images, levels, seed, draws):
    scale, straight, mirrored = images.shape[1] / 256, [], []
    for vqvae, prior in models:
        straight.append(_read(vqvae, prior, images, levels, seed, draws))
        reading = _read(vqvae, prior, images[:, ::-1], levels + prior.settings["levels"], seed + 1, draws)
        mirrored.append([values[:, ::-1] for values in reading])
    surprise, _, healed = (np.mean(values, axis=0) for values in zip(*straight, *mirrored))
    restored, weight = np.mean([reading[1] for reading in straight], axis=0), _smooth(surprise, SURPRISE_SIGMA * scale)
    return {"restored": restored, "healed": healed, "error": _weighed(images, restored, scale),
            "healing": np.sqrt(_weighed(images, healed, scale)) * weight}


def _read(vqvae, prior, images, levels, seed, draws):
    """Surprise of the code at each pixel, the reconstruction and the mean healed version of slices or of their mirror images, `(N, S, S)` each."""
    levels, distances = tf.constant(levels, tf.int32), vqvae.distances(images[..., None])
    nearest, likely = prior.describe(distances, levels, 0.0), prior.describe(distances, levels)
    surprise = np.mean([np.maximum(prior.surprise(codes, levels), 0.0) for codes in (nearest, likely)], axis=0)
    seeds = [tf.constant((seed + 7919 * draw) % 2**31, tf.int32) for draw in range(draws)]
    restored, *healed = (vqvae.decode(codes).numpy()[..., 0] for codes in (nearest, *(prior.heal(nearest, levels, LIMIT, number) for number in seeds)))
    step = images.shape[1] // surprise.shape[1]
    return np.kron(surprise, np.ones((1, step, step), "float32")), restored, np.mean(healed, axis=0)


def _smooth(images, sigma, order=(0, 0)):
    return ndimage.gaussian_filter(images, (0, sigma, sigma), order=(0, *order))


def _weighed(images, version, scale):
    """Smoothed residual of images with a version of them, weighed against edges, in the brain `(N, S, S)`."""
    gradient = np.hypot(*(_smooth(images, 1.5 * scale, order) for order in ((0, 1), (1, 0)))) / scale
    return np.abs(_smooth((images - version) / (1 + gradient / EDGE), MAP_SIGMA * scale)) * (images > 0)
