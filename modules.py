"""The VQ-VAE: encoder, vector quantizer, decoder.

Images are float32 `(B, S, S, 1)` in [0, 1]; codes are int32 `(B, H, W)` in [0, K) with `H = W = S / R`, R being 8 or 4.

Reference:
    van den Oord et al. 2017, Neural Discrete Representation Learning.
"""

import functools

import keras
import tensorflow as tf
from keras import layers, ops

serializable = keras.saving.register_keras_serializable(package="brain_vqvae")

REDUCTIONS = (8, 4)  # pixels of an image side that share one code


@serializable
class CodebookUsage(keras.metrics.Metric):
    """Codes used and perplexity over everything seen since the last reset: an epoch, not a batch.

    Args:
        codebook_size: number of codes K.

    `result()` gives `{"codes_used": n, "perplexity": p}` with 1 <= p <= n <= K.
    """

    def __init__(self, codebook_size, name="codebook_usage", **kwargs):
        super().__init__(name=name, **kwargs)
        self.codebook_size = codebook_size
        self.counts = self.add_weight(shape=(codebook_size,), initializer="zeros", name="counts", dtype="float32")

    def update_state(self, codes, sample_weight=None):
        codes = ops.reshape(codes, (-1,))
        # a sum of ones over segments is a bincount that XLA can compile
        self.counts.assign_add(ops.segment_sum(ops.ones_like(codes, "float32"), codes, self.codebook_size))

    def result(self):
        probability = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        entropy = -ops.sum(probability * ops.log(ops.maximum(probability, 1e-12)))
        return {"codes_used": ops.sum(ops.cast(self.counts > 0, "float32")), "perplexity": ops.exp(entropy)}

    def get_config(self):
        return {**super().get_config(), "codebook_size": self.codebook_size}


