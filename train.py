"""Train a VQ-VAE on brain slices, then a PixelCNN prior over its codes.

python train.py                     # OASIS in data/keras_png_slices_data, else a synthetic cohort
python train.py --data DIR --run DIR
"""

import contextlib
import functools
import math
import os
import pathlib
import shlex
import sys
import time

import checkpoints
import dataset
from utils import (
    MOST_SUBJECTS,
    InputError,
    Parser,
    between,
    claimed,
    command_line,
    device,
    import_tensorflow,
    read_history,
    replacing,
    restart_keras,
    use_precision,
    versions,
    write_history,
)

USED = ("train", "validate")  # splits; test is for predict.py
CODED = 64  # slices that are given their codes at a time, at most
DISTANCES = 2**29  # bytes of their distances to all codes, at most: a few arrays of this size are in memory

# What a flag that is not given becomes. The synthetic ones fit both scripts into about ten minutes on two cores.
DEFAULTS = {
    "OASIS": dict(image_size=256, epochs=14, rate_weight=1.5, draft_epochs=2, prior_epochs=6, batch_size=8, width=128, prior_width=128, prior_blocks=8),
    "synthetic": dict(image_size=160, epochs=10, rate_weight=0.5, draft_epochs=2, prior_epochs=4, batch_size=8, width=96, prior_width=96, prior_blocks=8),
}


def parse(arguments=None):
    def auto(name):
        return f"default: {DEFAULTS['OASIS'][name]}, for the synthetic cohort {DEFAULTS['synthetic'][name]}"

    parser = Parser(__doc__)
    count, rate = between(int, 1, 10**6), between(float, 1e-8, 1e30)
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DIR", help="folder with keras_png_slices_{train,validate,test}")
    add("--image-size", type=between(int, 16, 2048), metavar="S", help=f"pixels of a side, a multiple of 8; {auto('image_size')}")
    add("--subjects", type=between(int, 3, MOST_SUBJECTS), default=60, metavar="N", help="size of the synthetic cohort (default: %(default)s)")
    add = parser.add_argument_group("run").add_argument
    add("--run", metavar="DIR", default="runs/default", help="where everything goes (default: %(default)s)")
    add("--seed", type=between(int, 0, 2**31 - 1), default=0, metavar="N", help="of every random number (default: %(default)s)")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="auto: bfloat16 where the hardware multiplies it natively, else float32")
    add("--strategy", choices=("mirrored", "multiworker"),
        help="train on all GPUs of this machine, or on all machines that the environment variable TF_CONFIG names; else on one device")
    add("--deterministic", action="store_true",
        help="the same bits from the same seed on a GPU too, at the price of slower kernels; a CPU needs no flag")
    add("--save-minutes", type=between(float, 0, 10**6), default=4.0, metavar="M",
        help="work that a crash can cost, at most, within an epoch (default: %(default)s)")
    add("--batch-size", type=count, metavar="N", help=f"of both stages, over all devices together; {auto('batch_size')}")
    add("--patience", type=count, default=5, metavar="N",
        help="epochs without a better validation loss before a stage stops early (default: %(default)s)")
    add = parser.add_argument_group("VQ-VAE").add_argument
    add("--epochs", type=count, metavar="N", help=auto("epochs"))
    add("--reduction", type=int, choices=(8, 4), default=8, help="pixels of a side that share one code; 4 for finer and dearer codes (default: %(default)s)")
    add("--codebook-size", type=between(int, 2, 2**16), default=512, metavar="K", help="(default: %(default)s)")
    add("--code-dim", type=between(int, 1, 1024), default=16, metavar="D", help="(default: %(default)s)")
    add("--width", type=between(int, 2, 1024), metavar="C", help=f"channels, an even number; {auto('width')}")
    add("--learning-rate", type=rate, default=1e-3, metavar="R", help="peak (default: %(default)s)")
    add("--ssim-weight", type=between(float, 0, 1e6), default=1.0, metavar="W", help="of 1 - SSIM beside the pixel term (default: %(default)s)")
    add("--contrast-weight", type=between(float, 0, 1e6), default=3.0, metavar="W",
        help="of 1 - contrast, which holds against blur (default: %(default)s)")
    add = parser.add_argument_group("prior").add_argument
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L",
        help="of a bit against squared distance, in units of its mean, when a slice is given its codes; 0 for the nearest codes, "
             f"without a draft of the prior; {auto('rate_weight')}")
    add("--draft-epochs", type=count, metavar="N", help=f"of the prior over nearest codes, by which the codes are then chosen; {auto('draft_epochs')}")
    add("--prior-epochs", type=count, metavar="N", help=auto("prior_epochs"))
    add("--prior-width", type=between(int, 2, 1024), metavar="C", help=f"channels; {auto('prior_width')}")
    add("--prior-blocks", type=between(int, 1, 64), metavar="N", help=f"gated blocks; {auto('prior_blocks')}")
    add("--prior-dropout", type=between(float, 0, 0.99), default=0.1, metavar="P", help="(default: %(default)s)")
    add("--prior-learning-rate", type=rate, default=6e-3, metavar="R", help="peak (default: %(default)s)")
    args = parser.parse_args(arguments)
    if (args.image_size or 0) % 8:
        parser.error(f"argument --image-size: must be a multiple of 8. Received: {args.image_size}")
    if (args.width or 0) % 2:
        parser.error(f"argument --width: must be even. Received: {args.width}")
    return args


