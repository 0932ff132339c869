"""The contender of this repository: stages of train.py, trained by the minute."""

import dataclasses
import itertools

import keras
import numpy as np

import dataset
import train
from contenders.contender import Contender, in_batches
from contenders.keras_rivals import stepper
from evaluation.context import SamplingOptions
from evaluation.samples import decode, draw_slice_codes, spread_levels
from fitting import checkpoints, stages
from fitting.devices import restart_keras, use_precision
from fitting.run_directory import RunDirectory
from fitting.training_data import TrainingData, write_codes
from modules import Models
from networks.order import among, arrange
from sources.folder import Slices
from sources.images import to_grey, to_unit


class Ours(Contender):
    """VQ-VAE and PixelCNN of this repository, with the settings of train.py.

    Codes are the nearest ones, as those of the rivals are. So there is no first prior, and no time
    goes into a choice. The learning rate rises over some steps and falls along a cosine, as in
    train.py. It falls over the minutes of a stage, because nobody knows its steps in advance. It
    does not rise over minutes, because the first step alone takes many seconds.

    Args:
        images: As for `Contender`, and so is `minutes`.
        slices: The data folder of these images.
        flags: Flags of train.py.
        run: Folder for what the prior learns from.
    """

    def __init__(self, images, minutes: float, slices: Slices, flags: list[str], run: RunDirectory):
        super().__init__(images, minutes)
        settings = train.resolve(train.parse([*flags, "--rate-weight", "0"]), slices)
        self.precision = use_precision(settings.precision)
        self.data = TrainingData(slices, settings.image_size, settings.reduction)
        found = {"frame": list(self.data.frame), "masked": slices.masked}
        self.settings = dataclasses.replace(settings, precision=self.precision, **found)
        self.split, self.run = slices.splits["test"], run
        self.codebook_size = settings.codebook_size

    def start(self, stage):
        if stage == "prior":
            checkpoints.save_model(self.models["vqvae"], self.run.model("vqvae"))
            write_codes(self.run, self.data, self.run.codes, rate_weight=0.0)
        stage = stages.plan(self.run, self.data, self.settings)[stage]
        task = stage.load()
        restart_keras()
        keras.utils.set_random_seed(self.settings.seed)
        model = task.make_model()
        model.compile(stages.make_optimizer(0.0), **task.make_objective())
        model.optimizer.build(model.trainable_variables)
        self.models[stage.name] = model
        falling = keras.optimizers.schedules.CosineDecay(stage.learning_rate, 1.0)
        take, steps = stepper(model, self._batches(task.training)), itertools.count()

        def take_at(share):
            rising = min(1.0, next(steps) / self.settings.warmup_steps)
            model.optimizer.learning_rate = rising * falling(share)
            return take()

        return take_at

    def _batches(self, examples):
        example, count = examples
        size, seed = min(self.settings.batch_size, count), self.settings.seed
        for epoch in itertools.count():
            yield from dataset.training_batches(example, count, size, seed, epoch)

    def codes(self, name):
        encode = self.models["vqvae"].encode
        return in_batches(lambda part: encode(to_unit(part)[..., None]), self.images[name])

    def restore(self, name):
        decode = self.models["vqvae"].decode
        return in_batches(lambda part: to_grey(decode(part))[..., 0], self.codes(name))

    def prior_bits(self):
        """Bits in the order in which stacks are drawn, and bits of each slice alone."""
        found, prior, places = self.codes("test"), self.models["prior"], np.arange(len(self.split))
        cases, levels = self.split.cases, self.split.levels
        order = arrange(cases, levels, prior.settings["neighbours"])

        def measure(batch, *more):
            return np.sum(prior.bits(found[batch], levels[batch], *more), (1, 2))

        return {
            "prior_bits": in_batches(
                lambda batch: measure(batch, among(order, found, batch)), places
            ),
            "prior_bits_alone": in_batches(measure, places),
        }

    def draw(self, count):
        levels = spread_levels(count, None, np.unique(self.split.levels))
        options = SamplingOptions(seed=self.settings.seed)
        models = Models(self.models["vqvae"], self.models["prior"])
        drawn = draw_slice_codes(models.prior, levels, options)
        return np.concatenate(list(decode(models, drawn, options)))[:, 0]
