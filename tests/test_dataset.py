"""From a folder of slices to the batches of both stages."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset
from sources.folder import NO_SLICE


@pytest.fixture(scope="module")
def split(slices_folder):
    return dataset.open_slices(slices_folder).splits["train"]


def test_pixels_and_range(split):
    example = dataset.image_examples(dataset.ImageSource(split, 256))
    image, target = example(tf.constant(3, tf.int64), tf.constant(False))
    stored = np.array(Image.open(split.paths[3]))
    np.testing.assert_allclose(image[..., 0], stored / 255.0, atol=1e-6)
    np.testing.assert_array_equal(image, target)
    mirrored, _ = example(tf.constant(3, tf.int64), tf.constant(True))
    # The nose is to the right, so left and right are rows.
    np.testing.assert_array_equal(mirrored, image[::-1])


@pytest.mark.parametrize("size", [80, 128])
def test_resizing_is_antialiased(size, split):
    image = dataset.ImageSource(split, size)(0)
    # Pillow's filter widens with the scale.
    expected = Image.open(split.paths[0]).resize((size, size), Image.Resampling.BILINEAR)
    assert image.shape == (size, size, 1) and image.dtype == tf.uint8
    difference = np.asarray(expected, "int32") - np.asarray(image[..., 0], "int32")
    assert np.abs(difference).max() <= 2


def test_streamed_equals_cached(split, monkeypatch):
    cached = dataset.ImageSource(split, 64)
    monkeypatch.setattr(dataset, "CACHE_BYTES", 0)
    streamed = dataset.ImageSource(split, 64)
    for index in range(len(split)):
        np.testing.assert_array_equal(cached(index), streamed(index))


@pytest.mark.parametrize("at_once", [5, 256])
def test_loads_all_images_in_order(at_once, split, monkeypatch):
    monkeypatch.setattr(dataset, "LOADED_AT_ONCE", at_once)
    images = dataset.load_images(split, 256)
    assert images.shape == (len(split), 256, 256) and images.dtype == np.uint8
    for image, path in zip(images, split.paths, strict=True):
        np.testing.assert_array_equal(image, np.array(Image.open(path)))


def number(index, mirror, chance=None):
    return index, mirror


def take(batches):
    return [tuple(part.numpy().tolist() for part in batch) for batch in batches]


def test_epochs_are_permutations_and_a_resume_sees_the_same():
    def batches(epoch, seed=7, **options):
        return take(dataset.training_batches(number, 10, 3, seed, epoch, **options))

    epochs = [batches(epoch) for epoch in range(3)]
    for epoch in epochs:
        indices = sum((batch[0] for batch in epoch), [])
        assert len(indices) == len(set(indices)) == 9
    assert epochs[0] != epochs[1]
    assert batches(2, skip=2) == epochs[2][2:]
    assert batches(0, seed=8) != epochs[0]
    many = take(dataset.training_batches(number, 100, 10, seed=0, epoch=0))
    mirrors = sum((batch[1] for batch in many), [])
    assert 30 < sum(mirrors) < 70


def test_evaluation_sees_everything_once_in_order():
    batches = take(dataset.evaluation_batches(number, 10, 4))
    assert [batch[0] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_codes_go_with_their_mirror_and_level():
    codes = np.arange(2 * 5 * 4).reshape(2, 5, 2, 2)
    levels = np.arange(5, dtype="int32")
    example = dataset.code_examples(codes, levels, 5, np.full(5, NO_SLICE))
    for mirror in (False, True):
        inputs, target = example(tf.constant(3, tf.int64), tf.constant(mirror))
        np.testing.assert_array_equal(inputs["codes"], codes[int(mirror), 3])
        np.testing.assert_array_equal(target, codes[int(mirror), 3])
        assert inputs["levels"] == 5 * mirror + 3
