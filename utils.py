"""What both scripts share: errors for people, the run directory, the device and its precision."""

import _thread
import argparse
import contextlib
import csv
import json
import math
import os
import pathlib
import platform
import signal
import sys
import time

MOST_SUBJECTS = 10**4  # of a synthetic cohort
UNUSED = ("matplotlib", "pandas", "sklearn")  # what Keras imports where it is installed, for functions that nothing here calls


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line: what, where, what to do."""


def command_line(main, *args):
    """Run a script's `main`; an `InputError` or a full disk ends it with one line on stderr and exit status 2, Ctrl-C with 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored, as by a job in the background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        main(*args)
    except InputError as error:
        sys.exit(_complain(error))
    except OSError as error:
        sys.exit(_complain(f"{error.strerror or error}: {error.filename or 'no file named'}. Check the path, its rights and the disk."))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(_complain("stopped by Ctrl-C; what was finished is kept.", status=130))


def _interrupt(number, frame):
    """Raise `KeyboardInterrupt`, and again until it is heard: one that falls into a destructor or a callback is lost there."""
    sys.unraisablehook = lambda lost: None  # and that it was lost is no news to the user
    _thread.start_new_thread(_remind, ())  # takes no lock that what was interrupted may hold
    raise KeyboardInterrupt


def _remind():
    time.sleep(5)  # for what must be cleared up on the way out
    signal.raise_signal(signal.SIGINT)


class Parser(argparse.ArgumentParser):
    """Argument parser that answers a bad flag in one line, like every other error, and shows the docstring it is given."""

    def __init__(self, description=None, **options):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message):
        sys.exit(_complain(f"{message} (--help lists all flags)"))


def between(kind, least, most):
    """Argument type: a number of `kind` from `least` to `most`."""

    def number(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}. Received: {text}")
        return value

    number.__name__ = kind.__name__  # what argparse calls a text that is no number
    return number


def import_tensorflow():
    """Import TensorFlow and Keras without start-up notes, which are no news to the user and of which some obey no log level, and
    without `UNUSED`, which would take a third of the time."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import fail as if it were not installed
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        for name in hidden:
            del sys.modules[name]


def _complain(message, status=2):
    print(f"{pathlib.Path(sys.argv[0]).name}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return status


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` that takes its place only when the block ends well.

    A reader sees the old file or the new one, never half of one. The suffix stays, since savers go by it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())  # or a loss of power could leave the new name on old or no bytes
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    """Write strict JSON; a figure that could not be had (NaN) is null."""

    def strict(part):
        if isinstance(part, dict):
            return {name: strict(inner) for name, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [strict(inner) for inner in part]
        return None if isinstance(part, float) and math.isnan(part) else part

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(strict(value), indent=2, allow_nan=False) + "\n")


def read_json(path, keys=(), advice="the file is damaged, train into a new --run directory"):
    """Parsed JSON of a file a script wrote, an object with these keys if any are given.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there: is {path.parent} the --run directory of a training?")
    try:
        found = json.loads(path.read_text())
        for key in keys:
            found[key]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no readable JSON, or lacks something ({error}): {advice}.") from None
    return found


def write_history(path, rows):
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_history(path):
    """Rows of a history CSV, one dict of numbers an epoch; none where the file is not there.

    Raises:
        InputError: the file is damaged.
    """
    if not pathlib.Path(path).is_file():
        return []
    try:
        with open(path, newline="") as file:
            return [{name: int(value) if name == "epoch" else float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or train into a new --run directory.") from None


@contextlib.contextmanager
def claimed(directory, config):
    """Hold `directory` as the run directory of `config`, alone, for as long as the block lasts.

    Raises:
        InputError: another process holds it, or it holds a run of other settings, which are listed, or something that is no run.
    """
    import filelock

    directory, path = pathlib.Path(directory), pathlib.Path(directory) / "config.json"
    lock = filelock.FileLock(directory / ".lock")
    if directory.exists() and not path.exists() and (not directory.is_dir() or any(entry.name[0] != "." for entry in directory.iterdir())):
        raise InputError(f"{directory} exists and is no run directory: name another --run directory.")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"{directory} is held by another training: wait for its end, or name another --run directory.") from None
    try:
        if path.exists():
            before = read_config(directory)
            old, new = ({**c["settings"], "data fingerprint": c["data"]["fingerprint"]} for c in (before, config))
            differences = [f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
            if differences:
                raise InputError(f"{directory} holds a run of other settings ({'; '.join(differences)}): "
                                 "repeat its settings to continue it, or name another --run directory.")
        else:
            write_json(path, config)
        yield
    finally:
        lock.release()


def read_config(directory):
    """`config.json` of a run directory, with what every version of it holds.

    Raises:
        InputError: it is missing, damaged or of another version.
    """
    path = pathlib.Path(directory) / "config.json"
    config = read_json(path)
    try:
        config["settings"].items(), config["data"]["fingerprint"], config["data"]["name"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is of another version of this project: train into a new --run directory.") from None
    return config


def versions():
    """Versions of what a run's numbers depend on."""
    from importlib.metadata import version

    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy", "pillow", "nilearn")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def device():
    """`("GPU" | "CPU", name)` of what TensorFlow will compute on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return "GPU", tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)
    return "CPU", f"{os.cpu_count()} cores"


def use_precision(choice):
    """Let Keras build models at a `--precision` choice, and return it: `float32`, or `bfloat16` with weights in float32."""
    import keras

    kind = _native_precision() if choice == "auto" else choice
    keras.config.set_dtype_policy("mixed_bfloat16" if kind == "bfloat16" else "float32")
    return kind


def restart_keras(precision):
    """Begin what must be exact as a new process would: Keras numbers layers through a process, and TensorFlow orders sums by
    the names of layers, so that what ran before would change the last bits. `precision` is what `use_precision` returned."""
    import keras

    keras.utils.clear_session()  # forgets the policy too
    use_precision(precision)


def _native_precision():
    """`bfloat16` where the hardware multiplies it natively."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        native = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0)) >= (8, 0)
    else:
        cpuinfo = pathlib.Path("/proc/cpuinfo")
        flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
        native = "avx512_bf16" in flags or "amx_bf16" in flags
    return "bfloat16" if native else "float32"
