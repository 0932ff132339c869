"""Train a VQ-VAE on brain slices, then a PixelCNN over its codes, then a texture.

python train.py                     # OASIS in data/keras_png_slices_data, else a synthetic cohort
python train.py --data DIR --run DIR
"""

import contextlib
import dataclasses
import os
import shlex
import sys

from fitting.run_directory import RunDirectory, claimed, read_config
from fitting.settings import GROUPS, OF_PRIOR, OF_VQVAE, OLD_FLAGS, Settings, add_flags, preset_for
from sources.folder import find_slices, open_slices
from sources.layout import FITTED_SPLITS, MAX_SUBJECTS
from utils import InputError, Parser, between, command_line, cores, import_tensorflow, versions


# fmt: off
def parse(arguments=None):
    """Flags of the script. Those of settings come from `fitting.settings`."""
    parser = Parser(__doc__)
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    add = groups["data"].add_argument
    add("--data", metavar="DIR",
        help="folder with keras_png_slices_{train,validate,test}, or a .zip archive of it")
    add("--subjects", type=between(int, 3, MAX_SUBJECTS), default=60, metavar="N",
        help="size of the synthetic cohort (default: %(default)s)")
    add = groups["run"].add_argument
    add("--run", metavar="DIR", default="runs/default",
        help="where everything goes (default: %(default)s)")
    add("--start-from", metavar="RUN",
        help="begin with the weights of this finished run, such as a shipped one; settings of the "
        "networks that begin with them are its own where none are given")
    add("--strategy", choices=("mirrored", "multiworker"),
        help="train on all GPUs of this machine, or on all machines in the environment variable "
        "TF_CONFIG (default: one device)")
    add("--save-minutes", type=between(float, 0, 10**6), default=4.0, metavar="M",
        help="save within an epoch every M minutes, so that a crash costs no more "
        "(default: %(default)s)")
    groups["prior"].add_argument("--attributes", nargs="+", metavar="NAME",
        help="attributes of cases that the prior may be told, or none (default: all of the data)")
    add_flags(groups)
    parser.set_defaults(seed=Settings.seed)  # of the synthetic cohort, too
    args = parser.parse_args([*map(_renamed, sys.argv[1:] if arguments is None else arguments)])
    again, keep = args.choose_codes_again, args.keep_vqvae
    if (again or keep) and not args.start_from:
        flag = "--choose-codes-again" if again else "--keep-vqvae"
        parser.error(f"argument {flag}: name the run to go on from with --start-from")
    if again and keep:
        parser.error("argument --keep-vqvae: leave out --choose-codes-again, which keeps the prior")
    return args
# fmt: on


def _renamed(argument):
    """The argument with the name that its flag has today."""
    flag, equals, value = argument.partition("=")
    if flag not in OLD_FLAGS:
        return argument
    print(f"{flag} is called {OLD_FLAGS[flag]} now.", file=sys.stderr)
    return OLD_FLAGS[flag] + equals + value


def main(args):
    """Fit all stages, each from where it stands in the run directory."""
    directory = find_slices(args.data, args.subjects, args.seed)
    slices = open_slices(directory, needed=FITTED_SPLITS)
    settings = resolve(args, slices)
    import_tensorflow()  # takes seconds, so only now that all flags and files are checked
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    from fitting import devices, loop, stages, start, training_data  # noqa: PLC0415

    strategy = devices.find_strategy(args.strategy)
    is_chief = devices.is_chief(strategy)
    devices.check_shares(strategy, settings.batch_size, len(slices.splits["validate"]))
    if not is_chief:
        sys.stdout = open(os.devnull, "w")  # only one of the workers prints
    precision = devices.use_precision(settings.precision)
    print(f"{slices.name} in {directory}", *slices.summary(), sep="\n")
    preset = args.preset or preset_for(len(slices.splits["train"]))
    print(f"Settings that no flag gives are of the preset {preset} (train.py --help).")
    print(f"Training on {devices.describe(strategy, precision)}.", flush=True)
    if settings.deterministic:
        print("Deterministic: the same bits at every run, with slower kernels on a GPU.")
        keras.utils.set_random_seed(settings.seed)  # ops with a seed of their own ask for one
        tf.config.experimental.enable_op_determinism()

    run, source_run = RunDirectory(args.run), args.start_from and RunDirectory(args.start_from)
    names = [] if args.attributes == ["none"] else args.attributes
    data = training_data.TrainingData(slices, settings.image_size, settings.reduction, names)
    digest = None
    if source_run:
        data.frame, digest = start.check(source_run, data, settings)
    print(data.describe_frame(), flush=True)
    found = {"frame": list(data.frame), "masked": slices.masked, "start_from": digest}
    found["attributes"] = [*data.table]
    settings = dataclasses.replace(settings, precision=precision, **found)
    config = {"settings": settings, "data": data.description(), "versions": versions()}
    if devices.compute_device()[0] == "CPU":
        config["cores"] = cores()  # on which the last bits depend
    lock = claimed(run, config) if is_chief else contextlib.nullcontext()
    with devices.reporting_losses(strategy, settings), lock:
        if settings.choose_codes_again or settings.keep_vqvae:
            devices.chief_does(strategy, start.keep_models, source_run, run, settings)
        for stage in stages.plan(run, data, settings, source_run).values():
            loop.fit(stage, run, settings, strategy, args.save_minutes)
    next_flags = f"--run {shlex.quote(str(run))}"
    next_flags += f" --data {shlex.quote(args.data)}" if args.data else ""
    print(f"Done. Next: python predict.py {next_flags}")


def resolve(args, slices):
    """Settings of the flags. Those that are not given are of the preset.

    Raises:
        InputError: A setting does not fit the data.
    """
    names = {field.name for field in dataclasses.fields(Settings)} - {"start_from", "attributes"}
    given = {n: value for n, value in vars(args).items() if n in names and value is not None}
    if args.start_from:
        source = read_config(RunDirectory(args.start_from))["settings"]
        names = OF_VQVAE if args.keep_vqvae else (*OF_VQVAE, *OF_PRIOR)
        given = {name: getattr(source, name) for name in names} | given
    if slices.num_levels == 1:
        given.setdefault("neighbours", 0)
    count, side = slices.splits["train"].images.shape[:2]
    settings = Settings.for_data(count, side, args.preset, **given)
    if settings.choose_codes_again and not settings.rate_weight:
        raise InputError(
            "--choose-codes-again lets a prior choose codes: give a --rate-weight above 0."
        )
    if settings.batch_size > count:
        raise InputError(
            f"--batch-size must be at most the {count} training images. "
            f"Received: {settings.batch_size}"
        )
    return settings


if __name__ == "__main__":
    command_line(main, parse())
