"""The gated masked-convolution block of the PixelCNN.

Reference:
    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
"""

import numpy as np
import tensorflow as tf
from keras import layers, ops


class GatedBlock(layers.Layer):
    """Gated masked-convolution block with a vertical and a horizontal stack.

    No kernel is masked. The input of the network comes shifted (`PixelCNN.forward`): by a row for
    the vertical stack, by a column for the horizontal one. That shift is mask A: features at a
    place know no code of that place or a later one. Every block may then look at its own place,
    which is mask B, and it reaches back by shifting again:

    - `vertical_conv` is a 3 x 3 convolution under mask B. It sees rows y - dilation and y at
      columns x - dilation, x and x + dilation. Its row below is masked.
    - `horizontal_conv` is a 1 x 3 convolution under mask B. It sees columns x - dilation and x.
      Its column to the right is masked.
    - `vertical_to_horizontal` is the 1 x 1 convolution between the stacks.
    - `mirror_to_horizontal` is the same of the flipped row, where slices are nearly mirror images
      of themselves. The vertical stack knows earlier rows only, so it may be read at any column.

    Each is a plain product of what it sees. So the sampler calls the same methods for one row or
    one place, and no multiplication by zero is done.

    Call: vertical and horizontal features `(B, H, W, C)` and conditions `(B, H, W, 4C)` -> next
    features of both stacks. Conditions `(B, 1, 1, 4C)` are those of all places.

    Args:
        width: Channels C of each stack.
        dilation: Distance of the rows, and of the columns, that the convolutions see.
        dropout: Rate on the gated features of the horizontal stack.
        is_mirrored: Whether rows hold both halves of slices that are nearly their mirror images.

    Reference:
        van den Oord et al. 2016, equation 2 and figure 2.
    """

    def __init__(
        self,
        width: int,
        dilation: int = 1,
        dropout: float = 0.0,
        is_mirrored: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width, self.dilation = width, dilation
        policy = {"dtype": self.dtype_policy}
        self.vertical_conv = layers.Conv2D(
            2 * width, (1, 3), padding="same", dilation_rate=(1, dilation), **policy
        )
        self.horizontal_conv = layers.Dense(2 * width, **policy)
        self.vertical_to_horizontal = layers.Dense(2 * width, use_bias=False, **policy)
        self.mirror_to_horizontal = None
        if is_mirrored:
            self.mirror_to_horizontal = layers.Dense(
                2 * width, use_bias=False, kernel_initializer="zeros", **policy
            )
        self.output_conv = layers.Dense(width, kernel_initializer="zeros", **policy)
        self.dropout = layers.Dropout(dropout, **policy)

    def build(self, vertical_shape, horizontal_shape=None, condition_shape=None):
        pair = (*vertical_shape[:-1], 2 * self.width)
        self.vertical_conv.build(pair)
        self.horizontal_conv.build(pair)
        self.vertical_to_horizontal.build(vertical_shape)
        if self.mirror_to_horizontal:
            self.mirror_to_horizontal.build(vertical_shape)
        self.output_conv.build(vertical_shape)

    def vertical(self, here: tf.Tensor, above: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """Next vertical features of h rows, `(B, h, W, C)`.

        Args:
            here: Their features, `(B, h, W, C)`.
            above: Features of the rows `dilation` above them, of the same shape.
            condition: `(B, h, W, 4C)`, or `(B, 1, 1, 4C)`.
        """
        seen = self.vertical_conv(ops.concatenate([here, above], axis=-1))
        return here + _gate(seen + condition[..., : 2 * self.width])

    def vertical_message(self, vertical: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """What the vertical stack and the condition add to the horizontal one, `(B, h, W, 2C)`."""
        message = self.vertical_to_horizontal(vertical) + condition[..., 2 * self.width :]
        if self.mirror_to_horizontal:
            message = message + self.mirror_to_horizontal(ops.flip(vertical, axis=2))
        return message

    def horizontal(
        self, here: tf.Tensor, left: tf.Tensor, vertical_message: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Next horizontal features of places, `(..., C)`.

        Args:
            here: Their features, `(..., C)`.
            left: Features of the places `dilation` to the left, `(..., C)`.
            vertical_message: `(..., 2C)`.
            training: Whether dropout acts.
        """
        seen = self.horizontal_conv(ops.concatenate([here, left], axis=-1)) + vertical_message
        return here + self.output_conv(self.dropout(_gate(seen), training=training))

    def call(self, vertical, horizontal, condition, training=False):
        vertical = self.vertical(vertical, shift(vertical, rows=self.dilation), condition)
        message = self.vertical_message(vertical, condition)
        left = shift(horizontal, columns=self.dilation)
        return vertical, self.horizontal(horizontal, left, message, training)


class MirroredCodes(layers.Layer):
    """What the codes around the mirror place in the same line say, if they come earlier.

    Call: codes `(B, H, W)` as they are scanned -> features of all places, `(B, H, W, C)`.

    Args:
        codebook_size: Number of codes K.
        columns: Number W of places of a line.
        width: Channels C.
    """

    TAPS = (-1, 0, 1)  # places around the mirror place

    def __init__(self, codebook_size: int, columns: int, width: int, **kwargs):
        super().__init__(**kwargs)
        # A table for each tap, one behind the other.
        self.tables = layers.Embedding(
            len(self.TAPS) * codebook_size,
            width,
            embeddings_initializer="zeros",
            dtype=self.dtype_policy,
        )
        places = np.arange(columns)
        mirrored = columns - 1 - places[:, None] + np.array(self.TAPS)  # (W, taps)
        self.is_earlier = (mirrored >= 0) & (mirrored < places[:, None])
        self.sources = np.where(self.is_earlier, mirrored, 0)
        self.first_rows = codebook_size * np.arange(len(self.TAPS))

    def build(self, codes_shape):
        self.tables.build((*codes_shape, len(self.TAPS)))

    def call(self, codes: tf.Tensor) -> tf.Tensor:
        return self._features(tf.gather(codes, self.sources, axis=-1), self.is_earlier)

    def at(self, line: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Features of column x, `(A, C)`, given the codes of the lines so far, `(A, W)`."""
        places, is_earlier = tf.gather(self.sources, x), tf.gather(self.is_earlier, x)
        return self._features(tf.gather(line, places, axis=-1), is_earlier)

    def _features(self, codes, is_earlier):
        """Sum over codes `(..., taps)` that come earlier, `(..., C)`."""
        embedded = self.tables(ops.maximum(codes, 0) + self.first_rows)
        return ops.sum(embedded * ops.cast(is_earlier, embedded.dtype)[..., None], axis=-2)


def shift(features: tf.Tensor, rows: int = 0, columns: int = 0) -> tf.Tensor:
    """Move `(B, H, W, C)` down and to the right. Zeros come in, and the shape stays."""
    sizes = zip(features.shape[1:3], (rows, columns))
    height, width = (size - min(size, by) for size, by in sizes)
    # The gradient of `tf.slice` is several times as fast as that of `[...]` on a CPU.
    kept = tf.slice(features, (0, 0, 0, 0), (-1, height, width, -1))
    padding = [features.shape[1] - height, 0], [features.shape[2] - width, 0]
    return tf.pad(kept, [[0, 0], *padding, [0, 0]])


def _gate(features):
    """tanh(a) * sigmoid(b) of the two halves of the channels (equation 1)."""
    a, b = ops.split(features, 2, axis=-1)
    return ops.tanh(a) * ops.sigmoid(b)
