"""The stages of a training: what each one fits, on which examples, and what it shows.

A stage is an object. Another stage is one more object, fitted in train.py, and the loop stays as
it is.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from fitting import checkpoints
from fitting.codes import read_codes
from fitting.run_directory import RunDirectory
from fitting.start import Start
from fitting.strategies import Adam
from fitting.training_data import Examples, TrainingData
from modules import VQVAE, PixelCNN, Texture
from networks import losses
from networks.frames import margins
from networks.raster import numbered_seed
from sources.images import to_grey, to_unit
from utils import progress

SHOWN = 8  # images that TensorBoard shows after each epoch
DECODED_AT_ONCE = 32  # slices
TEXTURE_LEARNING_RATE = 4e-3
WARMUP = 200  # steps in which the learning rate rises, at most


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Args:
        name: Name of the stage and of its files in the run directory.
        epochs: Number of passes over the training examples.
        learning_rate: Peak of the learning rate.
        make_model: Function without arguments to the model, not compiled.
        make_objective: Function without arguments to what `compile` takes beside the optimizer.
        training: Examples to learn from.
        validation: Examples that say which epoch is the best.
        pictures: Function of the model to images `(N, S, S, 1)` in [0, 1] by name.
    """

    name: str
    epochs: int
    learning_rate: float
    make_model: Callable[[], keras.Model]
    make_objective: Callable[[], dict]
    training: Examples
    validation: Examples
    pictures: Callable[[keras.Model], dict[str, np.ndarray]]


def vqvae_stage(data: TrainingData, settings: dict, start: Start | None = None) -> Stage:
    """First stage: `vqvae.keras`, from images to codes and back. It can begin with `start`."""
    originals = _shown_images(data.images("validate"))

    def make_model():
        model = make_vqvae(settings)
        if start:
            model.set_weights(start.vqvae)
        return model

    return Stage(
        name="vqvae",
        epochs=settings["epochs"],
        learning_rate=settings["learning_rate"],
        make_model=make_model,
        make_objective=lambda: vqvae_objective(settings),
        training=data.frames("train"),
        validation=data.frames("validate"),
        pictures=lambda model: _reconstructions(model, originals),
    )


def draft_stage(
    run: RunDirectory, data: TrainingData, settings: dict, start: Start | None = None
) -> Stage:
    """Second stage: `draft.keras`, a prior over nearest codes. It can begin with `start`.

    A slice has many descriptions that are almost equally near. The draft says which of them are
    likely, and so the codes of the next stage are chosen.
    """
    return _prior_stage("draft", run, run.draft_codes, data, settings, 0.0, start)


def prior_stage(
    run: RunDirectory, data: TrainingData, settings: dict, start: Start | None = None
) -> Stage:
    """Stage of `prior.keras`: p(codes | level, slices below).

    It goes on from the draft. Without a draft it can begin with `start`.
    """
    return _prior_stage("prior", run, run.codes, data, settings, settings["rate_weight"], start)


def _prior_stage(name, run, codes_path, data, settings, rate_weight, start):
    codes = read_codes(codes_path)
    vqvae = checkpoints.load_model(run.model("vqvae"))
    digest = checkpoints.fingerprint(vqvae)

    def make_model():
        model = make_prior(settings, vqvae.grid, data.slices.num_levels, rate_weight, digest)
        if rate_weight:
            model.set_weights(checkpoints.load_model(run.model("draft")).get_weights())
        elif start:
            model.set_weights(start.prior)
        return model

    return Stage(
        name=name,
        epochs=settings[f"{name}_epochs"],
        learning_rate=settings["prior_learning_rate"],
        make_model=make_model,
        make_objective=dict,  # its loss is `RasterPrior.compute_loss`
        training=data.codes("train", codes["train"]),
        validation=data.codes("validate", codes["validate"]),
        pictures=lambda model: _samples(model, vqvae, settings["seed"]),
    )


