"""Whether a PNG file is a whole slice: its header, every chunk, every checksum.

Pillow forgives damage that the decoder of TensorFlow refuses, so a file that Pillow opens may
still end a training. Here a file is walked from its signature to its last chunk.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # a decoder must know these, and knows no others
MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}  # by colour type, in the terms of Pillow

# Start and step of the columns and of the rows in the seven passes of an interlaced image.
ADAM7 = (
    (0, 8, 0, 8),
    (4, 8, 0, 8),
    (0, 4, 4, 8),
    (2, 4, 0, 4),
    (0, 2, 2, 4),
    (1, 2, 0, 2),
    (0, 1, 1, 2),
)


class Header(NamedTuple):
    """The first chunk of a PNG file."""

    width: int
    height: int
    bits: int
    colour_type: int
    compression: int
    filters: int
    interlaced: int


def describe_png(content: bytes) -> str:
    """What a PNG file says it holds, for instance "256 x 256 RGB, transparent".

    Raises:
        ValueError: The file is damaged.
    """
    chunks = list(_chunks(content))
    header = Header(*struct.unpack(">IIBBBBB", chunks[0][1]))
    mode = MODES.get(header.colour_type, f"colour type {header.colour_type}")
    if header.bits == 16 and mode == "L":
        mode = "I;16"
    elif header.bits != 8:
        mode += f", {header.bits} bits"
    kinds = [kind for kind, _ in chunks]
    mode += ", animated" if b"acTL" in kinds else ""
    mode += ", transparent" if b"tRNS" in kinds else ""
    return f"{header.width} x {header.height} {mode}"


def check_pixels(content: bytes) -> None:
    """Check that the pixels of a grey 8-bit image unpack to their exact number.

    Raises:
        ValueError: They do not.
    """
    chunks = list(_chunks(content))
    header = Header(*struct.unpack(">IIBBBBB", chunks[0][1]))
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    size = _unpacked_size(header)
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(f"its pixels are damaged: {error}") from None
    if len(pixels) != size or not stream.eof or stream.unused_data:
        raise ValueError("its pixels are too few or too many")


def _chunks(content) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of every chunk, from the header to the end."""
    if not content.startswith(SIGNATURE):
        raise ValueError("it does not begin like one")
    place, previous, seen = len(SIGNATURE), b"", set()
    while previous != b"IEND":
        if len(content) < place + 12:
            raise ValueError("it ends too early")
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        checksum = content[place + 8 + length : place + 12 + length]
        if len(checksum) < 4:
            raise ValueError("it ends too early")
        if struct.unpack(">I", checksum)[0] != zlib.crc32(kind + body):
            raise ValueError("a checksum is wrong")
        _check_order(kind, body, previous, seen)
        seen.add(kind)
        yield kind, body
        place, previous = place + 12 + length, kind


def _check_order(kind, body, previous, seen):
    if not seen and (kind != b"IHDR" or len(body) != 13):
        raise ValueError("it has no header")
    is_critical = kind[:1].isupper()
    if not kind.isalpha() or (is_critical and kind not in CRITICAL):
        raise ValueError(f"it has an unknown part {kind!r}")
    if kind in seen and is_critical and (kind, previous) != (b"IDAT", b"IDAT"):
        raise ValueError(f"it has {kind.decode()} twice")
    if kind == b"IEND" and (body or b"IDAT" not in seen):
        raise ValueError("it has no pixels")


def _unpacked_size(header):
    """Bytes of the unpacked pixels, with one byte of a filter before each row."""
    if header.compression or header.filters or header.interlaced > 1:
        raise ValueError("it is packed in an unknown way")
    if not header.interlaced:
        return header.height * (1 + header.width)
    sizes = []
    for left, across, top, down in ADAM7:
        width = len(range(left, header.width, across))
        height = len(range(top, header.height, down))
        sizes.append(height * (1 + width) if width else 0)
    return sum(sizes)
