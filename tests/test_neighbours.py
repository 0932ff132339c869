"""Neighbouring slices: what a prior knows of them, and what it draws, chooses and heals."""

import numpy as np
import pytest
import tensorflow as tf
from shared import CODES, LEVELS, codes, make_prior

from networks.logits import Drawing, draw, uniforms
from networks.neighbours import FARTHEST, NO_CODE, OUTSIDE, NeighbourReader, Wavefront
from networks.order import arrange, beside

LEVEL = np.array([1, 2, 3])
GRID = (4, 5)


def known(*distances, grid=(8, 8), seed=9):
    """Slices with known neighbours at these distances, one for each."""
    maps = codes((len(distances), len(distances[0]), *grid), seed)
    maps[np.array(distances) == 0] = NO_CODE
    return beside(maps, distances)


def naive(prior, forward, levels, neighbours, choose):
    """Code maps by one forward pass for each place, in the order of the depths."""
    height, width = prior.settings["grid"]
    places = list(np.ndindex(height, width))
    if prior.settings["mirror"] == "rows":
        places.sort(key=lambda place: place[::-1])
    maps = np.zeros((len(levels), height, width), "int32")
    for depth in range(np.max(neighbours.depths) + 1):
        now = np.flatnonzero(neighbours.depths == depth)
        for y, x in places:
            chosen = choose(forward(maps, levels, neighbours)[:, y, x], y, x)
            maps[now, y, x] = np.asarray(chosen)[now]
    return maps


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (7, 7)])
def test_each_neighbour_is_seen_from_all_sides(slot, place, prior):
    """A later place of a neighbour may matter to an earlier place of this slice."""
    data, level, beside_it = codes((1, 8, 8)), np.array([2]), known((1, 1))
    changed = beside_it._replace(known=beside_it.known.copy())
    changed.known[slot][place] = (changed.known[slot][place] + 1) % CODES
    before, after = (prior.logits(data, level, n).numpy()[0] for n in (beside_it, changed))
    difference = np.abs(after - before).max(-1)
    assert difference[place] > 1e-4
    assert difference[max(0, place[0] - 1), max(0, place[1] - 1)] > 1e-4


def test_distances_and_sides_are_conditions_and_so_is_none(prior):
    data, level = codes((1, 8, 8)), np.array([2])
    maps, none = codes((8, 8), 5), np.full((8, 8), NO_CODE)
    far = [(1, 0), (2, 0), (FARTHEST, 0), (0, 1), (0, 2), (0, FARTHEST)]

    def seen_from(distances):
        pair = np.array([maps if distance else none for distance in distances])
        return prior.logits(data, level, beside(pair[None], [distances])).numpy()

    seen = [prior.logits(data, level), *map(seen_from, far)]
    for number, one in enumerate(seen):
        for other in seen[:number]:
            assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(seen[-1], seen_from((0, FARTHEST + 7)))
    np.testing.assert_array_equal(seen[0], prior.logits(data, level, known((0, 0))))


def test_rows_are_read_alike_wherever_they_lie():
    """Windows of a map, with rows beyond it, give the features of the whole map."""
    reader, reach = NeighbourReader(CODES, 2, 8, 4), NeighbourReader.REACH
    reader.build((None, 2, 6, 5))
    for weight in reader.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    maps, distances = codes((3, 2, 6, 5)), np.array([[1, 2], [0, 3], [40, 1]], "int32")
    maps[1, 0] = NO_CODE
    around = [[0, 0], [0, 0], [reach, reach], [0, 0]]
    padded = np.pad(maps, around, constant_values=OUTSIDE)
    whole = reader(padded, distances)
    assert whole.shape == (3, 6, 5, 8)
    for y in range(6):
        row = reader(padded[:, :, y : y + 2 * reach + 1], distances)
        np.testing.assert_allclose(row[:, 0], whole[:, y], atol=1e-4)


# ---- the loop ----------------------------------------------------------------------------------


def test_sampling_choosing_and_healing_equal_the_naive_loop():
    """Of slices with neighbours on both sides, below, above, and none."""
    prior = make_prior(GRID, blocks=3)
    levels, beside_them = np.array([1, 3, 0, 2]), known((1, 2), (3, 0), (0, 1), (0, 0), grid=GRID)
    forward, seeds = tf.function(prior.logits, autograph=False), tf.constant([5, 7, 5, 1])
    noise = uniforms(seeds, GRID)
    drawn = prior.sample(levels, seeds, neighbours=beside_them).numpy()
    options = prior, forward, levels, beside_them
    expected = naive(*options, lambda logits, y, x: draw(logits, noise[:, y, x]))
    np.testing.assert_array_equal(drawn, expected)
    assert (drawn != prior.sample(levels, seeds + 1, neighbours=beside_them).numpy()).any()

    costs = np.random.default_rng(0).random((4, *GRID, CODES)).astype("float32")
    chosen = prior.choose_codes(costs, levels, 0.5, beside_them).numpy()

    def cheapest(logits, y, x):
        return (costs[:, y, x] - 0.5 * np.log2(tf.nn.softmax(logits))).argmin(-1)

    np.testing.assert_array_equal(chosen, naive(*options, cheapest))
    healed = prior.heal(codes((4, *GRID)), levels, -1e6, seeds, beside_them).numpy()
    np.testing.assert_array_equal(healed, drawn)


