"""Stacks of slices on disk: volumes that lie over the scans of their set, and data folders."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from evaluation.metrics import content_box
from sources.facts import DataFacts, write_facts
from sources.images import enlarge, write_png
from sources.layout import slice_name
from sources.volumes import moved_affine, write_volume


def write_stack(
    path: pathlib.Path,
    images: Iterable[np.ndarray],
    levels: Sequence[int],
    facts: DataFacts,
    case: int = -1,
    description: str = "",
) -> None:
    """Write slices as a NIfTI volume that lies over their scan, or over the scans of the set.

    Where the place of slices is not known, voxels are cubes of 1 mm. A level that is missing
    between others stays black.

    Args:
        path: File `.nii.gz` to write.
        images: uint8 `(S, S)` each, of any size, or int16 in the size of the set.
        levels: Level of each.
        facts: What is known of the set.
        case: Case of the slices, if it is one of the set.
        description: What the header says that they are.
    """
    lowest = int(min(levels))
    slices = [enlarge(image, facts.side) for image in images]
    stack = np.zeros((max(levels) - lowest + 1, facts.side, facts.side), slices[0].dtype)
    for level, image in zip(levels, slices, strict=True):
        stack[level - lowest] = image
    affine = facts.cases.get(case, {}).get("affine") or facts.affine
    write_volume(path, stack, affine, lowest, description)


def write_slices(
    folder: pathlib.Path,
    images: Iterable[np.ndarray],
    places: Iterable[tuple[int, int]],
    facts: DataFacts,
) -> None:
    """Write slices in the size of their set and by the names of a data folder, with their facts.

    Args:
        folder: Folder to write to.
        images: uint8 `(S, S)` each, of any size.
        places: Case and level of each.
        facts: What is known of the set. They are left out where the folder is read alike without.
    """
    for image, place in zip(images, places, strict=True):
        write_png(folder / slice_name(*place), enlarge(image, facts.side))
    as_read = DataFacts(facts.name, masked=facts.masked, cohort=facts.cohort)
    if dataclasses.replace(facts, cases={}, settings={}, levels=None) != as_read:
        write_facts(folder, facts)


def resized(facts: DataFacts, side: int) -> DataFacts:
    """Facts of a set whose slices were brought to another side, in pixels."""
    step, affine = facts.side / side, facts.affine
    if affine and step != 1:
        offset = ((step - 1) / 2, (step - 1) / 2, 0)
        affine = moved_affine(affine, offset, (step, step, 1)).tolist()
    content = facts.content and content_box(facts, side)
    return dataclasses.replace(facts, side=side, content=content, affine=affine)
