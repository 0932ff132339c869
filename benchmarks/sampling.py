"""How much the cached sampler saves over the naive loop, with the same untrained network.

python benchmarks/sampling.py [--json FILE]

The naive loop runs the network over the whole map for every code. Each of its steps costs the same, so a few are timed, in
turn with the other two, and their median is multiplied by the number of places.
"""

import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from timing import in_turn, timed
from utils import Parser, command_line, import_tensorflow, write_json

CODEBOOK_SIZE, LEVELS = 512, 32
ROUNDS = 5
CASES = [(32, 16), (16, 16), (64, 16), (32, 1), (32, 4), (32, 64)]  # grid and batch; the first is the one reported


def measure(grid, batch):
    """Seconds of the naive loop, of the cached sampler and of one teacher-forced pass: medians of rounds taken in turn."""
    import tensorflow as tf

    import pixelcnn

    prior = pixelcnn.PixelCNN(grid, CODEBOOK_SIZE, LEVELS, dropout=0.0)
    levels, seed = tf.range(batch) % LEVELS, tf.constant(0)
    forward = tf.function(lambda codes: prior({"codes": codes, "levels": levels}))
    naive_step = tf.function(lambda codes, y, x: pixelcnn.draw(forward(codes)[:, y, x], seed, y * grid + x))
    codes = prior.sample(levels, seed)
    actions = {
        "naive_seconds": lambda: naive_step(codes, tf.constant(grid // 2), tf.constant(grid // 2)).numpy(),
        "cached_seconds": lambda: prior.sample(levels, seed).numpy(),
        "forward_seconds": lambda: forward(codes).numpy(),
    }
    figures = in_turn({name: functools.partial(timed, action) for name, action in actions.items()}, "cached_seconds", ROUNDS)
    result = {name: figure["seconds"] for name, figure in figures.items()}
    result["naive_seconds"] *= grid * grid
    return {**result, "ratio": result["naive_seconds"] / result["cached_seconds"], "grid": grid, "batch": batch}


def main(args):
    import_tensorflow()
    print("  grid  batch   naive s  cached s  forward s   naive/cached  cached/forward")
    results = []
    for grid, batch in CASES:
        result = measure(grid, batch)
        results.append(result)
        print(f"{grid:>6}{batch:>7}{result['naive_seconds']:>10.1f}{result['cached_seconds']:>10.2f}{result['forward_seconds']:>11.3f}"
              f"{result['ratio']:>15.0f}{result['cached_seconds'] / result['forward_seconds']:>16.2f}", flush=True)
    if args.json:
        write_json(args.json, {**results[0], "cases": results})


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures of the first case, and all cases, here")
    command_line(main, parser.parse_args())
