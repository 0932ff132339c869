"""Evaluate a run on a split of the slices, draw its figures and sample new slices.

python predict.py                                  # the run of `python train.py`
python predict.py --run DIR --data DIR --samples 32 --seed 7
"""

import pathlib
import time

import checkpoints
import dataset
from utils import MOST_SUBJECTS, InputError, Parser, between, command_line, device, import_tensorflow, read_config, read_history, write_json

COLUMNS = 6  # slices shown in the figure of reconstructions
COMPARED = 8  # pairs in the figure of real and generated slices
SUBJECTS = 20  # in training, at least, for a classifier that is tested on subjects it has not seen
COMPLETIONS = 3  # drawings of each missing half


def parse(arguments=None):
    parser = Parser(__doc__)
    add = parser.add_argument_group("evaluation").add_argument
    add("--run", metavar="DIR", default="runs/default", help="run directory of train.py (default: %(default)s)")
    add("--data", metavar="DIR", help="folder with the three splits (default: the synthetic cohort if the run was trained on it, else data/keras_png_slices_data)")
    add("--split", choices=dataset.SPLITS, default="test", help="(default: %(default)s)")
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L",
        help="bits against squared distance when a slice is given its codes; 0 for the nearest codes (default: that of the training)")
    add("--write-reconstructions", action="store_true", help="write every reconstruction of the split as a PNG")
    add = parser.add_argument_group("samples").add_argument
    add("--samples", type=between(int, 0, 10**5), default=16, metavar="N", help="slices to generate (default: %(default)s)")
    add("--slice", type=between(int, 0, 9999), metavar="K", help="level of all of them (default: spread over all levels)")
    add("--seed", type=between(int, 0, 2**31 - 1), default=0, metavar="N", help="the same seed gives the same slices (default: %(default)s)")
    add("--temperature", type=between(float, 0.01, 100), default=1.0, metavar="T", help="below 1 for likelier slices (default: %(default)s)")
    add("--top-k", type=between(int, 0, 2**16), default=0, metavar="K", help="draw among the K likeliest codes (default: all)")
    add("--top-p", type=between(float, 0.01, 1), default=1.0, metavar="P", help="draw among the likeliest codes that reach P (default: all)")
    add("--evaluate-samples", type=between(int, 10, 10**5), metavar="N", help="measure N samples against real slices: `generation` in metrics.json")
    add("--complete", action="store_true", help="draw the missing half of slices of the split, several times: completions.png")
    add("--walk", action="store_true", help="draw every level with the same random numbers: walk.png")
    add = parser.add_argument_group("anomalies").add_argument
    add("--anomaly", metavar="DIR", nargs="?", const="",
        help="instead of all else, map what is unusual in the slices of a folder, or without DIR in those of the split; --slice and --seed hold")
    add("--ensemble", metavar="DIR", type=pathlib.Path, action="append", default=[],
        help="another run, whose readings of the slices are averaged with those of --run; may be given again")
    args = parser.parse_args(arguments)
    if args.ensemble and args.anomaly is None:
        parser.error("argument --ensemble: it is for --anomaly, which is not given")
    return args


def main(args):
    run = pathlib.Path(args.run)
    config = read_config(run)
    if args.anomaly is None:
        predict(run, config, args)
    else:
        find_anomalies(run, config, args)


