"""All networks: encoder, vector quantizer, decoder, `VQVAE`, `PixelCNN` prior, and `Texture`.

Their layers have rooms of their own: the quantizer in `networks/quantizer.py`, the gated block of
masked convolutions in `networks/gated.py`, residual blocks in `networks/residual.py`. How a prior
draws codes is in `networks/raster.py`, and the texture is in `networks/texture.py`.

Slices are float32 `(B, S, S, 1)` in [0, 1]. Networks see their frame, `(B, h, w, 1)`. Codes are
int32 `(B, H, W)` in [0, K) with `H = h / R` and `W = w / R`, where the reduction R is 8 or 4.

References:
    van den Oord et al. 2017, Neural Discrete Representation Learning.
    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import layers, ops

from networks import graph_function, ranges, serializable
from networks.below import NO_CODE, SLICES_BELOW, SlicesBelow
from networks.exact import full_precision
from networks.frames import cut, fill
from networks.gated import GatedBlock, shift
from networks.quantizer import CodebookUsage, VectorQuantizer
from networks.raster import RasterPrior, plain_level
from networks.residual import DepthToSpace, Policy, convolution, residual_blocks
from networks.texture import Texture

__all__ = [
    "PRIORS", "VQVAE", "CodebookUsage", "DepthToSpace", "GatedBlock", "Models", "PixelCNN",
    "Texture", "VectorQuantizer", "decoder", "encoder",
]  # fmt: skip

REDUCTIONS = (8, 4)  # pixels of an image side that share one code


# ---- VQ-VAE ------------------------------------------------------------------------------------


def encoder(
    size: tuple[int, int],
    reduction: int,
    width: int,
    blocks: Sequence[int],
    code_dim: int,
    dtype: Policy = None,
) -> keras.Model:
    """Frames `(B, h, w, 1)` -> latents `(B, H, W, D)`, float32, with H = h / R and W = w / R.

    A convolution of stride 4 comes first, and one of stride 2 where R is 8. `size` is `(h, w)`,
    and `blocks` counts residual blocks before and after the second. Others are as in `VQVAE`.
    """
    conv = convolution(dtype)
    halving = reduction // 4
    frames = keras.Input((*size, 1))
    x = conv(width // halving, 8, strides=4)(frames)  # (B, h/4, w/4, 4 C/R)
    x = residual_blocks(x, blocks[0], dtype)
    if halving > 1:
        x = conv(width, 4, strides=2)(x)
    x = residual_blocks(x, blocks[1], dtype)  # (B, H, W, C)
    return keras.Model(frames, conv(code_dim, 1, dtype=full_precision(dtype))(x), name="encoder")


def decoder(
    size: tuple[int, int],
    reduction: int,
    width: int,
    blocks: Sequence[int],
    code_dim: int,
    dtype: Policy = None,
) -> keras.Model:
    """Quantized latents `(B, H, W, D)` -> frames `(B, h, w, 1)`, float32, not clipped.

    Arguments are those of `encoder`, but `blocks` counts residual blocks at H x W first.
    """
    conv, halving = convolution(dtype), reduction // 4
    latents = keras.Input((size[0] // reduction, size[1] // reduction, code_dim))
    x = residual_blocks(conv(width, 3)(latents), blocks[0], dtype)  # (B, H, W, C)
    if halving > 1:
        x = DepthToSpace(2, dtype=dtype)(conv(2 * width, 1)(x))
    x = residual_blocks(x, blocks[1], dtype)  # (B, h/4, w/4, 4 C/R)
    # Each place becomes a patch of 4 x 4 pixels.
    x = conv(16, 5)(layers.Activation("relu", dtype=dtype)(x))
    return keras.Model(latents, DepthToSpace(4, dtype=full_precision(dtype))(x), name="decoder")


@serializable
class VQVAE(keras.Model):
    """Vector-quantized variational autoencoder of van den Oord et al. 2017.

    It computes only where slices hold something: in the frame. Outside it every image is 0.

    Call: frames `(B, h, w, 1)` in [0, 1], cut out of slices -> reconstructions of the same shape.

    Args:
        image_size: Pixels S of a side of a slice, a multiple of the reduction.
        codebook_size: Number of codes K.
        code_dim: Dimension D of a code.
        width: Channels C at the codes, an even number. At 4 pixels a place there are half as many
            if R is 8.
        reduction: Pixels R of an image side that share one code, 8 or 4.
        encoder_blocks: Numbers of residual blocks at 4 pixels a place and at R.
        decoder_blocks: Numbers of residual blocks at R pixels a place and at 4.
        seed: Seed of the codebook's start and restarts.
        frame: First row, first column, and the row and column after the last, each a multiple of
            the reduction. None is the whole slice.
        masked: Whether the slices it learns are brain-masked. Networks ignore it. predict.py warns
            of other slices. None is unknown.

    Raises:
        ValueError: `reduction` is neither 8 nor 4, `image_size` is no positive multiple of it,
            `frame` is no part of the slice, or `codebook_size` is below 2.
    """

    SETTINGS = {
        "image_size": ranges.SIDE,
        "codebook_size": ranges.CODEBOOK_SIZE,
        "code_dim": (int, 1, 1024),
        "width": ranges.WIDTH,
        "reduction": (int, 4, 8),
        "encoder_blocks": [ranges.NUMBER_OF_BLOCKS, ranges.NUMBER_OF_BLOCKS],
        "decoder_blocks": [ranges.NUMBER_OF_BLOCKS, ranges.NUMBER_OF_BLOCKS],
        "seed": (int, 0, 2**31 - 1),
        "frame": [ranges.EDGE] * 4,
        "masked": bool,
    }

    @staticmethod
    def least_weights(settings: dict) -> int:
        """Number of weights that a model of these settings surely has."""
        blocks = sum(settings["encoder_blocks"]) + sum(settings["decoder_blocks"])
        convolutions = settings["width"] ** 2 * max(1, blocks)
        return convolutions + settings["codebook_size"] * settings["code_dim"]

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
        frame: Sequence[int] | None = None,
        masked: bool | None = None,
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
            image_size=image_size, codebook_size=codebook_size, code_dim=code_dim, width=width,
            reduction=reduction, encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks,
            seed=seed, frame=frame, masked=masked,
        )  # fmt: skip
        self.frame = tuple(frame or (0, 0, image_size, image_size))
        top, left, bottom, right = self.frame
        is_inside = 0 <= top < bottom <= image_size and 0 <= left < right <= image_size
        if not is_inside or any(edge % reduction for edge in self.frame):
            raise ValueError(
                f"`frame` must be part of the slice, in steps of {reduction}. "
                f"Received: frame={frame}"
            )
        size = bottom - top, right - left
        self.grid = size[0] // reduction, size[1] // reduction  # rows H and columns W of codes
        shape = size, reduction, width
        policy = self.dtype_policy
        self.encoder = encoder(*shape, encoder_blocks, code_dim, policy)
        self.quantizer = VectorQuantizer(codebook_size, code_dim, seed=seed, dtype=policy)
        self.decoder = decoder(*shape, decoder_blocks, code_dim, policy)
        self.quantizer.build(self.encoder.output_shape)
        self.built = True

    def call(self, frames, training=False):
        return self.decoder(self.quantizer(self.encoder(frames), training=training))

    @graph_function
    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Slices `(B, S, S, 1)` in [0, 1] -> nearest codes, int32 `(B, H, W)`."""
        return self.quantizer.codes(self.encoder(cut(images, self.frame)))

    @graph_function
    def distances(self, images: tf.Tensor) -> tf.Tensor:
        """Slices `(B, S, S, 1)` in [0, 1] -> distances to all codes, float32 `(B, H, W, K)`.

        See `VectorQuantizer.distances`.
        """
        return self.quantizer.distances(self.encoder(cut(images, self.frame)))

    @graph_function
    def decode(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes, int32 `(B, H, W)` -> slices `(B, S, S, 1)` in [0, 1], exactly 0 outside the frame.

        It is the inverse of `encode` up to what the codes lose. `Texture.draw` adds that.
        """
        frames = ops.clip(self.decoder(self.quantizer.embed(codes)), 0.0, 1.0)
        return fill(frames, self.frame, self.settings["image_size"])

    def get_config(self):
        return {**super().get_config(), **self.settings}


# ---- PixelCNN ----------------------------------------------------------------------------------


@serializable
class PixelCNN(RasterPrior):
    """Gated PixelCNN over codes, given the level of the slice and the codes of the slices below.

    Call: `{"codes": (B, H, W), "levels": (B,), "below": (B, SLICES_BELOW, H, W)}`, all int32 ->
    logits, float32 `(B, H, W, K)`. `networks.raster` explains them. The loss is bits a code.

    Args:
        grid: Rows H and columns W of the code map. One number stands for both.
        codebook_size: Number of codes K.
        num_levels: Number L of slice levels.
        width: Channels C of each stack.
        blocks: Number of gated blocks. Their dilations run through `DILATIONS`. So eight blocks
            see 34 rows up and 34 columns aside, and every other block has dilation 1.
        dropout: Dropout rate within the blocks.
        reads_below: Whether it reads the slices below. If not, every slice is alone.
        rate_weight: Rate weight by which its codes were chosen; see `RasterPrior.describe`.
        vqvae: Fingerprint of the VQ-VAE whose codes it models. Networks ignore it. Loading compares
            it.

    Reference:
        van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
    """

    DILATIONS = (1, 2, 1, 4, 1, 8, 1, 16)
    REACH_BELOW = SlicesBelow.REACH
    SETTINGS = {
        "grid": [ranges.SIDE_OF_GRID, ranges.SIDE_OF_GRID],
        "codebook_size": ranges.CODEBOOK_SIZE,
        "num_levels": (int, 1, 10**4),
        "width": ranges.WIDTH,
        "blocks": (int, 1, 64),
        "dropout": (float, 0, 1),
        "reads_below": bool,
        "rate_weight": (float, 0, 1e6),
        "vqvae": str,
    }

    @staticmethod
    def least_weights(settings: dict) -> int:
        """Number of weights that a model of these settings surely has."""
        width, blocks, grid = settings["width"], settings["blocks"], settings["grid"]
        places = grid**2 if isinstance(grid, int) else math.prod(grid)
        levels = 4 * settings["num_levels"] * blocks
        return width**2 * blocks + width * (settings["codebook_size"] + levels + places)

    def __init__(
        self,
        grid: int | Sequence[int],
        codebook_size: int,
        num_levels: int,
        width: int = 128,
        blocks: int = 8,
        dropout: float = 0.1,
        reads_below: bool = False,
        rate_weight: float = 0.0,
        vqvae: str = "",
        **kwargs,
    ):
        super().__init__(**kwargs)
        grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
        self.settings = dict(
            grid=grid, codebook_size=codebook_size, num_levels=num_levels, width=width,
            blocks=blocks, dropout=dropout, reads_below=reads_below, rate_weight=rate_weight,
            vqvae=vqvae,
        )  # fmt: skip
        policy = {"dtype": self.dtype_policy}
        condition = dict(embeddings_initializer="zeros", **policy)
        self.embedding = layers.Embedding(codebook_size, width, **policy)
        self.conditions = layers.Embedding(num_levels, blocks * 4 * width, **condition)
        self.mirror = layers.Embedding(2, blocks * 4 * width, **condition)
        dilations = [self.DILATIONS[i % len(self.DILATIONS)] for i in range(blocks)]
        self.blocks = [GatedBlock(width, dilation, dropout, **policy) for dilation in dilations]
        self.slices_below = None
        if reads_below:
            self.slices_below = SlicesBelow(codebook_size, width, blocks * 4 * width, **policy)
        self.hidden = layers.Dense(2 * width, activation="relu", **policy)
        self.out = layers.Dense(codebook_size, dtype=full_precision(self.dtype_policy))
        self._build_layers(grid, width)

    def _build_layers(self, grid, width):
        features = (None, *grid, width)
        self.embedding.build((None, *grid))
        self.conditions.build((None,))
        self.mirror.build((None,))
        if self.slices_below:
            self.slices_below.build((None, SLICES_BELOW, *grid))
        self.hidden.build(features)
        self.out.build((*features[:-1], 2 * width))
        for block in self.blocks:
            block.build(features)
        self.positions = self.add_weight(
            shape=(*grid, width), initializer="random_normal", name="positions"
        )
        self.built = True

    def call(self, inputs, training=False):
        codes = self.embedding(inputs["codes"])  # (B, H, W, C)
        positions = ops.cast(self.positions, self.compute_dtype)
        # These shifts are mask A: no place knows its own code.
        vertical = shift(codes, rows=1) + positions
        horizontal = shift(codes, columns=1) + positions
        features = self.read_below(inputs["below"] if self.slices_below else ())  # (B, H, W, C)
        conditions = self._conditions(inputs["levels"], features)
        for block, condition in zip(self.blocks, conditions):
            vertical, horizontal = block(vertical, horizontal, condition, training=training)
        return self._logits(horizontal)

    def _conditions(self, levels, features):
        """What each block adds at h rows: a list of `(B, h, W, 4C)`, or `(B, 1, 1, 4C)`."""
        plain, mirrored = plain_level(levels, self.settings["num_levels"])
        added = (self.conditions(plain) + self.mirror(mirrored))[:, None, None]
        if self.slices_below:
            added = added + self.slices_below.gates(features)
        return ops.split(added, len(self.blocks), axis=-1)

    def _logits(self, horizontal):
        return self.out(self.hidden(ops.relu(horizontal)))

    def read_below(self, below):
        return self.slices_below(below) if self.slices_below else ()

    def start(self, batch):
        width = self.settings["width"]
        _, columns = self.settings["grid"]
        zeros = functools.partial(tf.zeros, dtype=self.compute_dtype)
        reaches = [block.dilation for block in self.blocks]
        return {
            "positions": ops.cast(self.positions, self.compute_dtype),
            # Inputs of each block: the last `dilation` rows, and the last `dilation` columns.
            "rows": tuple(zeros((batch, reach, columns, width)) for reach in reaches),
            "columns": tuple(zeros((reach, batch, width)) for reach in reaches),
            "messages": tuple(zeros((columns, batch, 2 * width)) for _ in reaches),
        }

    def start_row(self, state, above, levels, read, y):
        """The vertical stack needs earlier rows only, so a whole row of it is computed at once."""
        vertical = (self._embed(above) + tf.gather(state["positions"], y))[:, None]  # (B, 1, W, C)
        features = tf.nest.map_structure(lambda part: part[:, None], read)
        conditions = self._conditions(levels, features)
        goes_on = (y > 0)[:, None, None, None]
        rows, messages = [], []
        for block, condition, seen in zip(self.blocks, conditions, state["rows"]):
            seen = tf.where(goes_on, seen, tf.zeros_like(seen))
            rows.append(tf.concat([seen[:, 1:], vertical], axis=1))
            vertical = block.vertical(vertical, seen[:, :1], condition)
            message = block.vertical_message(vertical, condition)
            messages.append(tf.transpose(message[:, 0], (1, 0, 2)))  # (W, B, 2C)
        columns = tuple(tf.zeros_like(seen) for seen in state["columns"])
        return {**state, "rows": tuple(rows), "columns": columns, "messages": tuple(messages)}

    def step(self, state, left, y, x):
        horizontal = self._embed(left) + tf.gather(state["positions"][:, x], y)  # (B, C)
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


PRIORS = {"pixelcnn": PixelCNN}  # by the name that `train.py --prior` takes


# ---- all of them -------------------------------------------------------------------------------


class Models(NamedTuple):
    """The networks of a run, as `fitting.checkpoints.load_models` gives them.

    Attributes:
        vqvae: Images to codes and back.
        prior: Probability of codes.
        texture: What adds the fine grain that codes lose, or None.
    """

    vqvae: VQVAE
    prior: RasterPrior
    texture: Texture | None = None
