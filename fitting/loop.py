"""The training loop: it fits a stage to its end, from the step at which it stands.

The step is `train_step` of Keras. The loop is ours, and not that of `fit`, for two reasons. A
training that was killed goes on within an epoch, bit for bit, and several machines train one model.
"""

import functools
import math
import signal
import sys
import time

import keras
import tensorflow as tf

import dataset
from fitting import checkpoints, devices
from fitting.run_directory import RunDirectory, read_history, write_history
from fitting.settings import Settings
from fitting.stages import Stage, learning_rates, make_optimizer
from utils import ENDINGS, InputError, signals_held

FIRST_STEPS = 20  # of a stage, by which its time is told


def fit(
    stage: Stage,
    run: RunDirectory,
    settings: Settings,
    strategy: tf.distribute.Strategy,
    save_minutes: float,
) -> None:
    """Fit one stage from where it stands to its end.

    The history of a stage is the record of what was reached: best score and patience are read from
    it. Beside it lies the whole state of the training, written every epoch and every few minutes. A
    stage that has a model and no state is finished. All workers read, and the chief writes.

    Args:
        stage: The stage.
        run: Where models, histories and states are.
        settings: Settings of the training.
        strategy: Devices, from `devices.find_strategy`.
        save_minutes: Minutes between writes of the state within an epoch.

    Raises:
        InputError: The loss is not finite. The last good state is kept.
    """
    if stage.prepare:
        devices.chief_does(strategy, stage.prepare)
    state = run.state(stage.name)
    rows, resuming = read_history(run.history(stage.name)), state.exists()
    if rows and run.model(stage.name).exists() and not resuming:
        print(f"{stage.name}: finished after {len(rows)} epochs.", flush=True)
        return
    fitting = _Fit(stage, run, settings, strategy, save_minutes)
    with signals_held(*ENDINGS) as fitting.asked_to_end:
        fitting.restore(resuming)
        fitting.run_epochs(rows)
    if devices.is_chief(strategy):
        state.unlink()
    devices.wait_for_all(strategy)  # the next stage reads what the chief wrote


