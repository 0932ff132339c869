"""How the time of a training step and its memory grow with the sizes of the work, each with its exponent.

python benchmarks/growth.py [--precision P] [--json FILE]

Every case is a process of its own. Memory is the peak of the process above what it held before the model was built; an exponent is
the slope of a straight line through the logarithms, so 1 is proportional growth and 2 is square.
"""

import functools
import json
import math
import pathlib
import resource
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from timing import in_turn, timed
from utils import Parser, command_line, import_tensorflow, use_precision, write_json

SWEEPS = [("vqvae", "image_size", (64, 128, 256)), ("vqvae", "codebook_size", (128, 512, 2048, 4096)), ("vqvae", "batch", (2, 4, 8, 16)),
          ("prior", "grid", (16, 32, 64)), ("prior", "codebook_size", (128, 512, 2048, 4096)), ("prior", "batch", (2, 4, 8, 16))]
SMALLER = {"batch": 4}  # where it is not what grows, so that all fits into some minutes
STEPS = 5


def case(stage, name, value, choice):
    """Print the seconds of a step and its memory in MiB, as JSON."""
    import_tensorflow()
    import training

    dtype = use_precision(choice)
    peak = functools.partial(resource.getrusage, resource.RUSAGE_SELF)
    sizes = {**training.NETWORK, **SMALLER, **({"image_size": 8 * value} if name == "grid" else {name: value})}
    before = peak().ru_maxrss
    step = {"vqvae": training.vqvae_step, "prior": training.prior_step}[stage](**sizes)
    step()  # traces
    seconds = in_turn({"step": functools.partial(timed, step)}, "step", STEPS)["step"]["seconds"]
    print(json.dumps({"precision": dtype, "seconds": seconds, "mib": (peak().ru_maxrss - before) / 1024}))


def measure(stage, name, value, choice="auto"):
    done = subprocess.run([sys.executable, __file__, "--case", stage, name, str(value), choice], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def exponent(sizes, values):
    """Slope of the least-squares line through log(values) over log(sizes)."""
    x, y = ([math.log(value) for value in part] for part in (sizes, values))
    return statistics.linear_regression(x, y).slope


def main(args):
    if args.case:
        stage, name, value, choice = args.case
        return case(stage, name, int(value), choice)
    results = []
    print("  stage  what grows              ms a step     MiB")
    for stage, name, values in SWEEPS:
        rows = [{name: value, **measure(stage, name, value, args.precision)} for value in values]
        for row in rows:
            print(f"  {stage:<7}{name:<14}{row[name]:>6}{1000 * row['seconds']:>13.1f}{row['mib']:>8.0f}", flush=True)
        slopes = {f"{figure}_exponent": exponent(values, [row[figure] for row in rows]) for figure in ("seconds", "mib")}
        print(f"  {'':<21}exponent{slopes['seconds_exponent']:>11.2f}{slopes['mib_exponent']:>8.2f}", flush=True)
        results.append({"stage": stage, "what": name, "cases": rows, **slopes})
    if args.json:
        write_json(args.json, {"precision": rows[0]["precision"], "sweeps": results})


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--case", nargs=4, metavar=("STAGE", "WHAT", "SIZE", "PRECISION"), help="measure one case only and print it as JSON")
    command_line(main, parser.parse_args())
