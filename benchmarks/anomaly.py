"""Measure how well the anomaly maps show lesions whose place is known.

python benchmarks/anomaly.py --run DIR --data DIR [--ensemble DIR] [--json FILE] [--figure FILE]

It plants lesions in test slices, and maps them by healing and by plain reconstruction error. Each
slice gets one lesion, or none: slices without a lesion are the control.

The threshold of a method is the one with the best mean Dice over lesions planted in validation
slices. The test slices only report. AUROC compares the scores of slices with those of the control.
Average precision is taken over the brain pixels of all slices of a kind together.
"""

import dataclasses
import itertools
import pathlib

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
from planting.lesions import KINDS, STRENGTHS
from planting.lesions import plant as plant_lesion
from sklearn.metrics import average_precision_score, roc_auc_score

from dataset import load_images
from fitting.checkpoints import load_ensemble
from fitting.run_directory import RunDirectory
from measures.healing import METHODS, analyse
from measures.images import to_unit
from reports import plots
from sources.folder import find_slices, open_slices
from utils import InputError, Parser, between, command_line, progress, write_json

CANDIDATES = np.linspace(0.8, 0.9995, 80)  # quantiles of map values that are tried as thresholds


@dataclasses.dataclass(frozen=True)
class Planted:
    """Slices with lesions, and slices that were left for the control.

    Attributes:
        images: Slices with a lesion each, float32 `(N, S, S)` in [0, 1].
        masks: Their lesions, bool `(N, S, S)`.
        index: Index of each slice in its split, `(N,)`.
        kinds: Kind of each lesion, `(N,)`.
        strengths: Strength of each lesion, `(N,)`.
        control: Indices of the slices without a lesion.
    """

    images: np.ndarray
    masks: np.ndarray
    index: np.ndarray
    kinds: np.ndarray
    strengths: np.ndarray
    control: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """What one method says about planted slices, beside the truth.

    Attributes:
        maps: Anomaly maps `(N, S, S)`.
        scores: Score of each slice, `(N,)`.
        control_scores: Scores of the control.
        masks: True lesions, bool `(N, S, S)`.
        brain: Pixels of the brain, bool `(N, S, S)`.
        threshold: Map value above which a pixel counts as lesion.
    """

    maps: np.ndarray
    scores: np.ndarray
    control_scores: np.ndarray
    masks: np.ndarray
    brain: np.ndarray
    threshold: float

    @classmethod
    def of(cls, method: str, mapped: dict, control: dict, planted: Planted, threshold: float):
        """Gather what `analyse` says by one method about planted slices and about the control."""
        return cls(
            maps=mapped["maps"][method],
            scores=mapped["scores"][method],
            control_scores=control["scores"][method],
            masks=planted.masks,
            brain=planted.images > 0,
            threshold=threshold,
        )


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--run",
        metavar="DIR",
        type=pathlib.Path,
        required=True,
        help="run directory of train.py",
    )
    add(
        "--ensemble",
        metavar="DIR",
        type=pathlib.Path,
        action="append",
        default=[],
        help="another run, as for predict.py; may be given again",
    )
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add(
        "--each",
        type=between(int, 1, 10**4),
        default=20,
        metavar="N",
        help="lesions of each kind and strength in a split (default: %(default)s)",
    )
    add(
        "--seed",
        type=between(int, 0, 2**31 - 1),
        default=0,
        metavar="N",
        help="seed of lesions and healing (default: %(default)s)",
    )
    add("--json", metavar="FILE", type=pathlib.Path, help="write all figures here")
    add(
        "--figure",
        metavar="FILE",
        type=pathlib.Path,
        help="draw an obvious lesion of each kind here, a PNG",
    )
    return parser.parse_args(arguments)


def main(args):
    """Plant and map lesions, report how well each method shows them, and draw some."""
    slices = open_slices(find_slices(args.data))
    splits = {name: slices.splits[name] for name in ("validate", "test")}
    runs = [RunDirectory(path) for path in (args.run, *args.ensemble)]
    models = load_ensemble(runs, splits.values())
    size = models[0][0].settings["image_size"]
    images, planted, mapped = {}, {}, {}
    for name, split in splits.items():
        images[name] = to_unit(load_images(split, size))
        planted[name] = plant(images[name], args.each, args.seed)
        chosen = split.pick(planted[name].index)
        mapped[name] = analyse(models, planted[name].images, chosen, args.seed)
    healthy = planted["test"].control[: len(KINDS) * args.each]
    chosen = splits["test"].pick(healthy)
    control = analyse(models, images["test"][healthy], chosen, args.seed)

    report = {"control": {}}
    for method in METHODS:
        masks = planted["validate"].masks
        threshold = best_threshold(mapped["validate"]["maps"][method], masks)
        result = Result.of(method, mapped["test"], control, planted["test"], threshold)
        report[method] = report_method(result, planted["test"])
        brain = images["test"][healthy] > 0
        report["control"][method] = report_control(control, method, brain, threshold)
    report["data"] = {
        "name": slices.name,
        "fingerprint": slices.fingerprint,
        "planted": len(planted["test"].images),
        "seed": args.seed,
    }
    show(report)
    if args.json:
        write_json(args.json, report)
    if args.figure:
        draw_examples(args.figure, slices.name, planted["test"], mapped["test"])


