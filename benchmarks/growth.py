"""Measure how the time and the memory of a training step grow with the sizes of the work.

python benchmarks/growth.py [--precision P] [--json FILE]

Every case is a process of its own. The memory of a step is its peak above what the process held
just before it. The memory of the process is its peak above what it held before it built the model.
An exponent is the slope of a straight line through the logarithms: 1 is proportional growth, and 2
is quadratic growth. The last sweep of each stage compares the frame with the whole slice.
"""

import dataclasses
import functools
import json
import math
import statistics
import subprocess
import sys

import house  # noqa: F401  opens the repository

# isort: split
import training
from contenders.timing import in_turn, peak_mib, step_mib, timed

from fitting.device import use_precision
from utils import Parser, command_line, write_json

SWEEPS = [
    ("vqvae", "image_size", (64, 128, 256)),
    ("vqvae", "codebook_size", (128, 512, 2048, 4096)),
    ("vqvae", "batch", (2, 4, 8, 16)),
    ("vqvae", "percent", (39, 100)),
    ("prior", "grid", (16, 32, 64)),
    ("prior", "codebook_size", (128, 512, 2048, 4096)),
    ("prior", "batch", (2, 4, 8, 16)),
    ("prior", "percent", (39, 100)),
]
WHOLE = 100  # percent of a slice that the frame takes in
BATCH = 4  # where the batch does not grow, so that all sweeps take minutes
STEPS = 5


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--precision",
        choices=training.PRECISIONS,
        default="auto",
        help="precision of the steps (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--case",
        nargs=4,
        metavar=("STAGE", "WHAT", "SIZE", "PRECISION"),
        help="measure one case only and print it as JSON",
    )
    return parser.parse_args(arguments)


def main(args):
    """Measure one case in this process, or all sweeps with a process for each case."""
    if args.case:
        stage, name, size, precision = args.case
        print(json.dumps(measure_here(stage, name, int(size), precision)))
        return
    print(
        "  stage  what grows              ms a step     MiB of a step    of the process", flush=True
    )
    sweeps = [sweep(stage, name, sizes, args.precision) for stage, name, sizes in SWEEPS]
    if args.json:
        precision = sweeps[-1]["cases"][0]["precision"]
        write_json(args.json, {"precision": precision, "sweeps": sweeps})


def sweep(stage, name, sizes, precision):
    """Measure one stage at several sizes, and print a line for each."""
    cases = []
    for size in sizes:
        case = {name: size, **measure(stage, name, size, precision)}
        print(
            f"  {stage:<7}{name:<14}{size:>6}{1000 * case['seconds']:>13.1f}"
            f"{case['mib']:>18.0f}{case['process_mib']:>18.0f}",
            flush=True,
        )
        cases.append(case)
    seconds, mib = (exponent(sizes, [case[what] for case in cases]) for what in ("seconds", "mib"))
    print(f"  {'':<21}exponent{seconds:>11.2f}{mib:>18.2f}", flush=True)
    exponents = {"seconds_exponent": seconds, "mib_exponent": mib}
    return {"stage": stage, "what": name, "cases": cases, **exponents}


def measure(stage: str, name: str, size: int, precision: str = "auto") -> dict:
    """Measure one case in a process of its own."""
    command = [sys.executable, __file__, "--case", stage, name, str(size), precision]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure_here(stage: str, name: str, size: int, precision: str) -> dict:
    """Measure one case in this process.

    Returns:
        `precision` of the step, its `seconds`, its memory in `mib`, and that of the process in
        `process_mib`.
    """
    dtype = use_precision(precision)
    network = dataclasses.replace(training.NETWORK, batch=BATCH, frame=None)
    if name == "grid":
        name, size = "image_size", training.REDUCTION * size
    if name == "percent":
        name, size = "frame", None if size == WHOLE else training.NETWORK.frame
    network = dataclasses.replace(network, **{name: size})
    before = peak_mib()
    step = {"vqvae": training.vqvae_step, "prior": training.prior_step}[stage](network)
    step()  # the first call traces
    figures = in_turn({"step": functools.partial(timed, step)}, "step", STEPS)
    process_mib = peak_mib() - before
    own = {"mib": step_mib(step), "process_mib": process_mib}
    return {"precision": dtype, "seconds": figures["step"]["seconds"], **own}


def exponent(sizes, values) -> float:
    """Return the slope of the least-squares line through log(values) over log(sizes)."""
    x, y = ([math.log(value) for value in part] for part in (sizes, values))
    return statistics.linear_regression(x, y).slope


if __name__ == "__main__":
    command_line(main, parse())
