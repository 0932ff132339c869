"""What is known of a set of slices: `dataset.json`, which every conversion writes.

Whoever reads slices asks these facts and never the name of the set. A folder without such a file
is OASIS as handed out.
"""

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from sources.layout import COHORT_FILE, CONVERSION_FILE, MAX_SUBJECTS, SLICE_SIDE, SPLITS
from utils import clean_name, read_json, reading, write_json

FACTS_FILE = "dataset.json"
MAX_SIDE, MAX_LEVELS, MAX_CASE = 2048, 10**4, 10**9 - 1
MAKE_AGAIN = "remove the folder and make it again"  # advice about a damaged JSON file in it
MIRRORS = {"rows": -2, "columns": -1, "none": None}  # axis of images `(..., S, S)`

# Voxel (row, column, level) of OASIS slices -> atlas millimetres: right, front, up. `volumes` says
# how it was found.
OASIS_AFFINE = (
    (1.0, 0.0, 0.0, -128.0),
    (0.0, 1.0, 0.0, -147.0),
    (0.0, 0.0, 1.0, -4.0),
    (0.0, 0.0, 0.0, 1.0),
)


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Facts of a set of slices. The defaults are those of OASIS as handed out.

    Attributes:
        name: What figures and reports call the set.
        side: Pixels of a side of the slices in the folder, a multiple of 8.
        levels: Number of slice levels. None: as many as the slices show.
        mirror: What a mirror image exchanges: "rows", "columns", or "none" where a mirror image
            is no example of the set.
        masked: Whether only the organ is bright and all else black. None: found in the slices.
        residue: Whether residue of a lossy format around masked brains is removed when slices are
            read.
        brain: Whether these are axial brain slices with the nose to the right, so that measures
            of brains mean something.
        content: Part of the slices that is not padding in any case: first row, first column, and
            the row and column after the last. None is all.
        affine: `(4, 4)`, voxel (row, column, level) of a stack of slices -> millimetres to the
            right, to the front and up. None: not known.
        cases: By case number: `subject` and `scan` (as the source calls them), `split`, and
            attributes, which are words and numbers. A case that was a volume also has its `affine`
            and `volume`.
        settings: Settings of the conversion, so that it can be resumed and repeated.
        cohort: `subjects` and `seed` of a synthetic cohort, else None.

    Raises:
        ValueError: A fact has another type or is out of range.
    """

    name: str = "OASIS"
    side: int = SLICE_SIDE
    levels: int | None = None
    mirror: str = "rows"
    masked: bool | None = None
    residue: bool = True
    brain: bool = True
    content: tuple[int, int, int, int] | None = None
    affine: tuple[tuple[float, ...], ...] | None = OASIS_AFFINE
    cases: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    cohort: dict[str, int] | None = None

    def __post_init__(self):
        """Check all that a file of a stranger may say, and bring it to the types above."""
        for name, fits in _FITS.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"its {name} has another type or is out of range")
        if self.content is not None and not _is_box(self.content, self.side):
            raise ValueError("its content is no part of the slices")
        for name, value in {
            "name": clean_name(self.name),
            "content": self.content and tuple(self.content),
            "affine": None if self.affine is None else _affine(self.affine),
            "cases": dict(map(_case, self.cases.items())),
        }.items():
            object.__setattr__(self, name, value)

    def mirrored(self, images: np.ndarray) -> np.ndarray:
        """Mirror images of images `(..., S, S)`, or themselves where there are none."""
        axis = MIRRORS[self.mirror]
        return images if axis is None else np.flip(images, axis)

    def subject(self, case: int) -> str:
        """Who was scanned. A case that is not listed is a subject of its own."""
        return self.cases.get(case, {}).get("subject", f"case {case:03d}")

    def as_json(self, of_a_run: bool = False) -> dict[str, Any]:
        """The facts for a JSON file. A run keeps no `cases`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if of_a_run:
            del values["cases"]
        return values


def _is_whole(value, least, most):
    return type(value) is int and least <= value <= most


