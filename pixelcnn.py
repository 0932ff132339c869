"""The prior: a gated PixelCNN over the codes of a VQ-VAE, p(codes | level), with its cached sampler.

Codes are int32 `(B, H, W)` in [0, K); a level is the number of a slice, from bottom to top, in [0, L). The mirror image of a slice has
its level + L: training sees both, and brains and scanners are not symmetric, so a prior that could not tell would draw half of its slices mirrored.

Reference:
    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.
"""

import math

import keras
import tensorflow as tf
from keras import layers, ops

serializable = keras.saving.register_keras_serializable(package="brain_vqvae")


@serializable
class GatedBlock(layers.Layer):
    """One gated layer of a vertical and a horizontal stack (van den Oord et al. 2016, equation 2 and figure 2).

    Features at a place must not know the code of that place or of a later one in raster order. The two inputs
    come shifted (by a row, by a column), so looking at the own place and back keeps that true without a mask on
    any kernel: the vertical stack sees rows y and y - dilation at columns x and x +- dilation, the horizontal one columns
    x and x - dilation of its own row. Either is a plain product of what it sees, so the sampler calls the same methods a row and a place at a time.

    Args:
        width: channels C of each stack.
        dilation: distance of the rows, and of the columns, that the vertical stack sees.
        dropout: rate on the gated features of the horizontal stack.

    Call: vertical and horizontal features `(B, H, W, C)` and conditions `(B, 1, 1, 4C)` -> both stacks' next features.
    """

    def __init__(self, width, dilation=1, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.dilation, self.dropout_rate = width, dilation, dropout
        make = {"dtype": self.dtype_policy}
        self.look_up = layers.Conv2D(2 * width, (1, 3), padding="same", dilation_rate=(1, dilation), **make)
        self.look_left = layers.Dense(2 * width, **make)
        self.hand_over = layers.Dense(2 * width, use_bias=False, **make)
        self.project = layers.Dense(width, kernel_initializer="zeros", **make)
        self.dropout = layers.Dropout(dropout, **make)

    def build(self, vertical_shape, horizontal_shape=None, condition_shape=None):
        pair = (*vertical_shape[:-1], 2 * self.width)
        self.look_up.build(pair)
        self.look_left.build(pair)
        self.hand_over.build(vertical_shape)
        self.project.build(vertical_shape)

    def vertical(self, here, above, condition):
        """Features of rows from those of the same rows and of the rows `dilation` above, `(B, h, W, C)` each."""
        seen = self.look_up(ops.concatenate([here, above], axis=-1)) + condition[..., : 2 * self.width]
        return here + _gate(seen)

    def from_vertical(self, vertical, condition):
        """What the vertical stack and the condition tell the horizontal one, `(B, h, W, 2C)`."""
        return self.hand_over(vertical) + condition[..., 2 * self.width :]

    def horizontal(self, here, left, told, training=False):
        """Features of places `(..., C)` from themselves, the places `dilation` to the left and what the vertical stack told."""
        seen = self.look_left(ops.concatenate([here, left], axis=-1)) + told
        return here + self.project(self.dropout(_gate(seen), training=training))

    def call(self, vertical, horizontal, condition, training=False):
        vertical = self.vertical(vertical, shift(vertical, rows=self.dilation), condition)
        told = self.from_vertical(vertical, condition)
        return vertical, self.horizontal(horizontal, shift(horizontal, columns=self.dilation), told, training)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "dilation": self.dilation, "dropout": self.dropout_rate}


def shift(features, rows=0, columns=0):
    """Move `(B, H, W, C)` down and right, with zeros coming in and the shape kept."""
    height, width = (size - min(size, by) for size, by in zip(features.shape[1:3], (rows, columns)))
    # cut by a slice, not by `[...]`, whose gradient takes several times as long on a CPU
    kept = tf.slice(features, (0, 0, 0, 0), (-1, height, width, -1))
    return tf.pad(kept, [[0, 0], [features.shape[1] - height, 0], [features.shape[2] - width, 0], [0, 0]])


