"""Two rivals in Keras: the tutorial at keras.io, and the best published design for OASIS slices.

Both have a VQ-VAE with an encoder, a codebook and a decoder, and a PixelCNN without gates. They see
whole slices in float32, with the sizes, losses and learning rates that were published. Each is
written anew from its description. Kernels are masked where they are used.

References:
    S. Paul 2021, Vector-Quantized Variational Autoencoders,
    https://keras.io/examples/generative/vq_vae.
    T. Moghaddam 2021, Generative Model of OASIS Brain Data using a VQVAE, report s4434829 in
    https://github.com/shakes76/PatternFlow (pull request 336).
    van den Oord et al. 2016, Pixel Recurrent Neural Networks (the PixelCNN of both).
"""

import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from contenders.contender import Contender, in_batches, shuffled
from fitting.devices import restart_keras, use_precision
from networks.logits import bits
from sources.images import to_grey, to_unit
from utils import progress

PRIOR_WIDTH, RESIDUAL_BLOCKS = 128, 2
REACH = 3 + RESIDUAL_BLOCKS  # rows above that the PixelCNN sees


class OneHotQuantizer(layers.Layer):
    """Quantizer of https://keras.io/examples/generative/vq_vae, in float32 like ours.

    Args:
        codebook_size: Number of codes K.
        code_dim: Dimensions D of a code.

    Call: latents `(..., D)` -> the nearest codes' embeddings, of the same shape.
    """

    def __init__(self, codebook_size: int, code_dim: int):
        super().__init__(dtype="float32")
        self.codebook_size, self.code_dim = codebook_size, code_dim

    def build(self, input_shape):
        shape = (self.code_dim, self.codebook_size)
        self.codebook = self.add_weight(shape=shape, initializer="random_uniform", name="codebook")

    def codes(self, latents: tf.Tensor) -> tf.Tensor:
        """Latents `(..., D)` -> nearest codes `(...)`."""
        vectors = tf.reshape(latents, (-1, self.code_dim))
        norms = tf.reduce_sum(vectors**2, 1, keepdims=True) + tf.reduce_sum(self.codebook**2, 0)
        distances = norms - 2 * tf.matmul(vectors, self.codebook)
        return tf.reshape(tf.argmin(distances, 1), tf.shape(latents)[:-1])

    def embed(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes `(...)` -> embeddings `(..., D)`."""
        chosen = tf.one_hot(tf.reshape(codes, (-1,)), self.codebook_size)
        embeddings = tf.matmul(chosen, self.codebook, transpose_b=True)
        return tf.reshape(embeddings, tf.concat([tf.shape(codes), [self.code_dim]], 0))

    def call(self, latents):
        embeddings = tf.ensure_shape(self.embed(self.codes(latents)), latents.shape)
        self.add_loss(0.25 * tf.reduce_mean((tf.stop_gradient(embeddings) - latents) ** 2))
        self.add_loss(tf.reduce_mean((embeddings - tf.stop_gradient(latents)) ** 2))
        return latents + tf.stop_gradient(embeddings - latents)


class MaskedConv2D(layers.Conv2D):
    """Convolution that sees earlier places in raster order: mask A, or with `own` mask B."""

    def __init__(self, filters: int, kernel_size: int, own: bool, **options):
        super().__init__(filters, kernel_size, padding="same", **options)
        places, middle = kernel_size**2, kernel_size**2 // 2
        seen = np.arange(places) < middle + own
        self.seen = seen.reshape(kernel_size, kernel_size, 1, 1).astype("float32")

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel * self.seen)


def pixelcnn(codebook_size: int, last_layers: int) -> keras.Model:
    """Codes `(B, H, W)` of any size -> logits `(B, H, W, K)`.

    Args:
        codebook_size: Number of codes K.
        last_layers: Number of 1 x 1 convolutions before the logits.
    """
    width, relu = PRIOR_WIDTH, {"activation": "relu"}
    codes = keras.Input((None, None), dtype="int32")
    x = MaskedConv2D(width, 7, own=False, **relu)(ops.one_hot(codes, codebook_size))
    for _ in range(RESIDUAL_BLOCKS):
        inner = layers.Conv2D(width, 1, **relu)(x)
        inner = MaskedConv2D(width // 2, 3, own=True, **relu)(inner)
        x = x + layers.Conv2D(width, 1, **relu)(inner)
    for _ in range(last_layers):
        x = layers.Conv2D(width, 1, **relu)(x)
    return keras.Model(codes, layers.Conv2D(codebook_size, 1)(x))


def stepper(model: keras.Model, batches: Iterator) -> Callable[[], float]:
    """Make the function that takes a compiled model's next step and returns its loss.

    Batches are pairs of inputs and targets.
    """
    step = tf.function(lambda inputs, targets: model.train_step((inputs, targets))["loss"])

    def take():
        model.reset_metrics()  # so that the loss is that of this step alone
        return float(step(*next(batches)))

    return take


class KerasRival(Contender):
    """What both rivals share.

    A subclass says what differs. Its `encoder` and `decoder` return the layers from images to
    latents, and from embeddings to images.
    """

    code_dim: int  # dimensions D of a code
    lowest: float  # what the grey value 0 becomes; 255 becomes 1 more
    batch_sizes: dict[str, int]
    learning_rates: dict[str, float]
    last_layers: int  # of the prior, before its logits

    def start(self, stage):
        model, loss, examples = self._vqvae() if stage == "vqvae" else self._prior()
        optimizer = keras.optimizers.Adam(self.learning_rates[stage])
        model.compile(optimizer, loss)
        optimizer.build(model.trainable_variables)
        self.models[stage] = model
        orders = shuffled(len(examples), self.batch_sizes[stage])
        prepare = self._scaled if stage == "vqvae" else np.asarray
        batches = (prepare(examples[order]) for order in orders)
        take = stepper(model, ((batch, batch) for batch in batches))
        return lambda _share: take()

    def _vqvae(self):
        use_precision("float32")
        restart_keras()
        keras.utils.set_random_seed(0)
        images = self.images["train"]
        self.encode = keras.Sequential(self.encoder())
        self.quantizer = OneHotQuantizer(self.codebook_size, self.code_dim)
        self.decode = keras.Sequential(self.decoder())
        model = keras.Sequential([self.encode, self.quantizer, self.decode])
        model.build((None, *images.shape[1:], 1))
        squares = np.mean([np.mean(to_unit(image) ** 2) for image in images])
        variance = float(squares - (np.mean(images) / 255) ** 2)
        return model, lambda one, other: ops.mean((one - other) ** 2) / variance, images

    def _prior(self):
        codes = self.codes("train")
        self.grid = codes.shape[1:]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return pixelcnn(self.codebook_size, self.last_layers), loss, codes

    def _scaled(self, images):
        return to_unit(images)[..., None] + np.float32(self.lowest)

    def codes(self, name):
        encode = tf.function(lambda images: self.quantizer.codes(self.encode(images)))
        return in_batches(lambda part: encode(self._scaled(part)), self.images[name])

    def restore(self, name):
        return self._decoded(self.codes(name))

    def _decoded(self, codes):
        decode = tf.function(lambda codes: self.decode(self.quantizer.embed(codes)))

        def grey(part):
            return to_grey(np.clip(decode(part)[..., 0] - self.lowest, 0, 1))

        return in_batches(grey, codes)

    def prior_bits(self):
        prior = self.models["prior"]
        measure = tf.function(lambda codes: tf.reduce_sum(bits(prior(codes), codes), (1, 2)))
        return {"prior_bits": in_batches(measure, self.codes("test").astype("int32"))}

    def draw(self, count):
        return self._decoded(draw_codes(self.models["prior"], count, self.grid))


def draw_codes(prior: keras.Model, count: int, grid: tuple[int, int]) -> np.ndarray:
    """Draw code maps, int32 `(count, H, W)`, by the model from `pixelcnn`. Show progress.

    The published loops run the prior over whole maps for each code. It sees `REACH` rows alone, so
    these give the same logits sooner.
    """
    draw = tf.function(lambda rows, x: tf.random.categorical(prior(rows)[:, -1, x], 1)[:, 0])
    codes = np.zeros((count, *grid), "int32")
    for number in progress(range(codes[0].size), "drawing codes", unit="code"):
        y, x = divmod(number, grid[1])
        codes[:, y, x] = draw(codes[:, max(0, y - REACH) : y + 1], tf.constant(x))
    return codes


class Tutorial(KerasRival):
    """The VQ-VAE and the PixelCNN of keras.io, for whole slices in place of digits."""

    codebook_size, code_dim, lowest, last_layers = 128, 16, -0.5, 2
    batch_sizes = {"vqvae": 128, "prior": 128}
    learning_rates = {"vqvae": 1e-3, "prior": 3e-4}

    def encoder(self):
        conv = functools.partial(layers.Conv2D, padding="same")
        halve = {"strides": 2, "activation": "relu"}
        return [conv(32, 3, **halve), conv(64, 3, **halve), conv(self.code_dim, 1)]

    def decoder(self):
        conv = functools.partial(layers.Conv2DTranspose, padding="same")
        double = {"strides": 2, "activation": "relu"}
        return [conv(64, 3, **double), conv(32, 3, **double), conv(1, 3)]


class Report(KerasRival):
    """The design of report s4434829, which claims an SSIM of 0.963 after 215 epochs.

    Its convolutions are not padded, so slices of 256 x 256 have 62 x 62 codes. The report leaves
    open the width, the number of codes and the loss. They are those of van den Oord et al. 2017,
    which it follows: 256 channels, 512 codes, squared error over the variance of the data, and
    Adam with 0.0002. The two last rows and columns, which no convolution reaches, are black.
    """

    codebook_size, code_dim, lowest, last_layers = 512, 256, 0.0, 1
    batch_sizes = {"vqvae": 64, "prior": 64}
    learning_rates = {"vqvae": 2e-4, "prior": 2e-4}

    def encoder(self):
        conv = functools.partial(layers.Conv2D, self.code_dim, 4, strides=2)
        return [conv(activation="relu"), conv(), *self._blocks()]

    def decoder(self):
        conv = functools.partial(layers.Conv2DTranspose, kernel_size=4, strides=2)
        edge = (self.images["train"].shape[1] - 10) % 4
        pad = layers.ZeroPadding2D(((0, edge), (0, edge)))
        return [*self._blocks(), conv(self.code_dim, activation="relu"), conv(1), pad]

    def _blocks(self):
        return [Residual(self.code_dim) for _ in range(2)]


class Residual(layers.Layer):
    """Residual block: ReLU, a 3 x 3 convolution, ReLU, a 1 x 1 convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.wide = layers.Conv2D(width, 3, padding="same", activation="relu")
        self.last = layers.Conv2D(width, 1)

    def call(self, features):
        return features + self.last(self.wide(ops.relu(features)))
