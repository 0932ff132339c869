"""Models in float64, whose decisions do not depend on how they are computed.

The last bits of a product depend on the batch, the number of threads, and what the process did
before. In float32 such bits turn a close choice between two codes, or between two grey values. In
float64 they are about a billion times smaller than any difference that matters.
"""

import keras

from networks.residual import Policy


def exact(model: keras.Model) -> keras.Model:
    """Copy of a model that computes in float64."""
    copy = type(model).from_config({**model.get_config(), "dtype": "float64"})
    copy.set_weights(model.get_weights())
    return copy


def full_precision(policy: Policy) -> str:
    """Precision of latents, distances, images and logits: float32, or float64 where all is."""
    policy = keras.dtype_policies.get(policy)
    return "float64" if policy.compute_dtype == "float64" else "float32"
