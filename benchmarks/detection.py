"""Compare maps with lesions whose place is known: AUROC, average precision and Dice, over subjects.

What a map says of a slice is kept as scores, and as histograms of its values inside and outside the
lesion. All figures follow from these. Their intervals are 95 % bootstraps over subjects, because
slices of a person are alike. AUROC and average precision compare slices of one subject with those
of others, so a subject is drawn for both sides at once.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from lesions import KINDS, STRENGTHS, Planted

from evaluation.anomalies import scores_in_case
from sources.folder import Split

SHARES = (0.003, 0.01, 0.03)  # of the image's pixels, whose mean can be the score of a slice
EDGES = np.geomspace(1e-5, 1e3, 1000)  # of the histograms; neighbours differ by 2 %
RESAMPLES = 1000
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
    """What the maps of a method say of N slices.

    Attributes:
        scores: Scores of the slices, one row for each way to score, `(N, W)`.
        inside: Brain pixels of each slice in the lesion by map value, `(N, len(EDGES) + 1)`.
        outside: The other brain pixels, of the same shape.
        subjects: Number of the subject of each slice, `(N,)`.
        kinds: Kind of the lesion of its case, `(N,)`; empty in the control.
        strengths: Strength of the lesion of its case, `(N,)`; empty in the control.
    """

    scores: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    subjects: np.ndarray
    kinds: np.ndarray
    strengths: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        """Lesion pixels of each slice, `(N,)`."""
        return self.inside.sum(1, dtype="int64")

    def pick(self, chosen: np.ndarray) -> "Evidence":
        """Evidence about some of the slices, bool `(N,)`."""
        return Evidence(*(values[chosen] for values in vars(self).values()))


def gather_evidence(maps: np.ndarray, planted: Planted, split: Split) -> Evidence:
    """Summarise the maps of a split.

    A slice is scored by its highest pixels, by themselves or relative to its case.

    Args:
        maps: `(N, S, S)`, 0 or more.
        planted: The slices with their lesions.
        split: The slices.
    """
    counts = [max(1, round(share * maps[0].size)) for share in SHARES]
    highest = np.partition(maps.reshape(len(maps), -1), [-count for count in counts], axis=1)
    absolute = [highest[:, -count:].mean(1) for count in counts]
    in_case = [scores_in_case(scores, split.cases) for scores in absolute]
    brain = planted.images > 0
    return Evidence(
        scores=np.nan_to_num(np.stack([*absolute, *in_case], axis=1), nan=1.0),
        inside=np.stack([_histogram(*row) for row in zip(maps, planted.masks & brain)]),
        outside=np.stack([_histogram(*row) for row in zip(maps, ~planted.masks & brain)]),
        subjects=np.unique(split.subjects, return_inverse=True)[1],
        kinds=planted.kinds,
        strengths=planted.strengths,
    )


def join(parts: Sequence[Evidence]) -> Evidence:
    """Join evidence about several sets of slices."""
    return Evidence(*map(np.concatenate, zip(*(vars(part).values() for part in parts))))


def _histogram(values, chosen):
    bins = np.searchsorted(EDGES, values[chosen])
    return np.bincount(bins, minlength=len(EDGES) + 1).astype("uint16")


@functools.cache
def draw_subjects(subjects: int) -> np.ndarray:
    """How often each subject counts: once in the first row, then resampled, `(1 + R, subjects)`."""
    rng = np.random.default_rng(0)
    resampled = rng.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES)
    return np.concatenate([np.ones((1, subjects), int), resampled])


def auroc(positive: Evidence, negative: Evidence, way: int, weights: np.ndarray) -> np.ndarray:
    """Chance that a score with a lesion is above one without, for each row of weights.

    Args:
        positive: Slices with a lesion.
        negative: Slices without.
        way: Number of the way to score.
        weights: How often each subject counts, from `draw_subjects`.
    """
    size, scores = weights.shape[1], positive.scores[:, way]
    wins = np.zeros((size, size))  # by subject with a lesion, and subject without
    for subject in range(size):
        others = np.sort(negative.scores[negative.subjects == subject, way])
        above = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
        wins[:, subject] = np.bincount(positive.subjects, above / 2, size)
    counts = [np.bincount(side.subjects, minlength=size) for side in (positive, negative)]
    with np.errstate(invalid="ignore"):
        pairs = (weights @ counts[0]) * (weights @ counts[1])
        return np.einsum("rp,pq,rq->r", weights, wins, weights) / pairs


def average_precision(positive: Evidence, negative: Evidence, weights: np.ndarray) -> np.ndarray:
    """Average precision over the brain pixels of all slices, for each row of weights."""
    size = weights.shape[1]
    inside = _sum_by_subject(positive.inside, positive.subjects, size)
    outside = _sum_by_subject(positive.outside, positive.subjects, size)
    outside += _sum_by_subject(negative.outside, negative.subjects, size)
    found = np.cumsum((weights @ inside)[:, ::-1], axis=1)
    wrong = np.cumsum((weights @ outside)[:, ::-1], axis=1)
    with np.errstate(invalid="ignore"):
        precision = found / np.maximum(found + wrong, 1)
        recall = found / found[:, -1:]
    return (precision * np.diff(recall, axis=1, prepend=0)).sum(1)


def _sum_by_subject(values, subjects, size):
    total = np.zeros((size, *values.shape[1:]))
    np.add.at(total, subjects, values)
    return total


def dice(evidence: Evidence) -> np.ndarray:
    """Dice of each slice with the threshold at each of `EDGES`, `(N, len(EDGES))`."""
    found = evidence.inside[:, :0:-1].cumsum(1, dtype="int64")[:, ::-1]
    wrong = evidence.outside[:, :0:-1].cumsum(1, dtype="int64")[:, ::-1]
    return 2 * found / np.maximum(found + wrong + evidence.areas[:, None], 1)


def mean_of_subjects(values: np.ndarray, subjects: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values `(N,)`, for each row of weights of their subjects."""
    sums = _sum_by_subject(values, subjects, weights.shape[1])
    counts = np.bincount(subjects, minlength=weights.shape[1])
    with np.errstate(invalid="ignore"):
        return (weights @ sums) / (weights @ counts)


