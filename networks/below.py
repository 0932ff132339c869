"""The layer by which a prior reads the codes of the slices below."""

import tensorflow as tf
from keras import layers, ops

from networks import serializable
from networks.raster import NO_CODE, SLICES_BELOW


@serializable
class SlicesBelow(layers.Layer):
    """What the codes of the slices below say to each gated block at each place.

    The slices below are known before a code of this slice is drawn. So nothing is masked: two 3 x 3
    convolutions look around each place in all directions.

    Args:
        codebook_size: Number of codes K.
        width: Channels C.
        outputs: Number of features for each place.
    """

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
            codes: Codes of the slices below, int32 `(B, SLICES_BELOW, H, W)`.
        """
        embedded = self.embedding(codes - NO_CODE)  # (B, 2, H, W, C)
        nearer, lower = ops.unstack(embedded, SLICES_BELOW, axis=1)
        return self.second_conv(self.first_conv(ops.concatenate([nearer, lower], axis=-1)))

    def get_config(self):
        settings = {
            "codebook_size": self.codebook_size, "width": self.width, "outputs": self.outputs,
        }  # fmt: skip
        return {**super().get_config(), **settings}
