"""A denoising autoencoder, a rival of anomaly maps by healing.

It has the encoder and the decoder of a run's VQ-VAE without the quantizer, sees the same slices as
often, and takes as long. It learns to take coarse noise away, and so takes away what is unusual.

Reference:
    Kascenas et al. 2022, Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI.
"""

import pathlib

import keras
import tensorflow as tf

import dataset
from fitting import device, stages
from fitting.run_directory import RunDirectory, read_config
from fitting.training_data import TrainingData
from sources.folder import Slices
from utils import replacing

NOISE_CELL = 16  # pixels between the values of the noise, which is smooth between them
NOISE = 0.2  # its standard deviation at these values


def load_denoiser(path: pathlib.Path, run: RunDirectory, slices: Slices) -> keras.Model:
    """Load a denoiser of frames `(B, h, w, 1)`. It is trained first where its file is not there.

    Args:
        path: Keras file.
        run: Run whose VQ-VAE gives its size, settings and frame.
        slices: Slices to train on.
    """
    if not path.exists():
        settings = read_config(run)["settings"]
        device.restart_keras(settings["precision"])
        train(path, slices, settings)
        device.restart_keras("float32")
    return keras.saving.load_model(path, compile=False)


def train(path: pathlib.Path, slices: Slices, settings: dict) -> None:
    """Train a denoiser with the settings of a run, and write it."""
    keras.utils.set_random_seed(settings["seed"])
    data = TrainingData(slices, settings["image_size"], settings["reduction"])
    data.frame = settings["frame"]
    vqvae = stages.make_vqvae(settings)
    model = keras.Sequential([vqvae.encoder, vqvae.decoder])
    count, batch_size = len(slices.splits["train"]), settings["batch_size"]
    steps = settings["epochs"] * (count // batch_size)
    rates = stages.learning_rates(settings["learning_rate"], steps)
    model.compile(stages.make_optimizer(rates), "mse")
    example, validation = (noisy(data.frames(name).example) for name in ("train", "validate"))
    known = len(slices.splits["validate"])
    for epoch in range(settings["epochs"]):
        batches = dataset.training_batches(example, count, batch_size, settings["seed"], epoch)
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


def noisy(example: dataset.Example) -> dataset.Example:
    """Make examples of a denoiser from those of a VQ-VAE: the brain gets coarse noise."""

    def with_noise(*draws):
        clean, target = example(*draws)
        height, width = clean.shape[0], clean.shape[1]
        cells = (height // NOISE_CELL + 1, width // NOISE_CELL + 1, 1)
        coarse = tf.random.normal(cells, stddev=NOISE)
        noise = tf.image.resize(coarse, (height, width), "bilinear")
        return clean + noise * tf.cast(clean > 0, tf.float32), target

    return with_noise
