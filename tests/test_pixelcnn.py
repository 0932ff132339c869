import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CODES, LEVELS, codes, make_prior

from fitting import checkpoints
from modules import PixelCNN
from networks import raster, serializable
from networks.gated import GatedBlock, shift
from networks.logits import draw, surprise
from networks.neighbours import NO_CODE
from utils import InputError


def test_prior_learns_in_bits(prior):
    data = np.tile(codes((1, 8, 8)), (32, 1, 1))
    below = np.full((32, 2, 8, 8), NO_CODE)
    inputs = {"codes": data, "levels": np.zeros(32, "int32"), "below": below}
    prior.compile(keras.optimizers.Adam(1e-2))
    first = prior.evaluate(inputs, data, verbose=0)
    np.testing.assert_allclose(first, np.mean(prior.bits(data, inputs["levels"])), rtol=1e-4)
    prior.fit(inputs, data, batch_size=8, epochs=20, verbose=0)
    assert prior.evaluate(inputs, data, verbose=0) < 0.3 * first


def test_bits_equal_the_softmax_oracle(prior):
    data, levels = codes(), np.array([0, 1, 3])
    logits = prior.logits(data, levels).numpy().astype("float64")
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    oracle = -np.take_along_axis(log, data[..., None], -1)[..., 0] / np.log(2)
    np.testing.assert_allclose(prior.bits(data, levels), oracle, atol=1e-4)


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


def test_sampler_equals_the_naive_loop(prior):
    levels, seed = tf.constant([0, 1, 3]), tf.constant(5)
    drawn = prior.sample(levels, seed).numpy()
    naive, forward = np.zeros((3, 8, 8), "int32"), tf.function(prior.logits)
    for y in range(8):
        for x in range(8):
            logits = forward(naive, levels)[:, y, x]
            naive[:, y, x] = draw(logits, seed, y * 8 + x)
    np.testing.assert_array_equal(drawn, naive)
    np.testing.assert_array_equal(drawn, prior.sample(levels, seed))
    assert (drawn != prior.sample(levels, tf.constant(6)).numpy()).any()
    np.testing.assert_array_equal(
        drawn[:1], prior.sample(levels[:1], seed)
    )  # a sample does not depend on those beside it


