"""What SpikeGuard does at the steps that are not quiet: learning a level, intervening, keeping and restoring a state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from spikeguard.components.guarded_trainer.guard_action import GuardAction
from spikeguard.components.guarded_trainer.guard_state import Counts, Level

# Steps of history that the levels are taken from, and the fewest that say something about a tail.
WINDOW, _MIN_HISTORY = 64, 16
# Updates are measured at each step that is a multiple of the first, limits refreshed at each such healthy step, and states
# kept at either. The steps between have nothing to do but to be counted, which is what keeps the guard cheap. A training
# that has been healthy for a whole window, at its full rate and with updates far below the bound, is looked at less often.
_REFRESH_STEPS, _CALM_REFRESH_STEPS = 8, 32
# Until then a state may be kept at any step: a training moves fastest there.
_START_STEPS = 2 * WINDOW
# A limit lies this many times as far above the median as the 90th percentile does. For normal noise that is 6.4 standard
# deviations, for exponential noise a chance of 2 in 10,000 per step.
_TAIL = 5.0
# While the history is short: the norm's limit is this many times the largest value seen, the loss's this many times the
# median, or twice as far above it as the largest lies. Fewer losses than eight limit nothing: were the first low by chance, a
# limit from them would keep all that follow out of the history.
_START_NORM, _START_LOSS, _START_TAIL, _FEWEST_LOSSES = 4.0, 4.0, 2.0, 8
# Rises below these are not worth an intervention however quiet the history was.
_LEAST_LOSS_RISE, _LEAST_NORM_RATIO = 0.2, 2.0
# Largest change of a kernel in one step, as a share of its norm when freshly initialized. Healthy trainings move by about
# a thousandth; networks of rectified units die, without a spike that would tell, when steps of this size follow each other.
_LARGEST_CHANGE = 0.125
# Share of it below which the next multiple of `_CALM_REFRESH_STEPS` is early enough to measure again.
_SMALL_SHARE = 0.25
# Interventions are "repeated" when they outnumber the healthy steps between them by this many.
_REPEATED = 8
# Unhealthy steps in a row after which a raised level is the new normal; more than `patience`, which is to act before.
_LEVEL_SHIFT = 32
# Times that recovery halves its speed; beyond, a factor would never come back from a bad hour.
_SLOWEST = 5
# Healthy steps in a row before a state is kept as good, and after a rollback before the raised losses count as cured.
_CALM, _CURED = 5, 8
# Half the square of a norm below which there is no gradient to speak of, 1e-15.
LEAST_SQUARES = 0.5e-30
# What a healthy step makes of the counters: all x kept + added, not below zero. Where it had no gradient, `healthy` stays.
_NONE = Counts(*([0] * len(Counts._fields)))
_KEPT = Counts(*([1] * len(Counts._fields)))._replace(raised=0, unhealthy=0)
_ADDED = _NONE._replace(steps=1, healthy=1, calm=1, credit=-1, cured=1, moved=1, age=1, quiet=-1)
_UNCOUNTED = _NONE._replace(healthy=1)
# Interventions that `events` can tell of.
LOG_LENGTH = 1024


class Interventions:
    """The part of `SpikeGuard` that runs rarely; it works on the options and variables of the guard.

    `signals` are half the squared global gradient norm, which is fewer operations than the norm, and the loss; history and
    limits are in the same units.
    """

    inner_optimizer: keras.optimizers.Optimizer
    skips: bool
    clips: bool
    backs_off: bool
    rolls_back: bool
    bounds_updates: bool
    patience: int
    recovery_steps: int
    snapshot_steps: int
    max_rollbacks: int
    factor: Any
    action: Any
    _counts: Any
    _limits: Any
    _level: Any
    _history: Any
    _log: Any
    _has_loss: bool
    _snapshot: list[tuple[Any, Any]]
    _protected: list[tuple[Any, tf.Variable]]

    def _busy_step(self, signals: tf.Tensor, grads: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        """A step at which more may have to be done than to apply the gradients."""
        is_healthy = tf.reduce_all(tf.math.is_finite(signals) & (signals <= self._limits.value))
        scale = tf.cond(is_healthy, lambda: self._note_healthy(signals), lambda: self._intervene(signals))
        tf.cond(scale > 0.0, lambda: self._update(grads, variables, scale, signals), lambda: None)
        counts = Counts(*tf.unstack(self._counts.value))
        is_settled = (counts.steps >= _START_STEPS) & (counts.healthy >= _MIN_HISTORY)
        period = self._period(counts)
        until_due = period - 1 - tf.maximum(counts.steps % period, counts.healthy % period)
        self._store(counts._replace(quiet=tf.where(is_settled, until_due, 0)))

    def _period(self, counts: Counts) -> tf.Tensor:
        """Steps from one look at the training to the next. It only grows from one quiet step to the next, to a multiple."""
        is_calm = (counts.calm >= WINDOW) & (self.factor.value >= 1.0)
        if self.bounds_updates:
            is_calm &= Level(*tf.unstack(self._level.value)).change < _SMALL_SHARE * _LARGEST_CHANGE
        return tf.where(is_calm, _CALM_REFRESH_STEPS, _REFRESH_STEPS)

    def _learn(self, signals: tf.Tensor, before: Counts, after: tf.Tensor) -> None:
        """Enters a healthy step into counters and history; all that a quiet step has to do."""
        # All counters at once: an operation takes longer than what it computes here, and every step pays for it.
        self._counts.assign(after)
        self._history.value.scatter_update(tf.IndexedSlices(signals, before.healthy % WINDOW))
        self.action.assign(0)

    def _note_healthy(self, signals: tf.Tensor) -> tf.Tensor:
        """Learns from a healthy step. Returns the scale of its gradients, 1."""
        # A step without any gradient says nothing about the norm's level: the next one overwrites it.
        is_counted = signals[0] > LEAST_SQUARES
        before = self._counts.value.read_value()
        after = counted(before) - tf.cast(~is_counted, tf.int32) * _UNCOUNTED
        self._learn(signals, Counts(*tf.unstack(before)), after)
        counts = Counts(*tf.unstack(after))
        is_new = is_counted & ((counts.healthy < _MIN_HISTORY) | tf.equal(counts.healthy % self._period(counts), 0))
        tf.cond(is_new, lambda: self._refresh(counts.healthy, counts.back_offs), lambda: None)
        if self.rolls_back or self._protected:
            is_due = (counts.age > self.snapshot_steps) & (counts.calm > _CALM) | tf.equal(counts.kept, 0)
            tf.cond(is_due, lambda: self._keep_state(counts), lambda: None)
        return tf.constant(1.0)

    def _intervene(self, signals: tf.Tensor) -> tf.Tensor:
        """Decides what to do with an unhealthy step. Returns the scale of its gradients; 0 for none."""
        counts, limits = Counts(*tf.unstack(self._counts.value)), self._limits.value.read_value()
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
        tf.cond(rolls_back, self._restore_state, lambda: None)
        tf.cond(skips, self._restore_protected, lambda: None)

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

    def _update(
        self,
        grads: Sequence[Any],
        variables: Sequence[keras.Variable],
        scale: tf.Tensor,
        signals: tf.Tensor,
    ) -> None:
        # Times 1 is the same bit for bit, and cheaper than a conditional around each gradient.
        whole = [None if g is None else tf.math.scalar_mul(tf.cast(scale, g.dtype), g) for g in grads]
        if not self.bounds_updates:
            self.inner_optimizer.apply(whole, variables)
            return
        # Measuring an update takes a copy of the weights, so after the start it is done now and then.
        counts = Counts(*tf.unstack(self._counts.value))
        tf.cond(
            (counts.steps <= _MIN_HISTORY) | tf.equal(counts.steps % self._period(counts), 0),
            lambda: self._bounded_update(whole, variables, signals),
            lambda: self.inner_optimizer.apply(whole, variables),
        )

    def _bounded_update(self, grads: Sequence[Any], variables: Sequence[keras.Variable], signals: tf.Tensor) -> None:
        """Applies the gradients, shortens the step to the bound where it exceeds it, and lowers the factor for the next."""
        dense = [
            v for g, v in zip(grads, variables, strict=True) if g is not None and not isinstance(g, tf.IndexedSlices)
        ]
        before = [tf.identity(variable.value) for variable in dense]
        self.inner_optimizer.apply(grads, variables)
        changes = [variable.value - old for variable, old in zip(dense, before, strict=True)]
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
            kept = _LARGEST_CHANGE / largest
            for variable, old, change in zip(dense, before, changes, strict=True):
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

        tf.cond(largest > _LARGEST_CHANGE, shorten, lambda: None)

    def _velocities(self) -> list[keras.Variable]:
        """Moments that are in the unit of the weights: unless shortened as well, they repeat the step that was too large."""
        inner = self.inner_optimizer
        if not isinstance(inner, keras.optimizers.SGD | keras.optimizers.RMSprop):
            return []
        velocities: Sequence[Any] = getattr(inner, "momentums", None) or getattr(inner, "_momentums", None) or []
        return [velocity for velocity in velocities if velocity is not None]

    def _has_risen(self, share: float) -> tf.Tensor:
        """Norms, other than losses, rise in healthy trainings, too."""
        level = Level(*tf.unstack(self._level.value))
        return self._has_loss & level.has_risen(share)

    def _refresh(self, healthy: tf.Tensor, back_offs: tf.Tensor) -> None:
        """Takes limits and level from the history's quantiles, of norms on a logarithmic scale; lets the factor recover."""
        known = tf.minimum(healthy, WINDOW)
        ranked = tf.sort(self._history.value, axis=0)  # What is not known yet is infinite and ranks last.
        ranked = tf.stack([0.5 * tf.math.log(2.0 * ranked[:, 0]), ranked[:, 1]], axis=1)
        median, upper, largest = (
            tf.gather(ranked, tf.cast(tf.cast(known - 1, tf.float32) * share, tf.int32), axis=0)
            for share in (0.5, 0.9, 1.0)
        )
        least = tf.stack([tf.math.log(_LEAST_NORM_RATIO), _LEAST_LOSS_RISE * tf.abs(median[1])])
        settled = median + tf.maximum(_TAIL * (upper - median), least)
        rise = tf.maximum((_START_LOSS - 1.0) * tf.abs(median[1]), _START_TAIL * (largest[1] - median[1]))
        first_loss = tf.where(known < _FEWEST_LOSSES, float("inf"), median[1] + rise)
        first = tf.stack([largest[0] + tf.math.log(_START_NORM), first_loss])
        limits = tf.where(known < _MIN_HISTORY, first, settled)
        if not self._has_loss:
            limits = tf.stack([limits[0], tf.exp(limits[0])])
        limits = tf.stack([0.5 * tf.exp(2.0 * limits[0]), limits[1]])

        level = Level(*tf.unstack(self._level.value))._replace(median=median[1])
        is_best = (known >= WINDOW) & (level.median < level.best)
        best, spread = (
            tf.where(is_best, level.median, level.best),
            tf.where(is_best, upper[1] - median[1], level.spread),
        )
        level = level._replace(best=best, spread=spread)
        self._level.assign(tf.stack(level))
        if self.rolls_back:
            # No single loss was high, but their level is: from here on every step counts as raised.
            limits = tf.where([False, self._has_risen(1.0)], float("-inf"), limits)
        self._limits.assign(limits)
        # A rate that failed before is approached ever more slowly, or it would fail again every so many steps.
        doublings = _REFRESH_STEPS / (self.recovery_steps * _exp2(tf.cast(tf.minimum(back_offs, _SLOWEST), tf.float32)))
        grown = tf.minimum(1.0, self.factor * _exp2(doublings))
        self.factor.assign(tf.where(tf.equal(healthy % _REFRESH_STEPS, 0), grown, self.factor))

    def _forget(self) -> None:
        self._history.assign(tf.fill(self._history.shape, float("inf")))
        self._limits.assign(tf.fill(self._limits.shape, float("inf")))
        self._level.assign(tf.fill(self._level.shape, float("inf")))

    def _keep_state(self, counts: Counts) -> None:
        """Keeps weights, moments and statistics, unless the level of the loss says that they are not what they were."""

        def keep() -> None:
            for variable, kept in self._snapshot:
                kept.assign(variable)
            for variable, copy in self._protected:
                copy.assign(variable.value)
            self._store(counts._replace(age=1, kept=counts.kept + 1))

        tf.cond(self._has_risen(0.5) & (counts.kept > 0), lambda: None, keep)

    def _restore_state(self) -> None:
        for variable, kept in self._snapshot:
            variable.assign(kept)

    def _restore_protected(self) -> None:
        for variable, copy in self._protected:
            variable.assign(copy)

    def _note_action(self, counts: Counts, action: tf.Tensor, signals: tf.Tensor) -> None:
        self.action.assign(action)
        row = [counts.steps + 1, action, tf.sqrt(2.0 * signals[0]), signals[1], self.factor.value]
        # The row after the last is overwritten by the next action where this step saw none.
        self._log.value.scatter_nd_update(
            [[counts.actions % LOG_LENGTH]], [tf.stack([tf.cast(part, tf.float64) for part in row])]
        )

    def _store(self, counts: Counts) -> None:
        self._counts.assign(tf.stack(counts))


def counted(counts: tf.Tensor) -> tf.Tensor:
    """The counters after a healthy step with a gradient."""
    return tf.maximum(counts * _KEPT + _ADDED, 0)


def _initial_norm(shape: tf.TensorShape) -> float:
    """Expected norm of a kernel that Glorot's rule has just initialized, convolutions taken for dense layers over a patch.

    The kernel's own norm would not do: a layer of zeros must be able to start.
    """
    outputs = shape[-1]
    inputs = math.prod(shape[:-1])
    return math.sqrt(2.0 * inputs * outputs / (inputs + outputs))


def _exp2(power: tf.Tensor) -> tf.Tensor:
    return tf.pow(2.0, power)


def _bits(flags: dict[GuardAction, tf.Tensor]) -> tf.Tensor:
    return tf.add_n([int(action) * tf.cast(flag, tf.int32) for action, flag in flags.items()])
