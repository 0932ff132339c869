"""Files of slices as compress.py writes them, many at a time, and their ideal code length."""

import dataclasses
import time

import numpy as np
from contenders.contender import in_batches

from coding import container
from coding.slices import Codec
from dataset import codes_below
from sources.folder import NO_SLICE, Split


@dataclasses.dataclass(frozen=True)
class Alone(Split):
    """Slices that are compressed each by itself: `Alone(**vars(split))`."""

    @property
    def below(self) -> np.ndarray:
        """`NO_SLICE` for every slice, int32 (N,)."""
        return np.full(len(self), NO_SLICE, "int32")


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of the slices of a split: one for each case, or for each slice alone.

    Attributes:
        numbers: Number of the stream of each slice, `(N,)`. A case without gaps has one stream.
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
    if isinstance(split, Alone):
        files = numbers = np.arange(len(split))
    else:
        files = np.unique(split.cases, return_inverse=True)[1]
        numbers = container.stacks_of(split)[1]
    begin = time.perf_counter()
    codes, streams = codec.write_streams(split, numbers, rate_weight)
    seconds = time.perf_counter() - begin
    sizes = []
    for file in range(files.max() + 1):
        stack = np.flatnonzero(files == file)
        slices = split.pick(stack)
        check, runs = container.checksum(slices, codes[stack]), container.stacks_of(slices)[0]
        parts = [streams[number] for number in np.unique(numbers[stack])]
        levels = codec.prior.settings["num_levels"]
        sizes.append(len(container.pack(codec.digest, check, runs, parts, levels)))
    ideal = np.bincount(files, ideal_bits(codec, split, codes)) / 8
    return Files(numbers, codes, streams, np.array(sizes), ideal, seconds)


def ideal_bits(codec: Codec, split: Split, codes: np.ndarray) -> np.ndarray:
    """Ideal code length of each slice in bits, `(N,)`."""

    def measure(batch):
        below = codes_below(codes, split.below, batch)
        return codec.prior.bits(codes[batch], split.levels[batch], below)

    return in_batches(measure, np.arange(len(split))).sum((1, 2))
