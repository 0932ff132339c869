"""What predict.py does once its flags are checked: a list of steps, and the anomaly maps."""

import argparse
import datetime
import pathlib
import time
import webbrowser
from typing import Any

import numpy as np

from dataset import load_images
from evaluation import anomalies, bids, classification, page, report, suitability, thresholds
from evaluation.attributes import find, plain, read_given, values_of
from evaluation.brains import GivenSlices, brains, draws_stacks
from evaluation.comparison import compare
from evaluation.context import Context, SamplingOptions
from evaluation.counterfactuals import counterfactuals
from evaluation.filling import fill, measure_fill
from evaluation.reconstruction import choose_codes, evaluate, read_code_counts, summarise
from evaluation.samples import complete, sample, spread_levels
from evaluation.stacks import resized, write_slices
from fitting import checkpoints, devices
from fitting.run_directory import RunDirectory, read_history
from networks.guidance import Guidance
from networks.logits import Drawing
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
    scan: Split | None,
) -> None:
    """Evaluate a split, draw samples and brains, compare them with real ones, and report.

    Args:
        args: Flags of predict.py.
        run: The run.
        config: Its `config.json`.
        slices: The data, or None to draw samples and brains only.
        scan: Slices of stacks to complete, or None.

    Raises:
        InputError: The run is damaged, or cannot do what is asked for.
    """
    made, models = provenance(), checkpoints.load_models(run)
    (vqvae, prior, texture), facts = models, facts_of_run(config["data"])
    drawing = Drawing(args.temperature, args.top_k, args.top_p)
    has_texture, told = bool(texture) and not args.no_texture, read_given(run, prior, args.given)
    sampling = SamplingOptions(args.seed, drawing, has_texture, told, Guidance(*args.guidance))
    context = Context(models, facts, sampling, slices and slices.splits[args.split], slices)
    split, size = context.split, vqvae.settings["image_size"]
    out, known = pathlib.Path(args.out or run.predictions), np.arange(prior.settings["num_levels"])
    same_data = bool(slices) and slices.are_of(config["data"])
    metrics = {
        "made": made,
        "data": {"image_size": size, "frame": list(vqvae.frame)},
        "codebook": {"size": vqvae.settings["codebook_size"]},
    }
    if split:
        suitability.check_levels(run, prior, split)
        known = np.unique(split.levels)
        counts, histories = read_code_counts(run.code_counts, vqvae), _read_curves(run)
    levels = spread_levels(args.samples, args.slice, known)
    num_brains, given = _plan_brains(run, models, args, facts, told)
    if scan:
        suitability.check_levels(run, prior, scan)
    _announce(facts, split, same_data)
    if split:
        suitability.warn_of_masking(vqvae.settings["masked"], split)

    with replacing_results(out, report.OWNED) as context.folder:
        if split:
            precision = "float64" if args.write_reconstructions else "float32"
            context.results = evaluate(models, split, args.rate_weight, told, precision)
            suitability.warn_of_unlikely(run, counts, context.results["alone_bits"])
            metrics |= summarise(context, counts, histories, args.rate_weight)
            trained_on = {"fingerprint": slices.fingerprint, "trained_on_this_data": same_data}
            metrics["data"] |= trained_on
        if args.write_reconstructions:
            folder, places = context.folder / "reconstructions", zip(split.cases, split.levels)
            restored, as_seen = context.results["restored"], resized(split.facts, size)
            write_slices(folder, restored, places, as_seen)
        metrics |= sample(context, levels)
        if num_brains:
            metrics |= brains(context, num_brains, given, args.walk)
        if args.fill is not None:
            metrics |= fill(context, scan) if scan else measure_fill(context)
        if args.complete:
            complete(context)
        if args.evaluate_samples:
            metrics |= compare(context, args.evaluate_samples)
        shown = split.facts if split else facts
        metrics = {**report.named_for(metrics, shown), "given": context.given}
        write_json(context.folder / report.METRICS, metrics | {"made": _ended(made)})
        if args.bids:
            bids.write(context.folder, args.bids, shown, made)
    report.print_table(metrics, shown)
    _show(args, run, out, context.figures)
    print(f"Figures and metrics.json are in {out}{_of_unknown_place(facts)}")


