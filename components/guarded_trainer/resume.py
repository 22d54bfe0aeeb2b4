"""What a training that was killed needs to go on as if nothing had happened."""

from __future__ import annotations

import pathlib
import shutil
import time
from typing import Any

import keras
import tensorflow as tf

from spikeguard.components.guarded_trainer.guard import guard_of, steps_done
from spikeguard.components.guarded_trainer.recorder import CurveRecorder
from spikeguard.components.training_curve import CURVE_FOLDER


class TrainingState:
    """Weights, optimizer, guard and curve of a training under way, in a folder that outlives the process.

    The batches need no state: their order depends on the step alone (`batches.training_batches`).
    """

    def __init__(self, folder: str, model: keras.Model, run_dir: str) -> None:
        """Prepares the state of a compiled and built model.

        Args:
          folder: for this training alone; made where missing.
          model: all of its variables and its optimizer's are kept.
          run_dir: the recorder's folder, whose curve is kept along.
        """
        self._folder = pathlib.Path(folder)
        self._curve = pathlib.Path(run_dir) / CURVE_FOLDER
        self._model = model
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        variables = [variable.value for variable in (*model.variables, *optimizer.variables)]
        self._copies: list[tf.Variable] = []
        self._restored: list[Any] = []
        guard = guard_of(optimizer)
        if guard is not None:
            guard.protect(model.non_trainable_variables)
            self._copies = guard.protected_copies
            variables += self._copies
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(variables=variables), str(self._folder / "weights"), max_to_keep=1
        )

    def restore(self) -> int:
        """Brings the model back to where the last `save` left it, and the curve into the run's folder.

        Returns:
          Steps done; 0 where nothing was saved.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return 0
        self._manager.checkpoint.restore(latest).assert_consumed()
        self._restored = [copy.numpy() for copy in self._copies]
        shutil.copytree(self._folder / CURVE_FOLDER, self._curve, dirs_exist_ok=True)
        return steps_done(self._model.optimizer)

    def reinstate_copies(self) -> None:
        """Once more brings back the guard's copies: the recorder, when a fit begins, has them taken anew."""
        for copy, value in zip(self._copies, self._restored, strict=False):
            copy.assign(value)
        self._restored = []

    def save(self) -> None:
        """Keeps the state after the last step; the recorder must have flushed."""
        kept = self._folder / CURVE_FOLDER
        kept.mkdir(parents=True, exist_ok=True)
        for block in self._curve.glob("*.parquet"):
            if not (kept / block.name).exists():
                shutil.copy2(block, kept / block.name)
        self._manager.save(checkpoint_number=steps_done(self._model.optimizer))

    def discard(self) -> None:
        """Removes the state of a training that is done."""
        shutil.rmtree(self._folder, ignore_errors=True)


class StateKeeper(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the state now and then; it comes after the recorder in the list of callbacks."""

    def __init__(self, state: TrainingState, recorder: CurveRecorder, every_seconds: float, block_steps: int) -> None:
        super().__init__()
        self._state, self._recorder = state, recorder
        self._every_seconds, self._block_steps = every_seconds, block_steps
        self._saved, self._steps, self._is_due = time.monotonic(), 0, False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._state.reinstate_copies()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1
        # Only where a block of the curve ends anyway: each flush makes one.
        if self._steps % self._block_steps == 0:
            self._is_due = time.monotonic() - self._saved >= self._every_seconds
        # After an epoch's last step comes its validation, which a training that goes on from here would not repeat.
        if self._is_due and batch + 1 < self.params["steps"]:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._is_due:
            self._save()

    def _save(self) -> None:
        self._recorder.flush()
        self._state.save()
        self._saved, self._is_due = time.monotonic(), False
