"""Measure how well maps of what is unusual show lesions whose place is known.

python benchmarks/anomaly.py --run DIR --data DIR [--seeds N] [--json FILE] [--figure FILE]

It plants one lesion in the stack of every case, several times with other seeds, and compares the
maps of several methods with the known places. The same stacks without lesions are the control.

The lesions are caricatures, see lesions.py. So the figures compare methods, and say nothing about
disease. The control is OASIS-1, which includes people with dementia.

Healing and surprise alone are what predict.py --anomaly makes of a slice. They are compared with
the error of the plain reconstruction, with z-scores against the training slices of a level, and
with the smoothed intensity.

Each method is chosen on lesions in validation slices: its variant, how slices are scored, and
its threshold. Test slices only report, with other lesions. AUROC compares scores with those of
the control, and under `beside` with those of slices above and below the lesion in its own stack.
Average precision is over the brain pixels of slices with a lesion and of the control. Intervals are
95 % bootstraps over subjects.

Reference:
    Meissen et al. 2021, Challenging Current Semi-Supervised Anomaly Segmentation Methods for Brain
    MRI (smoothed intensity).
"""

import collections
import functools
import itertools
import pathlib
from collections.abc import Iterator

from common import COUNT, make_parser, show, write_report

# isort: split
import numpy as np
from contenders.contender import in_batches
from detection import Choice, Evidence, choose, gather_evidence, join, report_method
from lesions import KINDS, Planted, plant_lesion, plant_split

from dataset import load_images
from evaluation import plots
from evaluation.anomalies import (
    MAP_SIGMA,
    SURPRISE_SIGMA,
    along_levels,
    analyse,
    residual,
    smooth,
)
from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from modules import VQVAE, Models
from sources.facts import DataFacts
from sources.folder import Slices, Split, find_slices, open_slices
from sources.images import to_unit
from utils import command_line

SIGMAS = {f"sigma {factor * MAP_SIGMA:g}": factor * MAP_SIGMA for factor in (0.5, 1, 2)}


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--run", "--data", "--json", "--figure")
    text = "how often each split gets lesions (default: %(default)s)"
    parser.add_argument("--seeds", help=text, default=5, **COUNT)
    return parser.parse_args(arguments)


def main(args):
    """Plant and map lesions, report how well each method shows them, and draw some."""
    slices, models = open_slices(find_slices(args.data)), load_models(RunDirectory(args.run))
    report = compare_methods(slices, models, args.seeds)
    for method, figures in report.items():
        show(method, figures)
    data = {"name": slices.name, "fingerprint": slices.fingerprint, "seeds": args.seeds}
    write_report(args.json, {"data": data, **report})
    if args.figure:
        draw_examples(args.figure, slices, models)


def read_split(slices: Slices, name: str, models: Models) -> tuple[np.ndarray, Split]:
    """Images of a split, `(N, S, S)` in [0, 1] at the size of the models, and the split."""
    split = slices.splits[name]
    return to_unit(load_images(split, models.vqvae.settings["image_size"])), split


def compare_methods(slices: Slices, models: Models, seeds: int) -> dict:
    """Choose each method on validation slices and measure it on test slices."""
    training, size = slices.splits["train"], models.vqvae.settings["image_size"]
    statistics = level_statistics(load_images(training, size), training.levels)
    mapped = functools.partial(map_slices, models, statistics)
    validation, test = (
        gather(*read_split(slices, name, models), seeds, mapped) for name in ("validate", "test")
    )
    chosen = collections.defaultdict(list)
    for method, variant in validation:
        chosen[method].append(choose(variant, *validation[method, variant]))
    return {
        method: report_best(test, method, sorted(choices, key=lambda c: -(c.auroc + c.dice)))
        for method, choices in chosen.items()
    }


def report_best(test: dict, method: str, choices: list[Choice]) -> dict:
    """Measure the first of the variants of a method on test slices."""
    best, *_ = choices
    tried = {choice.variant: {"auroc": choice.auroc, "dice": choice.dice} for choice in choices}
    return {**report_method(*test[method, best.variant], best), "validation": tried}


