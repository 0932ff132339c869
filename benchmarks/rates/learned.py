"""A learned codec as a rival, at several weights of its distortion. It sees a window of the slices.

The window holds the frame that our models see, so that background costs neither of them anything.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from contenders.remote import Failure, Remote

from rates.codecs import Slices, point
from utils import InputError, progress

MULTIPLE = 64  # of both sides of what the hyperprior sees
# Weights of the distortion, the finest first. Each continues the training of the one before.
WEIGHTS = (4.0, 1.5, 0.6, 0.25)


class Learned:
    """The scale hyperprior of `rates.hyperprior`, in a process of its own.

    Its streams have no header, so all their bytes are payload.

    Args:
        python: Python of an environment with requirements-codec.txt.
        folder: Where its weights are kept.
        training: Slices to learn from, uint8 `(T, S, S)`.
        frame: Part of the slices that is not empty.

    Raises:
        InputError: The packages are not there, or the slices are too small.
    """

    def __init__(
        self,
        python: str,
        folder: pathlib.Path,
        training: np.ndarray,
        frame: tuple[int, int, int, int],
    ):
        top, left, bottom, right = frame
        size = training.shape[1]
        self.window = np.s_[:, window(top, bottom, size), window(left, right, size)]
        given = {"images": training[self.window], "folder": str(folder.resolve())}
        try:
            self.model = Remote("rates.hyperprior", python, **given)
        except (Failure, OSError) as reason:
            raise InputError(
                f"the learned codec did not start ({reason}): install "
                "benchmarks/requirements-codec.txt in an environment of its own, and name its "
                f"Python. Received: --learned-python {python}"
            ) from None

    def points(
        self,
        minutes: float,
        slices: Slices,
        tuning: Slices,
        weights: Sequence[float] = WEIGHTS,
    ) -> Iterator[dict[str, Any]]:
        """Train at each of `WEIGHTS`, unless that was done before, and measure; see `codecs.point`.

        Args:
            minutes: Minutes of training in all. The first weight gets half of them.
            slices: Slices to measure.
            tuning: Slices that choose the threshold of black.
            weights: Which of `WEIGHTS` to measure.
        """
        first, *others = WEIGHTS
        shares = {first: minutes / 2, **dict.fromkeys(others, minutes / 2 / len(others))}
        for weight in progress(WEIGHTS, "hyperprior", unit="weight"):
            about = self.model.train(weight, shares[weight])
            if weight in weights:
                yield {"options": about, **point(self.code, slices, tuning)}
        self.model.close()

    def code(self, slices: Slices) -> tuple[np.ndarray, np.ndarray]:
        """Compress and decompress slices: the bytes of each `(N,)`, and uint8 `(N, S, S)`."""
        sizes, inside = self.model.code(slices.images[self.window])
        restored = np.zeros_like(slices.images)
        restored[self.window] = inside
        return sizes, restored


def window(first: int, last: int, size: int) -> slice:
    """Part of a side that holds `first` to `last`, the least multiple of 64 pixels, in the middle.

    Args:
        first: First pixel of the frame.
        last: Pixel after its last one.
        size: Pixels of the side.

    Raises:
        InputError: The side is too short.
    """
    length = -(-(last - first) // MULTIPLE) * MULTIPLE
    if length > size:
        raise InputError(f"--learned needs slices of {length} pixels a side. Received: {size}")
    begin = int(np.clip((first + last - length) // 2, 0, size - length))
    return slice(begin, begin + length)
