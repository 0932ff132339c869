"""Brain volumes below a folder -> a data folder of slices.

A conversion finds the scans, puts every subject into one split, and writes the slices of each scan.
It leaves out what cannot be read, and lists it. `sources.volumes` turns one volume into slices.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from sources.images import write_png
from sources.layout import CONVERSION_FILE, NUM_LEVELS, SPLITS, slice_name, split_folder
from sources.volumes import load_disc_volume, load_volume, oasis_slices, scale_to_grey
from utils import PARTIAL_FILES, InputError, progress, read_json, reading, write_json

FRACTIONS = (302.0, 35.0, 17.0)  # subjects of the splits in the set that this layout comes from
REPEAT = 1000  # added to the case of a subject's second scan: OAS1_0061_MR2 is case 1061
ARCHIVES = (".tar", ".tar.gz", ".tgz")

# Files of volumes. On the OASIS-1 discs a volume is an Analyze 7.5 pair; its header stands for it.
_OASIS1 = re.compile(r"(OAS1_\d{4}_MR[1-9])_mpr_n\d+_anon_111_t88_(?:masked_)?gfc\.hdr", re.ASCII)
# A NIfTI file that ends in _seg, _fseg or _dseg holds tissue classes, and is no volume.
_NIFTI = re.compile(r"([^.].*?)(?<!_seg)(?<!_[fd]seg)\.nii(?:\.gz)?")
# Names of subjects in BIDS, OASIS and ADNI. Without one, every volume is a subject.
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+|OAS\d_?\d{4}|\d{3}_S_\d{4}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
    """Settings of a conversion. The same input and settings give the same bytes.

    Attributes:
        masked: Take the brain-masked volumes (`masked_` in the name), not those with scalp.
        first_slice: Voxel level of slice 0, counted from 0 at the bottom. None takes the level of
            the published slices.
        seed: Seed of the split into train, validate and test, not negative.
        fractions: Shares of the subjects in the three splits, in any unit.
        nifti: Look for NIfTI volumes, not for the OASIS-1 discs. They have voxels of 1 mm and
            their origin at the anterior commissure.
    """

    masked: bool = False
    first_slice: int | None = None
    seed: int = 0
    fractions: Sequence[float] = FRACTIONS
    nifti: bool = False


@dataclasses.dataclass(frozen=True)
class Scan:
    """A volume to slice.

    Attributes:
        name: Name of the scan.
        subject: Who was scanned.
        case: Number in the names of its slices.
        split: Split of its subject.
        volume: File of the volume.
    """

    name: str
    subject: str
    case: int
    split: str
    volume: pathlib.Path


def convert(
    directory: str | os.PathLike,
    out: str | os.PathLike,
    settings: ConversionSettings = ConversionSettings(),
) -> tuple[list[Scan], list[str]]:
    """Write the slices of all volumes below a folder. Slices that are there already are kept.

    Slices are 8-bit grey PNG files, 256 x 256, at levels 0 (bottom) to 31, as `sources.layout`
    names them. `conversion.json` tells the scan, subject and split of each case.

    Args:
        directory: Folder with unpacked OASIS-1 discs, or with NIfTI volumes.
        out: Folder to write. It is new, empty, or from the same conversion.
        settings: What to look for and how to slice it.

    Returns:
        The scans that are in `out`, and a line for each file that could not be used.

    Raises:
        InputError: There is nothing to convert, a setting makes no sense, or `out` holds something
            else.
    """
    out = pathlib.Path(out)
    scans = _find_scans(pathlib.Path(directory), settings)
    _claim(out, scans, settings)
    written, problems = [], []
    for scan in progress(scans, "slicing", unit="scan"):
        folder = split_folder(out, scan.split)
        try:
            if not all(path.is_file() for path in _slice_paths(folder, scan.case)):
                write_slices(scan.volume, folder, scan.case, settings.first_slice)
            written.append(scan)
        except InputError as error:
            problems.append(str(error))
    if not written:
        raise InputError(f"{directory}: no volume could be used. {' '.join(problems)}")
    return written, problems


def write_slices(
    volume: pathlib.Path, folder: pathlib.Path, case: int = 0, first_slice: int | None = None
) -> None:
    """Write the slices of one volume as PNGs.

    Args:
        volume: Header of an Analyze pair, or file `.nii` or `.nii.gz`, of 1 mm in a standard space.
        folder: Folder to write to.
        case: Number in the names of the slices.
        first_slice: See `ConversionSettings`.

    Raises:
        InputError: The volume cannot be read or does not hold the slices.
    """
    with reading(volume, "repair it or leave it out"):
        load = load_disc_volume if volume.suffix == ".hdr" else load_volume
        images = scale_to_grey(oasis_slices(load(volume), first_slice).images)
        black = np.count_nonzero(~images.any((1, 2)))
        if black:  # training would refuse such slices
            raise ValueError(f"{black} of its slices are all black or no numbers")
    for path, image in zip(_slice_paths(folder, case), images, strict=True):
        write_png(path, image)


def _slice_paths(folder, case):
    return [folder / slice_name(case, level) for level in range(NUM_LEVELS)]


# ---- finding -----------------------------------------------------------------------------------


def _find_scans(directory, settings):
    """The scans below a folder, sorted by name and numbered, each subject in one split."""
    volumes = _find_volumes(directory, settings)
    if not volumes:
        raise InputError(_nothing_found(directory, settings))
    matches = {name: _SUBJECT.search(name) for name in sorted(volumes)}
    subjects = {name: match[0] if match else name for name, match in matches.items()}
    split_of = split_subjects(subjects.values(), settings.fractions, settings.seed)
    scans = {}
    for number, (name, subject) in enumerate(subjects.items(), 1):
        case = number if settings.nifti else int(name[5:9]) + REPEAT * (int(name[-1]) - 1)
        if case in scans:  # then a subject could be in two splits
            raise InputError(
                f"{scans[case].name} and {name} would both become case {case}: "
                "convert them into different folders."
            )
        scans[case] = Scan(name, subject, case, split_of[subject], volumes[name])
    return list(scans.values())


def _find_volumes(directory, settings):
    """Files of volumes by the name of the scan."""
    pattern, volumes = _NIFTI if settings.nifti else _OASIS1, {}
    for path in sorted(directory.rglob("*")):  # of two files of one scan, the first is taken
        match = pattern.fullmatch(path.name)
        if match and path.is_file() and ("masked_" in path.name) == settings.masked:
            name = match[1]
            if settings.nifti:
                plain = path.with_name(name.replace("masked_", ""))
                name = plain.relative_to(directory).as_posix()
            volumes.setdefault(name, path)
    return volumes


def _nothing_found(directory, settings):
    analyze = "OASIS-1 volumes (OAS1_*_anon_111_t88_*gfc.hdr and .img)"
    needed = "NIfTI volumes (*.nii, *.nii.gz)" if settings.nifti else analyze
    if not directory.is_dir():
        return f"{directory} is no folder: give the one that holds the {needed}."
    archives = [path for path in directory.rglob("*") if path.name.endswith(ARCHIVES)]
    if archives:
        return f"{directory} holds archives: unpack {archives[0]} and the like first (tar -xf)."
    kind = "with masked_ in the name" if settings.masked else "without masked_ in the name"
    return f"{directory} holds no {needed} {kind}: give the folder above them, or change --masked."


def split_subjects(
    subjects: Iterable[str], fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Put every subject into one split.

    Sizes go by largest remainder. A split that has a share is not left empty if another can give.

    Args:
        subjects: Names, each as often as the subject was scanned.
        fractions: Shares of the subjects in the three splits, in any unit.
        seed: Seed of the order of the subjects, not negative.

    Raises:
        InputError: A setting makes no sense.
    """
    if not (min(fractions) >= 0 and 0 < sum(fractions) < float("inf")):
        given = " ".join(map(str, fractions))
        raise InputError(f"--fractions {given} are no shares: give 302 35 17 or 0.8 0.1 0.1.")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative: give 0 or more.")
    subjects = sorted(set(subjects))
    sizes = _split_sizes(len(subjects), fractions)
    order = np.random.default_rng(seed).permutation(len(subjects))
    names = np.repeat(SPLITS, sizes).tolist()
    return {subjects[i]: name for i, name in zip(order, names)}


