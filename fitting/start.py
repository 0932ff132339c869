"""Start a training from another run: from its weights, or with its finished models.

So a few slices go far in minutes, a prior can choose the codes that it then learns, and a new prior
can learn the codes of a VQ-VAE that is there.
"""

import dataclasses
import shutil

import dataset
import modules
from fitting import checkpoints
from fitting.run_directory import RunDirectory, read_config
from fitting.settings import OF_VQVAE, Settings
from fitting.training_data import TrainingData
from utils import InputError, replacing


def check(
    source_run: RunDirectory, data: TrainingData, settings: Settings
) -> tuple[tuple[int, int, int, int], str]:
    """Check that the weights of another run fit a training.

    Args:
        source_run: The other run.
        data: Slices of the training.
        settings: Settings of the training.

    Returns:
        Frame of the VQ-VAE of the other run, and the digest of its VQ-VAE and, where that counts,
        of its prior.

    Raises:
        InputError: A model cannot be loaded, has another shape, another intensity or other levels,
            or its frame does not hold the slices.
    """
    if settings.keep_vqvae:
        models = [checkpoints.load_model(source_run.model("vqvae"))]
    else:
        models = checkpoints.load_models(source_run)[:2]
    vqvae, *priors = models
    there = {
        **{name: vqvae.settings[name] for name in (*OF_VQVAE, "masked")},
        **{name: value for prior in priors for name, value in _settings_of_prior(prior).items()},
        "intensity_range": read_config(source_run)["data"].get("intensity_range"),
    }
    here = {
        **dataclasses.asdict(settings),
        "masked": data.slices.masked if there["masked"] is not None else None,  # None: unknown
        "num_levels": data.slices.num_levels,
        "mirror": data.slices.facts.mirror,
        "intensity_range": [*dataset.INTENSITY_RANGE],
    }
    differences = [
        f"{name} is {here[name]!r} here and {value!r} there"
        for name, value in there.items()
        if here[name] != value
    ]
    top, left, bottom, right = data.frame
    first_row, first_column, last_row, last_column = vqvae.frame
    holds_rows = first_row <= top and bottom <= last_row
    if not (holds_rows and first_column <= left and right <= last_column):
        place = f"rows {top}-{bottom - 1} and columns {left}-{right - 1}"
        differences.append(f"the slices fill {place}, beyond its frame {vqvae.frame}")
    if differences:
        raise InputError(
            f"--start-from {source_run} does not fit ({'; '.join(differences)}): "
            "give its settings, or leave --start-from out."
        )
    return vqvae.frame, " ".join(map(checkpoints.fingerprint, models))


def keep_models(source_run: RunDirectory, run: RunDirectory, settings: Settings) -> None:
    """Copy the VQ-VAE of another run, and perhaps its prior as the first prior.

    What is there is not copied again. The stages of the copies are then finished. With
    `choose_codes_again` the next codes are chosen with that prior.
    """
    stages = {"vqvae": "vqvae"}
    if settings.choose_codes_again:
        stages["first_prior"] = "prior"
    for stage, its_stage in stages.items():
        if not run.history(stage).exists():
            for file in ("model", "history"):  # in this order
                with replacing(getattr(run, file)(stage)) as temporary:
                    shutil.copyfile(getattr(source_run, file)(its_stage), temporary)


def _settings_of_prior(prior):
    names = [name for name, kind in modules.PRIORS.items() if type(prior) is kind]
    return {
        "prior": names[0] if names else type(prior).__name__,
        "num_levels": prior.settings["num_levels"],
        "prior_width": prior.settings["width"],
        "prior_blocks": prior.settings["blocks"],
        "neighbours": prior.settings["neighbours"],
        "mirror": prior.settings["mirror"],
    }
