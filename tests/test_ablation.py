"""The ablation's tables on tiny models, and that what a variant leaves out is out."""

import importlib.util
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CODES, IMAGE_SIZE, LEVELS, ROOT, TINY, one_line, run_script

import dataset
import train
import utils
from utils import InputError, read_json, write_json

specification = importlib.util.spec_from_file_location("ablation", ROOT / "benchmarks" / "ablation.py")
benchmark = importlib.util.module_from_spec(specification)
specification.loader.exec_module(benchmark)
GRID = IMAGE_SIZE // 8


@pytest.fixture
def run(slices_folder, tmp_path):
    """What the ablation reads of a finished run."""
    slices = dataset.open_slices(slices_folder)
    data = {"name": "OASIS", "fingerprint": slices.fingerprint}
    write_json(tmp_path / "config.json", {"settings": train.resolve(train.parse(TINY), slices), "data": data})
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "codes.npz", **{split: rng.integers(0, CODES, (2, len(slices.splits[split]), GRID, GRID)).astype("uint16") for split in train.USED})
    return tmp_path


def arguments(run, data, **changes):
    return types.SimpleNamespace(**{**dict(run=run, data=data, stage=None, steps=10, prior_width=8, json=run / "ablation.json"), **changes})


def test_tables_come_out_and_nothing_is_trained_twice(run, slices_folder, monkeypatch, capsys):
    every = benchmark.variants
    few = {"vqvae": ("half the width",), "prior": ("as shipped, without a draft", "half the blocks")}
    monkeypatch.setattr(utils, "_native_precision", lambda: "float32")
    monkeypatch.setattr(benchmark, "variants", lambda base: {stage: {name: every(base)[stage][name] for name in few[stage]} for stage in few})
    args = arguments(run, slices_folder)
    benchmark.main(args)
    first, printed = read_json(args.json), capsys.readouterr().out
    for stage in few:
        rows = first[stage]["variants"]
        assert tuple(rows) == few[stage] and all(name in printed for name in rows)
        assert all(np.isfinite([row[name] for name in benchmark.COLUMNS[stage]]).all() and row["seconds_per_step"] > 0 for row in rows.values())
    shipped, shallow = first["prior"]["variants"].values()
    assert shipped["parameters"] > shallow["parameters"]
    assert shipped["bits_per_code"] == pytest.approx(np.log2(CODES), abs=1)  # the codes are random
    assert first["vqvae"]["variants"]["half the width"]["index_bytes"] == GRID**2 * np.log2(CODES) / 8

    benchmark.main(args)
    assert read_json(args.json) == first  # to the last digit of the seconds: nothing was trained again
    assert capsys.readouterr().out == printed
    gone = first["prior"]["variants"].pop("half the blocks")
    write_json(args.json, first)
    benchmark.main(args)
    again = read_json(args.json)["prior"]["variants"]
    assert again["as shipped, without a draft"] == shipped
    assert again["half the blocks"]["bits_per_code"] == gone["bits_per_code"]  # from the same seed
    assert again["half the blocks"]["seconds_per_step"] != gone["seconds_per_step"]

    with pytest.raises(InputError, match="other steps"):
        benchmark.main(arguments(run, slices_folder, steps=11))


def test_every_variant_changes_a_known_setting(run, slices_folder):
    slices = dataset.open_slices(slices_folder)
    base = {**train.resolve(train.parse([]), slices), **benchmark.SHIPPED, "steps": 100}
    for stage, variants in benchmark.variants(base).items():
        assert len({json.dumps(changes) for changes in variants.values()}) == len(variants)
        for changes in variants.values():
            assert set(changes) <= set(base) and all(base[name] != value for name, value in changes.items()), (stage, changes)


