"""Find the scans in folders and archives, and read their files.

A scan is a volume, and the tissue classes of its voxels where there are any. OASIS-1 discs hold
scans as Analyze 7.5 pairs, other studies as NIfTI files.
"""

import collections
import dataclasses
import functools
import pathlib
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence

from sources.layout import (
    NUM_LEVELS,
    segmentation_folder,
    segmentation_name,
    slice_name,
    split_folder,
)
from sources.volumes import MAX_BYTES
from utils import InputError, progress

ARCHIVES = (".tar", ".tar.gz", ".tgz")
REPEAT = 1000  # added to the case of a subject's second scan: OAS1_0061_MR2 is case 1061

_ANALYZE = re.compile(
    r"(?P<stem>OAS1_\d{4}_MR[1-9])_mpr_n\d+_anon_111_t88_(?:masked_)?gfc"
    r"(?P<classes>_fseg)?\.(?P<part>hdr|img)",
    re.ASCII,
)
_NIFTI = re.compile(r"(?P<stem>[^.].*?)(?P<classes>_[fd]?seg)?\.(?P<part>nii|nii\.gz)")
# Names of subjects in BIDS, OASIS and ADNI. Without one, every volume is a subject.
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+|OAS\d_?\d{4}|\d{3}_S_\d{4}", re.ASCII)
_UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error)


@dataclasses.dataclass
class Scan:
    """A volume to slice, and its tissue classes where they are known.

    Attributes:
        name: Name of the scan.
        subject: Who was scanned.
        container: Folder or archive that holds the files.
        files: Name in the container of each part: `hdr` and `img`, or `nii`, or `nii.gz`.
        classes: The same for the tissue classes.
        case: Number in the names of its slices.
        split: Split of its subject.
    """

    name: str
    subject: str
    container: pathlib.Path
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    case: int = 0
    split: str = ""

    def slice_paths(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Files of its slices in the data folder `out`."""
        folder = split_folder(out, self.split)
        return [folder / slice_name(self.case, level) for level in range(NUM_LEVELS)]

    def segmentation_paths(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Files of the tissue classes of its slices in the data folder `out`."""
        folder = segmentation_folder(out, self.split)
        return [folder / segmentation_name(self.case, level) for level in range(NUM_LEVELS)]

    def is_segmented(self, out: pathlib.Path) -> bool:
        """Whether `out` holds its tissue classes."""
        return all(path.is_file() for path in self.segmentation_paths(out))

    def is_written(self, out: pathlib.Path) -> bool:
        """Whether `out` holds all that the scan can give."""
        has_slices = all(path.is_file() for path in self.slice_paths(out))
        return has_slices and (not self.classes or self.is_segmented(out))


def find_scans(directory: pathlib.Path, masked: bool, nifti: bool) -> tuple[list[Scan], list[str]]:
    """Find the scans below a folder and in its archives, and number them.

    Args:
        directory: Folder to look through.
        masked: Take the brain-masked volumes, not those with scalp.
        nifti: Look for NIfTI volumes, not for the OASIS-1 discs.

    Returns:
        The scans sorted by name, and a line for each place or volume that is damaged.

    Raises:
        InputError: Two scans would get the same case.
    """
    scans, classes, problems = {}, {}, []  # by key; by container and key
    containers = [directory, *_archives(directory)]
    for container in progress(containers, "looking for volumes", unit="place"):
        try:
            for key, part, has_classes, name in _volume_files(container, masked, nifti):
                if has_classes:
                    classes.setdefault((container, key), {}).setdefault(part, name)
                    continue
                scan = scans.setdefault(key, Scan(key, _subject(key), container))
                if scan.container == container:  # a scan is taken from the first place that has it
                    scan.files.setdefault(part, name)
        except _UNREADABLE as error:
            remedy = "only what lies before it is used"
            problems.append(f"{container} is damaged from some point on ({error}): {remedy}.")
    _attach_classes(scans, classes)
    in_order = [scans[key] for key in sorted(scans)]
    for number, scan in enumerate(in_order, 1):
        if not nifti:
            problems += _drop_halves(scan)
        scan.case = number if nifti else _oasis1_case(scan.name)
    _refuse_shared_cases(in_order)
    return [scan for scan in in_order if scan.files], problems


def _refuse_shared_cases(scans):
    """A case that stood for two scans could put a subject into two splits."""
    owners = {}
    for scan in scans:
        other = owners.setdefault(scan.case, scan)
        if other is not scan:
            raise InputError(
                f"{other.name} and {scan.name} would both become case {scan.case}: "
                "convert them into different folders."
            )


def _archives(directory):
    return sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name.endswith(ARCHIVES)
    )