def shares(probability, **options):
    logits = tf.constant(np.tile(np.log([probability]), (20000, 1)), tf.float32)
    return (
        np.bincount(draw(logits, tf.constant(0), 0, **options), minlength=len(probability)) / 20000
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
    drawn = prior.sample(levels, seed, given=given, rows=5).numpy()
    np.testing.assert_array_equal(drawn[:, :5], given[:, :5])
    logits = prior.logits(drawn, levels)
    for y in range(5, 8):
        for x in range(8):
            np.testing.assert_array_equal(drawn[:, y, x], draw(logits[:, y, x], seed, y * 8 + x))
    np.testing.assert_array_equal(prior.sample(levels, seed, given=given, rows=8), given)


def test_codes_are_described_as_the_naive_loop_would(prior):
    distances, levels = (
        np.random.default_rng(0).random((2, 8, 8, CODES)).astype("float32"),
        np.array([0, 3]),
    )
    described = prior.choose_codes(distances, levels, 0.5).numpy()
    logits = prior.logits(described, levels)
    for y in range(8):
        for x in range(8):
            costs = distances[:, y, x] - 0.5 * np.log2(tf.nn.softmax(logits[:, y, x]))
            np.testing.assert_array_equal(described[:, y, x], costs.argmin(-1))


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
    np.testing.assert_array_equal(prior.heal(data, levels, 1e6, seed), data)
    np.testing.assert_array_equal(
        prior.heal(data, levels, -1e6, seed), prior.sample(tf.constant(levels), seed)
    )
    limit = float(np.median(prior.surprise(data, levels)))
    healed = prior.heal(data, levels, limit, seed).numpy()
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


# ---- shifted convolutions are masked ones ------------------------------------------------------


def features(channels=4):
    return np.random.default_rng(0).normal(size=(2, 9, 7, channels)).astype("float32")


def block(dilation, channels=4):
    layer = GatedBlock(channels, dilation)
    layer.build((None, 9, 7, channels))
    return layer


def masked_convolution(x, taps, mask, dilation):
    """Plain convolution with a kernel `(h, w, C, D)` of which a mask `(h, w)` sets taps to 0."""
    taps = np.where(np.array(mask)[..., None, None], taps, 0.0).astype("float32")
    return tf.nn.conv2d(x, taps, 1, "SAME", dilations=dilation)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_vertical_convolution_has_mask_b(dilation):
    """It sees the row `dilation` above and its own. A 3 x 3 kernel would see the row below too."""
    layer, x = block(dilation), features()
    own, above = np.split(layer.vertical_conv.kernel.numpy()[0], 2, axis=1)  # (3, C, 2C) each
    taps = np.stack([above, own, np.ones_like(own)])
    expected = masked_convolution(x, taps, [[1, 1, 1], [1, 1, 1], [0, 0, 0]], dilation)
    seen = layer.vertical_conv(np.concatenate([x, shift(x, rows=dilation)], axis=-1))
    np.testing.assert_allclose(seen - layer.vertical_conv.bias, expected, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_horizontal_convolution_has_mask_b(dilation):
    layer, x = block(dilation), features()
    own, left = np.split(layer.horizontal_conv.kernel.numpy(), 2, axis=0)  # (C, 2C) each
    taps = np.stack([left, own, np.ones_like(own)])[None]
    expected = masked_convolution(x, taps, [[1, 1, 0]], dilation)
    seen = layer.horizontal_conv(np.concatenate([x, shift(x, columns=dilation)], axis=-1))
    np.testing.assert_allclose(seen - layer.horizontal_conv.bias, expected, atol=1e-5)


def test_the_shift_of_the_input_makes_it_mask_a():
    """The first block sees rows, and columns, before its own only."""
    layer, x = block(1), features()
    down, right = shift(x, rows=1), shift(x, columns=1)
    own, above = np.split(layer.vertical_conv.kernel.numpy()[0], 2, axis=1)
    taps = np.stack([above, own, *np.ones((3, *own.shape))])
    expected = masked_convolution(x, taps, [[1] * 3, [1] * 3, [0] * 3, [0] * 3, [0] * 3], 1)
    seen = layer.vertical_conv(np.concatenate([down, shift(down, rows=1)], axis=-1))
    np.testing.assert_allclose(seen - layer.vertical_conv.bias, expected, atol=1e-5)
    own, left = np.split(layer.horizontal_conv.kernel.numpy(), 2, axis=0)
    taps = np.stack([left, own, *np.ones((3, *own.shape))])[None]
    expected = masked_convolution(x, taps, [[1, 1, 0, 0, 0]], 1)
    seen = layer.horizontal_conv(np.concatenate([right, shift(right, columns=1)], axis=-1))
    np.testing.assert_allclose(seen - layer.horizontal_conv.bias, expected, atol=1e-5)


# ---- the seam for other priors -----------------------------------------------------------------


@serializable
class LeftNeighbour(raster.RasterPrior):
    """The smallest prior: a code depends on the one to its left, by a table `(K + 1, K)`."""

    SETTINGS = {**PixelCNN.SETTINGS}
    least_weights = staticmethod(lambda settings: settings["codebook_size"] ** 2)

    def __init__(self, **settings):
        common = ("name", "dtype", "trainable")
        super().__init__(**{key: settings.pop(key) for key in common if key in settings})
        self.settings = settings
        size = settings["codebook_size"]
        self.table = self.add_weight(shape=(size + 1, size), name="table")
        self.built = True

    def call(self, inputs, training=False):
        left = tf.pad(inputs["codes"][:, :, :-1] + 1, [[0, 0], [0, 0], [1, 0]])
        return tf.gather(self.table, left)

    def step(self, state, left, y, x):
        return tf.gather(self.table, left + 1), state

    def get_config(self):
        return {**super().get_config(), **self.settings}


@pytest.fixture
def smallest():
    prior = LeftNeighbour(
        grid=(8, 8), codebook_size=CODES, num_levels=LEVELS, rate_weight=0.5, vqvae=""
    )
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
    nearest, described = distances.argmin(-1), prior.choose_codes(distances, levels)
    bits = [np.mean(prior.bits(codes, levels)) for codes in (nearest, described)]
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


def test_a_prior_without_step_says_what_is_missing():
    class Half(raster.RasterPrior):
        settings = {"grid": (8, 8), "rate_weight": 0.0}

    with pytest.raises(TypeError, match="Half must define `step`"):
        Half().sample(tf.constant([0]), tf.constant(0))


@pytest.mark.slow
def test_trains_under_xla():
    """A GPU compiles with XLA by default."""
    prior = make_prior(blocks=2)
    prior.compile("adam", jit_compile=True)
    inputs = {"codes": codes(), "levels": np.arange(3), "below": codes((3, 2, 8, 8))}
    losses = [prior.train_on_batch(inputs, inputs["codes"]) for _ in range(5)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
