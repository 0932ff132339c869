"""Image files of any origin -> grey pixels.

`open_pictures` opens a folder, a `.zip` of a folder or a MedMNIST file. What is read may come from
a stranger: sizes are known from headers before memory is taken, and nothing is unpacked to disk by
a name that an archive gives.
"""

import contextlib
import io
import math
import os
import pathlib
import shutil
import stat
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import nibabel
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sources.images import unpack_png
from utils import InputError, open_archive, reading

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # as Pillow names them
NIFTI_ENDINGS = (".nii", ".nii.gz")
MODES = {  # what Pillow calls a kind of pixels -> what messages call it
    "1": "1-bit",
    "L": "8-bit grey",
    "LA": "8-bit grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "I;16": "16-bit grey",
    "I": "integer grey",
    "F": "float grey",
}
DEEP_MODES = ("I", "F")  # first letter of modes of more than 8 bits

MAX_PIXELS = 2**26  # of an image
MAX_FILE_BYTES = 2**28  # of an image, packed or unpacked
MAX_ARCHIVE_BYTES = 2**36  # that an archive unpacks to
MAX_RATIO, RATIO_COUNTS_FROM = 200, 2**28  # unpacked bytes of an archive a byte, and from how many
NIFTI_HEADER_BYTES = 540  # of the longer kind, NIfTI-2

REMEDY = "repair it, remove it, or leave it out with --skip-bad"

warnings.filterwarnings("ignore", module=r"PIL\.")  # notes about metadata, which nobody uses here


class Picture(NamedTuple):
    """An image in memory.

    Attributes:
        pixels: Grey values in the unit of the file, float32 `(H, W)`, all finite.
        mode: Kind of its pixels in the file, such as "8-bit grey", "RGB" or "16-bit grey".
    """

    pixels: np.ndarray
    mode: str


class PictureFolder:
    """A folder whose files are read as pictures. Methods may be called by several threads.

    Links are followed, also those that leave the folder.

    Attributes:
        paths: Names of all files below the folder, whatever they are, with `/` and sorted.
        notes: What of the source is not among the pictures, a line each.
    """

    def __init__(self, source: str | os.PathLike):
        self.source = pathlib.Path(source)
        self.notes = []
        self.paths = sorted(self._list())

    def read(self, path: str) -> Picture:
        """Read one of `paths`.

        Colours become luminance (ITU-R 601, 0.299 R + 0.587 G + 0.114 B), what is transparent
        becomes black. An image that says by EXIF how it is to be turned is turned: viewers show it
        so, and readers of TIFF turn it unasked, so that anything else would mix both in one set.
        NIfTI voxel `(i, j)` is row i and column j, with the slope and intercept of the header.

        Raises:
            InputError: The file is damaged, absurdly large, animated, of several pages or slices,
                or no image.
        """
        with self._reading(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
            if path.lower().endswith(NIFTI_ENDINGS):
                return _finite(_read_nifti(content), "NIfTI")
            with _open_image(io.BytesIO(content)) as image:
                mode = MODES.get(image.mode, image.mode)
                _check_png(content, image)
                return _finite(_to_luminance(ImageOps.exif_transpose(image)), mode)

    def size(self, path: str) -> tuple[int, int, str]:
        """Height, width and mode of one of `paths`, from its header alone.

        Raises:
            InputError: As for `read`, as far as the header shows it.
        """
        with self._reading(path) as file:
            if path.lower().endswith(NIFTI_ENDINGS):
                shape, *_ = _nifti_header(file.read(NIFTI_HEADER_BYTES * 2))
                return *shape, "NIfTI"
            with _open_image(file) as image:
                width, height = image.size
                is_turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) >= 5
                size = (width, height) if is_turned else (height, width)
                return *size, MODES.get(image.mode, image.mode)

    def is_dicom(self, path: str) -> bool:
        """Whether a file, whatever its name is, is a DICOM file."""
        with self._reading(path) as file:
            return file.read(132)[128:] == b"DICM"

    @contextlib.contextmanager
    def _reading(self, path) -> Iterator[BinaryIO]:
        with reading(self.source / path, REMEDY), self._open(path) as file:
            yield file

    def _open(self, path):
        if not stat.S_ISREG(os.stat(self.source / path).st_mode):  # a named pipe waits for ever
            raise ValueError("it is no regular file")
        return open(self.source / path, "rb")

    def _list(self):
        visited = set()  # links may lead in a circle
        for folder, subfolders, files in os.walk(
            self.source, onerror=_refuse_folder, followlinks=True
        ):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                subfolders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            subfolders.sort()
            inside = pathlib.Path(folder).relative_to(self.source)
            yield from ((inside / name).as_posix() for name in files)


