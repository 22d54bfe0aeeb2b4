"""Records the true loss of every optimizer step of a Keras `fit`, inside the graph.

Keras logs the running mean of the epoch, in which a spike all but disappears. The recorder writes each step's own loss
into a ring variable from within the train step, so it needs no second pass, sees every step under
`steps_per_execution` > 1, and moves data to the host once per block.
"""

from __future__ import annotations

import atexit
import logging
import os
import pathlib
import time
import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.guard import guard_of, steps_done
from spikeguard.components.guarded_trainer.recording import Ring, StepRecording
from spikeguard.components.guarded_trainer.replay import replay_kept
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget, ReplayKeeper
from spikeguard.components.guarded_trainer.scalars import ScalarWriter
from spikeguard.components.recorded_curve import STEP_SCHEMA, VALIDATION_SCHEMA, cut_curve, write_block
from spikeguard.components.training_curve import CURVE_FOLDER

logger = logging.getLogger(__name__)

_SHOWN = ("total_loss", "learning_rate", "gradient_norm", "update_ratio", "guard_factor", "guard_action")
_TRAIN, _VALIDATION = "train", "validation"


class CurveRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that keeps the true training curve of any compiled Keras model.

    It works with functional, sequential and subclassed models and any optimizer, with or without `jit_compile`, for any
    `steps_per_execution`, with sample and class weights, and across several calls of `fit` on the same recorder. Read
    the curve back with `spikeguard.read_curve(log_dir)`; TensorBoard shows the scalars of the same folder.

    Where inputs are a dict that holds `id_key`, those ids name the worst examples of each step; the model does not see
    them in training, and validation data must not hold them. A `SpikeGuard` optimizer is recorded with its factor and actions, and told of the model's non-trainable
    variables.

    Example:
      ```python
      model.fit(dataset, epochs=5, callbacks=[spikeguard.CurveRecorder("logs/run-1")])
      curve = spikeguard.read_curve("logs/run-1")
      ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        block_steps: int = 256,
        has_tensorboard: bool = True,
        worst_examples: int = 5,
        id_key: str = "example_id",
        resumes: bool = False,
        replay: bool | ReplayBudget = False,
    ) -> None:
        """Prepares the recorder.

        Args:
          log_dir: folder of the run; made where missing. It must not hold a curve already, unless `resumes`.
          block_steps: steps per block on disk, the most that a killed run loses; >= 1.
          has_tensorboard: whether TensorBoard scalars are written as well.
          worst_examples: examples with the largest loss to keep of each step; >= 0.
          id_key: key under which dict inputs carry an integer id per example.
          resumes: whether to continue the curve in `log_dir`, from the step that the restored optimizer has reached.
            Later steps in the folder are dropped: they are run again.
          replay: whether the state and the batches of high losses are kept, and replayed after the training with one thing
            changed at a time, to verify what caused them; a budget, or True for `ReplayBudget()`. What the training does
            stays the same.

        Raises:
          InvalidArgumentError: `log_dir` cannot be written or holds a curve, or a number is out of range.
          InvalidDataError: the curve to continue cannot be read.
        """
        super().__init__()
        if block_steps < 1:
            raise InvalidArgumentError("block_steps", block_steps, "be at least 1")
        if worst_examples < 0:
            raise InvalidArgumentError("worst_examples", worst_examples, "be at least 0")
        self._log_dir = pathlib.Path(log_dir)
        self._folder = self._log_dir / CURVE_FOLDER
        _check_folder(self._folder, resumes)
        self._block_steps, self._worst, self._id_key = block_steps, worst_examples, id_key
        self._scalars = ScalarWriter(self._log_dir) if has_tensorboard else None
        self._is_resumed = resumes and any(self._folder.glob("steps-*.parquet"))
        self._pending = 0  # Upper bound of the steps that are in the ring and not on disk.
        self._flushed = 0  # Steps on disk.
        self._epochs: list[tuple[int, int, int]] = []  # (steps recorded when the epoch began, epoch, position there)
        self._validations: list[tuple[int, int, float]] = []  # (step, epoch, loss), not on disk
        budget = replay if isinstance(replay, ReplayBudget) else ReplayBudget()
        self._replay_budget = budget
        self._keeper = ReplayKeeper(self._log_dir, budget) if replay else None
        self._until_look, self._looked, self._began = 0, 0, 0.0
        self._capacity = 0
        self._ring: Ring | None = None
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="recorded_steps")
        self._recording: StepRecording | None = None
        # The train function with the recording in it, and what Keras shall find in its place until the next fit.
        self._recorded_function: Any = None
        self._placeholder: Any = None
        # An exception out of `fit` reaches no callback.
        atexit.register(_flush_if_alive, weakref.ref(self))

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        earlier = getattr(model.train_step, "__self__", None)
        if isinstance(earlier, StepRecording):  # Of a fit that an exception ended.
            earlier.remove()
            model.train_function = None
            self.flush()
        kept = self._block_steps if self._keeper is None else max(self._block_steps, self._replay_budget.state_steps)
        self._capacity = kept + 2 * max(1, int(model.steps_per_execution))
        guard = guard_of(model.optimizer)
        if guard is not None:
            guard.protect(model.non_trainable_variables)
        # Keras would go on with a train step that it traced before; our own, if nothing was compiled since, still fits.
        if self._recording is not None and model.train_function is self._placeholder:
            model.train_function = self._recorded_function
        else:
            model.train_function = None
            rows = self._keeper.rows if self._keeper is not None else None
            self._recording = StepRecording(model, self._step, self._ring_of, self._worst, self._id_key, rows)
        self._recording.install()

    def restart(self, log_dir: str | os.PathLike[str]) -> None:
        """Records the next `fit` as a run of its own: many trainings of one compiled model share one trace.

        Weights and optimizer are the caller's to bring back to where the run shall begin.

        Args:
          log_dir: folder of the run, without a curve.

        Raises:
          InvalidArgumentError: `log_dir` cannot be written or holds a curve.
        """
        self.flush()
        self._log_dir = pathlib.Path(log_dir)
        self._folder = self._log_dir / CURVE_FOLDER
        _check_folder(self._folder, resumes=False)
        self._scalars = None if self._scalars is None else ScalarWriter(self._log_dir)
        if self._keeper is not None:
            self._keeper = ReplayKeeper(self._log_dir, self._replay_budget, self._keeper.rows)
        self._is_resumed, self._pending, self._flushed = False, 0, 0
        self._epochs, self._validations = [], []
        self._until_look, self._looked = 0, 0
        self._step.assign(0)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._began = time.monotonic()

    def _ring_of(self, worst: int, classes: int) -> Ring:
        """The ring of this width: of another width, or too short, it is replaced. Nothing is pending when a trace begins."""
        ring = self._ring
        if ring is None or (ring.worst, ring.classes) != (worst, classes) or ring.floats.shape[0] < self._capacity:
            ring = self._ring = Ring.of_width(self._capacity, worst, classes)
        return ring

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        position = self._resume(epoch) if self._is_resumed else 0
        self._epochs.append((self._recorded(), epoch, position))
        if self._keeper is not None and self._until_look == 0:
            self._looked = self._recorded()
            self._keeper.begin(self.model, self._looked)
            self._until_look = self._replay_budget.state_steps

    def _resume(self, epoch: int) -> int:
        """Goes on where the training is: by the first epoch, whoever restores it has done so. Returns the position there."""
        self._is_resumed = False
        self._flushed = steps_done(self.model.optimizer)
        self._step.assign(self._flushed)
        curve = cut_curve(self._folder, self._flushed)
        if not (self._log_dir / _TRAIN).exists():
            self._write_scalars(curve.step, {name: getattr(curve, name) for name in ("loss", *_SHOWN)})
        return int(curve.position[-1]) + 1 if len(curve) and curve.epoch[-1] == epoch else 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = max(1, int(self.model.steps_per_execution))
        self._pending += steps
        if self._keeper is not None:
            self._until_look -= steps
            if self._until_look <= 0:
                self._look()
        if self._pending >= self._block_steps:
            self.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("val_loss")
        if loss is not None:
            self._validations.append((self._recorded(), epoch, float(loss)))

    def _look(self) -> None:
        """Shows the keeper of replays the steps since its last look."""
        done = self._recorded()
        if self._keeper is not None and self._ring is not None and done > self._looked:
            columns = self._ring.columns(np.arange(self._looked, done))
            self._keeper.on_steps(done, columns)
            self._until_look = self._keeper.interval
        self._looked = done

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.flush()
        if self._recording is not None:
            self._recording.remove()
        if self._keeper is not None and self._recording is not None:
            self._look()
            classes = self._ring.classes if self._ring is not None else 0
            seconds = time.monotonic() - self._began
            replay_kept(self.model, self._keeper, self._recording, self._replay_budget, seconds, classes)
            self._until_look = 0
        self._recorded_function = self.model.train_function
        self.model.train_function = self._placeholder = _Retrace(self.model)
        if self._scalars is not None:
            self._scalars.flush()

    def _recorded(self) -> int:
        """Steps in the ring or on disk."""
        return int(self._step.numpy())

    def flush(self) -> None:
        """Brings to disk what was recorded so far; `fit` does so by itself, unless an exception ends it."""
        self._pending = 0
        recorded = self._recorded()
        if recorded > self._flushed and self._ring is not None:
            self._flush_steps(self._ring, np.arange(self._flushed, recorded))
            self._flushed = recorded
        if self._validations:
            step, epoch, loss = (np.array(column) for column in zip(*self._validations, strict=True))
            write_block(self._folder, {"step": step, "epoch": epoch, "loss": loss}, VALIDATION_SCHEMA)
            if self._scalars is not None:
                self._scalars.write(_VALIDATION, step, {"epoch_loss": loss})
            self._validations.clear()

    def _flush_steps(self, ring: Ring, steps: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        columns = ring.columns(steps)
        starts, epochs, offsets = (np.array(column) for column in zip(*self._epochs, strict=True))
        part = np.searchsorted(starts, steps, side="right") - 1
        columns |= {"step": steps + 1, "epoch": epochs[part], "position": steps - starts[part] + offsets[part]}
        write_block(self._folder, columns, STEP_SCHEMA)
        self._epochs = self._epochs[-1:]
        self._write_scalars(steps + 1, columns)
        step, loss = int(steps[-1]) + 1, float(columns["loss"][-1])
        logger.info("step %d loss %.4g", step, loss, extra={"spikeguard_step": step, "spikeguard_loss": loss})

    def _write_scalars(self, steps: Any, columns: Mapping[str, Any]) -> None:
        if self._scalars is not None:
            shown = {"batch_loss": columns["loss"], **{name: columns[name] for name in _SHOWN}}
            self._scalars.write(_TRAIN, steps, shown)


class _Retrace:
    """Stands for a train function that Keras traces when it needs it: one without a recording in it."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __call__(self, iterator: Any) -> Any:
        self._model.make_train_function(force=True)
        return self._model.train_function(iterator)


def _check_folder(folder: pathlib.Path, resumes: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resumes and any(folder.glob("*.parquet")):
            raise InvalidArgumentError(
                "log_dir",
                str(folder.parent),
                "not hold a curve already",
                "Give each run its own folder, or resumes=True to continue it.",
            )
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise InvalidArgumentError(
            "log_dir", str(folder.parent), f"be a folder that can be written ({error.strerror})"
        ) from error


def _flush_if_alive(reference: weakref.ref[CurveRecorder]) -> None:
    recorder = reference()
    if recorder is not None:
        recorder.flush()
