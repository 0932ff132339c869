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


def check_range(
    name: str, value: Any, kind: type, least: float, most: float, length: int | None = None
) -> None:
    """Check a setting, which may come from a stranger's model file.

    Args:
        name: Its name.
        value: A number, or a sequence of numbers where `length` is given.
        kind: `int` or `float`.
        least: Least number that is allowed.
        most: Largest number that is allowed.
        length: Length of the sequence.

    Raises:
        ValueError: `value` is something else.
    """
    values = [value] if length is None else value
    abstract = numbers.Integral if kind is int else numbers.Real
    is_valid = isinstance(values, (list, tuple)) and len(values) == (length or 1)
    for number in values if is_valid else ():
        is_valid &= isinstance(number, abstract) and not isinstance(number, bool)
        is_valid = is_valid and least <= number <= most
    if not is_valid:
        raise ValueError(
            f"`{name}` must be {length or 'one'} {kind.__name__} from {least} to {most}. "
            f"Received: {name}={value!r:.100}"
        )
