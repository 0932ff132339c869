"""Order of the slices of a stack: coarse to fine, every wanted one once, and its neighbours."""

import itertools

import numpy as np
import pytest

from networks.order import NO_SLICE, Neighbours, among, arrange, beside, passes

BRAIN = range(32)
CASES = {
    "from nothing": ((), BRAIN),
    "one level": ((), [7]),
    "from a slice": ([5], BRAIN),
    "from the lowest": ([0], BRAIN),
    "from slices": ([3, 4, 20], BRAIN),
    "each second": (BRAIN[::2], BRAIN),
    "one is missing": ([*range(7), *range(8, 12)], range(12)),
    "not all are wanted": ([2, 30], [4, 5, 6, 11, 31]),
    "nothing": (BRAIN, BRAIN),
}


def test_a_brain_is_drawn_in_six_passes():
    order = passes((), BRAIN)
    assert order[:4] == [[16], [0, 31], [8, 24], [4, 12, 20, 28]]
    assert order[4:] == [[*range(2, 32, 4)], [*range(1, 31, 2)]]


@pytest.mark.parametrize("known, wanted", CASES.values(), ids=CASES)
def test_every_wanted_level_comes_once_in_the_middle_of_its_gap(known, wanted):
    order, placed = passes(known, wanted), set(known)
    assert sorted(itertools.chain(*order)) == sorted(set(wanted) - set(known))
    for drawn in order:
        lengths = []
        for level in drawn:
            low = max((other for other in placed if other < level), default=None)
            high = min((other for other in placed if other > level), default=None)
            if low is None or high is None:  # the first level, and then the ends
                assert not placed or level in (min(wanted), max(wanted))
                continue
            lengths.append(high - low)
            between = [k for k in wanted if low < k < high]
            assert abs(2 * level - low - high) == min(abs(2 * k - low - high) for k in between)
            assert not set(range(low + 1, high)) & set(drawn) - {level}
        assert not lengths or 2 * min(lengths) > max(lengths)
        placed |= set(drawn)
    assert len(order) <= 7  # halving 32 levels takes few passes


@pytest.mark.parametrize("per_side", [1, 2])
@pytest.mark.parametrize("known, wanted", CASES.values(), ids=CASES)
def test_neighbours_are_the_nearest_ones_of_earlier_passes(known, wanted, per_side):
    """Of two cases, the second of which has its own order."""
    known, wanted = list(known), sorted(set(wanted) - set(known))
    levels = np.array([*known, *known[1:], *wanted, *wanted[1:]])
    cases = np.repeat([3, 8, 3, 8], [len(known), len(known[1:]), len(wanted), len(wanted[1:])])
    first = len(levels) - len(wanted) - len(wanted[1:])
    maps = np.zeros((first, 2, 2), "int32")
    sources, distances, depths, _ = arrange(cases, levels, per_side, maps)
    assert sources.shape == distances.shape == (len(depths), 2 * per_side)
    for case in (3, 8):
        here = np.flatnonzero(cases == case)
        placed = {levels[i]: i for i in here if i < first}
        drawn = {levels[i]: i for i in here if i >= first}
        for pass_levels in passes(placed, drawn):
            for level in pass_levels:
                row = drawn[level] - first
                below = sorted((k for k in placed if k < level), reverse=True)[:per_side]
                above = sorted(k for k in placed if k > level)[:per_side]
                for slot, others in ((0, below), (per_side, above)):
                    expected = [(placed[other], abs(other - level)) for other in others]
                    expected += [(NO_SLICE, 0)] * (per_side - len(others))
                    here = slice(slot, slot + per_side)
                    assert list(zip(sources[row, here], distances[row, here])) == expected
                earlier = sources[row][sources[row] >= first] - first
                assert depths[row] == 1 + max(depths[earlier], default=-1)
            placed |= {level: drawn[level] for level in pass_levels}


def test_a_brain_is_six_deep():
    assert arrange([0] * 32, BRAIN, 1).depths.max() == 5
    assert arrange([0] * 32, BRAIN, 2).depths.max() == 5
    assert not arrange([0] * 4, [0, 1, 2, 3], 1, np.zeros((3, 1, 1))).depths.any()


def test_known_neighbours_stand_beside_their_slices():
    codes = np.arange(5)[:, None, None] * np.ones((1, 2, 3), int)
    order = arrange([1] * 5, range(5), 1)
    np.testing.assert_array_equal(order.sources, [[-1, 2], [0, 2], [-1, -1], [2, 4], [2, -1]])
    np.testing.assert_array_equal(order.distances, [[0, 2], [1, 1], [0, 0], [1, 1], [2, 0]])
    found = among(order, codes, np.array([3, 0]))
    assert isinstance(found, Neighbours) and not found.depths.any()
    np.testing.assert_array_equal(found.sources, [[0, 1], [-1, 3]])
    np.testing.assert_array_equal(found.distances, [[1, 1], [0, 2]])
    np.testing.assert_array_equal(found.known[found.sources[0], 0, 0], [2, 4])
    again = beside(found.known.reshape(2, 2, 2, 3), found.distances)
    for one, other in zip(found, again):
        np.testing.assert_array_equal(one, other)
