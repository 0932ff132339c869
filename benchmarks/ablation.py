"""Measure what each ingredient of the two models is worth.

python benchmarks/ablation.py --data DIR --run DIR [--stage vqvae|prior] [--steps N] [--json FILE]

It trains variants that lack one ingredient, briefly, and scores them on the validation split. A
variant has the settings of the run, changed as `variants` lists. All variants but those of other
seeds start from the same seed, see the same batches and take the same number of steps. Their
learning rate rises and falls within these steps as in train.py.

Scores are means over at most 256 validation slices, spread evenly. The rows of other seeds repeat
the shipped settings. Their spread is what chance changes. Brief training hides what acts against
overfitting, like mirroring and dropout. It also hides a part of what a larger network is worth.

With --json every figure is written as soon as it is known. A variant that the file holds already is
not trained again.
"""

import dataclasses
import pathlib

from common import ANOTHER_FILE, MADE, continue_report, make_parser, show, write_report

# isort: split
from variants import AutoencoderBench, Bench, PriorBench

from fitting.devices import use_precision
from fitting.run_directory import RunDirectory, read_config
from sources.folder import find_slices, open_slices
from utils import InputError, between, command_line

STEPS = {"vqvae": 600, "prior": 1500}  # the tables take 10 and 60 minutes on two cores
PRIOR_WIDTH = 64  # half of the shipped width, for more steps in the same time
SEEDS = ("another", "a third", "a fourth", "a fifth")  # of what has all parts

# Settings that train.py lacks, with the values that it stands for. "told" says whether mirror
# images have levels of their own. "upward" says that a slice is given the one below it alone, as if
# brains were drawn from bottom to top. "mirror_path" says that the prior reads the other half of a
# slice at the mirrored place.
SHIPPED = {
    "mirror": True,
    "told": True,
    "upward": False,
    "mirror_path": True,
    "codebook": "restarted",
    "level": True,
    "position": True,
    "dilations": None,
    "averaging": None,
}


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--run", "--data", "--json")
    add = parser.add_argument
    both = f"{STEPS['vqvae']} of the VQ-VAE and {STEPS['prior']} of the prior"
    count = {"type": between(int, 10, 10**6), "metavar": "N"}
    width = {"type": between(int, 2, 1024), "default": PRIOR_WIDTH, "metavar": "C"}
    add("--stage", choices=STEPS, help="train only this table (default: both)")
    add("--steps", help=f"steps of each variant (default: {both})", **count)
    add("--prior-width", help="channels of the prior (default: %(default)s)", **width)
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
    side = config["settings"].image_size
    settings = {
        **dataclasses.asdict(config["settings"]),
        "frame": config["settings"].frame or [0, 0, side, side],
        **SHIPPED,
        "precision": use_precision("auto"),
        "prior_width": args.prior_width,
    }
    report = continue_report(args.json, {})
    for stage in [args.stage] if args.stage else STEPS:
        base = {**settings, "steps": args.steps or STEPS[stage]}
        bench = {"vqvae": AutoencoderBench, "prior": PriorBench}[stage](slices, base, args.run)
        fill_table(stage, bench, report, args.json)


def fill_table(stage: str, bench: Bench, report: dict, path: pathlib.Path | None) -> None:
    """Train the variants of a stage that the report lacks, and print a line for each variant.

    Args:
        stage: "vqvae" or "prior".
        bench: What trains and scores a variant of this stage.
        report: Figures of both stages, which grow.
        path: JSON file of the report, or None.

    Raises:
        InputError: The report holds figures that cannot be compared.
    """
    conditions = {
        "data": bench.slices.fingerprint,
        "validation_slices": len(bench.validation),
        "settings": bench.base,
    }
    table = report.setdefault(stage, {"conditions": conditions, "variants": {}})
    if table["conditions"] != conditions:
        raise InputError(f"{path} is of other steps, settings or data: {ANOTHER_FILE}.")
    rows = table["variants"]
    for name, changes in variants(bench.base)[stage].items():
        if rows.get(name, {}).get("changes") != changes:
            figures = bench.measure({**bench.base, **changes}, name)
            rows[name] = {"changes": changes, **figures, "commit": MADE["commit"]}
            write_report(path, report)
        show(name, rows[name])


def variants(base: dict) -> dict[str, dict[str, dict]]:
    """List the settings that every variant changes: by stage, then by name of the variant."""
    half = base["width"] // 4 * 2
    seeds = {f"{name} seed": {"seed": base["seed"] + n} for n, name in enumerate(SEEDS, 1)}
    large = 4 * base["codebook_size"]
    return {
        "vqvae": {
            "as shipped": {},
            **seeds,
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
            "as shipped, without a first prior": {},
            **seeds,
            "without neighbours": {"neighbours": 0},
            "two neighbours on each side": {"neighbours": 2},
            "upward, given the slice below": {"upward": True},
            "without the mirror path": {"mirror_path": False},
            "without the level": {"level": False},
            "without the position": {"position": False},
            "without mirroring": {"mirror": False},
            "without the mark of mirror images": {"told": False},
            "without dropout": {"prior_dropout": 0.0},
            "all dilations 1": {"dilations": [1]},
            "half the blocks": {"prior_blocks": max(1, base["prior_blocks"] // 2)},
            "averaged weights": {"averaging": 0.99},
        },
    }


if __name__ == "__main__":
    command_line(main, parse())
