"""Measure how much time the cached sampler saves over the naive loop, and what a wavefront adds.

python benchmarks/sampling.py [--stacks] [--json FILE]

In each case all use the same untrained network. The naive loop runs the network over the whole map
for every code. Each of its steps costs the same, so the benchmark times a few of them, in turn with
the other two contenders, and multiplies their median by the number of codes.

--stacks draws whole stacks of slices instead, coarse to fine, as a wavefront and slice by slice.
"""

import functools

from common import in_turn, make_parser, show, timed, write_report

# isort: split
import numpy as np
import tensorflow as tf

import modules
from networks.logits import draw, uniforms
from networks.order import among, arrange, beside
from utils import command_line

CODEBOOK_SIZE, NUM_LEVELS = 512, 32
ROUNDS = 5
# Grid and batch.
CASES = [(32, 16), (16, 16), (64, 16), (32, 1), (32, 4), (32, 64)]
STACKS = [((18, 22), 1), ((18, 22), 10), ((36, 44), 1)]  # grid and number of stacks


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--json")
    parser.add_argument("--stacks", action="store_true", help="measure whole stacks instead")
    return parser.parse_args(arguments)


def main(args):
    """Measure all cases, print a line for each, and write them."""
    name, measured, cases = "cases", measure, CASES
    if args.stacks:
        name, measured, cases = "stacks", measure_stacks, STACKS
    report = {name: []}
    for grid, batch in cases:
        report[name].append(measured(grid, batch))
        show(f"{name}, {batch} of {grid}", report[name][-1])
    write_report(args.json, report)


def usual_prior(grid):
    """An untrained prior of the usual size."""
    return modules.PixelCNN(grid, CODEBOOK_SIZE, NUM_LEVELS, dropout=0.0, neighbours=1)


def time_actions(actions: dict, title: str) -> dict[str, float]:
    """Median seconds of actions that are timed in turn."""
    timers = {name: functools.partial(timed, action) for name, action in actions.items()}
    return {name: row["seconds"] for name, row in in_turn(timers, ROUNDS, title).items()}


def measure(grid: int, batch: int) -> dict:
    """Time the naive loop, the cached sampler and one teacher-forced pass.

    Args:
        grid: Rows and columns of a code map.
        batch: Number of maps that are drawn together.

    Returns:
        Medians in seconds, the ratio of the first two, and the sizes.
    """
    prior = usual_prior(grid)
    levels, seeds = tf.range(batch) % prior.settings["num_levels"], tf.range(batch)
    middle = tf.constant(grid // 2)
    codes = prior.sample(levels, seeds)
    known = beside(np.stack([codes, codes], axis=1), np.ones((batch, 2)))
    forward = tf.function(lambda codes: prior.logits(codes, levels, known))
    step = naive_step(forward, seeds, grid)
    actions = {
        "naive_seconds": lambda: step(codes, middle, middle).numpy(),
        "cached_seconds": lambda: prior.sample(levels, seeds, neighbours=known).numpy(),
        "forward_seconds": lambda: forward(codes).numpy(),
    }
    result = time_actions(actions, f"grid {grid}, batch {batch}")
    result["naive_seconds"] *= grid * grid
    result["ratio"] = result["naive_seconds"] / result["cached_seconds"]
    return {**result, "grid": grid, "batch": batch}


def naive_step(forward, seeds, grid):
    """Make a step of the naive loop: a pass over whole maps `(B, H, W)` gives one code of each."""
    noise = uniforms(seeds, (grid, grid))

    @tf.function
    def step(codes, y, x):
        logits = forward(codes)[:, y, x]  # (B, K)
        return draw(logits, noise[:, y, x])

    return step


def measure_stacks(grid: tuple[int, int], count: int) -> dict:
    """Time stacks of slices that are drawn as a wavefront, and slice by slice.

    Args:
        grid: Rows and columns of a code map.
        count: Number of stacks that are drawn together.

    Returns:
        Medians in seconds, their ratio, and the sizes.
    """
    prior = usual_prior(grid)
    num_levels = prior.settings["num_levels"]
    levels = np.tile(np.arange(num_levels, dtype="int32"), count)
    order = arrange(np.repeat(np.arange(count), num_levels), levels, prior.settings["neighbours"])
    seeds = np.arange(len(levels), dtype="int32")

    def wavefront():
        return prior.sample(tf.constant(levels), tf.constant(seeds), neighbours=order).numpy()

    def slice_by_slice():
        codes = np.zeros((len(levels), *grid), "int32")
        for level in np.argsort(order.depths[:num_levels], kind="stable"):
            batch = np.flatnonzero(levels == level)
            here = tf.constant(levels[batch]), tf.constant(seeds[batch])
            codes[batch] = prior.sample(*here, neighbours=among(order, codes, batch))
        return codes

    actions = {"wavefront_seconds": wavefront, "slice_by_slice_seconds": slice_by_slice}
    result = time_actions(actions, f"{count} stacks of {grid[0]} x {grid[1]}")
    result["ratio"] = result["slice_by_slice_seconds"] / result["wavefront_seconds"]
    return {**result, "grid": list(grid), "batch": count}


if __name__ == "__main__":
    command_line(main, parse())
