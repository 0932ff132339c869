"""How fast slices come in, beside how fast the training step eats them, and that streaming needs no more memory for more slices.

python benchmarks/input.py [--precision P] [--json FILE]

"cold" decodes PNGs into the cache and takes the first epoch from it, "warm" is an epoch from the cache, and "streamed" decodes at every
epoch, as training does with slices that do not fit into `pipeline.CACHE_BYTES`. All are timed in turn with the training step of the first stage; the
files are in the disk cache of the system. Peak memory is that of a process of its own that streams one epoch.
"""

import functools
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

import dataset
from timing import in_turn, timed
from utils import Parser, command_line, device, import_tensorflow, use_precision, write_json

FILES, SLICES = 200, 1000  # different PNGs, and slices that they stand for
STREAMED = (1000, 20000)
BATCH, ROUNDS, STEPS = 8, 5, 8


def write_slices(paths):
    """PNGs that compress as slices do: texture and noise within a disc of half the image, black around it."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    inside = x**2 + y**2 < 2 / np.pi
    for i, path in enumerate(paths):
        grey = 120 + 60 * np.sin(9 * x + i) * np.cos(7 * y) + np.random.default_rng(i).normal(0, 4, x.shape)
        Image.fromarray(np.where(inside, grey, 0).astype("uint8")).save(path)


def repeated(folder, count):
    """A split of `count` slices, of which several share a file."""
    files = sorted(map(str, folder.glob("*.png")))
    return dataset.Split("repeated", tuple(files[i % len(files)] for i in range(count)), np.arange(count), np.zeros(count, int), np.arange(count))


def source_of(split, cached):
    import pipeline

    usual, pipeline.CACHE_BYTES = pipeline.CACHE_BYTES, 2**40 if cached else 0
    try:
        return pipeline.image_source(split, dataset.SOURCE_SIZE)
    finally:
        pipeline.CACHE_BYTES = usual


def run_epoch(source, count):
    import pipeline

    for _ in pipeline.training_batches(pipeline.images_of(source), count, BATCH, seed=0, epoch=0):
        pass


def measure(split, step, rounds=ROUNDS):
    """Images a second of each way of input and of the step, and their ratio to the step's: medians of rounds taken in turn.

    Args:
        step: function that takes one training step on a batch.
    """
    kept, read_again = (source_of(split, cached) for cached in (True, False))
    actions = {  # and the images that each handles
        "cold": (lambda: run_epoch(source_of(split, True), len(split)), len(split)),
        "warm": (lambda: run_epoch(kept, len(split)), len(split)),
        "streamed": (lambda: run_epoch(read_again, len(split)), len(split)),
        "step": (lambda: [step() for _ in range(STEPS)], BATCH * STEPS),
    }
    figures = in_turn({name: functools.partial(timed, action) for name, (action, _) in actions.items()}, "step", rounds)
    return {name: {"images_a_second": images / figures[name]["seconds"], "of_step": images / actions["step"][1] / figures[name]["ratio"]}
            for name, (_, images) in actions.items()}


def peak_of_streaming(folder, count):
    """Peak memory in MiB of a process that streams one epoch of `count` slices."""
    done = subprocess.run([sys.executable, __file__, "--stream", str(folder), str(count)], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def stream(folder, count):
    import_tensorflow()
    run_epoch(source_of(repeated(pathlib.Path(folder), int(count)), False), int(count))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(args):
    if args.stream:
        return stream(*args.stream)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_slices([folder / f"{i:04d}.png" for i in range(FILES)])
        # first, because a process that is forked from a large one would count as large itself
        runs = [{count: peak_of_streaming(folder, count) for count in STREAMED} for _ in range(ROUNDS)]
        peaks = {count: statistics.median(run[count] for run in runs) for count in STREAMED}
        for count, peak in peaks.items():
            print(f"  {count:>6} slices streamed: {peak:.0f} MiB at most")
        growth = peaks[STREAMED[1]] / peaks[STREAMED[0]]
        print(f"  {growth:.2f} times as much for {STREAMED[1] // STREAMED[0]} times as many")
        import_tensorflow()
        import training

        dtype = use_precision(args.precision)
        results = measure(repeated(folder, SLICES), training.vqvae_step(**{**training.NETWORK, "batch": BATCH}))
    print(f"On the {' '.join(device())}, {dtype}.")
    for name, figure in results.items():
        print(f"  {name:<10}{figure['images_a_second']:>10.1f} images a second, {figure['of_step']:>7.1f} times the step's")
    if args.json:
        write_json(args.json, {"device": device(), "precision": dtype, **results, "peak_mib": peaks, "peak_ratio": growth})


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of the training step (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--stream", nargs=2, metavar=("DIR", "N"), help="only stream N slices of the files in DIR and print the peak memory in MiB")
    command_line(main, parser.parse_args())
