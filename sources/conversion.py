"""Volumes in folders and archives -> a data folder of slices.

A conversion finds the scans, puts every subject into one split, and writes the slices of each scan.
It leaves out what cannot be read, and lists it. `sources.scans` finds and reads the files,
`sources.volumes` turns one volume into slices.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sources.layout import (
    CONVERSION_FILE,
    SPLITS,
    segmentation_folder,
    slice_name,
    split_folder,
)
from sources.scans import Scan, find_scans, read_scans
from sources.volumes import classes_to_grey, frame_slices, load_volume, scale_to_grey
from utils import InputError, progress, read_json, replacing, write_json

FRACTIONS = (302.0, 35.0, 17.0)  # subjects of the splits in the set that this layout comes from


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

    def as_json(self) -> dict:
        """The settings as `conversion.json` holds them."""
        return {**dataclasses.asdict(self), "fractions": list(self.fractions)}


def convert(
    directory: str | os.PathLike,
    out: str | os.PathLike,
    settings: ConversionSettings = ConversionSettings(),
) -> tuple[list[Scan], list[str]]:
    """Write the slices of all volumes below a folder. Slices that are there already are kept.

    Slices are 8-bit grey PNG files, 256 x 256, at levels 0 (bottom) to 31, as `sources.layout`
    names them. Where a volume has tissue classes, they are written beside the slices, as 0, 85, 170
    and 255. `conversion.json` tells the scan, subject and split of each case.

    Args:
        directory: Folder with OASIS-1 discs, unpacked or as archives, or with NIfTI volumes.
        out: Folder to write. It is new, empty, or from the same conversion.
        settings: What to look for and how to slice it.

    Returns:
        The scans that are in `out`, and a line for each file that could not be used.

    Raises:
        InputError: There is nothing to convert, a setting makes no sense, or `out` holds something
            else.
    """
    directory, out = pathlib.Path(directory), pathlib.Path(out)
    scans, problems = _find_some_scans(directory, settings)
    assign_splits(scans, settings.fractions, settings.seed)
    _claim(out, scans, settings)

    written = [scan for scan in scans if scan.is_written(out)]
    finished = {scan.name for scan in written}
    waiting = [scan for scan in scans if scan.name not in finished]
    loaded = _read_all(waiting, problems)
    for scan, contents in progress(loaded, "slicing", len(scans), "scan", initial=len(written)):
        if _write_scan(out, scan, contents, settings.first_slice, problems):
            written.append(scan)
    if not written:
        raise InputError(f"{directory}: no volume could be used. {' '.join(problems)}")
    return written, problems


def _read_all(scans, problems):
    """Yield each scan with the bytes of its files, container by container."""
    for container in sorted({scan.container for scan in scans}):
        inside = [scan for scan in scans if scan.container == container]
        yield from read_scans(container, inside, problems)


def _find_some_scans(directory, settings):
    if not directory.is_dir():
        needed = "NIfTI volumes" if settings.nifti else "OASIS-1 discs"
        raise InputError(f"{directory} is no folder: give the one that holds the {needed}.")
    scans, problems = find_scans(directory, settings.masked, settings.nifti)
    if not scans:
        analyze = "OASIS-1 volumes (OAS1_*_anon_111_t88_*gfc.hdr and .img)"
        needed = "NIfTI volumes (*.nii, *.nii.gz)" if settings.nifti else analyze
        kind = "with masked_ in the name" if settings.masked else "without masked_ in the name"
        advice = "give the folder above them, or change --masked"
        raise InputError(f"{directory} holds no {needed} {kind}: {advice}. {' '.join(problems)}")
    return scans, problems


# ---- splits ------------------------------------------------------------------------------------


def assign_splits(scans: Sequence[Scan], fractions: Sequence[float], seed: int) -> None:
    """Put every subject, with all its scans, into one split.

    Sizes go by largest remainder. A split that has a share is not left empty if another can give.

    Args:
        scans: Scans, whose `split` is set here.
        fractions: Shares of the subjects in the three splits, in any unit.
        seed: Seed of the order of the subjects, not negative.

    Raises:
        InputError: A setting makes no sense.
    """
    is_usable = len(fractions) == len(SPLITS) and min(fractions) >= 0
    if not (is_usable and 0 < sum(fractions) < float("inf")):
        given = " ".join(map(str, fractions))
        advice = "give three numbers, as in 302 35 17 or 0.8 0.1 0.1"
        raise InputError(f"--fractions {given} are no shares: {advice}.")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative: give 0 or more.")
    subjects = sorted({scan.subject for scan in scans})
    sizes = _split_sizes(len(subjects), fractions)
    order = np.random.default_rng(seed).permutation(len(subjects))
    names = np.repeat(SPLITS, sizes).tolist()
    split_of = {subjects[i]: name for i, name in zip(order, names)}
    for scan in scans:
        scan.split = split_of[scan.subject]


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


# ---- writing -----------------------------------------------------------------------------------


def _claim(out, scans, settings):
    """Make `out` the folder of this conversion, or check that it is.

    Otherwise a subject could change its split when a conversion is continued.
    """
    cases = {
        f"{scan.case:03d}": {"scan": scan.name, "subject": scan.subject, "split": scan.split}
        for scan in scans
    }
    manifest, path = {"settings": settings.as_json(), "cases": cases}, out / CONVERSION_FILE
    if path.is_file():
        if read_json(path, advice="name another --out") != manifest:
            other = "a conversion of other volumes or with other settings"
            raise InputError(f"{out} holds {other}: repeat those, or name another --out.")
    elif out.exists() and not (out.is_dir() and _is_empty(out)):
        raise InputError(f"{out} exists and is no unfinished conversion: name another --out.")
    else:
        write_json(path, manifest)
    _remove_leftovers(out)


def _remove_leftovers(out):
    """Remove the half-written files of a conversion that was killed."""
    for folder_of in (split_folder, segmentation_folder):
        for split in SPLITS:
            for leftover in folder_of(out, split).glob(".*.png"):
                leftover.unlink()


def _is_empty(folder):
    return all(entry.name.startswith(".") for entry in folder.iterdir())


def _write_scan(out, scan, contents, first_slice, problems):
    """Write the slices of a scan. Return False, and add to `problems`, if they cannot be made."""
    make = functools.partial(_make_slices, scan, contents, first_slice, problems)
    images = make(scan.files, _grey_without_gaps)
    classes = make(scan.classes, classes_to_grey) if scan.classes else None
    if images is None:
        return False
    _write_images(scan.slice_paths(out), images)
    if classes is not None:
        _write_images(scan.segmentation_paths(out), classes)
    return True


def _make_slices(scan, contents, first_slice, problems, files, to_grey):
    """Grey slices of a volume, or None and a problem."""
    try:
        volume, affine = load_volume({part: contents[name] for part, name in files.items()})
        return to_grey(frame_slices(volume, affine, first_slice))
    except Exception as error:  # a damaged header can make nibabel raise anything
        name = min(files.values())
        problems.append(f"{name} in {scan.container} could not be used: {error}.")
        return None


def write_slices(volume: pathlib.Path, folder: pathlib.Path) -> None:
    """Write the slices of one NIfTI volume as PNGs of case 0.

    Args:
        volume: File `.nii` or `.nii.gz`, of 1 mm in a standard space.
        folder: Folder to write to.

    Raises:
        InputError: The volume cannot be read or does not hold the slices.
    """
    part = "nii.gz" if volume.name.endswith(".gz") else "nii"
    content = volume.read_bytes()
    try:
        images = _grey_without_gaps(frame_slices(*load_volume({part: content})))
    except Exception as error:  # a damaged header can make nibabel raise anything
        raise InputError(f"{volume} could not be used: {error}.") from None
    paths = [folder / slice_name(0, level) for level in range(len(images))]
    _write_images(paths, images)


def _grey_without_gaps(slices):
    """Grey slices, none of which is all black: training would refuse such a one."""
    images = scale_to_grey(slices)
    black = np.flatnonzero(~images.any((1, 2)))
    if len(black):
        raise ValueError(f"{len(black)} of its slices are all black or no numbers")
    return images


def _write_images(paths, images):
    for path, image in zip(paths, images):
        with replacing(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
