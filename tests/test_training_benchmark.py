"""The benchmarks of speed on tiny sizes: they run and count what they say."""

import growth
import input as input_benchmark
import numpy as np
import pytest
import startup
import tensorflow as tf
import training
from conftest import CODES, IMAGE_SIZE
from contenders import timing
from contenders.remote import Failure

import modules
from utils import read_json

NETWORK = training.Network(
    image_size=IMAGE_SIZE, frame=None, codebook_size=CODES, code_dim=4, width=8, blocks=2, batch=2
)


@pytest.mark.parametrize("quantizer", [modules.VectorQuantizer, training.OneHotQuantizer])
def test_quantizers_learn(quantizer):
    layer, latents = quantizer(CODES, 4), tf.random.stateless_normal((16, 32, 2, 4), (0, 1))
    step = training.quantizer_step(layer, latents)
    errors = []
    for _ in range(2):
        errors.append(float(tf.reduce_mean((layer(latents) - latents) ** 2)))
        for _ in range(50):
            step()
    assert errors[1] < 0.95 * errors[0]


def test_quantizers_are_timed():
    timers = training.quantizers(codebook_size=CODES, code_dim=4, vectors=1024)
    figures = timing.in_turn(timers, "ours", rounds=2)
    assert list(figures) == ["ours", "one-hot"]
    assert figures["ours"]["ratio"] == 1 and figures["one-hot"]["seconds"] > 0


@pytest.mark.parametrize("make", [training.vqvae_step, training.one_hot_step, training.prior_step])
def test_steps_train(make):
    step = make(NETWORK)
    losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


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
    first = theirs.step()
    assert 0 < theirs.seconds(30) < 100
    assert theirs.step() < first
    theirs.close()


@pytest.mark.parametrize("stage, difference", [("vqvae", 0), ("prior", 1)])
def test_a_rival_of_another_size_stops_the_benchmark(monkeypatch, stage, difference):
    model = NETWORK.vqvae() if stage == "vqvae" else NETWORK.prior()
    count = training.count_parameters(model) + difference

    class Other:
        def parameters(self):
            return count

    monkeypatch.setattr(training, "Remote", lambda *_, **__: Other())
    if difference:
        with pytest.raises(AssertionError, match=f"{count - 1} trainable .* {count}"):
            training.torch_training(model, stage, "float32", False, {})
    else:
        training.torch_training(model, stage, "float32", False, {})


def test_what_torch_cannot_compile_is_left_out_with_a_line(monkeypatch, capsys):
    def rival(dtype, network, compiled):
        if compiled:
            raise Failure("InductorError: no C++ compiler")

    assert list(training.torch_timers(rival, "float32")) == ["torch"]
    assert capsys.readouterr().out == '"compiled" is left out: InductorError: no C++ compiler.\n'


def test_profile_names_operations_and_their_shares():
    shares = training.profile(training.vqvae_step(NETWORK), count=2)
    assert sum(shares.values()) == pytest.approx(1) and any("Conv2D" in kind for kind in shares)


def test_input_is_measured_against_the_step(tmp_path):
    input_benchmark.write_slices([tmp_path / f"{i}.png" for i in range(3)])
    split = input_benchmark.repeated(tmp_path, 20)
    figures = input_benchmark.measure(split, lambda: None, rounds=1)
    assert set(figures) == {"cold", "warm", "streamed", "step"}
    assert all(figure["images_a_second"] > 0 for figure in figures.values())


@pytest.mark.slow
def test_start_loads_nothing_without_need(tmp_path):
    startup.write_data(tmp_path, {"train": 1, "validate": 1, "test": 1}, num_levels=8)
    phases, loaded = startup.measure(tmp_path, "--image-size", "32", "--width", "8")
    assert loaded == [] and list(phases)[-1] == "first step"
    assert all(seconds > 0 for seconds in phases.values())


@pytest.mark.slow
def test_growth_of_a_case_and_its_exponent():
    figures = growth.measure("prior", "grid", 8, "float32")
    assert figures["seconds"] > 0 and figures["precision"] == "float32"
    assert figures["mib"] > 0
    assert growth.exponent([2, 4, 8], [3, 12, 48]) == pytest.approx(2)


def test_operations_are_those_of_the_products():
    left, right = tf.ones((5, 7)), tf.ones((7, 3))
    assert growth.forward_operations(lambda: left @ right) == 2 * 5 * 7 * 3


def test_several_devices_by_calculation(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "NETWORK", NETWORK)
    path = tmp_path / "devices.json"
    growth.main(growth.parse(["--devices", "--json", str(path)]))
    report = read_json(path)
    vqvae = NETWORK.vqvae()
    weights = sum(np.prod(weight.shape) for weight in vqvae.trainable_variables)
    assert report["vqvae"]["gradient_bytes"] == 4 * weights
    assert report["vqvae"]["statistics_bytes"] == 4 * CODES * 5
    assert report["prior"]["gflop"] > 0 and report["prior"]["statistics_bytes"] == 0
    # Without statistics each device sends its bytes twice in the end. Links of 1 s and of 20 s.
    row = growth.ring(4, 25 * 10**9, 0, 0, seconds=1.5)
    assert row["bytes"] == 1.5 * 25e9
    assert row["speeds"] == pytest.approx([4 * 1.5 / (1.5 + 1.5), 4 * 1.5 / (1.5 + 30)])
