"""Image files of any origin -> grey pixels.

`open_pictures` opens a folder, a `.zip` of a folder or a MedMNIST file. All may come from a
stranger: headers say what memory will be taken, and nothing is unpacked under a name of an archive.
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

import nibabel
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils import InputError, open_archive, reading

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # as Pillow names them
MODES = {  # the first four letters of Pillow's name of a kind of pixels -> what messages call it
    "1": "1-bit",
    "L": "8-bit grey",
    "LA": "grey with transparency",
    "P": "palette",
    "I;16": "16-bit grey",
    "I": "integer grey",
    "F": "float grey",
}
NIFTI_ENDINGS = (".nii", ".nii.gz")
NIFTI_HEADER_BYTES = 540  # of the longer kind, NIfTI-2
MAX_PIXELS = 2**26  # of an image
MAX_FILE_BYTES = 2**28  # of an image, packed or unpacked
MAX_ARCHIVE_BYTES = 2**36  # unpacked
REMEDY = "repair it, remove it, or leave it out with --skip-bad"

warnings.filterwarnings("ignore", module=r"PIL\.")  # notes about metadata, which nobody uses here


class PictureFolder:
    """A folder whose files are read as pictures, by several threads if need be.

    Links are followed.

    Attributes:
        paths: Names of all files below the folder, whatever they are, with `/`, sorted.
        notes: What of the source is not among the pictures, a line each.
    """

    def __init__(self, source: str | os.PathLike):
        self.source, self.notes = pathlib.Path(source), []
        with reading(source, "repair it, or name another folder, .zip or MedMNIST .npz"):
            self.paths = sorted(self._list())

    def read(self, path: str) -> np.ndarray:
        """Grey values of one of `paths`, in the unit of the file, float32 `(H, W)`, all finite.

        Colours become luminance (ITU-R 601), what is transparent becomes black, and what is no
        finite number takes the least or greatest value. NIfTI voxel `(i, j)` is row i and column j.
        An image that is to be turned, as EXIF says, is turned, as viewers show it.

        Raises:
            InputError: The file is damaged, absurdly large, animated, of several pages or slices,
                or no image.
        """
        with self._reading(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
            if path.lower().endswith(NIFTI_ENDINGS):
                voxels = np.asarray(_open_nifti(content).dataobj)
                return _finite(np.squeeze(voxels))
            with _open_image(io.BytesIO(content)) as image:
                if image.format == "PNG":  # whose checksums Pillow checks when it is asked to
                    _open_image(io.BytesIO(content)).verify()
                return _finite(_to_grey(ImageOps.exif_transpose(image)))

    def size(self, path: str) -> tuple[int, int, str]:
        """Height, width and kind, as "8-bit grey", of one of `paths`. Only its header is read.

        Raises:
            InputError: As for `read`, as far as the header shows it.
        """
        with self._reading(path) as file:
            if path.lower().endswith(NIFTI_ENDINGS):
                image = _open_nifti(file.read(2 * NIFTI_HEADER_BYTES))
                return *(n for n in image.shape if n != 1), "NIfTI"
            with _open_image(file) as image:
                is_turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) >= 5
                sides = image.size if is_turned else image.size[::-1]
                return *sides, MODES.get(image.mode[:4], image.mode)

    def is_dicom(self, path: str) -> bool:
        """Whether one of `paths` is a DICOM file, whatever its name is."""
        with self._reading(path) as file:
            return file.read(132)[128:] == b"DICM"

    @contextlib.contextmanager
    def _reading(self, path):
        with reading(self.source / path, REMEDY), self._open(path) as file:
            yield file

    def _open(self, path):
        if not stat.S_ISREG(os.stat(self.source / path).st_mode):  # a named pipe waits for ever
            raise ValueError("it is no regular file")
        return open(self.source / path, "rb")

    def _list(self):
        def refuse(error):
            raise InputError(f"{error.filename} cannot be listed: ask its owner for the right to.")

        visited = set()  # links may lead in a circle
        for folder, inner, files in os.walk(self.source, onerror=refuse, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                inner.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            inner.sort()
            for name in files:
                yield (pathlib.Path(folder) / name).relative_to(self.source).as_posix()


class _ZippedFolder(PictureFolder):
    """The files of a `.zip` archive. Each is unpacked in memory when it is read."""

    def _list(self):
        self.archive = open_archive(self.source, MAX_ARCHIVE_BYTES)
        entries = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        # Some archives made on Windows have backslashes.
        self.entries = {entry.filename.replace("\\", "/"): entry for entry in entries}
        for name in self.entries:
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{name} leads out of it")
        return self.entries

    def _open(self, path):
        if self.entries[path].file_size > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_FILE_BYTES} bytes")
        return self.archive.open(self.entries[path])


class _MedMNIST(PictureFolder):
    """Images of a MedMNIST file (Yang et al. 2023, doi:10.1038/s41597-022-01721-8).

    It holds `train_images`, `val_images` and `test_images`, uint8 `(N, H, W)` or `(N, H, W, 3)`,
    and `train_labels` ..., `(N, 1)`. Image 12 of class 3 is called `train/class_3/image (12).bmp`.
    """

    def _list(self):
        self.images = {}
        with open_archive(self.source, MAX_ARCHIVE_BYTES) as archive:
            for split in ("train", "val", "test"):
                images = self.images[split] = _map_array(archive, f"{split}_images.npy")
                if images.ndim - (images.shape[-1] == 3) != 3 or images.dtype != np.uint8:
                    raise ValueError(f"its {split}_images are {images.dtype} {images.shape}")
                labels = _map_array(archive, f"{split}_labels.npy").reshape(len(images), -1)
                several = f"{split}: an image has {labels.shape[1]} labels, which make no class."
                self.notes += [several] if labels.shape[1] > 1 else []
                for number, (label, *more) in enumerate(labels.tolist()):
                    place = split if more else f"{split}/class_{label}"
                    yield f"{place}/image ({number}).bmp"

    def _open(self, path):
        number = int(path[path.rindex("(") + 1 : path.rindex(")")])
        file = io.BytesIO()
        Image.fromarray(self.images[path.split("/")[0]][number]).save(file, "BMP")
        file.seek(0)
        return file


def open_pictures(source: str | os.PathLike) -> PictureFolder:
    """Open a folder, a `.zip` archive of a folder, or a MedMNIST `.npz` file.

    Raises:
        InputError: `source` is none of these, is damaged, or has names that lead out of it.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        return PictureFolder(source)
    kinds = {".zip": _ZippedFolder, ".npz": _MedMNIST}
    if source.suffix.lower() not in kinds or not source.is_file():
        state = "is none" if source.exists() else "is not there"
        raise InputError(f"{source} {state}: give a folder of images, a .zip or a MedMNIST .npz.")
    return kinds[source.suffix.lower()](source)


