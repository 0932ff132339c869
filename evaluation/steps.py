"""What predict.py does once its flags are checked: a list of steps, and the anomaly maps."""

import functools
import pathlib
import time
from typing import Any

import numpy as np

from evaluation import anomalies, report
from evaluation.brains import brains, plan
from evaluation.comparison import compare
from evaluation.context import Context, SamplingOptions
from evaluation.reconstruction import check_levels, evaluate, read_code_counts, summarise
from evaluation.samples import complete, describe_model, sample, spread_levels
from fitting import checkpoints, devices
from fitting.run_directory import RunDirectory, read_history
from modules import VQVAE
from networks.raster import RasterPrior
from sources.folder import Slices, Split, open_slice
from utils import InputError, provenance, replacing_results

CURVES = {"vqvae": ("ssim", "codes_used", "perplexity"), "prior": ("loss",)}  # in a figure
MAX_CURVE = 1e12  # matplotlib cannot draw the largest numbers


def predict(
    run: RunDirectory,
    config: dict[str, Any],
    slices: Slices | None,
    sampling: SamplingOptions,
    *,
    split_name: str = "test",
    rate_weight: float | None = None,
    write_reconstructions: bool = False,
    num_samples: int = 16,
    level: int | None = None,
    num_brains: int | None = None,
    from_slice: str | None = None,
    walk: bool = False,
    completions: bool = False,
    num_compared: int | None = None,
) -> None:
    """Evaluate a split, draw samples and brains, compare them with real ones, and report.

    Args:
        run: The run.
        config: Its `config.json`.
        slices: The data, or None to draw samples and brains only.
        sampling: How codes and textures are drawn.
        split_name: Split to evaluate.
        rate_weight: Price of one bit when codes are chosen, or None for that of the training.
        write_reconstructions: Whether to write every reconstruction.
        num_samples: Number of slices to draw.
        level: Level of all samples, or None to spread them over all levels.
        num_brains: Number of brains to draw, or None for one if the prior can.
        from_slice: File of the slice that brains begin with, or None.
        walk: Whether to show every slice of the first brain.
        completions: Whether to draw missing halves of slices.
        num_compared: Number of slices to draw and compare with real ones, or None for none.

    Raises:
        InputError: The run is damaged, or cannot do what is asked for.
    """
    made, models = provenance(), checkpoints.load_models(run)
    split = slices.splits[split_name] if slices else None
    levels = _sample_levels(run, models.prior, split, num_samples, level)
    first = open_slice(from_slice, level) if from_slice else None
    num_brains, begin = plan(models, run, num_brains, first, walk)
    same_data = bool(slices) and slices.fingerprint == config["data"]["fingerprint"]
    trained_on = config["data"]["name"]

    steps = [describe_model]
    if split:
        training = {"code_counts": _read_counts(run, models.vqvae), "histories": _read_curves(run)}
        steps = [
            functools.partial(summarise, **training, rate_weight=rate_weight, same_data=same_data)
        ]
    steps.append(functools.partial(sample, levels=levels))
    if num_brains:
        steps.append(functools.partial(brains, count=num_brains, begin=begin, walk=walk))
    if completions:
        steps.append(complete)
    if num_compared:
        steps.append(functools.partial(compare, count=num_compared))

    _announce(models.vqvae, trained_on, same_data, slices, split)
    with replacing_results(run.predictions, report.OWNED) as folder:
        images = folder / "reconstructions" if write_reconstructions else None
        results = evaluate(models, split, rate_weight, images) if split else None
        context = Context(models, trained_on, sampling, folder, slices, split, results)
        sections = [step(context) for step in steps]
        metrics = report.write(folder, made, sections)
    report.print_table(metrics)
    print(f"Figures and metrics.json are in {run.predictions}")