class _Fit:
    """One stage on its way: its model, its compiled steps, and the number of steps done."""

    def __init__(self, stage, run, settings, strategy, save_minutes):
        self.stage, self.run, self.settings = stage, run, settings
        self.strategy, self.save_minutes = strategy, save_minutes
        self.is_chief, self.state = devices.is_chief(strategy), run.state(stage.name)
        self.task = stage.load()
        self.epoch_steps = self.task.training.count // settings.batch_size
        self.step, self.timed_from = 0, None
        self.model = self._make_model()
        self.train_step = devices.compiled(strategy, self.model, self.model.train_step)
        self.test_step = devices.compiled(strategy, self.model, self.model.test_step)

    def _make_model(self):
        stage, settings = self.stage, self.settings
        weights = None
        if stage.start_weights:
            weights = checkpoints.load_model(stage.start_weights).get_weights()
        # So that a stage starts alike whatever ran before it in this process.
        devices.restart_keras()
        keras.utils.set_random_seed(settings.seed)
        steps = self.epoch_steps * stage.epochs
        with self.strategy.scope():
            schedule = learning_rates(stage.learning_rate, steps, settings.warmup_steps)
            model = self.task.make_model()
            if weights:
                model.set_weights(weights)
            optimizer = make_optimizer(schedule, settings.beta_2, settings.clip_norm)
            model.compile(optimizer, **self.task.make_objective())
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
        if abs(devices.wait_for_all(self.strategy, self.step) - self.step) > 1e-6:
            raise InputError(
                f"{self.run} holds another state for this worker than for others: "
                "--run must be one folder that all machines share."
            )

    def run_epochs(self, rows):
        """Train until the last epoch, or until no better validation loss comes."""
        name, epochs, patience = self.stage.name, self.stage.epochs, self.settings.patience
        rows = rows[: self.step // self.epoch_steps]  # an epoch that was not saved is done again
        begins = f"continues after step {self.step}" if self.step else "starts"
        print(
            f"{name}: {self.model.count_params() / 1e6:.2f} M parameters, {begins}, "
            f"{epochs} epochs of {self.epoch_steps} steps.",
            flush=True,
        )
        callbacks = self._callbacks()
        callbacks.on_train_begin()
        while len(rows) < epochs and _epochs_since_best(rows) < patience:
            begin, epoch = time.monotonic(), len(rows)
            callbacks.on_epoch_begin(epoch)
            logs = self._train(epoch, callbacks) | self._validate()
            callbacks.on_epoch_end(epoch, logs)
            rows.append({"epoch": epoch + 1, "seconds": round(time.monotonic() - begin, 1), **logs})
            if self.is_chief:
                self._write_epoch(rows)
            if _epochs_since_best(rows) >= patience:
                print(f"{name}: no better validation loss for {patience} epochs, stopping early.")
            elif len(rows) < epochs:
                self._say_time_left()
            _warn_of_collapse(name, rows, self.settings.codebook_size)
            self._save()
        callbacks.on_train_end()

    def _say_time_left(self):
        """Say how long this stage still takes, and all stages, by the steps of this process."""
        first, begin = self.timed_from
        of_pass = (time.monotonic() - begin) / max(1, self.step - first) * self.epoch_steps
        passes = self.stage.epochs - self.step / self.epoch_steps
        text = f"{self.stage.name}: about {of_pass * passes / 60:.0f} minutes left"
        if self.stage.later:
            text += f", about {of_pass * (passes + self.stage.later) / 60:.0f} for all stages"
        print(f"{text}.", flush=True)

    def _callbacks(self):
        callbacks = [keras.callbacks.ProgbarLogger()]
        if self.is_chief:
            logs = self.run.logs(self.stage.name)
            callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
        return keras.callbacks.CallbackList(
            callbacks,
            model=self.model,
            epochs=self.stage.epochs,
            steps=self.epoch_steps,
            verbose=1 if sys.stdout.isatty() else 2,  # 2: one line an epoch
        )

    def _write_epoch(self, rows):
        """Write the history, the model if it is the best so far, and pictures for TensorBoard."""
        name, run = self.stage.name, self.run
        write_history(run.history(name), rows)
        if not _epochs_since_best(rows):
            checkpoints.save_model(self.model, run.model(name))
        writer = tf.summary.create_file_writer(str(run.logs(name) / "validation"))
        with writer.as_default(step=len(rows) - 1):
            for title, images in self.task.pictures(self.model).items():
                tf.summary.image(title, images, max_outputs=len(images))
        writer.close()

    def _train(self, epoch, callbacks):
        """Take the steps of an epoch that are left, and return the last metrics."""
        skip = self.step % self.epoch_steps
        if not skip:
            self.model.reset_metrics()
        saved = time.monotonic()
        for batch in self._training_batches(epoch, skip):
            # An infinite number lets all workers save, and end, when one of them was asked to.
            seconds = math.inf if self.asked_to_end else time.monotonic() - saved
            logs, since_save = self.train_step(batch, seconds)
            self._check_finite("loss", logs["loss"])
            self.step += 1
            self.timed_from = self.timed_from or (self.step, time.monotonic())  # it was compiled
            if self.step == self.timed_from[0] + FIRST_STEPS:
                self._say_time_left()
            if self.step % self.epoch_steps and since_save >= 60 * self.save_minutes:
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
        settings = self.settings
        how = *self.task.training, settings.batch_size, settings.seed, epoch, skip
        return devices.batches(self.strategy, functools.partial(dataset.training_batches, *how))

    def _validation_batches(self):
        how = *self.task.validation, self.settings.batch_size
        return devices.batches(self.strategy, functools.partial(dataset.evaluation_batches, *how))

    def _save(self):
        try:
            checkpoints.save_state(self.model, self.state, self.is_chief)
        except FloatingPointError:
            raise self._not_finite("state of the model") from None
        # Negative, because a worker with another --run may be where steps are compared.
        if devices.wait_for_all(self.strategy, -len(self.asked_to_end)) < 0:
            self.asked_to_end.append(signal.SIGTERM)  # for workers that were not asked
            raise KeyboardInterrupt  # the signal comes again when nobody holds it

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


def _epochs_since_best(rows):
    """Number of epochs since the lowest validation loss of a history."""
    losses = [row["val_loss"] for row in rows]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _warn_of_collapse(stage, rows, codebook_size):
    used = [row["codes_used"] for row in rows[-2:] if "codes_used" in row]
    if len(used) == 2 and used[1] < min(used[0], codebook_size / 2):
        print(
            f"{stage}: WARNING: the codebook is collapsing, {used[0]:.0f} codes were used in the "
            f"epoch before and {used[1]:.0f} of {codebook_size} now. "
            "More --epochs or a smaller --batch-size help, because both give it more steps."
        )
    sys.stdout.flush()
