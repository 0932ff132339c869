"""Measure the seconds from the command to the first training step, and where they go.

python benchmarks/startup.py [--json FILE]

It also measures how fast --help answers. Each round runs `train.py` with its default sizes on a
folder of made-up slices, in a process of its own, up to the end of the first step. All figures are
medians of rounds. "first step" is tracing that step and running it once.
"""

import functools
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

from house import ROOT

# isort: split
import numpy as np
from contenders import recorded
from PIL import Image

import train
from sources.layout import NUM_LEVELS, SLICE_SIDE, slice_name, split_folder
from utils import Parser, command_line, progress

ROUNDS = 3
CASES = {"train": 16, "validate": 2, "test": 2}
MARKED = "--marked"  # first argument of a process that runs train.py with marks
# Modules that the first stage does not need.
RARE = (
    "tensorflow_probability",
    "tf_keras",
    "matplotlib",
    "pandas",
    "scipy.ndimage",
    "nilearn",
    "nibabel",
    "sklearn",
    "torch",
)


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args(arguments)


def main(args):
    """Measure --help and the start of a training, print both and write them."""
    helps = {}
    for script in ("train.py", "predict.py"):
        helps[script] = statistics.median(help_seconds(script) for _ in range(ROUNDS))
        print(f"  {script} --help: {helps[script]:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_data(pathlib.Path(folder))
        rounds = [measure(folder) for _ in progress(range(ROUNDS), "starting", unit="training")]
    names, loaded = rounds[0]
    phases = {name: statistics.median(phases[name] for phases, _ in rounds) for name in names}
    total = statistics.median(sum(phases.values()) for phases, _ in rounds)
    for phase, seconds in phases.items():
        print(f"  {phase:<24}{seconds:>7.2f} s")
    needless = ", ".join(loaded) or "nothing"
    print(f"  {'to the first step':<24}{total:>7.2f} s; loaded without need: {needless}")
    if args.json:
        figures = {"phases": phases, "seconds": total, "loaded_without_need": loaded}
        recorded.write(args.json, {"help_seconds": helps, **figures})


def help_seconds(script: str) -> float:
    """Return the seconds that a script needs to answer --help."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, ROOT / script, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def write_data(directory: pathlib.Path, cases=CASES, num_levels: int = NUM_LEVELS) -> None:
    """Write a data folder of made-up slices.

    Args:
        directory: Folder to write to.
        cases: Number of cases of each split.
        num_levels: Number of slices of each case.
    """
    first = 1
    for split, count in cases.items():
        folder = split_folder(directory, split)
        folder.mkdir(parents=True)
        numbers = range(first, first + count)
        names = [slice_name(case, level) for case in numbers for level in range(num_levels)]
        write_slices(folder / name for name in progress(names, f"writing {split}", unit="slice"))
        first += count


def write_slices(paths: Iterable[pathlib.Path]) -> None:
    """Write PNGs that compress as real slices do.

    Each shows texture and noise within a disc of half the image, and black around it.
    """
    y, x = np.mgrid[-1 : 1 : SLICE_SIDE * 1j, -1 : 1 : SLICE_SIDE * 1j]
    inside = x**2 + y**2 < 2 / np.pi
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).normal(0, 4, x.shape)
        grey = 120 + 60 * np.sin(9 * x + number) * np.cos(7 * y) + noise
        Image.fromarray(np.where(inside, grey, 0).astype("uint8")).save(path)


def measure(data: pathlib.Path, *flags: str) -> tuple[dict[str, float], list[str]]:
    """Measure one start of a training.

    Args:
        data: Data folder.
        flags: Other flags of `train.py`.

    Returns:
        Seconds of each phase, in order, and the modules that were loaded without need.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--data", str(data), "--run", str(pathlib.Path(folder) / "run"), *flags]
        command = [sys.executable, __file__, MARKED, repr(time.time()), *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    phases, before = {}, 0.0
    for phase, end in report["ends"].items():
        phases[phase], before = end - before, end
    return phases, report["loaded"]


# ---- in the process that is measured -----------------------------------------------------------


class Marks:
    """Notes when the phases of `train.py` end.

    Args:
        started: Time of the command in seconds since the epoch.
    """

    def __init__(self, started: float):
        self.started = started
        self.ends = {}

    def note(self, phase: str) -> None:
        """Note that a phase ends now. Its last end counts."""
        self.ends[phase] = time.time() - self.started

    def mark(self, owner, name: str, phase: str) -> None:
        """Make a function note the end of a phase whenever it returns.

        Args:
            owner: Module or class that holds the function.
            name: Name of the function.
            phase: Phase that it ends.
        """
        function = getattr(owner, name)

        @functools.wraps(function)
        def marked(*args, **options):
            result = function(*args, **options)
            self.note(phase)
            return result

        setattr(owner, name, marked)

    def report(self) -> str:
        """Return the ends of all phases and the modules of `RARE` that were loaded, as JSON."""
        loaded = [name for name in RARE if name in sys.modules]
        return json.dumps({"ends": self.ends, "loaded": loaded})


def run_marked(started: float, arguments: list[str]) -> None:
    """Run `train.py` up to its first step, and print a line of JSON about it.

    Args:
        started: Time of the command in seconds since the epoch.
        arguments: Flags of `train.py`.
    """
    marks = Marks(started)
    marks.note("Python, NumPy, Pillow")
    marks.mark(train, "open_slices", "checking slices")
    train.import_tensorflow = functools.partial(import_marked, marks, train.import_tensorflow)
    train.main(train.parse(arguments))


def import_marked(marks: Marks, import_tensorflow: Callable) -> None:
    """Import TensorFlow as `train.py` does, and mark the functions that it calls later."""
    import_tensorflow()
    # By name, because these modules must not be loaded when this file is.
    names = ("keras", "dataset", "fitting.devices")
    keras, dataset, strategies = (importlib.import_module(name) for name in names)
    marks.mark(dataset.ImageSource, "__init__", "decoding slices")
    marks.mark(keras.Model, "compile", "building the model")
    strategies.compiled = functools.partial(compile_marked, marks, strategies.compiled)
    marks.note("TensorFlow, Keras")


def compile_marked(marks: Marks, compiled: Callable, strategy, model, step) -> Callable:
    """Compile a step, and end this process after the first training step."""
    call = compiled(strategy, model, step)
    trains = step == model.train_step

    def marked(*args):
        result = call(*args)
        marks.note("first step" if trains else "first validation step")
        if trains:
            print(marks.report(), flush=True)
            os._exit(0)
        return result

    return marked


if __name__ == "__main__":
    if sys.argv[1:2] == [MARKED]:
        command_line(run_marked, float(sys.argv[2]), sys.argv[3:])
    else:
        command_line(main, parse())
