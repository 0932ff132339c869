"""Stacks of slices on disk: volumes that lie over the scans of their set, and data folders."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from evaluation.metrics import content_box
from sources.facts import DataFacts, write_facts
from sources.images import enlarge, write_png
from sources.layout import slice_name
from sources.volumes import moved_affine, write_volume


def write_stack(
    path: pathlib.Path, images: np.ndarray, facts: DataFacts, level: int = 0, case: int = -1
) -> None:
    """Write slices as a NIfTI volume that lies over their scan, or over the scans of the set.

    Where the place of slices is not known, voxels are cubes of 1 mm.

    Args:
        path: File `.nii.gz` to write.
        images: Slices from bottom to top, uint8 `(K, S, S)`, of any size.
        facts: What is known of the set.
        level: Level of the lowest slice.
        case: Case of the slices, if it is one of the set.
    """
    affine = facts.cases.get(case, {}).get("affine") or facts.affine
    slices = np.stack([enlarge(image, facts.side) for image in images])
    write_volume(path, slices, affine, level)


def write_slices(
    folder: pathlib.Path,
    images: Sequence[np.ndarray],
    places: Sequence[tuple[int, int]],
    facts: DataFacts,
) -> None:
    """Write slices in the size of their set and by the names of a data folder.

    Args:
        folder: Folder to write to.
        images: uint8 `(S, S)` each, of any size.
        places: Case and level of each.
        facts: What is known of the set.
    """
    for image, place in zip(images, places, strict=True):
        write_png(folder / slice_name(*place), enlarge(image, facts.side))


def resized(facts: DataFacts, side: int) -> DataFacts:
    """Facts of a set whose slices were brought to another side, in pixels."""
    step, affine = facts.side / side, facts.affine
    if affine and step != 1:
        offset = ((step - 1) / 2, (step - 1) / 2, 0)
        affine = moved_affine(affine, offset, (step, step, 1)).tolist()
    content = facts.content and content_box(facts, side)
    return dataclasses.replace(facts, side=side, content=content, affine=affine)


def write_notes(folder: pathlib.Path, facts: DataFacts) -> None:
    """Write the facts of a folder of slices, unless it is read alike without them."""
    as_read = DataFacts(facts.name, masked=facts.masked, cohort=facts.cohort)
    if dataclasses.replace(facts, cases={}, settings={}, levels=None) != as_read:
        write_facts(folder, facts)
