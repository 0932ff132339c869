"""Measure how well maps of what is unusual show lesions whose place is known.

python benchmarks/anomaly.py --run DIR --data DIR [--ensemble DIR] [--denoiser FILE]
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
"""

import collections
import dataclasses
import itertools
import pathlib

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
from contenders import recorded
from judging import accuracy
from judging.accuracy import EDGES, Judged
from judging.denoiser import load_denoiser
from judging.methods import LevelStatistics, map_slices
from planting.cohort import Planted, plant_split
from planting.lesions import KINDS, STRENGTHS

from dataset import load_images
from fitting.checkpoints import load_ensemble
from fitting.run_directory import RunDirectory
from measures.healing import METHODS, analyse
from measures.images import to_unit
from reports import plots
from sources.folder import Split, find_slices, open_slices
from utils import Parser, between, command_line

SPLITS = ("validate", "test")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one variant of a method says of a split with bodies, and without.

    All seeds are joined, so `N` slices and `C` cases come once a seed.

    Attributes:
        planted: What it says of slices of planted stacks.
        control: What it says of the same slices without bodies, once.
        strengths: Strength of the body of each planted slice's case, `(N,)`.
        kinds: Kind of it, `(N,)`.
        split: The slices without bodies.
    """

    planted: Judged
    control: Judged
    strengths: np.ndarray
    kinds: np.ndarray
    split: Split

    @property
    def lesions(self) -> np.ndarray:
        """Which planted slices show a lesion, bool `(N,)`."""
        return self.planted.inside.any(1)

    def cases(self, values: np.ndarray) -> np.ndarray:
        """One of the values `(N,)` for each planted case, `(C,)`."""
        firsts = np.unique(self.split.cases, return_index=True)[1]
        return values.reshape(-1, len(self.split))[:, firsts].ravel()


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a variant of a method does best on validation slices.

    Attributes:
        variant: Name of the variant.
        auroc: Its AUROC of slices.
        dice: Its Dice.
        way: Row of `Judged.scores` that scores slices.
        case_way: Row of `Judged.case_scores` that scores cases.
        threshold: Number of the threshold in `EDGES`.
    """

    variant: str
    auroc: float
    dice: float
    way: int
    case_way: int
    threshold: int


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
    add("--json", metavar="FILE", type=pathlib.Path, help="write all figures here")
    add(
        "--figure",
        metavar="FILE",
        type=pathlib.Path,
        help="draw an obvious lesion of each kind here, a PNG",
    )
    return parser.parse_args(arguments)  # fmt: skip


def main(args):
    """Plant and map lesions, report how well each method shows them, and draw some."""
    slices = open_slices(find_slices(args.data))
    runs = [RunDirectory(path) for path in (args.run, *args.ensemble)]
    models = load_ensemble(runs, [slices.splits[name] for name in SPLITS])
    denoiser = load_denoiser(args.denoiser, runs[0], slices) if args.denoiser else None
    size = models[0][0].settings["image_size"]
    training = slices.splits["train"]
    statistics = LevelStatistics(load_images(training, size), training.levels)
    evidence = {}
    for name in SPLITS:
        split = slices.splits[name]
        images = to_unit(load_images(split, size))
        evidence[name] = gather(images, split, args.seeds, models, statistics, denoiser)
    report = {"data": {"name": slices.name, "fingerprint": slices.fingerprint, "seeds": args.seeds}}
    for method, variants in evidence["validate"].items():
        ranked = rank(variants)
        report[method] = report_method(evidence["test"][method][ranked[0].variant], ranked)
    show(report)
    if args.json:
        recorded.write(args.json, report)
    if args.figure:
        split = slices.splits["test"]
        draw_examples(args.figure, slices.name, models, to_unit(load_images(split, size)), split)


