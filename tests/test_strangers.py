"""Runs of strangers: whatever their files hold, one line says so, and no file of the user moves."""

import io
import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import TINY, make_prior, one_line, run_script, train, write_slices

from evaluation.reconstruction import read_code_counts
from fitting import checkpoints
from fitting.run_directory import RunDirectory, read_config, read_history
from utils import InputError, write_json


@pytest.fixture
def run(run_copy):
    return run_copy


def predict(run, slices_folder, *flags, **options):
    flags = ("--run", run, "--data", slices_folder, "--samples", 1, *flags)
    return run_script("predict.py", *flags, **options)


# ---- links -------------------------------------------------------------------------------------


def test_a_link_with_a_guessed_name_leads_nowhere(run, slices_folder, tmp_path):
    letter = tmp_path / "letter.txt"
    letter.write_text("keep me")
    (run / "predict").mkdir()
    for name in (".metrics.partial.json", "metrics.json"):
        (run / "predict" / name).symlink_to(letter)
    assert predict(run, slices_folder).returncode == 0
    assert letter.read_text() == "keep me"
    assert json.loads((run / "predict" / "metrics.json").read_text())["samples"]["count"] == 1


@pytest.mark.parametrize(
    "place, flags",
    [
        ("predict", ()),
        ("predict", ("--anomaly",)),
        ("predict/samples", ()),
        ("predict/anomaly", ("--anomaly",)),
    ],
)
def test_a_linked_output_folder_is_refused(place, flags, run, slices_folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "sample_0000_slice_1.png").write_text("keep me")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(photos)
    one_line(predict(run, slices_folder, *flags), run / place, "is a link or a file")
    assert [path.name for path in photos.iterdir()] == ["sample_0000_slice_1.png"]


