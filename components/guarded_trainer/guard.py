"""SpikeGuard: an optimizer around any Keras optimizer that keeps a training calm, inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.guard_action import GuardAction
from spikeguard.components.guarded_trainer.guard_state import Counts, GuardEvent, Level
from spikeguard.components.guarded_trainer.interventions import Interventions
from spikeguard.components.guarded_trainer.kept_state import KeptState
from spikeguard.components.guarded_trainer.norms import half_squares
from spikeguard.components.guarded_trainer.update_bound import LOG_LENGTH
from spikeguard.components.guarded_trainer.usual_level import HISTORY_ROWS


@keras.saving.register_keras_serializable(package="spikeguard")
class SpikeGuard(Interventions, keras.optimizers.Optimizer):  # type: ignore[misc]
    """Wraps a Keras optimizer: skips, clips, backs off and rolls back where a training leaves its own recent level.

    The level is robust: of the last 64 healthy steps it takes the median and the 90th percentile of the loss and of the
    logarithm of the global gradient norm, and draws the limit five times as far above the median as that percentile lies.
    Outliers never enter this history. At each step:

    - a loss or gradient that is not finite: the step is *skipped*; moments and schedule do not see it;
    - a gradient norm above its limit: the gradients are *clipped* to the limit;
    - an update that would change a layer's kernel by more than an eighth of its norm when freshly initialized: the step is
      *shortened* to that and the factor on the learning rate halved; measured at each of the first 16 steps, then at every
      eighth, and at every 32nd while all is calm;
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
          snapshot_steps: least number of steps between two good states; >= 1. After the first 128 steps they are kept at
            multiples of eight only, while all is calm of 32, so that the steps between cost little.
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
        self._snapshot: KeptState | None = None
        self._protected: KeptState | None = None
        self._protections: list[KeptState] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise InvalidArgumentError(
                "strategy", type(tf.distribute.get_strategy()).__name__, "have one replica", "Train on one device."
            )
        inner = self.inner_optimizer
        inner.build(variables)
        ones, infinite, closed = keras.initializers.Ones(), _constant("inf"), _constant("-inf")
        self.factor = self.add_variable((), ones, "float32", name="factor")
        self.action = self.add_variable((), dtype="int32", name="action")
        self._counts = self.add_variable((len(Counts._fields),), dtype="int32", name="counts")
        self._limits = self.add_variable((2,), infinite, "float32", name="limits")
        self._gate = self.add_variable((HISTORY_ROWS, 2), closed, "float32", name="gate")
        self._level = self.add_variable((len(Level._fields),), infinite, "float32", name="level")
        self._history = self.add_variable((HISTORY_ROWS, 2), infinite, "float32", name="history")
        self._since = self.add_variable((), dtype="int32", name="since")
        self._log = self.add_variable((LOG_LENGTH, len(GuardEvent._fields)), dtype="float64", name="log")
        self._base_rate = inner._get_current_learning_rate
        inner._get_current_learning_rate = lambda: self._base_rate() * self.factor
        if self.rolls_back:
            kept = {id(inner.iterations), id(self._base_rate())}
            state = [*variables, *(variable for variable in inner.variables if id(variable) not in kept)]
            self._snapshot = KeptState(
                state, lambda shape, dtype: self.add_variable(shape, dtype=dtype, name="snapshot")
            )
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
        for state in self._protections:
            state.keep()
        known = [state for state in self._protections if [*map(id, state.variables)] == [*map(id, floats)]]
        if not floats or known:
            self._protected = known[0] if known else None
            return
        self._protected = KeptState(floats, lambda shape, dtype: tf.Variable(tf.zeros(shape, dtype), trainable=False))
        self._protected.keep()
        self._protections.append(self._protected)

    @property
    def protected_copies(self) -> list[tf.Variable]:
        """The last good values of what `protect` was given: state of the guard that is not among its `variables`."""
        return [] if self._protected is None else self._protected.copies

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
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        signals, since, is_quiet = self._pass_gate(*self._signals(present))
        busy_step = _as_one_call(self._busy_step)
        tf.cond(
            is_quiet,
            lambda: self.inner_optimizer.apply(grads, variables),
            lambda: busy_step(signals, since, grads, variables),
        )

    def _signals(self, gradients: Sequence[Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """Half the squared global norm of the gradients, and the loss. Scalars."""
        squares = half_squares(gradients)
        if self.inner_optimizer.loss_scale_factor:
            squares /= self.inner_optimizer.loss_scale_factor**2
        loss = self._take_loss(gradients[0])
        # Without a known loss, a norm above its limit stands for a raised loss.
        self._has_loss = loss is not None
        return squares, tf.sqrt(2.0 * squares) if loss is None else loss

    def _take_loss(self, gradient: Any) -> tf.Tensor | None:
        """The loss that `scale_loss` saw, where it belongs to the same step."""
        loss, self._loss = self._loss, None
        if loss is None or (not tf.executing_eagerly() and getattr(loss, "graph", None) is not gradient.graph):
            return None
        return tf.cast(loss, tf.float32)

    def events(self) -> tuple[GuardEvent, ...]:
        """The last 1,024 interventions, in step order."""
        if not self.built:
            return ()
        actions = int(self._counts.numpy()[Counts._fields.index("actions")])
        rows = self._log.numpy()[[number % LOG_LENGTH for number in range(max(0, actions - LOG_LENGTH), actions)]]
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
        return int(self._counts.numpy()[0]) + int(self._since.numpy()) if self.built else 0

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


def _constant(value: str) -> keras.initializers.Initializer:
    return keras.initializers.Constant(float(value))


def chain(optimizer: Any) -> list[Any]:
    """The optimizer and all that it wraps, outermost first; empty for None."""
    found = []
    while optimizer is not None:
        found.append(optimizer)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return found


def guard_of(optimizer: Any) -> SpikeGuard | None:
    """The guard that an optimizer is or that it wraps, such as within a `LossScaleOptimizer`; None without one."""
    return next((one for one in chain(optimizer) if isinstance(one, SpikeGuard)), None)


def steps_done(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps that an optimizer has made, those that a guard skipped included."""
    guard = guard_of(optimizer)
    return int(optimizer.iterations.numpy()) if guard is None else guard.steps


def _as_one_call(step: Callable[..., None]) -> Callable[..., None]:
    """The step as a function that stays one operation of the graph, whatever it is made of.

    TensorFlow inlines the branches of a conditional, and every step pays for the hundreds of operations of the branch that
    it does not take. Leaving the whole conditional a function would cost nothing either, but TensorFlow optimizes no such
    branch: its updates round differently from those of a plain training, whose divisions by constants become products.
    """
    if tf.executing_eagerly():
        return step

    def call(signals: tf.Tensor, since: tf.Tensor, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        function = tf.function(
            lambda signals, since, grads: step(signals, since, grads, variables),
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
        function(signals, since, list(grads))

    return call
