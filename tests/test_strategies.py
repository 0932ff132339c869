"""Several replicas do what one does: on two logical devices of one process, and on two processes.

The two processes talk to each other, as two machines would.
"""

import json
import signal
import socket
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from shared import STAGES, TINY, once_for_all_workers, one_line, run_script

import dataset
from fitting import devices
from fitting.run_directory import RunDirectory
from utils import InputError

# A batch of 4 goes in shares of 2. Gradients are clipped in most steps. With dropout, replicas
# would draw other masks than one.
SETTINGS = [*TINY, *STAGES, "--prior-dropout", "0", "--texture-epochs", "0"]


@pytest.fixture(scope="module")
def one(slices_folder, start_training, tmp_path_factory):
    """Run directory of a training on one device.

    It is a process, because `--deterministic` cannot be taken back. On a CPU it changes no bit.
    """
    with once_for_all_workers(tmp_path_factory, "one") as (run, is_there):
        if not is_there:
            done = start_training(slices_folder, run, *SETTINGS, "--deterministic").finish()
            assert done.returncode == 0, done.stderr
    return run


def assert_like(one, other):
    """Check that both runs reached the same weights and the same losses, but for rounding."""
    runs = RunDirectory(one), RunDirectory(other)
    for stage in ("vqvae", "first_prior", "prior"):
        models = [keras.saving.load_model(run.model(stage), compile=False) for run in runs]
        for a, b in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4)
        files = [run.history(stage) for run in runs]
        rows, others = (np.genfromtxt(f, delimiter=",", names=True, ndmin=1) for f in files)
        assert rows.dtype.names == others.dtype.names
        for name in set(rows.dtype.names) - {"seconds"}:
            message = f"{stage} {name}"
            np.testing.assert_allclose(rows[name], others[name], rtol=1e-4, err_msg=message)


# ---- two devices -------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_devices_train_the_same_models_as_one(one, start_training, slices_folder, tmp_path):
    flags = *SETTINGS, "--texture-epochs", 1, "--strategy", "mirrored"
    done = start_training(slices_folder, tmp_path / "two", *flags, devices=2).finish()
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout
    assert_like(one, tmp_path / "two")
    assert (tmp_path / "two" / "texture.keras").is_file()


# ---- two machines ------------------------------------------------------------------------------


def start_workers(start_training, data, runs, *more):
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
        workers.append(start_training(data, run, *flags, environment={"TF_CONFIG": config}))
    return workers


def kill(start_training, victim, stage, data, run):
    """Start a training on two workers and kill one in a stage, once a step of it was saved."""
    workers = start_workers(start_training, data, run, "--save-minutes", "0")
    workers[0].wait_for(RunDirectory(run).state(stage), times=2)
    workers[victim].send(signal.SIGKILL)
    done = [worker.finish() for worker in workers]
    assert done[victim].returncode == -signal.SIGKILL
    left = done[1 - victim]  # the chief may have shown its progress before
    assert left.returncode == 2 and "Traceback" not in left.stderr, left.stderr
    assert left.stderr.splitlines()[-1].startswith(
        "train.py: error: a worker was lost: start all of them again"
    )


@pytest.mark.slow
def test_two_machines_train_the_same_models_as_one_also_when_one_was_lost(
    one, start_training, slices_folder, tmp_path
):
    """The chief is lost in the first stage, and the other in the last."""
    run = tmp_path / "two"
    kill(start_training, 0, "vqvae", slices_folder, run)
    for wrong in start_workers(start_training, slices_folder, (run, tmp_path / "elsewhere")):
        errors = wrong.finish().stderr
        message = "--run must be one folder that all machines share"
        assert "a worker was lost" in errors or message in errors
    kill(start_training, 1, "prior", slices_folder, run)
    workers = start_workers(start_training, slices_folder, run)
    chief, other = (worker.finish() for worker in workers)
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
    arguments = "--data", slices_folder, "--run", tmp_path / "run", "--strategy", "multiworker"
    done = run_script("train.py", *arguments)
    one_line(done, "TF_CONFIG in the environment cannot be read", "--strategy multiworker needs")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size, validation_count, words", [
    (5, 4, "--batch-size must be divisible by the 2 replicas of --strategy"),
    (4, 1, "more than there are validation images"),
])  # fmt: skip
def test_what_replicas_cannot_share_is_refused(batch_size, validation_count, words):
    with pytest.raises(InputError, match=words):
        devices.check_shares(SimpleNamespace(num_replicas_in_sync=2), batch_size, validation_count)


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
