"""Methods that map what is unusual: healing, and what it has to be better than.

Every method has variants, of which the benchmark takes the one that is best on validation slices.
Variants differ in how far a map is smoothed, within the slice and along the levels of the case.

References:
    Meissen et al. 2021, Challenging Current Semi-Supervised Anomaly Segmentation Methods for Brain
    MRI (smoothed intensity).
    Kascenas et al. 2022, Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI.
"""

from collections.abc import Iterator

import keras
import numpy as np
from scipy import ndimage

from evaluation.anomalies import (
    LIMITS,
    MAP_SIGMA,
    SURPRISE_SIGMA,
    along_levels,
    analyse,
    residual,
    smooth,
)
from modules import VQVAE
from sources.folder import Split
from sources.images import to_unit

SIGMAS = {f"sigma {factor * MAP_SIGMA:g}": factor * MAP_SIGMA for factor in (0.5, 1, 2)}
COMPARED_LIMITS = (LIMITS, (4.5,), (2.2, 4.5), (4.5, 6.5), (4.5, 4.5, 6.5), (6.5, 6.5, 6.5))
BATCH = 16  # slices that a network reads together


class LevelStatistics:
    """Mean and deviation of each pixel of smoothed training slices, for each level.

    Args:
        images: Training slices, uint8 `(N, S, S)`.
        levels: Their levels, `(N,)`.
    """

    def __init__(self, images: np.ndarray, levels: np.ndarray):
        self.means, self.deviations = {}, {}
        for level in np.unique(levels):
            known = to_unit(images[levels == level])
            for name, sigma in SIGMAS.items():
                smoothed = smooth(known, sigma)
                self.means[name, level] = smoothed.mean(0)
                self.deviations[name, level] = smoothed.std(0) + 0.01  # hardly varying pixels

    def z_map(self, images: np.ndarray, levels: np.ndarray, name: str) -> np.ndarray:
        """Size of z-scores of smoothed slices `(N, S, S)`, each against its own level."""
        smoothed = smooth(images, SIGMAS[name])
        for place, level in enumerate(levels):
            mean, deviation = self.means[name, level], self.deviations[name, level]
            smoothed[place] = np.abs(smoothed[place] - mean) / deviation
        return smoothed


def map_slices(
    models: list,
    statistics: LevelStatistics,
    denoiser: keras.Model | None,
    images: np.ndarray,
    split: Split,
    seed: int,
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Map slices by all methods.

    Args:
        models: Pairs of VQ-VAE and prior, as for `evaluation.anomalies.analyse`.
        statistics: Of the training split.
        denoiser: Network from frames with noise to frames without, or None.
        images: `(N, S, S)` in [0, 1].
        split: The slices of these images.
        seed: Seed of the draws.

    Yields:
        Name of the method, name of the variant, and maps `(N, S, S)`, 0 outside the brain.
    """
    found = analyse(models, images, split, seed)
    brain = images > 0
    yield "healing", "as in predict.py", found["maps"]["healing"]
    for factor in (0.5, 1, 2):
        sigma = factor * SURPRISE_SIGMA
        yield "surprise", f"sigma {sigma:g}", smooth(found["surprise"], sigma) * brain
    for method, name, maps in map_without_prior(
        models[0].vqvae, statistics, denoiser, images, split
    ):
        yield method, name, maps * brain
        yield method, f"{name}, along levels", along_levels(maps, split) * brain


def map_with_limits(
    models: list, images: np.ndarray, split: Split, seed: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Map slices by healing with each of `COMPARED_LIMITS`; see `map_slices`."""
    for limits in COMPARED_LIMITS:
        found = analyse(models, images, split, seed, limits)
        yield "healing", " ".join(f"{limit:g}" for limit in limits), found["maps"]["healing"]


def map_without_prior(
    vqvae: VQVAE,
    statistics: LevelStatistics,
    denoiser: keras.Model | None,
    images: np.ndarray,
    split: Split,
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Map slices by all methods that need no prior; see `map_slices`."""
    restored = both_sides(images, lambda batch: vqvae.decode(vqvae.encode(batch)).numpy())
    for name, sigma in SIGMAS.items():
        yield "error", name, np.sqrt(residual(images, restored, sigma))
        yield "z-map", name, statistics.z_map(images, split.levels, name)
        smoothed = smooth(images, sigma)
        yield "intensity", f"bright, {name}", smoothed
        yield "intensity", f"dark, {name}", np.maximum(1 - smoothed, 0)
    if denoiser:
        clean = both_sides(images, lambda batch: denoise(denoiser, vqvae, batch))
        for name, sigma in SIGMAS.items():
            yield "denoiser", name, np.abs(smooth(images - clean, sigma))
        inner = ndimage.binary_erosion(images > 0, np.ones((1, 5, 5)))
        median = ndimage.median_filter(np.abs(images - clean) * inner, (1, 5, 5))
        yield "denoiser", "median of 5 x 5, as published", median


def both_sides(images: np.ndarray, restore) -> np.ndarray:
    """Mean of what a network makes of slices and of their mirror images, `(N, S, S)`.

    Args:
        images: `(N, S, S)`.
        restore: Function from `(B, S, S, 1)` to the same shape.
    """
    restored = np.empty_like(images)
    for first in range(0, len(images), BATCH):
        batch = images[first : first + BATCH]
        straight, mirrored = (restore(batch[:, ::turn, :, None])[..., 0] for turn in (1, -1))
        restored[first : first + BATCH] = (straight + mirrored[:, ::-1]) / 2
    return restored


def denoise(denoiser: keras.Model, vqvae: VQVAE, batch: np.ndarray) -> np.ndarray:
    """What a denoiser makes of slices `(B, S, S, 1)`; it sees the frame of a VQ-VAE."""
    top, left, bottom, right = vqvae.frame
    clean = batch.copy()
    clean[:, top:bottom, left:right] = denoiser(batch[:, top:bottom, left:right])
    return clean
