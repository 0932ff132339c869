"""What a training computes on, and in which precision: one device, several, or several machines.

A strategy of `tf.distribute` has replicas. Each has its own copy of the model and its own
contiguous share of every batch. They sum gradients, statistics of the codebook, and metrics, so N
replicas with a batch of B do what one does with a batch of B, up to rounding. Only dropout
differs: all replicas draw the same masks for their shares, where one would draw others.
"""

import contextlib
import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from fitting.settings import Settings
from networks import graph_function
from utils import InputError, cores, is_out_of_memory, reading

# A step ends with one of these when another machine does not answer, depending on what it did.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


# ---- devices and precision ---------------------------------------------------------------------


def compute_device() -> tuple[str, str]:
    """`("GPU" or "CPU", name)` of what TensorFlow will compute on."""
    if tf.config.list_physical_devices("GPU"):
        return "GPU", _details_of_gpu().get("device_name", "GPU")
    return "CPU", f"{cores()} cores"


def describe(strategy: tf.distribute.Strategy, precision: str) -> str:
    """What a training runs on, for people."""
    kind, name = compute_device()
    count = strategy.num_replicas_in_sync
    replicas = f", {count} replicas" if count > 1 else ""
    return f"the {kind} ({name}){replicas}, {precision}"


def use_precision(choice: str) -> str:
    """Set the precision of the models that Keras builds from now on.

    Args:
        choice: "float32", "bfloat16" (weights stay float32), or "auto": bfloat16 where the
            hardware multiplies it faster.

    Returns:
        "float32" or "bfloat16".
    """
    kind = _faster_precision() if choice == "auto" else choice
    keras.config.set_dtype_policy("mixed_bfloat16" if kind == "bfloat16" else "float32")
    return kind


def _faster_precision():
    if tf.config.list_physical_devices("GPU"):
        is_fast = _details_of_gpu().get("compute_capability", (0, 0)) >= (8, 0)
    else:
        cpuinfo = pathlib.Path("/proc/cpuinfo")
        is_fast = multiplies_bfloat16(cpuinfo.read_text() if cpuinfo.exists() else "")
    return "bfloat16" if is_fast else "float32"


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor multiplies bfloat16 faster than float32, by its `/proc/cpuinfo`.

    The AVX-512 instruction for it has twice the speed of float32 on AMD's processors and half of it
    on Intel's, which are fast with AMX alone.
    """
    words = cpuinfo.split()
    return "amx_bf16" in words or ("avx512_bf16" in words and "AuthenticAMD" in words)


def _details_of_gpu():
    return tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])


def restart_keras() -> None:
    """Forget the models that were built before, as a new process would. The precision stays.

    Keras numbers layers through a process, and TensorFlow orders sums by the names of layers. So
    without this call the last bits of a stage would depend on what ran before it.
    """
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)


# ---- replicas ----------------------------------------------------------------------------------


def find_strategy(name: str | None) -> tf.distribute.Strategy:
    """Strategy of a `--strategy` choice, to be called before TensorFlow computes anything.

    Args:
        name: None (one device), "mirrored" (all GPUs of this machine, else all logical CPUs), or
            "multiworker" (all machines in `TF_CONFIG`, which wait here for each other).

    Raises:
        InputError: `TF_CONFIG` does not say which machines there are and which of them this is, or
            they cannot be joined.
    """
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        remedy = (
            "--strategy multiworker needs it, with names and ports of all workers, which all must "
            'be started: {"cluster": {"worker": ["HOST:PORT", ...]}, '
            '"task": {"type": "worker", "index": N}}'
        )
        with reading("TF_CONFIG in the environment", remedy):
            _check_cluster(json.loads(os.environ.get("TF_CONFIG", "{}")))
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        # TensorFlow now ignores what a cluster sends before it takes a machine back.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        return strategy
    return tf.distribute.get_strategy()


def _check_cluster(config):
    workers, task = config["cluster"]["worker"], config["task"]
    if set(config["cluster"]) != {"worker"} or not all(isinstance(w, str) for w in workers):
        raise ValueError("the machines must all be workers, as texts HOST:PORT")
    if task["type"] != "worker" or task["index"] not in range(len(workers)):
        raise ValueError("the task must be the index of a worker")


def check_shares(strategy: tf.distribute.Strategy, batch_size: int, validation_count: int) -> None:
    """Check that the replicas can share the batches and the validation equally.

    Raises:
        InputError: They cannot.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"--batch-size must be divisible by the {replicas} replicas of --strategy. "
            f"Received: {batch_size}"
        )
    if validation_count < replicas:
        raise InputError(
            f"--strategy has {replicas} replicas, more than there are validation images: "
            "use fewer devices."
        )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    return strategy.extended.should_checkpoint


