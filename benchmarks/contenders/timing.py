"""Measure the time of contenders and of training steps, and the memory of a process.

Contenders are timed in turn, so that whatever slows the machine for a while slows them all.
"""

import functools
import math
import pathlib
import random
import statistics
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

import dataset
from fitting.devices import use_precision
from fitting.stages import learning_rates
from utils import progress


def timed(action: Callable[[], object], count: int = 1) -> float:
    """Return the seconds that `count` calls take."""
    begin = time.perf_counter()
    for _ in range(count):
        action()
    return time.perf_counter() - begin


def in_turn(
    timers: Mapping[str, Callable[[], float]], reference: str, rounds: int, title: str = "timing"
) -> dict[str, dict[str, float]]:
    """Time every contender once a round, and return medians over the rounds.

    A first round warms up and does not count. A fixed seed draws a new order for each round, so no
    contender always follows the same one.

    Args:
        timers: Functions without arguments that return seconds, by name of the contender.
        reference: Contender that the others are compared with.
        rounds: Number of rounds that count.
        title: Name of the progress bar.

    Returns:
        `{name: {"seconds": S, "ratio": R}}`. R is the time of the contender over the time of the
        reference in the same round.
    """
    chance = random.Random(0)
    rows = []
    for _ in progress(range(1 + rounds), title, unit="round"):
        order = chance.sample(list(timers), len(timers))
        rows.append({name: timers[name]() for name in order})
    counted = rows[1:]
    return {
        name: {
            "seconds": statistics.median(row[name] for row in counted),
            "ratio": statistics.median(row[name] / row[reference] for row in counted),
        }
        for name in timers
    }


class StepClock(keras.callbacks.Callback):
    """Notes when each step of `fit` ends, and shows progress.

    Args:
        steps: Number of steps.
        title: Name of the progress bar.

    Attributes:
        ends: Time at the end of each step, in seconds.
    """

    def __init__(self, steps: int, title: str):
        super().__init__()
        self.ends: list[float] = []
        self._bar = progress(range(steps), title, unit="step")

    def on_train_begin(self, logs=None):
        next(self._bar)

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the device
        self.ends.append(time.perf_counter())
        next(self._bar, None)


def fit(
    make: Callable,
    example: Callable,
    count: int,
    settings: dict,
    peak: float,
    title: str = "training",
) -> tuple[keras.Model, float]:
    """Train a model for some steps, and time them.

    Args:
        make: Function of a learning-rate schedule that returns a compiled model.
        example: Example function of `dataset`, over `count` slices.
        count: Number of training slices.
        settings: `batch_size`, `steps`, `seed`, `precision`, and `mirror`, whether some slices are
            mirrored.
        peak: Learning rate at the end of the warm-up.
        title: Name of the progress bar.

    Returns:
        The model, and the median seconds of a step.
    """
    batch_size, steps, seed = (settings[name] for name in ("batch_size", "steps", "seed"))
    if not settings["mirror"]:
        example = functools.partial(_unmirrored, example)
    epochs = [
        dataset.training_batches(example, count, batch_size, seed, epoch)
        for epoch in range(math.ceil(steps / (count // batch_size)))
    ]
    batches = functools.reduce(tf.data.Dataset.concatenate, epochs).take(steps)
    use_precision(settings["precision"])
    keras.utils.set_random_seed(seed)
    model = make(learning_rates(peak, steps))
    clock = StepClock(steps, title)
    model.fit(batches, shuffle=False, callbacks=[clock], verbose=0)
    return model, float(np.median(np.diff(clock.ends)))


def _unmirrored(example, index, _mirror, chance):
    return example(index, tf.constant(False), chance)


def peak_mib() -> float:
    """Return the most memory in MiB that this process has held since its program started.

    It works on Linux only. `resource.getrusage` would also count the process that started this one.
    """
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) / 1024
    raise OSError("/proc/self/status names no peak memory (VmHWM)")
