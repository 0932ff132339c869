"""The run directory: what lies where in it, who may write to it, its settings and histories."""

import contextlib
import csv
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import filelock

from utils import PARTIAL_FILES, InputError, clean_name, read_json, replacing, write_json


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Names of the files of a run. A stage is "vqvae", "draft", "prior" or "texture".

    Args:
        path: The directory, which need not exist.
    """

    path: pathlib.Path

    def __post_init__(self):
        object.__setattr__(self, "path", pathlib.Path(self.path))

    def __str__(self):
        return str(self.path)

    @property
    def config(self) -> pathlib.Path:
        """Settings, data and versions of the training."""
        return self.path / "config.json"

    @property
    def draft_codes(self) -> pathlib.Path:
        """Nearest codes of the slices, on which the draft learns."""
        return self.path / "draft_codes.npz"

    @property
    def codes(self) -> pathlib.Path:
        """Codes of the slices, on which the prior learns."""
        return self.path / "codes.npz"

    @property
    def code_counts(self) -> pathlib.Path:
        """Count of each code at each place in training."""
        return self.path / "code_counts.npz"

    @property
    def predictions(self) -> pathlib.Path:
        """Folder of what predict.py writes."""
        return self.path / "predict"

    def model(self, stage: str) -> pathlib.Path:
        """The best model of a stage."""
        return self.path / f"{stage}.keras"

    def history(self, stage: str) -> pathlib.Path:
        """One row of figures an epoch."""
        return self.path / f"{stage}_history.csv"

    def state(self, stage: str) -> pathlib.Path:
        """Whole state of an unfinished stage. A finished stage has none."""
        return self.path / "resume" / f"{stage}.npz"

    def logs(self, stage: str) -> pathlib.Path:
        """Folder of TensorBoard logs."""
        return self.path / "logs" / stage


@contextlib.contextmanager
def claimed(run: RunDirectory, config: dict) -> Iterator[None]:
    """Hold a directory as the run directory of `config`, alone, while the block lasts.

    Args:
        run: The directory. It is new, empty, or holds a run of the same settings.
        config: `settings`, `data` and `versions`, written to `config.json` of a new run.

    Raises:
        InputError: Another process holds it, or it holds a run of other settings, which are
            listed, or something that is no run.
    """
    path = run.path
    if path.exists() and not run.config.exists() and not _is_empty_folder(path):
        raise InputError(f"{run} exists and is no run directory: name another --run directory.")
    for folder in (path / "logs", run.state("vqvae").parent):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: remove it, a folder is needed there.")
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{run} is held by another training: wait for its end, or name another --run directory."
        ) from None
    try:
        if run.config.exists():
            _check_same_settings(run, config)
        else:
            write_json(run.config, config)
        for leftover in path.rglob(PARTIAL_FILES):  # of a process that was killed
            leftover.unlink()
        yield
    finally:
        lock.release()


def _is_empty_folder(path):
    return path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())


def _check_same_settings(run, config):
    before = read_config(run)
    old, new = (
        {**c["settings"], "data fingerprint": c["data"]["fingerprint"]} for c in (before, config)
    )
    begun = run.history("texture").exists() or run.state("texture").exists()
    of_texture = {name: value for name, value in new.items() if name.startswith("texture_")}
    if not begun:  # the settings of the last stage may still change
        old |= of_texture
    differences = [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise InputError(
            f"{run} holds a run of other settings ({'; '.join(differences)}): "
            "repeat its settings to continue it, or name another --run directory."
        )
    if not begun:
        write_json(run.config, {**before, "settings": before["settings"] | of_texture})


def read_config(run: RunDirectory) -> dict[str, Any]:
    """Read `config.json`: `settings`, `data` and `versions` of the training.

    Raises:
        InputError: It is missing, damaged or of another version.
    """
    config = read_json(run.config)
    try:
        data = config["data"]
        if not isinstance(config["settings"], dict) or not isinstance(data["fingerprint"], str):
            raise TypeError("settings or fingerprint")
        data["name"] = clean_name(data["name"])
    except (KeyError, TypeError):
        raise InputError(
            f"{run.config} is of another version of this project: train into a new --run directory."
        ) from None
    return config


def write_history(path: pathlib.Path, rows: list[dict[str, float]]) -> None:
    """Write a history: a CSV with one row an epoch."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_history(path: pathlib.Path, figures: Iterable[str] = ("loss",)) -> list[dict]:
    """Rows of a history, one dict of numbers an epoch. There are none where the file is missing.

    Args:
        path: CSV file.
        figures: Figures that each row must have, in training and in validation.

    Raises:
        InputError: The file is damaged.
    """
    if not path.is_file():
        return []
    columns = ["epoch", "seconds", *figures, *(f"val_{figure}" for figure in figures)]
    try:
        with open(path, newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
        for number, row in enumerate(rows, 1):
            if row["epoch"] != number:
                raise ValueError(f"row {number} is of epoch {row['epoch']}")
            if not all(math.isfinite(row[name]) for name in columns):
                raise ValueError(f"row {number} has a figure that is not finite")
            row["epoch"] = number
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged ({error}): restore it, or train into a new --run directory."
        ) from None
    return rows


def epochs_since_best(rows: list[dict[str, float]]) -> int:
    """Number of epochs since the lowest validation loss of a history."""
    losses = [row["val_loss"] for row in rows]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0
