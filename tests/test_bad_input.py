"""Bad input: data folders, flags and run directories. One line says what is wrong and where."""

import dataclasses
import json
import os
import pathlib
import shutil
import struct
import zlib

import numpy as np
import pytest
from conftest import STAGES, TINY, contents, draw_slice, one_line, run_script, write_slices
from PIL import Image

from fitting import checkpoints


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


TRAIN = ("train.py", "--data", "{data}", "--run", "{new}", *TINY, *STAGES)
PREDICT = ("predict.py", "--run", "{run}", "--data", "{data}", "--samples", "1")


# ---- what is spoilt ----------------------------------------------------------------------------


def grey(seed=0):
    return Image.fromarray(draw_slice(seed, 0))


def slice_is(image, kind="PNG", **options):
    return lambda place: image().save(place.victim, format=kind, **options)


def change(name, edit):
    """Change the bytes of a file of the run, or of the one slice where the name is empty."""

    def spoil(place):
        path = place.run / name if name else place.victim
        path.write_bytes(edit(path.read_bytes()))

    return spoil


def remove(name):
    return lambda place: (place.run / name).unlink()


def change_json(name, edit):
    def spoil(place):
        value = json.loads((place.run / name).read_text())
        edit(value)
        (place.run / name).write_text(json.dumps(value))

    return spoil


def blank(start, length):
    return lambda content: content[:start] + bytes(length) + content[start + length :]


def bomb(_):
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def pack_in_an_unknown_way(content):
    """Another number in the place of a ZIP file that says how an entry is packed."""
    place = content.rindex(b"PK\1\2") + 10
    return content[:place] + b"\x63" + content[place + 1 :]


def empty_split(place):
    for path in (place.data / "keras_png_slices_test").iterdir():
        path.unlink()


def replace_by_link(place):
    place.victim.unlink()
    place.victim.symlink_to(place.data / "gone.png")


def replace_by_folder(place):
    place.victim.unlink()
    place.victim.mkdir()


def another_vqvae(place):
    model = checkpoints.load_model(place.run / "vqvae.keras")
    model.quantizer.codebook.assign_add(np.ones(model.quantizer.codebook.shape))
    checkpoints.save_model(model, place.run / "vqvae.keras")


def nothing(_):
    pass


def copy_leaks(place):
    shutil.copy(place.victim, place.data / "keras_png_slices_test")


def exchange_models(place):
    shutil.copy(place.run / "prior.keras", place.run / "vqvae.keras")


# ---- the cases ---------------------------------------------------------------------------------


