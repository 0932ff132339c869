"""The bytes of a `.bvq` file: which slices it holds, and the streams of their codes.

A file of a single slice has a shorter head, because its codes take few bytes. All numbers without a
size are variable-length integers (LEB128), lowest bits first.

| bytes, stacks | bytes, a single slice | what |
| --- | --- | --- |
| 1 | 1 | `STACKS` or `SINGLE`, plus `GIVEN`: the kind, and the version of the format |
| 4 | 2 | digest of the models; grid, codebook and levels follow from these |
| 4 | 2 | checksum of the places and codes of all slices |
| numbers | numbers | with `GIVEN`: how many attributes the prior knows, and the number of each |
| number | | number of stacks; a stack is the slices of a case |
| numbers | | for each stack: case, levels (see `_runs`), and bytes of its stream |
| | number | case x levels + level |
| rest | rest | the streams |
"""

import hashlib
import io
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sources.folder import Split, make_split
from sources.layout import slice_name
from utils import FORMER_VERSION, InputError, reading

# First byte of a file: its kind, and version 2 of the format.
SINGLE, STACKS = 0xA2, 0xB2
GIVEN = 0x08  # added where it is known who is shown
FORMER = (0xA1, 0xB1)  # of version 1
CHECK_BYTES = {SINGLE: 2, STACKS: 4}  # of the digest, and of the checksum
MAX_CASE = 10**9 - 1  # that a name can hold
MAX_ATTRIBUTES, MAX_VALUES = 10**3, 2**16
MAX_SLICES = 10**5  # of a file; their codes fit into memory


class Stack(NamedTuple):
    """The slices of a case: its number, and their levels in rising order."""

    case: int
    levels: tuple[int, ...]


def stacks_of(split: Split) -> list[Stack]:
    """Stacks of a split."""
    cases = np.unique(split.cases).tolist()
    return [Stack(case, tuple(split.levels[split.cases == case].tolist())) for case in cases]


def split_of(stacks: Sequence[Stack]) -> Split:
    """The slices of some stacks, named as in a data folder."""
    places = [(case, level, slice_name(case, level)) for case, levels in stacks for level in levels]
    return make_split("decoded", places)


def digest(*fingerprints: str) -> bytes:
    """Digest of models from their fingerprints. A file holds its first bytes."""
    return hashlib.sha256(" ".join(fingerprints).encode()).digest()[: CHECK_BYTES[STACKS]]


def checksum(split: Split, codes: np.ndarray) -> bytes:
    """CRC-32 of the places of slices and of their codes, int32 `(N, H, W)`."""
    places = np.stack([split.cases, split.levels]).astype("<i8")
    check = zlib.crc32(codes.astype("<u2").tobytes(), zlib.crc32(places.tobytes()))
    return check.to_bytes(CHECK_BYTES[STACKS], "little")


def pack(
    models: bytes,
    check: bytes,
    stacks: Sequence[Stack],
    streams: Sequence[bytes],
    num_levels: int,
    given: Sequence[int] = (),
) -> bytes:
    """Bytes of a file; `unpack` is the inverse.

    Args:
        models: What `digest` returned.
        check: What `checksum` returned.
        stacks: Where the slices lie.
        streams: Bytes of the codes of each stack.
        num_levels: Number of levels that the models know.
        given: Number of the value of each attribute, or nothing where all are unknown.
    """
    if len(stacks) == 1 and len(stacks[0].levels) == 1:
        kind, numbers = SINGLE, [stacks[0].case * num_levels + stacks[0].levels[0]]
    else:
        kind, numbers = STACKS, [len(stacks)]
        for (case, levels), stream in zip(stacks, streams, strict=True):
            numbers += [case, *_runs(levels), len(stream)]
    size = CHECK_BYTES[kind]
    if len(given):
        kind, numbers = kind + GIVEN, [len(given), *map(int, given), *numbers]
    head = bytes([kind]), models[:size], check[:size], *map(_varint, numbers)
    return b"".join([*head, *streams])


def unpack(
    content: bytes, name: str, num_levels: int
) -> tuple[bytes, bytes, list[Stack], list[bytes], list[int]]:
    """Read a file that may come from a stranger: the inverse of `pack`.

    Args:
        content: Its bytes.
        name: Its name, for messages.
        num_levels: Number of levels that the models know.

    Returns:
        First bytes of `models` and of `check`, stacks, the stream of each stack, and `given`.

    Raises:
        InputError: It is no such file, it is truncated, or its numbers make no sense.
    """
    kind = content[0] if content else None
    if kind in FORMER:
        raise InputError(
            f"{name} was written by {FORMER_VERSION}: decode it with that program and its models."
        )
    is_given = kind is not None and bool(kind & GIVEN)
    kind = kind - GIVEN if is_given else kind
    if kind not in CHECK_BYTES:
        raise InputError(
            f"{name} is no .bvq file that this program knows: "
            "name one that its compress.py encode wrote."
        )
    with reading(name, "the file is damaged, copy it again"):
        file, size = io.BytesIO(content[1:]), CHECK_BYTES[kind]
        models, check = _take(file, size), _take(file, size)
        count = _number(file, MAX_ATTRIBUTES) if is_given else 0
        given = [_number(file, MAX_VALUES) for _ in range(count)]
        if kind == SINGLE:
            place = _number(file, (MAX_CASE + 1) * num_levels - 1)
            case, level = divmod(place, num_levels)
            return models, check, [Stack(case, (level,))], [file.read()], given
        stacks, sizes = [], []
        for _ in range(_number(file, MAX_SLICES)):
            stacks.append(Stack(_number(file, MAX_CASE), _levels(file, num_levels)))
            sizes.append(_number(file, len(content)))
        streams = [_take(file, size) for size in sizes]
        if file.read() or not _make_sense(stacks):
            raise ValueError("its stacks of slices make no sense")
    return models, check, stacks, streams, given


def _make_sense(stacks):
    """Whether there are stacks, in order of their cases, and not too many slices."""
    in_order = all(a.case < b.case for a, b in zip(stacks, stacks[1:]))
    return stacks and in_order and sum(len(stack.levels) for stack in stacks) <= MAX_SLICES


def _runs(levels):
    """Numbers that say which levels there are; `_levels` is the inverse.

    They are the first level, and then in turn how many slices there are and how many are missing
    before the next one. After the last slice none are missing.
    """
    numbers, expected = [levels[0], 0], levels[0]
    for level in levels:
        if level > expected:
            numbers += [level - expected, 0]
        numbers[-1] += 1
        expected = level + 1
    return [*numbers, 0]


def _levels(file, num_levels):
    """Read what `_runs` gave."""
    levels, first = [], _number(file, num_levels - 1)
    while True:
        end = first + _number(file, num_levels - first)
        if end == first:
            raise ValueError("its stacks of slices make no sense")
        levels += range(first, end)
        missing = _number(file, num_levels - 1 - end) if end < num_levels else _number(file, 0)
        if not missing:
            return tuple(levels)
        first = end + missing


def _take(file, count):
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it ends too early")
    return content


def _varint(value):
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(file, most):
    """Read what `_varint` wrote."""
    value = 0
    for shift in range(0, 64, 7):
        byte = _take(file, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    if byte >= 0x80 or value > most:
        raise ValueError("one of its numbers makes no sense")
    return value
