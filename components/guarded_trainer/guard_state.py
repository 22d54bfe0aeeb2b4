"""What the guard keeps between steps, and what it tells of its actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from spikeguard.components.guarded_trainer.guard_action import GuardAction

# A rise of the level below this share of it is none, however quiet the losses were.
_LEAST_RISE = 0.1


class GuardEvent(NamedTuple):
    """One intervention."""

    step: int
    """Number of the step, from 1, skipped ones included."""
    action: GuardAction
    gradient_norm: float
    """Global norm before clipping."""
    loss: float
    """The norm again where the guard was not shown the loss."""
    factor: float
    """Factor on the learning rate after the action."""


class Counts(NamedTuple):
    """The guard's integers, kept in one variable: each variable more is an operation per step."""

    steps: Any
    """Steps seen."""
    healthy: Any
    """Steps in the history."""
    calm: Any
    """Healthy steps in a row."""
    raised: Any
    """Steps in a row with a raised or non-finite loss."""
    unhealthy: Any
    """Unhealthy steps in a row."""
    credit: Any
    """Interventions beyond the healthy steps between them."""
    age: Any
    """Steps since a state was kept."""
    kept: Any
    """States kept."""
    cured: Any
    """Healthy steps since the last rollback."""
    moved: Any
    """Updates since the last rollback."""
    rollbacks: Any
    back_offs: Any
    actions: Any
    """Interventions."""
    quiet: Any
    """Steps from here on at which nothing is due, should they be healthy."""


class Level(NamedTuple):
    """Of the loss and of the updates, in one variable."""

    best: Any
    """Lowest median that the history has had."""
    spread: Any
    """From the median to the 90th percentile at that time."""
    median: Any
    """Of the history, when it was last refreshed."""
    change: Any
    """Largest share of its freshly initialized norm by which a kernel changed, when updates were last measured."""

    def has_risen(self, share: float) -> tf.Tensor:
        """Whether the median lies above the best by more than this share of what noise explains."""
        return self.median > self.best + share * tf.maximum(self.spread, _LEAST_RISE * tf.abs(self.best))


# What a healthy step with a gradient makes of the counters: all x kept + added, not below zero.
_KEPT = Counts(*([1] * len(Counts._fields)))._replace(raised=0, unhealthy=0)
_ADDED = Counts(*([0] * len(Counts._fields)))._replace(
    steps=1, healthy=1, calm=1, credit=-1, cured=1, moved=1, age=1, quiet=-1
)


def counted(counts: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """The counters after so many healthy steps with a gradient.

    Args:
      counts: int32 tensor of the fields of `Counts`.
      steps: int32 scalar >= 0.

    >>> after = Counts(*counted(tf.stack(Counts(*[5] * 14)), tf.constant(7)))
    >>> int(after.steps), int(after.credit), int(after.raised), int(after.kept)
    (12, 0, 0, 5)
    """
    return tf.maximum(tf.where(steps > 0, counts * _KEPT, counts) + steps * _ADDED, 0)