@serializable
class VectorQuantizer(layers.Layer):
    """Nearest-neighbour quantizer whose codebook follows the data by exponential moving average.

    The codebook is no parameter of the optimizer: every training step moves each code towards the mean of
    the vectors assigned to it (van den Oord et al. 2017, appendix A.1, equations 6-8, with Laplace smoothing of
    the counts). A code that had lost its vectors before a step is restarted on a vector of the batch, drawn with probability
    proportional to its squared error (k-means++, Arthur and Vassilvitskii 2007); since every code is without
    vectors before the first step, the same rule starts the codebook from data. Works in float32 whatever the policy.

    Args:
        codebook_size: number of codes K, at least 2.
        code_dim: dimension D of a code.
        decay: of the moving averages.
        commitment_weight: beta of equation 3.
        restart_below: a code whose moving count was below this fraction of an even share is restarted.
        seed: of the restarts.

    Call: latents `(B, H, W, D)` -> quantized latents of the same shape, with a straight-through gradient.
    """

    def __init__(self, codebook_size, code_dim, decay=0.99, commitment_weight=0.25, restart_below=0.05, seed=0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if codebook_size < 2:
            raise ValueError(f"`codebook_size` must be at least 2. Received: codebook_size={codebook_size}")
        self.codebook_size, self.code_dim, self.decay = codebook_size, code_dim, decay
        self.commitment_weight, self.restart_below, self.seed = commitment_weight, restart_below, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.usage = CodebookUsage(codebook_size)

    def build(self, input_shape):
        def state(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

        table = (self.codebook_size, self.code_dim)
        self.codebook = state("codebook", table, keras.initializers.RandomNormal(stddev=0.02, seed=self.seed))
        self.counts = state("counts", (self.codebook_size,), "zeros")
        self.sums = state("sums", table, "zeros")
        self.error = state("error", (), "ones")  # moving mean of the squared distance to the nearest code

    def distances(self, latents):
        """Squared distance of each vector to each code, `(..., D)` -> `(..., K)`, less |z|^2, which is the same for every code.

        In units of the mean squared distance to the nearest code in training.
        """
        products = ops.matmul(latents, ops.transpose(self.codebook))
        return (ops.sum(self.codebook**2, axis=-1) - 2 * products) / self.error

    def codes(self, latents):
        """Index of the nearest code of each vector: `(..., D)` -> int32 `(...)`."""
        # |c|^2 - 2 z.c as one product, [z, 1].[-2c, |c|^2], because every further pass over (..., K) costs as much as the product does
        vectors = ops.concatenate([latents, ops.ones_like(latents[..., :1])], axis=-1)
        table = ops.concatenate([-2 * self.codebook, ops.sum(self.codebook**2, axis=-1, keepdims=True)], axis=-1)
        return tf.argmin(ops.matmul(vectors, ops.transpose(table)), axis=-1, output_type=tf.int32)

    def embed(self, codes):
        """Vectors of codes, the inverse of `codes`: int32 `(...)` -> float32 `(..., D)`."""
        return ops.take(self.codebook, codes, axis=0)

    def call(self, latents, training=False):
        codes = self.codes(latents)
        embeddings = self.embed(codes)
        self.usage.update_state(codes)
        if training:
            self._follow(ops.stop_gradient(latents), codes, ops.stop_gradient(embeddings))
        self._losses.clear()  # replicas of one process are threads that share this list, and take turns where they sum
        self.add_loss(self.commitment_weight * ops.mean((latents - ops.stop_gradient(embeddings)) ** 2))
        return latents + ops.stop_gradient(embeddings - latents)

    def _follow(self, latents, codes, embeddings):
        """Move the codebook towards the vectors assigned to it, and restart the codes that lost theirs.

        On several replicas N, n and m are of the vectors of all of them, and so are the draws; each replica then moves its own copy
        of the codebook, by the same numbers.
        """
        context = tf.distribute.get_replica_context()
        replicas, replica = context.num_replicas_in_sync, context.replica_id_in_sync_group
        vectors = ops.reshape(latents, (-1, self.code_dim))  # (N / replicas, D)
        own = ops.shape(vectors)[0]
        errors = ops.sum((vectors - ops.reshape(embeddings, (-1, self.code_dim))) ** 2, axis=-1)  # (N / replicas,)
        codes = ops.reshape(codes, (-1,))  # (N / replicas,)
        n = ops.segment_sum(ops.ones_like(errors), codes, self.codebook_size)  # (K,)
        m = ops.segment_sum(vectors, codes, self.codebook_size)  # (K, D)

        # Gumbel top-k: K draws from the batch without replacement, with probability proportional to the error
        noise = keras.random.uniform((replicas * own,), 1e-6, 1 - 1e-6, seed=self.seed_generator)
        keys = ops.log(errors + 1e-12) - ops.log(-ops.log(noise[replica * own : (replica + 1) * own]))
        best = tf.math.top_k(keys, tf.minimum(self.codebook_size, own)).indices  # those of all replicas are among the best of each
        proposals = ops.concatenate([ops.take(keys, best)[:, None], ops.take(vectors, best, axis=0)], axis=-1)  # (K or less, 1 + D)
        proposals = tf.one_hot(replica, replicas)[:, None, None] * proposals  # (replicas, K or less, 1 + D), a place for each
        n, m, proposals, error = context.all_reduce("sum", [n, m, proposals, ops.mean(errors)])
        counts = self.decay * self.counts + (1 - self.decay) * n
        sums = self.decay * self.sums + (1 - self.decay) * m

        even_share = ops.cast(replicas * own, "float32") / self.codebook_size
        dead = self.counts < self.restart_below * even_share  # (K,)
        proposals = ops.reshape(proposals, (-1, 1 + self.code_dim))
        draws = tf.math.top_k(proposals[:, 0], tf.minimum(self.codebook_size, tf.shape(proposals)[0])).indices
        # a batch may hold fewer vectors than there are codes
        draws = ops.take(draws, ops.arange(self.codebook_size) % ops.shape(draws)[0], axis=0)
        counts = ops.where(dead, even_share, counts)
        sums = ops.where(dead[:, None], even_share * ops.take(proposals[:, 1:], draws, axis=0), sums)

        total = ops.sum(counts)
        smoothed = (counts + 1e-5) / (total + self.codebook_size * 1e-5) * total
        self.counts.assign(counts)
        self.sums.assign(sums)
        self.codebook.assign(sums / smoothed[:, None])
        self.error.assign(self.decay * self.error + (1 - self.decay) * error / replicas)

    def get_config(self):
        names = ("codebook_size", "code_dim", "decay", "commitment_weight", "restart_below", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _tools(dtype):
    """Convolution and residual block that carry their precision policy, so that a reload needs no global one."""
    conv = functools.partial(layers.Conv2D, padding="same", dtype=dtype)

    def residual(x, mixes):
        width = x.shape[-1]
        for _ in range(mixes):
            h = conv(width, 3)(layers.Activation("relu", dtype=dtype)(x))
            h = conv(width, 1, kernel_initializer="zeros")(layers.Activation("relu", dtype=dtype)(h))
            x = layers.Add(dtype=dtype)([x, h])
        return x

    return conv, residual


def encoder(image_size, reduction, width, blocks, code_dim, dtype=None):
    """Images `(B, S, S, 1)` -> latents `(B, S/R, S/R, D)`: a stride of 4, then one of 2 where R is 8."""
    conv, residual = _tools(dtype)
    halving = reduction // 4
    images = keras.Input((image_size, image_size, 1))
    x = conv(width // halving, 8, strides=4)(images)  # (B, S/4, S/4, 4 C/R)
    x = residual(x, blocks[0])
    if halving > 1:
        x = conv(width, 4, strides=2)(x)
    x = residual(x, blocks[1])  # (B, S/R, S/R, C)
    return keras.Model(images, conv(code_dim, 1, dtype="float32")(x), name="encoder")


def decoder(image_size, reduction, width, blocks, code_dim, dtype=None):
    """Quantized latents `(B, S/R, S/R, D)` -> images `(B, S, S, 1)`, float32, not clipped."""
    conv, residual = _tools(dtype)
    grid, halving = image_size // reduction, reduction // 4
    latents = keras.Input((grid, grid, code_dim))
    x = residual(conv(width, 3)(latents), blocks[0])  # (B, S/R, S/R, C)
    if halving > 1:
        x = depth_to_space(conv(2 * width, 1)(x), 2, dtype)
    x = residual(x, blocks[1])  # (B, S/4, S/4, 4 C/R)
    x = conv(16, 5)(layers.Activation("relu", dtype=dtype)(x))  # a 4 x 4 patch of pixels at each place
    return keras.Model(latents, depth_to_space(x, 4, "float32"), name="decoder")


@serializable
class DepthToSpace(layers.Layer):
    """`(B, H, W, block^2 C)` -> `(B, block H, block W, C)`."""

    def __init__(self, block, **kwargs):
        super().__init__(**kwargs)
        self.block = block

    def call(self, x):
        return tf.nn.depth_to_space(x, self.block)

    def get_config(self):
        return {**super().get_config(), "block": self.block}


def depth_to_space(x, block, dtype):
    return DepthToSpace(block, dtype=dtype)(x)


@serializable
class VQVAE(keras.Model):
    """Vector-quantized variational autoencoder of van den Oord et al. 2017.

    Args:
        image_size: pixels S of an image side, a multiple of the reduction.
        codebook_size: number of codes K.
        code_dim: dimension D of a code.
        width: channels C where the codes are, an even number; half as many at S/4 if that is not there.
        reduction: pixels R of an image side that share one code, 8 or 4.
        encoder_blocks: residual blocks at S/4 and at S/R.
        decoder_blocks: residual blocks at S/R and at S/4.
        seed: of the codebook's start and restarts.

    Raises:
        ValueError: `reduction` is neither 8 nor 4, `image_size` no positive multiple of it, or `codebook_size` below 2.
    """

    def __init__(self, image_size, codebook_size=512, code_dim=16, width=128, reduction=8, encoder_blocks=(2, 2), decoder_blocks=(4, 3),
                 seed=0, **kwargs):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS:
            raise ValueError(f"`reduction` must be one of {REDUCTIONS}. Received: reduction={reduction}")
        if image_size < reduction or image_size % reduction:
            raise ValueError(f"`image_size` must be a positive multiple of {reduction}. Received: image_size={image_size}")
        self.settings = dict(image_size=image_size, codebook_size=codebook_size, code_dim=code_dim, width=width, reduction=reduction,
                             encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks, seed=seed)
        self.encoder = encoder(image_size, reduction, width, encoder_blocks, code_dim, self.dtype_policy)
        self.quantizer = VectorQuantizer(codebook_size, code_dim, seed=seed)
        self.decoder = decoder(image_size, reduction, width, decoder_blocks, code_dim, self.dtype_policy)
        self.quantizer.build(self.encoder.output_shape)
        self.built = True

    def call(self, images, training=False):
        return self.decoder(self.quantizer(self.encoder(images), training=training))

    @tf.function
    def encode(self, images):
        """Images `(B, S, S, 1)` in [0, 1] -> codes, int32 `(B, S/R, S/R)`."""
        return self.quantizer.codes(self.encoder(images))

    @tf.function
    def distances(self, images):
        """Images `(B, S, S, 1)` in [0, 1] -> distances to all codes, float32 `(B, S/R, S/R, K)`, see `VectorQuantizer.distances`."""
        return self.quantizer.distances(self.encoder(images))

    @tf.function
    def decode(self, codes):
        """Codes, int32 `(B, S/R, S/R)` -> images `(B, S, S, 1)`, clipped to [0, 1]; `encode`'s inverse up to the codes."""
        return ops.clip(self.decoder(self.quantizer.embed(codes)), 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), **self.settings}
