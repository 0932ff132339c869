"""Every setting of a training, once: its name, default, range and help.

The flags of train.py are made of it, `config.json` holds it, and `--start-from` reads it. This file
loads no TensorFlow.
"""

import argparse
import dataclasses
from typing import Any, NamedTuple

from utils import between

GROUPS = ("data", "run", "VQ-VAE", "prior", "texture")  # of flags, as --help shows them

# Flags that have another name now. They work for one version, and say so.
OLD_FLAGS = {"--turn": "--choose-codes-again", "--draft-epochs": "--first-prior-epochs"}

# Settings in the `config.json` of a run that was made when they had another name.
OLD_SETTINGS = {"turn": "choose_codes_again", "draft_epochs": "first_prior_epochs"}


class Preset(NamedTuple):
    """A row of `PRESETS`.

    Attributes:
        slices: Least and largest number of training slices that its passes are meant for.
        minutes: Minutes of a training on two cores, for --help.
        settings: Values of settings by name. Others have one default for all rows.
    """

    slices: tuple[int, int]
    minutes: str
    settings: dict[str, Any]


# Defaults that are not the same for all trainings. `fine` is the VQ-VAE and the prior of
# pretrained/oasis-256-fine, before codes are chosen again.
# fmt: off
PRESETS = {
    "small": Preset((1_000, 3_000), "12", {
        "image_size": 160, "reduction": 8, "width": 96, "epochs": 10,
        "rate_weight": 0.05, "first_prior_epochs": 2, "prior_epochs": 4, "prior_width": 96,
        "texture_epochs": 2,
    }),
    "standard": Preset((3_000, 10_000), "45", {
        "image_size": 256, "reduction": 8, "width": 128, "epochs": 10,
        "rate_weight": 0.35, "first_prior_epochs": 2, "prior_epochs": 6, "prior_width": 128,
        "texture_epochs": 6,
    }),
    "fine": Preset((3_000, 10_000), "hours", {
        "image_size": 256, "reduction": 4, "width": 64, "epochs": 8,
        "rate_weight": 0.5, "first_prior_epochs": 1, "prior_epochs": 24, "prior_width": 96,
        "texture_epochs": 12,
    }),
}
# fmt: on
STANDARD = PRESETS["standard"].settings
MOST_FACTOR = 20  # by which passes grow for few slices, because a pass costs time of its own
FINE_SIDE = 128  # pixels; smaller slices need finer codes


def preset_for(count: int) -> str:
    """Name of the preset that fits a number of training slices."""
    return "small" if count < PRESETS["standard"].slices[0] else "standard"


def _flag(group, default, help_text, *bounds, metavar="N", **more):
    """A setting with a flag: a switch, a choice, or a number between `bounds`.

    Args:
        group: One of `GROUPS`.
        default: Default, which also tells the type.
        help_text: What --help says about it.
        *bounds: Least and largest number.
        metavar: Name of the number in --help.
        **more: `choices`, or `multiple`, of which a number must be one.
    """
    about = {"group": group, "help": help_text, "bounds": bounds}
    return dataclasses.field(default=default, metadata={**about, "metavar": metavar, **more})


def _constant(default, *bounds):
    """A setting without a flag. Without bounds it is what a training finds out, or None."""
    return dataclasses.field(default=default, metadata={"bounds": bounds})


