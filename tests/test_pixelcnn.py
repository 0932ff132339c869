import keras
import numpy as np
import pytest
import tensorflow as tf
from shared import CODES, LEVELS, codes, make_prior

from fitting import checkpoints
from networks import raster, serializable
from networks.logits import Drawing, draw, surprise
from networks.neighbours import NO_CODE
from utils import InputError


def test_prior_learns_in_bits():
    prior, data = make_prior(blocks=1), np.tile(codes((1, 8, 8)), (4, 1, 1))
    below = np.full((4, 2, 8, 8), NO_CODE)
    inputs = {"codes": data, "levels": np.zeros(4, "int32"), "below": below}
    prior.compile(keras.optimizers.Adam(5e-2))
    first = prior.evaluate(inputs, data, verbose=0)
    np.testing.assert_allclose(first, np.mean(prior.bits(data, inputs["levels"])), rtol=1e-4)
    for _ in range(30):
        prior.train_on_batch(inputs, data)
    assert prior.evaluate(inputs, data, verbose=0) < 0.3 * first


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (3, 4), (7, 7)])
def test_no_logit_knows_its_own_or_a_later_code(prior, place):
    data, levels = codes((1, 8, 8)), np.array([2])
    changed = data.copy()
    changed[0][place] = (changed[0][place] + 1) % CODES
    before, after = (prior.logits(c, levels).numpy()[0].reshape(64, CODES) for c in (data, changed))
    raster = place[0] * 8 + place[1]
    np.testing.assert_array_equal(before[: raster + 1], after[: raster + 1])
    assert raster == 63 or np.abs(before[raster + 1 :] - after[raster + 1 :]).max() > 1e-4


def test_no_blind_spot(prior):
    """The last logit feels every earlier code."""
    data, levels = codes((1, 8, 8)), np.array([2])
    before = prior.logits(data, levels).numpy()[0, 7, 7]
    many = np.repeat(data, 63, axis=0)
    for place in range(63):
        many[place].reshape(-1)[place] += 1
    after = prior.logits(many % CODES, np.repeat(levels, 63)).numpy()[:, 7, 7]
    assert (np.abs(after - before).max(-1) > 0).all()


def test_level_and_mirroring_are_conditions(prior):
    data = codes((1, 8, 8))
    one, other, mirrored = (
        prior.logits(data, np.array([level])).numpy() for level in (0, LEVELS - 1, LEVELS)
    )
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - mirrored).max() > 1e-3


def shares(probability, **options):
    logits = tf.constant(np.tile(np.log([probability]), (20000, 1)), tf.float32)
    return (
        np.bincount(draw(logits, tf.constant(0), 0, Drawing(**options)), minlength=len(probability))
        / 20000
    )


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [0.5, 0.3, 0.2]),
        ({"temperature": 0.5}, [25 / 38, 9 / 38, 4 / 38]),
        ({"top_k": 2}, [0.625, 0.375, 0]),
        ({"top_p": 0.5}, [1, 0, 0]),
        ({"top_p": 0.6}, [0.625, 0.375, 0]),
    ],
)
def test_draws_follow_the_distribution(options, expected):
    np.testing.assert_allclose(shares([0.5, 0.3, 0.2], **options), expected, atol=0.015)


def test_completion_keeps_what_is_given_and_draws_the_rest(prior):
    given, levels, seed = codes((2, 8, 8)), tf.constant([0, 3]), tf.constant(1)
    drawn = prior.sample(levels, seed, given=given, rows=tf.constant(5)).numpy()
    np.testing.assert_array_equal(drawn[:, :5], given[:, :5])
    logits = prior.logits(drawn, levels)
    for y in range(5, 8):
        for x in range(8):
            np.testing.assert_array_equal(drawn[:, y, x], draw(logits[:, y, x], seed, y * 8 + x))
    kept = prior.sample(levels, seed, given=given, rows=tf.constant(8))
    np.testing.assert_array_equal(kept, given)


def test_rate_weight_buys_bits_with_distance(prior):
    distances, levels = (
        np.random.default_rng(0).random((4, 8, 8, CODES)).astype("float32"),
        np.arange(4),
    )
    bits, distance = [], []
    for rate_weight in (0.0, 0.05, 0.5):
        codes = prior.choose_codes(distances, levels, rate_weight).numpy()
        bits.append(np.mean(prior.bits(codes, levels)))
        distance.append(np.take_along_axis(distances, codes[..., None], -1).mean())
    np.testing.assert_array_equal(prior.choose_codes(distances, levels, 0.0), distances.argmin(-1))
    assert bits[0] > bits[1] > bits[2] and distance[0] < distance[1] < distance[2]


