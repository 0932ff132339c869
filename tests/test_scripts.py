"""Both scripts as a user runs them."""

import io
import json
import shutil

import keras
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from shared import (
    IMAGE_SIZE,
    LEVELS,
    assert_same_histories,
    assert_same_models,
    one_line,
    run_script,
    train,
    write_slices,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dataset
from evaluation import metrics
from fitting.run_directory import RunDirectory, read_history
from networks import losses
from sources.folder import open_slices


def predict(run, data, *flags, **options):
    flags = ("--brains", 0, *flags)
    return run_script("predict.py", "--run", run, "--data", data, *flags, **options)


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    """A copy of the finished run, into which predict.py may write."""
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def report(run, slices_folder):
    flags = "--samples", 5, "--write-reconstructions"
    done = predict(run, slices_folder, *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((run / "predict" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def first_samples(run, report):
    """Name and bytes of the samples of the first evaluation."""
    return read_samples(run)


def read_samples(run):
    return {file.name: file.read_bytes() for file in (run / "predict" / "samples").iterdir()}


# ---- train.py ----------------------------------------------------------------------------------


def test_run_directory_tells_how_it_was_made(trained_run, slices_folder):
    config = json.loads((trained_run / "config.json").read_text())
    assert config["settings"]["image_size"] == IMAGE_SIZE and config["settings"]["seed"] == 0
    assert config["data"]["fingerprint"] == open_slices(slices_folder).fingerprint
    assert config["data"]["intensity_range"] == [0.0, 1.0] and config["data"]["name"] == "OASIS"
    assert config["versions"]["keras"] == keras.__version__
    assert not list((trained_run / "resume").iterdir())
    assert list((trained_run / "logs").rglob("events*"))
    for stage, epochs in EPOCHS.items():
        rows = read_history(RunDirectory(trained_run).history(stage))
        assert len(rows) == epochs and "val_loss" in rows[0]


EPOCHS = {"vqvae": 2, "first_prior": 1, "prior": 2, "texture": 1}
SHOWN = {
    "vqvae": ("originals", "reconstructions"),
    "first_prior": ("samples",),
    "prior": ("samples",),
    "texture": ("textures",),
}


@pytest.mark.parametrize("stage", SHOWN)
def test_tensorboard_shows_curves_and_images_of_each_epoch(stage, trained_run):
    logs = RunDirectory(trained_run).logs(stage)
    assert {folder.name for folder in logs.iterdir()} == {"train", "validation"}
    for part in ("train", "validation"):
        losses = read_events(logs / part, "epoch_loss")
        assert len(losses) == EPOCHS[stage] and np.isfinite(losses).all()
    for name in SHOWN[stage]:
        shown = read_events(logs / "validation", name)
        assert len(shown) == EPOCHS[stage]
        for width, height, *pictures in shown:
            assert (int(width), int(height), len(pictures)) == (IMAGE_SIZE, IMAGE_SIZE, LEVELS)
            for picture in pictures:
                pixels = np.asarray(Image.open(io.BytesIO(picture)))
                assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE)
                # In its first passes the texture holds every pixel for background.
                assert np.ptp(pixels) > 0 or stage == "texture"


def read_events(folder, tag):
    """Values of a tag in all epochs. Images come as width, height and one PNG each."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]


def test_finished_run_is_left_alone(run, slices_folder, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in run.glob("*.keras")}
    link = tmp_path / "link"  # which is as good as a run
    link.symlink_to(run)
    done = train(slices_folder, link)
    assert done.returncode == 0 and done.stdout.count("finished after") == len(EPOCHS)
    assert {file: file.stat().st_mtime_ns for file in run.glob("*.keras")} == before


def test_other_settings_are_refused_and_listed(trained_run, slices_folder):
    done = train(slices_folder, trained_run, "--seed", 3, "--ssim-weight", 0)
    one_line(done, trained_run, "seed was 0, is 3", "ssim_weight was 1.0, is 0.0")


def test_a_foreign_folder_is_no_run_directory(slices_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("keep me")
    one_line(train(slices_folder, tmp_path), "is no run directory")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


# ---- predict.py --------------------------------------------------------------------------------


PROMISED = """
made.command made.commit made.versions made.date data.name data.split data.images data.subjects
data.image_size ssim.mean ssim.ci95 ssim.min ssim.brain_mean psnr.mean psnr.brain_mean
detail.gradient_ratio detail.spectrum_ratio detail.fine_correlation rate.index_bits rate.prior_bits
rate.bits_per_pixel codebook.size codebook.used codebook.perplexity prior.bits_per_code
prior.uniform_bits_per_code prior.unigram_bits_per_code prior.position_bits_per_code samples.count
samples.seconds texture.bits_per_pixel texture.constant_deviation_bits_per_pixel
texture.masked_deviation_bits_per_pixel
"""


def test_metrics_have_the_promised_keys(report):
    for place in PROMISED.split():
        key, name = place.split(".")
        assert name in report[key], place
    data, ssim, rate, prior = (report[key] for key in ("data", "ssim", "rate", "prior"))
    assert data["images"] == 8 and data["subjects"] == 2 and data["image_size"] == IMAGE_SIZE
    assert rate["index_bits"] == 4 * 4 * 4
    assert prior["uniform_bits_per_code"] == 4.0
    low, high = ssim["ci95"]
    assert low <= ssim["mean"] <= high and ssim["min"] <= ssim["mean"]
    assert rate["prior_bits"] == pytest.approx(16 * prior["bits_per_code"], rel=1e-5)


def test_metrics_equal_those_of_the_written_reconstructions(run, report, slices_folder):
    """SSIM and PSNR once more, from nothing but the files on disk."""
    split = open_slices(slices_folder).splits["test"]
    originals = dataset.load_images(split, IMAGE_SIZE)[..., None] / 255.0
    files = sorted((run / "predict" / "reconstructions").glob("*.png"))
    assert [file.name for file in files] == [
        f"case_{case:03d}_slice_{level}.nii.png" for case in (5, 6) for level in range(LEVELS)
    ]
    restored = np.stack([np.array(Image.open(file)) for file in files])[..., None] / 255.0
    ssim = losses.ssim(originals.astype("float32"), restored).numpy().mean()
    assert report["ssim"]["mean"] == pytest.approx(ssim, abs=2e-3)
    assert report["psnr"]["mean"] == pytest.approx(
        metrics.psnr(originals, restored).mean(), abs=0.02
    )
    assert report["psnr"]["brain_mean"] == pytest.approx(
        metrics.brain_psnr(originals, restored).mean(), abs=0.02
    )


def test_samples_are_written(run, report, first_samples):
    out = run / "predict"
    assert sorted(first_samples) == [
        f"sample_000{i}_slice_{level}.png" for i, level in enumerate((0, 1, 2, 2, 3))
    ]
    with Image.open(out / "samples" / "sample_0000_slice_0.png") as sample:
        assert sample.mode == "L" and sample.size == (IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_samples_wherever_they_lie(
    trained_run, first_samples, tmp_path
):
    data = write_slices(tmp_path / "Gehirne  für Ωmega 脳")
    again = tmp_path / "mein Lauf ñ"
    done = train(data, again)
    assert done.returncode == 0, done.stderr
    assert_same_models(trained_run, again)
    assert_same_histories(trained_run, again)
    assert predict(again, data, "--samples", 5).returncode == 0
    assert (again / "predict" / "metrics.json").exists()
    assert read_samples(again) == first_samples
    flags = ("--samples", 5, "--no-texture")  # which is black after so short a training
    assert predict(again, data, *flags).returncode == 0
    plain = read_samples(again)
    assert predict(again, data, *flags, "--seed", 1).returncode == 0
    assert read_samples(again) != plain


def test_flags_of_sampling(run, first_samples, slices_folder):
    flags = ["--samples", 3, "--slice", 2, "--temperature", 0.5, "--top-k", 3, "--top-p", 0.9]
    done = predict(run, slices_folder, *flags)
    assert done.returncode == 0, done.stderr
    out = run / "predict"
    assert sorted(read_samples(run)) == [f"sample_000{i}_slice_2.png" for i in range(3)]
    assert json.loads((out / "metrics.json").read_text())["samples"]["top_k"] == 3
    refused = predict(run, slices_folder, "--slice", 9)
    one_line(refused, "--slice must be a level of the data, 0 to 3")
    refused = predict(run, slices_folder, "--evaluate-samples", 20)
    one_line(refused, "needs 20 training subjects or more")


def map_anomalies(run, *flags):
    return run_script("predict.py", "--run", run, "--anomaly", *flags)


def test_a_stack_is_mapped_as_a_volume(run, slices_folder):
    done = map_anomalies(run, "--data", slices_folder)
    assert done.returncode == 0, done.stderr
    out = run / "predict"
    report = json.loads((out / "anomaly.json").read_text())
    for row in report["cases"]:
        own = [s for s in report["slices"] if s["case"] == row["case"]]
        highest = max(own, key=lambda s: s["score_healing"])
        assert row["slices"] == len(own) == 4
        assert (row["score"], row["highest_level"]) == (highest["score_healing"], highest["level"])
        assert all(s["score_in_case"] > 0 for s in own)
        name = out / "anomaly" / f"case_{row['case']:03d}"
        volumes = [nibabel.load(f"{name}_{kind}.nii.gz") for kind in ("original", "healed", "map")]
        assert all(volume.shape == (256, 256, 4) for volume in volumes)
        np.testing.assert_array_equal(volumes[0].affine, volumes[2].affine)
        assert f"case {row['case']:03d}" in done.stdout


def test_anomalies_of_a_split_and_of_a_folder(run, slices_folder, tmp_path):
    done = map_anomalies(run, "--data", slices_folder, "--slice", 2)
    assert done.returncode == 0, done.stderr
    out = run / "predict"
    report = json.loads((out / "anomaly.json").read_text())
    assert [row["level"] for row in report["slices"]] == [2, 2] and (out / "anomaly.png").exists()
    scores = [row["score_healing"] for row in report["slices"]]
    assert scores == sorted(scores, reverse=True)
    assert all(row["score_error"] > 0 for row in report["slices"])
    folder = tmp_path / "some slices"
    folder.mkdir()
    shutil.copy(slices_folder / "keras_png_slices_test" / "case_005_slice_1.nii.png", folder)
    assert map_anomalies(run, folder).returncode == 0
    for kind in ("original", "healed", "map"):
        image = np.asarray(Image.open(out / "anomaly" / f"case_005_slice_1_{kind}.png"))
        assert image.shape == (IMAGE_SIZE, IMAGE_SIZE)
    one_line(map_anomalies(run, tmp_path / "none"), "none is no folder")
    one_line(map_anomalies(run, tmp_path), "holds no case_NNN_slice_K.nii.png")
    refused = map_anomalies(run, folder, "--slice", 3)
    one_line(refused, "--slice must be a level of the data, 1 to 1")


@pytest.mark.slow
def test_export_predicts_the_same(run, report, slices_folder, tmp_path):
    out = tmp_path / "small"
    assert run_script("fitting/export.py", run, out).returncode == 0
    assert predict(out, slices_folder, "--samples", 0).returncode == 0
    exported = json.loads((out / "predict" / "metrics.json").read_text())
    bits = report["prior"]["bits_per_code"]
    assert exported["prior"]["bits_per_code"] == pytest.approx(bits, rel=1e-3)
    assert exported["ssim"]["mean"] == pytest.approx(report["ssim"]["mean"], abs=1e-3)


def test_export_is_a_smaller_run(run, tmp_path):
    out = tmp_path / "small"
    assert run_script("fitting/export.py", run, out).returncode == 0
    assert (out / "prior.keras").stat().st_size < 0.8 * (run / "prior.keras").stat().st_size
    one_line(run_script("fitting/export.py", run, out), "small exists")
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "resume").mkdir(exist_ok=True)
    (unfinished / "resume" / "prior.npz").write_bytes(b"")
    refused = run_script("fitting/export.py", unfinished, tmp_path / "none")
    one_line(refused, "unfinished is not finished")
    assert not (tmp_path / "none").exists()
