"""SpikeGuard: an optimizer around any Keras optimizer that keeps a training calm, inside the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.guard_state import Counts, GuardAction, GuardEvent, Level

# Steps of history that the levels are taken from, and the fewest that say something about a tail.
_WINDOW, _MIN_HISTORY = 64, 16
# Between refreshes the limits are at most this many steps old; sorting every step would cost without need.
_REFRESH_STEPS = 8
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
# Interventions are "repeated" when they outnumber the healthy steps between them by this many.
_REPEATED = 8
# Unhealthy steps in a row after which a raised level is the new normal; more than `patience`, which is to act before.
_LEVEL_SHIFT = 32
# Times that recovery halves its speed; beyond, a factor would never come back from a bad hour.
_SLOWEST = 5
# Healthy steps in a row before a state is kept as good, and after a rollback before the raised losses count as cured.
_CALM, _CURED = 5, 8
# Stands for a norm of zero, whose logarithm is infinite.
_TINY, _LOG_TINY = 1e-30, -69.0
# What a healthy step makes of the counters: all x kept + added, and `healthy` one more where it had a gradient.
_NONE = Counts(*([0] * len(Counts._fields)))
_KEPT = Counts(*([1] * len(Counts._fields)))._replace(raised=0, unhealthy=0)
_ADDED = _NONE._replace(steps=1, calm=1, credit=-1, cured=1, moved=1, age=1)
_COUNTED = _NONE._replace(healthy=1)
# Interventions that `events` can tell of.
_LOG_LENGTH = 1024


@keras.saving.register_keras_serializable(package="spikeguard")
class SpikeGuard(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Wraps a Keras optimizer: skips, clips, backs off and rolls back where a training leaves its own recent level.

    The level is robust: of the last 64 healthy steps it takes the median and the 90th percentile of the loss and of the
    logarithm of the global gradient norm, and draws the limit five times as far above the median as that percentile lies.
    Outliers never enter this history. At each step:

    - a loss or gradient that is not finite: the step is *skipped*; moments and schedule do not see it;
    - a gradient norm above its limit: the gradients are *clipped* to the limit;
    - an update that would change a layer's kernel by more than an eighth of its norm when freshly initialized: the step is
      *shortened* to that and the factor on the learning rate halved; measured at each of the first 16 steps, then at every
      eighth;
    - interventions that repeat: the *factor* is halved; it doubles again over `recovery_steps` healthy steps, twice as many
      after each time that it was lowered, up to 1;
    - `patience` steps in a row with a raised or non-finite loss: weights and moments *return* to the last state whose
      loss was seen to be healthy, and the factor is halved; at most `max_rollbacks` times.

    Losses without any single high one whose median has risen for good above its best count as raised, too. A healthy
    step is passed on unchanged. In `fit` Keras shows the guard the loss through `scale_loss`; a custom
    training loop calls `loss = optimizer.scale_loss(loss)` itself, or the guard judges by the gradients alone. So it does
    inside a `LossScaleOptimizer`, which shows the loss to nobody. Where losses are meant to rise, as of the two players of
    an adversarial training, switch `rolls_back` off.

    Attributes:
      factor: float32 scalar in (0, 1], what the inner optimizer's learning rate is multiplied by.
      action: int32 scalar, the `GuardAction` bits of the last step.

    Example:
      >>> import keras, numpy as np
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> model.compile(SpikeGuard(keras.optimizers.Adam(0.01)), "mse")
      >>> x = np.ones((8, 2), "float32")
      >>> x[0, 0] = np.nan
      >>> _ = model.fit(x, np.ones(8, "float32"), verbose=0)
      >>> GuardAction.SKIP in GuardAction(int(model.optimizer.action.numpy()))
      True
      >>> bool(np.isfinite(model.get_weights()[0]).all())
      True
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        skips: bool = True,
        clips: bool = True,
        backs_off: bool = True,
        rolls_back: bool = True,
        bounds_updates: bool = True,
        patience: int = 3,
        recovery_steps: int = 500,
        snapshot_steps: int = 50,
        max_rollbacks: int = 20,
        name: str | None = None,
    ) -> None:
        """Wraps an optimizer.

        Args:
          inner_optimizer: any Keras optimizer; its learning rate may be a number or a schedule.
          skips: whether steps with a non-finite loss or gradient are skipped.
          clips: whether gradients above their recent level are clipped.
          backs_off: whether interventions lower the factor: repeated ones, a return, an update that was shortened.
          rolls_back: whether persistent divergence returns to the last good state; keeps one copy of weights and moments.
          bounds_updates: whether updates that change a layer too much are shortened.
          patience: raised or non-finite losses in a row that are taken for divergence; >= 1.
          recovery_steps: healthy steps in which the factor doubles; >= 1.
          snapshot_steps: least number of steps between two good states; >= 1.
          max_rollbacks: returns in the whole training; >= 0.

        Raises:
          InvalidArgumentError: not an optimizer, one that is guarded already, or a number out of range.
        """
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise InvalidArgumentError(
                "inner_optimizer", inner_optimizer, "be a Keras optimizer", "Give keras.optimizers.Adam()."
            )
        if isinstance(inner_optimizer, SpikeGuard | keras.optimizers.LossScaleOptimizer):
            raise InvalidArgumentError(
                "inner_optimizer",
                inner_optimizer.name,
                "not be a SpikeGuard or LossScaleOptimizer",
                "Wrap SpikeGuard by it.",
            )
        counts = {"patience": patience, "recovery_steps": recovery_steps, "snapshot_steps": snapshot_steps}
        for key, value in counts.items():
            if value < 1:
                raise InvalidArgumentError(key, value, "be at least 1")
        if max_rollbacks < 0:
            raise InvalidArgumentError("max_rollbacks", max_rollbacks, "be at least 0")
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.skips, self.clips, self.backs_off, self.rolls_back = skips, clips, backs_off, rolls_back
        self.patience, self.recovery_steps, self.snapshot_steps = patience, recovery_steps, snapshot_steps
        self.max_rollbacks, self.bounds_updates = max_rollbacks, bounds_updates
        self._loss: Any = None  # The loss of the step that is being traced or run.
        self._has_loss = True
        self._protected: list[tuple[Any, tf.Variable]] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise InvalidArgumentError(
                "strategy", type(tf.distribute.get_strategy()).__name__, "have one replica", "Train on one device."
            )
        inner = self.inner_optimizer
        inner.build(variables)
        ones, infinite = keras.initializers.Ones(), keras.initializers.Constant(float("inf"))
        self.factor = self.add_variable((), ones, "float32", name="factor")
        self.action = self.add_variable((), dtype="int32", name="action")
        self._counts = self.add_variable((len(Counts._fields),), dtype="int32", name="counts")
        self._limits = self.add_variable((2,), infinite, "float32", name="limits")
        self._level = self.add_variable((len(Level._fields),), infinite, "float32", name="level")
        self._history = self.add_variable((_WINDOW, 2), infinite, "float32", name="history")
        self._log = self.add_variable((_LOG_LENGTH, len(GuardEvent._fields)), dtype="float64", name="log")
        self._base_rate = inner._get_current_learning_rate
        inner._get_current_learning_rate = lambda: self._base_rate() * self.factor
        self._snapshot: list[tuple[keras.Variable, keras.Variable]] = []
        if self.rolls_back:
            kept = {id(inner.iterations), id(self._base_rate())}
            state = [*variables, *(variable for variable in inner.variables if id(variable) not in kept)]
            self._snapshot = [
                (variable, self.add_variable_from_reference(variable, name="snapshot")) for variable in state
            ]
        super().build(variables)

    def protect(self, variables: Sequence[keras.Variable]) -> None:
        """Lets a rollback and a skipped step also restore what no gradient moves, such as batch-norm statistics.

        A forward pass over a batch with a NaN has already spoilt these when the optimizer gets to see it.

        Args:
          variables: a model's `non_trainable_variables`, whose values now are good; those that are not floats are left
            alone. Replaces earlier ones.
        """
        floats = [variable for variable in variables if "float" in keras.backend.standardize_dtype(variable.dtype)]
        # A step that was traced before, in an earlier `fit`, goes on with the copies that it knows.
        known = {id(variable): copy for variable, copy in self._protected}
        self._protected = []
        for variable in floats:
            copy = known[id(variable)] if id(variable) in known else tf.Variable(variable.value, trainable=False)
            copy.assign(variable.value)
            self._protected.append((variable, copy))

    @property
    def protected_copies(self) -> list[tf.Variable]:
        """The last good values of what `protect` was given: state of the guard that is not among its `variables`."""
        return [copy for _, copy in self._protected]

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Shows the guard the step's loss; returns it, scaled where the inner optimizer scales losses."""
        self._loss = loss
        return self.inner_optimizer.scale_loss(loss)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Applies the gradients, unless and as far as the step is healthy."""
        if not self.built and trainable_variables is not None:
            self.build(trainable_variables)
        present = [gradient for gradient in grads if gradient is not None]
        if not self.built or not present:
            self.inner_optimizer.apply(grads, trainable_variables)  # Says what is wrong.
            return
        norm = tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in present])
        norm /= self.inner_optimizer.loss_scale_factor or 1.0
        loss = self._take_loss(present[0])
        # Without a known loss, a norm above its limit stands for a raised loss.
        self._has_loss = loss is not None
        signals = tf.stack([tf.math.log(norm + _TINY), norm if loss is None else loss])
        is_healthy = tf.reduce_all(tf.math.is_finite(signals) & (signals <= self._limits.value))
        scale = tf.cond(is_healthy, lambda: self._note_healthy(signals), lambda: self._intervene(signals))
        tf.cond(scale > 0.0, lambda: self._update(grads, trainable_variables, scale, signals), lambda: None)

    def _take_loss(self, gradient: Any) -> tf.Tensor | None:
        """The loss that `scale_loss` saw, where it belongs to the same step."""
        loss, self._loss = self._loss, None
        if loss is None or (not tf.executing_eagerly() and getattr(loss, "graph", None) is not gradient.graph):
            return None
        return tf.cast(loss, tf.float32)

    def _note_healthy(self, signals: tf.Tensor) -> tf.Tensor:
        """Learns from a healthy step. Returns the scale of its gradients, 1."""
        # A step without any gradient says nothing about the norm's level: the next one overwrites it.
        is_counted = signals[0] > 0.5 * _LOG_TINY
        # All counters at once: an operation takes longer than what it computes here, and every step pays for it.
        before = self._counts.value.read_value()
        after = tf.maximum(before * _KEPT + _ADDED + tf.cast(is_counted, tf.int32) * _COUNTED, 0)
        self._counts.assign(after)
        self._history.value.scatter_update(tf.IndexedSlices(signals, before[Counts._fields.index("healthy")] % _WINDOW))
        counts = Counts(*tf.unstack(after))
        is_new = is_counted & ((counts.healthy < _MIN_HISTORY) | tf.equal(counts.healthy % _REFRESH_STEPS, 0))
        tf.cond(is_new, lambda: self._refresh(counts.healthy, counts.back_offs), lambda: None)
        if self.rolls_back or self._protected:
            is_due = (counts.age > self.snapshot_steps) & (counts.calm > _CALM) | tf.equal(counts.kept, 0)
            tf.cond(is_due, lambda: self._keep_state(counts), lambda: None)
        self.action.assign(0)
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
        return tf.where(skips, 0.0, tf.where(clips, tf.exp(limits[0] - signals[0]), 1.0))

    def _update(
        self, grads: Sequence[Any], variables: Sequence[keras.Variable] | None, scale: tf.Tensor, signals: tf.Tensor
    ) -> None:
        # Times 1 is the same bit for bit, and cheaper than a conditional around each gradient.
        whole = [None if g is None else tf.math.scalar_mul(tf.cast(scale, g.dtype), g) for g in grads]
        variables = list(self._trainable_variables if variables is None else variables)
        if not self.bounds_updates:
            self.inner_optimizer.apply(whole, variables)
            return
        # Measuring an update takes a copy of the weights, so after the start it is done now and then.
        steps = self._counts.value[0]
        tf.cond(
            (steps <= _MIN_HISTORY) | tf.equal(steps % _REFRESH_STEPS, 0),
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
        """Takes limits and level from the history's quantiles, and lets the factor recover."""
        known = tf.minimum(healthy, _WINDOW)
        ranked = tf.sort(self._history.value, axis=0)  # What is not known yet is infinite and ranks last.
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

        level = Level(*tf.unstack(self._level.value))._replace(median=median[1])
        is_best = (known >= _WINDOW) & (level.median < level.best)
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
        row = [counts.steps + 1, action, tf.exp(signals[0]), signals[1], self.factor.value]
        # The row after the last is overwritten by the next action where this step saw none.
        self._log.value.scatter_nd_update(
            [[counts.actions % _LOG_LENGTH]], [tf.stack([tf.cast(part, tf.float64) for part in row])]
        )

    def _store(self, counts: Counts) -> None:
        self._counts.assign(tf.stack(counts))

    def events(self) -> tuple[GuardEvent, ...]:
        """The last 1,024 interventions, in step order."""
        if not self.built:
            return ()
        actions = int(self._counts.numpy()[Counts._fields.index("actions")])
        rows = self._log.numpy()[[number % _LOG_LENGTH for number in range(max(0, actions - _LOG_LENGTH), actions)]]
        return tuple(
            GuardEvent(int(step), GuardAction(int(action)), norm, loss, factor)
            for step, action, norm, loss, factor in rows.tolist()
        )

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's rate, without the factor; settable where it is a number."""
        return self._base_rate() if self.built else self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> keras.Variable:
        """Steps that were applied."""
        return self.inner_optimizer.iterations

    @property
    def steps(self) -> int:
        """Steps seen, skipped ones included."""
        return int(self._counts.numpy()[0]) if self.built else 0

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        names = ("skips", "clips", "backs_off", "rolls_back", "patience", "recovery_steps", "snapshot_steps")
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            **{name: getattr(self, name) for name in (*names, "max_rollbacks", "bounds_updates", "name")},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> SpikeGuard:
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "inner_optimizer": inner})


def steps_done(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps that an optimizer has made, those that a guard skipped included."""
    return optimizer.steps if isinstance(optimizer, SpikeGuard) else int(optimizer.iterations.numpy())


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
