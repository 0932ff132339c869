"""The slices below: the layer that reads their codes, and the order in which stacks are drawn."""

import math
from collections.abc import Sequence

import tensorflow as tf
from keras import layers, ops

NO_CODE = -1  # stands where there is no code to the left or above, and for no slice below
OUTSIDE = -2  # stands for codes beyond the first or last row of a map
SLICES_BELOW = 2  # that a prior may read; a third was not tried


class SlicesBelow(layers.Layer):
    """What the codes of the slices below say to each gated block at each place.

    The slices below are known before a code of this slice is drawn. So nothing is masked: two 3 x 3
    convolutions look around each place in all directions.

    Args:
        codebook_size: Number of codes K.
        width: Channels C.
        outputs: Number of features for each place.
    """

    REACH = 2  # rows above and below a row that it depends on

    def __init__(self, codebook_size: int, width: int, outputs: int, **kwargs):
        super().__init__(**kwargs)
        self.codebook_size, self.width, self.outputs = codebook_size, width, outputs
        policy = {"dtype": self.dtype_policy}
        # Its first row stands for `NO_CODE`.
        self.embedding = layers.Embedding(codebook_size + 1, width, **policy)
        around = {"padding": "same", "activation": "relu", **policy}
        self.first_conv = layers.Conv2D(width, 3, **around)
        self.second_conv = layers.Conv2D(width, 3, **around)
        self.gates = layers.Dense(outputs, use_bias=False, kernel_initializer="zeros", **policy)

    def build(self, codes_shape):
        places = (None, *codes_shape[2:])
        self.embedding.build(codes_shape)
        self.first_conv.build((*places, SLICES_BELOW * self.width))
        self.second_conv.build((*places, self.width))
        self.gates.build((*places, self.width))

    def call(self, codes: tf.Tensor) -> tf.Tensor:
        """Features of the slices below, `(B, H, W, C)`.

        Args:
            codes: Codes of the slices below, int32 `(B, SLICES_BELOW, H, W)`. Rows that are
                `OUTSIDE` count as the padding of the convolutions.
        """
        is_inside = ops.cast(codes[:, 0] != OUTSIDE, self.compute_dtype)[..., None]
        embedded = self.embedding(ops.maximum(codes, NO_CODE) - NO_CODE)  # (B, 2, H, W, C)
        nearer, lower = ops.unstack(embedded, SLICES_BELOW, axis=1)
        features = self.first_conv(ops.concatenate([nearer, lower], axis=-1) * is_inside)
        return self.second_conv(features * is_inside)


class Wavefront:
    """Order in which stacks of slices are drawn: many slices at once, each behind the one below.

    A row is drawn given its slices below up to `reach` rows further on, so each slice runs
    `reach + 1` rows behind the slice below it. At each step every slice that is under way draws a
    row. A slot is its place in the batch. A later slice takes the slot of one that is finished.

    The codes of all slices are kept as rows, int32 `(R, B, W)`: those of the slices below the
    lowest, and then slice by slice, each between margins of `OUTSIDE`.

    Args:
        shape: That of the codes of the slices below the lowest, `(B, SLICES_BELOW, H, W)`.
        count: Number S of slices in each stack.
        reach: See above.

    Attributes:
        batch: Number B of stacks.
        slots: Number of slots of each stack.
        steps: Number of steps in which all is drawn.
    """

    def __init__(self, shape: Sequence[int], count: int, reach: int):
        self.batch, _, self.height, self.width = shape
        self.count, self.reach = count, reach
        self.lag = min(reach + 1, self.height)  # a slice that is finished is always enough
        # That many slices are under way together. So slices n and n + slices_under_way share a
        # slot.
        self.slices_under_way = math.ceil(self.height / self.lag)
        self.slots = min(count, self.slices_under_way)
        self.steps = self.lag * (count - 1) + self.height
        self.margin = reach + 1  # a row is asked for even above the first one
        self.rows_per_slice = self.height + 2 * self.margin

    def first_rows(self, below: tf.Tensor) -> tf.Tensor:
        """All rows before the first step. Those that are not drawn yet are `OUTSIDE`."""
        known = tf.transpose(below[:, ::-1], (1, 2, 0, 3))  # the lower one first: (2, H, B, W)
        margins = [[0, self.count], [self.margin, self.margin], [0, 0], [0, 0]]
        slices = tf.pad(known, margins, constant_values=OUTSIDE)
        return tf.reshape(slices, (-1, self.batch, self.width))

    def slots_at(self, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What each slot draws at a step, `(slots,)` each.

        They are number of the slice, row y in it, its place among all rows, and whether the slot
        draws at all.
        """
        slots = tf.range(self.slots)
        since, period = step - self.lag * slots, self.lag * self.slices_under_way
        number, y = slots + self.slices_under_way * (since // period), since % period
        is_drawn = (since >= 0) & (number < self.count) & (y < self.height)
        number, y = tf.where(is_drawn, number, 0), tf.where(is_drawn, y, 0)
        place = (SLICES_BELOW + number) * self.rows_per_slice + self.margin + y
        return number, y, place, is_drawn

    def above(self, rows: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """Codes of the rows above those at `place`, `(slots B, W)`, or `NO_CODE`."""
        above = tf.reshape(tf.gather(rows, place - 1), (-1, self.width))
        return tf.maximum(above, NO_CODE)

    def below(self, rows: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """Windows of the slices below around those rows, `(slots B, SLICES_BELOW, h, W)`.

        They hold `reach` rows to each side, so h is 2 reach + 1.
        """
        down = -self.rows_per_slice * tf.range(1, SLICES_BELOW + 1)[:, None]
        aside = tf.range(-self.reach, self.reach + 1)
        windows = tf.gather(rows, place[:, None, None] + down + aside)  # (slots, 2, h, B, W)
        windows = tf.transpose(windows, (0, 3, 1, 2, 4))
        shape = (self.slots * self.batch, SLICES_BELOW, 2 * self.reach + 1, self.width)
        return tf.reshape(windows, shape)

    def write(
        self, rows: tf.Tensor, place: tf.Tensor, is_drawn: tf.Tensor, codes: tf.Tensor
    ) -> tf.Tensor:
        """Rows with drawn codes, `(slots B, W)`, in their places."""
        codes = tf.reshape(codes, (self.slots, self.batch, self.width))
        places = tf.boolean_mask(place, is_drawn)[:, None]
        return tf.tensor_scatter_nd_update(rows, places, tf.boolean_mask(codes, is_drawn))

    def maps(self, rows: tf.Tensor) -> tf.Tensor:
        """Code maps of the stacks, `(B, S, H, W)`."""
        slices = tf.reshape(rows, (-1, self.rows_per_slice, self.batch, self.width))
        maps = slices[SLICES_BELOW:, self.margin : self.margin + self.height]
        return tf.transpose(maps, (2, 0, 1, 3))
