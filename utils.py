"""What every script shares: errors for people, flags, progress, whole files and how they were made.

This file loads no TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import contextlib
import datetime
import errno
import gc
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import platform
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

# Keras imports these where they are installed, for functions that nothing here calls.
UNUSED_BY_KERAS = ("matplotlib", "pandas", "sklearn")
# Signals by which a cluster ends a job, but those that the system lacks.
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
PARTIAL_FILES = ".*.partial-*"  # glob pattern of what `replacing` leaves behind when it is killed
PROGRESS_DELAY = 5.0  # seconds; what is done sooner needs no bar
FORMER_VERSION = "version 1 in CHANGELOG.md"  # which wrote priors and files that this refuses
MAX_JSON_BYTES = 2**25
MAX_UNPACKED_BYTES = 2**31  # of an archive
MAX_NAME_LENGTH = 80
ROOT = pathlib.Path(__file__).resolve().parent
RESULTS = "benchmarks/results"  # files that a benchmark may have just written
PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "pillow", "nilearn")


class InputError(ValueError):
    """The user gave something that cannot be used.

    The message is one line: what, where, what to do.
    """


def refuse(problem: str) -> None:
    """Raise an `InputError`, where others may collect problems."""
    raise InputError(problem)


# ---- the command line --------------------------------------------------------------------------


@contextlib.contextmanager
def _closed_pipe_is_quiet():
    """End without a word, as other programs do, where the reader of a pipe has gone.

    Where a log file is on a full disk, end with one.
    """
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # which Python would do at its end, with a traceback
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be written
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        if not getattr(error.__context__, "code", 0):  # or an error was told already
            _complain(f"what it says cannot be written: {error}.")
        sys.exit(2)


@_closed_pipe_is_quiet()
def command_line(main: Callable, *args) -> None:
    """Run a script's `main` and turn what goes wrong into one line on stderr.

    An `InputError`, an error of the file system and a lack of memory end the process with status 2,
    a signal with 128 and its number: Ctrl-C with 130, SIGTERM with 143.

    Args:
        main: Function to run.
        *args: Its arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know only ASCII
    received = []

    def stop(number, _frame):
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, *ENDINGS):  # a job may have been told to ignore them
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)
    try:
        return main(*args)
    except (Exception, KeyboardInterrupt) as error:
        if received:  # then TensorFlow may have made another error of it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            name = signal.Signals(received[0]).name.replace("SIGINT", "Ctrl-C")
            message, status = f"stopped by {name}; what was finished is kept.", 128 + received[0]
        elif isinstance(error, InputError):
            message, status = str(error), 2
        elif isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            reason, name = error.strerror or error, error.filename or "no file named"
            message, status = f"{reason}: {name}. Check the path, its rights and the disk.", 2
        elif is_out_of_memory(error):
            message, status = "out of memory: end other programs that use it, or ask for less.", 2
        else:
            raise
    # Out of the block that holds the error, so that what TensorFlow still runs ends before Python.
    sys.exit(_complain(message, status))


def is_out_of_memory(error: Exception) -> bool | None:
    """Whether memory ended, also that of a GPU. The disk may be full by the same error."""
    text = f"{type(error).__name__} {error}"
    return re.search("(Memory|Exhausted)Error|out of memory", text) and "space left" not in text


