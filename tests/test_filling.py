"""Stacks with gaps: what is missing, what is drawn there, and how it is measured."""

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from shared import IMAGE_SIZE, LEVELS, make_prior, make_vqvae, predict

from evaluation import filling
from evaluation.context import FIRST_FILLED, SamplingOptions
from evaluation.reconstruction import choose_codes
from modules import Models
from networks.order import arrange
from networks.raster import numbered_seed
from sources.folder import make_split, open_folder

OPTIONS = SamplingOptions(3)


def split_of(*places):
    return make_split("some", [(case, level, f"{case} {level}") for case, level in places])


def test_gaps_lie_between_slices_of_a_case():
    split = split_of((1, 0), (1, 1), (1, 4), (2, 3), (3, 1), (3, 3))
    cases, levels, below = (values.tolist() for values in filling.gaps_of(split))
    assert (cases, levels, below) == ([1, 1, 3], [2, 3, 2], [1, 1, 4])
    assert not len(filling.gaps_of(split_of((1, 0), (1, 1))).cases)


def test_simple_means_of_two_slices():
    split, images = (
        split_of((1, 0), (1, 4)),
        np.stack([np.full((2, 2), v, "uint8") for v in (0, 80)]),
    )
    found = filling.between(split, images, filling.gaps_of(split))
    assert found["interpolated"][:, 0, 0].tolist() == [20, 40, 60]
    assert found["nearest"][:, 0, 0].tolist() == [0, 0, 80]


def test_missing_slices_are_drawn_given_those_around_them(monkeypatch):
    """Whatever other stacks are drawn beside them."""
    monkeypatch.setattr(filling, "STACKS", 1)
    models = Models(make_vqvae(), make_prior(4, blocks=2))
    split = split_of((1, 0), (1, 3), (2, 1), (2, 3))
    images = np.random.default_rng(0).integers(0, 256, (4, IMAGE_SIZE, IMAGE_SIZE), "uint8")
    gaps, drawn = filling.draw_gaps(models, split, images, OPTIONS)
    known = choose_codes(models, split.cases, split.levels, images)
    order = arrange([1, 1, 2, 2, 1, 1, 2], [0, 3, 1, 3, 1, 2, 2], 1, known)
    seeds = numbered_seed(3, FIRST_FILLED + np.arange(3))
    expected = models.prior.sample(tf.constant([1, 2, 2]), seeds, neighbours=order)
    np.testing.assert_array_equal(drawn, expected)
    filled = filling.decode_gaps(models, split, images, gaps, drawn, OPTIONS)
    restored = models.vqvae.decode(drawn)[..., 0]
    np.testing.assert_allclose(filled / 255, np.clip(restored, 0, 1), atol=0.003)


@pytest.mark.slow
def test_stacks_are_completed_and_what_is_drawn_is_measured(run_copy, slices_folder, tmp_path):
    test, gaps = slices_folder / "keras_png_slices_test", tmp_path / "gaps"
    gaps.mkdir()
    for path in test.glob("case_005*"):
        if "slice_1." not in path.name and "slice_2." not in path.name:
            (gaps / path.name).write_bytes(path.read_bytes())
    _, report = predict(run_copy, slices_folder, "--samples", 0, "--brains", 0, "--fill", gaps)
    assert report["fill"] | {"seconds": 0} == {"cases": 1, "given": 2, "drawn": 2, "seconds": 0}
    folder = run_copy / "predict" / "fill"
    filled = open_folder(folder / "slices")
    assert filled.levels.tolist() == list(range(LEVELS))
    volume = np.asarray(nibabel.load(folder / "case_005.nii.gz").dataobj)
    np.testing.assert_array_equal(volume[:, :, 1], filled.images[1])
    _, report = predict(run_copy, slices_folder, "--samples", 0, "--brains", 0, "--fill")
    ways = {"missing", "drawn", "drawn_with_texture", "interpolated", "nearest", "reconstructions"}
    assert set(report["fill"]) == {"every_second_slice"}  # four levels have no room for the other
    found = report["fill"]["every_second_slice"]
    assert set(found) == ways and found["missing"] == 2
    assert found["interpolated"]["ssim"] > found["drawn"]["ssim"]
    assert not [path for path in folder.rglob("*") if path.is_file()]
