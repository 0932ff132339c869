"""Find a data folder and read every slice of it. `sources.layout` shows such a folder.

Training and evaluation open folders here. `sources.check` lists all that is wrong with one.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from sources import synthetic
from sources.attributes import (
    TABLE_FILE,
    Attributes,
    attributes_of,
    facts_with_table,
    table_fingerprint,
)
from sources.facts import NOTES, OASIS, DataFacts
from sources.images import allocate_images, read_slice
from sources.layout import (
    DEFAULT_DIRECTORY,
    SLICE_FORM,
    SLICE_NAME,
    SPLIT_FORMS,
    SPLITS,
    split_folder,
)
from sources.masking import is_masked
from utils import InputError, open_archive, progress, reading, refuse

NO_SLICE = -1  # index where there is no slice
PACK_AGAIN = "pack it again, or unpack it and name the folder"
MAX_DEPTH = 4  # folders above the splits, where an archive was unpacked


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
        facts: What is known of its set. `masked` and `levels` are known where files were read.
        images: Pixels as the files hold them, uint8 (N, S, S), or None where none were read.
        digests: `folder/name/SHA-256` of each file, (N,), or nothing where none were read.
    """

    name: str
    paths: tuple[str, ...]
    cases: np.ndarray
    levels: np.ndarray
    subjects: np.ndarray
    facts: DataFacts = OASIS
    images: np.ndarray | None = None
    digests: tuple[str, ...] = ()

    def __len__(self):
        return len(self.paths)

    @property
    def masked(self) -> bool:
        """Whether its set is masked."""
        return bool(self.facts.masked)

    @property
    def below(self) -> np.ndarray:
        """Index of the slice one level below in the same case, int32 (N,), or `NO_SLICE`."""
        follows = (np.diff(self.cases) == 0) & (np.diff(self.levels) == 1)
        indices = np.arange(len(self), dtype="int32") - 1
        return np.where(np.append(False, follows), indices, NO_SLICE).astype("int32")

    def pick(self, indices: Sequence[int]) -> "Split":
        """Some of the slices, by their indices."""
        indices = np.asarray(indices, int)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in indices),
            cases=self.cases[indices],
            levels=self.levels[indices],
            subjects=self.subjects[indices],
            images=None if self.images is None else self.images[indices],
            digests=tuple(self.digests[i] for i in indices if self.digests),
        )

    def upward(self, batch_size: int) -> list[np.ndarray]:
        """Indices of all slices in batches, each slice in a later batch than the one below it.

        A batch holds slices of several cases, so that whoever reads the slice below can still take
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
    """A data folder whose files were all read.

    Attributes:
        facts: What is known of the set. `masked` and `levels` were found where no file told them.
        splits: Each `Split` by its name.
    """

    facts: DataFacts
    splits: dict[str, Split]

    @property
    def name(self) -> str:
        """What figures and reports call the data."""
        return self.facts.name

    @property
    def masked(self) -> bool:
        """Whether the set is masked."""
        return bool(self.facts.masked)

    @property
    def num_levels(self) -> int:
        """Number of slice levels."""
        return self.facts.levels

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names and bytes of all slices, and of facts by which training differs.

        Attributes do not count: the same slices with another table are the same slices.
        """
        usual, splits = DataFacts(levels=_levels_shown(self.splits.values())), self.splits.values()
        facts = ((name, getattr(self.facts, name)) for name in ("mirror", "residue", "levels"))
        others = [f"{name} {value}" for name, value in facts if value != getattr(usual, name)]
        return fingerprint(*splits, facts=others)

    @property
    def attributes(self) -> Attributes:
        """Known attributes of all cases, by name and case. `sources.anatomy` measures more."""
        cases = (split.cases.tolist() for split in self.splits.values())
        return attributes_of(self.facts.cases, set(itertools.chain.from_iterable(cases)))

    @property
    def table_fingerprint(self) -> str | None:
        """SHA-256 of the attributes, or None where there are none."""
        return table_fingerprint(self.attributes)

    def are_of(self, data: dict) -> bool:
        """Whether these are the slices of a training, or some splits of them alone.

        Args:
            data: What the `config.json` of the training says of its data.
        """
        known = data.get("split_fingerprints", {})
        if set(self.splits) < set(known):
            return all(known[name] == fingerprint(split) for name, split in self.splits.items())
        return self.fingerprint == data["fingerprint"]

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
    """Find the slices to use.

    They are in `data`, else in the default folder, else in the synthetic cohort if its size is
    given.

    Args:
        data: Folder that holds the splits, a folder that such an archive was unpacked into, or the
            zip archive itself. Or None.
        subjects: Size of the synthetic cohort, at least 3, or None.
        seed: Seed of the synthetic cohort.

    Returns:
        The folder of the splits, or the archive. What it holds is not checked yet.

    Raises:
        InputError: `data` is not there or is not prepared, there is nothing to use, or the cohort
            cannot be made.
    """
    if data is None and DEFAULT_DIRECTORY.is_dir():
        data = DEFAULT_DIRECTORY
    if data is not None:
        path = pathlib.Path(data)
        if not path.exists():
            raise InputError(f"{data} is no folder: give the one that holds {SPLIT_FORMS}.")
        found = _folder_of_splits(path) if path.is_dir() else _archive_of_splits(path)
        if found is None:
            from sources import unprepared  # noqa: PLC0415  no data folder needs what it loads

            raise InputError(unprepared.advice(path))
        return found
    nothing = f"slices found (no --data, no {DEFAULT_DIRECTORY}):"
    if subjects is None:
        advice = "name the folder that holds the three splits with --data DIR"
        raise InputError(f"no {nothing} {advice}.")
    print(f"No OASIS {nothing} using the synthetic cohort of {subjects} subjects.", flush=True)
    return synthetic.write_cohort(subjects, seed)