def _complain(message, status=2):
    line = " ".join(str(message).split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    print(f"{pathlib.Path(sys.argv[0]).name}: error: {line}", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """Argument parser that answers a bad flag in one line and shows its description as it is."""

    def __init__(self, description=None, **options):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, **options)

    def error(self, message):
        sys.exit(_complain(f"{message} (--help lists all flags)"))

    exit = _closed_pipe_is_quiet()(argparse.ArgumentParser.exit)  # after --help


def between(kind: type, least: float, most: float, multiple: int = 1) -> Callable[[str], Any]:
    """Argument type: a number of `kind` from `least` to `most`, a multiple of `multiple`."""

    def number(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}. Received: {text}")
        if multiple > 1 and value % multiple:
            raise argparse.ArgumentTypeError(f"must be a multiple of {multiple}. Received: {text}")
        return value

    number.__name__ = kind.__name__  # argparse uses it to describe a text that is no number
    return number


def import_tensorflow() -> None:
    """Import TensorFlow and Keras with our settings and without notes, some of which obey no level.

    Settings of other projects, in the environment, in `keras.json` or of a notebook, do not count.
    `UNUSED_BY_KERAS` is hidden meanwhile, because it would take a third of the time.

    Raises:
        InputError: Keras was imported before, with another backend.
    """
    no_home = os.path.join(os.devnull, "keras")  # where no `keras.json` is
    os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": no_home}
    os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"  # weights lie in files that nobody else writes
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Without this variable processors without AVX-512 or VNNI have slower convolutions of Eigen.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.getLogger("tensorflow").addFilter(_is_no_retracing)  # which adds the same only once
    hidden = [name for name in UNUSED_BY_KERAS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None makes an import fail as if not installed
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        # It loads TensorFlow, which takes seconds. Scripts check their flags and files before.
        import keras  # noqa: PLC0415
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        for name in hidden:
            del sys.modules[name]
    if keras.config.backend() != "tensorflow":
        raise InputError("Keras runs on another backend here: import it after our modules.")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    gc.freeze()  # or garbage collections look through all of TensorFlow, which stays anyway


def _is_no_retracing(note):
    """Each size of a batch is traced once on purpose, because its shapes are static then."""
    return "retracing" not in note.getMessage()


def progress(
    items: Iterable, title: str, total: int | None = None, unit: str = "batch"
) -> Iterator:
    """Yield `items` and show a bar on stderr once `PROGRESS_DELAY` has passed.

    Args:
        items: What to go through.
        title: Name of the work, shown before the bar.
        total: Number of items, where `len(items)` does not tell it.
        unit: Name of one item.
    """
    pause = 0.1 if sys.stderr.isatty() else 10  # seconds between lines; a log file needs few
    options = {"leave": False, "delay": PROGRESS_DELAY, "mininterval": pause}
    yield from tqdm(items, title, total, unit=unit, **options)


def spread(count: int, most: int) -> np.ndarray:
    """Choose up to `most` of `count` things, spread evenly from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


# ---- files -------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path` that takes its place only when the block ends well.

    A reader sees the old file or the new one, never half of one. The suffix stays, because
    savers choose a format by it. The name cannot be guessed and the file is new, so that a link
    in a folder of a stranger leads nowhere.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial-{secrets.token_hex(8)}{path.suffix}")
    no_link = getattr(os, "O_NOFOLLOW", 0)  # Windows lacks it
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | no_link, 0o666))
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())  # a loss of power could leave the new name without its bytes
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_results(folder: str | os.PathLike, owned: Iterable[str]) -> Iterator[pathlib.Path]:
    """Yield an empty folder whose entries take the place of older results together.

    When the block ends well, the files of `folder` that `owned` names go, and the new ones come.
    When it does not, `folder` stays as it was.

    Args:
        folder: Where results are kept. Other entries in it are left alone.
        owned: Glob patterns of the files to replace, such as "samples/*.png".

    Raises:
        InputError: `folder`, or a folder in it that holds results, is a link or a file, or may not
            be written to.
    """
    folder, owned = pathlib.Path(folder), list(owned)
    parents = {str(parent) for pattern in owned for parent in pathlib.PurePath(pattern).parents}
    places = {folder / parent for parent in parents}
    places |= {place for parent in parents - {"."} for place in folder.glob(parent)}
    for place in sorted(places):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise InputError(
                f"{place} is a link or a file: remove it, results need a folder there."
            )
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".new-*"):
            if is_abandoned(leftover, leftover.name[len(".new-") :].rpartition("-")[0], 24 * 3600):
                shutil.rmtree(leftover, ignore_errors=True)
        staging = folder / f".new-{process_name()}-{secrets.token_hex(8)}"
        staging.mkdir()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise InputError(f"{folder} may not be written to: name another --out folder.") from None
    try:
        yield staging
        old = [entry for pattern in owned for entry in folder.glob(pattern)]
        new = [path for path in staging.rglob("*") if not path.is_dir()]
        moves = [(path, staging / secrets.token_hex(8)) for path in old]  # they go with it
        moves += [(path, folder / path.relative_to(staging)) for path in new]
        with signals_held(signal.SIGINT, *ENDINGS):
            for source, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


@contextlib.contextmanager
def signals_held(*numbers: int) -> Iterator[list[int]]:
    """Let signals wait until the block is through. Yield the list of those that came.

    To block them would not do: another thread would receive them, and this one would handle them.
    """
    received = []
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # no other thread may handle signals
    before = [signal.signal(number, lambda *came: received.append(came[0])) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def reading(path: str | os.PathLike, remedy: str) -> Iterator[None]:
    """Guard a block that reads a file which may come from a stranger.

    Readers of damaged files raise almost anything. Whatever it is becomes one line that names the
    file, the reason and the remedy.

    Args:
        path: The file.
        remedy: What the user can do about it.

    Raises:
        InputError: The block raised. An `InputError` of the block passes as it is.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is not there: {remedy}.") from None
    except PermissionError:
        raise InputError(f"{path} may not be read: ask its owner for the right to.") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        reason = f"it lacks {reason}" if isinstance(error, KeyError) else reason
        raise InputError(f"{path} cannot be read ({reason}): {remedy}.") from error


def open_archive(path: str | os.PathLike, limit: int = MAX_UNPACKED_BYTES) -> zipfile.ZipFile:
    """Open a zip archive, which `.npz` and `.keras` files are, before anything is unpacked.

    Raises:
        ValueError: It declares to unpack to more than `limit` bytes, or two entries have one name.
    """
    archive = zipfile.ZipFile(path)
    entries = archive.infolist()
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it has two entries of one name")
    if sum(entry.file_size for entry in entries) > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")
    return archive


def read_arrays(path: str | os.PathLike, remedy: str) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz` file by name. Nothing is unpickled.

    Args:
        path: The file, which may come from a stranger.
        remedy: What the user can do about a missing or damaged file.

    Raises:
        InputError: The file is missing or damaged.
    """
    with reading(path, remedy):
        open_archive(path).close()
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except MemoryError as error:  # all that it unpacks to is small, so its header is wrong
            raise ValueError(str(error)) from None
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
        return arrays


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write strict JSON. A number that is undefined (NaN) becomes null."""

    def strict(part):
        if isinstance(part, dict):
            return {name: strict(inner) for name, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [strict(inner) for inner in part]
        return None if isinstance(part, float) and math.isnan(part) else part

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(strict(value), indent=2, allow_nan=False) + "\n")


def read_json(
    path: str | os.PathLike,
    keys: Iterable[str] = (),
    advice: str = "the file is damaged, train into a new --run directory",
) -> Any:
    """Read JSON that a script wrote.

    Args:
        path: File to read.
        keys: Keys that the object must have.
        advice: What the user can do about a missing or damaged file.

    Raises:
        InputError: There is no such file, or it is damaged.
    """
    with reading(path, advice):
        if os.path.getsize(path) > MAX_JSON_BYTES:
            raise ValueError(f"it is longer than {MAX_JSON_BYTES} bytes")
        value = json.loads(pathlib.Path(path).read_text())
        for key in keys:
            value[key]
        return value


def clean_name(text: Any) -> str:
    """A name from a file of a stranger, fit for a terminal and a caption: printable and short."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return text if len(text) <= MAX_NAME_LENGTH else text[: MAX_NAME_LENGTH - 3] + "..."


# ---- how a result was made ---------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Say how this process makes its results. Call it early, because files may change.

    Returns:
        `command`, the command line; `commit` of the repository, or None where git or the
        repository is missing; `changed`, whether files differed from that commit; `date`, the time
        in UTC; `versions` of packages; and `processor`.
    """
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", f":!{RESULTS}")
    return {
        "command": command(sys.argv),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(changes),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "processor": _processor(),
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on."""
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **packages}


def command(arguments: Sequence[str]) -> str:
    """A command line as one could type it in the repository.

    Files of the repository are named from its root. Of other absolute paths only the last name
    stays, because nobody else has the folders above it.
    """
    words = ["python", _from_root(os.path.abspath(arguments[0]))]
    for argument in arguments[1:]:
        flag, value = re.fullmatch("(-.*=)?(.*)", argument, re.DOTALL).groups("")
        words.append(flag + (_from_root(value) if os.path.isabs(value) else value))
    return shlex.join(words)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def process_name() -> str:
    """Name of this process among those of all machines: `HOST-NUMBER`."""
    return f"{platform.node()}-{os.getpid()}"


def is_abandoned(path: pathlib.Path, process: str, seconds: float) -> bool:
    """Whether the process of that name ended, or did not touch a file for so many seconds."""
    host, _, number = process.rpartition("-")
    try:
        if host == platform.node() and os.name == "posix":
            os.kill(int(number), 0)
        return time.time() - path.stat().st_mtime > seconds
    except (OSError, ValueError, OverflowError) as error:  # the process or the file is gone
        return not isinstance(error, PermissionError)  # or it is another user's


def _processor():
    """Name of the processor and the number of its cores that this process may use."""
    with contextlib.suppress(OSError):
        name = re.search(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
        name = name[1].strip() if name else platform.machine()
        return f"{name}, {cores()} cores"
    return f"{platform.processor()}, {cores()} cores"


def _from_root(path):
    path = pathlib.Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _git(*arguments):
    """Answer of git, or None where there is none."""
    options = {"cwd": ROOT, "stderr": subprocess.DEVNULL, "text": True}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(["git", *arguments], **options).strip()
    return None