def _split_sizes(count, fractions):
    exact = np.array(fractions) / sum(fractions) * count
    sizes = np.floor(exact).astype(int)
    largest_remainders = np.argsort(sizes - exact, kind="stable")
    sizes[largest_remainders[: count - sizes.sum()]] += 1
    for split, fraction in enumerate(fractions):
        if fraction and not sizes[split] and sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[split] += 1
    return sizes


# ---- the folder --------------------------------------------------------------------------------


def _claim(out, scans, settings):
    """Make `out` the folder of this conversion, or check that it is.

    Otherwise a subject could change its split when a conversion is continued.
    """
    cases = {
        f"{scan.case:03d}": {"scan": scan.name, "subject": scan.subject, "split": scan.split}
        for scan in scans
    }
    as_json = {**dataclasses.asdict(settings), "fractions": list(settings.fractions)}
    manifest, path = {"settings": as_json, "cases": cases}, out / CONVERSION_FILE
    if path.is_file():
        if read_json(path, advice="name another --out") != manifest:
            other = "a conversion of other volumes or with other settings"
            raise InputError(f"{out} holds {other}: repeat those, or name another --out.")
    elif out.is_file() or any(out.glob("[!.]*")):
        raise InputError(f"{out} exists and is no unfinished conversion: name another --out.")
    else:
        write_json(path, manifest)
    for leftover in out.glob(f"*/{PARTIAL_FILES}"):  # of a conversion that was killed
        leftover.unlink()
