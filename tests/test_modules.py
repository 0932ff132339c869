import keras
import numpy as np
import pytest
import tensorflow as tf
from shared import CODES, IMAGE_SIZE, SHALLOW

import modules
from networks.quantizer import CodebookUsage


def images(count=6, seed=0):
    return np.random.default_rng(seed).random((count, IMAGE_SIZE, IMAGE_SIZE, 1), "float32")


def quantizer(size=CODES, dim=3, **constants):
    layer = modules.VectorQuantizer(size, dim)
    layer.build((None, None, None, dim))
    for name, value in constants.items():
        setattr(layer, name, value)
    return layer


def test_codes_are_the_nearest_neighbours():
    layer, rng = quantizer(), np.random.default_rng(0)
    table, latents = rng.normal(size=(CODES, 3)), rng.normal(size=(2, 5, 5, 3))
    layer.codebook.assign(table)
    distances = np.linalg.norm(latents[..., None, :] - table, axis=-1)
    np.testing.assert_array_equal(layer.codes(latents.astype("float32")), distances.argmin(-1))


def test_codes_are_the_nearest_neighbours_to_the_last_digits():
    """Of vectors far from the origin, where |c|^2 - 2 z.c loses most to rounding."""
    layer, rng = quantizer(1031, 16), np.random.default_rng(0)
    table, latents = (rng.normal(3, 1, (count, 16)).astype("float32") for count in (1031, 1000))
    layer.codebook.assign(table)
    distances = np.linalg.norm(latents[:, None].astype("float64") - table, axis=-1)
    chosen = distances[np.arange(1000), layer.codes(latents)]
    np.testing.assert_allclose(chosen, distances.min(-1), rtol=1e-5)
    assert (layer.codes(latents) == distances.argmin(-1)).numpy().mean() > 0.99


