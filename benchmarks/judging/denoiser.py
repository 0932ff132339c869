"""A denoising autoencoder, a rival of anomaly maps by healing.

It is a U-Net that learns to take coarse noise away, and so takes away what is unusual. Noise,
blocks and a loss inside the brain follow the reference. It has fewer channels, so that it has about
as many parameters as the VQ-VAE of a run, and plain convolutions. It sees the frames of that run as
often.

Reference:
    Kascenas et al. 2022, Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI.
"""

import pathlib
import zlib

import keras
import tensorflow as tf
from keras import layers

import dataset
from fitting import devices, stages
from fitting.run_directory import RunDirectory, read_config
from fitting.settings import Settings
from fitting.training_data import TrainingData
from sources.folder import Slices
from utils import InputError, replacing

NOISE_CELL = 16  # pixels between the values of the noise, which is smooth between them
NOISE = 0.2  # its standard deviation at these values
CHANNELS = 24, 48, 96, 192  # of each scale of the U-Net
LEARNING_RATE = 1e-3


def load_denoiser(path: pathlib.Path, run: RunDirectory, slices: Slices) -> keras.Model:
    """Load a denoiser of frames `(B, h, w, 1)`. It is trained first where its file is not there.

    Args:
        path: Keras file.
        run: Run that gives the frame, the passes and the precision of the training.
        slices: Slices to train on.

    Raises:
        InputError: The file is of other slices or settings.
    """
    settings = read_config(run)["settings"]
    name = name_of(slices, settings)
    if not path.exists():
        devices.use_precision(settings.precision)
        devices.restart_keras()
        train(path, slices, settings)
        devices.use_precision("float32")
        devices.restart_keras()
    model = keras.saving.load_model(path, compile=False)
    if model.name != name:
        raise InputError(f"{path} was trained on other slices or otherwise: remove it.")
    return model


def name_of(slices: Slices, settings: Settings) -> str:
    """Name of a denoiser, which says what it was trained on and how."""
    used = [settings.frame, settings.epochs, settings.batch_size, settings.seed]
    made_of = slices.fingerprint, used, CHANNELS, LEARNING_RATE, NOISE_CELL, NOISE
    return f"denoiser_{zlib.crc32(repr(made_of).encode()):08x}"


def train(path: pathlib.Path, slices: Slices, settings: Settings) -> None:
    """Train a denoiser with the settings of a run, and write it."""
    keras.utils.set_random_seed(settings.seed)
    data = TrainingData(slices, settings.image_size, settings.reduction)
    data.frame = settings.frame
    top, left, bottom, right = data.frame
    model = make_unet(bottom - top, right - left, name_of(slices, settings))
    count, batch_size = len(slices.splits["train"]), settings.batch_size
    steps = settings.epochs * (count // batch_size)
    rates = stages.learning_rates(LEARNING_RATE, steps)
    model.compile(stages.make_optimizer(rates), "mse")
    example, validation = (noisy(data.frames(name).example) for name in ("train", "validate"))
    known = len(slices.splits["validate"])
    for epoch in range(settings.epochs):
        batches = dataset.training_batches(example, count, batch_size, settings.seed, epoch)
        model.fit(
            batches,
            validation_data=dataset.evaluation_batches(validation, known, batch_size),
            shuffle=False,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=2,
        )
    with replacing(path) as temporary:
        model.save(temporary)


def make_unet(height: int, width: int, name: str) -> keras.Model:
    """Make an untrained U-Net from frames with noise to frames without, both `(B, h, w, 1)`.

    What is 0 stays 0, so that its loss counts the brain alone.
    """
    inputs = keras.Input((height, width, 1))
    values, skips = _block(inputs, CHANNELS[0]), []
    for channels in CHANNELS[1:]:
        skips.append(values)
        values = _block(layers.AveragePooling2D(2)(values), channels)
    for channels, skip in zip(CHANNELS[-2::-1], reversed(skips)):
        larger = layers.Conv2DTranspose(channels, 2, 2)(values)
        values = _block(layers.concatenate([larger, skip]), channels)
    clean = layers.Conv2D(1, 1, dtype="float32")(values)
    brain = keras.ops.cast(inputs != 0, "float32")
    return keras.Model(inputs, clean * brain, name=name)


def _block(values, channels):
    """Two convolutions of 3 x 3, each with a swish and a normalisation of groups."""
    for _ in range(2):
        values = layers.Conv2D(channels, 3, padding="same", activation="silu")(values)
        values = layers.GroupNormalization(8)(values)
    return values


def noisy(example: dataset.Example) -> dataset.Example:
    """Make examples of a denoiser from those of a VQ-VAE: the brain gets coarse noise."""

    def with_noise(*draws):
        clean, target = example(*draws)
        height, width = clean.shape[0], clean.shape[1]
        cells = (height // NOISE_CELL + 1, width // NOISE_CELL + 1, 1)
        coarse = tf.random.normal(cells, stddev=NOISE)
        noise = tf.image.resize(coarse, (height, width), "bilinear")
        # Noise is weaker between the values, so their places change from slice to slice.
        noise = tf.roll(noise, tf.random.uniform((2,), 0, NOISE_CELL, tf.int32), (0, 1))
        return clean + noise * tf.cast(clean > 0, tf.float32), target

    return with_noise
