"""Bad input: slices, data folders, runs, states and flags, torn by chance or made by a stranger.

Each row of a table says what is spoilt and which words the one line of the answer holds. Nothing a
file holds is run, takes much memory, or costs the user a file.
"""

import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import struct
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
from PIL import Image
from shared import (
    STAGES,
    TINY,
    contents,
    draw_slice,
    make_prior,
    one_line,
    run_script,
    write_slices,
)  # fmt: skip

from fitting import checkpoints
from fitting.run_directory import RunDirectory, read_config, read_history
from fitting.training_data import TrainingData, write_codes
from sources.folder import open_slices
from sources.images import read_slice
from utils import InputError, write_json


@dataclasses.dataclass(frozen=True)
class Place:
    """What a case may spoil.

    Attributes:
        data: A data folder.
        run: A finished run, with earlier results.
        new: Name of a run that is not there.
    """

    data: pathlib.Path
    run: pathlib.Path
    new: pathlib.Path

    @property
    def victim(self):
        """One slice of training."""
        return self.data / "keras_png_slices_train" / "case_002_slice_1.nii.png"


@pytest.fixture
def run(run_copy):
    return run_copy


def predict(run, slices_folder, *flags, **options):
    flags = ("--run", run, "--data", slices_folder, "--samples", 1, "--brains", 0, *flags)
    return run_script("predict.py", *flags, **options)