def with_interval(name: str, values: np.ndarray) -> dict[str, float | list[float]]:
    """A figure and its 95 % interval; NaN where a draw of subjects has no such slice."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return {name: float(values[0]), f"{name}_ci95": [float(low), float(high)]}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a variant of a method does best on validation slices.

    Attributes:
        variant: Name of the variant.
        auroc: Its AUROC of slices.
        dice: Its Dice.
        way: Way to score slices.
        threshold: Number of the threshold in `EDGES`.
    """

    variant: str
    auroc: float
    dice: float
    way: int
    threshold: int


def choose(variant: str, planted: Evidence, control: Evidence) -> Choice:
    """Choose how slices are scored, by AUROC, and the threshold, by Dice."""
    lesions = planted.pick(planted.areas > 0)
    overlap, once = dice(lesions).mean(0), draw_subjects(1 + control.subjects.max())[:1]
    ways = range(control.scores.shape[1])
    aurocs = [float(auroc(lesions, control, way, once)[0]) for way in ways]
    best = int(np.argmax(aurocs))
    return Choice(variant, aurocs[best], float(overlap.max()), best, int(overlap.argmax()))


def report_method(planted: Evidence, control: Evidence, choice: Choice) -> dict:
    """Measure a method on all planted slices, by strength, kind and size, and on the control.

    Args:
        planted: What it says of slices of planted stacks.
        control: What it says of the same slices without lesions.
        choice: What was chosen on validation slices.
    """
    has_lesion = planted.areas > 0
    lesions, beside = planted.pick(has_lesion), planted.pick(~has_lesion)
    weights = draw_subjects(1 + control.subjects.max())

    def measure(chosen):
        some = lesions.pick(chosen)
        overlap = dice(some)[:, choice.threshold]
        return {
            "slices": len(some.kinds),
            **with_interval("auroc", auroc(some, control, choice.way, weights)),
            **with_interval("average_precision", average_precision(some, control, weights)),
            **with_interval("dice", mean_of_subjects(overlap, some.subjects, weights)),
        }

    def by_strength(chosen):
        groups = {name: chosen & (lesions.strengths == name) for name in STRENGTHS}
        return {name: measure(group) for name, group in groups.items() if group.any()}

    every, areas = np.ones(len(lesions.kinds), bool), lesions.areas
    groups = {
        "by_kind": {kind: lesions.kinds == kind for kind in KINDS},
        "by_size": {name: (low <= areas) & (areas < high) for name, (low, high) in SIZES.items()},
    }
    return {
        **measure(every),
        "variant": choice.variant,
        "threshold": float(EDGES[choice.threshold]),
        "by_strength": by_strength(every),
        **{
            name: {group: by_strength(chosen) for group, chosen in chosen_by.items()}
            for name, chosen_by in groups.items()
        },
        "control": report_without(control, choice),
        "beside": {
            **with_interval("auroc", auroc(lesions, beside, choice.way, weights)),
            **report_without(beside, choice),
        },
    }


def report_without(evidence: Evidence, choice: Choice) -> dict:
    """Measure what a method says about slices without a lesion."""
    above = evidence.outside[:, choice.threshold + 1 :].sum()
    return {
        "slices": len(evidence.kinds),
        "brain_above_threshold": float(above / evidence.outside.sum(dtype="int64")),
    }
