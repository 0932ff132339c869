"""Choose what the figures of predict.py show: which slices, samples, pairs and patches.

Each function makes the arrays of parts of the results; `evaluation.saved` lists them. Images are
uint8 `(N, S, S)`.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from evaluation.saved import ANATOMY, ANATOMY_CURVES, CURVES, MAX_NUMBER, STACKS, Parts
from networks.frames import cut
from sources.folder import Split
from sources.images import to_grey
from utils import InputError

SHOWN_SLICES = 6  # in figures with one column a slice
SHOWN_PAIRS = 8  # of a real and a generated slice
SHOWN_SAMPLES = 64  # in the figure of samples, at most
SHOWN_BRAINS = 3  # generated, and as many real ones
BESIDE_MIDLINE = 0.45  # of the rows of the frame: there a sagittal cut meets a ventricle


def spread(count: int, most: int) -> np.ndarray:
    """Choose up to `most` of `count` things, spread evenly from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def evaluation_parts(
    results: dict[str, np.ndarray],
    split: Split,
    codebook: np.ndarray,
    training_counts: np.ndarray,
    frame: Sequence[int],
) -> Parts:
    """Choose slices of a split to show, and sum up the uses of the codes.

    Args:
        results: What `evaluation.reconstruction.evaluate` returned.
        split: The split.
        codebook: Codes of the VQ-VAE, `(K, D)`.
        training_counts: Count of each code at each place in training, `(H, W, K)`.
        frame: Part of the slices that the codes describe.
    """
    count, codebook_size = len(split), len(codebook)
    if count > SHOWN_SLICES:
        shown = spread(count, SHOWN_SLICES + 2)[1:-1]  # ends of the brain show little
    else:
        shown = np.arange(count)
    slices = {name: results[name][shown] for name in ("images", "restored", "codes", "ssim")}
    labels = {"cases": split.cases[shown], "levels": split.levels[shown]}
    codes = results["codes"]
    return {
        "reconstructions": {**slices, **labels, "ranks": code_ranks(codebook)},
        "codes": {
            "uses": np.bincount(codes.ravel(), minlength=codebook_size),
            "training_uses": training_counts.sum((0, 1)),
            "patches": to_grey(mean_patches(results["images"], codes, codebook_size, frame)),
        },
    }


def code_ranks(codebook: np.ndarray) -> np.ndarray:
    """Rank the codes `(K, D)` along their first principal component, so similar codes are close."""
    centred = codebook - codebook.mean(0)
    component = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.argsort(np.argsort(component))