class _ZippedFolder(PictureFolder):
    """The files of a `.zip` archive. Each is unpacked in memory when it is read."""

    def _list(self):
        with reading(self.source, "download it again, or unpack it and name the folder"):
            self.archive = _open_archive(self.source)
            entries = [entry for entry in self.archive.infolist() if not entry.is_dir()]
            # Archives of Windows may have backslashes.
            self.entries = {entry.filename.replace("\\", "/"): entry for entry in entries}
            for name in self.entries:
                if name.startswith("/") or ".." in name.split("/"):
                    raise ValueError(f"{name} leads out of it")
        return self.entries

    def _open(self, path):
        entry = self.entries[path]
        if entry.file_size > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to {entry.file_size} bytes")
        return self.archive.open(entry)


class _MedMNIST(PictureFolder):
    """Images of a MedMNIST file (Yang et al. 2023, doi:10.1038/s41597-022-01721-8).

    It holds `train_images`, `val_images` and `test_images`, uint8 `(N, H, W)` or `(N, H, W, 3)`,
    and `train_labels` ..., `(N, 1)`. Image 12 of class 3 is called `train/class_3/image (12).png`.
    """

    def _list(self):
        self.images = {}
        with reading(self.source, "download it again"), _open_archive(self.source) as archive:
            for split in ("train", "val", "test"):
                images = self.images[split] = _map_array(archive, f"{split}_images.npy")
                if images.ndim - (images.shape[-1] == 3) != 3 or images.dtype != np.uint8:
                    raise ValueError(f"its {split} images are {images.dtype} {images.shape}")
                labels = _map_array(archive, f"{split}_labels.npy").reshape(len(images), -1)
                is_class = labels.shape[1] == 1  # else an image may have several labels, or none
                if not is_class:
                    count = f"{labels.shape[1]} labels an image"
                    self.notes.append(f"{split}: {count} make no classes and are left out.")
                for number, label in enumerate(labels[:, 0].tolist()):
                    yield split + (f"/class_{label}" if is_class else "") + f"/image ({number}).png"

    def read(self, path):
        pixels = self._find(path)
        image = Image.fromarray(pixels)
        return Picture(_to_luminance(image), MODES.get(image.mode, image.mode))

    def size(self, path):
        pixels = self._find(path)
        return *pixels.shape[:2], "RGB" if pixels.ndim == 3 else "8-bit grey"

    def is_dicom(self, path):
        return False

    def _find(self, path):
        return self.images[path.split("/")[0]][int(path.rpartition("(")[2].partition(")")[0])]


def open_pictures(source: str | os.PathLike) -> PictureFolder:
    """Open a folder, a `.zip` archive of a folder, or a MedMNIST `.npz` file.

    Raises:
        InputError: `source` is none of these, damaged, unpacks to an absurd size, or has names
            that lead out of it.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        return PictureFolder(source)
    kinds = {".zip": _ZippedFolder, ".npz": _MedMNIST}
    if not source.is_file() or source.suffix.lower() not in kinds:
        state = "is none" if source.exists() else "is not there"
        raise InputError(f"{source} {state}: give a folder of images, a .zip or a MedMNIST .npz.")
    return kinds[source.suffix.lower()](source)


# ---- one file ----------------------------------------------------------------------------------


def _refuse_folder(error):
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}): ask for the right to.")


def _open_archive(path):
    archive = open_archive(path, MAX_ARCHIVE_BYTES)
    packed, unpacked = path.stat().st_size, sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(RATIO_COUNTS_FROM, MAX_RATIO * packed):
        raise ValueError(f"its {packed} bytes unpack to {unpacked}")
    return archive


def _open_image(file):
    """Open what Pillow reads, as far as the header."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(132)
        known = ", ".join(FORMATS)
        reason = f"it is no {known} or NIfTI image of a known kind" if start else "it is empty"
        if start[128:] == b"DICM":
            reason = "it is DICOM, of which dcm2niix makes volumes"
        raise ValueError(reason) from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it declares {image.width} x {image.height} pixels")
    # A second frame of MPO, which is JPEG of a camera, is a preview.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"it has {image.n_frames} pages or frames, not one")
    return image


