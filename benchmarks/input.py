"""Measure how fast slices come in, and how much memory streaming needs.

python benchmarks/input.py [--precision P] [--json FILE]

There are three ways of input. "cold" decodes PNGs into the cache and takes the first epoch from it.
"warm" is an epoch from the cache. "streamed" decodes at every epoch, as a training does when its
slices do not fit into `dataset.CACHE_BYTES`. All are timed in turn with the training step of the
first stage. The files are in the disk cache of the system. Peak memory is measured in a process of
its own that streams one epoch.
"""

import dataclasses
import functools
import pathlib
import statistics
import subprocess
import sys
import tempfile

import house  # noqa: F401  opens the repository

# isort: split
import numpy as np
import training
from contenders import recorded
from contenders.timing import in_turn, peak_mib, timed
from startup import write_slices

import dataset
from fitting.devices import compute_device, use_precision
from sources.folder import Split
from sources.layout import SLICE_SIDE
from utils import Parser, command_line, progress

FILES, SLICES = 200, 1000  # different PNGs, and slices that they stand for
STREAMED = (1000, 20000)  # slices in an epoch of which the peak memory is taken
BATCH, ROUNDS, STEPS = 8, 5, 8


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--precision",
        choices=training.PRECISIONS,
        default="auto",
        help="precision of the training step (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--stream",
        nargs=2,
        metavar=("DIR", "N"),
        help="only stream N slices of the files in DIR and print the peak memory in MiB",
    )
    return parser.parse_args(arguments)


def main(args):
    """Stream in this process, or measure memory and speed, print both and write them."""
    if args.stream:
        stream(*args.stream)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_slices([folder / f"{number:04d}.png" for number in range(FILES)])
        peaks = streaming_peaks(folder)
        growth = show_peaks(peaks)
        dtype = use_precision(args.precision)
        network = dataclasses.replace(training.NETWORK, batch=BATCH)
        speeds = measure(repeated(folder, SLICES), training.vqvae_step(network))
    device = compute_device()
    show_speeds(speeds, device, dtype)
    if args.json:
        memory = {"peak_mib": peaks, "peak_ratio": growth}
        recorded.write(args.json, {"device": device, "precision": dtype, **speeds, **memory})


def stream(folder, count):
    """Stream one epoch in this process and print its peak memory in MiB."""
    split = repeated(pathlib.Path(folder), int(count))
    run_epoch(source_of(split, cached=False), len(split))
    print(peak_mib())


def streaming_peaks(folder):
    """Measure the peak memory of streaming at each count of `STREAMED`: medians in MiB."""
    runs = [(count, number) for number in range(ROUNDS) for count in STREAMED]
    peaks = {count: [] for count in STREAMED}
    for count, _ in progress(runs, "streaming", unit="process"):
        peaks[count].append(peak_of_streaming(folder, count))
    return {count: statistics.median(values) for count, values in peaks.items()}


def peak_of_streaming(folder: pathlib.Path, count: int) -> float:
    """Return the peak memory in MiB of a process that streams one epoch of `count` slices."""
    command = [sys.executable, __file__, "--stream", str(folder), str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def repeated(folder: pathlib.Path, count: int) -> Split:
    """Make a split of `count` slices, several of which share a file."""
    files = sorted(map(str, folder.glob("*.png")))
    return Split(
        name="repeated",
        paths=tuple(files[number % len(files)] for number in range(count)),
        cases=np.arange(count),
        levels=np.zeros(count, int),
        subjects=np.arange(count),
    )


def source_of(split, cached):
    """Open the images of a split, kept in memory or decoded at every call."""
    usual = dataset.CACHE_BYTES
    dataset.CACHE_BYTES = 2**40 if cached else 0
    try:
        return dataset.ImageSource(split, SLICE_SIDE)
    finally:
        dataset.CACHE_BYTES = usual


def run_epoch(source, count):
    """Read one epoch of training batches."""
    examples = dataset.image_examples(source)
    for _ in dataset.training_batches(examples, count, BATCH, seed=0, epoch=0):
        pass


def measure(split: Split, step, rounds: int = ROUNDS) -> dict:
    """Measure the images a second of each way of input and of the step.

    Args:
        split: Slices to read.
        step: Function that takes one training step on a batch.
        rounds: Number of rounds; the results are medians.

    Returns:
        By way of input and for "step": `images_a_second`, and `of_step`, its ratio to the step's.
    """
    count = len(split)
    kept, decoded_again = (source_of(split, cached) for cached in (True, False))
    actions = {
        "cold": lambda: run_epoch(source_of(split, cached=True), count),
        "warm": lambda: run_epoch(kept, count),
        "streamed": lambda: run_epoch(decoded_again, count),
        "step": lambda: [step() for _ in range(STEPS)],
    }
    timers = {name: functools.partial(timed, action) for name, action in actions.items()}
    figures = in_turn(timers, "step", rounds, "input")
    results = {}
    for name, figure in figures.items():
        images = BATCH * STEPS if name == "step" else count
        results[name] = {
            "images_a_second": images / figure["seconds"],
            "of_step": images / (BATCH * STEPS) / figure["ratio"],
        }
    return results


def show_peaks(peaks):
    """Print the peaks, and return how many times as much memory the longer epoch needs."""
    for count, peak in peaks.items():
        print(f"  {count:>6} slices streamed: {peak:.0f} MiB at most")
    few, many = STREAMED
    growth = peaks[many] / peaks[few]
    print(f"  {growth:.2f} times as much for {many // few} times as many", flush=True)
    return growth


def show_speeds(speeds, device, dtype):
    """Print a line for each way of input and one for the step."""
    print(f"On the {' '.join(device)}, {dtype}.")
    for name, figure in speeds.items():
        images = f"{figure['images_a_second']:>10.1f} images a second"
        print(f"  {name:<10}{images}, {figure['of_step']:>7.1f} times the step's")


if __name__ == "__main__":
    command_line(main, parse())
