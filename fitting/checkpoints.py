"""Models and the state of a training on disk: written whole or not at all, read without trust.

A model file may come from a stranger. Before Keras builds anything from it, its settings are
checked: they are those of one of our models, in type and range, and they claim no more memory than
the file itself holds weights for.
"""

import hashlib
import io
import json
import pathlib
import tempfile
import zipfile
import zlib

import h5py
import keras
import numpy as np

from fitting.run_directory import RunDirectory
from modules import VQVAE, Models, Texture  # which also registers the classes that a file may name
from networks.raster import RasterPrior
from utils import InputError, read_arrays, replacing

# What each file may hold, by its name: a class of ours, or one that is derived from it.
KINDS = {"vqvae": VQVAE, "draft": RasterPrior, "prior": RasterPrior, "texture": Texture}
MAX_FILE_BYTES = 2**30  # unpacked
MAX_CONFIG_BYTES = 2**16
MAX_WEIGHT = 1e12  # products of larger ones may not be finite
POLICIES = ("float32", "mixed_bfloat16")

# Settings that every Keras model has beside its own, and settings that may be None.
COMMON_SETTINGS = {"name": str, "trainable": bool}
OPTIONAL = ("frame", "masked")

# What reading a damaged file can raise.
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OSError,
    EOFError,
    RuntimeError,  # RecursionError, too
    zipfile.BadZipFile,
    zlib.error,
)

# Layers of a prior had these names before, and its setting `num_levels` was called `levels`.
FORMER_NAMES = {
    "look_up": "vertical_conv",
    "look_left": "horizontal_conv",
    "hand_over": "vertical_to_horizontal",
    "project": "output_conv",
}


# ---- models ------------------------------------------------------------------------------------


def fingerprint(model: keras.Model) -> str:
    """Digest of a model's weights. A prior carries that of the VQ-VAE whose codes it knows."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()[:16]


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Write a model without its optimizer, whose state is twice the size of the weights."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    with replacing(path) as temporary:
        copy.save(temporary)


def load_model(path: pathlib.Path) -> keras.Model:
    """Load `vqvae.keras`, `draft.keras`, `prior.keras` or `texture.keras`, not compiled.

    Raises:
        InputError: The file is missing, damaged or too large, or it holds anything but the model
            that its name says.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} is not there: let train.py finish this run, or name another --run directory."
        )
    try:
        with tempfile.TemporaryDirectory() as folder:
            is_former = "levels" in _check(path)["config"]
            file = _rename_former_layers(path, pathlib.Path(folder)) if is_former else path
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
        if not all((np.abs(weight) < MAX_WEIGHT).all() for weight in model.get_weights()):
            raise ValueError("its weights are not finite")
        return model
    except UNREADABLE as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise InputError(
            f"{path} cannot be loaded ({reason}): the file is damaged or not of this project, "
            "train again or restore it."
        ) from None


def load_models(run: RunDirectory) -> Models:
    """The networks of a run: VQ-VAE, prior, and texture where it has one.

    Raises:
        InputError: One cannot be loaded, or belongs to another VQ-VAE.
    """
    vqvae, prior = (load_model(run.model(stage)) for stage in ("vqvae", "prior"))
    wanted = fingerprint(vqvae), vqvae.grid, vqvae.settings["codebook_size"]
    if tuple(prior.settings[name] for name in ("vqvae", "grid", "codebook_size")) != wanted:
        raise InputError(
            f"{run.model('prior')} was trained on the codes of another VQ-VAE than "
            f"{run.model('vqvae')}: keep the two of one run together."
        )
    texture = None
    if run.model("texture").is_file():
        texture = load_model(run.model("texture"))
        place = vqvae.settings["image_size"], list(vqvae.frame)
        found = tuple(texture.settings[name] for name in ("vqvae", "image_size", "frame"))
        if found != (wanted[0], *place):
            raise InputError(
                f"{run.model('texture')} was trained with another VQ-VAE than "
                f"{run.model('vqvae')}: keep the two of one run together, or remove it."
            )
    return Models(vqvae, prior, texture)


