"""The ablation's tables on tiny models, and that what a variant leaves out is out."""

import contextlib
import dataclasses
import functools
import json
import types

import ablation
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CODES, IMAGE_SIZE, LEVELS, TINY, make_prior, one_line, run_script
from contenders import recorded, variants

import train
from fitting import devices, stages
from fitting.run_directory import RunDirectory
from fitting.stages import make_optimizer
from networks.neighbours import NO_CODE
from sources.folder import make_split, open_slices
from sources.layout import FITTED_SPLITS
from utils import InputError, read_json, write_json

GRID = IMAGE_SIZE // 8
FEW = {
    "vqvae": ("half the width",),
    "prior": ("as shipped, without a draft", "half the blocks"),
}


@pytest.fixture
def run(slices_folder, tmp_path):
    """What the ablation reads of a finished run."""
    slices, run = open_slices(slices_folder), RunDirectory(tmp_path)
    settings = train.resolve(train.parse(TINY), slices)
    data = {"name": "OASIS", "fingerprint": slices.fingerprint}
    write_json(run.config, {"settings": dataclasses.asdict(settings), "data": data})
    rng = np.random.default_rng(0)
    shapes = {split: (2, len(slices.splits[split]), GRID, GRID) for split in FITTED_SPLITS}
    codes = {split: rng.integers(0, CODES, shape) for split, shape in shapes.items()}
    arrays = {split: values.astype("uint16") for split, values in codes.items()}
    np.savez(run.codes, made_of="a test", **arrays)
    return tmp_path


def arguments(run, data, steps=10):
    flags = {"--run": run, "--data": data, "--steps": steps, "--prior-width": 8}
    flags["--json"] = run / "ablation.json"
    return ablation.parse([str(part) for flag in flags.items() for part in flag])


@pytest.fixture
def few_variants(monkeypatch):
    every = ablation.variants

    def chosen(base):
        return {stage: {name: every(base)[stage][name] for name in FEW[stage]} for stage in FEW}

    monkeypatch.setattr(devices, "native_precision", lambda: "float32")
    monkeypatch.setattr(ablation, "variants", chosen)


@pytest.mark.slow
def test_tables_come_out_and_nothing_is_trained_twice(run, slices_folder, few_variants, capsys):
    args = arguments(run, slices_folder)
    ablation.main(args)
    first, printed = read_json(args.json), capsys.readouterr().out
    assert first["made"]["command"]
    for stage in FEW:
        rows = first[stage]["variants"]
        assert tuple(rows) == FEW[stage] and all(name in printed for name in rows)
        for row in rows.values():
            assert np.isfinite([row[name] for name in ablation.COLUMNS[stage]]).all()
            assert row["seconds_per_step"] > 0
    shipped, shallow = first["prior"]["variants"].values()
    assert shipped["parameters"] > shallow["parameters"]
    assert shipped["bits_per_code"] == pytest.approx(np.log2(CODES), abs=1)  # codes are random
    bits = GRID**2 * np.log2(CODES)
    assert first["vqvae"]["variants"]["half the width"]["index_bytes"] == bits / 8

    ablation.main(args)
    assert read_json(args.json) == first  # to the last digit of the seconds: nothing ran again
    assert capsys.readouterr().out == printed
    gone = first["prior"]["variants"].pop("half the blocks")
    write_json(args.json, first)
    ablation.main(args)
    again = read_json(args.json)["prior"]["variants"]
    assert again["as shipped, without a draft"] == shipped
    assert again["half the blocks"]["bits_per_code"] == gone["bits_per_code"]  # from the same seed
    assert again["half the blocks"]["seconds_per_step"] != gone["seconds_per_step"]

    with pytest.raises(InputError, match="other steps"):
        ablation.main(arguments(run, slices_folder, steps=11))