def test_gradient_goes_straight_through_and_commitment_is_weighed():
    layer = quantizer(COMMITMENT_WEIGHT=0.5)
    latents = tf.Variable(np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(latents)
        loss = tf.reduce_sum(3.0 * layer(latents))
    np.testing.assert_allclose(tape.gradient(loss, latents), np.full(latents.shape, 3.0))
    distance = np.mean((latents.numpy() - layer.embed(layer.codes(latents)).numpy()) ** 2)
    np.testing.assert_allclose(layer.losses[0], 0.5 * distance, rtol=1e-5)


def test_codebook_follows_the_moving_average_of_its_vectors():
    layer = quantizer(size=2, dim=1, DECAY=0.9, RESTART_BELOW=0.0)
    layer.codebook.assign([[0.0], [10.0]])
    layer.counts.assign([2.0, 2.0])  # of all the steps that it can remember
    layer.sums.assign([[0.0], [20.0]])
    layer(np.array([1.0, 1.0, 1.0, 8.0], "float32").reshape(1, 2, 2, 1), training=True)
    counts = np.array([0.9 * 2 + 0.1 * 3, 0.9 * 2 + 0.1 * 1])
    sums = np.array([0.1 * 3.0, 0.9 * 20 + 0.1 * 8])
    np.testing.assert_allclose(layer.counts, counts, rtol=1e-5)
    smoothed = (counts + 1e-5) / (counts.sum() + 2e-5) * counts.sum()
    np.testing.assert_allclose(layer.codebook[:, 0], sums / smoothed, rtol=1e-4)


def test_codebook_starts_from_data_and_dead_codes_restart_on_it():
    layer = quantizer()
    latents = np.random.default_rng(1).normal(5, 1, (2, 8, 8, 3)).astype("float32")
    layer(latents, training=True)
    vectors = latents.reshape(-1, 3)
    for code in layer.codebook.numpy():
        assert np.abs(vectors - code).sum(-1).min() < 1e-3
    assert len(np.unique(layer.codebook.numpy(), axis=0)) == CODES
    table, counts = layer.codebook.numpy(), layer.counts.numpy()
    table[3], counts[3] = 1e3, 0.0  # a code that no vector will ever reach
    layer.codebook.assign(table)
    layer.counts.assign(counts)
    layer(latents, training=True)
    assert np.abs(vectors - layer.codebook.numpy()[3]).sum(-1).min() < 1e-3


def test_a_lost_code_restarts_within_steps_that_few_slices_give():
    """Vectors move away in the second step, as those of an untrained encoder do."""
    layer, rng = quantizer(), np.random.default_rng(1)
    for step in range(12):
        latents = rng.normal(5 * (step > 0), 1, (8, 4, 4, 3)).astype("float32")
        layer(latents, training=True)
        filled = min(0.01 + 0.001 * step, 1)
        np.testing.assert_allclose(layer.counts.numpy().sum(), filled * 128, rtol=1e-4)
    assert len(np.unique(layer.codes(latents))) >= CODES - 2


def test_quantizer_works_in_float32_under_any_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = modules.VQVAE(IMAGE_SIZE, CODES, 4, 8, encoder_blocks=(1, 1))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.encoder.layers[1].compute_dtype == "bfloat16"
    assert model.quantizer(model.encoder(images())).dtype == tf.float32
    assert model(images()).dtype == tf.float32


def test_usage_is_counted_over_an_epoch_not_a_batch():
    usage = CodebookUsage(8)
    usage.update_state(np.array([0, 0, 1, 1]))
    usage.update_state(np.array([2, 2, 3, 3]))
    result = usage.result()
    assert result["codes_used"] == 4
    np.testing.assert_allclose(result["perplexity"], 4.0, rtol=1e-5)


@pytest.mark.parametrize("reduction", [8, 4])
def test_encode_and_decode(reduction):
    sizes = {"codebook_size": CODES, "code_dim": 4, "width": 8, **SHALLOW}
    vqvae = modules.VQVAE(IMAGE_SIZE, reduction=reduction, **sizes)
    codes = vqvae.encode(images())
    side = IMAGE_SIZE // reduction
    assert codes.shape == (6, side, side) and codes.dtype == tf.int32
    restored = vqvae.decode(codes).numpy()
    assert restored.shape == (6, IMAGE_SIZE, IMAGE_SIZE, 1)
    assert restored.min() >= 0 and restored.max() <= 1
    np.testing.assert_allclose(restored, np.clip(vqvae(images()), 0, 1), atol=1e-5)


OUT_OF_RANGE = {
    modules.VQVAE: [
        {"image_size": 0}, {"image_size": 60}, {"image_size": -8}, {"reduction": 2},
        {"width": -8}, {"codebook_size": 1}, {"code_dim": 0}, {"encoder_blocks": ()},
        {"decoder_blocks": (1, 65)}, {"frame": (0, 0, 8)},
    ],
    modules.PixelCNN: [
        {"grid": 0}, {"grid": (4, 4, 4)}, {"codebook_size": 1}, {"num_levels": 0}, {"blocks": 65},
        {"width": True}, {"width": 8.0}, {"dropout": 2}, {"rate_weight": "1"},
        {"rate_weight": float("nan")},
    ],
}  # fmt: skip
NEEDED = {
    modules.VQVAE: {"image_size": 32},
    modules.PixelCNN: {"grid": 4, "codebook_size": 8, "num_levels": 3},
}


@pytest.mark.parametrize("kind, settings", [(k, s) for k, v in OUT_OF_RANGE.items() for s in v])
def test_settings_out_of_range(kind, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
        kind(**{**NEEDED[kind], **settings})


def test_one_step_moves_what_must_move_and_nothing_else(vqvae):
    vqvae.compile(keras.optimizers.Adam(1e-2), loss="mse", run_eagerly=True)
    # Residual branches end in zeros, so gradients reach all weights at the second step.
    vqvae.train_on_batch(images(), images())
    before = [w.numpy() for w in vqvae.weights]
    vqvae.train_on_batch(images(seed=1), images(seed=1))
    still = [w.path for w, old in zip(vqvae.weights, before) if np.array_equal(w, old)]
    assert not still, f"did not move: {still}"
    before = [w.numpy() for w in vqvae.weights]
    vqvae.evaluate(images(), images(), verbose=0)
    moved = [w.path for w, old in zip(vqvae.weights, before) if not np.array_equal(w, old)]
    assert not moved, f"moved: {moved}"


@pytest.mark.slow
def test_trains_under_xla(vqvae):
    vqvae.compile("adam", loss="mse", jit_compile=True)
    assert np.isfinite(vqvae.train_on_batch(images(), images(), return_dict=True)["loss"])