def _folder_of_splits(directory):
    """A folder that holds splits: this one, or one in it of its name or alone in it. Or None."""
    for _ in range(MAX_DEPTH):
        if any(split_folder(directory, split).is_dir() for split in SPLITS):
            return directory
        inside = [path for path in directory.iterdir() if path.is_dir()]
        inside = [path for path in inside if not path.name.startswith((".", "__"))]
        names = (DEFAULT_DIRECTORY.name, directory.resolve().name)
        inside = [path for path in inside if path.name in names] or inside
        if len(inside) != 1:
            return None
        (directory,) = inside
    return None


def _is_of_splits(name):
    """Whether a file in an archive belongs to a data folder."""
    *folders, file = name.split("/")
    folder = folders[-1] if folders else ""
    is_split = any(folder == split_folder("", split).name for split in SPLITS)
    is_slice = is_split and file.lower().endswith(".png")
    return ".." not in folders and (is_slice or file in (*NOTES, TABLE_FILE))


def _archive_of_splits(path):
    """The file if it is a zip archive of a data folder, or None."""
    if path.suffix.lower() != ".zip":
        return None
    with reading(path, PACK_AGAIN), open_archive(path) as archive:
        names = archive.namelist()
    names = (name for name in names if "/" in name and not name.endswith(TABLE_FILE))
    return path if any(map(_is_of_splits, names)) else None


# ---- reading -----------------------------------------------------------------------------------