def main(args):
    directory = dataset.find_slices(args.data, args.subjects, args.seed)
    slices = dataset.open_slices(directory)
    settings = resolve(args, slices)
    import_tensorflow()  # takes seconds, which a mistyped flag need not wait for
    import keras
    import tensorflow as tf

    import distribution
    import pipeline

    strategy = distribution.find(args.strategy)
    replicas, chief = strategy.num_replicas_in_sync, distribution.is_chief(strategy)
    if settings["batch_size"] % replicas:
        raise InputError(f"--batch-size must be divisible by the {replicas} replicas of --strategy {args.strategy}. "
                         f"Received: {settings['batch_size']}")
    if len(slices.splits["validate"]) < replicas:
        raise InputError(f"--strategy {args.strategy} has {replicas} replicas, more than there are validation images: use fewer devices.")
    if not chief:
        sys.stdout = open(os.devnull, "w")  # one of the workers tells the story
    settings["precision"] = use_precision(args.precision)
    print(f"{slices.name} in {directory}")
    print(*slices.report(), sep="\n")
    kind, name = device()
    print(f"Training on the {kind} ({name}){f', {replicas} replicas' if replicas > 1 else ''}, {settings['precision']}.", flush=True)

    if args.deterministic:
        print("Deterministic: the same bits at every run, with slower kernels on a GPU.", flush=True)
        keras.utils.set_random_seed(args.seed)  # without it, ops that keep a seed of their own refuse to run
        tf.config.experimental.enable_op_determinism()
    run = pathlib.Path(args.run)
    data = {"name": slices.name, "cohort": slices.cohort, "fingerprint": slices.fingerprint,
            "intensity_range": pipeline.INTENSITY_RANGE, "images": {split.name: len(split) for split in slices.splits.values()}}
    config = {"settings": settings, "data": data, "versions": versions()}
    with distribution.together(strategy), claimed(run, config) if chief else contextlib.nullcontext():
        train_vqvae(run, slices, settings, args.save_minutes, strategy)
        train_prior(run, slices, settings, args.save_minutes, strategy)
    print(f"Done. Next: python predict.py --run {shlex.quote(str(run))}" + (f" --data {shlex.quote(args.data)}" if args.data else ""))


