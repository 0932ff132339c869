"""What takes part in `rivals.py`: a way from slices to codes, back, and to new slices.

This file loads neither TensorFlow nor PyTorch, because contenders in either use it.
"""

import abc
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

STAGES = ("vqvae", "prior")
BATCH = 16  # slices that go through a finished network together


class Contender(abc.ABC):
    """A system that is trained by the minute. A subclass writes the abstract methods.

    Args:
        images: Slices by name, uint8 `(N, S, S)`: `train`; `watched`, which are restored while the
            first stage trains; and `test`.
        minutes: Minutes of each stage.

    Attributes:
        models: The network of each stage that has begun.
    """

    codebook_size: int  # number of codes K
    precision = "float32"  # of most layers

    def __init__(self, images: dict[str, np.ndarray], minutes: float):
        self.images, self.minutes = images, minutes
        self.models: dict[str, Any] = {}
        self._take: dict[str, Callable[[float], float]] = {}
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._steps = dict.fromkeys(STAGES, 0)

    def train(self, stage: str, until: float) -> tuple[float, float]:
        """Go on with a stage until it has had so many minutes. The start of a stage counts.

        Args:
            stage: "vqvae" or "prior".
            until: Minutes of this stage in all. The last step may end later.

        Returns:
            Minutes that the stage has had, and the mean loss of these steps, NaN without a step.
        """
        losses = []
        while self._seconds[stage] < 60 * until:
            begin = time.perf_counter()
            if stage not in self._take:
                self._take[stage] = self.start(stage)
            losses.append(self._take[stage](self._seconds[stage] / (60 * self.minutes)))
            self._steps[stage] += 1
            self._seconds[stage] += time.perf_counter() - begin
        return self._seconds[stage] / 60, float(np.mean(losses)) if losses else float("nan")

    def describe(self) -> dict[str, Any]:
        """Number of codes, precision, and by stage the parameters, the steps and their seconds."""
        stages = {
            stage: {
                "parameters": self.count_parameters(self.models[stage]),
                "steps": self._steps[stage],
                "seconds": self._seconds[stage],
            }
            for stage in self.models
        }
        about = {"codebook_size": self.codebook_size, "precision": self.precision}
        return {**about, "stages": stages}

    @abc.abstractmethod
    def start(self, stage: str) -> Callable[[float], float]:
        """Make the network of a stage, and return the function that takes one step.

        Its argument is the share of the stage's minutes that is over. It returns the loss.
        """

    def count_parameters(self, model: Any) -> int:
        """Number of parameters of a network, here of one in Keras."""
        return model.count_params()

    @abc.abstractmethod
    def codes(self, name: str) -> np.ndarray:
        """Codes of slices, `(N, H, W)`."""

    @abc.abstractmethod
    def restore(self, name: str) -> np.ndarray:
        """Slices from their codes, uint8 `(N, S, S)`."""

    @abc.abstractmethod
    def prior_bits(self) -> dict[str, np.ndarray]:
        """Bits of the codes of each test slice under the prior, `(N,)`, by what the prior knows."""

    @abc.abstractmethod
    def draw(self, count: int) -> np.ndarray:
        """Draw slices, uint8 `(count, S, S)`."""


def shuffled(count: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches of indices below `count` without end, in a new order each time all were seen.

    An incomplete last batch is left out, unless it is the only one.
    """
    chance, batch_size = np.random.default_rng(0), min(batch_size, count)
    while True:
        order = chance.permutation(count)
        yield from order[: count - count % batch_size].reshape(-1, batch_size)


def in_batches(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Put values through a function, `BATCH` at a time."""
    parts = range(0, len(values), BATCH)
    return np.concatenate([np.asarray(function(values[i : i + BATCH])) for i in parts])
