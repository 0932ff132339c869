"""Train a VQ-VAE on brain slices, then a PixelCNN prior over its codes.

python train.py                     # OASIS in data/keras_png_slices_data, else a synthetic cohort
python train.py --data DIR --run DIR
"""

import functools
import math
import pathlib
import shlex
import sys
import time
import zipfile

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
    precision,
    read_history,
    replacing,
    versions,
    write_history,
)

USED = ("train", "validate")  # splits; test is for predict.py
CODED = 64  # slices that are given their codes at a time

# What a flag that is not given becomes. The synthetic ones fit both scripts into ten minutes on two cores.
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
    add("--deterministic", action="store_true",
        help="the same bits from the same seed on a GPU too, at the price of slower kernels; a CPU needs no flag")
    add("--save-minutes", type=between(float, 0, 10**6), default=4.0, metavar="M",
        help="work that a crash can cost, at most, within an epoch (default: %(default)s)")
    add("--batch-size", type=count, metavar="N", help=f"of both stages; {auto('batch_size')}")
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

    import pipeline

    settings["precision"] = precision(args.precision)
    print(f"{slices.name} in {directory}")
    print(*slices.report(), sep="\n")
    kind, name = device()
    print(f"Training on the {kind} ({name}), {settings['precision']}.", flush=True)

    keras.config.set_dtype_policy("mixed_bfloat16" if settings["precision"] == "bfloat16" else "float32")
    if args.deterministic:
        print("Deterministic: the same bits at every run, with slower kernels on a GPU.", flush=True)
        keras.utils.set_random_seed(args.seed)  # without it, ops that keep a seed of their own refuse to run
        tf.config.experimental.enable_op_determinism()
    run = pathlib.Path(args.run)
    data = {"name": slices.name, "cohort": slices.cohort, "fingerprint": slices.fingerprint,
            "intensity_range": pipeline.INTENSITY_RANGE, "images": {split.name: len(split) for split in slices.splits.values()}}
    with claimed(run, {"settings": settings, "data": data, "versions": versions()}):
        train_vqvae(run, slices, settings, args.save_minutes)
        train_prior(run, slices, settings, args.save_minutes)
    print(f"Done. Next: python predict.py --run {shlex.quote(str(run))}" + (f" --data {shlex.quote(args.data)}" if args.data else ""))


def resolve(args, slices):
    """Every setting that shapes the result, with what was left open filled in, checked against the data."""
    defaults = DEFAULTS["synthetic" if slices.cohort else "OASIS"]
    # where it goes and what it is made of are recorded beside the settings, and how often it is saved changes no bit
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "data", "subjects", "save_minutes")}
    settings.update({name: value for name, value in defaults.items() if settings[name] is None})
    count = len(slices.splits["train"])
    if settings["batch_size"] > count:
        raise InputError(f"--batch-size must be at most the {count} training images. Received: {settings['batch_size']}")
    return settings


def train_vqvae(run, slices, settings, save_minutes):
    """First stage: `vqvae.keras`, images to codes and back."""
    import pipeline

    examples = {name: pipeline.images_of(pipeline.image_source(slices.splits[name], settings["image_size"])) for name in USED}
    make = functools.partial(make_vqvae, settings)
    fit_stage("vqvae", run, make, examples, slices, settings, settings["epochs"], settings["learning_rate"], save_minutes)


def make_vqvae(settings, schedule):
    """The first stage's model, compiled with a learning-rate schedule."""
    import metrics
    import modules

    model = modules.VQVAE(settings["image_size"], settings["codebook_size"], settings["code_dim"], settings["width"],
                          settings["reduction"], seed=settings["seed"])
    model.compile(optimizer(schedule), loss=metrics.ReconstructionLoss(settings["ssim_weight"], settings["contrast_weight"]), metrics=[metrics.ssim])
    return model


def train_prior(run, slices, settings, save_minutes):
    """Second stage: `prior.keras`, the distribution of the codes of a slice given its level.

    Codes are chosen to be near and likely, and what is likely a first prior has to say: `draft.keras`, over nearest codes.
    """
    import numpy as np

    import metrics
    import pipeline
    import pixelcnn

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
        fit_stage(stage, run, make, examples, slices, settings, settings[f"{stage}_epochs"], settings["prior_learning_rate"], save_minutes)

    draft = None
    if settings["rate_weight"]:
        fit("draft", extract_codes(run / "draft_codes.npz", vqvae, None, slices, settings), None, 0.0)
        draft = checkpoints.load_model(run / "draft.keras")
    codes = extract_codes(run / "codes.npz", vqvae, draft, slices, settings)
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
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        pass  # not there or not whole: made again
    codes = {}
    for name in USED:
        split = slices.splits[name]
        example = pipeline.images_of(pipeline.image_source(split, settings["image_size"]))
        found = [[], []]
        for mirror in (False, True):
            batches = pipeline.evaluation_batches(example, len(split), CODED, mirror)
            title = f"{path.stem}, {name}{' mirrored' * mirror}"
            for begin, (images, _) in zip(tqdm(range(0, len(split), CODED), title, unit="batch", mininterval=10), batches):
                levels = split.levels[begin : begin + CODED] + slices.levels * mirror
                found[mirror].append(draft.describe(vqvae.distances(images), levels, settings["rate_weight"]) if draft else vqvae.encode(images))
        codes[name] = np.stack([np.concatenate(maps) for maps in found]).astype("uint16")
    with replacing(path) as temporary:
        np.savez(temporary, made_of=made_of, **codes)
    return codes


