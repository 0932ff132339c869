"""Settings of a user's other projects, rights and pipes: what must not reach a result of ours."""

import builtins
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from shared import contents, one_line, run_script, save_no_figure
from trainings import ROOT

from evaluation import plots
from evaluation.reconstruction import read_code_counts
from fitting.checkpoints import load_model
from fitting.run_directory import RunDirectory, read_config, read_history
from utils import InputError, import_tensorflow

FEW = ("--samples", 1, "--brains", 0)
USERS = {
    "image.origin": "lower", "image.interpolation": "bicubic", "text.usetex": True,
    "font.size": 30, "font.family": "none", "savefig.transparent": True, "savefig.dpi": 30,
    "axes.prop_cycle": "cycler(color=['red'])", "figure.facecolor": "black", "lines.linewidth": 9,
}  # fmt: skip
RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 16, 16))
CUTS = {"axial": IMAGES, "sagittal": IMAGES[:, :3], "coronal": IMAGES[:, :3]}
EPOCHS = {"epoch": np.arange(1, 3), "ssim": RNG.random(2), "codes_used": np.array([3.0, 4.0])}
EPOCHS |= {f"val_{name}": values for name, values in EPOCHS.items()}
LOSSES = {"epoch": np.arange(1, 3), "loss": np.ones(2), "val_loss": np.ones(2)}
FIGURES = {
    "anomalies": (plots.anomalies, IMAGES, IMAGES, {"healing": IMAGES}, ["a", "b"], "Made up."),
    "samples": (plots.samples, IMAGES, np.arange(2), "Made up."),
    "brains": (plots.brains, CUTS, {}, (0, 0, 16, 16), "Made up."),
    "codes": (plots.codes, np.ones(4), np.ones(4), RNG.random((4, 4, 4)), "Made up."),
    "training": (
        plots.training, EPOCHS | {"val_perplexity": np.ones(2)}, LOSSES, {"position": 4.0}, "A.",
    ),
}  # fmt: skip


# ---- matplotlib --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_do_not_depend_on_the_users_style(name, tmp_path):
    draw, *given = FIGURES[name]
    draw(tmp_path / "ours.png", *given)
    with matplotlib.rc_context(USERS):
        before = dict(matplotlib.rcParams)
        draw(tmp_path / "theirs.png", *given)
        assert dict(matplotlib.rcParams) == before  # nor does theirs depend on ours
    assert (tmp_path / "theirs.png").read_bytes() == (tmp_path / "ours.png").read_bytes()


@pytest.mark.parametrize("flags, failing, kept", [
    (FEW, "codes", {"metrics.json", "samples.png", "reconstructions.png", "training.png",
                    "comparison.png", "samples/sample_0000_slice_0.png"}),
    (["--anomaly", "--slice", 2], "anomaly", {"anomaly.json"} | {
        f"anomaly/case_00{case}_slice_2_{kind}.png"
        for case in (5, 6) for kind in ("original", "healed", "map")}),
])  # fmt: skip
def test_a_figure_that_fails_is_named_and_all_else_kept(
    flags, failing, kept, run_copy, slices_folder, monkeypatch
):
    out = run_copy / "predict"
    out.mkdir()
    (out / f"{failing}.png").write_bytes(b"of an earlier run")

    def save_figure(figure, path, caption):
        assert path.parent == out and next(out.glob("*.json")).stat().st_size
        if path.stem == failing:
            raise RuntimeError("no dvipng\nand a long story")
        save_no_figure(figure, path, caption)

    monkeypatch.setattr(plots, "save_figure", save_figure)
    done = run_script("predict.py", "--run", run_copy, "--data", slices_folder, *flags)
    one_line(done, f"{out} has all but {failing}.png, which could not be drawn (no dvipng")
    assert {path.as_posix() for path in contents(out)} == {*kept, "index.html"}


# ---- Keras and TensorFlow ----------------------------------------------------------------------

REPORT = """
import keras
from evaluation import plots
import matplotlib
made = modules.VQVAE(32, width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1))
config = keras.config
print(config.backend(), config.image_data_format(), config.floatx(), config.epsilon(), sep=" ")
print(made.decoder.compute_dtype, matplotlib.get_backend().lower())
for number in range(6):  # TensorFlow would tell to trace less
    made.decode(keras.ops.zeros((number + 1, 4, 4), "int32"))
"""
OLD = {"backend": "theano", "floatx": "float16", "epsilon": 1e-3}
BAD = {"KERAS_BACKEND": "torch", "MPLBACKEND": "module://matplotlib_inline.not_there"}


@pytest.mark.parametrize("first, settings, environment", [
    ("", ["damaged"], BAD),  # to read it would be an error
    pytest.param("", OLD, {}, marks=pytest.mark.slow),
    pytest.param("import keras\n", {"backend": "tensorflow", "floatx": "float16",
                 "image_data_format": "channels_first"}, {}, marks=pytest.mark.slow),
])  # fmt: skip
def test_our_modules_work_in_any_environment(first, settings, environment, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\xfe\n")
    environment = {"KERAS_HOME": tmp_path, "MPLCONFIGDIR": tmp_path, **environment}
    done = subprocess.run(
        [sys.executable, "-c", f"{first}import modules{REPORT}"], cwd=ROOT, text=True,
        capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0 and "retracing" not in done.stderr, done.stderr
    assert done.stdout.split() == "tensorflow channels_last float32 1e-07 float32 agg".split()


def test_another_backend_that_runs_already_is_named(monkeypatch):
    monkeypatch.setattr("keras.config.backend", lambda: "torch")
    with pytest.raises(InputError, match="another backend here: import it after our modules"):
        import_tensorflow()


# ---- rights and pipes --------------------------------------------------------------------------


VQVAE = SimpleNamespace(grid=(4, 4), settings={"codebook_size": 16})
READERS = {
    "config.json": lambda run: read_config(run),
    "vqvae.keras": lambda run: load_model(run.model("vqvae")),
    "code_counts.npz": lambda run: read_code_counts(run.code_counts, VQVAE),
    "vqvae_history.csv": lambda run: read_history(run.history("vqvae")),
}


@pytest.mark.parametrize("name", READERS)
def test_no_right_to_read_is_said_so(name, trained_run, monkeypatch):
    def refuse(file, *args, **options):
        raise PermissionError(13, "Permission denied", str(file))

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", refuse)
    with pytest.raises(InputError, match=f"{name} may not be read: ask its owner"):
        READERS[name](RunDirectory(trained_run))


PRINTING = "from utils import *; command_line(lambda: print('line\\n' * {}))"


@pytest.mark.parametrize("script", [
    ["train.py", "--help"],
    ["-c", PRINTING.format(9)],  # which Python would write at its end
    ["-c", PRINTING.format(99999)],
    ["-c", "from utils import *; command_line(lambda: print(1) or open('nowhere'))"],
])  # fmt: skip
def test_a_pipe_that_closes_ends_quietly(script):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *script]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert not done.stderr and done.returncode in (141, 0 if "--help" in script else 141)


@pytest.mark.parametrize("script", [["train.py", "--help"], ["-c", PRINTING.format(99999)]])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_log_on_a_full_disk_is_one_line(script):
    with open("/dev/full", "w") as full:
        command = [sys.executable, *script]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "No space left" in done.stderr
    assert done.stderr.count("\n") == 1
