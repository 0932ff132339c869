"""What predict.py does once its flags are checked: a list of steps, and the anomaly maps."""

import argparse
import pathlib
import time
from typing import Any

import numpy as np

from dataset import load_images
from evaluation import anomalies, report, suitability
from evaluation.brains import GivenSlices, brains, draws_stacks
from evaluation.comparison import compare
from evaluation.context import Context, SamplingOptions
from evaluation.filling import fill, measure_fill
from evaluation.reconstruction import choose_codes, evaluate, read_code_counts, summarise
from evaluation.samples import complete, sample, spread_levels
from evaluation.suitability import check_levels
from fitting import checkpoints, devices
from fitting.run_directory import RunDirectory, read_history
from modules import VQVAE, Models
from sources.facts import facts_of_run
from sources.folder import Slices, Split, open_slice
from sources.images import to_unit
from utils import InputError, provenance, replacing_results, write_json

CURVES = {"vqvae": ("ssim", "codes_used", "perplexity"), "prior": ("loss",)}  # in a figure
MAX_CURVE = 1e12  # matplotlib cannot draw the largest numbers


def predict(
    args: argparse.Namespace,
    run: RunDirectory,
    config: dict[str, Any],
    slices: Slices | None,
    to_fill: Split | None = None,
) -> None:
    """Evaluate a split, draw samples and brains, compare them with real ones, and report.

    Args:
        args: Flags of predict.py.
        run: The run.
        config: Its `config.json`.
        slices: The data, or None to draw samples and brains only.
        to_fill: Slices of stacks to complete, or None.

    Raises:
        InputError: The run is damaged, or cannot do what is asked for.
    """
    made, models = provenance(), checkpoints.load_models(run)
    split = slices.splits[args.split] if slices else None
    texture = bool(models.texture) and not args.no_texture
    sampling = SamplingOptions(args.seed, args.temperature, args.top_k, args.top_p, texture)
    levels = _sample_levels(run, models, split, args)
    facts, out = facts_of_run(config["data"]), _results(run, args)
    num_brains, given = _plan_brains(run, models, args, facts)
    if to_fill:
        check_levels(run, models.prior, to_fill)
    same_data = bool(slices) and slices.are_of(config["data"])
    counts = read_code_counts(run.code_counts, models.vqvae) if split else None
    histories = _read_curves(run) if split else None
    _announce(models.vqvae, facts, same_data, slices, split)

    with replacing_results(out, report.OWNED) as folder:
        images = folder / "reconstructions" if args.write_reconstructions else None
        results = evaluate(models, split, args.rate_weight, images) if split else None
        context = Context(models, facts, sampling, folder, slices, split, results)
        if split:
            suitability.warn_of_unlikely(run, counts, results["alone_bits"])
            metrics = summarise(context, counts, histories, args.rate_weight, same_data)
        else:
            metrics = _describe(models.vqvae)
        metrics = {"made": made, **metrics, **sample(context, levels)}
        if num_brains:
            metrics |= brains(context, num_brains, given, args.walk)
        if args.fill is not None:
            metrics |= fill(context, to_fill) if to_fill else measure_fill(context)
        if args.complete:
            complete(context)
        if args.evaluate_samples:
            metrics |= compare(context, args.evaluate_samples)
        shown = split.facts if split else facts
        metrics = report.named_for(metrics, shown)
        write_json(folder / report.METRICS, metrics)
    report.print_table(metrics, shown)
    _draw_figures(out, context.figures)
    print(f"Figures and metrics.json are in {out}{_of_unknown_place(facts)}")


def _results(run, args):
    """Folder of the results."""
    return pathlib.Path(args.out) if args.out else run.predictions


def map_anomalies(
    args: argparse.Namespace, run: RunDirectory, config: dict[str, Any], split: Split, name: str
) -> None:
    """Map and score what is unusual in slices, and report the most unusual first.

    Args:
        args: Flags of predict.py.
        run: The run.
        config: Its `config.json`.
        split: The slices.
        name: Name of these slices.

    Raises:
        InputError: The run is damaged, or does not know the levels of the slices.
    """
    made, models = provenance(), checkpoints.load_models(run)
    check_levels(run, models.prior, split)
    facts, out = facts_of_run(config["data"]), _results(run, args)
    split, counts = _at_level(split, args.slice), read_code_counts(run.code_counts, models.vqvae)
    grey = load_images(split, models.vqvae.settings["image_size"])
    images = to_unit(grey)
    kind, _ = devices.compute_device()
    print(f"{name}: {len(split)} slices on the {kind}.", flush=True)
    suitability.warn_of_masking(models.vqvae.settings["masked"], split)
    suitability.warn_of_strange_slices(run, models, counts, split, grey)
    with replacing_results(out, report.OWNED_ANOMALIES) as folder:
        begin = time.perf_counter()
        results = anomalies.analyse(models, images, split, args.seed)
        seconds = (time.perf_counter() - begin) / len(split)
        header = {
            "made": made,
            "data": name,
            "runs": [str(run)],
            "methods": list(anomalies.METHODS),
            # of a slice, and of its mirror image where it has one
            "draws": (1 if models.prior.settings["mirror"] == "none" else 2)
            * len(anomalies.LIMITS),
            "limits": list(anomalies.LIMITS),
            "seed": args.seed,
            "seconds_a_slice": seconds,
        }
        scores, figures = report.write_anomalies(folder, header, facts.name, split, images, results)
    report.print_scores(scores)
    _draw_figures(out, figures)
    scored, mapped = out / report.ANOMALIES, out / "anomaly"
    print(
        f"{seconds:.2f} s a slice. Scores are in {scored}, most unusual first, images in {mapped}"
        + _of_unknown_place(split.facts)
    )