def predict(run, config, args):
    """Everything but `--anomaly`: `metrics.json`, figures and samples in `predict/`."""
    slices = find_data(config, args)
    import_tensorflow()
    import numpy as np

    import evaluation
    import metrics
    import plots

    vqvae, prior = checkpoints.load_models(run)
    codebook_size, image_size = vqvae.settings["codebook_size"], vqvae.settings["image_size"]
    split = slices.splits[args.split]
    evaluation.check_levels(run, prior, split)
    levels = sample_levels(args.samples, args.slice, np.unique(split.levels))
    subjects = len(set(slices.splits["train"].subjects.tolist()))
    same = slices.fingerprint == config["data"]["fingerprint"]
    if args.evaluate_samples and not same:
        raise InputError(f"--evaluate-samples asks for copies of training slices, and --data is not what {run} was trained on: name its own data.")
    if args.evaluate_samples and subjects < SUBJECTS:
        raise InputError(f"--evaluate-samples needs {SUBJECTS} training subjects or more to compare with. Received: {subjects} in --data")
    grid = (image_size // vqvae.settings["reduction"],) * 2
    training_counts = read_counts(run / "code_counts.npz", (*grid, codebook_size))
    histories = [read_history(run / f"{stage}_history.csv") for stage in ("vqvae", "prior")]
    if not all(histories):
        raise InputError(f"{run} lacks vqvae_history.csv or prior_history.csv: restore it, or copy runs with `python checkpoints.py RUN OUT`.")
    print(f"{slices.name}, {args.split} split, on the {device()[0]}." + ("" if same else f" The run was trained on other data: {config['data']['name']}."), flush=True)

    out = run / "predict"
    for stale in (*(out / "samples").glob("sample_*_slice_*.png"), *(out / "reconstructions").glob("case_*_slice_*.png"),
                  *(out / f"{name}.png" for name in ("samples", "comparison", "completions", "walk", "closest"))):
        stale.unlink(missing_ok=True)
    results = evaluation.evaluate(vqvae, prior, split, args.rate_weight, out / "reconstructions" if args.write_reconstructions else None)
    rate_weight = prior.settings["rate_weight"] if args.rate_weight is None else args.rate_weight
    baselines = metrics.baseline_bits(results["codes"], training_counts)
    begin = time.perf_counter()
    drawn = sample(vqvae, prior, levels, args)
    seconds = time.perf_counter() - begin
    report = {
        "data": {"name": slices.name, "split": args.split, "images": len(split), "subjects": len(set(split.subjects.tolist())), "image_size": image_size,
                 "fingerprint": slices.fingerprint, "trained_on_this_data": same},
        **evaluation.measures(results, split.subjects, baselines, codebook_size, rate_weight),
        "samples": {"count": args.samples, "seconds": seconds, "seed": args.seed, "temperature": args.temperature,
                    "top_k": args.top_k, "top_p": args.top_p},
    }
    codes, cases, ssim = results["codes"], split.cases, results["ssim"]
    used, perplexity = report["codebook"]["used"], report["codebook"]["perplexity"]
    baselines = {name: report["prior"][f"{name}_bits_per_code"] for name in baselines}

    about = f"{slices.name}, {args.split} split, {image_size} x {image_size}."
    model = f"VQ-VAE with {codes.shape[1]} x {codes.shape[2]} codes of {codebook_size}"
    shown = np.linspace(0, len(split) - 1, COLUMNS + 2).round().astype(int)[1:-1] if len(split) > COLUMNS else np.arange(len(split))
    images, restored = (np.stack([results[kind][i] for i in shown]) / 255.0 for kind in ("images", "restored"))
    titles = [f"case {cases[i]:03d}, level {split.levels[i]}\nSSIM {ssim[i]:.3f}" for i in shown]
    plots.reconstructions(out / "reconstructions.png", images, restored, codes[shown], vqvae.quantizer.codebook.numpy(), titles, f"{about} {model}.")
    plots.codes(out / "codes.png", np.bincount(codes.ravel(), minlength=codebook_size), training_counts.sum((0, 1)),
                mean_patches(results["images"], codes, codebook_size), f"{about} {model}; {used} codes used, perplexity {perplexity:.1f}.")
    plots.training(out / "training.png", *histories, baselines,
                   f"{config['data']['name']}. {model}, then a gated PixelCNN. Grey lines: models without context, on the {args.split} split of {slices.name}.")
    how = f"drawn with seed {args.seed}" + "".join(f", {name.replace('_', '-')} {getattr(args, name)}" for name, usual in (("temperature", 1), ("top_k", 0), ("top_p", 1))
                                                   if getattr(args, name) != usual)
    if args.samples:
        made = f"{how} from the PixelCNN and decoded by the {model}, both trained on: {config['data']['name']}."
        plots.samples(out / "samples.png", drawn, levels, f"Generated, not real: {made}")
        chosen = np.linspace(0, args.samples - 1, min(args.samples, COMPARED)).round().astype(int)
        real = np.stack([results["images"][nearest_slice(split, levels[i], i)] for i in chosen]) / 255.0
        plots.comparison(out / "comparison.png", real, drawn[chosen], levels[chosen], args.seed, f"Slices of {about[:-1]}, beside generated ones, {made}")
    if args.complete:
        rows = codes.shape[1] // 2
        given = codes[shown]
        drawings = [sample(vqvae, prior, split.levels[shown], args, given=given, rows=rows, first=1000 * i) for i in range(COMPLETIONS)]
        plots.completions(out / "completions.png", restored, rows / codes.shape[1], drawings, titles,
                          f"{about} {model}: the upper half of the codes is given, the lower {how} from the PixelCNN, {COMPLETIONS} times.")
    if args.walk:
        known = np.unique(split.levels)
        plots.samples(out / "walk.png", sample(vqvae, prior, known, args, alike=True), known,
                      f"Generated, not real: one walk through the levels, each {how} and the same random numbers from the PixelCNN "
                      f"and decoded by the {model}, both trained on: {config['data']['name']}.")
    if args.evaluate_samples:
        report["generation"] = evaluate_samples(vqvae, prior, slices, results["images"], args, out / "closest.png")
    for number, (image, level) in enumerate(zip(drawn, levels)):
        evaluation.write_png(out / "samples" / f"sample_{number:04d}_slice_{level}.png", image)
    write_json(out / "metrics.json", report)
    print_table(report)
    print(f"Figures and metrics.json are in {out}")


def find_anomalies(run, config, args):
    """`--anomaly`: for each slice a score and images of what the model would have put there instead, most unusual first."""
    if args.anomaly:
        split = dataset.open_folder(args.anomaly)
        name = split.name
    else:
        slices = find_data(config, args)
        split = slices.splits[args.split]
        name = f"{slices.name}, {args.split} split"
    import_tensorflow()
    import numpy as np

    import anomaly
    import evaluation
    import plots

    runs = [run, *args.ensemble]
    models = anomaly.load_ensemble(runs, [split])
    chosen = np.arange(len(split)) if args.slice is None else np.flatnonzero(split.levels == args.slice)
    if not len(chosen):
        raise InputError(f"--slice must be a level of the slices, {split.levels.min()} to {split.levels.max()}. Received: {args.slice}")
    images = evaluation.decoded(split, models[0][0].settings["image_size"])[chosen] / np.float32(255)
    print(f"{name}: {len(chosen)} slices on the {device()[0]}.", flush=True)
    begin = time.perf_counter()
    found = anomaly.analyse(models, images, split.levels[chosen], args.seed)
    seconds = time.perf_counter() - begin

    out = run / "predict"
    order = np.argsort(-found["scores"]["healing"], kind="stable")
    rows = []
    for stale in (out / "anomaly").glob("case_*_slice_*.png"):
        stale.unlink()
    for i in order:
        file = pathlib.Path(split.paths[chosen[i]])
        stem = file.name.removesuffix(".nii.png")
        kinds = {"original": images[i], "healed": found["healed"][i], "map": found["maps"]["healing"][i] / plots.ANOMALY_LIMIT}
        for kind, image in kinds.items():
            evaluation.write_png(out / "anomaly" / f"{stem}_{kind}.png", np.clip(image, 0, 1))
        rows.append({"file": str(file), "case": int(split.cases[chosen[i]]), "level": int(split.levels[chosen[i]]),
                     **{f"score_{method}": float(found["scores"][method][i]) for method in anomaly.METHODS}})
    shown = order[:COLUMNS]
    plots.anomalies(out / "anomaly.png", images[shown], found["healed"][shown], {method: maps[shown] for method, maps in found["maps"].items()},
                    [f"case {rows[k]['case']:03d}, level {rows[k]['level']}\nscore {rows[k]['score_healing']:.3f}" for k in range(len(shown))],
                    f"{name}: the {len(shown)} highest scores of {len(chosen)}. Model trained on: {config['data']['name']}. Unusual is not ill: no medical device.")
    write_json(out / "anomaly.json", {"data": name, "runs": [str(run) for run in runs], "methods": list(anomaly.METHODS), "draws": 2 * anomaly.DRAWS * len(runs), "limit": anomaly.LIMIT, "seed": args.seed,
                                      "map_white": plots.ANOMALY_LIMIT, "seconds_a_slice": seconds / len(chosen), "slices": rows})
    for row in rows[:10]:
        print(f"  {pathlib.Path(row['file']).name:<34}healing {row['score_healing']:.4f}   error {row['score_error']:.4f}")
    print(f"{seconds / len(chosen):.2f} s a slice. Scores are in {out / 'anomaly.json'}, most unusual first, images in {out / 'anomaly'}")


def find_data(config, args):
    """The slices to look at: of `--data`, else of the cohort that the run was trained on, else of the default folder."""
    cohort = config["data"].get("cohort")
    if args.data or not cohort:
        return dataset.open_slices(dataset.find_slices(args.data))
    numbers = [cohort.get(name) if isinstance(cohort, dict) else None for name in ("subjects", "seed")]
    if not all(isinstance(n, int) and 0 <= n <= most for n, most in zip(numbers, (MOST_SUBJECTS, 2**31 - 1))):
        raise InputError(f"the run's config.json asks for a cohort of {cohort}: name the slices with --data DIR.")
    return dataset.open_slices(dataset.synthetic_slices(*numbers))


def read_counts(path, shape):
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            counts = file["counts"]
    except checkpoints.UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}): train the prior of this run again.") from None
    if counts.shape != shape:
        raise InputError(f"{path} has shape {counts.shape}, the VQ-VAE {shape}: they are of different runs.")
    return counts


