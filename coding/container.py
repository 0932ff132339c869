"""The bytes of a `.bvq` file: which slices it holds, and the streams of their codes.

All numbers are variable-length integers (LEB128), lowest bits first.

| bytes | what |
| --- | --- |
| 3 | magic `BVQ` |
| 1 | version of the format |
| 4 | digest of the models; grid, codebook and levels follow from these |
| 4 | CRC-32 of the places and codes of all slices |
| | number of runs; a run is a stack of slices without gaps |
| | for each run: case, first level, number of slices, and bytes of its stream |
| | the streams |
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

from sources.folder import Split, make_split
from sources.layout import slice_name
from utils import InputError

MAGIC, VERSION = b"BVQ", 1
DIGEST_BYTES = 4
MAX_CASE = 10**9 - 1  # that a name can hold
MAX_SLICES = 10**5  # of a file; their codes fit into memory


@dataclasses.dataclass(frozen=True)
class Run:
    """A stack of slices without gaps.

    Attributes:
        case: Case of the slices.
        first: Level of the lowest.
        count: Number of slices.
    """

    case: int
    first: int
    count: int


def runs_of(split: Split) -> tuple[list[Run], np.ndarray]:
    """Runs of a split, and the number of the run of each slice, `(N,)`."""
    breaks = np.ones(len(split), bool)
    breaks[1:] = (np.diff(split.cases) != 0) | (np.diff(split.levels) != 1)
    numbers = np.cumsum(breaks) - 1
    counts = np.bincount(numbers)
    firsts = np.flatnonzero(breaks)
    places = zip(split.cases[firsts], split.levels[firsts], counts)
    return [Run(*map(int, place)) for place in places], numbers


def split_of(runs: Sequence[Run]) -> Split:
    """The slices of some runs, named as in a data folder."""
    places = [
        (run.case, level, slice_name(run.case, level))
        for run in runs
        for level in range(run.first, run.first + run.count)
    ]
    return make_split("decoded", places, {})


def digest(*fingerprints: str) -> bytes:
    """Digest of models from their fingerprints."""
    return hashlib.sha256(" ".join(fingerprints).encode()).digest()[:DIGEST_BYTES]


def checksum(split: Split, codes: np.ndarray) -> int:
    """CRC-32 of the places of slices and of their codes, int32 `(N, H, W)`."""
    places = np.stack([split.cases, split.levels]).astype("<i8")
    return zlib.crc32(codes.astype("<u2").tobytes(), zlib.crc32(places.tobytes()))


def pack(models: bytes, check: int, runs: Sequence[Run], streams: Sequence[bytes]) -> bytes:
    """Bytes of a file; `unpack` is the inverse."""
    parts = [MAGIC, bytes([VERSION]), models, check.to_bytes(4, "little"), _varint(len(runs))]
    for run, stream in zip(runs, streams, strict=True):
        parts += map(_varint, (run.case, run.first, run.count, len(stream)))
    return b"".join([*parts, *streams])


def unpack(content: bytes, name: str, num_levels: int) -> tuple[bytes, int, list[Run], list[bytes]]:
    """Read a file that may come from a stranger.

    Args:
        content: Its bytes.
        name: Its name, for messages.
        num_levels: Number of levels that the models know.

    Returns:
        Digest of the models, checksum, runs, and the stream of each run.

    Raises:
        InputError: It is no such file, it is truncated, or its numbers make no sense.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise InputError(f"{name} is no .bvq file: name one that compress.py encode wrote.")
    reader = _Reader(content, len(MAGIC), name)
    version = reader.take(1)[0]
    if version != VERSION:
        raise InputError(
            f"{name} has version {version} of the format, and this program reads {VERSION}: "
            "use the program that wrote it."
        )
    models, check = reader.take(DIGEST_BYTES), int.from_bytes(reader.take(4), "little")
    runs, sizes = [], []
    for _ in range(reader.number(MAX_SLICES)):
        case, first = reader.number(MAX_CASE), reader.number(num_levels - 1)
        runs.append(Run(case, first, reader.number(num_levels - first)))
        sizes.append(reader.number(len(content)))
        if not runs[-1].count:
            raise reader.damaged()
    in_order = all(
        a.case < b.case or (a.case == b.case and a.first + a.count < b.first)
        for a, b in zip(runs, runs[1:])
    )
    if not in_order or sum(run.count for run in runs) > MAX_SLICES:
        raise reader.damaged()
    streams = [reader.take(size) for size in sizes]
    if not runs or reader.place != len(content):
        raise reader.damaged()
    return models, check, runs, streams


class _Reader:
    """Reads bytes and numbers, and refuses to read beyond the end."""

    def __init__(self, content, place, name):
        self.content, self.place, self.name = content, place, name

    def damaged(self):
        return InputError(f"{self.name} is damaged or ends too early: copy it again.")

    def take(self, count):
        begin, self.place = self.place, self.place + count
        if self.place > len(self.content):
            raise self.damaged()
        return self.content[begin : self.place]

    def number(self, most):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise self.damaged()
        if value > most:
            raise self.damaged()
        return value


def _varint(value):
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
