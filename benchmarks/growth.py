"""Measure how the time and the memory of a training step grow with the sizes of the work.

python benchmarks/growth.py [--precision P] [--devices] [--json FILE]

Every case is a process of its own. Memory is the peak of that process minus what it held before it
built the model. An exponent is the slope of a straight line through the logarithms: 1 is
proportional growth, and 2 is quadratic growth. The last sweep of each stage sees whole slices, so
that it says what the frame saves: memory of each further slice, and time.

--devices calculates instead how a training grows with the number of devices. It measures nothing. A
step takes the forward operations that TensorFlow counts, three times because of the gradients. Then
a ring sums gradients and statistics. `ASSUMED` says how fast all that is.
"""

import dataclasses
import functools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable

import house  # noqa: F401  opens the repository

# isort: split
import tensorflow as tf
import training
from contenders import recorded
from contenders.timing import in_turn, peak_mib, timed

import modules
from fitting.devices import use_precision
from utils import Parser, command_line

SWEEPS = [
    ("vqvae", "image_size", (64, 128, 256)),
    ("vqvae", "codebook_size", (128, 512, 2048, 4096)),
    ("vqvae", "batch", (2, 4, 8, 16)),
    ("vqvae", "whole slices", (2, 4, 8, 16)),
    ("prior", "grid", (16, 32, 64)),
    ("prior", "codebook_size", (128, 512, 2048, 4096)),
    ("prior", "batch", (2, 4, 8, 16)),
    ("prior", "whole slices", (2, 4, 8, 16)),
]
BATCH = 4  # where the batch does not grow, so that all sweeps take minutes
STEPS = 5
DEVICES = (2, 4, 8, 16, 32, 64)
ASSUMED = {
    "operations": 20e12,  # a second, of each device
    "links": (25e9, 1.25e9),  # bytes a second: 200 Gb/s, and 10 Gb/s Ethernet
    "tensor": 30e-6,  # seconds that the sum of a tensor costs beside its bytes
}
FLOAT = 4  # bytes


def parse(arguments=None):
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--precision",
        choices=training.PRECISIONS,
        default="auto",
        help="precision of the steps (default: %(default)s)",
    )
    parser.add_argument("--devices", action="store_true", help="calculate for several devices")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--case",
        nargs=4,
        metavar=("STAGE", "WHAT", "SIZE", "PRECISION"),
        help="measure one case only and print it as JSON",
    )
    return parser.parse_args(arguments)


def main(args):
    """Measure one case here, calculate for several devices, or measure all sweeps."""
    if args.case:
        stage, name, size, precision = args.case
        print(json.dumps(measure_here(stage, name, int(size), precision)))
        return
    if args.devices:
        report = several_devices()
        if args.json:
            recorded.write(args.json, report)
        return
    print("  stage  what grows              ms a step     MiB", flush=True)
    sweeps = [sweep(stage, name, sizes, args.precision) for stage, name, sizes in SWEEPS]
    if args.json:
        precision = sweeps[-1]["cases"][0]["precision"]
        recorded.write(args.json, {"precision": precision, "sweeps": sweeps})


def sweep(stage, name, sizes, precision):
    """Measure one stage at several sizes, and print a line for each."""
    cases = []
    for size in sizes:
        case = {name: size, **measure(stage, name, size, precision)}
        print(
            f"  {stage:<7}{name:<14}{size:>6}{1000 * case['seconds']:>13.1f}{case['mib']:>8.0f}",
            flush=True,
        )
        cases.append(case)
    seconds, mib = (exponent(sizes, [case[what] for case in cases]) for what in ("seconds", "mib"))
    print(f"  {'':<21}exponent{seconds:>11.2f}{mib:>8.2f}", flush=True)
    figures = {"seconds_exponent": seconds, "mib_exponent": mib}
    if name in ("batch", "whole slices"):
        memory = [case["mib"] for case in cases]
        figures["mib_a_slice"] = statistics.linear_regression(sizes, memory).slope
        print(f"  {'':<21}MiB a slice{figures['mib_a_slice']:>18.1f}", flush=True)
    return {"stage": stage, "what": name, "cases": cases, **figures}


