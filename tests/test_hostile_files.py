"""Files that someone made to do harm: they are refused, run nothing and take no memory."""

import io
import json
import resource
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import one_line, train

import modules
from fitting import checkpoints
from utils import InputError


def keras_archive(path, config):
    """A model file with a config and without weights."""
    buffer = io.BytesIO()
    h5py.File(buffer, "w").close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


def our_config(**changes):
    model = modules.VQVAE(32, 16, 4, 8)
    return {
        "module": "modules",
        "class_name": "VQVAE",
        "registered_name": "brain_vqvae>VQVAE",
        "compile_config": {},
        "config": {**keras.saving.serialize_keras_object(model)["config"], **changes},
    }


def touch_layer(marker):
    """A layer that would leave the file `marker` behind, as it does here while it is made."""
    code = keras.layers.Lambda(lambda x, m=str(marker): (open(m, "w").close(), x)[1])
    model = keras.Sequential([keras.Input((4,)), code])
    marker.unlink()
    return keras.saving.serialize_keras_object(model)


def popen(marker):
    return {
        "module": "subprocess",
        "class_name": "Popen",
        "registered_name": "Popen",
        "config": {"args": ["touch", str(marker)]},
    }


def pickled(marker):
    return b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."


def configured(**changes):
    """Function that writes a model file of ours with other settings."""
    return lambda path, marker: keras_archive(path, our_config(**changes))


HOSTILE = {
    "lambda layer": lambda path, marker: keras_archive(path, touch_layer(marker)),
    "lambda as a setting": lambda path, marker: keras_archive(
        path, our_config(width=touch_layer(marker))
    ),
    "lambda as a policy": lambda path, marker: keras_archive(
        path, our_config(dtype=touch_layer(marker))
    ),
    "class of another module": lambda path, marker: keras_archive(path, popen(marker)),
    "compile config": lambda path, marker: keras_archive(
        path, {**our_config(), "compile_config": {"loss": touch_layer(marker)}}
    ),
    "giant codebook": configured(codebook_size=2**30),
    "giant width": configured(width=2**20),
    "giant image": configured(image_size=2**20),
    "countless blocks": configured(decoder_blocks=[10**9, 1]),
    "negative width": configured(width=-8),
    "long config": lambda path, marker: keras_archive(path, json.dumps({"padding": "x" * 2**17})),
    "missing config": lambda path, marker: zipfile.ZipFile(path, "w").writestr("readme", "nothing"),
    "pickle": lambda path, marker: path.write_bytes(pickled(marker)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_model_is_refused_and_runs_nothing(kind, tmp_path):
    path, marker = tmp_path / "vqvae.keras", tmp_path / "marker"
    HOSTILE[kind](path, marker)
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        checkpoints.load_model(path)
    assert "cannot be loaded" in str(error.value) and "\n" not in str(error.value)
    assert not marker.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin < 200_000  # kilobytes


# The largest settings that a model may have, and some beyond.
LARGE = {"num_levels": 10**4, "grid": 512, "width": 1024, "blocks": 64, "codebook_size": 2**16}
GIANT = {"num_levels": 2**30, "width": 2**20, "blocks": 250, "codebook_size": 2**30}


@pytest.mark.parametrize(
    "setting, value, reason",
    [
        *((*item, "claim more than its weights fill") for item in LARGE.items()),
        *((*item, "out of range") for item in GIANT.items()),
        ("grid", 200, "claim more than its weights fill"),
    ],
)
def test_giant_prior_is_refused(setting, value, reason, prior, tmp_path):
    config = keras.saving.serialize_keras_object(prior)
    config["config"][setting] = value
    path = keras_archive(tmp_path / "prior.keras", {**config, "compile_config": {}})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("padding", bytes(2**20))
    with pytest.raises(InputError, match=reason):
        checkpoints.load_model(path)


def data_sets(file):
    """Paths of all data sets of an HDF5 file."""
    paths = []
    file.visit(paths.append)
    return [path for path in paths if isinstance(file[path], h5py.Dataset)]


def test_weights_outside_the_file_are_not_followed(vqvae, tmp_path):
    """A data set that names another file as its storage must not be read from there."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.full(10_000, 7.0, "float32").tobytes())
    path, plain = tmp_path / "vqvae.keras", tmp_path / "plain"
    vqvae.save(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(plain)
    shape = vqvae.quantizer.codebook.shape
    storage = [(str(secret), 0, int(np.prod(shape)) * 4)]
    with h5py.File(plain / "model.weights.h5", "a") as file:
        name = next(name for name in data_sets(file) if file[name].shape == shape)
        del file[name]
        file.create_dataset(name, shape, "float32", external=storage)
    with zipfile.ZipFile(path, "w") as archive:
        for file in plain.iterdir():
            archive.write(file, file.name)
    with pytest.raises(InputError, match="cannot be loaded"):
        checkpoints.load_model(path)


def test_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "vqvae.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("model.weights.h5", "w", force_zip64=True) as file:
            for _ in range(1100):
                file.write(bytes(2**20))
        archive.writestr("config.json", "{}")
    with pytest.raises(InputError, match="unpacks to"):
        checkpoints.load_model(path)


def test_pickled_state_is_refused(run_copy, slices_folder, tmp_path):
    (run_copy / "resume").mkdir(exist_ok=True)
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self):
            return open, (str(marker), "w")

    np.savez(run_copy / "resume" / "prior.npz", np.array([Trap()], dtype=object))
    one_line(train(slices_folder, run_copy), "resume/prior.npz cannot be read")
    assert not marker.exists()
