"""Grey images in memory and as 8-bit PNG files, with values in [0, 255] or in [0, 1]."""

import hashlib
import io
import mmap
import os
import pathlib
import stat
import struct
import tempfile
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sources.layout import SLICE_SIDE
from utils import InputError, reading, replacing

MAX_FILE_BYTES = 2**24  # of a slice
MEMORY_SHARE = 0.25  # larger arrays of images lie in a temporary file


def read_slice(path: str | os.PathLike, side: int = SLICE_SIDE) -> tuple[np.ndarray, str]:
    """Read a slice. What cannot be trained on as it is, is refused: nothing is converted.

    Args:
        path: An 8-bit grey PNG.
        side: Pixels S of a side.

    Returns:
        Pixels, uint8 `(S, S)`, and the SHA-256 of the file.

    Raises:
        InputError: The file is damaged, or of another kind or size.
    """
    with reading(path, "restore or remove it"):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # to open a named pipe would wait for ever
            raise InputError(f"{path} is no regular file: put a slice there or remove it.")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has {status.st_size} bytes")
        content = pathlib.Path(path).read_bytes()
        with PngImageFile(io.BytesIO(content)) as image:
            _check_format(
                path, image, side, bits=content[24]
            )  # before memory is taken for the pixels
            image.verify()  # the checksums; it leaves the image closed
        with PngImageFile(io.BytesIO(content)) as image:
            pixels = np.asarray(image)
        # Pillow takes rows that are missing at the end for black ones.
        least = side * (side + 1)  # each row begins with its filter
        if len(unpack_png(content, least)) < least:
            raise ValueError("it lacks pixels")
    return pixels, hashlib.sha256(content).hexdigest()


def _check_format(path, image, side, bits):
    form = f"{image.width} x {image.height} {image.mode}"
    form += f", {bits} bits" if bits < 8 else ""
    form += ", transparent" if "transparency" in image.info else ""
    form += ", animated" if image.is_animated else ""
    needed = f"{side} x {side} L"  # size and mode, as Pillow names it
    if form != needed:
        advice = "convert or remove it"
        raise InputError(f"{path} is {form}, not {needed} (8-bit grey): {advice}.")


def unpack_png(content: bytes, limit: int) -> bytes:
    """The first bytes of the filtered rows of a PNG whose chunks are whole."""
    place, packed = 8, []
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind == b"IDAT":
            packed.append(content[place + 8 : place + 8 + length])
        place += length + 12
        if kind == b"IEND":
            break
    return zlib.decompressobj().decompress(b"".join(packed), limit)


def write_png(path: pathlib.Path, image, compress_level: int = -1) -> None:
    """Write an image `(S, S)`, float in [0, 1] or uint8, as an 8-bit grey PNG."""
    with replacing(path) as temporary:
        Image.fromarray(to_grey(image)).save(temporary, compress_level=compress_level)


def allocate_images(count: int, size: int) -> np.ndarray:
    """Allocate black images, uint8 `(count, size, size)`, at the start of a page of memory.

    Arrays of more than `MEMORY_SHARE` of the machine's memory lie in a file without a name, in the
    folder for temporary files (`TMPDIR`). The system reads and writes it as it has memory to spare.
    """
    num_bytes = count * size * size
    sysconf = getattr(os, "sysconf", lambda name: 2**30)  # Windows moves memory to disk by itself
    if num_bytes <= MEMORY_SHARE * sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES"):
        memory = mmap.mmap(-1, num_bytes)
    else:
        with tempfile.TemporaryFile() as file:
            file.truncate(num_bytes)
            if hasattr(os, "posix_fallocate"):  # macOS lacks it
                os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk is found here
            memory = mmap.mmap(file.fileno(), num_bytes)
    return np.frombuffer(memory, "uint8").reshape(count, size, size)


def to_grey(images) -> np.ndarray:
    """Bring images to grey values: float in [0, 1], or uint8 already, of any shape -> uint8."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.round(images * 255).astype("uint8")


def to_unit(images) -> np.ndarray:
    """Bring images to [0, 1]: uint8, or float in [0, 1] already, of any shape -> float32."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype("float32") / 255.0
    return images.astype("float32")


def enlarge(image: np.ndarray, side: int = SLICE_SIDE) -> np.ndarray:
    """Bring an image of a model, uint8 `(S, S)`, to the side of the slices of its data folder."""
    if len(image) == side:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
