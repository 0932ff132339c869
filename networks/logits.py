"""What follows from logits of codes: a code drawn or chosen, its bits, and its surprise."""

import math
from typing import NamedTuple

import tensorflow as tf


class Drawing(NamedTuple):
    """How codes are drawn.

    Attributes:
        temperature: Divisor of the logits. 1 leaves the distribution as it is.
        top_k: Number of likeliest codes to draw among, 0 for all.
        top_p: Probability that the codes to draw among reach together, the likeliest first, in
            (0, 1]. See Holtzman et al. 2020, The Curious Case of Neural Text Degeneration.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


AS_IT_IS = Drawing()


def draw(
    logits: tf.Tensor, seed: tf.Tensor, place: tf.Tensor, drawing: Drawing = AS_IT_IS
) -> tf.Tensor:
    """Draw codes `(B,)` from the categorical distribution of `logits`, by the Gumbel-max trick.

    Args:
        logits: float32 `(B, K)`.
        seed: int32 scalar, or `(G,)` for G groups of B / G rows each.
        place: int32, as `seed`. With the logits of a group, `seed` and `place` decide the draw.
        drawing: How to draw.
    """
    temperature, top_k, top_p = drawing
    logits = logits / temperature
    if top_k:
        least = tf.math.top_k(logits, min(top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits < least, -math.inf, logits)
    if top_p < 1:
        ranked = tf.sort(logits, direction="DESCENDING")
        likelier = tf.cumsum(tf.nn.softmax(ranked), axis=-1, exclusive=True)
        kept = tf.where(likelier < top_p, ranked, math.inf)
        logits = tf.where(logits < tf.reduce_min(kept, axis=-1, keepdims=True), -math.inf, logits)
    keys = tf.unstack(tf.reshape(tf.stack([seed, place], axis=-1), (-1, 2)))
    shape = (tf.shape(logits)[0] // len(keys), logits.shape[-1])
    uniform = tf.concat(
        [tf.random.stateless_uniform(shape, key, minval=1e-7, maxval=1.0) for key in keys], axis=0
    )
    gumbel = -tf.math.log(-tf.math.log(uniform))
    return tf.argmax(logits + gumbel, axis=-1, output_type=tf.int32)


def near_and_likely(distances: tf.Tensor, logits: tf.Tensor, price: tf.Tensor) -> tf.Tensor:
    """Codes that minimise distance + price x nats; see `RasterPrior.choose_codes`.

    Args:
        distances: Distance to each code, `(B, K)`.
        logits: `(B, K)`, of the same type.
        price: Price of one nat, a scalar.
    """
    costs = distances - tf.cast(price, logits.dtype) * tf.nn.log_softmax(logits)
    return tf.argmin(costs, axis=-1, output_type=tf.int32)


def bits(logits: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """-log2 of the probability of `codes`: `(..., K)`, int32 `(...)` -> float32 `(...)`."""
    # It loads for a second, which the first stage of a training does without.
    from tensorflow_probability import distributions  # noqa: PLC0415

    return -distributions.Categorical(logits=logits).log_prob(codes) / math.log(2)


def surprise(logits: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """Bits of codes above the expected bits, in standard deviations: `(..., K)` -> `(...)`.

    So a rare code is no surprise where codes are rare. One squared bit is added to the variance,
    because the variance is 0 where one code is certain.
    """
    information = -tf.nn.log_softmax(logits) / math.log(2)  # (..., K)
    probability = tf.nn.softmax(logits)
    expected = tf.reduce_sum(probability * information, -1)  # (...)
    variance = tf.reduce_sum(probability * (information - expected[..., None]) ** 2, -1)
    found = tf.gather(information, codes, batch_dims=len(codes.shape))
    return (found - expected) / tf.sqrt(variance + 1.0)
