"""Check a data folder, or make one from brain volumes.

A data folder holds keras_png_slices_train, _validate and _test. A slice in them is an 8-bit grey
PNG of 256 x 256 pixels, called case_NNN_slice_K.nii.png. NNN is the number of the scan, K the level
of the slice, from bottom to top.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

from sources.check import check, listed
from sources.conversion import FRACTIONS, ConversionSettings, convert
from sources.layout import DEFAULT_DIRECTORY, SPLITS
from utils import Parser


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
    checking = commands.add_parser(
        "check",
        help="say what a data folder holds and what is wrong with it; status 1 if something is",
    )
    checking.add_argument("directory", metavar="DIR", help="data folder, or a .zip archive of it")
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
        check(args.directory)
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
    print(f"{len(scans)} scans in {args.out}", *listed(problems), sep="\n")
