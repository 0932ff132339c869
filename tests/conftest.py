"""One tiny data folder and one tiny configuration of each network, shared by all tests."""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import modules
import pixelcnn

LEVELS, IMAGE_SIZE, CODES = 4, 32, 16
TINY = ["--image-size", "32", "--width", "8", "--codebook-size", "16", "--code-dim", "4", "--batch-size", "4", "--prior-width", "8",
        "--prior-blocks", "2", "--draft-epochs", "1", "--precision", "float32", "--learning-rate", "3e-3"]


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(1)


def draw_slice(case, level):
    """A head-like 256 x 256 slice: an ellipse with two dark ventricles, and texture of the case's own."""
    rng = np.random.default_rng((case, level))
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    inside = (x / 0.65) ** 2 + (y / (0.45 + 0.01 * case + 0.01 * level)) ** 2 < 1
    ventricles = (((x - 0.05) / 0.2) ** 2 + ((np.abs(y) - 0.09) / 0.05) ** 2) < 1
    values = (190 + 20 * np.sin(20 * x + case) * np.cos(15 * y)) * (1 - 0.75 * ventricles) + rng.normal(0, 4, x.shape)
    return np.where(inside, np.clip(values, 1, 255), 0).astype("uint8")


def write_slices(directory, cases={"train": (1, 2, 3), "validate": (4,), "test": (5, 6)}):
    for split, numbers in cases.items():
        folder = directory / f"keras_png_slices_{split}"
        folder.mkdir(parents=True)
        for case in numbers:
            for level in range(LEVELS):
                Image.fromarray(draw_slice(case, level)).save(folder / f"case_{case:03d}_slice_{level}.nii.png")
    return directory


@pytest.fixture(scope="session")
def slices_folder(tmp_path_factory):
    return write_slices(tmp_path_factory.mktemp("data"))


def codes(shape=(3, 8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, CODES, shape).astype("int32")


@pytest.fixture
def vqvae():
    return modules.VQVAE(IMAGE_SIZE, codebook_size=CODES, code_dim=4, width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1))


@pytest.fixture
def prior():
    model = pixelcnn.PixelCNN(grid=8, codebook_size=CODES, levels=LEVELS, width=8, blocks=6, dropout=0.0)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # some start at zero, and would hide what flows through them
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return model


def run_script(script, *arguments, cwd=None, **options):
    """Run a script as a user would; returns the finished process."""
    return subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=280, **options)


def one_line(done, *expected):
    """The process ended as one must that was given bad input."""
    assert done.returncode == 2, f"status {done.returncode}: {done.stdout}{done.stderr}"
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and ": error: " in lines[0], done.stderr
    for text in expected:
        assert str(text) in lines[0]


def assert_same_models(one, other):
    """Both run directories hold the same weights, bit for bit."""
    for stage in ("vqvae", "prior"):
        models = [keras.saving.load_model(run / f"{stage}.keras", compile=False) for run in (one, other)]
        for a, b in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(a, b)
