"""Several replicas do what one does: on two logical devices of one process, and on two processes.

The two processes talk to each other, as two machines would.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT, STAGES, TINY, once_for_all_workers, one_line, run_script

import dataset

# A batch of 4 goes in shares of 2. With dropout, replicas would draw other masks than one.
SETTINGS = [*TINY, *STAGES, "--prior-dropout", "0", "--texture-epochs", "0"]
TWO_DEVICES = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import utils
utils.import_tensorflow()
import tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(device, halves)
"""


def train_arguments(data, run, *more):
    return ["--data", str(data), "--run", str(run), *SETTINGS, *map(str, more)]


@pytest.fixture(scope="module")
def one(slices_folder, trainings, tmp_path_factory):
    """Run directory of a training on one device.

    It is a process, because `--deterministic` cannot be taken back. On a CPU it changes no bit.
    """
    with once_for_all_workers(tmp_path_factory, "one") as (run, is_there):
        if not is_there:
            done = trainings.start(slices_folder, run, *SETTINGS, "--deterministic").finish()
            assert done.returncode == 0, done.stderr
    return run


def assert_like(one, other):
    """Check that both runs reached the same weights and the same losses, but for rounding."""
    for stage in ("vqvae", "draft", "prior"):
        models = [
            keras.saving.load_model(run / f"{stage}.keras", compile=False) for run in (one, other)
        ]
        for a, b in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4)
        files = [run / f"{stage}_history.csv" for run in (one, other)]
        rows, others = (np.genfromtxt(f, delimiter=",", names=True, ndmin=1) for f in files)
        assert rows.dtype.names == others.dtype.names
        for name in set(rows.dtype.names) - {"seconds"}:
            message = f"{stage} {name}"
            np.testing.assert_allclose(rows[name], others[name], rtol=1e-4, err_msg=message)


# ---- two devices -------------------------------------------------------------------------------


