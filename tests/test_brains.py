"""Whole brains: drawn from nothing or around slices, written, cut, and shown without slices."""

import json
import shutil
import types

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from shared import IMAGE_SIZE, LEVELS, make_prior, make_vqvae, predict, run_script

from evaluation import brains, comparison, samples
from evaluation.context import FIRST_BRAIN, FIRST_COMPARED, SamplingOptions
from fitting import checkpoints
from fitting.run_directory import RunDirectory
from modules import Models, PixelCNN
from networks.attributes import Attributes
from networks.order import among, arrange
from networks.raster import numbered_seed
from sources import volumes
from sources.folder import open_folder
from sources.images import to_grey


class FakePrior:
    """Draws codes that are the number of the slice, counted from 1."""

    settings, attributes = {"num_levels": 3, "grid": (4, 4), "neighbours": 1}, Attributes()

    def __init__(self):
        self.seeds, self.levels = [], []

    def sample(self, levels, seeds, drawing, given, neighbours, guidance):
        self.seeds += np.asarray(seeds).tolist()
        self.levels += np.asarray(levels).tolist()
        return tf.tile(levels[:, None, None] + 1, (1, 4, 4))


def decode(codes):
    """Codes as images."""
    return np.asarray(codes)[..., None].astype("float32") / 10


def as_grey(values):
    return np.round(25.5 * np.asarray(values))


def draw_texture(restored, seeds, below):
    """Images with what is below added."""
    return restored if below is None else restored + below


FAKE_VQVAE, OPTIONS = types.SimpleNamespace(decode=decode), SamplingOptions(3)


def draw(count, prior, vqvae=FAKE_VQVAE, given=None, options=OPTIONS, texture=None):
    """Batches of brains."""
    drawn = brains.draw_brain_codes(prior, count, options, given)
    return list(samples.decode(Models(vqvae, prior, texture), drawn, options))


def test_the_texture_of_a_slice_is_given_the_drawn_slice_below():
    texture = types.SimpleNamespace(draw=draw_texture)
    (plain,) = draw(2, FakePrior())
    (drawn,) = draw(2, FakePrior(), options=SamplingOptions(0, texture=True), texture=texture)
    np.testing.assert_allclose(drawn, np.cumsum(plain.astype(int), axis=1), atol=2)


@pytest.fixture(scope="module")
def prior():
    return make_prior(4, blocks=2)


@pytest.fixture(scope="module")
def vqvae():
    return make_vqvae()


def test_slices_are_drawn_coarse_to_fine_given_their_neighbours(prior):
    ((codes, numbers),) = brains.draw_brain_codes(prior, 2, SamplingOptions(3))
    expected = FIRST_BRAIN + np.arange(2 * LEVELS).reshape(2, LEVELS)
    np.testing.assert_array_equal(numbers, expected)
    order = arrange([0] * LEVELS, range(LEVELS), 1)
    for brain, seeds in zip(codes, numbers):
        for level in np.argsort(order.depths):
            near, seed = among(order, brain, [level]), numbered_seed(3, seeds[[level]])
            one = prior.sample(tf.constant([level], tf.int32), seed, neighbours=near)
            np.testing.assert_array_equal(brain[level], one[0])


def test_brains_are_drawn_in_batches():
    prior = FakePrior()
    drawn = draw(18, prior)
    assert [len(batch) for batch in drawn] == [16, 2]
    np.testing.assert_array_equal(drawn[1][0, :, 0, 0], as_grey([1, 2, 3]))
    assert prior.levels == [0, 1, 2] * 18 and len(set(prior.seeds)) == 54


def test_brains_are_drawn_around_given_slices():
    prior, first = FakePrior(), np.full((1, 4, 4), 7)
    (brain,) = draw(1, prior, given=brains.GivenSlices(np.array([1]), first))
    np.testing.assert_array_equal(brain[0, :, 0, 0], as_grey([1, 7, 3]))
    assert prior.levels == [0, 2]
    whole = brains.GivenSlices(np.arange(3), np.arange(48).reshape(3, 4, 4) % 9)
    (brain,) = draw(1, prior, given=whole)
    np.testing.assert_array_equal(brain[0], as_grey(whole.codes))
    assert prior.levels == [0, 2]


def test_given_slices_are_neighbours_of_the_drawn_ones(prior):
    given = [brains.GivenSlices(np.array([2]), np.full((1, 4, 4), code)) for code in (1, 9)]
    drawn = [next(brains.draw_brain_codes(prior, 1, SamplingOptions(3), some))[0] for some in given]
    assert all((some[0, 2] == code).all() for some, code in zip(drawn, (1, 9)))
    assert (drawn[0][0, 1] != drawn[1][0, 1]).any()


def test_brains_do_not_depend_on_how_many_are_drawn(prior, vqvae):
    (two,), (one,) = draw(2, prior, vqvae), draw(1, prior, vqvae)
    assert two.shape == (2, LEVELS, IMAGE_SIZE, IMAGE_SIZE)
    np.testing.assert_allclose(one[0].astype(int), two[0].astype(int), atol=1)
    assert np.abs(two[0].astype(int) - two[1]).max() > 3


