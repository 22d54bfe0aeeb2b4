"""What SpikeGuard takes for usual: its history of healthy steps, the limits drawn from it, and when it looks next."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from spikeguard.components.guarded_trainer.guard_state import Counts, Level
from spikeguard.components.guarded_trainer.kept_state import KeptState

# Steps of history that the levels are taken from, and the fewest that say something about a tail.
WINDOW, MIN_HISTORY = 64, 16
# Updates are measured at each step that is a multiple of the first, limits refreshed at each such healthy step, and states
# kept at either. The steps between have nothing to do but to be counted, which is what keeps the guard cheap. A training
# that has been healthy for a whole window, at its full rate and with updates far below the bound, is looked at less often.
_REFRESH_STEPS, _CALM_REFRESH_STEPS = 8, 32
# Until then a state is kept at the very step at which it is due: a training moves fastest there.
_START_STEPS = 2 * WINDOW
# Rows of the history: those of a window, and one that the next step writes to.
HISTORY_ROWS = WINDOW + 1
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
LARGEST_CHANGE = 0.125
# Share of it below which the next multiple of `_CALM_REFRESH_STEPS` is early enough to measure again.
_SMALL_SHARE = 0.25
# Times that recovery halves its speed; beyond, a factor would never come back from a bad hour.
_SLOWEST = 5
# Healthy steps in a row before a state is kept as good.
_CALM = 5
# Half the square of a norm below which there is no gradient to speak of, 1e-15.
LEAST_SQUARES = 0.5e-30
# Between these the half square of the norm and the loss of a quiet step must lie, ends included: they are all finite.
_LARGEST = tf.float32.max
_LOWEST = (2.0 * LEAST_SQUARES, -_LARGEST)


class UsualLevel:
    """The part of `SpikeGuard` that knows what is usual; it works on the options and variables of the guard.

    `signals` are half the squared global gradient norm, which is fewer operations than the norm, and the loss; history and
    limits are in the same units.

    The steps between two looks are *quiet*: they write their signals to the next row of the history, count themselves in
    `_since`, and leave all else to the next look, which catches up with them.
    """

    rolls_back: bool
    bounds_updates: bool
    recovery_steps: int
    snapshot_steps: int
    factor: Any
    action: Any
    _since: Any
    _counts: Any
    _limits: Any
    _gate: Any
    _level: Any
    _history: Any
    _has_loss: bool
    _protected: KeptState | None

    def _pass_gate(self, squares: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Enters a step into the history. Returns its signals, the quiet steps before it, and whether it is quiet itself."""
        # Every step pays for each of these operations, so the gate has a row of limits for each quiet step that may follow.
        signals, since = tf.stack([squares, loss]), tf.convert_to_tensor(self._since.value)
        inside = tf.clip_by_value(signals, _LOWEST, self._gate.value.sparse_read(since))
        is_quiet = tf.reduce_all(tf.equal(inside, signals))
        self._history.value.scatter_update(tf.IndexedSlices(signals, since))
        self._since.value.assign_add(1)
        return signals, since, is_quiet

    def _is_usual(self, signals: tf.Tensor) -> tf.Tensor:
        """Whether a step could be quiet, were nothing due at it."""
        return tf.reduce_all((signals <= tf.minimum(self._limits.value, _LARGEST)) & (signals >= _LOWEST))

    def _set_gate(self) -> None:
        """Lets as many quiet steps pass as there is nothing due at; the last thing that a look does."""
        counts = Counts(*tf.unstack(self._counts.value))
        quiet = self._quiet_steps(counts)
        self._store(counts._replace(quiet=quiet))
        # A quiet step has no action to tell of, and leaves the last one standing.
        passing = tf.where(tf.equal(self.action.value, 0), quiet, 0)
        is_open = tf.range(HISTORY_ROWS)[:, tf.newaxis] < passing
        self._gate.assign(tf.where(is_open, tf.minimum(self._limits.value, _LARGEST), float("-inf")))
        self._since.assign(0)

    def _quiet_steps(self, counts: Counts) -> tf.Tensor:
        """Steps from here on at which nothing is due, should they be healthy."""
        period = self._period(counts)
        until_look = period - 1 - tf.maximum(counts.steps % period, counts.healthy % period)
        quiet = until_look
        if self.rolls_back or self._protected is not None:
            after = tf.maximum(tf.maximum(self.snapshot_steps + 1 - counts.age, _CALM + 1 - counts.calm), 1)
            after = tf.where(tf.equal(counts.kept, 0), 1, after)
            quiet = tf.where(counts.steps + after <= _START_STEPS, tf.minimum(until_look, after - 1), until_look)
        return tf.where((counts.steps >= MIN_HISTORY) & (counts.healthy >= MIN_HISTORY), quiet, 0)

    def _period(self, counts: Counts) -> tf.Tensor:
        """Steps from one look at the training to the next. It only grows from one quiet step to the next, to a multiple."""
        is_calm = (counts.calm >= WINDOW) & (self.factor.value >= 1.0)
        if self.bounds_updates:
            is_calm &= Level(*tf.unstack(self._level.value)).change < _SMALL_SHARE * LARGEST_CHANGE
        return tf.where(is_calm, _CALM_REFRESH_STEPS, _REFRESH_STEPS)

    def _is_keeping_due(self, counts: Counts) -> tf.Tensor:
        """Whether the state is to be kept, at a healthy step that is not quiet."""
        return (counts.age > self.snapshot_steps) & (counts.calm > _CALM) | tf.equal(counts.kept, 0)

    def _is_refresh_due(self, counts: Counts) -> tf.Tensor:
        """Whether limits and level are to be drawn anew, at a healthy step with a gradient."""
        return (counts.healthy < MIN_HISTORY) | tf.equal(counts.healthy % self._period(counts), 0)

    def _has_risen(self, share: float) -> tf.Tensor:
        """Norms, other than losses, rise in healthy trainings, too."""
        level = Level(*tf.unstack(self._level.value))
        return self._has_loss & level.has_risen(share)

    def _refresh(self, healthy: tf.Tensor, back_offs: tf.Tensor) -> None:
        """Takes limits and level from the history's quantiles, of norms on a logarithmic scale; lets the factor recover."""
        known = tf.minimum(healthy, WINDOW)
        # The first row is the next to be written. What is not known yet is infinite and ranks last.
        ranked = tf.sort(self._history.value[1:], axis=0)
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
        limits = tf.where(known < MIN_HISTORY, first, settled)
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

    def _store(self, counts: Counts) -> None:
        self._counts.assign(tf.stack(counts))


def _exp2(power: tf.Tensor) -> tf.Tensor:
    return tf.pow(2.0, power)
