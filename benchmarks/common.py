"""What benchmarks share: the way into the repository, flags, reports and the clock.

A benchmark imports this module before any module of the repository. It puts the root on the path
and loads TensorFlow without its start-up notes.
"""

import importlib.util
import pathlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# isort: split
from sources.layout import SPLITS  # noqa: E402  the path must hold it first
from utils import (  # noqa: E402
    InputError,
    Parser,
    between,
    import_tensorflow,
    progress,
    provenance,
    read_json,
    write_json,
)

import_tensorflow()
# It is asked when the process begins: a benchmark may take hours, and the files may change.
MADE = provenance()
ANOTHER_FILE = "name another --json file"

FILE, FOLDER = ({"type": pathlib.Path, "metavar": name} for name in ("FILE", "DIR"))
COUNT = {"type": between(int, 1, 1000), "metavar": "N"}
FLAGS = {
    "--data": {"required": True, "help": "folder with the three splits", **FOLDER},
    "--run": {"required": True, "help": "run directory of train.py", **FOLDER},
    "--json": {"help": "write all figures here", **FILE},
    "--figure": {"help": "draw a figure here, a PNG", **FILE},
    "--out": {"required": True, "help": "folder of the trainings and of what they draw", **FOLDER},
    "--split": {"choices": SPLITS, "default": "test", "help": "(default: %(default)s)"},
    "--every": {"help": "take each N-th case", "default": 1, **COUNT},
}


def make_parser(description: str, *flags: str) -> Parser:
    """Make a parser with some of the flags that several benchmarks have, names of `FLAGS`."""
    parser = Parser(description)
    for flag in flags:
        parser.add_argument(flag, **FLAGS[flag])
    return parser


def has_packages(*modules: str) -> bool:
    """Whether optional packages are installed, or print how to install what is missing."""
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        needed = "pip install -r benchmarks/requirements-rivals.txt"
        print(f"{', '.join(missing)} is left out: {needed}.", flush=True)
    return not missing


def continue_report(path: pathlib.Path | None, conditions: dict[str, Any]) -> dict[str, Any]:
    """Read the report of an earlier call that this one continues, or begin a new one.

    Args:
        path: JSON file that `write_report` wrote, or will write; or None.
        conditions: What must be the same for all figures of a report, by key.

    Returns:
        The report, which holds the conditions.

    Raises:
        InputError: The file is no such report, or one of other conditions.
    """
    if not (path and path.exists()):
        return dict(conditions)
    report = read_json(path, conditions, ANOTHER_FILE)
    report.pop("made", None)  # this call writes its own
    differ = {key: report[key] for key, value in conditions.items() if report[key] != value}
    if differ:
        raise InputError(f"{path} is of other conditions, {differ}: {ANOTHER_FILE}.")
    return report


def write_report(path: pathlib.Path | None, report: dict[str, Any]) -> None:
    """Write figures as JSON, and under `made` how they were made; without a path do nothing."""
    if path:
        write_json(path, {"made": MADE, **report})


def show(name: str, figures: Mapping[str, Any], *keys: str) -> None:
    """Print figures, of some keys or all.

    Numbers and the two bounds of intervals are printed in one line, and those within dicts below.
    """
    chosen = {key: figures[key] for key in keys or figures}
    bounds = {key: v if isinstance(v, (list, tuple)) else [v] for key, v in chosen.items()}
    cells = [
        f"{key.replace('_', ' ')} {' to '.join(f'{value:.4g}' for value in values)}"
        for key, values in bounds.items()
        if 1 <= len(values) <= 2 and all(isinstance(value, (int, float)) for value in values)
    ]
    if cells:
        print(f"{name:<40} {'   '.join(cells)}", flush=True)
    for key, value in chosen.items():
        if isinstance(value, Mapping):
            show(f"{name}, {key.replace('_', ' ')}", value)


def timed(action: Callable[[], object], count: int = 1) -> float:
    """Return the seconds that `count` calls take."""
    begin = time.perf_counter()
    for _ in range(count):
        action()
    return time.perf_counter() - begin


def in_turn(
    timers: Mapping[str, Callable[[], float]], rounds: int, title: str = "timing"
) -> dict[str, dict[str, float]]:
    """Time every contender once a round, and return medians over the rounds.

    So whatever slows the machine for a while slows them all. A first round warms up and does not
    count. A fixed seed draws a new order for each round, so no contender always follows the same
    one.

    Args:
        timers: Functions without arguments that return seconds, by name of the contender. The
            first contender is the one that the others are compared with.
        rounds: Number of rounds that count.
        title: Name of the progress bar.

    Returns:
        `{name: {"seconds": S, "ratio": R}}`. R is the time of the contender over that of the
        first one in the same round.
    """
    chance, rows, (reference, *_) = random.Random(0), [], timers
    for _ in progress(range(1 + rounds), title, unit="round"):
        order = chance.sample(list(timers), len(timers))
        rows.append({name: timers[name]() for name in order})
    counted = rows[1:]
    return {
        name: {
            "seconds": statistics.median(row[name] for row in counted),
            "ratio": statistics.median(row[name] / row[reference] for row in counted),
        }
        for name in timers
    }