def measure(stage: str, name: str, size: int, precision: str = "auto") -> dict:
    """Measure one case in a process of its own."""
    command = [sys.executable, __file__, "--case", stage, name, str(size), precision]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure_here(stage: str, name: str, size: int, precision: str) -> dict:
    """Measure one case in this process.

    Returns:
        `precision` of the step, its `seconds`, and its memory in `mib`.
    """
    dtype = use_precision(precision)
    network = dataclasses.replace(training.NETWORK, **{"batch": BATCH, **varied(name, size)})
    before = peak_mib()
    step = {"vqvae": training.vqvae_step, "prior": training.prior_step}[stage](network)
    step()  # the first call traces
    figures = in_turn({"step": functools.partial(timed, step)}, "step", STEPS)
    seconds = figures["step"]["seconds"]
    return {"precision": dtype, "seconds": seconds, "mib": peak_mib() - before}


def varied(name: str, size: int) -> dict:
    """Fields of `training.Network` that a case of a sweep sets. Frames have one size only."""
    whole = {"frame": None}
    return {
        "image_size": {"image_size": size, **whole},
        "grid": {"image_size": training.REDUCTION * size, **whole},
        "whole slices": {"batch": size, **whole},
    }.get(name, {name: size})


def exponent(sizes, values) -> float:
    """Return the slope of the least-squares line through log(values) over log(sizes)."""
    x, y = ([math.log(value) for value in part] for part in (sizes, values))
    return statistics.linear_regression(x, y).slope


def several_devices() -> dict:
    """Calculate how fast several devices train together, and print a line for each number.

    Returns:
        `assumed`, and for each stage `gflop` of a slice forward, `compute_seconds` of a step,
        `gradient_bytes`, `statistics_bytes`, `tensors`, and a list `devices`: number of `devices`,
        `bytes` that each sends in a step, and `speeds` by link, slices a second over those of one
        device.
    """
    network = training.NETWORK
    sizes = network.codebook_size, training.NUM_LEVELS, network.width, network.blocks
    prior = modules.PixelCNN(network.grid, *sizes, training.DROPOUT, reads_below=True)
    vqvae = network.vqvae()
    codebook = FLOAT * network.codebook_size * (network.code_dim + 1)  # sums and counts
    one = dataclasses.replace(network, batch=1)
    level = tf.zeros(1, "int32")
    calls = {  # model, its forward pass, and the bytes and tensors that are summed beside gradients
        "vqvae": (vqvae, lambda: vqvae(one.images()), codebook, 2),
        "prior": (prior, lambda: prior.logits(one.codes(), level), 0, 0),
    }
    report = {"assumed": ASSUMED}
    for stage, (model, call, extra, tensors) in calls.items():
        operations = forward_operations(call)
        size = FLOAT * sum(math.prod(weight.shape) for weight in model.trainable_variables)
        tensors += len(model.trainable_variables)
        seconds = 3 * operations * network.batch / ASSUMED["operations"]
        report[stage] = {
            "gflop": operations / 1e9,
            "compute_seconds": seconds,
            "gradient_bytes": size,
            "statistics_bytes": extra,
            "tensors": tensors,
            "devices": [ring(count, size + extra, extra, tensors, seconds) for count in DEVICES],
        }
        print(f"{stage}: {operations / 1e9:.1f} GFLOP, {1000 * seconds:.1f} ms", flush=True)
        for row in report[stage]["devices"]:
            speeds = "".join(f"{speed:>8.1f}" for speed in row["speeds"])
            print(f"  {row['devices']:>4} devices{row['bytes'] / 1e6:>7.1f} MB{speeds}", flush=True)
    return report


def ring(devices: int, shared: int, each: int, tensors: int, seconds: float) -> dict:
    """A step of several devices, with a ring all-reduce after it.

    Args:
        devices: How many.
        shared: Bytes that are summed.
        each: Bytes that every device adds to what is gathered: vectors for restarts.
        tensors: How many tensors are summed.
        seconds: Of the step before that.
    """
    sent = 2 * (devices - 1) / devices * shared + (devices - 1) * each
    waits = [sent / link + tensors * ASSUMED["tensor"] for link in ASSUMED["links"]]
    speeds = [devices * seconds / (seconds + wait) for wait in waits]
    return {"devices": devices, "bytes": sent, "speeds": speeds}


def forward_operations(call: Callable) -> int:
    """Floating-point operations of a call, as TensorFlow counts them."""
    graph = tf.function(call).get_concrete_function().graph
    profiler = tf.compat.v1.profiler
    options = {**profiler.ProfileOptionBuilder.float_operation(), "output": "none"}
    return profiler.profile(graph, options=options).total_float_ops


if __name__ == "__main__":
    command_line(main, parse())