def texture_stage(run: RunDirectory, data: TrainingData, settings: dict) -> Stage:
    """Stage after the prior: `texture.keras`, p(slice | reconstruction, slice below)."""
    vqvae = checkpoints.load_model(run.model("vqvae"))
    codes = read_codes(run.codes)
    digest = checkpoints.fingerprint(vqvae)
    restored = {name: decode_all(vqvae, codes[name][0], f"restoring {name}") for name in codes}
    shown = _spread(len(restored["validate"]))
    images = to_unit(restored["validate"][shown])[..., None]

    def make_model():
        return Texture(settings["image_size"], data.frame, settings["texture_width"], vqvae=digest)

    return Stage(
        name="texture",
        epochs=settings["texture_epochs"],
        learning_rate=TEXTURE_LEARNING_RATE,
        make_model=make_model,
        make_objective=dict,  # its loss is `Texture.compute_loss`
        training=data.textures("train", restored["train"]),
        validation=data.textures("validate", restored["validate"]),
        pictures=lambda model: {"textures": model.draw(images, tf.range(len(images)))},
    )


def decode_all(vqvae: VQVAE, codes: np.ndarray, title: str) -> np.ndarray:
    """Reconstructions of code maps `(N, H, W)`, uint8 `(N, S, S)`. Show progress."""
    batches = np.split(codes.astype("int32"), range(DECODED_AT_ONCE, len(codes), DECODED_AT_ONCE))
    restored = [to_grey(vqvae.decode(batch))[..., 0] for batch in progress(batches, title)]
    return np.concatenate(restored)


def make_vqvae(settings: dict) -> VQVAE:
    """The first stage's model, not compiled."""
    return VQVAE(
        settings["image_size"],
        settings["codebook_size"],
        settings["code_dim"],
        settings["width"],
        settings["reduction"],
        seed=settings["seed"],
        frame=settings["frame"],
        masked=settings["masked"],
    )


def vqvae_objective(settings: dict) -> dict:
    """The first stage's loss and metrics, for `compile`."""
    place = {"frame": settings["frame"], "image_size": settings["image_size"]}
    loss = losses.ReconstructionLoss(
        settings["ssim_weight"],
        settings["contrast_weight"],
        margins(**place, most=losses.SSIM_BORDER),
    )
    # An object, because a step on several devices cannot make the variables of a bare function.
    ssim = keras.metrics.MeanMetricWrapper(losses.frame_ssim, name="ssim", **place)
    return {"loss": loss, "metrics": [ssim]}


def make_prior(
    settings: dict,
    grid: Sequence[int],
    num_levels: int,
    rate_weight: float = 0.0,
    vqvae: str = "",
) -> PixelCNN:
    """A prior, not compiled. All but `settings` are arguments of `PixelCNN`."""
    return PixelCNN(
        grid,
        settings["codebook_size"],
        num_levels,
        settings["prior_width"],
        settings["prior_blocks"],
        settings["prior_dropout"],
        not settings["slices_alone"],
        rate_weight,
        vqvae,
    )


def make_optimizer(schedule: keras.optimizers.schedules.LearningRateSchedule) -> Adam:
    """The optimizer of all stages."""
    return Adam(schedule, beta_2=0.99, global_clipnorm=1.0)


def learning_rates(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Schedule of a stage: a short warm-up to `peak`, then to zero along a cosine.

    The first step of a warm-up has the rate 0, so a stage of a single step does without one.
    """
    decay = keras.optimizers.schedules.CosineDecay
    if steps == 1:
        return decay(peak, decay_steps=1)
    warmup = max(1, min(WARMUP, steps // 10))
    return decay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)


def _spread(count):
    """At most `SHOWN` indices below `count`, evenly apart."""
    return np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int)


def _shown_images(examples):
    return np.stack([examples.example(index, False)[0] for index in _spread(examples.count)])


def _reconstructions(vqvae, originals):
    return {"originals": originals, "reconstructions": vqvae.decode(vqvae.encode(originals))}


def _samples(prior, vqvae, seed):
    levels = _spread(prior.settings["num_levels"]).astype("int32")
    return {"samples": vqvae.decode(prior.sample(levels, numbered_seed(seed, 0)))}
