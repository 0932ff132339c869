"""What clusters and other systems do: no locks, little memory, other cores, signals, kills."""

import errno
import fcntl
import json
import os
import pathlib
import platform
import signal
import sys
import time

import filelock
import pytest
import tensorflow as tf
from shared import one_line, train

import utils
from fitting import devices, loop, run_directory
from fitting.run_directory import RunDirectory, claimed
from fitting.settings import Settings
from sources import images
from utils import InputError

OOM = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor on device:GPU:0")
DEAD = 2**22 + 1  # no process has a larger number


def config_of(cores=2, **settings):
    data = {"name": "a", "fingerprint": "f"}
    return {"settings": Settings(**settings), "data": data, "versions": {}, "cores": cores}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture(params=[*run_directory.NO_LOCKS, None])
def no_locks(monkeypatch, request):
    if not request.param:
        return monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


# ---- locks -------------------------------------------------------------------------------------


def test_without_locks_a_training_holds_its_run_with_one_warning(run, no_locks, capsys):
    with claimed(run, config_of()):
        assert capsys.readouterr().out.count("WARNING") == 1
        with pytest.raises(InputError, match="is held by another training"):
            with claimed(run, config_of()):
                pass
        holder = run.path / ".holder"
        assert holder.read_text() == f"{platform.node()}-{os.getpid()}"
    assert not holder.exists()


@pytest.mark.parametrize("holder, age, is_held", [
    ("node7-12", 10, True), ("", 10, True), ("node7-12", 1000, False), ("", 1000, False),
    (f"{platform.node()}-{os.getpid()}", 10, True), (f"{platform.node()}-{DEAD}", 10, False),
], ids=range(6))  # fmt: skip
def test_a_lock_file_holds_while_it_is_fresh(holder, age, is_held, tmp_path):
    file = tmp_path / ".holder"
    file.write_text(holder)
    os.utime(file, (time.time() - age,) * 2)
    if is_held:
        with pytest.raises(InputError, match="held"), run_directory._lock_file(file, "It is held."):
            pass
    else:
        with run_directory._lock_file(file, "It is held."):
            assert file.read_text() == utils.process_name()


def test_a_lock_file_is_touched_while_its_training_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "BEAT", 0.01)
    with run_directory._lock_file(tmp_path / ".holder", "It is held."):
        os.utime(tmp_path / ".holder", (0, 0))
        time.sleep(0.2)
        assert (tmp_path / ".holder").stat().st_mtime > 0


def test_locks_are_used_where_there_are_some(run, capsys):
    run.path.mkdir()
    with filelock.FileLock(run.path / ".lock"):
        with pytest.raises(InputError, match="held"), claimed(run, config_of()):
            pass
    with claimed(run, config_of()):
        assert not (run.path / ".holder").exists() and not capsys.readouterr().out


# ---- memory, and functions that a system lacks ---------------------------------------------------


@pytest.mark.parametrize("error", [OOM, MemoryError()])
def test_out_of_memory_is_one_line(error, slices_folder, tmp_path, monkeypatch):
    def step(*_):
        raise error

    monkeypatch.setattr(loop._Fit, "_train", step)
    done = train(slices_folder, tmp_path / "run")
    one_line(done, "out of memory", "--batch-size 4", "--width 8", "--prior-width 8")
    assert ("GPU may be shared" in done.stderr) == isinstance(error, tf.errors.OpError)


def test_a_file_that_memory_cannot_hold_is_not_called_damaged():
    with pytest.raises(MemoryError), utils.reading("a.npz", "train again"):
        raise MemoryError
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    assert not utils.is_out_of_memory(full)


def test_functions_that_a_system_lacks_are_done_without(tmp_path, monkeypatch):
    for name in ("O_NOFOLLOW", "sched_getaffinity", "posix_fallocate", "sysconf"):
        monkeypatch.delattr(os, name)
    utils.write_json(tmp_path / "a.json", 1)
    assert utils.provenance()["processor"].endswith(f"{os.cpu_count()} cores")
    assert images.allocate_images(2, 8).shape == (2, 8, 8)
    monkeypatch.setattr(os, "sysconf", lambda name: 0, raising=False)
    assert images.allocate_images(2, 8).sum() == 0  # in a file


# ---- other cores, another precision ------------------------------------------------------------


def test_other_cores_are_warned_of_once(run, capsys):
    for cores, warnings in ((2, 0), (3, 1), (3, 0), (None, 0), (3, 0)):
        with claimed(run, config_of(cores)):
            assert capsys.readouterr().out.count("WARNING") == warnings
        assert json.loads(run.config.read_text())["cores"] == cores


def test_another_precision_names_its_flag(run):
    with claimed(run, config_of(precision="bfloat16")):
        pass
    with pytest.raises(InputError, match="with --precision bfloat16, to continue"):
        with claimed(run, config_of(precision="float32")):
            pass


# ---- signals and kills -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, is_faster",
    [
        ("GenuineIntel avx512_bf16", False),  # half the speed of float32
        ("GenuineIntel avx512_bf16 amx_bf16", True),
        ("AuthenticAMD avx512_bf16", True),
        ("AuthenticAMD avx2", False),
    ],
)
def test_bfloat16_is_for_processors_that_gain_by_it(words, is_faster):
    assert devices.multiplies_bfloat16(words) is is_faster


def test_signals_save_at_the_next_step(eager_steps, slices_folder, tmp_path, monkeypatch):
    """Within an epoch of three steps, and at its end."""
    run, check, steps = RunDirectory(tmp_path), loop._Fit._check_finite, []
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # that of an earlier script
    for number, step in ((signal.SIGUSR1, 0), (signal.SIGTERM, 2)):

        def signalled(fit, what, value, number=number, step=step):
            steps.append(fit.step)
            if fit.step == step:
                signal.raise_signal(number)
            check(fit, what, value)

        monkeypatch.setattr(loop._Fit, "_check_finite", signalled)
        done = train(slices_folder, run.path)
        end = f"train.py: error: stopped by {number.name}; what was finished is kept.\n"
        assert done.returncode == 128 + number and done.stderr == end
    signal.signal(signal.SIGUSR1, before)
    assert steps == [0, 1, 2, 3] and "continues after step 2," in done.stdout
    assert len(run_directory.read_history(run.history("vqvae"))) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    me = utils.process_name()
    for name in (f"{platform.node()}-{DEAD}-ab", f"{me}-ab", "node7-12-ab"):
        (tmp_path / f".new-{name}").mkdir()
    with utils.replacing_results(tmp_path, ["*.txt"]) as folder:
        left = {path.name for path in tmp_path.iterdir()} - {folder.name}
    assert left == {f".new-{me}-ab", ".new-node7-12-ab"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_results_without_the_right_to_write_name_out(tmp_path, monkeypatch, code):
    def refuse(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    folder = tmp_path / "run" / "predict"
    with pytest.raises(InputError, match="predict may not be written to: name another --out"):
        with utils.replacing_results(folder, ["*.txt"]):
            pass
