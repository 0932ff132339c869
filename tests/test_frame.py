"""The frame: computing only where slices hold something changes nothing else."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from shared import (
    CODES,
    SHALLOW,
    TINY,
    draw_slice,
    make_prior,
    one_line,
    predict,
    run_script,
    write_slices,
)

import dataset
import modules
from fitting import checkpoints
from fitting.run_directory import RunDirectory
from networks import losses
from networks.frames import cut, fill, margins, per_pixel
from sources.facts import OASIS
from sources.folder import open_slices
from sources.layout import split_folder
from sources.masking import frame_of, is_masked, is_unmasked, remove_residue

FRAME = (8, 16, 56, 48)  # of slices of 64 x 64: 48 x 32 pixels, 6 x 4 codes
SIZE = 64


def make_vqvae(**options):
    sizes = {"codebook_size": CODES, "code_dim": 4, "width": 8, **SHALLOW}
    return modules.VQVAE(SIZE, **sizes, **options)


def images(count=3, frame=FRAME):
    values = np.random.default_rng(0).random((count, SIZE, SIZE, 1)).astype("float32")
    return fill(cut(values, frame), frame, SIZE).numpy()


# ---- networks ----------------------------------------------------------------------------------


def test_whole_slices_go_in_and_come_out():
    model = make_vqvae(frame=FRAME)
    codes = model.encode(images())
    assert codes.shape == (3, 6, 4) and model.grid == (6, 4)
    assert model.distances(images()).shape == (3, 6, 4, CODES)
    restored = model.decode(codes).numpy()
    assert restored.shape == (3, SIZE, SIZE, 1)
    inside = cut(restored, FRAME)
    np.testing.assert_array_equal(restored, fill(inside, FRAME, SIZE))  # else exactly 0
    np.testing.assert_allclose(inside, np.clip(model(cut(images(), FRAME)), 0, 1), atol=1e-6)


def test_what_lies_outside_the_frame_is_not_seen_and_a_frame_reloads(tmp_path):
    model, whole = make_vqvae(frame=FRAME, masked=True), images(frame=(0, 0, SIZE, SIZE))
    np.testing.assert_array_equal(model.encode(whole), model.encode(images()))
    checkpoints.save_model(model, tmp_path / "vqvae.keras")
    again = checkpoints.load_model(tmp_path / "vqvae.keras")
    assert again.frame == FRAME and again.settings["masked"] is True
    np.testing.assert_array_equal(model.encode(images()), again.encode(images()))


@pytest.mark.parametrize("frame", [(0, 0, 60, 64), (8, 8, 8, 16), (0, 0, 72, 64), (-8, 0, 64, 64)])
def test_a_frame_that_is_no_part_of_the_slice(frame):
    with pytest.raises(ValueError, match="`frame` must be .* Received: frame="):
        make_vqvae(frame=frame)


# ---- measures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [FRAME, (0, 0, 64, 64), (0, 8, 56, 64)])
def test_figures_of_frames_are_those_of_whole_slices(frame):
    original = images(frame=frame)
    inside = cut(original, frame)
    rng = np.random.default_rng(1)
    noisy = (inside + rng.normal(0, 0.1, inside.shape)).astype("float32")
    whole = fill(noisy, frame, SIZE)
    np.testing.assert_allclose(
        losses.frame_ssim(inside, noisy, frame, SIZE), losses.ssim(original, whole), atol=1e-5
    )
    # The loss scores a window around each pixel of the frame, as far as the slice has one.
    sides = margins(frame, SIZE, losses.SSIM_BORDER)
    loss = losses.ReconstructionLoss(1.0, 0.0, sides).call(inside, noisy)
    pixels = losses.ReconstructionLoss(0.0, 0.0).call(inside, noisy)
    maps = losses.ssim_map(original, whole).numpy()
    top, left, bottom, right = frame
    rows = slice(max(top - 5, 0), min(bottom - 5, SIZE - 10))
    columns = slice(max(left - 5, 0), min(right - 5, SIZE - 10))
    expected = 1 - maps[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(loss - pixels, expected, atol=1e-5)


def test_cut_and_fill_are_inverses():
    values = np.arange(2 * 48 * 32).reshape(2, 48, 32, 1)
    whole = fill(values, FRAME, SIZE).numpy()
    np.testing.assert_array_equal(cut(whole, FRAME), values)
    assert whole.shape == (2, SIZE, SIZE, 1) and whole.sum() == values.sum()
    spread = per_pixel(np.arange(24).reshape(1, 6, 4), FRAME, SIZE)
    assert spread.shape == (1, SIZE, SIZE) and spread.sum() == 64 * np.arange(24).sum()
    assert spread[0, 8 + 8, 16 + 24] == 4 + 3


# ---- data --------------------------------------------------------------------------------------


def test_the_frame_holds_everything_and_its_mirror_image():
    occupied = np.zeros((64, 64), bool)
    occupied[10:33, 20:41] = True
    assert frame_of(occupied, 8) == (8, 16, 56, 48)
    assert frame_of(occupied, 4) == (8, 20, 56, 44)
    assert frame_of(np.zeros((64, 64), bool), 8) == (0, 0, 64, 64)
    assert frame_of(np.ones((64, 64), bool), 8) == (0, 0, 64, 64)


def with_residue(case=1, level=0):
    """A slice with ringing around it and a speck, as JPEG leaves them, and a black ventricle."""
    image, rng = draw_slice(case, level), np.random.default_rng(0)
    image[124:130, 120:128] = 0
    near = rng.integers(0, 13, image.shape) * (rng.random(image.shape) < 0.3)
    dirty = np.where(image == 0, near, image).astype("uint8")
    dirty[124:130, 120:128] = 0
    dirty[30, 30] = 44
    return dirty


def test_residue_goes_and_the_brain_stays():
    dirty = with_residue()
    clean = remove_residue(dirty)
    outside = draw_slice(1, 0) == 0
    assert not clean[outside].any() and dirty[outside].any()
    bright = dirty > 12
    bright[30, 30] = False
    np.testing.assert_array_equal(clean[bright], dirty[bright])
    assert (clean <= dirty).all() and clean[30, 30] == 0
    np.testing.assert_array_equal(remove_residue(clean), clean)
    dark = dirty.copy()
    dark[125, 123] = 7  # a dark value in a ventricle is anatomy
    assert remove_residue(dark)[125, 123] == 7
    assert not remove_residue(np.zeros((256, 256), "uint8")).any()


def test_slices_with_scalp_are_left_alone(tmp_path):
    data = write_slices(tmp_path / "data")
    for path in data.rglob("*.png"):
        image = with_residue(*map(int, (path.name[5:8], path.name.split("_")[3][0])))
        image[20:30, 100:140] = 90  # bright, above the rows of any brain
        Image.fromarray(image).save(path)
    slices = open_slices(data)
    assert not slices.masked and not slices.splits["test"].masked
    loaded = dataset.load_images(slices.splits["test"], 256)
    np.testing.assert_array_equal(loaded[0], np.array(Image.open(slices.splits["test"].paths[0])))
    done = run_script("dataset.py", "check", data)
    assert "looks with scalp" in done.stdout and "residue" not in done.stdout


def test_masked_slices_are_read_without_residue(tmp_path):
    data = write_slices(tmp_path / "data")
    path = split_folder(data, "train") / "case_001_slice_0.nii.png"
    Image.fromarray(with_residue()).save(path)
    split = open_slices(data).splits["train"]
    assert split.masked
    loaded = dataset.load_images(split, 256)[0]
    np.testing.assert_array_equal(loaded, remove_residue(with_residue()))
    source = dataset.ImageSource(split, 64)
    whole = dataset.image_examples(source)(tf.constant(0, tf.int64), tf.constant(True))[0]
    framed, _ = dataset.image_examples(source, FRAME)(tf.constant(0, tf.int64), tf.constant(True))
    np.testing.assert_array_equal(framed, cut(whole[None], FRAME)[0])
    top, left, bottom, right = frame_of(source.images.any(axis=0), 8)
    assert top == 64 - bottom and 0 < top < bottom and 0 <= left < right <= 64
    done = run_script("dataset.py", "check", data)
    assert "residue    in 1 of 24 slices" in done.stdout and "frame      rows" in done.stdout


def test_masked_slices_are_black_around_the_organ():
    image = draw_slice(1, 0)
    scalp = image.copy()
    scalp[10:20, 100:120] = 200
    assert not is_unmasked(image, OASIS) and is_unmasked(scalp, OASIS)
    assert is_unmasked(scalp[::4, ::4], OASIS) and not is_unmasked(image[::4, ::4], OASIS)
    assert is_masked([image] * 30 + [scalp], OASIS) and not is_masked([image, scalp], OASIS)
    assert is_masked([scalp], dataclasses.replace(OASIS, masked=True))
    # Another organ may lie anywhere, and padding is no background.
    knee = dataclasses.replace(OASIS, brain=False, content=(64, 0, 192, 256))
    assert is_masked([scalp, with_residue()], knee)
    noise = np.random.default_rng(0).integers(0, 9, image.shape).astype("uint8")
    assert not is_masked([np.maximum(image, noise)], knee)
    assert not is_masked([np.pad(np.full((128, 256), 90, "uint8"), ((64, 64), (0, 0)))], knee)


# ---- scripts -----------------------------------------------------------------------------------

FRAMED = [8, 8, 56, 56]
LARGER = [
    "--image-size", 64, "--rate-weight", 0, "--epochs", 1, "--prior-epochs", 1,
    "--texture-epochs", 0, "--batch-size", 12,  # of 12 images, so that a stage has one step
]  # fmt: skip


@pytest.fixture(scope="module")
def run(slices_folder, tmp_path_factory):
    """A finished run whose frame is smaller than its slices."""
    directory = tmp_path_factory.mktemp("runs") / "framed"
    flags = ["--data", slices_folder, "--run", directory, *TINY, *LARGER]
    done = run_script("train.py", *flags)
    assert done.returncode == 0 and "1 epochs of 1 steps" in done.stdout, done.stderr
    assert "Frame: rows 8-55 and columns 8-55 of 64 x 64" in done.stdout
    return directory


@pytest.mark.slow
def test_everything_follows_the_frame(run, slices_folder, tmp_path):
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["frame"] == FRAMED and config["data"]["masked"] is True
    vqvae, prior, _ = checkpoints.load_models(RunDirectory(run))
    assert vqvae.frame == tuple(FRAMED) and prior.settings["grid"] == vqvae.grid == (6, 6)
    done, report = predict(run, slices_folder, "--complete", "--walk")
    assert "WARNING" not in done.stdout and "reach out of the frame" not in done.stdout
    assert report["data"]["frame"] == FRAMED and report["data"]["outside_frame"] == 0
    assert report["rate"]["index_bits"] == 6 * 6 * 4
    assert report["rate"]["prior_bits"] == pytest.approx(36 * report["prior"]["bits_per_code"])
    for name in ("reconstructions", "completions", "walk", "codes"):
        assert (run / "predict" / f"{name}.png").is_file()

    # What reaches out of the frame is counted, and costs.
    data = write_slices(tmp_path / "data")
    for path in sorted(split_folder(data, "test").iterdir())[:3]:
        image = np.array(Image.open(path))
        image[100:140, 212:232] = 200  # grown out of the frame towards the nose
        Image.fromarray(image).save(path)
    done, other = predict(run, data)
    assert other["data"]["outside_frame"] == 3
    assert "3 of 8 slices reach out of the frame" in done.stdout
    assert other["ssim"]["mean"] < report["ssim"]["mean"]


def test_slices_with_scalp_are_warned_of(run_copy, tmp_path):
    data = write_slices(tmp_path / "data")
    for path in data.rglob("*.png"):
        image = np.array(Image.open(path))
        image[20:40, 80:180] = 120
        Image.fromarray(image).save(path)
    done, _ = predict(run_copy, data, "--samples", 0)
    warning = "WARNING: the model learned from brain-masked slices and gets slices with scalp"
    assert done.stdout.count(warning) == 1
    folder = split_folder(data, "test")
    done = run_script("predict.py", "--run", run_copy, "--anomaly", folder, "--slice", 1)
    assert done.stdout.count(warning) == 1
    # A run of brain-masked slices does not start from one whose frame is too small for the scalp.
    source = RunDirectory(run_copy)
    vqvae = make_vqvae(frame=FRAMED)
    prior = make_prior((6, 6), blocks=1)
    prior.settings["vqvae"] = checkpoints.fingerprint(vqvae)
    source.model("texture").unlink()
    for stage, model in {"vqvae": vqvae, "prior": prior}.items():
        checkpoints.save_model(model, source.model(stage))
    flags = ["--data", data, "--run", tmp_path / "new", *TINY, *LARGER, "--start-from", run_copy]
    one_line(run_script("train.py", *flags), "beyond its frame (8, 8, 56, 56)")
