"""The texture: the fine grain that codes lose, drawn given a reconstruction.

References:
    Reed et al. 2017, Parallel Multiscale Autoregressive Density Estimation: many pixels a step.
    Salimans et al. 2017, PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
    Likelihood and Other Modifications, section 2.1: the distribution of a grey value.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from networks import check_range, graph_function, replicas, serializable
from networks.frames import check_frame, cut, fill
from networks.layers import convolution, full_precision

# ---- grey values -------------------------------------------------------------------------------

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


# ---- the network -------------------------------------------------------------------------------

FIRST_KEY = 10**6  # of the random numbers; the keys of codes are their places, which are fewer
PATCH = 4  # pixels of a side of the patches of which each step draws one pixel


def coarse_to_fine(side: int) -> list[tuple[int, int]]:
    """Places (y, x) of a patch in the order in which they are drawn: far apart before close by."""
    if side == 1:
        return [(0, 0)]
    coarser = [(2 * y, 2 * x) for y, x in coarse_to_fine(side // 2)]
    return [(y + dy, x + dx) for dy, dx in ((0, 0), (1, 1), (0, 1), (1, 0)) for y, x in coarser]


ORDER = coarse_to_fine(PATCH)
STEPS = len(ORDER)


def _is_drawn_before(step):
    """1 for each pixel of a patch that is drawn before this step, and else 0.

    The patch begins with the pixel that is drawn in this step.
    """
    number = {place: number for number, place in enumerate(ORDER)}
    top, left = ORDER[step]
    places = [((top + y) % PATCH, (left + x) % PATCH) for y in range(PATCH) for x in range(PATCH)]
    return [float(number[place] < step) for place in places]


@serializable
class Texture(keras.Model):
    """p(slice | reconstruction, slice below), in steps of one pixel of every 4 x 4 patch.

    The pixels of a step are independent, given the reconstruction, the slice below, and all pixels
    of the steps before. For each step the frame is cut into patches that begin with the pixel that
    is drawn. So a channel always holds the pixel in the same direction from it.

    Call: `{"images", "restored", "below": (B, h, w, 1) in [0, 1], "has_below", "step": int32
    (B,)}` -> bits of the pixels of that step, float32 `(B, h / 4, w / 4)`. All are frames.

    Args:
        image_size: Pixels S of a side of a slice.
        frame: As in `VQVAE`.
        width: Channels C.
        blocks: Number of residual blocks.
        vqvae: Fingerprint of the VQ-VAE whose reconstructions it knows. Networks ignore it. Loading
            compares it.
    """

    def __init__(
        self,
        image_size: int,
        frame: Sequence[int],
        width: int = 64,
        blocks: int = 4,
        vqvae: str = "",
        **kwargs,
    ):
        # Grey values would not be the same in half precision.
        super().__init__(**{**kwargs, "autocast": False})
        self.settings = dict(
            image_size=image_size, frame=list(frame), width=width, blocks=blocks, vqvae=vqvae
        )
        check_range("image_size", image_size, int, PATCH, 2048)
        check_range("width", width, int, 2, 1024)
        check_range("blocks", blocks, int, 1, 64)
        check_frame(frame, image_size, PATCH)
        top, left, bottom, right = frame
        policy = self.dtype_policy
        conv = convolution(policy)
        self.head = conv(width, 3)
        self.inner = [conv(width, 3) for _ in range(blocks)]
        self.outer = [conv(width, 1, kernel_initializer="zeros") for _ in range(blocks)]
        zeros = {"embeddings_initializer": "zeros", "dtype": policy}
        self.of_step = layers.Embedding(STEPS, (blocks + 1) * width, **zeros)
        self.of_below = layers.Embedding(2, width, **zeros)
        self.out = layers.Dense(
            PARAMETERS, kernel_initializer="zeros", dtype=full_precision(policy)
        )
        places = (None, (bottom - top) // PATCH, (right - left) // PATCH)
        self.head.build((*places, 4 * STEPS))
        for layer in (*self.inner, *self.outer, self.out):
            layer.build((*places, width))
        for layer in (self.of_step, self.of_below):
            layer.build((None,))
        shape = (*places[1:], width)
        self.positions = self.add_weight(shape=shape, initializer="zeros", name="positions")
        self.built = True

    def call(self, inputs, training=False):
        step = inputs["step"]
        images, restored, below = (
            _patches_from(inputs[name], step) for name in ("images", "restored", "below")
        )
        parameters = self._parameters(images, restored, below, inputs["has_below"], step)
        nats = log_likelihood(images[..., :1], parameters, restored[..., :1])
        return -nats / math.log(2)

    def _parameters(self, images, restored, below, has_below, step):
        """Distribution of the first pixel of all patches: `(B, H, W, PARAMETERS)`."""
        is_known = tf.constant([_is_drawn_before(number) for number in range(STEPS)])
        is_known = tf.gather(is_known, step)[:, None, None]
        # Differences from a reconstruction are small beside a grey value.
        detail = 10.0 * (images - restored) * is_known
        is_black = is_known * tf.cast(images == 0, "float32")
        detail_below = 10.0 * (below - restored)
        detail_below *= tf.cast(has_below, tf.float32)[:, None, None, None]
        x = tf.concat([restored, detail, is_black, detail_below], axis=-1)
        of_step = self.of_step(step)[:, None, None]
        conditions = ops.split(of_step, len(self.inner) + 1, axis=-1)
        x = self.head(ops.cast(x, self.compute_dtype)) + conditions[0]
        x = x + self.of_below(has_below)[:, None, None] + ops.cast(self.positions, x.dtype)
        for inner, outer, condition in zip(self.inner, self.outer, conditions[1:]):
            x = x + outer(ops.relu(inner(ops.relu(x)) + condition))
        return self.out(ops.relu(x))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean bits a pixel."""
        return replicas.share_of_loss(ops.mean(y_pred))

    @graph_function
    def bits(
        self, images: tf.Tensor, restored: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Mean bits a pixel of the frame, float32 `(B,)`.

        Args:
            images: Slices `(B, S, S, 1)` in [0, 1], of 8-bit grey values.
            restored: Their reconstructions, of 8-bit grey values too.
            below: Slices below them, or None.
        """
        batch, frame = tf.shape(images)[0], self.settings["frame"]
        inputs = {
            "images": cut(images, frame),
            "restored": cut(restored, frame),
            "below": cut(restored if below is None else below, frame),
            "has_below": tf.fill((batch,), 0 if below is None else 1),
        }

        def bits_of(step):
            return self({**inputs, "step": tf.fill((batch,), step)})

        steps = tf.map_fn(bits_of, tf.range(STEPS), fn_output_signature=tf.float32)
        return tf.reduce_mean(steps, axis=(0, 2, 3))

    @graph_function
    def draw(
        self, restored: tf.Tensor, seeds: tf.Tensor, below: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Draw slices of 8-bit grey values, float32 `(B, S, S, 1)` in [0, 1].

        Args:
            restored: Reconstructions `(B, S, S, 1)` in [0, 1].
            seeds: int32 `(B,)`, or one for all. With the reconstruction it decides the slice,
                whatever else is in the batch.
            below: Slices below, `(B, S, S, 1)`, or None.
        """
        place = self.settings["frame"]
        frames = tf.round(cut(restored, place) * 255) / 255
        seeds = tf.broadcast_to(tf.cast(seeds, tf.int32), tf.shape(frames)[:1])
        has_below = tf.constant([int(below is not None)])
        lower = frames if below is None else cut(below, place)
        channels = tf.constant([top * PATCH + left for top, left in ORDER])

        def draw_one(inputs):  # one by one, because last bits of sums depend on the batch size
            frame, seed, frame_below = inputs
            frame, frame_below = frame[None], frame_below[None]

            def draw_step(step, drawn):
                steps = step[None]
                parts = [_patches_from(x, steps) for x in (drawn, frame, frame_below)]
                parameters = self._parameters(*parts, has_below, steps)
                shape = (*parameters.shape[:-1], 2)
                uniforms = tf.random.stateless_uniform(shape, tf.stack([seed, FIRST_KEY + step]))
                pixels = draw_greys(parameters, parts[1][..., :1], uniforms)
                spread = pixels[..., None] * tf.one_hot(channels[step], STEPS)
                return step + 1, drawn + tf.nn.depth_to_space(spread, PATCH)

            first = (tf.constant(0), tf.zeros_like(frame))
            return tf.while_loop(lambda step, _: step < STEPS, draw_step, first)[1][0]

        drawn = tf.map_fn(draw_one, (frames, seeds, lower), fn_output_signature=tf.float32)
        return fill(drawn, place, self.settings["image_size"])

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, **self.settings}


def _patches_from(frames, step):
    """Patches `(B, h / 4, w / 4, 16)` of frames that begin at the pixel of a step; 0 comes in."""
    height, width = frames.shape[1:3]
    padded = tf.pad(frames, [[0, 0], [0, PATCH], [0, PATCH], [0, 0]])
    start = tf.gather(tf.constant(np.array(ORDER, "int32")), step)  # (B, 2)
    rows = tf.gather(padded, start[:, :1] + tf.range(height), axis=1, batch_dims=1)
    moved = tf.gather(rows, start[:, 1:] + tf.range(width), axis=2, batch_dims=1)
    return tf.nn.space_to_depth(moved, PATCH)
