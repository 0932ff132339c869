"""From the slices of a folder to the batches of all stages."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset
from sources import images as sources_images
from sources.folder import open_slices
from sources.masking import frame_of, remove_residue


@pytest.fixture(scope="module")
def split(slices_folder):
    return open_slices(slices_folder).splits["train"]


def test_pixels_and_range(split):
    source = dataset.ImageSource(split, 256)
    example = dataset.image_examples(source)
    image, target = example(tf.constant(3, tf.int64), tf.constant(False))
    stored = np.array(Image.open(split.paths[3]))
    np.testing.assert_allclose(image[..., 0], stored / 255.0, atol=1e-6)
    np.testing.assert_array_equal(image, target)
    mirrored, _ = example(tf.constant(3, tf.int64), tf.constant(True))
    # The nose is to the right, so left and right are rows.
    np.testing.assert_array_equal(mirrored, image[::-1])
    for mirror, expected in ((False, image), (True, mirrored)):
        batches = list(dataset.upward_images(source, 5, "upward", mirror))
        pictures = {i: image for batch, images in batches for i, image in zip(batch, images)}
        np.testing.assert_array_equal(pictures[3], expected)


@pytest.mark.parametrize("size", [80, 128])
def test_resizing_is_antialiased(size, split):
    images = dataset.load_images(split, size)
    assert images.shape == (len(split), size, size) and images.dtype == np.uint8
    for image, path in zip(images, split.paths, strict=True):
        # Pillow's filter widens with the scale.
        expected = Image.open(path).resize((size, size), Image.Resampling.BILINEAR)
        difference = np.asarray(expected, "int32") - image.astype("int32")
        assert np.abs(difference).max() <= 2


def test_images_in_a_file_equal_those_in_memory(split, monkeypatch):
    noisy = dataclasses.replace(split, images=np.maximum(split.images, 3))  # residue all around
    monkeypatch.setattr(dataset, "RESIZED_AT_ONCE", 5)
    in_memory = dataset.ImageSource(noisy, 64)
    monkeypatch.setattr(sources_images, "MEMORY_SHARE", 0.0)
    in_file = dataset.ImageSource(noisy, 64)
    for index in range(len(split)):
        np.testing.assert_array_equal(in_memory(index), in_file(index))
    whole = dataset.load_images(noisy, 256)
    np.testing.assert_array_equal(whole, [remove_residue(image) for image in noisy.images])
    assert not whole[:, 0].any()


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


@pytest.mark.parametrize("mirror", ["rows", "columns", "none"])
def test_mirror_images_follow_the_facts(mirror, split):
    facts = dataclasses.replace(split.facts, mirror=mirror)
    source = dataset.ImageSource(dataclasses.replace(split, facts=facts), 64)
    places = tf.constant(3, tf.int64), tf.constant(True)
    image, _ = dataset.image_examples(source)(*places)
    whole = source.images[3].astype("float32") / 255
    np.testing.assert_allclose(image[..., 0], facts.mirrored(whole), atol=1e-6)
    for batch, images in dataset.upward_images(source, 64, "upward", mirror=True):
        expected = facts.mirrored(source.images[batch].astype("float32") / 255)
        np.testing.assert_allclose(images[..., 0], expected, atol=1e-6)
    occupied = np.zeros((64, 64), bool)
    occupied[10:33, 8:25] = True
    frames = {"rows": (8, 8, 56, 32), "columns": (8, 8, 40, 56), "none": (8, 8, 40, 32)}
    assert frame_of(occupied, 8, facts) == frames[mirror]


def test_without_mirror_images_no_codes_are_mirrored():
    codes, levels = np.arange(8).reshape(1, 2, 2, 2), np.array([0, 1], "int32")
    example = dataset.code_examples(codes, levels, 2, np.array([-1, 0]))
    inputs, target = example(tf.constant(1), tf.constant(True))
    np.testing.assert_array_equal(target, codes[0, 1])
    np.testing.assert_array_equal(inputs["below"][0], codes[0, 0])
    assert inputs["levels"] == 1
