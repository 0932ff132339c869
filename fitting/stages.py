"""The stages of a training: what each one fits, on which examples, and what it shows.

A stage is an object. Another stage is one more object in `plan`, and the loop stays as it is.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import dataset
import modules
from fitting import checkpoints
from fitting.devices import ReplicatedAdam
from fitting.run_directory import RunDirectory
from fitting.settings import OF_VQVAE, Settings
from fitting.training_data import (
    Examples,
    TrainingData,
    read_codes,
    write_code_counts,
    write_codes,
)
from modules import VQVAE, Texture
from networks import losses
from networks.frames import margins
from networks.raster import numbered_seed
from sources.images import to_grey, to_unit
from utils import progress, spread

SHOWN = 8  # images that TensorBoard shows after each epoch
DECODED_AT_ONCE = 32  # slices


class Task(NamedTuple):
    """What a stage fits, and on which examples.

    Attributes:
        make_model: Function without arguments to the model, not compiled.
        training: Examples to learn from.
        validation: Examples that say which epoch is the best.
        pictures: Function of the model to images `(N, S, S, 1)` in [0, 1] by name.
        make_objective: Function without arguments to what `compile` takes beside the optimizer.
            Models with a loss of their own take nothing.
    """

    make_model: Callable[[], keras.Model]
    training: Examples
    validation: Examples
    pictures: Callable[[keras.Model], dict[str, np.ndarray]]
    make_objective: Callable[[], dict] = dict


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Args:
        name: Name of the stage, one of `run_directory.STAGES`.
        epochs: Number of passes over the training examples.
        learning_rate: Peak of the learning rate.
        load: Function without arguments to the task. It reads what the stages before have made.
        start_weights: Model file whose weights the stage starts from. None is random weights.
        prepare: What one machine does before: it writes the codes that the stage reads.
        later: How long the later stages take, in passes of this one.
    """

    name: str
    epochs: int
    learning_rate: float
    load: Callable[[], Task]
    start_weights: pathlib.Path | None = None
    prepare: Callable[[], None] | None = None
    later: float = 0.0


def plan(
    run: RunDirectory,
    data: TrainingData,
    settings: Settings,
    source_run: RunDirectory | None = None,
) -> dict[str, Stage]:
    """The stages of a training by name, in order. One without epochs is left out.

    The first prior learns the nearest codes. A slice has many sequences of codes that are almost
    equally near. The first prior says which of them are likely, and so the codes are chosen on
    which the prior learns. Where codes are the nearest, or where the prior of another run chooses
    them, there is no such stage.

    Args:
        run: Where models and codes are.
        data: Slices of the training.
        settings: Settings of the training.
        source_run: Run whose weights the stages start from, or None.
    """
    source = {name: source_run.model(name) for name in ("vqvae", "prior")} if source_run else {}
    if settings.keep_vqvae:
        del source["prior"]
    before = run.model("first_prior") if settings.rate_weight else source.get("prior")
    needs_first = settings.rate_weight and not settings.choose_codes_again
    first_epochs = settings.first_prior_epochs if needs_first else 0
    rate, rate_weight = settings.prior_learning_rate, settings.rate_weight
    load_vqvae = functools.partial(_load_vqvae, data, settings)
    load_prior = functools.partial(_load_prior, run, data, settings)
    load_first = functools.partial(load_prior, run.first_prior_codes, 0.0, source.get("prior"))
    load_last = functools.partial(load_prior, run.codes, rate_weight, before)
    load_texture = functools.partial(_load_texture, run, data, settings.texture_width)
    choose_first = functools.partial(write_codes, run, data, run.first_prior_codes, 0.0)

    def choose_last():
        write_codes(run, data, run.codes, rate_weight)
        write_code_counts(run, settings.codebook_size)

    texture_rate = settings.texture_learning_rate
    stages = [
        Stage("vqvae", settings.epochs, settings.learning_rate, load_vqvae, source.get("vqvae")),
        Stage("first_prior", first_epochs, rate, load_first, source.get("prior"), choose_first),
        Stage("prior", settings.prior_epochs, rate, load_last, before, choose_last),
        Stage("texture", settings.texture_epochs, texture_rate, load_texture),
    ]
    planned, later = {}, 0.0
    for stage in reversed([stage for stage in stages if stage.epochs]):
        work, choice = settings.work(stage.name), stage.prepare is choose_last and rate_weight > 0
        planned[stage.name] = dataclasses.replace(stage, later=later / work)
        later += work * (stage.epochs + choice)  # codes are chosen in about the time of a pass
    return {name: planned[name] for name in reversed(planned)}


