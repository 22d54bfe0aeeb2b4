"""SpikeGuard's bound on updates: how far a step may move a layer, and what becomes of one that moves it further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from spikeguard.components.guarded_trainer.guard_action import GuardAction
from spikeguard.components.guarded_trainer.guard_state import Counts, Level
from spikeguard.components.guarded_trainer.usual_level import LARGEST_CHANGE, MIN_HISTORY, UsualLevel

# Interventions that `events` can tell of.
LOG_LENGTH = 1024


class UpdateBound(UsualLevel):
    """The part of `SpikeGuard` that shortens updates; it works on the options and variables of the guard."""

    inner_optimizer: keras.optimizers.Optimizer
    backs_off: bool
    _log: Any

    def _is_measured(self, counts: Counts) -> tf.Tensor:
        """Whether this step's update is measured, which takes a copy of the weights: after the start, now and then."""
        return (counts.steps <= MIN_HISTORY) | tf.equal(counts.steps % self._period(counts), 0)

    def _shorten(self, variables: Sequence[Any], before: Sequence[tf.Tensor], signals: tf.Tensor) -> None:
        """Shortens the step to the bound where it exceeds it, and lowers the factor for the next.

        Args:
          variables: weights with dense gradients, updated.
          before: the same before the update.
          signals: of the step.
        """
        changes = [variable.value - old for variable, old in zip(variables, before, strict=True)]
        shares = [
            tf.norm(tf.cast(change, tf.float32)) / _initial_norm(change.shape)
            for change in changes
            if change.shape.rank >= 2
        ]
        if not shares:
            return
        largest = tf.reduce_max(tf.stack(shares))
        self._level.assign(tf.stack(Level(*tf.unstack(self._level.value))._replace(change=largest)))

        def shorten() -> None:
            kept = LARGEST_CHANGE / largest
            for variable, old, change in zip(variables, before, changes, strict=True):
                variable.assign(old + change * tf.cast(kept, change.dtype))
            for velocity in self._velocities():
                velocity.assign(velocity * tf.cast(kept, velocity.dtype))
            counts = Counts(*tf.unstack(self._counts.value))
            # A step that was clipped as well has its event already.
            is_noted = tf.cast(self.action.value > 0, tf.int32)
            action = self.action.value | int(GuardAction.LARGE_UPDATE)
            if self.backs_off:
                self.factor.assign(self.factor * 0.5)
                action |= int(GuardAction.BACK_OFF)
            self._note_action(
                counts._replace(steps=counts.steps - 1, actions=counts.actions - is_noted), action, signals
            )
            self._store(
                counts._replace(back_offs=counts.back_offs + int(self.backs_off), actions=counts.actions + 1 - is_noted)
            )

        tf.cond(largest > LARGEST_CHANGE, shorten, lambda: None)

    def _velocities(self) -> list[keras.Variable]:
        """Moments that are in the unit of the weights: unless shortened as well, they repeat the step that was too large."""
        inner = self.inner_optimizer
        if not isinstance(inner, keras.optimizers.SGD | keras.optimizers.RMSprop):
            return []
        velocities: Sequence[Any] = getattr(inner, "momentums", None) or getattr(inner, "_momentums", None) or []
        return [velocity for velocity in velocities if velocity is not None]

    def _note_action(self, counts: Counts, action: tf.Tensor, signals: tf.Tensor) -> None:
        self.action.assign(action)
        row = [counts.steps + 1, action, tf.sqrt(2.0 * signals[0]), signals[1], self.factor.value]
        # The row after the last is overwritten by the next action where this step saw none.
        self._log.value.scatter_nd_update(
            [[counts.actions % LOG_LENGTH]], [tf.stack([tf.cast(part, tf.float64) for part in row])]
        )


def _initial_norm(shape: tf.TensorShape) -> float:
    """Expected norm of a kernel that Glorot's rule has just initialized, convolutions taken for dense layers over a patch.

    The kernel's own norm would not do: a layer of zeros must be able to start.
    """
    outputs = shape[-1]
    inputs = math.prod(shape[:-1])
    return math.sqrt(2.0 * inputs * outputs / (inputs + outputs))
