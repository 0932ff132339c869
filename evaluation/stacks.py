"""Measures of generated brains: do their slices hang together as those of real brains do?

Brains are stacks of slices from bottom to top, `(N, L, S, S)`, uint8 or float in [0, 1].
"""

import dataclasses
from typing import Any

import numpy as np

from evaluation import comparison, two_sample
from evaluation.brains import FIRST_BRAIN, decode_all, draw_brain_codes
from evaluation.samples import SamplingOptions
from modules import Models
from networks.losses import ssim
from sources.folder import Split
from sources.images import to_unit
from utils import progress

DRAWN = 32  # brains to evaluate
FIRST_EVALUATED = 2 * FIRST_BRAIN  # number of their first slice, beyond those of other brains
CUTS = 8  # coronal, and as many sagittal, cuts of a brain that the classifier sees
INNER = (0.2, 0.8)  # part of the frame that the cuts lie in
NEAREST_SIDE = 32  # pixels of a side to which slices are reduced before brains are compared


def evaluate_brains(
    models: Models,
    results: dict[str, np.ndarray],
    split: Split,
    training_images: np.ndarray,
    training: Split,
    options: SamplingOptions,
) -> dict[str, Any]:
    """Draw `DRAWN` brains and compute all their figures.

    Args:
        models: The networks. The prior reads the slices below.
        results: What `evaluation.reconstruction.evaluate` returned.
        split: The split that was evaluated.
        training_images: Images of the training split, uint8 `(N, S, S)`.
        training: The training split.
        options: How codes are drawn.

    Returns:
        What `evaluate` returns, or only the `reason` why brains cannot be compared.
    """
    levels = range(models.prior.settings["num_levels"])
    cases, training_cases = split.stacks(levels), training.stacks(levels)
    if len(cases) < two_sample.FOLDS or not len(training_cases):
        return {"reason": f"{len(cases)} cases of the split have all {len(levels)} levels"}
    drawn = draw_brain_codes(models.prior, DRAWN, options, first=FIRST_EVALUATED)
    codes = np.concatenate(list(drawn))

    def images(how):
        return decode_all(models, codes, how, len(levels), FIRST_EVALUATED)

    # Without texture, because they are compared with reconstructions, which have none.
    plain = images(dataclasses.replace(options, texture=False))
    textured = images(options) if options.texture and models.texture else None
    known = training_images[training_cases]
    real = results["restored"][cases], results["images"][cases]
    return evaluate(plain, *real, known, models.vqvae.frame, textured)


