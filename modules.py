"""All networks: encoder, vector quantizer, decoder, `VQVAE`, the `PixelCNN` prior, and `Texture`.

Their layers are in `networks/`: the quantizer in `quantizer.py`, the gated block of masked
convolutions in `gated.py`, residual blocks in `layers.py`. How a prior draws codes is in
`raster.py`, and the texture is in `texture.py`.

Slices are float32 `(B, S, S, 1)` in [0, 1]. Networks see their frame, `(B, h, w, 1)`. Codes are
int32 `(B, H, W)` in [0, K) with `H = h / R` and `W = w / R`, where the reduction R is 8 or 4.

References:
    van den Oord et al. 2017, Neural Discrete Representation Learning.
    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
"""

from collections.abc import Sequence
from typing import NamedTuple

from utils import import_tensorflow

import_tensorflow()  # before anything else imports Keras, with settings that are not ours
# ruff: noqa: E402
import keras
import tensorflow as tf
from keras import layers, ops

from networks import check_range, graph_function, serializable
from networks.attributes import UNKNOWN
from networks.frames import check_frame, cut, fill
from networks.gated import GatedBlock, MirroredCodes, shift
from networks.layers import convolution, full_precision, residual_blocks
from networks.neighbours import NO_CODE, NeighbourReader
from networks.quantizer import VectorQuantizer
from networks.raster import RasterPrior, plain_level
from networks.texture import Texture

REDUCTIONS = (8, 4)  # pixels of an image side that share one code


# ---- VQ-VAE ------------------------------------------------------------------------------------


