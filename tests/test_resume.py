"""A training that ends early, for whatever reason, goes on to the bits it would have reached.

Every training here that ends early is a process of its own, as a user's is.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import (
    CASES,
    STAGES,
    TINY,
    assert_same_histories,
    assert_same_models,
    one_line,
    train,
    write_slices,
)

from fitting.run_directory import RunDirectory
from utils import PARTIAL_FILES


def version(path):
    return path.stat().st_mtime_ns if path.exists() else None


def send(number, process, path, times=1):
    """Send a signal once `path` was written so many times. Returns what the process printed."""
    deadline, last = time.monotonic() + 120, version(path)
    while times and time.monotonic() < deadline:
        assert process.poll() is None, "the training ended too early"
        time.sleep(0.002)
        now = version(path)
        if now not in (last, None):
            last, times = now, times - 1
    process.send_signal(number)
    printed, errors = process.communicate()
    status = 130 if number == signal.SIGINT else -number
    assert (process.returncode, "Traceback" in errors) == (status, False), errors
    return printed


@pytest.mark.slow
def test_a_training_that_was_stopped_in_many_ways_ends_as_if_it_had_not_been(
    trained_run, slices_folder, trainings, tmp_path
):
    run = RunDirectory(tmp_path / "run")

    def stop(number, path, times=1, save_minutes=4):
        flags = [*TINY, *STAGES, "--save-minutes", save_minutes]
        return send(number, trainings.start(slices_folder, run, *flags), path, times)

    # Between the history of the first epoch and its state, the state of the start is there.
    stop(signal.SIGKILL, run.history("vqvae"))
    # Three saved steps are an epoch, after which the model is there too.
    printed = stop(signal.SIGINT, run.state("vqvae"), times=3, save_minutes=0)
    assert "vqvae: 0." in printed and "vqvae: finished" not in printed
    fill_disk(trainings, run, slices_folder)
    stop(signal.SIGTERM, run.history("draft"))
    stop(signal.SIGKILL, run.history("prior"))
    done = train(slices_folder, run.path)
    assert done.returncode == 0, done.stderr
    assert "vqvae: finished after 2 epochs" in done.stdout and "prior: finished" not in done.stdout
    assert_same_models(trained_run, run.path)
    assert_same_histories(trained_run, run.path)


def fill_disk(trainings, run, data):
    """Go on with a training on a full disk, which must keep the last good model and state."""
    before = {path: path.read_bytes() for path in (run.model("vqvae"), run.state("vqvae"))}
    size = min(map(len, before.values())) // 2
    done = trainings.start(data, run, *TINY, *STAGES, file_bytes=size).finish()
    one_line(done, "Check the path, its rights and the disk")
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list(run.path.rglob(PARTIAL_FILES))


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, more",
    [
        (0, ["--rate-weight", 1.5, "--texture-epochs", 1]),
        (1, ["--rate-weight", 0, "--texture-epochs", 0]),
    ],
    ids=["all stages", "no draft and no texture"],
)
def test_kills_at_random_moments_change_nothing(seed, more, slices_folder, trainings, tmp_path):
    """All stages of a training that is killed five times end as those of one that is not."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ["--epochs", 3, "--prior-epochs", 3, "--save-minutes", 0, *more]
    begin = time.monotonic()
    finish(trainings.start(slices_folder, whole, *TINY, *flags))
    length, kills, chance = time.monotonic() - begin, 0, random.Random(seed)
    while kills < 5:
        process = trainings.start(slices_folder, killed, *TINY, *flags)
        wait_for_line(process, "Training on")  # nothing can be lost in the seconds before it
        try:
            process.communicate(timeout=chance.uniform(0, 0.6) * length)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:  # it was through, and the kills that are left fall on a new run
            assert process.returncode == 0
            assert_same_models(whole, killed)
            shutil.rmtree(killed)
    done = train(slices_folder, killed, *flags)
    assert done.returncode == 0, done.stderr
    assert_same_models(whole, killed)
    assert_same_histories(whole, killed)


def wait_for_line(process, begin, part=""):
    """Wait until a process prints a line that begins so and has a part, or ends."""
    for line in process.stdout:
        if line.startswith(begin) and part in line:
            break


WIDE = [
    "--image-size", "64", "--width", "96", "--prior-width", "96", "--batch-size", "16",
    "--epochs", "1", "--draft-epochs", "1", "--prior-epochs", "1", "--texture-epochs", "1",
    "--seed", "3",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_of_real_width_goes_on_at_each_border_of_stages_bit_for_bit(trainings, tmp_path):
    """Narrow networks do not show that a stage depends on what ran before it in its process.

    It runs on all cores, as a user's training does.
    """
    all_cores = {name: None for name in os.environ if name.endswith("_THREADS")}
    data = write_slices(tmp_path / "data", {**CASES, "train": range(7, 19)})  # 48 images
    whole, parted = (RunDirectory(tmp_path / name) for name in ("whole", "parted"))

    def begin(run):
        return trainings.start(data, run.path, *WIDE, environment=all_cores)

    finish(begin(whole))
    for stage in ("draft", "prior", "texture"):
        process = begin(parted)
        wait_for_line(process, f"{stage}: ", ", starts, ")
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the training ended too early"
    finish(begin(parted))
    assert_same_models(whole.path, parted.path)
    for name in ("draft_codes", "codes", "code_counts"):
        with np.load(getattr(whole, name)) as one, np.load(getattr(parted, name)) as other:
            assert one.files == other.files
            for array in one.files:
                np.testing.assert_array_equal(one[array], other[array])


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors
