"""The training loop: fits a stage from where it stands to its end, and loses nothing on the way.

The loop is ours, and not that of `fit`, for two reasons. A training that was killed goes on within
an epoch, bit for bit, and several machines train one model. Everything else is a Keras callback.
"""

import dataclasses
import math
import sys
import time

import keras
import tensorflow as tf

import dataset
from fitting import checkpoints, strategies
from fitting.callbacks import BestModel, Comments, HistoryFile, Pictures
from fitting.device import restart_keras
from fitting.run_directory import RunDirectory, epochs_since_best, read_history
from fitting.stages import Stage, learning_rates, make_optimizer
from utils import InputError


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Fits the stages of a run, one after another.

    The history of a stage is the record of what was reached: best score, patience and end are read
    from it. Beside it lies the whole state of the training, written every epoch and every few
    minutes, until the stage ends. All workers read, and the chief writes.

    Args:
        run: Where models, histories and states are.
        settings: `batch_size` of all replicas together, `seed`, `precision`, `patience` in epochs,
            and `codebook_size`.
        strategy: Devices, from `strategies.find`.
        save_minutes: Minutes between writes of the state within an epoch.
    """

    run: RunDirectory
    settings: dict
    strategy: tf.distribute.Strategy
    save_minutes: float

    def fit(self, stage: Stage) -> None:
        """Fit one stage from where it stands to its end.

        Raises:
            InputError: The loss is not finite. The last good state is kept.
        """
        rows, resuming = read_history(self.run.history(stage.name)), self._is_unfinished(stage)
        if rows and self.run.model(stage.name).exists() and not resuming:
            print(f"{stage.name}: finished after {len(rows)} epochs.", flush=True)
            return
        fit = _StageFit(self, stage)
        fit.restore(resuming)
        fit.run_epochs(rows)
        if strategies.is_chief(self.strategy):
            self.run.state(stage.name).unlink()
        strategies.wait_for_all(self.strategy)  # the next stage reads what the chief wrote

    def _is_unfinished(self, stage):
        return self.run.state(stage.name).exists()


class _StageFit:
    """One stage on its way: its model, its compiled steps, and the number of steps done."""

    def __init__(self, trainer, stage):
        self.trainer, self.stage = trainer, stage
        self.settings, self.strategy = trainer.settings, trainer.strategy
        self.is_chief = strategies.is_chief(self.strategy)
        self.state = trainer.run.state(stage.name)
        self.epoch_steps = stage.training.count // self.settings["batch_size"]
        self.step = 0
        self.model = self._make_model()
        self.train_step = strategies.compiled(self.strategy, self.model, self.model.train_step)
        self.test_step = strategies.compiled(self.strategy, self.model, self.model.test_step)

    def _make_model(self):
        # So that a stage starts alike whatever ran before it in this process.
        restart_keras(self.settings["precision"])
        keras.utils.set_random_seed(self.settings["seed"])
        steps = self.epoch_steps * self.stage.epochs
        with self.strategy.scope():
            schedule = learning_rates(self.stage.learning_rate, steps)
            model = self.stage.make_model()
            model.compile(make_optimizer(schedule), **self.stage.make_objective())
            model.optimizer.build(model.trainable_variables)
        return model

    def restore(self, resuming):
        """Bring the model to where the stage stands, or save where it starts."""
        # One step makes the variables of the metrics, which belong to the state.
        self.test_step(next(self._validation_batches()))
        if resuming:
            checkpoints.load_state(self.model, self.state)
        else:
            self._save()  # from now on, no state means that the stage is finished
        self.step = int(self.model.optimizer.iterations.numpy())
        if abs(strategies.wait_for_all(self.strategy, self.step) - self.step) > 1e-6:
            raise InputError(
                f"{self.trainer.run} holds another state for this worker than for others: "
                "--run must be one folder that all machines share."
            )

    def run_epochs(self, rows):
        """Train until the last epoch, or until no better validation loss comes."""
        name, epochs, patience = self.stage.name, self.stage.epochs, self.settings["patience"]
        rows = rows[: self.step // self.epoch_steps]
        begins = f"continues after step {self.step}" if self.step else "starts"
        print(
            f"{name}: {self.model.count_params() / 1e6:.2f} M parameters, {begins}, "
            f"{epochs} epochs of {self.epoch_steps} steps.",
            flush=True,
        )
        callbacks = self._callbacks(rows)
        callbacks.on_train_begin()
        while len(rows) < epochs and epochs_since_best(rows) < patience:
            epoch = len(rows)
            callbacks.on_epoch_begin(epoch)
            logs = self._train(epoch, callbacks)
            logs |= self._validate()
            callbacks.on_epoch_end(epoch, logs)
            self._save()
        callbacks.on_train_end()

    def _callbacks(self, rows):
        name, run = self.stage.name, self.trainer.run
        callbacks = [
            keras.callbacks.ProgbarLogger(),
            HistoryFile(run.history(name), rows, write=self.is_chief),
        ]
        if self.is_chief:
            logs = run.logs(name)
            callbacks += [
                BestModel(run.model(name), rows),
                keras.callbacks.TensorBoard(logs, write_graph=False),
                Pictures(logs / "validation", self.stage.pictures),
            ]
        settings = self.settings
        epochs, patience, codes = self.stage.epochs, settings["patience"], settings["codebook_size"]
        callbacks.append(Comments(name, rows, epochs, patience, codes))
        verbose = 1 if sys.stdout.isatty() else 2  # 2: one line an epoch
        return keras.callbacks.CallbackList(
            callbacks, model=self.model, epochs=epochs, steps=self.epoch_steps, verbose=verbose
        )

    def _train(self, epoch, callbacks):
        """Take the steps of an epoch that are left, and return the last metrics."""
        skip = self.step % self.epoch_steps
        if not skip:
            self.model.reset_metrics()
        saved = time.monotonic()
        for batch in self._training_batches(epoch, skip):
            logs, since_save = self.train_step(batch, time.monotonic() - saved)
            self._check_finite("loss", logs["loss"])
            self.step += 1
            if self.step % self.epoch_steps and since_save >= 60 * self.trainer.save_minutes:
                self._save()
                saved = time.monotonic()
            callbacks.on_train_batch_end(self.step - 1 - self.epoch_steps * epoch, logs)
        return logs

    def _validate(self):
        self.model.reset_metrics()
        for batch in self._validation_batches():
            scores, _ = self.test_step(batch)
        self._check_finite("validation loss", scores["loss"])
        return {f"val_{name}": value for name, value in scores.items()}

    def _training_batches(self, epoch, skip):
        (example, count), settings = self.stage.training, self.settings
        batch_size, seed = settings["batch_size"], settings["seed"]

        def share(part):
            return dataset.training_batches(example, count, batch_size, seed, epoch, skip, part)

        return strategies.batches(self.strategy, share)

    def _validation_batches(self):
        (example, count), batch_size = self.stage.validation, self.settings["batch_size"]

        def share(part):
            return dataset.evaluation_batches(example, count, batch_size, share=part)

        return strategies.batches(self.strategy, share)

    def _save(self):
        try:
            checkpoints.save_state(self.model, self.state, self.is_chief)
        except FloatingPointError:
            raise self._not_finite("state of the model") from None

    def _check_finite(self, what, value):
        if not math.isfinite(value):
            raise self._not_finite(what)

    def _not_finite(self, what):
        step = int(self.model.optimizer.iterations.numpy())
        return InputError(
            f"{self.stage.name}: the {what} is not finite at step {step}; "
            f"the last good state is kept in {self.state}. "
            "Train into a new --run with a lower learning rate or --precision float32."
        )