def gather(images, split, seeds, models, statistics, denoiser):
    """Map a split without bodies and with bodies of each seed: `Evidence` by method and variant."""
    parts = collections.defaultdict(list)  # by method and variant: control, then one part a seed
    truths = [Planted(images, np.zeros(images.shape, bool), *np.full((2, len(split)), ""))]
    for number in range(1 + seeds):
        if number:
            truths.append(plant_split(images, split, number - 1))
        truth = truths[-1]
        print(f"{split.name}: " + (f"bodies {number} of {seeds}" if number else "control"))
        for *key, maps in map_slices(models, statistics, denoiser, truth.images, split, number):
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


# ---- choices and figures -----------------------------------------------------------------------


def rank(variants: dict[str, Evidence]) -> list[Choice]:
    """Order variants by AUROC of slices plus Dice, the best first. Cases are scored by AUROC."""
    ranked = []
    for name, evidence in variants.items():
        subjects = Subjects.of(evidence.split, 1)
        overlap = accuracy.dice(evidence.planted)[evidence.lesions].mean(0)
        ways = range(len(evidence.planted.scores))
        slices = [slice_auroc(evidence, evidence.lesions, way, subjects)[0] for way in ways]
        every = np.ones(evidence.planted.case_scores.shape[1], bool)
        cases = [case_auroc(evidence, every, way, subjects)[0] for way in ways]
        best = int(np.argmax(slices)), int(np.argmax(cases)), int(overlap.argmax())
        ranked.append(Choice(name, float(max(slices)), float(overlap.max()), *best))
    return sorted(ranked, key=lambda choice: -(choice.auroc + choice.dice))


@dataclasses.dataclass(frozen=True)
class Subjects:
    """Whose the slices and cases of a split are, and how often each subject counts.

    Attributes:
        slices: Number of the subject of each slice, `(N,)`.
        cases: Number of the subject of each case, `(C,)`.
        weights: From `accuracy.draws`.
    """

    slices: np.ndarray
    cases: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, split: Split, rows: int | None = None):
        """Those of a split, with the first rows of the weights."""
        numbers = np.unique(split.subjects, return_inverse=True)[1]
        firsts = np.unique(split.cases, return_index=True)[1]
        return cls(numbers, numbers[firsts], accuracy.draws(numbers.max() + 1)[:rows])


