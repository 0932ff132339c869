"""Neighbouring slices: the layer that reads their codes, and the loop's view of whole stacks."""

from collections.abc import Sequence

import tensorflow as tf
from keras import layers, ops

from networks.order import NO_SLICE, Neighbours

NO_CODE = -1  # stands where there is no code to the left or above, and for no neighbour
OUTSIDE = -2  # stands for codes beyond the first or last row of a map
FARTHEST = 32  # levels; neighbours that are farther away count as this far


class NeighbourReader(layers.Layer):
    """What the codes of neighbouring slices say to each gated block at each place.

    The neighbours are known before a code of this slice is drawn. So nothing is masked: two 3 x 3
    convolutions look around each place in all directions. The distance of each neighbour is added
    to its codes, and none is a distance too.

    Args:
        codebook_size: Number of codes K.
        slots: Number S of neighbours.
        width: Channels C.
        outputs: Number of features for each place.
    """

    REACH = 2  # rows above and below a row that it depends on

    def __init__(self, codebook_size: int, slots: int, width: int, outputs: int, **kwargs):
        super().__init__(**kwargs)
        self.slots, self.width = slots, width
        policy = {"dtype": self.dtype_policy}
        # Its first row stands for `NO_CODE`.
        self.codes = layers.Embedding(codebook_size + 1, width, **policy)
        # A table for each slot, one behind the other.
        self.distances = layers.Embedding(slots * (FARTHEST + 1), width, **policy)
        self.first_conv = layers.Conv2D(width, 3, activation="silu", **policy)
        self.second_conv = layers.Conv2D(width, 3, activation="silu", **policy)
        self.gates = layers.Dense(outputs, use_bias=False, kernel_initializer="zeros", **policy)

    def build(self, codes_shape):
        places = (None, None, None)
        self.codes.build(codes_shape)
        self.distances.build((None, self.slots))
        self.first_conv.build((*places, self.slots * self.width))
        self.second_conv.build((*places, self.width))
        self.gates.build((*places, self.width))

    def call(self, codes: tf.Tensor, distances: tf.Tensor) -> tf.Tensor:
        """Features of h rows, `(B, h, W, C)`.

        Args:
            codes: Codes of the neighbours, int32 `(B, S, h + 2 REACH, W)`, `OUTSIDE` in rows beyond
                the map and `NO_CODE` where there is no neighbour.
            distances: Their distances, int32 `(B, S)`; 0 where there is none.
        """
        is_inside = ops.cast(codes[:, 0] != OUTSIDE, self.compute_dtype)[..., None]
        tables = (FARTHEST + 1) * tf.range(self.slots)
        far = self.distances(tables + ops.minimum(distances, FARTHEST))  # (B, S, C)
        embedded = self.codes(ops.maximum(codes, NO_CODE) - NO_CODE) + far[:, :, None, None]
        slots = ops.unstack(embedded, self.slots, axis=1)
        x = ops.concatenate(slots, axis=-1) * is_inside  # (B, h + 4, W, S C)
        x = self.first_conv(_with_edges(x)) * is_inside[:, 1:-1]
        return self.second_conv(_with_edges(x))


def _with_edges(features):
    """Pad with zeros to the left and right, as much as a 3 x 3 convolution takes away."""
    return tf.pad(features, [[0, 0], [0, 0], [1, 1], [0, 0]])


class Wavefront:
    """Which rows are drawn together: many slices at once, each behind its neighbours.

    A row of a slice is drawn given its neighbours up to `reach` rows further on. So a slice starts
    `reach + 1` rows behind the last of its neighbours that is drawn too. At each step every slice
    that is under way draws a row. Slices without such neighbours all start at once.

    The codes of all slices are kept as rows, int32 `(R, W)`: first no slice, which is `NO_CODE`,
    then the known slices, then the drawn ones, each between margins of `reach` rows of `OUTSIDE`.

    Args:
        neighbours: Neighbours of the N slices that are drawn.
        shape: Rows and columns of a code map.
        reach: See above.

    Attributes:
        starts: First step of each slice, int32 `(N,)`.
        steps: Number of steps in which all is drawn, an int32 scalar.
    """

    def __init__(self, neighbours: Neighbours, shape: Sequence[int], reach: int):
        self.height, self.width = shape
        self.reach, self.rows_per_slice = reach, self.height + 2 * reach
        self.sources = tf.cast(neighbours.sources, tf.int32)
        self.count, self.known = self.sources.shape[0], neighbours.known
        lag = min(reach + 1, self.height)  # a slice that is finished is always enough
        self.starts = lag * tf.cast(neighbours.depths, tf.int32)
        self.steps = tf.reduce_max(self.starts) + self.height

    def first_rows(self) -> tf.Tensor:
        """All rows before the first step. Those that are not drawn yet are `NO_CODE`."""
        parts = [tf.fill((1, self.height, self.width), NO_CODE)]
        if self.known is not None:
            parts.append(tf.cast(self.known, tf.int32))
        parts.append(tf.fill((self.count, self.height, self.width), NO_CODE))
        margins = [[0, 0], [self.reach, self.reach], [0, 0]]
        slices = tf.pad(tf.concat(parts, axis=0), margins, constant_values=OUTSIDE)
        return tf.reshape(slices, (-1, self.width))

    def under_way(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Numbers of the slices that draw a row at a step, and that row y: int32 `(A,)` each."""
        y = step - self.starts
        numbers = tf.where((y >= 0) & (y < self.height))[:, 0]
        return tf.cast(numbers, tf.int32), tf.gather(y, numbers)

    def windows(self, rows: tf.Tensor, numbers: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Codes of the neighbours around those rows: `(A, S, 2 reach + 1, W)`."""
        sources = tf.gather(self.sources, numbers)
        first = self.rows_per_slice * (sources - NO_SLICE) + y[:, None]  # (A, S)
        return tf.gather(rows, first[..., None] + tf.range(2 * self.reach + 1))

    def write(
        self, rows: tf.Tensor, numbers: tf.Tensor, y: tf.Tensor, codes: tf.Tensor
    ) -> tf.Tensor:
        """Rows with drawn codes, `(A, W)`, in their places."""
        first = tf.shape(rows)[0] - self.rows_per_slice * self.count + self.reach
        places = first + self.rows_per_slice * numbers + y
        return tf.tensor_scatter_nd_update(rows, places[:, None], codes)

    def maps(self, rows: tf.Tensor) -> tf.Tensor:
        """Code maps of the drawn slices, `(N, H, W)`."""
        drawn = rows[tf.shape(rows)[0] - self.rows_per_slice * self.count :]
        slices = tf.reshape(drawn, (self.count, self.rows_per_slice, self.width))
        return slices[:, self.reach : self.reach + self.height]
