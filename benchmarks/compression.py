"""Measure the files that compress.py writes: their bytes, their round trips, and the time of both.

python benchmarks/compression.py --data DIR --run DIR [--split test] [--rate-weight L] [--json FILE]

Every case becomes a file, and so does every slice alone, and all of them are read again. Their
sizes stand beside the ideal code length of the same codes, and their seconds beside those of the
sampler. The first case is written again with a batch of 1, and by a process with one thread.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from house import ROOT

# isort: split
import numpy as np
import tensorflow as tf

from coding import container, slices
from dataset import codes_below
from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from networks.raster import numbered_seed
from sources.folder import NO_SLICE, Split, find_slices, make_split, open_slices
from sources.layout import SPLITS
from utils import Parser, between, command_line, progress, write_json

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
SAMPLED = 5  # batches of the sampler that are timed


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--run", metavar="DIR", required=True, help="run directory of train.py")
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L", help="price of one bit")
    add("--json", metavar="FILE", type=pathlib.Path, help="write all figures here")
    return parser.parse_args(arguments)


def main(args):
    """Measure, print and write all figures."""
    split = open_slices(find_slices(args.data)).splits[args.split]
    run = RunDirectory(args.run)
    codec = slices.Codec(run)
    by_case = container.runs_of(split)[1]
    alone = dataclasses.replace(split, below=np.full(len(split), NO_SLICE))
    report = {"cases": measure(codec, split, by_case, args.rate_weight)}
    show("by case", report["cases"])
    report["alone"] = measure(codec, alone, np.arange(len(split)), args.rate_weight)
    show("alone", report["alone"])
    report["sampler_seconds_a_slice"] = sampler_seconds(run)
    report |= repeated(codec, part(split, by_case == 0), args)
    print(
        f"sampler: {report['sampler_seconds_a_slice']:.2f} s a slice. The same bytes: "
        f"{report['same_with_batch_1']} with a batch of 1, "
        f"{report['same_with_one_thread']} in a process with one thread"
    )
    if args.json:
        write_json(args.json, report)


def measure(
    codec: slices.Codec, split: Split, numbers: np.ndarray, rate_weight: float | None
) -> dict:
    """Write a file for each stack of a split, read all of them, and compare with the ideal.

    The streams of all files are written side by side. Their bytes do not depend on it, see
    `repeated`.

    Args:
        codec: The codec of a run.
        split: The slices, N of them.
        numbers: Number of the file of each slice, `(N,)`.
        rate_weight: See `RasterPrior.describe`.
    """
    begin = time.perf_counter()
    codes, streams = codec.write_streams(split, numbers, rate_weight)
    middle = time.perf_counter()
    again = codec.read_streams(split, numbers, streams)
    end = time.perf_counter()
    sizes = []
    for number, stream in enumerate(streams):
        own = numbers == number
        stack = part(split, own)
        check, levels = container.checksum(stack, codes[own]), codec.prior.settings["num_levels"]
        runs = container.runs_of(stack)[0]
        sizes.append(len(container.pack(codec.models, check, runs, [stream], levels)))
    ideal = np.bincount(numbers, ideal_bits(codec, split, codes)) / 8  # bytes of each file
    above = np.array(sizes) - ideal
    return {
        "files": len(sizes),
        "slices": len(split),
        "round_trips": int((codes == again).all((1, 2)).sum()),
        "file_bytes_a_slice": sum(sizes) / len(split),
        "ideal_bytes_a_slice": float(ideal.sum()) / len(split),
        "share_above_ideal": float(above.sum() / ideal.sum()),
        "bytes_above_ideal": float(above.mean()),
        "encoding_seconds_a_slice": (middle - begin) / len(split),
        "decoding_seconds_a_slice": (end - middle) / len(split),
    }


def part(split: Split, chosen: np.ndarray) -> Split:
    """Some slices of a split."""
    places = zip(split.cases[chosen], split.levels[chosen], np.array(split.paths)[chosen])
    return make_split(split.name, [(int(c), int(k), str(path)) for c, k, path in places], {})


def ideal_bits(codec, split, codes):
    """Ideal code length of each slice in bits, `(N,)`."""
    bits = []
    for begin in progress(range(0, len(split), slices.BATCH), "counting bits"):
        batch = np.arange(begin, min(begin + slices.BATCH, len(split)))
        below = codes_below(codes, split.below, batch)
        bits.append(codec.prior.bits(codes[batch], split.levels[batch], below).numpy())
    return np.concatenate(bits).sum((1, 2))


def sampler_seconds(run: RunDirectory) -> float:
    """Seconds in which predict.py's sampler draws a slice, in batches of the same size."""
    _, prior = load_models(run)
    levels = tf.range(slices.BATCH) % prior.settings["num_levels"]
    seconds = []
    for number in progress(range(1 + SAMPLED), "sampling"):  # the first compiles
        begin = time.perf_counter()
        prior.sample(levels, numbered_seed(0, number)).numpy()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:])) / slices.BATCH


def repeated(codec: slices.Codec, case: Split, args) -> dict[str, bool]:
    """Write one case in other ways, and say whether the bytes are the same."""
    weight = args.rate_weight
    content, slices.BATCH = codec.encode(case, weight), 1
    one_by_one = codec.encode(case, weight)
    with tempfile.TemporaryDirectory() as folder:
        images, target = pathlib.Path(folder, "slices"), pathlib.Path(folder, "case.bvq")
        images.mkdir()
        for path in case.paths:
            pathlib.Path(images, pathlib.Path(path).name).symlink_to(pathlib.Path(path).resolve())
        command = [sys.executable, ROOT / "compress.py", "encode", images, target]
        command += ["--run", args.run] + (["--rate-weight", str(weight)] if weight else [])
        subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})
        alone = target.read_bytes()
    return {
        "same_with_batch_1": one_by_one == content,
        "same_with_one_thread": alone == content,
    }


def show(name, row):
    """Print the figures of one way to make files."""
    print(
        f"{name}: {row['files']} files, {row['file_bytes_a_slice']:.1f} bytes a slice, ideal "
        f"{row['ideal_bytes_a_slice']:.1f}; {row['bytes_above_ideal']:.1f} bytes or "
        f"{row['share_above_ideal']:.2%} above it a file; {row['round_trips']} of {row['slices']} "
        f"slices come back; {row['encoding_seconds_a_slice']:.2f} s to encode a slice, "
        f"{row['decoding_seconds_a_slice']:.2f} s to decode one",
        flush=True,
    )


if __name__ == "__main__":
    command_line(main, parse())
