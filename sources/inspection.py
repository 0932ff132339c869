"""Look closely at a data folder: what it holds, and everything that is wrong with it.

It is opened as for a training, but no problem ends it. Some are found that a training would not
notice: copies of an image, missing levels, tissue classes without a slice.
"""

import collections
import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np

from sources.folder import fingerprint, open_slices
from sources.layout import SPLITS, segmentation_folder
from sources.masking import frame_of, remove_residue, shows_scalp
from utils import progress

WIDEST_REDUCTION = 8  # pixels that share one code in the usual model


class Measured(NamedTuple):
    """What one slice shows."""

    path: pathlib.Path
    pixels: bytes  # hash of the pixels
    peak: int  # brightest grey value
    mean: float  # mean grey value without zeros
    with_scalp: bool
    residue: int  # pixels of residue; 0 where the set is not brain-masked


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
    segmented = _count_segmentations(directory, slices, problems)
    measured, occupied = _measure(slices)
    problems += [*_missing_levels(slices), *_duplicates(measured)]
    return list(_facts(slices, segmented, measured, occupied)), problems


def _count_segmentations(directory, slices, problems):
    """Number of tissue-class images of each split. Those without a slice are problems."""
    counts = {}
    for name in SPLITS:
        folder = segmentation_folder(directory, name)
        masks = {path.name.removeprefix("seg_") for path in folder.glob("seg_*.png")}
        paths = slices.splits[name].paths if name in slices.splits else ()
        lone = masks - {pathlib.Path(path).name.removeprefix("case_") for path in paths}
        problems += [f"{folder.name}/seg_{mask} has no image." for mask in sorted(lone)]
        counts[name] = len(masks)
    return counts


def _measure(slices):
    """A `Measured` for each slice, and the pixels that any training slice occupies."""
    measured, occupied = [], False
    for name, split in slices.splits.items():
        pairs = zip(split.paths, split.images)
        for path, image in progress(pairs, f"measuring {name}", len(split), "slice"):
            clean = remove_residue(image) if slices.masked else image
            lit, lit_clean = np.count_nonzero(image), np.count_nonzero(clean)
            row = Measured(
                path=pathlib.Path(path),
                pixels=hashlib.sha256(image).digest(),
                peak=int(image.max()),
                mean=image.sum() / lit,
                with_scalp=shows_scalp(image),
                residue=lit - lit_clean,
            )
            measured.append(row)
            if name == SPLITS[0]:
                occupied = occupied | (clean > 0)
    return measured, occupied


def _missing_levels(slices):
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            levels = set(split.levels[split.cases == case].tolist())
            missing = sorted(set(range(slices.num_levels)) - levels)
            if missing:
                listed = ", ".join(map(str, missing))
                yield f"case {case:03d} of {split.name} lacks slices {listed}."


def _duplicates(measured):
    groups = collections.defaultdict(list)
    for row in measured:
        groups[row.pixels].append(row.path)
    for paths in groups.values():
        if len(paths) > 1:
            leak = "leak, " if len({path.parent for path in paths}) > 1 else ""
            listed = ", ".join("/".join(path.parts[-2:]) for path in paths)
            yield f"{leak}duplicates: {listed} are one image."


def _facts(slices, segmented, measured, occupied):
    splits = slices.splits.values()
    cases = {case for split in splits for case in split.cases.tolist()}
    subjects = {subject for split in splits for subject in split.subjects.tolist()}
    peaks, means = [row.peak for row in measured], [row.mean for row in measured]
    yield from slices.summary()
    case_count = f"{len(cases)} cases of up to {slices.num_levels} slices"
    yield f"  subjects   {len(subjects)}, with {case_count}"
    yield f"  segmented  {', '.join(f'{count} {name}' for name, count in segmented.items())}"
    for name, digests in slices.digests.items():
        yield f"  digest     {fingerprint(digests)} {name}"
    yield f"  digest     {slices.fingerprint} all"
    yield (
        f"  intensity  brightest pixel of a slice {min(peaks)}-{max(peaks)}, "
        f"255 in {peaks.count(255)} of {len(peaks)} slices; "
        f"mean without background {min(means):.0f}-{max(means):.0f}"
    )
    yield f"  {_scalp(slices, measured)}"
    if slices.masked:
        yield from _masked_facts(measured, occupied)


def _scalp(slices, measured):
    count = sum(row.with_scalp for row in measured)
    if slices.masked:
        kind = "brain-masked"
    elif count > 0.5 * len(measured):
        kind = "with scalp"
    else:
        kind = "mixed, brain-masked and with scalp"
    return (
        f"looks {kind} ({count} of {len(measured)} slices have more than noise outside "
        "the rows and columns of the brain)"
    )


def _masked_facts(measured, occupied):
    """What a training will do with brain-masked slices: remove residue, and cut to the frame."""
    residue = np.array([row.residue for row in measured])
    yield (
        f"  residue    in {np.count_nonzero(residue)} of {len(residue)} slices around the brain, "
        f"{residue.mean():.0f} pixels a slice; it is set to 0 when slices are read"
    )
    if np.any(occupied):
        top, left, bottom, right = frame_of(occupied, WIDEST_REDUCTION)
        share = (bottom - top) * (right - left) / occupied.size
        yield (
            f"  frame      rows {top}-{bottom - 1} and columns {left}-{right - 1} hold all of the "
            f"training slices, {share:.0%} of the pixels"
        )
