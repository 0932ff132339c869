"""Several replicas do what one does: on two logical devices of one process, and on two processes that talk to each other."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT, TINY, one_line, run_script

import pipeline

# a batch of 4 in shares of 2; with dropout, replicas draw other masks than one
SETTINGS = [*TINY, "--prior-dropout", "0", "--epochs", "2", "--prior-epochs", "2"]
TWO_DEVICES = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import utils
utils.import_tensorflow()
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import train
utils.command_line(train.main, train.parse())
"""


def train_arguments(data, run, *more):
    return ["--data", str(data), "--run", str(run), *SETTINGS, *map(str, more)]


@pytest.fixture(scope="module")
def one(slices_folder, tmp_path_factory):
    """Run directory of a training on one device."""
    run = tmp_path_factory.mktemp("runs") / "one"
    done = run_script("train.py", *train_arguments(slices_folder, run))
    assert done.returncode == 0, done.stderr
    return run


def assert_like(one, other):
    """Both runs reached the same weights and the same losses, but for rounding."""
    for stage in ("vqvae", "draft", "prior"):
        for a, b in zip(
            *(
                keras.saving.load_model(run / f"{stage}.keras", compile=False).get_weights()
                for run in (one, other)
            ),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4)
        rows, others = (
            np.genfromtxt(run / f"{stage}_history.csv", delimiter=",", names=True, ndmin=1)
            for run in (one, other)
        )
        assert rows.dtype.names == others.dtype.names
        for name in set(rows.dtype.names) - {"seconds"}:
            np.testing.assert_allclose(
                rows[name], others[name], rtol=1e-4, err_msg=f"{stage} {name}"
            )


