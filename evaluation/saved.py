"""Arrays on disk: what the figures need, written by a run of predict.py and read without trust.

Results consist of parts. A part is named like the figure that shows it, or "model". `LAYOUT` says
which arrays a part has. A file holds each array as "part.array".
"""

import math
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from utils import InputError, replacing

Parts = dict[str, dict[str, np.ndarray]]  # part -> array -> values

FIGURES_OF_STAGES = {"vqvae": ("ssim", "codes_used", "perplexity"), "prior": ("loss",)}
CURVES = {  # stage -> columns of its history that a figure shows
    stage: ("epoch", *figures, *(f"val_{figure}" for figure in figures))
    for stage, figures in FIGURES_OF_STAGES.items()
}
ANATOMY = ("brain_area", "ventricle_area", "symmetry", "white_over_grey")  # in figures by level
STACKS = ("generated", "reconstructions", "real", "training")  # whose ventricles are measured
ANATOMY_CURVES = ("samples", "real", "validation", "wasserstein", "wasserstein_validation")
METHODS = ("error", "healing")  # that map anomalies, see `evaluation.anomalies`


def _cuts(count):
    """Cuts of brains, see `evaluation.selection.cuts`, and the level of the lowest slice."""
    planes = {"coronal": f"uint8 {count} Z S", "sagittal": f"uint8 {count} Z S"}
    return {"axial": f"uint8 {count} S S", **planes, "level": "int32"}


# Type and shape of each array. A name stands for one size throughout a file: S pixels of a side,
# N shown slices, H rows and W columns of codes, K codes of the codebook, P pixels of a patch, and
# so on.
LAYOUT = {
    "model": {"trained_on": "str", "grid": "int32 2"},
    "reconstructions": {
        "images": "uint8 N S S",
        "restored": "uint8 N S S",
        "codes": "int32 N H W",
        "ranks": "int32 K",
        "cases": "int32 N",
        "levels": "int32 N",
        "ssim": "float32 N",
    },
    "codes": {"uses": "int64 K", "training_uses": "int64 K", "patches": "uint8 K P P"},
    "training": {stage: f"float64 {stage} {len(names)}" for stage, names in CURVES.items()},
    "samples": {"images": "uint8 M S S", "levels": "int32 M"},
    "comparison": {"real": "uint8 C S S", "generated": "uint8 C S S", "levels": "int32 C"},
    "completions": {"drawings": "uint8 D N S S", "rows": "int32"},
    "walk": {"images": "uint8 V S S", "levels": "int32 V"},
    "brains": _cuts("X"),
    "real_brains": _cuts("Y"),
    "anatomy": {
        "levels": "int32 E",
        # Of each figure and level: mean and its interval, or distance and its null range.
        **dict.fromkeys(ANATOMY_CURVES, f"float64 {len(ANATOMY)} E 3"),
    },
    "ventricles": dict.fromkeys(STACKS, "float64 B"),
    "closest": {
        "generated": "uint8 L S S",
        "real": "uint8 L S S",
        "levels": "int32 L",
        "distances": "float64 L",
    },
    "anomaly": {
        "images": "uint8 A S S",
        "healed": "uint8 A S S",
        **dict.fromkeys(METHODS, "float32 A S S"),
        "cases": "int32 A",
        "levels": "int32 A",
        "scores": "float64 A",
    },
}
MAX_NUMBER = 1e12  # matplotlib cannot draw the largest numbers
MAX_BYTES = 2**30  # of all arrays of a file together
MAX_TEXT_BYTES = 2**16
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# What reading a damaged file can raise.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_parts(path: pathlib.Path, parts: Parts) -> None:
    """Write parts to one `.npz` file, each array in the type that `LAYOUT` names."""
    arrays = {}
    for part, values in parts.items():
        for name, spec in LAYOUT[part].items():
            dtype = spec.split()[0]
            arrays[f"{part}.{name}"] = np.asarray(values[name], dtype)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_parts(path: pathlib.Path, advice: str) -> Parts:
    """Read the parts that a file of `write_parts` holds.

    Args:
        path: File to read. It may come from a stranger.
        advice: What the user can do about a missing or damaged file.

    Raises:
        InputError: The file is missing or damaged, or a part lacks an array.
    """
    specs = {f"{part}.{name}": s for part, arrays in LAYOUT.items() for name, s in arrays.items()}
    arrays = read_arrays(path, specs, advice)
    parts = {}
    for name, values in arrays.items():
        part, _, array = name.partition(".")
        parts.setdefault(part, {})[array] = values
    missing = [f"{part}.{name}" for part in parts for name in LAYOUT[part].keys() - parts[part]]
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}: {advice}.")
    return parts


def read_arrays(path: pathlib.Path, specs: dict[str, str], advice: str) -> dict[str, np.ndarray]:
    """Read arrays of known types and shapes from an `.npz` file that may come from a stranger.

    Nothing is unpickled. Type, shape and size are checked in the header before anything is read.

    Args:
        path: File to read.
        specs: Type and shape of each array, for example "uint8 N S S". A name stands for one
            size, at least 1, throughout the file. "str" is a single text.
        advice: What the user can do about a missing or damaged file.

    Returns:
        Those of the arrays that the file holds. Their numbers are finite, and up to `MAX_NUMBER`;
        whole numbers are not negative.

    Raises:
        InputError: The file is missing or damaged, or an array is not as it should be.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there: {advice}.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise ValueError("it holds an array twice")
            names = [name for name in specs if name in entries]
            _check_headers(archive, {name: entries[name] for name in names}, specs)
            return {name: _read_array(archive, name, entries[name]) for name in names}
    except UNREADABLE as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise InputError(f"{path} cannot be read ({reason}): {advice}.") from None


def _check_headers(archive, entries, specs):
    """Raise ValueError unless all headers say what `specs` says, in sizes that agree."""
    sizes, total = {}, 0
    for name, entry in entries.items():
        if entry.compress_type not in COMPRESSIONS:
            raise ValueError(f"{name} is compressed in an unknown way")
        with archive.open(entry) as file:
            shape, dtype = _read_header(file)
        kind, *dimensions = specs[name].split()
        is_text = dtype.kind == "U" and dtype.itemsize <= MAX_TEXT_BYTES
        is_kind = is_text if kind == "str" else dtype == np.dtype(kind)
        if not (is_kind and _fits(shape, dimensions, sizes)):
            raise ValueError(f"{name} is {dtype} of shape {shape}, not {specs[name]}")
        total += math.prod(shape) * dtype.itemsize
        if total > MAX_BYTES:
            raise ValueError(f"its arrays take more than {MAX_BYTES} bytes")


def _fits(shape, dimensions, sizes):
    """Whether a shape has these dimensions. The size of a name is noted when it is seen first."""
    if len(shape) != len(dimensions) or 0 in shape:
        return False
    wanted = [int(d) if d.isdigit() else sizes.setdefault(d, n) for d, n in zip(dimensions, shape)]
    return list(shape) == wanted


def _read_header(file):
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _read_array(archive, name, entry):
    with archive.open(entry) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
    if values.dtype.kind == "f" and not (np.abs(values) <= MAX_NUMBER).all():
        raise ValueError(f"{name} holds numbers that are not finite or too large")
    if values.dtype.kind == "i" and values.min() < 0:
        raise ValueError(f"{name} holds negative numbers")
    return values
