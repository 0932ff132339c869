"""Order of the slices of a stack, coarse to fine, and the neighbours that each slice then has.

A stack that is drawn from one end forgets on the way what it began with. Drawn coarse to fine, no
slice is more than a few steps away from any other, and most lie between two known ones.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NO_SLICE = -1  # index where there is no slice


class Neighbours(NamedTuple):
    """Neighbours of N slices in their stacks: the nearest ones below and above that are known.

    Slots S are first those below and then those above, the nearest one first on each side.

    Attributes:
        sources: Slice in each slot, int32 `(N, S)`: its index among the known slices, followed by
            the N slices themselves; or `NO_SLICE`.
        distances: How many levels away it is, int32 `(N, S)`; 0 where there is none.
        depths: Slices that must be there one after the other before each slice, int32 `(N,)`. Those
            of one depth do not know each other.
        known: Codes of the known slices, int32 `(M, H, W)`, or None where all are drawn.
    """

    sources: np.ndarray
    distances: np.ndarray
    depths: np.ndarray
    known: np.ndarray | None = None


def passes(known: Sequence[int], wanted: Sequence[int]) -> list[list[int]]:
    """Wanted levels in the order in which they are drawn, coarse to fine.

    From nothing it is the middle, and then both ends. After that the largest gap is halved, until
    none is left. Gaps of more than half its length are halved in the same pass.

    Args:
        known: Levels that are there already. They are in no pass.
        wanted: Levels to draw.

    Returns:
        Levels of each pass in rising order. Those of one pass do not know each other.
    """
    known, wanted = sorted(set(known)), sorted(set(wanted) - set(known))
    order, left = [], list(wanted)

    def add(levels):
        if levels:
            order.append(levels)
            known[:] = sorted([*known, *levels])
            left[:] = sorted(set(left) - set(levels))

    if left and not known:
        add([_middle(left, left[0], left[-1])])
    lowest = [level for level in left[:1] if level < known[0]]
    add(lowest + [level for level in left[-1:] if level > known[-1]])
    while left:
        gaps = {}  # a level in the middle, and the length of its gap
        for low, high in itertools.pairwise(known):
            between = left[bisect.bisect(left, low) : bisect.bisect(left, high)]
            if between:
                gaps[_middle(between, low, high)] = high - low
        add([level for level, length in gaps.items() if 2 * length > max(gaps.values())])
    return order


def _middle(levels, low, high):
    """The level that is nearest to the middle of two others, the upper one of two."""
    return min(levels, key=lambda level: (abs(2 * level - low - high), -level))


def arrange(
    cases: Sequence[int],
    levels: Sequence[int],
    per_side: int,
    known: np.ndarray | None = None,
) -> Neighbours:
    """Neighbours of slices that are drawn coarse to fine, each case by itself.

    Args:
        cases: Case of each slice, `(M + N,)`, the M known slices first.
        levels: Level of each slice, `(M + N,)`.
        per_side: Number of neighbours on each side.
        known: Codes of the known slices, int32 `(M, H, W)`, or None where all are drawn.

    Returns:
        Neighbours of the N slices.
    """
    cases, levels = np.asarray(cases), np.asarray(levels)
    first, count = 0 if known is None else len(known), len(levels)
    sources = np.full((count, 2 * per_side), NO_SLICE, "int32")
    distances, depths = np.zeros_like(sources), np.full(count, -1, "int32")
    for case in np.unique(cases):
        index = {int(levels[i]): i for i in np.flatnonzero(cases == case)}
        placed = sorted(level for level, i in index.items() if i < first)
        for drawn in passes(placed, index):
            for level in drawn:
                i, place = index[level], bisect.bisect(placed, level)
                below = placed[max(0, place - per_side) : place][::-1]
                above = placed[place : place + per_side]
                for slot, other in [*enumerate(below), *enumerate(above, per_side)]:
                    sources[i, slot], distances[i, slot] = index[other], abs(level - other)
                depths[i] = 1 + max((depths[index[other]] for other in below + above), default=-1)
            placed = sorted([*placed, *drawn])
    return Neighbours(sources[first:], distances[first:], depths[first:], known)


def beside(codes: np.ndarray, distances: np.ndarray) -> Neighbours:
    """Neighbours that are all known.

    Args:
        codes: Codes of the neighbours of B slices, int32 `(B, S, H, W)`.
        distances: How many levels away they are, int32 `(B, S)`; 0 where there is none.
    """
    distances = np.asarray(distances, "int32")
    count, slots = distances.shape
    numbers = np.arange(distances.size, dtype="int32").reshape(count, slots)
    sources = np.where(distances > 0, numbers, NO_SLICE).astype("int32")
    known = np.reshape(codes, (count * slots, *np.shape(codes)[2:])).astype("int32")
    return Neighbours(sources, distances, np.zeros(count, "int32"), known)


def batches(neighbours: Neighbours, size: int) -> list[np.ndarray]:
    """Indices of slices in batches of at most `size`, each slice after its neighbours.

    Slices of a batch are of one depth, so many cases go through the passes side by side.
    """
    found = []
    for depth in np.unique(neighbours.depths):
        here = np.flatnonzero(neighbours.depths == depth)
        found += np.split(here, range(size, len(here), size))
    return found


def among(neighbours: Neighbours, codes: np.ndarray, batch: np.ndarray) -> Neighbours:
    """Neighbours of some slices, all of whose neighbours are known by now.

    Args:
        neighbours: Neighbours of all N slices; see `arrange`.
        codes: Codes of the M known and of the N slices, `(M + N, H, W)`. Those that are no
            neighbours of the batch may be anything.
        batch: Indices of the wanted slices among the N, `(B,)`.
    """
    return beside(codes[neighbours.sources[batch]], neighbours.distances[batch])