# One setting in two or three lines reads best.
# fmt: off
@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a training. Defaults are those of the preset "standard".

    The last three are no choices: a training finds them in its slices and in the run that it
    starts from. `frame` is the part of the slices that networks see, as first row, first column,
    and the row and column after the last; `masked` is whether slices are brain-masked; and
    `start_from` is the digest of the models of the other run.

    Raises:
        ValueError: A setting has another type or is out of range.
    """

    image_size: int = _flag(
        "data", STANDARD["image_size"], "pixels of a side, a multiple of 8; never more than the "
        "slices have unless given", 16, 2048, metavar="S", multiple=8)

    choose_codes_again: bool = _flag(
        "run", False, "with --start-from: keep its VQ-VAE, choose the codes again with its prior, "
        "and train the prior on these; its loss rises at first, so many epochs need a larger "
        "--patience")
    seed: int = _flag("run", 0, "seed of every random number", 0, 2**31 - 1)
    precision: str = _flag(
        "run", "auto", "auto: bfloat16 where the hardware multiplies it faster, else float32",
        choices=("auto", "float32", "bfloat16"), metavar=None)
    deterministic: bool = _flag(
        "run", False, "give the same bits from the same seed on a GPU too, with slower kernels; "
        "a CPU does so anyway, with the same number of cores")
    batch_size: int = _flag(
        "run", 8, "slices in a step of all stages, over all devices", 1, 10**6)
    patience: int = _flag(
        "run", 5, "stop a stage after N epochs without a better validation loss", 1, 10**6)
    warmup_steps: int = _constant(200, 1, 10**6)  # at most; the learning rate rises
    beta_2: float = _constant(0.99, 0, 1)  # of Adam
    clip_norm: float = _constant(1.0, 0, 1e6)  # of the gradient of all weights together

    epochs: int = _flag("VQ-VAE", STANDARD["epochs"], "passes over the slices", 1, 10**6)
    reduction: int = _flag(
        "VQ-VAE", STANDARD["reduction"], "one code stands for R x R pixels; 4 gives finer codes "
        f"and more of them, and is the default for slices below {FINE_SIDE} pixels",
        choices=(8, 4), metavar="R")
    codebook_size: int = _flag("VQ-VAE", 512, "number of codes", 2, 2**16, metavar="K")
    code_dim: int = _flag("VQ-VAE", 16, "dimension of a code", 1, 1024, metavar="D")
    width: int = _flag(
        "VQ-VAE", STANDARD["width"], "channels, an even number", 2, 1024, metavar="C", multiple=2)
    learning_rate: float = _flag(
        "VQ-VAE", 1e-3, "peak of the learning rate", 1e-8, 1e30, metavar="R")
    ssim_weight: float = _flag(
        "VQ-VAE", 1.0, "weight of 1 - SSIM in the loss", 0, 1e6, metavar="W")
    contrast_weight: float = _flag(
        "VQ-VAE", 3.0, "weight of 1 - contrast in the loss, which acts against blur", 0, 1e6,
        metavar="W")

    prior: str = _flag("prior", "pixelcnn", "network of the prior", choices=("pixelcnn",),
        metavar=None)  # those of `modules.PRIORS`
    rate_weight: float = _flag(
        "prior", STANDARD["rate_weight"], "price of one bit when codes are chosen: a code "
        "minimises distance + L x bits; 0 gives the nearest codes and needs no first prior", 0, 1e6,
        metavar="L")
    first_prior_epochs: int = _flag(
        "prior", STANDARD["first_prior_epochs"], "passes of the first prior, which learns the "
        "nearest codes and says which codes are likely", 1, 10**6)
    prior_epochs: int = _flag(
        "prior", STANDARD["prior_epochs"], "passes of the prior", 1, 10**6)
    prior_width: int = _flag("prior", STANDARD["prior_width"], "channels", 2, 1024, metavar="C")
    prior_blocks: int = _flag("prior", 8, "gated blocks", 1, 64)
    prior_dropout: float = _flag("prior", 0.1, "dropout rate", 0, 0.99, metavar="P")
    slices_alone: bool = _flag(
        "prior", False, "let the prior know nothing of the slices below; such a prior draws no "
        "brains")
    prior_learning_rate: float = _flag(
        "prior", 6e-3, "peak of the learning rate", 1e-8, 1e30, metavar="R")

    texture_epochs: int = _flag(
        "texture", STANDARD["texture_epochs"], "passes of the texture, which draws the fine grain "
        "that codes lose; 0 for none", 0, 10**6)
    texture_width: int = _flag("texture", 64, "channels", 2, 1024, metavar="C")
    texture_learning_rate: float = _constant(4e-3, 1e-8, 1e30)

    frame: list | None = _constant(None)
    masked: bool | None = _constant(None)
    start_from: str | None = _constant(None)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not _fits(getattr(self, field.name), field):
                raise ValueError(f"its setting {field.name} has another type or is out of range")

    @classmethod
    def for_data(cls, count: int, side: int, preset: str | None = None, **given) -> "Settings":
        """Settings of a preset for a set of slices, where none is given.

        Passes grow where the set has fewer slices than those of the preset are meant for, so that
        each stage takes as many steps as there, and shrink where it has more.

        Args:
            count: Number of training slices.
            side: Pixels of their sides, a multiple of 8.
            preset: One of `PRESETS`. None is that for this number of slices.
            **given: Settings that are given.
        """
        (least, most), _, row = PRESETS[preset or preset_for(count)]
        factor = min(MOST_FACTOR, max(1, least / count)) * min(1, most / count)
        row = {n: max(1, round(v * factor)) if n in PASSES else v for n, v in row.items()}
        row["patience"] = max(cls.patience, round(cls.patience * factor))
        row["batch_size"] = min(cls.batch_size, count)
        row["image_size"] = min(row["image_size"], side)
        if side < FINE_SIDE:
            row["reduction"] = 4
        return cls(**row | given)

    @classmethod
    def from_config(cls, values: dict[str, Any]) -> "Settings":
        """Settings in a `config.json`. It may be older than some of them, and name others.

        Raises:
            ValueError: A setting has another type or is out of range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        values = {OLD_SETTINGS.get(name, name): value for name, value in values.items()}
        known = {n: value for n, value in values.items() if n in names and value is not None}
        return cls(**known)
