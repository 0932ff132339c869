"""Generation of code maps in raster order: the seam behind sampling, describing and healing.

A prior models the codes of a slice as p(codes | level, slices below). It is the product of
p(code | earlier codes, level, slices below) in raster order, row by row and from left to right.
Whatever a caller wants of the codes, the same loop goes through the places and a rule
`choose(logits, y, x)` decides each code. Another prior, for instance a transformer, subclasses
`RasterPrior`, writes `call` and `step`, and gets it all.

Codes are int32 `(B, H, W)` in [0, K). A level is the number of a slice from bottom to top, in
[0, L), and the mirror image of a slice has its level + L. So levels are int32 `(B,)` in [0, 2L).
The slices below are those of the same case at levels k - 1 and k - 2, the nearer one first. Their
codes are int32 `(B, SLICES_BELOW, H, W)`, and `NO_CODE` everywhere where there is no such slice. A
mirror image has mirror images below it.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

NO_CODE = -1  # stands where there is no code to the left or above, and for no slice below
SLICES_BELOW = 2  # that a prior may read; a third was not tried
SEED_STRIDE = 7919  # a prime, so that streams of neighbouring seeds do not meet soon


def mirrored_level(levels: Any, num_levels: int) -> Any:
    """Level that stands for the mirror image of a slice at level k: k + L.

    Training sees both. Brains and scanners are not symmetric, so a prior that could not tell them
    apart would draw half of its slices mirrored.

    Args:
        levels: Level or levels k in [0, L).
        num_levels: Number L of slice levels.
    """
    return levels + num_levels


def plain_level(levels: Any, num_levels: int) -> tuple[Any, Any]:
    """Inverse of `mirrored_level`: `(level in [0, L), 1 for a mirror image and else 0)`."""
    return levels % num_levels, levels // num_levels


def numbered_seed(seed: int, number: int | np.ndarray) -> tf.Tensor:
    """Seed of the stream with this number: int32, a scalar, or of the shape of the numbers."""
    return tf.constant((seed + SEED_STRIDE * number) % 2**31, tf.int32)


class RasterPrior(keras.Model):
    """p(codes | level, slices below) in raster order. A subclass writes `call` and `step`.

    A subclass has a dict `settings` with `grid` (rows H and columns W of the map),
    `codebook_size`, `num_levels`, `reads_below`, `rate_weight` and `vqvae`, as `modules.PixelCNN`
    explains them. A prior that does not read the slices below gets them all the same.
    Its class attribute `SETTINGS` gives type and range of each, and `least_weights` the number of
    weights that follow from them: files are checked by both. It writes:

    - `call({"codes": (B, H, W), "levels": (B,), "below": (B, SLICES_BELOW, H, W)})` gives the
      logits of all places at once, float32 `(B, H, W, K)`. Training and `bits` use it.
    - `start(levels, below)` gives the state before the first place: any structure of tensors.
      Shapes stay the same throughout, so a cache has its full size from the start.
    - `start_row(state, above, y)` may change it at the start of a row. `above` holds the codes
      of the row above, int32 `(B, W)`, or `NO_CODE` everywhere.
    - `step(state, left, y, x)` gives `(logits (B, K), state)` of one place. `left` is the code
      to the left, int32 `(B,)`, or `NO_CODE` at the start of a row.

    `step` must give the logits that `call` gives at that place for the same earlier codes.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean bits a code."""
        # Replicas sum their losses. Keras divides its own losses by the number of replicas, and
        # this one is ours.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return ops.mean(bits(y_pred, y)) / replicas

    def start(self, levels: tf.Tensor, below: tf.Tensor) -> Any:
        """State before the first place of maps at these levels, above these slices."""
        return ()

    def start_row(self, state: Any, above: tf.Tensor, y: tf.Tensor) -> Any:
        """State at the start of row y."""
        return state

    def step(
        self, state: Any, left: tf.Tensor, y: tf.Tensor, x: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Logits at place (y, x) and the state after it."""
        raise TypeError(f"{type(self).__name__} must define `step` to generate codes")

    def generate(
        self, levels: tf.Tensor, choose: Callable, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Code maps in raster order, computing each place once.

        Args:
            levels: Slice levels, int32 `(B,)`.
            choose: Rule `(logits (B, K), y, x) -> codes (B,)` that decides each code.
            below: Codes of the slices below, int32 `(B, SLICES_BELOW, H, W)`. None for none.

        Returns:
            codes, int32 `(B, H, W)`.
        """
        height, width = self.settings["grid"]
        static_batch = levels.shape[0]
        none = tf.fill((tf.shape(levels)[0],), NO_CODE)

        def place(x, y, state, left, row):
            logits, state = self.step(state, left, y, x)
            code = choose(logits, y, x)
            return x + 1, y, state, code, row.write(x, code)

        def line(y, state, above, rows):
            state = self.start_row(state, above, y)
            row = tf.TensorArray(tf.int32, width, element_shape=(static_batch,))
            loop = tf.while_loop(lambda x, *_: x < width, place, (0, y, state, none, row))
            codes = tf.transpose(loop[-1].stack())  # (B, W)
            return y + 1, loop[2], codes, rows.write(y, codes)

        above = tf.repeat(none[:, None], width, axis=1)  # (B, W)
        rows = tf.TensorArray(tf.int32, height, element_shape=(static_batch, width))
        begin = (0, self.start(levels, self._or_none(below, levels)), above, rows)
        rows = tf.while_loop(lambda y, *_: y < height, line, begin)[-1]
        return tf.transpose(rows.stack(), (1, 0, 2))  # (B, H, W)

    def logits(
        self, codes: tf.Tensor, levels: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Logits of all places at once, float32 `(B, H, W, K)`. `below` as in `generate`."""
        below = self._or_none(below, levels)
        return self({"codes": codes, "levels": levels, "below": below})

    @tf.function
    def bits(
        self, codes: tf.Tensor, levels: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """-log2 of each code's probability, float32 `(B, H, W)`. `below` as in `generate`."""
        return bits(self.logits(codes, levels, below), codes)

    @tf.function
    def surprise(
        self, codes: tf.Tensor, levels: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Surprise of each code after those before it, float32 `(B, H, W)`; see `surprise`."""
        return surprise(self.logits(codes, levels, below), codes)

    @tf.function
    def sample(
        self,
        levels: tf.Tensor,
        seed: tf.Tensor,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        given: tf.Tensor | None = None,
        rows: int = 0,
        below: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draw code maps.

        Args:
            levels: Slice levels to draw at, int32 `(B,)`.
            seed: int32 scalar tensor. The same seed gives the same codes.
            temperature: See `draw`.
            top_k: See `draw`.
            top_p: See `draw`.
            given: Codes to begin from, int32 `(B, H, W)`, or None.
            rows: Number of rows that are kept of `given`. The rest is drawn.
            below: See `generate`.

        Returns:
            codes, int32 `(B, H, W)`.
        """

        def choose(logits, y, x):
            code = draw(logits, seed, self._place(y, x), temperature, top_k, top_p)
            return code if given is None else tf.where(y < rows, given[:, y, x], code)

        return self.generate(levels, choose, below)

    def describe(
        self,
        distances: tf.Tensor,
        levels: tf.Tensor,
        rate_weight: float | None = None,
        below: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Codes that are near and likely: each minimises distance + rate_weight x bits.

        The choice goes in raster order, so that the bits follow from the codes chosen before.

        Args:
            distances: Distance of each latent to each code, float32 `(B, H, W, K)`, from
                `VQVAE.distances`.
            levels: int32 `(B,)`.
            rate_weight: Price lambda of one bit, in units of distance. 0 gives the nearest codes,
                and None the prior's own.
            below: See `generate`.

        Returns:
            codes, int32 `(B, H, W)`.

        Reference:
            Chou, Lookabaugh and Gray 1989, Entropy-Constrained Vector Quantization.
        """
        price = self.price(rate_weight)
        if not price.numpy():
            return tf.argmin(distances, axis=-1, output_type=tf.int32)
        return self._describe(distances, levels, price, self._or_none(below, levels))

    def price(self, rate_weight: float | None = None) -> tf.Tensor:
        """Price of one nat, a float32 scalar, for the price of one bit; see `describe`."""
        rate_weight = self.settings["rate_weight"] if rate_weight is None else rate_weight
        # As a tensor, because all rate weights then share one graph.
        return tf.constant(rate_weight / math.log(2), tf.float32)

    @tf.function
    def _describe(self, distances, levels, price, below):
        def choose(logits, y, x):
            return near_and_likely(distances[:, y, x], logits, price)

        return self.generate(levels, choose, below)

    @tf.function
    def heal(
        self,
        codes: tf.Tensor,
        levels: tf.Tensor,
        limit: tf.Tensor | float,
        seed: tf.Tensor,
        below: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draw the surprising codes anew. Each is judged after the healed codes before it.

        Args:
            codes: int32 `(B, H, W)`.
            levels: int32 `(B,)`.
            limit: `surprise` above which a code is drawn anew, one for all or `(B,)`.
            seed: int32 scalar tensor.
            below: See `generate`.

        Returns:
            codes, int32 `(B, H, W)`, equal to those given where these did not surprise.

        Reference:
            Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection and segmentation
            with transformers.
        """

        def choose(logits, y, x):
            own = codes[:, y, x]
            surprises = surprise(logits, own) > limit
            return tf.where(surprises, draw(logits, seed, self._place(y, x)), own)

        return self.generate(levels, choose, below)

    def _or_none(self, below, levels):
        """Codes of the slices below; without them `NO_CODE` everywhere."""
        if below is None:
            return tf.fill((tf.shape(levels)[0], SLICES_BELOW, *self.settings["grid"]), NO_CODE)
        return tf.cast(below, tf.int32)

    def _place(self, y, x):
        return y * self.settings["grid"][1] + x


def draw(
    logits: tf.Tensor,
    seed: tf.Tensor,
    place: tf.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tf.Tensor:
    """Draw from the categorical distribution of `logits` exactly, by the Gumbel-max trick.

    Args:
        logits: float32 `(B, K)`.
        seed: int32 scalar.
        place: int32 scalar. With the logits, `seed` and `place` decide the draw.
        temperature: Divisor of the logits. 1 leaves the distribution as it is.
        top_k: Number of likeliest codes to draw among, 0 for all.
        top_p: Probability that the codes to draw among reach together, the likeliest first.

    Returns:
        codes, int32 `(B,)`.

    Reference:
        Holtzman et al. 2020, The Curious Case of Neural Text Degeneration (top_p).
    """
    logits = logits / temperature
    if top_k:
        least = tf.math.top_k(logits, min(top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits < least, -math.inf, logits)
    if top_p < 1:
        ranked = tf.sort(logits, direction="DESCENDING")
        likelier = tf.cumsum(tf.nn.softmax(ranked), axis=-1, exclusive=True)
        kept = tf.where(likelier < top_p, ranked, math.inf)
        logits = tf.where(logits < tf.reduce_min(kept, axis=-1, keepdims=True), -math.inf, logits)
    key = tf.stack([seed, place])
    uniform = tf.random.stateless_uniform(tf.shape(logits), seed=key, minval=1e-7, maxval=1.0)
    gumbel = -tf.math.log(-tf.math.log(uniform))
    return tf.argmax(logits + gumbel, axis=-1, output_type=tf.int32)


def near_and_likely(distances: tf.Tensor, logits: tf.Tensor, price: tf.Tensor) -> tf.Tensor:
    """Codes that minimise distance + price x nats, see `RasterPrior.describe`.

    Args:
        distances: Distance to each code, `(B, K)`.
        logits: `(B, K)`, of the same type.
        price: Price of one nat, a scalar.

    Returns:
        codes, int32 `(B,)`.
    """
    costs = distances - tf.cast(price, logits.dtype) * tf.nn.log_softmax(logits)
    return tf.argmin(costs, axis=-1, output_type=tf.int32)


def bits(logits: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """-log2 of the probability of `codes`: `(..., K)`, int32 `(...)` -> float32 `(...)`."""
    # It loads for seconds, and the first stage of a training does without it.
    import tensorflow_probability as tfp  # noqa: PLC0415

    return -tfp.distributions.Categorical(logits=logits).log_prob(codes) / math.log(2)


def surprise(logits: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """Bits of codes above the expected bits, in standard deviations: `(..., K)` -> `(...)`.

    So a rare code is no surprise where codes are rare. One squared bit is added to the variance,
    because the variance is 0 where one code is certain.
    """
    information = -tf.nn.log_softmax(logits) / math.log(2)  # (..., K)
    probability = tf.nn.softmax(logits)
    expected = tf.reduce_sum(probability * information, -1)  # (...)
    variance = tf.reduce_sum(probability * (information - expected[..., None]) ** 2, -1)
    own = tf.gather(information, codes, batch_dims=len(codes.shape))
    return (own - expected) / tf.sqrt(variance + 1.0)
