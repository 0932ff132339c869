"""Trainings that are processes of their own, because tests kill them or because they are several.

TensorFlow takes seconds to load. One process, this file as a script, loads it and begins nothing.
Each training is forked from it, so it is as new as any other process, and starts at once. For each
line of standard input, a JSON object, it forks a training whose parent notes how it ended.
"""

import gc
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAUSE = 0.002  # seconds between two looks at a file


class Trainings:
    """The process from which trainings are forked.

    Args:
        folder: Folder for what trainings print and how they end.
    """

    def __init__(self, folder):
        self.folder, self.count = pathlib.Path(folder), 0
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def start(self, data, run, *flags, environment=None, devices=1, file_bytes=None):
        """Start a training and return it.

        Args:
            data: Data folder.
            run: Run directory.
            flags: More flags of train.py.
            environment: Environment variables to set, or to remove where the value is None.
            devices: Number of logical devices into which its CPU is parted.
            file_bytes: Size past which its files may not grow, as on a disk that is full.
        """
        self.count += 1
        place = self.folder / str(self.count)
        place.mkdir()
        order = {
            "place": str(place),
            "flags": list(map(str, ("--data", data, "--run", run, *flags))),
            "environment": environment or {},
            "devices": devices,
            "file_bytes": file_bytes,
        }
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return Training(place)

    def close(self):
        """End the process."""
        self.process.communicate()


class Training:
    """A training, as `subprocess.Popen` would show it."""

    def __init__(self, place):
        self.place = place
        self.pid = int(self._wait_for("pid", None))

    def poll(self):
        """Its status, or None while it runs."""
        path = self.place / "status"
        return int(path.read_text()) if path.exists() else None

    @property
    def returncode(self):
        """Its status."""
        return self.poll()

    def send_signal(self, number):
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self):
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """Wait for its end and return what it printed."""
        self._wait_for("status", timeout)
        return tuple((self.place / name).read_text() for name in ("out", "errors"))

    def finish(self, timeout=None):
        """Wait for its end and return it finished, as `subprocess.run` would."""
        out, errors = self.communicate(timeout)
        return subprocess.CompletedProcess("train.py", self.returncode, out, errors)

    @property
    def stdout(self):
        """Lines as they come, until it ends."""
        self._wait_for("out", None)
        with open(self.place / "out") as file:
            line = ""
            while True:
                has_ended = self.poll() is not None
                line += file.readline()
                if line.endswith("\n"):
                    yield line
                    line = ""
                elif has_ended:
                    return
                else:
                    time.sleep(PAUSE)

    def _wait_for(self, name, timeout):
        path, deadline = self.place / name, time.monotonic() + (timeout or 600)
        while not path.exists():
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.place), timeout)
            time.sleep(PAUSE)
        return path.read_text()


def serve():
    """Load TensorFlow, then fork a training for each line of standard input."""
    sys.path.insert(0, str(ROOT))
    import utils

    utils.import_tensorflow()
    import tensorflow_probability  # noqa: F401  priors need it, and it takes a second to load

    import train
    from fitting import codes, device, stages, start, strategies, trainer  # noqa: F401

    # As in conftest.py. What is frozen is shared by all trainings, and never looked through.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(watch(train, utils, **json.loads(line)))


def watch(train, utils, place, flags, environment, devices, file_bytes):
    """Fork the training itself, and note how it ends."""
    place = pathlib.Path(place)
    training = os.fork()
    if training:
        note(place / "pid", training)
        _, status = os.waitpid(training, 0)
        note(place / "status", os.waitstatus_to_exitcode(status))
        return 0
    os.setsid()  # so that a signal to the tests is none to it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
    prepare(environment, devices, file_bytes)
    sys.argv = ["train.py", *flags]
    utils.command_line(lambda: train.main(train.parse(flags)))
    sys.stdout.flush()
    return 0


def prepare(environment, devices, file_bytes):
    """Give a new process its environment, devices and limits, before TensorFlow looks for them."""
    import tensorflow as tf

    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if devices > 1:
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def note(path, number):
    """Write a number to a file that appears whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(str(number))
    partial.replace(path)


if __name__ == "__main__":
    serve()
