"""Training on one device, on several of a machine, or on several machines: one path for all three.

A strategy of `tf.distribute` has replicas, each with its own copy of the model and its own contiguous share of every batch. What they sum
(gradients, statistics of the codebook, metrics) makes N of them with a batch of B do what one does with a batch of B, up to rounding. Only
dropout differs: each replica draws for its share, from the same state of the generator, the same masks, and one would draw others for each part.
"""

import contextlib
import functools
import json
import os

import keras
import tensorflow as tf

from utils import InputError

# what a step ends with when another machine does not answer, depending on what it was doing
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError)


def find(name):
    """Strategy of a `--strategy` choice: None, "mirrored" (all GPUs of this machine, else all logical CPUs) or "multiworker" (`TF_CONFIG`).

    To be called before TensorFlow computes anything. Several machines wait here for each other.

    Raises:
        InputError: `TF_CONFIG` is missing, or does not say which machines there are and which of them this is.
    """
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        try:
            config = json.loads(os.environ["TF_CONFIG"])
            workers, task = config["cluster"]["worker"], config["task"]
            if set(config["cluster"]) != {"worker"} or task["type"] != "worker" or task["index"] not in range(len(workers)):
                raise ValueError("the machines must all be workers, and the task the index of one of them")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"--strategy multiworker needs TF_CONFIG in the environment ({type(error).__name__}: {error}): set it to "
                             '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}.') from None
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise InputError(f"the workers of TF_CONFIG cannot be joined ({error.message}): check their names and ports, and start all.") from None
    return tf.distribute.get_strategy()


def is_chief(strategy):
    """Whether this process is the one that writes."""
    return strategy.extended.should_checkpoint


@contextlib.contextmanager
def together(strategy):
    """Say that a worker was lost, in place of what TensorFlow says.

    Raises:
        InputError: another worker does not answer.
    """
    try:
        yield
    except LOST as error:
        if strategy.cluster_resolver is None:
            raise
        reason = error.message.partition("aborted by:")[2].partition("The error could be")[0].strip() or type(error).__name__
        raise InputError("a worker was lost: start all of them again with the same command, and they go on from the last save "
                         f"({reason:.300}).") from None


def meet(strategy, number=0.0):
    """Mean over replicas of a number that each worker has, when all of them are here."""
    return float(_mean(strategy, tf.constant(number, tf.float64)))


@tf.function
def _mean(strategy, number):
    means = strategy.run(_replica_mean, args=(number,))
    return strategy.experimental_local_results(means)[0]


def _replica_mean(number):
    return tf.distribute.get_replica_context().all_reduce("mean", tf.identity(number))  # what no replica made has no device to be summed on


def batches(strategy, share):
    """Batches of all replicas, each from a data set of its own.

    Args:
        share: function of `(replica, replicas)` to that data set.
    """
    streams = {}

    def following(context):
        replica = context.replica_id_in_sync_group
        if replica not in streams:
            streams[replica] = iter(share((replica, context.num_replicas_in_sync)))
        return next(streams[replica])

    while True:
        try:
            yield strategy.experimental_distribute_values_from_function(following)
        except StopIteration:
            return


def compiled(strategy, model, step):
    """A step of all replicas, compiled, as a function of a batch and of seconds to `(metrics, seconds)`.

    The metrics are of all examples of all replicas since their last reset, and the seconds, of which each worker has its own, are
    the mean over replicas: what is decided by them is decided alike everywhere. In place of `fit`, which in Keras 3.15 reduces metrics
    in a way that MultiWorkerMirroredStrategy refuses.

    Args:
        step: `model.train_step` or `model.test_step`.
    """
    def replica(batch, seconds):
        step(batch)
        return _replica_mean(seconds)

    @functools.partial(tf.function, reduce_retracing=True, jit_compile=model.jit_compile)
    def run(batch, seconds):
        seconds = strategy.run(replica, args=(batch, seconds))
        return model.get_metrics_result(), strategy.experimental_local_results(seconds)[0]

    def call(batch, seconds=0.0):
        logs, seconds = run(batch, tf.constant(seconds, tf.float32))
        return {name: float(value) for name, value in sorted(logs.items())}, float(seconds)

    return call


class Adam(keras.optimizers.Adam):
    """Adam that clips the sum of the replicas' gradients. That of Keras clips the share of each before it sums."""

    def _clip_gradients(self, grads):
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return super()._clip_gradients(grads)
        # Keras takes the norm of an embedding's gradient over all that was looked up, before it adds up what is of the same row
        sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in grads]
        looked_up = [tf.reduce_sum(gradient.values**2) for gradient, rows in zip(grads, sparse) if rows]
        *grads, looked_up = context.all_reduce("sum", [*map(tf.convert_to_tensor, grads), tf.add_n([tf.constant(0.0), *looked_up])])
        squares = [tf.reduce_sum(gradient**2) for gradient, rows in zip(grads, sparse) if not rows]
        scale = self.global_clipnorm / tf.maximum(tf.sqrt(tf.add_n([looked_up, *squares])), self.global_clipnorm)
        return [gradient * scale for gradient in grads]

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars
