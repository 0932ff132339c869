"""Variants of the VQ-VAE and of the prior: trained for some steps, and scored on validation."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from contenders.contender import in_batches

import dataset
import modules
from evaluation import metrics
from evaluation.reconstruction import BATCH
from fitting.devices import use_precision
from fitting.run_directory import RunDirectory
from fitting.settings import Settings
from fitting.stages import learning_rates, make_optimizer, make_vqvae, vqvae_objective
from fitting.training_data import read_codes
from networks import losses
from networks.logits import bits
from networks.neighbours import NO_CODE
from networks.order import NO_SLICE
from networks.raster import plain_level
from sources.folder import Slices, Split
from sources.images import to_grey, to_unit
from sources.layout import FITTED_SPLITS
from utils import InputError, progress, spread

MAX_VALIDATION = 256  # slices, so that scoring takes little time beside so short a training


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all variants of a stage share.

    Attributes:
        slices: Slices of the run.
        base: Settings of the run, `SHIPPED`, and the number of `steps`.
        run: Run directory.
    """

    slices: Slices
    base: dict
    run: pathlib.Path

    @functools.cached_property
    def chosen(self) -> np.ndarray:
        """Indices of the validation slices that are scored, at even distances."""
        return spread(len(self.slices.splits["validate"]), MAX_VALIDATION)

    @property
    def validation(self) -> Split:
        """The validation slices that are scored."""
        return self.slices.splits["validate"].pick(self.chosen)

    def train(
        self, make: Callable, example: Callable, settings: dict, peak: float, title: str
    ) -> tuple[keras.Model, dict[str, float]]:
        """Train a variant for some steps, and time them.

        Args:
            make: Function of a learning-rate schedule that returns a compiled model.
            example: Example function of `dataset`, over all training slices.
            settings: `batch_size`, `steps`, `seed`, `precision`, and `mirror`, whether some slices
                are mirrored.
            peak: Learning rate at the end of the warm-up.
            title: Name of the progress bar.

        Returns:
            The model, and its number of parameters and the median seconds of a step.
        """
        batch_size, steps, seed = (settings[name] for name in ("batch_size", "steps", "seed"))
        count = len(self.slices.splits["train"])

        def unmirrored(index, _mirror, chance):
            return example(index, tf.constant(False), chance)

        examples = example if settings["mirror"] else unmirrored
        epochs = [
            dataset.training_batches(examples, count, batch_size, seed, epoch)
            for epoch in range(math.ceil(steps / (count // batch_size)))
        ]
        batches = functools.reduce(tf.data.Dataset.concatenate, epochs).take(steps)
        use_precision(settings["precision"])
        keras.utils.set_random_seed(seed)
        model = make(learning_rates(peak, steps))
        bar, ends = progress(range(steps), title, unit="step"), []

        def note(_batch, logs):
            float(logs["loss"])  # waits for the device
            ends.append(time.perf_counter())
            next(bar, None)

        clock = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        model.fit(batches, shuffle=False, callbacks=[clock], verbose=0)
        seconds = float(np.median(np.diff(ends)))
        return model, {"parameters": model.count_params(), "seconds_per_step": seconds}


class AutoencoderBench(Bench):
    """Trains and scores variants of the VQ-VAE."""

    @functools.cached_property
    def example(self) -> Callable:
        """Example function of the frames of the training slices."""
        source = dataset.ImageSource(self.slices.splits["train"], self.base["image_size"])
        return dataset.image_examples(source, self.base["frame"])

    def measure(self, settings: dict, title: str = "training") -> dict:
        """Train a variant and return its figures."""
        make, peak = functools.partial(self.make, settings), settings["learning_rate"]
        model, cost = self.train(make, self.example, settings, peak, title)
        images = to_unit(dataset.load_images(self.validation, settings["image_size"]))[..., None]
        codes = in_batches(model.encode, images)
        restored, order = in_batches(model.decode, codes), np.arange(len(codes))
        ssim = in_batches(lambda batch: losses.ssim(images[batch], restored[batch]), order)
        return {
            "ssim": float(ssim.mean()),
            "psnr": float(metrics.psnr(images, restored).mean()),
            **metrics.detail(*(to_grey(values)[..., 0] for values in (images, restored))),
            "codes_used": len(np.unique(codes)),
            "index_bytes": codes[0].size * math.log2(settings["codebook_size"]) / 8,
            **cost,
        }

    def make(self, settings: dict, schedule) -> keras.Model:
        """Build and compile a variant."""
        of_training = Settings.from_config(settings)
        model = make_vqvae(of_training)
        model.compile(make_optimizer(schedule), **vqvae_objective(of_training))
        if settings["codebook"] != "restarted":
            count, size = len(self.slices.splits["train"]), settings["batch_size"]
            batches = dataset.training_batches(self.example, count, size, settings["seed"], 0)
            images, _ = next(iter(batches))
            lock_codebook(model.quantizer, model.encoder(images), settings["codebook"])
        return model


def lock_codebook(quantizer: modules.VectorQuantizer, latents: tf.Tensor, start: str) -> None:
    """Let no code restart from now on.

    Args:
        quantizer: Quantizer before its first step.
        latents: Vectors of a batch, float32 `(B, H, W, D)`.
        start: "from data" puts the codes on vectors of the batch. "random" leaves them where the
            initializer put them.
    """
    if start == "from data":
        quantizer.RESTART_BELOW = math.inf  # so that this step restarts every code
        quantizer(latents, training=True)
    else:
        # Without counts, a code that gets no vector of the first batch would become zero.
        share = math.prod(latents.shape[:-1]) / quantizer.codebook_size
        quantizer.counts.assign(quantizer.counts * 0 + share)
        quantizer.sums.assign(quantizer.codebook * share)
    quantizer.RESTART_BELOW = 0.0


class PriorBench(Bench):
    """Trains and scores variants of the prior, on the codes that the run's training left."""

    @functools.cached_property
    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the training split and of the validation split, `(2, N, H, W)` each.

        Raises:
            InputError: The run has none.
        """
        path = RunDirectory(self.run).codes
        if not path.is_file():
            raise InputError(
                f"{path} is not there, and the priors learn from these codes: "
                "name the run directory that train.py wrote."
            )
        return tuple(read_codes(path)[name] for name in FITTED_SPLITS)

    def measure(self, settings: dict, title: str = "training") -> dict:
        """Train a variant and return its figures."""
        examples, validation = (
            self.make_example(settings, codes, self.slices.splits[name])
            for codes, name in zip(self.codes, FITTED_SPLITS)
        )
        make = functools.partial(self.make, settings, self.codes[0].shape[-2:])
        peak = settings["prior_learning_rate"]
        model, cost = self.train(make, examples, settings, peak, title)
        scored = tf.constant(self.chosen)
        batches = dataset.evaluation_batches(
            lambda index, mirror: validation(scored[index], mirror), len(self.chosen), BATCH
        )
        scores = [bits(model(inputs), codes) for inputs, codes in progress(batches, "scoring")]
        scores = np.concatenate(scores)  # (N, H, W)
        images = dataset.load_images(self.validation, settings["image_size"])
        brain = metrics.brain_places(images, settings["frame"], scores.shape[1:])
        return {
            "bits_per_code": float(scores.mean()),
            "brain_bits_per_code": float(scores[brain].mean()),
            **cost,
        }

    def make_example(self, settings: dict, codes: np.ndarray, split: Split) -> dataset.Example:
        """Examples of a split, with the levels and neighbours that the settings say."""
        num_levels = self.slices.num_levels
        example = dataset.code_examples(codes, split, num_levels, settings["neighbours"])
        if settings["upward"]:
            example = upward_examples(codes, split, num_levels)

        def told(index, mirror, chance=None):
            inputs, targets = example(index, mirror, chance)
            level, mirrored = plain_level(inputs["levels"], num_levels)
            levels = level * settings["level"] + mirrored * num_levels * settings["told"]
            return {**inputs, "levels": levels}, targets

        return told

    def make(self, settings: dict, grid: Sequence[int], schedule) -> keras.Model:
        """Build and compile a variant."""
        dilations = settings["dilations"] or modules.PixelCNN.DILATIONS
        variant = type("PixelCNN", (modules.PixelCNN,), {"DILATIONS": dilations})
        sizes = (settings[f"prior_{name}"] for name in ("width", "blocks", "dropout"))
        mirror = self.slices.facts.mirror if settings["mirror_path"] else "none"
        sides = {"neighbours": settings["neighbours"], "mirror": mirror}
        model = variant(grid, settings["codebook_size"], self.slices.num_levels, *sizes, **sides)
        if not settings["position"]:
            model.positions.assign(model.positions * 0)
            model.positions.trainable = False
        optimizer = make_optimizer(schedule)
        if settings["averaging"]:
            averaging = {"use_ema": True, "ema_momentum": settings["averaging"]}
            optimizer = type(optimizer).from_config({**optimizer.get_config(), **averaging})
        model.compile(optimizer)
        return model


def upward_examples(codes: np.ndarray, split: Split, num_levels: int) -> dataset.Example:
    """Examples that know the slice below alone, if there is one; see `dataset.code_examples`."""
    alone = dataset.code_examples(codes, split, num_levels, 0)
    below, none = tf.constant(split.below), tf.fill(codes.shape[2:], NO_CODE)

    def example(index, mirror, chance=None):
        inputs, targets = alone(index, mirror)
        place = below[index]
        is_known = place != NO_SLICE
        if chance is not None:
            is_known &= chance >= dataset.LEFT_OUT
        lower = tf.where(is_known, alone(tf.maximum(place, 0), mirror)[1], none)
        distances = tf.stack([tf.cast(is_known, tf.int32), 0])
        return {**inputs, "neighbours": tf.stack([lower, none]), "distances": distances}, targets

    return example