def mean_patches(
    images: np.ndarray, codes: np.ndarray, codebook_size: int, frame: Sequence[int]
) -> np.ndarray:
    """Average the patch of originals around each place of a code.

    Args:
        images: Originals, uint8 `(N, S, S)`.
        codes: Their codes, `(N, H, W)`.
        codebook_size: Number of codes K.
        frame: Part of the images that the codes describe.

    Returns:
        `(K, P, P)` in [0, 1], where P is twice the pixels of a side that a code stands for.
    """
    frames = cut(images, frame)
    (height, width), step = frames.shape[1:], frames.shape[1] // codes.shape[1]
    margin = (step // 2, step // 2)
    padded = np.pad(frames, ((0, 0), margin, margin))
    codes = codes.ravel()
    sums = np.empty((codebook_size, 2 * step, 2 * step))
    for y, x in np.ndindex(2 * step, 2 * step):
        pixels = padded[:, y : y + height : step, x : x + width : step]  # (N, H, W)
        sums[:, y, x] = np.bincount(codes, pixels.ravel(), codebook_size)
    uses = np.bincount(codes, minlength=codebook_size)
    return sums / (255.0 * np.maximum(uses, 1)[:, None, None])


def training_parts(histories: dict[str, list[dict[str, float]]]) -> Parts:
    """Pick the curves of "vqvae" and "prior" from the rows of their histories, one an epoch."""
    curves = {}
    for stage, names in CURVES.items():
        values = np.array([[row[name] for name in names] for row in histories[stage]])
        curves[stage] = np.clip(values, -MAX_NUMBER, MAX_NUMBER)
    return {"training": curves}


def kept_samples(count: int) -> np.ndarray:
    """Choose the samples that any figure shows, in rising order; the others are written only."""
    return np.union1d(spread(count, SHOWN_SAMPLES), spread(count, SHOWN_PAIRS))


def sample_parts(
    images: np.ndarray,
    levels: np.ndarray,
    results: dict[str, np.ndarray] | None,
    split: Split | None,
) -> Parts:
    """Choose samples to show, and a real slice beside some of them.

    Args:
        images: The samples of `kept_samples`, `(len(kept), S, S)`.
        levels: Level of every sample, `(N,)`.
        results: What `evaluation.reconstruction.evaluate` returned, or None without slices.
        split: The split of the real slices, or None.
    """
    count = len(levels)
    kept = kept_samples(count)
    shown, paired = spread(count, SHOWN_SAMPLES), spread(count, SHOWN_PAIRS)
    samples = {"images": images[np.searchsorted(kept, shown)], "levels": levels[shown]}
    if split is None:
        return {"samples": samples}
    real = [nearest_slice(split, levels[number], number) for number in paired]
    return {
        "samples": samples,
        "comparison": {
            "real": results["images"][real],
            "generated": images[np.searchsorted(kept, paired)],
            "levels": levels[paired],
        },
    }


def brain_parts(
    brains: np.ndarray,
    level: int,
    frame: Sequence[int],
    results: dict[str, np.ndarray] | None,
    split: Split | None,
) -> Parts:
    """Cut brains in three directions, generated ones and as many real ones.

    Args:
        brains: Generated stacks, uint8 `(N, K, S, S)`.
        level: Level of their lowest slice.
        frame: Part of the slices that is not empty.
        results: What `evaluation.reconstruction.evaluate` returned, or None without slices.
        split: The split of the real slices, or None.
    """
    parts = {"brains": {**cuts(brains, frame), "level": level}}
    if split is not None:
        stacks = split.stacks(range(level, level + brains.shape[1]))
        if len(stacks):
            shown = stacks[spread(len(stacks), len(brains))]
            parts["real_brains"] = {**cuts(results["images"][shown], frame), "level": level}
    return parts


def ventricle_parts(areas: dict[str, dict]) -> Parts:
    """Area of the ventricles by level, from `ventricles` of `evaluation.stacks.evaluate`."""
    return {"ventricles": {name: np.array(areas[name]["by_level"]) for name in STACKS}}


def anatomy_parts(report: dict) -> Parts:
    """Anatomy by level, from `anatomy` of `evaluation.comparison.evaluate`.

    Levels at which a distance is undefined are left out. There is no part if none remains.
    """

    def triples(curve):
        bounds = "null95" if curve.startswith("wasserstein") else "ci95"
        middle, interval = (
            np.array([report[figure][f"{curve}_by_level{suffix}"] for figure in ANATOMY])
            for suffix in ("", f"_{bounds}")
        )
        return np.concatenate([middle[..., None], interval], axis=-1)  # (figures, levels, 3)

    if not report["levels"]:
        return {}
    curves = {curve: triples(curve) for curve in ANATOMY_CURVES}
    defined = np.all([np.isfinite(values).all((0, 2)) for values in curves.values()], axis=0)
    if not defined.any():
        return {}
    levels = np.array(report["levels"])[defined]
    return {
        "anatomy": {
            "levels": levels,
            **{curve: values[:, defined] for curve, values in curves.items()},
        }
    }


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


def nearest_slice(split: Split, level: int, number: int) -> int:
    """Find a slice at a level, or at the nearest level; another number gives another subject."""
    distance = np.abs(split.levels - level)
    candidates = np.flatnonzero(distance == distance.min())
    return candidates[number % len(candidates)]


def closest_parts(
    generated: np.ndarray,
    levels: np.ndarray,
    training_images: np.ndarray,
    pairs: Iterable[tuple[int, int, float]],
) -> Parts:
    """Choose the samples that are closest to a training slice.

    Args:
        generated: All samples, `(N, S, S)`.
        levels: Their levels, `(N,)`.
        training_images: All training slices, `(M, S, S)`.
        pairs: `(sample, training slice, distance)`, closest first.
    """
    numbers, others, distances = (np.array(column) for column in zip(*list(pairs)[:SHOWN_PAIRS]))
    return {
        "closest": {
            "generated": generated[numbers],
            "real": training_images[others],
            "levels": levels[numbers],
            "distances": distances,
        }
    }


def at_level(split: Split, level: int | None) -> Split:
    """Pick the slices of a level, or all slices where it is None.

    Raises:
        InputError: No slice has this level.
    """
    if level is None:
        return split
    here = np.flatnonzero(split.levels == level)
    if not len(here):
        least, most = split.levels.min(), split.levels.max()
        raise InputError(
            f"--slice must be a level of the slices, {least} to {most}. Received: {level}"
        )
    return split.pick(here)


def anomaly_parts(split: Split, images: np.ndarray, results: dict, order: np.ndarray) -> Parts:
    """Choose the slices with the highest scores.

    Args:
        split: The slices that were mapped.
        images: Their images, `(N, S, S)` in [0, 1].
        results: What `evaluation.anomalies.analyse` returned.
        order: Numbers of the slices, the highest score first.
    """
    shown = order[:SHOWN_SLICES]
    return {
        "anomaly": {
            "images": to_grey(images[shown]),
            "healed": to_grey(results["healed"][shown]),
            **{method: maps[shown] for method, maps in results["maps"].items()},
            "cases": split.cases[shown],
            "levels": split.levels[shown],
            "scores": results["scores"]["healing"][shown],
        }
    }
