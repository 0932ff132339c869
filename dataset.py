"""Slices and codes -> `tf.data`: examples of each stage, and batches of them.

`image_examples`, `code_examples` and `texture_examples` make the examples of a stage from slices
that `sources.folder` has read, and `training_batches` and `evaluation_batches` batch them.

As a script, this file checks data folders and makes them from images or volumes:

    python dataset.py from-images DIR --out DATA     write slices of images of any kind
    python dataset.py from-nifti DIR --out DATA      write slices of volumes
    python dataset.py from-oasis1 DIR [--masked]     write the slices of the OASIS-1 discs
    python dataset.py add-table DIR CSV              add attributes such as age to a data folder
    python dataset.py check DIR                      say what a data folder holds and what is wrong
"""

import concurrent.futures
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

from sources.facts import MIRRORS
from sources.folder import Split
from sources.images import allocate_images
from sources.masking import remove_residue
from utils import command_line, progress

# The shell commands end here, because they need no TensorFlow, which takes seconds to load.
if __name__ == "__main__":
    from sources import commands

    sys.exit(command_line(commands.main, commands.parse()))

import tensorflow as tf

from networks.attributes import UNKNOWN
from networks.neighbours import NO_CODE
from networks.order import NO_SLICE, arrange
from networks.raster import mirrored_level
from networks.texture import STEPS

INTENSITY_RANGE = (0.0, 1.0)  # what the grey values 0 and 255 become
RESIZED_AT_ONCE = 32  # slices
AHEAD = 2  # batches made in advance

# Shares of the examples of a prior. Some know neighbours at any distances and not those of the
# order, up to as many slices away. Some know none, and some none below, and as many none above.
ANY_NEIGHBOURS, MOST_STEPS = 0.2, 20.0
ALONE, ONE_SIDE = 0.1, 0.05
# Some are told no attribute, and of the others each attribute is hidden from some.
NOTHING_KNOWN, HIDDEN = 0.5, 0.2
LEFT_OUT = 0.15  # share of the examples of a texture that do not know the slice below

# Index, whether to mirror, random number in [0, 1), which is None in evaluation -> inputs, target.
Example = Callable[[tf.Tensor, tf.Tensor, tf.Tensor | None], tuple]


# ---- images ------------------------------------------------------------------------------------


def load_images(split: Split, image_size: int) -> np.ndarray:
    """Bring the images of a split to the size of a model, without residue around masked brains.

    Args:
        split: Slices that were read.
        image_size: Pixels S of a side. Smaller images are antialiased.

    Returns:
        uint8 `(N, S, S)`.
    """
    images = allocate_images(len(split), image_size)

    def load(begin):
        batch = split.images[begin : begin + RESIZED_AT_ONCE]
        if split.masked and split.facts.residue:
            batch = np.stack([remove_residue(image) for image in batch])
        if image_size != batch.shape[1]:
            with tf.device("CPU"):
                sides = image_size, image_size
                resized = tf.image.resize(batch[..., None], sides, antialias=True)[..., 0]
                batch = tf.round(tf.clip_by_value(resized, 0, 255))
        images[begin : begin + RESIZED_AT_ONCE] = batch

    begins = range(0, len(split), RESIZED_AT_ONCE)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in progress(pool.map(load, begins), f"loading {split.name}", len(begins)):
            pass
    return images


class ImageSource:
    """Images of a split by the index of a slice: `source(index)` is uint8 `(S, S, 1)`.

    Args:
        split: Slices that were read.
        image_size: Pixels S of a side.

    Attributes:
        images: What `load_images` returned, uint8 `(N, S, S)`.
    """

    def __init__(self, split: Split, image_size: int):
        self.split, self.image_size = split, image_size
        self.images = load_images(split, image_size)
        # A tensor of the same memory. It needs the alignment that `allocate_images` gives.
        self._tensor = tf.experimental.dlpack.from_dlpack(self.images[..., None].__dlpack__())

    def __len__(self):
        return len(self.split)

    def __call__(self, index):
        return self._tensor[index]


