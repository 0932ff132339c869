"""Look closely at a data folder: what it holds, and everything that is wrong with it.

`sources.folder.open_slices` stops at the first problem. An inspection lists them all. It also finds
what a training would not notice: copies of an image, missing levels, scalp among brain masks.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib

import numpy as np
from PIL import Image

from sources.folder import (
    Slices,
    Split,
    case_and_level,
    check_slice,
    fingerprint,
    make_split,
    read_manifest,
    refuse_same_place,
    subject_of,
)
from sources.layout import SLICE_SIDE, SPLITS, segmentation_folder, split_folder
from sources.masking import are_masked, frame_of, remove_residue, shows_scalp
from utils import InputError, progress

WIDEST_REDUCTION = 8  # pixels that share one code in the usual model


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect_slices` found, as lines to print.

    Attributes:
        facts: Counts, subjects, digests, intensity, and whether the slices show scalp.
        problems: Everything that is wrong, one line each.
    """

    facts: list[str]
    problems: list[str]


def _nothing():
    return np.zeros((SLICE_SIDE, SLICE_SIDE), bool)


@dataclasses.dataclass
class _Contents:
    """What one pass over the files of a data folder gathers."""

    noted: dict  # `cases` of the folder's manifest
    splits: dict[str, Split] = dataclasses.field(default_factory=dict)
    segmented: dict[str, int] = dataclasses.field(default_factory=dict)  # images of each split
    digests: dict[str, str] = dataclasses.field(default_factory=dict)  # of each path
    copies: dict = dataclasses.field(default_factory=dict)  # hash of the pixels: paths
    peaks: list[int] = dataclasses.field(default_factory=list)  # of each slice
    means: list[float] = dataclasses.field(default_factory=list)  # of each slice, without zeros
    with_scalp: list[bool] = dataclasses.field(default_factory=list)  # of each slice
    residue: list[int] = dataclasses.field(default_factory=list)  # pixels of residue in each slice
    occupied: np.ndarray = dataclasses.field(default_factory=_nothing)  # in any training slice
    problems: list[str] = dataclasses.field(default_factory=list)


def inspect_slices(directory: str | os.PathLike) -> Inspection:
    """Inspect a data folder and go on after a problem.

    Problems are: a folder or level that is missing, a file name that does not parse, an image that
    cannot be used, two images with the same pixels, and a case or subject in several splits.

    Args:
        directory: Folder that holds the three splits.

    Raises:
        InputError: There is no readable slice at all.
    """
    directory = pathlib.Path(directory)
    contents = _Contents(read_manifest(directory)["cases"])
    for name in SPLITS:
        slices = _gather_images(contents, name, split_folder(directory, name))
        _count_segmentations(contents, name, segmentation_folder(directory, name), slices)
    if not contents.splits:
        raise InputError(f"{directory} holds no readable slice. {' '.join(contents.problems)}")

    slices = Slices(directory.name, contents.splits, fingerprint="")
    problems = [
        *contents.problems,
        *_missing_levels(slices),
        *_leaks(slices, contents.noted),
        *_duplicates(contents.copies.values()),
    ]
    return Inspection(_facts(slices, contents), problems)


def _gather_images(contents, name, folder):
    """Read the images of a split into `contents`; return `(case, level, path)` of the usable."""
    slices, places = [], {}
    for path in progress(sorted(folder.glob("*.png")), name, unit="image"):
        try:
            place = case_and_level(path)
            digest, _ = check_slice(path)
            refuse_same_place(places.setdefault(place, path), path)
        except InputError as error:
            contents.problems.append(str(error))
            continue
        slices.append((*place, str(path)))
        contents.digests[str(path)] = digest
        cleaned = _measure_image(contents, path)
        if name == SPLITS[0]:
            contents.occupied |= cleaned > 0
    if slices:
        contents.splits[name] = make_split(name, slices, contents.noted)
    else:
        state = "holds no readable slice" if folder.is_dir() else "is missing"
        contents.problems.append(f"{folder} {state}: every split needs slices.")
    return slices


