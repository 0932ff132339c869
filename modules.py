"""All networks: encoder, vector quantizer, decoder, `VQVAE`, and the `PixelCNN` prior.

Two layers have rooms of their own: the quantizer in `networks/quantizer.py`, the gated block of
masked convolutions in `networks/gated.py`. How a prior draws codes is in `networks/raster.py`.

Images are float32 `(B, S, S, 1)` in [0, 1]. Codes are int32 `(B, H, W)` in [0, K) with
`H = W = S / R`, where the reduction R is 8 or 4.

References:
    van den Oord et al. 2017, Neural Discrete Representation Learning.
    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
"""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers, ops

from networks import serializable
from networks.gated import GatedBlock, shift
from networks.quantizer import CodebookUsage, VectorQuantizer
from networks.raster import NO_CODE, RasterPrior, bits, plain_level

__all__ = [
    "VQVAE",
    "CodebookUsage",
    "DepthToSpace",
    "GatedBlock",
    "PixelCNN",
    "VectorQuantizer",
    "decoder",
    "encoder",
]

REDUCTIONS = (8, 4)  # pixels of an image side that share one code


# ---- VQ-VAE ------------------------------------------------------------------------------------


@serializable
class DepthToSpace(layers.Layer):
    """Pixels from channels: `(B, H, W, block^2 C)` -> `(B, block H, block W, C)`."""

    def __init__(self, block: int, **kwargs):
        super().__init__(**kwargs)
        self.block = block

    def call(self, x):
        return tf.nn.depth_to_space(x, self.block)

    def get_config(self):
        return {**super().get_config(), "block": self.block}


def _convolution(dtype):
    """Convolution that carries its precision policy, so that a reload needs no global one."""
    return functools.partial(layers.Conv2D, padding="same", dtype=dtype)


def _residual_blocks(x, count, dtype):
    """`count` residual blocks of a 3 x 3 and a 1 x 1 convolution; each starts as the identity."""
    conv, width = _convolution(dtype), x.shape[-1]
    for _ in range(count):
        h = conv(width, 3)(layers.Activation("relu", dtype=dtype)(x))
        h = layers.Activation("relu", dtype=dtype)(h)
        h = conv(width, 1, kernel_initializer="zeros")(h)
        x = layers.Add(dtype=dtype)([x, h])
    return x