def resolve(args, slices):
    """Every setting that shapes the result, with what was left open filled in, checked against the data."""
    defaults = DEFAULTS["synthetic" if slices.cohort else "OASIS"]
    # where it goes and what it is made of are recorded beside the settings; how often it is saved, and by how many computed, changes nothing
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "data", "subjects", "save_minutes", "strategy")}
    settings.update({name: value for name, value in defaults.items() if settings[name] is None})
    count = len(slices.splits["train"])
    if settings["batch_size"] > count:
        raise InputError(f"--batch-size must be at most the {count} training images. Received: {settings['batch_size']}")
    return settings


def train_vqvae(run, slices, settings, save_minutes, strategy):
    """First stage: `vqvae.keras`, images to codes and back."""
    import pipeline

    examples = {name: pipeline.images_of(pipeline.image_source(slices.splits[name], settings["image_size"])) for name in USED}
    make = functools.partial(make_vqvae, settings)
    fit_stage("vqvae", run, make, examples, slices, settings, settings["epochs"], settings["learning_rate"], save_minutes, strategy)


def make_vqvae(settings, schedule):
    """The first stage's model, compiled with a learning-rate schedule."""
    import keras

    import metrics
    import modules

    model = modules.VQVAE(settings["image_size"], settings["codebook_size"], settings["code_dim"], settings["width"],
                          settings["reduction"], seed=settings["seed"])
    ssim = keras.metrics.MeanMetricWrapper(metrics.ssim, name="ssim")  # not the function: a step on several devices cannot make variables
    model.compile(optimizer(schedule), loss=metrics.ReconstructionLoss(settings["ssim_weight"], settings["contrast_weight"]), metrics=[ssim])
    return model


def train_prior(run, slices, settings, save_minutes, strategy):
    """Second stage: `prior.keras`, the distribution of the codes of a slice given its level.

    Codes are chosen to be near and likely, and what is likely a first prior has to say: `draft.keras`, over nearest codes.
    """
    import numpy as np

    import distribution
    import metrics
    import pipeline
    import pixelcnn

    chief = distribution.is_chief(strategy)
    vqvae = checkpoints.load_model(run / "vqvae.keras")

    def fit(stage, codes, draft, rate_weight):
        def make(schedule):
            model = pixelcnn.PixelCNN(codes["train"].shape[-1], settings["codebook_size"], slices.levels, settings["prior_width"],
                                     settings["prior_blocks"], settings["prior_dropout"], rate_weight, checkpoints.fingerprint(vqvae))
            if draft:
                model.set_weights(draft.get_weights())
            model.compile(optimizer(schedule))
            return model

        examples = {name: pipeline.codes_of(codes[name], slices.splits[name].levels, slices.levels) for name in codes}
        fit_stage(stage, run, make, examples, slices, settings, settings[f"{stage}_epochs"], settings["prior_learning_rate"],
                  save_minutes, strategy)

    def choose(name, draft):
        if not chief:
            distribution.meet(strategy)  # and read what the chief wrote
        restart_keras(settings["precision"])
        models = [checkpoints.load_model(run / f"{stage}.keras") if stage else None for stage in ("vqvae", draft)]
        codes = extract_codes(run / name, *models, slices, settings)
        if chief:
            distribution.meet(strategy)
        return codes

    draft = None
    if settings["rate_weight"]:
        fit("draft", choose("draft_codes.npz", None), None, 0.0)
        draft = checkpoints.load_model(run / "draft.keras")
    codes = choose("codes.npz", draft and "draft")
    if chief:
        with replacing(run / "code_counts.npz") as temporary:
            np.savez_compressed(temporary, counts=metrics.code_counts(codes["train"][0], settings["codebook_size"]))
    fit("prior", codes, draft, settings["rate_weight"])