# What each fact may be. `content`, `affine` and the single cases are looked at apart.
_FITS = {
    "name": lambda value: isinstance(value, str),
    "side": lambda value: _is_whole(value, 16, MAX_SIDE) and value % 8 == 0,
    "levels": lambda value: value is None or _is_whole(value, 1, MAX_LEVELS),
    "mirror": lambda value: isinstance(value, str) and value in MIRRORS,
    "masked": lambda value: value is None or isinstance(value, bool),
    "residue": lambda value: isinstance(value, bool),
    "brain": lambda value: isinstance(value, bool),
    "cases": lambda value: isinstance(value, dict),
    "settings": lambda value: isinstance(value, dict),
    "cohort": lambda value: (
        value is None
        or isinstance(value, dict)
        and _is_whole(value.get("subjects"), 0, MAX_SUBJECTS)
        and _is_whole(value.get("seed"), 0, 2**31 - 1)
    ),
}


def _is_box(box, side):
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    top, left, bottom, right = box
    is_inside = all(_is_whole(edge, 0, side) for edge in box)
    return is_inside and top < bottom and left < right


def _affine(rows):
    matrix = np.array(rows, float)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise ValueError("an affine is no 4 x 4 matrix that has an inverse")
    return tuple(map(tuple, matrix.tolist()))


def _case(item):
    """The number of a case and what is known of it, with names that can be shown."""
    number, about = int(item[0]), item[1]
    if not 0 <= number <= MAX_CASE:
        raise ValueError(f"case {number} is out of range")
    about = {name: clean_name(v) if isinstance(v, str) else v for name, v in about.items()}
    if not all(isinstance(about.get(name, ""), str) for name in ("subject", "scan")):
        raise ValueError("a case has a subject or scan that is no text")
    if about.get("split") not in (None, *SPLITS):
        raise ValueError("a case has an unknown split")
    if not all(math.isfinite(value) for value in about.values() if isinstance(value, float)):
        raise ValueError("a case has a number that is not finite")
    if about.get("affine") is not None:
        about["affine"] = _affine(about["affine"])
    return number, about


OASIS = DataFacts()  # as handed out


# ---- files ---------------------------------------------------------------------------------------


def write_facts(directory: str | os.PathLike, facts: DataFacts) -> None:
    """Write the `dataset.json` of a folder, whole or not at all."""
    write_json(pathlib.Path(directory, FACTS_FILE), facts.as_json())


def read_facts(directory: str | os.PathLike) -> DataFacts:
    """Facts of a data folder, from the file that it has.

    That is `dataset.json`, or the `cohort.json` or `conversion.json` of former versions. Without
    one it is OASIS as handed out.

    Raises:
        InputError: The file is damaged, or says what no folder can be.
    """
    directory = pathlib.Path(directory)
    for name, read in NOTES.items():
        path = directory / name
        if path.is_file():
            with reading(path, MAKE_AGAIN):
                return read(read_json(path, advice=MAKE_AGAIN), directory.resolve().name)
    return OASIS


def facts_of_run(data: dict[str, Any]) -> DataFacts:
    """Facts of the slices of a training, from `data` in its `config.json`.

    A run of a former version tells the name and the cohort; all else was as in OASIS.

    Raises:
        ValueError: A fact has another type or is out of range.
    """
    if "facts" in data:
        return _facts({**data["facts"], "name": data["name"]}, "")
    return DataFacts(data["name"], masked=data.get("masked"), cohort=data.get("cohort"))


def cohort_facts(cohort: dict[str, int], cases: dict[int, dict[str, Any]]) -> DataFacts:
    """Facts of a synthetic cohort.

    Args:
        cohort: Its `subjects` and `seed`.
        cases: Subject and split of each case.
    """
    name = "synthetic cohort ({subjects:d} subjects, seed {seed:d})".format(**cohort)
    return DataFacts(name, masked=True, cases=cases, cohort=cohort)


def _facts(values, name):
    """Facts of JSON. What it does not know stays as it is in OASIS."""
    names = {field.name for field in dataclasses.fields(DataFacts)}
    return DataFacts(**{"name": name} | {n: value for n, value in values.items() if n in names})


def _of_conversion(notes, name):
    settings, cases = notes.get("settings", {}), notes["cases"]
    name = name if settings.get("nifti") else "OASIS"
    name = clean_name(name) + (", brain-masked" if settings.get("masked") else "")
    return DataFacts(name, cases=cases, settings=settings)


# Files that tell facts, and their readers: the present one, and those of former versions.
NOTES = {
    FACTS_FILE: _facts,
    COHORT_FILE: lambda cohort, _: cohort_facts(cohort, {}),
    CONVERSION_FILE: _of_conversion,
}
