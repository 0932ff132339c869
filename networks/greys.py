"""Grey values as a random variable: a background that is exactly 0, and a mixture of logistics.

Reference:
    Salimans et al. 2017, PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
    Likelihood and Other Modifications, section 2.1.
"""

import math

import tensorflow as tf

COMPONENTS = 3
PARAMETERS = 1 + 3 * COMPONENTS  # of a pixel: logit of the background; weight, mean, log scale
GREYS = 255  # steps from black to white
FIRST_SCALE = math.log(0.03)  # log scale before any training, in units of the grey range
# Narrower components are no better than a quarter of a grey value. Of wider ones than seven grey
# ranges, float32 could not tell the probability of a single grey value.
LOG_SCALES = -7.0, 2.0


def log_likelihood(values: tf.Tensor, parameters: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Log-probability of grey values in nats, `(...)`. The lowest and the highest take the tails.

    Args:
        values: Grey values over 255, float32 `(..., 1)` in [0, 1].
        parameters: Float32 `(..., PARAMETERS)`.
        restored: What the means are relative to, float32 `(..., 1)` in [0, 1].
    """
    # It loads for a second, which the first stage of a training does without.
    from tensorflow_probability import distributions  # noqa: PLC0415

    background, weights, means, scales = _split(parameters, restored)
    # A quantized distribution rounds up, hence the half.
    logistic = distributions.Logistic(GREYS * means - 0.5, GREYS * scales)
    brain = distributions.MixtureSameFamily(
        distributions.Categorical(logits=weights),
        distributions.QuantizedDistribution(logistic, low=1.0, high=GREYS),
    )
    greys = tf.round(GREYS * values[..., 0])
    return tf.where(
        greys == 0,
        tf.math.log_sigmoid(background),
        tf.math.log_sigmoid(-background) + brain.log_prob(tf.maximum(greys, 1.0)),
    )


def draw_greys(parameters: tf.Tensor, restored: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Draw grey values over 255, `(...)`. A pixel is background where that is likelier than not.

    That alone is not drawn. The pixels of one step would be drawn independently, which frays the
    edge of a brain and leaves single black pixels in it.

    Args:
        parameters: Float32 `(..., PARAMETERS)`.
        restored: What the means are relative to, float32 `(..., 1)` in [0, 1].
        uniforms: Independent random numbers, float32 `(..., 2)` in [0, 1).
    """
    background, weights, means, scales = _split(parameters, restored)
    first, second = tf.unstack(uniforms, axis=-1)
    reached = tf.cumsum(tf.nn.softmax(weights), axis=-1) < first[..., None]
    chosen = tf.one_hot(tf.reduce_sum(tf.cast(reached[..., :-1], tf.int32), axis=-1), COMPONENTS)
    mean, scale = (tf.reduce_sum(chosen * part, axis=-1) for part in (means, scales))
    second = tf.clip_by_value(second, 1e-6, 1 - 1e-6)
    values = mean + scale * (tf.math.log(second) - tf.math.log1p(-second))
    greys = tf.clip_by_value(tf.round(values * GREYS), 1, GREYS)
    return tf.where(background > 0, 0.0, greys / GREYS)


def _split(parameters, restored):
    """Logit of the background `(...)`; weights, means and scales `(..., COMPONENTS)`."""
    background, rest = parameters[..., 0], parameters[..., 1:]
    weights, means, log_scales = tf.split(rest, 3, axis=-1)
    scales = tf.exp(tf.clip_by_value(log_scales + FIRST_SCALE, *LOG_SCALES))
    return background, weights, restored + 0.1 * means, scales
