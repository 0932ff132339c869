"""What goes wrong for real users: bad input, hostile files, crashes. Every case goes through the real scripts."""

import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT, TINY, assert_same_models, draw_slice, one_line, run_script, write_slices
from PIL import Image

import checkpoints
import modules
from utils import InputError

FAST = [*TINY, "--epochs", "1", "--prior-epochs", "1"]


def train(data, run, *more, **options):
    return run_script("train.py", "--data", data, "--run", run, *FAST, *more, **options)


@pytest.fixture(scope="module")
def finished(slices_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "finished"
    done = train(slices_folder, run)
    assert done.returncode == 0, done.stderr
    return run


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


# ---- data folders ----------------------------------------------------------------------------------------------------


def victim(data):
    return data / "keras_png_slices_train" / "case_002_slice_1.nii.png"


def save(data, image, **options):
    image.save(victim(data), format="PNG", **options)


def bomb(data):
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    victim(data).write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def replace_by_link(data):
    victim(data).unlink()
    victim(data).symlink_to(data / "gone.png")


def replace_by_folder(data):
    victim(data).unlink()
    victim(data).mkdir()


def grey(seed=0):
    return Image.fromarray(draw_slice(seed, 0))


DATA = {
    "no split": (
        lambda d: shutil.rmtree(d / "keras_png_slices_validate"),
        "keras_png_slices_validate is missing",
    ),
    "empty split": (
        lambda d: [p.unlink() for p in (d / "keras_png_slices_test").iterdir()],
        "keras_png_slices_test holds no",
    ),
    "leaked case": (
        lambda d: shutil.copy(victim(d), d / "keras_png_slices_test"),
        "case 002 is in both train and test",
    ),
    "truncated": (
        lambda d: victim(d).write_bytes(victim(d).read_bytes()[:-4000]),
        "is no readable PNG",
    ),
    "zero bytes": (lambda d: victim(d).write_bytes(b""), "is no readable PNG"),
    "text": (lambda d: victim(d).write_text("Dear Sir or Madam"), "is no readable PNG"),
    "jpeg": (lambda d: grey().save(victim(d), format="JPEG"), "is no readable PNG"),
    "damaged pixels": (
        lambda d: victim(d).write_bytes(
            b"".join((b := victim(d).read_bytes(), b[:3000], bytes(50), b[3050:])[1:])
        ),
        "is no readable PNG",
    ),
    "16 bit": (
        lambda d: save(d, Image.fromarray(np.full((256, 256), 999, "uint16"))),
        "256 x 256 I;16, not",
    ),
    "colour": (lambda d: save(d, grey().convert("RGB")), "256 x 256 RGB, not"),
    "alpha": (lambda d: save(d, grey().convert("LA")), "256 x 256 LA, not"),
    "transparent grey": (
        lambda d: save(d, grey(), transparency=7),
        "256 x 256 L, transparent, not",
    ),
    "palette": (lambda d: save(d, grey().convert("P")), "256 x 256 P, not"),
    "animated": (
        lambda d: save(d, grey(), save_all=True, append_images=[grey(3)]),
        "animated, not",
    ),
    "wrong size": (lambda d: save(d, grey().resize((128, 128))), "128 x 128 L, not"),
    "all black": (lambda d: save(d, Image.new("L", (256, 256))), "is all black"),
    "decompression bomb": (bomb, "60000"),
    "broken link": (replace_by_link, "is no readable PNG"),
    "folder as file": (replace_by_folder, "is no readable PNG"),
    "damaged note of a cohort": (
        lambda d: (d / "cohort.json").write_text("{}"),
        "cohort.json is no readable JSON, or lacks something",
    ),
    "odd name": (
        lambda d: victim(d).rename(victim(d).with_name("brain 2.png")),
        "brain 2.png has no case and slice number",
    ),
}


@pytest.mark.parametrize("kind", DATA)
def test_bad_data(kind, tmp_path):
    spoil, expected = DATA[kind]
    data = write_slices(tmp_path / "data")
    spoil(data)
    before = contents(data)
    one_line(train(data, tmp_path / "run"), expected, data)
    assert not (tmp_path / "run").exists() and contents(data) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    data = write_slices(tmp_path / "data")
    victim(data).chmod(0)
    one_line(train(data, tmp_path / "run"), "is no readable PNG", "Permission denied")


def test_spaces_and_other_alphabets_in_paths(tmp_path):
    data = write_slices(tmp_path / "Gehirne  für Ωmega 脳")
    done = train(data, tmp_path / "mein Lauf ñ")
    assert done.returncode == 0, done.stderr
    done = run_script(
        "predict.py", "--run", tmp_path / "mein Lauf ñ", "--data", data, "--samples", 1
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mein Lauf ñ" / "predict" / "metrics.json").exists()


# ---- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--data", "nowhere"], "--data nowhere is no folder"),
        (["--batch-size", "1000"], "--batch-size must be at most the 12"),
        (["--run", "file/run"], "Not a directory"),
    ],
)
def test_bad_settings(flags, expected, slices_folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    one_line(
        run_script(
            "train.py",
            "--data",
            slices_folder,
            "--run",
            tmp_path / "run",
            *FAST,
            *flags,
            cwd=tmp_path,
        ),
        expected,
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "script, flag, value",
    [
        ("train.py", "--epochs", "0"),
        ("train.py", "--epochs", "-3"),
        ("train.py", "--batch-size", "many"),
        ("train.py", "--codebook-size", "1"),
        ("train.py", "--learning-rate", "nan"),
        ("train.py", "--learning-rate", "0"),
        ("train.py", "--subjects", "2"),
        ("train.py", "--seed", "-1"),
        ("train.py", "--precision", "int8"),
        ("train.py", "--image-size", "1e3"),
        ("train.py", "--image-size", "100"),
        ("train.py", "--width", "33"),
        ("train.py", "--codebook-size", "100000"),
        ("train.py", "--prior-dropout", "1"),
        ("predict.py", "--temperature", "inf"),
        ("predict.py", "--samples", "-1"),
        ("predict.py", "--split", "all"),
    ],
)
def test_bad_flags(script, flag, value, tmp_path):
    one_line(run_script(script, flag, value, cwd=tmp_path), f"argument {flag}", value)
    assert not list(tmp_path.iterdir())


# ---- run directories -------------------------------------------------------------------------------------------------


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def another_vqvae(run):
    model = checkpoints.load_model(run / "vqvae.keras")
    model.quantizer.codebook.assign_add(np.ones(model.quantizer.codebook.shape))
    checkpoints.save_model(model, run / "vqvae.keras")


RUNS = {
    "no config": (lambda r: (r / "config.json").unlink(), "config.json is not there"),
    "damaged config": (
        lambda r: (r / "config.json").write_text('{"settings": {'),
        "config.json is no readable JSON",
    ),
    "config of another version": (
        lambda r: rewrite(r / "config.json", lambda c: c.pop("settings")),
        "config.json is of another version",
    ),
    "first stage only": (lambda r: (r / "prior.keras").unlink(), "prior.keras is not there"),
    "truncated model": (
        lambda r: (r / "vqvae.keras").write_bytes((r / "vqvae.keras").read_bytes()[:9999]),
        "vqvae.keras cannot be loaded",
    ),
    "empty model": (lambda r: (r / "prior.keras").write_bytes(b""), "prior.keras cannot be loaded"),
    "corrupted model": (
        lambda r: (r / "vqvae.keras").write_bytes(
            (b := (r / "vqvae.keras").read_bytes())[:9000] + bytes(100) + b[9100:]
        ),
        "vqvae.keras cannot be loaded",
    ),
    "models exchanged": (
        lambda r: shutil.copy(r / "prior.keras", r / "vqvae.keras"),
        "vqvae.keras cannot be loaded (it holds no VQVAE)",
    ),
    "another vqvae": (another_vqvae, "on the codes of another VQ-VAE"),
    "damaged history": (
        lambda r: (r / "prior_history.csv").write_text("epoch,loss\n1,much\n"),
        "prior_history.csv is damaged",
    ),
    "no history": (lambda r: (r / "vqvae_history.csv").unlink(), "lacks vqvae_history.csv"),
    "model packed in an unknown way": (
        lambda r: (r / "vqvae.keras").write_bytes(
            (b := (r / "vqvae.keras").read_bytes())[: (i := b.rindex(b"PK\1\2") + 10)]
            + b"\x63"
            + b[i + 1 :]
        ),
        "vqvae.keras cannot be loaded",
    ),
    "damaged counts": (
        lambda r: (r / "code_counts.npz").write_bytes(b"PK"),
        "code_counts.npz cannot be read",
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_bad_run(kind, finished, slices_folder, tmp_path):
    spoil, expected = RUNS[kind]
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "predict").mkdir(exist_ok=True)
    (run / "predict" / "metrics.json").write_text("earlier results")
    spoil(run)
    before = contents(run)
    one_line(
        run_script("predict.py", "--run", run, "--data", slices_folder, "--samples", 1), expected
    )
    assert contents(run) == before


def test_no_folder_that_a_run_names_is_followed(finished, slices_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    rewrite(run / "config.json", lambda c: c["data"].update(directory=str(slices_folder)))
    one_line(run_script("predict.py", "--run", run, cwd=tmp_path), "no slices found", "--data DIR")
    for cohort in ({"subjects": 10**9, "seed": 0}, "sixty people"):
        rewrite(run / "config.json", lambda c: c["data"].update(cohort=cohort))
        one_line(
            run_script("predict.py", "--run", run, cwd=tmp_path),
            "asks for a cohort of",
            "--data DIR",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ---- hostile files ---------------------------------------------------------------------------------------------------


def keras_archive(path, config, weights=None):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        if weights:
            weights(file)
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


HOSTILE = {
    "lambda layer": lambda path, marker: keras_archive(path, touch_layer(marker)),
    "lambda as a setting": lambda path, marker: keras_archive(
        path, our_config(width=touch_layer(marker))
    ),
    "lambda as a policy": lambda path, marker: keras_archive(
        path, our_config(dtype=touch_layer(marker))
    ),
    "class of another module": lambda path, marker: keras_archive(
        path,
        {
            "module": "subprocess",
            "class_name": "Popen",
            "registered_name": "Popen",
            "config": {"args": ["touch", str(marker)]},
        },
    ),
    "compile config": lambda path, marker: keras_archive(
        path, {**our_config(), "compile_config": {"loss": touch_layer(marker)}}
    ),
    "giant codebook": lambda path, marker: keras_archive(path, our_config(codebook_size=2**30)),
    "giant width": lambda path, marker: keras_archive(path, our_config(width=2**20)),
    "giant image": lambda path, marker: keras_archive(path, our_config(image_size=2**20)),
    "countless blocks": lambda path, marker: keras_archive(
        path, our_config(decoder_blocks=[10**9, 1])
    ),
    "negative width": lambda path, marker: keras_archive(path, our_config(width=-8)),
    "long config": lambda path, marker: keras_archive(path, json.dumps({"padding": "x" * 2**17})),
    "missing config": lambda path, marker: zipfile.ZipFile(path, "w").writestr("readme", "nothing"),
    "pickle": lambda path, marker: path.write_bytes(
        b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    ),
}


@pytest.mark.parametrize(
    "setting, value",
    [("levels", 2**30), ("grid", 200), ("width", 2**20), ("blocks", 250), ("codebook_size", 2**30)],
)
def test_giant_prior_is_refused(setting, value, prior, tmp_path):
    config = keras.saving.serialize_keras_object(prior)
    config["config"][setting] = value
    with zipfile.ZipFile(
        keras_archive(tmp_path / "prior.keras", {**config, "compile_config": {}}), "a"
    ) as archive:
        archive.writestr("padding", bytes(2**20))
    with pytest.raises(InputError, match="claim more than its weights fill"):
        checkpoints.load_model(tmp_path / "prior.keras")


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


def names(file):
    """Paths of all data sets of an HDF5 file."""
    found = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return found


def test_weights_outside_the_file_are_not_followed(vqvae, tmp_path):
    """A data set that names another file as its storage must not be read from there."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.full(10_000, 7.0, "float32").tobytes())
    path, plain = tmp_path / "vqvae.keras", tmp_path / "plain"
    vqvae.save(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(plain)
    with h5py.File(plain / "model.weights.h5", "a") as file:
        name, shape = next(
            (name, file[name].shape)
            for name in names(file)
            if file[name].shape == vqvae.quantizer.codebook.shape
        )
        del file[name]
        file.create_dataset(
            name, shape, "float32", external=[(str(secret), 0, int(np.prod(shape)) * 4)]
        )
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


def test_pickled_state_is_refused(tmp_path, slices_folder):
    run = tmp_path / "run"
    assert train(slices_folder, run).returncode == 0
    (run / "resume").mkdir(exist_ok=True)
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self):
            return open, (str(marker), "w")

    np.savez(run / "resume" / "prior.npz", np.array([Trap()], dtype=object))
    one_line(train(slices_folder, run), "resume/prior.npz cannot be read")
    assert not marker.exists()


# ---- crashes ---------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite_stops_at_once(slices_folder, tmp_path):
    run = tmp_path / "run"
    done = train(slices_folder, run, "--learning-rate", "1e20", "--epochs", "3")
    one_line(
        done,
        "vqvae: the ",
        "is not finite at step",
        "--precision float32",
        run / "resume" / "vqvae.npz",
    )
    assert not (run / "prior.keras").exists()
    with np.load(run / "resume" / "vqvae.npz") as state:
        assert all(np.isfinite(state[name]).all() for name in state.files)


def test_a_kill_before_the_first_state_is_no_finished_stage(slices_folder, finished, tmp_path):
    """Between the history of the first epoch and its state, the state of the start is there."""
    run = tmp_path / "run"
    process = start(slices_folder, run)
    wait_for(run / "vqvae_history.csv", process)
    process.kill()
    process.wait()
    done = train(slices_folder, run)
    assert done.returncode == 0 and "vqvae: finished" not in done.stdout
    assert_same_models(finished, run)


def test_two_trainings_cannot_share_a_run(slices_folder, finished):
    import filelock

    with filelock.FileLock(finished / ".lock"):
        before = contents(finished)
        one_line(train(slices_folder, finished), "is held by another training")
        assert contents(finished) == before


def test_full_disk_keeps_the_last_good_checkpoint(slices_folder, tmp_path):
    run = tmp_path / "run"
    process = start(slices_folder, run, "--epochs", "50")
    wait_for(run / "vqvae.keras", process)
    process.kill()
    process.wait()
    before = {
        path: path.read_bytes() for path in (run / "vqvae.keras", run / "resume" / "vqvae.npz")
    }
    smallest = (
        min(map(len, before.values())) // 2
    )  # files may not grow past this, as on a disk that is full
    done = train(
        slices_folder,
        run,
        "--epochs",
        "50",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (smallest, smallest)),
    )
    one_line(done, "Check the path, its rights and the disk")
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list(run.rglob(".*.partial.*"))


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_ends_it_and_the_same_command_goes_on(
    number, status, slices_folder, finished, tmp_path
):
    run = tmp_path / "run"
    # a test run in the background would hand down that Ctrl-C is to be ignored
    process = start(
        slices_folder,
        run,
        "--save-minutes",
        "0",
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(run / "resume" / "vqvae.npz", process)  # a step was saved
    process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, "Traceback" in errors) == (status, False), errors
    assert train(slices_folder, run).returncode == 0
    assert_same_models(finished, run)


def test_ctrl_c_is_heard_though_a_destructor_swallows_it():
    script = """
import signal, time, utils

class Swallows:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def main():
    Swallows()
    while True:
        time.sleep(0.01)

signal.signal(signal.SIGINT, signal.default_int_handler)
utils.command_line(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (
        done.returncode == 130
        and done.stderr == "-c: error: stopped by Ctrl-C; what was finished is kept.\n"
    )


def start(data, run, *more, **options):
    command = [sys.executable, ROOT / "train.py", "--data", data, "--run", run, *FAST, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the training ended too early"
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, rate_weight", [(0, 1.5), (1, 0)]
)  # twenty kills, ten on each core; without a rate weight there is no draft
def test_ten_kills_at_random_moments_change_nothing(seed, rate_weight, slices_folder, tmp_path):
    """All stages of a training that is killed ten times end with the weights and histories of one that is not."""
    stages = [
        "--epochs",
        "6",
        "--prior-epochs",
        "6",
        "--rate-weight",
        str(rate_weight),
        "--save-minutes",
        "0",
    ]
    begin = time.monotonic()
    assert train(slices_folder, tmp_path / "whole", *stages).returncode == 0
    length, kills, chance = time.monotonic() - begin, 0, random.Random(seed)
    while kills < 10:
        process = start(slices_folder, tmp_path / "killed", *stages)
        try:
            process.wait(timeout=chance.uniform(0.3, 0.9) * length)
            assert (
                process.returncode == 0
            )  # it was through: what is left of the kills falls on a new run
            assert_same_models(tmp_path / "whole", tmp_path / "killed")
            shutil.rmtree(tmp_path / "killed")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert train(slices_folder, tmp_path / "killed", *stages).returncode == 0
    assert_same_models(tmp_path / "whole", tmp_path / "killed")
    for name in ("vqvae_history.csv", "prior_history.csv"):
        whole, killed = (
            [
                line.split(",")[:1] + line.split(",")[2:]
                for line in (tmp_path / run / name).read_text().splitlines()
            ]
            for run in ("whole", "killed")
        )
        assert whole == killed  # all but the seconds


def test_fresh_runs_agree_bit_for_bit(slices_folder, finished, tmp_path):
    assert train(slices_folder, tmp_path / "again").returncode == 0
    assert_same_models(finished, tmp_path / "again")
    assert train(slices_folder, tmp_path / "flag", "--deterministic").returncode == 0


def test_collapse_is_warned_of(capsys):
    import train as script

    rows = [{"val_loss": 1.0, "seconds": 1.0, "codes_used": used} for used in (300.0, 100.0)]
    script.comment("vqvae", rows, 5, {"patience": 5, "codebook_size": 512})
    printed = capsys.readouterr().out
    assert (
        "collapsing, 300 codes were used in the epoch before and 100 of 512 now" in printed
        and "minutes left" in printed
    )
    rows[1]["codes_used"] = 299.0 + 200
    script.comment("vqvae", rows, 5, {"patience": 5, "codebook_size": 512})
    assert "collapsing" not in capsys.readouterr().out
