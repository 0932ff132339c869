"""Measures of images and of codes: PSNR, detail, diversity, intervals over subjects, code usage.

SSIM is in `networks.losses`, because the loss of the VQ-VAE needs it too.

Images are float32 `(B, S, S, 1)` in [0, 1] where nothing else is said.

Reference:
    Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from scipy import ndimage

from networks.frames import cut
from networks.losses import SSIM_BORDER, SSIM_WINDOW, ssim_map
from networks.quantizer import CodebookUsage
from sources.facts import DataFacts
from sources.images import to_unit

FINE_DETAIL = (1 / 8, 1 / 3)  # cycles a pixel: the band of spatial frequencies that `detail` sums
BASELINES = ("uniform", "unigram", "position")  # models of codes without context
ERODED = 6 / 256  # of a side
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003
DIVERSITY_PAIRS = 20  # random ones of a level, at most
RESAMPLES = 2000  # of a bootstrap
BATCH = 32  # images that are measured together


def content_box(facts: DataFacts, image_size: int) -> tuple[int, int, int, int]:
    """Part of images that is not padding, as a frame; at least as large as the window of SSIM.

    Args:
        facts: What is known of the set.
        image_size: Pixels S of a side, to which its slices were brought.
    """
    top, left, bottom, right = facts.content or (0, 0, facts.side, facts.side)
    scale, edges = image_size / facts.side, []
    for first, last in ((top, bottom), (left, right)):
        first = max(0, min(math.floor(first * scale), image_size - SSIM_WINDOW))
        edges.append((first, max(math.ceil(last * scale), first + SSIM_WINDOW)))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def not_black(images: np.ndarray) -> np.ndarray:
    """Slices that show something, bool `(N,)`: all of them if none does. Images are `(N, S, S)`.

    Any model restores a black slice, so that measures of restored images leave it out.
    """
    shown = images.any((1, 2))
    return shown if shown.any() else ~shown


def lost_pixels(images: np.ndarray, frame: tuple[int, int, int, int]) -> np.ndarray:
    """Share of the pixels of slices `(N, S, S)` above 0 that lie outside the frame, `(N,)`."""
    inside = np.count_nonzero(cut(images, frame), axis=(1, 2))
    everywhere = np.count_nonzero(images, axis=(1, 2))
    return (everywhere - inside) / np.maximum(everywhere, 1)


def brain_ssim(images, maps) -> np.ndarray:
    """Average SSIM maps over the pixels that are not background in the original.

    Args:
        images: Originals `(B, S, S, 1)`; background is 0.
        maps: SSIM maps `(B, S - 10, S - 10)`.

    Returns:
        One mean an image, `(B,)`; NaN for an image that is all background.
    """
    inside = slice(SSIM_BORDER, -SSIM_BORDER)
    brain = np.asarray(images)[:, inside, inside, 0] > 0
    with np.errstate(invalid="ignore"):
        return (np.asarray(maps) * brain).sum((1, 2)) / brain.sum((1, 2))


def psnr(images, reconstructions) -> np.ndarray:
    """Compute the peak signal-to-noise ratio of each image in dB, data range 1, `(B,)`."""
    mse = np.mean((np.asarray(images) - np.asarray(reconstructions)) ** 2, axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(mse, 1e-10))


def brain_psnr(images, reconstructions) -> np.ndarray:
    """Compute `psnr` over the pixels that are not background in the original.

    Args:
        images: Originals `(B, S, S, 1)`; background is 0.
        reconstructions: Images of the same shape.

    Returns:
        dB of each image, `(B,)`; NaN for an image that is all background.
    """
    images = np.asarray(images)
    brain = images > 0
    errors = ((images - np.asarray(reconstructions)) ** 2 * brain).sum((1, 2, 3))
    with np.errstate(invalid="ignore"):
        mse = errors / brain.sum((1, 2, 3))
    return -10 * np.log10(np.maximum(mse, 1e-10))


def inner_brain(image: np.ndarray) -> np.ndarray:
    """Find the eroded brain, where the edge of the brain mask does not reach: bool `(S, S)`.

    The brain is all that is not 0, with its holes. It loses `ERODED` of a side all around.

    Args:
        image: uint8 `(S, S)`.
    """
    brain = ndimage.binary_fill_holes(image > 0)
    return ndimage.distance_transform_edt(brain) > ERODED * len(image)


def detail(images: np.ndarray, reconstructions: np.ndarray) -> dict:
    """Measure the fine detail that reconstructions keep: its energy, and whether it is the right.

    Args:
        images: Originals, uint8 `(N, S, S)`.
        reconstructions: uint8 `(N, S, S)`.

    Returns:
        dict of three figures, NaN where the originals have no detail. Two are energies, ratios to
        those of the originals, so invented detail counts too. `gradient_ratio` is the mean gradient
        at the pixels that are not background in the original. `spectrum_ratio` is the energy of the
        spatial frequencies in `FINE_DETAIL`. `fine_correlation` is the correlation of both images
        in these frequencies inside the eroded brain. Invented detail lowers it.
    """
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, images.shape[1:]), indexing="ij"))
    fine = (frequency >= FINE_DETAIL[0]) & (frequency <= FINE_DETAIL[1])
    energies = np.zeros((2, 2))  # originals and reconstructions; gradient and spectrum
    products = np.zeros((2, 2))  # of the fine parts of both, inside
    for pair in zip(images, reconstructions):
        brain, inside = pair[0] > 0, inner_brain(pair[0])
        parts = []
        for row, image in zip(energies, pair):
            image = image / 255.0
            spectrum = np.fft.fft2(image) * fine
            gradient = np.hypot(*np.gradient(image))[brain].sum()
            row += gradient, (np.abs(spectrum) ** 2).sum()
            parts.append(np.fft.ifft2(spectrum).real[inside])
        products += np.array(parts) @ np.transpose(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient, spectrum = energies[1] / energies[0]
        correlation = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    return {
        "gradient_ratio": float(gradient),
        "spectrum_ratio": float(spectrum),
        "fine_correlation": float(correlation),
    }


def quality(images: np.ndarray, restored: np.ndarray) -> dict[str, float]:
    """Measure how near restored 8-bit images are to their originals.

    Args:
        images: Originals, uint8 `(N, S, S)`.
        restored: uint8 `(N, S, S)`.

    Returns:
        Means over the images: `ssim`, `brain_ssim`, `brain_psnr`; and what `detail` gives.
    """
    rows = []
    for one, other in _pairs(images, restored):
        maps = np.asarray(ssim_map(one, other))
        rows.append((maps.mean((1, 2)), brain_ssim(one, maps), brain_psnr(one, other)))
    whole, inside, decibels = map(np.concatenate, zip(*rows))
    return {
        "ssim": float(whole.mean()),
        "brain_ssim": float(np.nanmean(inside)),
        "brain_psnr": float(np.nanmean(decibels)),
        **detail(images, restored),
    }


def _pairs(images, restored):
    for begin in range(0, len(images), BATCH):
        part = slice(begin, begin + BATCH)
        yield to_unit(images[part, ..., None]), to_unit(restored[part, ..., None])


def diversity(images: np.ndarray, levels: np.ndarray) -> float:
    """Mean multi-scale SSIM of pairs of slices of one level; higher is less diverse.

    Args:
        images: Slices `(N, S, S)`.
        levels: Level of each slice, `(N,)`.

    Returns:
        The mean, NaN where no level has two slices.

    Reference:
        Wang et al. 2003, Multi-scale structural similarity for image quality assessment.
    """
    rng, chosen = np.random.default_rng(0), []
    for level in np.unique(levels):
        here = np.flatnonzero(levels == level)
        couples = np.stack(np.triu_indices(len(here), 1), 1)
        chosen += [here[couple] for couple in rng.permutation(couples)[:DIVERSITY_PAIRS]]
    if not chosen:
        return float("nan")
    first, second = np.transpose(chosen)
    scales = max(1, int(np.log2(images.shape[1] / 11)) + 1)  # 11 pixels: the window of SSIM
    weights = MS_SSIM_WEIGHTS[:scales]
    weights = [weight / sum(weights) for weight in weights]
    pairs = _pairs(images[first], images[second])
    values = [tf.image.ssim_multiscale(*pair, 1.0, weights) for pair in pairs]
    return float(np.concatenate(values).mean())


def subject_interval(values, subjects) -> list[float]:
    """Bootstrap a 95 % interval of the mean. Subjects are drawn, because their slices are alike.

    Args:
        values: One figure a slice, `(N,)`.
        subjects: Subject of each slice, `(N,)`.

    Returns:
        `[low, high]`.
    """
    _, subject = np.unique(subjects, return_inverse=True)
    sums, counts = np.bincount(subject, weights=values), np.bincount(subject)
    draws = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return middle95(means)


def middle95(values) -> list[float]:
    """The range `[low, high]` in which 95 % of values lie."""
    return [float(bound) for bound in np.percentile(values, (2.5, 97.5))]


def usage(codes, codebook_size: int) -> tuple[int, float]:
    """Count the used codes and compute their perplexity: codes of any shape -> `(n, p)`."""
    metric = CodebookUsage(codebook_size)
    metric.update_state(np.ravel(codes).astype("int32"))
    result = metric.result()
    return int(result["codes_used"]), float(result["perplexity"])


def baseline_bits(codes: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the bits of each code under three models without context, fitted to training codes.

    Args:
        codes: Codes to describe, `(N, H, W)`.
        counts: Counts of the training codes from `code_counts`, `(H, W, K)`.

    Returns:
        dict of `(N, H, W)` each. `uniform`: all codes are equally likely. `unigram`: one histogram
        for all positions, smoothed by adding one. `position`: one histogram for each position,
        smoothed towards the unigram with the weight of one slice in a hundred, so that it is a
        fair opponent.
    """
    size = counts.shape[-1]
    unigram = counts.sum((0, 1)) + 1.0
    unigram /= unigram.sum()
    slices = counts[0, 0].sum()
    position = (counts + 0.01 * slices * unigram) / (1.01 * slices)
    rows, columns = np.indices(codes.shape[1:])
    return {
        "uniform": np.full(codes.shape, math.log2(size)),
        "unigram": -np.log2(unigram[codes]),
        "position": -np.log2(position[rows, columns, codes]),
    }


def brain_places(images: np.ndarray, frame: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """Find the codes whose pixels show brain.

    Args:
        images: Whole slices, uint8 `(N, S, S)`.
        frame: Part of the slices that the codes describe.
        grid: Rows H and columns W of the code map.

    Returns:
        bool `(N, H, W)`.
    """
    frames = cut(images, frame)
    height, width = grid
    down, across = frames.shape[1] // height, frames.shape[2] // width
    patches = frames.reshape(len(frames), height, down, width, across)
    return (patches > 0).any((2, 4))
