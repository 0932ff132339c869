"""Attributes of cases: what is known of the people who were scanned, as words and numbers.

`dataset.json` has them beside the subject and split of each case, and a `subjects.csv` beside the
folders of the splits may add some. What is not there is unknown.
"""

import collections
import csv
import dataclasses
import hashlib
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sources.facts import DataFacts, read_facts, write_facts
from sources.layout import SLICE_NAME, SPLITS, split_folder
from utils import MAX_JSON_BYTES, InputError, clean_name, reading

TABLE_FILE = "subjects.csv"
CASE = "case"  # column of that file
IDENTITY = (CASE, "split", "subject", "scan")  # columns that tell nothing about a person
PLACES = ("affine", "volume")  # which `dataset.json` has of cases that were volumes
UNKNOWN = ("", "na", "n/a")  # values, in lower case
SYNONYMS = {"m/f": "sex"}  # a column of the OASIS-1 table, which says the values for the name
FEW_WORDS = 8  # of more words, each of less than two people on average, most are names
IN_UTF8 = "save it as CSV in UTF-8, with commas between columns and their names in the first line"

Attributes = dict[str, dict[int, float | str]]  # known values, by name and case


class Row(NamedTuple):
    """A line of a table: its number, what it calls the case, and known values by their names."""

    line: int
    case: str
    values: dict[str, float | str]


class Table(NamedTuple):
    """A table of attributes.

    Attributes:
        path: Its file.
        key: Name of the column that names the case.
        names: Names of the attributes.
        rows: A row for each case.
    """

    path: pathlib.Path
    key: str
    names: list[str]
    rows: list[Row]


def attribute_name(column: str) -> str:
    """Name of an attribute: letters, digits and _, in lower case, such as `cdr` for CDR."""
    column = column.strip().lower()
    return clean_name(SYNONYMS.get(column) or re.sub(r"\W+", "_", column).strip("_"))


def attributes_of(cases: Mapping[int, Mapping[str, Any]], chosen: Iterable[int]) -> Attributes:
    """Attributes of some cases.

    Args:
        cases: What is known of cases, as in `DataFacts`.
        chosen: Numbers of the cases.

    Returns:
        Known values by name and case. An attribute is numbers if all of its values are, else words.
    """
    found = collections.defaultdict(dict)
    for case in sorted(chosen):
        for name, value in cases.get(case, {}).items():
            if type(value) in (int, float, str) and name not in IDENTITY:
                found[attribute_name(name)][case] = value
    return {name: dict(zip(found[name], _typed(found[name].values()))) for name in sorted(found)}


def _typed(values):
    """Values as numbers, if all of them are, else as words."""
    numbers = list(map(_number, values))
    if all(number is not None and math.isfinite(number) for number in numbers):
        return numbers
    return [value if isinstance(value, str) else f"{value:g}" for value in values]


def _number(value):
    """The number that a value is, or None. Python would take 1_0 for one."""
    try:
        return None if "_" in str(value) else float(value)
    except ValueError:
        return None