# ---- slices: content of a file, words of the line ---------------------------------------------


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(packed, width=256, height=256, bits=8, interlaced=0, more=b""):
    """A grey PNG with these packed pixels, and with right checksums."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced)
    parts = chunk(b"IHDR", header) + more + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


IMAGE = draw_slice(2, 1)
IMAGE[-1] = 9  # so that a row that is missing is seen
ROWS = b"".join(b"\0" + row.tobytes() for row in IMAGE)  # each begins with its filter
WHOLE = png(zlib.compress(ROWS))


def interlaced():
    """Seven passes, each a smaller image."""
    passes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4)]
    passes += [(0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    return b"".join(
        b"\0" + row.tobytes()
        for left, across, top, down in passes
        for row in IMAGE[top::down, left::across]
    )


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


GREY = Image.fromarray(IMAGE)
PIXELS_APART = WHOLE[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"") + WHOLE[-12:]
SLICES = {
    "its end is cut off": (WHOLE[:-8], "cannot be read"),
    "without an end": (WHOLE[:-12], "cannot be read"),
    "a wrong checksum of the header": (WHOLE[:30] + b"?" + WHOLE[31:], "cannot be read"),
    "a wrong checksum of the pixels": (WHOLE[:-13] + b"?" + WHOLE[-12:], "cannot be read"),
    "too few pixels": (png(zlib.compress(ROWS[:-9])), "cannot be read"),
    "a row too few": (png(zlib.compress(ROWS[:-257])), "it lacks pixels"),
    "one row": (png(zlib.compress(ROWS[:257])), "it lacks pixels"),
    "a row too few, interlaced": (
        png(zlib.compress(interlaced()[:-257]), interlaced=1), "it lacks pixels"),
    "a wrong sum of pixels": (png(zlib.compress(ROWS)[:-4] + b"abcd"), "cannot be read"),
    "no pixels": (WHOLE[:33] + chunk(b"IEND", b""), "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "text": (b"Dear Sir or Madam", "cannot be read"),
    "a JPEG": (b"\xff\xd8\xff\xe0 JFIF", "cannot be read"),
    "a large header": (png(zlib.compress(b""), 12000, 12000), "is 12000 x 12000 L, not 256 x"),
    "4 bits": (png(zlib.compress(bytes(256 * 129)), bits=4), "256 x 256 L, 4 bits, not 256 x"),
    "16 bits": (saved(Image.fromarray(IMAGE.astype("uint16"))), "is 256 x 256 I;16, not"),
    "colour": (saved(GREY.convert("RGB")), "is 256 x 256 RGB, not 256 x 256 L"),
    "transparent": (saved(GREY, transparency=7), "256 x 256 L, transparent, not"),
    "animated": (saved(GREY, save_all=True, append_images=[GREY.rotate(90)]), "animated, not"),
    "another size": (saved(GREY.resize((256, 128))), "is 256 x 128 L, not"),
    "a palette": (saved(GREY.convert("P")), "256 x 256 P, not"),
    "colour with transparency": (saved(GREY.convert("LA")), "256 x 256 LA, not"),
    "too long": (WHOLE + bytes(2**24), "it has"),
}  # fmt: skip


# ---- data folders: what is spoilt, words of the line ---------------------------------------------


def empty_split(place):
    for path in (place.data / "keras_png_slices_validate").iterdir():
        path.unlink()


def blacken_split(place):
    for path in place.victim.parent.iterdir():
        path.write_bytes(png(zlib.compress(bytes(len(ROWS)))))


def replace_by_link(place):
    place.victim.unlink()
    place.victim.symlink_to(place.data / "gone.png")


def replace_by_folder(place):
    place.victim.unlink()
    place.victim.mkdir()


def copy_leaks(place):
    shutil.copy(place.victim, place.data / "keras_png_slices_test")


def replace_by_pipe(place):
    place.victim.unlink()
    os.mkfifo(place.victim)


def note(name, text):
    return lambda place: (place.data / name).write_text(text)


def write_colliding(place):
    (place.victim.parent / "case_0002_slice_01.nii.png").write_bytes(WHOLE)


REMEDY = "remove the folder and make it again"
DATA = {
    "no split": (lambda p: shutil.rmtree(p.data / "keras_png_slices_validate"),
                 "keras_png_slices_validate is missing"),
    "empty split": (empty_split, "keras_png_slices_validate holds no"),
    "black split": (blacken_split, "keras_png_slices_train is black throughout"),
    "leaked case": (copy_leaks, "case 002 is in train and test"),
    "broken link": (replace_by_link, "case_002_slice_1.nii.png is not there"),
    "folder as file": (replace_by_folder, "is no regular file"),
    "a pipe": (replace_by_pipe, "case_002_slice_1.nii.png is no regular file"),
    "odd name": (lambda p: p.victim.rename(p.victim.with_name("brain 2.png")),
                 "brain 2.png has no case and slice number"),
    "other digits": (lambda p: p.victim.rename(p.victim.with_name("case_٠٠١_slice_0.nii.png")),
                     "has no case and slice number"),
    "two files of one place": (write_colliding, "are the same case and level: remove one"),
    "damaged note of a cohort": (note("cohort.json", "{}"), "cohort.json cannot be read"),
    "a cohort without numbers": (note("cohort.json", json.dumps({"subjects": "all", "seed": 0})),
                                 REMEDY),
    "deep notes": (note("conversion.json", "[" * 10**5), REMEDY),
    "facts that cannot be": (note("dataset.json", json.dumps({"side": 100})), REMEDY),
    "cases are a list": (note("conversion.json", json.dumps({"cases": [1, 2]})), REMEDY),
    "settings are null": (note("conversion.json", json.dumps({"cases": {}, "settings": None})),
                          REMEDY),
    "a case is a number": (note("conversion.json", json.dumps({"cases": {"001": 5}})), REMEDY),
}  # fmt: skip


# ---- runs: how a run is spoilt, words of the line ----------------------------------------------


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


def popen(run, config):
    names = {"module": "subprocess", "class_name": "Popen", "registered_name": "Popen"}
    return {**names, "config": {"args": ["touch", str(run / "marker")]}}


def with_layer(*path):
    """Function that puts a layer that leaves a marker into a place of a config."""

    def change(run, config):
        part = config
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = touching_layer(run)
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
        prior = make_prior(4, blocks=1)
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


def change(name, edit):
    """Function that changes the bytes of a file of a run."""
    return lambda run: (run / name).write_bytes(edit((run / name).read_bytes()))


def change_data(**values):
    """Function that changes what the `config.json` of a run says about its data."""

    def spoil(run):
        config = json.loads((run / "config.json").read_text())
        config["data"] |= values
        (run / "config.json").write_text(json.dumps(config))

    return spoil


def remove(name):
    return lambda run: (run / name).unlink()


def blank(start, length):
    return lambda content: content[:start] + bytes(length) + content[start + length :]


def pack_in_an_unknown_way(content):
    """Another number in the place of a ZIP file that says how an entry is packed."""
    place = content.rindex(b"PK\1\2") + 10
    return content[:place] + b"\x63" + content[place + 1 :]


def another_vqvae(run):
    model = checkpoints.load_model(run / "vqvae.keras")
    model.quantizer.codebook.assign_add(np.ones(model.quantizer.codebook.shape))
    checkpoints.save_model(model, run / "vqvae.keras")


HELD, RANGE, COUNTS = "claim more weights than the file holds", "Received: ", "code_counts.npz"
SHAPE = (4, 4, 16)
ONES = np.ones(SHAPE, "int32")
RUNS = {
    # Models that would run something.
    "lambda layer": (
        rewritten("vqvae", lambda run, config: touching_layer(run)), "it holds no VQVAE",
    ),
    "lambda as a setting": (rewritten("vqvae", with_layer("config", "width")), "`width` must be"),
    "lambda as a policy": (rewritten("vqvae", with_layer("config", "dtype")), "cannot be read"),
    "lambda beside the settings": (
        rewritten("vqvae", with_layer("config", "loss")), "cannot be read",
    ),
    "class of another module": (rewritten("vqvae", popen), "it holds no VQVAE"),
    "pickle": (pickled, "vqvae.keras cannot be read"),
    # Models that would take memory.
    "giant codebook": (rewritten("vqvae", codebook_size=2**30), RANGE),
    "giant width": (rewritten("vqvae", width=2**20), RANGE),
    "giant image": (rewritten("vqvae", image_size=2**20), RANGE),
    "countless blocks": (rewritten("vqvae", decoder_blocks=[10**9, 1]), RANGE),
    "giant levels of a prior": (rewritten("prior", num_levels=2**30), RANGE),
    "giant width of a prior": (rewritten("prior", width=2**20), RANGE),
    "countless blocks of a prior": (rewritten("prior", blocks=250), RANGE),
    "giant codebook of a prior": (rewritten("prior", codebook_size=2**30), RANGE),
    "large codebook": (rewritten("vqvae", codebook_size=2**16), HELD),
    "large width": (rewritten("vqvae", width=1024), HELD),
    "large levels of a prior": (rewritten("prior", num_levels=10**4), HELD),
    "large grid of a prior": (rewritten("prior", grid=512), HELD),
    "large width of a prior": (rewritten("prior", width=1024), HELD),
    "many blocks of a prior": (rewritten("prior", blocks=64), HELD),
    "large codebook of a prior": (rewritten("prior", codebook_size=2**16), HELD),
    "large width of a texture": (rewritten("texture", width=1024), HELD),
    "an array that unpacks": (rewritten("vqvae", weights=packed), "cannot be read"),
    "an archive that unpacks": (claim_gigabytes, "it unpacks to more than"),
    # Models that are no models.
    "weights outside the file": (rewritten("vqvae", weights=store_outside), "cannot be read"),
    "no config": (without_config, "vqvae.keras cannot be read"),
    "a long config": (
        rewritten("vqvae", lambda run, config: {"padding": "x" * 2**17}), "cannot be read",
    ),
    "no numbers": (rewritten("vqvae", weights=filled(np.nan)), "its weights are not finite"),
    "huge numbers": (rewritten("prior", weights=filled(-3e38)), "its weights are not finite"),
    "a negative width": (rewritten("vqvae", width=-8), "`width` must be"),
    "no blocks": (rewritten("vqvae", encoder_blocks=[]), "`encoder_blocks` must be"),
    "more blocks": (rewritten("vqvae", decoder_blocks=[1, 1, 1]), "`decoder_blocks` must be"),
    "a text": (rewritten("prior", rate_weight="much"), "`rate_weight` must be"),
    "a truth value": (rewritten("prior", blocks=True), "`blocks` must be"),
    "an unknown setting": (rewritten("prior", depth=3), "depth"),
    "a prior of version 1": (rewritten("prior", reads_below=True), "version 1 in CHANGELOG.md"),
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
    "counts are not finite": (counts_are(np.full(SHAPE, np.nan)), COUNTS),
    "counts of nothing": (counts_are(0 * ONES), COUNTS),
    "counts of another shape": (counts_are(ONES[:2]), COUNTS),
    "counts of another name": (lambda run: np.savez(run / COUNTS, other=ONES), COUNTS),
    # What chance does to a run.
    "no config.json": (remove("config.json"), "config.json is not there"),
    "damaged config": (change("config.json", lambda _: b'{"settings": {'), "cannot be read"),
    "first stage only": (remove("prior.keras"), "prior.keras is not there"),
    "truncated model": (
        change("vqvae.keras", lambda content: content[:9999]), "vqvae.keras cannot be read",
    ),
    "empty model": (change("prior.keras", lambda _: b""), "prior.keras cannot be read"),
    "corrupted model": (change("vqvae.keras", blank(9000, 100)), "vqvae.keras cannot be read"),
    "models exchanged": (
        lambda run: shutil.copy(run / "prior.keras", run / "vqvae.keras"), "it holds no VQVAE",
    ),
    "packed in an unknown way": (
        change("vqvae.keras", pack_in_an_unknown_way), "vqvae.keras cannot be read",
    ),
    "another vqvae": (another_vqvae, "was trained with another VQ-VAE"),
    "damaged history": (
        change("prior_history.csv", lambda _: b"epoch,loss\n1,much\n"),
        "prior_history.csv cannot be read",
    ),
    "damaged counts": (change("code_counts.npz", lambda _: b"PK"), "code_counts.npz"),
}  # fmt: skip
COHORTS = {
    "a cohort of millions": change_data(facts={"cohort": {"subjects": 10**9, "seed": 0}}),
    "a cohort in words": change_data(facts={"cohort": "sixty people"}),
}


# ---- states of a training: how they are spoilt, words of the line -------------------------------


class Trap:
    """Leaves a marker behind where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def pickled_state(run):
    traps = np.array([Trap(run / "marker")], dtype=object)
    np.savez(run / "resume" / "vqvae.npz", traps)


