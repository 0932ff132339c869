"""Say what a data folder holds, and what is wrong with it."""

import collections
import hashlib
import os
import pathlib
import sys

import numpy as np

from sources.folder import find_slices, fingerprint, open_slices
from sources.layout import SPLITS
from sources.masking import frame_of, is_unmasked, remove_residue
from sources.scaling import suspicious
from utils import progress

WIDEST_REDUCTION = 8  # pixels that share one code in the usual model
MOST_LISTED = 8  # cases with black slices


def check(directory: str | os.PathLike) -> None:
    """Open a folder as for a training, but go on after a problem, and look closer.

    Args:
        directory: What `find_slices` takes.

    Raises:
        InputError: There is no slice that can be read.
        SystemExit: The folder was checked. Its status is 1 if something is wrong with it.
    """
    directory, problems = find_slices(directory), []
    slices = open_slices(directory, problems.append)
    rows, occupied = _measure(slices)
    problems += [*_missing_levels(slices), *_spoilt(slices), *_duplicates(rows)]
    print(directory, *_contents(slices), *_looks(slices, rows, occupied), sep="\n")
    print(*listed(problems), sep="\n")
    sys.exit(bool(problems))


def listed(problems: list[str]) -> list[str]:
    """Lines that count problems and list them, one a line."""
    if not problems:
        return ["no problems"]
    return [f"{len(problems)} problems:", *(f"  {' '.join(line.split())}" for line in problems)]


def _measure(slices):
    """A row for each slice, and the pixels that training slices occupy.

    A row holds the path, a hash of the pixels, the brightest grey value, the mean of those above 0,
    whether it is not masked, and the number of pixels of residue.
    """
    facts, rows, occupied = slices.facts, [], False
    for name, split in slices.splits.items():
        pairs = zip(split.paths, split.images)
        for path, image in progress(pairs, f"measuring {name}", len(split), "slice"):
            clean = remove_residue(image) if facts.masked and facts.residue else image
            lit, residue = np.count_nonzero(image), np.count_nonzero(image > clean)
            pixels, mean = hashlib.sha256(image).digest(), image.sum() / max(1, lit)
            rows.append((path, pixels, image.max(), mean, is_unmasked(image, facts), residue))
            if name == SPLITS[0]:
                occupied |= clean > 0
    return rows, occupied


# ---- problems ------------------------------------------------------------------------------------


def _missing_levels(slices):
    """Levels that cases lack. Stacks of others than brains may be shorter, but have no gap."""
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            levels = set(split.levels[split.cases == case].tolist())
            whole = range(slices.num_levels)
            whole = whole if slices.facts.brain else range(min(levels), max(levels))
            if missing := sorted(set(whole) - levels):
                yield f"case {case:03d} of {split.name} lacks slices {_joined(missing)}."


def _spoilt(slices):
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            for note in suspicious(split.images[split.cases == case]):
                yield f"case {case:03d} of {split.name} has {note}"


def _duplicates(rows):
    groups = collections.defaultdict(list)
    for path, pixels, peak, *_ in rows:
        if peak:  # all black slices are alike
            groups[pixels].append(pathlib.Path(path))
    for paths in groups.values():
        if len(paths) > 1:
            leak = "leak, " if len({path.parent for path in paths}) > 1 else ""
            names = ", ".join("/".join(path.parts[-2:]) for path in paths)
            yield f"{leak}duplicates: {names} are one image."


def _joined(numbers):
    return ", ".join(map(str, numbers))


# ---- what is there -------------------------------------------------------------------------------


def _contents(slices):
    """Lines that say what is known and counted."""
    facts, splits = slices.facts, slices.splits.values()
    side = f"{facts.side} x {facts.side} pixels"
    about = {"none": "not mirrored"}.get(facts.mirror, f"mirrored by exchanging {facts.mirror}")
    yield f"  set        {facts.name}: {side}, {about}"
    if facts.content:
        top, left, bottom, right = facts.content
        place = f"rows {top}-{bottom - 1} and columns {left}-{right - 1}"
        yield f"  content    {place}; the rest is padding"
    yield from slices.summary()
    cases = len(np.unique(np.concatenate([split.cases for split in splits])))
    subjects = len(np.unique(np.concatenate([split.subjects for split in splits])))
    yield f"  subjects   {subjects}, with {cases} cases of up to {slices.num_levels} slices"
    for split in splits:
        known = [facts.cases.get(case, {}) for case in np.unique(split.cases).tolist()]
        classes = collections.Counter(str(of["class"]) for of in known if "class" in of)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))
        if classes:
            yield f"  classes    {counts} (cases of {split.name})"
    for split in splits:
        yield f"  digest     {fingerprint(split)} {split.name}"
    yield f"  digest     {slices.fingerprint} all"


def _looks(slices, rows, occupied):
    """Lines that say what pixels are like, and what a training will do with them."""
    facts, count = slices.facts, len(rows)
    peaks, means, unmasked, residue = map(np.array, list(zip(*rows))[2:])
    lit = peaks > 0
    yield (
        f"  intensity  brightest pixel of a slice {peaks.min()}-{peaks.max()}, "
        f"255 in {np.count_nonzero(peaks == 255)} of {count} slices; "
        f"mean without background {means[lit].min():.0f}-{means[lit].max():.0f}"
    )
    if not lit.all():
        yield f"  black      {np.count_nonzero(~lit)} of {count} slices: {_black(slices)}"
    mostly, mixed = "with scalp", "mixed, brain-masked and with scalp"
    masked, sign = "brain-masked", "more than noise outside the rows and columns of the brain"
    if not facts.brain:
        mostly, mixed = "not masked", "mixed, masked and not"
        masked, sign = "masked", "no black background"
    kind = masked if facts.masked else mostly if unmasked.mean() > 0.5 else mixed
    yield f"  looks {kind} ({np.count_nonzero(unmasked)} of {count} slices have {sign})"
    if facts.masked and facts.residue:
        yield (
            f"  residue    in {np.count_nonzero(residue)} of {count} slices around the brain, "
            f"{residue.mean():.0f} pixels a slice; it is set to 0 when slices are read"
        )
    if np.any(occupied):
        top, left, bottom, right = frame_of(occupied, WIDEST_REDUCTION, facts)
        share = (bottom - top) * (right - left) / occupied.size
        yield (
            f"  frame      rows {top}-{bottom - 1} and columns {left}-{right - 1} hold all of the "
            f"training slices, {share:.0%} of the pixels"
        )


def _black(slices):
    """Which slices are black, for the first cases that have some."""
    levels = collections.defaultdict(list)
    for split in slices.splits.values():
        for i in np.flatnonzero(~split.images.any((1, 2))):
            levels[f"{split.name}, case {split.cases[i]:03d}"].append(split.levels[i])
    first = [f"{case}: {_joined(black)}" for case, black in list(levels.items())[:MOST_LISTED]]
    more = f"; and of {len(levels) - MOST_LISTED} more cases" if len(levels) > MOST_LISTED else ""
    return "; ".join(first) + more
