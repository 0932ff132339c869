"""What TensorFlow computes on, in which precision, and how to begin as a new process would."""

import os
import pathlib

import keras
import tensorflow as tf


def compute_device() -> tuple[str, str]:
    """`("GPU" or "CPU", name)` of what TensorFlow will compute on."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return "GPU", details.get("device_name", gpus[0].name)
    return "CPU", f"{os.cpu_count()} cores"


def describe(strategy: tf.distribute.Strategy, precision: str) -> str:
    """What a training runs on, for people."""
    kind, name = compute_device()
    count = strategy.num_replicas_in_sync
    replicas = f", {count} replicas" if count > 1 else ""
    return f"the {kind} ({name}){replicas}, {precision}"


def use_deterministic_kernels(seed: int) -> None:
    """Let TensorFlow choose kernels that give the same bits at every run, which are slower.

    Args:
        seed: Seed of ops that keep one of their own, which refuse to run without it.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def use_precision(choice: str) -> str:
    """Set the precision of the models that Keras builds from now on.

    Args:
        choice: "float32", "bfloat16" (weights stay float32), or "auto": bfloat16 where the
            hardware multiplies it natively.

    Returns:
        "float32" or "bfloat16".
    """
    kind = native_precision() if choice == "auto" else choice
    keras.config.set_dtype_policy("mixed_bfloat16" if kind == "bfloat16" else "float32")
    return kind


def native_precision() -> str:
    """Return "bfloat16" where the hardware multiplies it natively, else "float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        native = details.get("compute_capability", (0, 0)) >= (8, 0)
    else:
        cpuinfo = pathlib.Path("/proc/cpuinfo")
        flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
        native = "avx512_bf16" in flags or "amx_bf16" in flags
    return "bfloat16" if native else "float32"


def restart_keras(precision: str) -> None:
    """Forget the models that were built before, as a new process would.

    Keras numbers layers through a process, and TensorFlow orders sums by the names of layers. So
    without this call the last bits of a stage would depend on what ran before it.

    Args:
        precision: What `use_precision` returned. Keras forgets it too.
    """
    keras.utils.clear_session()
    use_precision(precision)
