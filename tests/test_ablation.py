"""The ablation's tables on tiny models, and that what a variant leaves out is out."""

import dataclasses
import functools
import json
import types

import ablation
import common
import keras
import numpy as np
import pytest
import tensorflow as tf
import variants
from shared import CODES, IMAGE_SIZE, LEVELS, TINY

import train
from fitting import devices, stages
from fitting.run_directory import RunDirectory
from networks.neighbours import NO_CODE
from sources.folder import make_split, open_slices
from sources.layout import FITTED_SPLITS
from utils import InputError, read_json, write_json

GRID = IMAGE_SIZE // 8
TWO_BLOCKS = [*TINY, "--prior-blocks", "2"]


@pytest.fixture
def run(slices_folder, tmp_path):
    """What the ablation reads of a finished run."""
    slices, run = open_slices(slices_folder), RunDirectory(tmp_path)
    settings = train.resolve(train.parse(TWO_BLOCKS), slices)
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly")
def test_every_variant_trains_and_none_twice(run, slices_folder, monkeypatch, capsys):
    """Two steps, eagerly, because each of these networks takes longer to trace than to train."""
    monkeypatch.setattr(devices, "_faster_precision", lambda: "float32")
    monkeypatch.setattr(ablation, "SEEDS", ablation.SEEDS[:1])
    shallow = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    monkeypatch.setattr(stages, "VQVAE", functools.partial(stages.VQVAE, **shallow))
    args = arguments(run, slices_folder)
    args.steps = 2  # fewer than the command line takes
    tf.config.run_functions_eagerly(True)
    try:
        ablation.main(args)
        first, printed = read_json(args.json), capsys.readouterr().out
        ablation.main(args)
    finally:
        tf.config.run_functions_eagerly(False)
    assert first["made"]["command"] and capsys.readouterr().out == printed
    assert read_json(args.json) == first  # to the last digit of the seconds: nothing ran again
    columns = {"vqvae": ("ssim", "psnr", "gradient_ratio"), "prior": ("brain_bits_per_code",)}
    for stage, names in columns.items():
        table = first[stage]
        every = ablation.variants(table["conditions"]["settings"])[stage]
        assert list(table["variants"]) == list(every)
        for name, row in table["variants"].items():
            assert np.isfinite([row[key] for key in names]).all() and name in printed
    rows = first["prior"]["variants"]
    assert rows["half the blocks"]["parameters"] < rows["without dropout"]["parameters"]
    bits = GRID**2 * np.log2(CODES)
    assert first["vqvae"]["variants"]["half the width"]["index_bytes"] == bits / 8
    args.steps = 3
    with pytest.raises(InputError, match="other steps"):
        ablation.main(args)


def test_an_interrupted_table_loses_no_row(tmp_path, monkeypatch):
    """The second of three variants fails. The file keeps the third, and says who measured what."""
    path = tmp_path / "a.json"
    every = {name: {"seed": n} for n, name in enumerate(("one", "two", "three"), 1)}
    monkeypatch.setattr(ablation, "variants", lambda _base: {"prior": every})
    base = {"steps": 1, "precision": "float32", **ablation.SHIPPED}
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
    with pytest.raises(KeyboardInterrupt):
        ablation.fill_table("prior", bench, report, path)
    ablation.fill_table("prior", bench, common.continue_report(path, {}), path)
    rows = read_json(path)["prior"]["variants"]
    assert set(rows) == set(every) and measured == ["one", "two", "two"]
    assert rows["three"]["commit"] == "before" and rows["one"]["commit"] == common.MADE["commit"]


def test_every_variant_changes_a_known_setting(slices_folder):
    slices = open_slices(slices_folder)
    settings = dataclasses.asdict(train.resolve(train.parse([]), slices))
    base = {**settings, **ablation.SHIPPED, "steps": 100}
    for stage, table in ablation.variants(base).items():
        assert len({json.dumps(changes) for changes in table.values()}) == len(table)
        for changes in table.values():
            assert set(changes) <= set(base), (stage, changes)
            assert all(base[name] != value for name, value in changes.items()), (stage, changes)