@pytest.mark.parametrize("start", ["from data", "random"])
def test_a_held_codebook_restarts_nothing(vqvae, start):
    before = vqvae.quantizer.codebook.numpy()
    latents = keras.random.normal((2, GRID, GRID, 4), mean=5.0, seed=1)
    benchmark.hold_codebook(vqvae.quantizer, latents, start)
    held = vqvae.quantizer.codebook.numpy()
    flat = np.asarray(latents).reshape(-1, 4)
    distance = np.abs(held[:, None] - flat[None]).max(-1).min(1)
    if start == "random":
        np.testing.assert_array_equal(held, before)
    else:
        assert (distance < 1e-3).all()  # every code is a vector of the batch
    far = flat[:1].reshape(1, 1, 1, 4) * np.ones((1, GRID, GRID, 1), "float32") + 100  # all vectors belong to one code
    for _ in range(3):
        vqvae.quantizer(far, training=True)
    moved = np.abs(vqvae.quantizer.codebook.numpy() - held).max(-1)
    assert (moved > 1).sum() == 1 and (moved < 1e-2).sum() == CODES - 1


def test_what_is_left_out_is_out(run, slices_folder, monkeypatch):
    slices, fit, seen = dataset.open_slices(slices_folder), benchmark.fit, []

    def watched(make, example, count, *others):
        model, seconds = fit(make, example, count, *others)
        seen.append((model, {int(example(tf.constant(index), False)[0]["levels"]) for index in range(count)}))
        return model, seconds

    monkeypatch.setattr(benchmark, "fit", watched)
    base = {**train.resolve(train.parse(TINY), slices), **benchmark.SHIPPED, "steps": 10}
    measure = benchmark.prior_bench(slices, base, run)
    for changes in ({}, {"position": False, "level": False, "dilations": [1], "averaging": 0.99}):
        measure({**base, **changes})
    (shipped, levels), (bare, no_levels) = seen
    assert levels == set(range(LEVELS)) and no_levels == {0}
    assert np.abs(shipped.positions.numpy()).max() > 0 and not np.abs(bare.positions.numpy()).max()
    assert [block.dilation for block in shipped.blocks] == [1, 2] and [block.dilation for block in bare.blocks] == [1, 1]
    assert bare.optimizer.use_ema and not shipped.optimizer.use_ema
    for weight, average in zip(bare.trainable_variables, bare.optimizer._model_variables_moving_average, strict=True):
        np.testing.assert_array_equal(weight, average)


@pytest.mark.parametrize("mirror", [True, False])
def test_mirroring_can_be_left_out(mirror, prior):
    mirrors = []

    def example(index, mirrored):
        tf.py_function(lambda flag: mirrors.append(bool(flag)), [mirrored], [])
        codes = tf.zeros((8, 8), tf.int32)
        return {"codes": codes, "levels": tf.zeros((), tf.int32)}, codes

    def make(schedule):
        prior.compile(train.optimizer(schedule))
        return prior

    benchmark.fit(make, example, 8, {"batch_size": 4, "steps": 10, "seed": 0, "mirror": mirror, "precision": "float32"}, 1e-3)
    assert len(mirrors) >= 40 and set(mirrors) == ({True, False} if mirror else {False})
    assert int(prior.optimizer.iterations) == 10


def test_other_slices_are_refused(run, slices_folder, tmp_path):
    config = read_json(run / "config.json")
    write_json(run / "config.json", {**config, "data": {**config["data"], "fingerprint": "other"}})
    one_line(run_script("benchmarks/ablation.py", "--run", run, "--data", slices_folder), run, "other slices")


@pytest.mark.slow
def test_every_variant_trains(run, slices_folder):
    done = run_script("benchmarks/ablation.py", "--run", run, "--data", slices_folder, "--steps", 10, "--prior-width", 8, "--json", run / "all.json")
    assert done.returncode == 0, done.stderr
    report = read_json(run / "all.json")
    for stage, table in report.items():
        assert list(table["variants"]) == list(benchmark.variants(table["conditions"]["settings"])[stage])