def _check_png(content, image):
    """Refuse a PNG whose checksums are wrong, or that lacks rows: Pillow would make them black."""
    if image.format != "PNG":
        return
    with _open_image(io.BytesIO(content)) as again:
        again.verify()
    bits, colours, is_interlaced = content[24], content[25], content[28]
    channels = {2: 3, 4: 2, 6: 4}.get(colours, 1)
    row = -(-image.width * channels * bits // 8) + (not is_interlaced)  # it begins with its filter
    if len(unpack_png(content, image.height * row)) < image.height * row:
        raise ValueError("it lacks pixels")


def _to_luminance(image):
    if image.mode.startswith(DEEP_MODES):
        return np.asarray(image).astype("float32")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opacity = np.asarray(image.getchannel("A"), "float32") / 255
        return np.rint(np.asarray(image.convert("L")) * opacity)
    if image.mode == "LAB":
        return np.asarray(image.getchannel("L"), "float32")
    return np.asarray(image.convert("L"), "float32")


def _nifti_header(content):
    """Height and width, type, offset, slope and intercept of a NIfTI file of one slice."""
    start = _unpacked(content, NIFTI_HEADER_BYTES)[0]
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(start)), None)
    if kind is None:
        raise ValueError("it is no NIfTI file" if start else "it is empty")
    header = kind(start[: kind.sizeof_hdr], check=False)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    sides = tuple(int(length) for length in shape if length != 1)
    if len(sides) != 2:
        form = " x ".join(map(str, shape))
        raise ValueError(f"it has {form} voxels, not one slice; from-nifti takes volumes")
    if math.prod(sides) > MAX_PIXELS or dtype.kind not in "iuf":
        raise ValueError(f"it declares {' x '.join(map(str, sides))} pixels of {dtype}")
    slope, intercept = header.get_slope_inter()
    return sides, dtype, int(header["vox_offset"]), slope or 1.0, intercept or 0.0


def _read_nifti(content):
    sides, dtype, offset, slope, intercept = _nifti_header(content)
    content, is_whole = _unpacked(content, MAX_FILE_BYTES)
    if not is_whole:
        raise ValueError("it ends too early, or never")
    voxels = np.frombuffer(content, dtype, math.prod(sides), offset)
    return voxels.reshape(sides, order="F").astype("float64") * slope + intercept


def _unpacked(content, limit):
    """The first bytes of a file that may be packed by gzip, and whether these are all."""
    if content[:2] != b"\x1f\x8b":
        return content[:limit], len(content) <= limit
    unpacker = zlib.decompressobj(wbits=31)  # gzip
    return unpacker.decompress(content, limit), unpacker.eof


def _finite(pixels, mode):
    """A picture whose values that are no finite numbers became the least or greatest that are."""
    with np.errstate(over="ignore"):
        pixels = pixels.astype("float32")
    finite = np.isfinite(pixels)
    if not finite.all():
        if not finite.any():
            raise ValueError("it holds no numbers")
        least, most = pixels[finite].min(), pixels[finite].max()
        pixels = np.nan_to_num(pixels, nan=least, neginf=least, posinf=most)
    return Picture(pixels, mode)


def _map_array(archive, name):
    """An array of an `.npz` file as a map of a temporary file: memory holds what is in use."""
    if name not in archive.namelist():
        raise ValueError(f"{name} is missing: it is no MedMNIST file")
    with tempfile.TemporaryFile() as file, archive.open(name) as packed:
        shutil.copyfileobj(packed, file, 2**20)
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} is of version {version}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        order = "F" if is_fortran else "C"
        return np.memmap(file, dtype, "r", file.tell(), shape, order)