def gather(images, split, seeds, mapped) -> dict[tuple[str, str], tuple[Evidence, Evidence]]:
    """Map a split with the lesions of each seed, and without.

    Args:
        images: `(N, S, S)` in [0, 1].
        split: The slices of these images.
        seeds: Number of seeds.
        mapped: Function of images, split and a seed of draws. It yields a method, a variant and
            maps.

    Returns:
        Evidence about the planted slices of all seeds, and about the control, by method and
        variant.
    """
    nothing = np.zeros(images.shape, bool), *np.full((2, len(split)), "")
    parts = collections.defaultdict(list)  # the control comes first
    for number in range(1 + seeds):
        print(f"{split.name}: " + (f"lesions {number} of {seeds}" if number else "control"))
        planted = plant_split(images, split, number - 1) if number else Planted(images, *nothing)
        for *key, maps in mapped(planted.images, split, number):
            parts[tuple(key)].append(gather_evidence(maps, planted, split))
    return {key: (join(planted), control) for key, (control, *planted) in parts.items()}


def level_statistics(images: np.ndarray, levels: np.ndarray) -> dict[tuple, tuple]:
    """Mean and deviation of each pixel of smoothed uint8 slices, by sigma and level."""
    found = {}
    for level, (name, sigma) in itertools.product(np.unique(levels), SIGMAS.items()):
        smoothed = smooth(to_unit(images[levels == level]), sigma)
        found[name, level] = smoothed.mean(0), smoothed.std(0) + 0.01  # hardly varying pixels
    return found


def z_map(statistics: dict, smoothed: np.ndarray, levels: np.ndarray, name: str) -> np.ndarray:
    """Size of z-scores of smoothed slices `(N, S, S)`, each against its own level."""
    means, deviations = zip(*(statistics[name, level] for level in levels))
    return np.abs(smoothed - np.stack(means)) / np.stack(deviations)


def map_slices(
    models: Models, statistics: dict, images: np.ndarray, split: Split, seed: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Map slices by all methods.

    Variants differ in how far a map is smoothed, within the slice and along the levels of the case.

    Args:
        models: The networks of a run.
        statistics: What `level_statistics` returned for the training split.
        images: `(N, S, S)` in [0, 1].
        split: The slices of these images.
        seed: Seed of the draws.

    Yields:
        Name of the method, name of the variant, and maps `(N, S, S)`, 0 outside the brain.
    """
    found, brain = analyse(models, images, split, seed), images > 0
    yield "healing", "as in predict.py", found["maps"]["healing"]
    for factor in (0.5, 1, 2):
        sigma = factor * SURPRISE_SIGMA
        yield "surprise", f"sigma {sigma:g}", smooth(found["surprise"], sigma) * brain
    restored = restore_both_sides(models.vqvae, images, split.facts)
    for name, sigma in SIGMAS.items():
        smoothed = smooth(images, sigma)
        for method, variant, maps in (
            ("error", name, np.sqrt(residual(images, restored, sigma))),
            ("z-map", name, z_map(statistics, smoothed, split.levels, name)),
            ("intensity", f"bright, {name}", smoothed),
            ("intensity", f"dark, {name}", np.maximum(1 - smoothed, 0)),
        ):
            yield method, variant, maps * brain
            yield method, f"{variant}, along levels", along_levels(maps, split) * brain


def restore_both_sides(vqvae: VQVAE, images: np.ndarray, facts: DataFacts) -> np.ndarray:
    """Mean of the reconstructions of slices and of their mirror images, `(N, S, S)`."""

    def restored(shown):
        return in_batches(lambda part: vqvae.decode(vqvae.encode(part[..., None]))[..., 0], shown)

    return (restored(images) + facts.mirrored(restored(facts.mirrored(images)))) / 2


def draw_examples(path: pathlib.Path, slices: Slices, models: Models) -> None:
    """Draw the middle slice of an obvious lesion of each kind."""
    images, split = read_split(slices, "test", models)
    columns, cases = [], np.unique(split.cases)
    for number, kind in enumerate(KINDS):
        stack = np.flatnonzero(split.cases == cases[number % len(cases)])
        rng = np.random.default_rng(number)
        planted, masks = plant_lesion(images[stack], kind, "obvious", rng)
        middle = masks.sum((1, 2)).argmax()
        found = analyse(models, planted, split.pick(stack))
        shown = planted, masks, found["healed"], *found["maps"].values()
        columns.append([values[middle] for values in shown])
    originals, masks, healed, *maps = map(np.stack, zip(*columns))
    titles = [kind.replace("_", " ") for kind in KINDS]
    caption = (
        f"{slices.name}, test split: obvious lesions planted in stacks, their largest slices, "
        "outlined, and the maps of two methods."
    )
    plots.anomalies(path, originals, healed, dict(zip(found["maps"], maps)), titles, caption, masks)


if __name__ == "__main__":
    command_line(main, parse())