def test_a_run_that_is_a_link_works(run, slices_folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(run)
    assert predict(link, slices_folder).returncode == 0
    assert (run / "predict" / "metrics.json").is_file()
    done = train(slices_folder, link)
    assert done.returncode == 0 and done.stdout.count("finished after") == 4


# ---- model files -------------------------------------------------------------------------------


def rewrite(path, config=None, weights=None, again=()):
    """Change the settings, or the weights, in a model file, or write members of it again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if config:
        value = json.loads(members["config.json"])
        config(value["config"])
        members["config.json"] = json.dumps(value).encode()
    if weights:
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            weights(file)
        members["model.weights.h5"] = content.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*members, *again):
            archive.writestr(name, members[name])


def fill(value):
    """Function that fills the first large array of a file of weights."""

    def change(file):
        arrays = []
        file.visititems(lambda _, item: arrays.append(item) if hasattr(item, "nbytes") else None)
        largest = max(arrays, key=lambda array: array.nbytes)
        largest[...] = value

    return change


def add_packed_array(file):
    """30,000 x 30,000 zeros, of which the file holds some kilobytes."""
    file.create_dataset("more", (30000, 30000), "float32", compression="gzip", chunks=(3000, 3000))


MODELS = {
    "an array that unpacks": ("vqvae", {"weights": add_packed_array}, "its weights unpack to"),
    "no numbers": ("vqvae", {"weights": fill(np.nan)}, "its weights are not finite"),
    "huge numbers": ("vqvae", {"weights": fill(3e38)}, "its weights are not finite"),
    "no numbers in the prior": ("prior", {"weights": fill(np.inf)}, "its weights are not finite"),
    "huge numbers in the prior": ("prior", {"weights": fill(-3e38)}, "its weights are not finite"),
    "no blocks": ("vqvae", {"config": lambda c: c.update(encoder_blocks=[])}, "encoder_blocks"),
    "more blocks": ("vqvae", {"config": lambda c: c.update(decoder_blocks=[1, 1, 1])}, "decoder_"),
    "a text": ("prior", {"config": lambda c: c.update(rate_weight="much")}, "rate_weight"),
    "a truth value": ("prior", {"config": lambda c: c.update(blocks=True)}, "blocks"),
    "an unknown setting": ("prior", {"config": lambda c: c.update(depth=3)}, "depth"),
    "a number for a text": ("prior", {"config": lambda c: c.update(vqvae=3)}, "vqvae"),
    "one entry twice": ("prior", {"again": ["config.json"]}, "two entries of one name"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", MODELS)
def test_a_spoilt_model_is_refused(kind, run):
    stage, changes, expected = MODELS[kind]
    path = RunDirectory(run).model(stage)
    rewrite(path, **changes)
    with pytest.raises(InputError, match="cannot be loaded") as error:
        checkpoints.load_model(path)
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"grid": 8}, {"codebook_size": 32}])
def test_a_prior_of_another_grid_or_codebook_is_refused(changes, run):
    paths = RunDirectory(run)
    vqvae = checkpoints.load_model(paths.model("vqvae"))
    settings = {**make_prior(grid=4).get_config(), "vqvae": checkpoints.fingerprint(vqvae)}
    kind = type(make_prior(grid=4))
    checkpoints.save_model(kind.from_config({**settings, "num_levels": 4}), paths.model("prior"))
    checkpoints.load_models(paths)
    checkpoints.save_model(kind.from_config({**settings, **changes}), paths.model("prior"))
    with pytest.raises(InputError, match="on the codes of another VQ-VAE"):
        checkpoints.load_models(paths)


def test_a_model_of_former_names_loads(run):
    """Files that were written before layers and settings had today's names stay readable."""
    path = RunDirectory(run).model("prior")
    prior = checkpoints.load_model(path)

    def former(file):
        for block in file["blocks"].values():
            for name, today in checkpoints.FORMER_NAMES.items():
                block.move(today, name)

    rewrite(path, config=lambda c: c.update(levels=c.pop("num_levels")), weights=former)
    with pytest.raises(TypeError, match="num_levels"):
        keras.saving.load_model(path, compile=False)
    for one, other in zip(prior.get_weights(), checkpoints.load_model(path).get_weights()):
        np.testing.assert_array_equal(one, other)


# ---- what else a run holds ---------------------------------------------------------------------


CONFIGS = {
    "nested": ("[" * 10**5, "is no readable JSON"),
    "settings are null": ('{"settings": null, "data": {}}', "is of another version"),
    "data is a list": ('{"settings": {}, "data": []}', "is of another version"),
    "no text": ('{"settings": {}, "data": {"name": "a", "fingerprint": 3}}', "another version"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_damaged_config(kind, run):
    text, expected = CONFIGS[kind]
    (run / "config.json").write_text(text)
    with pytest.raises(InputError, match=expected) as error:
        read_config(RunDirectory(run))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [r"$\frac{$", "\ud800", "x" * 10**6, "\x1b[31mred\x07", "脳 Ω"])
def test_a_strange_name_of_the_data(name, run, slices_folder):
    """It is shown, cut and without control characters, and no caption takes it for a formula."""
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"name": name, "fingerprint": "other"}
    (run / "config.json").write_text(json.dumps(config))
    done = predict(run, slices_folder)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "trained on other data" in line)
    assert len(line) < 200 and line.isprintable()
    assert (run / "predict" / "samples.png").is_file()


def test_a_terminal_that_knows_ascii_only(tmp_path):
    data = write_slices(tmp_path / "脳 Ω")
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run_script("dataset.py", "check", data, env=ascii_only)
    assert done.returncode == 0 and r"\u8133 \u03a9" in done.stdout, done.stderr


HISTORIES = {
    "without a column": "epoch,seconds,loss\n1,2,3\n",
    "not a number": "epoch,seconds,loss,val_loss\n1,2,nan,3\n",
    "a text": "epoch,seconds,loss,val_loss\n1,2,much,3\n",
    "a long epoch": f"epoch,seconds,loss,val_loss\n{'1' * 400},2,3,3\n",
    "an epoch that is missing": "epoch,seconds,loss,val_loss\n2,2,3,3\n",
    "too few fields": "epoch,seconds,loss,val_loss\n1,2\n",
    "too many fields": "epoch,seconds,loss,val_loss\n1,2,3,4,5\n",
}