def _mapped(values, function):
    """Map a function over a `tf.data.Dataset`, on all processors, in order.

    Autotuning is off. The end of a pass waits for its thread, which sleeps for up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return values.map(function, os.cpu_count()).with_options(options)


# ---- examples ----------------------------------------------------------------------------------


def image_examples(source: ImageSource, frame: Sequence[int] | None = None) -> Example:
    """Make the examples of the VQ-VAE: the image is both the input and the target.

    Args:
        source: Images of a split.
        frame: Part of the slices to cut out, see `sources.masking.frame_of`. None is all.

    Returns:
        Function: index, mirror, chance -> image, image, float32 `(h, w, 1)` in `INTENSITY_RANGE`.
        The facts of the split say what a mirror image is, and whether there are any.
    """
    top, left, bottom, right = frame or (0, 0, source.image_size, source.image_size)
    axis = MIRRORS[source.split.facts.mirror]

    def example(index, mirror, _chance=None):
        image = source(index)
        if axis is not None:
            flip = [axis + 2]  # of an image (S, S, 1)
            image = tf.cond(mirror, lambda: tf.reverse(image, flip), lambda: image)
        image = image[top:bottom, left:right]
        image = _normalise(tf.cast(image, tf.float32))
        return image, image

    return example


def _normalise(grey):
    low, high = INTENSITY_RANGE
    return grey * ((high - low) / 255.0) + low


def code_examples(
    codes: np.ndarray,
    split: Split,
    num_levels: int,
    per_side: int,
    attributes: np.ndarray | None = None,
) -> Example:
    """Make the examples of the prior: it predicts the codes of a slice.

    Evaluation gives the neighbours that a slice has when its stack is drawn coarse to fine; see
    `networks.order`. So do most examples of training. `ANY_NEIGHBOURS` and `ONE_SIDE` say what the
    others know, so that one prior draws slices alone, whole brains, gaps, and brains around any
    given slices. Evaluation knows no attributes, and training those that are not hidden.

    Args:
        codes: Codes `(2, N, H, W)` of the slices and of their mirror images, or `(1, N, H, W)`
            where there are no mirror images. Then no example is mirrored.
        split: The slices.
        num_levels: Number of slice levels.
        per_side: Number of neighbours on each side.
        attributes: Number of the value of each attribute of each slice, int32 `(N, A)`.

    Returns:
        Function: index, mirror, chance -> inputs, codes `(H, W)`, all int32. Inputs are those of
        a `RasterPrior`, of one slice. `chance` decides what it knows.
    """
    sides, slots = len(codes), 2 * per_side
    order = arrange(split.cases, split.levels, per_side)
    codes, sources, distances = map(tf.constant, (codes, order.sources, order.distances))
    plain, cases = tf.constant(split.levels), tf.constant(split.cases)
    levels = tf.stack([plain, mirrored_level(plain, num_levels)])  # (2, N)
    direction = tf.constant([-1] * per_side + [1] * per_side)
    attributes = tf.constant(
        np.zeros((len(split), 0), "int32") if attributes is None else attributes
    )
    num_attributes = attributes.shape[1]

    def any_neighbours(index, uniforms):
        """Neighbours at random distances: of any set of known slices."""
        steps = tf.cast(MOST_STEPS**uniforms, tf.int32)  # as many of 1 to 2 as of 2 to 4
        steps = tf.reshape(tf.cumsum(tf.reshape(steps, (2, per_side)), axis=1), (slots,))
        there = index + direction * steps
        at = tf.clip_by_value(there, 0, len(split) - 1)
        is_known = (there == at) & (tf.gather(cases, at) == cases[index])
        away = tf.abs(tf.gather(plain, at) - plain[index])
        return tf.where(is_known, at, NO_SLICE), tf.where(is_known, away, 0)

    def known_neighbours(index, chance):
        seed = tf.stack([tf.bitcast(chance, tf.int32), index])
        which, side, *uniforms = tf.unstack(tf.random.stateless_uniform([2 + slots], seed))
        found = tf.cond(
            which < ANY_NEIGHBOURS,
            lambda: any_neighbours(index, tf.stack(uniforms)),
            lambda: (sources[index], distances[index]),
        )
        left_out = (side < ALONE + ONE_SIDE) & (direction < 0)
        left_out |= ((side < ALONE) | (side >= 1 - ONE_SIDE)) & (direction > 0)
        return tf.where(left_out, NO_SLICE, found[0]), tf.where(left_out, 0, found[1])

    def known_attributes(index, chance):
        seed = tf.stack([tf.bitcast(chance, tf.int32), -1 - index])
        uniforms = tf.random.stateless_uniform([1 + num_attributes], seed)
        is_hidden = (uniforms[0] < NOTHING_KNOWN) | (uniforms[1:] < HIDDEN)
        return tf.where(is_hidden, UNKNOWN, attributes[index])

    def example(index, mirror, chance=None):
        index = tf.cast(index, tf.int32)
        side = tf.cast(mirror, tf.int32) * (sides - 1)
        code, places, away = tf.cast(codes[side, index], tf.int32), sources[index], distances[index]
        if slots and chance is not None:
            places, away = known_neighbours(index, chance)
        found = tf.cast(tf.gather(codes[side], tf.maximum(places, 0)), tf.int32)  # (S, H, W)
        found = tf.where((places == NO_SLICE)[:, None, None], NO_CODE, found)
        level = levels[side, index]
        if num_attributes:
            numbers = tf.zeros_like(attributes[0])
            if chance is not None:
                numbers = known_attributes(index, chance)
            level = tf.concat([level[None], numbers], axis=0)
        inputs = {"codes": code, "levels": level}
        return {**inputs, "neighbours": found, "distances": away}, code

    return example


def texture_examples(source: ImageSource, restored: np.ndarray, frame: Sequence[int]) -> Example:
    """Make the examples of the texture: it predicts some pixels of a slice, see `Texture`.

    Args:
        source: Images of a split.
        restored: Reconstructions of the frames of its slices, uint8 `(N, h, w)`.
        frame: Part of the slices to cut out.

    Returns:
        Function: index, mirror, chance -> inputs, image. Inputs are `{"images", "restored",
        "below": float32 (h, w, 1) in [0, 1], "has_below", "step": int32 ()}`. `chance` decides
        about the last two. Nothing is mirrored, because no mirror image is drawn. Evaluation takes
        another step for each index.
    """
    restored, below = tf.constant(restored[..., None]), tf.constant(source.split.below, tf.int64)
    top, left, bottom, right = frame

    def grey(index):
        return tf.cast(source(index)[top:bottom, left:right], tf.float32) / 255.0

    def example(index, _mirror, chance=None):
        index = tf.cast(index, tf.int64)
        image, lower = grey(index), grey(tf.maximum(below[index], 0))
        has_below = below[index] != NO_SLICE
        if chance is None:
            step = tf.cast(index % STEPS, tf.int32)
        else:
            # The rest of a random number, once a decision has used its share, is random too.
            has_below &= chance >= LEFT_OUT
            step = tf.cast(chance * 2**20, tf.int32) % STEPS
        inputs = {
            "images": image,
            "restored": tf.cast(restored[index], tf.float32) / 255.0,
            "below": lower,
            "has_below": tf.cast(has_below, tf.int32),
            "step": step,
        }
        return inputs, image

    return example


# ---- batches -----------------------------------------------------------------------------------


def training_batches(
    example: Example,
    count: int,
    batch_size: int,
    seed: int,
    epoch: int,
    skip: int = 0,
    share: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Make one epoch: a new permutation of the examples, each mirrored or not.

    Order, mirroring and the random number of each example depend on the seed and the epoch alone.
    So a resumed run sees what an uninterrupted run would have seen, and several replicas see
    together what one would have seen.

    Args:
        example: Function from `image_examples`, `code_examples` or `texture_examples`.
        count: Number of examples, at least `batch_size`.
        batch_size: Examples of a batch. An incomplete last batch is left out.
        seed: Seed of the run.
        epoch: Number of the epoch.
        skip: Batches to leave out at the start of the epoch.
        share: `(replica, replicas)`: take this contiguous part of each batch. The number of
            replicas divides `batch_size`.
    """
    replica, replicas = share
    key = (seed, epoch)
    order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key)
    chances = tf.random.stateless_uniform([2, count], seed=key)
    mirrors = chances[0] < 0.5
    steps, size = count // batch_size, batch_size // replicas

    def shared(values):
        batches = tf.reshape(values[: steps * batch_size], (steps, replicas, size))
        return tf.reshape(batches[skip:, replica], (-1,))  # ((steps - skip) * size,)

    places = tf.data.Dataset.from_tensor_slices(tuple(map(shared, (order, mirrors, chances[1]))))
    return _mapped(places, example).batch(size, drop_remainder=True).prefetch(AHEAD)