BAD_DATA = [  # name, what is spoilt, words in the line
    ("no split", lambda p: shutil.rmtree(p.data / "keras_png_slices_validate"),
     "keras_png_slices_validate is missing"),
    ("empty split", empty_split, "keras_png_slices_test holds no"),
    ("leaked case", copy_leaks, "case 002 is in both train and test"),
    ("truncated", change("", lambda content: content[:-4000]), "is no readable PNG"),
    ("zero bytes", change("", lambda _: b""), "is no readable PNG"),
    ("text", change("", lambda _: b"Dear Sir or Madam"), "is no readable PNG"),
    ("jpeg", slice_is(grey, "JPEG"), "is no readable PNG"),
    ("damaged pixels", change("", blank(3000, 50)), "is no readable PNG"),
    ("16 bit", slice_is(lambda: Image.fromarray(np.full((256, 256), 999, "uint16"))),
     "256 x 256 I;16, not"),
    ("colour", slice_is(lambda: grey().convert("RGB")), "256 x 256 RGB, not"),
    ("alpha", slice_is(lambda: grey().convert("LA")), "256 x 256 LA, not"),
    ("transparent grey", slice_is(grey, transparency=7), "256 x 256 L, transparent, not"),
    ("palette", slice_is(lambda: grey().convert("P")), "256 x 256 P, not"),
    ("animated", slice_is(grey, save_all=True, append_images=[grey(3)]), "animated, not"),
    ("wrong size", slice_is(lambda: grey().resize((128, 128))), "128 x 128 L, not"),
    ("all black", slice_is(lambda: Image.new("L", (256, 256))), "is all black"),
    ("decompression bomb", change("", bomb), "60000"),
    ("broken link", replace_by_link, "is no readable PNG"),
    ("folder as file", replace_by_folder, "is no regular file"),
    ("damaged note of a cohort", lambda p: (p.data / "cohort.json").write_text("{}"),
     "cohort.json is no readable JSON, or lacks something"),
    ("odd name", lambda p: p.victim.rename(p.victim.with_name("brain 2.png")),
     "brain 2.png has no case and slice number"),
]  # fmt: skip
BAD_RUNS = [
    ("no config", remove("config.json"), "config.json is not there"),
    ("damaged config", change("config.json", lambda _: b'{"settings": {'),
     "config.json is no readable JSON"),
    ("config of another version", change_json("config.json", lambda c: c.pop("settings")),
     "config.json is of another version"),
    ("first stage only", remove("prior.keras"), "prior.keras is not there"),
    ("truncated model", change("vqvae.keras", lambda content: content[:9999]),
     "vqvae.keras cannot be loaded"),
    ("empty model", change("prior.keras", lambda _: b""), "prior.keras cannot be loaded"),
    ("corrupted model", change("vqvae.keras", blank(9000, 100)), "vqvae.keras cannot be loaded"),
    ("models exchanged", exchange_models, "vqvae.keras cannot be loaded (it holds no VQVAE)"),
    ("model packed in an unknown way", change("vqvae.keras", pack_in_an_unknown_way),
     "vqvae.keras cannot be loaded"),
    ("another vqvae", another_vqvae, "on the codes of another VQ-VAE"),
    ("damaged history", change("prior_history.csv", lambda _: b"epoch,loss\n1,much\n"),
     "prior_history.csv is damaged"),
    ("damaged counts", change("code_counts.npz", lambda _: b"PK"),
     "code_counts.npz cannot be read"),
    ("cohort of millions",
     change_json("config.json", lambda c: c["data"].update(cohort={"subjects": 10**9, "seed": 0})),
     "asks for a cohort of", "--data DIR"),
    ("cohort in words",
     change_json("config.json", lambda c: c["data"].update(cohort="sixty people")),
     "asks for a cohort of", "--data DIR"),
]  # fmt: skip
WITHOUT_DATA = (*PREDICT[:3], *PREDICT[5:])
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
# Name, what is spoilt, script and flags, words in the line.
CASES = [
    *((name, spoil, TRAIN, (*words, "{data}")) for name, spoil, *words in BAD_DATA),
    *(
        (name, spoil, WITHOUT_DATA if "cohort" in name else PREDICT, words)
        for name, spoil, *words in BAD_RUNS
    ),
    *(
        (f"{flag} {value}", nothing, (script, flag, value), (f"argument {flag}", value))
        for script, flags in (("train.py", FLAGS_OF_TRAIN), ("predict.py", FLAGS_OF_PREDICT))
        for flag, values in flags.items()
        for value in values
    ),
    ("no folder of data", nothing, (*TRAIN, "--data", "nowhere"), ["nowhere is no folder"]),
    ("large batch", nothing, (*TRAIN, "--batch-size", "1000"), ["must be at most the 12"]),
    ("run in a file", nothing, (*TRAIN, "--run", "{data}/file/run"), ["Not a directory"]),
    ("folder that a run names",
     lambda p: change_json("config.json", lambda c: c["data"].update(directory=str(p.data)))(p),
     (*WITHOUT_DATA, "--complete"), ["no slices found", "--data DIR"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "spoil, command, words", [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_bad_input(spoil, command, words, trained_run, tmp_path):
    place = Place(write_slices(tmp_path / "data"), tmp_path / "run", tmp_path / "new")
    (place.data / "file").write_text("no folder")
    shutil.copytree(trained_run, place.run)
    (place.run / "predict").mkdir(exist_ok=True)
    (place.run / "predict" / "metrics.json").write_text("earlier results")
    spoil(place)
    before = contents(tmp_path)
    command, words = (
        [text.replace("{", "{0.").format(place) if "{" in text else text for text in texts]
        for texts in (command, words)
    )
    one_line(run_script(*command, cwd=tmp_path), *words)
    assert contents(tmp_path) == before and not place.new.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    place = Place(write_slices(tmp_path / "data"), tmp_path / "run", tmp_path / "new")
    place.victim.chmod(0)
    command = [text.replace("{", "{0.").format(place) for text in TRAIN]
    one_line(run_script(*command), "is no readable PNG", "Permission denied")


@pytest.mark.parametrize("script", ["train.py", "predict.py"])
def test_a_mistyped_flag_ends_a_process_with_status_2(script, tmp_path):
    done = run_script(script, "--seeed", 3, cwd=tmp_path, process=True)
    one_line(done, "--seeed")
    assert not list(tmp_path.iterdir())