def plant(images: np.ndarray, each: int, seed: int) -> Planted:
    """Plant lesions of every kind and strength, one in a slice. The slices are drawn at random.

    Args:
        images: Slices `(N, S, S)` in [0, 1], more than there are lesions.
        each: Number of lesions of each kind and strength.
        seed: Seed of the slices and of the lesions.

    Raises:
        InputError: There are too few slices.
    """
    rng = np.random.default_rng(seed)
    pairs = itertools.product(KINDS, STRENGTHS)
    wanted = [pair for pair in pairs for _ in range(each)]
    order = rng.permutation(len(images))
    if len(order) <= len(wanted):
        raise InputError(
            f"--each asks for {len(wanted)} slices and some for the control, "
            f"and a split has {len(order)}: ask for fewer."
        )
    planted = [
        plant_lesion(images[index], kind, strength, rng)
        for index, (kind, strength) in zip(order, progress(wanted, "planting", unit="lesion"))
    ]
    return Planted(
        images=np.stack([image for image, _ in planted]),
        masks=np.stack([mask for _, mask in planted]),
        index=order[: len(wanted)],
        kinds=np.array([kind for kind, _ in wanted]),
        strengths=np.array([strength for _, strength in wanted]),
        control=order[len(wanted) :],
    )


def dice(maps: np.ndarray, masks: np.ndarray, threshold: float) -> np.ndarray:
    """Return the overlap of each map above a threshold with its mask, `(N,)` in [0, 1]."""
    above = maps > threshold
    return 2 * (above & masks).sum((1, 2)) / (above.sum((1, 2)) + masks.sum((1, 2)))


def best_threshold(maps: np.ndarray, masks: np.ndarray) -> float:
    """Return the threshold with the best mean Dice."""
    candidates = np.quantile(maps[maps > 0], CANDIDATES)
    scores = [
        dice(maps, masks, threshold).mean()
        for threshold in progress(candidates, "thresholds", unit="threshold")
    ]
    return float(candidates[np.argmax(scores)])


def figures(result: Result, chosen: np.ndarray) -> dict:
    """Measure a method on some of the planted slices.

    Args:
        result: What the method says.
        chosen: Which slices count, bool `(N,)`.

    Returns:
        `auroc`, `average_precision`, `dice` and the number of `slices`.
    """
    truth = np.repeat([0, 1], [len(result.control_scores), chosen.sum()])
    scores = np.concatenate([result.control_scores, result.scores[chosen]])
    maps, masks, brain = result.maps[chosen], result.masks[chosen], result.brain[chosen]
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "average_precision": float(average_precision_score(masks[brain], maps[brain])),
        "dice": float(dice(maps, masks, result.threshold).mean()),
        "slices": int(chosen.sum()),
    }


def report_method(result, planted):
    """Measure a method on all planted slices, by strength, and by kind and strength."""
    with_strength = {name: planted.strengths == name for name in STRENGTHS}
    by_kind = {}
    for kind in KINDS:
        of_kind = planted.kinds == kind
        by_kind[kind] = figures(result, of_kind)
        for strength, chosen in with_strength.items():
            by_kind[kind][strength] = figures(result, of_kind & chosen)
    return {
        **figures(result, np.ones(len(result.maps), bool)),
        "threshold": result.threshold,
        "by_strength": {name: figures(result, chosen) for name, chosen in with_strength.items()},
        "by_kind": by_kind,
    }


def report_control(control, method, brain, threshold):
    """Measure what a method says about slices without a lesion."""
    scores, maps = control["scores"][method], control["maps"][method]
    return {
        "slices": len(scores),
        "score_mean": float(scores.mean()),
        "score_p95": float(np.percentile(scores, 95)),
        "brain_above_threshold": float((maps > threshold).sum() / brain.sum()),
    }


def show(report):
    """Print a line for all lesions, for each strength, and for each kind and strength."""
    print(f"  {'':<32}" + "".join(f"{method:>28}" for method in METHODS))
    print(f"  {'':<32}" + f"{'AUROC':>10}{'AP':>9}{'Dice':>9}" * len(METHODS))
    show_row("all", [report[method] for method in METHODS])
    for strength in STRENGTHS:
        show_row(strength, [report[method]["by_strength"][strength] for method in METHODS])
    for kind, strength in itertools.product(KINDS, STRENGTHS):
        rows = [report[method]["by_kind"][kind][strength] for method in METHODS]
        show_row(f"{kind}, {strength}", rows)


def show_row(name, rows):
    """Print one line with the figures of all methods."""
    cells = [
        f"{row['auroc']:>10.3f}{row['average_precision']:>9.3f}{row['dice']:>9.3f}" for row in rows
    ]
    print(f"  {name:<32}" + "".join(cells))


def draw_examples(path, name, planted, mapped):
    """Draw the first obvious lesion of each kind."""
    obvious = planted.strengths == "obvious"
    shown = [int(np.flatnonzero((planted.kinds == kind) & obvious)[0]) for kind in KINDS]
    plots.anomalies(
        path,
        planted.images[shown],
        mapped["healed"][shown],
        {method: mapped["maps"][method][shown] for method in METHODS},
        [kind.replace("_", " ") for kind in KINDS],
        f"{name}, test split: obvious lesions planted in slices, outlined, "
        "and the maps of two methods.",
        planted.masks[shown],
    )


if __name__ == "__main__":
    command_line(main, parse())
