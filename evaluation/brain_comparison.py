"""Generated brains beside real ones: do their slices hang together as those of real brains do?

Brains are stacks of slices from bottom to top, `(N, L, S, S)`, uint8 or float in [0, 1].
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from evaluation import curves
from evaluation.anatomy import anatomy
from evaluation.brains import FIRST_BRAIN, decode_brains, draw_brain_codes
from evaluation.context import Context, Section
from evaluation.metrics import diversity
from evaluation.two_sample import FOLDS, features, half, pool, two_sample
from networks.losses import ssim
from sources.images import to_unit
from utils import progress

DRAWN = 32  # brains to evaluate
FIRST_EVALUATED = 2 * FIRST_BRAIN  # number of their first slice, beyond those of other brains
CUTS = 8  # coronal, and as many sagittal, cuts of a brain that the classifier sees
INNER = (0.2, 0.8)  # part of the frame that the cuts lie in
NEAREST_SIDE = 32  # pixels of a side to which slices are reduced before brains are compared


def compare(context: Context, training_images: np.ndarray) -> Section:
    """Draw `DRAWN` brains and compare them with real ones.

    Args:
        context: The run, whose prior reads the slices below, and what was evaluated.
        training_images: Images of the training split, uint8 `(N, S, S)`.

    Returns:
        `brains` of `generation` of `metrics.json`, which may only be the `reason` why brains cannot
        be compared; and the figure of the ventricles.
    """
    models, split, options = context.models, context.split, context.sampling
    levels = range(models.prior.settings["num_levels"])
    cases = split.stacks(levels)
    training_cases = context.slices.splits["train"].stacks(levels)
    if len(cases) < FOLDS or not len(training_cases):
        reason = f"{len(cases)} cases of the split have all {len(levels)} levels"
        return Section({"reason": reason})
    drawn = draw_brain_codes(models.prior, DRAWN, options, first=FIRST_EVALUATED)
    codes = np.concatenate(list(drawn))

    def decoded(options):
        return decode_brains(models, codes, options, len(levels), FIRST_EVALUATED)

    # Without texture, because they are compared with reconstructions, which have none.
    sets = {
        "generated": decoded(dataclasses.replace(options, texture=False)),
        "reconstructions": context.results["restored"][cases],
        "real": context.results["images"][cases],
        "training": training_images[training_cases],
    }
    textured = decoded(options) if options.texture and models.texture else None
    report = compare_brains(sets, models.vqvae.frame, textured)
    caption = (
        f"Mean area of the ventricles by level, from bottom to top. Generated: brains "
        f"{options.drawn}, decoded by the {context.model}, without texture. Real: brains of "
        f"{context.source}. Training: those that the models learned from."
    )
    areas = {name: np.array(found["by_level"]) for name, found in report["ventricles"].items()}
    figure = functools.partial(curves.ventricles, areas=areas, caption=caption)
    return Section(report, {"ventricles": figure})


def compare_brains(
    sets: dict[str, np.ndarray],
    frame: tuple[int, int, int, int],
    textured: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute all figures of generated brains for `metrics.json`.

    Args:
        sets: Brains by name: `generated` without texture, `reconstructions` of real brains, which
            are the yardstick, these `real` brains, and those of `training`. Sixteen real subjects
            are few, so their ventricles stand beside those that the prior learned from.
        frame: Part of the slices that is not empty.
        textured: The generated brains with texture, or None.
    """
    areas = progress(sets.items(), "measuring ventricles", len(sets), "set")
    compared = {name: brains for name, brains in sets.items() if name != "training"}
    return {
        "count": len(sets["generated"]),
        "neighbour_ssim": {name: _by_level(neighbour_ssim(b)) for name, b in compared.items()},
        "ventricles": {name: _volumes(ventricles(brains)) for name, brains in areas},
        **_compare_cuts(compared, textured, frame),
        "diversity": {name: _diversity(brains) for name, brains in compared.items()},
        "nearest": _nearest(compared, sets["training"]),
    }


def neighbour_ssim(brains: np.ndarray) -> np.ndarray:
    """SSIM of each slice with the one above it, `(N, L - 1)`."""
    images = to_unit(brains)[..., None]
    return np.stack([ssim(brain[:-1], brain[1:]) for brain in images])


def ventricles(brains: np.ndarray) -> np.ndarray:
    """Share of each slice that the ventricles fill, `(N, L)`; see `evaluation.anatomy.anatomy`."""
    return np.stack([anatomy(brain)["ventricle_area"] for brain in brains])


def _by_level(values):
    return {"mean": float(values.mean()), "by_level": values.mean(0).tolist()}


def _volumes(areas):
    """Volume of a brain's ventricles, as a share of the stack, and their area by level."""
    volumes = areas.mean(1)
    return {**_by_level(areas), "sd": float(volumes.std(ddof=1)) if len(volumes) > 1 else 0.0}


def _diversity(brains):
    levels = np.tile(np.arange(brains.shape[1]), len(brains))
    return diversity(brains.reshape(-1, *brains.shape[2:]), levels)


def _compare_cuts(sets, textured, frame):
    """Accuracies of a classifier of coronal and sagittal cuts, and their null ranges."""
    seen = {name: _cut_features(brains, frame) for name, brains in sets.items()}
    # The same number names a brain and its reconstruction, but never a generated brain.
    drawn = np.repeat([f"generated {i}" for i in range(len(sets["generated"]))], CUTS)
    real = np.repeat([f"real {i}" for i in range(len(sets["real"]))], CUTS)
    one = half(real)
    restored = seen["reconstructions"]
    pairs = {
        "two_sample_accuracy": (seen["generated"], restored, drawn, real),
        "two_sample_accuracy_to_real": (seen["generated"], seen["real"], drawn, real),
        "two_sample_accuracy_reconstructions": (
            restored[one], restored[~one], real[one], real[~one],
        ),
    }  # fmt: skip
    if textured is not None:
        with_texture = _cut_features(textured, frame)
        pairs["two_sample_accuracy_textured_to_real"] = with_texture, seen["real"], drawn, real
    report = {}
    for name, pair in progress(pairs.items(), "comparing cuts", len(pairs), "pair"):
        report |= two_sample(name, *pair)
    return report


def _cut_features(brains, frame):
    """Features of the cuts of each brain, all cuts of a brain in a row."""
    top, left, bottom, right = frame
    shares = np.linspace(*INNER, CUTS)
    planes = []
    for first, last, axis in ((left, right, 3), (top, bottom, 2)):
        places = np.round(first + shares * (last - 1 - first)).astype(int)
        inside = slice(top, bottom) if axis == 3 else slice(left, right)
        cuts = np.moveaxis(np.take(brains, places, axis), axis, 1)[..., inside]  # (N, C, L, s)
        seen = features(cuts.reshape(-1, *cuts.shape[2:]))
        planes.append(seen.reshape(len(brains), CUTS, -1))
    # The two directions are described apart: the classifier sees a coronal and a sagittal cut.
    return np.concatenate(planes, axis=2).reshape(len(brains) * CUTS, -1)


def _nearest(sets, training):
    """Root mean square distances to the nearest training brain, at `NEAREST_SIDE` pixels."""
    known, report = _reduced(training), {}
    for name, brains in sets.items():
        distances = [np.sqrt(((known - brain) ** 2).mean(1).min()) for brain in _reduced(brains)]
        report |= {f"{name}_min": float(min(distances)), f"{name}_mean": float(np.mean(distances))}
    return report


def _reduced(brains):
    side = min(NEAREST_SIDE, brains.shape[-1])
    return np.stack([pool(to_unit(brain), side).ravel() for brain in brains])
