import keras
import numpy as np
import pytest
import tensorflow as tf
from shared import CODES, LEVELS, codes, make_prior

from fitting import checkpoints
from networks import raster, serializable
from networks.gated import GatedBlock
from networks.logits import Drawing, draw, surprise, uniforms
from networks.neighbours import NO_CODE
from networks.order import arrange
from utils import InputError

GRID = (6, 8)
MIRRORS = ("rows", "columns", "none")


def scanned(maps, mirror):
    """Values of a map `(H, W, ...)` in scan order. A line holds both halves."""
    turned = np.swapaxes(maps, 0, 1) if mirror == "rows" else maps
    return turned.reshape(48, *maps.shape[2:])


def inputs_of(data, levels, slots=2):
    """Inputs of slices by themselves."""
    none = np.zeros((len(data), slots), "int32")
    neighbours = np.full((len(data), slots, *data.shape[1:]), NO_CODE)
    return {"codes": data, "levels": levels, "neighbours": neighbours, "distances": none}


def test_prior_learns_in_bits():
    prior, data = make_prior(blocks=1), np.tile(codes((1, 8, 8)), (4, 1, 1))
    inputs = inputs_of(data, np.zeros(4, "int32"))
    prior.compile(keras.optimizers.Adam(5e-2))
    first = prior.evaluate(inputs, data, verbose=0)
    np.testing.assert_allclose(first, np.mean(prior.bits(data, inputs["levels"])), rtol=1e-4)
    for _ in range(30):
        prior.train_on_batch(inputs, data)
    assert prior.evaluate(inputs, data, verbose=0) < 0.3 * first


@pytest.mark.parametrize("mirror", MIRRORS)
def test_no_logit_knows_its_own_or_a_later_code(mirror):
    prior, data = make_prior(GRID, mirror=mirror), codes((1, *GRID))
    before = scanned(prior.logits(data, np.array([2])).numpy()[0], mirror)
    for place in ((0, 0), (0, 7), (3, 4), (5, 7)):
        changed = data.copy()
        changed[0][place] = (changed[0][place] + 1) % CODES
        after = scanned(prior.logits(changed, np.array([2])).numpy()[0], mirror)
        number = np.flatnonzero(scanned(changed[0] != data[0], mirror))[0]
        np.testing.assert_array_equal(before[: number + 1], after[: number + 1])
        assert number == 47 or np.abs(before[number + 1 :] - after[number + 1 :]).max() > 1e-4


@pytest.mark.parametrize("mirror", MIRRORS)
def test_no_blind_spot(mirror):
    """The last logit feels every earlier code."""
    prior, data = make_prior(GRID, mirror=mirror), codes((1, *GRID))
    before = prior.logits(data, np.array([2])).numpy()[0, -1, -1]
    many = np.repeat(data, 47, axis=0)
    for place in range(47):
        many[place].reshape(-1)[place] += 1
    after = prior.logits(many % CODES, np.full(47, 2)).numpy()[:, -1, -1]
    assert (np.abs(after - before).max(-1) > 0).all()


@pytest.mark.parametrize("mirror", MIRRORS)
def test_a_row_knows_what_came_before_around_its_mirror_places(mirror):
    """Of one block, whose convolutions see one place to each side."""
    prior, data = make_prior((12, 12), blocks=1, mirror=mirror), codes((1, 12, 12))
    changed = data.copy()
    changed[0, 2, 2] = (changed[0, 2, 2] + 1) % CODES
    before, after = (prior.logits(maps, np.array([2])).numpy()[0] for maps in (data, changed))
    moved = np.abs(before - after).max(-1) > 1e-5
    lines = moved.T if mirror == "rows" else moved
    assert lines[3:5, 1:4].any(1).all()
    assert lines[3:5, 8:11].any(1).all() if mirror != "none" else not lines[:, 5:].any()
    assert lines[2, 8:].any() == (mirror != "none")  # and on the same line


def test_mirror_places_count_from_the_first_step_on():
    """Their product starts at zero, which changes nothing, and a step moves it."""
    block = GatedBlock(4, is_mirrored=True)
    block.build((None, 3, 5, 4))
    kernel = block.mirror_to_horizontal.kernel
    assert not np.any(kernel)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    block.output_conv.kernel.assign(np.eye(4))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(x, x, np.zeros((2, 1, 1, 16), "float32"))[1] ** 2)
    assert np.abs(tape.gradient(loss, kernel.value)).min() > 0


def test_level_and_mirroring_are_conditions(prior):
    data = codes((1, 8, 8))
    one, other, mirrored = (
        prior.logits(data, np.array([level])).numpy() for level in (0, LEVELS - 1, LEVELS)
    )
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - mirrored).max() > 1e-3


NOISE = uniforms([3], (20000,))[0]


def shares(probability, **options):
    logits = tf.constant(np.tile(np.log([probability]), (20000, 1)), tf.float32)
    return np.bincount(draw(logits, NOISE, Drawing(**options)), minlength=len(probability)) / 20000


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


