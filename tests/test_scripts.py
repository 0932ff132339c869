"""Both scripts as a user runs them, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import IMAGE_SIZE, LEVELS, ROOT, TINY, assert_same_models, one_line, run_script
from PIL import Image

import dataset
import metrics
import pipeline

STAGES = ["--epochs", "4", "--prior-epochs", "4"]


def train_arguments(data, run):
    return ["--data", data, "--run", run, *TINY, *STAGES]


def predict(run, data, *flags):
    return run_script("predict.py", "--run", run, "--data", data, *flags)


@pytest.fixture(scope="module")
def run(slices_folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    done = run_script("train.py", *train_arguments(slices_folder, directory))
    assert done.returncode == 0, done.stderr
    assert f"Next: python predict.py --run {directory} --data {slices_folder}" in done.stdout
    assert "Training on the CPU" in done.stdout and "12 images,    3 cases" in done.stdout
    return directory


@pytest.fixture(scope="module")
def report(run, slices_folder):
    done = predict(run, slices_folder, "--samples", 5, "--write-reconstructions")
    assert done.returncode == 0, done.stderr
    return json.loads((run / "predict" / "metrics.json").read_text())


def test_run_directory_tells_how_it_was_made(run, slices_folder):
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["image_size"] == IMAGE_SIZE and config["settings"]["seed"] == 0
    assert config["data"]["fingerprint"] == dataset.open_slices(slices_folder).fingerprint
    assert config["data"]["intensity_range"] == [0.0, 1.0] and config["data"]["name"] == "OASIS"
    assert config["versions"]["keras"] == keras.__version__
    assert not list((run / "resume").iterdir()) and list((run / "logs").rglob("events*"))
    for stage in ("vqvae", "prior"):
        rows = (run / f"{stage}_history.csv").read_text().splitlines()
        assert len(rows) == 5 and "val_loss" in rows[0]


def test_metrics_have_the_promised_keys(report):
    promised = {
        "data": {"name", "split", "images", "subjects", "image_size"},
        "ssim": {"mean", "ci95", "min", "brain_mean"},
        "psnr": {"mean"},
        "detail": {"gradient_ratio", "spectrum_ratio"},
        "rate": {"index_bits", "prior_bits", "bits_per_pixel"},
        "codebook": {"size", "used", "perplexity"},
        "prior": {
            "bits_per_code",
            "uniform_bits_per_code",
            "unigram_bits_per_code",
            "position_bits_per_code",
        },
        "samples": {"count", "seconds"},
    }
    assert set(report) >= set(promised)
    for key, names in promised.items():
        assert set(report[key]) >= names
    assert (
        report["data"]["images"] == 8
        and report["data"]["subjects"] == 2
        and report["data"]["image_size"] == IMAGE_SIZE
    )
    assert report["rate"]["index_bits"] == 4 * 4 * 4
    assert report["prior"]["uniform_bits_per_code"] == 4.0
    low, high = report["ssim"]["ci95"]
    assert low <= report["ssim"]["mean"] <= high and report["ssim"]["min"] <= report["ssim"]["mean"]
    assert report["rate"]["prior_bits"] == pytest.approx(
        16 * report["prior"]["bits_per_code"], rel=1e-5
    )


def test_metrics_equal_those_of_the_written_reconstructions(run, report, slices_folder):
    """SSIM and PSNR once more, from nothing but the files on disk."""
    split = dataset.open_slices(slices_folder).splits["test"]
    source = pipeline.image_source(split, IMAGE_SIZE)
    originals = np.stack([source(i) for i in range(len(split))]) / 255.0
    files = sorted((run / "predict" / "reconstructions").glob("*.png"))
    assert [file.name for file in files] == [
        f"case_{case:03d}_slice_{level}.png" for case in (5, 6) for level in range(LEVELS)
    ]
    restored = np.stack([np.array(Image.open(file)) for file in files])[..., None] / 255.0
    assert report["ssim"]["mean"] == pytest.approx(
        metrics.ssim(originals.astype("float32"), restored).numpy().mean(), abs=2e-3
    )
    assert report["psnr"]["mean"] == pytest.approx(
        metrics.psnr(originals, restored).mean(), abs=0.02
    )


def test_figures_and_samples_are_written(run, report):
    out = run / "predict"
    for name in ("reconstructions", "samples", "codes", "training"):
        with Image.open(out / f"{name}.png") as figure:
            assert figure.size[0] > 800
    files = sorted((out / "samples").iterdir())
    assert [file.name for file in files] == [
        f"sample_000{i}_slice_{level}.png" for i, level in enumerate((0, 1, 2, 2, 3))
    ]
    with Image.open(files[0]) as sample:
        assert sample.mode == "L" and sample.size == (IMAGE_SIZE, IMAGE_SIZE)


def test_same_seed_gives_the_same_samples(run, report, slices_folder):
    samples = run / "predict" / "samples"
    before = {file.name: file.read_bytes() for file in samples.iterdir()}
    assert predict(run, slices_folder, "--samples", 5).returncode == 0
    assert {file.name: file.read_bytes() for file in samples.iterdir()} == before
    assert predict(run, slices_folder, "--samples", 5, "--seed", 1).returncode == 0
    assert {file.name: file.read_bytes() for file in samples.iterdir()} != before


def test_flags_of_sampling(run, report, slices_folder):
    assert (
        predict(
            run,
            slices_folder,
            "--samples",
            3,
            "--slice",
            2,
            "--temperature",
            0.5,
            "--top-k",
            3,
            "--top-p",
            0.9,
            "--complete",
            "--walk",
        ).returncode
        == 0
    )
    out = run / "predict"
    assert sorted(file.name for file in (out / "samples").iterdir()) == [
        f"sample_000{i}_slice_2.png" for i in range(3)
    ]
    assert (
        (out / "completions.png").exists()
        and (out / "walk.png").exists()
        and json.loads((out / "metrics.json").read_text())["samples"]["top_k"] == 3
    )
    one_line(
        predict(run, slices_folder, "--slice", 9), "--slice must be a level of the data, 0 to 3"
    )
    one_line(
        predict(run, slices_folder, "--evaluate-samples", 20), "needs 20 training subjects or more"
    )


def test_anomalies_of_a_split_and_of_a_folder(run, slices_folder, tmp_path):
    assert predict(run, slices_folder, "--anomaly", "--slice", 2).returncode == 0
    out = run / "predict"
    report = json.loads((out / "anomaly.json").read_text())
    assert [row["level"] for row in report["slices"]] == [2, 2] and (out / "anomaly.png").exists()
    scores = [row["score_healing"] for row in report["slices"]]
    assert scores == sorted(scores, reverse=True) and all(
        row["score_error"] > 0 for row in report["slices"]
    )
    folder = tmp_path / "some slices"
    folder.mkdir()
    shutil.copy(slices_folder / "keras_png_slices_test" / "case_005_slice_1.nii.png", folder)
    assert (
        run_script("predict.py", "--run", run, "--anomaly", folder, "--ensemble", run).returncode
        == 0
    )
    assert json.loads((out / "anomaly.json").read_text())["runs"] == [str(run), str(run)]
    one_line(
        run_script("predict.py", "--run", run, "--ensemble", run),
        "argument --ensemble: it is for --anomaly",
    )
    for kind in ("original", "healed", "map"):
        assert np.asarray(Image.open(out / "anomaly" / f"case_005_slice_1_{kind}.png")).shape == (
            IMAGE_SIZE,
            IMAGE_SIZE,
        )
    one_line(
        run_script("predict.py", "--run", run, "--anomaly", tmp_path / "none"), "none is no folder"
    )
    one_line(
        run_script("predict.py", "--run", run, "--anomaly", tmp_path),
        "holds no case_NNN_slice_K.nii.png",
    )
    one_line(
        run_script("predict.py", "--run", run, "--anomaly", folder, "--slice", 3),
        "--slice must be a level of the slices, 1 to 1",
    )


def test_export_is_a_run_that_predicts_the_same(run, report, slices_folder, tmp_path):
    out = tmp_path / "small"
    assert run_script("checkpoints.py", run, out).returncode == 0
    assert (out / "prior.keras").stat().st_size < 0.8 * (run / "prior.keras").stat().st_size
    assert predict(out, slices_folder, "--samples", 0).returncode == 0
    exported = json.loads((out / "predict" / "metrics.json").read_text())
    assert exported["prior"]["bits_per_code"] == pytest.approx(
        report["prior"]["bits_per_code"], rel=1e-3
    )
    assert exported["ssim"]["mean"] == pytest.approx(report["ssim"]["mean"], abs=1e-3)
    one_line(run_script("checkpoints.py", run, out), "small exists")
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    (begun / "resume").mkdir(exist_ok=True)
    (begun / "resume" / "prior.npz").write_bytes(b"")
    one_line(run_script("checkpoints.py", begun, tmp_path / "none"), "begun is not finished")
    assert not (tmp_path / "none").exists()


def test_killed_training_ends_as_if_it_had_not_been(run, slices_folder, tmp_path):
    other = tmp_path / "killed"
    for stage in ("vqvae", "draft", "prior"):
        process = subprocess.Popen(
            [sys.executable, ROOT / "train.py", *train_arguments(slices_folder, other)],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while (
            not (other / f"{stage}_history.csv").exists()
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    done = run_script("train.py", *train_arguments(slices_folder, other))
    assert done.returncode == 0, done.stderr
    assert "vqvae: finished after 4 epochs" in done.stdout and "prior: finished" not in done.stdout
    assert_same_models(run, other)
    for stage in ("vqvae", "prior"):
        losses = [
            [line.split(",")[3:] for line in (d / f"{stage}_history.csv").read_text().splitlines()]
            for d in (run, other)
        ]
        assert losses[0] == losses[1]


def test_finished_run_is_left_alone(run, slices_folder):
    before = {file: file.stat().st_mtime_ns for file in run.glob("*.keras")}
    done = run_script("train.py", *train_arguments(slices_folder, run))
    assert done.returncode == 0 and done.stdout.count("finished after") == 3
    assert {file: file.stat().st_mtime_ns for file in run.glob("*.keras")} == before


def test_other_settings_are_refused_and_listed(run, slices_folder):
    done = run_script(
        "train.py", *train_arguments(slices_folder, run), "--seed", 3, "--ssim-weight", 0
    )
    one_line(done, run, "seed was 0, is 3", "ssim_weight was 1.0, is 0.0")


def test_a_foreign_folder_is_no_run_directory(slices_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("keep me")
    one_line(
        run_script("train.py", *train_arguments(slices_folder, tmp_path)), "is no run directory"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("script", ["train.py", "predict.py"])
def test_help_answers_at_once(script):
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / script, "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and time.monotonic() - begin < 2
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "utils" in loaded
    assert not loaded & {
        "tensorflow",
        "keras",
        "tensorflow_probability",
        "matplotlib",
        "scipy.ndimage",
        "nilearn",
        "sklearn",
    }