def _load_vqvae(data, settings):
    source = data.sources["validate"]
    example = dataset.image_examples(source)
    originals = np.stack([example(index, False)[0] for index in spread(len(source), SHOWN)])
    return Task(
        make_model=lambda: make_vqvae(settings),
        training=data.frames("train"),
        validation=data.frames("validate"),
        pictures=lambda model: {
            "originals": originals,
            "reconstructions": model.decode(model.encode(originals)),
        },
        make_objective=lambda: vqvae_objective(settings),
    )


def _load_prior(run, data, settings, codes_path, rate_weight, start_weights):
    found = read_codes(codes_path)
    vqvae = checkpoints.load_model(run.model("vqvae"))
    if start_weights:  # whose embeddings are of the values that its training people have
        attributes = checkpoints.load_model(start_weights).attributes
    else:
        attributes = data.learn_attributes()
    make_prior = functools.partial(
        modules.PRIORS[settings.prior],
        vqvae.grid,
        settings.codebook_size,
        data.slices.num_levels,
        width=settings.prior_width,
        blocks=settings.prior_blocks,
        dropout=settings.prior_dropout,
        neighbours=settings.neighbours,
        mirror=data.slices.facts.mirror,
        attributes=attributes.as_json(),
        rate_weight=rate_weight,
        vqvae=checkpoints.fingerprint(vqvae),
    )
    known = settings.neighbours, attributes
    levels = spread(data.slices.num_levels, SHOWN).astype("int32")
    seeds = numbered_seed(settings.seed, levels)
    return Task(
        make_model=make_prior,
        training=data.codes("train", found["train"], *known),
        validation=data.codes("validate", found["validate"], *known),
        pictures=lambda model: {"samples": vqvae.decode(model.sample(levels, seeds))},
    )


def _load_texture(run, data, width):
    vqvae = checkpoints.load_model(run.model("vqvae"))
    found = read_codes(run.codes)
    digest = checkpoints.fingerprint(vqvae)
    restored = {name: decode_all(vqvae, found[name][0], f"restoring {name}") for name in found}
    shown = spread(len(restored["validate"]), SHOWN)
    images = to_unit(restored["validate"][shown])[..., None]
    return Task(
        make_model=lambda: Texture(data.image_size, data.frame, width, vqvae=digest),
        training=data.textures("train", restored["train"]),
        validation=data.textures("validate", restored["validate"]),
        pictures=lambda model: {"textures": model.draw(images, tf.range(len(images)))},
    )


def decode_all(vqvae: VQVAE, codes: np.ndarray, title: str) -> np.ndarray:
    """Reconstructions of code maps `(N, H, W)`, uint8 `(N, S, S)`. Show progress."""
    batches = np.split(codes.astype("int32"), range(DECODED_AT_ONCE, len(codes), DECODED_AT_ONCE))
    restored = [to_grey(vqvae.decode(batch))[..., 0] for batch in progress(batches, title)]
    return np.concatenate(restored)


def make_vqvae(settings: Settings) -> VQVAE:
    """The first stage's model, not compiled."""
    names = (*OF_VQVAE, "seed", "frame", "masked")
    return VQVAE(**{name: getattr(settings, name) for name in names})


def vqvae_objective(settings: Settings) -> dict:
    """The first stage's loss and metrics, for `compile`."""
    place = {"frame": settings.frame, "image_size": settings.image_size}
    borders = margins(**place, most=losses.SSIM_BORDER)
    loss = losses.ReconstructionLoss(settings.ssim_weight, settings.contrast_weight, borders)
    # An object, because a step on several devices cannot make the variables of a bare function.
    ssim = keras.metrics.MeanMetricWrapper(losses.frame_ssim, name="ssim", **place)
    return {"loss": loss, "metrics": [ssim]}


def make_optimizer(
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    beta_2: float = Settings.beta_2,
    clip_norm: float = Settings.clip_norm,
) -> ReplicatedAdam:
    """The optimizer of all stages."""
    return ReplicatedAdam(schedule, beta_2=beta_2, global_clipnorm=clip_norm)


def learning_rates(
    peak: float, steps: int, warmup_steps: int = Settings.warmup_steps
) -> keras.optimizers.schedules.CosineDecay:
    """Schedule of a stage: a warm-up to `peak`, then to zero along a cosine.

    The warm-up is a tenth of the steps, but `warmup_steps` at most. Its first step has the rate 0,
    so a stage of a single step does without one.
    """
    decay = keras.optimizers.schedules.CosineDecay
    if steps == 1:
        return decay(peak, decay_steps=1)
    warmup = max(1, min(warmup_steps, steps // 10))
    return decay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)