def evaluate_samples(vqvae, prior, slices, known, args, figure):
    """Figures of `--evaluate-samples` slices, spread over all levels like the real ones; draws the closest pairs.

    Args:
        known: images of the split at hand, uint8 `(N, S, S)`.
    """
    import numpy as np

    import evaluation
    import generation
    import plots

    real = {}
    for name, split in slices.splits.items():
        images = known if name == args.split else evaluation.decoded(split, vqvae.settings["image_size"])
        real[name] = {"images": images, "levels": split.levels, "subjects": split.subjects}

    def restore(images, levels):
        batches = [(images[i : i + evaluation.BATCH, ..., None].astype("float32") / 255.0, levels[i : i + evaluation.BATCH]) for i in range(0, len(images), evaluation.BATCH)]
        return np.concatenate([evaluation.grey(vqvae.decode(prior.describe(vqvae.distances(batch), at, args.rate_weight))) for batch, at in batches])

    levels = sample_levels(args.evaluate_samples, None, np.unique(slices.splits["test"].levels))
    drawn = evaluation.grey(sample(vqvae, prior, levels, args, first=10**6)[..., None])  # rounded like the slices they stand beside
    report, pairs = generation.evaluate(drawn, levels, real["test"], real["train"], real["validate"], restore)
    shown = pairs[:COMPARED]
    plots.closest(figure, generation.unit(drawn[[i for i, _, _ in shown]]), generation.unit(real["train"]["images"][[i for _, i, _ in shown]]),
                  [f"level {levels[i]}, {distance:.3f}" for i, _, distance in shown],
                  f"The {len(shown)} of {len(drawn)} generated slices that are closest to a training slice of {slices.name}: root mean square distance at 64 x 64. "
                  f"Of the real test slices one in a hundred is closer than {report['nearest_real_p1']:.3f} to its own.")
    return report


