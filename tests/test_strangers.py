"""Runs of strangers: whatever their files hold, one line says so. They run nothing, take no memory,
and no file of the user moves."""

import io
import json
import os
import resource
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import make_prior, one_line, run_script, train, write_slices

from fitting import checkpoints
from fitting.run_directory import RunDirectory, read_config, read_history
from fitting.training_data import TrainingData, choose_codes
from sources.folder import open_slices
from utils import InputError, write_json


@pytest.fixture
def run(run_copy):
    return run_copy


def predict(run, slices_folder, *flags, **options):
    flags = ("--run", run, "--data", slices_folder, "--samples", 1, "--brains", 0, *flags)
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


# ---- what predict.py refuses: name, how a run is spoilt, words of the line ---------------------


def rewritten(stage, config=None, weights=None, again=(), **settings):
    """Function that changes settings or weights in a model file, or writes members again."""

    def spoil(run):
        path = RunDirectory(run).model(stage)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        value = json.loads(members["config.json"])
        value["config"] |= settings
        members["config.json"] = json.dumps(config(run, value) if config else value).encode()
        if weights:
            content = io.BytesIO(members["model.weights.h5"])
            with h5py.File(content, "r+") as file:
                weights(run, file)
            members["model.weights.h5"] = content.getvalue()
        with zipfile.ZipFile(path, "w") as archive:
            for name in (*members, *again):
                archive.writestr(name, members[name])

    return spoil


def touching_layer(run):
    """A layer that would leave a marker behind, as it does here while it is made."""
    marker = run / "marker"
    code = keras.layers.Lambda(lambda x, m=str(marker): (open(m, "w").close(), x)[1])
    model = keras.Sequential([keras.Input((4,)), code])
    marker.unlink()
    return keras.saving.serialize_keras_object(model)


def with_layer(name):
    """Function that makes a setting a layer that leaves a marker."""

    def change(run, config):
        config["config"][name] = touching_layer(run)
        return config

    return change


def pickled(run):
    content = b"cposix\nsystem\n(S'touch " + str(run / "marker").encode() + b"'\ntR."
    (run / "vqvae.keras").write_bytes(content)


def data_sets(file):
    """Data sets of an HDF5 file, the largest last."""
    found = []
    file.visititems(lambda name, item: found.append(item) if hasattr(item, "nbytes") else None)
    return sorted(found, key=lambda item: item.nbytes)


def filled(value):
    return lambda run, file: data_sets(file)[-1].write_direct(
        np.full(data_sets(file)[-1].shape, value, "float32")
    )


def store_outside(run, file):
    """The largest data set names another file as its storage."""
    (run / "secret.bin").write_bytes(bytes(10**6))
    largest = data_sets(file)[-1]
    name, shape = largest.name, largest.shape
    storage = [(str(run / "secret.bin"), 0, largest.nbytes)]
    del file[name]
    file.create_dataset(name, shape, "float32", external=storage)


def packed(run, file):
    """40,000 x 40,000 zeros, of which the file holds some kilobytes."""
    name = data_sets(file)[-1].name
    del file[name]
    chunks = {"chunks": (4000, 4000), "compression": "gzip"}
    file.create_dataset(name, (40000, 40000), "float32", **chunks)


def claim_gigabytes(run):
    """The directory of the archive says that its first entry unpacks to nearly 4 GiB."""
    content = bytearray((run / "vqvae.keras").read_bytes())
    size = content.index(b"PK\1\2") + 24
    content[size : size + 4] = (2**32 - 16).to_bytes(4, "little")
    (run / "vqvae.keras").write_bytes(content)


def without_config(run):
    with zipfile.ZipFile(run / "vqvae.keras", "w") as archive:
        archive.writestr("readme", "nothing")


def other_prior(**changes):
    """Function that puts a prior for other codes into a run, with the right fingerprint."""

    def spoil(run):
        paths = RunDirectory(run)
        vqvae = checkpoints.load_model(paths.model("vqvae"))
        settings = {"grid": 4, "num_levels": 4, "vqvae": checkpoints.fingerprint(vqvae)}
        prior = make_prior(4)
        config = {**prior.get_config(), **settings, **changes}
        checkpoints.save_model(type(prior).from_config(config), paths.model("prior"))

    return spoil


def config_is(text):
    return lambda run: (run / "config.json").write_text(text)


