"""A folder of pictures or volumes -> a data folder of slices.

`make_plan` finds out what is in a folder, puts every subject into one split, and decides on levels,
size and scale. `convert` writes the slices of each scan. `sources.inputs` reads the files.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from sources.facts import FACTS_FILE, OASIS_AFFINE, DataFacts, read_facts, write_facts
from sources.images import write_png
from sources.inputs import OASIS_SLICES, Pictures, Scan, Volumes, in_threads, relative_places
from sources.layout import SPLITS, slice_name, split_folder
from sources.names import Rules
from sources.scaling import (
    GreyRange,
    centre_square,
    contact_sheet,
    find_mirror,
    fit_square,
    grey_range,
    share_lost,
    suspicious,
    to_grey_values,
)
from sources.splitting import FRACTIONS, complete_splits
from sources.volumes import PLANES, moved_affine, scale_to_grey
from utils import PARTIAL_FILES, InputError, spread

REPEAT = 1000  # added to the case of a subject's second scan: OAS1_0061_MR2 is case 1061
SHARED_NUMBERS = (
    0.9  # share of all pairs of a scan and a level that are there, if levels are shared
)
SHOWN, SHOWN_IN_ALL = 4, 16  # cases of each class on the contact sheet at least; of all, if more
LOST = 0.05  # share of a slice that is lost with a note
MEASURED = 256  # scans of which a common range of grey values is found
MIRRORED = 64  # slices by which the mirror axis is found
PREVIEW = "preview.png"
# Settings that one more patient takes over from a set.
OF_A_SET = (
    "space", "plane", "spacing", "slices", "first_slice", "levels", "numbers", "side", "fit",
    "scale", "range",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
    """Settings of a conversion. The same input and settings give the same bytes.

    Attributes:
        kind: "images", "nifti" (volumes), or "oasis1" (the OASIS-1 discs).
        name: What figures and reports call the set. None is the name of its folder.
        side: Pixels of a side of the slices, a multiple of 8. None: found.
        fit: How a slice becomes a square: "pad", "crop" or "stretch".
        scale: What shares a range of grey values: "subject" (a scan of it), "set" or "slice". None
            is the set for single slices, the slice for volumes in the OASIS space, else a scan.
        levels: Number of levels. None: found.
        rules: Regular expressions for names.
        resplit: Make splits anew, even if the folder has its own.
        fractions: Shares of the subjects in the three splits, in any unit.
        seed: Seed of the splits, not negative.
        masked: Take volumes with `masked_` in the name, not those without.
        first_slice: Voxel level of slice 0 in the OASIS space, counted from 0 at the bottom. None
            takes the level of the published slices.
        axcodes: Where the axes of volumes run to that do not say it, such as "RAS".
        plane: "axial", "coronal" or "sagittal". None is axial.
        spacing: Millimetres of a pixel. None: found.
        slices: First and last percent of the extent of volumes. None: where they hold something.
    """

    kind: str = "images"
    name: str | None = None
    side: int | None = None
    fit: str = "pad"
    scale: str | None = None
    levels: int | None = None
    rules: Rules = Rules()
    resplit: bool = False
    fractions: Sequence[float] = FRACTIONS
    seed: int = 0
    masked: bool = False
    first_slice: int | None = None
    axcodes: str | None = None
    plane: str | None = None
    spacing: float | None = None
    slices: Sequence[float] | None = None


@dataclasses.dataclass
class Plan:
    """What a conversion will do.

    Attributes:
        source: What is converted.
        inputs: Reads its files.
        scans: What becomes a case.
        settings: Settings, with all that was found. They go into `dataset.json`.
        like: Facts of the set that slices become like, or None.
        notes: What was noticed, a line each.
        problems: Files that cannot be used, a line each.
        splits: How the splits came about.
    """

    source: str
    inputs: Pictures | Volumes
    scans: list[Scan]
    settings: dict[str, Any]
    like: DataFacts | None
    notes: list[str]
    problems: list[str]
    splits: str


def make_plan(
    source: str | os.PathLike,
    settings: ConversionSettings,
    like: DataFacts | None = None,
    skip_bad: bool = False,
) -> Plan:
    """Find out what is in a folder and how it is to be converted. Nothing is written.

    Args:
        source: Folder of pictures or volumes, a volume, `.zip` of pictures, or MedMNIST file.
        settings: How to convert it.
        like: Facts of a set. Slices become like its slices and are in no split.
        skip_bad: Leave out files that cannot be used. Else the first of them is an error, unless
            it is a volume.

    Raises:
        InputError: There is nothing to convert, names have two meanings, a setting makes no sense,
            a subject is in two splits, or a file cannot be used.
    """
    found = {**dataclasses.asdict(settings), "space": None, "numbers": None, "range": None}
    found |= {"rules": list(settings.rules), "fractions": list(settings.fractions)}
    found |= _settings_of(like) if like else {}
    is_pictures = settings.kind == "images"
    inputs = (Pictures if is_pictures else Volumes)(source, found, settings.rules)
    problems = []
    places = inputs.look(problems.append if skip_bad or not is_pictures else _refuse)
    if not places:
        listed = f"{source}: nothing in it can be used. {' '.join(problems[:3])}"
        raise InputError(problems[0] if len(problems) == 1 else listed)
    notes = list(inputs.understood.notes)
    small = sum(n for size, n in inputs.sizes.items() if 2 * max(size) < found["side"])
    if small and is_pictures:
        notes.append(f"{small} images are enlarged more than twice")
    if len(places) == 1 and is_pictures and not like:
        one = f"{source} holds one image, {places[0].path}"
        raise InputError(f"{one}: training needs more; --like DATA makes it like a prepared set.")
    if is_pictures:
        stacks = _with_levels(_stacks(places, settings.resplit), found, notes)
    else:
        stacks = {(inputs.name_of(place),): [(place, 0)] for place in places}
        stacks = {name: stacks[name] for name in sorted(stacks)}
    scans, splits = _scans(stacks, settings, like)
    if found["scale"] is None:
        is_single = is_pictures and found["levels"] == 1
        found["scale"] = "set" if is_single else "slice" if found["space"] == "oasis" else "subject"
    return Plan(str(source), inputs, scans, found, like, notes, problems, splits)


def _settings_of(facts):
    """Settings that one more patient takes over from a set."""
    if "space" in facts.settings:
        return {name: facts.settings[name] for name in OF_A_SET}
    if facts.brain:  # OASIS as handed out, or as a former version converted it
        return {**OASIS_SLICES, "scale": "slice"}
    settings = {"side": facts.side, "levels": facts.levels}
    if facts.affine:  # of a run, which keeps no settings
        axes = "".join(nibabel.aff2axcodes(np.array(facts.affine)))
        planes = [plane for plane, axcodes in PLANES.items() if axcodes == axes]
        spacing = float(nibabel.affines.voxel_sizes(np.array(facts.affine))[0])
        settings |= {"space": "extent", "plane": planes[0] if planes else None, "spacing": spacing}
    return settings


def _refuse(problem):
    raise InputError(problem)


def _stacks(places, resplit):
    """Pictures by the scan they belong to, from bottom to top. One without a level is alone."""
    stacks = collections.defaultdict(list)
    for place in sorted(places, key=lambda place: (place.level or 0, place.path)):
        scan = place.subject, place.scan, "" if resplit else place.split or ""
        stacks[(place.path, "", "") if place.level is None else scan].append(place)
    for stack in stacks.values():
        for one, other in itertools.pairwise(stack):
            if one.level == other.level:
                twice = f"{one.path} and {other.path} are both level {one.level} of {one.subject}"
                raise InputError(f"{twice}: tell them apart with --subject or --level.")
    return {key: stacks[key] for key in sorted(stacks)}


def _with_levels(stacks, settings, notes):
    """Decide which level each picture of the stacks becomes, or that it is left out.

    Where most scans share the numbers in their names, the n-th of these is level n. Else a slice
    takes its relative place in its stack.
    """
    numbers = settings["numbers"]  # of the set that these become like
    found = sorted({place.level for stack in stacks.values() for place in stack} - {None})
    if numbers is None and settings["levels"] in (None, len(found) or 1):
        filled = sum(map(len, stacks.values())) / (len(stacks) * max(1, len(found)))
        numbers = found if not found or filled >= SHARED_NUMBERS else None
    elif numbers is not None and not set(found) <= set(numbers):
        numbers = None
    if numbers is not None:
        settings |= {"numbers": numbers, "levels": len(numbers) or 1}
        index = {number: level for level, number in enumerate(numbers)} | {None: 0}
        return {name: [(p, index[p.level]) for p in stack] for name, stack in stacks.items()}
    most = settings["levels"] = settings["levels"] or round(
        statistics.median(map(len, stacks.values()))
    )
    chosen = {}
    for name, stack in stacks.items():
        taken = relative_places(min(most, len(stack)), len(stack))
        levels = relative_places(len(taken), most)
        chosen[name] = [(stack[i], level) for i, level in zip(taken, levels)]
    left_out = sum(map(len, stacks.values())) - sum(map(len, chosen.values()))
    how = f"numbers differ between stacks: slices take their relative place in {most} levels"
    notes.append(how + (f", and {left_out} slices are left out" if left_out else ""))
    return chosen


def _scans(stacks, settings, like):
    """The scans of stacks, numbered, each subject in one split, and how splits came about."""
    scans, given, classes = {}, collections.defaultdict(set), {}
    for number, (key, stack) in enumerate(stacks.items(), 1):
        place, discs = stack[0][0], settings.kind == "oasis1"
        name = " ".join(filter(None, key[:2]))
        case = int(name[5:9]) + REPEAT * (int(name[-1]) - 1) if discs else number
        if case in scans:  # then a subject could be in two splits
            both = f"{scans[case].name} and {name} would both become case {case}"
            raise InputError(f"{both}: convert them into different folders.")
        files = tuple((place.path, level) for place, level in stack)
        subject = place.subject or name
        scans[case] = Scan(name, subject, case, None, dict(place.attributes), files)
        given[subject] |= {place.split for place, _ in stack} - {None}
        classes.setdefault(subject, place.attributes.get("class", ""))
    if like:
        return list(scans.values()), "none"
    split_of, how = complete_splits(
        given, classes, settings.fractions, settings.seed, settings.resplit
    )
    placed = (dataclasses.replace(scan, split=split_of[scan.subject]) for scan in scans.values())
    return list(placed), how


# ---- slices --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Report:
    """What a conversion did.

    Attributes:
        facts: Facts of the set, as `dataset.json` has them.
        slices: Number of slices of each split. Slices made with `like` are in the split None.
        notes: What was noticed, a line each.
        problems: Files that were left out, a line each.
    """

    facts: DataFacts
    slices: dict[str | None, int]
    notes: list[str]
    problems: list[str]


class _Slices(NamedTuple):
    """The slices of a scan as they were written, and what is known of them."""

    images: Sequence[np.ndarray]  # uint8 (S, S)
    digests: list[bytes]  # of what was read
    content: tuple[int, int, int, int]
    affine: np.ndarray | None
    place: dict[str, Any]
    notes: list[str]


def convert(plan: Plan, out: str | os.PathLike, skip_bad: bool = False) -> Report:
    """Write the slices of a plan. Slices that are there already are kept.

    Slices are 8-bit grey PNG files, named as `sources.layout` says, and `dataset.json` tells what
    is known of them. With `like` they lie in `out` itself.

    Args:
        plan: What to do.
        out: Folder to write. It is new, empty, or from the same conversion.
        skip_bad: As for `make_plan`.

    Raises:
        InputError: A file cannot be used, or `out` holds something else. What this call wrote is
            removed then, unless it continued another one.
    """
    out = pathlib.Path(out)
    skip_bad = skip_bad or plan.inputs.unit == "volume"
    with _claimed(out, plan):
        ranges = _ranges(plan, skip_bad)

        def write(scan):
            return _write_scan(plan, scan, out, ranges)

        written = zip(
            plan.scans, in_threads(write, plan.scans, "slicing", "scan", plan.inputs.workers)
        )
        return _finish(plan, out, written, skip_bad)


def _group(plan, scan):
    """What shares its range of grey values with a scan. None is nothing, so it has its own."""
    scale = plan.settings["scale"]
    if scale == "set":
        return ""
    is_single = plan.inputs.unit == "image" and len(scan.files) == 1
    return scan.subject if scale == "subject" and is_single else None


def _ranges(plan, skip_bad):
    """Range of grey values of each group of scans, found in some of them."""
    if plan.settings["range"]:  # of the set that these become like
        return {"": GreyRange(*plan.settings["range"])}
    groups, ranges = collections.defaultdict(list), {}
    for scan in plan.scans:
        groups[_group(plan, scan)].append(scan)
    groups.pop(None, None)
    for group, scans in groups.items():
        chosen = [scans[i] for i in spread(len(scans), MEASURED)]
        ranges[group] = grey_range(_images(plan, chosen, skip_bad))
    if plan.settings["scale"] == "set":
        plan.settings["range"] = list(ranges[""])
    return ranges


def _images(plan, scans, skip_bad):
    """Yield the images of some scans. What cannot be read is reported when it is to be written."""
    for stack in in_threads(plan.inputs.read, scans, "reading", "scan", plan.inputs.workers):
        if not isinstance(stack, InputError):
            yield from stack.images
        elif not skip_bad:
            raise stack


def _write_scan(plan, scan, out, ranges):
    """Read a scan and write its slices."""
    stack, settings, digests = plan.inputs.read(scan), plan.settings, []
    for image in stack.images:
        is_flat = image.min() == image.max()  # black slices are alike, and mean nothing
        digests.append(
            b""
            if is_flat
            else hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        )
    side, fit = settings["side"], settings["fit"]
    greys, notes = _grey(plan, stack, ranges.get(_group(plan, scan)))
    is_volume = plan.inputs.unit == "volume"  # its pixels have a size in millimetres
    images, contents = zip(*(fit_square(grey, side, fit, not is_volume) for grey in greys))
    if is_volume and not np.any(images):
        raise InputError(f"{plan.source}/{scan.name}: all of its slices are black: leave it out.")
    folder = split_folder(out, scan.split) if scan.split else out
    for level, image in zip(stack.levels, images):
        path = folder / slice_name(scan.case, level)
        if not path.is_file():
            write_png(path, image)
    notes = [*stack.notes, *notes, *suspicious(greys)]
    affine = stack.affine
    if affine is not None:
        kept = centre_square(greys[0], side) if fit == "crop" else greys[0]
        affine = _moved(affine, greys[0].shape, kept.shape, contents[0])
    if fit == "crop":
        lost = max(share_lost(grey, centre_square(grey, side)) for grey in greys)
        notes += [f"{lost:.0%} of a slice is cut off by --fit crop"] if lost > LOST else []
    return _Slices(images, digests, _union(contents), affine, stack.place, notes)


def _moved(affine, shape, kept, content):
    """Affine of slices `(H, W)` whose middle, of the shape `kept`, became the part `content`."""
    first, last = np.reshape(content, (2, 2))
    steps = np.divide(kept, last - first)
    offset = np.subtract(shape, kept) // 2 + (0.5 - first) * steps - 0.5
    return moved_affine(affine, (*offset, 0), (*steps, 1))


def _grey(plan, stack, grey):
    """Images of a stack as uint8, by a range that is given or their own, and notes."""
    scale, is_volume = plan.settings["scale"], plan.inputs.unit == "volume"
    if scale == "slice" and is_volume and plan.settings["space"] == "oasis":
        negative = np.mean(
            [np.mean(image[image != 0] < 0) for image in stack.images if image.any()]
        )
        lost = f"{negative:.0%} of its voxels are negative and become black: --scale subject"
        return scale_to_grey(np.stack(stack.images)), [lost] if negative > LOST else []
    if scale == "slice":
        return [to_grey_values(image, grey_range([image])) for image in stack.images], []
    grey = grey or grey_range(stack.images)
    return [to_grey_values(image, grey) for image in stack.images], []


def _union(boxes):
    """The smallest box that holds all boxes: first row, first column, row and column after."""
    tops, lefts, bottoms, rights = zip(*boxes)
    return min(tops), min(lefts), max(bottoms), max(rights)


# ---- the set -------------------------------------------------------------------------------------


def _finish(plan, out, written, skip_bad):
    """Go through the slices of all scans, and write the facts of the set."""
    cases, counts, contents, affines, notes = {}, collections.Counter(), [], [], []
    shown, sheet, sample, leaks = _shown(plan), [], [], _Leaks()
    every, seen = max(1, sum(len(scan.files) for scan in plan.scans) // MIRRORED), 0
    for scan, slices in written:
        if isinstance(slices, InputError):
            if not skip_bad:
                raise slices
            plan.problems.append(str(slices))
            continue
        case = cases[scan.case] = _entry(scan)
        if slices.affine is not None:
            case |= {"affine": slices.affine.tolist(), "volume": slices.place}
            affines.append(slices.affine)
        counts[scan.split] += len(slices.images)
        contents.append(slices.content)
        notes += [f"case {scan.case:03d} ({scan.name}): {note}" for note in slices.notes]
        leaks.add(scan, slices.digests)
        middle = slices.images[len(slices.images) // 2]
        if scan.case in shown:
            label = f"{scan.case:03d} {scan.subject}\n{scan.attributes.get('class', '')}"
            sheet.append((middle, label.strip()))
        if seen // every != (seen := seen + len(slices.images)) // every:
            sample.append(middle)
    if not cases:
        what = "volume" if plan.inputs.unit == "volume" else "image"
        raise InputError(f"{plan.source}: no {what} could be used. {' '.join(plan.problems[:3])}")
    facts = _facts(plan, out, cases, sample, _union(contents), affines)
    if not plan.like:
        contact_sheet(out / PREVIEW, *zip(*sheet))  # beside slices of one folder it would be one
    write_facts(out, facts)
    return Report(facts, dict(counts), [*leaks.notes(), *notes], plan.problems)


def _entry(scan):
    name = {} if scan.name == scan.subject else {"scan": scan.name}
    return {"subject": scan.subject, "split": scan.split, **name, **scan.attributes}


def _shown(plan):
    """Cases for the contact sheet, some of each class."""
    classes = collections.defaultdict(list)
    for scan in plan.scans:
        classes[scan.attributes.get("class")].append(scan.case)
    each = max(SHOWN, SHOWN_IN_ALL // len(classes))
    return {cases[i] for cases in classes.values() for i in spread(len(cases), each)}


class _Leaks:
    """Images that are in two splits."""

    def __init__(self):
        self.first, self.found = {}, collections.defaultdict(list)

    def add(self, scan, digests):
        for digest, (path, _) in zip(digests, scan.files * len(digests)):
            split, other = self.first.setdefault(digest, (scan.split, path))
            if digest and split != scan.split:
                splits = sorted((split, scan.split), key=SPLITS.index)
                self.found[tuple(splits)].append((other, path))

    def notes(self):
        for (one, other), pairs in self.found.items():
            count, (first, second) = len(pairs), pairs[0]
            yield (
                f"LEAK: {count} images of {other} are in {one} too, such as {first} and {second}: "
                "remove the copies, or figures of these splits flatter"
            )


def _facts(plan, out, cases, sample, content, affines):
    """Facts of the set that was written."""
    settings, side = plan.settings, plan.settings["side"]
    name = settings["name"] or out.resolve().name
    about = {"cases": cases, "settings": settings}
    if plan.like:
        return dataclasses.replace(plan.like, name=name, cohort=None, **about)
    affine = tuple(map(tuple, np.median(affines, axis=0).tolist())) if affines else None
    if settings["space"] != "oasis":
        return DataFacts(
            name=name,
            side=side,
            levels=settings["levels"],
            mirror=find_mirror(sample),
            residue=False,
            brain=False,
            content=None if content == (0, 0, side, side) else content,
            affine=affine,
            **about,
        )
    is_disc = settings["kind"] == "oasis1"
    name = settings["name"] or ("OASIS" if is_disc else name)
    name += ", brain-masked" * (settings["masked"] and not settings["name"])
    affine = OASIS_AFFINE if settings["first_slice"] is None else affine
    masked = settings["masked"] if is_disc else None
    return DataFacts(name, masked=masked, levels=settings["levels"], affine=affine, **about)


@contextlib.contextmanager
def _claimed(out, plan):
    """Make `out` the folder of this conversion, or check that it is.

    Otherwise a subject could change its split when a conversion is continued. If nothing comes of
    a conversion, nothing stays that would be in the way of the next one.
    """
    source, is_new = pathlib.Path(plan.source), not out.exists()
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out} lies in {source}, which stays as it is: name another --out.")
    files = [(scan.name, scan.subject, scan.split, scan.files) for scan in plan.scans]
    plan.settings["files"] = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    if (out / FACTS_FILE).is_file():
        if _claim(read_facts(out).settings) != _claim(plan.settings):
            other = "a conversion of other files or with other settings"
            raise InputError(f"{out} holds {other}: repeat those, or name another --out.")
        is_first = False
    elif out.is_file() or any(out.glob("[!.]*")):
        raise InputError(f"{out} exists and is no unfinished conversion: name another --out.")
    else:
        is_first = True
        cases = {scan.case: _entry(scan) for scan in plan.scans}
        write_facts(out, DataFacts(side=plan.settings["side"], cases=cases, settings=plan.settings))
    for leftover in (*out.glob(PARTIAL_FILES), *out.glob(f"*/{PARTIAL_FILES}")):
        leftover.unlink()  # of a conversion that was killed
    try:
        yield
    except (InputError, OSError) as error:
        nothing = not any(out.glob("case_*")) and not any(out.glob("*/case_*"))
        if is_first and (nothing or isinstance(error, InputError)):
            _clear(out, plan.like, is_new)
        raise


def _claim(settings):
    """What must be the same where a conversion is continued."""
    return json.dumps({**settings, "range": None}, sort_keys=True)


def _clear(out, is_flat, is_new):
    """Remove what a conversion wrote."""
    for folder in (split_folder(out, split) for split in SPLITS):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (*(out.glob("case_*") if is_flat else ()), out / PREVIEW, out / FACTS_FILE):
        path.unlink(missing_ok=True)
    if is_new and not any(out.iterdir()):
        out.rmdir()


# ---- one volume ----------------------------------------------------------------------------------


def write_slices(
    volume: pathlib.Path,
    folder: pathlib.Path,
    facts: DataFacts,
    axcodes: str | None = None,
) -> dict[str, Any]:
    """Write the slices of one volume, like those of a set, as case 0.

    Args:
        volume: File of the volume.
        folder: Folder to write to.
        facts: What is known of the set.
        axcodes: See `ConversionSettings`.

    Returns:
        What `dataset.json` would say of the case: its `affine`, and `volume`.

    Raises:
        InputError: The volume cannot be read or does not hold the slices.
    """
    plan = make_plan(volume, ConversionSettings("nifti", axcodes=axcodes), like=facts)
    (scan,) = plan.scans
    slices = _write_scan(plan, dataclasses.replace(scan, case=0), folder, _ranges(plan, False))
    return {"affine": slices.affine.tolist(), "volume": slices.place}
