"""Find a data folder, check every file of it, and list its slices. `sources.layout` shows a folder.

Training and evaluation open folders here. `sources.inspection` looks into one more closely.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from sources import synthetic
from sources.layout import (
    COHORT_FILE,
    CONVERSION_FILE,
    DEFAULT_DIRECTORY,
    SLICE_FORM,
    SLICE_NAME,
    SLICE_SIDE,
    SPLIT_FORMS,
    SPLITS,
    split_folder,
)
from sources.masking import are_masked, shows_scalp
from sources.png import check_pixels, describe_png
from utils import InputError, clean_name, progress, read_json

SLICE_FORMAT = f"{SLICE_SIDE} x {SLICE_SIDE} L"  # as `describe_png` says it
MAX_FILE_BYTES = 2**24  # of a slice
NO_SLICE = -1  # index where there is no slice
MAKE_AGAIN = "remove the folder and make it again"  # advice about a damaged JSON file in it


@dataclasses.dataclass(frozen=True)
class Split:
    """The slices of one split, sorted by case and level.

    A case is one scan. A subject may have several scans. Subjects are independent of each other,
    scans of the same subject are not.

    Attributes:
        name: Name of the split, or of the folder where it is opened alone.
        paths: File of each slice, (N,).
        cases: Case of each slice, int32 (N,).
        levels: Level of each slice, int32 (N,).
        subjects: Subject of each slice, str (N,).
        masked: Whether its set is brain-masked, so that residue is removed when slices are read.
    """

    name: str
    paths: tuple[str, ...]
    cases: np.ndarray
    levels: np.ndarray
    subjects: np.ndarray
    masked: bool = False

    def __len__(self):
        return len(self.paths)

    @property
    def below(self) -> np.ndarray:
        """Index of the slice one level below in the same case, int32 (N,), or `NO_SLICE`."""
        follows = (np.diff(self.cases) == 0) & (np.diff(self.levels) == 1)
        indices = np.arange(len(self), dtype="int32") - 1
        return np.where(np.append(False, follows), indices, NO_SLICE).astype("int32")

    def pick(self, indices: Sequence[int]) -> "Split":
        """Some of the slices, by their indices."""
        indices = np.asarray(indices)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in indices),
            cases=self.cases[indices],
            levels=self.levels[indices],
            subjects=self.subjects[indices],
        )

    def upward(self, batch_size: int) -> list[np.ndarray]:
        """Indices of all slices in batches, each slice in a later batch than the one below it.

        A batch holds slices of several cases, so that whoever reads the slices below can still take
        many slices at once.
        """
        below, height = self.below, np.zeros(len(self), int)
        for index in np.flatnonzero(below != NO_SLICE):
            height[index] = height[below[index]] + 1
        batches = []
        for number in range(height.max() + 1):
            here = np.flatnonzero(height == number)
            batches += np.split(here, range(batch_size, len(here), batch_size))
        return batches

    def stacks(self, levels: Sequence[int]) -> np.ndarray:
        """Indices of the slices at these levels of each case that has all of them, (M, K)."""
        places = {key: i for i, key in enumerate(zip(self.cases.tolist(), self.levels.tolist()))}
        rows = [[places.get((case, k), NO_SLICE) for k in levels] for case in np.unique(self.cases)]
        indices = np.array(rows).reshape(-1, len(levels))
        return indices[(indices != NO_SLICE).all(axis=1)]


@dataclasses.dataclass(frozen=True)
class Slices:
    """A data folder whose files were all checked.

    Attributes:
        name: What figures and reports call the data.
        splits: Each `Split` by its name.
        fingerprint: SHA-256 of the names and bytes of all slices.
        cohort: `subjects` and `seed` of a synthetic cohort, else None.
    """

    name: str
    splits: dict[str, Split]
    fingerprint: str
    cohort: dict | None = None

    @property
    def masked(self) -> bool:
        """Whether the set is brain-masked."""
        return all(split.masked for split in self.splits.values())

    @property
    def num_levels(self) -> int:
        """Number of slice levels: one more than the highest level of any slice."""
        return 1 + max(int(split.levels.max()) for split in self.splits.values())

    def summary(self) -> Iterator[str]:
        """Yield a line for each split: its images, its cases, and its slices a case."""
        for split in self.splits.values():
            per_case = collections.Counter(split.cases.tolist()).values()
            low, high = min(per_case), max(per_case)
            spread = str(low) if low == high else f"{low}-{high}"
            counts = f"{len(split):>6} images, {len(per_case):>4} cases, {spread} slices a case"
            yield f"  {split.name:<9}{counts}"


def find_slices(
    data: str | os.PathLike | None = None, subjects: int | None = None, seed: int = 0
) -> pathlib.Path:
    """Find the directory of the slices to use.

    That is `data`, else the default folder, else the synthetic cohort if its size is given.

    Args:
        data: Folder that holds the three splits or a folder `keras_png_slices_data`, or None.
        subjects: Size of the synthetic cohort, at least 3, or None.
        seed: Seed of the synthetic cohort.

    Returns:
        The directory. It is not checked yet.

    Raises:
        InputError: `data` is no folder, there is nothing to use, or the cohort cannot be made.
    """
    if data is not None:
        directory = pathlib.Path(data)
        if not directory.is_dir():
            message = f"--data {data} is no folder: give the one that holds {SPLIT_FORMS}."
            raise InputError(message)
        inner = directory / DEFAULT_DIRECTORY.name
        return inner if inner.is_dir() else directory
    if DEFAULT_DIRECTORY.is_dir():
        return DEFAULT_DIRECTORY
    nothing = f"(no --data, no {DEFAULT_DIRECTORY})"
    if subjects is None:
        advice = "name the folder that holds the three splits with --data DIR"
        raise InputError(f"no slices found {nothing}: {advice}.")
    cohort = f"the synthetic cohort of {subjects} subjects"
    print(f"No OASIS slices found {nothing}: using {cohort}.", flush=True)
    return synthetic_slices(subjects, seed)


def synthetic_slices(subjects: int, seed: int) -> pathlib.Path:
    """Directory of the synthetic cohort. The cohort is made if it is not there yet.

    Args:
        subjects: Number of people, at least 3.
        seed: Seed of the cohort, not negative.

    Raises:
        InputError: The cohort cannot be made.
    """
    directory = DEFAULT_DIRECTORY.with_name(f"synthetic_{subjects}_subjects_seed_{seed}")
    try:
        return synthetic.write_cohort(directory, subjects, seed)
    except (ValueError, FileExistsError) as error:
        raise InputError(error) from None


def open_slices(directory: str | os.PathLike) -> Slices:
    """Check every file of a data folder and list its slices.

    Args:
        directory: Folder that holds the three splits.

    Raises:
        InputError: A split is missing or empty, a file name has no case and level, a file is no
            readable 8-bit grey 256 x 256 PNG, or a subject is in two splits.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    splits = {
        name: _list_split(name, split_folder(directory, name), manifest["cases"]) for name in SPLITS
    }
    _refuse_shared_subjects(directory, splits.values())
    name, cohort = _describe(directory, manifest)
    checked = _check_slices([path for split in splits.values() for path in split.paths])
    masked = are_masked(with_scalp for _, with_scalp in checked)
    splits = {name: dataclasses.replace(split, masked=masked) for name, split in splits.items()}
    return Slices(name, splits, fingerprint(digest for digest, _ in checked), cohort)


