"""Plant a body in the stack of every case of a split."""

import dataclasses
import itertools

import numpy as np

from planting.bodies import LEAST_SLICES, plant_body
from planting.lesions import KINDS, STRENGTHS
from sources.folder import Split
from sources.layout import SPLITS
from utils import InputError, progress


@dataclasses.dataclass(frozen=True)
class Planted:
    """A split with one body in each case.

    Attributes:
        images: Slices, float32 `(N, S, S)` in [0, 1].
        masks: Their lesions, bool `(N, S, S)`; empty in slices that no body reaches.
        kinds: Kind of the body of each slice's case, str `(N,)`.
        strengths: Strength of the body of each slice's case, str `(N,)`.
    """

    images: np.ndarray
    masks: np.ndarray
    kinds: np.ndarray
    strengths: np.ndarray


def plant_split(images: np.ndarray, split: Split, seed: int) -> Planted:
    """Plant one body in the stack of every case, of kinds and strengths drawn at random.

    All random numbers come from the seed and the split. So validation and test share no body.

    Args:
        images: Slices of the split, `(N, S, S)` in [0, 1].
        split: The split, with stacks of at least `LEAST_SLICES` slices without gaps.
        seed: Seed of the bodies.

    Raises:
        InputError: A case is no such stack.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split.name)))
    pairs = list(itertools.product(KINDS, STRENGTHS))
    deck = rng.permutation(len(pairs))  # so that all pairs come about equally often
    images, masks = images.astype("float32"), np.zeros(images.shape, bool)
    kinds, strengths = (np.empty(len(split), object) for _ in range(2))
    cases = np.unique(split.cases)
    for number, case in enumerate(progress(cases, "planting", unit="body")):
        stack = np.flatnonzero(split.cases == case)
        if len(stack) < LEAST_SLICES or (np.diff(split.levels[stack]) != 1).any():
            raise InputError(
                f"case {case} of {split.name} is no stack of {LEAST_SLICES} or more slices "
                "without gaps: take it out of the folder."
            )
        kind, strength = pairs[deck[number % len(deck)]]
        images[stack], masks[stack] = plant_body(images[stack], kind, strength, rng)
        kinds[stack], strengths[stack] = kind, strength
    return Planted(images, masks, kinds.astype(str), strengths.astype(str))
