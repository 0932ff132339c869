"""Attributes of whose slices a prior models: their values as numbers, and which go together.

A value is a number from 1 on: a word, a number that few people share, or a bin of numbers. 0 is
unknown. What one value says about another attribute is known from counts of the training people,
by pairs of attributes, so that no table of persons is kept.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils import clean_name

UNKNOWN = 0
MOST_VALUES = 8  # of an attribute; numbers of more values are cut into as many quantile bins
LEAST_PEOPLE = 5  # of a value
PRIOR_PEOPLE = 2.0  # added to each row of counts, spread as all people are


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One attribute and its V values.

    Attributes:
        name: Its name.
        labels: What each value is called, V of them.
        groups: Words or numbers that each value stands for, V tuples, or none for bins.
        edges: Least and largest number of each bin, `V + 1` rising numbers, or none for groups.
    """

    name: str
    labels: tuple[str, ...]
    groups: tuple[tuple[str | float, ...], ...] = ()
    edges: tuple[float, ...] = ()

    def number(self, value: str | float | None) -> int:
        """Number of a value, from 1 to V, or `UNKNOWN` where no training person has it.

        A number beyond all bins is in the nearest one.
        """
        if self.edges and not isinstance(value, str) and value is not None:
            return 1 + int(np.searchsorted(self.edges[1:-1], value, side="right"))
        found = (k for k, group in enumerate(self.groups, 1) if value in group)
        return next(found, UNKNOWN)


@dataclasses.dataclass(frozen=True)
class Attributes:
    """The attributes that a prior knows, and how many training people have which values.

    Attributes:
        each: The A attributes.
        counts: People by the values of attributes i and j, `(V_i, V_j)`, for all i and j as
            `counts[i][j]`. People of whom one is unknown are left out.

    Reference:
        Chow and Liu 1968, Approximating Discrete Probability Distributions with Dependence Trees.
    """

    each: tuple[Attribute, ...] = ()
    counts: tuple[tuple[np.ndarray, ...], ...] = ()

    def __len__(self):
        return len(self.each)

    @property
    def names(self) -> list[str]:
        """Name of each."""
        return [attribute.name for attribute in self.each]

    def numbers(self, values: Mapping[str, str | float]) -> np.ndarray:
        """Numbers of the values of one case by name, int32 `(A,)`."""
        found = [attribute.number(values.get(attribute.name)) for attribute in self.each]
        return np.array(found, "int32")

    def labels(self, numbers: Sequence[int] | None) -> dict[str, str]:
        """What the known ones of A values are called, by name. None is none known."""
        pairs = zip(self.each, () if numbers is None else numbers)
        return {some.name: some.labels[number - 1] for some, number in pairs if number != UNKNOWN}

    def complete(self, numbers: Sequence[int], seed: int) -> np.ndarray:
        """Draw what is unknown from the counts of the training people, given what is known.

        One after the other is drawn given that known attribute which says most about it. These
        pairs are a tree.

        Args:
            numbers: Number of each value, `(A,)`, 0 where it is drawn.
            seed: Seed of the draw.

        Returns:
            int32 `(A,)` without zeros.
        """
        numbers, generator = np.array(numbers, "int32"), np.random.default_rng(seed)
        information = np.array([[_information(table) for table in row] for row in self.counts])
        while (numbers == UNKNOWN).any():
            known, missing = np.flatnonzero(numbers), np.flatnonzero(numbers == UNKNOWN)
            if len(known):
                k, i = max(itertools.product(known, missing), key=lambda pair: information[pair])
                weights = _smoothed(self.counts[k][i])[numbers[k] - 1]
            else:
                i = missing[0]
                weights = np.diag(self.counts[i][i]) / self.counts[i][i].sum()
            numbers[i] = 1 + generator.choice(len(weights), p=weights)
        return numbers

    def as_json(self) -> list[dict[str, Any]]:
        """What a model file holds; see `from_json`."""
        return [
            {**dataclasses.asdict(attribute), "counts": [table.tolist() for table in tables]}
            for attribute, tables in zip(self.each, self.counts)
        ]

    @classmethod
    def from_json(cls, items: Sequence[dict[str, Any]]) -> "Attributes":
        """Inverse of `as_json`.

        Raises:
            ValueError: It is not what `as_json` gives.
        """
        each = tuple(_read(item) for item in items)
        counts = tuple(tuple(np.array(t, float) for t in item["counts"]) for item in items)
        sizes = [len(attribute.labels) for attribute in each]
        shapes = [[table.shape for table in tables] for tables in counts]
        if shapes != [[(a, b) for b in sizes] for a in sizes]:
            raise ValueError("`attributes` have counts of another shape")
        if not all(np.isfinite(t).all() and (t >= 0).all() for row in counts for t in row):
            raise ValueError("`attributes` have counts below 0")
        if len({attribute.name for attribute in each}) != len(each):
            raise ValueError("`attributes` have one name twice")
        return cls(each, counts)


