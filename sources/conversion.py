"""A folder of pictures or volumes -> a data folder of slices.

`make_plan` finds out what is in a folder, puts every subject into one split, and decides on levels,
size and scale. `convert` writes the slices of each scan. `sources.inputs` reads the files.
"""

import collections
import contextlib
import dataclasses
import hashlib
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
from sources.inputs import (
    OASIS_SLICES,
    Discs,
    Pictures,
    Scan,
    Stack,
    Volumes,
    in_threads,
    relative_places,
)
from sources.layout import SPLITS, slice_name, split_folder
from sources.names import Rules
from sources.scaling import (
    centre_square,
    contact_sheet,
    find_mirror,
    fit_square,
    grey_range,
    scale_to_grey,
    share_lost,
    suspicious,
    to_grey_values,
)
from sources.splitting import FRACTIONS, complete_splits
from sources.volumes import PLANES, moved_affine
from utils import PARTIAL_FILES, InputError, refuse, spread

REPEAT = 1000  # added to the case of a subject's second scan: OAS1_0061_MR2 is case 1061
SHARED_NUMBERS = 0.9  # share of all numbers that most scans have where scans share them
SHOWN, SHOWN_IN_ALL = 4, 48  # cases of each class on the contact sheet at least; of all, if more
LOST = 0.05  # share of a slice that is lost with a note
MEASURED = 256  # scans of which a common range of grey values is found
FAST = 2  # compression of PNGs: half the time of the usual one, a tenth longer
PREVIEW = "preview.png"
# Settings that one more patient takes over from a set.
OF_A_SET = (
    "space", "plane", "spacing", "slice_spacing", "slices", "first_slice", "levels", "numbers",
    "side", "fit", "scale", "range",
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
        slice_spacing: Millimetres from slice to slice, between which they are interpolated. None:
            slices are those of the volumes.
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
    slice_spacing: float | None = None
    slices: Sequence[float] | None = None


class Plan(NamedTuple):
    """What a conversion will do.

    Attributes:
        inputs: Reads the files of the source.
        scans: What becomes a case.
        splits: How their splits came about.
        like: Facts of the set that slices become like, or None.
        problems: Files that cannot be used, a line each. More may come when slices are written.
    """

    inputs: Pictures | Volumes
    scans: list[Scan]
    splits: str
    like: DataFacts | None
    problems: list[str]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings, with all that was found. They go into `dataset.json`."""
        return self.inputs.settings


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
    problems, is_pictures = [], settings.kind == "images"
    found |= _settings_of(like, is_pictures) if like else {}
    if is_pictures:
        report = problems.append if skip_bad else refuse
        inputs = Pictures(source, found, report, like is not None and found["levels"] != 1)
    else:
        inputs = {"nifti": Volumes, "oasis1": Discs}[settings.kind](source, found, problems.append)
    usable, places = {place.path for place in inputs.look()}, inputs.understood.places
    if not usable:
        _refuse_all(inputs, problems)
    if len(places) == 1 and is_pictures and not like:
        one = f"{source} holds one image, {places[0].path}"
        raise InputError(f"{one}: training needs more; --like DATA makes it like a prepared set.")
    if is_pictures:
        stacks = _with_levels(_stacks(places, found["levels"]), found, inputs.understood.notes)
    else:
        names = sorted((inputs.name_of(place), place) for place in places)
        stacks = {(name,): [(place, 0)] for name, place in names}
    # Files that cannot be used are counted too, so that nothing changes if one is repaired.
    scans, splits = _scans(stacks, settings, like)
    found["scans"] = hashlib.sha256(json.dumps(scans).encode()).hexdigest()
    scans = [scan for scan in scans if usable & {path for path, _ in scan.files}]
    if found["scale"] is None:
        is_single = is_pictures and found["levels"] == 1
        found["scale"] = "set" if is_single else "slice" if found["space"] == "oasis" else "subject"
    return Plan(inputs, scans, splits, like, problems)


def _settings_of(facts, is_pictures):
    """Settings that one more patient takes over from a set."""
    if "space" in facts.settings:
        return {name: facts.settings.get(name) for name in OF_A_SET}
    if facts.brain:  # OASIS as handed out, or as a former version converted it
        return {**OASIS_SLICES, "scale": "slice"}
    settings = {"side": facts.side, "levels": facts.levels}
    if facts.affine and not is_pictures:  # of a set that was not converted here
        axes = "".join(nibabel.aff2axcodes(np.array(facts.affine)))
        plane = next((plane for plane, axcodes in PLANES.items() if axcodes == axes), None)
        if plane is None:
            raise InputError(
                f"slices of {facts.name} run to {axes}, which is none of the planes that volumes "
                "are cut into: make that set of its volumes with from-nifti --plane ..."
            )
        spacing = float(nibabel.affines.voxel_sizes(np.array(facts.affine))[0])
        settings |= {"space": "extent", "plane": plane, "spacing": spacing}
    return settings


def _refuse_all(inputs, problems):
    none = f"{inputs.source}: no {inputs.unit} could be used."
    raise InputError(" ".join([none, *problems[:3]]))


def _stacks(places, levels):
    """Pictures by the scan they belong to, from bottom to top. One without a level is alone.

    A scan whose levels stand in two splits is one stack if each of them is there once.
    """
    groups, stacks = collections.defaultdict(list), collections.defaultdict(list)
    for place in sorted(places, key=lambda place: (place.level or 0, place.path)):
        alone = place.level is None or levels == 1
        groups[(place.path, "") if alone else (place.subject, place.scan)].append(place)
    for scan in sorted(groups):
        is_whole = len({place.level for place in groups[scan]}) == len(groups[scan])
        for place in groups[scan]:
            stacks[*scan, "" if is_whole else place.split].append(place)
    return stacks


def _with_levels(stacks, settings, notes):
    """Decide which level each picture of the stacks becomes, or that it is left out.

    Where most scans share the numbers in their names, the n-th of these is level n. Else a slice
    takes its relative place in its stack.
    """
    numbers = settings["numbers"]  # of the set that these become like
    found = sorted({place.level for stack in stacks.values() for place in stack} - {None})
    typical = statistics.median(map(len, stacks.values()))
    if numbers is None and settings["levels"] in (None, len(found) or 1):
        numbers = found if typical >= SHARED_NUMBERS * len(found) else None
    elif numbers is not None and not set(found) <= set(numbers):
        numbers = None
    if numbers is not None:
        settings |= {"numbers": numbers, "levels": len(numbers) or 1}
        index = {number: level for level, number in enumerate(numbers)} | {None: 0}
        return {name: [(p, index[p.level]) for p in stack] for name, stack in stacks.items()}
    most = settings["levels"] = settings["levels"] or round(typical)
    chosen = {}
    for name, stack in stacks.items():
        taken = relative_places(min(most, len(stack)), len(stack))
        levels = relative_places(len(taken), most)
        chosen[name] = [(stack[i], level) for i, level in zip(taken, levels)]
    left_out = sum(map(len, stacks.values())) - sum(map(len, chosen.values()))
    of = "those of the set" if settings["numbers"] else "one stack to the next"
    how = f"numbers differ from {of}: slices take their relative place in {most} levels"
    short = sum(len(stack) < most for stack in stacks.values())
    how += f", {short} shorter stacks leave some out" if short else ""
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
    fractions, seed = settings.fractions, settings.seed
    split_of, how = complete_splits(given, classes, fractions, seed, settings.resplit)
    return [scan._replace(split=split_of[scan.subject]) for scan in scans.values()], how


# ---- slices --------------------------------------------------------------------------------------


class Report(NamedTuple):
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


class _Written(NamedTuple):
    """What was written of a scan."""

    stack: Stack  # images are uint8 (S, S), notes are those of the conversion too
    digests: list[bytes]  # of the images as they were read; of flat ones there are none
    boxes: list[tuple[int, int, int, int]]  # their parts that are no padding


def convert(plan: Plan, out: str | os.PathLike) -> Report:
    """Write the slices of a plan. Slices that are there already are kept.

    Slices are 8-bit grey PNG files, named as `sources.layout` says, and `dataset.json` tells what
    is known of them. With `like` they lie in `out` itself.

    Args:
        plan: What to do.
        out: Folder to write. It is new, empty, or from the same conversion.

    Raises:
        InputError: A file cannot be used, or `out` holds something else. What this call wrote is
            removed then, unless it continued another one.
    """
    out = pathlib.Path(out)
    with _claimed(out, plan):
        ranges = _ranges(plan)

        def write(scan):
            return _write_scan(plan, scan, out, ranges)

        return _finish(plan, out, in_threads(write, plan.scans, "slicing", plan.inputs))


def _ranges(plan):
    """Range of grey values by case, for scans that share one. It is found in some of them."""
    scale, given = plan.settings["scale"], plan.settings["range"]  # that of a set to be like
    groups, ranges = collections.defaultdict(list), {}
    for scan in plan.scans:
        is_single = plan.inputs.unit == "image" and len(scan.files) == 1
        if scale == "set" or scale == "subject" and is_single:
            groups["" if scale == "set" else scan.subject].append(scan)
    for scans in groups.values():
        chosen = [] if given else [scans[i] for i in spread(len(scans), MEASURED)]
        stacks = in_threads(plan.inputs.read, chosen, "reading", plan.inputs)
        found = given or grey_range(image for _, stack in stacks for image in stack.images)
        ranges |= dict.fromkeys((scan.case for scan in scans), found)
        if scale == "set":
            plan.settings["range"] = list(found)
    return ranges


def _write_scan(plan, scan, out, ranges):
    """Read a scan and write its slices. None: there are none."""
    stack, settings = plan.inputs.read(scan), plan.settings
    if not len(stack.images):
        return None
    side, fit, is_volume = settings["side"], settings["fit"], plan.inputs.unit == "volume"
    greys = _grey(plan, stack.images, ranges.get(scan.case))
    # Pixels of volumes have a size in millimetres, so they are not enlarged.
    images, boxes = zip(*(fit_square(grey, side, fit, enlarge=not is_volume) for grey in greys))
    if is_volume and not np.any(images):
        black = f"{plan.inputs.source}/{scan.name}: all of its slices are black"
        raise InputError(f"{black}: leave it out.")
    folder = split_folder(out, scan.split) if scan.split else out
    for level, image in zip(stack.levels, images):
        path = folder / slice_name(scan.case, level)
        if not path.is_file():
            write_png(path, image, -1 if settings["space"] == "oasis" else FAST)
    kept = [centre_square(grey, side) if fit == "crop" else grey for grey in greys]
    notes = [*stack.notes, *suspicious(greys)]
    lost = max(share_lost(*pair) for pair in zip(greys, kept))
    if lost > LOST:
        notes.append(f"up to {lost:.0%} of a slice is cut off by --fit crop")
    if settings["space"] == "oasis" and settings["scale"] == "slice":
        negative = np.mean(np.concatenate([image[image != 0] for image in stack.images]) < 0)
        if negative > LOST:
            remedy = "" if plan.like else ": --scale subject"  # the scale is that of the set
            notes.append(f"{negative:.0%} of it is negative and becomes black{remedy}")
    affine = stack.affine
    if affine is not None:
        affine = _moved(affine, greys[0].shape, kept[0].shape, boxes[0])
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        if image.min() < image.max()
        else b""
        for image in stack.images
    ]
    return _Written(stack._replace(images=images, affine=affine, notes=notes), digests, boxes)


def _grey(plan, images, grey):
    """Images as uint8, by a range that is given or by their own."""
    if plan.settings["scale"] != "slice":
        grey = grey or grey_range(images)
        return [to_grey_values(image, grey) for image in images]
    if plan.settings["space"] == "oasis" and plan.inputs.unit == "volume":
        return scale_to_grey(np.stack(images))
    return [to_grey_values(image, grey_range([image])) for image in images]


def _moved(affine, shape, kept, content):
    """Affine of slices `(H, W)` whose middle, of the shape `kept`, became the part `content`."""
    first, last = np.reshape(content, (2, 2))
    steps = np.divide(kept, last - first)
    offset = np.subtract(shape, kept) // 2 + (0.5 - first) * steps - 0.5
    return moved_affine(affine, (*offset, 0), (*steps, 1))


# ---- the set -------------------------------------------------------------------------------------


def _finish(plan, out, written):
    """Go through the slices of all scans as they are written, and write the facts of the set."""
    cases, slices, boxes, affines, notes = {}, collections.Counter(), [], [], []
    owners, leaks, sheet, shown = {}, collections.defaultdict(list), [], _shown(plan.scans)
    before = read_facts(out).cases  # a table may have been added since
    for scan, done in written:
        if done is None:
            continue
        stack = done.stack
        cases[scan.case] = before.get(scan.case, {}) | _entry(scan)
        if stack.affine is not None:
            cases[scan.case] |= {"affine": stack.affine.tolist(), "volume": stack.place}
            affines.append(stack.affine)
        slices[scan.split] += len(stack.images)
        boxes += done.boxes
        notes += [f"case {scan.case:03d} ({scan.name}): {note}" for note in stack.notes]
        for digest, path in zip(done.digests, stack.paths):
            split, other = owners.setdefault(digest, (scan.split, path))
            if digest and split != scan.split:
                leaks[*sorted((split, scan.split), key=SPLITS.index)].append((other, path))
        if scan.case in shown:
            label = f"{scan.case:03d} {scan.subject}\n{scan.attributes.get('class', '')}"
            sheet.append((stack.images[len(stack.images) // 2], label.strip()))
    if not cases:
        _refuse_all(plan.inputs, plan.problems)
    facts = _facts(plan, out, cases, [image for image, _ in sheet], np.array(boxes), affines)
    if sheet and not plan.like:  # with `like` it would lie among slices
        contact_sheet(out / PREVIEW, *zip(*sheet))
    write_facts(out, facts)
    for (one, other), ((first, second), *more) in leaks.items():
        copies = f"{1 + len(more)} images of {other} are in {one} too, such as {first} and {second}"
        notes.insert(0, f"LEAK: {copies}: remove them, or figures of these splits flatter")
    return Report(facts, dict(slices), notes, sorted(set(plan.problems)))


def _entry(scan):
    name = {} if scan.name == scan.subject else {"scan": scan.name}
    return {"subject": scan.subject, "split": scan.split, **name, **scan.attributes}


def _shown(scans):
    """Cases to show, some of each class. The mirror axis is found in them, too."""
    classes = collections.defaultdict(list)
    for scan in scans:
        classes[scan.attributes.get("class")].append(scan.case)
    each = max(SHOWN, SHOWN_IN_ALL // len(classes))
    return {cases[i] for cases in classes.values() for i in spread(len(cases), each)}


def _facts(plan, out, cases, sample, boxes, affines):
    """Facts of the set that was written."""
    settings, side = plan.settings, plan.settings["side"]
    name, about = settings["name"] or out.resolve().name, {"cases": cases, "settings": settings}
    if plan.like:
        about["levels"] = settings["levels"]
        return dataclasses.replace(plan.like, name=name, masked=None, cohort=None, **about)
    about["affine"] = np.median(affines, axis=0).tolist() if affines else None
    if settings["space"] != "oasis":
        content = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
        about["content"] = None if content == (0, 0, side, side) else content
        about |= {"mirror": find_mirror(sample), "residue": False, "brain": False}
        return DataFacts(name, side, settings["levels"], **about)
    is_disc = settings["kind"] == "oasis1"
    if is_disc and not settings["name"]:
        name = "OASIS"
    name += ", brain-masked" * (settings["masked"] and not settings["name"])
    if settings["first_slice"] is None:
        about["affine"] = OASIS_AFFINE
    masked = settings["masked"] if is_disc else None
    return DataFacts(name, masked=masked, levels=settings["levels"], **about)


@contextlib.contextmanager
def _claimed(out, plan):
    """Make `out` the folder of this conversion, or check that it is.

    Otherwise a subject could change its split when a conversion is continued. If nothing comes of
    a conversion, nothing stays that would be in the way of the next one.
    """
    source, is_new = plan.inputs.source, not out.exists()
    if plan.inputs.unit == "image" and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out} lies in {source}, and would be read too: name another --out.")
    is_first = not (out / FACTS_FILE).is_file()
    if not is_first:
        if _claim(read_facts(out).settings) != _claim(plan.settings):
            other = "a conversion of other files or with other settings"
            raise InputError(f"{out} holds {other}: repeat those, or name another --out.")
    elif out.is_file() or any(out.glob("[!.]*")):
        raise InputError(f"{out} exists and is no unfinished conversion: name another --out.")
    else:
        cases = {scan.case: _entry(scan) for scan in plan.scans}
        write_facts(out, DataFacts(side=plan.settings["side"], cases=cases, settings=plan.settings))
    for leftover in out.rglob(PARTIAL_FILES):
        leftover.unlink()  # of a conversion that was killed
    try:
        yield
    except BaseException as error:  # a lack of memory and Ctrl-C, too
        if is_first and (isinstance(error, InputError) or not any(out.rglob("case_*"))):
            for path in out.glob("[!.]*"):  # there was nothing, so all is ours
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if is_new and not any(out.iterdir()):
                out.rmdir()
        raise


def _claim(settings):
    """What must be the same where a conversion is continued."""
    return json.dumps({**settings, "range": None}, sort_keys=True)
