"""The rules that others guard training with, as Keras optimizers around another one.

Each takes the place of `keras.optimizers.LossScaleOptimizer` in a train step: `scale_loss` sees the loss, `apply` sees
the gradients. After a step `action` says what was done: 0 nothing, 1 the step was skipped, 2 gradients were clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

SKIP, CLIP = 1, 2


class GradientRule(keras.optimizers.Optimizer):
    """Wraps an optimizer and changes the gradients that it gets; this base changes nothing."""

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__(learning_rate=0.0)
        self.inner_optimizer = inner_optimizer

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        self.action = self.add_variable((), dtype="int32", name="action")
        self.build_rule(len(variables))
        self.inner_optimizer.build(variables)
        super().build(variables)

    def build_rule(self, tensors: int) -> None:
        """Makes the rule's own variables, for a model of this many weight tensors."""

    def change(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients to apply; sets `action`."""
        return gradients

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        changed = self.change([tf.convert_to_tensor(gradient) for gradient in grads])
        self.inner_optimizer.apply(changed, trainable_variables)

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations


class GlobalClip(GradientRule):
    """Keras' own `global_clipnorm`; the wrapper only notes when it acts.

    A norm that is not finite makes every gradient NaN, as in Keras.
    """

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, max_norm: float = 1.0) -> None:
        super().__init__(inner_optimizer)
        inner_optimizer.global_clipnorm = max_norm

    def change(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        clips = _global_norm(gradients) > self.inner_optimizer.global_clipnorm
        self.action.assign(tf.where(clips, CLIP, 0))
        return gradients


class ZClip(GradientRule):
    """ZClip (arXiv 2504.02507): clips the global norm where it stands out of its own moving statistics.

    Mean and variance of the norm start from the first 25 steps and follow an EMA of 0.97; the variance takes the new
    mean, as the authors' code does. Where z = (norm - mean) / (sd + 1e-6) exceeds 2.5, the norm is clipped to
    mean + 2.5 sd / (z / 2.5), and that value enters the EMA. Assumed, from the authors' code: a fixed ceiling of 1.0
    applies to every step as well, also before the statistics exist, and does not enter the EMA. `max_norm=None` leaves
    it out. A norm that is not finite is let through and spoils the statistics for good, as there.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        max_norm: float | None = 1.0,
        decay: float = 0.97,
        max_z: float = 2.5,
        warmup_steps: int = 25,
    ) -> None:
        super().__init__(inner_optimizer)
        self._ceiling = float("inf") if max_norm is None else max_norm
        self._decay, self._max_z, self._warmup_steps = decay, max_z, warmup_steps

    def build_rule(self, tensors: int) -> None:
        self._seen = self.add_variable((), dtype="int32", name="seen")
        self._first = self.add_variable((self._warmup_steps,), name="first_norms")
        self._mean = self.add_variable((), name="mean")
        self._variance = self.add_variable((), name="variance")

    def change(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        norm, seen = _global_norm(gradients), tf.convert_to_tensor(self._seen)
        mean, variance = tf.convert_to_tensor(self._mean), tf.convert_to_tensor(self._variance)
        is_warm = seen >= self._warmup_steps
        deviation = tf.sqrt(variance)
        z = (norm - mean) / (deviation + 1e-6)
        is_outlier = is_warm & (z > self._max_z)
        adapted = tf.where(is_outlier, mean + self._max_z * deviation / (z / self._max_z), norm)
        next_mean = self._decay * mean + (1 - self._decay) * adapted
        next_variance = self._decay * variance + (1 - self._decay) * (adapted - next_mean) ** 2

        first = tf.where(tf.range(self._warmup_steps) == seen, norm, tf.convert_to_tensor(self._first))
        self._first.assign(first)
        first_mean = tf.reduce_mean(first)
        first_variance = tf.reduce_mean((first - first_mean) ** 2)
        self._mean.assign(tf.where(is_warm, next_mean, first_mean))
        self._variance.assign(tf.where(is_warm, next_variance, first_variance))
        self._seen.assign(seen + 1)

        limit = tf.minimum(adapted, self._ceiling)
        factor = tf.where(norm > limit, limit / (norm + 1e-6), 1.0)
        self.action.assign(tf.where(factor < 1.0, CLIP, 0))
        return [gradient * factor for gradient in gradients]


class AdaGC(GradientRule):
    """AdaGC (arXiv 2502.11034): clips each tensor's norm to 1.05 times the moving average of its own clipped norms.

    Assumed, from the paper's algorithm and the public implementations: the EMA's decay is 0.98; over the first 100
    steps the gradient is clipped globally to 1.0 instead, and each tensor's average is the smallest clipped norm so far.
    Nothing keeps an average from reaching 0, after which its tensor no longer moves.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        max_ratio: float = 1.05,
        max_norm: float = 1.0,
        decay: float = 0.98,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(inner_optimizer)
        self._max_ratio, self._max_norm, self._decay, self._warmup_steps = max_ratio, max_norm, decay, warmup_steps

    def build_rule(self, tensors: int) -> None:
        self._seen = self.add_variable((), dtype="int32", name="seen")
        infinite = keras.initializers.Constant(float("inf"))
        self._averages = self.add_variable((tensors,), initializer=infinite, name="average_norms")

    def change(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        averages, is_warm = tf.convert_to_tensor(self._averages), tf.convert_to_tensor(self._seen) >= self._warmup_steps
        norms = tf.stack([tf.norm(gradient) for gradient in gradients])
        # A zero gradient needs no clipping, and 0 / 0 is none.
        together = tf.minimum(tf.math.divide_no_nan(self._max_norm, tf.norm(norms)), 1.0)
        apart = tf.where(norms > self._max_ratio * averages, self._max_ratio * averages / norms, 1.0)
        factors = tf.where(is_warm, apart, tf.where(tf.norm(norms) > self._max_norm, together, 1.0))
        clipped = factors * norms
        moved = self._decay * averages + (1 - self._decay) * clipped
        self._averages.assign(tf.where(is_warm, moved, tf.minimum(averages, clipped)))
        self._seen.assign_add(1)
        self.action.assign(tf.where(tf.reduce_any(factors < 1.0), CLIP, 0))
        return [gradient * factor for gradient, factor in zip(gradients, tf.unstack(factors), strict=True)]


class OlmoSkipStep(GradientRule):
    """OLMo's SkipStepAdamW: no step where loss or gradient norm stands 6 sd above its last 128 values.

    Assumed, from OLMo-core: 63 earlier values are needed before anything is skipped; the sd is the sample's (n - 1);
    a loss or norm that is not finite is skipped and left out of the statistics, all other flagged values enter them;
    the schedule goes on over a skipped step, while moments and weights stay. Adam's bias correction counts the skipped
    step here, because Keras keeps one counter for both: past step 63 each skip changes the rate by under 1 % that way.
    """

    def __init__(
        self, inner_optimizer: keras.optimizers.Optimizer, window_steps: int = 128, max_z: float = 6.0
    ) -> None:
        super().__init__(inner_optimizer)
        self._window_steps, self._max_z = window_steps, max_z

    def build_rule(self, tensors: int) -> None:
        self._seen = self.add_variable((), dtype="int32", name="seen")
        self._loss = self.add_variable((), name="loss")
        unknown = keras.initializers.Constant(float("nan"))
        self._window = self.add_variable((self._window_steps, 2), initializer=unknown, name="window")

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        self._loss.assign(tf.stop_gradient(loss))
        return loss

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        gradients = [tf.convert_to_tensor(gradient) for gradient in grads]
        seen, window = tf.convert_to_tensor(self._seen), tf.convert_to_tensor(self._window)
        latest = tf.stack([tf.convert_to_tensor(self._loss), _global_norm(gradients)])
        is_known = tf.math.is_finite(window)
        known = tf.cast(is_known, tf.float32)
        count = tf.reduce_sum(known, axis=0)
        mean = tf.reduce_sum(tf.where(is_known, window, 0.0), axis=0) / count
        deviation = tf.sqrt(tf.reduce_sum(known * tf.where(is_known, window - mean, 0.0) ** 2, axis=0) / (count - 1))
        is_calm = tf.reduce_all(tf.math.is_finite(latest) & (latest - mean <= self._max_z * deviation))
        skips = (seen + 1 >= max(2, self._window_steps // 2)) & ~is_calm
        is_now = tf.range(self._window_steps)[:, None] == seen % self._window_steps
        self._window.assign(tf.where(is_now, latest, window))
        self._seen.assign(seen + 1)
        self.action.assign(tf.where(skips, SKIP, 0))

        def go_on() -> None:
            self.inner_optimizer.apply(gradients, trainable_variables)

        def skip() -> None:
            self.inner_optimizer.iterations.assign_add(1)

        keras.ops.cond(skips, skip, go_on)


def _global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
