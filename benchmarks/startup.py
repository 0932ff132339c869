"""Seconds from the command to the first training step, and where they go; and how fast --help answers.

python benchmarks/startup.py [--json FILE]

Runs `train.py` with its default sizes on a folder of made-up slices, in a process of its own each round, up to the end of the first step.
Medians of rounds. "first step" is tracing it and running it once.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import Parser, command_line, write_json

ROUNDS = 3
CASES = {"train": 16, "validate": 2, "test": 2}
RARE = ("tensorflow_probability", "tf_keras", "matplotlib", "pandas", "scipy.ndimage", "nilearn", "nibabel", "sklearn", "torch")  # of no use to the first stage


def run_marked(started, arguments):
    """`train.py` up to its first step, then a line of JSON: when each phase ended, in seconds since `started`, and what of RARE was loaded."""
    ends, distribution_compiled = {}, None

    def mark(owner, name, phase):
        function = getattr(owner, name)

        def marked(*args, **options):
            result = function(*args, **options)
            ends[phase] = time.time() - started
            return result

        setattr(owner, name, marked)

    def compiled(strategy, model, step):
        call = distribution_compiled(strategy, model, step)

        def marked(*args):
            result = call(*args)
            ends["first validation step" if step == model.test_step else "first step"] = time.time() - started
            if step == model.train_step:
                print(json.dumps({"ends": ends, "loaded": [name for name in RARE if name in sys.modules]}), flush=True)
                os._exit(0)
            return result

        return marked

    import train

    ends["Python, NumPy, Pillow"] = time.time() - started
    import_tensorflow = train.import_tensorflow

    def import_all():
        nonlocal distribution_compiled
        import_tensorflow()
        import keras

        import distribution
        import pipeline

        mark(pipeline, "image_source", "decoding slices")
        mark(keras.Model, "compile", "building the model")
        distribution_compiled, distribution.compiled = distribution.compiled, compiled
        ends["TensorFlow, Keras"] = time.time() - started

    mark(train.dataset, "open_slices", "checking slices")
    train.import_tensorflow = import_all
    train.main(train.parse(arguments))


def measure(data, *flags):
    """One start: seconds of each phase, and the modules of RARE that were loaded."""
    with tempfile.TemporaryDirectory() as run:
        arguments = ["--data", str(data), "--run", str(pathlib.Path(run) / "run"), *flags]
        done = subprocess.run([sys.executable, __file__, "--marked", repr(time.time()), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    phases, before = {}, 0.0
    for phase, end in report["ends"].items():
        phases[phase], before = end - before, end
    return phases, report["loaded"]


def help_seconds(script):
    begin = time.perf_counter()
    subprocess.run([sys.executable, ROOT / script, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def write_data(directory, cases=CASES, levels=32):
    from input import write_slices

    first = 1
    for split, count in cases.items():
        folder = directory / f"keras_png_slices_{split}"
        folder.mkdir(parents=True)
        write_slices([folder / f"case_{case:03d}_slice_{level}.nii.png" for case in range(first, first + count) for level in range(levels)])
        first += count


def main(args):
    helps = {script: statistics.median(help_seconds(script) for _ in range(ROUNDS)) for script in ("train.py", "predict.py")}
    for script, seconds in helps.items():
        print(f"  {script} --help: {seconds:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_data(pathlib.Path(folder))
        rounds = [measure(folder) for _ in range(ROUNDS)]
    phases = {phase: statistics.median(times[phase] for times, _ in rounds) for phase in rounds[0][0]}
    total = statistics.median(sum(times.values()) for times, _ in rounds)
    for phase, seconds in phases.items():
        print(f"  {phase:<24}{seconds:>7.2f} s")
    print(f"  {'to the first step':<24}{total:>7.2f} s; loaded without need: {', '.join(rounds[0][1]) or 'nothing'}")
    if args.json:
        write_json(args.json, {"help_seconds": helps, "phases": phases, "seconds": total, "loaded_without_need": rounds[0][1]})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--marked"]:
        command_line(run_marked, float(sys.argv[2]), sys.argv[3:])
    else:
        parser = Parser(__doc__)
        parser.add_argument("--json", metavar="FILE", help="write the figures here")
        command_line(main, parser.parse_args())