@contextlib.contextmanager
def reporting_losses(strategy: tf.distribute.Strategy, settings: Settings) -> Iterator[None]:
    """Say that a worker was lost or memory ended, in place of what TensorFlow says.

    Raises:
        InputError: Another worker does not answer, or there is not enough memory.
    """
    try:
        yield
    except LOST as error:
        if strategy.cluster_resolver is None:
            raise
        reason = error.message.partition("aborted by:")[2].partition("The error could be")[0]
        reason = reason.strip() or type(error).__name__
        raise InputError(
            "a worker was lost: start all of them again with the same command, and they go on "
            f"from the last save ({reason:.300})."
        ) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        is_gpu = "GPU" in f"{error} {compute_device()}"
        shared = " The GPU may be shared: nvidia-smi shows with whom." if is_gpu else ""
        raise InputError(
            f"out of memory at --batch-size {settings.batch_size}, --width {settings.width} and "
            f"--prior-width {settings.prior_width}: train into a new --run with smaller ones, or "
            f"end other programs and repeat the command.{shared}"
        ) from None


def wait_for_all(strategy: tf.distribute.Strategy, number: float = 0.0) -> float:
    """Wait for all workers, and return the mean over replicas of a number that each one has."""
    return float(_mean(strategy, tf.constant(number, tf.float64)))


def chief_does(strategy: tf.distribute.Strategy, action: Callable, *args) -> None:
    """Let the chief do something while the other workers wait for it."""
    if is_chief(strategy):
        action(*args)
    wait_for_all(strategy)


@graph_function
def _mean(strategy, number):
    means = strategy.run(_replica_mean, args=(number,))
    return strategy.experimental_local_results(means)[0]


def _replica_mean(number):
    # A number that no replica made has no device to be summed on.
    return tf.distribute.get_replica_context().all_reduce("mean", tf.identity(number))


def batches(strategy: tf.distribute.Strategy, share: Callable) -> Iterator:
    """Batches of all replicas, each from a data set of its own.

    Args:
        strategy: Strategy from `find_strategy`.
        share: Function of `(replica, replicas)` to that data set.
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


def compiled(strategy: tf.distribute.Strategy, model: keras.Model, step: Callable) -> Callable:
    """A compiled step of all replicas: function `(batch, seconds=0.0) -> (metrics, seconds)`.

    The metrics cover all examples of all replicas since their last reset. Each worker has its own
    seconds, and the mean over replicas comes back, so that all workers decide alike by it. This
    replaces `fit`, whose reduction of metrics `MultiWorkerMirroredStrategy` refuses in Keras 3.15.

    Args:
        strategy: Strategy from `find_strategy`.
        model: Compiled model.
        step: `model.train_step` or `model.test_step`.
    """

    def replica(batch, seconds):
        step(batch)
        return _replica_mean(seconds)

    @graph_function(reduce_retracing=True, jit_compile=model.jit_compile)
    def run(batch, seconds):
        seconds = strategy.run(replica, args=(batch, seconds))
        return model.get_metrics_result(), strategy.experimental_local_results(seconds)[0]

    def call(batch, seconds=0.0):
        logs, seconds = run(batch, tf.constant(seconds, tf.float32))
        return {name: float(value) for name, value in sorted(logs.items())}, float(seconds)

    return call


class ReplicatedAdam(keras.optimizers.Adam):
    """Adam that clips the sum of the replicas' gradients.

    That of Keras clips the share of each replica before it sums them.
    """

    def _clip_gradients(self, grads):
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return super()._clip_gradients(grads)
        # Keras takes the norm of an embedding's gradient over all rows that were looked up,
        # before it adds up equal rows.
        sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in grads]
        looked_up = [tf.reduce_sum(g.values**2) for g, rows in zip(grads, sparse) if rows]
        looked_up = tf.add_n([tf.constant(0.0), *looked_up])
        dense = [tf.convert_to_tensor(gradient) for gradient in grads]
        *grads, looked_up = context.all_reduce("sum", [*dense, looked_up])
        squares = [tf.reduce_sum(g**2) for g, rows in zip(grads, sparse) if not rows]
        norm = tf.sqrt(tf.add_n([looked_up, *squares]))
        scale = self.global_clipnorm / tf.maximum(norm, self.global_clipnorm)
        return [gradient * scale for gradient in grads]

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars
