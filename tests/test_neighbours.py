"""The slice below: what a prior that reads it knows, draws, chooses and heals."""

import numpy as np
import pytest
import tensorflow as tf
from shared import CODES, LEVELS, codes, make_prior

import dataset
from networks.logits import Drawing, draw
from networks.neighbours import NO_CODE
from sources.folder import NO_SLICE, make_split

LEVEL = np.array([1, 2, 3])


def below():
    """Codes of slices below. The second slice has one, the last has none."""
    values = np.random.default_rng(9).integers(0, CODES, (3, 2, 8, 8)).astype("int32")
    values[1, 1] = values[2] = NO_CODE
    return values


def naive(forward, choose):
    """Code maps by one forward pass for each place."""
    drawn = np.zeros((3, 8, 8), "int32")
    for y, x in np.ndindex(8, 8):
        logits = forward(drawn, LEVEL, below())[:, y, x]
        drawn[:, y, x] = choose(logits, y, x)
    return drawn


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (7, 7)])
def test_each_slice_below_is_seen_from_all_sides(number, place, prior):
    """A later place of the slice below may matter to an earlier place of this slice."""
    data, level, under = codes((1, 8, 8)), np.array([2]), below()[:1]
    changed = under.copy()
    changed[0, number][place] = (changed[0, number][place] + 1) % CODES
    before, after = (prior.logits(data, level, b).numpy()[0] for b in (under, changed))
    difference = np.abs(after - before).max(-1)
    assert difference[place] > 1e-4
    earlier = max(0, place[0] - 1), max(0, place[1] - 1)
    assert difference[earlier] > 1e-4


def test_no_slice_below_is_a_condition_of_its_own(prior):
    data = codes()
    alone = prior.logits(data, LEVEL)
    np.testing.assert_array_equal(alone, prior.logits(data, LEVEL, np.full((3, 2, 8, 8), -1)))
    zeros = prior.logits(data, LEVEL, np.zeros((3, 2, 8, 8), "int32"))
    assert np.abs(alone - zeros).max() > 1e-3
    np.testing.assert_array_equal(alone[2], prior.logits(data, LEVEL, below())[2])


def test_sampling_choosing_and_healing_equal_the_naive_loop():
    prior, levels, seed = make_prior(blocks=3), tf.constant(LEVEL, tf.int32), tf.constant(5)
    forward = tf.function(prior.logits, autograph=False)
    drawn = prior.sample(levels, seed, below=below()).numpy()
    expected = naive(forward, lambda logits, y, x: draw(logits, seed, y * 8 + x))
    np.testing.assert_array_equal(drawn, expected)
    assert (drawn[:2] != prior.sample(levels, seed).numpy()[:2]).any()
    assert (drawn != prior.sample(levels, tf.constant(6), below=below()).numpy()).any()
    # A sample does not depend on those beside it.
    alone = prior.sample(levels[:1], seed, below=below()[:1])
    np.testing.assert_array_equal(drawn[:1], alone)

    distances = np.random.default_rng(0).random((3, 8, 8, CODES)).astype("float32")
    chosen = prior.choose_codes(distances, levels, 0.5, below()).numpy()

    def cheapest(logits, y, x):
        return (distances[:, y, x] - 0.5 * np.log2(tf.nn.softmax(logits))).argmin(-1)

    np.testing.assert_array_equal(chosen, naive(forward, cheapest))
    healed = prior.heal(codes(), levels, -1e6, seed, below()).numpy()
    np.testing.assert_array_equal(healed, drawn)


@pytest.mark.parametrize(
    "rows, count, lowest, reach, options",
    [
        (13, 7, 0, 2, ()),  # five slices have slots, and two wait
        (13, 3, 2, 2, (0.7, 9, 0.8)),
        (2, 4, 0, 2, ()),  # one slice after the other
        (13, 7, 0, 0, ()),
    ],
)
def test_a_wavefront_draws_what_is_drawn_slice_by_slice(rows, count, lowest, reach, options):
    prior = make_prior((rows, 6), reads_below=reach > 0, num_levels=9, blocks=3)
    prior.REACH_BELOW = reach
    seeds, rng = tf.range(20, 20 + count), np.random.default_rng(3)
    under = np.full((2, 2, rows, 6), NO_CODE, "int32")
    under[1, 0] = rng.integers(0, CODES, (rows, 6))
    drawn = prior.sample_upward(under, tf.constant(lowest), seeds, Drawing(*options)).numpy()
    for number in range(count):
        level = tf.fill((2,), lowest + number)
        one = prior.sample(
            level, seeds[number], Drawing(*options), below=tf.constant(under)
        ).numpy()
        np.testing.assert_array_equal(drawn[:, number], one)
        under = np.stack([one, under[:, 0]], axis=1)
    assert (drawn[0] != drawn[1]).any() and (drawn[0, 0] != drawn[0, -1]).any()


