"""Generated brains beside real ones: do their slices hang together as those of real brains do?

Brains are stacks of slices from bottom to top, `(N, L, S, S)`, uint8 or float in [0, 1].
"""

from typing import Any

import numpy as np

from evaluation import plots
from evaluation.anatomy import anatomy
from evaluation.brains import draw_brain_codes
from evaluation.context import FIRST_COMPARED_BRAIN, Context
from evaluation.metrics import diversity
from evaluation.samples import decode
from evaluation.two_sample import FOLDS, Rows, features, half, nearest, two_sample
from networks.losses import ssim
from sources.images import to_unit
from utils import progress

DRAWN = 32  # brains to evaluate
CUTS = 8  # coronal, and as many sagittal, cuts of a brain that the classifier sees
INNER = (0.2, 0.8)  # part of the frame that the cuts lie in
ANATOMY_OF_BRAINS = ("symmetry", "ventricles")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NEAREST_SIDE = 32  # pixels of a side to which slices are reduced before brains are compared


def compare(context: Context, training_images: np.ndarray) -> dict[str, Any]:
    """Draw `DRAWN` brains and compare them with real ones; draw the figure of their ventricles.

    Args:
        context: The run, whose prior reads neighbours, and what was evaluated.
        training_images: Images of the training split, uint8 `(N, S, S)`.

    Returns:
        `brains` of `generation` of `metrics.json`, which may only be the `reason` why brains cannot
        be compared.
    """
    models, split, options = context.models, context.split, context.sampling
    levels = range(models.prior.settings["num_levels"])
    cases = split.stacks(levels)
    training_cases = context.slices.splits["train"].stacks(levels)
    if len(cases) < FOLDS or not len(training_cases):
        return {"reason": f"{len(cases)} cases of the split have all {len(levels)} levels"}
    drawn = list(draw_brain_codes(models.prior, DRAWN, options, first=FIRST_COMPARED_BRAIN))

    def decoded(options):
        return np.concatenate(list(decode(models, drawn, options)))

    # Without texture, because they are compared with reconstructions, which have none.
    sets = {
        "generated": decoded(options._replace(texture=False)),
        "reconstructions": context.results["restored"][cases],
        "real": context.results["images"][cases],
        "training": training_images[training_cases],
    }
    textured = decoded(options) if options.texture else None
    report = compare_brains(sets, models.vqvae.frame, textured, split.facts.brain)
    if "ventricles" in report:
        caption = (
            f"Mean area of the ventricles by level, from bottom to top. Generated: brains "
            f"{context.drawn}, decoded by the {context.model}, without texture. Real: brains of "
            f"{context.source}. Training: those that the models learned from."
        )
        areas = {name: np.array(of["by_level"]) for name, of in report["ventricles"].items()}
        context.draw(plots.ventricles, "ventricles.png", areas, caption)
    return report


def compare_brains(
    sets: dict[str, np.ndarray],
    frame: tuple[int, int, int, int],
    textured: np.ndarray | None = None,
    has_ventricles: bool = True,
) -> dict[str, Any]:
    """Compute all figures of generated brains for `metrics.json`.

    Args:
        sets: Brains by name: `generated` without texture, `reconstructions` of real brains, which
            are the yardstick, these `real` brains, and those of `training`. Sixteen real subjects
            are few, so their ventricles stand beside those that the prior learned from.
        frame: Part of the slices that is not empty.
        textured: The generated brains with texture, or None.
        has_ventricles: Whether they are brains indeed, and no stacks of other slices.
    """
    volumes = {}
    if has_ventricles:
        areas = progress(sets.items(), "measuring brains", len(sets), "set")
        found = {name: anatomy_of_brains(brains) for name, brains in areas}
        volumes = {kind: {n: of[kind] for n, of in found.items()} for kind in ANATOMY_OF_BRAINS}
    training = sets["training"]
    compared = {name: brains for name, brains in sets.items() if name != "training"}
    near = {name: nearest(b, training, NEAREST_SIDE)[0] for name, b in compared.items()}
    return {
        "count": len(sets["generated"]),
        "neighbour_ssim": {name: _by_level(neighbour_ssim(b)) for name, b in compared.items()},
        **volumes,
        **two_sample(_cut_pairs(compared, textured, frame)),
        "diversity": {
            name: diversity(b.reshape(-1, *b.shape[2:]), np.tile(np.arange(b.shape[1]), len(b)))
            for name, b in compared.items()
        },
        "nearest": {
            f"{name}_{kind}": float(of(distances))
            for name, distances in near.items()
            for kind, of in (("min", np.min), ("mean", np.mean))
        },
    }


def neighbour_ssim(brains: np.ndarray) -> np.ndarray:
    """SSIM of each slice with the one above it, `(N, L - 1)`."""
    images = to_unit(brains)[..., None]
    return np.stack([ssim(brain[:-1], brain[1:]) for brain in images])


def anatomy_of_brains(brains: np.ndarray) -> dict[str, dict[str, Any]]:
    """What is measured of brains: `symmetry` of their slices, by level, and `ventricles`.

    Of the ventricles it is their volume, as a share of the stack: mean, deviation, and mean area by
    level; and how they lie on both sides: `upper_share` has quantiles over the brains of the share
    of the ventricles that is in the half of the upper rows.
    """
    found = [anatomy(brain) for brain in brains]
    areas, upper, symmetry = (
        np.stack([of[name] for of in found])  # (N, L)
        for name in ("ventricle_area", "upper_ventricle_area", "symmetry")
    )
    volumes, is_seen = areas.mean(1), areas.any(1)
    share = upper.mean(1)[is_seen] / volumes[is_seen]
    sides = np.quantile(share, QUANTILES).tolist() if len(share) else []
    sd = float(volumes.std(ddof=1)) if len(volumes) > 1 else 0.0
    sizes = {**_by_level(areas), "sd": sd, "upper_share": dict(zip(map(str, QUANTILES), sides))}
    return {"symmetry": _by_level(symmetry), "ventricles": sizes}


def _by_level(values):
    return {"mean": float(values.mean()), "by_level": values.mean(0).tolist()}


def _cut_pairs(sets, textured, frame):
    """Pairs of sets of coronal and sagittal cuts, by the names of the accuracies."""
    # The same number names a brain and its reconstruction, but never a generated brain.
    named = {"generated": "generated", "reconstructions": "real", "real": "real"}
    rows = {name: _cut_rows(sets[name], frame, named[name]) for name in sets}
    restored, real = rows["reconstructions"], rows["real"]
    one = half(real.groups)
    pairs = {
        "two_sample_accuracy": (rows["generated"], restored),
        "two_sample_accuracy_to_real": (rows["generated"], real),
        "two_sample_accuracy_reconstructions": (
            Rows(*(values[one] for values in restored)),
            Rows(*(values[~one] for values in restored)),
        ),
    }
    if textured is not None:
        with_texture = _cut_rows(textured, frame, "generated")
        pairs["two_sample_accuracy_textured_to_real"] = with_texture, real
    return pairs


def _cut_rows(brains, frame, name):
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
    described = np.concatenate(planes, axis=2).reshape(len(brains) * CUTS, -1)
    return Rows(described, np.repeat([f"{name} {i}" for i in range(len(brains))], CUTS))
