"""Train a VQ-VAE on brain slices, then a PixelCNN prior over its codes.

python train.py                     # OASIS in data/keras_png_slices_data, else a synthetic cohort
python train.py --data DIR --run DIR
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes are no news to the user

from utils import InputError, claim_run, command_line, device, precision_policy, read_history, replacing, versions, write_history

# What a flag that is not given becomes. The synthetic ones fit both scripts into ten minutes on two cores.
DEFAULTS = {
    "OASIS": dict(image_size=256, epochs=14, prior_epochs=8, batch_size=8, width=128, prior_width=128, prior_blocks=8),
    "synthetic": dict(image_size=128, epochs=12, prior_epochs=12, batch_size=8, width=96, prior_width=96, prior_blocks=8),
}


def parse(arguments=None):
    def at_least(kind, least):
        def number(text):
            value = kind(text)
            if not least <= value < float("inf"):
                raise argparse.ArgumentTypeError(f"must be at least {least}. Received: {text}")
            return value

        number.__name__ = kind.__name__
        return number

    def auto(name):
        return f"default: {DEFAULTS['OASIS'][name]}, for the synthetic cohort {DEFAULTS['synthetic'][name]}"

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DIR", help="folder with keras_png_slices_{train,validate,test}")
    add("--image-size", type=at_least(int, 16), help=f"pixels of a side, a multiple of 8; {auto('image_size')}")
    add("--subjects", type=at_least(int, 3), default=60, help="size of the synthetic cohort (default: %(default)s)")
    add = parser.add_argument_group("run").add_argument
    add("--run", metavar="DIR", default="runs/default", help="where everything goes (default: %(default)s)")
    add("--seed", type=at_least(int, 0), default=0, help="of every random number (default: %(default)s)")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="auto: bfloat16 where the hardware multiplies it natively, else float32")
    add("--batch-size", type=at_least(int, 1), help=f"of both stages; {auto('batch_size')}")
    add("--patience", type=at_least(int, 1), default=5,
        help="epochs without a better validation loss before a stage stops early (default: %(default)s)")
    add = parser.add_argument_group("VQ-VAE").add_argument
    add("--epochs", type=at_least(int, 1), help=auto("epochs"))
    add("--codebook-size", type=at_least(int, 2), default=512, help="(default: %(default)s)")
    add("--code-dim", type=at_least(int, 1), default=16, help="(default: %(default)s)")
    add("--width", type=at_least(int, 2), help=f"channels; {auto('width')}")
    add("--learning-rate", type=at_least(float, 1e-8), default=1e-3, help="peak (default: %(default)s)")
    add("--ssim-weight", type=at_least(float, 0), default=1.0, help="of 1 - SSIM beside the pixel term (default: %(default)s)")
    add = parser.add_argument_group("prior").add_argument
    add("--prior-epochs", type=at_least(int, 1), help=auto("prior_epochs"))
    add("--prior-width", type=at_least(int, 2), help=f"channels; {auto('prior_width')}")
    add("--prior-blocks", type=at_least(int, 1), help=f"gated blocks; {auto('prior_blocks')}")
    add("--prior-dropout", type=at_least(float, 0), default=0.1, help="(default: %(default)s)")
    add("--prior-learning-rate", type=at_least(float, 1e-8), default=2e-3, help="peak (default: %(default)s)")
    return parser.parse_args(arguments)


def main(args):
    import keras

    import dataset

    directory = dataset.find_slices(args.data, args.subjects, args.seed)
    slices = dataset.open_slices(directory)
    settings = resolve(args, slices)
    policy = precision_policy(args.precision)
    settings["precision"] = policy
    print(f"{slices.name} in {directory}")
    print(*slices.report(), sep="\n")
    kind, name = device()
    print(f"Training on the {kind} ({name}), {policy}.", flush=True)

    run = pathlib.Path(args.run)
    claim_run(run, {
        "settings": settings,
        "data": {"name": slices.name, "directory": str(directory), "fingerprint": slices.fingerprint,
                 "intensity_range": dataset.INTENSITY_RANGE, "images": {s.name: len(s) for s in slices.splits.values()}},
        "versions": versions(),
    })
    keras.config.set_dtype_policy(policy)
    train_vqvae(run, slices, settings)
    train_prior(run, slices, settings)
    print(f"Done. Next: python predict.py --run {run}" + (f" --data {args.data}" if args.data else ""))


def resolve(args, slices):
    """Every setting that shapes the result, with what was left open filled in, checked against the data."""
    defaults = DEFAULTS["synthetic" if slices.name.startswith("synthetic") else "OASIS"]
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "data", "subjects")}
    settings.update({name: value for name, value in defaults.items() if settings[name] is None})
    if settings["image_size"] % 8:
        raise InputError(f"--image-size must be a multiple of 8, the pixels that share a code. Received: {settings['image_size']}")
    if settings["prior_dropout"] >= 1:
        raise InputError(f"--prior-dropout must be below 1. Received: {settings['prior_dropout']}")
    smallest = len(slices.splits["train"])
    if settings["batch_size"] > smallest:
        raise InputError(f"--batch-size must be at most the {smallest} training images. Received: {settings['batch_size']}")
    return settings


def train_vqvae(run, slices, settings):
    """First stage: `vqvae.keras`, images to codes and back."""
    import dataset
    import metrics
    import modules

    sources = {name: dataset.images_of(dataset.image_source(slices.splits[name], settings["image_size"])) for name in ("train", "validate")}

    def fresh(schedule):
        model = modules.VQVAE(settings["image_size"], settings["codebook_size"], settings["code_dim"], settings["width"], seed=settings["seed"])
        model.compile(optimizer(schedule), loss=metrics.ReconstructionLoss(settings["ssim_weight"]), metrics=[metrics.ssim])
        return model

    fit_stage("vqvae", run, fresh, sources, {name: len(slices.splits[name]) for name in sources},
              settings, settings["epochs"], settings["learning_rate"])


def train_prior(run, slices, settings):
    """Second stage: `prior.keras`, the distribution of the codes of a slice given its level."""
    import keras
    import numpy as np

    import dataset
    import metrics
    import modules

    vqvae = keras.saving.load_model(run / "vqvae.keras", compile=False)
    codes = {name: encode_split(vqvae, slices.splits[name], settings) for name in ("train", "validate")}
    with replacing(run / "code_counts.npz") as temporary:
        np.savez_compressed(temporary, counts=metrics.code_counts(codes["train"][0], settings["codebook_size"]))
    examples = {name: dataset.codes_of(codes[name], slices.splits[name].levels) for name in codes}

    def fresh(schedule):
        model = modules.PixelCNN(codes["train"].shape[-1], settings["codebook_size"], slices.levels,
                                 settings["prior_width"], settings["prior_blocks"], settings["prior_dropout"])
        model.compile(optimizer(schedule))
        return model

    fit_stage("prior", run, fresh, examples, {name: len(slices.splits[name]) for name in codes},
              settings, settings["prior_epochs"], settings["prior_learning_rate"])


def encode_split(vqvae, split, settings):
    """Codes of a split's slices and of their mirror images, uint16 `(2, N, H, W)`."""
    import numpy as np

    import dataset

    example = dataset.images_of(dataset.image_source(split, settings["image_size"]))
    return np.stack([
        np.concatenate([vqvae.encode(images).numpy() for images, _ in dataset.evaluation_batches(example, len(split), 32, mirror)])
        for mirror in (False, True)
    ]).astype("uint16")


