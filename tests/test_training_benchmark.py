"""The benchmark of training on tiny sizes: it runs and counts what it says."""

import numpy as np
import pytest
import tensorflow as tf
import training
from common import in_turn
from contenders.keras_rivals import OneHotQuantizer
from contenders.remote import Failure, Remote
from shared import CODES, IMAGE_SIZE

import modules

FRAME = (0, 0, IMAGE_SIZE, IMAGE_SIZE)
NETWORK = training.Network(IMAGE_SIZE, FRAME, CODES, code_dim=4, width=8, blocks=2, batch=2)


def test_the_quantizer_of_the_tutorial_gives_the_codes_of_ours():
    ours, tutorial = modules.VectorQuantizer(CODES, 4), OneHotQuantizer(CODES, 4)
    latents = tf.random.stateless_normal((2, 8, 8, 4), (0, 1))
    for layer in (ours, tutorial):
        layer.build(latents.shape)
    tutorial.codebook.assign(tf.transpose(ours.codebook))
    codes = ours.distances(latents).numpy().argmin(-1)
    assert len(np.unique(codes)) > 4
    np.testing.assert_array_equal(tutorial.codes(latents), codes)
    np.testing.assert_allclose(tutorial.embed(codes), ours.codebook.numpy()[codes], rtol=1e-6)


@pytest.mark.parametrize("quantizer", [modules.VectorQuantizer, OneHotQuantizer])
def test_quantizers_learn(quantizer):
    layer, latents = quantizer(CODES, 4), tf.random.stateless_normal((16, 32, 2, 4), (0, 1))
    step = training.quantizer_step(layer, latents)
    errors = []
    for _ in range(2):
        errors.append(float(tf.reduce_mean((layer(latents) - latents) ** 2)))
        for _ in range(50):
            step()
    assert errors[1] < 0.95 * errors[0]


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []

    def timer(name, seconds):
        times = iter(seconds)
        return lambda: calls.append(name) or next(times)

    timers = {"ours": timer("ours", (99, 1, 2, 4)), "other": timer("other", (99, 3, 4, 4))}
    figures = in_turn(timers, rounds=3)
    assert figures["ours"] == {"seconds": 2, "ratio": 1}
    assert figures["other"] == {"seconds": 4, "ratio": 2}  # of 3, 2 and 1
    assert all(set(calls[i : i + 2]) == set(timers) for i in range(0, 8, 2))


@pytest.mark.slow
def test_steps_train_and_a_profile_names_operations():
    steps = training.vqvae_step(NETWORK, one_hot=True), training.prior_step(NETWORK)
    for step in steps:
        losses = [step() for _ in range(15)]
        assert losses[-1] < losses[0] and np.isfinite(losses).all()
    shares = training.profile(steps[1], count=2)
    assert sum(shares.values()) == pytest.approx(1) and any("Conv2D" in kind for kind in shares)


@pytest.mark.skipif(not training.has_torch(), reason="PyTorch is optional")
@pytest.mark.parametrize("rival", [training.torch_vqvae, training.torch_prior])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rivals_in_torch_train_as_many_parameters(rival, compiled):
    """`torch_training` compares the numbers of parameters."""
    try:
        theirs = rival("float32", NETWORK, compiled)
    except Failure as failure:
        assert compiled, failure
        pytest.skip(f"torch.compile does not work here: {failure}")
    losses = [theirs.step() for _ in range(32)]
    assert losses[-1] < losses[0]
    theirs.close()


def test_a_rival_of_another_size_stops_the_benchmark(monkeypatch):
    class Other:
        def parameters(self):
            return 1

    monkeypatch.setattr(training, "Remote", lambda *_, **__: Other())
    with pytest.raises(AssertionError, match="prior: .* trainable parameters, in PyTorch 1"):
        training.torch_training(NETWORK.prior(), "prior", "float32", False, {})


def test_what_fails_elsewhere_is_said_here():
    with pytest.raises(Failure, match="process ended|No module named"):
        Remote("contenders.no_such_rival")
