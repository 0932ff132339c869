"""Measure the files that compress.py writes: their bytes, their round trips, and the time of both.

python benchmarks/compression.py --data DIR --run DIR [--split test] [--every N]
    [--rate-weight L] [--json FILE]

Every case becomes a file, and so does every slice alone, and all of them are read again. Their
sizes stand beside the ideal code length of the same codes, and their seconds beside those of the
sampler. The lowest slices of all cases are written again with a batch of 1, and by a process with
one thread.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from common import ROOT, make_parser, timed, write_report

# isort: split
import numpy as np
import tensorflow as tf
from files import Alone, every_case, write_files

from coding import slices
from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from networks.raster import numbered_seed
from sources.folder import Split, find_slices, open_slices
from sources.layout import SPLITS
from utils import between, command_line, progress

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
LOWEST = 2  # levels of which slices are written in other ways
SAMPLED = 5  # batches of the sampler that are timed


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--run", "--json")
    add = parser.add_argument
    add("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    add("--every", type=between(int, 1, 1000), default=1, metavar="N", help="take each N-th case")
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L", help="price of one bit")
    return parser.parse_args(arguments)


def main(args):
    """Measure, print and write all figures."""
    split = every_case(open_slices(find_slices(args.data)).splits[args.split], args.every)
    run = RunDirectory(args.run)
    codec = slices.Codec(run)
    report = {"cases": measure(codec, split, args.rate_weight)}
    show("by case", report["cases"])
    report["alone"] = measure(codec, Alone(**vars(split)), args.rate_weight)
    show("alone", report["alone"])
    report["sampler_seconds_a_slice"] = sampler_seconds(run)
    report |= repeated(codec, split, args)
    print(
        f"sampler: {report['sampler_seconds_a_slice']:.2f} s a slice. The same bytes: "
        f"{report['same_with_batch_1']} with a batch of 1, "
        f"{report['same_with_one_thread']} in a process with one thread"
    )
    write_report(args.json, report)


def measure(codec: slices.Codec, split: Split, rate_weight: float | None) -> dict:
    """Write a file for each case or slice, read all of them, and compare with the ideal.

    Args:
        codec: The codec of a run.
        split: The slices, N of them. An `Alone` has a file for each.
        rate_weight: See `RasterPrior.describe`.
    """
    written = write_files(codec, split, rate_weight)
    begin = time.perf_counter()
    again = codec.read_streams(split, written.numbers, written.streams)
    seconds = time.perf_counter() - begin
    above = written.sizes - written.ideal
    return {
        "files": len(written.sizes),
        "slices": len(split),
        "round_trips": int((written.codes == again).all((1, 2)).sum()),
        "file_bytes_a_slice": int(written.sizes.sum()) / len(split),
        "ideal_bytes_a_slice": float(written.ideal.sum()) / len(split),
        "share_above_ideal": float(above.sum() / written.ideal.sum()),
        "bytes_above_ideal": float(above.mean()),
        "most_bytes_above_ideal": float(above.max()),
        "encoding_seconds_a_slice": (written.seconds + seconds) / len(split),  # it reads again
        "decoding_seconds_a_slice": seconds / len(split),
    }


def sampler_seconds(run: RunDirectory) -> float:
    """Seconds in which predict.py's sampler draws a slice, in batches of the same size."""
    prior = load_models(run).prior
    levels = tf.range(slices.BATCH) % prior.settings["num_levels"]
    seconds = [
        timed(lambda number=number: prior.sample(levels, numbered_seed(0, number)).numpy())
        for number in progress(range(1 + SAMPLED), "sampling")  # the first compiles
    ]
    return float(np.median(seconds[1:])) / slices.BATCH


def repeated(codec: slices.Codec, split: Split, args) -> dict[str, bool]:
    """Write some slices in other ways, and say whether the bytes are the same.

    The slices are the lowest of all cases, so that many of them go through the networks together.
    """
    some = split.pick(np.flatnonzero(np.isin(split.levels, np.unique(split.levels)[:LOWEST])))
    weight, usual = args.rate_weight, slices.BATCH
    content = codec.encode(some, weight)
    try:
        slices.BATCH = 1
        one_by_one = codec.encode(some, weight)
    finally:
        slices.BATCH = usual
    with tempfile.TemporaryDirectory() as folder:
        images, target = pathlib.Path(folder, "slices"), pathlib.Path(folder, "some.bvq")
        images.mkdir()
        for path in some.paths:
            pathlib.Path(images, pathlib.Path(path).name).symlink_to(pathlib.Path(path).resolve())
        command = [sys.executable, ROOT / "compress.py", "encode", images, target]
        command += ["--run", args.run]
        if weight is not None:
            command += ["--rate-weight", str(weight)]
        subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})
        in_one_thread = target.read_bytes()
    return {
        "same_with_batch_1": one_by_one == content,
        "same_with_one_thread": in_one_thread == content,
    }


def show(name, row):
    """Print the figures of one way to make files."""
    print(
        f"{name}: {row['files']} files, {row['file_bytes_a_slice']:.1f} bytes a slice, ideal "
        f"{row['ideal_bytes_a_slice']:.1f}; {row['bytes_above_ideal']:.1f} bytes or "
        f"{row['share_above_ideal']:.2%} above it a file, {row['most_bytes_above_ideal']:.1f} at "
        f"most; {row['round_trips']} of {row['slices']} "
        f"slices come back; {row['encoding_seconds_a_slice']:.2f} s to encode a slice, "
        f"{row['decoding_seconds_a_slice']:.2f} s to decode one",
        flush=True,
    )


if __name__ == "__main__":
    command_line(main, parse())
