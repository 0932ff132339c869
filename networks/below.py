"""The layer by which a prior reads the codes of the slice below."""

import keras
import tensorflow as tf
from keras import layers, ops

from networks import serializable
from networks.raster import NO_CODE

LEFT_OUT = 0.1  # share of the slices below that training leaves out


@serializable
class SliceBelow(layers.Layer):
    """What the codes of the slice below say to each gated block at each place.

    The whole slice below is known before a code of this slice is drawn. So nothing is masked: two
    3 x 3 convolutions look around each place in all directions.

    Training leaves some slices below out. So one prior knows slices alone, whole brains, and brains
    that grow from a given slice.

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
        # It starts at 0, so a prior that learned without the slice below may go on with it.
        self.gates = layers.Dense(outputs, use_bias=False, kernel_initializer="zeros", **policy)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, codes_shape):
        features = (*codes_shape, self.width)
        self.embedding.build(codes_shape)
        self.first_conv.build(features)
        self.second_conv.build(features)
        self.gates.build(features)

    def call(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features of the slice below, `(B, H, W, C)`.

        Args:
            codes: Codes of the slice below, int32 `(B, H, W)`, `NO_CODE` where there is none.
            training: Whether slices are left out.
        """
        if training:
            chance = keras.random.uniform((ops.shape(codes)[0], 1, 1), seed=self.seed_generator)
            codes = ops.where(chance < LEFT_OUT, NO_CODE, codes)
        embedded = self.embedding(codes - NO_CODE)
        return self.second_conv(self.first_conv(embedded))

    def get_config(self):
        settings = {
            "codebook_size": self.codebook_size, "width": self.width, "outputs": self.outputs,
        }  # fmt: skip
        return {**super().get_config(), **settings}
