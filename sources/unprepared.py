"""What a folder, an archive or a file looks like that is no data folder, and how to make one of it.

Only the endings of names are looked at. `dataset.py from-images` and `from-nifti` look closer.
"""

import collections
import os
import pathlib
import re
import shlex
import zipfile

from sources.layout import SLICE_NAME, SPLIT_FORMS
from utils import reading

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"}
ENDINGS = {
    "images": tuple(f".{ending}" for ending in FORMATS),
    "volumes": (".nii", ".nii.gz", ".mgz", ".hdr"),
    "MedMNIST files": (".npz",),
    "DICOM files": (".dcm", ".ima"),
    "archives": (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar"),
}
MOST_CLASSES = 12  # a set with more folders has one for each subject
SPLIT_WORDS = re.compile(r"train(ing)?|test(ing)?|val(id(ate|ation)?)?", re.IGNORECASE)
OASIS1_NAME = re.compile(r"OAS1_\d{4}_MR\d_mpr_n\d+_anon_111_t88_\w+\.hdr", re.ASCII)


def advice(data: pathlib.Path) -> str:
    """Say in one line what is there, and give the command that makes a data folder of it.

    Args:
        data: A folder, a zip archive or another file.

    Raises:
        InputError: The archive cannot be read.
    """
    kind, files = _kind_of_most(data, file_names(data))
    names = [pathlib.PurePosixPath(file).name for file in files]
    looks = f"{data} is no prepared data folder: it looks like {len(files)}"
    command, source, out = "python dataset.py from-images", data, _new_folder(data)
    if kind is None:
        return f"{data} holds no {SPLIT_FORMS}, and no images or volumes: name another folder."
    if kind == "archives":
        return f"{looks} archives such as {files[0]}: unpack them, and name the folder."
    if data.suffix.lower() == ".zip" and kind in ("volumes", "DICOM files"):
        return f"{looks} {kind}: unpack it, and name the folder."
    if kind == "images" and all(map(SLICE_NAME.fullmatch, names)):
        return f"{looks} slices without splits: name the folder above, or give it to --anomaly."
    if kind == "images":
        formats = sorted({FORMATS[name.rpartition(".")[2].lower()] for name in names})
        kind = f"{' and '.join(formats)} images{_in_folders(files)}"
    elif kind == "volumes" and _is_flat(data / files[0]):
        kind = "two-dimensional NIfTI images"
    elif kind == "volumes":
        is_oasis1 = any(map(OASIS1_NAME.fullmatch, names))
        command = f"python dataset.py {'from-oasis1' if is_oasis1 else 'from-nifti'}"
    elif kind == "DICOM files":
        source = out.with_name(f"{out.name}_nifti")
        folder = shlex.quote(str(source))
        convert = f"mkdir -p {folder} && dcm2niix -z y -o {folder} {shlex.quote(str(data))}"
        command = f"{convert} && python dataset.py from-nifti"
    elif data.is_dir():  # MedMNIST files: each is a set
        source = data / files[0]
    command += f" {shlex.quote(str(source))} --out {shlex.quote(str(out))}"
    return f"{looks} {kind}. Prepare it with: {command}"


def file_names(data: pathlib.Path) -> list[str]:
    """Names of all files of a folder or of a zip archive, from there, or the name of a file.

    Hidden files, and what other systems add, are left out.

    Raises:
        InputError: The archive cannot be read.
    """
    if data.is_dir():
        places = (pathlib.Path(top, file) for top, _, files in os.walk(data) for file in files)
        names = [place.relative_to(data).as_posix() for place in places]
    elif data.suffix.lower() == ".zip":
        with reading(data, "pack or download it again"), zipfile.ZipFile(data) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    else:
        names = [data.name]
    return sorted(name for name in names if not re.search(r"(^|/)(\.|__MACOSX/)", name))


def _kind_of_most(data, names):
    """One of `ENDINGS` and its files, or None and none. Archives count where nothing else is."""
    found = collections.defaultdict(list)
    for name in names:
        for kind, endings in ENDINGS.items():
            if name.lower().endswith(endings):
                found[kind].append(name)
    plain = [name for name in names if "." not in pathlib.PurePosixPath(name).name]
    if not found and plain and _is_dicom(data / plain[0]):  # such files often have no ending
        return "DICOM files", plain
    archives = found.pop("archives", [])
    kind = max(found, key=lambda kind: len(found[kind]), default="archives" if archives else None)
    return kind, found.get(kind, archives)


def _in_folders(files):
    """Say in which folders files lie, by the names of few."""
    names = {pathlib.PurePosixPath(file).parent.name for file in files}
    names = sorted(name for name in names if name and not SPLIT_WORDS.fullmatch(name))
    if 1 < len(names) <= MOST_CLASSES:
        return f" in class folders ({', '.join(names)})"
    return f" in {len(names)} folders" if len(names) > 1 else ""


def _new_folder(data):
    """Where the data folder could be."""
    name = re.sub(r"[^\w.-]+", "_", data.resolve().name.split(".")[0]) or "slices"
    folder = pathlib.Path("data", name)
    return folder.with_name(f"{name}_slices") if folder.exists() else folder


def _is_dicom(path):
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_flat(path):
    """Whether a NIfTI file has two axes."""
    import nibabel  # noqa: PLC0415  no data folder needs it

    try:
        return sum(length > 1 for length in nibabel.load(path).shape) < 3
    except Exception:  # it is in an archive, or damaged, which its reader will say
        return False
