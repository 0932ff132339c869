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
LEAST_SCALE = -7.0  # narrower components are no better: this is a quarter of a grey value


def log_likelihood(values: tf.Tensor, parameters: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Log-probability of grey values.

    Args:
        values: Grey values over 255, float32 `(..., 1)` in [0, 1].
        parameters: Float32 `(..., PARAMETERS)`.
        restored: What the means are relative to, float32 `(..., 1)` in [0, 1].

    Returns:
        Natural logarithms, float32 `(...)`.
    """
    background, weights, means, scales = _split(parameters, restored)
    half = 0.5 / GREYS
    upper, lower = (values + half - means) / scales, (values - half - means) / scales
    # The lowest and the highest grey value take the tails, and 0 is the background.
    is_lowest, is_highest = values < 1.5 / GREYS, values > 1 - half
    log_below, log_above = tf.math.log_sigmoid(upper), tf.math.log_sigmoid(-lower)
    mass = tf.sigmoid(upper) - tf.sigmoid(lower)
    # Far out both sigmoids are equal in float32: there the density times the width is near enough.
    middle = (values - means) / scales
    log_density = middle - 2 * tf.math.softplus(middle) - tf.math.log(scales * GREYS)
    log_mass = tf.where(mass > 1e-5, tf.math.log(tf.maximum(mass, 1e-12)), log_density)
    log_mass = tf.where(is_lowest, log_below, tf.where(is_highest, log_above, log_mass))
    log_head = tf.reduce_logsumexp(tf.nn.log_softmax(weights) + log_mass, axis=-1)
    is_background = values[..., 0] < half
    return tf.where(
        is_background,
        tf.math.log_sigmoid(background),
        tf.math.log_sigmoid(-background) + log_head,
    )


def draw_greys(parameters: tf.Tensor, restored: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Draw grey values. A pixel is background where that is likelier than not.

    That alone is not drawn. The pixels of one step would be drawn independently, which frays the
    edge of a brain and leaves single black pixels in it.

    Args:
        parameters: Float32 `(..., PARAMETERS)`.
        restored: What the means are relative to, float32 `(..., 1)` in [0, 1].
        uniforms: Independent random numbers, float32 `(..., 2)` in [0, 1).

    Returns:
        Grey values over 255, float32 `(...)` in [0, 1].
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
    weights, means, scales = tf.split(rest, 3, axis=-1)
    scales = tf.exp(tf.maximum(scales + FIRST_SCALE, LEAST_SCALE))
    return background, weights, restored + 0.1 * means, scales
