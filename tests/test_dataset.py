"""From the slices of a folder to the batches of all stages."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset
from networks.neighbours import NO_CODE
from networks.order import NO_SLICE, arrange
from sources import images as sources_images
from sources.folder import make_split, open_slices
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
        np.testing.assert_array_equal(dataset.images_of(source, [3], mirror)[0], expected)


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
    expected = facts.mirrored(source.images.astype("float32") / 255)
    images = dataset.images_of(source, np.arange(len(split)), mirror=True)
    np.testing.assert_allclose(images[..., 0], expected, atol=1e-6)
    occupied = np.zeros((64, 64), bool)
    occupied[10:33, 8:25] = True
    frames = {"rows": (8, 8, 56, 32), "columns": (8, 8, 40, 56), "none": (8, 8, 40, 32)}
    assert frame_of(occupied, 8, facts) == frames[mirror]


# ---- examples of the prior ---------------------------------------------------------------------


def stacks(*levels):
    """A split of one case for each sequence of levels, and codes that are the index of a slice."""
    places = [(case, k, f"{case} {k}") for case, some in enumerate(levels) for k in some]
    numbers = np.arange(len(places), dtype="uint16")[:, None, None]
    codes = np.stack(
        [np.broadcast_to(numbers + 100 * side, (len(places), 2, 2)) for side in (0, 1)]
    )
    return make_split("train", places), codes


def known(inputs):
    """Index and distance of each neighbour of an example."""
    return inputs["neighbours"][:, 0, 0].numpy().tolist(), inputs["distances"].numpy().tolist()


def test_an_example_of_evaluation_knows_what_its_slice_knows_in_a_drawn_stack():
    split, codes = stacks(range(5), (1, 2, 4))
    example, order = (
        dataset.code_examples(codes, split, 9, 1),
        arrange(split.cases, split.levels, 1),
    )
    for index in range(len(split)):
        inputs, target = example(tf.constant(index), tf.constant(True))
        assert (target.numpy() == 100 + index).all()
        assert inputs["levels"] == split.levels[index] + 9
        sources = order.sources[index]
        expected = np.where(sources == NO_SLICE, NO_CODE, sources + 100)
        assert known(inputs) == (expected.tolist(), order.distances[index].tolist())


def test_examples_of_training_know_other_neighbours_too():
    """None, one side, the usual ones or others of the same case, at distances that are told."""
    split, codes = stacks(range(0, 60, 2), range(30))
    example, index = tf.function(dataset.code_examples(codes, split, 60, 2)), tf.constant(44)
    usual = known(example(index, tf.constant(False))[0])
    seen = [
        known(example(index, tf.constant(False), tf.constant(chance, tf.float32))[0])
        for chance in np.linspace(0, 1, 400, endpoint=False)
    ]
    again = known(example(index, tf.constant(False), tf.constant(0.25))[0])
    assert again == seen[100]  # a resume sees the same
    kinds = {"usual": 0, "alone": 0, "one side": 0, "others": 0}
    for places, distances in seen:
        assert all((d == 0) == (i == NO_CODE) for i, d in zip(places, distances))
        there = [(i, d) for i, d in zip(places, distances) if d]
        assert all(30 <= i < 60 and abs(i - 44) == d for i, d in there)
        sides = {i > 44 for i, _ in there}
        kind = "others" if len(sides) == 2 else "one side" if sides else "alone"
        kinds["usual" if (places, distances) == usual else kind] += 1
    assert kinds["usual"] > 200 and 25 < kinds["alone"] < 60
    assert 25 < kinds["one side"] < 90 and 30 < kinds["others"] < 110


def test_without_mirror_images_no_codes_are_mirrored():
    split, codes = stacks(range(2))
    example = dataset.code_examples(codes[:1], split, 2, 0)
    inputs, target = example(tf.constant(1), tf.constant(True), tf.constant(0.5))
    np.testing.assert_array_equal(target, codes[0, 1])
    assert inputs["levels"] == 1 and inputs["neighbours"].shape == (0, 2, 2)