def slice_auroc(evidence, chosen, way, subjects):
    """AUROC of some planted slices, bool `(N,)`, for each row of weights."""
    own = np.tile(subjects.slices, len(chosen) // len(subjects.slices))
    scores = evidence.planted.scores[way, chosen], evidence.control.scores[way]
    return accuracy.auroc(*scores, own[chosen], subjects.slices, subjects.weights)


def case_auroc(evidence, chosen, way, subjects):
    """AUROC of some planted cases, bool `(C,)`, for each row of weights."""
    own = np.tile(subjects.cases, len(chosen) // len(subjects.cases))
    scores = evidence.planted.case_scores[way, chosen], evidence.control.case_scores[way]
    return accuracy.auroc(*scores, own[chosen], subjects.cases, subjects.weights)


def figures(evidence: Evidence, choice: Choice, chosen: np.ndarray, subjects: Subjects) -> dict:
    """Measure a method on some of the planted slices.

    Args:
        evidence: What it says.
        choice: What was chosen on validation slices.
        chosen: Slices of some bodies, bool `(N,)`; those without a lesion do not count.
        subjects: Whose the slices are.

    Returns:
        `auroc`, `average_precision`, `dice`, an interval for each, and the number of `slices`.
    """
    chosen = chosen & evidence.lesions
    own = np.tile(subjects.slices, len(chosen) // len(subjects.slices))[chosen]
    planted, size = evidence.planted, subjects.weights.shape[1]
    inside = accuracy.by_subject(planted.inside[chosen], own, size)
    outside = accuracy.by_subject(planted.outside[chosen], own, size)
    outside += accuracy.by_subject(evidence.control.outside, subjects.slices, size)
    some = dataclasses.replace(planted, inside=planted.inside[chosen],
                               outside=planted.outside[chosen])  # fmt: skip
    overlap = accuracy.dice(some)[:, choice.threshold]
    values = {
        "auroc": slice_auroc(evidence, chosen, choice.way, subjects),
        "average_precision": accuracy.average_precision(inside, outside, subjects.weights),
        "dice": accuracy.weighted_mean(overlap, own, subjects.weights),
    }
    report = {"slices": int(chosen.sum())}
    for name, by_draw in values.items():
        report |= accuracy.with_interval(name, by_draw)
    return report


def report_method(evidence: Evidence, ranked: list[Choice]) -> dict:
    """Measure a method on all planted slices, by strength, by kind, by case, and on the control.

    Args:
        evidence: What its best variant says.
        ranked: What `rank` returned for its variants.
    """
    choice = ranked[0]
    subjects = Subjects.of(evidence.split)
    groups = {"all": np.ones(len(evidence.kinds), bool)}
    groups |= {strength: evidence.strengths == strength for strength in STRENGTHS}
    by_kind = {}
    for kind in KINDS:
        of_kind = {name: chosen & (evidence.kinds == kind) for name, chosen in groups.items()}
        measured = {
            name: figures(evidence, choice, chosen, subjects)
            for name, chosen in of_kind.items()
            if (chosen & evidence.lesions).any()
        }
        by_kind[kind] = {**measured.pop("all", {}), **measured}
    by_case = {}
    for name, chosen in groups.items():
        cases = evidence.cases(chosen)
        values = case_auroc(evidence, cases, choice.case_way, subjects)
        by_case[name] = {"cases": int(cases.sum()), **accuracy.with_interval("auroc", values)}
    return {
        **figures(evidence, choice, groups["all"], subjects),
        "variant": choice.variant,
        "validation": {own.variant: {"auroc": own.auroc, "dice": own.dice} for own in ranked},
        "threshold": float(EDGES[choice.threshold]),
        "by_strength": {
            name: figures(evidence, choice, groups[name], subjects) for name in STRENGTHS
        },
        "by_kind": by_kind,
        "by_case": {**by_case.pop("all"), "by_strength": by_case},
        "control": report_without(evidence.control, choice),
        "beside": report_beside(evidence, choice, subjects),
    }


def report_beside(evidence: Evidence, choice: Choice, subjects: Subjects) -> dict:
    """Measure what a method says about slices of planted stacks that the body does not reach."""
    lesions, scores = evidence.lesions, evidence.planted.scores[choice.way]
    own = np.tile(subjects.slices, len(lesions) // len(subjects.slices))
    sides = [(scores[chosen], own[chosen]) for chosen in (lesions, ~lesions)]
    values = accuracy.auroc(*itertools.chain(*zip(*sides)), subjects.weights)
    beside = evidence.planted.pick(~lesions, slice(None))
    return {**accuracy.with_interval("auroc", values), **report_without(beside, choice)}


def report_without(judged: Judged, choice: Choice) -> dict:
    """Measure what a method says about slices without a lesion."""
    scores, above = judged.scores[choice.way], judged.outside[:, choice.threshold + 1 :]
    return {
        "slices": len(scores),
        "score_mean": float(scores.mean()),
        "score_p95": float(np.percentile(scores, 95)),
        "brain_above_threshold": float(above.sum() / judged.outside.sum(dtype="int64")),
    }


# ---- tables and figures ------------------------------------------------------------------------


def show(report):
    """Print for each method a line for all bodies, each strength, and each kind when obvious."""
    for method, own in report.items():
        if method == "data":
            continue
        above = 100 * own["control"]["brain_above_threshold"]
        print(f"{method} ({own['variant']}): {above:.2f} % of the control's brain is above")
        print(f"  {'':<32}{'AUROC':>22}{'AP':>22}{'Dice':>22}")
        show_row("all", own)
        for strength, kind in itertools.product(STRENGTHS, (None, *KINDS)):
            rows = own["by_kind"][kind] if kind else own["by_strength"]
            if strength in rows:
                show_row(f"{strength} {kind.replace('_', ' ') if kind else ''}", rows[strength])
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
