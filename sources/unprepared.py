"""What something looks like that is no data folder, and the command that makes one of it.

Next to nothing is read. `dataset.py from-images` and `from-nifti` look closer.
"""

import pathlib
import re
import shlex

from sources.inputs import ARCHIVES, OASIS1
from sources.layout import SLICE_NAME, SPLIT_FORMS
from sources.pictures import open_pictures
from sources.volumes import VOLUME_ENDINGS
from utils import InputError

KINDS = {  # by the endings of names
    "images": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    "volumes": VOLUME_ENDINGS,
    "MedMNIST files": (".npz",),
    "DICOM files": (".dcm", ".ima"),
}


def advice(data: pathlib.Path) -> str:
    """Say in one line what is there, and give the command that makes a data folder of it.

    Args:
        data: A folder, a zip archive or another file.

    Raises:
        InputError: The folder or archive cannot be read.
    """
    is_zip = data.suffix.lower() == ".zip"
    folder = open_pictures(data) if is_zip or data.is_dir() else None
    paths = folder.paths if folder else [data.name]
    paths = [path for path in paths if not re.search(r"(^|/)(\.|__MACOSX/)", path)]
    found = {
        kind: [path for path in paths if path.lower().endswith(endings)]
        for kind, endings in KINDS.items()
    }
    plain = [path for path in paths if "." not in path.rpartition("/")[2]]
    if plain and not any(found.values()) and folder and folder.is_dicom(plain[0]):
        found["DICOM files"] = plain  # such files often have no ending
    kind, files = max(found.items(), key=lambda item: len(item[1]))
    archives = [path for path in paths if path.lower().endswith(ARCHIVES)]
    if not files and not archives:
        return f"{data} holds no {SPLIT_FORMS}, and no images or volumes: name another folder."
    kind, files = (kind, files) if files else ("archives", archives)
    names = [path.rpartition("/")[2] for path in files]
    looks = f"{data} is no prepared data folder: it looks like {len(files)} {kind} such as"
    looks = f"{looks} {files[0]}"
    if kind == "archives" or is_zip and kind in ("volumes", "DICOM files"):
        return f"{looks}: unpack it, and name the folder."
    if all(map(SLICE_NAME.fullmatch, names)):
        return f"{looks}, without splits: name the folder above, or give it to --anomaly."

    name = re.sub(r"[^\w.-]+", "_", data.resolve().name.split(".")[0]) or "slices"
    out = pathlib.Path("data", name)
    out = out.with_name(f"{name}_slices") if out.exists() else out
    command, source, before = "from-images", data, ""
    if kind == "MedMNIST files" and folder:  # each is a set
        source = data / files[0]
    elif kind == "DICOM files":
        source, command = out.with_name(f"{out.name}_nifti"), "from-nifti"
        where = shlex.quote(str(source))
        before = f"mkdir -p {where} && dcm2niix -z y -o {where} {shlex.quote(str(data))} && "
    elif kind == "volumes" and not (folder and _is_flat(folder, files[0])):
        command = "from-oasis1" if any(map(OASIS1.fullmatch, names)) else "from-nifti"
    prepare = f"{before}python dataset.py {command} {shlex.quote(str(source))}"
    return f"{looks}. Prepare it with: {prepare} --out {shlex.quote(str(out))}"


def _is_flat(folder, path):
    """Whether a file of a volume has two axes, so that it is one slice."""
    try:
        return bool(folder.size(path))
    except InputError:
        return False
