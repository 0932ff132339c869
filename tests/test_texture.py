"""The texture: a proper distribution of grey values, drawn in steps that see no later one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from shared import load_models_once

from evaluation import reconstruction
from fitting import checkpoints
from fitting.run_directory import RunDirectory
from networks.texture import (
    GREYS,
    ORDER,
    PARAMETERS,
    PATCH,
    STEPS,
    Texture,
    coarse_to_fine,
    draw_greys,
    log_likelihood,
)
from sources.folder import make_split
from utils import InputError

SIZE, FRAME = 32, (8, 4, 24, 28)


@pytest.fixture(scope="module")
def texture():
    """A texture whose every weight counts."""
    model = Texture(SIZE, FRAME, width=8, blocks=2, dtype="float32")
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


@pytest.fixture(scope="module")
def slices():
    rng = np.random.default_rng(1)
    values = np.zeros((3, SIZE, SIZE, 1), "float32")
    values[:, 9:23, 6:27] = rng.integers(0, 256, (3, 14, 21, 1)) / 255
    return tf.constant(values)


def parameters(seed, shape=()):
    return tf.constant(np.random.default_rng(seed).normal(0, 1, (*shape, PARAMETERS)), tf.float32)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_all_grey_values_are_one_together(seed):
    values = tf.constant(np.arange(256)[:, None] / 255, tf.float32)
    given = tf.repeat(parameters(seed)[None], 256, axis=0)
    log_probabilities = log_likelihood(values, given, tf.fill((256, 1), 0.5))
    assert float(tf.reduce_sum(tf.exp(log_probabilities))) == pytest.approx(1, abs=1e-3)


def test_grey_values_are_drawn_as_often_as_they_are_likely():
    """Given that they are no background, which is decided and not drawn."""
    count, of_head = 200_000, parameters(5) - 5 * np.eye(PARAMETERS)[0]
    given = tf.repeat(tf.cast(of_head, tf.float32)[None], count, axis=0)
    restored = tf.fill((count, 1), 0.5)
    uniforms = tf.random.stateless_uniform((count, 2), (1, 2))
    drawn = np.round(draw_greys(given, restored, uniforms).numpy() * GREYS).astype(int)
    values = tf.constant(np.arange(1, 256)[:, None] / 255, tf.float32)
    likely = np.exp(log_likelihood(values, given[:255], restored[:255]).numpy())
    seen = np.bincount(drawn, minlength=256)[1:] / count
    likely /= likely.sum()
    np.testing.assert_allclose(seen, likely, atol=6 * np.sqrt(likely.max() / count))
    is_background = given + 10 * np.eye(PARAMETERS)[0]
    assert not draw_greys(tf.cast(is_background, tf.float32), restored, uniforms).numpy().any()


def test_far_grey_values_have_a_likelihood_with_a_gradient():
    """Float32 cannot subtract two sigmoids there."""
    given, values = parameters(0)[None], tf.constant([[1.0]])
    with tf.GradientTape() as tape:
        tape.watch(given)
        nats = log_likelihood(values - 0.1, given - 5.0, tf.zeros((1, 1)))
    assert np.isfinite(nats).all() and np.isfinite(tape.gradient(nats, given)).all()


def test_the_steps_go_from_far_apart_to_close_by():
    assert sorted(ORDER) == [(y, x) for y in range(PATCH) for x in range(PATCH)]
    assert coarse_to_fine(2) == [(0, 0), (1, 1), (0, 1), (1, 0)]
    first = np.array(ORDER[: STEPS // 4])
    assert (first % 2 == 0).all()


@pytest.mark.parametrize("step", [0, 3, 7, STEPS - 1])
def test_no_step_sees_a_pixel_of_its_own_or_a_later_step(texture, slices, step):
    frames = slices[:, FRAME[0] : FRAME[2], FRAME[1] : FRAME[3]]
    y, x = ORDER[step]

    def distributions(images):
        inputs = {"images": images, "restored": frames * 0.9, "below": frames * 0.8}
        whole = {"has_below": tf.ones(3, tf.int32), "step": tf.fill((3,), step)}
        # Own pixels are set to one value, so that bits tell of distributions alone.
        own = np.zeros(frames.shape, "float32")
        own[:, y::PATCH, x::PATCH] = 1
        return texture({**inputs, **whole, "images": images * (1 - own) + 0.5 * own}).numpy()

    before = distributions(frames)
    for other, (top, left) in enumerate(ORDER):
        changed = frames.numpy()
        changed[:, top::PATCH, left::PATCH] = 1 - changed[:, top::PATCH, left::PATCH]
        is_same = np.array_equal(before, distributions(tf.constant(changed)))
        assert is_same == (other >= step)


def test_a_seed_gives_one_slice_whatever_stands_beside_it(texture, slices):
    seeds = tf.constant([5, 6, 5])
    drawn = texture.draw(slices, seeds, slices).numpy()
    alone = texture.draw(slices[1:2], seeds[1:2], slices[1:2]).numpy()
    np.testing.assert_array_equal(drawn[1:2], alone)
    np.testing.assert_array_equal(texture.draw(slices, 6, slices)[1:2], alone)
    assert not np.array_equal(texture.draw(slices, seeds + 1, slices), drawn)
    assert not np.array_equal(texture.draw(slices, seeds), drawn)
    np.testing.assert_allclose(drawn * 255, np.round(drawn * 255), atol=1e-4)
    top, left, bottom, right = FRAME
    drawn[:, top:bottom, left:right] = 0
    assert not drawn.any()


def test_what_is_drawn_has_the_bits_that_the_model_expects(texture, slices):
    """So drawing and measuring agree. Grey values of far fewer or more bits come from elsewhere."""
    restored = tf.repeat(slices[:1], 16, axis=0)
    drawn = texture.draw(restored, tf.range(16), restored)
    again = texture.draw(restored, tf.range(16, 32), restored)
    own, others = (texture.bits(images, restored, restored).numpy() for images in (drawn, again))
    assert abs(own.mean() - others.mean()) < 4 * own.std() / np.sqrt(16) * np.sqrt(2)
    assert texture.bits(1 - drawn, restored, restored).numpy().mean() > own.mean() + 1


def test_training_lowers_the_bits(slices):
    keras.utils.set_random_seed(0)
    model = Texture(SIZE, FRAME, width=8, blocks=1)
    frames = slices[:, FRAME[0] : FRAME[2], FRAME[1] : FRAME[3]]
    inputs = {"images": frames, "restored": frames, "below": frames}
    inputs |= {"has_below": tf.zeros(3, tf.int32), "step": tf.constant([0, 5, 9])}
    model.compile(keras.optimizers.Adam(0.02))
    losses = [model.train_on_batch(inputs, frames) for _ in range(100)]
    assert losses[-1] < losses[0] - 0.7


def test_a_run_draws_with_its_texture_alone(run_copy):
    directory = RunDirectory(run_copy)
    vqvae, prior, texture = load_models_once(directory)
    codes = prior.sample(tf.constant([1, 2]), tf.constant(3))
    plain, drawn = vqvae.decode(codes), texture.draw(vqvae.decode(codes), tf.constant([1, 2]))
    assert not np.array_equal(plain, drawn)
    other = Texture.from_config({**texture.get_config(), "vqvae": "of another"})
    checkpoints.save_model(other, directory.model("texture"))
    with pytest.raises(InputError, match="another VQ-VAE"):
        checkpoints.load_models(directory)
    directory.model("texture").unlink()
    assert checkpoints.load_models(directory).texture is None


def test_a_baseline_that_knows_the_mask_pays_for_the_brain_alone(texture, slices):
    """A normal distribution of deviation 8 has log2(8) + 2.05 bits, and the rest is black."""
    images = np.round(255 * slices.numpy()[..., 0]).astype("uint8")
    images[:, 9:23, 6:27] = np.maximum(images[:, 9:23, 6:27], 1)  # no black inside
    errors = np.round(np.random.default_rng(0).normal(0, 8, images.shape))
    results = {"images": images, "restored": images.astype(float) - errors * (images > 0)}
    split = make_split("test", [(case, 0, f"{case}") for case in range(3)])
    found = reconstruction.texture_measures(texture, results, split)
    share = (14 * 21) / (16 * 24)  # of the frame
    masked = found["masked_deviation_bits_per_pixel"]
    assert masked == pytest.approx(share * (3 + 2.047), rel=0.02)
    assert masked < found["constant_deviation_bits_per_pixel"]
