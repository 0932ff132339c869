"""The bytes of a `.bvq` file: which slices it holds, and the streams of their codes.

A slice alone has a shorter head, because its codes take few bytes. All numbers without a size are
variable-length integers (LEB128), lowest bits first.

| bytes, stacks | bytes, a slice alone | what |
| --- | --- | --- |
| 1 | 1 | `STACKS` or `ALONE`: the kind, and the version of the format |
| 4 | 2 | digest of the models; grid, codebook and levels follow from these |
| 4 | 2 | checksum of the places and codes of all slices |
| number | | number of runs; a run is a stack of slices without gaps |
| numbers | | for each run: case, first level, number of slices, and bytes of its stream |
| | number | case x levels + level |
| rest | rest | the streams |
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

from sources.folder import Split, make_split
from sources.layout import slice_name
from utils import InputError

# First byte of a file: its kind, and version 1 of the format.
ALONE, STACKS = 0xA1, 0xB1
CHECK_BYTES = {ALONE: 2, STACKS: 4}  # of the digest, and of the checksum
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
    """Digest of models from their fingerprints. A file holds its first bytes."""
    return hashlib.sha256(" ".join(fingerprints).encode()).digest()[: CHECK_BYTES[STACKS]]


def checksum(split: Split, codes: np.ndarray) -> bytes:
    """CRC-32 of the places of slices and of their codes, int32 `(N, H, W)`."""
    places = np.stack([split.cases, split.levels]).astype("<i8")
    check = zlib.crc32(codes.astype("<u2").tobytes(), zlib.crc32(places.tobytes()))
    return check.to_bytes(CHECK_BYTES[STACKS], "little")


def pack(
    models: bytes, check: bytes, runs: Sequence[Run], streams: Sequence[bytes], num_levels: int
) -> bytes:
    """Bytes of a file; `unpack` is the inverse.

    Args:
        models: What `digest` returned.
        check: What `checksum` returned.
        runs: The stacks of slices.
        streams: Bytes of the codes of each run.
        num_levels: Number of levels that the models know.
    """
    if len(runs) == 1 and runs[0].count == 1:
        kind, places = ALONE, [_varint(runs[0].case * num_levels + runs[0].first)]
    else:
        kind, places = STACKS, [_varint(len(runs))]
        for run, stream in zip(runs, streams, strict=True):
            places += map(_varint, (run.case, run.first, run.count, len(stream)))
    size = CHECK_BYTES[kind]
    return b"".join([bytes([kind]), models[:size], check[:size], *places, *streams])


def unpack(
    content: bytes, name: str, num_levels: int
) -> tuple[bytes, bytes, list[Run], list[bytes]]:
    """Read a file that may come from a stranger.

    Args:
        content: Its bytes.
        name: Its name, for messages.
        num_levels: Number of levels that the models know.

    Returns:
        First bytes of the digest of the models and of the checksum, runs, and the stream of each
        run.

    Raises:
        InputError: It is no such file, it is truncated, or its numbers make no sense.
    """
    kind = content[0] if content else None
    if kind not in CHECK_BYTES:
        raise InputError(
            f"{name} is no .bvq file that this program knows: "
            "name one that its compress.py encode wrote."
        )
    reader = _Reader(content, 1, name)
    models, check = reader.take(CHECK_BYTES[kind]), reader.take(CHECK_BYTES[kind])
    if kind == ALONE:
        case, level = divmod(reader.number((MAX_CASE + 1) * num_levels - 1), num_levels)
        return models, check, [Run(case, level, 1)], [content[reader.place :]]
    runs, sizes = _read_runs(reader, num_levels)
    streams = [reader.take(size) for size in sizes]
    if reader.place != len(content):
        raise reader.damaged()
    return models, check, runs, streams


def _read_runs(reader, num_levels):
    """Runs, which are in order and do not touch, and the bytes of their streams."""
    runs, sizes = [], []
    for _ in range(reader.number(MAX_SLICES)):
        case, first = reader.number(MAX_CASE), reader.number(num_levels - 1)
        runs.append(Run(case, first, reader.number(num_levels - first)))
        sizes.append(reader.number(len(reader.content)))
        if not runs[-1].count:
            raise reader.damaged()
    in_order = all(
        a.case < b.case or (a.case == b.case and a.first + a.count < b.first)
        for a, b in zip(runs, runs[1:])
    )
    if not runs or not in_order or sum(run.count for run in runs) > MAX_SLICES:
        raise reader.damaged()
    return runs, sizes


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