def _check(path):
    """Config of a model file that holds the settings of our own model and weights to match.

    Raises:
        ValueError: It does not.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        sizes = {entry.filename: entry.file_size for entry in entries}
        if len(sizes) < len(entries):
            raise ValueError("it has two entries of one name")
        if sum(sizes.values()) > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to {sum(sizes.values())} bytes, above {MAX_FILE_BYTES}")
        if sizes["config.json"] > MAX_CONFIG_BYTES:
            raise ValueError("its config.json is too long")
        config = json.loads(archive.read("config.json"))
        kind = _class_of(config, KINDS[path.stem])
        settings = dict(config["config"])
        if "levels" in settings:
            settings["num_levels"] = settings.pop("levels")
        _check_settings(kind, settings)
        # Exported files have 2 bytes a weight.
        if 2 * kind.least_weights(settings) > sizes["model.weights.h5"]:
            raise ValueError("its settings claim more than its weights fill")
        _check_weight_sizes(archive.read("model.weights.h5"))
    return config


def _class_of(config, kind):
    """Class of ours that a model file names, which must be `kind` or derived from it."""
    name = config["class_name"]
    found = keras.saving.get_registered_object(config["registered_name"])
    is_ours = config["registered_name"] == f"brain_vqvae>{name}" and isinstance(found, type)
    if not is_ours or not issubclass(found, kind) or config.get("compile_config"):
        raise ValueError(f"it holds no {kind.__name__}")
    return found


def _check_settings(kind, settings):
    """Check that each setting is known, and has its type, length and range."""
    expected = {**COMMON_SETTINGS, **kind.SETTINGS}
    for key, value in settings.items():
        if key == "dtype":
            _check_policy(value)
        elif value is None and key in OPTIONAL:
            continue
        elif not _fits(value, expected.get(key)):
            raise ValueError(f"its setting {key} is unknown, of another type, or out of range")


def _fits(value, expected):
    if isinstance(expected, list):
        if isinstance(value, int):  # one number may stand for all
            value = [value] * len(expected)
        is_list = isinstance(value, list) and len(value) == len(expected)
        return is_list and all(map(_fits, value, expected))
    if expected in (str, bool):
        return isinstance(value, expected)
    if expected is None or isinstance(value, bool):
        return False
    kind, least, most = expected
    return isinstance(value, (int, kind)) and least <= value <= most


def _check_policy(dtype):
    allowed = [{"name": policy} for policy in POLICIES]
    is_policy = (dtype["module"], dtype["class_name"]) == ("keras", "DTypePolicy")
    if not is_policy or dtype["config"] not in allowed:
        raise ValueError("its dtype policy is none of " + ", ".join(POLICIES))


def _check_weight_sizes(content):
    """Check that the arrays of an HDF5 file are not larger than the file: ours are not packed."""
    sizes = []
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda name, item: sizes.append(getattr(item, "nbytes", 0)))
    if sum(sizes) > len(content):
        raise ValueError(f"its weights unpack to {sum(sizes)} bytes")


def _rename_former_layers(path, folder):
    """Copy of a prior in `folder`, with the names that its layers and settings have today."""
    copy = folder / path.name
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        config = json.loads(old.read("config.json"))
        config["config"]["num_levels"] = config["config"].pop("levels")
        new.writestr("config.json", json.dumps(config))
        new.writestr("metadata.json", old.read("metadata.json"))
        weights = io.BytesIO(old.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            for block in file["blocks"].values():
                for former, name in FORMER_NAMES.items():
                    block.move(former, name)
        new.writestr("model.weights.h5", weights.getvalue())
    return copy


# ---- state of a training -----------------------------------------------------------------------


def _variables(model):
    """Every variable that a step of training changes, once, in a fixed order.

    They are weights, random generators, metrics and the optimizer's own.
    """
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in variables}.values())


def save_state(model: keras.Model, path: pathlib.Path, write: bool = True) -> None:
    """Write all that the training of a compiled model needs to go on, bit for bit.

    On several machines all of them must call it, because metrics are summed over them.

    Args:
        model: The compiled model.
        path: File to write.
        write: Whether this process writes. One should.

    Raises:
        FloatingPointError: Something is not finite. What `path` held before is kept.
    """
    arrays = [np.asarray(variable) for variable in _variables(model)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise FloatingPointError("the weights are not finite")
    if write:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, *arrays)


def load_state(model: keras.Model, path: pathlib.Path) -> None:
    """Bring back what `save_state` wrote, into a model that was built and compiled alike.

    Raises:
        InputError: The file is damaged or belongs to another model.
    """
    variables = _variables(model)
    remedy = f"remove it and {path.stem}_history.csv to begin this stage again"
    arrays = list(read_arrays(path, remedy).values())
    shapes = [(array.dtype, array.shape) for array in arrays]
    if shapes != [(np.dtype(variable.dtype), tuple(variable.shape)) for variable in variables]:
        raise InputError(f"{path} is of another model: {remedy}.")
    for variable, array in zip(variables, arrays):
        variable.assign(array)