def _read(item):
    groups = tuple(tuple(group) for group in item["groups"])
    edges, labels = tuple(map(float, item["edges"])), tuple(map(clean_name, item["labels"]))
    if len(labels) not in (len(groups), len(edges) - 1) or bool(groups) == bool(edges):
        raise ValueError("an attribute has values of more than one kind")
    if not all(map(math.isfinite, edges)) or list(edges) != sorted(edges):
        raise ValueError("the bins of an attribute do not rise")
    return Attribute(clean_name(item["name"]), labels, groups, edges)


def _smoothed(table):
    """Rows of counts as probabilities: a few people more, who are as all people are."""
    table = table + PRIOR_PEOPLE * (table.sum(0) + 1e-9) / (table.sum() + 1e-9 * table.shape[1])
    return table / table.sum(1, keepdims=True)


def _information(table):
    """Mutual information of the two attributes of a table of counts, in nats."""
    joint = table / max(table.sum(), 1)
    apart = np.outer(joint.sum(1), joint.sum(0))
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


def learn(
    table: Mapping[str, Mapping[int, str | float]], people: Mapping[int, str]
) -> tuple[Attributes, list[str]]:
    """Number the values of attributes as the training people have them, and count these.

    Numbers of at most `MOST_VALUES` values are groups of one value each, and others are cut into
    quantile bins. A number of fewer than `LEAST_PEOPLE` people joins its neighbour. Such a word is
    unknown.

    Args:
        table: Value of each case by the name of the attribute. Unknown ones are missing.
        people: Subject of each training case.

    Returns:
        The attributes, and a sentence about each value that has too few people.
    """
    each, notes = [], []
    for name, column in table.items():
        values = {person: column[case] for case, person in people.items() if case in column}
        attribute, found = _learn(name, list(values.values()))
        notes += found
        if len(attribute.labels) > 1:
            each.append(attribute)
        else:
            notes.append(f"{name} is left out: it has one value, or few people have others.")
    numbers = np.array(
        [[a.number(table[a.name].get(case)) for a in each] for case in people], int
    ).reshape(len(people), len(each))
    sizes = [1 + len(attribute.labels) for attribute in each]
    rows = [np.eye(size)[column][:, 1:] for size, column in zip(sizes, numbers.T)]  # (N, V)
    counts = tuple(tuple(a.T @ b for b in rows) for a in rows)
    return Attributes(tuple(each), counts), notes


def _learn(name, values):
    """An attribute of the values of training people, and notes about rare values."""
    kinds, counts = np.unique(np.array(values), return_counts=True) if values else ([], [])
    kinds, counts = kinds.tolist(), list(map(int, counts))
    if kinds and not isinstance(kinds[0], str) and len(kinds) > MOST_VALUES:
        bins = max(1, min(MOST_VALUES, len(values) // LEAST_PEOPLE))
        edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
        digits = next(d for d in range(3, 18) if len({f"{e:.{d}g}" for e in edges}) == len(edges))
        named = [f"{edge:.{digits}g}" for edge in edges]
        labels = [f"{low} to {high}" for low, high in itertools.pairwise(named)]
        return Attribute(name, tuple(labels), edges=tuple(edges.tolist())), []
    groups, notes = [([kind], count) for kind, count in zip(kinds, counts)], []
    if kinds and isinstance(kinds[0], str):
        notes = [
            f"{name} {k} is unknown: {n} training people." for (k,), n in groups if n < LEAST_PEOPLE
        ]
        groups = [group for group in groups if group[1] >= LEAST_PEOPLE]
    labels = dict(zip(kinds, counts))
    while len(groups) > 1 and min(count for _, count in groups) < LEAST_PEOPLE:
        i = min(range(len(groups)), key=lambda k: groups[k][1])
        below, above = groups[i][0][0] - groups[i - 1][0][-1], math.inf
        if i + 1 < len(groups):
            above = groups[i + 1][0][0] - groups[i][0][-1]
        low = i - 1 if i and below <= above else i
        joined = groups[low][0] + groups[low + 1][0], groups[low][1] + groups[low + 1][1]
        rare = ", ".join(f"{kind:g}" for kind in groups[i][0])
        notes.append(f"{name} {rare} counts as its neighbour: {groups[i][1]} training people.")
        groups[low : low + 2] = [joined]
    named = [_label(max(group, key=labels.get)) for group, _ in groups]
    return Attribute(name, tuple(named), tuple(tuple(group) for group, _ in groups)), notes


def _label(value):
    return value if isinstance(value, str) else f"{value:g}"


def labelled(levels: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
    """Levels `(B,)` with the attributes of each slice, `(A,)` or `(B, A)`: int32 `(B, 1 + A)`.

    Where nothing is known, or there are no attributes, they stay as they are.
    """
    if numbers is None or not np.shape(numbers)[-1]:
        return levels
    numbers = np.broadcast_to(numbers, (len(levels), np.shape(numbers)[-1]))
    return np.concatenate([np.asarray(levels)[:, None], numbers], axis=1).astype("int32")
