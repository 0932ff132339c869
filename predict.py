"""Evaluate a run on a split of the slices, draw its figures, and draw new slices and brains.

python predict.py                                  # the run of `python train.py`
python predict.py --run DIR --data DIR --samples 32 --brains 4 --seed 7
"""

import time

import numpy as np

from evaluation.saved import FIGURES_OF_STAGES
from fitting.run_directory import RunDirectory, read_config, read_history
from sources.folder import find_slices, open_folder, open_slice, open_slices, synthetic_slices
from sources.layout import DEFAULT_DIRECTORY, MAX_SUBJECTS, SPLITS
from utils import (
    InputError,
    Parser,
    between,
    command_line,
    import_tensorflow,
    provenance,
    replacing_results,
)

LEAST_SUBJECTS = 20  # in training, for a classifier that is tested on subjects it has not seen
MAX_SEED = 2**31 - 1


def parse(arguments=None):
    """Flags of the script."""
    parser = Parser(__doc__)
    _add_evaluation_flags(parser)
    _add_sample_flags(parser)
    _add_anomaly_flags(parser)
    args = parser.parse_args(arguments)
    if args.redraw and args.anomaly is not None:
        parser.error("argument --redraw: it draws the saved anomalies too, leave --anomaly out")
    return args


# One flag in two or three lines reads best.
# fmt: off
def _add_evaluation_flags(parser):
    add = parser.add_argument_group("evaluation").add_argument
    add("--run", metavar="DIR", default="runs/default",
        help="run directory of train.py (default: %(default)s)")
    add("--data", metavar="DIR",
        help="folder with the three splits (default: the synthetic cohort if the run was trained "
        "on it, else data/keras_png_slices_data)")
    add("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L",
        help="price of one bit when codes are chosen: code minimises distance + L x bits; "
        "0 for the nearest codes (default: that of the training)")
    add("--write-reconstructions", action="store_true",
        help="write every reconstruction of the split as a PNG")
    add("--redraw", action="store_true",
        help="draw the figures again from the saved results, without evaluating")


def _add_sample_flags(parser):
    add = parser.add_argument_group("samples").add_argument
    add("--samples", type=between(int, 0, 10**5), default=16, metavar="N",
        help="number of slices to generate (default: %(default)s)")
    add("--slice", type=between(int, 0, 9999), metavar="K",
        help="level of all samples (default: spread over all levels)")
    add("--seed", type=between(int, 0, MAX_SEED), default=0, metavar="N",
        help="the same seed gives the same slices (default: %(default)s)")
    add("--temperature", type=between(float, 0.01, 100), default=1.0, metavar="T",
        help="below 1 for likelier slices (default: %(default)s)")
    add("--top-k", type=between(int, 0, 2**16), default=0, metavar="K",
        help="draw among the K likeliest codes (default: all)")
    add("--top-p", type=between(float, 0.01, 1), default=1.0, metavar="P",
        help="draw among the likeliest codes that together reach probability P (default: all)")
    add("--evaluate-samples", type=between(int, 10, 10**5), metavar="N",
        help="compare N samples with real slices: `generation` in metrics.json")
    add("--complete", action="store_true",
        help="draw the missing half of slices of the split, several times: completions.png")
    add("--brains", type=between(int, 0, 10**4), metavar="N",
        help="number of whole brains to generate, from bottom to top "
        "(default: 1 if the prior reads the slices below)")
    add("--from-slice", metavar="FILE",
        help="grow the brains up from this slice; its file name says its level, or --slice does")
    add("--no-texture", action="store_true",
        help="draw without the fine grain that codes lose")
    add("--walk", action="store_true", help="show every slice of the first brain: walk.png")


def _add_anomaly_flags(parser):
    add = parser.add_argument_group("anomalies").add_argument
    add("--anomaly", metavar="DIR", nargs="?", const="",
        help="instead of all else, map what is unusual in the slices of a folder, or without DIR "
        "in those of the split; --slice and --seed apply")
# fmt: on


def main(args):
    """Draw saved results again, map what is unusual, or evaluate and sample."""
    run = RunDirectory(args.run)
    if args.redraw:
        import_report()
        report.redraw(run.predictions)
        print(f"The figures in {run.predictions} are drawn again.")
        return
    config = read_config(run)
    if args.anomaly is None:
        slices = None if has_no_slices(config, args) else find_data(config, args)
        check_evaluation_of_samples(slices, config, args)
        import_rooms()
        predict(run, config, slices, args)
    else:
        split, name = find_split(config, args)
        import_rooms()
        map_anomalies(run, config, split, name, args)


def import_report():
    """Load what draws figures, which needs no TensorFlow."""
    global report
    from evaluation import report  # noqa: PLC0415


