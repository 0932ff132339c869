"""One tiny data folder, one tiny configuration of each network and one run, shared by all tests."""

import contextlib
import functools
import hashlib
import importlib
import io
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import traceback
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Workers share the cores. Threads that wait for each other would take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import filelock
import keras
import numpy as np
import pytest
from PIL import Image
from trainings import ROOT, SHALLOW, Training

import modules
from coding import slices
from evaluation import plots
from fitting import checkpoints
from fitting.run_directory import RunDirectory
from networks.layers import in_precision
from utils import command_line

LEVELS, IMAGE_SIZE, CODES = 4, 32, 16
TINY = [
    "--image-size", "32", "--width", "8", "--codebook-size", "16", "--code-dim", "4",
    "--batch-size", "4", "--prior-width", "8", "--prior-blocks", "1", "--first-prior-epochs", "1",
    "--precision", "float32", "--learning-rate", "3e-3", "--texture-width", "8",
    "--texture-epochs", "1",
]  # fmt: skip
STAGES = ["--epochs", "2", "--prior-epochs", "2"]

# Where `parse` and `main` of each script are.
SCRIPTS = {
    "train.py": "train",
    "predict.py": "predict",
    "compress.py": "compress",
    "dataset.py": "sources.commands",
    "fitting/export.py": "fitting.export",
}


def pytest_collection_modifyitems(items):
    """Hand out files with slow tests first, so that no worker ends alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(1)


@pytest.fixture(autouse=True, scope="module")
def seeded_module():
    """What the tests of a file share is made alike whatever ran before."""
    keras.utils.set_random_seed(1)


def draw_slice(case, level):
    """A head-like 256 x 256 slice: an ellipse with two dark ventricles, and its own texture."""
    rng = np.random.default_rng((case, level))
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    inside = (x / 0.65) ** 2 + (y / (0.45 + 0.01 * case + 0.01 * level)) ** 2 < 1
    ventricles = (((x - 0.05) / 0.2) ** 2 + ((np.abs(y) - 0.09) / 0.05) ** 2) < 1
    values = (190 + 20 * np.sin(20 * x + case) * np.cos(15 * y)) * (1 - 0.75 * ventricles)
    values += rng.normal(0, 4, x.shape)
    return np.where(inside, np.clip(values, 1, 255), 0).astype("uint8")


@functools.cache
def slice_png(case, level):
    """Bytes of the PNG of `draw_slice`."""
    file = io.BytesIO()
    Image.fromarray(draw_slice(case, level)).save(file, "PNG")
    return file.getvalue()


CASES = {"train": (1, 2, 3), "validate": (4,), "test": (5, 6)}


def write_slices(directory, cases=CASES, levels=LEVELS):
    """Write a data folder of made-up heads and return it."""
    for split, numbers in cases.items():
        folder = directory / f"keras_png_slices_{split}"
        folder.mkdir(parents=True)
        for case in numbers:
            for level in range(levels):
                path = folder / f"case_{case:03d}_slice_{level}.nii.png"
                path.write_bytes(slice_png(case, level))
    return directory


@pytest.fixture(scope="session")
def slices_folder(tmp_path_factory):
    return write_slices(tmp_path_factory.mktemp("data"))


def codes(shape=(3, 8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, CODES, shape).astype("int32")


def make_vqvae():
    return modules.VQVAE(IMAGE_SIZE, codebook_size=CODES, code_dim=4, width=8, **SHALLOW)


@pytest.fixture
def vqvae():
    return make_vqvae()


def make_prior(grid=8, neighbours=1, num_levels=LEVELS, blocks=6, mirror="rows", **more):
    """A small prior in which nothing is zero, so that nothing that flows through it is hidden."""
    model = modules.PixelCNN(
        grid=grid,
        codebook_size=CODES,
        num_levels=num_levels,
        width=8,
        blocks=blocks,
        dropout=0.0,
        neighbours=neighbours,
        mirror=mirror,
        **more,
    )
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def prior():
    """A prior that no test changes: its graphs are there once a test has made them."""
    return make_prior()


KNOWN_MODELS = {}  # what `load_model` gave, by the name and the content of the file


def load_model_once(path):
    """`checkpoints.load_model`, but the same file gives the same model.

    Its compiled functions are then there already. To trace them takes most of an evaluation.
    """
    file = path.name, hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None
    if file not in KNOWN_MODELS:
        KNOWN_MODELS[file] = load_model(path)
    return KNOWN_MODELS[file]


def load_models_once(run):
    """`checkpoints.load_models` with `load_model_once`."""
    with unittest.mock.patch("fitting.checkpoints.load_model", load_model_once):
        return load_models(run)


load_model, load_models = checkpoints.load_model, checkpoints.load_models
IN_PRECISION = (
    *("evaluation.reconstruction", "evaluation.classification", "evaluation.counterfactuals"),
    "coding.slices",
)
in_precision_once = functools.cache(in_precision)
save_figure, coder_once = plots.save_figure, functools.cache(slices.Coder)


def write_no_page(path, run):
    """In place of `page.write`, which takes seconds for its viewers."""
    path.write_bytes(b"a page")


def save_no_figure(figure, path, caption):
    """In place of `plots.save_figure`, which takes most of an evaluation."""
    path.write_bytes(b"a figure")


@contextlib.contextmanager
def graphs_kept(figures=True):
    """The same files of models, loaded again, are the same models with their graphs."""
    with contextlib.ExitStack() as patches:
        for place in ("fitting.checkpoints.load_models", "coding.slices.load_models"):
            patches.enter_context(unittest.mock.patch(place, load_models_once))
        for place in IN_PRECISION:
            patches.enter_context(unittest.mock.patch(f"{place}.in_precision", in_precision_once))
        patches.enter_context(unittest.mock.patch("coding.slices.Coder", coder_once))
        if not figures:
            patches.enter_context(unittest.mock.patch("evaluation.page.write", write_no_page))
        if not figures and plots.save_figure is save_figure:
            patches.enter_context(unittest.mock.patch.object(plots, "save_figure", save_no_figure))
        yield


def run_script(script, *arguments, cwd=None, process=False, figures=False, **options):
    """Run a script as a user would and return it finished: returncode, stdout, stderr.

    It runs in this process, which saves the start of TensorFlow, unless a process is what is
    tested (`process`, or options of `subprocess.run`). It draws no figures unless they are tested.
    """
    arguments = list(map(str, arguments))
    if process or options or script not in SCRIPTS:
        command = [sys.executable, ROOT / script, *arguments]
        options = {"capture_output": True, "text": True, "timeout": 280, **options}
        return subprocess.run(command, cwd=cwd, **options)
    module = importlib.import_module(SCRIPTS[script])
    out, errors, status = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    argv, sys.argv = sys.argv, [script, *arguments]
    with (
        contextlib.chdir(cwd or os.getcwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        graphs_kept(figures),
    ):
        try:
            command_line(lambda: module.main(module.parse(arguments)))
        except SystemExit as end:
            status = end.code or 0
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            sys.argv = argv
            keras.config.set_dtype_policy("float32")
    return subprocess.CompletedProcess(arguments, int(status), out.getvalue(), errors.getvalue())


def train(data, run, *more, **options):
    """Train a tiny run of all stages, as `run_script` does."""
    return run_script("train.py", "--data", data, "--run", run, *TINY, *STAGES, *more, **options)


def eager(strategy, model, step):
    """In place of `devices.compiled`: to trace a step takes longer than to take a few."""

    def call(batch, seconds=0.0):
        step(batch)
        logs = model.get_metrics_result()
        return {name: float(value) for name, value in sorted(logs.items())}, seconds

    return call


@pytest.fixture
def eager_steps(monkeypatch):
    """Steps of trainings are not compiled."""
    monkeypatch.setattr("fitting.devices.compiled", eager)


def predict(run, data, *flags):
    """Run predict.py, which must succeed. Returns it finished, and its `metrics.json`."""
    few = ("--samples", 2, "--brains", 0)
    done = run_script("predict.py", "--run", run, "--data", data, *few, *flags)
    assert done.returncode == 0, done.stderr
    return done, json.loads((run / "predict" / "metrics.json").read_text())


@contextlib.contextmanager
def once_for_all_workers(tmp_path_factory, name):
    """A path that the workers of pytest share, and whether the first of them has made it.

    Two calls of pytest share it too where the environment names a folder for it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "SHARED_RUNS" in os.environ:
        folder = pathlib.Path(os.environ["SHARED_RUNS"])
    elif "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / f"{name}_is_made"
    with filelock.FileLock(folder / f"{name}.lock"):
        yield folder / name, made.exists()
        made.touch()