# fmt: on


PASSES = ("epochs", "first_prior_epochs", "prior_epochs", "texture_epochs")
OF_VQVAE = ("image_size", "reduction", "codebook_size", "code_dim", "width")
# Settings that a training takes from the run it starts from, where none is given.
OF_PRIOR = ("prior", "prior_width", "prior_blocks", "slices_alone", "rate_weight")
OF_NETWORKS = (*OF_VQVAE, *OF_PRIOR)


def _fits(value, field):
    """Whether a value is one that a setting may have."""
    about, kind = field.metadata, type(field.default)
    if field.default is None:
        return isinstance(value, field.type)
    if "choices" in about:
        return value in about["choices"]
    if kind is bool or isinstance(value, bool):
        return type(value) is kind
    least, most = about["bounds"]
    is_between = isinstance(value, (int, kind)) and least <= value <= most
    return is_between and not ("multiple" in about and value % about["multiple"])


def add_flags(groups: dict[str, argparse.ArgumentParser]) -> None:
    """Add `--preset` and a flag for each setting that has one. What is not given is None.

    Args:
        groups: Groups of flags of a parser, by the names in `GROUPS`.
    """
    groups["run"].add_argument("--preset", choices=PRESETS, help=_help_of_presets())
    for field in dataclasses.fields(Settings):
        if "group" not in field.metadata:
            continue
        about, kind = field.metadata, type(field.default)
        flag, text = f"--{field.name.replace('_', '-')}", about["help"]
        options = {"action": "store_true"}
        if kind is not bool:
            text += f" (default: {_default(field)})"
            bounds = about["bounds"]
            number = between(kind, *bounds, about.get("multiple", 1)) if bounds else kind
            options = {"type": number, "metavar": about["metavar"], "choices": about.get("choices")}
        groups[about["group"]].add_argument(flag, default=None, help=text, **options)


def _default(field):
    """The default of a setting, or those of all presets, for --help."""
    values = [preset.settings.get(field.name, field.default) for preset in PRESETS.values()]
    return "/".join(map(str, values if len(set(values)) > 1 else values[:1]))


def _help_of_presets():
    minutes = ", ".join(f"{name} ({preset.minutes})" for name, preset in PRESETS.items())
    few, many = PRESETS["standard"].slices
    return (
        f"defaults of sizes and passes, and minutes on two cores: {minutes}; the help of a flag "
        f"shows its values in this order. Without it, small is for fewer than {few} training "
        f"slices and standard for more. Passes grow for fewer than {PRESETS['small'].slices[0]} "
        f"slices (standard and fine: {few}), and shrink for more than {many}"
    )
