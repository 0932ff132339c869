"""Layers behind `modules.py`, and the generation of codes that every prior shares."""

import functools
import numbers
from typing import Any

import keras
import tensorflow as tf

# Files of models name their classes in this package, wherever the code lives.
serializable = keras.saving.register_keras_serializable(package="brain_vqvae")

# AutoGraph would take seconds to rewrite Python that has no loop or branch on a tensor.
graph_function = functools.partial(tf.function, autograph=False)

NUMBERS = {int: numbers.Integral, float: numbers.Real}


def check_range(
    name: str, value: Any, kind: type, least: float, most: float, length: int | None = None
) -> None:
    """Check the type and range of a setting, which may come from a stranger's model file.

    Args:
        name: Name of the setting.
        value: A number, or a sequence of numbers where `length` is given.
        kind: `int` or `float`.
        least: Least number that is allowed.
        most: Largest number that is allowed.
        length: Length of the sequence.

    Raises:
        ValueError: `value` is something else.
    """

    def fits(number):
        is_number = isinstance(number, NUMBERS[kind]) and not isinstance(number, bool)
        return is_number and least <= number <= most

    if length is None:
        is_valid, wanted = fits(value), kind.__name__
    else:
        is_sequence = isinstance(value, (list, tuple)) and len(value) == length
        is_valid, wanted = is_sequence and all(map(fits, value)), f"{length} {kind.__name__}s"
    if not is_valid:
        raise ValueError(
            f"`{name}` must be {wanted} from {least} to {most}. Received: {name}={value!r:.100}"
        )