@pytest.mark.parametrize("logits, uniform", [([-99, 0, 0.2, -99], 0.0), ([0, 0.2, -99, -99], 1.0)])
def test_no_impossible_code_is_drawn_at_the_ends(logits, uniform):
    uniform = np.nextafter(np.float32(uniform), np.float32(0.5)) if uniform else uniform
    drawn = draw(tf.constant([logits]), tf.constant([uniform], tf.float32), Drawing(top_k=2))
    assert drawn[0] == 1


def test_completion_keeps_what_is_given_and_draws_the_rest(prior):
    given, levels, seeds = codes((2, 8, 8)), np.array([0, 3]), np.array([1, 2])
    is_kept = np.arange(8) < 5
    begun = np.where(is_kept, given, NO_CODE)
    drawn = prior.sample(levels, seeds, given=begun).numpy()
    logits, noise = prior.logits(drawn, levels), uniforms(seeds, (8, 8))
    for y, x in np.ndindex(8, 8):
        expected = given[:, y, x] if is_kept[x] else draw(logits[:, y, x], noise[:, y, x])
        np.testing.assert_array_equal(drawn[:, y, x], expected)
    np.testing.assert_array_equal(prior.sample(levels, seeds, given=given), given)


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
    data, levels, seeds = codes((2, 8, 8)), np.array([0, 3]), np.array([1, 2])
    limit = np.median(prior.surprise(data, levels))
    kept, drawn, healed = (
        prior.heal(data, levels, tf.constant(value, tf.float32), seeds).numpy()
        for value in (1e6, -1e6, limit)
    )
    np.testing.assert_array_equal(kept, data)
    np.testing.assert_array_equal(drawn, prior.sample(levels, seeds))
    logits, noise = prior.logits(healed, levels).numpy(), uniforms(seeds, (8, 8))
    own = surprise(logits, data).numpy()
    np.testing.assert_array_equal(healed[own <= limit], data[own <= limit])
    for y, x in np.argwhere(own[0] > limit):
        assert healed[0, y, x] == draw(logits[:, y, x], noise[:, y, x])[0]


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

    def forward(self, codes, levels, read, training=False):
        left = tf.pad(codes[:, :, :-1] + 1, [[0, 0], [0, 0], [1, 0]])
        return tf.gather(self.table, left)

    def step(self, within, left, y, x):
        return tf.gather(self.table, left + 1), within


@pytest.fixture
def smallest():
    prior = LeftNeighbour((8, 8), CODES, LEVELS, rate_weight=0.5)
    prior.table.assign(np.random.default_rng(0).normal(size=prior.table.shape))
    return prior


def test_another_prior_writes_forward_and_step_and_gets_the_rest(smallest):
    prior, levels, seeds = smallest, np.array([0, 3]), np.array([1, 2])
    drawn = prior.sample(levels, seeds).numpy()
    logits, noise = prior.logits(drawn, levels), uniforms(seeds, (8, 8))
    for y, x in np.ndindex(8, 8):
        np.testing.assert_array_equal(drawn[:, y, x], draw(logits[:, y, x], noise[:, y, x]))
    distances = np.random.default_rng(0).random((2, 8, 8, CODES)).astype("float32")
    nearest, chosen = distances.argmin(-1), prior.choose_codes(distances, levels)
    bits = [np.mean(prior.bits(codes, levels)) for codes in (nearest, chosen)]
    assert bits[1] < bits[0]
    healed = prior.heal(drawn, levels, 1e6, seeds)
    np.testing.assert_array_equal(healed, drawn)
    stack = prior.sample(levels, seeds, neighbours=arrange([0, 0], levels, 0))
    np.testing.assert_array_equal(stack, drawn)


def test_another_prior_trains_and_comes_back_from_its_file(smallest, tmp_path):
    inputs, slices = inputs_of(codes(), np.array([0, 1, 3]), 0), (codes(), np.array([0, 1, 3]))
    smallest.compile(keras.optimizers.Adam(0.1))
    losses = [smallest.train_on_batch(inputs, inputs["codes"]) for _ in range(20)]
    np.testing.assert_allclose(losses[-1], np.mean(smallest.bits(*slices)), rtol=0.1)
    assert losses[-1] < 0.9 * losses[0]
    for name in ("draft", "prior"):
        checkpoints.save_model(smallest, tmp_path / f"{name}.keras")
        again = checkpoints.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(smallest.bits(*slices), again.bits(*slices))
    checkpoints.save_model(smallest, tmp_path / "vqvae.keras")
    with pytest.raises(InputError, match="it holds no VQVAE"):
        checkpoints.load_model(tmp_path / "vqvae.keras")


@pytest.mark.slow
def test_trains_under_xla():
    """A GPU compiles with XLA by default."""
    prior = make_prior(blocks=2)
    prior.compile("adam", jit_compile=True)
    inputs = inputs_of(codes(), np.arange(3))
    losses = [prior.train_on_batch(inputs, inputs["codes"]) for _ in range(5)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