def import_rooms():
    """Load TensorFlow and the rooms that need it, which takes seconds, now that all is checked."""
    global brains, checkpoints, devices
    global reconstruction, comparison, anomalies, samples, selection, stacks
    import_tensorflow()
    import_report()
    from evaluation import (  # noqa: PLC0415
        anomalies,
        brains,
        comparison,
        reconstruction,
        samples,
        selection,
        stacks,
    )
    from fitting import checkpoints, devices  # noqa: PLC0415


# ---- evaluation and samples --------------------------------------------------------------------


def predict(run, config, slices, args):
    """Load, evaluate, sample, report: everything but `--anomaly`. Without slices, sample only."""
    made = provenance()
    models = vqvae, prior, texture = checkpoints.load_models(run)
    split = slices.splits[args.split] if slices else None
    known_levels = np.arange(prior.settings["num_levels"])
    if split:
        reconstruction.check_levels(run, prior, split)
        known_levels = np.unique(split.levels)
    levels = samples.spread_levels(args.samples, args.slice, known_levels)
    options = samples.SamplingOptions(
        args.seed, args.temperature, args.top_k, args.top_p, not args.no_texture
    )
    first = open_slice(args.from_slice, args.slice) if args.from_slice else None
    num_brains, begin = brains.plan(models, run, args.brains, first, args.walk)
    parts = {}
    if split:
        code_counts, parts = read_training(run, vqvae)
    parts["model"] = {"trained_on": config["data"]["name"], "grid": vqvae.grid}
    announce(vqvae, config, slices, split)

    with replacing_results(run.predictions, report.OWNED) as folder:
        results, metrics = None, samples.describe_model(vqvae)
        if split:
            results, metrics = evaluate(models, slices, split, code_counts, args, folder)
            same = slices.fingerprint == config["data"]["fingerprint"]
            metrics["data"]["trained_on_this_data"] = same
            codebook = vqvae.quantizer.codebook.numpy()
            parts |= selection.evaluation_parts(results, split, codebook, code_counts, vqvae.frame)
        real = results, split
        metrics["samples"], shown = samples.sample(
            models, levels, options, *real, folder / "samples"
        )
        parts |= shown
        if num_brains:
            metrics["brains"], shown = brains.brains(
                models, num_brains, options, begin, *real, folder / "brains", args.walk
            )
            parts |= shown
        if args.complete:
            parts |= samples.complete(models, parts["reconstructions"], options)
        if args.evaluate_samples:
            metrics["generation"], shown = evaluate_drawn(
                models, slices, results, split, options, args
            )
            parts |= shown
        report.save(folder, {"made": made, **metrics}, parts)
        report.draw(folder, folder)
    report.print_table(metrics)
    print(f"Figures and metrics.json are in {run.predictions}")


def evaluate_drawn(models, slices, results, split, options, args):
    """Compare samples, and brains where the prior draws any, with real ones."""
    vqvae = models.vqvae
    other = "test" if split.name == "validate" else "validate"
    training, other = (
        comparison.Held.load(slices.splits[name], vqvae.settings["image_size"])
        for name in ("train", other)
    )
    real = results, split
    report, parts = comparison.evaluate_samples(
        models, *real, training, other, args.evaluate_samples, options
    )
    if models.prior.settings["reads_below"]:
        learned = training.images, slices.splits["train"]
        report["brains"] = stacks.evaluate_brains(models, *real, *learned, options)
        if "ventricles" in report["brains"]:
            parts |= selection.ventricle_parts(report["brains"]["ventricles"])
    return report, parts


def announce(vqvae, config, slices, split):
    """Say what is evaluated, and on which device."""
    kind, _ = devices.compute_device()
    if split is None:
        print(
            "No slices found: samples and a brain are drawn, and nothing is evaluated. Evaluation "
            f"needs the slices of {config['data']['name']}: name their folder with --data DIR "
            f"(docs/data.md says how to get them). On the {kind}.",
            flush=True,
        )
        return
    same, trained_on = slices.fingerprint == config["data"]["fingerprint"], config["data"]["name"]
    other = "" if same else f" The run was trained on other data: {trained_on}."
    print(f"{slices.name}, {split.name} split, on the {kind}.{other}", flush=True)
    warn_of_masking(vqvae, split)


def evaluate(models, slices, split, code_counts, args, folder):
    """Measure every slice of a split: the results, and what `metrics.json` says about them."""
    reconstructions = folder / "reconstructions" if args.write_reconstructions else None
    results = reconstruction.evaluate(
        models.vqvae, models.prior, split, args.rate_weight, reconstructions
    )
    vqvae, prior, texture = models
    weight = prior.settings["rate_weight"] if args.rate_weight is None else args.rate_weight
    metrics = {
        "data": reconstruction.describe_data(slices, split, results, vqvae.frame),
        **reconstruction.measures(results, split, code_counts, weight, vqvae.frame),
    }
    if texture:
        metrics["texture"] = reconstruction.texture_measures(texture, results, split)
    return results, metrics


