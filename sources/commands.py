"""Make a data folder from pictures or volumes, add a table of attributes to one, or check it.

A data folder holds keras_png_slices_train, _validate and _test. A slice in them is a square 8-bit
grey PNG, called case_NNN_slice_K.nii.png. NNN is the number of the scan, K the level of the slice,
from bottom to top. dataset.json says what else is known of the slices.
"""

import argparse
import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from sources.attributes import CASE, add_table, attributes_of, read_table, with_table
from sources.check import check, listed
from sources.conversion import ConversionSettings, Plan, Report, convert, make_plan
from sources.facts import FACTS_FILE, MAX_LEVELS, MAX_SIDE, DataFacts, read_facts
from sources.folder import find_slices
from sources.layout import DEFAULT_DIRECTORY, FITTED_SPLITS, SPLITS
from sources.names import Rules
from sources.splitting import FRACTIONS
from sources.volumes import PLANES, axcodes
from utils import InputError, Parser, between, spread

COLOUR = re.compile("RGB|palette|CMYK|YCbCr|LAB|HSV")  # modes
SCAN_ID = "ID"  # column of the OASIS-1 table
EXAMPLES = 3  # names that are shown with what was read from them
LISTED, MOST_NOTES = 8, 20  # sizes, kinds or classes in a line; notes


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of `dataset.py`.

    Args:
        arguments: Words of the command line, or None for those of this process.
    """
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "from-images": "slices from pictures: PNG, JPEG, TIFF, BMP, flat NIfTI, MedMNIST",
        "from-nifti": "slices from volumes: NIfTI, MGZ, Analyze",
        "from-oasis1": "slices from the volumes of the OASIS-1 discs",
    }
    for command, text in helps.items():
        kind = command.removeprefix("from-")
        options = commands.add_parser(command, help=text, description=text)
        options.set_defaults(kind=kind)
        _add_options(options.add_argument, kind)
    text = "add a CSV table of attributes to a data folder, such as age or class of each case"
    adding = commands.add_parser("add-table", help=text, description=text)
    adding.add_argument("directory", metavar="DIR", help="data folder")
    adding.add_argument("table", metavar="CSV", help="table; blank values are unknown")
    of_case = "column of case numbers, or of scans or subjects (default: %(default)s)"
    adding.add_argument("--case", metavar="COLUMN", default=CASE, help=of_case)
    checking = commands.add_parser(
        "check",
        help="say what a data folder holds and what is wrong with it; status 1 if something is",
    )
    checking.add_argument("directory", metavar="DIR", help="data folder, or a .zip archive of it")
    return parser.parse_args(arguments)


def _add_options(add, kind):
    add("directory", metavar="FOLDER", help="folder to convert; it stays as it is")
    out = "data folder to write (default: %(default)s)"
    add("--out", metavar="DIR", type=pathlib.Path, default=DEFAULT_DIRECTORY, help=out)
    add("--name", help="what figures and reports call the set (default: the name of DIR)")
    add("--dry-run", action="store_true", help="say what was understood, and write nothing")
    add("--skip-bad", action="store_true", help="list files that cannot be used and skip them")
    shares = {"nargs": len(SPLITS), "type": float, "default": FRACTIONS, "metavar": "F"}
    fractions = "shares of the subjects in train, validate and test (default: 302 35 17)"
    add("--fractions", **shares, help=fractions)
    add("--seed", type=int, default=0, help="seed of the split (default: %(default)s)")
    if kind != "images":
        masked = "take the volumes with masked_ in their name, not those without"
        add("--masked", action="store_true", help=masked)
        first = "voxel level of slice 0 in the OASIS space, from 0 at the bottom"
        add("--first-slice", type=int, metavar="VOXEL", help=f"{first} (default: as published)")
    if kind == "oasis1":
        table = "table of attributes in the official form, such as oasis_cross-sectional.csv"
        add("--table", metavar="CSV", help=table)
        return
    add("--like", metavar="DATA", help="make slices like those of this data folder, in no split")
    add("--resplit", action="store_true", help="make splits anew, by subject")
    for name in ("subject", "level", "split", "class"):
        options = {"dest": name + "_" * (name == "class"), "metavar": "REGEX"}
        text = f"what in the path of a file is its {name}: the first group, else all that matches"
        add(f"--{name}", **options, help=text)
    side = {"type": between(int, 16, MAX_SIDE, 8), "metavar": "S", "dest": "side"}
    add("--image-size", **side, help="pixels of a side (default: the most common, at most 256)")
    fits = "make slices square by black bars, by cutting, or by stretching (default: %(default)s)"
    add("--fit", choices=("pad", "crop", "stretch"), default="pad", help=fits)
    scale = (
        "what shares a range of grey values: the scan of a subject, the set, or each slice alone"
    )
    add("--scale", choices=("subject", "set", "slice"), help=scale)
    levels = {"type": between(int, 1, MAX_LEVELS), "metavar": "L"}
    add("--levels", **levels, help="number of levels (default: found)")
    if kind == "nifti":
        runs_to = "where the axes of volumes run to whose headers do not say it, such as RAS"
        add("--axcodes", type=axcodes, metavar="XYZ", help=runs_to)
        add("--plane", choices=tuple(PLANES), help="plane of the slices (default: axial)")
        spacing = "millimetres of a pixel (default: the coarsest of the set, at most 2)"
        add("--spacing", type=between(float, 0.01, 100), metavar="MM", help=spacing)
        between_slices = "millimetres from slice to slice; interpolates between thick ones"
        distance = {"type": between(float, 0.01, 100), "metavar": "MM"}
        add("--slice-spacing", **distance, help=f"{between_slices} (default: as they are)")
        percent = {"nargs": 2, "type": between(float, 0, 100), "metavar": ("FIRST", "LAST")}
        extent = "part of the extent to slice, in percent (default: what holds something)"
        add("--slices", **percent, help=extent)


def main(args: argparse.Namespace) -> None:
    """Run the command that `parse` has read.

    Raises:
        InputError: Something that was given cannot be used.
        SystemExit: A data folder was checked. Its status is 1 if something is wrong with it.
    """
    if args.command == "check":
        check(args.directory)
        return
    if args.command == "add-table":
        print(*_add_table(args.directory, read_table(args.table, args.case)), sep="\n")
        return
    table = read_table(args.table, SCAN_ID) if getattr(args, "table", None) else None
    names = {field.name for field in dataclasses.fields(ConversionSettings)}
    given = {name: value for name, value in vars(args).items() if name in names}
    if "split" in vars(args):
        given["rules"] = Rules(args.subject, args.level, args.split, args.class_)
    slices = getattr(args, "slices", None)
    if slices and slices[0] >= slices[1]:
        raise InputError("--slices needs FIRST below LAST, such as 30 70.")
    like = getattr(args, "like", None)
    if like and not pathlib.Path(like).is_dir():
        raise InputError(f"{like} is no folder: give --like a prepared data folder.")
    if like and not pathlib.Path(like, FACTS_FILE).is_file():
        like = find_slices(like)  # or it is no prepared folder, and would be taken for OASIS
    facts = read_facts(like) if like else None
    plan = make_plan(args.directory, ConversionSettings(**given), facts, args.skip_bad)
    if table:  # it is added at the end, but a bad one is refused before hours of work
        cases = {scan.case: {"scan": scan.name, "subject": scan.subject} for scan in plan.scans}
        with_table(DataFacts(cases=cases), table, cases, partly=True)
    print(*_understood(plan), sep="\n", flush=True)
    if args.dry_run:
        print(*listed(plan.problems), "nothing was written (--dry-run)", sep="\n")
        return
    report = convert(plan, args.out)
    print(*_written(report, args.out), sep="\n")
    if table:
        print(*_attributes(add_table(args.out, table, partly=True), table), sep="\n")


def _add_table(directory, table):
    """Add a table to a data folder, and yield lines that say what was added."""
    if not pathlib.Path(directory, FACTS_FILE).is_file():
        directory = find_slices(directory)
        if directory.is_file():
            raise InputError(f"{directory} is an archive: unpack it, and name the folder.")
    return _attributes(add_table(directory, table), table)


def _attributes(facts, table):
    """Lines that say what a table added."""
    found = attributes_of(facts.cases, facts.cases)
    for name in table.names:
        yield f"  attribute  {name}, known of {len(found.get(name, ()))} cases"


def _understood(plan: Plan) -> Iterator[str]:
    """Lines that say what was understood of a folder."""
    found, scans, settings = plan.inputs.understood, plan.scans, plan.settings
    sizes = {
        " x ".join(map(str, size[::-1] if len(size) == 2 else size)): count  # width x height
        for size, count in plan.inputs.sizes.items()
    }
    subjects = {scan.subject: scan.split for scan in scans}
    is_known = any(place.subject != place.path for place in found.places)
    known = f"{len(subjects)}, with {len(scans)} scans" if is_known else "not known"
    classes = collections.Counter(place.attributes.get("class", "none") for place in found.places)
    shares = collections.Counter(subjects.values())
    shares = ", ".join(f"{name} {shares[name]}" for name in SPLITS if name in shares)
    kinds = _counted(plan.inputs.modes)
    colours = "; colours become luminance" if COLOUR.search(kinds) else ""
    yield f"{plan.inputs.source}, as it is understood:"
    yield f"  {plan.inputs.unit}s".ljust(13) + str(sum(len(scan.files) for scan in scans))
    yield f"  sizes      {_counted(sizes)}"
    yield f"  kinds      {kinds}{colours}"
    yield f"  subjects   {known}"
    numbers = settings["numbers"]
    numbered = f", by the numbers {numbers[0]} to {numbers[-1]}" if numbers else ""
    yield f"  levels     {settings['levels']}{numbered}"
    yield f"  classes    {_counted(classes)}"
    yield f"  splits     {f'{shares} subjects; ' * bool(shares)}{plan.splits}"
    for i in spread(len(found.places), EXAMPLES):
        yield f"  {found.places[i].path}: {_read(found.places[i])}"
    scale = {"subject": "each scan", "set": "the set", "slice": "each slice"}[settings["scale"]]
    yield f"  becomes    {settings['side']} x {settings['side']} pixels, grey by {scale}"
    if settings["space"] == "oasis":
        yield "  slices     at the levels and in the place of OASIS"
    elif settings["space"]:
        extent = "{:g} to {:g} % of the extent".format(*settings["slices"] or (0, 100))
        extent = extent if settings["slices"] else "what holds something"
        yield f"  slices     {settings['plane']}, {settings['spacing']:g} mm a pixel, {extent}"
    yield from _shortened(found.notes)


def _read(place):
    """What was read from a name."""
    parts = {"split": place.split, **place.attributes, "subject": place.subject}
    parts |= {"scan": place.scan, "level": place.level}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value not in (None, ""))


def _counted(counts):
    """Numbers of things, the most common first. One thing needs no number."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) == 1:
        return ordered[0][0]
    listed = ", ".join(f"{name} ({count})" for name, count in ordered[:LISTED])
    return listed + (f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else "")


def _shortened(notes):
    yield from (f"  note: {note}" for note in notes[:MOST_NOTES])
    if len(notes) > MOST_NOTES:
        yield f"  and {len(notes) - MOST_NOTES} more notes"


def _written(report: Report, out: pathlib.Path) -> Iterator[str]:
    """Lines that say what was written."""
    problems, cases = list(report.problems), report.facts.cases
    for name in SPLITS if set(report.slices) != {None} else ():
        inside = [case for case in cases.values() if case["split"] == name]
        subjects = len({case["subject"] for case in inside})
        counts = f"{report.slices.get(name, 0):>6} slices, {len(inside):>5} scans"
        yield f"  {name:<9}{counts} of {subjects:>4} subjects"
        if not inside:
            user = "training" if name in FITTED_SPLITS else "evaluation, but not training,"
            problems.append(f"{name} is empty: {user} needs it.")
    mirror = report.facts.mirror
    yield f"  mirrored   {'no mirror image is an example' if mirror == 'none' else mirror}"
    yield from _shortened(report.notes)
    yield from listed(problems)
    yield f"{len(cases)} scans in {out}"