def open_slices(
    directory: str | os.PathLike,
    report: Callable[[str], None] = refuse,
    needed: Sequence[str] = SPLITS,
) -> Slices:
    """Read a data folder.

    Args:
        directory: Folder that holds the splits, or a zip archive of one.
        report: Is called with one line for each problem: a needed split is missing or empty, a file
            name has no case and level, `read_slice` refuses a file, a split is black throughout, or
            a subject is in two splits. If it returns, the file or split is left out.
        needed: Splits that must be there. Another may be missing or empty.

    Raises:
        InputError: There is a problem, and no other `report` was given. Or no slice can be read,
            or a JSON file of the folder is damaged.
    """
    directory = pathlib.Path(directory)
    if directory.is_file():
        return _open_archive(directory, report, needed)
    facts = facts_with_table(directory)
    folders = {split: split_folder(directory, split) for split in SPLITS}
    listed = [
        _list_split(name, folder, facts, report, needed)
        for name, folder in folders.items()
        if name in needed or folder.is_dir() and any(_pngs(folder))
    ]
    places = collections.defaultdict(list)  # a subject that is not noted is its case
    for split in filter(None, listed):
        for subject in np.unique(split.subjects).tolist():
            places[subject].append(split.name)
    for subject, names in places.items():
        if len(names) > 1:
            leak = f"leak: {subject} is in {' and '.join(names)} of {directory}"
            report(f"{leak}: keep every subject in one split.")
    splits = _read(directory, listed, facts, report)
    return Slices(splits[0].facts, {split.name: split for split in splits})


def _open_archive(path, report, needed):
    """Read a data folder in a zip archive.

    It is unpacked into a temporary folder, which is gone once all slices are in memory. So all that
    is known of folders holds for archives, and names never lead out of it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        inside = pathlib.Path(temporary, path.stem)  # it may give the set its name
        with reading(path, PACK_AGAIN), open_archive(path) as archive:
            wanted = [name for name in archive.namelist() if _is_of_splits(name)]
            archive.extractall(inside, wanted)

        def plain(text):
            return text.replace(str(inside), str(path))

        try:
            folder = _folder_of_splits(inside) or inside
            slices = open_slices(folder, lambda problem: report(plain(problem)), needed)
        except InputError as error:
            raise InputError(plain(str(error))) from None
    splits = {
        name: dataclasses.replace(split, paths=tuple(map(plain, split.paths)))
        for name, split in slices.splits.items()
    }
    return dataclasses.replace(slices, splits=splits)


def open_folder(
    directory: str | os.PathLike,
    facts: DataFacts = OASIS,
    report: Callable[[str], None] = refuse,
) -> Split:
    """Read one folder of slices as a `Split` named like the folder.

    Args:
        directory: A folder of a split, or one that was made for a prepared set (`--like`).
        facts: What is known of the slices if neither the folder nor the one above it, whose split
            it is, has a file of facts.
        report: See `open_slices`.

    Raises:
        InputError: The folder is missing or empty, or `open_slices` would refuse a name or a file.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is no folder: give one that holds {SLICE_FORM}.")
    facts = _facts_beside(directory, facts)
    name = directory.resolve().name
    split = _list_split(name, directory, facts, report, (name,))
    return _read(directory, [split], facts, report)[0]


def open_slice(
    path: str | os.PathLike, level: int | None = None, facts: DataFacts = OASIS
) -> Split:
    """Read one slice as a `Split`.

    Args:
        path: The file.
        level: Its level, if the file name does not say it.
        facts: As in `open_folder`.

    Raises:
        InputError: `read_slice` refuses the file, or its level is not known.
    """
    path = pathlib.Path(path)
    match = SLICE_NAME.fullmatch(path.name)
    if match is None and level is None:
        raise InputError(f"{path} has no level in its name: name it {SLICE_FORM}.")
    place = (int(match[1]), int(match[2])) if match else (0, level)
    facts = _facts_beside(path.parent, facts)
    return _read(path, [make_split(path.name, [(*place, str(path))], facts)], facts)[0]


def _facts_beside(directory, usual):
    """Facts of a folder of slices: its own, those of the set it is a split of, or the usual ones.

    Of the usual ones, what belongs to other slices does not count.
    """
    folder = directory.resolve()
    is_split = any(folder == split_folder(folder.parent, split) for split in SPLITS)
    for place in (folder, folder.parent) if is_split else (folder,):
        facts = facts_with_table(place)
        if facts != OASIS:
            return facts
    return dataclasses.replace(usual, masked=None, cases={}, settings={})


