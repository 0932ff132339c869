"""Which value of an attribute a case has, by the likelihoods of its codes. It is no diagnosis."""

import contextlib
from typing import Any

import numpy as np
from scipy import special

from dataset import load_images
from evaluation.reconstruction import BATCH, choose_codes
from fitting.run_directory import RunDirectory
from modules import Models
from networks.attributes import UNKNOWN, Attributes, labelled
from networks.layers import in_precision
from networks.order import among, arrange
from sources.folder import Split
from utils import InputError, progress, read_json, reading, write_json

SCALES = np.geomspace(1e-4, 1, 81)  # of log likelihoods, from which one is chosen
LEAST_PEOPLE = 5  # to choose it by
NO_DIAGNOSIS = "This is no diagnosis and no medical device: groups of people are compared."


def log_likelihoods(models: Models, split: Split, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood of each case under each value of an attribute, all others unknown.

    The codes are chosen with all unknown, so that they favour no value.

    Args:
        models: The networks.
        split: The slices of C cases.
        place: Place of the attribute, of V values, among those of the prior.

    Returns:
        The cases `(C,)` in rising order, and nats `(C, V)`.
    """
    models = Models(*(in_precision(model, "float32") for model in models[:2]))
    vqvae, prior, _ = models
    images = load_images(split, vqvae.settings["image_size"])
    codes = choose_codes(models, split.cases, split.levels, images)
    order = arrange(split.cases, split.levels, prior.settings["neighbours"])
    values = np.arange(len(prior.attributes.each[place].labels))
    of_slices = np.empty((len(split), len(values)))
    batches = np.split(np.arange(len(split)), range(BATCH, len(split), BATCH))
    for batch in progress(batches, "comparing values"):
        known = among(order, codes, batch)
        for value in values:
            numbers = np.full(len(prior.attributes), UNKNOWN)
            numbers[place] = 1 + value
            told = labelled(split.levels[batch], numbers)
            bits = np.asarray(prior.bits(codes[batch], told, known), float)
            of_slices[batch, value] = -np.log(2) * bits.sum((1, 2))
    cases, of_case = np.unique(split.cases, return_inverse=True)
    of_cases = np.zeros((len(cases), len(values)))
    np.add.at(of_cases, of_case, of_slices)
    return cases, of_cases


def shares(attributes: Attributes, place: int) -> np.ndarray:
    """Share of the training people that have each value of an attribute, `(V,)`."""
    counts = np.diag(attributes.counts[place][place])
    return counts / max(counts.sum(), 1.0)


def probabilities(logs: np.ndarray, prior: np.ndarray, scale: float) -> np.ndarray:
    """Probability of each value `(C, V)`, of log likelihoods `(C, V)` and of shares `(V,)`.

    Neighbouring codes are far from independent, and so the sum of their logarithms is too sure: it
    is multiplied by `scale`.
    """
    return special.softmax(scale * logs + np.log(np.maximum(prior, 1e-9)), axis=1)


def fit_scale(logs: np.ndarray, prior: np.ndarray, values: np.ndarray) -> float:
    """The one of `SCALES` under which known values are likeliest: temperature scaling.

    Args:
        logs: Log likelihoods, `(C, V)`.
        prior: Shares of the values, `(V,)`.
        values: Value of each case from 0 on, `(C,)`.

    Reference:
        Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    rows = np.arange(len(values))
    found = [np.log(probabilities(logs, prior, s)[rows, values] + 1e-12).sum() for s in SCALES]
    return float(SCALES[np.argmax(found)])


# ---- the scale of a run --------------------------------------------------------------------------


def calibrate(
    run: RunDirectory, models: Models, place: int, split: Split, known: dict[int, Any]
) -> dict[str, Any]:
    """Fit the scale of an attribute on people whose value is known, and keep it in the run.

    Args:
        run: The run, which may be read-only.
        models: Its networks.
        place: Place of the attribute among those of the prior.
        split: Slices of people that the training has not seen.
        known: Values by case.

    Returns:
        `scale`, `people` and `data` on which it was fitted.

    Raises:
        InputError: Too few values are known.
    """
    attribute = models.prior.attributes.each[place]
    numbers = {case: attribute.number(known.get(case)) for case in set(split.cases.tolist())}
    split = split.pick([i for i, case in enumerate(split.cases.tolist()) if numbers[case]])
    people = len(set(split.subjects.tolist()))
    if people < LEAST_PEOPLE:
        raise InputError(
            f"--classify is calibrated by {LEAST_PEOPLE} people or more of a validation split "
            f"whose {attribute.name} is known: name their --data. Received: {people}"
        )
    cases, logs = log_likelihoods(models, split, place)
    values = np.array([numbers[case] for case in cases.tolist()]) - 1
    scale = fit_scale(logs, shares(models.prior.attributes, place), values)
    found = {"scale": scale, "people": people, "data": split.facts.name}
    with contextlib.suppress(OSError):
        write_json(run.calibration, {**_read(run), attribute.name: found})
    return found


def calibration(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """What `calibrate` found for an attribute before, or None."""
    return _read(run).get(name)


def _read(run):
    if not run.calibration.is_file():
        return {}
    with reading(run.calibration, "remove it and name the --data of the run"):
        found = read_json(run.calibration)
        for name, of in found.items():
            if not SCALES[0] <= of["scale"] <= SCALES[-1]:
                raise ValueError(f"the scale of {name} is out of range")
            int(of["people"]), str(of["data"])
        return found