def map_anomalies(
    args: argparse.Namespace,
    run: RunDirectory,
    config: dict[str, Any],
    slices: Slices | None,
    scan: Split | None,
) -> None:
    """Map and score what is unusual in slices, and report the most unusual first.

    The maps of the validation people of the run say which values are unusual: their quantiles are
    kept in the run.

    Args:
        args: Flags of predict.py.
        run: The run.
        config: Its `config.json`.
        slices: The data whose split is mapped, or None.
        scan: Slices of a folder or of a volume to map in its place, or None.

    Raises:
        InputError: The run is damaged, or does not know the levels of the slices.
    """
    made, models = provenance(), checkpoints.load_models(run)
    split, name = _looked_at(args, slices, scan)
    facts, is_unseen = facts_of_run(config["data"]), args.split == "validate" and bool(slices)
    is_unseen = is_unseen and slices.are_of(config["data"]) and not args.given
    suitability.check_levels(run, models.prior, split)
    if args.slice is not None:
        is_unseen = False
        level = spread_levels(1, args.slice, np.unique(split.levels))
        split = split.pick(np.flatnonzero(split.levels == level))
    told = read_given(run, models.prior, args.given)
    context = Context(models, facts, SamplingOptions(args.seed, given=told), split)
    grey = load_images(context.split, models.vqvae.settings["image_size"])
    out, (kind, _) = pathlib.Path(args.out or run.predictions), devices.compute_device()
    print(f"{name}: {len(grey)} slices on the {kind}.", flush=True)
    suitability.warn_of_strange_slices(run, models, context.split, grey)
    with replacing_results(out, report.OWNED_ANOMALIES) as context.folder:
        begin, images = time.perf_counter(), to_unit(grey)
        context.results = anomalies.analyse(models, images, context.split, args.seed, told)
        seconds = (time.perf_counter() - begin) / len(grey)
        header = {
            "made": _ended(made),
            "data": name,
            "runs": [str(run)],
            "methods": list(anomalies.METHODS),
            # of a slice, and of its mirror image where it has one
            "draws": (1 if models.prior.settings["mirror"] == "none" else 2)
            * len(anomalies.LIMITS),
            "limits": list(anomalies.LIMITS),
            "seed": args.seed,
            "given": context.given,
            "seconds_a_slice": seconds,
        }
        if is_unseen:
            people = {"people": len(set(split.subjects.tolist()))}
            about = {"made": made, "data": name, **people, "seed": args.seed}
            thresholds.keep(run, context.results["maps"]["healing"], images, about)
        limits = thresholds.kept(run)
        scores = report.write_anomalies(context, header, images, limits)
        if args.bids:
            bids.write(context.folder, args.bids, split.facts, made)
    report.print_scores(scores)
    if not limits:
        print(
            f"{run} keeps no thresholds, so no clusters are listed. To measure them once in its "
            "validation people: predict.py --anomaly --split validate, with its --data."
        )
    _show(args, run, out, context.figures)
    scored, mapped = out / report.ANOMALIES, out / "anomaly"
    print(
        f"{seconds:.2f} s a slice. Scores are in {scored}, most unusual first, images in {mapped}"
        + _of_unknown_place(context.split.facts)
    )


def classify(
    args: argparse.Namespace,
    run: RunDirectory,
    _config: dict[str, Any],
    slices: Slices | None,
    scan: Split | None,
) -> None:
    """Say how likely each value of an attribute is for each case.

    Args:
        args: Flags of predict.py.
        run: The run.
        slices: The data whose split is classified, and whose validation split calibrates, or None.
        scan: Slices of a folder or of a volume to classify in place of a split, or None.

    Raises:
        InputError: The run is damaged, or knows neither the attribute nor how sure it may be.
    """
    made, models, wanted = provenance(), checkpoints.load_models(run), args.classify[0]
    split, name = _looked_at(args, slices, scan)
    place = find(run, models.prior, wanted, "--classify")
    suitability.check_levels(run, models.prior, split)
    calibration = classification.calibration(run, wanted)
    if args.data or not calibration:
        unseen = slices.splits.get("validate") if slices else None
        unseen = split.pick([]) if unseen is None else unseen
        known = values_of(unseen, wanted)
        calibration = classification.calibrate(run, models, place, unseen, known)
    attributes, out = models.prior.attributes, pathlib.Path(args.out or run.predictions)
    shares = classification.shares(attributes, place)
    cases, logs = classification.log_likelihoods(models, split, place)
    found = classification.probabilities(logs, shares, calibration["scale"])
    labels, file = attributes.each[place].labels, f"classify_{plain(wanted)}.json"
    rows = [
        {"case": case, "p": dict(zip(labels, row))}
        for case, row in zip(cases.tolist(), found.tolist())
    ]
    header = {"made": _ended(made), "data": name, "runs": [str(run)], "attribute": wanted}
    training = {"training": dict(zip(labels, shares.tolist()))}
    note = {"note": classification.NO_DIAGNOSIS, "calibration": calibration}
    with replacing_results(out, [file, *report.OWNED_PAGE]) as folder:
        write_json(folder / file, {**header, **note, **training, "cases": rows})
    report.print_probabilities(wanted, rows)
    _show(args, run, out, {})
    print(f"{classification.NO_DIAGNOSIS} All cases are in {out / file}")


