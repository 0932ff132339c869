"""Write the figures of a benchmark with all that is needed to make them again."""

import contextlib
import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from house import ROOT

# isort: split
from fitting.run_directory import versions
from utils import write_json

RESULTS = "benchmarks/results"  # files that a benchmark may have just written
START = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write(path: str | os.PathLike, report: dict[str, Any]) -> None:
    """Write the figures of a benchmark as JSON, and under `made` how they were made.

    `made` holds the command line, the commit of the repository, whether its files differed from
    that commit, versions of packages, the processor, and the time in UTC at which the process
    began.

    Args:
        path: File to write.
        report: The figures.
    """
    made = {
        "command": command(sys.argv),
        "commit": COMMIT,
        "changed": CHANGED,
        "date": START,
        "versions": versions(),
        "processor": processor(),
    }
    write_json(path, {"made": made, **report})


def command(arguments: Sequence[str]) -> str:
    """A command line as one could type it in the repository.

    Files of the repository are named from its root. Of other absolute paths only the last name
    stays, because nobody else has the folders above it.
    """
    parts = [_from_root(arguments[0], pathlib.Path.cwd())]
    for argument in arguments[1:]:
        flag, equals, value = (
            argument.rpartition("=") if argument[:1] == "-" else ("", "", argument)
        )
        parts.append(flag + equals + (_from_root(value) if os.path.isabs(value) else value))
    return shlex.join(["python", *parts])


def processor() -> str:
    """Name of the processor and the number of its cores that this process may use."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{(*names, platform.machine())[0]}, {len(os.sched_getaffinity(0))} cores"
    return f"{platform.processor()}, {os.cpu_count()} cores"


def _from_root(argument, folder=ROOT):
    path = pathlib.Path(folder, argument).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _git(*arguments):
    """Answer of git, or None where there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# They are asked when the process begins: a benchmark may take hours, and the files may change.
COMMIT = _git("rev-parse", "HEAD")
CHANGED = bool(_git("status", "--porcelain", "--untracked-files=no", "--", f":!{RESULTS}"))