def _encoder(size, reduction, width, blocks, code_dim, dtype):
    """Frames `(B, h, w, 1)` -> latents `(B, H, W, D)`, float32, with H = h / R and W = w / R.

    A convolution of stride 4 comes first. Where R is 8, a second one of stride 2 halves the sides
    again and doubles the channels. `size` is `(h, w)`, and `blocks` counts residual blocks before
    and after the second. Others are as in `VQVAE`.
    """
    conv, is_halved = convolution(dtype), reduction == 8
    frames = keras.Input((*size, 1))
    x = conv(width // 2 if is_halved else width, 8, strides=4)(frames)  # (B, h/4, w/4, ...)
    x = residual_blocks(x, blocks[0], dtype)
    if is_halved:
        x = conv(width, 4, strides=2)(x)
    x = residual_blocks(x, blocks[1], dtype)  # (B, H, W, C)
    return keras.Model(frames, conv(code_dim, 1, dtype=full_precision(dtype))(x), name="encoder")


def _decoder(size, reduction, width, blocks, code_dim, dtype):
    """Quantized latents `(B, H, W, D)` -> frames `(B, h, w, 1)`, float32, not clipped.

    Arguments are those of `_encoder`, but `blocks` counts residual blocks at H x W first.
    """
    conv, is_halved = convolution(dtype), reduction == 8
    latents = keras.Input((size[0] // reduction, size[1] // reduction, code_dim))
    x = residual_blocks(conv(width, 3)(latents), blocks[0], dtype)  # (B, H, W, C)
    if is_halved:
        x = ops.depth_to_space(conv(2 * width, 1)(x), 2)
    x = residual_blocks(x, blocks[1], dtype)  # (B, h/4, w/4, ...)
    x = conv(16, 5)(layers.Activation("relu", dtype=dtype)(x))
    # Each place becomes a patch of 4 x 4 pixels.
    frames = ops.depth_to_space(ops.cast(x, full_precision(dtype)), 4)
    return keras.Model(latents, frames, name="decoder")


@serializable
class VQVAE(keras.Model):
    """Vector-quantized variational autoencoder of van den Oord et al. 2017.

    It computes only where slices hold something: in the frame. Outside it every image is 0.

    Call: frames `(B, h, w, 1)` in [0, 1], cut out of slices -> reconstructions of the same shape.

    Args:
        image_size: Pixels S of a side of a slice, a multiple of the reduction, at most 2048.
        codebook_size: Number of codes K, 2 to 65,536.
        code_dim: Dimension D of a code, 1 to 1024.
        width: Channels C at the codes, an even number from 2 to 1024. At 4 pixels a place there are
            half as many if R is 8.
        reduction: Pixels R of an image side that share one code, 8 or 4.
        encoder_blocks: Numbers of residual blocks at 4 pixels a place and at R, 0 to 64 each.
        decoder_blocks: Numbers of residual blocks at R pixels a place and at 4, 0 to 64 each.
        seed: Seed of the codebook's start and restarts.
        frame: See `networks.frames`; its sides are multiples of the reduction. None is the whole
            slice.
        masked: Whether the slices it learns are brain-masked. Networks ignore it. predict.py warns
            of other slices. None is unknown.

    Raises:
        ValueError: `reduction` is neither 8 nor 4, `image_size` is no multiple of it, `frame` is no
            part of the slice, or a number is out of range.
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
        frame: Sequence[int] | None = None,
        masked: bool | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {REDUCTIONS}. Received: reduction={reduction}"
            )
        check_range("image_size", image_size, int, reduction, 2048)
        if image_size % reduction:
            raise ValueError(
                f"`image_size` must be a multiple of {reduction}. Received: image_size={image_size}"
            )
        check_range("code_dim", code_dim, int, 1, 1024)
        check_range("width", width, int, 2, 1024)
        check_range("encoder_blocks", encoder_blocks, int, 0, 64, length=2)
        check_range("decoder_blocks", decoder_blocks, int, 0, 64, length=2)
        self.settings = dict(
            image_size=image_size, codebook_size=codebook_size, code_dim=code_dim, width=width,
            reduction=reduction, encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks,
            seed=seed, frame=frame, masked=masked,
        )  # fmt: skip
        self.frame = tuple(frame or (0, 0, image_size, image_size))
        check_frame(self.frame, image_size, reduction)
        top, left, bottom, right = self.frame
        size = bottom - top, right - left
        self.grid = size[0] // reduction, size[1] // reduction  # rows H and columns W of codes
        shape = size, reduction, width
        policy = self.dtype_policy
        self.encoder = _encoder(*shape, encoder_blocks, code_dim, policy)
        self.quantizer = VectorQuantizer(codebook_size, code_dim, seed=seed, dtype=policy)
        self.decoder = _decoder(*shape, decoder_blocks, code_dim, policy)
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
    """Gated PixelCNN over codes, given the level of the slice and the codes of its neighbours.

    Call and arguments are those of `RasterPrior`. `width` is that of each stack. The dilations of
    the blocks run through `DILATIONS`: eight blocks see 34 rows up and 34 columns aside, and every
    other block has dilation 1.

    Reference:
        van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
    """

    DILATIONS = (1, 2, 1, 4, 1, 8, 1, 16)
    REACH = NeighbourReader.REACH

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        width, blocks = self.settings["width"], self.settings["blocks"]
        codebook_size, policy = self.settings["codebook_size"], {"dtype": self.dtype_policy}
        of_blocks = blocks * 4 * width
        conditions = dict(output_dim=of_blocks, embeddings_initializer="zeros", **policy)
        self.embedding = layers.Embedding(codebook_size, width, **policy)
        self.conditions = layers.Embedding(self.settings["num_levels"], **conditions)
        self.mirror = layers.Embedding(2, **conditions)
        sizes = [len(attribute.labels) for attribute in self.attributes.each]
        self.values = layers.Embedding(sum(sizes), **conditions) if sizes else None
        self.first_values = [sum(sizes[:i]) for i in range(len(sizes))]
        dilations = [self.DILATIONS[i % len(self.DILATIONS)] for i in range(blocks)]
        more = dict(is_mirrored=self.settings["mirror"] != "none", **policy)
        self.blocks = [
            GatedBlock(width, dilation, self.settings["dropout"], **more) for dilation in dilations
        ]
        self.reader = None
        if self.slots:
            self.reader = NeighbourReader(codebook_size, self.slots, width, of_blocks, **policy)
        self.mirrored_codes = None
        if self.settings["mirror"] != "none":
            self.mirrored_codes = MirroredCodes(codebook_size, self.scan[1], width, **policy)
        self.hidden = layers.Dense(2 * width, activation="relu", **policy)
        self.out = layers.Dense(codebook_size, dtype=full_precision(self.dtype_policy))
        features = (None, *self.scan, width)
        self.embedding.build((None, *self.scan))
        if self.mirrored_codes:
            self.mirrored_codes.build((None, *self.scan))
        self.conditions.build((None,))
        self.mirror.build((None,))
        if self.values:
            self.values.build((None, len(self.attributes)))
        if self.reader:
            self.reader.build((None, self.slots, *self.scan))
        self.hidden.build(features)
        self.out.build((*features[:-1], 2 * width))
        for block in self.blocks:
            block.build(features)
        self.positions = self.add_weight(
            shape=(*self.scan, width), initializer="random_normal", name="positions"
        )
        self.built = True

    def forward(self, codes, levels, read, training=False):
        embedded = self.embedding(codes)  # (B, H, W, C)
        positions = ops.cast(self.positions, self.compute_dtype)
        # These shifts are mask A: no place knows its own code.
        vertical = shift(embedded, rows=1) + positions
        horizontal = shift(embedded, columns=1) + positions
        if self.mirrored_codes:
            horizontal = horizontal + self.mirrored_codes(codes)
        conditions = self._of_blocks(self._condition(levels)[:, None, None], read)
        for block, condition in zip(self.blocks, conditions):
            vertical, horizontal = block(vertical, horizontal, condition, training=training)
        return self._logits(horizontal)

    def _condition(self, levels):
        """What is the same for all places of a slice: a sum of embeddings, `(B, blocks 4C)`."""
        levels, numbers = (
            (levels, None) if len(levels.shape) == 1 else (levels[:, 0], levels[:, 1:])
        )
        plain, mirrored = plain_level(levels, self.settings["num_levels"])
        condition = self.conditions(plain) + self.mirror(mirrored)
        if numbers is None or not self.values:
            return condition
        values = self.values(ops.maximum(numbers - 1, 0) + self.first_values)  # (B, A, blocks 4C)
        is_known = ops.cast(numbers != UNKNOWN, self.compute_dtype)
        return condition + ops.sum(values * is_known[..., None], axis=1)

    def _of_blocks(self, condition, read):
        """What each block adds at h rows: a list of `(B, h, W, 4C)`, or `(B, 1, 1, 4C)`."""
        if self.reader:
            condition = condition + self.reader.gates(read)
        return ops.split(condition, len(self.blocks), axis=-1)

    def _logits(self, horizontal):
        return self.out(self.hidden(ops.relu(horizontal)))

    def read_neighbours(self, codes, distances):
        return self.reader(codes, distances) if self.reader else ()

    def start(self, levels):
        batch, columns, width = tf.shape(levels)[0], self.scan[1], self.settings["width"]
        # Inputs of each block: the last `dilation` rows.
        shapes = [(batch, block.dilation, columns, width) for block in self.blocks]
        return {"levels": levels, "rows": self._zeros(shapes)}

    def start_row(self, state, above, read, y):
        """The vertical stack needs earlier rows only, so a whole row of it is computed at once."""
        positions = tf.gather(ops.cast(self.positions, self.compute_dtype), y)
        vertical = (self._embed(above) + positions)[:, None]  # (A, 1, W, C)
        features = tf.nest.map_structure(lambda part: part[:, None], read)
        condition = self._condition(state["levels"])[:, None, None]
        conditions, rows, messages = self._of_blocks(condition, features), [], []
        for block, condition, seen in zip(self.blocks, conditions, state["rows"]):
            rows.append(tf.concat([seen[:, 1:], vertical], axis=1))
            vertical = block.vertical(vertical, seen[:, :1], condition)
            message = block.vertical_message(vertical, condition)
            messages.append(tf.transpose(message[:, 0], (1, 0, 2)))  # (W, A, 2C)
        # Inputs of each block: the last `dilation` columns.
        shapes = [(b.dilation, tf.shape(y)[0], self.settings["width"]) for b in self.blocks]
        within = {"columns": self._zeros(shapes), "messages": tuple(messages)}
        if self.mirrored_codes:
            within["line"] = tf.fill((tf.shape(y)[0], self.scan[1]), NO_CODE)
        return {**state, "rows": tuple(rows)}, within

    def step(self, within, left, y, x):
        positions = tf.gather(ops.cast(self.positions, self.compute_dtype)[:, x], y)
        horizontal, columns = self._embed(left) + positions, []  # (A, C)
        if self.mirrored_codes:
            line = tf.where(tf.range(self.scan[1]) == x - 1, left[:, None], within["line"])
            within = {**within, "line": line}
            horizontal = horizontal + self.mirrored_codes.at(line, x)
        for block, seen, message in zip(self.blocks, within["columns"], within["messages"]):
            columns.append(tf.concat([seen[1:], horizontal[None]], axis=0))
            horizontal = block.horizontal(horizontal, seen[0], message[x])
        return self._logits(horizontal), {**within, "columns": tuple(columns)}

    def _zeros(self, shapes):
        return tuple(tf.zeros(shape, self.compute_dtype) for shape in shapes)

    def _embed(self, codes):
        """Embedding of codes, 0 where there is `NO_CODE`."""
        embedded = self.embedding(tf.maximum(codes, 0))
        return tf.where((codes == NO_CODE)[..., None], tf.zeros_like(embedded), embedded)


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