def _of_unknown_place(facts):
    """What to add where volumes cannot lie over the scans."""
    is_known = facts.affine or any("affine" in case for case in facts.cases.values())
    if is_known or facts.levels == 1:  # of one level there are no volumes
        return ""
    return ". Volumes have voxels of 1 mm, because the place of slices is not known."


def _draw_figures(folder, figures):
    """Draw figures into the folder of results, once all else has its place."""
    failed = {}
    for name, draw in figures.items():
        try:
            draw(folder / name)
        except Exception as error:  # of matplotlib, its fonts or the disk
            failed[name] = str(error)[:200] or type(error).__name__
    if failed:
        raise InputError(
            f"{folder} has all but {', '.join(failed)}, which could not be drawn "
            f"({'; '.join({*failed.values()})}): check the disk and matplotlib, and repeat."
        )


# ---- checks before the work --------------------------------------------------------------------


def _sample_levels(run, models: Models, split, args):
    """Level of each sample, among those of the split or, without one, of the prior."""
    known = np.arange(models.prior.settings["num_levels"])
    if split:
        check_levels(run, models.prior, split)
        known = np.unique(split.levels)
    return spread_levels(args.samples, args.slice, known)


def _plan_brains(run, models: Models, args, facts):
    """Number of brains to draw, and the slices that all of them hold, or None."""
    prior = models.prior
    if not draws_stacks(prior):
        if args.brains or args.from_slice or args.walk or args.fill is not None:
            reason = "reads no neighbouring slices, so it draws single slices"
            remedy = (
                "leave out --brains, --from-slice, --fill and --walk, or train with --neighbours 1"
            )
            if prior.settings["num_levels"] == 1:
                reason, remedy = "knows one level", remedy.partition(", or")[0]
            raise InputError(f"the prior of {run} {reason}: {remedy}.")
        return 0, None
    count = 1 if args.brains is None else max(args.brains, int(args.walk))
    if not args.from_slice:
        return count, None
    level = args.slice if len(args.from_slice) == 1 else None
    splits = {}
    for path in args.from_slice:
        one = open_slice(path, level, facts)
        check_levels(run, prior, one)
        if splits.setdefault(int(one.levels[0]), one) is not one:
            raise InputError(f"--from-slice {path} has the level of another: leave one out.")
    levels, size = np.array(sorted(splits)), models.vqvae.settings["image_size"]
    images = np.concatenate([load_images(splits[level], size) for level in levels.tolist()])
    codes = choose_codes(models, np.zeros_like(levels), levels, images)
    return max(count, 1), GivenSlices(levels, codes)


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


def _read_curves(run: RunDirectory):
    """Learning curves by stage and column, or None where a run has none."""
    curves = {}
    for stage, figures in CURVES.items():
        path = run.history(stage)
        rows = read_history(path, figures)
        if not rows:
            print(f"{run} lacks {path.name}, so there is no figure of its training.", flush=True)
            return None
        columns = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
        curves[stage] = {n: np.clip(column, -MAX_CURVE, MAX_CURVE) for n, column in columns.items()}
    return curves


def _describe(vqvae: VQVAE):
    """What `metrics.json` says of the model where no slices were evaluated."""
    data = {"image_size": vqvae.settings["image_size"], "frame": list(vqvae.frame)}
    return {"data": data, "codebook": {"size": vqvae.settings["codebook_size"]}}


def _announce(vqvae, facts, same_data, slices, split):
    """Say what is evaluated, and on which device."""
    kind, _ = devices.compute_device()
    if split is None:
        print(
            "No slices found: samples are drawn, and nothing is evaluated. Evaluation "
            f"needs the slices of {facts.name}: name their folder with --data DIR "
            f"(docs/data.md says how to get them). On the {kind}.",
            flush=True,
        )
        return
    other = "" if same_data else f" The run was trained on other data: {facts.name}."
    print(f"{slices.name}, {split.name} split, on the {kind}.{other}", flush=True)
    if not slices.facts.brain:
        print(
            f"{slices.name} shows no brains, so their measures are left out (ventricles, area of "
            "the brain, white over grey).",
            flush=True,
        )
    suitability.warn_of_masking(vqvae.settings["masked"], split)
