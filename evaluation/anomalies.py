"""Anomaly maps: what in a slice a model of the training slices would not have put there.

Images are float32 `(N, S, S)` in [0, 1], 0 where they show nothing.

Reference:
    Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection and segmentation with
    transformers.
"""

import functools

import numpy as np
import tensorflow as tf
from scipy import ndimage

from evaluation.reconstruction import BATCH, join
from modules import Models
from networks.attributes import labelled
from networks.frames import per_pixel
from networks.order import arrange, batches, beside
from networks.raster import mirrored_level, numbered_seed
from sources.facts import MIRRORS
from sources.folder import Split
from utils import progress

METHODS = ("error", "healing")
# Surprise above which a code is drawn anew, for each healed version. A low limit outlines a lesion
# better, a high one leaves more slices without a lesion as they are.
LIMITS = (2.2, 4.5, 6.5)
REFERENCE_SIDE = 256  # pixels of a side at which the sigmas hold; they grow with the image
MAP_SIGMA, SURPRISE_SIGMA = 1.5, 6.0  # pixels
LEVEL_SIGMA = 3.0  # levels of a case over which surprise is smoothed
GRADIENT_SIGMA = 1.5  # pixels
EDGE = 0.05  # gradient, a pixel, at which a residual counts half
SCORED = 0.01  # share of the image's pixels, the highest, whose mean is the score of a slice


def analyse(
    models: Models,
    images: np.ndarray,
    split: Split,
    seed: int = 0,
    given: np.ndarray | None = None,
) -> dict:
    """Map and score what is unusual in slices, by reconstruction error and by healing.

    Healing draws the codes that surprise the prior anew, several times, and decodes them. Its map
    is what differs from the slice, times the surprise. The surprise is the mean over two
    descriptions of a slice. The nearest codes change with a faint lesion too, but also by chance.
    The codes that the prior would choose surprise only where the image insists.

    A stack is read coarse to fine, as it is drawn. A prior that reads neighbouring slices is given
    the *healed* ones, so that a lesion there does not excuse the one between them. A lesion that is
    faint may stay in a healed slice all the same. So the surprise is also a mean over contexts:
    each healed version, and no neighbours. It is then smoothed along the levels of the case.

    The prior knows only what comes before a code in the order of its scan. So every slice is read
    twice: as it is and, where the prior knows mirror images, as its mirror image.

    Residuals of both methods are divided by the gradient of the image, so that steep edges do not
    hide lesions. They are smoothed with their sign, so that displaced edges cancel.

    Args:
        models: The networks.
        images: `(N, S, S)` of their image size.
        split: The slices of these images; the prior knows all of their levels.
        seed: Seed of the draws.
        given: What is known of all who are shown; see `evaluation.context.SamplingOptions`.

    Returns:
        dict of `restored` and `healed`, images `(N, S, S)`, of `surprise` `(N, S, S)` after
        `along_levels`, and of `maps` and `scores`. These hold for each of `METHODS` a map
        `(N, S, S)`, 0 or more and 0 where the image is 0, and scores `(N,)`. `in_case` `(N,)` is
        what `scores_in_case` says of healing.
    """
    reader = Reader(models, split, seed, given)
    places = batches(reader.order, BATCH)
    parts = [reader.read(images[batch], batch) for batch in progress(places, "mapping anomalies")]
    results = join(parts, places)
    results["surprise"] = along_levels(results["surprise"], split)
    weight = smooth(results["surprise"], SURPRISE_SIGMA)
    maps = {
        "error": residual(images, results["restored"]),
        "healing": residual(images, results["healed"]) * weight,
    }
    scores = {method: _scores(values) for method, values in maps.items()}
    in_case = scores_in_case(scores["healing"], split.cases)
    return {**results, "maps": maps, "scores": scores, "in_case": in_case}


