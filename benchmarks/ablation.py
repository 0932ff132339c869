"""Measure what each ingredient of the two models is worth.

python benchmarks/ablation.py --data DIR --run DIR [--stage vqvae|prior] [--steps N] [--json FILE]

It trains variants that lack one ingredient, briefly, and scores them on the validation split. A
variant has the settings of the run, changed as `variants` lists. All variants start from the same
seed, see the same batches and take the same number of steps. Their learning rate rises and falls
within these steps as in train.py.

Scores are means over at most 256 validation slices, spread evenly. "another seed" shows how much
chance alone changes a score. Brief training hides what acts against overfitting, like mirroring
and dropout. It also hides a part of what a larger network is worth.

With --json every figure is written as soon as it is known. A variant that the file holds already is
not trained again.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence

import house  # noqa: F401  opens the repository

# isort: split
import keras
import numpy as np
import tensorflow as tf
from contenders import recorded
from contenders.timing import fit

import dataset
import modules
import train
from fitting.codes import read_codes
from fitting.device import use_precision
from fitting.run_directory import RunDirectory, read_config
from fitting.stages import make_optimizer, make_vqvae, vqvae_objective
from measures import metrics
from measures.evaluation import BATCH
from measures.images import to_grey
from sources.folder import Slices, Split, find_slices, open_slices
from sources.layout import FITTED_SPLITS
from utils import InputError, Parser, between, command_line, progress, read_json

STEPS = {"vqvae": 600, "prior": 500}  # both tables take 25 minutes on two cores
PRIOR_WIDTH = 64  # half of the shipped width, for more steps in the same time
MAX_VALIDATION = 256  # slices, so that scoring takes little time beside so short a training

# Settings that train.py lacks, with the values that it stands for. "told" says whether mirror
# images have levels of their own.
SHIPPED = {
    "mirror": True,
    "told": True,
    "codebook": "restarted",
    "level": True,
    "position": True,
    "dilations": None,
    "averaging": None,
}

COLUMNS = {
    "vqvae": {
        "ssim": ".4f",
        "psnr": ".2f",
        "gradient_ratio": ".3f",
        "spectrum_ratio": ".3f",
        "codes_used": ".0f",
        "index_bytes": ".0f",
    },
    "prior": {"bits_per_code": ".3f", "brain_bits_per_code": ".3f"},
}
COMMON_COLUMNS = {"parameters": ",.0f", "seconds_per_step": ".3f"}


def parse(arguments=None):
    """Read the command line."""
    both = f"{STEPS['vqvae']} of the VQ-VAE and {STEPS['prior']} of the prior"
    count, width = between(int, 10, 10**6), between(int, 2, 1024)
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--run", metavar="DIR", type=pathlib.Path, required=True, help="finished run of train.py")
    add("--data", metavar="DIR", required=True, help="folder with the three splits")
    add("--stage", choices=STEPS, help="train only this table (default: both)")
    add("--steps", type=count, metavar="N", help=f"steps of each variant (default: {both})")
    add(
        "--prior-width",
        type=width,
        default=PRIOR_WIDTH,
        metavar="C",
        help="channels of the prior (default: %(default)s)",
    )
    add(
        "--json",
        metavar="FILE",
        type=pathlib.Path,
        help="write all figures here, and continue from those that it holds",
    )
    return parser.parse_args(arguments)


def main(args):
    """Fill and print the table of each stage."""
    slices = open_slices(find_slices(args.data))
    config = read_config(RunDirectory(args.run))
    if slices.fingerprint != config["data"]["fingerprint"]:
        raise InputError(
            f"{args.run} was trained on other slices than those in {args.data}: "
            "name the data of the run with --data."
        )
    side = config["settings"]["image_size"]
    settings = {
        # A run may be older than a setting.
        **train.resolve(train.parse([]), slices),
        "frame": [0, 0, side, side],
        "masked": None,
        **config["settings"],
        **SHIPPED,
        "precision": use_precision("auto"),
        "prior_width": args.prior_width,
    }
    continues = args.json and args.json.exists()
    report = read_json(args.json, advice="name another --json file") if continues else {}
    report.pop("made", None)
    for stage in [args.stage] if args.stage else STEPS:
        base = {**settings, "steps": args.steps or STEPS[stage]}
        bench = {"vqvae": AutoencoderBench, "prior": PriorBench}[stage](slices, base, args.run)
        fill_table(stage, bench, report, args.json)


def fill_table(stage: str, bench: "Bench", report: dict, path: pathlib.Path | None) -> None:
    """Train the variants of a stage that the report lacks, and print a line for each variant.

    Args:
        stage: "vqvae" or "prior".
        bench: What trains and scores a variant of this stage.
        report: Figures of both stages, which grow.
        path: JSON file of the report, or None.

    Raises:
        InputError: The report holds figures that cannot be compared.
    """
    base = bench.base
    conditions = {
        "data": bench.slices.fingerprint,
        "validation_slices": len(bench.validation),
        "settings": base,
    }
    table = report.setdefault(stage, {"conditions": conditions, "variants": {}})
    if table["conditions"] != conditions:
        raise InputError(
            f"{path} holds figures of other steps, settings or data: name another --json file."
        )
    show_head(stage, conditions)
    for name, changes in variants(base)[stage].items():
        row = table["variants"].get(name)
        if not row or row["changes"] != changes:
            figures = bench.measure({**base, **changes}, name)
            row = table["variants"][name] = {"changes": changes, **figures}
            if path:
                recorded.write(path, report)
        show_row(stage, name, row)


def show_head(stage, conditions):
    """Print the conditions of a table and the names of its columns."""
    base = conditions["settings"]
    work = f"{base['steps']} steps of {base['batch_size']}, {base['precision']}"
    print(f"{stage}, {work}, {conditions['validation_slices']} validation slices")
    columns = {**COLUMNS[stage], **COMMON_COLUMNS}
    print(f"{'':<38}" + "".join(f"{name:>{len(name) + 2}}" for name in columns), flush=True)


def show_row(stage, name, row):
    """Print one variant."""
    cells = []
    for column, style in {**COLUMNS[stage], **COMMON_COLUMNS}.items():
        figure = math.nan if row[column] is None else row[column]
        cells.append(f"{figure:>{len(column) + 2}{style}}")
    print(f"{name:<38}" + "".join(cells), flush=True)


def variants(base: dict) -> dict[str, dict[str, dict]]:
    """List the settings that every variant changes: by stage, then by name of the variant."""
    half = base["width"] // 4 * 2
    another_seed = {"seed": base["seed"] + 1}
    large = 4 * base["codebook_size"]
    return {
        "vqvae": {
            "as shipped": {},
            "another seed": another_seed,
            "without the contrast term": {"contrast_weight": 0.0},
            "squared and absolute error alone": {"ssim_weight": 0.0, "contrast_weight": 0.0},
            "without mirroring": {"mirror": False},
            "dead codes not restarted": {"codebook": "from data"},
            "nor started from data": {"codebook": "random"},
            "codes of 64 dimensions": {"code_dim": 64},
            "codes of 4 dimensions": {"code_dim": 4},
            f"{large} codes": {"codebook_size": large},
            # The layers at this resolution are then as wide as they are in the shipped model.
            "a code for 4 x 4 pixels": {"reduction": 4, "width": half},
            "half the width": {"width": half},
            "float32": {"precision": "float32"},
        },
        "prior": {
            "as shipped, without a draft": {},
            "another seed": another_seed,
            "without the slices below": {"slices_alone": True},
            "without the level": {"level": False},
            "without the position": {"position": False},
            "without mirroring": {"mirror": False},
            "mirror images not told from slices": {"told": False},
            "without dropout": {"prior_dropout": 0.0},
            "all dilations 1": {"dilations": [1]},
            "half the blocks": {"prior_blocks": max(1, base["prior_blocks"] // 2)},
            "averaged weights": {"averaging": 0.99},
        },
    }


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all variants of a stage share.

    Attributes:
        slices: Slices of the run.
        base: Settings of the run, `SHIPPED`, and the number of `steps`.
        run: Run directory.
    """

    slices: Slices
    base: dict
    run: pathlib.Path

    @functools.cached_property
    def chosen(self) -> np.ndarray:
        """Indices of the validation slices that are scored, at even distances."""
        count = len(self.slices.splits["validate"])
        return np.linspace(0, count - 1, min(count, MAX_VALIDATION)).round().astype(int)

    @functools.cached_property
    def validation(self) -> Split:
        """The validation slices that are scored."""
        split = self.slices.splits["validate"]
        paths = tuple(split.paths[index] for index in self.chosen)
        names = ("cases", "levels", "subjects")
        arrays = {name: getattr(split, name)[self.chosen] for name in names}
        return dataclasses.replace(split, paths=paths, **arrays)