def extract_codes(path, vqvae, draft, slices, settings):
    """Codes of the slices of each split and of their mirror images, uint16 `(2, N, H, W)`, kept in a file for a resume.

    Args:
        draft: the prior by which they are chosen with the rate weight of the settings, or None for nearest codes.
    """
    import numpy as np
    from tqdm import tqdm

    import pipeline

    made_of = " ".join([checkpoints.fingerprint(vqvae), checkpoints.fingerprint(draft) if draft else "nearest", slices.fingerprint])
    try:
        with np.load(path, allow_pickle=False) as file:
            if file["made_of"] == made_of:
                return {name: file[name] for name in USED}
    except checkpoints.UNREADABLE:
        pass  # not there or not whole: made again
    grid = settings["image_size"] // settings["reduction"]
    batch = max(1, min(CODED, DISTANCES // (4 * grid**2 * settings["codebook_size"])))
    codes = {}
    for name in USED:
        split = slices.splits[name]
        example = pipeline.images_of(pipeline.image_source(split, settings["image_size"]))
        found = [[], []]
        for mirror in (False, True):
            batches = pipeline.evaluation_batches(example, len(split), batch, mirror)
            title = f"{path.stem}, {name}{' mirrored' * mirror}"
            for begin, (images, _) in zip(tqdm(range(0, len(split), batch), title, unit="batch", mininterval=10), batches):
                levels = split.levels[begin : begin + batch] + slices.levels * mirror
                found[mirror].append(draft.describe(vqvae.distances(images), levels, settings["rate_weight"]) if draft else vqvae.encode(images))
        codes[name] = np.stack([np.concatenate(maps) for maps in found]).astype("uint16")
    with replacing(path) as temporary:
        np.savez(temporary, made_of=made_of, **codes)
    return codes


def optimizer(schedule):
    import distribution

    return distribution.Adam(schedule, beta_2=0.99, global_clipnorm=1.0)


def learning_rates(peak, steps):
    """Schedule of a stage: a short warm-up to `peak`, then to zero along a cosine."""
    import keras

    warmup = max(1, min(200, steps // 10))
    return keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)


def fit_stage(stage, run, make, examples, slices, settings, epochs, peak, save_minutes, strategy):
    """Fit one stage from where it stands to its end.

    The history is the record of what was reached: best score, patience and end are read from it. Beside it lies the whole
    state of the training in `resume/`, written every epoch and every few minutes, until the stage ends. All workers read, and the chief writes.

    Args:
        stage: "vqvae", "draft" or "prior".
        make: function of a learning-rate schedule to a compiled model.
        examples: example functions of `pipeline`, by split.
        peak: learning rate at the end of the warm-up, from which it falls to zero along a cosine.
        save_minutes: between writes of the state within an epoch.
        strategy: from `distribution.find`.

    Raises:
        InputError: the loss is not finite; the last good state is kept.
    """
    import keras
    import tensorflow as tf

    import distribution
    import pipeline

    chief, seed = distribution.is_chief(strategy), settings["seed"]
    batch_size, (count, validation_count) = settings["batch_size"], (len(slices.splits[name]) for name in USED)
    steps = count // batch_size
    best, resume, history = run / f"{stage}.keras", run / "resume" / f"{stage}.npz", run / f"{stage}_history.csv"
    rows, begun = read_history(history), resume.exists()
    if rows and best.exists() and not begun:
        print(f"{stage}: finished after {len(rows)} epochs.", flush=True)
        return

    restart_keras(settings["precision"])  # a stage starts alike whatever ran before it
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = make(learning_rates(peak, steps * epochs))
        model.optimizer.build(model.trainable_variables)
    train, test = (distribution.compiled(strategy, model, part) for part in (model.train_step, model.test_step))

    def validation():
        return distribution.batches(strategy, lambda share: pipeline.evaluation_batches(
            examples["validate"], validation_count, batch_size, share=share))

    test(next(validation()))  # builds the metrics, whose sums belong to the state
    if begun:
        checkpoints.load_state(model, resume)
    else:
        save(stage, model, resume, chief)  # from now on its absence says that the stage is finished
    step = int(model.optimizer.iterations.numpy())
    if abs(distribution.meet(strategy, step) - step) > 1e-6:
        raise InputError(f"{run} holds another state for this worker than for others: --run must be one folder that all machines share.")
    rows = rows[: step // steps]
    print(f"{stage}: {model.count_params() / 1e6:.2f} M parameters, {f'continues after step {step}' if step else 'starts'}, "
          f"{epochs} epochs of {steps} steps.", flush=True)

    writer = tf.summary.create_file_writer(str(run / "logs" / stage)) if chief else None
    while len(rows) < epochs and epochs_since_best(rows) < settings["patience"]:
        epoch, begin = len(rows), time.monotonic()
        print(f"Epoch {epoch + 1}/{epochs}", flush=True)
        progress = keras.utils.Progbar(steps, verbose=1 if sys.stdout.isatty() else 2, stateless_metrics=())
        saved, skip = begin, step % steps
        if not skip:
            model.reset_metrics()
        training = distribution.batches(strategy, lambda share: pipeline.training_batches(
            examples["train"], count, batch_size, seed, epoch, skip, share))
        for batch in training:
            logs, seconds = train(batch, time.monotonic() - saved)
            step += 1
            if not math.isfinite(logs["loss"]):
                raise not_finite(stage, "loss", step, resume)
            if step % steps and seconds >= 60 * save_minutes:
                save(stage, model, resume, chief)
                saved = time.monotonic()
            progress.update(step - steps * epoch, logs.items(), finalize=False)
        model.reset_metrics()
        for batch in validation():
            scores, _ = test(batch)
        logs.update({f"val_{name}": value for name, value in scores.items()})
        progress.update(steps, logs.items(), finalize=True)
        if not math.isfinite(logs["val_loss"]):
            raise not_finite(stage, "validation loss", step, resume)
        rows.append({"epoch": epoch + 1, "seconds": round(time.monotonic() - begin, 1), **logs})
        if chief:
            with writer.as_default(step=epoch + 1):
                for name, value in logs.items():
                    tf.summary.scalar(name, value)
            write_history(history, rows)
            if not epochs_since_best(rows):
                checkpoints.save_model(model, best)
        save(stage, model, resume, chief)
        comment(stage, rows, epochs, settings)
    if chief:
        resume.unlink()
    distribution.meet(strategy)  # what comes next reads what the chief wrote


def save(stage, model, resume, chief):
    try:
        checkpoints.save_state(model, resume, chief)
    except FloatingPointError:
        raise not_finite(stage, "state of the model", int(model.optimizer.iterations.numpy()), resume) from None


def not_finite(stage, what, step, resume):
    return InputError(f"{stage}: the {what} is not finite at step {step}; the last good state is kept in {resume}. "
                      "Train into a new --run with a lower learning rate or --precision float32.")


def comment(stage, rows, epochs, settings):
    """Say how long the rest will take, that a stage stops early, and that a codebook collapses."""
    if epochs_since_best(rows) >= settings["patience"]:
        print(f"{stage}: no better validation loss for {settings['patience']} epochs, stopping early.", flush=True)
    elif len(rows) < epochs:
        minutes = sum(row["seconds"] for row in rows) / len(rows) * (epochs - len(rows)) / 60
        print(f"{stage}: about {minutes:.0f} minutes left.", flush=True)
    used = [row["codes_used"] for row in rows[-2:] if "codes_used" in row]
    if len(used) == 2 and used[1] < min(used[0], settings["codebook_size"] / 2):
        print(f"{stage}: WARNING: the codebook is collapsing, {used[0]:.0f} codes were used in the epoch before and {used[1]:.0f} of "
              f"{settings['codebook_size']} now. A lower --learning-rate or a larger --batch-size helps.", flush=True)


def epochs_since_best(rows):
    losses = [row["val_loss"] for row in rows]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


if __name__ == "__main__":
    command_line(main, parse())
