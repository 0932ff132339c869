"""The vector quantizer: a codebook that follows its data, and how much of it is in use.

Reference:
    van den Oord et al. 2017, Neural Discrete Representation Learning.
"""

import functools

import keras
import tensorflow as tf
from keras import layers, ops

from networks import check_range, replicas
from networks.layers import full_precision


class CodebookUsage(keras.metrics.Metric):
    """Codes used and perplexity over everything seen since the last reset: an epoch, not a batch.

    `result()` gives `{"codes_used": n, "perplexity": p}` with 1 <= p <= n <= K.

    Args:
        codebook_size: Number of codes K.
    """

    def __init__(self, codebook_size: int, name: str = "codebook_usage", **kwargs):
        super().__init__(name=name, **kwargs)
        self.codebook_size = codebook_size
        self.counts = self.add_weight(
            shape=(codebook_size,), initializer="zeros", name="counts", dtype="float32"
        )

    def update_state(self, codes, sample_weight=None):
        codes = ops.reshape(codes, (-1,))
        # A sum of ones over segments is a bincount that XLA can compile.
        ones = ops.ones_like(codes, "float32")
        self.counts.assign_add(ops.segment_sum(ones, codes, self.codebook_size))

    def result(self):
        probability = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        entropy = -ops.sum(probability * ops.log(ops.maximum(probability, 1e-12)))
        used = ops.sum(ops.cast(self.counts > 0, "float32"))
        return {"codes_used": used, "perplexity": ops.exp(entropy)}