def _gate(features):
    """tanh(a) * sigmoid(b) of the two halves of the channels (equation 1)."""
    a, b = ops.split(features, 2, axis=-1)
    return ops.tanh(a) * ops.sigmoid(b)


@serializable
class PixelCNN(keras.Model):
    """Gated PixelCNN over codes, conditioned on the level of the slice: p(codes | level) in raster order.

    Args:
        grid: rows (and columns) of the code map.
        codebook_size: number of codes K.
        levels: number L of slice levels.
        width: channels C of each stack.
        blocks: number of gated blocks; their dilations run through 1, 2, 1, 4, 1, 8, 1, 16, so that eight see 34 rows up and columns
            aside, and every other one looks at its neighbours.
        dropout: rate within the blocks.
        rate_weight: with which the codes it models were chosen, see `describe`.
        vqvae: fingerprint of the VQ-VAE whose codes it models; carried, not used.

    Call: `{"codes": int32 (B, H, W), "levels": int32 (B,)}` -> logits, float32 `(B, H, W, K)`. `fit` minimises bits a code.
    """

    DILATIONS = (1, 2, 1, 4, 1, 8, 1, 16)

    def __init__(self, grid, codebook_size, levels, width=128, blocks=8, dropout=0.1, rate_weight=0.0, vqvae="", **kwargs):
        super().__init__(**kwargs)
        self.settings = dict(grid=grid, codebook_size=codebook_size, levels=levels, width=width, blocks=blocks, dropout=dropout,
                             rate_weight=rate_weight, vqvae=vqvae)
        self.grid = grid
        make = {"dtype": self.dtype_policy}
        self.embedding = layers.Embedding(codebook_size, width, **make)
        self.conditions, self.mirror = (layers.Embedding(rows, blocks * 4 * width, embeddings_initializer="zeros", **make) for rows in (levels, 2))
        self.blocks = [GatedBlock(width, self.DILATIONS[i % len(self.DILATIONS)], dropout, **make) for i in range(blocks)]
        self.hidden = layers.Dense(2 * width, activation="relu", **make)
        self.out = layers.Dense(codebook_size, dtype="float32")
        features = (None, grid, grid, width)
        for layer, shape in [(self.embedding, (None, grid, grid)), (self.conditions, (None,)), (self.mirror, (None,)), (self.hidden, features),
                             (self.out, (*features[:-1], 2 * width)), *((block, features) for block in self.blocks)]:
            layer.build(shape)
        self.positions = self.add_weight(shape=(grid, grid, width), initializer="random_normal", name="positions")
        self.built = True

    def call(self, inputs, training=False):
        codes = self.embedding(inputs["codes"])  # (B, H, W, C)
        positions = ops.cast(self.positions, self.compute_dtype)
        vertical, horizontal = shift(codes, rows=1) + positions, shift(codes, columns=1) + positions
        for block, condition in zip(self.blocks, self._conditions(inputs["levels"])):
            vertical, horizontal = block(vertical, horizontal, condition, training=training)
        return self._logits(horizontal)

    def _conditions(self, levels):
        count = self.settings["levels"]
        both = self.conditions(levels % count) + self.mirror(levels // count)  # (B, 4C blocks)
        return ops.split(both[:, None, None], len(self.blocks), axis=-1)  # (B, 1, 1, 4C) a block

    def _logits(self, horizontal):
        return self.out(self.hidden(ops.relu(horizontal)))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # replicas sum their losses; Keras divides its own by their number, and this one is ours
        return ops.mean(bits(y_pred, y)) / tf.distribute.get_strategy().num_replicas_in_sync

    @tf.function
    def bits(self, codes, levels):
        """-log2 p(code | earlier codes, level) at each place: `(B, H, W)`, `(B,)` -> float32 `(B, H, W)`."""
        return bits(self({"codes": codes, "levels": levels}), codes)

    @tf.function
    def surprise(self, codes, levels):
        """How surprising each code is after those before it: `(B, H, W)`, `(B,)` -> float32 `(B, H, W)`, see `surprise`."""
        return surprise(self({"codes": codes, "levels": levels}), codes)

    @tf.function
    def sample(self, levels, seed, temperature=1.0, top_k=0, top_p=1.0, given=None, rows=0, alike=False):
        """Draw code maps.

        Args:
            levels: slice levels to draw at, int32 `(B,)`.
            seed: int32 scalar tensor; the same seed gives the same codes.
            temperature, top_k, top_p, alike: see `draw`.
            given: codes to begin with, int32 `(B, H, W)`, of which the first `rows` rows are kept and the rest is drawn.

        Returns:
            codes, int32 `(B, H, W)`.
        """
        def choose(logits, y, x):
            code = draw(logits, seed, y * self.grid + x, temperature, top_k, top_p, alike)
            return code if given is None else tf.where(y < rows, given[:, y, x], code)

        return self._generate(levels, choose)

    def describe(self, distances, levels, rate_weight=None):
        """Codes that describe images well in few bits: at each place, in raster order, that of least distance + rate_weight bits.

        Entropy-constrained quantization (Chou et al. 1989) with the prior as the entropy coder's model.

        Args:
            distances: of each latent to each code, float32 `(B, H, W, K)`, from `VQVAE.distances`.
            levels: int32 `(B,)`.
            rate_weight: lambda, the distance that a bit is worth; 0 gives the nearest codes. The prior's own without it.

        Returns:
            codes, int32 `(B, H, W)`.
        """
        rate_weight = self.settings["rate_weight"] if rate_weight is None else rate_weight
        if not rate_weight:
            return tf.argmin(distances, axis=-1, output_type=tf.int32)
        return self._describe(distances, levels, tf.constant(rate_weight / math.log(2), tf.float32))

    @tf.function
    def _describe(self, distances, levels, scale):  # a tensor, so that all rate weights share one graph
        def choose(logits, y, x):
            return tf.argmin(distances[:, y, x] - scale * tf.nn.log_softmax(logits), axis=-1, output_type=tf.int32)

        return self._generate(levels, choose)

    @tf.function
    def heal(self, codes, levels, limit, seed):
        """Draw anew the codes that surprise too much after those before them, healed already (after Pinaya et al. 2022).

        Args:
            codes: int32 `(B, H, W)`; levels: int32 `(B,)`.
            limit: `surprise` from which on a code is drawn anew.
            seed: int32 scalar tensor.

        Returns:
            codes, int32 `(B, H, W)`, equal to those given where these did not surprise.
        """
        def choose(logits, y, x):
            own = codes[:, y, x]
            return tf.where(surprise(logits, own) > limit, draw(logits, seed, y * self.grid + x), own)

        return self._generate(levels, choose)

    def _generate(self, levels, choose):
        """Code maps of which `choose(logits, y, x)` decides each code, computing each layer at each place once.

        The vertical stack needs earlier rows only, so a whole row of it is computed at once from the last rows of each
        block's input; the horizontal stack then goes through the row with the last columns of each block's input.
        """
        known, grid, width = levels.shape[0], self.grid, self.settings["width"]
        batch = tf.shape(levels)[0]
        conditions = self._conditions(levels)
        positions = ops.cast(self.positions, self.compute_dtype)

        def row(y, above, caches, chosen):
            vertical = above[:, None] + positions[y]  # (B, 1, W, C)
            told, seen = [], []
            for block, condition, cache in zip(self.blocks, conditions, caches):
                seen.append(tf.concat([cache[:, 1:], vertical], axis=1))  # the last `dilation` rows of this block's input
                vertical = block.vertical(vertical, cache[:, :1], condition)
                told.append(tf.transpose(block.from_vertical(vertical, condition)[:, 0], (1, 0, 2)))  # (W, B, 2C)

            def place(x, left_code, lefts, line):
                horizontal = left_code + positions[y, x]  # (B, C)
                columns = []
                for block, left, message in zip(self.blocks, lefts, told):
                    columns.append(tf.concat([left[1:], horizontal[None]], axis=0))
                    horizontal = block.horizontal(horizontal, left[0], message[x])
                code = choose(self._logits(horizontal), y, x)
                return x + 1, self.embedding(code), tuple(columns), line.write(x, code)

            lefts = tuple(tf.zeros((block.dilation, batch, width), positions.dtype) for block in self.blocks)
            start = (0, tf.zeros((batch, width), positions.dtype), lefts, tf.TensorArray(tf.int32, grid, element_shape=(known,)))
            line = tf.transpose(tf.while_loop(lambda x, *_: x < grid, place, start)[-1].stack())  # (B, W)
            return y + 1, self.embedding(line), tuple(seen), chosen.write(y, line)

        caches = tuple(tf.zeros((batch, block.dilation, grid, width), positions.dtype) for block in self.blocks)
        start = (0, tf.zeros((batch, grid, width), positions.dtype), caches,
                 tf.TensorArray(tf.int32, grid, element_shape=(known, grid)))
        chosen = tf.while_loop(lambda y, *_: y < grid, row, start)[-1]
        return tf.transpose(chosen.stack(), (1, 0, 2))  # (B, H, W)

    def get_config(self):
        return {**super().get_config(), **self.settings}


def draw(logits, seed, place, temperature=1.0, top_k=0, top_p=1.0, alike=False):
    """Draw from the categorical of `logits` `(B, K)`, exactly (Gumbel-max): codes, int32 `(B,)`.

    Args:
        seed, place: int32 scalars; with the logits they decide the draw.
        temperature: logits are divided by it first; 1 leaves the distribution as it is.
        top_k: only the k most likely codes, 0 for all.
        top_p: only the most likely codes that together reach this probability (Holtzman et al. 2020).
        alike: the same random numbers for every row, so that like distributions give like codes.
    """
    logits = logits / temperature
    if top_k:
        least = tf.math.top_k(logits, min(top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits < least, -math.inf, logits)
    if top_p < 1:
        ranked = tf.sort(logits, direction="DESCENDING")
        before = tf.cumsum(tf.nn.softmax(ranked), axis=-1, exclusive=True)  # of the more likely ones
        least = tf.reduce_min(tf.where(before < top_p, ranked, math.inf), axis=-1, keepdims=True)
        logits = tf.where(logits < least, -math.inf, logits)
    shape = (1, logits.shape[-1]) if alike else tf.shape(logits)
    uniform = tf.random.stateless_uniform(shape, seed=tf.stack([seed, place]), minval=1e-7, maxval=1.0)
    return tf.argmax(logits - tf.math.log(-tf.math.log(uniform)), axis=-1, output_type=tf.int32)


def bits(logits, codes):
    """-log2 of the categorical's probability of `codes`: `(..., K)`, `(...)` -> float32 `(...)`."""
    import tensorflow_probability as tfp  # loads for seconds, and the first stage does without it

    return -tfp.distributions.Categorical(logits=logits).log_prob(codes) / math.log(2)


def surprise(logits, codes):
    """Bits of codes above those expected, in standard deviations of them: `(..., K)`, `(...)` -> float32 `(...)`.

    So a rare code is no surprise where codes are rare; a bit squared is added to the variance, which is 0 where one code is certain.
    """
    information = -tf.nn.log_softmax(logits) / math.log(2)
    probability = tf.nn.softmax(logits)
    expected = tf.reduce_sum(probability * information, -1)
    variance = tf.reduce_sum(probability * (information - expected[..., None]) ** 2, -1)
    return (tf.gather(information, codes, batch_dims=len(codes.shape)) - expected) / tf.sqrt(variance + 1.0)