def npz(path, member, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(member, content)


def header(shape, dtype="<i4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def counts_are(content, method=zipfile.ZIP_STORED):
    """Function that writes the counts of a run: an array, or the bytes of one."""

    def spoil(run):
        path = run / "code_counts.npz"
        if isinstance(content, bytes):
            npz(path, "counts.npy", content, method)
        else:
            np.savez(path, counts=content)

    return spoil


HELD, RANGE, COUNTS = "claim more weights than the file holds", "Received: ", "code_counts.npz"
SHAPE = (4, 4, 16)
ONES = np.ones(SHAPE, "int32")
REFUSED = {
    # Models that would run something.
    "lambda layer": (
        rewritten("vqvae", lambda run, config: touching_layer(run)), "it holds no VQVAE",
    ),
    "lambda as a setting": (rewritten("vqvae", with_layer("width")), "`width` must be"),
    "lambda as a policy": (rewritten("vqvae", with_layer("dtype")), "cannot be read"),
    "pickle": (pickled, "vqvae.keras cannot be read"),
    # Models that would take memory.
    "giant codebook": (rewritten("vqvae", codebook_size=2**30), RANGE),
    "countless blocks": (rewritten("vqvae", decoder_blocks=[10**9, 1]), RANGE),
    "large codebook": (rewritten("vqvae", codebook_size=2**16), HELD),
    "large width": (rewritten("vqvae", width=1024), HELD),
    "large grid of a prior": (rewritten("prior", grid=512), HELD),
    "many blocks of a prior": (rewritten("prior", blocks=64), HELD),
    "large width of a texture": (rewritten("texture", width=1024), HELD),
    "an array that unpacks": (rewritten("vqvae", weights=packed), "cannot be read"),
    "an archive that unpacks": (claim_gigabytes, "it unpacks to more than"),
    # Models that are no models.
    "weights outside the file": (rewritten("vqvae", weights=store_outside), "cannot be read"),
    "no config": (without_config, "vqvae.keras cannot be read"),
    "no numbers": (rewritten("vqvae", weights=filled(np.nan)), "its weights are not finite"),
    "huge numbers": (rewritten("prior", weights=filled(-3e38)), "its weights are not finite"),
    "more blocks": (rewritten("vqvae", decoder_blocks=[1, 1, 1]), "`decoder_blocks` must be"),
    "an unknown setting": (rewritten("prior", depth=3), "depth"),
    "a number for a text": (rewritten("prior", vqvae=3), "trained with another VQ-VAE"),
    "one entry twice": (rewritten("prior", again=["config.json"]), "two entries of one name"),
    "a prior of another grid": (other_prior(grid=8), "trained with another VQ-VAE"),
    "a prior of another codebook": (other_prior(codebook_size=32), "trained with another VQ-VAE"),
    # What else a run holds.
    "nested config": (config_is("[" * 10**5), "config.json"),
    "settings are null": (config_is('{"settings": null, "data": {}}'), "is of another version"),
    "data is a list": (config_is('{"settings": {}, "data": []}'), "is of another version"),
    "fingerprint is no text": (
        config_is('{"settings": {}, "data": {"name": "a", "fingerprint": 3}}'),
        "is of another version",
    ),
    "counts claim too much": (counts_are(header((10**6, 10**6))), COUNTS),
    "counts of a negative size": (counts_are(header((-4, 4, 16))), COUNTS),
    "counts of a bad header": (counts_are(b"\x93NUMPY\x01\x00\x10\x00(((((((((((((((("), COUNTS),
    "counts are no array": (counts_are(b"Dear Sir or Madam"), COUNTS),
    "counts end too early": (counts_are(header(SHAPE) + ONES.tobytes()[:-4]), COUNTS),
    "counts unpack": (counts_are(header((2**14, 2**12, 16)), zipfile.ZIP_DEFLATED), COUNTS),
    "counts are texts": (counts_are(np.full(SHAPE, "a")), COUNTS),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_spoilt_run_is_refused(kind, run, slices_folder):
    spoil, words = REFUSED[kind]
    spoil(run)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_line(predict(run, slices_folder), words)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert not (run / "marker").exists() and not (run / "predict").exists()


# ---- what train.py refuses ---------------------------------------------------------------------


class Trap:
    """Leaves a marker behind where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def pickled_state(run):
    traps = np.array([Trap(run / "marker")], dtype=object)
    np.savez(run / "resume" / "prior.npz", traps)


def file_for_folder(name):
    def spoil(run):
        shutil.rmtree(run / name)
        (run / name).write_text("keep me")

    return spoil


STATE = "resume/prior.npz cannot be read"
NOT_CONTINUED = {
    "a pickled state": (pickled_state, STATE),
    "a state that is no array": (
        lambda run: npz(run / "resume" / "prior.npz", "arr_0.npy", b"Dear Sir or Madam"), STATE,
    ),
    "a file for the logs": (file_for_folder("logs"), "logs is a file"),
    "a file for the states": (file_for_folder("resume"), "resume is a file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_CONTINUED)
def test_a_spoilt_run_is_not_continued(kind, run, slices_folder):
    spoil, words = NOT_CONTINUED[kind]
    (run / "resume").mkdir(exist_ok=True)
    spoil(run)
    one_line(train(slices_folder, run), words)
    assert not (run / "marker").exists()


def test_codes_of_a_stranger_are_chosen_again(run, slices_folder):
    paths = RunDirectory(run)
    before, settings = paths.codes.read_bytes(), read_config(paths)["settings"]
    npz(paths.codes, "train.npy", header((10**6, 10**6), "<u2"))
    data = TrainingData(open_slices(slices_folder), settings.image_size, settings.reduction)
    choose_codes(paths, data, paths.codes, settings.rate_weight)
    with np.load(paths.codes) as new, np.load(io.BytesIO(before)) as old:
        for name in ("train", "validate"):
            np.testing.assert_array_equal(new[name], old[name])


# ---- histories and names -----------------------------------------------------------------------

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


@pytest.mark.parametrize("name", ["$\\frac{$ \ud800 \x1b[31mred\x07 脳 Ω", "x" * 10**6])
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


# ---- odd moments -------------------------------------------------------------------------------


def test_figures_that_are_no_numbers_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.0]}