@pytest.mark.parametrize("start", ["from data", "random"])
def test_a_locked_codebook_restarts_nothing(vqvae, start):
    before = vqvae.quantizer.codebook.numpy()
    latents = keras.random.normal((2, GRID, GRID, 4), mean=5.0, seed=1)
    variants.lock_codebook(vqvae.quantizer, latents, start)
    locked = vqvae.quantizer.codebook.numpy()
    flat = np.asarray(latents).reshape(-1, 4)
    distance = np.abs(locked[:, None] - flat[None]).max(-1).min(1)
    if start == "random":
        np.testing.assert_array_equal(locked, before)
    else:
        assert (distance < 1e-3).all()  # every code is a vector of the batch
    # All of these vectors belong to one code.
    far = flat[:1].reshape(1, 1, 1, 4) * np.ones((1, GRID, GRID, 1), "float32") + 100
    for _ in range(3):
        vqvae.quantizer(far, training=True)
    moved = np.abs(vqvae.quantizer.codebook.numpy() - locked).max(-1)
    assert (moved > 1).sum() == 1 and (moved < 1e-2).sum() == CODES - 1


def test_what_is_left_out_is_out(run, slices_folder):
    slices, whole = open_slices(slices_folder), {"frame": [0, 0, IMAGE_SIZE, IMAGE_SIZE]}
    settings = train.resolve(train.parse(TWO_BLOCKS), slices)
    base = {**dataclasses.asdict(settings), **whole, **ablation.SHIPPED}
    bench = variants.PriorBench(slices, base, run)
    changes = {"position": False, "level": False, "dilations": [1], "averaging": 0.99}
    models, levels = [], []
    for variant in (base, {**base, **changes}):
        models.append(bench.make(variant, (GRID, GRID), 1e-3))
        example = bench.make_example(variant, bench.codes[0], slices.splits["train"])
        inputs = [example(tf.constant(index), tf.constant(False))[0] for index in range(12)]
        levels.append({int(part["levels"]) for part in inputs})
    shipped, bare = models
    assert levels == [set(range(LEVELS)), {0}]
    assert np.abs(shipped.positions.numpy()).max() > 0 == np.abs(bare.positions.numpy()).max()
    assert shipped.positions.trainable and not bare.positions.trainable
    assert [block.dilation for block in shipped.blocks] == [1, 2]
    assert [block.dilation for block in bare.blocks] == [1, 1]
    assert bare.optimizer.use_ema and not shipped.optimizer.use_ema


def test_neighbours_are_those_of_the_settings(tmp_path):
    """Case 1 has levels 0 to 3, and the code of a slice is its level."""
    split = make_split("train", [(1, level, f"{level}") for level in range(4)])
    codes = np.arange(4, dtype="uint16")[:, None, None] * np.ones((2, 1, 1, 1), "uint16")
    slices = types.SimpleNamespace(num_levels=4)
    bench = variants.PriorBench(slices, ablation.SHIPPED, tmp_path)

    def neighbours(level, **changes):
        example = bench.make_example({**ablation.SHIPPED, **changes}, codes, split)
        return example(tf.constant(level), tf.constant(False))[0]["below"][:, 0, 0].numpy().tolist()

    assert neighbours(2) == [1, 0] and neighbours(0) == [NO_CODE, NO_CODE]
    assert neighbours(2, slices_below=1) == [1, NO_CODE]
    assert neighbours(1, upward=False) == [2, 3] and neighbours(3, upward=False)[0] == NO_CODE


def test_other_slices_are_refused(run, slices_folder):
    config = read_json(run / "config.json")
    data = {**config["data"], "fingerprint": "other"}
    write_json(run / "config.json", {**config, "data": data})
    with pytest.raises(InputError, match="was trained on other slices"):
        ablation.main(arguments(run, slices_folder))