def encoder(
    image_size: int,
    reduction: int,
    width: int,
    blocks: Sequence[int],
    code_dim: int,
    dtype: keras.DTypePolicy | str | None = None,
) -> keras.Model:
    """Images `(B, S, S, 1)` -> latents `(B, S/R, S/R, D)`, float32.

    A convolution of stride 4 comes first, and one of stride 2 where R is 8. Arguments are those
    of `VQVAE`; `blocks` counts residual blocks at S/4 and at S/R.
    """
    conv = _convolution(dtype)
    halving = reduction // 4
    images = keras.Input((image_size, image_size, 1))
    x = conv(width // halving, 8, strides=4)(images)  # (B, S/4, S/4, 4 C/R)
    x = _residual_blocks(x, blocks[0], dtype)
    if halving > 1:
        x = conv(width, 4, strides=2)(x)
    x = _residual_blocks(x, blocks[1], dtype)  # (B, S/R, S/R, C)
    return keras.Model(images, conv(code_dim, 1, dtype="float32")(x), name="encoder")


def decoder(
    image_size: int,
    reduction: int,
    width: int,
    blocks: Sequence[int],
    code_dim: int,
    dtype: keras.DTypePolicy | str | None = None,
) -> keras.Model:
    """Quantized latents `(B, S/R, S/R, D)` -> images `(B, S, S, 1)`, float32, not clipped.

    Arguments are those of `VQVAE`; `blocks` counts residual blocks at S/R and at S/4.
    """
    conv = _convolution(dtype)
    grid, halving = image_size // reduction, reduction // 4
    latents = keras.Input((grid, grid, code_dim))
    x = _residual_blocks(conv(width, 3)(latents), blocks[0], dtype)  # (B, S/R, S/R, C)
    if halving > 1:
        x = DepthToSpace(2, dtype=dtype)(conv(2 * width, 1)(x))
    x = _residual_blocks(x, blocks[1], dtype)  # (B, S/4, S/4, 4 C/R)
    # Each place becomes a patch of 4 x 4 pixels.
    x = conv(16, 5)(layers.Activation("relu", dtype=dtype)(x))
    return keras.Model(latents, DepthToSpace(4, dtype="float32")(x), name="decoder")


@serializable
class VQVAE(keras.Model):
    """Vector-quantized variational autoencoder of van den Oord et al. 2017.

    Args:
        image_size: Pixels S of an image side, a multiple of the reduction.
        codebook_size: Number of codes K.
        code_dim: Dimension D of a code.
        width: Channels C at the codes, an even number. At S/4 there are half as many if R is 8.
        reduction: Pixels R of an image side that share one code, 8 or 4.
        encoder_blocks: Numbers of residual blocks at S/4 and at S/R.
        decoder_blocks: Numbers of residual blocks at S/R and at S/4.
        seed: Seed of the codebook's start and restarts.

    Raises:
        ValueError: `reduction` is neither 8 nor 4, `image_size` is no positive multiple of it, or
            `codebook_size` is below 2.
    """

    def __init__(
        self,
        image_size: int,
        codebook_size: int = 512,
        code_dim: int = 16,
        width: int = 128,
        reduction: int = 8,
        encoder_blocks: Sequence[int] = (2, 2),
        decoder_blocks: Sequence[int] = (4, 3),
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {REDUCTIONS}. Received: reduction={reduction}"
            )
        if image_size < reduction or image_size % reduction:
            raise ValueError(
                f"`image_size` must be a positive multiple of {reduction}. "
                f"Received: image_size={image_size}"
            )
        self.settings = dict(
            image_size=image_size,
            codebook_size=codebook_size,
            code_dim=code_dim,
            width=width,
            reduction=reduction,
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
            seed=seed,
        )
        shape = image_size, reduction, width
        policy = self.dtype_policy
        self.encoder = encoder(*shape, encoder_blocks, code_dim, policy)
        self.quantizer = VectorQuantizer(codebook_size, code_dim, seed=seed)
        self.decoder = decoder(*shape, decoder_blocks, code_dim, policy)
        self.quantizer.build(self.encoder.output_shape)
        self.built = True

    def call(self, images, training=False):
        return self.decoder(self.quantizer(self.encoder(images), training=training))

    @tf.function
    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Images `(B, S, S, 1)` in [0, 1] -> nearest codes, int32 `(B, S/R, S/R)`."""
        return self.quantizer.codes(self.encoder(images))

    @tf.function
    def distances(self, images: tf.Tensor) -> tf.Tensor:
        """Images `(B, S, S, 1)` in [0, 1] -> distances to all codes, `(B, S/R, S/R, K)`.

        See `VectorQuantizer.distances`.
        """
        return self.quantizer.distances(self.encoder(images))

    @tf.function
    def decode(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes, int32 `(B, S/R, S/R)` -> images `(B, S, S, 1)`, clipped to [0, 1].

        It is the inverse of `encode` up to what the codes lose.
        """
        return ops.clip(self.decoder(self.quantizer.embed(codes)), 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), **self.settings}


# ---- PixelCNN ----------------------------------------------------------------------------------


