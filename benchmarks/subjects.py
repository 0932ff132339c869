"""Measure what more subjects, another seed, and the weights of another run are worth.

python benchmarks/subjects.py --data DIR --out DIR [--json FILE] [--only NAME ...]

Every training is one of `train.py`, in a process of its own, on a folder with some of the training
subjects. Validation and test splits are the same for all. There are two sets of trainings.

- The learning curve: 37, 74 and 148 subjects, and three seeds of 148. All take as many steps, in a
  small model with half the default width.
- Few subjects: 20 of them, in several minutes, with the default sizes. They start from random
  weights, or from a run on the synthetic cohort, which is trained first.

SSIM, bits and bytes are measured on all three splits. Of the training split that is a part, as
large as the test split, and the same for all trainings of the curve: its people are in the smallest
set. `predict.py` measures in the same way.

The figures of each training are written when it has finished. A later call with the same --json
file does not train it again.
"""

import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys

from common import MADE, ROOT, continue_report, make_parser, show, timed, write_report

# isort: split
import numpy as np

from evaluation import metrics, reconstruction
from fitting import checkpoints
from fitting.run_directory import RunDirectory
from sources.folder import Slices, Split, find_slices, open_slices
from sources.layout import SPLITS, split_folder
from utils import command, command_line

# Subjects of the learning curve, at least and at most; a smaller data folder has all of its own.
FEWEST, SUBJECTS = 37, 148
# One rate weight for all, because a run that starts from another one takes that of the other.
PASSES_FLAGS = "--first-prior-epochs {0} --epochs {1} --prior-epochs {2}"
FEW = f"--texture-epochs 0 --rate-weight 0.35 {PASSES_FLAGS}"
SMALL = f"--width 64 --prior-width 64 {FEW}"
PASSES = np.array([1, 4, 3])  # of first prior, VQ-VAE and prior, over all subjects
# Passes over few subjects, meant for 5 and 15 minutes on two cores. The report has the true ones.
SHORT, LONG = (1, 8, 4), (2, 30, 16)
BASE = "synthetic cohort"  # name of the run that others start from


@dataclasses.dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        subjects: Training subjects; 0 for the synthetic cohort.
        flags: Flags of train.py.
        seed: Seed of the training.
        start: Name of the training to start from, or "".
    """

    subjects: int
    flags: str
    seed: int = 0
    start: str = ""


def curve(subjects: int, seed: int = 0) -> Training:
    """A training of the learning curve. Fewer subjects get more passes, so that steps are equal."""
    passes = np.ceil(PASSES * SUBJECTS / subjects).astype(int)
    return Training(subjects, SMALL.format(*passes), seed)


TRAININGS = {
    "148 subjects": curve(SUBJECTS),
    "148 subjects, seed 1": curve(SUBJECTS, 1),
    "148 subjects, seed 2": curve(SUBJECTS, 2),
    "74 subjects": curve(74),
    "37 subjects": curve(FEWEST),
    BASE: Training(0, "--image-size 256 --texture-epochs 0 --width 128 --prior-width 128"),
    "20 subjects, short": Training(20, FEW.format(*SHORT)),
    "20 subjects, short, from the cohort": Training(20, FEW.format(*SHORT), start=BASE),
    "20 subjects, long": Training(20, FEW.format(*LONG)),
    "20 subjects, long, from the cohort": Training(20, FEW.format(*LONG), start=BASE),
}


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--out", "--json")
    names = {"nargs": "+", "choices": TRAININGS, "default": list(TRAININGS)}
    parser.add_argument(
        "--only", metavar="NAME", help=f"do these of {', '.join(TRAININGS)}", **names
    )
    return parser.parse_args(arguments)


def main(args):
    """Do the trainings that have not finished, and join the figures of all."""
    slices = open_slices(find_slices(args.data))
    report = continue_report(args.json, {"fingerprint": slices.fingerprint})
    known = report.setdefault("trainings", {})
    for name in args.only:
        if slug(name) not in known:
            known[slug(name)] = measure(TRAININGS[name], args.out / slug(name), args, slices)
            write_report(args.json, report)
    for name, training in known.items():
        show(name, {**training, "made": None})


def slug(name: str) -> str:
    """Name of a training without spaces: that of its run directory."""
    return name.replace(",", "").replace(" ", "-")


def measure(training: Training, run: pathlib.Path, args, slices: Slices) -> dict:
    """Train, and measure the run on all splits.

    Returns:
        What was trained, the `minutes` of train.py, and `splits`: SSIM, bits a code and ideal bytes
        of each split by its name. The synthetic cohort has no splits.
    """
    flags = [*shlex.split(training.flags), "--seed", str(training.seed), "--run", str(run)]
    if training.start:
        flags += ["--start-from", str(args.out / slug(training.start))]
    report = {"made": MADE, **dataclasses.asdict(training)}
    report["command"] = command(["train.py", *flags])
    if training.subjects:
        chosen = choose_subjects(slices.splits["train"], training.subjects)
        flags += ["--data", str(link_slices(args, slices.splits["train"], chosen))]
    train = [sys.executable, ROOT / "train.py", *flags]
    report["minutes"] = timed(lambda: subprocess.run(train, check=True)) / 60
    if training.subjects:
        count = len(slices.splits["test"])
        known = measured_slices(slices.splits["train"], training.subjects, count)
        splits = {**slices.splits, "train": known}
        models = checkpoints.load_models(RunDirectory(run))
        report["splits"] = {name: quality(models, splits[name]) for name in SPLITS}
    return report


def measured_slices(split: Split, subjects: int, count: int) -> Split:
    """Part of the training split that a training is measured on: of people in the smallest set.

    Args:
        split: The training split.
        subjects: Training subjects of this training.
        count: Slices to measure, at most.
    """
    shared = choose_subjects(split, min(subjects, FEWEST))
    return split.pick(np.flatnonzero(np.isin(split.subjects, shared))[:count])


def choose_subjects(split: Split, count: int) -> np.ndarray:
    """Training subjects at even distances, so that a set of them varies as all do."""
    every = np.unique(split.subjects)
    places = np.linspace(0, len(every), min(count, len(every)), endpoint=False).astype(int)
    return every[places]


def link_slices(args, split: Split, chosen: np.ndarray) -> pathlib.Path:
    """Folder with links to the slices of some training subjects and to the other splits."""
    folder = args.out / f"slices-{len(chosen)}"
    linked = split_folder(folder, "train")
    if not linked.exists():
        linked.mkdir(parents=True)
        for name in SPLITS[1:]:
            os.symlink(split_folder(args.data, name).resolve(), split_folder(folder, name))
        for path, subject in zip(split.paths, split.subjects):
            if subject in chosen:
                path = pathlib.Path(path).resolve()
                os.symlink(path, linked / path.name)
    return folder


def quality(models, split: Split) -> dict:
    """Measure a run on a split, each slice with the codes that the prior would choose."""
    results = reconstruction.evaluate(models, split)
    bits = results["bits"].sum((1, 2))  # (N,)
    return {
        "slices": len(split),
        "ssim": float(results["ssim"].mean()),
        "ssim_ci95": metrics.subject_interval(results["ssim"], split.subjects),
        "brain_ssim": float(np.nanmean(results["brain_ssim"])),
        "bits_per_code": float(results["bits"].mean()),
        "prior_bytes": float(bits.mean()) / 8,
        "prior_bytes_ci95": metrics.subject_interval(bits / 8, split.subjects),
    }


if __name__ == "__main__":
    command_line(main, parse())