def file_for_folder(name):
    def spoil(run):
        shutil.rmtree(run / name)
        (run / name).write_text("keep me")

    return spoil


STATE = "resume/vqvae.npz cannot be read"
STATES = {
    "a pickled state": (pickled_state, STATE),
    "a state that is no array": (
        lambda run: npz(run / "resume" / "vqvae.npz", "arr_0.npy", b"Dear Sir or Madam"), STATE,
    ),
    "a file for the logs": (file_for_folder("logs"), "logs is a file"),
    "a file for the states": (file_for_folder("resume"), "resume is a file"),
}  # fmt: skip


# ---- flags ---------------------------------------------------------------------------------------

FLAGS_OF_TRAIN = {
    "--epochs": ["0", "-3"],
    "--batch-size": ["many"],
    "--codebook-size": ["1", "100000"],
    "--learning-rate": ["nan", "0"],
    "--subjects": ["2"],
    "--seed": ["-1"],
    "--precision": ["int8"],
    "--image-size": ["1e3", "100"],
    "--width": ["33"],
    "--prior-dropout": ["1"],
}
FLAGS_OF_PREDICT = {"--temperature": ["inf"], "--samples": ["-1"], "--split": ["all"]}


# ---- all of them -------------------------------------------------------------------------------

TRAIN = ("train.py", "--data", "{data}", "--run", "{new}", *TINY, *STAGES)
CONTINUE = ("train.py", "--data", "{data}", "--run", "{run}", *TINY, *STAGES)
PREDICT = ("predict.py", "--run", "{run}", "--data", "{data}", "--samples", "1", "--brains", "0")
WITHOUT_DATA = ("predict.py", "--run", "{run}", "--samples", "1")