def _map_array(archive, name):
    """An array of an `.npz` file as a map of a temporary file: memory holds what is in use."""
    if name not in archive.namelist():
        raise ValueError(f"it is no MedMNIST file, {name} is missing")
    with tempfile.TemporaryFile() as file, archive.open(name) as packed:
        shutil.copyfileobj(packed, file, 2**20)
        file.seek(0)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is no array")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


# ---- one file ----------------------------------------------------------------------------------


def _open_image(file):
    """Open what Pillow reads. The pixels are not read yet."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        reason = f"it is no {', '.join(FORMATS)} or NIfTI image, or of an unusual kind"
        raise ValueError(reason if file.read(1) else "it is empty") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it declares {image.width} x {image.height} pixels")
    # A second frame of MPO, which is JPEG of a camera, is a preview.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"it has {image.n_frames} pages or frames: an image file is one slice")
    return image


def _to_grey(image):
    if image.mode[0] in "IF":  # more than 8 bits
        return np.asarray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return np.rint(np.asarray(image.convert("L")) * (np.asarray(image.getchannel("A")) / 255))
    return np.asarray(image.convert("L"))


def _finite(pixels):
    with np.errstate(over="ignore"):
        pixels = pixels.astype("float32")
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise ValueError("it holds no numbers")
    return np.nan_to_num(pixels, nan=finite.min(), neginf=finite.min(), posinf=finite.max())


def _open_nifti(content):
    """The image of a NIfTI file of one slice, of which a part may be there."""
    if content[:2] == b"\x1f\x8b":  # gzip
        content = zlib.decompressobj(wbits=31).decompress(content, MAX_FILE_BYTES)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((kind for kind in kinds if kind.header_class.may_contain_header(content)), None)
    if kind is None:
        raise ValueError("it is no NIfTI file" if content else "it is empty")
    image = kind.from_bytes(content)
    dtype, sides = image.get_data_dtype(), [n for n in image.shape if n != 1]
    form = f"{' x '.join(map(str, sides))} voxels of {dtype}"
    if len(sides) != 2:
        raise ValueError(f"it has {form}, not one slice; from-nifti takes volumes")
    if math.prod(sides) > MAX_PIXELS or dtype.kind not in "iuf":
        raise ValueError(f"it declares {form}")
    return image
