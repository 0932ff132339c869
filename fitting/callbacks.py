"""What happens after each epoch of a stage, as Keras callbacks."""

import pathlib
import time
from collections.abc import Callable

import keras
import tensorflow as tf

from fitting.checkpoints import save_model
from fitting.run_directory import epochs_since_best, write_history


class HistoryFile(keras.callbacks.Callback):
    """Keeps the history of a stage and writes it whole after each epoch.

    `keras.callbacks.CSVLogger` appends, so a kill could leave half a row or the same row twice.

    Args:
        path: CSV file.
        rows: Rows of the epochs that are done.
        write: Whether this process writes the file.
    """

    def __init__(self, path: pathlib.Path, rows: list[dict], write: bool = True):
        super().__init__()
        self.path, self.rows, self.write = path, rows, write

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = round(time.monotonic() - self.begin, 1)
        self.rows.append({"epoch": epoch + 1, "seconds": seconds, **logs})
        if self.write:
            write_history(self.path, self.rows)


class BestModel(keras.callbacks.Callback):
    """Saves the model after each epoch with the lowest validation loss so far.

    Args:
        path: Model file.
        rows: Rows of the history, written before.
    """

    def __init__(self, path: pathlib.Path, rows: list[dict]):
        super().__init__()
        self.path, self.rows = path, rows

    def on_epoch_end(self, epoch, logs=None):
        if not epochs_since_best(self.rows):
            save_model(self.model, self.path)


class Pictures(keras.callbacks.Callback):
    """Shows images of the model in TensorBoard after each epoch.

    Args:
        folder: Folder of the logs.
        make: Function of the model to images float32 `(N, S, S, 1)` in [0, 1], by name.
    """

    def __init__(self, folder: pathlib.Path, make: Callable):
        super().__init__()
        self.folder, self.make = folder, make

    def on_train_begin(self, logs=None):
        self.writer = tf.summary.create_file_writer(str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(step=epoch):
            for name, images in self.make(self.model).items():
                tf.summary.image(name, images, max_outputs=len(images))

    def on_train_end(self, logs=None):
        self.writer.close()


class Comments(keras.callbacks.Callback):
    """Says how long the rest will take, that a stage stops early, and that a codebook collapses.

    Args:
        stage: Name of the stage.
        rows: Rows of the history, written before.
        epochs: Number of epochs of the stage.
        patience: Epochs without a better validation loss before the stage stops.
        codebook_size: Number of codes K.
    """

    def __init__(
        self, stage: str, rows: list[dict], epochs: int, patience: int, codebook_size: int
    ):
        super().__init__()
        self.stage, self.rows, self.epochs = stage, rows, epochs
        self.patience, self.codebook_size = patience, codebook_size

    def on_epoch_end(self, epoch, logs=None):
        left = self.epochs - len(self.rows)
        if epochs_since_best(self.rows) >= self.patience:
            self._say(f"no better validation loss for {self.patience} epochs, stopping early.")
        elif left:
            rows = self.rows[1:] or self.rows  # the first epoch compiles, on a GPU for a minute
            seconds = sum(row["seconds"] for row in rows) / len(rows)
            self._say(f"about {seconds * left / 60:.0f} minutes left.")
        self._warn_of_collapse()

    def _warn_of_collapse(self):
        used = [row["codes_used"] for row in self.rows[-2:] if "codes_used" in row]
        if len(used) == 2 and used[1] < min(used[0], self.codebook_size / 2):
            self._say(
                f"WARNING: the codebook is collapsing, {used[0]:.0f} codes were used in the epoch "
                f"before and {used[1]:.0f} of {self.codebook_size} now. "
                "A lower --learning-rate or a larger --batch-size helps."
            )

    def _say(self, text):
        print(f"{self.stage}: {text}", flush=True)
