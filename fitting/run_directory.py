"""The run directory: what lies where in it, who may write to it, its settings and histories."""

import contextlib
import csv
import dataclasses
import errno
import math
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import utils
from fitting.settings import Settings
from sources.facts import facts_of_run
from utils import PARTIAL_FILES, InputError, clean_name, read_json, reading, replacing, write_json

# What the lock of a file system without locks answers. Those of clusters may have none.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
BEAT = 20  # seconds; so often a training touches its lock file there
DEAD = 180  # seconds without a beat

# The stages of a training, and the name of the files of each.
STAGES = {"vqvae": "vqvae", "first_prior": "draft", "prior": "prior", "texture": "texture"}


class RunDirectory:
    """Names of the files of a run. A stage is one of `STAGES`.

    Args:
        path: The directory, which need not exist.

    Attributes:
        path: The directory.
        config: Settings, data and versions of the training.
        first_prior_codes: Nearest codes of the slices, on which the first prior learns.
        codes: Codes of the slices, on which the prior learns.
        code_counts: Count of each code at each place in training.
        calibration: How sure `predict.py --classify` may be, by attribute.
        thresholds: Values above which an anomaly map is unlike those of validation people.
        predictions: Folder of what predict.py writes.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.first_prior_codes = self.path / "draft_codes.npz"
        self.codes = self.path / "codes.npz"
        self.code_counts = self.path / "code_counts.npz"
        self.calibration = self.path / "calibration.json"
        self.thresholds = self.path / "anomaly_thresholds.json"
        self.predictions = self.path / "predict"

    def __str__(self):
        return str(self.path)

    def model(self, stage: str) -> pathlib.Path:
        """The best model of a stage."""
        return self.path / f"{STAGES[stage]}.keras"

    def history(self, stage: str) -> pathlib.Path:
        """One row of figures an epoch."""
        return self.path / f"{STAGES[stage]}_history.csv"

    def state(self, stage: str) -> pathlib.Path:
        """Whole state of an unfinished stage. A finished stage has none."""
        return self.path / "resume" / f"{STAGES[stage]}.npz"

    def logs(self, stage: str) -> pathlib.Path:
        """Folder of TensorBoard logs."""
        return self.path / "logs" / STAGES[stage]


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
    is_empty = path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())
    if path.exists() and not run.config.exists() and not is_empty:
        raise InputError(f"{run} exists and is no run directory: name another --run directory.")
    for folder in (path / "logs", run.state("vqvae").parent):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: remove it, a folder is needed there.")
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if run.config.exists():
            config = _with_new_texture(run, config)
        write_json(run.config, {**config, "settings": dataclasses.asdict(config["settings"])})
        for leftover in path.rglob(PARTIAL_FILES):  # of a process that was killed
            leftover.unlink()
        yield


@contextlib.contextmanager
def _locked(path):
    """Hold the lock of a run, or a lock file where the file system has no locks."""
    held = f"{path} is held by another training: wait for its end, or name another --run directory."
    with open(path / ".lock", "a") as file, contextlib.ExitStack() as stack:
        try:
            import fcntl  # noqa: PLC0415  Windows lacks it

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(held) from None
        except (ImportError, OSError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
                raise
            print(f"WARNING: {path} is where files have no locks ({error}): .holder serves as one.")
            stack.enter_context(_lock_file(path / ".holder", held))
        yield


@contextlib.contextmanager
def _lock_file(file, held):
    """Hold a file that names this process, and touch it as long as the process runs."""
    if file.exists() and utils.is_abandoned(file, file.read_text(), DEAD):
        file.unlink(missing_ok=True)
    try:
        with open(file, "x") as new:
            new.write(utils.process_name())
    except FileExistsError:
        minutes = DEAD // 60
        raise InputError(
            f"{held} {file} says where, and counts for {minutes} minutes after a kill."
        ) from None
    ended = threading.Event()

    def beat():
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(file)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        file.unlink(missing_ok=True)


def _with_new_texture(run, config):
    """Config of a run that goes on. The settings of its last stage may change until it begins.

    Raises:
        InputError: Others differ.
    """
    before = read_config(run)
    old, new = (
        {
            **dataclasses.asdict(c["settings"]),
            "data fingerprint": c["data"]["fingerprint"],
            "fingerprint of attributes": c["data"].get("table_fingerprint"),
        }
        for c in (before, config)
    )
    if not (run.history("texture").exists() or run.state("texture").exists()):
        old |= {name: value for name, value in new.items() if name.startswith("texture_")}
    differences = [
        f"{name} was {old[name]!r}, is {new[name]!r}" for name in new if old[name] != new[name]
    ]
    if differences:
        was = old["precision"]
        flag = f", with --precision {was}," if was != new["precision"] else ""
        raise InputError(
            f"{run} holds a run of other settings ({'; '.join(differences)}): "
            f"repeat its settings{flag} to continue it, or name another --run directory."
        )
    there, here = before.get("cores"), config.get("cores")
    if there and here and there != here:
        print(f"WARNING: {run} was on {there} cores, not {here}: last bits of its weights differ.")
    return {**before, "settings": config["settings"], "cores": here}


def read_config(run: RunDirectory) -> dict[str, Any]:
    """Read `config.json`: `settings`, `data` and `versions` of the training.

    Raises:
        InputError: It is missing, damaged or of another version.
    """
    if not run.config.is_file():
        raise InputError(f"{run.config} is not there: is {run} the --run directory of a training?")
    remedy = (
        "it is damaged or is of another version of this project, train into a new --run directory"
    )
    with reading(run.config, remedy):
        config = read_json(run.config, advice=remedy)
        data = config["data"]
        if not isinstance(data["fingerprint"], str):
            raise TypeError("its fingerprint is no text")
        if not isinstance(data.get("split_fingerprints", {}), dict):
            raise TypeError("its split_fingerprints are no object")
        data["name"] = clean_name(data["name"])
        facts_of_run(data)  # or they are damaged
        settings = Settings.from_config(config["settings"])
        return {**config, "settings": settings}


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
    remedy = "it is damaged, restore it, or train into a new --run directory"
    with reading(path, remedy), open(path, newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        for number, row in enumerate(rows, 1):
            if row["epoch"] != number:
                raise ValueError(f"row {number} is of epoch {row['epoch']}")
            if not all(math.isfinite(row[name]) for name in columns):
                raise ValueError(f"row {number} has a figure that is not finite")
            row["epoch"] = number
        return rows