def slice_is(content):
    return lambda place: place.victim.write_bytes(content)


def of_run(spoil):
    return lambda place: spoil(place.run)


def nothing(_):
    pass


# Name, what is spoilt, script and flags, words in the line.
CASES = [
    *((f"slice: {n}", slice_is(c), TRAIN, (words, "{victim}")) for n, (c, words) in SLICES.items()),
    *((f"data: {n}", spoil, TRAIN, (words, "{data}")) for n, (spoil, words) in DATA.items()),
    *((f"run: {n}", of_run(spoil), PREDICT, (words,)) for n, (spoil, words) in RUNS.items()),
    *(
        (f"run: {n}", of_run(spoil), WITHOUT_DATA, ("config.json cannot be read", "its cohort"))
        for n, spoil in COHORTS.items()
    ),
    *((f"state: {n}", of_run(spoil), CONTINUE, (words,)) for n, (spoil, words) in STATES.items()),
    *(
        (f"{flag} {value}", nothing, (script, flag, value), (f"argument {flag}", value))
        for script, flags in (("train.py", FLAGS_OF_TRAIN), ("predict.py", FLAGS_OF_PREDICT))
        for flag, values in flags.items()
        for value in values
    ),
    ("no folder of data", nothing, (*TRAIN, "--data", "nowhere"), ("nowhere is no folder",)),
    ("large batch", nothing, (*TRAIN, "--batch-size", "1000"), ("must be at most the 12",)),
    ("run in a file", nothing, (*TRAIN, "--run", "{data}/file/run"), ("Not a directory",)),
    (
        "folder that a run names",
        lambda p: change_data(directory=str(p.data))(p.run),
        (*WITHOUT_DATA, "--complete"),
        ("no slices found", "--data DIR"),
    ),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "spoil, command, words", [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_bad_input(spoil, command, words, slices_folder, trained_run, tmp_path):
    data, run = slices_folder, tmp_path / "run"
    if command[0] == "train.py" and "{data}" in command:  # predict.py only reads the slices
        data = write_slices(tmp_path / "data")
        (data / "file").write_text("no folder")
    if "{run}" in command:
        shutil.copytree(trained_run, run)
        for name in ("predict", "resume"):
            (run / name).mkdir(exist_ok=True)
        (run / "predict" / "metrics.json").write_text("earlier results")
    place = Place(data, run, tmp_path / "new")
    spoil(place)
    before, memory = contents(tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command, words = (
        [text.replace("{", "{0.").format(place) if "{" in text else text for text in texts]
        for texts in (command, words)
    )
    one_line(run_script(*command, cwd=tmp_path), *words)
    after = contents(tmp_path)
    after.pop(pathlib.Path("run/.lock"), None)
    before.pop(pathlib.Path("run/.lock"), None)
    assert after == before and not place.new.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kilobytes


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    place = Place(write_slices(tmp_path / "data"), tmp_path / "run", tmp_path / "new")
    place.victim.chmod(0)
    command = [text.replace("{", "{0.").format(place) for text in TRAIN]
    one_line(run_script(*command), "may not be read")


@pytest.mark.parametrize("script", ["train.py", "predict.py"])
def test_a_mistyped_flag_ends_a_process_with_status_2(script, tmp_path):
    done = run_script(script, "--seeed", 3, cwd=tmp_path, process=True)
    one_line(done, "--seeed")
    assert not list(tmp_path.iterdir())


# ---- what is read all the same ----------------------------------------------------------------

# None of these loses a pixel.
ACCEPTED = {
    "as it should be": WHOLE,
    "interlaced": png(zlib.compress(interlaced()), interlaced=1),
    "an unknown part": WHOLE[:33] + chunk(b"ABCD", b"x") + WHOLE[33:],
    "a second header": WHOLE[:33] + WHOLE[8:],
    "pixels apart": PIXELS_APART,
    "more pixels than it should have": png(zlib.compress(ROWS + b"0" * 999)),
    "garbage behind its end": WHOLE + b"garbage",
}


def test_whole_pixels_are_read_as_they_are(tmp_path):
    path = tmp_path / "case_002_slice_1.nii.png"
    for kind, content in ACCEPTED.items():
        path.write_bytes(content)
        np.testing.assert_array_equal(read_slice(path)[0], IMAGE, err_msg=kind)


def test_damage_with_wrong_checksums_never_changes_a_pixel(tmp_path):
    path, rng, accepted = tmp_path / "case_002_slice_1.nii.png", np.random.default_rng(0), 0
    for number in range(300):
        content, place = bytearray(WHOLE), int(rng.integers(8, len(WHOLE)))
        if number % 3 == 0:
            del content[place:]
        elif number % 3 == 1:
            del content[place : place + int(rng.integers(1, 9))]
        else:
            content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            pixels, _ = read_slice(path)
        except InputError:
            continue
        accepted += 1
        np.testing.assert_array_equal(pixels, IMAGE)
    assert accepted < 30


def test_codes_of_a_stranger_are_chosen_again(run, slices_folder):
    paths = RunDirectory(run)
    before, settings = paths.codes.read_bytes(), read_config(paths)["settings"]
    npz(paths.codes, "train.npy", header((10**6, 10**6), "<u2"))
    data = TrainingData(open_slices(slices_folder), settings.image_size, settings.reduction)
    write_codes(paths, data, paths.codes, settings.rate_weight)
    with np.load(paths.codes) as new, np.load(io.BytesIO(before)) as old:
        for name in ("train", "validate"):
            np.testing.assert_array_equal(new[name], old[name])


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


def test_a_strange_name_of_the_data(run, slices_folder):
    """It is shown, cut and without control characters, and no caption takes it for a formula."""
    name = "$\\frac{$ \ud800 \x1b[31mred\x07 脳 Ω" + "x" * 10**6
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


def test_names_from_files_are_short_and_printable(tmp_path):
    data = write_slices(tmp_path / "data")
    subject = "\x1b[31mred\ud800" + "x" * 10**6
    notes = {"cases": {"001": {"subject": subject}}, "settings": {}}
    (data / "conversion.json").write_text(json.dumps(notes))
    name = open_slices(data).splits["train"].subjects[0]
    assert name.startswith("?[31mred?x") and len(name) == 80


# ---- links -------------------------------------------------------------------------------------


def test_a_link_with_a_guessed_name_leads_nowhere(run, slices_folder, tmp_path):
    """The run itself may be a link."""
    link, letter = tmp_path / "link", tmp_path / "letter.txt"
    link.symlink_to(run)
    letter.write_text("keep me")
    (run / "predict").mkdir()
    for name in (".metrics.partial.json", "metrics.json"):
        (run / "predict" / name).symlink_to(letter)
    assert predict(link, slices_folder).returncode == 0
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


def test_figures_that_are_no_numbers_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.0]}
