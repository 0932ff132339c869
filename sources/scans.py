"""One more scan for a run: a folder of slices, or a volume that is sliced as the set was."""

import dataclasses
import pathlib
import tempfile

from sources.conversion import ConversionSettings, convert, make_plan
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
    path = pathlib.Path(source)
    if path.is_dir() or not source.lower().endswith(VOLUME_ENDINGS):
        return open_folder(path, dataclasses.replace(facts, levels=None))  # the prior knows them
    settings = ConversionSettings("nifti", name=path.name, axcodes=axcodes)
    plan = make_plan(path, settings, like=facts)
    plan = plan._replace(scans=[scan._replace(case=0) for scan in plan.scans])
    with tempfile.TemporaryDirectory() as folder:
        for note in convert(plan, folder).notes:
            print(f"WARNING: {note}", flush=True)
        split = open_folder(folder)
    names = tuple(pathlib.Path(name).name for name in split.paths)
    return dataclasses.replace(split, name=path.name, paths=names)
