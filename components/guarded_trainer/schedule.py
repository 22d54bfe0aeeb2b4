"""The learning rate over a run: a warm-up without a lost step, then a decay to a known floor."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import keras
import tensorflow as tf
from keras import ops

from spikeguard.components.errors import InvalidArgumentError

Decay = Literal["cosine", "exponential", "constant"]

# Final rate / peak where `floor_share` is None; an exponential never reaches 0.
_FLOOR_SHARES: dict[Decay, float] = {"cosine": 0.0, "exponential": 0.01, "constant": 1.0}
# The tuning playbook (Godbole et al. 2023): the shortest warm-up that works, at most a tenth of the run. Half of that.
_MOST_WARMUP_SHARE = 0.05


@keras.saving.register_keras_serializable(package="spikeguard")
class GuardedSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up of w steps, peak x (s + 1) / (w + 1) at step s = 0, 1, ...; then, with t from 0 at step w to 1 at
    step `steps`, a decay to floor = peak x floor_share, where the rate stays.

    - `cosine`: floor + (peak - floor) (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017);
    - `exponential`: peak x floor_share^t;
    - `constant`: peak.

    The first step's rate is above 0, and so is the last one's: the floor belongs to step `steps`, the first after the run.

    Args:
      peak: highest rate, in the optimizer's unit; > 0 and finite.
      steps: optimizer steps of the run; >= 1.
      warmup_steps: w; 0 <= w < steps. See `warmup_steps_for`.
      decay: `cosine`, `exponential` or `constant`.
      floor_share: floor / peak, in [0, 1]; above 0 for `exponential`, and 1 for `constant`. None: 0 for `cosine`, 0.01
        for `exponential`.

    Raises:
      InvalidArgumentError: an argument is outside its range.

    >>> schedule = GuardedSchedule(peak=1.0, steps=8, warmup_steps=4)
    >>> [round(float(schedule(step)), 3) for step in range(9)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_steps: int = 0,
        decay: Decay = "cosine",
        floor_share: float | None = None,
        name: str = "guarded_schedule",
    ) -> None:
        super().__init__()
        if not 0 < peak < math.inf:
            raise InvalidArgumentError("peak", peak, "be above 0 and finite")
        if not (isinstance(steps, int) and steps >= 1):
            raise InvalidArgumentError("steps", steps, "be an integer of at least 1")
        if not (isinstance(warmup_steps, int) and 0 <= warmup_steps < steps):
            raise InvalidArgumentError(
                "warmup_steps", warmup_steps, f"be an integer from 0 to {steps - 1}, below steps"
            )
        if decay not in get_args(Decay):
            raise InvalidArgumentError("decay", decay, f"be one of {', '.join(get_args(Decay))}")
        if floor_share is None:
            floor_share = _FLOOR_SHARES[decay]
        if not 0 <= floor_share <= 1:
            raise InvalidArgumentError("floor_share", floor_share, "lie between 0 and 1")
        if decay == "exponential" and floor_share == 0:
            raise InvalidArgumentError("floor_share", floor_share, "be above 0 for exponential decay")
        if decay == "constant" and floor_share != 1:
            raise InvalidArgumentError("floor_share", floor_share, "be 1 or None for a constant rate")
        self.peak = float(peak)
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.floor_share = float(floor_share)
        self.name = name

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def __call__(self, step: Any) -> Any:
        """The rate of an optimizer step, a float32 scalar; `step` counts from 0."""
        step = ops.cast(step, "float32")
        warmup = self.peak * (step + 1.0) / (self.warmup_steps + 1.0)
        # What is left, 1 - t: near the end it is precise where t is not.
        left = ops.clip((self.steps - step) / (self.steps - self.warmup_steps), 0.0, 1.0)
        return ops.where(step < self.warmup_steps, warmup, self.peak * self._share(left))

    def _share(self, left: Any) -> Any:
        """Rate / peak in the decay, at 1 - t = `left`."""
        if self.decay == "constant":
            return ops.ones_like(left)
        if self.decay == "exponential":
            return ops.exp((1.0 - left) * math.log(self.floor_share))
        # (1 + cos(pi t)) / 2, without the difference that cancels at the end.
        return self.floor_share + (1.0 - self.floor_share) * ops.square(ops.sin(math.pi / 2 * left))

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
            "floor_share": self.floor_share,
            "name": self.name,
        }


def warmup_steps_for(steps: int, beta_2: float = 0.999) -> int:
    """The shortest sensible warm-up for Adam: 2 / (1 - beta_2) steps, and at most 5 % of the run.

    The first is the untuned linear warm-up of Ma & Yarats (2021), the time that Adam's second moment needs to settle;
    the second is half of what the tuning playbook allows.

    Args:
      steps: optimizer steps of the run; >= 1.
      beta_2: decay of the optimizer's second moment, in [0, 1).

    Returns:
      Steps, >= 0: 0 for runs of fewer than 20.

    Raises:
      InvalidArgumentError: an argument is outside its range.

    >>> warmup_steps_for(1000), warmup_steps_for(1_000_000)
    (50, 2000)
    """
    if not (isinstance(steps, int) and steps >= 1):
        raise InvalidArgumentError("steps", steps, "be an integer of at least 1")
    if not 0 <= beta_2 < 1:
        raise InvalidArgumentError("beta_2", beta_2, "lie in [0, 1)")
    return min(round(2 / (1 - beta_2)), int(_MOST_WARMUP_SHARE * steps))