@pytest.fixture(scope="session")
def start_training(tmp_path_factory):
    """Function that starts a training in a process of its own, see `Training`."""
    folder, numbers = tmp_path_factory.mktemp("trainings"), itertools.count()

    def start(data, run, *flags, **options):
        place = folder / str(next(numbers))
        place.mkdir()
        return Training(place, ["--data", data, "--run", run, *flags], **options)

    return start


@pytest.fixture(scope="session")
def trained_run(slices_folder, tmp_path_factory):
    """A finished run. Tests share it, so none may write into it."""
    with once_for_all_workers(tmp_path_factory, "trained_run") as (run, is_there):
        if not is_there:
            done = train(slices_folder, run)
            assert done.returncode == 0, done.stderr
            assert f"Next: python predict.py --run {run} --data {slices_folder}" in done.stdout
            assert "Training on the CPU" in done.stdout
            assert "12 images,    3 cases" in done.stdout
    return run


@pytest.fixture(scope="session")
def codec(trained_run):
    """Codec of the finished run."""
    make_prior(4, blocks=1)  # Keras counts layers up, so they have other names than usual
    with graphs_kept():
        return slices.Codec(RunDirectory(trained_run))


@pytest.fixture
def run_copy(trained_run, tmp_path):
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(trained_run, tmp_path / "run")


def contents(directory):
    """Bytes of all files in a folder."""
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def one_line(done, *expected):
    """Check that the script ended as one must that was given bad input."""
    assert done.returncode == 2, f"status {done.returncode}: {done.stdout}{done.stderr}"
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and ": error: " in lines[0], done.stderr
    for text in expected:
        assert str(text) in lines[0]


def assert_same_models(one, other):
    """Check that both run directories hold the same weights, bit for bit."""
    files = sorted(path.name for path in one.glob("*.keras"))
    assert "prior.keras" in files and files == sorted(path.name for path in other.glob("*.keras"))
    for file in files:
        weights = [
            keras.saving.load_model(run / file, compile=False).get_weights() for run in (one, other)
        ]
        for a, b in zip(*weights, strict=True):
            np.testing.assert_array_equal(a, b)


def assert_same_histories(one, other):
    """Check that both run directories hold the same histories, but for the seconds."""
    files = sorted(path.name for path in one.glob("*_history.csv"))
    assert files == sorted(path.name for path in other.glob("*_history.csv"))
    for stage in (name.removesuffix("_history.csv") for name in files):
        whole, again = ((run / f"{stage}_history.csv").read_text() for run in (one, other))
        rows, others = ([row.split(",") for row in text.splitlines()] for text in (whole, again))
        assert rows[0][1] == "seconds"
        assert [row[:1] + row[2:] for row in rows] == [row[:1] + row[2:] for row in others]