def table_fingerprint(attributes: Attributes) -> str | None:
    """SHA-256 of attributes, or None where there are none."""
    lines = [
        f"{name} {case} {value}"
        for name, values in sorted(attributes.items())
        for case, value in sorted(values.items())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None


# ---- tables --------------------------------------------------------------------------------------


def read_table(path: str | os.PathLike, key: str = CASE) -> Table:
    """Read a CSV file whose first line names its columns. Columns of `IDENTITY` are left out.

    Args:
        path: The file.
        key: Column that names the case.

    Raises:
        InputError: It is missing, is no such file, lacks the column, or holds what is no attribute:
            names, nothing at all, or a number that is not finite.
    """
    path, key = pathlib.Path(path), attribute_name(key)
    with reading(path, IN_UTF8), open(path, newline="", encoding="utf-8-sig") as file:
        if os.path.getsize(path) > MAX_JSON_BYTES:  # `dataset.json` could not hold it
            raise ValueError(f"it is longer than {MAX_JSON_BYTES} bytes")
        lines = csv.reader(file, strict=True)
        columns = list(map(attribute_name, next(lines, [])))
        rows = [(lines.line_num, row) for row in lines if any(map(str.strip, row))]
    for name, count in collections.Counter(columns).items():
        if count > 1 or not name or name in PLACES:
            state = f"{count} columns" if count > 1 else "a column"
            raise InputError(f"{path} has {state} called {name!r}: rename or remove it.")
    if key not in columns:
        raise InputError(f"{path} has no column {key}: its columns are {', '.join(columns)}.")
    names = [name for name in columns if name not in (key, *IDENTITY)]
    if not (names and rows):
        raise InputError(f"{path} has no {'rows' if names else 'attributes'}: {IN_UTF8}.")
    cells = [_cells(path, columns, key, *row) for row in rows]
    table = Table(path, key, names, [Row(n, row[key], {}) for (n, _), row in zip(rows, cells)])
    for name in names:
        pairs = ((row.values, texts[name]) for row, texts in zip(table.rows, cells))
        known = [(values, text) for values, text in pairs if text.lower() not in UNKNOWN]
        column = _column(path, name, [text for _, text in known])
        for (values, _), value in zip(known, column):
            values[name] = value
    return table


def _cells(path, columns, key, line, values):
    """The texts of a line by the names of their columns."""
    if len(values) != len(columns):
        counts = f"{len(values)} values for {len(columns)} columns"
        raise InputError(f"{path} has {counts} in line {line}: correct it.")
    row = dict(zip(columns, map(str.strip, values)))
    if not row[key]:
        raise InputError(f"{path} has no {key} in line {line}: fill it in or remove the line.")
    return row


def _column(path, name, values):
    """The values of a column, as numbers or words."""
    if not values:
        raise InputError(f"{path} has no values in column {name}: fill it in or remove it.")
    for value in values:
        if not math.isfinite(_number(value) or 0):
            raise InputError(f"{path} has {value} in column {name}: leave blank what is unknown.")
    typed, count = _typed(values), len(set(values))
    if isinstance(typed[0], str) and count > max(FEW_WORDS, len(values) // 2):
        names = f"{count} different words of {len(values)} people in column {name}"
        raise InputError(f"{path} has {names}: names are no attribute, remove it.")
    return typed


def with_table(
    facts: DataFacts, table: Table, cases: Iterable[int], partly: bool = False
) -> DataFacts:
    """Facts of a set with the attributes of a table. They replace those of the same names.

    Rows name scans or subjects that the facts know, unless all of them are numbers that are not all
    such names, or the column is called `case`. Then these are numbers of cases.

    Args:
        facts: The facts.
        table: The table.
        cases: Numbers of the cases of the set.
        partly: Leave out rows of other cases.

    Raises:
        InputError: A row is of another case, two rows are of one case, or no row is left.
    """
    names, lines = collections.defaultdict(list), {}
    for case in cases:
        about = facts.cases.get(case, {})
        for name in {about.get("scan"), about.get("subject")}:
            names[name].append(case)
    keys = [row.case for row in table.rows]
    if table.key == CASE or all(map(str.isdecimal, keys)) and not set(keys) <= set(names):
        names = {str(case): [case] for case in cases}
        keys = [key.lstrip("0") or "0" for key in keys]
    known = {
        case: {name: value for name, value in about.items() if name not in table.names}
        for case, about in facts.cases.items()
    }
    for key, row in zip(keys, table.rows):
        found = names.get(key, [])
        if not found and not partly:
            unknown = f"an unknown case, {clean_name(row.case)}, in line {row.line}"
            raise InputError(f"{table.path} has {unknown}: correct or remove it.")
        for case in found:
            if case in lines:
                both = f"lines {lines[case]} and {row.line}, both of case {case}"
                raise InputError(f"{table.path} has {both}: remove one.")
            lines[case] = row.line
            known[case] = {**known.get(case, {}), **row.values}
    if not lines:
        none = f"{table.path} has no case of the set in column {table.key}"
        raise InputError(f"{none}: name another column or table.")
    return dataclasses.replace(facts, cases=known)


# ---- folders -------------------------------------------------------------------------------------


def facts_with_table(directory: str | os.PathLike) -> DataFacts:
    """Facts of a data folder, with the attributes of the `subjects.csv` beside its splits.

    Where only some splits are there, rows of cases of the others are left out.

    Raises:
        InputError: As of `read_facts`, `read_table` and `with_table`.
    """
    facts, path = read_facts(directory), pathlib.Path(directory, TABLE_FILE)
    if not path.is_file():
        return facts
    is_whole = all(split_folder(directory, split).is_dir() for split in SPLITS)
    return with_table(facts, read_table(path), _cases_in(directory), partly=not is_whole)


def add_table(directory: str | os.PathLike, table: Table, partly: bool = False) -> DataFacts:
    """Write the attributes of a table into the `dataset.json` of a folder. See `with_table`."""
    facts = with_table(read_facts(directory), table, _cases_in(directory), partly)
    write_facts(directory, facts)
    return facts


def _cases_in(directory):
    """Numbers of the cases that a folder or its splits have slices of."""
    folders = [pathlib.Path(directory), *(split_folder(directory, split) for split in SPLITS)]
    paths = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return {int(match[1]) for path in paths if (match := SLICE_NAME.fullmatch(path.name))}
