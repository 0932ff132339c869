"""A training that ends early, for whatever reason, goes on to the bits it would have reached.

Every whole training here that ends early is a process of its own, as a user's is.
"""

import dataclasses
import os
import random
import signal
import time

import filelock
import numpy as np
import pytest
from shared import (
    CASES,
    STAGES,
    TINY,
    assert_same_histories,
    assert_same_models,
    contents,
    one_line,
    train,
    write_slices,
)

import train as train_script
from fitting import checkpoints, loop, stages
from fitting.devices import find_strategy
from fitting.run_directory import STAGES as STAGES_OF_RUNS
from fitting.run_directory import RunDirectory, read_history
from fitting.training_data import TrainingData
from sources.folder import open_slices
from utils import PARTIAL_FILES

STATUS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}


def stop(number, training):
    """Send a signal. Returns what the training printed."""
    training.send(number)
    done = training.finish()
    assert done.returncode == STATUS[number] and "Traceback" not in done.stderr, done.stderr
    if number != signal.SIGKILL:
        assert done.stderr.endswith("what was finished is kept.\n")
    return done.stdout


def test_a_stage_that_was_killed_ends_as_if_it_had_not_been(
    eager_steps, slices_folder, tmp_path, monkeypatch, capsys
):
    """It is killed within its first epoch, at its third save."""
    runs = whole, run = [RunDirectory(tmp_path / name) for name in ("whole", "killed")]
    slices = open_slices(slices_folder)
    settings = train_script.resolve(train_script.parse([*TINY, "--epochs", "1"]), slices)
    data = TrainingData(slices, settings.image_size, settings.reduction)
    settings = dataclasses.replace(settings, frame=list(data.frame), masked=slices.masked)
    for directory in runs:
        directory.path.mkdir()
        (directory.path / "resume").mkdir()
    monkeypatch.setattr(loop, "FIRST_STEPS", 1)
    first, stage = (stages.plan(directory, data, settings)["vqvae"] for directory in runs)
    loop.fit(first, whole, settings, find_strategy(None), save_minutes=4)
    save, saves = checkpoints.save_state, iter(range(3))

    def save_and_be_killed(*given):
        save(*given)
        if next(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save_state", save_and_be_killed)
        loop.fit(stage, run, settings, find_strategy(None), save_minutes=0)
    assert not run.history("vqvae").exists()
    loop.fit(stage, run, settings, find_strategy(None), save_minutes=4)
    printed = capsys.readouterr().out
    assert "continues after step 2," in printed and printed.count("for all stages.") >= 2
    models = [checkpoints.load_model(r.model("vqvae")) for r in runs]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(read_history(run.history("vqvae"))) == 1
    assert_same_histories(whole.path, run.path)


@pytest.mark.slow
def test_a_training_that_was_stopped_in_many_ways_ends_as_if_it_had_not_been(
    trained_run, slices_folder, start_training, tmp_path
):
    run = RunDirectory(tmp_path / "run")

    def stop_after(number, path, times=1, save_minutes=4):
        flags = [*TINY, *STAGES, "--save-minutes", save_minutes]
        training = start_training(slices_folder, run, *flags)
        training.wait_for(path, times)
        return stop(number, training)

    # Between the history of the first epoch and its state, the state of the start is there.
    stop_after(signal.SIGKILL, run.history("vqvae"))
    # Three saved steps are an epoch, after which the model is there too.
    printed = stop_after(signal.SIGINT, run.state("vqvae"), times=3, save_minutes=0)
    assert "vqvae: 0." in printed and "vqvae: finished" not in printed
    fill_disk(start_training, run, slices_folder)
    stop_after(signal.SIGTERM, run.history("first_prior"))
    stop_after(signal.SIGKILL, run.history("prior"))
    done = train(slices_folder, run.path)
    assert done.returncode == 0, done.stderr
    assert "vqvae: finished after 2 epochs" in done.stdout
    assert "\nprior: finished" not in done.stdout
    assert_same_models(trained_run, run.path)
    assert_same_histories(trained_run, run.path)


def fill_disk(start_training, run, data):
    """Go on with a training on a full disk, which must keep the last good model and state."""
    before = {path: path.read_bytes() for path in (run.model("vqvae"), run.state("vqvae"))}
    size = min(map(len, before.values())) // 2
    done = start_training(data, run, *TINY, *STAGES, file_bytes=size).finish()
    one_line(done, "Check the path, its rights and the disk")
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list(run.path.rglob(PARTIAL_FILES))


WIDE = [
    "--image-size", "64", "--width", "96", "--prior-width", "96", "--batch-size", "16",
    "--epochs", "1", "--first-prior-epochs", "1", "--prior-epochs", "1", "--texture-epochs", "1",
    "--seed", "3", "--save-minutes", "0",
]  # fmt: skip


@pytest.mark.slow
def test_kills_at_random_moments_of_each_stage_change_no_bit(start_training, tmp_path):
    """Narrow networks do not show that a stage depends on what ran before it in its process.

    It runs on all cores, as a user's training does.
    """
    all_cores = {name: None for name in os.environ if name.endswith("_THREADS")}
    data = write_slices(tmp_path / "data", {**CASES, "train": range(7, 19)})  # 48 images
    whole, killed = (RunDirectory(tmp_path / name) for name in ("whole", "killed"))
    chance = random.Random(0)

    def begin(run):
        return start_training(data, run.path, *WIDE, environment=all_cores)

    assert begin(whole).finish().returncode == 0
    for stage in STAGES_OF_RUNS:
        training = begin(killed)
        training.wait_for(killed.state(stage))
        time.sleep(chance.uniform(0, 1))
        stop(signal.SIGKILL, training)
    assert begin(killed).finish().returncode == 0
    assert_same_models(whole.path, killed.path)
    assert_same_histories(whole.path, killed.path)
    for name in ("first_prior_codes", "codes", "code_counts"):
        with np.load(getattr(whole, name)) as one, np.load(getattr(killed, name)) as other:
            assert one.files == other.files
            for array in one.files:
                np.testing.assert_array_equal(one[array], other[array])


# ---- what goes wrong ---------------------------------------------------------------------------


def test_loss_that_is_not_finite_stops_at_once(eager_steps, slices_folder, tmp_path):
    run = tmp_path / "run"
    state = run / "resume" / "vqvae.npz"
    done = train(slices_folder, run, "--learning-rate", "1e20", "--epochs", "3")
    one_line(done, "vqvae: the ", "is not finite at step", "--precision float32", state)
    assert not (run / "prior.keras").exists()
    with np.load(state) as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_two_trainings_cannot_share_a_run(slices_folder, run_copy):
    with filelock.FileLock(run_copy / ".lock"):
        before = contents(run_copy)
        one_line(train(slices_folder, run_copy), "is held by another training")
        assert contents(run_copy) == before


@pytest.mark.parametrize("used, collapses", [(100.0, True), (499.0, False)])
def test_collapse_is_warned_of(used, collapses, capsys):
    rows = [{"codes_used": codes} for codes in (300.0, used)]
    loop._warn_of_collapse("vqvae", rows, codebook_size=512)
    printed = capsys.readouterr().out
    message = "collapsing, 300 codes were used in the epoch before and 100 of 512 now"
    assert (message in printed) == collapses and ("collapsing" in printed) == collapses
