"""Trainings that are processes of their own, because tests kill them or because they are several.

TensorFlow takes seconds to load. One process loads it, from which all trainings are forked.
"""

import functools
import gc
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import time

gc.disable()  # the import makes a million objects, which stay
import tensorflow as tf  # noqa: E402
import tensorflow_probability  # noqa: E402, F401  takes a second to load

import modules  # noqa: E402
import train  # noqa: E402
from fitting import loop, stages, start  # noqa: E402, F401
from utils import command_line  # noqa: E402

# A training makes and drops objects by the million, beside those of TensorFlow that stay. Looking
# through all of them for circles, again and again, takes a quarter of its time.
gc.freeze()
gc.set_threshold(100_000, 50, 50)
gc.enable()
# The time of a tiny training goes with the number of its layers.
SHALLOW = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
stages.VQVAE = functools.partial(modules.VQVAE, **SHALLOW)
# To optimize a graph takes longer than a tiny network takes to run it.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAUSE = 0.002  # seconds between two looks at a file
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["trainings"])
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"  # where it finds this module


class Training:
    """A training that runs.

    Args:
        folder: Empty folder for what it prints.
        flags: Flags of train.py.
        environment: Environment variables to set, or to remove where the value is None.
        devices: Number of logical devices into which its CPU is parted.
        file_bytes: Size past which its files may not grow, as on a disk that is full.
    """

    def __init__(self, folder, flags, environment=None, devices=1, file_bytes=None):
        self.files = [folder / "out", folder / "errors"]
        arguments = self.files, [*map(str, flags)], environment or {}, devices, file_bytes
        self.process = FORKING.Process(target=_train, args=arguments)
        self.process.start()

    @property
    def status(self):
        """Its status, or None while it runs."""
        return self.process.exitcode

    def send(self, number):
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def wait_for(self, path, times=1):
        """Wait until it has written a file so many times."""
        last = _version(path)
        while times:
            assert self.status is None, "the training ended too early"
            time.sleep(PAUSE)
            now = _version(path)
            if now not in (last, None):
                last, times = now, times - 1

    def wait_for_text(self, text):
        """Wait until it has printed a text."""
        while not (self.files[0].exists() and text in self.files[0].read_text()):
            assert self.status is None, "the training ended too early"
            time.sleep(PAUSE)

    def finish(self, timeout=300):
        """Wait for its end and return it finished, as `subprocess.run` would."""
        self.process.join(timeout)
        if self.status is None:
            raise subprocess.TimeoutExpired("train.py", timeout)
        out, errors = (file.read_text() if file.exists() else "" for file in self.files)
        return subprocess.CompletedProcess("train.py", self.status, out, errors)


def _version(path):
    return path.stat().st_mtime_ns if path.exists() else None


def _train(files, flags, environment, devices, file_bytes):
    """Run train.py in a new process, with its environment, devices and limits."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.setsid()  # so that a signal to the tests is none to it
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if devices > 1:
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.argv = ["train.py", *flags]
    command_line(lambda: train.main(train.parse(flags)))
