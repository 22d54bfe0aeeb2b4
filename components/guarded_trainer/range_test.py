"""Which learning rates a model can be trained with, measured before training: Smith's range test (2017)."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.robust import robust_sd
from spikeguard.components.training_curve import Floats

# Batches that are read, and used again and again.
_BATCHES = 16
# Constant-rate trainings that confirm the threshold, steps of each, and how far below the growing rate's they look.
_PROBES, _PROBE_STEPS, _PROBE_RANGE = 4, 10, 32.0
# A change of the loss counts above this many robust standard deviations of its noise.
_NOISE_SDS = 6.0
# A loss that comes back by more than half of its fall, or rises by a quarter, diverges.
_LOST_SHARE, _RISE_SHARE = 0.5, 0.25
# The fall is under way at a twentieth of it, and real above a thousandth of the loss.
_USEFUL_SHARE, _REAL_SHARE = 0.05, 1e-3

# Trains from the model's current state, one step per rate, and returns the steps' loss less the same batch's loss at
# the start; it ends early where the callback says so.
_Sweep = Callable[[Floats, Callable[[Sequence[float]], bool]], Floats]


@dataclasses.dataclass(frozen=True)
class LearningRateRange:
    """What the range test found. Rates are in the unit of the optimizer's `learning_rate`."""

    rates: Floats = dataclasses.field(repr=False, compare=False)
    """Shape (n,): the growing rates, up to the one that diverged; n <= steps."""
    losses: Floats = dataclasses.field(repr=False, compare=False)
    """Shape (n,): the loss of the batch at each rate, before the step; infinite where it or the weights were not finite."""
    steps: int
    """Steps that were asked for."""
    highest_stable: float
    """Largest rate with which training from the current weights, without warm-up, did not diverge; `highest` if none
    did, NaN if no stable rate was found."""
    lowest_useful: float
    """Smallest rate that, held for `steps` steps, brings the loss down measurably; NaN if none did."""
    steepest: float
    """Rate at which the loss fell fastest, per decade of rate; NaN if it did not fall."""

    def warnings(self, peak_rate: float, steps: int) -> tuple[str, ...]:
        """One sentence for each way in which a run is expected to fail.

        Args:
          peak_rate: highest rate of the run; > 0.
          steps: its optimizer steps; >= 1. A run that is k times as long as the test gets as far with 1 / k of the rate.

        >>> import numpy as np
        >>> found = LearningRateRange(np.ones(1), np.ones(1), 100, 0.03, 1e-4, 1e-3)
        >>> found.warnings(1.0, 1000)[0]
        'learning_rate 1 is above 0.03, the highest stable rate that the range test found: the loss is expected to spike'
        >>> found.warnings(1e-7, 1000)
        ('learning_rate 1e-07 is below 1e-05, the lowest rate that lowers the loss measurably in 1000 steps: training will crawl',)
        """
        if math.isnan(self.highest_stable):
            return ("the range test found no stable learning rate: the loss is expected to diverge at any",)
        found = []
        if peak_rate > self.highest_stable:
            found.append(
                f"learning_rate {peak_rate:g} is above {self.highest_stable:.2g}, the highest stable rate that the range"
                " test found: the loss is expected to spike"
            )
        if math.isnan(self.lowest_useful):
            found.append(
                "the loss fell at no rate of the range test: the model may be trained already, or the labels cannot be"
                " learned from these features"
            )
        elif peak_rate < (lowest := self.lowest_useful * self.steps / steps):
            found.append(
                f"learning_rate {peak_rate:g} is below {lowest:.2g}, the lowest rate that lowers the loss measurably in"
                f" {steps} steps: training will crawl"
            )
        return tuple(found)


