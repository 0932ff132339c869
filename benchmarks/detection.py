"""Judge maps against lesions whose place is known, with intervals over subjects.

What a map says of a slice is kept as scores, and as histograms of its values inside and outside the
lesion. All figures follow from these. Their intervals are 95 % bootstraps over subjects, because
slices of a person are alike.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from evaluation.anomalies import scores_in_case
from sources.folder import Split

SHARES = (0.003, 0.01, 0.03)  # of the image's pixels, whose mean can be the score of a slice
EDGES = np.geomspace(1e-5, 1e3, 1000)  # of the histograms; neighbours differ by 2 %
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a method says of some slices.

    Attributes:
        scores: Scores of the slices, one row for each way to score, `(W, N)`.
        case_scores: Scores of the cases, `(W, C)`.
        inside: Brain pixels of each slice in the lesion by map value, `(N, len(EDGES) + 1)`.
        outside: The other brain pixels, of the same shape.
    """

    scores: np.ndarray
    case_scores: np.ndarray
    inside: np.ndarray
    outside: np.ndarray

    def pick(self, slices: np.ndarray, cases: np.ndarray) -> "Judged":
        """What it says of some slices and of some cases, bool `(N,)` and `(C,)`."""
        scores, case_scores = self.scores[:, slices], self.case_scores[:, cases]
        return Judged(scores, case_scores, self.inside[slices], self.outside[slices])


def judge(maps: np.ndarray, masks: np.ndarray, brain: np.ndarray, split: Split) -> Judged:
    """Summarise the maps of a split.

    A slice is scored by its highest pixels, alone or relative to its case.

    Args:
        maps: `(N, S, S)`, 0 or more.
        masks: Lesions, bool `(N, S, S)`.
        brain: Pixels of the brain, bool `(N, S, S)`.
        split: The slices.
    """
    counts = [max(1, round(share * maps[0].size)) for share in SHARES]
    highest = np.partition(maps.reshape(len(maps), -1), [-count for count in counts], axis=1)
    alone = np.stack([highest[:, -count:].mean(1) for count in counts])
    in_case = np.stack([scores_in_case(scores, split.cases) for scores in alone])
    scores = np.concatenate([alone, np.nan_to_num(in_case, nan=1.0)])
    cases = np.unique(split.cases)
    case_scores = np.stack([scores[:, split.cases == case].max(1) for case in cases], axis=1)
    inside = np.stack([_histogram(*row) for row in zip(maps, masks & brain)])
    outside = np.stack([_histogram(*row) for row in zip(maps, ~masks & brain)])
    return Judged(scores, case_scores, inside, outside)


def join(parts: Sequence[Judged]) -> Judged:
    """What was said of several sets of slices, as one set."""
    fields = dataclasses.fields(Judged)
    columns = [[getattr(part, field.name) for part in parts] for field in fields]
    scores, case_scores, inside, outside = columns
    return Judged(
        np.concatenate(scores, axis=1),
        np.concatenate(case_scores, axis=1),
        np.concatenate(inside),
        np.concatenate(outside),
    )


def _histogram(values, chosen):
    bins = np.searchsorted(EDGES, values[chosen])
    return np.bincount(bins, minlength=len(EDGES) + 1).astype("uint16")


# ---- figures -----------------------------------------------------------------------------------


def draws(subjects: int, seed: int = 0) -> np.ndarray:
    """How often each subject counts: once in the first row, then resampled, `(1 + R, subjects)`."""
    rng = np.random.default_rng(seed)
    resampled = rng.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES)
    return np.concatenate([np.ones((1, subjects), int), resampled])


def with_interval(name: str, values: np.ndarray) -> dict[str, float | list[float]]:
    """A figure and its interval, from its values at `draws`; NaN where a draw has no such slice."""
    low, high = np.nanpercentile(values[1:], INTERVAL)
    return {name: float(values[0]), f"{name}_ci95": [float(low), float(high)]}


def auroc(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_subjects: np.ndarray,
    negative_subjects: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Chance that a score with a lesion is above one without, for each row of weights.

    Args:
        positive: Scores with a lesion, `(P,)`.
        negative: Scores without, `(Q,)`.
        positive_subjects: Number of the subject of each, `(P,)`.
        negative_subjects: Number of the subject of each, `(Q,)`.
        weights: How often each subject counts, from `draws`.
    """
    size = weights.shape[1]
    wins = np.zeros((size, size))  # by subject with a lesion, and subject without
    for subject in range(size):
        own = np.sort(negative[negative_subjects == subject])
        above = np.searchsorted(own, positive, "left") + np.searchsorted(own, positive, "right")
        wins[:, subject] = np.bincount(positive_subjects, above / 2, size)
    of_positive = np.bincount(positive_subjects, minlength=size)
    of_negative = np.bincount(negative_subjects, minlength=size)
    with np.errstate(invalid="ignore"):
        pairs = (weights @ of_positive) * (weights @ of_negative)
        return np.einsum("rp,pq,rq->r", weights, wins, weights) / pairs


def average_precision(inside: np.ndarray, outside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision over pixels, for each row of weights.

    Args:
        inside: Pixels in lesions by map value and subject, `(subjects, bins)`.
        outside: Other brain pixels, of lesion slices and of controls, of the same shape.
        weights: How often each subject counts, from `draws`.
    """
    found = np.cumsum((weights @ inside)[:, ::-1], axis=1)
    wrong = np.cumsum((weights @ outside)[:, ::-1], axis=1)
    with np.errstate(invalid="ignore"):
        precision = found / np.maximum(found + wrong, 1)
        recall = found / found[:, -1:]
    return (precision * np.diff(recall, axis=1, prepend=0)).sum(1)


def dice(judged: Judged) -> np.ndarray:
    """Dice of each slice with the threshold at each of `EDGES`, `(N, len(EDGES))`."""
    found = judged.inside[:, :0:-1].cumsum(1, dtype="int64")[:, ::-1]
    wrong = judged.outside[:, :0:-1].cumsum(1, dtype="int64")[:, ::-1]
    lesion = judged.inside.sum(1, dtype="int64")[:, None]
    return 2 * found / np.maximum(found + wrong + lesion, 1)


def weighted_mean(values: np.ndarray, subjects: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values `(N,)` with their subjects weighed, for each row of weights."""
    size = weights.shape[1]
    sums, counts = np.bincount(subjects, values, size), np.bincount(subjects, minlength=size)
    with np.errstate(invalid="ignore"):
        return (weights @ sums) / (weights @ counts)


def by_subject(histograms: np.ndarray, subjects: np.ndarray, size: int) -> np.ndarray:
    """Histograms `(N, bins)` summed by subject: `(size, bins)`."""
    total = np.zeros((size, histograms.shape[1]))
    np.add.at(total, subjects, histograms)
    return total
