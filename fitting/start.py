"""Begin a training with the weights of another run, or with its finished models.

So a few slices go far in minutes, and a prior can choose the codes that it then learns.
"""

import dataclasses
import shutil

import numpy as np

import dataset
from fitting import checkpoints
from fitting.run_directory import RunDirectory, read_config
from fitting.training_data import TrainingData
from utils import InputError, replacing

# Settings that shape the networks.
SHAPE = ("image_size", "reduction", "codebook_size", "code_dim", "width")
PRIOR_SHAPE = ("prior_width", "prior_blocks", "slices_alone")


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights of another run.

    Attributes:
        frame: Frame of its VQ-VAE.
        vqvae: Weights of its VQ-VAE.
        prior: Weights of its prior.
        digest: Digest of both models.
    """

    frame: tuple[int, int, int, int]
    vqvae: list[np.ndarray]
    prior: list[np.ndarray]
    digest: str


def load(run: RunDirectory, data: TrainingData, settings: dict) -> Start:
    """Load the weights of another run and check that they fit.

    Args:
        run: The other run.
        data: Slices of the training that begins.
        settings: Settings of the training that begins.

    Raises:
        InputError: A model cannot be loaded, has another shape, another intensity or other levels,
            or its frame does not hold the slices.
    """
    vqvae, prior, _ = checkpoints.load_models(run)
    theirs = {**vqvae.settings, **_prior_shape(prior)}
    differences = [
        f"{name} is {settings[name]!r} here and {theirs[name]!r} there"
        for name in (*SHAPE, *PRIOR_SHAPE)
        if settings[name] != theirs[name]
    ]
    low_high = read_config(run)["data"].get("intensity_range")
    if list(low_high or ()) != list(dataset.INTENSITY_RANGE):
        differences.append(f"intensities are {dataset.INTENSITY_RANGE} here and {low_high} there")
    if vqvae.settings["masked"] not in (None, data.slices.masked):
        differences.append("slices are brain-masked on one side and have scalp on the other")
    levels = prior.settings["num_levels"]
    if levels != data.slices.num_levels:
        differences.append(f"levels are {data.slices.num_levels} here and {levels} there")
    top, left, bottom, right = data.frame
    if not _holds(vqvae.frame, data.frame):
        place = f"rows {top}-{bottom - 1} and columns {left}-{right - 1}"
        differences.append(f"the slices fill {place}, beyond its frame {vqvae.frame}")
    if differences:
        raise InputError(
            f"--start-from {run} does not fit ({'; '.join(differences)}): "
            "give its settings, or leave --start-from out."
        )
    digest = f"{checkpoints.fingerprint(vqvae)} {checkpoints.fingerprint(prior)}"
    return Start(vqvae.frame, vqvae.get_weights(), prior.get_weights(), digest)


def keep_models(other: RunDirectory, run: RunDirectory) -> None:
    """Copy the VQ-VAE of another run, and its prior as the draft, unless they are there.

    The stages of both are then finished, and the next codes are chosen with that prior.
    """
    for stage, its_stage in (("vqvae", "vqvae"), ("draft", "prior")):
        if not run.history(stage).exists():
            copies = (other.model, run.model), (other.history, run.history)  # in this order
            for source, target in copies:
                with replacing(target(stage)) as temporary:
                    shutil.copyfile(source(its_stage), temporary)


def _prior_shape(prior):
    shape = prior.settings
    return {
        "prior_width": shape["width"],
        "prior_blocks": shape["blocks"],
        "slices_alone": not shape["reads_below"],
    }


def _holds(outer, inner):
    outer, inner = np.array(outer), np.array(inner)
    return (outer[:2] <= inner[:2]).all() and (outer[2:] >= inner[2:]).all()
