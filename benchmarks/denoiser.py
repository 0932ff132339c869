"""Train a denoising autoencoder, a rival of anomaly maps by healing.

python benchmarks/denoiser.py --run DIR --data DIR --out FILE [--epochs N]

It has the encoder and the decoder of a run's VQ-VAE without the quantizer, sees the same slices as
often, and takes as long. It learns to take coarse noise away, and so takes away what is unusual.

Reference:
    Kascenas et al. 2022, Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI.
"""

import pathlib

import house  # noqa: F401  opens the repository

# isort: split
import keras
import tensorflow as tf

import dataset
from fitting import checkpoints, device, stages
from fitting.run_directory import RunDirectory, read_config
from fitting.training_data import TrainingData
from sources.folder import find_slices, open_slices
from utils import Parser, between, command_line, replacing

NOISE_CELL = 16  # pixels between the values of the noise, which is smooth between them
NOISE = 0.2  # its standard deviation at these values


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    path = {"type": pathlib.Path, "required": True}
    add("--run", metavar="DIR", help="run directory of train.py", **path)
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add("--out", metavar="FILE", help="Keras file to write", **path)
    add(
        "--epochs",
        type=between(int, 1, 10**6),
        metavar="N",
        help="passes over the slices (default: those of the run)",
    )
    return parser.parse_args(arguments)


def main(args):
    """Train the denoiser and write it."""
    run = RunDirectory(args.run)
    settings = read_config(run)["settings"]
    checkpoints.load_model(run.model("vqvae"))  # the run is checked
    device.use_precision(settings["precision"])
    keras.utils.set_random_seed(settings["seed"])
    slices = open_slices(find_slices(args.data))
    data = TrainingData(slices, settings["image_size"], settings["reduction"])
    data.frame = settings["frame"]
    vqvae = stages.make_vqvae(settings)
    model = keras.Sequential([vqvae.encoder, vqvae.decoder])
    count, batch_size = len(slices.splits["train"]), settings["batch_size"]
    epochs = args.epochs or settings["epochs"]
    rates = stages.learning_rates(settings["learning_rate"], epochs * (count // batch_size))
    model.compile(stages.make_optimizer(rates), "mse")
    example, validation = (noisy(data.frames(name).example) for name in ("train", "validate"))
    known = len(slices.splits["validate"])
    for epoch in range(epochs):
        batches = dataset.training_batches(example, count, batch_size, settings["seed"], epoch)
        checks = dataset.evaluation_batches(validation, known, batch_size)
        model.fit(
            batches,
            validation_data=checks,
            shuffle=False,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=2,
        )
    with replacing(args.out) as temporary:
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


if __name__ == "__main__":
    command_line(main, parse())