def test_healing_redraws_what_is_unlikely_and_keeps_the_rest(prior):
    data, levels, seed = codes((2, 8, 8)), np.array([0, 3]), tf.constant(1)
    limit = np.median(prior.surprise(data, levels))
    kept, drawn, healed = (
        prior.heal(data, levels, tf.constant(value, tf.float32), seed).numpy()
        for value in (1e6, -1e6, limit)
    )
    np.testing.assert_array_equal(kept, data)
    np.testing.assert_array_equal(drawn, prior.sample(tf.constant(levels), seed))
    logits = prior.logits(healed, levels).numpy()
    own = surprise(logits, data).numpy()
    np.testing.assert_array_equal(healed[own <= limit], data[own <= limit])
    for y, x in np.argwhere(own[0] > limit):
        assert healed[0, y, x] == draw(logits[:, y, x], seed, y * 8 + x)[0]


def test_surprise_of_a_known_distribution():
    logits = np.log([[0.5, 0.25, 0.125, 0.125]] * 4).astype("float32")
    information, mean = np.array([1, 2, 3, 3]), 1.75
    variance = np.sum([0.5, 0.25, 0.125, 0.125] * (information - mean) ** 2)
    np.testing.assert_allclose(
        surprise(logits, tf.range(4)),
        (information - mean) / np.sqrt(variance + 1),
        rtol=1e-5,
    )


# ---- the seam for other priors -----------------------------------------------------------------


@serializable
class LeftNeighbour(raster.RasterPrior):
    """The smallest prior: a code depends on the one to its left, by a table `(K + 1, K)`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        size = self.settings["codebook_size"]
        self.table = self.add_weight(shape=(size + 1, size), name="table")
        self.built = True

    def call(self, inputs, training=False):
        left = tf.pad(inputs["codes"][:, :, :-1] + 1, [[0, 0], [0, 0], [1, 0]])
        return tf.gather(self.table, left)

    def step(self, state, left, y, x):
        return tf.gather(self.table, left + 1), state


@pytest.fixture
def smallest():
    prior = LeftNeighbour((8, 8), CODES, LEVELS, rate_weight=0.5)
    prior.table.assign(np.random.default_rng(0).normal(size=prior.table.shape))
    return prior


def test_another_prior_writes_call_and_step_and_gets_the_rest(smallest):
    prior, levels, seed = smallest, tf.constant([0, 3]), tf.constant(1)
    drawn = prior.sample(levels, seed).numpy()
    logits = prior.logits(drawn, levels)
    for y, x in np.ndindex(8, 8):
        expected = draw(logits[:, y, x], seed, y * 8 + x)
        np.testing.assert_array_equal(drawn[:, y, x], expected)
    distances = np.random.default_rng(0).random((2, 8, 8, CODES)).astype("float32")
    nearest, chosen = distances.argmin(-1), prior.choose_codes(distances, levels)
    bits = [np.mean(prior.bits(codes, levels)) for codes in (nearest, chosen)]
    assert bits[1] < bits[0]
    healed = prior.heal(drawn, levels, 1e6, seed)
    np.testing.assert_array_equal(healed, drawn)
    stacks = prior.sample_upward(np.full((2, 2, 8, 8), NO_CODE), 0, np.array([1, 2]))
    np.testing.assert_array_equal(stacks[:, 0], drawn)


def test_another_prior_trains_and_comes_back_from_its_file(smallest, tmp_path):
    inputs = {"codes": codes(), "levels": np.array([0, 1, 3])}
    smallest.compile(keras.optimizers.Adam(0.1))
    losses = [smallest.train_on_batch(inputs, inputs["codes"]) for _ in range(20)]
    np.testing.assert_allclose(losses[-1], np.mean(smallest.bits(**inputs)), rtol=0.1)
    assert losses[-1] < 0.9 * losses[0]
    for name in ("draft", "prior"):
        checkpoints.save_model(smallest, tmp_path / f"{name}.keras")
        again = checkpoints.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(smallest.bits(**inputs), again.bits(**inputs))
    checkpoints.save_model(smallest, tmp_path / "vqvae.keras")
    with pytest.raises(InputError, match="it holds no VQVAE"):
        checkpoints.load_model(tmp_path / "vqvae.keras")


@pytest.mark.slow
def test_trains_under_xla():
    """A GPU compiles with XLA by default."""
    prior = make_prior(blocks=2)
    prior.compile("adam", jit_compile=True)
    inputs = {"codes": codes(), "levels": np.arange(3), "below": codes((3, 2, 8, 8))}
    losses = [prior.train_on_batch(inputs, inputs["codes"]) for _ in range(5)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