def optimizer(schedule):
    import keras

    return keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0)


def fit_stage(stage, run, fresh, examples, counts, settings, epochs, peak):
    """Fit one stage from where it stands to its end.

    The history is the record of what was reached: best score, patience and end are read from it. The model of the last
    epoch, with its optimizer and random generators, lies in `resume/` until the stage ends.

    Args:
        stage: "vqvae" or "prior".
        fresh: function of a learning-rate schedule to a compiled model.
        examples, counts: example functions of `dataset` and their numbers, by split.
        peak: learning rate at the end of the warm-up, from which it falls to zero along a cosine.
    """
    import keras

    import dataset

    steps = counts["train"] // settings["batch_size"]
    path, resume, history = run / f"{stage}.keras", run / "resume" / f"{stage}.keras", run / f"{stage}_history.csv"
    rows = read_history(history)
    if resume.exists():
        model = keras.saving.load_model(resume)
        rows = rows[: int(model.optimizer.iterations) // steps]
    elif path.exists() and rows:
        print(f"{stage}: finished after {len(rows)} epochs.", flush=True)
        return
    else:
        keras.utils.set_random_seed(settings["seed"])  # here, so that a stage starts alike whatever ran before it
        warmup = max(1, min(200, steps * epochs // 10))
        model, rows = fresh(keras.optimizers.schedules.CosineDecay(0.0, steps * epochs - warmup, warmup_target=peak, warmup_steps=warmup)), []
    print(f"{stage}: {model.count_params() / 1e6:.2f} M parameters, "
          + (f"continues after epoch {len(rows)}" if rows else "starts") + f", {epochs} epochs of {steps} steps.", flush=True)

    def reseed(epoch, logs):
        # Keras saves no state of random generators; this makes it, like the data's order, a function of seed and epoch
        states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
        for number, state in enumerate(states):
            state.assign([settings["seed"] + number, epoch << 16])  # the second is a counter, moved on by every draw

    def keep(epoch, logs):
        rows.append({"epoch": epoch + 1, "seconds": round(time.monotonic() - keep.begin, 1), **{k: float(v) for k, v in logs.items()}})
        keep.begin = time.monotonic()
        write_history(history, rows)
        since_best = epochs_since_best(rows)
        if not since_best:
            save(bare(model), path)
        save(model, resume)
        if since_best >= settings["patience"]:
            print(f"{stage}: no better validation loss for {since_best} epochs, stopping early.", flush=True)
            model.stop_training = True

    keep.begin = time.monotonic()
    if len(rows) < epochs and epochs_since_best(rows) < settings["patience"]:
        model.fit(
            dataset.training_batches(examples["train"], counts["train"], settings["batch_size"], settings["seed"], first_epoch=len(rows)),
            shuffle=False, steps_per_epoch=steps, initial_epoch=len(rows), epochs=epochs,
            validation_data=dataset.evaluation_batches(examples["validate"], counts["validate"], settings["batch_size"]),
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=reseed, on_epoch_end=keep),
                       keras.callbacks.TensorBoard(run / "logs" / stage, write_graph=False)],
        )
    resume.unlink()


def epochs_since_best(rows):
    losses = [row["val_loss"] for row in rows]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def bare(model):
    """Copy of a model without its optimizer, whose state is twice the size of the weights."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def save(model, path):
    with replacing(path) as temporary:
        model.save(temporary)


if __name__ == "__main__":
    command_line(main, parse())
