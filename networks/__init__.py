"""Layers behind `modules.py`, and the generation of codes that every prior shares."""

import keras

# Files of models name their classes in this package, wherever the code lives.
serializable = keras.saving.register_keras_serializable(package="brain_vqvae")