def evaluation_batches(
    example: Example, count: int, batch_size: int, share: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Go through all examples once, in order. The last batch is as long as it is.

    Args:
        example: Function from `image_examples`, `code_examples` or `texture_examples`.
        count: Number of examples.
        batch_size: Examples of a batch.
        share: `(replica, replicas)`: take this contiguous part of the examples, at least one. Every
            replica gets equally many batches.
    """
    replica, replicas = share
    begin, end = count * replica // replicas, count * (replica + 1) // replicas
    size = batch_size // replicas
    # Shares differ by at most one example. The smallest share decides where the last batch begins,
    # so the last batch of another replica may be one longer.
    last = begin + (count // replicas - 1) // size * size

    def upright(index):
        return example(index, tf.constant(False))

    whole = _mapped(tf.data.Dataset.range(begin, last), upright)
    rest = _mapped(tf.data.Dataset.range(last, end), upright)
    return whole.batch(size).concatenate(rest.batch(size + 1)).prefetch(AHEAD)


def images_of(source: ImageSource, batch: np.ndarray, mirror: bool = False) -> np.ndarray:
    """Images of some slices, or their mirror images, float32 `(B, S, S, 1)` in [0, 1].

    Args:
        source: Images of a split.
        batch: Indices of the slices, `(B,)`.
        mirror: Take the mirror images.
    """
    images = source.images[batch]
    images = source.split.facts.mirrored(images) if mirror else images
    return _normalise(images[..., None].astype("float32"))
