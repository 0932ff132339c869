"""What all networks are built of: convolutions, residual blocks, and the precision of both."""

import functools
from collections.abc import Callable

import keras
from keras import layers

Policy = keras.DTypePolicy | str | None


def convolution(dtype: Policy) -> Callable:
    """Convolution that carries its precision policy, so that a reload needs no global one."""
    return functools.partial(layers.Conv2D, padding="same", dtype=dtype)


def residual_blocks(x: keras.KerasTensor, count: int, dtype: Policy) -> keras.KerasTensor:
    """`count` residual blocks of a 3 x 3 and a 1 x 1 convolution; each starts as the identity."""
    conv, width = convolution(dtype), x.shape[-1]
    for _ in range(count):
        h = conv(width, 3)(layers.Activation("relu", dtype=dtype)(x))
        h = layers.Activation("relu", dtype=dtype)(h)
        h = conv(width, 1, kernel_initializer="zeros")(h)
        x = layers.Add(dtype=dtype)([x, h])
    return x


def full_precision(policy: Policy) -> str:
    """Precision of latents, distances, images and logits: float32, or float64 where all is."""
    policy = keras.dtype_policies.get(policy)
    return "float64" if policy.compute_dtype == "float64" else "float32"


def in_precision(model: keras.Model, precision: str) -> keras.Model:
    """Copy of a model that computes in another precision.

    In float64 its decisions are the same everywhere. The last bits of a product depend on the
    batch, the number of threads, and what the process did before. In float32 such bits decide a
    close choice between two codes, or between two grey values. In float64 they are about a billion
    times smaller than any difference that matters.

    Args:
        model: The model.
        precision: "float32" or "float64".
    """
    copy = type(model).from_config({**model.get_config(), "dtype": precision})
    copy.set_weights(model.get_weights())
    return copy
