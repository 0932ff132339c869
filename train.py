"""Train a VQ-VAE on brain slices, then a PixelCNN over its codes, then a texture.

python train.py                     # OASIS in data/keras_png_slices_data, else a synthetic cohort
python train.py --data DIR --run DIR
"""

import contextlib
import os
import shlex
import sys

from fitting.run_directory import RunDirectory, claimed, read_config
from sources.folder import find_slices, open_slices
from sources.layout import MAX_SUBJECTS
from utils import InputError, Parser, between, command_line, import_tensorflow, versions

# Defaults that depend on the data. With the synthetic ones both scripts take several minutes on
# two cores.
DEFAULTS = {
    "OASIS": dict(
        image_size=256, epochs=10, rate_weight=0.35, draft_epochs=2, prior_epochs=6,
        texture_epochs=6, batch_size=8, width=128, prior_width=128, prior_blocks=8,
    ),
    "synthetic": dict(
        image_size=160, epochs=10, rate_weight=0.05, draft_epochs=2, prior_epochs=4,
        texture_epochs=2, batch_size=8, width=96, prior_width=96, prior_blocks=8,
    ),
}  # fmt: skip

# Defaults of the other settings that shape the networks.
NETWORKS = dict(reduction=8, codebook_size=512, code_dim=16, slices_alone=False)

# Settings that a training takes from the run it starts from.
SHAPE = ("image_size", "width", "prior_width", "prior_blocks", "rate_weight", *NETWORKS)

# Flags that are no settings of the run. The fingerprint stands for the data.
NO_SETTINGS = ("run", "start_from", "data", "subjects", "save_minutes", "strategy")


def parse(arguments=None):
    """Flags of the script."""
    parser = Parser(__doc__)
    _add_data_and_run_flags(parser)
    _add_vqvae_flags(parser)
    _add_prior_flags(parser)
    _add_texture_flags(parser)
    args = parser.parse_args(arguments)
    if (args.image_size or 0) % 8:
        parser.error(f"argument --image-size: must be a multiple of 8. Received: {args.image_size}")
    if args.turn and not args.start_from:
        parser.error("argument --turn: it goes on from a run, name it with --start-from")
    if (args.width or 0) % 2:
        parser.error(f"argument --width: must be even. Received: {args.width}")
    return args


# One flag in two or three lines reads best.
# fmt: off
def _add_data_and_run_flags(parser):
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DIR", help="folder with keras_png_slices_{train,validate,test}")
    add("--image-size", type=between(int, 16, 2048), metavar="S",
        help=f"pixels of a side, a multiple of 8; {_default('image_size')}")
    add("--subjects", type=between(int, 3, MAX_SUBJECTS), default=60, metavar="N",
        help="size of the synthetic cohort (default: %(default)s)")
    add = parser.add_argument_group("run").add_argument
    add("--run", metavar="DIR", default="runs/default",
        help="where everything goes (default: %(default)s)")
    add("--start-from", metavar="RUN",
        help="begin with the weights of this finished run, such as a shipped one; settings of the "
        "networks that are not given are its own")
    add("--turn", action="store_true", default=None,
        help="with --start-from: keep its VQ-VAE, choose codes with its prior, and train the prior "
        "on these; its loss rises at first, so many passes need a larger --patience")
    add("--seed", type=between(int, 0, 2**31 - 1), default=0, metavar="N",
        help="seed of every random number (default: %(default)s)")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="auto: bfloat16 where the hardware multiplies it natively, else float32")
    add("--strategy", choices=("mirrored", "multiworker"),
        help="train on all GPUs of this machine, or on all machines in the environment variable "
        "TF_CONFIG (default: one device)")
    add("--deterministic", action="store_true",
        help="give the same bits from the same seed on a GPU too, with slower kernels; "
        "a CPU does so anyway")
    add("--save-minutes", type=between(float, 0, 10**6), default=4.0, metavar="M",
        help="save within an epoch every M minutes, so that a crash costs no more "
        "(default: %(default)s)")
    add("--batch-size", type=between(int, 1, 10**6), metavar="N",
        help=f"slices in a step of all stages, over all devices; {_default('batch_size')}")
    add("--patience", type=between(int, 1, 10**6), default=5, metavar="N",
        help="stop a stage after N epochs without a better validation loss (default: %(default)s)")