def learning_rate_range(
    model: keras.Model,
    dataset: tf.data.Dataset,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    seed: int = 0,
) -> LearningRateRange:
    """Trains briefly with a rate that grows geometrically, until the loss diverges; then puts everything back.

    Smith's test (2017), with two changes that make it repeatable. Each loss is compared with that of the same batch at
    the start, which takes the noise of the batches out. And the rate where the loss diverges only starts a bisection of
    short trainings at a constant rate: a growing rate passes the threshold before it shows, by a factor of up to 10.

    It takes at most `steps` + 76 training steps on 16 batches. Weights, optimizer, metrics, batch statistics and seeds
    are bit for bit the same afterwards. The optimizer is a fresh one of the same settings, at the rate in question,
    without wrappers such as `LossScaleOptimizer`.

    Args:
      model: any compiled model, trained or not.
      dataset: batches (x, y) or (x, y, sample_weight); the first 16 are used, again and again.
      lowest: first rate; > 0.
      highest: last rate; > lowest.
      steps: steps from `lowest` to `highest`; >= 20.
      seed: order of the batches; >= 0.

    Raises:
      InvalidArgumentError: the model is not compiled or without a learning rate, the dataset is empty or without one
        batch of finite loss, or an argument is outside its range.

    >>> x = tf.constant([[1.0], [-1.0]])  # mean((x w - x)^2) has the second derivative 2, so SGD is stable up to 1.
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    >>> model.compile("sgd", "mse")
    >>> 0.5 < learning_rate_range(model, tf.data.Dataset.from_tensors((x, x))).highest_stable < 1.5
    True
    """
    if not 0 < lowest < math.inf:
        raise InvalidArgumentError("lowest", lowest, "be above 0 and finite")
    if not lowest < highest < math.inf:
        raise InvalidArgumentError("highest", highest, f"be above lowest ({lowest:g}) and finite")
    if steps < 20:
        raise InvalidArgumentError("steps", steps, "be at least 20")
    if seed < 0:
        raise InvalidArgumentError("seed", seed, "be at least 0")
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise InvalidArgumentError("model", model.name, "be compiled with an optimizer")
    batches = [keras.utils.unpack_x_y_sample_weight(batch) for batch in dataset.take(_BATCHES)]
    if not batches:
        raise InvalidArgumentError("dataset", 0, "hold at least one batch")
    with _borrowed(model, batches[0]) as (step, restore):
        return _measure(step, restore, batches, np.geomspace(lowest, highest, steps), seed)


def _measure(
    step: Callable[[Any, float], float], restore: Callable[[], None], batches: list[Any], rates: Floats, seed: int
) -> LearningRateRange:
    start, order_used = np.empty(len(batches)), []
    for index, batch in enumerate(batches):
        restore()
        start[index] = step(batch, 0.0)  # Even without a rate, a gradient that is not finite spoils the weights.
    usable = np.flatnonzero(np.isfinite(start))
    if not len(usable):
        raise InvalidArgumentError(
            "dataset", f"{len(start)} batches", "hold a batch whose loss and gradient are finite"
        )

    def sweep(rates: Floats, has_diverged: Callable[[Sequence[float]], bool]) -> Floats:
        restore()
        random = np.random.default_rng(seed)
        order = itertools.chain.from_iterable(random.permutation(usable) for _ in itertools.count())
        changes: list[float] = []
        for rate, index in zip(rates, order, strict=False):
            changes.append(step(batches[index], float(rate)) - start[index])
            order_used.append(index)
            if has_diverged(changes):
                break
        return np.array(changes)

    level = float(np.median(np.abs(start[usable])))
    changes = sweep(rates, lambda changes: _is_lost(changes, level))
    losses = start[order_used] + changes
    margin = max(_NOISE_SDS * _noise(changes), _RISE_SHARE * level, robust_sd(start[usable]))
    used = rates[: len(changes)]
    lowest_useful, steepest = _fall(used, changes, level, len(rates))
    return LearningRateRange(
        rates=used,
        losses=losses,
        steps=len(rates),
        highest_stable=_threshold(sweep, used, _is_lost(changes, level), margin),
        lowest_useful=lowest_useful,
        steepest=steepest,
    )


def _is_lost(changes: Sequence[float] | Floats, level: float) -> bool:
    """Whether the growing rate's loss, as the median of three steps, has risen or lost half of what it had fallen."""
    if not np.isfinite(changes[-1]):
        return True
    if len(changes) < 5:
        return False
    best = min(0.0, float(_medians(np.array(changes), 5).min()))
    margin = max(_NOISE_SDS * _noise(np.array(changes)), _LOST_SHARE * -best, _USEFUL_SHARE * level)
    return float(np.median(changes[-3:])) > best + margin