def optimizer(schedule):
    import keras

    return keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0)


def learning_rates(peak, steps):
    """Schedule of a stage: a short warm-up to `peak`, then to zero along a cosine."""
    import keras

    warmup = max(1, min(200, steps // 10))
    return keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)


def fit_stage(stage, run, make, examples, slices, settings, epochs, peak, save_minutes):
    """Fit one stage from where it stands to its end.

    The history is the record of what was reached: best score, patience and end are read from it. Beside it lies the whole
    state of the training in `resume/`, written every epoch and every few minutes, until the stage ends.

    Args:
        stage: "vqvae" or "prior".
        make: function of a learning-rate schedule to a compiled model.
        examples: example functions of `pipeline`, by split.
        peak: learning rate at the end of the warm-up, from which it falls to zero along a cosine.
        save_minutes: between writes of the state within an epoch.

    Raises:
        InputError: the loss is not finite; the last good state is kept.
    """
    import keras
    import tensorflow as tf

    import pipeline

    batch_size, (count, validation_count) = settings["batch_size"], (len(slices.splits[name]) for name in USED)
    steps = count // batch_size
    best, resume, history = run / f"{stage}.keras", run / "resume" / f"{stage}.npz", run / f"{stage}_history.csv"
    rows = read_history(history)
    if rows and best.exists() and not resume.exists():
        print(f"{stage}: finished after {len(rows)} epochs.", flush=True)
        return

    keras.utils.set_random_seed(settings["seed"])  # here, so that a stage starts alike whatever ran before it
    model = make(learning_rates(peak, steps * epochs))
    validation = pipeline.evaluation_batches(examples["validate"], validation_count, batch_size)
    model.optimizer.build(model.trainable_variables)
    model.evaluate(validation.take(1), verbose=0)  # builds the metrics, whose sums belong to the state
    if resume.exists():
        checkpoints.load_state(model, resume)
    else:
        checkpoints.save_state(model, resume)  # from now on its absence says that the stage is finished
    step = int(model.optimizer.iterations)
    rows = rows[: step // steps]
    print(f"{stage}: {model.count_params() / 1e6:.2f} M parameters, {f'continues after step {step}' if step else 'starts'}, "
          f"{epochs} epochs of {steps} steps.", flush=True)

    writer = tf.summary.create_file_writer(str(run / "logs" / stage))
    while len(rows) < epochs and epochs_since_best(rows) < settings["patience"]:
        epoch, begin = len(rows), time.monotonic()
        watch = watcher(stage, model, resume, steps, 60 * save_minutes)
        logs = model.fit(
            pipeline.training_batches(examples["train"], count, batch_size, settings["seed"], epoch, skip=step % steps),
            initial_epoch=epoch, epochs=epochs, validation_data=validation, shuffle=False, callbacks=[watch],
            verbose=1 if sys.stdout.isatty() else 2,
        ).history
        step = steps * (epoch + 1)
        logs = {name: values[0] for name, values in logs.items()}
        if not math.isfinite(logs["val_loss"]):
            raise not_finite(stage, "validation loss", step, resume)
        rows.append({"epoch": epoch + 1, "seconds": round(time.monotonic() - begin, 1), **logs})
        with writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
        write_history(history, rows)
        if not epochs_since_best(rows):
            checkpoints.save_model(model, best)
        save(stage, model, resume)
        comment(stage, rows, epochs, settings)
    resume.unlink()


def watcher(stage, model, resume, steps, save_seconds):
    """Callback that stops at a loss that is not finite and saves the state every few minutes of a long epoch."""
    import keras

    class Watcher(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.saved = time.monotonic()
            if resume.exists() and int(model.optimizer.iterations) % steps:
                checkpoints.load_state(model, resume)  # once more: `fit` has just set the sums of the metrics to zero

        def on_train_batch_end(self, batch, logs=None):
            step = int(model.optimizer.iterations)
            if not math.isfinite(logs["loss"]):
                raise not_finite(stage, "loss", step, resume)
            if step % steps and time.monotonic() - self.saved >= save_seconds:
                save(stage, model, resume)
                self.saved = time.monotonic()

        def on_epoch_end(self, epoch, logs=None):
            model.stop_training = True  # an epoch at a time: what follows it happens outside

    return Watcher()


def save(stage, model, resume):
    try:
        checkpoints.save_state(model, resume)
    except FloatingPointError:
        raise not_finite(stage, "state of the model", int(model.optimizer.iterations), resume) from None


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