class VectorQuantizer(layers.Layer):
    """Nearest-neighbour quantizer whose codebook follows the data by exponential moving average.

    The optimizer does not train the codebook. Every training step moves each code towards the
    mean of the vectors assigned to it (van den Oord et al. 2017, appendix A.1, equations 6-8). A
    code that has lost its vectors restarts on a vector of the batch, drawn with probability
    proportional to its squared error (k-means++, Arthur and Vassilvitskii 2007). No code has
    vectors before the first step, so the same rule starts the codebook from data. After t steps the
    counts of vectors remember about the last 1 + t / 10 steps, and 100 at most: vectors move fast
    at first, and a small set gives few steps. The layer works in `full_precision` under any policy.

    Call: latents `(B, H, W, D)` -> quantized latents of the same shape, with a straight-through
    gradient. The commitment loss, beta times the mean squared distance (equation 3), is added.

    Args:
        codebook_size: Number of codes K, from 2 to 65,536.
        code_dim: Dimension D of a code.
        seed: Seed of the start and the restarts.

    Raises:
        ValueError: `codebook_size` is out of range.
    """

    DECAY = 0.99  # of the moving averages; that of the counts is less before their memory is full
    GROWTH = 0.1  # steps by which this memory grows at each step, up to 1 / (1 - DECAY)
    COMMITMENT_WEIGHT = 0.25  # beta
    RESTART_BELOW = 0.05  # share of an even count below which a code restarts

    def __init__(self, codebook_size: int, code_dim: int, seed: int = 0, **kwargs):
        super().__init__(**{**kwargs, "dtype": full_precision(kwargs.get("dtype"))})
        check_range("codebook_size", codebook_size, int, 2, 2**16)
        self.codebook_size, self.code_dim, self.seed = codebook_size, code_dim, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.usage = CodebookUsage(codebook_size)

    def build(self, input_shape):
        state = functools.partial(self.add_weight, trainable=False)
        table = (self.codebook_size, self.code_dim)
        normal = keras.initializers.RandomNormal(stddev=0.02, seed=self.seed)
        self.codebook = state(name="codebook", shape=table, initializer=normal)
        self.counts = state(name="counts", shape=table[:1], initializer="zeros")
        self.sums = state(name="sums", shape=table, initializer="zeros")
        # Moving mean of the squared distance to the nearest code.
        self.error = state(name="error", shape=(), initializer="ones")

    def distances(self, latents: tf.Tensor) -> tf.Tensor:
        """Squared distance of vectors to each code, less |z|^2: float32 `(..., D)` -> `(..., K)`.

        It may be negative, because |z|^2, which all codes share, is left out. Its unit is the mean
        squared distance to the nearest code in training.
        """
        products = ops.matmul(latents, ops.transpose(self.codebook))
        return (ops.sum(self.codebook**2, axis=-1) - 2 * products) / self.error

    def codes(self, latents: tf.Tensor) -> tf.Tensor:
        """Index of the nearest code of each vector: `(..., D)` -> int32 `(...)`."""
        # |c|^2 - 2 z.c as one product, [z, 1].[-2c, |c|^2]: every further pass over (..., K)
        # costs as much as the product does.
        vectors = ops.concatenate([latents, ops.ones_like(latents[..., :1])], axis=-1)
        squares = ops.sum(self.codebook**2, axis=-1, keepdims=True)
        table = ops.concatenate([-2 * self.codebook, squares], axis=-1)
        distances = ops.matmul(vectors, ops.transpose(table))
        return tf.argmin(distances, axis=-1, output_type=tf.int32)

    def embed(self, codes: tf.Tensor) -> tf.Tensor:
        """Vectors of codes, the inverse of `codes`: int32 `(...)` -> float32 `(..., D)`."""
        return ops.take(self.codebook, codes, axis=0)

    def call(self, latents, training=False):
        codes = self.codes(latents)
        embeddings = self.embed(codes)
        self.usage.update_state(codes)
        if training:
            self._update_codebook(ops.stop_gradient(latents), codes, ops.stop_gradient(embeddings))
        # Replicas of one process are threads that share this list and take turns.
        self._losses.clear()
        error = ops.mean((latents - ops.stop_gradient(embeddings)) ** 2)
        self.add_loss(self.COMMITMENT_WEIGHT * error)
        return latents + ops.stop_gradient(embeddings - latents)

    def _update_codebook(self, latents, codes, embeddings):
        """Move the codebook towards its vectors, and restart the codes that lost theirs.

        On several replicas the sums run over the vectors of all of them, and so do the draws.
        Each replica then moves its own copy of the codebook by the same numbers.
        """
        codes = ops.reshape(codes, (-1,))  # (N,)
        vectors, embeddings = (
            ops.reshape(values, (-1, self.code_dim)) for values in (latents, embeddings)
        )
        errors = ops.sum((vectors - embeddings) ** 2, axis=-1)  # (N,)
        counts, sums, error = replicas.total(
            ops.segment_sum(ops.ones_like(errors), codes, self.codebook_size),  # (K,)
            ops.segment_sum(vectors, codes, self.codebook_size),  # (K, D)
            ops.mean(errors),
        )
        # The counts add up to the vectors of a step times the share of the memory that is filled.
        size = ops.cast(replicas.count() * ops.shape(vectors)[0], "float32")
        newest, before = 1 - self.DECAY, ops.sum(self.counts) / size
        filled = ops.clip(before + self.GROWTH * newest, newest, 1.0)
        kept = (filled - newest) / ops.maximum(before, newest)
        usage = kept * self.counts + newest * counts
        error = self.error + newest / filled * (error / replicas.count() - self.error)

        step = newest * filled / ops.maximum(usage, 1e-12)  # (K,), as with a full memory
        codebook = self.codebook + step[:, None] * (sums - counts[:, None] * self.codebook)
        even_share = size / self.codebook_size
        is_dead = self.counts < self.RESTART_BELOW * before * even_share  # (K,)
        is_dead = ops.logical_or(is_dead, before == 0)
        codebook = ops.where(is_dead[:, None], self._draw_restarts(vectors, errors), codebook)
        usage = ops.where(is_dead, filled * even_share, usage)
        usage = usage * (filled * size / ops.sum(usage))
        self.counts.assign(usage)
        self.sums.assign(usage[:, None] * codebook)
        self.codebook.assign(codebook)
        self.error.assign(error)

    def _draw_restarts(self, vectors, errors):
        """K vectors of the batch, without replacement and with probability as their error: (K, D).

        Gumbel top-k draws so. A batch may hold fewer vectors than there are codes: then they
        repeat.
        """
        size = replicas.count() * ops.shape(vectors)[0]
        noise = keras.random.uniform((size,), 1e-6, 1 - 1e-6, seed=self.seed_generator)
        keys = ops.log(errors + 1e-12) - ops.log(-ops.log(_own_share(noise)))
        best = _highest(keys, vectors, self.codebook_size)
        return ops.take(best, ops.arange(self.codebook_size) % ops.shape(best)[0], axis=0)


def _own_share(values):
    """This replica's share `(N, ...)` of values `(replicas N, ...)` that all replicas know."""
    context = tf.distribute.get_replica_context()
    size = tf.shape(values)[0] // context.num_replicas_in_sync
    first = context.replica_id_in_sync_group * size
    return values[first : first + size]


def _highest(keys, vectors, most):
    """Up to `most` vectors `(N, D)` with the highest keys `(N,)` of all replicas, in this order."""
    context = tf.distribute.get_replica_context()
    highest = tf.math.top_k(keys, tf.minimum(most, tf.shape(keys)[0])).indices
    rows = tf.concat([ops.take(keys, highest)[:, None], ops.take(vectors, highest, axis=0)], -1)
    # The rows of other replicas are 0, so their sum puts those of all replicas side by side.
    place = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    (rows,) = replicas.total(place[:, None, None] * rows)  # (replicas, most or fewer, 1 + D)
    rows = tf.reshape(rows, (-1, rows.shape[-1]))
    highest = tf.math.top_k(rows[:, 0], tf.minimum(most, tf.shape(rows)[0])).indices
    return ops.take(rows[:, 1:], highest, axis=0)
