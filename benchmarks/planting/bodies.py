"""Plant lesions in three dimensions: bodies that run through several slices of a stack.

The middle cross-section is a lesion of `planting.lesions`. Towards its ends a body tapers as an
ellipsoid does. These bodies are caricatures too.
"""

import numpy as np

from planting.lesions import Section, plant

LEAST_SLICES, MOST_SLICES = 3, 15


def plant_body(
    stack: np.ndarray, kind: str, strength: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Plant one body, or one group of spots, in a stack.

    Args:
        stack: Slices from bottom to top, `(K, S, S)` in [0, 1], K at least 3.
        kind: See `planting.lesions.plant`.
        strength: See `planting.lesions.plant`.
        rng: Generator; everything random is drawn from it.

    Returns:
        The stack with the body, float32 `(K, S, S)`, and its masks, bool `(K, S, S)`, which are
        empty in slices that it does not reach.

    Raises:
        ValueError: As `planting.lesions.plant`.
    """
    slices = int(rng.integers(LEAST_SLICES, min(MOST_SLICES, len(stack)) + 1))
    first = int(rng.integers(0, len(stack) - slices + 1))
    seed, middle = int(rng.integers(2**31)), first + slices // 2
    planted, masks = stack.astype("float32"), np.zeros(stack.shape, bool)
    body = Section()
    # The middle comes first, because it decides the places.
    for k in sorted(range(first, first + slices), key=lambda k: abs(k - middle)):
        if k != middle:
            size = np.sqrt(1 - ((k - middle) / (slices / 2 + 0.5)) ** 2)
            body = Section(size, body.places, taken=0)
        planted[k], masks[k] = plant(stack[k], kind, strength, np.random.default_rng(seed), body)
    return planted, masks
