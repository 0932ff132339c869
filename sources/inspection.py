"""Look closely at a data folder: what it holds, and everything that is wrong with it.

It is opened as for a training, but no problem ends it. Some are found that a training would not
notice: copies of an image, and missing levels.
"""

import collections
import hashlib
import os
import pathlib

import numpy as np

from sources.folder import fingerprint, open_slices
from sources.layout import SPLITS
from sources.masking import frame_of, remove_residue, shows_scalp
from utils import progress

WIDEST_REDUCTION = 8  # pixels that share one code in the usual model


def inspect_slices(directory: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Inspect a data folder and go on after a problem.

    Problems are: a folder or level that is missing, a file name that does not parse, an image that
    cannot be used, two images with the same pixels, and a case or subject in several splits.

    Args:
        directory: Folder that holds the three splits.

    Returns:
        Facts, and problems: lines to print.

    Raises:
        InputError: There is no readable slice at all.
    """
    problems = []
    slices = open_slices(directory, problems.append)
    rows, occupied = _measure(slices)
    problems += [*_missing_levels(slices), *_duplicates(rows)]
    return list(_facts(slices, rows, occupied)), problems


def _measure(slices):
    """A row for each slice, and the pixels that training slices occupy.

    A row holds the path, a hash of the pixels, the brightest grey value, the mean of those above 0,
    whether it shows scalp, and the number of pixels of residue.
    """
    rows, occupied = [], False
    for name, split in slices.splits.items():
        pairs = zip(split.paths, split.images)
        for path, image in progress(pairs, f"measuring {name}", len(split), "slice"):
            clean = remove_residue(image) if slices.masked else image
            lit, residue = np.count_nonzero(image), np.count_nonzero(image > clean)
            pixels, mean = hashlib.sha256(image).digest(), image.sum() / lit
            rows.append((path, pixels, image.max(), mean, shows_scalp(image), residue))
            if name == SPLITS[0]:
                occupied |= clean > 0
    return rows, occupied


def _missing_levels(slices):
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            levels = set(split.levels[split.cases == case].tolist())
            missing = sorted(set(range(slices.num_levels)) - levels)
            if missing:
                listed = ", ".join(map(str, missing))
                yield f"case {case:03d} of {split.name} lacks slices {listed}."


def _duplicates(rows):
    groups = collections.defaultdict(list)
    for path, pixels, *_ in rows:
        groups[pixels].append(pathlib.Path(path))
    for paths in groups.values():
        if len(paths) > 1:
            leak = "leak, " if len({path.parent for path in paths}) > 1 else ""
            listed = ", ".join("/".join(path.parts[-2:]) for path in paths)
            yield f"{leak}duplicates: {listed} are one image."


def _facts(slices, rows, occupied):
    """Lines that say what a folder holds, and what a training will do with brain-masked slices."""
    splits, count = slices.splits.values(), len(rows)
    peaks, means, with_scalp, residue = map(np.array, list(zip(*rows))[2:])
    cases = len(np.unique(np.concatenate([split.cases for split in splits])))
    subjects = len(np.unique(np.concatenate([split.subjects for split in splits])))
    yield from slices.summary()
    yield f"  subjects   {subjects}, with {cases} cases of up to {slices.num_levels} slices"
    for split in splits:
        yield f"  digest     {fingerprint(split)} {split.name}"
    yield f"  digest     {slices.fingerprint} all"
    yield (
        f"  intensity  brightest pixel of a slice {peaks.min()}-{peaks.max()}, "
        f"255 in {np.count_nonzero(peaks == 255)} of {count} slices; "
        f"mean without background {means.min():.0f}-{means.max():.0f}"
    )
    mixed = "with scalp" if with_scalp.mean() > 0.5 else "mixed, brain-masked and with scalp"
    yield (
        f"  looks {'brain-masked' if slices.masked else mixed} ({np.count_nonzero(with_scalp)} of "
        f"{count} slices have more than noise outside the rows and columns of the brain)"
    )
    if slices.masked:
        yield (
            f"  residue    in {np.count_nonzero(residue)} of {count} slices around the brain, "
            f"{residue.mean():.0f} pixels a slice; it is set to 0 when slices are read"
        )
    if slices.masked and np.any(occupied):
        top, left, bottom, right = frame_of(occupied, WIDEST_REDUCTION)
        share = (bottom - top) * (right - left) / occupied.size
        yield (
            f"  frame      rows {top}-{bottom - 1} and columns {left}-{right - 1} hold all of the "
            f"training slices, {share:.0%} of the pixels"
        )