def _add_vqvae_flags(parser):
    add = parser.add_argument_group("VQ-VAE").add_argument
    count, weight = between(int, 1, 10**6), between(float, 0, 1e6)
    add("--epochs", type=count, metavar="N", help=f"passes over the slices; {_default('epochs')}")
    add("--reduction", metavar="R", type=int, choices=(8, 4),
        help="one code stands for R x R pixels; 4 gives finer codes and more of them "
        f"(default: {NETWORKS['reduction']})")
    add("--codebook-size", type=between(int, 2, 2**16), metavar="K",
        help=f"number of codes (default: {NETWORKS['codebook_size']})")
    add("--code-dim", type=between(int, 1, 1024), metavar="D",
        help=f"dimension of a code (default: {NETWORKS['code_dim']})")
    add("--width", type=between(int, 2, 1024), metavar="C",
        help=f"channels, an even number; {_default('width')}")
    add("--learning-rate", type=between(float, 1e-8, 1e30), default=1e-3, metavar="R",
        help="peak of the learning rate (default: %(default)s)")
    add("--ssim-weight", type=weight, default=1.0, metavar="W",
        help="weight of 1 - SSIM in the loss (default: %(default)s)")
    add("--contrast-weight", type=weight, default=3.0, metavar="W",
        help="weight of 1 - contrast in the loss, which acts against blur (default: %(default)s)")


def _add_prior_flags(parser):
    add = parser.add_argument_group("prior").add_argument
    count = between(int, 1, 10**6)
    add("--rate-weight", type=between(float, 0, 1e6), metavar="L",
        help="price of one bit when codes are chosen: a code minimises distance + L x bits; "
        f"0 gives the nearest codes and needs no draft; {_default('rate_weight')}")
    add("--draft-epochs", type=count, metavar="N",
        help="passes of the draft, a prior over nearest codes that says which codes are likely; "
        f"{_default('draft_epochs')}")
    add("--prior-epochs", type=count, metavar="N",
        help=f"passes of the prior; {_default('prior_epochs')}")
    add("--prior-width", type=between(int, 2, 1024), metavar="C",
        help=f"channels; {_default('prior_width')}")
    add("--prior-blocks", type=between(int, 1, 64), metavar="N",
        help=f"gated blocks; {_default('prior_blocks')}")
    add("--prior-dropout", type=between(float, 0, 0.99), default=0.1, metavar="P",
        help="dropout rate (default: %(default)s)")
    add("--slices-alone", action="store_true", default=None,
        help="let the prior know nothing of the slices below; such a prior draws no brains")
    add("--prior-learning-rate", type=between(float, 1e-8, 1e30), default=6e-3, metavar="R",
        help="peak of the learning rate (default: %(default)s)")


def _add_texture_flags(parser):
    add = parser.add_argument_group("texture").add_argument
    add("--texture-epochs", type=between(int, 0, 10**6), metavar="N",
        help="passes of the texture, which draws the fine grain that codes lose; 0 for none; "
        f"{_default('texture_epochs')}")
    add("--texture-width", type=between(int, 2, 1024), default=64, metavar="C",
        help="channels (default: %(default)s)")
# fmt: on


def _default(name):
    oasis, synthetic = DEFAULTS["OASIS"][name], DEFAULTS["synthetic"][name]
    return f"default: {oasis}, for the synthetic cohort {synthetic}"


