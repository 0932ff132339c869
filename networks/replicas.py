"""Sums and choices over the replicas of a training on several devices; one device has one replica.

Each replica computes on its own share of the batch.
"""

import tensorflow as tf
from keras import ops


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


def own_share(values: tf.Tensor) -> tf.Tensor:
    """This replica's share `(N, ...)` of values `(replicas N, ...)` that all replicas know."""
    context = tf.distribute.get_replica_context()
    size = tf.shape(values)[0] // context.num_replicas_in_sync
    first = context.replica_id_in_sync_group * size
    return values[first : first + size]


def best(keys: tf.Tensor, vectors: tf.Tensor, most: int) -> tf.Tensor:
    """Vectors with the highest keys among those of all replicas.

    Args:
        keys: float32 `(N,)`.
        vectors: float32 `(N, D)`.
        most: Number of vectors to return, if there are so many.

    Returns:
        float32 `(most or fewer, D)`, the highest key first.
    """
    context = tf.distribute.get_replica_context()
    highest = tf.math.top_k(keys, tf.minimum(most, tf.shape(keys)[0])).indices
    rows = tf.concat([ops.take(keys, highest)[:, None], ops.take(vectors, highest, axis=0)], -1)
    # The rows of other replicas are 0, so their sum puts those of all replicas side by side.
    place = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    (rows,) = total(place[:, None, None] * rows)  # (replicas, most or fewer, 1 + D)
    rows = tf.reshape(rows, (-1, rows.shape[-1]))
    highest = tf.math.top_k(rows[:, 0], tf.minimum(most, tf.shape(rows)[0])).indices
    return ops.take(rows[:, 1:], highest, axis=0)
