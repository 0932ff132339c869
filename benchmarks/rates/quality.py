"""Quality of restored slices, of models and of codecs alike: they are 8-bit images."""

import numpy as np

from measures import metrics
from measures.images import to_unit

BATCH = 32  # images that are measured together


def quality(images: np.ndarray, restored: np.ndarray) -> dict[str, float]:
    """Measure how near restored images are to their originals.

    Args:
        images: Originals, uint8 `(N, S, S)`.
        restored: uint8 `(N, S, S)`.

    Returns:
        Means over the images: `ssim`, `brain_ssim`, `brain_psnr`; and what `metrics.detail` gives.
    """
    ssim, brain_ssim, brain_psnr = [], [], []
    for one, other in _pairs(images, restored):
        maps = np.asarray(metrics.ssim_map(one, other))
        ssim.append(maps.mean((1, 2)))
        brain_ssim.append(metrics.brain_ssim(one, maps))
        brain_psnr.append(metrics.brain_psnr(one, other))
    return {
        "ssim": float(np.concatenate(ssim).mean()),
        "brain_ssim": float(np.nanmean(np.concatenate(brain_ssim))),
        "brain_psnr": float(np.nanmean(np.concatenate(brain_psnr))),
        **metrics.detail(images, restored),
    }


def mean_ssim(images: np.ndarray, restored: np.ndarray) -> float:
    """Mean SSIM of images, uint8 `(N, S, S)` both."""
    values = [metrics.ssim(*pair) for pair in _pairs(images, restored)]
    return float(np.concatenate(values).mean())


def _pairs(images, restored):
    for begin in range(0, len(images), BATCH):
        part = slice(begin, begin + BATCH)
        yield to_unit(images[part, ..., None]), to_unit(restored[part, ..., None])
