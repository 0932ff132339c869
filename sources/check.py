"""Say what a data folder holds, and what is wrong with it."""

import collections
import hashlib
import os
import pathlib
import sys

import numpy as np

from sources.facts import FACTS_FILE
from sources.folder import Slices, find_slices, fingerprint, open_folder, open_slices
from sources.inputs import relative_places
from sources.layout import SPLITS, split_folder
from sources.masking import frame_of, is_unmasked, remove_residue
from sources.scaling import suspicious
from utils import progress

WIDEST_REDUCTION = 8  # pixels that share one code in the usual model
MOST_LISTED = 8  # cases with black slices, and values of an attribute


def check(directory: str | os.PathLike) -> None:
    """Open a folder as for a training, but go on after a problem, and look closer.

    Args:
        directory: What `find_slices` takes, or a folder of slices in no split (`--like`).

    Raises:
        InputError: There is no slice that can be read.
        SystemExit: The folder was checked. Its status is 1 if something is wrong with it.
    """
    problems = []
    has_splits = any(split_folder(directory, split).is_dir() for split in SPLITS)
    if pathlib.Path(directory, FACTS_FILE).is_file() and not has_splits:
        split = open_folder(directory, report=problems.append)
        slices = Slices(split.facts, {split.name: split})
    else:
        directory = find_slices(directory)
        slices = open_slices(directory, problems.append)
    rows, occupied = _measure(slices)
    problems += [*_of_cases(slices), *_duplicates(rows)]
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


def _of_cases(slices):
    """Levels that cases lack, and spoilt slices.

    Stacks of others than brains may be shorter, but have no gap, unless a conversion spread them
    over all levels.
    """
    facts, count = slices.facts, slices.num_levels
    by_place = not facts.brain and facts.settings and facts.settings.get("numbers") is None
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            chosen, name = split.cases == case, f"case {case:03d} of {split.name}"
            levels = set(split.levels[chosen].tolist())
            whole = range(count) if facts.brain else range(min(levels), max(levels))
            if by_place and levels == set(relative_places(len(levels), count)):
                whole = levels
            if missing := sorted(set(whole) - levels):
                yield f"{name} lacks slices {', '.join(map(str, missing))}."
            yield from (f"{name} has {note}" for note in suspicious(split.images[chosen]))


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


# ---- what is there -------------------------------------------------------------------------------


def _contents(slices):
    """Lines that say what is known and counted."""
    facts, splits = slices.facts, slices.splits.values()
    about = {"none": "not mirrored"}.get(facts.mirror, f"mirrored by exchanging {facts.mirror}")
    yield f"  set        {facts.name}: {facts.side} x {facts.side} pixels, {about}"
    if facts.content:
        yield f"  content    {_place(facts.content)}; the rest is padding"
    yield from slices.summary()
    cases, subjects = (
        len(np.unique(np.concatenate([getattr(split, of) for split in splits])))
        for of in ("cases", "subjects")
    )
    yield f"  subjects   {subjects}, with {cases} cases of up to {slices.num_levels} slices"
    for name, values in slices.attributes.items():
        yield f"  attribute  {name}: {_values(values)}, known of {len(values)} cases"
    for split in splits:
        yield f"  digest     {fingerprint(split)} {split.name}"
    yield f"  digest     {slices.fingerprint} all"
    if slices.attributes:
        yield f"  digest     {slices.table_fingerprint} attributes"


def _values(values):
    """The values of an attribute and how many cases have each, or the range of many."""
    counts = sorted(collections.Counter(values.values()).items())
    texts = [value if isinstance(value, str) else f"{value:g}" for value, _ in counts]
    if len(counts) > MOST_LISTED:
        return f"{texts[0]} to {texts[-1]}"
    return ", ".join(f"{text} ({count})" for text, (_, count) in zip(texts, counts))


def _looks(slices, rows, occupied):
    """Lines that say what pixels are like, and what a training will do with them."""
    facts, count = slices.facts, len(rows)
    peaks, means, unmasked, residue = map(np.array, list(zip(*rows))[2:])
    lit = peaks > 0
    yield (
        f"  intensity  brightest pixel of a slice {peaks.min()}-{peaks.max()}, "
        f"255 in {np.count_nonzero(peaks == 255)} of {count} slices; "
        f"mean without background {means[lit].min(initial=255):.0f}-{means[lit].max(initial=0):.0f}"
    )
    if not lit.all():
        yield f"  black      {np.count_nonzero(~lit)} of {count} slices: {_black(slices)}"
    masked, mostly, mixed = "brain-masked", "with scalp", "mixed, brain-masked and with scalp"
    sign = "more than noise outside the rows and columns of the brain"
    if not facts.brain:
        masked, mostly, mixed = "masked", "not masked", "mixed, masked and not"
        sign = "no black background"
    kind = masked if facts.masked else mostly if unmasked.mean() > 0.5 else mixed
    yield f"  looks {kind} ({np.count_nonzero(unmasked)} of {count} slices have {sign})"
    if facts.masked and facts.residue:
        yield (
            f"  residue    in {np.count_nonzero(residue)} of {count} slices around the brain, "
            f"{residue.mean():.0f} pixels a slice; it is set to 0 when slices are read"
        )
    if np.any(occupied):
        frame = top, left, bottom, right = frame_of(occupied, WIDEST_REDUCTION, facts)
        share = (bottom - top) * (right - left) / occupied.size
        held = "hold all of the training slices"
        yield f"  frame      {_place(frame)} {held}, {share:.0%} of the pixels"


def _place(box):
    top, left, bottom, right = box
    return f"rows {top}-{bottom - 1} and columns {left}-{right - 1}"


def _black(slices):
    """Which slices are black, for the first cases that have some."""
    levels = collections.defaultdict(list)
    for split in slices.splits.values():
        for i in np.flatnonzero(~split.images.any((1, 2))):
            levels[f"{split.name}, case {split.cases[i]:03d}"].append(str(split.levels[i]))
    first = [f"{case}: {', '.join(black)}" for case, black in list(levels.items())[:MOST_LISTED]]
    more = [f"and of {len(levels) - MOST_LISTED} more cases"] * (len(levels) > MOST_LISTED)
    return "; ".join(first + more)