def imagine(
    args: argparse.Namespace,
    run: RunDirectory,
    config: dict[str, Any],
    slices: Slices | None,
    scan: Split | None,
) -> None:
    """Write how slices would look if other attributes were given.

    Args:
        args: Flags of predict.py.
        run: The run.
        config: Its `config.json`.
        slices: The data whose split is taken, or None.
        scan: Slices of a folder or of a volume in its place, or None.

    Raises:
        InputError: The run is damaged, or does not know an attribute or the levels of the slices.
    """
    made, models = provenance(), checkpoints.load_models(run)
    (split, name), facts = _looked_at(args, slices, scan), facts_of_run(config["data"])
    given, own = (
        read_given(run, models.prior, pairs, flag)
        for pairs, flag in ((args.given, "--given"), (args.own, "--own"))
    )
    suitability.check_levels(run, models.prior, split)
    context = Context(models, facts, SamplingOptions(args.seed, given=given), split)
    grey = load_images(split, models.vqvae.settings["image_size"])
    suitability.warn_of_strange_slices(run, models, split, grey)
    out = pathlib.Path(args.out or run.predictions)
    with replacing_results(out, report.OWNED_COUNTERFACTUALS) as context.folder:
        found = counterfactuals(context, name, own, args.strength)
        header = {"made": _ended(made), "data": name, "runs": [str(run)], "given": context.given}
        header |= {"strength": args.strength, "seed": args.seed}
        write_json(context.folder / report.COUNTERFACTUALS, {**header, **found})
        if args.bids:
            bids.write(context.folder, args.bids, split.facts, made)
    report.print_counterfactuals(found["cases"])
    _show(args, run, out, context.figures)
    print(f"All are in {out / report.COUNTERFACTUALS}{_of_unknown_place(split.facts)}")


def _looked_at(args, slices, scan):
    """The slices that are looked at instead of all else, and their name."""
    if scan:
        return scan, scan.name
    return slices.splits[args.split], f"{slices.name}, {args.split} split"


def _of_unknown_place(facts):
    """What to add where volumes, which there are of several levels, cannot lie over the scans."""
    is_known = facts.affine or any("affine" in case for case in facts.cases.values())
    note = ". Volumes have voxels of 1 mm, because the place of slices is not known."
    return "" if is_known or facts.levels == 1 else note


def _ended(made):
    """How results were made, with the device and the minutes since `made` was asked for."""
    begin, now = datetime.datetime.fromisoformat(made["date"]), datetime.datetime.now(datetime.UTC)
    minutes, (kind, name) = (now - begin).total_seconds() / 60, devices.compute_device()
    return {**made, "device": f"{kind} ({name})", "minutes": round(minutes, 1)}


def _show(args, run, folder, figures):
    """Draw figures and the page into the folder of results, once all else has its place."""
    failed, place = {}, folder / report.PAGE
    figures = figures | {report.PAGE: lambda path: page.write(path, run)}
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
    print(f"The page of all results: {place}")
    if args.open and not webbrowser.open(place.resolve().as_uri()):
        print("No browser was found to open it.")


# ---- checks before the work --------------------------------------------------------------------


def _plan_brains(run, models, args, facts, told):
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
        suitability.check_levels(run, prior, one)
        if splits.setdefault(int(one.levels[0]), one) is not one:
            raise InputError(f"--from-slice {path} has the level of another: leave one out.")
    levels, size = np.array(sorted(splits)), models.vqvae.settings["image_size"]
    images = np.concatenate([load_images(splits[level], size) for level in levels.tolist()])
    codes = choose_codes(models, np.zeros_like(levels), levels, images, told)
    return max(count, 1), GivenSlices(levels, codes)


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


def _announce(facts, split, same_data):
    """Say what is evaluated, and on which device."""
    kind, _ = devices.compute_device()
    if not split:
        print(
            "No slices found: samples are drawn, and nothing is evaluated. Evaluation "
            f"needs the slices of {facts.name}: name their folder with --data DIR "
            f"(docs/data.md says how to get them). On the {kind}.",
            flush=True,
        )
        return
    name = split.facts.name
    trained = "" if same_data else f" The run was trained on other data: {facts.name}."
    print(f"{name}, {split.name} split, on the {kind}.{trained}", flush=True)
    if not split.facts.brain:
        print(
            f"{name} shows no brains, so their measures are left out (ventricles, area of "
            "the brain, white over grey).",
            flush=True,
        )
