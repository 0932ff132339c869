"""One more scan for a run: a folder of slices, or a volume that is sliced as the set was."""

import dataclasses
import os
import pathlib
import tempfile

from sources import conversion
from sources.facts import DataFacts
from sources.folder import Split, open_folder
from sources.volumes import VOLUME_ENDINGS


def open_scan(source: str, facts: DataFacts, axcodes: str | None = None) -> Split:
    """Read slices like those of a set.

    Args:
        source: Folder of slices, or file of a volume, which becomes case 0 with a place of its own.
        facts: What is known of the set.
        axcodes: Where the axes of a volume run to that does not say it, such as "RAS".

    Raises:
        InputError: It cannot be read.
    """
    usual = dataclasses.replace(facts, levels=None)  # the prior says which levels it knows
    if os.path.isdir(source) or not source.lower().endswith(VOLUME_ENDINGS):
        return open_folder(source, usual)
    path = pathlib.Path(source)
    with tempfile.TemporaryDirectory() as folder:
        about = conversion.write_slices(path, pathlib.Path(folder), facts, axcodes)
        split = open_folder(folder, usual)
    cases = {0: {**about, "subject": path.name, "split": None}}
    return dataclasses.replace(
        split,
        name=path.name,
        paths=tuple(pathlib.Path(slice_path).name for slice_path in split.paths),
        facts=dataclasses.replace(split.facts, cases=cases),
    )