def sample_levels(count, level, known):
    """Levels of `count` samples: all at `level`, or, without one, spread evenly over the known ones."""
    import numpy as np

    if level is not None:
        if level not in known:
            raise InputError(f"--slice must be a level of the data, {known.min()} to {known.max()}. Received: {level}")
        return np.full(count, level, known.dtype)
    return known[np.linspace(0, len(known) - 1, count).round().astype(int)] if count else known[:0]


def sample(vqvae, prior, levels, args, given=None, rows=0, alike=False, first=0):
    """Generated images `(N, S, S)` in [0, 1] at the given levels; `given`, `rows` and `alike` as in `PixelCNN.sample`.

    `first` tells drawings with one seed apart.
    """
    import numpy as np
    import tensorflow as tf

    import evaluation

    images = [np.zeros((0, vqvae.settings["image_size"], vqvae.settings["image_size"]), "float32")]
    for begin in range(0, len(levels), evaluation.BATCH):
        batch = slice(begin, begin + evaluation.BATCH)
        seed = tf.constant((args.seed + 7919 * (first + begin * (not alike))) % 2**31, tf.int32)
        codes = prior.sample(tf.constant(levels[batch]), seed, args.temperature, args.top_k, args.top_p,
                             None if given is None else tf.constant(given[batch], tf.int32), rows, alike)
        images.append(vqvae.decode(codes).numpy()[..., 0])
    return np.concatenate(images)


