"""Measure the files that compress.py writes: their bytes, their round trips, and the time of both.

python benchmarks/compression.py --data DIR --run DIR [--split test] [--every N]
    [--rate-weight L] [--json FILE]

Every case becomes a file, and so does every slice alone, and all of them are read again. Their
sizes stand beside the ideal code length of the same codes.
"""

import dataclasses
import time

from common import make_parser, show, write_report

# isort: split
import numpy as np
from contenders.contender import in_batches

from coding import container
from coding.slices import Codec
from fitting.run_directory import RunDirectory
from networks.order import among, arrange
from sources.folder import Split, find_slices, open_slices
from utils import between, command_line


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--run", "--split", "--every", "--json")
    weight = {"type": between(float, 0, 1e6), "metavar": "L"}
    parser.add_argument("--rate-weight", help="price of one bit", **weight)
    return parser.parse_args(arguments)


def main(args):
    """Measure, print and write all figures."""
    split = every_case(open_slices(find_slices(args.data)).splits[args.split], args.every)
    codec, report = Codec(RunDirectory(args.run)), {}
    for name, part in {"cases": split, "alone": Alone(**vars(split))}.items():
        report[name] = measure(codec, part, args.rate_weight)
        show(name, report[name])
    write_report(args.json, report)


def measure(codec: Codec, split: Split, rate_weight: float | None) -> dict:
    """Write a file for each case or slice, read all of them, and compare with the ideal.

    Args:
        codec: The codec of a run.
        split: The slices, N of them. An `Alone` has a file for each.
        rate_weight: See `RasterPrior.choose_codes`.
    """
    written, begin = write_files(codec, split, rate_weight), time.perf_counter()
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


@dataclasses.dataclass(frozen=True)
class Alone(Split):
    """Slices that are compressed each by itself: `Alone(**vars(split))`."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of the slices of a split: one for each case, or for each slice alone.

    Attributes:
        numbers: Number of the file of each slice, `(N,)`, in which it has one stream.
        codes: Codes of the slices, int32 `(N, H, W)`.
        streams: Bytes of each stream.
        sizes: Bytes of each file with its head, `(F,)`.
        ideal: Ideal code length of each file in bytes, `(F,)`.
        seconds: Seconds in which all codes were chosen and written.
    """

    numbers: np.ndarray
    codes: np.ndarray
    streams: list[bytes]
    sizes: np.ndarray
    ideal: np.ndarray
    seconds: float


def every_case(split: Split, every: int) -> Split:
    """The slices of each `every`-th case of a split, the first case among them."""
    return split.pick(np.flatnonzero(np.isin(split.cases, np.unique(split.cases)[::every])))


def write_files(codec: Codec, split: Split, rate_weight: float | None = None) -> Files:
    """Write a file for each case of a split, or for each slice of an `Alone`, in memory.

    All files are written side by side. Their bytes do not depend on it.

    Args:
        codec: The codec of a run.
        split: The slices, N of them.
        rate_weight: See `RasterPrior.choose_codes`.
    """
    files = np.arange(len(split))
    if not isinstance(split, Alone):
        files = np.unique(split.cases, return_inverse=True)[1]
    begin = time.perf_counter()
    codes, streams = codec.write_streams(split, files, rate_weight)
    seconds = time.perf_counter() - begin
    sizes = []
    for file, stream in enumerate(streams):
        stack = np.flatnonzero(files == file)
        slices = split.pick(stack)
        check, stacks = container.checksum(slices, codes[stack]), container.stacks_of(slices)
        levels = codec.prior.settings["num_levels"]
        sizes.append(len(container.pack(codec.digest, check, stacks, [stream], levels)))
    ideal = np.bincount(files, ideal_bits(codec, split, files, codes)) / 8
    return Files(files, codes, streams, np.array(sizes), ideal, seconds)


def ideal_bits(codec: Codec, split: Split, files: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Ideal code length of each slice in bits, `(N,)`, given others of its file."""
    order = arrange(files, split.levels, codec.prior.settings["neighbours"])

    def measure(batch):
        return codec.prior.bits(codes[batch], split.levels[batch], among(order, codes, batch))

    return in_batches(measure, np.arange(len(split))).sum((1, 2))


if __name__ == "__main__":
    command_line(main, parse())
