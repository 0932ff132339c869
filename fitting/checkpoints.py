"""Models and the state of a training on disk: written whole or not at all, read without trust.

A model file may come from a stranger. What Keras builds of it is one of our models, which checks
its settings, and no more weights than the file holds.
"""

import contextlib
import hashlib
import json
import math
import pathlib
import tempfile
from collections.abc import Iterator

from utils import import_tensorflow

import_tensorflow()  # before anything else imports Keras, with settings that are not ours
# ruff: noqa: E402
import keras
import numpy as np
import tensorflow as tf

from fitting.run_directory import STAGES, RunDirectory
from modules import VQVAE, Models, Texture  # which also registers the classes that a file may name
from networks.raster import RasterPrior
from utils import FORMER_VERSION, InputError, open_archive, read_arrays, reading, replacing

# What the model file of each stage may hold: a class of ours, or one that is derived from it.
KINDS = {"vqvae": VQVAE, "first_prior": RasterPrior, "prior": RasterPrior, "texture": Texture}
POLICIES = ("float32", "mixed_bfloat16")
WEIGHTS = "model.weights.h5"  # in a model file
LEAST_WEIGHT_BYTES = 2  # of a weight in a file; `fitting.export` writes half precision
MAX_WEIGHT = 1e12  # products of larger ones may not be finite


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

    Nothing but numbers and texts is taken from the file. So it can run no code.

    Raises:
        InputError: The file is missing, damaged or too large, or it holds anything but the model
            that its name says.
    """
    path = pathlib.Path(path)
    remedy = "let train.py finish this run, restore the file, or name another --run directory"
    with reading(path, remedy), open_archive(path) as archive:
        config = json.loads(archive.read("config.json"))
        model_class = keras.saving.get_registered_object(config["registered_name"])
        expected = next(KINDS[stage] for stage, name in STAGES.items() if name == path.stem)
        if not (isinstance(model_class, type) and issubclass(model_class, expected)):
            raise ValueError(f"it holds no {expected.__name__}")
        policy = config["config"].pop("dtype")["config"]["name"]
        if "reads_below" in config["config"]:
            raise InputError(
                f"{path} is a prior of {FORMER_VERSION}: use the program of that version, or train "
                "a prior for its VQ-VAE with train.py --start-from RUN --keep-vqvae."
            )
        if policy not in POLICIES:
            raise ValueError("its dtype policy is none of " + ", ".join(POLICIES))
        with _at_most(archive.getinfo(WEIGHTS).file_size // LEAST_WEIGHT_BYTES):
            model = model_class(**config["config"], dtype=policy)
        with tempfile.TemporaryDirectory() as folder:
            model.load_weights(archive.extract(WEIGHTS, folder))
        if not all((np.abs(weight) < MAX_WEIGHT).all() for weight in model.get_weights()):
            raise ValueError("its weights are not finite")
    return model


@contextlib.contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Refuse to make more weights than that, before there is memory for them.

    Raises:
        ValueError: More are asked for.
    """
    made, scratch = 0, tf.Graph()

    def make(make_variable, *, initial_value, **options):
        nonlocal made
        with scratch.as_default():  # which tells the shape of the value without making it
            value = initial_value() if callable(initial_value) else initial_value
        made += math.prod(value.shape)
        if made > count:
            raise ValueError("its settings claim more weights than the file holds")
        return make_variable(initial_value=initial_value, **options)

    with tf.variable_creator_scope(make):
        yield


def load_models(run: RunDirectory) -> Models:
    """The networks of a run: VQ-VAE, prior, and texture where it has one.

    Raises:
        InputError: One cannot be loaded, or belongs to another VQ-VAE.
    """
    vqvae, prior = (load_model(run.model(stage)) for stage in ("vqvae", "prior"))
    digest, codebook_size = fingerprint(vqvae), vqvae.settings["codebook_size"]
    expected = {"vqvae": digest, "grid": vqvae.grid, "codebook_size": codebook_size}
    _check_belongs(run, "prior", prior, expected)
    texture = None
    if run.model("texture").is_file():
        texture = load_model(run.model("texture"))
        place = {"image_size": vqvae.settings["image_size"], "frame": list(vqvae.frame)}
        _check_belongs(run, "texture", texture, {"vqvae": digest, **place})
    return Models(vqvae, prior, texture)


def _check_belongs(run, stage, model, expected):
    """Check that a model was trained with the VQ-VAE of its run: that it has these settings."""
    if any(model.settings[name] != value for name, value in expected.items()):
        raise InputError(
            f"{run.model(stage)} was trained with another VQ-VAE than {run.model('vqvae')}: "
            "keep the models of one run together."
        )


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