STACKS = {  # known levels of two stacks, neighbours on each side, what mirroring exchanges
    "from nothing": (((), ()), 1, "rows"),
    "from a slice": (((0,), (5,)), 2, "columns"),
    "gaps": (((0, 3, 5), (2, 4)), 1, "none"),
    "gaps, more neighbours": (((0, 3, 5), (2, 4)), 2, "rows"),
}


@pytest.mark.parametrize("known_levels, per_side, mirror", STACKS.values(), ids=STACKS)
def test_stacks_equal_the_naive_loop(known_levels, per_side, mirror):
    prior = make_prior(GRID, per_side, num_levels=6, blocks=2, mirror=mirror)
    places = [(case, k) for case in (0, 1) for k in known_levels[case]]
    first = len(places)
    places += [(case, k) for case in (0, 1) for k in range(6) if k not in known_levels[case]]
    cases, order_levels = np.array(places).T
    beside_them = arrange(cases, order_levels, per_side, codes((first, *GRID)))
    wanted = order_levels[first:].astype("int32")
    seeds = tf.range(20, 20 + len(wanted))
    drawn = prior.sample(wanted, seeds, Drawing(0.7, 9, 0.8), neighbours=beside_them).numpy()
    forward, noise = tf.function(prior.logits, autograph=False), uniforms(seeds, GRID)

    def choose(logits, y, x):
        return draw(logits, noise[:, y, x], Drawing(0.7, 9, 0.8))

    np.testing.assert_array_equal(drawn, naive(prior, forward, wanted, beside_them, choose))
    assert len(np.unique(drawn.reshape(len(drawn), -1), axis=0)) == len(drawn)


@pytest.mark.parametrize("grid, neighbours", [((13, 3), 2), ((2, 3), 1)])
def test_a_wavefront_draws_what_is_drawn_one_after_the_other(grid, neighbours):
    """Rows start before the slices beside them are finished, and wait long enough."""
    prior = make_prior(grid, neighbours, num_levels=9, blocks=2, mirror="columns")
    order = arrange([0] * 9, range(9), neighbours)
    levels, seeds = np.arange(9, dtype="int32"), tf.range(9)
    drawn = prior.sample(levels, seeds, neighbours=order).numpy()
    maps = np.full((9, *grid), NO_CODE, "int32")
    for depth in range(order.depths.max() + 1):
        now = np.flatnonzero(order.depths == depth)
        beside_it = beside(maps[order.sources[now]], order.distances[now])
        maps[now] = prior.sample(levels[now], tf.gather(seeds, now), neighbours=beside_it)
    np.testing.assert_array_equal(drawn, maps)


@pytest.mark.parametrize(
    "cases, known_count, steps", [([0] * 32, 0, 51), ([0] * 32, 31, 36), (range(32), 0, 36)]
)
def test_a_slice_starts_as_soon_as_it_may(cases, known_count, steps):
    maps = np.zeros((known_count, 36, 28), "int32")
    order = arrange(cases, [*range(31, 32), *range(31)], 1, maps)
    front = Wavefront(order, (36, 28), 2)
    assert front.steps == steps
    for start, sources in zip(front.starts, order.sources - known_count):
        before = front.starts.numpy()[sources[sources >= 0]]
        assert start == max(before + 3, default=0)


def test_a_slice_does_not_depend_on_what_stands_beside_it_in_the_batch():
    prior, seeds = make_prior(blocks=3), np.array([4, 1, 9])
    beside_them = known((1, 1), (0, 2), (0, 0))
    drawn = prior.sample(LEVEL, seeds, neighbours=beside_them).numpy()
    order = np.array([2, 0, 1])
    maps = beside_them.known.reshape(3, 2, 8, 8)
    moved = beside(maps[order], beside_them.distances[order])
    np.testing.assert_array_equal(
        prior.sample(LEVEL[order], seeds[order], neighbours=moved), drawn[order]
    )
    one = prior.sample(LEVEL[:1], seeds[:1], neighbours=beside(maps[:1], [[1, 1]]))
    np.testing.assert_array_equal(one, drawn[:1])
    alone = prior.sample(LEVEL[2:], seeds[2:])
    np.testing.assert_array_equal(alone, drawn[2:])


def test_bits_are_those_of_the_logits_given_the_neighbours_in_the_stack(prior):
    """Neighbours may be known, or be among the slices themselves."""
    data, levels = codes((LEVELS, 8, 8)), np.arange(LEVELS)
    order = arrange([0] * LEVELS, levels, 1)
    bits = prior.bits(data, levels, order)
    log = np.log2(tf.nn.softmax(prior.logits(data, levels, order)))
    expected = -np.take_along_axis(log, data[..., None], -1)[..., 0]
    np.testing.assert_allclose(bits, expected, atol=1e-4)
    maps = np.where((order.sources < 0)[..., None, None], NO_CODE, data[order.sources])
    beside_them = beside(maps, order.distances)
    np.testing.assert_array_equal(bits, prior.bits(data, levels, beside_them))
    assert (np.abs(bits - prior.bits(data, levels)).max((1, 2)) > 1e-3)[[0, 1, 3]].all()