def map_anomalies(
    run: RunDirectory, trained_on: str, split: Split, name: str, level: int | None, seed: int
) -> None:
    """Map and score what is unusual in slices, and report the most unusual first.

    Args:
        run: The run.
        trained_on: Name of the data that it learned from.
        split: The slices.
        name: Name of these slices.
        level: Level of the slices to map, or None for all.
        seed: Seed of the draws.

    Raises:
        InputError: The run is damaged, or does not know the levels of the slices.
    """
    made, models = provenance(), checkpoints.load_models(run)
    check_levels(run, models.prior, split)
    split = _at_level(split, level)
    images = anomalies.load_slices(models, split)
    kind, _ = devices.compute_device()
    print(f"{name}: {len(split)} slices on the {kind}.", flush=True)
    _warn_of_masking(models.vqvae, split)
    with replacing_results(run.predictions, report.OWNED_ANOMALIES) as folder:
        begin = time.perf_counter()
        results = anomalies.analyse(models, images, split, seed)
        seconds = (time.perf_counter() - begin) / len(split)
        about = {"made": made, "data": name, "runs": [str(run)]}
        header = {**about, **anomalies.settings(seed), "seconds_a_slice": seconds}
        scores = report.write_anomalies(folder, header, trained_on, split, images, results)
    report.print_scores(scores)
    out = run.predictions
    print(
        f"{seconds:.2f} s a slice. Scores are in {out / report.ANOMALIES}, "
        f"most unusual first, images in {out / 'anomaly'}"
    )


# ---- checks before the work --------------------------------------------------------------------


def _sample_levels(run, prior: RasterPrior, split, count, level):
    """Level of each sample, among those of the split or, without one, of the prior."""
    if not split:
        return spread_levels(count, level, np.arange(prior.settings["num_levels"]))
    check_levels(run, prior, split)
    return spread_levels(count, level, np.unique(split.levels))


def _at_level(split, level):
    """The slices of a level, or all slices where it is None."""
    if level is None:
        return split
    here = np.flatnonzero(split.levels == level)
    if not len(here):
        least, most = split.levels.min(), split.levels.max()
        raise InputError(
            f"--slice must be a level of the slices, {least} to {most}. Received: {level}"
        )
    return split.pick(here)


def _read_counts(run, vqvae: VQVAE):
    return read_code_counts(run.code_counts, (*vqvae.grid, vqvae.settings["codebook_size"]))


def _read_curves(run):
    """Learning curves by stage and column, or None where a run has none."""
    curves = {}
    for stage, figures in CURVES.items():
        path: pathlib.Path = run.history(stage)
        rows = read_history(path, figures)
        if not rows:
            print(f"{run} lacks {path.name}, so there is no figure of its training.", flush=True)
            return None
        names = ("epoch", *figures, *(f"val_{figure}" for figure in figures))
        values = {name: np.array([row[name] for row in rows], float) for name in names}
        curves[stage] = {n: np.clip(column, -MAX_CURVE, MAX_CURVE) for n, column in values.items()}
    return curves


def _announce(vqvae, trained_on, same_data, slices, split):
    """Say what is evaluated, and on which device."""
    kind, _ = devices.compute_device()
    if split is None:
        print(
            "No slices found: samples and a brain are drawn, and nothing is evaluated. Evaluation "
            f"needs the slices of {trained_on}: name their folder with --data DIR "
            f"(docs/data.md says how to get them). On the {kind}.",
            flush=True,
        )
        return
    other = "" if same_data else f" The run was trained on other data: {trained_on}."
    print(f"{slices.name}, {split.name} split, on the {kind}.{other}", flush=True)
    _warn_of_masking(vqvae, split)


def _warn_of_masking(vqvae, split):
    """Warn where a model of brain-masked slices gets slices with scalp, or the other way round."""
    kinds = {True: "brain-masked slices", False: "slices with scalp"}
    learned = vqvae.settings["masked"]
    if learned is not None and learned != split.masked:
        print(
            f"WARNING: the model learned from {kinds[learned]} and gets {kinds[split.masked]}: "
            "its figures and maps say little.",
            flush=True,
        )
