"""What follows from logits of codes: a code drawn or chosen, its bits, and its surprise."""

import math
from collections.abc import Sequence
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
LEAST_UNIFORM = 2.0**-24  # a random number of 0 counts as this
STEPS = 1024  # in a nat, to which differences of logits are rounded


def uniforms(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Random numbers of maps, float32 `(B, *shape)` in [0, 1): the same for the same seed.

    Args:
        seeds: Seed of each map, int32 `(B,)`.
        shape: Rows and columns of a map.
    """

    def of(seed):
        return tf.random.stateless_uniform(shape, tf.stack([seed, 0]))

    return tf.map_fn(of, tf.cast(seeds, tf.int32), fn_output_signature=tf.float32)


def draw(logits: tf.Tensor, uniform: tf.Tensor, drawing: Drawing = AS_IT_IS) -> tf.Tensor:
    """Draw codes `(B,)` from the categorical distribution of `logits`, by inversion.

    Args:
        logits: `(B, K)`.
        uniform: Random number of each row, `(B,)` in [0, 1). With the logits it decides the draw.
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
    reached = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    # Of the sum, because rounding may leave it below 1: no impossible code is ever drawn.
    goal = tf.cast(uniform, logits.dtype)[:, None] * reached[:, -1:]
    return tf.reduce_sum(tf.cast(reached <= goal, tf.int32), axis=-1)


def redraw(
    logits: tf.Tensor,
    codes: tf.Tensor,
    uniform: tf.Tensor,
    others: tf.Tensor,
) -> tf.Tensor:
    """Codes `(A,)` that the noise behind given ones draws from other logits.

    A code is drawn where the sum of its logit and of Gumbel noise is highest. Of the noise behind a
    given code, its highest sum is known to be that of this code. So all other sums lie below.

    Args:
        logits: From which the codes were drawn, `(A, K)`.
        codes: int32 `(A,)`.
        uniform: Random numbers that decide the noise, `(A, K)` in [0, 1).
        others: The other logits, `(A, K)`.

    Reference:
        Maddison, Tarlow and Minka 2014, A* Sampling. Oberst and Sontag 2019, Counterfactual
        Off-Policy Evaluation with Gumbel-Max Structural Causal Models.
    """
    uniform = tf.maximum(tf.cast(uniform, logits.dtype), LEAST_UNIFORM)
    gumbel = -tf.math.log(-tf.math.log(uniform))
    highest = tf.gather(gumbel, codes, batch_dims=1)[:, None]
    behind = -tf.nn.softplus(highest - tf.nn.log_softmax(logits) - gumbel)  # (A, K), below 0
    is_given = tf.one_hot(codes, logits.shape[-1], True, False)
    behind = tf.where(is_given, tf.zeros_like(behind), behind)
    # Last bits of equal logits differ with their place in a batch, and may move nothing.
    moved = tf.round((others - logits) * STEPS) / STEPS
    return tf.argmax(behind + moved, axis=-1, output_type=tf.int32)


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