def _files(container) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield name and reader of the regular files of a folder or an archive.

    Members of an archive are read in memory. They are never unpacked to a path of their own.
    """
    if container.is_dir():
        for path in sorted(container.rglob("*")):
            if path.is_file():
                yield path.relative_to(container).as_posix(), path.read_bytes
    else:
        with tarfile.open(container, "r|*") as archive:
            for member in archive:
                if member.isfile() and member.size <= MAX_BYTES:
                    yield member.name, functools.partial(_read_member, archive, member)


def _read_member(archive, member):
    return archive.extractfile(member).read()


def _volume_files(container, masked, nifti):
    """Yield `(key of the scan, part, whether it holds classes, name)` of each file of a volume."""
    pattern = _NIFTI if nifti else _ANALYZE
    for name, _ in _files(container):
        path = pathlib.PurePosixPath(name)
        match = pattern.fullmatch(path.name)
        if match and (match["classes"] or ("masked_" in path.name) == masked):
            stem = match["stem"]
            key = str(path.with_name(stem.replace("masked_", ""))) if nifti else stem
            yield key, match["part"], bool(match["classes"]), name


def _subject(key):
    match = _SUBJECT.search(key)
    return match[0] if match else key


def _attach_classes(scans, classes):
    """Give each scan its tissue classes: from its own folder, else by its name, if it is unique.

    They may be in another folder, as on the discs.
    """
    counts = collections.Counter(_last_part(key) for key in scans)
    by_name = {(place, _last_part(key)): files for (place, key), files in classes.items()}
    for key, scan in scans.items():
        scan.classes = classes.get((scan.container, key), {})
        if not scan.classes and counts[_last_part(key)] == 1:
            scan.classes = by_name.get((scan.container, _last_part(key)), {})


def _last_part(key):
    return pathlib.PurePosixPath(key).name


def _drop_halves(scan):
    """Drop a header without its image, and an image without its header. Return the problems."""
    problems = []
    for files in (scan.files, scan.classes):
        if len(files) == 1:
            half = min(files.values())
            problems.append(f"{half} in {scan.container} lacks its other half, .hdr or .img.")
            files.clear()
    return problems


def _oasis1_case(name):
    """Case of `OAS1_0061_MR2`: the number of the subject, and `REPEAT` for each earlier scan."""
    return int(name[5:9]) + REPEAT * (int(name[-1]) - 1)


def read_scans(
    container: pathlib.Path, scans: Sequence[Scan], problems: list[str]
) -> Iterator[tuple[Scan, dict[str, bytes]]]:
    """Read a folder or an archive once, and yield each scan when its last file has come by.

    Args:
        container: Folder or archive.
        scans: Scans in it to read.
        problems: Gets a line for each scan that cannot be read.

    Yields:
        `(scan, {name of a file: its bytes})`.
    """
    owners = {
        name: scan for scan in scans for name in (*scan.files.values(), *scan.classes.values())
    }
    missing = collections.Counter(scan.name for scan in owners.values())
    contents = {scan.name: {} for scan in scans}
    reason = "it is gone"
    try:
        for name, read in _files(container):
            scan = owners.pop(name, None)
            if scan and scan.name in contents:
                content = _read_or_note(container, name, read, problems)
                if content is None:
                    del contents[scan.name]
                    continue
                contents[scan.name][name] = content
                missing[scan.name] -= 1
                if not missing[scan.name]:
                    yield scan, contents.pop(scan.name)
            if not owners:
                break
    except _UNREADABLE as error:
        reason = error
    problems.extend(f"{name} in {container} could not be read: {reason}." for name in contents)


def _read_or_note(container, name, read, problems):
    """Bytes of a file, or None and a problem. In an archive the error goes on to the caller."""
    try:
        return read()
    except OSError as error:
        if not container.is_dir():  # the rest of a damaged archive is lost, that of a folder is not
            raise
        problems.append(f"{name} in {container} could not be read: {error}.")
        return None
