"""Bad input: data folders, flags and run directories. One line says what is wrong and where."""

import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from conftest import contents, draw_slice, one_line, run_script, train, write_slices
from PIL import Image

from fitting import checkpoints

# ---- data folders ------------------------------------------------------------------------------


def victim(data):
    return data / "keras_png_slices_train" / "case_002_slice_1.nii.png"


def save(data, image, **options):
    image.save(victim(data), format="PNG", **options)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(data):
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    victim(data).write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def replace_by_link(data):
    victim(data).unlink()
    victim(data).symlink_to(data / "gone.png")


def replace_by_folder(data):
    victim(data).unlink()
    victim(data).mkdir()


def grey(seed=0):
    return Image.fromarray(draw_slice(seed, 0))


def change_bytes(path, change):
    path.write_bytes(change(path.read_bytes()))


def blank(content, start, length):
    return content[:start] + bytes(length) + content[start + length :]


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
        "case 002 is in train and test",
    ),
    "truncated": (
        lambda d: change_bytes(victim(d), lambda content: content[:-4000]),
        "cannot be read",
    ),
    "zero bytes": (lambda d: victim(d).write_bytes(b""), "cannot be read"),
    "text": (lambda d: victim(d).write_text("Dear Sir or Madam"), "cannot be read"),
    "jpeg": (lambda d: grey().save(victim(d), format="JPEG"), "cannot be read"),
    "damaged pixels": (
        lambda d: change_bytes(victim(d), lambda content: blank(content, 3000, 50)),
        "cannot be read",
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
    "broken link": (replace_by_link, "is not there"),
    "folder as file": (replace_by_folder, "is no regular file"),
    "damaged note of a cohort": (
        lambda d: (d / "cohort.json").write_text("{}"),
        "cohort.json cannot be read",
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
    one_line(train(data, tmp_path / "run"), "may not be read")


# ---- flags -------------------------------------------------------------------------------------


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
    one_line(train(slices_folder, tmp_path / "run", *flags, cwd=tmp_path), expected)
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


@pytest.mark.parametrize("script", ["train.py", "predict.py"])
def test_a_mistyped_flag_ends_a_process_with_status_2(script, tmp_path):
    done = run_script(script, "--seeed", 3, cwd=tmp_path, process=True)
    one_line(done, "--seeed")
    assert not list(tmp_path.iterdir())


# ---- run directories ---------------------------------------------------------------------------


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def another_vqvae(run):
    model = checkpoints.load_model(run / "vqvae.keras")
    model.quantizer.codebook.assign_add(np.ones(model.quantizer.codebook.shape))
    checkpoints.save_model(model, run / "vqvae.keras")


def pack_in_an_unknown_way(content):
    """Another number in the place of a ZIP file that says how an entry is packed."""
    place = content.rindex(b"PK\1\2") + 10
    return content[:place] + b"\x63" + content[place + 1 :]


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
        lambda r: change_bytes(r / "vqvae.keras", lambda content: content[:9999]),
        "vqvae.keras cannot be read",
    ),
    "empty model": (lambda r: (r / "prior.keras").write_bytes(b""), "prior.keras cannot be read"),
    "corrupted model": (
        lambda r: change_bytes(r / "vqvae.keras", lambda content: blank(content, 9000, 100)),
        "vqvae.keras cannot be read",
    ),
    "models exchanged": (
        lambda r: shutil.copy(r / "prior.keras", r / "vqvae.keras"),
        "vqvae.keras cannot be read (it holds no VQVAE)",
    ),
    "another vqvae": (another_vqvae, "was trained with another VQ-VAE"),
    "damaged history": (
        lambda r: (r / "prior_history.csv").write_text("epoch,loss\n1,much\n"),
        "prior_history.csv is damaged",
    ),
    "no history": (lambda r: (r / "vqvae_history.csv").unlink(), "lacks vqvae_history.csv"),
    "model packed in an unknown way": (
        lambda r: change_bytes(r / "vqvae.keras", pack_in_an_unknown_way),
        "vqvae.keras cannot be read",
    ),
    "damaged counts": (
        lambda r: (r / "code_counts.npz").write_bytes(b"PK"),
        "code_counts.npz cannot be read",
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_bad_run(kind, run_copy, slices_folder):
    spoil, expected = RUNS[kind]
    (run_copy / "predict").mkdir(exist_ok=True)
    (run_copy / "predict" / "metrics.json").write_text("earlier results")
    spoil(run_copy)
    before = contents(run_copy)
    done = run_script("predict.py", "--run", run_copy, "--data", slices_folder, "--samples", 1)
    one_line(done, expected)
    assert contents(run_copy) == before


def test_no_folder_that_a_run_names_is_followed(run_copy, slices_folder, tmp_path):
    config = run_copy / "config.json"
    rewrite(config, lambda c: c["data"].update(directory=str(slices_folder)))
    done = run_script("predict.py", "--run", run_copy, "--complete", cwd=tmp_path)
    one_line(done, "no slices found", "--data DIR")
    for cohort in ({"subjects": 10**9, "seed": 0}, "sixty people"):
        rewrite(config, lambda c, cohort=cohort: c["data"].update(cohort=cohort))
        done = run_script("predict.py", "--run", run_copy, cwd=tmp_path)
        one_line(done, "asks for a cohort of", "--data DIR")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