@pytest.mark.parametrize("neighbours", [1, 0])
def test_slices_to_compare_are_those_of_brains_or_drawn_one_by_one(prior, vqvae, neighbours):
    prior, known = prior if neighbours else make_prior(4, 0, blocks=1), np.array([1, 3])
    drawn, plain = comparison.draw(Models(vqvae, prior), 3, known, SamplingOptions(3))
    assert drawn is plain and drawn.images.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    if not neighbours:
        assert len(set(drawn.groups)) == 3
        return
    assert drawn.levels.tolist() == [1, 3, 1] and len(set(drawn.groups)) == 2
    ((whole, _),) = brains.draw_brain_codes(prior, 2, SamplingOptions(3), first=FIRST_COMPARED)
    images = to_grey(vqvae.decode(whole[[0, 0, 1], [1, 3, 1]]))[..., 0]
    np.testing.assert_array_equal(images, drawn.images)


def test_volumes_go_there_and_back(tmp_path):
    """`oasis_slices` cuts out of a written volume what was written."""
    slices = np.random.default_rng(0).integers(0, 256, (32, 256, 256), "uint8")
    volumes.write_volume(tmp_path / "brain.nii.gz", slices)
    written = nibabel.load(tmp_path / "brain.nii.gz")
    assert written.header.get_zooms() == (1, 1, 1)
    assert nibabel.aff2axcodes(written.affine) == ("R", "A", "S")
    volume = volumes.load_volume(tmp_path / "brain.nii.gz")
    np.testing.assert_array_equal(volumes.oasis_slices(volume).images, slices)
    commissure = np.linalg.inv(volume.affine) @ [0, 0, 0, 1]
    np.testing.assert_allclose(commissure[:2], volumes.FRAME_ORIGIN)
    volumes.write_volume(tmp_path / "part.nii.gz", slices[:3], level=29)  # lies where it belongs
    part = nibabel.load(tmp_path / "part.nii.gz")
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], written.affine @ [0, 0, 29, 1])


def test_cuts_pass_through_the_frame():
    stack = np.zeros((1, 5, 40, 40), "uint8")
    stack[0, 2, 8 + 9, 20] = 7  # beside the midline of rows 8 to 28, in the middle of columns
    planes = brains.cuts(stack, (8, 10, 28, 30))
    assert planes["axial"][0, 17, 20] == 7
    assert planes["coronal"][0, 2, 17] == 7 and planes["sagittal"][0, 2, 20] == 7


# ---- predict.py --------------------------------------------------------------------------------


NO_TEXTURE = "--no-texture"  # that of the tiny run holds every pixel for background


@pytest.mark.slow
def test_brains_are_written_as_volumes_and_as_a_data_folder(run_copy, slices_folder):
    done, report = predict(
        run_copy, slices_folder, "--samples", 0, "--brains", 2, "--walk", NO_TEXTURE
    )
    out = run_copy / "predict"
    assert report["brains"]["count"] == 2 and report["rate"]["brain_bytes"] > 0
    assert report["prior"]["bits_per_code_alone"] > 0
    names = sorted(path.name for path in (out / "brains").glob("*.nii.gz"))
    assert names == ["brain_0000.nii.gz", "brain_0001.nii.gz"]
    split = open_folder(out / "brains" / "slices")
    levels = report["brains"]["slices"]
    assert len(split) == 2 * levels and (out / "brains.png").exists()
    volume = np.asarray(nibabel.load(out / "brains" / names[1]).dataobj)
    last = np.asarray(Image.open(split.paths[-1]))
    np.testing.assert_array_equal(volume[:, :, -1], last)


@pytest.mark.slow
def test_brains_are_drawn_around_slices_of_files(run_copy, slices_folder):
    split = open_folder(slices_folder / "keras_png_slices_test")
    paths = split.paths[-1:-3:-1]
    done, report = predict(run_copy, slices_folder, "--samples", 0, "--from-slice", *paths)
    assert report["brains"] | {"seconds": 0} == {
        "count": 1, "seconds": 0, "first_level": 0, "slices": LEVELS,
    }  # fmt: skip
    nameless = shutil.copy(paths[0], run_copy / "slice.png")
    for flags, words in (
        ([nameless], "has no level in its name"),
        ([paths[0], split.paths[LEVELS - 1]], "has the level of another"),
    ):
        command = "--run", run_copy, "--data", slices_folder, "--from-slice", *flags
        done = run_script("predict.py", *command)
        assert done.returncode == 2 and words in done.stderr
    done, report = predict(
        run_copy, slices_folder, "--from-slice", nameless, "--slice", 0, NO_TEXTURE
    )
    assert report["brains"]["slices"] == LEVELS


def test_without_slices_it_draws(run_copy, tmp_path):
    done = run_script("predict.py", "--run", run_copy, "--samples", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No slices found" in done.stdout and "--data DIR" in done.stdout
    out = run_copy / "predict"
    assert {path.name for path in out.glob("*.png")} == {"samples.png", "brains.png"}
    report = json.loads((out / "metrics.json").read_text())
    assert report["samples"]["count"] == 3 and "ssim" not in report
    done = run_script("predict.py", "--run", run_copy, "--complete", cwd=tmp_path)
    assert done.returncode == 2 and "no slices found" in done.stderr


def test_a_prior_of_single_slices_draws_no_brain(run_copy, slices_folder):
    path = RunDirectory(run_copy).model("prior")
    settings = {**checkpoints.load_model(path).settings, "neighbours": 0}
    checkpoints.save_model(PixelCNN(**settings), path)
    path = open_folder(slices_folder / "keras_png_slices_test").paths[0]
    for flags in (["--brains", 2], ["--from-slice", path], ["--walk"], ["--fill"]):
        done = run_script("predict.py", "--run", run_copy, "--data", slices_folder, *flags)
        assert done.returncode == 2 and "reads no neighbouring slices" in done.stderr
