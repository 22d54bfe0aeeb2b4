"""What SpikeGuard does at the steps that are not quiet: learning a level, intervening, keeping and restoring a state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from spikeguard.components.guarded_trainer.guard_action import GuardAction
from spikeguard.components.guarded_trainer.guard_state import Counts, counted
from spikeguard.components.guarded_trainer.kept_state import KeptState
from spikeguard.components.guarded_trainer.update_bound import UpdateBound
from spikeguard.components.guarded_trainer.usual_level import LEAST_SQUARES

# Interventions are "repeated" when they outnumber the healthy steps between them by this many.
_REPEATED = 8
# Unhealthy steps in a row after which a raised level is the new normal; more than `patience`, which is to act before.
_LEVEL_SHIFT = 32
# Healthy steps in a row after a rollback before the raised losses count as cured.
_CURED = 8


class Interventions(UpdateBound):
    """The part of `SpikeGuard` that runs rarely; it works on the options and variables of the guard."""

    skips: bool
    clips: bool
    patience: int
    max_rollbacks: int
    _snapshot: KeptState | None

    def _busy_step(
        self, signals: tf.Tensor, since: tf.Tensor, grads: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> None:
        """A step at which more may have to be done than to apply the gradients.

        Args:
          signals: of the step.
          since: quiet steps before it.
          grads: of the variables; None where there is none.
          variables: what the gradients belong to.
        """
        scale = self._judge(signals, since)
        is_updated = scale > 0.0
        dense = [
            one
            for g, one in zip(grads, variables, strict=True)
            if g is not None and not isinstance(g, tf.IndexedSlices)
        ]
        # Once in the graph for all that may follow, as each copy of the update makes it larger. Times 1 is the same bit for bit.
        before = [tf.identity(variable.value) for variable in dense if self.bounds_updates]
        scaled = [None if g is None else tf.math.scalar_mul(tf.cast(scale, g.dtype), g) for g in grads]
        tf.cond(is_updated, lambda: self.inner_optimizer.apply(scaled, variables), lambda: None)
        if self.bounds_updates:
            is_measured = is_updated & self._is_measured(Counts(*tf.unstack(self._counts.value)))
            tf.cond(is_measured, lambda: self._shorten(dense, before, signals), lambda: None)
        self._set_gate()

    def _judge(self, signals: tf.Tensor, since: tf.Tensor) -> tf.Tensor:
        """Catches up with the quiet steps, and learns from this one or intervenes. Returns the scale of its gradients."""
        counts = Counts(*tf.unstack(counted(self._counts.value.read_value(), since)))
        is_healthy = tf.reduce_all(tf.math.is_finite(signals) & (signals <= self._limits.value))
        # A step without any gradient says nothing about the norm's level: the next one overwrites it.
        is_counted = is_healthy & (signals[0] > LEAST_SQUARES)
        # The row after the last that stays comes first.
        self._history.assign(tf.roll(self._history.value, -(since + tf.cast(is_counted, tf.int32)), 0))
        return tf.cond(
            is_healthy,
            lambda: self._note_healthy(signals, counts, is_counted),
            lambda: self._intervene(signals, counts),
        )

    def _note_healthy(self, signals: tf.Tensor, before: Counts, is_counted: tf.Tensor) -> tf.Tensor:
        """Learns from a healthy step. Returns the scale of its gradients, 1."""
        counts = Counts(*tf.unstack(counted(tf.stack(before), tf.constant(1))))
        counts = counts._replace(healthy=before.healthy + tf.cast(is_counted, tf.int32))
        self._store(counts)
        self.action.assign(0)
        # A step that is here only because the one before it left its action standing has nothing due.
        is_looked_at = ~(self._is_usual(signals) & (before.quiet > 0))
        is_new = is_counted & self._is_refresh_due(counts)
        tf.cond(is_new, lambda: self._refresh(counts.healthy, counts.back_offs), lambda: None)
        if self.rolls_back or self._protected is not None:
            is_due = is_looked_at & self._is_keeping_due(counts)
            tf.cond(is_due, lambda: self._keep_state(counts), lambda: None)
        return tf.constant(1.0)

    def _intervene(self, signals: tf.Tensor, counts: Counts) -> tf.Tensor:
        """Decides what to do with an unhealthy step. Returns the scale of its gradients; 0 for none."""
        limits = self._limits.value.read_value()
        is_finite, is_high = tf.math.is_finite(signals), signals > limits
        raised = tf.where(~tf.reduce_all(is_finite) | is_high[1], counts.raised + 1, 0)
        # Without an update since the last return the weights are those of the kept state, and the fault is in the data.
        is_diverged = (raised >= self.patience) & (counts.kept > 0) & (counts.moved > 0) & self.rolls_back
        rolls_back = is_diverged & (counts.rollbacks < self.max_rollbacks)
        skips = ~tf.reduce_all(is_finite) & self.skips | rolls_back
        clips = is_high[0] & is_finite[0] & ~skips & self.clips
        # On weights that the step before left alone, one more batch that is not finite says nothing of the rate.
        was_skipped = (self.action.value & int(GuardAction.SKIP)) > 0
        credit = counts.credit + tf.cast(skips & ~was_skipped | clips, tf.int32)
        backs_off = (rolls_back | (credit >= _REPEATED)) & self.backs_off
        self.factor.assign(tf.where(backs_off, 0.5, 1.0) * self.factor)
        for state, is_due in ((self._snapshot, rolls_back), (self._protected, skips)):
            if state is not None:
                tf.cond(is_due, state.restore, lambda: None)

        # Losses that stay high on weights that were good are of the data: a new level. So is one that lasts.
        unhealthy = counts.unhealthy + 1
        is_lasting = (unhealthy >= max(_LEVEL_SHIFT, self.patience + 1)) & tf.reduce_all(is_finite)
        is_shift = is_lasting | rolls_back & ((counts.cured < _CURED) | tf.math.is_inf(limits[1]))
        tf.cond(is_shift, self._forget, lambda: None)
        actions = {
            GuardAction.SKIP: skips,
            GuardAction.CLIP: clips,
            GuardAction.BACK_OFF: backs_off,
            GuardAction.ROLLBACK: rolls_back,
            GuardAction.GAVE_UP: is_diverged & ~rolls_back & tf.equal(raised, self.patience),
        }
        reasons = {
            GuardAction.NON_FINITE_GRADIENT: ~is_finite[0],
            GuardAction.NON_FINITE_LOSS: ~is_finite[1],
            GuardAction.HIGH_GRADIENT_NORM: is_high[0] & is_finite[0],
            GuardAction.HIGH_LOSS: is_high[1] & is_finite[1],
        }
        action = _bits(actions)
        action = tf.where(action > 0, action + _bits(reasons), 0)
        self._note_action(counts, action, signals)
        self._store(
            counts._replace(
                steps=counts.steps + 1,
                healthy=tf.where(is_shift, 0, counts.healthy),
                calm=0,
                raised=tf.where(rolls_back, 0, raised),
                unhealthy=tf.where(is_shift, 0, unhealthy),
                credit=tf.where(backs_off, 0, credit),
                age=counts.age + 1,
                cured=tf.where(rolls_back, 0, counts.cured),
                moved=tf.where(rolls_back, 0, counts.moved + tf.cast(~skips, tf.int32)),
                rollbacks=counts.rollbacks + tf.cast(rolls_back, tf.int32),
                back_offs=counts.back_offs + tf.cast(backs_off, tf.int32),
                actions=counts.actions + tf.cast(action > 0, tf.int32),
            )
        )
        return tf.where(skips, 0.0, tf.where(clips, tf.sqrt(limits[0] / signals[0]), 1.0))

    def _keep_state(self, counts: Counts) -> None:
        """Keeps weights, moments and statistics, unless the level of the loss says that they are not what they were."""

        def keep() -> None:
            for state in (self._snapshot, self._protected):
                if state is not None:
                    state.keep()
            self._store(counts._replace(age=1, kept=counts.kept + 1))

        tf.cond(self._has_risen(0.5) & (counts.kept > 0), lambda: None, keep)


def _bits(flags: dict[GuardAction, tf.Tensor]) -> tf.Tensor:
    return tf.add_n([int(action) * tf.cast(flag, tf.int32) for action, flag in flags.items()])