def _threshold(sweep: _Sweep, rates: Floats, has_diverged: bool, margin: float) -> float:
    """Bisects, on the logarithm, for the largest rate that is stable when it is held from the start."""

    def rises(changes: Sequence[float] | Floats) -> bool:
        if not np.isfinite(changes[-1]):
            return True
        return float(np.median(changes[-3:])) > margin or float(changes[-1]) > 4 * margin

    def is_stable(rate: float) -> bool:
        return not rises(sweep(np.full(_PROBE_STEPS, rate), rises))

    lowest, highest = float(rates[0]), float(rates[-1])
    if not has_diverged and is_stable(highest):
        return highest
    stable, unstable = highest / _PROBE_RANGE, highest
    for _ in range(_PROBES):
        rate = math.sqrt(stable * unstable)
        if is_stable(rate):
            stable = rate
        else:
            unstable = rate
    was_seen = stable > highest / _PROBE_RANGE or is_stable(stable)
    return stable if stable >= lowest and was_seen else math.nan


def _fall(rates: Floats, changes: Floats, level: float, steps: int) -> tuple[float, float]:
    """Lowest useful and steepest rate; NaN both where the loss does not fall beyond its noise."""
    smooth = _medians(changes, 5)
    bottom = int(np.argmin(smooth))
    real = max(_NOISE_SDS * _noise(changes), _REAL_SHARE * level)
    if not -smooth[bottom] > real:
        return math.nan, math.nan
    has_fallen = smooth[: bottom + 1] < -max(real / 2, _USEFUL_SHARE * -smooth[bottom])
    begin = int(np.flatnonzero(~has_fallen)[-1]) + 1 if not has_fallen.all() else 0
    # To first order a step moves the weights by its rate, so the sum of rates is what the fall took.
    lowest_useful = float(rates[: begin + 1].sum()) / steps
    slopes = np.diff(_medians(smooth, 5)[: bottom + 1])
    return lowest_useful, float(rates[int(np.argmin(slopes))] if len(slopes) else rates[bottom])


def _medians(values: Floats, width: int) -> Floats:
    """Centred running median, over fewer values at the ends. Shape (n,)."""
    half = width // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _noise(changes: Floats) -> float:
    """Robust standard deviation of a change at rates too low to matter, by the differences of the first ten steps."""
    early = changes[:11]
    early = early[np.isfinite(early)]
    return robust_sd(np.diff(early)) / math.sqrt(2) if len(early) > 2 else 0.0


@contextlib.contextmanager
def _borrowed(model: keras.Model, batch: Any) -> Iterator[tuple[Callable[[Any, float], float], Callable[[], None]]]:
    """A train step at any rate and a way back to the start; afterwards the model is as it was."""
    optimizer = model.optimizer
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    config = optimizer.get_config()
    if "learning_rate" not in config:
        raise InvalidArgumentError("model", type(optimizer).__name__, "have an optimizer with a learning_rate")
    fresh = type(optimizer).from_config({**config, "learning_rate": 0.0})
    if not model.built:
        model(batch[0])
    kept = {name: getattr(model, name) for name in ("optimizer", "train_function", "steps_per_execution")}
    fresh.build(model.trainable_variables)
    own = [(variable, variable.numpy()) for variable in (*model.variables, *model.metrics_variables)]
    begin = [*own, *((variable, variable.numpy()) for variable in fresh.variables)]

    def restore() -> None:
        for variable, value in begin:
            variable.assign(value)

    def step(batch: Any, rate: float) -> float:
        fresh.learning_rate = rate
        model.reset_metrics()  # Keras logs the mean since the last reset.
        x, y, sample_weight = batch
        loss = float(model.train_on_batch(x, y, sample_weight, return_dict=True)["loss"])
        weights = (variable.value for variable in model.trainable_variables)
        return loss if all(bool(keras.ops.all(keras.ops.isfinite(weight))) for weight in weights) else math.inf

    try:
        model.optimizer, model.train_function, model.steps_per_execution = fresh, None, 1
        yield step, restore
    finally:
        model.reset_metrics()
        for variable, value in own:
            variable.assign(value)
        for name, value in kept.items():
            setattr(model, name, value)
