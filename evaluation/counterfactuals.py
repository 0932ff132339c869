"""How the people of scans would look if other attributes of them were given."""

from typing import Any

import numpy as np

from dataset import load_images
from evaluation import plots
from evaluation.anatomy import anatomy
from evaluation.attributes import entities, values_of
from evaluation.context import Context, listed
from evaluation.plots import GREY_SCALE, SIGNED, SIGNED_SCALE
from evaluation.reconstruction import BATCH, choose_codes, shown_slices, slice_titles
from evaluation.stacks import write_stack
from modules import Models
from networks.attributes import UNKNOWN, Attributes, labelled
from networks.layers import in_precision
from networks.order import arrange
from networks.raster import numbered_seed
from sources.folder import Split
from sources.images import enlarge, to_grey, to_unit
from utils import clean_name, progress

FOLDER, VOLUME = "counterfactual", "case_{:03d}_{}{}.nii.gz"


def own_numbers(
    attributes: Attributes, split: Split, given: np.ndarray, own: np.ndarray | None
) -> dict[int, np.ndarray]:
    """Own values of those attributes that are given otherwise, as numbers `(A,)` by case.

    They are what is said of all cases, else what the table of the data says, else unknown. All
    other attributes are unknown, as they are in the counterfactual: what follows from one that is
    given must be free to change.

    Args:
        attributes: Those that the prior knows.
        split: Slices of the cases.
        given: Numbers of the values of the counterfactual, `(A,)`.
        own: Numbers that are said of all cases, `(A,)`, or None.
    """
    found = {case: np.full(len(attributes), UNKNOWN) for case in set(split.cases.tolist())}
    for place in np.flatnonzero(given):
        attribute = attributes.each[place]
        values = values_of(split, attribute.name)
        for case, numbers in found.items():
            said = UNKNOWN if own is None else own[place]
            numbers[place] = said or attribute.number(values.get(case))
    return found


def draw(
    models: Models,
    split: Split,
    codes: np.ndarray,
    own: dict[int, np.ndarray],
    given: np.ndarray,
    strength: float,
    seed: int,
) -> np.ndarray:
    """Codes of the counterfactuals of slices, int32 `(N, H, W)`, case by case.

    Args:
        models: The networks.
        split: The slices.
        codes: Their codes, int32 `(N, H, W)`.
        own: See `own_numbers`.
        given: Numbers of the values of the counterfactual, `(A,)`.
        strength: See `RasterPrior.counterfactual`.
        seed: Seed of the noise.
    """
    prior, drawn = models.prior, np.empty_like(codes)
    for case in progress(np.unique(split.cases).tolist(), "drawing counterfactuals", unit="case"):
        here = np.flatnonzero(split.cases == case)
        levels = split.levels[here]
        order = arrange(split.cases[here], levels, prior.settings["neighbours"])
        told = labelled(levels, own[case]), labelled(levels, given)
        seeds = numbered_seed(seed, case * prior.settings["num_levels"] + levels.astype("int64"))
        drawn[here] = prior.counterfactual(codes[here], *told, seeds, float(strength), order)
    return drawn


def counterfactuals(
    context: Context, name: str, own: np.ndarray | None, strength: float
) -> dict[str, Any]:
    """Draw and write the counterfactuals of the split, and show some.

    Every case becomes four volumes: original, reconstruction, counterfactual, and the difference of
    the last two in grey values. They lie over its scan.

    Args:
        context: The run, the split, and what is given.
        name: Name of the slices.
        own: See `own_numbers`.
        strength: See `RasterPrior.counterfactual`.

    Returns:
        `cases` of `counterfactual.json`.
    """
    split, folder, given = context.split, context.folder / FOLDER, context.sampling.given
    # In float64, so that the codes are those of an evaluation.
    models = Models(*(in_precision(m, "float64") for m in context.models[:2]))
    attributes = models.prior.attributes
    images = load_images(split, models.vqvae.settings["image_size"])
    numbers = own_numbers(attributes, split, given, own)
    codes = choose_codes(models, split.cases, split.levels, images)
    drawn = draw(models, split, codes, numbers, given, strength, context.sampling.seed)
    kinds = {"original": images, "reconstruction": _decoded(models, codes)}
    kinds["counterfactual"] = _decoded(models, drawn)
    rows = []
    for case in np.unique(split.cases).tolist():
        here = split.cases == case
        stacks = {kind: values[here] for kind, values in kinds.items()}
        _write(folder, case, stacks, split, context.given)
        row = {"case": case, "slices": int(here.sum()), "own": attributes.labels(numbers[case])}
        row["changed_codes"] = float((drawn != codes)[here].mean())
        if split.facts.brain:
            row["ventricles"] = {kind: _ventricles(of, split) for kind, of in stacks.items()}
        rows.append(row)
    own_labels = {row["case"]: listed(row["own"]) for row in rows}
    _draw_figure(context, name, kinds, own_labels, strength)
    return {"cases": rows}


def _decoded(models, codes):
    batches = np.split(codes, range(BATCH, len(codes), BATCH))
    return np.concatenate([to_grey(models.vqvae.decode(batch))[..., 0] for batch in batches])


def _ventricles(images, split):
    """Mean area of the ventricles, a share of the image."""
    images = images.swapaxes(1, 2) if split.facts.mirror == "columns" else images
    return float(anatomy(images)["ventricle_area"].mean())


def _write(folder, case, stacks, split, given):
    side, levels = split.facts.side, split.levels[split.cases == case]
    stacks = {
        kind: np.stack([enlarge(image, side) for image in images])
        for kind, images in stacks.items()
    }
    drawn, restored = (
        stacks[kind].astype("int16") for kind in ("counterfactual", "reconstruction")
    )
    for kind, images in {**stacks, "difference": drawn - restored}.items():
        is_given = kind in ("counterfactual", "difference")
        note = f"{kind} given {listed(given)}" if is_given else kind
        path = folder / VOLUME.format(case, kind, entities(given) if is_given else "")
        write_stack(path, images, levels, split.facts, case, note)


def _draw_figure(context, name, kinds, own, strength):
    """Originals, reconstructions, counterfactuals and their difference."""
    shown = shown_slices(len(context.split))
    panels = {kind: to_unit(images[shown]) for kind, images in kinds.items()}
    rows = [plots.Row(images, kind) for kind, images in panels.items()]
    difference = panels["counterfactual"] - panels["reconstruction"]
    rows.append(plots.Row(difference, "difference", SIGNED))
    amplified = "" if strength == 1 else f", differences amplified {strength:g} times"
    caption = (
        f"{clean_name(name)}, and how a model of {context.facts.name} draws them{context.of_whom}: "
        f"{context.model}, and the noise of the {context.prior} (seed {context.sampling.seed})"
        f"{amplified}. {GREY_SCALE} Difference: counterfactual minus reconstruction, "
        f"{SIGNED_SCALE}. It compares groups of people. It is no forecast, and no medical device."
    )
    cases = context.split.cases[shown].tolist()
    labels = zip(slice_titles(context.split, shown), cases)
    titles = [f"{label}\n{own[case] or 'attributes unknown'}" for label, case in labels]
    context.draw(plots.rows_of_images, "counterfactual.png", rows, titles, caption)
