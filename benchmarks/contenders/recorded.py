"""Write the figures of a benchmark with all that is needed to make them again."""

import os
from typing import Any

import house  # noqa: F401  opens the repository

# isort: split
from utils import provenance, write_json

# It is asked when the process begins: a benchmark may take hours, and the files may change.
MADE = provenance()


def write(path: str | os.PathLike, report: dict[str, Any]) -> None:
    """Write the figures of a benchmark as JSON, and under `made` what `provenance` says.

    Args:
        path: File to write.
        report: The figures.
    """
    write_json(path, {"made": MADE, **report})