def fingerprint(digests: Iterable[str]) -> str:
    """SHA-256 of the digests that `check_slice` gives, in order of split, case and level."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def open_folder(directory: str | os.PathLike) -> Split:
    """Check every file of one folder of slices and list them as a `Split` named like the folder.

    Raises:
        InputError: The folder is missing or empty, or `open_slices` would refuse a name or a file.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder: give one that holds {SLICE_FORM}.")
    split = _list_split(directory.resolve().name, directory, {})
    masked = are_masked(with_scalp for _, with_scalp in _check_slices(split.paths))
    return dataclasses.replace(split, masked=masked)


def open_slice(path: str | os.PathLike, level: int | None = None) -> Split:
    """Check one slice and list it as a `Split`.

    Args:
        path: The file.
        level: Its level, if the file name does not say it.

    Raises:
        InputError: `check_slice` refuses the file, or its level is not known.
    """
    path = pathlib.Path(path)
    _, with_scalp = check_slice(path)
    match = SLICE_NAME.fullmatch(path.name)
    if match is None and level is None:
        raise InputError(f"{path} has no level in its name: name it {SLICE_FORM}.")
    place = (int(match[1]), int(match[2])) if match else (0, level)
    split = make_split(path.name, [(*place, str(path))], {})
    return dataclasses.replace(split, masked=not with_scalp)