@serializable
class PixelCNN(RasterPrior):
    """Gated PixelCNN over codes, conditioned on the level of the slice: p(codes | level).

    Call: `{"codes": int32 (B, H, W), "levels": int32 (B,)}` -> logits, float32 `(B, H, W, K)`.
    Levels of mirror images are those of `mirrored_level`. `fit` minimises bits a code.

    Args:
        grid: Rows (and columns) of the code map.
        codebook_size: Number of codes K.
        num_levels: Number L of slice levels.
        width: Channels C of each stack.
        blocks: Number of gated blocks. Their dilations run through `DILATIONS`, so that eight
            blocks see 34 rows up and columns aside, and every other one sees its neighbours.
        dropout: Dropout rate within the blocks.
        rate_weight: Rate weight by which its codes were chosen; see `RasterPrior.describe`.
        vqvae: Fingerprint of the VQ-VAE whose codes it models. It is carried, not used.

    Reference:
        van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
    """

    DILATIONS = (1, 2, 1, 4, 1, 8, 1, 16)

    def __init__(
        self,
        grid: int,
        codebook_size: int,
        num_levels: int,
        width: int = 128,
        blocks: int = 8,
        dropout: float = 0.1,
        rate_weight: float = 0.0,
        vqvae: str = "",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.settings = dict(
            grid=grid,
            codebook_size=codebook_size,
            num_levels=num_levels,
            width=width,
            blocks=blocks,
            dropout=dropout,
            rate_weight=rate_weight,
            vqvae=vqvae,
        )
        policy = {"dtype": self.dtype_policy}
        condition = dict(embeddings_initializer="zeros", **policy)
        self.embedding = layers.Embedding(codebook_size, width, **policy)
        self.conditions = layers.Embedding(num_levels, blocks * 4 * width, **condition)
        self.mirror = layers.Embedding(2, blocks * 4 * width, **condition)
        dilations = [self.DILATIONS[i % len(self.DILATIONS)] for i in range(blocks)]
        self.blocks = [GatedBlock(width, dilation, dropout, **policy) for dilation in dilations]
        self.hidden = layers.Dense(2 * width, activation="relu", **policy)
        self.out = layers.Dense(codebook_size, dtype="float32")
        self._build_layers(grid, width)

    def _build_layers(self, grid, width):
        features = (None, grid, grid, width)
        self.embedding.build((None, grid, grid))
        self.conditions.build((None,))
        self.mirror.build((None,))
        self.hidden.build(features)
        self.out.build((*features[:-1], 2 * width))
        for block in self.blocks:
            block.build(features)
        self.positions = self.add_weight(
            shape=(grid, grid, width), initializer="random_normal", name="positions"
        )
        self.built = True

    def call(self, inputs, training=False):
        codes = self.embedding(inputs["codes"])  # (B, H, W, C)
        positions = ops.cast(self.positions, self.compute_dtype)
        # These shifts are mask A: no place knows its own code.
        vertical = shift(codes, rows=1) + positions
        horizontal = shift(codes, columns=1) + positions
        for block, condition in zip(self.blocks, self._conditions(inputs["levels"])):
            vertical, horizontal = block(vertical, horizontal, condition, training=training)
        return self._logits(horizontal)

    def _conditions(self, levels):
        """What each block adds for the level and the mirroring: a list of `(B, 1, 1, 4C)`."""
        plain, mirrored = plain_level(levels, self.settings["num_levels"])
        both = self.conditions(plain) + self.mirror(mirrored)  # (B, 4C blocks)
        return ops.split(both[:, None, None], len(self.blocks), axis=-1)

    def _logits(self, horizontal):
        return self.out(self.hidden(ops.relu(horizontal)))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # Replicas sum their losses. Keras divides its own losses by the number of replicas, and
        # this one is ours.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return ops.mean(bits(y_pred, y)) / replicas

    def start(self, levels):
        batch, grid, width = tf.shape(levels)[0], self.settings["grid"], self.settings["width"]
        zeros = functools.partial(tf.zeros, dtype=self.compute_dtype)
        reaches = [block.dilation for block in self.blocks]
        return {
            "conditions": tuple(self._conditions(levels)),
            "positions": ops.cast(self.positions, self.compute_dtype),
            # Inputs of each block: the last `dilation` rows, and the last `dilation` columns.
            "rows": tuple(zeros((batch, reach, grid, width)) for reach in reaches),
            "columns": tuple(zeros((reach, batch, width)) for reach in reaches),
            "messages": tuple(zeros((grid, batch, 2 * width)) for _ in reaches),
        }

    def start_row(self, state, above, y):
        """The vertical stack needs earlier rows only, so a whole row of it is computed at once."""
        vertical = self._embed(above)[:, None] + state["positions"][y]  # (B, 1, W, C)
        rows, messages = [], []
        for block, condition, seen in zip(self.blocks, state["conditions"], state["rows"]):
            rows.append(tf.concat([seen[:, 1:], vertical], axis=1))
            vertical = block.vertical(vertical, seen[:, :1], condition)
            message = block.vertical_message(vertical, condition)
            messages.append(tf.transpose(message[:, 0], (1, 0, 2)))  # (W, B, 2C)
        columns = tuple(tf.zeros_like(seen) for seen in state["columns"])
        return {**state, "rows": tuple(rows), "columns": columns, "messages": tuple(messages)}

    def step(self, state, left, y, x):
        horizontal = self._embed(left) + state["positions"][y, x]  # (B, C)
        columns = []
        for block, seen, message in zip(self.blocks, state["columns"], state["messages"]):
            columns.append(tf.concat([seen[1:], horizontal[None]], axis=0))
            horizontal = block.horizontal(horizontal, seen[0], message[x])
        return self._logits(horizontal), {**state, "columns": tuple(columns)}

    def _embed(self, codes):
        """Embedding of codes, 0 where there is `NO_CODE`."""
        embedded = self.embedding(tf.maximum(codes, 0))
        return tf.where((codes == NO_CODE)[..., None], tf.zeros_like(embedded), embedded)

    def get_config(self):
        return {**super().get_config(), **self.settings}
