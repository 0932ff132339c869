"""Measure how well maps of what is unusual show lesions whose place is known.

python benchmarks/anomaly.py --run DIR --data DIR [--ensemble DIR] [--denoiser FILE] [--limits]
    [--json FILE] [--figure FILE]

It plants one body in the stack of every case, several times with other seeds, and compares the maps
of several methods with the known places. The same stacks without a body are the control.

The lesions are caricatures, see planting/lesions.py. So the figures compare methods, and say
nothing about disease. The control is OASIS-1, which includes people with dementia.

Each method is chosen on bodies in validation slices: its variant, how slices and cases are scored,
and its threshold. Test slices only report, with other bodies. AUROC compares scores with those of
the control, and under `beside` with those of slices above and below the body in its own stack.
Average precision is over the brain pixels of slices with a lesion and of the control. Intervals are
95 % bootstraps over subjects.

--limits measures healing with several limits instead, `evaluation.anomalies.LIMITS` among them.
It does so on validation slices, with bodies of other seeds.
"""

import collections
import dataclasses
import functools
import itertools
import pathlib

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
from contenders import recorded
from judging import accuracy
from judging.denoiser import load_denoiser
from judging.evidence import Evidence, rank, report_method
from judging.methods import LevelStatistics, map_slices, map_with_limits
from planting.cohort import Planted, plant_split
from planting.lesions import KINDS, STRENGTHS

from dataset import load_images
from evaluation import plots
from evaluation.anomalies import METHODS, analyse
from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from sources.folder import find_slices, open_slices
from sources.images import to_unit
from utils import Parser, between, command_line

SPLITS = ("validate", "test")
FIRST_SEED = 200  # of the bodies that choose the limits; the benchmark has others


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    path = {"metavar": "DIR", "type": pathlib.Path}
    add("--run", required=True, help="run directory of train.py", **path)
    add(
        "--ensemble",
        action="append",
        default=[],
        help="another run, as for predict.py; may be given again",
        **path,
    )
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add(
        "--denoiser",
        metavar="FILE",
        type=pathlib.Path,
        help="Keras file of a denoiser to compare with, which is trained if it is not there",
    )
    add(
        "--seeds",
        type=between(int, 1, 1000),
        default=5,
        metavar="N",
        help="how often bodies are planted in each split (default: %(default)s)",
    )
    add("--limits", action="store_true", help="compare limits of healing on validation slices")
    add("--json", metavar="FILE", type=pathlib.Path, help="write all figures here")
    add(
        "--figure",
        metavar="FILE",
        type=pathlib.Path,
        help="draw an obvious lesion of each kind here, a PNG",
    )
    args = parser.parse_args(arguments)
    if args.limits and (args.denoiser or args.figure):
        parser.error(
            "argument --limits: healing alone is compared, so leave out --denoiser/--figure"
        )
    return args


def main(args):
    """Plant and map lesions, report how well each method shows them, and draw some."""
    slices = open_slices(find_slices(args.data))
    runs = [RunDirectory(path) for path in (args.run, *args.ensemble)]
    models = [load_models(run) for run in runs]
    data = {"name": slices.name, "fingerprint": slices.fingerprint, "seeds": args.seeds}
    if args.limits:
        report = compare_limits(slices, models, args.seeds)
    else:
        denoiser = load_denoiser(args.denoiser, runs[0], slices) if args.denoiser else None
        report = compare_methods(slices, models, denoiser, args.seeds)
    show(report)
    if args.json:
        recorded.write(args.json, {"data": data, **report})
    if args.figure:
        images, split = read_split(slices, "test", models)
        draw_examples(args.figure, slices.name, models, images, split)


def read_split(slices, name, models):
    """Images of a split, `(N, S, S)` in [0, 1] at the size of the models, and the split."""
    split, size = slices.splits[name], models[0].vqvae.settings["image_size"]
    return to_unit(load_images(split, size)), split


def compare_methods(slices, models, denoiser, seeds):
    """Choose each method on validation slices and measure it on test slices."""
    training, size = slices.splits["train"], models[0].vqvae.settings["image_size"]
    statistics = LevelStatistics(load_images(training, size), training.levels)
    mapped = functools.partial(map_slices, models, statistics, denoiser)
    validation, test = (
        gather(*read_split(slices, name, models), range(seeds), mapped) for name in SPLITS
    )
    report = {}
    for method, variants in validation.items():
        ranked = rank(variants)
        report[method] = report_method(test[method][ranked[0].variant], ranked)
    return report