class AutoencoderBench(Bench):
    """Trains and scores variants of the VQ-VAE."""

    @functools.cached_property
    def examples(self) -> dict[str, Callable]:
        """Example functions: frames of the training slices, whole validation slices that count."""
        splits, size = {**self.slices.splits, "validate": self.validation}, self.base["image_size"]
        frames = {"train": self.base["frame"], "validate": None}
        return {
            name: dataset.image_examples(dataset.ImageSource(splits[name], size), frames[name])
            for name in FITTED_SPLITS
        }

    def measure(self, settings: dict, title: str = "training") -> dict:
        """Train a variant and return its figures."""
        make = functools.partial(self.make, settings)
        count, peak = len(self.slices.splits["train"]), settings["learning_rate"]
        model, seconds = fit(make, self.examples["train"], count, settings, peak, title)
        scores, codes, images, restored = self.evaluate(model)
        return {
            **scores,
            **metrics.detail(images, restored),
            "codes_used": len(np.unique(codes)),
            "index_bytes": codes[0].size * math.log2(settings["codebook_size"]) / 8,
            "parameters": model.count_params(),
            "seconds_per_step": seconds,
        }

    def make(self, settings: dict, schedule) -> keras.Model:
        """Build and compile a variant."""
        model = make_vqvae(settings)
        model.compile(make_optimizer(schedule), **vqvae_objective(settings))
        if settings["codebook"] != "restarted":
            count = len(self.slices.splits["train"])
            batch_size, seed = settings["batch_size"], settings["seed"]
            batches = dataset.training_batches(
                self.examples["train"], count, batch_size, seed, epoch=0
            )
            images, _ = next(iter(batches))
            hold_codebook(model.quantizer, model.encoder(images), settings["codebook"])
        return model

    def evaluate(self, model):
        """Reconstruct the validation slices.

        Returns:
            Mean SSIM and PSNR, codes `(N, H, W)`, images and reconstructions, uint8 `(N, S, S)`.
        """
        parts = []
        batches = dataset.evaluation_batches(self.examples["validate"], len(self.validation), BATCH)
        for images, _ in progress(batches, "scoring"):
            codes = model.encode(images)
            restored = model.decode(codes)
            quality = metrics.ssim(images, restored), metrics.psnr(images, restored)
            grey = (to_grey(values)[..., 0] for values in (images, restored))
            parts.append((*quality, codes, *grey))
        ssim, psnr, *arrays = (np.concatenate(values) for values in zip(*parts))
        return {"ssim": float(ssim.mean()), "psnr": float(psnr.mean())}, *arrays


