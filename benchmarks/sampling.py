"""Measure how much time the cached sampler saves over the naive loop, and what a wavefront adds.

python benchmarks/sampling.py [--whole] [--stacks] [--json FILE]

In each case all use the same untrained network. The naive loop runs the network over the whole map
for every code. Each of its steps costs the same, so the benchmark times a few of them, in turn with
the other two contenders, and multiplies their median by the number of codes.

--whole also runs the naive loop of the first case once in full. Then `naive_whole_seconds` stands
beside the product. --stacks draws whole stacks of slices instead, as a wavefront and slice by
slice.
"""

import functools

from common import in_turn, make_parser, show, timed, write_report

# isort: split
import numpy as np
import tensorflow as tf

import modules
from networks.logits import draw
from networks.neighbours import NO_CODE, SLICES_BELOW
from utils import command_line, progress

CODEBOOK_SIZE, NUM_LEVELS = 512, 32
ROUNDS = 5
# Grid and batch; the JSON file reports the first case at its top.
CASES = [(32, 16), (16, 16), (64, 16), (32, 1), (32, 4), (32, 64)]
STACKS = [((18, 22), 1), ((18, 22), 10), ((36, 44), 1)]  # grid and number of stacks


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--json")
    add = parser.add_argument
    add("--whole", action="store_true", help="run the naive loop of the first case in full, too")
    add("--stacks", action="store_true", help="measure whole stacks instead")
    return parser.parse_args(arguments)


def main(args):
    """Measure all cases, print a line for each, and write them."""
    if args.stacks:
        report = {"stacks": [measure_stacks(*case) for case in STACKS]}
    else:
        report = measure_slices(args.whole)
    write_report(args.json, report)


def usual_prior(grid):
    """An untrained prior of the usual size."""
    return modules.PixelCNN(grid, CODEBOOK_SIZE, NUM_LEVELS, dropout=0.0, reads_below=True)


def time_actions(actions: dict, reference: str, title: str) -> tuple[dict[str, float], dict]:
    """Time actions in turn: median seconds of each, and what `in_turn` returns."""
    timers = {name: functools.partial(timed, action) for name, action in actions.items()}
    figures = in_turn(timers, reference, ROUNDS, title)
    return {name: figure["seconds"] for name, figure in figures.items()}, figures


def measure_slices(whole: bool) -> dict:
    """Measure single slices, print a line for each case, and return what the JSON file holds."""
    results = []
    for grid, batch in CASES:
        results.append(measure(grid, batch, whole=whole and not results))
        show(f"{batch} maps of {grid} x {grid}", results[-1])
    return {**results[0], "cases": results}


def measure(grid: int, batch: int, whole: bool = False) -> dict:
    """Time the naive loop, the cached sampler and one teacher-forced pass.

    Args:
        grid: Rows and columns of a code map.
        batch: Number of maps that are drawn together.
        whole: Whether the naive loop runs once in full, too.

    Returns:
        Medians in seconds, the ratio of the first two, and the sizes.
    """
    prior = usual_prior(grid)
    levels, seed = tf.range(batch) % prior.settings["num_levels"], tf.constant(0)
    middle = tf.constant(grid // 2)
    codes = prior.sample(levels, seed)
    below = tf.stack([codes, codes], axis=1)
    forward = tf.function(lambda codes: prior.logits(codes, levels, below))
    step = naive_step(forward, seed, grid)
    actions = {
        "naive_seconds": lambda: step(codes, middle, middle).numpy(),
        "cached_seconds": lambda: prior.sample(levels, seed, below=below).numpy(),
        "forward_seconds": lambda: forward(codes).numpy(),
    }
    result, _ = time_actions(actions, "cached_seconds", f"grid {grid}, batch {batch}")
    result["naive_seconds"] *= grid * grid
    result["ratio"] = result["naive_seconds"] / result["cached_seconds"]
    if whole:
        result["naive_whole_seconds"] = timed(lambda: naive_loop(step, grid, batch))
    return {**result, "grid": grid, "batch": batch}


def naive_step(forward, seed, grid):
    """Make a step of the naive loop: a pass over whole maps `(B, H, W)` gives one code of each."""

    @tf.function
    def step(codes, y, x):
        logits = forward(codes)[:, y, x]  # (B, K)
        return draw(logits, seed, y * grid + x)

    return step


def naive_loop(step, grid: int, batch: int) -> np.ndarray:
    """Draw whole maps, int32 `(B, H, W)`, by steps of `naive_step`, and show progress."""
    codes = np.zeros((batch, grid, grid), "int32")
    for number in progress(range(grid * grid), "the naive loop", unit="code"):
        y, x = divmod(number, grid)
        codes[:, y, x] = step(tf.constant(codes), tf.constant(y), tf.constant(x))
    return codes


def measure_stacks(grid: tuple[int, int], count: int) -> dict:
    """Time stacks of slices that are drawn as a wavefront, and slice by slice. Print a line.

    Args:
        grid: Rows and columns of a code map.
        count: Number of stacks that are drawn together.

    Returns:
        Medians in seconds, their ratio, and the sizes.
    """
    prior = usual_prior(grid)
    num_levels = prior.settings["num_levels"]
    below = tf.fill((count, SLICES_BELOW, *grid), NO_CODE)
    seeds = tf.range(num_levels)

    def wavefront():
        return prior.sample_upward(below, tf.constant(0), seeds).numpy()

    def slice_by_slice():
        under = below
        for level in range(num_levels):
            codes = prior.sample(tf.fill((count,), level), seeds[level], below=under)
            under = tf.stack([codes, under[:, 0]], axis=1)
        return under.numpy()

    actions = {"wavefront_seconds": wavefront, "slice_by_slice_seconds": slice_by_slice}
    title = f"stacks of {grid[0]} x {grid[1]}, {count} together"
    result, figures = time_actions(actions, "wavefront_seconds", title)
    result["ratio"] = figures["slice_by_slice_seconds"]["ratio"]
    show(title, result)
    return {**result, "grid": list(grid), "batch": count}


if __name__ == "__main__":
    command_line(main, parse())
