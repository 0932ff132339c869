import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset
import pipeline


def test_pixels_and_range(slices_folder):
    split = dataset.open_slices(slices_folder).splits["train"]
    example = pipeline.images_of(pipeline.image_source(split, 256))
    image, target = example(tf.constant(3, tf.int64), tf.constant(False))
    stored = np.array(Image.open(split.paths[3]))
    np.testing.assert_allclose(image[..., 0], stored / 255.0, atol=1e-6)
    np.testing.assert_array_equal(image, target)
    mirrored, _ = example(tf.constant(3, tf.int64), tf.constant(True))
    np.testing.assert_array_equal(mirrored, image[::-1])  # the nose is to the right, so left and right are rows


@pytest.mark.parametrize("size", [80, 128])
def test_resizing_is_antialiased(size, slices_folder):
    split = dataset.open_slices(slices_folder).splits["train"]
    image = pipeline.image_source(split, size)(0)
    expected = Image.open(split.paths[0]).resize((size, size), Image.Resampling.BILINEAR)  # Pillow's filter widens with the scale
    assert image.shape == (size, size, 1) and image.dtype == tf.uint8
    assert np.abs(np.asarray(expected, "int32") - np.asarray(image[..., 0], "int32")).max() <= 2


def test_streamed_equals_cached(slices_folder, monkeypatch):
    split = dataset.open_slices(slices_folder).splits["train"]
    cached = pipeline.image_source(split, 64)
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    streamed = pipeline.image_source(split, 64)
    for index in range(len(split)):
        np.testing.assert_array_equal(cached(index), streamed(index))


def number(index, mirror):
    return index, mirror


def take(batches):
    return [tuple(part.numpy().tolist() for part in batch) for batch in batches]


def test_epochs_are_permutations_and_a_resume_sees_the_same():
    epochs = [take(pipeline.training_batches(number, 10, 3, seed=7, epoch=epoch)) for epoch in range(3)]
    for epoch in epochs:
        indices = sum((batch[0] for batch in epoch), [])
        assert len(indices) == len(set(indices)) == 9
    assert epochs[0] != epochs[1]
    assert take(pipeline.training_batches(number, 10, 3, seed=7, epoch=2, skip=2)) == epochs[2][2:]
    assert take(pipeline.training_batches(number, 10, 3, seed=8, epoch=0)) != epochs[0]
    mirrors = sum((batch[1] for batch in take(pipeline.training_batches(number, 100, 10, seed=0, epoch=0))), [])
    assert 30 < sum(mirrors) < 70


def test_evaluation_sees_everything_once_in_order():
    batches = take(pipeline.evaluation_batches(number, 10, 4))
    assert [batch[0] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_codes_go_with_their_mirror_and_level():
    codes, levels = np.arange(2 * 5 * 4).reshape(2, 5, 2, 2), np.arange(5, dtype="int32")
    inputs, target = pipeline.codes_of(codes, levels, 5)(tf.constant(3, tf.int64), tf.constant(True))
    np.testing.assert_array_equal(inputs["codes"], codes[1, 3])
    np.testing.assert_array_equal(target, codes[1, 3])
    assert inputs["levels"] == 5 + 3