@pytest.mark.parametrize("kind", HISTORIES)
def test_a_damaged_history(kind, tmp_path):
    path = tmp_path / "prior_history.csv"
    path.write_text(HISTORIES[kind])
    with pytest.raises(InputError, match="is damaged") as error:
        read_history(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_history_without_the_curves_of_a_figure_is_found_at_once(run, slices_folder):
    (run / "vqvae_history.csv").write_text("epoch,seconds,loss,val_loss\n1,2,3,4\n")
    one_line(predict(run, slices_folder), "vqvae_history.csv")
    assert not (run / "predict").exists()


SHAPE = (4, 4, 16)


def npz(path, member, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(member, content)


def header(shape, dtype="<i4", length=None):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode()
    text = text.ljust((length or 118) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def counts(values):
    def write(path):
        np.savez(path, counts=values)

    return write


ONES = np.ones(SHAPE, "int32")
COUNTS = {
    "claims too much": lambda p: npz(p, "counts.npy", header((10**6, 10**6))),
    "claims a negative size": lambda p: npz(p, "counts.npy", header((-4, 4, 16))),
    "bad header": lambda p: npz(p, "counts.npy", b"\x93NUMPY\x01\x00\x10\x00(((((((((((((((("),
    "no array": lambda p: npz(p, "counts.npy", b"Dear Sir or Madam"),
    "lzma": lambda p: npz(p, "counts.npy", header(SHAPE) + ONES.tobytes(), zipfile.ZIP_LZMA),
    "ends too early": lambda p: npz(p, "counts.npy", header(SHAPE) + ONES.tobytes()[:-4]),
    "unpacks to gigabytes": lambda p: npz(p, "counts.npy", header((2**14, 2**12, 16)), 8),
    "text": counts(np.full(SHAPE, "a")),
    "dates": counts(np.zeros(SHAPE, "datetime64[s]")),
    "complex": counts(np.ones(SHAPE, "complex64")),
    "not finite": counts(np.full(SHAPE, np.nan)),
    "negative": counts(-ONES),
    "nothing": counts(0 * ONES),
    "another shape": counts(ONES[:2]),
    "another name": lambda p: np.savez(p, other=ONES),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_spoilt_counts(kind, tmp_path):
    path = tmp_path / "code_counts.npz"
    COUNTS[kind](path)
    with pytest.raises(InputError, match="code_counts.npz") as error:
        read_code_counts(path, SHAPE)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_codes_of_a_stranger_are_chosen_again(run, slices_folder):
    before = (run / "codes.npz").read_bytes()
    (run / "prior_history.csv").unlink()
    npz(run / "codes.npz", "train.npy", header((10**6, 10**6), "<u2"))
    done = train(slices_folder, run)
    assert done.returncode == 0, done.stderr
    with np.load(run / "codes.npz") as new, np.load(io.BytesIO(before)) as old:
        for name in ("train", "validate"):
            np.testing.assert_array_equal(new[name], old[name])


def test_a_state_with_a_member_that_is_no_array(run, slices_folder):
    (run / "resume").mkdir(exist_ok=True)
    npz(run / "resume" / "prior.npz", "arr_0.npy", b"Dear Sir or Madam")
    done = train(slices_folder, run)
    one_line(done, "resume/prior.npz cannot be read", "begin this stage again")


@pytest.mark.parametrize("name", ["logs", "resume"])
def test_a_file_where_a_folder_is_needed(name, run, slices_folder):
    shutil.rmtree(run / name)
    (run / name).write_text("keep me")
    done = train(slices_folder, run)
    one_line(done, f"{run / name} is a file")
    assert (run / name).read_text() == "keep me"


# ---- odd moments -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stage_of_one_step(slices_folder, tmp_path):
    run = tmp_path / "run"
    flags = ["--epochs", 1, "--prior-epochs", 1, "--texture-epochs", 0, "--rate-weight", 0]
    flags += ["--batch-size", 12]  # of 12 images
    done = run_script("train.py", "--data", slices_folder, "--run", run, *TINY, *flags)
    assert done.returncode == 0 and "1 epochs of 1 steps" in done.stdout, done.stderr
    checkpoints.load_models(RunDirectory(run))


def test_figures_that_are_no_numbers_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.0]}