def warn_of_masking(vqvae, split):
    """Warn where a model of brain-masked slices gets slices with scalp, or the other way round."""
    kinds = {True: "brain-masked slices", False: "slices with scalp"}
    learned = vqvae.settings["masked"]
    if learned is not None and learned != split.masked:
        print(
            f"WARNING: the model learned from {kinds[learned]} and gets {kinds[split.masked]}: "
            "its figures and maps say little.",
            flush=True,
        )


def read_training(run, vqvae):
    """Read counts of the training codes, and the learning curves that a figure shows."""
    shape = (*vqvae.grid, vqvae.settings["codebook_size"])
    code_counts = reconstruction.read_code_counts(run.code_counts, shape)
    histories = {}
    for stage, figures in FIGURES_OF_STAGES.items():
        path = run.history(stage)
        histories[stage] = read_history(path, figures)
        if not histories[stage]:
            advice = "restore it, or copy runs with `python -m fitting.export RUN OUT`"
            raise InputError(f"{run} lacks {path.name}: {advice}.")
    return code_counts, selection.training_parts(histories)


def check_evaluation_of_samples(slices, config, args):
    """Check that `--evaluate-samples` has what it needs, if it is given."""
    if not args.evaluate_samples:
        return
    if slices.fingerprint != config["data"]["fingerprint"]:
        raise InputError(
            "--evaluate-samples looks for copies of training slices, and --data is not what "
            f"{args.run} was trained on: name its own data."
        )
    subjects = len(set(slices.splits["train"].subjects.tolist()))
    if subjects < LEAST_SUBJECTS:
        raise InputError(
            f"--evaluate-samples needs {LEAST_SUBJECTS} training subjects or more to compare with. "
            f"Received: {subjects} in --data"
        )


# ---- anomalies ---------------------------------------------------------------------------------


def map_anomalies(run, config, split, name, args):
    """Load, map, report: `--anomaly` scores slices, the most unusual first."""
    made, models = provenance(), [checkpoints.load_models(run)]
    reconstruction.check_levels(run, models[0].prior, split)
    split = selection.at_level(split, args.slice)
    images = anomalies.load_slices(models, split)
    kind, _ = devices.compute_device()
    print(f"{name}: {len(split)} slices on the {kind}.", flush=True)
    for vqvae, *_ in models:
        warn_of_masking(vqvae, split)

    with replacing_results(run.predictions, report.OWNED_ANOMALIES) as folder:
        begin = time.perf_counter()
        results = anomalies.analyse(models, images, split, args.seed)
        seconds = (time.perf_counter() - begin) / len(split)
        header = {
            "made": made,
            "data": name,
            "runs": [str(run)],
            **anomalies.settings(1, args.seed),
            "seconds_a_slice": seconds,
        }
        model = {"trained_on": config["data"]["name"], "grid": models[0].vqvae.grid}
        scores = report.save_anomalies(folder, header, split, images, results, model)
        report.draw_anomalies(folder, folder)
    report.print_scores(scores)
    out = run.predictions
    print(
        f"{seconds:.2f} s a slice. Scores are in {out / report.ANOMALIES}, "
        f"most unusual first, images in {out / 'anomaly'}"
    )


# ---- data --------------------------------------------------------------------------------------


def has_no_slices(config, args):
    """Whether there are no slices on this machine, and no flag asks for any."""
    asks = args.data or args.write_reconstructions or args.evaluate_samples or args.complete
    return not (asks or config["data"].get("cohort") or DEFAULT_DIRECTORY.is_dir())


def find_data(config, args):
    """Open the slices of `--data`, else of the run's synthetic cohort, else of the default folder.

    Raises:
        InputError: There are none, or the cohort that the run names cannot be made.
    """
    cohort = config["data"].get("cohort")
    if args.data or not cohort:
        return open_slices(find_slices(args.data))
    limits = {"subjects": MAX_SUBJECTS, "seed": MAX_SEED}
    numbers = [cohort.get(name) if isinstance(cohort, dict) else None for name in limits]
    if not all(isinstance(n, int) and 0 <= n <= most for n, most in zip(numbers, limits.values())):
        raise InputError(
            f"the run's config.json asks for a cohort of {cohort}: name the slices with --data DIR."
        )
    return open_slices(synthetic_slices(*numbers))


def find_split(config, args):
    """Open the slices to map: those of a folder, or of the split. Returns their name too."""
    if args.anomaly:
        split = open_folder(args.anomaly)
        return split, split.name
    slices = find_data(config, args)
    return slices.splits[args.split], f"{slices.name}, {args.split} split"


if __name__ == "__main__":
    command_line(main, parse())