def test_an_interrupted_table_loses_no_row(tmp_path, monkeypatch):
    """The second of three variants fails. The file keeps the third, and says who measured what."""
    path = tmp_path / "a.json"
    every = {name: {"seed": n} for n, name in enumerate(("one", "two", "three"), 1)}
    monkeypatch.setattr(ablation, "variants", lambda _base: {"prior": every})
    monkeypatch.setattr(ablation, "show_row", lambda *_: None)
    base = {"steps": 1, "batch_size": 1, "precision": "float32", **ablation.SHIPPED}
    measured = []

    def measure(settings, name):
        measured.append(name)
        if name == "two" and len(measured) < 3:
            raise KeyboardInterrupt
        return {"seconds_per_step": 0.1}

    slices = types.SimpleNamespace(fingerprint="f")
    bench = types.SimpleNamespace(base=base, slices=slices, validation=[1], measure=measure)
    row = {"changes": {"seed": 3}, "commit": "before"}
    conditions = {"data": "f", "validation_slices": 1, "settings": base}
    report = {"prior": {"conditions": conditions, "variants": {"three": row}}}
    with contextlib.suppress(KeyboardInterrupt):
        ablation.fill_table("prior", bench, report, path)
    held = read_json(path)
    assert list(held["prior"]["variants"]) == ["one", "three"]
    held.pop("made")
    ablation.fill_table("prior", bench, held, path)
    rows = read_json(path)["prior"]["variants"]
    assert list(rows) == ["one", "two", "three"] and measured == ["one", "two", "two"]
    assert rows["three"]["commit"] == "before" and rows["one"]["commit"] == recorded.MADE["commit"]


def test_every_variant_changes_a_known_setting(run, slices_folder):
    slices = open_slices(slices_folder)
    base = {
        **dataclasses.asdict(train.resolve(train.parse([]), slices)),
        **ablation.SHIPPED,
        "steps": 100,
    }
    for stage, table in ablation.variants(base).items():
        assert len({json.dumps(changes) for changes in table.values()}) == len(table)
        for changes in table.values():
            assert set(changes) <= set(base), (stage, changes)
            assert all(base[name] != value for name, value in changes.items()), (stage, changes)


@pytest.mark.parametrize("start", ["from data", "random"])
def test_a_held_codebook_restarts_nothing(vqvae, start):
    before = vqvae.quantizer.codebook.numpy()
    latents = keras.random.normal((2, GRID, GRID, 4), mean=5.0, seed=1)
    variants.hold_codebook(vqvae.quantizer, latents, start)
    held = vqvae.quantizer.codebook.numpy()
    flat = np.asarray(latents).reshape(-1, 4)
    distance = np.abs(held[:, None] - flat[None]).max(-1).min(1)
    if start == "random":
        np.testing.assert_array_equal(held, before)
    else:
        assert (distance < 1e-3).all()  # every code is a vector of the batch
    # All of these vectors belong to one code.
    far = flat[:1].reshape(1, 1, 1, 4) * np.ones((1, GRID, GRID, 1), "float32") + 100
    for _ in range(3):
        vqvae.quantizer(far, training=True)
    moved = np.abs(vqvae.quantizer.codebook.numpy() - held).max(-1)
    assert (moved > 1).sum() == 1 and (moved < 1e-2).sum() == CODES - 1