def evaluate(
    drawn: np.ndarray,
    restored: np.ndarray,
    real: np.ndarray,
    training: np.ndarray,
    frame: tuple[int, int, int, int],
    textured: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute all figures of generated brains for `metrics.json`.

    Args:
        drawn: Generated brains without texture, `(N, L, S, S)`.
        restored: Reconstructions of real brains, `(M, L, S, S)`, which are the yardstick.
        real: These real brains, `(M, L, S, S)`.
        training: Brains that the models learned from, `(T, L, S, S)`.
        frame: Part of the slices that is not empty.
        textured: The same generated brains with texture, or None.
    """
    sets = {"generated": drawn, "reconstructions": restored, "real": real}
    flat = {name: brains.reshape(-1, *brains.shape[2:]) for name, brains in sets.items()}
    levels = {
        name: np.tile(np.arange(brains.shape[1]), len(brains)) for name, brains in sets.items()
    }
    # Sixteen subjects are few, so the training brains, from which the prior learned, stand beside.
    measured = {**sets, "training": training}
    return {
        "count": len(drawn),
        "neighbour_ssim": {name: _by_level(neighbour_ssim(b)) for name, b in sets.items()},
        "ventricles": {
            name: _volumes(ventricles(brains))
            for name, brains in progress(
                measured.items(), "measuring ventricles", len(measured), "set"
            )
        },
        **_two_samples(sets, textured, frame),
        "diversity": {name: comparison.diversity(flat[name], levels[name]) for name in sets},
        "nearest": _nearest(sets, training),
    }


def neighbour_ssim(brains: np.ndarray) -> np.ndarray:
    """SSIM of each slice with the one above it, `(N, L - 1)`."""
    images = to_unit(brains)[..., None]
    return np.stack([ssim(brain[:-1], brain[1:]) for brain in images])


def ventricles(brains: np.ndarray) -> np.ndarray:
    """Share of each slice that the ventricles fill, `(N, L)`; see `comparison.anatomy`."""
    return np.stack([comparison.anatomy(brain)["ventricle_area"] for brain in brains])


def _by_level(values):
    return {"mean": float(values.mean()), "by_level": values.mean(0).tolist()}


def _volumes(areas):
    """Volume of a brain's ventricles, as a share of the stack, and their area by level."""
    volumes = areas.mean(1)
    return {**_by_level(areas), "sd": float(volumes.std(ddof=1)) if len(volumes) > 1 else 0.0}


def _two_samples(sets, textured, frame):
    """Accuracies of a classifier of coronal and sagittal cuts, and their null ranges."""
    seen = {name: _cut_features(brains, frame) for name, brains in sets.items()}
    rows = {name: len(features) // len(sets[name]) for name, features in seen.items()}
    # The same number names a brain and its reconstruction, but never a generated brain.
    own = np.repeat([f"generated {i}" for i in range(len(sets["generated"]))], rows["generated"])
    real = np.repeat([f"real {i}" for i in range(len(sets["real"]))], rows["real"])
    half = two_sample.half(real)
    restored = seen["reconstructions"]
    comparisons = {
        "two_sample_accuracy": (seen["generated"], restored, own, real),
        "two_sample_accuracy_to_real": (seen["generated"], seen["real"], own, real),
        "two_sample_accuracy_reconstructions": (
            restored[half], restored[~half], real[half], real[~half],
        ),
    }  # fmt: skip
    if textured is not None:
        drawn = _cut_features(textured, frame)
        comparisons["two_sample_accuracy_textured_to_real"] = drawn, seen["real"], own, real
    report = {}
    for name, pair in progress(comparisons.items(), "judging cuts", len(comparisons), "pair"):
        accuracy, null = two_sample.two_sample(*pair), two_sample.null_range(*pair)
        report |= two_sample.entries(name, accuracy, null)
    return report


def _cut_features(brains, frame):
    """Features of the cuts of each brain, all cuts of a brain in a row."""
    top, left, bottom, right = frame
    low, high = INNER
    shares = np.linspace(low, high, CUTS)
    planes = []
    for first, last, axis in ((left, right, 3), (top, bottom, 2)):
        places = np.round(first + shares * (last - 1 - first)).astype(int)
        inside = slice(top, bottom) if axis == 3 else slice(left, right)
        cuts = np.moveaxis(np.take(brains, places, axis), axis, 1)[..., inside]  # (N, C, L, s)
        features = two_sample.features(cuts.reshape(-1, *cuts.shape[2:]))
        planes.append(features.reshape(len(brains), CUTS, -1))
    # The two directions are described apart: the classifier sees a coronal and a sagittal cut.
    return np.concatenate(planes, axis=2).reshape(len(brains) * CUTS, -1)


def _nearest(sets, training):
    """Root mean square distances to the nearest training brain, at `NEAREST_SIDE` pixels."""
    known = _reduced(training)
    report = {}
    for name in sets:
        distances = [
            np.sqrt(((known - brain) ** 2).mean(1).min()) for brain in _reduced(sets[name])
        ]
        report |= {f"{name}_min": float(min(distances)), f"{name}_mean": float(np.mean(distances))}
    return report


def _reduced(brains):
    side = min(NEAREST_SIDE, brains.shape[-1])
    return np.stack([two_sample.pool(to_unit(brain), side).ravel() for brain in brains])
