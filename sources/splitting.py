"""Subjects -> train, validate and test. All scans of a person are in one split."""

import collections
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sources.layout import SPLITS
from utils import InputError

FRACTIONS = (302.0, 35.0, 17.0)  # subjects of the splits in the set that this layout comes from
ANEW = "--resplit makes splits by subject"


def split_subjects(
    subjects: Iterable[str],
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    classes: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Put every subject into one split, each class in proportion.

    Sizes go by largest remainder. A split that has a share is not left empty if another can give.

    Args:
        subjects: Names, each as often as the subject was scanned.
        fractions: Shares of the subjects in the three splits, in any unit.
        seed: Seed of the order of the subjects, not negative.
        classes: Class of each subject. None: there are no classes.

    Raises:
        InputError: A setting makes no sense.
    """
    if not (min(fractions) >= 0 and 0 < sum(fractions) < float("inf")):
        given = " ".join(map(str, fractions))
        raise InputError(f"--fractions {given} are no shares: give 302 35 17 or 0.8 0.1 0.1.")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative: give 0 or more.")
    members = collections.defaultdict(list)
    for subject in sorted(set(subjects)):
        members[classes[subject] if classes else ""].append(subject)
    count = sum(map(len, members.values()))
    sizes, generator, split_of = _split_sizes(count, fractions), np.random.default_rng(seed), {}
    given, total = np.zeros(len(SPLITS), int), 0
    for name in sorted(members):
        inside, before = members[name], given.copy()
        for _ in inside:  # to the split that lags most behind its share of all classes so far
            total += 1
            given[np.argmax(sizes * (total / count) - given)] += 1
        names = np.repeat(SPLITS, given - before).tolist()
        order = generator.permutation(len(inside))
        split_of |= {inside[i]: split for i, split in zip(order, names)}
    return split_of


def _split_sizes(count, fractions):
    exact = np.array(fractions) / sum(fractions) * count
    sizes = np.floor(exact).astype(int)
    largest_remainders = np.argsort(sizes - exact, kind="stable")
    sizes[largest_remainders[: count - sizes.sum()]] += 1
    for split, fraction in enumerate(fractions):
        if fraction and not sizes[split] and sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[split] += 1
    return sizes


def complete_splits(
    given: Mapping[str, set[str]],
    classes: Mapping[str, str],
    fractions: Sequence[float],
    seed: int,
    anew: bool,
) -> tuple[dict[str, str], str]:
    """The split of every subject, and how it came about.

    Args:
        given: The splits that files of each subject are in. An empty set: in none. A split that
            all lack is cut from the training split.
        classes: As in `split_subjects`, as the next two.
        fractions: Shares.
        seed: Seed.
        anew: Make the splits anew, whatever the folder has.

    Raises:
        InputError: A subject is in two splits, or only some files are in a split.
    """
    train, *others = SPLITS
    found = set().union(*given.values())
    if anew or found <= {train}:
        made = split_subjects(given, fractions, seed, classes)
        return made, f"made here by subject, seed {seed}"
    shared = [subject for subject, splits in given.items() if len(splits) > 1]
    if shared:
        places = " and ".join(sorted(given[shared[0]], key=SPLITS.index))
        more = f"{len(shared) - 1} more in two splits"
        raise InputError(f"subject {shared[0]} is in {places}, as are {more}: {ANEW}.")
    outside = [subject for subject, splits in given.items() if not splits]
    if outside:
        some = f"{len(outside)} subjects, such as {outside[0]}, are in no split and others are"
        raise InputError(f"{some}: {ANEW}, or name them with --split.")
    split_of = {subject: split for subject, (split,) in given.items()}
    missing = [split for split in others if split not in found]
    if train not in found or not missing:
        return split_of, "as in the folder"
    inside = [subject for subject, split in split_of.items() if split == train]
    shares = [f * (split in (train, *missing)) for split, f in zip(SPLITS, fractions)]
    split_of |= split_subjects(inside, shares, seed, classes)
    return split_of, f"as in the folder, {missing[0]} cut from train by subject, seed {seed}"
