"""Feed both stages: checked slices, or the codes of them -> `tf.data`."""

import tensorflow as tf

from dataset import SOURCE_SIZE

INTENSITY_RANGE = (0.0, 1.0)  # what a grey value of 0 and of 255 become
CACHE_BYTES = 2**31  # decoded slices are kept in memory up to this size, read again every epoch beyond it
AHEAD = 2  # batches made in advance; `tf.data.AUTOTUNE` would take more and more memory for them as an epoch goes on


def image_source(split, image_size):
    """Function from a slice's index to its image, uint8 `(S, S, 1)`: decoded, and resized with antialiasing.

    Decodes once and keeps the result while it fits into `CACHE_BYTES`, else decodes at every call.

    Args:
        split: `dataset.Split`.
        image_size: pixels S of a side.
    """
    paths = tf.constant(split.paths)

    def decode(index):
        image = tf.io.decode_png(tf.io.read_file(paths[index]), channels=1)
        image.set_shape((SOURCE_SIZE, SOURCE_SIZE, 1))
        if image_size != SOURCE_SIZE:
            resized = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
        return image

    if len(split) * image_size**2 > CACHE_BYTES:
        return decode
    whole = tf.data.Dataset.range(len(split)).map(decode, tf.data.AUTOTUNE).batch(len(split))
    images = next(iter(whole))  # (N, S, S, 1)
    return lambda index: images[index]


def images_of(source):
    """The first stage's examples: what goes in must come out. `mirror` exchanges left and right (the nose is to the right)."""
    low, high = INTENSITY_RANGE

    def example(index, mirror):
        image = source(index)
        image = tf.cond(mirror, lambda: tf.reverse(image, [0]), lambda: image)
        image = tf.cast(image, tf.float32) * ((high - low) / 255.0) + low
        return image, image

    return example


def codes_of(codes, levels, count):
    """The second stage's examples: codes `(2, N, H, W)`, of the slices and of their mirror images, and levels `(N,)`, below `count`,
    which is added to those of mirror images."""
    codes, levels = tf.constant(codes), tf.constant(levels)

    def example(index, mirror):
        code = tf.cast(codes[tf.cast(mirror, index.dtype), index], tf.int32)
        return {"codes": code, "levels": levels[index] + count * tf.cast(mirror, levels.dtype)}, code

    return example


def training_batches(example, count, batch_size, seed, epoch, skip=0, share=(0, 1)):
    """One epoch: a new permutation of the examples, each mirrored or not, without the incomplete last batch.

    Order and mirroring are a function of the seed and the epoch alone, so that a resumed run sees what an uninterrupted
    one would have seen, and several replicas what one would have seen.

    Args:
        example: function of an index and a mirror flag, from `images_of` or `codes_of`.
        count: number of examples, at least `batch_size`.
        skip: batches at the start of the epoch to leave out.
        share: `(replica, replicas)`: only this contiguous part of each batch, whose size the replicas divide.
    """
    key, (replica, replicas) = (seed, epoch), share
    order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key)
    mirrors = tf.random.stateless_uniform([count], seed=key) < 0.5
    steps, size = count // batch_size, batch_size // replicas

    def own(values):
        batches = tf.reshape(values[: steps * batch_size], (steps, replicas, size))
        return tf.reshape(batches[skip:, replica], (-1,))

    examples = tf.data.Dataset.from_tensor_slices((own(order), own(mirrors))).map(example, tf.data.AUTOTUNE)
    return examples.batch(size, drop_remainder=True).prefetch(AHEAD)


def evaluation_batches(example, count, batch_size, mirror=False, share=(0, 1)):
    """All examples once, in order, the last batch as long as it is.

    Args:
        share: `(replica, replicas)`: only this contiguous part of the examples, at least one, in equally many batches for every replica.
    """
    replica, replicas = share
    begin, end, size = count * replica // replicas, count * (replica + 1) // replicas, batch_size // replicas
    last = begin + (count // replicas - 1) // size * size  # by the smallest share: the last batch of another may be one longer

    def batches(begin, end, size):
        return tf.data.Dataset.range(begin, end).map(lambda index: example(index, tf.constant(mirror)), tf.data.AUTOTUNE).batch(size)

    return batches(begin, last, size).concatenate(batches(last, end, size + 1)).prefetch(AHEAD)