def scores_in_case(scores: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Divide each score by the median of the other slices of its case.

    Half of the variance of scores is of the subject, so a person's own slices are a reference.

    Args:
        scores: Score of each slice, `(N,)`.
        cases: Case of each slice, `(N,)`.

    Returns:
        `(N,)`, NaN where a case has one slice.
    """
    relative = np.full(len(scores), np.nan)
    for i, case in enumerate(cases):
        others = scores[(cases == case) & (np.arange(len(scores)) != i)]
        if len(others):
            relative[i] = scores[i] / max(np.median(others), 1e-6)
    return relative


def _scores(maps):
    """Mean of the highest pixels of each map, `(N,)`."""
    count = max(1, round(SCORED * maps[0].size))
    return np.partition(maps.reshape(len(maps), -1), -count, axis=1)[:, -count:].mean(1)


def along_levels(values: np.ndarray, split: Split) -> np.ndarray:
    """Smooth maps `(N, S, S)` along the levels of each case, with a Gaussian of `LEVEL_SIGMA`.

    A lesion goes through several slices, and what surprises by chance does not. Levels that are
    missing have no weight.
    """
    smoothed = np.empty_like(values)
    for case in np.unique(split.cases):
        own = np.flatnonzero(split.cases == case)
        apart = np.subtract.outer(split.levels[own], split.levels[own])
        weights = np.exp(-0.5 * (apart / LEVEL_SIGMA) ** 2)
        weights /= weights.sum(1, keepdims=True)
        smoothed[own] = np.tensordot(weights.astype(values.dtype), values[own], 1)
    return smoothed


class Reader:
    """Reads slices and their mirror images, if the prior knows any, coarse to fine.

    It says how surprising they are, and what it would put there instead. It remembers what it
    healed, because the next slices have it for neighbours.

    All versions of a batch go through the prior together: a place costs little more for many
    slices than for one.

    Args:
        models: The networks. The prior is what is surprised and draws codes anew.
        split: All slices, N of them.
        seed: Seed of the draws.
        given: What is known of all who are shown; see `evaluation.context.SamplingOptions`.

    Attributes:
        order: Neighbours of the slices.
        healed: Codes of the healed versions, one for each of `LIMITS`, int32 `(versions, sides, N,
            H, W)`. The second axis is for slices and mirror images. Each version goes through the
            stack by itself.
    """

    def __init__(self, models: Models, split: Split, seed: int, given: np.ndarray | None = None):
        self.vqvae, self.prior, _ = models
        self.seed, self.given = seed, given
        self.order = arrange(split.cases, split.levels, self.prior.settings["neighbours"])
        mirrored = mirrored_level(split.levels, self.prior.settings["num_levels"])
        self.levels = np.stack([split.levels, mirrored]).astype("int32")  # (sides, N)
        axis = MIRRORS[self.prior.settings["mirror"]]
        self.sides = [np.asarray, functools.partial(np.flip, axis=axis)]
        if axis is None:
            self.sides, self.levels = self.sides[:1], self.levels[:1]
        self.healed = np.empty((len(LIMITS), *self.levels.shape, *self.vqvae.grid), "int32")

    def read(self, images: np.ndarray, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Read some slices, their neighbours having been read before.

        Args:
            images: `(B, S, S)`.
            batch: Their indices in the split, `(B,)`.

        Returns:
            dict of `(B, S, S)` each: `surprise` of the code at each pixel and `healed`, means of
            all readings and of the healed versions, and `restored` from the nearest codes.
        """
        versions, sides, count, *grid = self.healed.shape
        both = np.concatenate([side(images) for side in self.sides])  # (sides B, S, S)
        levels = labelled(self.levels[:, batch].ravel(), self.given)
        # Each healed version has neighbours of its own: (versions sides B, S, H, W).
        sources = self.order.sources[batch]
        shape = (versions * len(levels), sources.shape[1], *grid)
        around = self.healed[:, :, sources].reshape(shape)
        apart = np.tile(self.order.distances[batch], (versions * sides, 1))

        distances = self.vqvae.distances(both[..., None])
        nearest = self.prior.choose_codes(distances, levels, 0.0)
        surprise = self._surprise(distances, nearest, levels, around, apart)
        numbers = count * np.arange(versions * sides)[:, None] + batch
        seeds = numbered_seed(self.seed, numbers.ravel())
        again = np.tile(nearest, (versions, 1, 1)), np.concatenate([levels] * versions)
        limits = np.repeat(np.array(LIMITS, "float32"), len(both))
        drawn = self.prior.heal(*again, limits, seeds, beside(around, apart)).numpy()
        self.healed[:, :, batch] = drawn.reshape(versions, sides, -1, *grid)

        decoded = [_decode(self.vqvae, codes) for codes in np.split(drawn, versions)]
        surprise = per_pixel(surprise, self.vqvae.frame, images.shape[1])
        return {
            "surprise": self._upright(surprise),
            "healed": self._upright(np.mean(decoded, axis=0)),
            "restored": _decode(self.vqvae, nearest[: len(images)]),
        }

    def _surprise(self, distances, nearest, levels, around, apart):
        """Mean surprise over two descriptions, beside no slices and beside each healed version."""
        if apart.any():
            around = np.concatenate([around[: len(levels)], around])
            apart = np.concatenate([np.zeros_like(apart[: len(levels)]), apart])
        else:
            around, apart = around[: len(levels)], apart[: len(levels)]
        count = len(apart) // len(levels)
        tiled = tf.tile(distances, (count, 1, 1, 1)), np.concatenate([levels] * count)
        likely = self.prior.choose_codes(*tiled, None, beside(around, apart))
        contexts = map(beside, np.split(around, count), np.split(apart, count))
        readings = [
            np.maximum(self.prior.surprise(codes, levels, context), 0.0)
            for context, own in zip(contexts, np.split(likely, count))
            for codes in (nearest, own)
        ]
        return np.mean(readings, axis=0)

    def _upright(self, maps):
        """Mean of maps of slices and of their mirror images, `(sides B, S, S)` -> `(B, S, S)`."""
        parts = np.split(maps, len(self.sides))
        return sum(side(part) for side, part in zip(self.sides, parts)) / len(parts)


def _decode(vqvae, codes):
    return vqvae.decode(codes).numpy()[..., 0]


def smooth(images: np.ndarray, sigma: float, order: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Smooth images, or differentiate what is smoothed.

    Args:
        images: `(N, S, S)`.
        sigma: Of the Gaussian, in pixels of an image of `REFERENCE_SIDE`.
        order: Order of the derivative along rows and along columns.
    """
    sigma = sigma * images.shape[1] / REFERENCE_SIDE
    return ndimage.gaussian_filter(images, (0, sigma, sigma), order=(0, *order))


def residual(images: np.ndarray, version: np.ndarray, sigma: float = MAP_SIGMA) -> np.ndarray:
    """Smoothed residual of images and a version of them, damped at edges, all `(N, S, S)`."""
    slopes = [smooth(images, GRADIENT_SIGMA, order) for order in ((0, 1), (1, 0))]
    gradient = np.hypot(*slopes) * REFERENCE_SIDE / images.shape[1]
    damped = (images - version) / (1 + gradient / EDGE)
    return np.abs(smooth(damped, sigma)) * (images > 0)
