"""Check a data folder, or make one from brain volumes.

A data folder holds keras_png_slices_train, _validate and _test. A slice in them is an 8-bit grey
PNG of 256 x 256 pixels, called case_NNN_slice_K.nii.png. NNN is the number of the scan, K the level
of the slice, from bottom to top.
"""

import argparse
import collections
import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from sources.conversion import FRACTIONS, ConversionSettings, convert
from sources.folder import find_slices, fingerprint, open_slices
from sources.layout import DEFAULT_DIRECTORY, SPLITS
from sources.masking import frame_of, is_unmasked, remove_residue
from utils import Parser, progress

WIDEST_REDUCTION = 8  # pixels that share one code in the usual model


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of `dataset.py`.

    Args:
        arguments: Words of the command line, or None for those of this process.
    """
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    options = {"parents": [_conversion_options()]}
    commands.add_parser("from-oasis1", **options, help="slice the volumes of OASIS-1 discs")
    from_nifti = "slice NIfTI volumes of 1 mm in a standard space"
    commands.add_parser("from-nifti", **options, help=from_nifti).set_defaults(nifti=True)
    check = commands.add_parser(
        "check",
        help="say what a data folder holds and what is wrong with it; status 1 if something is",
    )
    check.add_argument("directory", metavar="DIR", help="data folder")
    return parser.parse_args(arguments)


def _conversion_options():
    options = argparse.ArgumentParser(add_help=False)
    add = options.add_argument
    add("directory", metavar="DIR", help="folder with the volumes, or with the unpacked discs")
    out = "data folder to write (default: %(default)s)"
    add("--out", type=pathlib.Path, default=DEFAULT_DIRECTORY, help=out)
    masked = "take the brain-masked volumes (masked_ in their name), not those with scalp"
    add("--masked", action="store_true", help=masked)
    fractions = "shares of the subjects in train, validate and test (default: 302 35 17)"
    shares = {"nargs": len(SPLITS), "type": float, "default": FRACTIONS, "metavar": "F"}
    add("--fractions", **shares, help=fractions)
    add("--seed", type=int, default=0, help="seed of the split (default: %(default)s)")
    first = "voxel level of slice 0, counted from 0 at the bottom (default: as published)"
    add("--first-slice", type=int, metavar="VOXEL", help=first)
    return options


def main(args: argparse.Namespace) -> None:
    """Run the command that `parse` has read.

    Raises:
        InputError: Something that was given cannot be used.
        SystemExit: A data folder was checked. Its status is 1 if something is wrong with it.
    """
    if args.command == "check":
        _check(args.directory)
    else:
        _convert(args)


def _convert(args):
    names = {field.name for field in dataclasses.fields(ConversionSettings)}
    settings = {name: value for name, value in vars(args).items() if name in names}
    scans, problems = convert(args.directory, args.out, ConversionSettings(**settings))
    for name in SPLITS:
        inside = [scan for scan in scans if scan.split == name]
        subjects = {scan.subject for scan in inside}
        print(f"  {name:<9}{len(inside):>5} scans of {len(subjects):>4} subjects")
        if not inside:
            problems.append(f"{name} is empty: training needs all three splits.")
    print(f"{len(scans)} scans in {args.out}", *_listed(problems), sep="\n")


def _listed(problems):
    if not problems:
        return ["no problems"]
    return [f"{len(problems)} problems:", *(f"  {' '.join(line.split())}" for line in problems)]


# ---- check ---------------------------------------------------------------------------------------


def _check(directory):
    """Open a folder as for a training, but go on after a problem, and look closer."""
    directory, problems = find_slices(directory), []
    slices = open_slices(directory, problems.append)
    rows, occupied = _measure(slices)
    problems += [*_missing_levels(slices), *_duplicates(rows)]
    print(directory, *_facts(slices, rows, occupied), *_listed(problems), sep="\n")
    sys.exit(bool(problems))


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
            pixels, mean = hashlib.sha256(image).digest(), image.sum() / max(1, lit)
            rows.append(
                (path, pixels, image.max(), mean, is_unmasked(image, slices.facts), residue)
            )
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