def main(args):
    """Fit all stages, each from where it stands in the run directory."""
    directory = find_slices(args.data, args.subjects, args.seed)
    slices = open_slices(directory)
    settings = resolve(args, slices)
    import_tensorflow()  # takes seconds, so only now that all flags and files are checked
    from fitting import (  # noqa: PLC0415
        codes,
        device,
        stages,
        start,
        strategies,
        trainer,
        training_data,
    )

    strategy = strategies.find(args.strategy)
    is_chief = strategies.is_chief(strategy)
    strategies.check_shares(strategy, settings["batch_size"], len(slices.splits["validate"]))
    if not is_chief:
        sys.stdout = open(os.devnull, "w")  # one of the workers tells the story
    settings["precision"] = device.use_precision(args.precision)
    print(f"{slices.name} in {directory}", *slices.summary(), sep="\n")
    print(f"Training on {device.describe(strategy, settings['precision'])}.", flush=True)
    if args.deterministic:
        print("Deterministic: the same bits at every run, with slower kernels on a GPU.")
        device.use_deterministic_kernels(args.seed)

    run = RunDirectory(args.run)
    data = training_data.TrainingData(slices, settings["image_size"], settings["reduction"])
    begin = None
    if args.start_from:
        other = RunDirectory(args.start_from)
        begin = start.load(other, data, settings)
        data.frame, settings["start_from"] = begin.frame, begin.digest
    print(data.describe_frame(), flush=True)
    settings |= {"frame": list(data.frame), "masked": slices.masked}
    config = {"settings": settings, "data": data.description(), "versions": versions()}
    held = claimed(run, config) if is_chief else contextlib.nullcontext()
    with strategies.reporting_lost_worker(strategy), held:
        machine = trainer.Trainer(run, settings, strategy, args.save_minutes)
        if args.turn:
            strategies.chief_does(strategy, start.keep_models, other, run)
        machine.fit(stages.vqvae_stage(data, settings, begin))
        if settings["rate_weight"] and not args.turn:
            strategies.chief_does(strategy, codes.choose_draft_codes, run, data, settings)
            machine.fit(stages.draft_stage(run, data, settings, begin))
        strategies.chief_does(strategy, codes.choose_codes, run, data, settings)
        machine.fit(stages.prior_stage(run, data, settings, begin))
        if settings["texture_epochs"]:
            machine.fit(stages.texture_stage(run, data, settings))
    next_flags = f"--run {shlex.quote(str(run))}"
    next_flags += f" --data {shlex.quote(args.data)}" if args.data else ""
    print(f"Done. Next: python predict.py {next_flags}")


def resolve(args, slices):
    """Every setting that shapes the result. Flags that are not given get the default of the data.

    Raises:
        InputError: A setting does not fit the data.
    """
    settings = {name: value for name, value in vars(args).items() if name not in NO_SETTINGS}
    defaults = NETWORKS | DEFAULTS["synthetic" if slices.cohort else "OASIS"]
    if args.start_from:
        defaults |= shape_of(RunDirectory(args.start_from))
    for name, value in defaults.items():
        if settings[name] is None:
            settings[name] = value
    count = len(slices.splits["train"])
    if args.turn and not settings["rate_weight"]:
        raise InputError("--turn lets a prior choose codes: give a --rate-weight above 0.")
    if settings["batch_size"] > count:
        raise InputError(
            f"--batch-size must be at most the {count} training images. "
            f"Received: {settings['batch_size']}"
        )
    return settings


def shape_of(run):
    """Settings of another run that shape its networks, checked as if they were flags."""
    other = read_config(run)["settings"]
    given = [name for name in SHAPE if name in other and name != "slices_alone"]
    flags = [f"--{name.replace('_', '-')}={other[name]}" for name in given]
    flags += ["--slices-alone"] * (other.get("slices_alone") is True)
    checked = vars(parse(flags))
    return {name: checked[name] for name in SHAPE if checked[name] is not None}


if __name__ == "__main__":
    command_line(main, parse())
