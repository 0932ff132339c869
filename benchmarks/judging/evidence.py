"""What methods say of planted lesions, which variants are best, and their figures."""

import dataclasses
import itertools

import numpy as np
from planting.lesions import KINDS, STRENGTHS

from judging import accuracy
from judging.accuracy import EDGES, Judged
from sources.folder import Split

# Lesion pixels of a slice: at least the first number, and fewer than the second. A code of
# `oasis-256` is 64 pixels.
SIZES = {
    "below_64": (1, 64),
    "64_to_255": (64, 256),
    "256_to_1023": (256, 1024),
    "1024_or_more": (1024, np.inf),
}


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


def slice_auroc(evidence, chosen, way, subjects, planted=True):
    """AUROC of some planted slices, bool `(N,)`, for each row of weights.

    Without `planted` it is that of the same slices before bodies were planted. If it is not 0.5,
    these people or levels have unusual scores by themselves.
    """
    seeds = len(chosen) // len(subjects.slices)
    without = evidence.control.scores[way]
    scores = evidence.planted.scores[way] if planted else np.tile(without, seeds)
    own = np.tile(subjects.slices, seeds)[chosen]
    return accuracy.auroc(scores[chosen], without, own, subjects.slices, subjects.weights)


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
        `auroc`, `average_precision`, `dice`, an interval for each, the numbers of `slices` and
        `bodies`, and `auroc_without_bodies`, see `slice_auroc`.
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
    without = slice_auroc(evidence, chosen, choice.way, subjects, planted=False)
    cases = np.tile(evidence.split.cases, len(chosen) // len(evidence.split))
    seeds = np.arange(len(chosen)) // len(evidence.split)
    report = {
        "slices": int(chosen.sum()),
        "bodies": len(set(zip(seeds[chosen].tolist(), cases[chosen].tolist()))),
        "auroc_without_bodies": float(without[0]),
    }
    for name, by_draw in values.items():
        report |= accuracy.with_interval(name, by_draw)
    return report


def report_method(evidence: Evidence, ranked: list[Choice]) -> dict:
    """Measure a method on all planted slices, by strength, kind, size and case, and on the control.

    Args:
        evidence: What its best variant says.
        ranked: What `rank` returned for its variants.
    """
    choice = ranked[0]
    subjects = Subjects.of(evidence.split)
    groups = {"all": np.ones(len(evidence.kinds), bool)}
    groups |= {strength: evidence.strengths == strength for strength in STRENGTHS}

    def by_strength(some):
        measured = {
            name: figures(evidence, choice, chosen & some, subjects)
            for name, chosen in groups.items()
            if (chosen & some & evidence.lesions).any()
        }
        return {**measured.pop("all", {}), **measured}

    areas = evidence.planted.inside.sum(1, dtype="int64")
    by_size = {name: (low <= areas) & (areas < high) for name, (low, high) in SIZES.items()}
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
        "by_kind": {kind: by_strength(evidence.kinds == kind) for kind in KINDS},
        "by_size": {name: by_strength(chosen) for name, chosen in by_size.items()},
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
