"""Sums and choices over the replicas of a training on several devices; one device has one replica.

Each replica computes on its own share of the batch.
"""

import tensorflow as tf


def count() -> int:
    """Number of replicas."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def share_of_loss(loss: tf.Tensor) -> tf.Tensor:
    """What a replica adds to a mean loss: replicas sum their losses.

    Keras divides the losses of `compile` by the number of replicas, and no others.
    """
    return loss / count()


def total(*values: tf.Tensor) -> list[tf.Tensor]:
    """Sums of values over all replicas."""
    return tf.distribute.get_replica_context().all_reduce("sum", list(values))
