"""Volumes by the names of a BIDS derivative, beside those that are written anyway.

Reference:
    Gorgolewski et al. 2016, The brain imaging data structure.
"""

import pathlib
import re
import shutil
from typing import Any

import nibabel

from sources.facts import DataFacts
from utils import write_json

FOLDER = "bids"
SUFFIXES = ("T1w", "T2w", "PDw", "FLAIR", "T2starw")  # of the scans that a model learned from
# What the volumes of a folder show. Those that have several kinds say which in their names.
DESCRIBED = {"brains": "drawn", "fill": "filled"}
VOLUME = re.compile(r"(brain|case)_([0-9]+)_?([a-z]*).*\.nii\.gz")


def owned(*folders: str) -> tuple[str, ...]:
    """Glob patterns of what `write` makes of the volumes of folders."""
    kinds = (DESCRIBED.get(folder, folder) for folder in folders)
    return tuple(f"{FOLDER}/sub-*/anat/sub-*_desc-{kind}*" for kind in kinds)


def write(results: pathlib.Path, suffix: str, facts: DataFacts, made: dict[str, Any]) -> None:
    """Copy all volumes of a folder of results into a BIDS derivative in it.

    A drawn brain is a subject of its own, such as `sub-drawn0000`, so that nobody takes it for a
    person.

    Args:
        results: The folder.
        suffix: One of `SUFFIXES`.
        facts: What is known of the set.
        made: What `utils.provenance` says.
    """
    for path in sorted(results.glob("*/*.nii.gz")):
        kind, number, version = VOLUME.fullmatch(path.name).groups()
        folder = path.parent.name
        described = DESCRIBED.get(folder, folder + version.capitalize())
        subject = f"sub-drawn{number}" if kind == "brain" else f"sub-{number}"
        stem = f"{subject}_desc-{described}_{suffix}"
        copy = results / FOLDER / subject / "anat" / f"{stem}.nii.gz"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        note = nibabel.load(path).header["descrip"].item().decode("ascii", "replace")
        about = {"Description": note or f"{described}: {path.name}"}
        write_json(copy.with_name(f"{stem}.json"), about | {"SkullStripped": bool(facts.masked)})
    generator = {"Name": "predict.py", "Version": made["commit"] or "unknown"}
    description = {
        "Name": f"Volumes that a model of {facts.name} made",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{**generator, "Description": made["command"]}],
    }
    write_json(results / FOLDER / "dataset_description.json", description)