def on_two_devices(code, *arguments):
    command = [sys.executable, "-c", TWO_DEVICES + code, str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def mirrored(trainings, data, run, *more):
    flags = *SETTINGS, "--strategy", "mirrored", *more
    return trainings.start(data, run, *flags, devices=2).finish()


@pytest.mark.slow
def test_two_devices_train_the_same_models_as_one(one, trainings, slices_folder, tmp_path):
    done = mirrored(trainings, slices_folder, tmp_path / "two", "--texture-epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout
    assert_like(one, tmp_path / "two")
    assert (tmp_path / "two" / "texture.keras").is_file()


TWO_OPTIMIZERS = """
import keras
from fitting import strategies

rows = tf.constant([0, 1, 1, 1, 2, 0, 1, 3])
replicated = strategies.Adam, strategies.find("mirrored")
for make, strategy in ((keras.optimizers.Adam, tf.distribute.get_strategy()), replicated):
    with strategy.scope():
        table = keras.layers.Embedding(4, 3, embeddings_initializer="ones")
        dense = keras.layers.Dense(2, kernel_initializer="ones")
        table.build()
        dense.build((None, 3))
        variables = [*table.trainable_variables, *dense.trainable_variables]
        optimizer = make(0.1, global_clipnorm=1.0)
        optimizer.build(variables)

    def step(weight):
        context = tf.distribute.get_replica_context()
        share = 8 // context.num_replicas_in_sync
        own = rows[context.replica_id_in_sync_group * share :][:share]
        with tf.GradientTape() as tape:
            scale = tf.cast(own + 1, "float32")[:, None] ** 2
            loss = weight * tf.reduce_sum(dense(table(own)) * scale)
        optimizer.apply(tape.gradient(loss, variables), variables)

    # Not clipped, and clipped more or less: what Adam remembers of each step shows how much.
    for weight in (0.001, 10.0, 0.01, 0.1):
        tf.function(lambda: strategy.run(step, args=(weight,)))()
    print(*(value for variable in variables for value in variable.numpy().ravel()))
"""


def test_two_devices_clip_as_one():
    """The norm is that of all replicas' gradients, of looked-up rows and of others."""
    done = on_two_devices(TWO_OPTIMIZERS)
    assert done.returncode == 0, done.stderr
    one, two = (np.array(line.split(), float) for line in done.stdout.splitlines())
    np.testing.assert_allclose(one, two, rtol=1e-4)


# ---- two machines ------------------------------------------------------------------------------


def start_workers(trainings, data, runs, *more):
    """Two workers of one training, with one run directory for both or one each."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    workers = []
    for index, run in enumerate(runs if isinstance(runs, tuple) else (runs, runs)):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        flags = *SETTINGS, "--strategy", "multiworker", *more
        workers.append(trainings.start(data, run, *flags, environment={"TF_CONFIG": config}))
    return workers


def finish(workers):
    """Wait for processes; returns them finished, as `run_script` does."""
    return [worker.finish(timeout=280) for worker in workers]


def kill(trainings, victim, stage, data, run):
    """Start a training on two workers and kill one in a stage, once a step of it was saved."""
    workers = start_workers(trainings, data, run, "--save-minutes", "0")
    deadline, state, first = time.monotonic() + 200, run / "resume" / f"{stage}.npz", None
    while all(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            first = first or state.stat().st_mtime_ns
            if state.stat().st_mtime_ns != first:
                break
        time.sleep(0.002)
    workers[victim].kill()
    done = finish(workers)
    ended = "the training ended before it could be killed"
    assert done[victim].returncode == -signal.SIGKILL, ended
    left = done[1 - victim]  # the chief may have shown its progress before
    assert left.returncode == 2 and "Traceback" not in left.stderr, left.stderr
    assert left.stderr.splitlines()[-1].startswith(
        "train.py: error: a worker was lost: start all of them again"
    )


@pytest.mark.slow
def test_two_machines_train_the_same_models_as_one_also_when_one_was_lost(
    one, trainings, slices_folder, tmp_path
):
    """A worker is lost in each stage: the chief in the first and the last."""
    run = tmp_path / "two"
    kill(trainings, 0, "vqvae", slices_folder, run)
    for wrong in finish(start_workers(trainings, slices_folder, (run, tmp_path / "elsewhere"))):
        lost = "a worker was lost" in wrong.stderr
        message = "--run must be one folder that all machines share"
        assert lost or message in wrong.stderr, wrong
    for victim, stage in ((1, "draft"), (0, "prior")):
        kill(trainings, victim, stage, slices_folder, run)
    chief, other = finish(start_workers(trainings, slices_folder, run))
    assert chief.returncode == 0 and other.returncode == 0, chief.stderr + other.stderr
    assert "vqvae: finished after 2 epochs" in chief.stdout and other.stdout == ""
    assert_like(one, run)
    assert not list((run / "resume").iterdir())
    # One of them writes: a file of figures for each of the two starts of the last stage.
    assert len(list((run / "logs" / "prior" / "train").iterdir())) == 2


# ---- sharing -----------------------------------------------------------------------------------

CLUSTERS = (
    None,
    "workers",
    '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 1}}',
    '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}',
)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_that_is_none_is_refused(cluster, slices_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if cluster:
        monkeypatch.setenv("TF_CONFIG", cluster)
    arguments = train_arguments(slices_folder, tmp_path / "run", "--strategy", "multiworker")
    one_line(run_script("train.py", *arguments), "--strategy multiworker needs TF_CONFIG")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_is_refused(trainings, slices_folder, tmp_path):
    done = mirrored(trainings, slices_folder, tmp_path / "run", "--batch-size", 5)
    one_line(done, "--batch-size must be divisible by the 2 replicas of --strategy")
    assert not (tmp_path / "run").exists()


def take(batches):
    return [list(map(int, batch)) for batch in batches]


def index_of(index, mirror, chance=None):
    return index


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_share_each_batch_in_order(replicas):
    def shares(share):
        options = {"seed": 3, "epoch": 1, "skip": 1, "share": share}
        return take(dataset.training_batches(index_of, 29, 8, **options))

    whole = shares((0, 1))
    assert len(whole) == 2
    parts = zip(*(shares((i, replicas)) for i in range(replicas)), strict=True)
    assert [sum(part, []) for part in parts] == whole


@pytest.mark.parametrize(
    "count, batch_size, replicas",
    [(9, 4, 1), (9, 8, 2), (17, 8, 2), (7, 4, 4), (4, 4, 4), (19, 6, 3), (5, 2, 2)],
)
def test_replicas_share_an_evaluation_in_equally_many_batches(count, batch_size, replicas):
    shares = [
        take(dataset.evaluation_batches(index_of, count, batch_size, share=(i, replicas)))
        for i in range(replicas)
    ]
    assert len({len(share) for share in shares}) == 1
    assert all(batch for share in shares for batch in share)
    assert sum((sum(share, []) for share in shares), []) == list(range(count))
    if replicas == 1:
        assert [len(batch) for batch in shares[0]] == [4, 4, 1]