def _measure_image(contents, path):
    """Add the figures of an image to `contents`; return it without residue."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = np.array(image)  # (256, 256)
    contents.copies.setdefault(hashlib.sha256(pixels).digest(), []).append(path)
    contents.peaks.append(int(pixels.max()))
    contents.means.append(pixels.sum() / max(1, np.count_nonzero(pixels)))
    contents.with_scalp.append(shows_scalp(pixels))
    cleaned = remove_residue(pixels)
    contents.residue.append(np.count_nonzero(pixels) - np.count_nonzero(cleaned))
    return cleaned


def _count_segmentations(contents, name, folder, slices):
    masks = {path.name.removeprefix("seg_") for path in folder.glob("seg_*.png")}
    images = {pathlib.Path(path).name.removeprefix("case_") for _, _, path in slices}
    contents.segmented[name] = len(masks)
    lone = sorted(masks - images)
    contents.problems += [f"{folder.name}/seg_{mask} has no image." for mask in lone]


def _missing_levels(slices):
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            levels = set(split.levels[split.cases == case].tolist())
            missing = sorted(set(range(slices.num_levels)) - levels)
            if missing:
                listed = ", ".join(map(str, missing))
                yield f"case {case:03d} of {split.name} lacks slices {listed}."


def _leaks(slices, noted):
    """Problems: cases, and subjects with several cases, that are in more than one split."""
    splits_of_case = collections.defaultdict(list)
    splits_of_subject = collections.defaultdict(set)
    for split in slices.splits.values():
        for case in np.unique(split.cases).tolist():
            splits_of_case[case].append(split.name)
            subject = subject_of(case, noted)
            if subject != subject_of(case, {}):  # else the subject is this case alone
                splits_of_subject[subject].add(split.name)
    for case, names in splits_of_case.items():
        if len(names) > 1:
            yield f"leak: case {case:03d} is in {' and '.join(names)}."
    for subject, names in splits_of_subject.items():
        if len(names) > 1:
            places = " and ".join(sorted(names, key=SPLITS.index))
            yield f"leak: scans of subject {subject} are in {places}."


def _duplicates(groups):
    """Problems: groups of paths whose images have the same pixels."""
    for paths in groups:
        if len(paths) > 1:
            leak = "leak, " if len({path.parent for path in paths}) > 1 else ""
            listed = ", ".join("/".join(path.parts[-2:]) for path in paths)
            yield f"{leak}duplicates: {listed} are one image."


def _facts(slices, contents):
    splits = slices.splits.values()
    cases = {case for split in splits for case in split.cases.tolist()}
    subjects = {subject for split in splits for subject in split.subjects.tolist()}
    segmented = ", ".join(f"{count} {name}" for name, count in contents.segmented.items())
    case_count = f"{len(cases)} cases of up to {slices.num_levels} slices"
    peaks, means = contents.peaks, contents.means
    peak = f"brightest pixel of a slice {min(peaks)}-{max(peaks)}"
    full = f"255 in {peaks.count(255)} of {len(peaks)} slices"
    mean = f"mean without background {min(means):.0f}-{max(means):.0f}"
    return [
        *slices.summary(),
        f"  subjects   {len(subjects)}, with {case_count}",
        f"  segmented  {segmented}",
        *_digests(slices, contents),
        f"  intensity  {peak}, {full}; {mean}",
        f"  {_scalp(contents.with_scalp)}",
        *(_masked_facts(contents) if are_masked(contents.with_scalp) else ()),
    ]


def _digests(slices, contents):
    """Digest of each split, and of all slices: the fingerprint that a run keeps of its data."""
    lists = {
        split.name: [contents.digests[path] for path in split.paths]
        for split in slices.splits.values()
    }
    yield from (f"  digest     {fingerprint(some)} {name}" for name, some in lists.items())
    yield f"  digest     {fingerprint(sum(lists.values(), []))} all"


def _masked_facts(contents):
    """What a training will do with brain-masked slices: remove residue, and cut to the frame."""
    residue = np.array(contents.residue)
    yield (
        f"  residue    in {np.count_nonzero(residue)} of {len(residue)} slices around the brain, "
        f"{residue.mean():.0f} pixels a slice; it is set to 0 when slices are read"
    )
    if contents.occupied.any():
        top, left, bottom, right = frame_of(contents.occupied, WIDEST_REDUCTION)
        share = (bottom - top) * (right - left) / contents.occupied.size
        yield (
            f"  frame      rows {top}-{bottom - 1} and columns {left}-{right - 1} hold all of the "
            f"training slices, {share:.0%} of the pixels"
        )


def _scalp(with_scalp):
    """Say whether slices show scalp, from what `shows_scalp` says of each."""
    share = np.mean(with_scalp)
    if are_masked(with_scalp):
        kind = "brain-masked"
    elif share > 0.5:
        kind = "with scalp"
    else:
        kind = "mixed, brain-masked and with scalp"
    return (
        f"looks {kind} ({sum(with_scalp)} of {len(with_scalp)} slices have more than noise outside "
        "the rows and columns of the brain)"
    )
