"""Samples that are drawn batch by batch, and the few slices that figures choose to show."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from PIL import Image

from evaluation import captions, plots, report, samples, saved, selection
from modules import Models

# ---- many samples ------------------------------------------------------------------------------


class FakePrior:
    """Draws codes that are all 0 and notes the seeds."""

    def __init__(self):
        self.seeds = []

    def sample(self, levels, seed, *settings):
        self.seeds.append(int(seed))
        return np.zeros((len(levels), 4, 4), "int32")


def decode(codes):
    return ops.zeros((len(codes), 8, 8, 1))


FAKE_VQVAE = SimpleNamespace(decode=decode)


@pytest.mark.parametrize("how, expected", [
    ({}, [5, 5 + 16 * 7919, 5 + 32 * 7919]),
    ({"first": 1000}, [5 + (1000 + begin) * 7919 for begin in (0, 16, 32)]),
])  # fmt: skip
def test_each_batch_has_a_seed_of_its_own(how, expected):
    prior, options = FakePrior(), samples.SamplingOptions(seed=5)
    batches = samples.draw_slices(Models(FAKE_VQVAE, prior), np.zeros(40, int), options, **how)
    assert [len(batch) for batch in batches] == [16, 16, 8]
    assert prior.seeds == expected
    last = samples.SamplingOptions(seed=2**31 - 1)
    list(samples.draw_slices(Models(FAKE_VQVAE, prior), np.zeros(40, int), last, first=10**6))
    assert all(0 <= seed < 2**31 for seed in prior.seeds)


def test_samples_are_drawn_when_they_are_asked_for():
    prior = FakePrior()
    levels = np.zeros(10**5, int)
    batches = samples.draw_slices(Models(FAKE_VQVAE, prior), levels, samples.SamplingOptions(0))
    assert not prior.seeds
    next(batches)
    assert len(prior.seeds) == 1


def test_of_many_samples_a_few_are_kept(tmp_path):
    levels = samples.spread_levels(200, None, np.arange(4))
    kept = selection.kept_samples(200)
    options = samples.SamplingOptions(0)
    images = samples.write_samples(Models(FAKE_VQVAE, FakePrior()), levels, options, tmp_path, kept)
    assert len(list(tmp_path.iterdir())) == 200 and len(images) == len(kept) < 80
    numbered = np.zeros((len(kept), 8, 8), "uint8") + kept.astype("uint8")[:, None, None]
    split = SimpleNamespace(levels=np.arange(4))
    parts = selection.sample_parts(
        numbered, levels, {"images": np.zeros((4, 8, 8), "uint8")}, split
    )
    shown, pairs = parts["samples"], parts["comparison"]
    numbers = shown["images"][:, 0, 0]
    assert len(numbers) == 64 and numbers[0] == 0 and numbers[-1] == 199
    assert set(np.diff(numbers.astype(int))) == {3, 4}  # spread evenly
    np.testing.assert_array_equal(shown["levels"], levels[numbers])
    np.testing.assert_array_equal(pairs["levels"], levels[pairs["generated"][:, 0, 0]])


def facts(**changes):
    sampling = {"seed": 0, "temperature": 1.0, "top-k": 0, "top-p": 1.0}
    baselines = dict.fromkeys(captions.BASELINES, 2.0)
    plain = captions.Facts(
        "OASIS",
        "test",
        "OASIS",
        32,
        (0, 0, 32, 32),
        (4, 4),
        16,
        9,
        4.0,
        baselines,
        16,
        sampling,
        False,
        None,
    )
    return dataclasses.replace(plain, **changes)


def test_the_caption_says_how_many_samples_are_shown_and_how_they_were_drawn():
    assert "are shown" not in captions.samples(facts(), 16)
    assert "64 of 100,000 are shown" in captions.samples(facts(samples=10**5), 64)
    assert "with seed 0, decoded" in captions.samples(facts(), 16)
    sampling = {"seed": 3, "temperature": 0.5, "top-k": 3, "top-p": 0.9}
    made = captions.samples(facts(sampling=sampling), 16)
    assert "with seed 3, temperature 0.5, top-k 3, top-p 0.9, decoded" in made


def test_the_closest_pairs_are_drawn(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32)).astype("uint8")
    pairs = [(number, 11 - number, number / 10) for number in range(12)]
    parts = selection.closest_parts(images, np.arange(12), images[::-1], iter(pairs))
    assert len(parts["closest"]["levels"]) == 8
    np.testing.assert_array_equal(parts["closest"]["generated"], parts["closest"]["real"])
    caption = captions.closest(facts(closest=(1000, 0.0371)), 8)
    assert "The 8 of 1,000 generated slices" in caption and "closer than 0.037" in caption
    report.FIGURES["closest"](tmp_path / "closest.png", parts, facts(closest=(1000, 0.0371)))
    assert (tmp_path / "closest.png").stat().st_size > 10_000


# ---- what figures show -------------------------------------------------------------------------


def test_mean_patches_are_centred_on_the_pixels_of_a_code():
    images = np.zeros((2, 16, 16), "uint8")
    images[:, 4:8, 8:12] = 255  # the pixels of code (1, 2)
    images[1] //= 5
    code_maps = np.zeros((2, 4, 4), int)
    code_maps[:, 1, 2] = 3
    patches = selection.mean_patches(images, code_maps, 5, (0, 0, 16, 16))
    framed = selection.mean_patches(images, code_maps[:, :3, 1:], 5, (0, 4, 12, 16))
    np.testing.assert_array_equal(framed[3], patches[3])
    assert patches.shape == (5, 8, 8)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 0.6
    np.testing.assert_allclose(patches[3], expected)
    assert not patches[4].any() and patches[0].max() < 0.1


def test_ranks_follow_the_first_principal_component():
    values = np.random.default_rng(0).permutation(9)
    codebook = np.outer(values, [3.0, 4.0]) + 7
    ranks = selection.code_ranks(codebook)
    assert ranks.tolist() in (values.tolist(), (8 - values).tolist())


def test_a_real_slice_of_the_nearest_level_and_of_another_subject():
    split = SimpleNamespace(levels=np.array([0, 1, 3, 0, 1, 3]))
    assert [selection.nearest_slice(split, 1, number) for number in range(3)] == [1, 4, 1]
    assert selection.nearest_slice(split, 9, 0) == 2


def test_curves_hold_what_a_figure_shows():
    epoch = {"ssim": 0.5, "codes_used": 9.0, "perplexity": 4.0, "loss": 2.0}
    epoch |= {f"val_{name}": value for name, value in epoch.items()}
    histories = {stage: [{"epoch": n, **epoch} for n in (1, 2)] for stage in saved.CURVES}
    histories["prior"][1]["val_loss"] = 1e308
    curves = selection.training_parts(histories)["training"]
    np.testing.assert_array_equal(curves["prior"], [[1, 2, 2], [2, 2, 1e12]])
    np.testing.assert_array_equal(curves["vqvae"][1], [2, 0.5, 9, 4, 0.5, 9, 4])


def test_parts_return_as_they_were_written(tmp_path):
    curves = np.random.default_rng(0).random((3, 7)), np.random.default_rng(1).random((2, 3))
    parts = {
        "model": {"trained_on": "Gehirne für Ωmega 脳", "grid": (18, 22)},
        "training": dict(zip(("vqvae", "prior"), curves)),
        "walk": {"images": np.ones((2, 8, 8), "uint8"), "levels": np.array([0, 3])},
    }
    saved.write_parts(tmp_path / "results.npz", parts)
    read = saved.read_parts(tmp_path / "results.npz", "make it again")
    assert {part: set(arrays) for part, arrays in read.items()} == {
        part: set(arrays) for part, arrays in parts.items()
    }
    assert str(read["model"]["trained_on"]) == "Gehirne für Ωmega 脳"
    np.testing.assert_array_equal(read["training"]["vqvae"], curves[0])
    np.testing.assert_array_equal(read["walk"]["levels"], [0, 3])


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_figures_of_few_slices_are_neither_giant_nor_tiny(count, tmp_path):
    images = np.random.default_rng(0).random((count, 32, 32))
    plots.samples(tmp_path / "samples.png", images, np.arange(count), "Made up.")
    with Image.open(tmp_path / "samples.png") as figure:
        width, height = figure.size
    assert 300 < width < 1400 and 200 < height < 700