@pytest.mark.slow
def test_what_is_left_out_is_out(run, slices_folder, monkeypatch):
    slices, fit, seen = open_slices(slices_folder), variants.fit, []

    def watched(make, example, count, *others):
        model, seconds = fit(make, example, count, *others)
        inputs = [example(tf.constant(index), False)[0] for index in range(count)]
        seen.append((model, {int(part["levels"]) for part in inputs}))
        return model, seconds

    monkeypatch.setattr(variants, "fit", watched)
    whole = {"frame": [0, 0, IMAGE_SIZE, IMAGE_SIZE], "masked": None}
    settings = train.resolve(train.parse(TINY), slices)
    base = {**dataclasses.asdict(settings), **whole, **ablation.SHIPPED, "steps": 10}
    bench = variants.PriorBench(slices, base, run)
    bare = {"position": False, "level": False, "dilations": [1], "averaging": 0.99}
    for changes in ({}, bare):
        bench.measure({**base, **changes})
    (shipped, levels), (bare, no_levels) = seen
    assert levels == set(range(LEVELS)) and no_levels == {0}
    assert np.abs(shipped.positions.numpy()).max() > 0
    assert not np.abs(bare.positions.numpy()).max()
    assert [block.dilation for block in shipped.blocks] == [1, 2]
    assert [block.dilation for block in bare.blocks] == [1, 1]
    assert bare.optimizer.use_ema and not shipped.optimizer.use_ema
    averages = bare.optimizer._model_variables_moving_average
    for weight, average in zip(bare.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(weight, average)


def test_neighbours_are_those_of_the_settings(tmp_path):
    """Case 1 has levels 0 to 3, and the code of a slice is its level."""
    split = make_split("train", [(1, level, f"{level}") for level in range(4)], {})
    codes = np.arange(4, dtype="uint16")[:, None, None] * np.ones((2, 1, 1, 1), "uint16")
    bench = variants.PriorBench(None, ablation.SHIPPED, tmp_path)

    def neighbours(level, **changes):
        example = bench.make_example({**ablation.SHIPPED, **changes}, codes, split, 4)
        return example(tf.constant(level), tf.constant(False))[0]["below"][:, 0, 0].numpy().tolist()

    assert neighbours(2) == [1, 0] and neighbours(0) == [NO_CODE, NO_CODE]
    assert neighbours(2, slices_below=1) == [1, NO_CODE]
    assert neighbours(1, upward=False) == [2, 3] and neighbours(3, upward=False)[0] == NO_CODE


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.slow
def test_mirroring_can_be_left_out(mirror):
    prior, mirrors = make_prior(blocks=1), []

    def example(index, mirrored, chance):
        tf.py_function(lambda flag: mirrors.append(bool(flag)), [mirrored], [])
        codes = tf.zeros((8, 8), tf.int32)
        return {
            "codes": codes,
            "levels": tf.zeros((), tf.int32),
            "below": tf.stack([codes, codes]),
        }, codes

    def make(schedule):
        prior.compile(make_optimizer(schedule))
        return prior

    settings = {"batch_size": 4, "steps": 10, "seed": 0, "mirror": mirror, "precision": "float32"}
    variants.fit(make, example, 8, settings, 1e-3)
    assert len(mirrors) >= 40 and set(mirrors) == ({True, False} if mirror else {False})
    assert int(prior.optimizer.iterations) == 10


def test_other_slices_are_refused(run, slices_folder):
    config = read_json(run / "config.json")
    data = {**config["data"], "fingerprint": "other"}
    write_json(run / "config.json", {**config, "data": data})
    flags = ("--run", run, "--data", slices_folder)
    one_line(run_script("benchmarks/ablation.py", *flags), run, "other slices")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly")
def test_every_variant_trains(run, slices_folder, monkeypatch):
    """Two steps, eagerly, because each of these networks takes longer to trace than to train."""
    monkeypatch.setattr(devices, "native_precision", lambda: "float32")
    monkeypatch.setattr(ablation, "SEEDS", ablation.SEEDS[:1])
    shallow = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    monkeypatch.setattr(stages, "VQVAE", functools.partial(stages.VQVAE, **shallow))
    args = arguments(run, slices_folder)
    args.steps = 2  # fewer than the command line takes
    tf.config.run_functions_eagerly(True)
    try:
        ablation.main(args)
    finally:
        tf.config.run_functions_eagerly(False)
    report = read_json(args.json)
    for stage in FEW:
        table = report[stage]
        every = ablation.variants(table["conditions"]["settings"])[stage]
        assert list(table["variants"]) == list(every)
        for row in table["variants"].values():
            assert np.isfinite([row[name] for name in ablation.COLUMNS[stage]]).all()