def _pngs(folder):
    """Images of a folder. Hidden files are leftovers, or notes of another system."""
    names = (path for path in folder.iterdir() if not path.name.startswith("."))
    return (path for path in names if path.suffix.lower() == ".png")


def _list_split(name, folder, facts, report, needed):
    """The slices that the files of a folder are named after, or None. No file is read."""
    paths = {}
    for path in sorted(_pngs(folder)) if folder.is_dir() else ():
        match = SLICE_NAME.fullmatch(path.name)
        if not match:
            report(f"{path} has no case and slice number: name it {SLICE_FORM}.")
            continue
        if facts.levels and int(match[2]) >= facts.levels:
            report(f"{path} is beyond the {facts.levels} levels of the set: remove it.")
            continue
        first = paths.setdefault((int(match[1]), int(match[2])), path)
        if first is not path:  # such as case_1_slice_5 and case_01_slice_05
            report(f"{first} and {path} are the same case and level: remove one.")
    if not paths:
        state = f"holds no {SLICE_FORM}" if folder.is_dir() else "is missing"
        report(f"{folder} {state}: slices are needed in {' and '.join(needed)}.")
        return None
    return make_split(name, [(*place, str(path)) for place, path in paths.items()], facts)


def _read(source, listed, facts, report=refuse):
    """Read the files of some splits: those of them that have a readable slice, at least one.

    What the facts do not tell is found in them.
    """
    splits = [_read_files(split, report) for split in filter(None, listed)]
    splits = [split for split in splits if len(split)]
    if not splits:
        raise InputError(f"{source} holds no readable slice: restore its slices.")
    images = itertools.chain.from_iterable(split.images for split in splits)
    levels = facts.levels or _levels_shown(splits)
    facts = dataclasses.replace(facts, masked=is_masked(images, facts), levels=levels)
    return [dataclasses.replace(split, facts=facts) for split in splits]


def _levels_shown(splits):
    """One more than the highest level of any slice."""
    return 1 + max(int(split.levels.max()) for split in splits)


def _read_files(split, report):
    """The slices of a split that can be read, with their images and the digests of their files."""
    side = split.facts.side
    images, digests = allocate_images(len(split), side), []

    def read(index):
        path = pathlib.Path(split.paths[index])
        try:
            images[index], digest = read_slice(path, side)
        except InputError as error:
            return None, str(error)
        return "/".join((*path.parts[-2:], digest)), None

    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        contextlib.closing(pool.map(read, range(len(split)))) as results,  # ends if `report` raises
    ):
        for digest, problem in progress(results, f"reading {split.name}", len(split), "slice"):
            digests.append(digest)
            if problem:
                report(problem)
    split = dataclasses.replace(split, images=images, digests=tuple(digests))
    folder = pathlib.Path(split.paths[0]).parent
    if not all(digests):
        split = split.pick([i for i, digest in enumerate(digests) if digest])
    if not len(split):
        report(f"{folder} holds no readable slice: restore its slices.")
    elif not split.images.any():
        report(f"{folder} is black throughout: restore its slices.")
    return split


def fingerprint(*splits: Split, facts: Sequence[str] = ()) -> str:
    """SHA-256 of the names and bytes of all slices of some splits, and of more lines."""
    digests = itertools.chain(*(split.digests for split in splits), facts)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def make_split(
    name: str, slices: Iterable[tuple[int, int, str]], facts: DataFacts = OASIS
) -> Split:
    """Make the `Split` of some slices, at least one. Nothing is read.

    Args:
        name: Name of the split.
        slices: `(case, level, path)` of each slice.
        facts: What is known of their set, such as the subject of each case.
    """
    cases, levels, paths = zip(*sorted(slices))
    names = np.array([facts.subject(case) for case in cases])
    return Split(name, paths, np.array(cases, "int32"), np.array(levels, "int32"), names, facts)