def compare_limits(slices, models, seeds):
    """Measure healing with several limits on validation slices; the best AUROC plus Dice first."""
    chosen = range(FIRST_SEED, FIRST_SEED + seeds)
    mapped = functools.partial(map_with_limits, models)
    variants = gather(*read_split(slices, "validate", models), chosen, mapped)["healing"]
    return {
        choice.variant: report_method(variants[choice.variant], [choice])
        for choice in rank(variants)
    }


def gather(images, split, seeds, mapped):
    """Map a split without bodies and with those of each seed: `Evidence` by method and variant.

    Args:
        images: `(N, S, S)` in [0, 1].
        split: The slices of these images.
        seeds: Seeds of the bodies.
        mapped: Function of images, split and a seed of draws. It yields a method, a variant and
            maps.
    """
    parts = collections.defaultdict(list)  # by method and variant: control, then one part a seed
    truths = [Planted(images, np.zeros(images.shape, bool), *np.full((2, len(split)), ""))]
    for number in range(1 + len(seeds)):
        if number:
            truths.append(plant_split(images, split, seeds[number - 1]))
        truth = truths[-1]
        print(f"{split.name}: " + (f"bodies {number} of {len(seeds)}" if number else "control"))
        for *key, maps in mapped(truth.images, split, number):
            judged = accuracy.judge(maps, truth.masks, truth.images > 0, split)
            parts[tuple(key)].append(judged)
        truths[-1] = dataclasses.replace(truth, images=None, masks=None)  # they take much memory
    kinds, strengths = (
        np.concatenate([getattr(truth, name) for truth in truths[1:]])
        for name in ("kinds", "strengths")
    )
    evidence = collections.defaultdict(dict)
    for (method, variant), (control, *planted) in parts.items():
        joined = accuracy.join(planted)
        evidence[method][variant] = Evidence(joined, control, strengths, kinds, split)
    return dict(evidence)


# ---- tables and figures ------------------------------------------------------------------------


def show(report):
    """Print for each method a line for all bodies, each strength, and each kind and size of it."""
    for method, own in report.items():
        above = 100 * own["control"]["brain_above_threshold"]
        print(f"{method} ({own['variant']}): {above:.2f} % of the control's brain is above")
        print(f"  {'':<32}{'AUROC':>22}{'AP':>22}{'Dice':>22}")
        show_row("all", own)
        groups = own["by_kind"] | own["by_size"]
        for strength, group in itertools.product(STRENGTHS, (None, *groups)):
            rows = groups[group] if group else own["by_strength"]
            if strength in rows:
                show_row(f"{strength} {group.replace('_', ' ') if group else ''}", rows[strength])
        for strength, row in {"all": own["by_case"], **own["by_case"]["by_strength"]}.items():
            print(f"  {f'by case, {strength}':<32}{_cell(row, 'auroc'):>22}")


def show_row(name, row):
    """Print one line of figures."""
    cells = [_cell(row, figure) for figure in ("auroc", "average_precision", "dice")]
    print(f"  {name:<32}" + "".join(f"{cell:>22}" for cell in cells))


def _cell(row, name):
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.3f} ({low:.3f}-{high:.3f})"


def draw_examples(path, name, models, images, split):
    """Draw the middle slice of an obvious body of each kind."""
    shown = {}
    for seed in itertools.count():
        planted = plant_split(images, split, seed)
        for case in np.unique(split.cases):
            stack = np.flatnonzero(split.cases == case)
            kind, strength = planted.kinds[stack[0]], planted.strengths[stack[0]]
            if strength == "obvious" and kind not in shown:
                middle = planted.masks[stack].sum((1, 2)).argmax()
                found = analyse(models, planted.images[stack], split.pick(stack))
                maps = [found["maps"][method][middle] for method in METHODS]
                place = stack[middle]
                shown[kind] = (
                    planted.images[place], found["healed"][middle], planted.masks[place], *maps,
                )  # fmt: skip
        if len(shown) == len(KINDS):
            break
    originals, healed, masks, *maps = map(np.stack, zip(*(shown[kind] for kind in KINDS)))
    plots.anomalies(
        path,
        originals,
        healed,
        dict(zip(METHODS, maps)),
        [kind.replace("_", " ") for kind in KINDS],
        f"{name}, test split: obvious bodies planted in stacks, their largest slices, outlined, "
        "and the maps of two methods.",
        masks,
    )


if __name__ == "__main__":
    command_line(main, parse())
