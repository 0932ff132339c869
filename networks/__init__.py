"""Layers behind `modules.py`, and the generation of codes that every prior shares."""

import functools

import keras
import tensorflow as tf

# Files of models name their classes in this package, wherever the code lives.
serializable = keras.saving.register_keras_serializable(package="brain_vqvae")

# AutoGraph would take seconds to rewrite Python that has no loop or branch on a tensor.
graph_function = functools.partial(tf.function, autograph=False)