def nearest_slice(split, level, number):
    """Index of a slice at a level, or at the next there is, of another subject for another number."""
    import numpy as np

    distance = np.abs(split.levels - level)
    candidates = np.flatnonzero(distance == distance.min())
    return candidates[number % len(candidates)]


def mean_patches(images, codes, codebook_size):
    """Mean patch around each code's place in originals, uint8 `(N, S, S)`: `(K, P, P)` in [0, 1], P twice the pixels a code stands for."""
    import numpy as np

    step = images.shape[1] // codes.shape[1]
    padded = np.pad(images, ((0, 0), (step // 2, step // 2), (step // 2, step // 2)))
    last = images.shape[1]
    sums = [[np.bincount(codes.ravel(), padded[:, dy : dy + last : step, dx : dx + last : step].ravel(), codebook_size)
             for dx in range(2 * step)] for dy in range(2 * step)]  # (P, P, K)
    return np.moveaxis(np.array(sums), -1, 0) / (255.0 * np.maximum(np.bincount(codes.ravel(), minlength=codebook_size), 1)[:, None, None])


def print_table(report):
    low, high = report["ssim"]["ci95"]
    prior, rate, codebook = report["prior"], report["rate"], report["codebook"]
    for name, value in (
        ("SSIM", f"{report['ssim']['mean']:.4f}  (95 % interval over {report['data']['subjects']} subjects {low:.4f} to {high:.4f})"),
        ("detail kept", f"{report['detail']['gradient_ratio']:.3f} of the gradient, {report['detail']['spectrum_ratio']:.3f} of the fine spectrum"),
        ("SSIM, brain only", f"{report['ssim']['brain_mean']:.4f}"),
        ("PSNR", f"{report['psnr']['mean']:.2f} dB"),
        ("codes used", f"{codebook['used']} of {codebook['size']}, perplexity {codebook['perplexity']:.1f}"),
        ("bits a code", f"{prior['bits_per_code']:.3f}  (by position {prior['position_bits_per_code']:.3f}, unigram {prior['unigram_bits_per_code']:.3f}, "
                        f"uniform {prior['uniform_bits_per_code']:.3f})"),
        ("  in the brain", f"{prior['brain_bits_per_code']:.3f}  (by position {prior['brain_position_bits_per_code']:.3f})"),
        ("bytes a slice", f"{rate['prior_bytes']:.0f}  (as plain indices {rate['index_bits'] / 8:.0f})"),
        ("samples", f"{report['samples']['count']} in {report['samples']['seconds']:.1f} s"),
    ):
        print(f"  {name:<18}{value}")
    for name, value in report.get("generation", {}).items():
        if isinstance(value, float):
            print(f"  {name:<38}{value:.4f}")


if __name__ == "__main__":
    command_line(main, parse())