def hold_codebook(quantizer: modules.VectorQuantizer, latents: tf.Tensor, start: str) -> None:
    """Let no code restart from now on.

    Args:
        quantizer: Quantizer before its first step.
        latents: Vectors of a batch, float32 `(B, H, W, D)`.
        start: "from data" puts the codes on vectors of the batch. "random" leaves them where the
            initializer put them.
    """
    if start == "from data":
        quantizer(latents, training=True)  # the first step restarts every code
    else:
        # Without counts, a code that gets no vector of the first batch would become zero.
        share = math.prod(latents.shape[:-1]) / quantizer.codebook_size
        quantizer.counts.assign(quantizer.counts * 0 + share)
        quantizer.sums.assign(quantizer.codebook * share)
    quantizer.restart_below = 0.0


class PriorBench(Bench):
    """Trains and scores variants of the prior, on the codes that the run's training left."""

    @functools.cached_property
    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the training split and of the validation split, `(2, N, H, W)` each.

        Raises:
            InputError: The run has none.
        """
        path = RunDirectory(self.run).codes
        if not path.is_file():
            raise InputError(
                f"{path} is not there, and the priors learn from these codes: "
                "name the run directory that train.py wrote."
            )
        return tuple(read_codes(path)[name] for name in FITTED_SPLITS)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The validation slices that are scored, uint8 `(N, S, S)`."""
        return dataset.load_images(self.validation, self.base["image_size"])

    def measure(self, settings: dict, title: str = "training") -> dict:
        """Train a variant and return its figures."""
        # With 0 levels a mirror image has the level of its slice.
        num_levels = self.slices.num_levels * settings["told"]
        examples, validation = (
            dataset.code_examples(codes, split.levels * settings["level"], num_levels, split.below)
            for codes, split in zip(self.codes, map(self.slices.splits.get, FITTED_SPLITS))
        )
        make = functools.partial(self.make, settings, self.codes[0].shape[-2:])
        peak, count = settings["prior_learning_rate"], len(self.slices.splits["train"])
        model, seconds = fit(make, examples, count, settings, peak, title)
        scored = tf.constant(self.chosen)
        batches = dataset.evaluation_batches(
            lambda index, mirror: validation(scored[index], mirror), len(self.chosen), BATCH
        )
        bits = [model.bits(**inputs) for inputs, _ in progress(batches, "scoring")]
        bits = np.concatenate(bits)  # (N, H, W)
        brain = metrics.brain_places(self.images, self.base["frame"], bits.shape[1:])
        return {
            "bits_per_code": float(bits.mean()),
            "brain_bits_per_code": float(bits[brain].mean()),
            "parameters": model.count_params(),
            "seconds_per_step": seconds,
        }

    def make(self, settings: dict, grid: Sequence[int], schedule) -> keras.Model:
        """Build and compile a variant."""
        dilations = settings["dilations"] or modules.PixelCNN.DILATIONS
        variant = type("PixelCNN", (modules.PixelCNN,), {"DILATIONS": dilations})
        sizes = (settings[f"prior_{name}"] for name in ("width", "blocks", "dropout"))
        reads_below = not settings["slices_alone"]
        model = variant(
            grid, settings["codebook_size"], self.slices.num_levels, *sizes, reads_below
        )
        if not settings["position"]:
            model.positions.assign(model.positions * 0)
            model.positions.trainable = False
        optimizer = make_optimizer(schedule)
        if settings["averaging"]:
            averaging = {"use_ema": True, "ema_momentum": settings["averaging"]}
            optimizer = type(optimizer).from_config({**optimizer.get_config(), **averaging})
        model.compile(optimizer)
        return model


if __name__ == "__main__":
    command_line(main, parse())