def test_bits_are_those_of_the_logits(prior):
    data = codes()
    log = np.log2(tf.nn.softmax(prior.logits(data, LEVEL, below())))
    expected = -np.take_along_axis(log, data[..., None], -1)[..., 0]
    np.testing.assert_allclose(prior.bits(data, LEVEL, below()), expected, atol=1e-4)


# ---- which slice is below ----------------------------------------------------------------------

# Case 2 has a gap at level 2. Case 5 has one slice.
PLACES = [(2, 0), (2, 1), (2, 3), (2, 4), (3, 1), (3, 2), (5, 0)]


@pytest.fixture
def split():
    return make_split("test", [(case, level, f"{case} {level}") for case, level in PLACES])


def test_the_slice_below_is_of_the_same_case_one_level_down(split):
    none = NO_SLICE
    np.testing.assert_array_equal(split.below, [none, 0, none, 2, none, 4, none])
    maps = np.arange(7)[:, None, None] * np.ones((1, 2, 3), "uint16")
    under = dataset.codes_below(maps, split.below, np.arange(7))
    np.testing.assert_array_equal(under[:, 0, 0, 0], [-1, 0, -1, 2, -1, 4, -1])
    np.testing.assert_array_equal(under[:, 1, 0, 0], [-1] * 7)
    assert under.shape == (7, 2, 2, 3) and under.dtype == np.int32
    three = make_split("test", [(1, level, f"{level}") for level in range(3)])
    under = dataset.codes_below(maps, three.below, np.array([2, 1]))
    np.testing.assert_array_equal(under[:, :, 0, 0], [[1, 0], [0, -1]])


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_way_up_reaches_every_slice_once_after_the_one_below(split, batch_size):
    batches = split.upward(batch_size)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(7)) and max(map(len, batches)) <= batch_size
    number = {index: n for n, batch in enumerate(batches) for index in batch}
    for index, under in enumerate(split.below):
        assert under == NO_SLICE or number[under] < number[index]


def test_stacks_are_cases_with_all_levels(split):
    np.testing.assert_array_equal(split.stacks(range(0, 2)), [[0, 1]])
    np.testing.assert_array_equal(split.stacks(range(1, 2)), [[1], [4]])
    assert split.stacks(range(LEVELS + 9)).shape == (0, LEVELS + 9)


def test_examples_of_the_prior_have_the_slice_below(split):
    maps = np.arange(2 * 7 * 4).reshape(2, 7, 2, 2).astype("uint16")
    example = dataset.code_examples(maps, split.levels, 5, split.below)
    for mirror in (False, True):
        inputs, target = example(tf.constant(3, tf.int64), tf.constant(mirror))
        np.testing.assert_array_equal(inputs["codes"], maps[int(mirror), 3])
        np.testing.assert_array_equal(target, maps[int(mirror), 3])
        assert inputs["levels"] == 5 * mirror + split.levels[3]
        np.testing.assert_array_equal(inputs["below"][0], maps[int(mirror), 2])
        np.testing.assert_array_equal(inputs["below"][1], np.full((2, 2), NO_CODE))
        inputs, _ = example(tf.constant(2, tf.int64), tf.constant(mirror))
        np.testing.assert_array_equal(inputs["below"], np.full((2, 2, 2), NO_CODE))


def test_training_leaves_slices_below_out():
    """It leaves out the lower one or both, and the same ones at every run of an epoch."""
    split = make_split("train", [(1, level, f"{level}") for level in range(3)])
    maps = np.ones((2, 3, 2, 2), "uint16")
    example = dataset.code_examples(maps, split.levels, 3, split.below)

    def top_slice(index, *draws):
        return example(tf.constant(2, tf.int64), *draws)[0]["below"][:, 0, 0]

    def epoch(number):
        batches = dataset.training_batches(top_slice, 4000, 4000, seed=0, epoch=number)
        return next(batches.as_numpy_iterator())

    seen, none = epoch(1), NO_CODE
    shares = {tuple(row): n / 4000 for row, n in zip(*np.unique(seen, axis=0, return_counts=True))}
    assert shares == {
        (1, 1): pytest.approx(1 - 2 * dataset.LEFT_OUT, abs=0.02),
        (1, none): pytest.approx(dataset.LEFT_OUT, abs=0.02),
        (none, none): pytest.approx(dataset.LEFT_OUT, abs=0.02),
    }
    np.testing.assert_array_equal(seen, epoch(1))
    assert (seen != epoch(2)).any()