def check_slice(path: str | os.PathLike) -> tuple[str, bool]:
    """Check that a file is a whole 8-bit grey slice with something on it.

    Nothing is converted. A folder with colour, 16-bit, palette or transparent files was not
    written for this project, and the user must judge what a conversion would lose.

    Returns:
        `(digest, with_scalp)`: `folder/name/SHA-256` of the slice, and whether it shows scalp.

    Raises:
        InputError: The file cannot be used.
    """
    path = pathlib.Path(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # to open a named pipe would wait for ever
            raise InputError(f"{path} is no regular file: put a slice there or remove it.")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has {status.st_size} bytes")
        content = path.read_bytes()
        form = describe_png(content)
        if form != SLICE_FORMAT:  # before a pixel is unpacked
            advice = "convert or remove it"
            raise InputError(f"{path} is {form}, not {SLICE_FORMAT} (8-bit grey): {advice}.")
        check_pixels(content)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            pixels = np.array(image)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        message = f"{path} is no readable PNG ({error}): restore or remove it."
        raise InputError(message) from None
    if not pixels.any():
        raise InputError(f"{path} is all black: restore or remove it.")
    digest = "/".join((*path.parts[-2:], hashlib.sha256(content).hexdigest()))
    return digest, shows_scalp(pixels)


def read_manifest(directory: str | os.PathLike) -> dict:
    """Read what a conversion noted about a data folder: its `settings` and its `cases`.

    `cases` holds the scan, subject and split of each case. It is empty for other folders.

    Raises:
        InputError: The file is damaged.
    """
    path = pathlib.Path(directory) / CONVERSION_FILE
    if not path.is_file():
        return {"settings": {}, "cases": {}}
    manifest = {"settings": {}, **read_json(path, ("cases",), MAKE_AGAIN)}
    settings, cases = manifest["settings"], manifest["cases"]
    if not isinstance(settings, dict) or not isinstance(cases, dict):
        raise InputError(f"{path} holds no settings and cases: {MAKE_AGAIN}.")
    if not all(isinstance(case, dict) for case in cases.values()):
        raise InputError(f"{path} holds a case without a subject: {MAKE_AGAIN}.")
    return manifest


def subject_of(case: int, noted: dict) -> str:
    """Subject of a case: as noted in the `cases` of a manifest, else a subject of its own."""
    return clean_name(noted.get(f"{case:03d}", {}).get("subject", f"case {case:03d}"))


def make_split(name: str, slices: Iterable[tuple[int, int, str]], noted: dict) -> Split:
    """Make the `Split` of some slices, at least one.

    Args:
        name: Name of the split.
        slices: `(case, level, path)` of each slice.
        noted: `cases` of the folder's manifest.
    """
    places = {}
    for case, level, path in slices:
        refuse_same_place(places.setdefault((case, level), path), path)
    cases, levels, paths = zip(*sorted(slices))
    subjects = [subject_of(case, noted) for case in cases]
    return Split(
        name, paths, np.array(cases, "int32"), np.array(levels, "int32"), np.array(subjects)
    )


def case_and_level(path: pathlib.Path) -> tuple[int, int]:
    """Case and level of a slice, read from its file name.

    Raises:
        InputError: The name does not hold them.
    """
    match = SLICE_NAME.fullmatch(path.name)
    if not match:
        raise InputError(f"{path} has no case and slice number: name it {SLICE_FORM}.")
    return int(match[1]), int(match[2])


def refuse_same_place(first: str | os.PathLike, second: str | os.PathLike) -> None:
    """Refuse two files for one case and level, such as case_1_slice_5 and case_01_slice_05.

    Raises:
        InputError: They are two files.
    """
    if os.fspath(first) != os.fspath(second):
        raise InputError(f"{first} and {second} are the same case and level: remove one.")


def _list_split(name, folder, noted):
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: --data must hold {SPLIT_FORMS}.")
    slices = [(*case_and_level(path), str(path)) for path in folder.glob("*.png")]
    if not slices:
        raise InputError(f"{folder} holds no {SLICE_FORM}: slices are needed there.")
    return make_split(name, slices, noted)


def _refuse_shared_subjects(directory, splits):
    first_split = {}
    for split in splits:
        for subject in set(split.subjects.tolist()):
            other = first_split.setdefault(subject, split.name)
            if other != split.name:
                raise InputError(
                    f"{directory}: {subject} is in both {other} and {split.name}, so scores would "
                    "leak: keep every subject in one split."
                )


def _check_slices(paths):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(progress(pool.map(check_slice, paths), "checking slices", len(paths), "slice"))


def _describe(directory, manifest):
    """What figures call the data, and the settings of a synthetic cohort or None."""
    path = directory / COHORT_FILE
    if path.is_file():
        cohort = read_json(path, ("subjects", "seed"), MAKE_AGAIN)
        if not all(isinstance(cohort[key], int) for key in ("subjects", "seed")):
            raise InputError(f"{path} holds no whole numbers: {MAKE_AGAIN}.")
        name = f"synthetic cohort ({cohort['subjects']} subjects, seed {cohort['seed']})"
        return name, cohort
    settings = manifest["settings"]
    kind = clean_name(directory.resolve().name) if settings.get("nifti") else "OASIS"
    return f"{kind}, brain-masked" if settings.get("masked") else kind, None