def mirrored(data, run, *more):
    command = [
        sys.executable,
        "-c",
        TWO_DEVICES,
        str(ROOT),
        *train_arguments(data, run, "--strategy", "mirrored", *more),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def start_workers(data, runs, *more):
    """Two workers of one training, with one run directory for both or one each."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in (first, second)]
    workers = []
    for index, run in enumerate(runs if isinstance(runs, tuple) else (runs, runs)):
        command = [
            sys.executable,
            ROOT / "train.py",
            *train_arguments(data, run, "--strategy", "multiworker", *more),
        ]
        config = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        )
        workers.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "TF_CONFIG": config},
            )
        )
    return workers


def finish(workers):
    """Wait for processes; returns them finished, as `run_script` does."""
    done = []
    for worker in workers:
        out, errors = worker.communicate(timeout=280)
        done.append(subprocess.CompletedProcess(worker.args, worker.returncode, out, errors))
    return done


def test_two_devices_train_the_same_models_as_one(one, slices_folder, tmp_path):
    done = mirrored(slices_folder, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout
    assert_like(one, tmp_path / "two")


def kill(victim, stage, data, run):
    """Start a training on two workers and kill one in a stage, as soon as a step of it was saved."""
    workers = start_workers(data, run, "--save-minutes", "0")
    deadline, state, first = time.monotonic() + 200, run / "resume" / f"{stage}.npz", None
    while all(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            first = first or state.stat().st_mtime_ns
            if state.stat().st_mtime_ns != first:
                break
        time.sleep(0.002)
    os.kill(workers[victim].pid, signal.SIGKILL)
    done = finish(workers)
    assert done[victim].returncode == -signal.SIGKILL, (
        "the training ended before it could be killed"
    )
    left = done[1 - victim]  # the chief may have shown its progress before
    assert left.returncode == 2 and "Traceback" not in left.stderr, left.stderr
    assert left.stderr.splitlines()[-1].startswith(
        "train.py: error: a worker was lost: start all of them again"
    )


def test_two_machines_train_the_same_models_as_one_also_when_one_was_lost(
    one, slices_folder, tmp_path
):
    run = tmp_path / "two"
    kill(0, "vqvae", slices_folder, run)
    chief, other = finish(start_workers(slices_folder, run))
    assert chief.returncode == 0 and other.returncode == 0, chief.stderr + other.stderr
    assert "prior: 0.00 M parameters, starts" in chief.stdout and other.stdout == ""
    assert_like(one, run)
    assert (
        not list((run / "resume").iterdir()) and len(list((run / "logs" / "prior").iterdir())) == 1
    )  # one of them writes


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_lost_in_each_stage_changes_nothing(victim, one, slices_folder, tmp_path):
    for stage in ("vqvae", "draft", "prior"):
        kill(victim, stage, slices_folder, tmp_path / "two")
        wrong = (
            finish(start_workers(slices_folder, (tmp_path / "two", tmp_path / "elsewhere")))
            if stage == "vqvae"
            else ()
        )
        assert all(
            "--run must be one folder that all machines share" in done.stderr
            or "a worker was lost" in done.stderr
            for done in wrong
        ), wrong
    chief, other = finish(start_workers(slices_folder, tmp_path / "two"))
    assert chief.returncode == 0 and other.returncode == 0, chief.stderr + other.stderr
    assert "vqvae: finished after 2 epochs" in chief.stdout
    assert_like(one, tmp_path / "two")


def test_what_cannot_be_shared_is_refused(slices_folder, tmp_path):
    one_line(
        mirrored(slices_folder, tmp_path / "run", "--batch-size", 5),
        "--batch-size must be divisible by the 2 replicas of --strategy mirrored",
    )
    for value in (
        None,
        "workers",
        '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 1}}',
    ):
        environment = {**os.environ, "TF_CONFIG": value} if value else os.environ
        done = run_script(
            "train.py",
            *train_arguments(slices_folder, tmp_path / "run", "--strategy", "multiworker"),
            env=environment,
        )
        one_line(done, "--strategy multiworker needs TF_CONFIG")
    assert not (tmp_path / "run").exists()


def take(batches):
    return [list(map(int, batch)) for batch in batches]


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_share_each_batch_in_order(replicas):
    def shares(share):
        return take(
            pipeline.training_batches(
                lambda index, mirror: index, 29, 8, seed=3, epoch=1, skip=1, share=share
            )
        )

    whole = shares((0, 1))
    assert len(whole) == 2
    assert [
        sum(parts, [])
        for parts in zip(*(shares((i, replicas)) for i in range(replicas)), strict=True)
    ] == whole


@pytest.mark.parametrize(
    "count, batch_size, replicas",
    [(9, 4, 1), (9, 8, 2), (17, 8, 2), (7, 4, 4), (4, 4, 4), (19, 6, 3), (5, 2, 2)],
)
def test_replicas_share_an_evaluation_in_equally_many_batches(count, batch_size, replicas):
    shares = [
        take(
            pipeline.evaluation_batches(
                lambda index, mirror: index, count, batch_size, share=(i, replicas)
            )
        )
        for i in range(replicas)
    ]
    assert len({len(share) for share in shares}) == 1 and all(
        batch for share in shares for batch in share
    )
    assert sum((sum(share, []) for share in shares), []) == list(range(count))
    if replicas == 1:
        assert [len(batch) for batch in shares[0]] == [4, 4, 1]


TWO_OPTIMIZERS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import utils
utils.import_tensorflow()
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import distribution

rows = tf.constant([0, 1, 1, 1, 2, 0, 1, 3])
for optimizer, strategy in ((keras.optimizers.Adam, tf.distribute.get_strategy()), (distribution.Adam, distribution.find("mirrored"))):
    with strategy.scope():
        table, dense = keras.layers.Embedding(4, 3, embeddings_initializer="ones"), keras.layers.Dense(2, kernel_initializer="ones")
        table.build(), dense.build((None, 3))
        variables = [*table.trainable_variables, *dense.trainable_variables]
        optimizer = optimizer(0.1, global_clipnorm=1.0)
        optimizer.build(variables)

    def step(weight):
        context = tf.distribute.get_replica_context()
        share = 8 // context.num_replicas_in_sync
        own = rows[context.replica_id_in_sync_group * share :][:share]
        with tf.GradientTape() as tape:
            loss = weight * tf.reduce_sum(dense(table(own)) * tf.cast(own + 1, "float32")[:, None] ** 2)
        optimizer.apply(tape.gradient(loss, variables), variables)

    for weight in (0.001, 10.0, 0.01, 0.1):  # not clipped, and clipped more or less: what Adam remembers of each step shows how much
        tf.function(lambda: strategy.run(step, args=(weight,)))()
    print(*(value for variable in variables for value in variable.numpy().ravel()))
"""


def test_two_devices_clip_as_one():
    """The norm of all replicas' gradients, looked-up rows and others, is what one device would have had."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_OPTIMIZERS, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    one, two = (np.array(line.split(), float) for line in done.stdout.splitlines())
    np.testing.assert_allclose(one, two, rtol=1e-4)
