"""The guard inside real Keras optimizers: by hand-made losses and gradients, and by `fit`."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import spikeguard
from spikeguard.components.guarded_trainer.guard import SpikeGuard
from spikeguard.components.guarded_trainer.guard_action import GuardAction
from spikeguard.components.guarded_trainer.guard_state import Counts, GuardEvent
from spikeguard.components.guarded_trainer.usual_level import UsualLevel

A = GuardAction
CALM = 64
RATE = 0.1


class Loop:
    """A training whose losses and gradients are given; traced once and set back for each test."""

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, shapes: Sequence[tuple[int, ...]] = ((4,),), has_loss: bool = True
    ) -> None:
        self.optimizer, self.has_loss = optimizer, has_loss
        self.weights = [keras.Variable(np.zeros(shape, "float32")) for shape in shapes]
        optimizer.build(self.weights)
        signature = [tf.TensorSpec(()), *(tf.TensorSpec(shape) for shape in shapes)]
        self._step = tf.function(self._traced, input_signature=signature)
        self._initial = [variable.numpy() for variable in (*self.weights, *optimizer.variables)]

    def _traced(self, loss: tf.Tensor, *gradients: tf.Tensor) -> None:
        if self.has_loss:
            self.optimizer.scale_loss(loss)
        self.optimizer.apply(gradients, self.weights)

    def reset(self) -> Loop:
        for variable, value in zip((*self.weights, *self.optimizer.variables), self._initial, strict=True):
            variable.assign(value)
        return self

    def step(self, loss: float = 1.0, norm: float = 1.0) -> np.ndarray:
        """One step by a gradient of this global norm, the same in all elements. Returns the change of the first weights."""
        size = sum(np.prod(weight.shape) for weight in self.weights)
        return self.step_by(loss, *(np.full(weight.shape, norm / np.sqrt(size)) for weight in self.weights))

    def step_by(self, loss: float, *gradients: np.ndarray) -> np.ndarray:
        before = self.weights[0].numpy().copy()
        self._step(tf.constant(loss, tf.float32), *(tf.constant(gradient, tf.float32) for gradient in gradients))
        with np.errstate(invalid="ignore"):
            return np.asarray(self.weights[0].numpy() - before)

    def calm(self, steps: int = CALM, first: int = 0) -> None:
        for loss, norm in zip(LOSSES[first : first + steps], NORMS[first : first + steps], strict=True):
            self.step(loss, norm)

    def state(self) -> list[np.ndarray]:
        """Weights and moments, without the count of iterations and the rate."""
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        moments = [variable for variable in inner.variables if variable.shape != ()]
        return [variable.numpy().copy() for variable in (*self.weights, *moments)]

    def events(self) -> list[tuple[int, GuardAction]]:
        return [(event.step, event.action) for event in self.optimizer.events()]

    @property
    def factor(self) -> float:
        return float(self.optimizer.factor.numpy())


# Uniform noise has no outliers: its limit, five times as far above the median as the 90th percentile, is out of its reach.
_NOISE = np.random.default_rng(0).uniform(-1.0, 1.0, size=(2, 200))
LOSSES, NORMS = 1.0 + 0.1 * _NOISE[0], np.exp(0.3 * _NOISE[1])


@functools.cache
def _cached(make: Callable[..., keras.optimizers.Optimizer], shapes: Any, has_loss: bool, options: Any) -> Loop:
    return Loop(SpikeGuard(make(), **dict(options)), shapes, has_loss)


def _sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(RATE)


def _scheduled_sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(RATE, 100, 0.5))


def _momentum() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True)


def _adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9))


def _adamw() -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(0.001, weight_decay=0.01)


def _loop(make: Any = _sgd, shapes: Any = ((4,),), has_loss: bool = True, **options: Any) -> Loop:
    return _cached(make, shapes, has_loss, tuple(options.items())).reset()


def _quick_loop(make: Any = _sgd) -> Loop:
    return _loop(make, snapshot_steps=1, recovery_steps=8, max_rollbacks=2)


def _limit(norms: np.ndarray) -> float:
    """The norm's limit by the documented rule."""
    ranked = np.sort(np.log(norms[-64:]))
    median, upper = ranked[int((len(ranked) - 1) * 0.5)], ranked[int((len(ranked) - 1) * 0.9)]
    return float(np.exp(median + max(5.0 * (upper - median), np.log(2.0))))


def _assert_same(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# Healthy trainings


@pytest.mark.parametrize("make", [_adam, _momentum, _adamw])
def test_training_is_bit_identical_when_it_is_healthy(make: Any) -> None:
    shapes = ((8, 8), (8,))
    guarded, plain = _loop(make, shapes), Loop(make(), shapes)
    for loop in (guarded, plain):
        rng = np.random.default_rng(1)
        for _ in range(150):
            loop.step_by(rng.uniform(0.9, 1.1), *(rng.normal(size=shape) * 0.01 for shape in shapes))
    _assert_same(guarded.state(), plain.state())
    assert guarded.optimizer.events() == ()
    assert (guarded.factor, int(guarded.optimizer.action.numpy()), guarded.optimizer.steps) == (1.0, 0, 150)
    assert int(guarded.optimizer.iterations) == int(plain.optimizer.iterations) == 150


@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential", "signed"])
def test_nothing_is_done_when_first_losses_are_noisy(draw: str) -> None:
    loop = _loop()
    for seed in range(6):
        rng, loop = np.random.default_rng(seed), loop.reset()
        noise = {
            "normal": 1.0 + 0.3 * rng.normal(size=40),
            "lognormal": np.exp(0.5 * rng.normal(size=40)),
            "exponential": rng.exponential(size=40),
            "signed": rng.normal(size=40),
        }[draw]
        for loss in noise:
            loop.step(loss)
        assert loop.events() == []


def test_nothing_is_done_when_one_loss_is_high() -> None:
    loop = _loop()
    loop.calm()
    for loss in (100.0, 1.0, 100.0, 100.0, 1.0):
        np.testing.assert_allclose(loop.step(loss), -RATE / 2, rtol=1e-5)
    assert loop.events() == []


def test_nothing_is_done_when_losses_are_negative() -> None:
    loop = _loop()
    for loss in LOSSES[:CALM]:
        loop.step(loss - 2.0)
    assert loop.events() == []
    # The limit is -1 + 5 * 0.08: a loss of 0 is above it.
    for _ in range(3):
        loop.step(0.0)
    assert loop.events() == [(CALM + 3, A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS)]


def test_zero_gradients_are_healthy_and_leave_no_trace() -> None:
    loop = _loop()
    for _ in range(30):
        loop.step(norm=0.0)
    for norm in (1.0, 3.9, 15.0):  # Each below four times the largest so far.
        np.testing.assert_allclose(loop.step(norm=norm), -RATE * norm / 2, rtol=1e-5)
    loop.reset().calm(15)
    for _ in range(3):
        loop.step(norm=0.0)
    np.testing.assert_allclose(loop.step(norm=100.0), -RATE * 4 * NORMS[:15].max() / 2, rtol=1e-4)
    loop.calm(CALM - 15, first=15)
    for _ in range(20):
        loop.step(norm=0.0)
    np.testing.assert_allclose(loop.step(norm=100.0), -RATE * _limit(NORMS[:CALM]) / 2, rtol=1e-4)
    assert [step for step, _ in loop.events()] == [19, 89]


# Skipped steps


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (np.nan, 1.0, A.NON_FINITE_LOSS),
        (np.inf, 1.0, A.NON_FINITE_LOSS),
        (-np.inf, 1.0, A.NON_FINITE_LOSS),
        (1.0, np.nan, A.NON_FINITE_GRADIENT),
        (1.0, np.inf, A.NON_FINITE_GRADIENT),
        (1.0, 1e25, A.NON_FINITE_GRADIENT),
        (np.nan, np.nan, A.NON_FINITE_LOSS | A.NON_FINITE_GRADIENT),
    ],
)
def test_step_is_skipped_when_it_is_not_finite(loss: float, norm: float, reason: GuardAction) -> None:
    loop = _loop(_adam, ((8, 8), (8,)))
    loop.calm(20)
    before = loop.state()
    loop.step(loss, norm)
    _assert_same(loop.state(), before)
    assert (int(loop.optimizer.iterations), loop.optimizer.steps) == (20, 21)
    assert loop.events() == [(21, A.SKIP | reason)]
    assert A(int(loop.optimizer.action.numpy())) == A.SKIP | reason
    (event,) = loop.optimizer.events()
    assert isinstance(event, GuardEvent)
    np.testing.assert_array_equal(event.loss, loss)
    assert event.factor == loop.factor == 1.0
    loop.step()
    assert int(loop.optimizer.action.numpy()) == 0


def test_only_one_return_is_made_when_many_batches_in_a_row_are_not_finite() -> None:
    loop = _loop()
    loop.calm()
    for _ in range(100):
        loop.step(np.nan)
    rolled_back = [step for step, action in loop.events() if A.ROLLBACK in action]
    assert rolled_back == [CALM + 3]
    assert loop.factor == 0.5
    assert not any(A.GAVE_UP in action for _, action in loop.events())
    np.testing.assert_allclose(loop.step(), -RATE * 0.5 / 2, rtol=1e-4)
    # Losses that are not finite again once weights have moved are the weights' fault.
    for _ in range(3):
        loop.step(np.nan)
    assert loop.events()[-1] == (CALM + 104, A.ROLLBACK | A.BACK_OFF | A.SKIP | A.NON_FINITE_LOSS)


def test_nothing_is_given_up_when_no_state_was_ever_good() -> None:
    loop = _loop()
    for _ in range(5):
        loop.step(np.nan)
    assert loop.events() == [(step, A.SKIP | A.NON_FINITE_LOSS) for step in range(1, 6)]


def test_last_1024_events_are_told_when_there_were_more() -> None:
    loop = _loop()
    for _ in range(1100):
        loop.step(np.nan)
    assert [event.step for event in loop.optimizer.events()] == list(range(77, 1101))


# Clipped steps


def test_gradient_is_clipped_to_the_limit_when_it_exceeds_it() -> None:
    loop = _loop()
    loop.calm(70)
    limit = _limit(NORMS[:CALM])  # Refreshed at every eighth healthy step.
    np.testing.assert_allclose(loop.step(norm=0.999 * limit), -RATE * 0.999 * limit / 2, rtol=1e-5)
    np.testing.assert_allclose(loop.step(norm=50.0), -RATE * limit / 2, rtol=1e-5)
    assert loop.events() == [(72, A.CLIP | A.HIGH_GRADIENT_NORM)]
    assert loop.optimizer.events()[0].gradient_norm == pytest.approx(50.0, rel=1e-5)
    assert loop.optimizer.events()[0].loss == 1.0


def test_limit_is_twice_the_median_when_norms_do_not_vary() -> None:
    loop = _loop()
    for _ in range(16):
        loop.step(norm=3.0)
    np.testing.assert_allclose(loop.step(norm=50.0), -RATE * 6.0 / 2, rtol=1e-5)


def test_limit_is_four_times_the_largest_norm_when_history_is_short() -> None:
    loop = _loop()
    for norm in (1.0, 2.0, 1.5):
        loop.step(norm=norm)
    np.testing.assert_allclose(loop.step(norm=80.0), -RATE * 8.0 / 2, rtol=1e-5)
    loop.reset().calm(15)
    np.testing.assert_allclose(loop.step(norm=80.0), -RATE * 4.0 * NORMS[:15].max() / 2, rtol=1e-5)
    loop.reset().calm(16)
    np.testing.assert_allclose(loop.step(norm=80.0), -RATE * _limit(NORMS[:16]) / 2, rtol=1e-5)


def test_limit_follows_the_last_64_healthy_norms_when_outliers_lie_between() -> None:
    loop = _loop()
    loop.calm()
    for step in range(CALM, CALM + 40):
        loop.step(norm=50.0)
        loop.step(norm=2.0 if step > CALM + 8 else NORMS[step])
    healthy = np.append(NORMS[: CALM + 9], np.full(31, 2.0))
    np.testing.assert_allclose(loop.step(norm=50.0), -RATE * _limit(healthy) / 2, rtol=1e-4)
    assert all(action == A.CLIP | A.HIGH_GRADIENT_NORM for _, action in loop.events())
    assert len(loop.events()) == 41


def test_factor_is_halved_when_clips_outnumber_healthy_steps_by_eight() -> None:
    loop = _loop()
    loop.calm()
    for _ in range(20):
        loop.step(norm=50.0)
        loop.step()
    assert loop.factor == 1.0
    for _ in range(9):
        loop.step(norm=50.0)
    clip = A.CLIP | A.HIGH_GRADIENT_NORM
    last = CALM + 40
    assert loop.events()[-3:] == [(last + 7, clip), (last + 8, clip | A.BACK_OFF), (last + 9, clip)]
    np.testing.assert_allclose(loop.step(), -RATE * 0.5 / 2, rtol=1e-4)


def test_factor_is_halved_when_skips_and_clips_alternate() -> None:
    loop = _loop()
    loop.calm()
    for _ in range(4):
        loop.step(np.nan)
        loop.step(norm=50.0)
    skip, clip = A.SKIP | A.NON_FINITE_LOSS, A.CLIP | A.HIGH_GRADIENT_NORM
    assert [action for _, action in loop.events()] == 3 * [skip, clip] + [skip, clip | A.BACK_OFF]


def test_level_of_the_norm_is_accepted_when_it_lasts_32_steps() -> None:
    loop = _loop()
    loop.calm()
    for norm in NORMS[:40]:
        change = loop.step(norm=100.0 * norm)
    assert [step for step, _ in loop.events()] == list(range(CALM + 1, CALM + 33))
    # 32 clips in a row have lowered the factor four times; eight healthy steps since have raised it hardly.
    np.testing.assert_allclose(change, -RATE * 2.0**-4 * 100.0 * NORMS[39] / 2, rtol=1e-3)


# Returns


def test_weights_and_moments_return_when_raised_losses_persist() -> None:
    loop = _loop(_adam, snapshot_steps=10)
    states = []
    for loss, norm in zip(LOSSES[:CALM], NORMS[:CALM], strict=True):
        states.append(loop.state())
        loop.step(loss, norm)
    for loss in (2.0, np.nan, 2.0):
        assert loop.factor == 1.0
        loop.step(loss)
    # Kept at the first step, then every tenth: the state before step 61.
    _assert_same(loop.state(), states[60])
    assert any(np.any(one != other) for one, other in zip(states[60], states[63], strict=True))
    assert loop.events()[1:] == [(CALM + 3, A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS)]
    assert (loop.factor, loop.optimizer.events()[-1].factor) == (0.5, 0.5)
    assert int(loop.optimizer.iterations) == CALM + 1


def test_state_of_a_multiple_of_eight_returns_when_the_start_is_over() -> None:
    loop = _quick_loop()
    states = []
    for loss, norm in zip([*LOSSES[:150], 2.0, 2.0, 2.0], NORMS, strict=False):
        states.append(loop.state())
        loop.step(loss, norm)
    # Although a state may be kept at every step, the last before the losses rose is the one before step 144.
    _assert_same(loop.state(), states[143])
    assert loop.events() == [(153, A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS)]


@pytest.mark.parametrize(("rolls_back", "steps"), [(False, 650), (True, 128)], ids=["long", "start"])
def test_steps_that_need_nothing_change_nothing_else(
    monkeypatch: pytest.MonkeyPatch, rolls_back: bool, steps: int
) -> None:
    """The short way through a quiet step against the full one, which after the start would keep states more often."""
    rng = np.random.default_rng(3)
    # 400 eventful steps, 200 calm ones, in which the guard looks at every 32nd only, and a few events more.
    losses, norms = rng.uniform(0.9, 1.1, size=650), np.exp(0.3 * rng.uniform(-1.0, 1.0, size=650))
    losses[rng.choice(400, 10)], norms[rng.choice(400, 10)] = np.nan, 0.0
    norms[rng.choice(400, 30)] = 50.0
    norms[600 + rng.choice(50, 5)], losses[640] = 50.0, np.nan
    losses[90:93] = 5.0
    losses[steps - 1] = np.nan  # Both have caught up when it ends.
    found, quiet_steps = [], UsualLevel._quiet_steps
    for quiet in (quiet_steps, lambda self, counts: 0 * quiet_steps(self, counts)):
        monkeypatch.setattr(UsualLevel, "_quiet_steps", quiet)
        loop = Loop(SpikeGuard(_momentum(), rolls_back=rolls_back, snapshot_steps=10), _KERNEL)
        since = 0
        for loss, norm in zip(losses[:steps], norms[:steps], strict=True):
            loop.step(loss, norm)
            since = max(since, int(loop.optimizer._since.numpy()))
        # The last count tells how many quiet steps may follow, and so does the gate.
        counts = loop.optimizer._counts.numpy()[:-1]
        apart = (loop.optimizer._counts, loop.optimizer._gate)
        others = [one.numpy() for one in loop.optimizer.variables if not any(one is other for other in apart)]
        found.append(([*loop.state(), counts, *others], repr(loop.optimizer.events()), since))
    assert found[0][1] == found[1][1] != "()"
    _assert_same(found[0][0], found[1][0])
    assert found[0][2] > found[1][2] == 0


@pytest.mark.parametrize("after", [1, 31])
def test_step_is_skipped_when_it_comes_between_two_looks(after: int) -> None:
    loop = _loop(_adam, ((8, 8), (8,)))
    for step in range(160 + after - 1):
        loop.step(LOSSES[step % 64], NORMS[step % 64])
    assert int(loop.optimizer._since.numpy()) == after - 1
    before = loop.state()
    loop.step(norm=np.nan)
    _assert_same(loop.state(), before)
    assert loop.events() == [(160 + after, A.SKIP | A.NON_FINITE_GRADIENT)]
    assert (loop.optimizer.steps, int(loop.optimizer.iterations)) == (160 + after, 160 + after - 1)


def test_step_is_skipped_when_the_limit_is_beyond_all_numbers() -> None:
    loop = _loop()
    for _ in range(25):
        loop.step(norm=1.5e19)
    assert np.isinf(loop.optimizer._limits.numpy()[0])
    assert int(loop.optimizer._since.numpy()) == 1
    loop.step(norm=1e25)
    assert loop.events() == [(26, A.SKIP | A.NON_FINITE_GRADIENT)]


def test_all_steps_are_counted_when_some_of_them_were_quiet() -> None:
    loop = _loop()
    for step in range(150):
        loop.step(LOSSES[step], NORMS[step])
        assert loop.optimizer.steps == step + 1
    assert int(loop.optimizer._since.numpy()) > 0


def test_kept_state_is_from_before_the_losses_rose() -> None:
    loop = _quick_loop()
    loop.calm(CALM - 1)
    kept = loop.state()
    for loss in (1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0):
        loop.step(loss)
    _assert_same(loop.state(), kept)


def test_training_goes_on_when_all_returns_are_spent() -> None:
    loop = _quick_loop()
    loop.calm()
    for loss in 2 * ([2.0] * 3 + [1.0] * 80):
        loop.step(loss)
    for _ in range(40):
        assert (loop.step(2.0) < 0).all()
    back = A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS
    assert loop.events() == [(CALM + 3, back), (CALM + 86, back), (CALM + 169, A.GAVE_UP | A.HIGH_LOSS)]
    assert loop.factor == 1.0


@pytest.mark.parametrize(
    ("losses", "at"),
    [
        ([1.0] * 7 + [100.0] * 3, None),  # Fewer than eight limit nothing.
        ([1.0] * 8 + [3.9] * 3, None),  # Four times the median.
        ([1.0] * 8 + [4.1] * 3, 11),
        ([1.0] * 64 + [1.19] * 3, None),  # A fifth of the median.
        ([1.0] * 64 + [1.21] * 3, 67),
        ([-1.0] * 64 + [-0.81] * 3, None),
        ([-1.0] * 64 + [-0.79] * 3, 67),
        ([1.0] * 64 + [1.09] * 80, None),  # The level may rise by a tenth ...
        ([-1.0] * 64 + [-0.91] * 80, None),
        ([1.0] * 64 + [1.11] * 44, 107),  # ... which the median tells after 33 steps, refreshed at the 40th.
        ([-1.0] * 64 + [-0.89] * 44, 107),
    ],
)
def test_losses_are_raised_from_the_least_rise_on(losses: list[float], at: int | None) -> None:
    loop = _quick_loop()
    for loss in losses:
        loop.step(loss)
    assert [step for step, _ in loop.events()] == ([] if at is None else [at])


def test_weights_return_when_the_level_has_risen_without_a_high_loss() -> None:
    loop = _quick_loop()
    losses = np.concatenate([LOSSES[:CALM], LOSSES[:100] + 0.002 * np.arange(100), LOSSES + 0.2])
    kept = []
    for loss in losses:
        before = loop.state()
        loop.step(loss)
        if loop.events():
            break
        kept.append(before)
    ((at, action),) = loop.events()
    assert action == A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS
    assert at == loop.optimizer.steps > CALM + 50
    assert losses[: at - 2].max() < np.median(LOSSES[:CALM]) + 5 * 0.06  # None was high by itself.
    # The kept state is of a time when the median had risen by half of what counts, 0.05, at most.
    medians = [np.median(losses[max(0, end - 64) : end]) for end in range(1, at)]
    (found,) = [number for number, one in enumerate(kept) if np.array_equal(one[0], loop.state()[0])]
    assert CALM < found < at - 10
    assert medians[found - 8] <= 1.07
    # The weights being good, a level that stays is the data's.
    for loss in losses[at:]:
        loop.step(loss)
    assert len(loop.events()) == 1


def test_level_of_the_loss_is_accepted_when_it_stays_after_the_return() -> None:
    loop = _loop()
    loop.calm()
    for loss in LOSSES[:100]:
        loop.step(10.0 * loss)
    action = A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS
    assert loop.events() == [(CALM + 3, action), (CALM + 6, action)]


def test_patience_counts_when_it_is_longer_than_a_shift_of_level() -> None:
    loop = _loop(patience=40)
    loop.calm()
    for _ in range(40):
        loop.step(2.0)
    assert loop.events() == [(CALM + 40, A.ROLLBACK | A.BACK_OFF | A.SKIP | A.HIGH_LOSS)]


# Factor


@pytest.mark.parametrize("make", [_sgd, _scheduled_sgd], ids=["number", "schedule"])
def test_factor_multiplies_the_update(make: Any) -> None:
    loop = _quick_loop(make)
    loop.calm()
    for _ in range(6):
        loop.step(2.0)
    assert loop.factor == 0.25
    rate = RATE if make is _sgd else RATE * 0.5 ** (int(loop.optimizer.iterations) / 100)
    np.testing.assert_allclose(loop.step(norm=3.0), -rate * 0.25 * 3.0 / 2, rtol=1e-5)
    assert float(keras.ops.convert_to_numpy(loop.optimizer.learning_rate)) == pytest.approx(rate, rel=0.01)


def test_factor_rises_at_each_eighth_step_however_long_all_was_calm() -> None:
    loop = _loop(shapes=_KERNEL)
    for loss in [1.0] * 128 + [2.0] * 3:
        loop.step(loss, norm=0.2)
    assert loop.factor == 0.5
    factors = []
    for _ in range(160):
        loop.step(1.0, norm=0.2)
        factors.append(loop.factor)
    np.testing.assert_allclose(factors, 2.0 ** (-1 + (np.arange(1, 161) // 8) * 8 / 1000), rtol=1e-4)


@pytest.mark.parametrize(("back_offs", "speed"), [(1, 2.0), (2, 4.0)])
def test_factor_doubles_ever_more_slowly_when_it_was_lowered_before(back_offs: int, speed: float) -> None:
    loop = _quick_loop()
    loop.calm()
    for _ in range(3 * back_offs):
        loop.step(2.0)
    factors = []
    for _ in range(80):
        loop.step(1.0)
        factors.append(loop.factor)
    # Every eighth healthy step raises it.
    expected = np.minimum(1.0, 2.0 ** (-back_offs + (np.arange(1, 81) // 8) / speed))
    np.testing.assert_allclose(factors, expected, rtol=1e-5)
    assert factors[-1] == 1.0


# Bound on updates

_KERNEL = ((4, 3), (3,))
_BOUND = np.sqrt(2 * 12 / 7) / 8


def test_update_is_shortened_to_the_bound_when_it_exceeds_it() -> None:
    loop = _loop(shapes=_KERNEL)
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
    change = loop.step_by(1.0, 100 * kernel, 100 * bias)
    np.testing.assert_allclose(change, -_BOUND * kernel / np.linalg.norm(kernel), rtol=1e-4)
    np.testing.assert_allclose(loop.weights[1].numpy(), -_BOUND * bias / np.linalg.norm(kernel), rtol=1e-4)
    assert loop.events() == [(1, A.BACK_OFF | A.LARGE_UPDATE)]
    assert (loop.factor, loop.optimizer.events()[0].factor) == (0.5, 0.5)
    # Below the bound the next one is whole.
    change = loop.step_by(1.0, 0.9 * _BOUND / (0.05 * np.linalg.norm(kernel)) * kernel, bias)
    np.testing.assert_allclose(np.linalg.norm(change), 0.9 * _BOUND, rtol=1e-4)
    assert len(loop.events()) == 1


def test_updates_are_measured_at_the_first_16_steps_and_each_eighth() -> None:
    loop = _loop(shapes=_KERNEL, backs_off=False)
    changes = [np.linalg.norm(loop.step(norm=100.0)) for _ in range(40)]
    measured = [*range(1, 17), 24, 32, 40]
    assert loop.events() == [(step, A.LARGE_UPDATE) for step in measured]
    np.testing.assert_allclose([changes[step - 1] for step in measured], _BOUND, rtol=1e-3)
    assert min(change for step, change in enumerate(changes, start=1) if step not in measured) > 4.0
    assert loop.factor == 1.0


def _rate_jumps_after_calm(change: float, steps: int = 168 + 64, **options: Any) -> Loop:
    """168 steps that each change the kernel by this share of the bound, then others of 16 times the bound."""
    loop = _loop(shapes=_KERNEL, backs_off=False, **options)
    norm = change * _BOUND / RATE * np.sqrt(15 / 12)  # Of kernel and bias, 12 and 3 elements.
    for step in range(steps):
        if step == 168:
            loop.optimizer.learning_rate = RATE * 16 / change
        loop.step(norm=norm)
    return loop


def test_updates_are_measured_at_each_32nd_step_while_all_is_calm() -> None:
    # What was shortened is unusual: from there on every eighth is measured again.
    steps = [step for step, _ in _rate_jumps_after_calm(0.1).events()]
    assert steps == [192, 200, 208, 216, 224, 232]


def test_step_after_a_shortened_one_is_told_no_action_and_keeps_no_state() -> None:
    """It is looked at for the sake of the action alone: a state is due there, and is kept at the next multiple of eight."""
    loop = _rate_jumps_after_calm(0.1, 192, snapshot_steps=192)
    assert A(int(loop.optimizer.action.numpy())) == A.LARGE_UPDATE
    kept = []
    for _ in range(8):
        loop.step(norm=0.01)
        assert int(loop.optimizer.action.numpy()) == 0
        kept.append(int(loop.optimizer._counts.numpy()[Counts._fields.index("kept")]))
    assert kept == [1] * 7 + [2]


def test_updates_are_measured_at_each_eighth_step_when_they_come_near_the_bound() -> None:
    steps = [step for step, _ in _rate_jumps_after_calm(0.5).events()]
    assert steps == [176, 184, 192, 200, 208, 216, 224, 232]


def test_velocity_is_shortened_too_when_it_would_repeat_the_step() -> None:
    loop = _loop(lambda: keras.optimizers.SGD(RATE, momentum=0.9), shapes=_KERNEL)
    first, second = loop.step(norm=1e6), loop.step(norm=0.0)
    np.testing.assert_allclose(np.linalg.norm(first), _BOUND, rtol=1e-4)
    np.testing.assert_allclose(second, 0.9 * first, rtol=1e-4)
    assert len(loop.events()) == 1


def test_one_event_tells_both_when_a_step_is_clipped_and_shortened() -> None:
    loop = _loop(shapes=_KERNEL)
    loop.calm(15)
    change = loop.step(norm=1e6)
    assert np.linalg.norm(change) == pytest.approx(_BOUND, rel=1e-4)
    assert loop.events() == [(16, A.CLIP | A.HIGH_GRADIENT_NORM | A.BACK_OFF | A.LARGE_UPDATE)]


# Kinds of gradients


def test_norm_stands_for_the_loss_when_that_is_not_shown() -> None:
    loop = _loop(has_loss=False, snapshot_steps=1)
    for norm in [1.0] * CALM + [1.9] * 3:
        loop.step(norm=norm)
    assert loop.events() == []
    loop.reset()
    # A slow rise of norms, as of many healthy trainings, is none of the loss.
    # The state is kept at the last step: its number is a multiple of eight.
    for step in range(304):
        loop.step(norm=NORMS[step % 200] * 1.005**step)
    assert loop.events() == []
    kept = loop.state()
    for _ in range(3):
        loop.step(norm=1000.0)
    clip = A.CLIP | A.HIGH_GRADIENT_NORM | A.HIGH_LOSS
    assert [action for _, action in loop.events()] == [clip, clip, A.ROLLBACK | A.BACK_OFF | A.SKIP | clip & ~A.CLIP]
    assert np.abs(loop.state()[0] - kept[0]).max() < 1.0
    assert loop.optimizer.events()[0].loss == pytest.approx(1000.0)


def test_loss_of_an_earlier_step_is_not_taken_for_this_ones() -> None:
    weight = keras.Variable(np.ones(2, "float32"))
    guard = SpikeGuard(keras.optimizers.SGD(0.01))
    guard.scale_loss(tf.constant(7.0))
    guard.apply([tf.ones(2)], [weight])
    guard.apply([tf.constant([np.nan, 1.0])], [weight])
    (event,) = guard.events()
    assert event.step == 2
    assert np.isnan(event.loss)


def test_embedding_is_clipped_and_else_updated_as_without_the_guard() -> None:
    def train(optimizer: keras.optimizers.Optimizer) -> tuple[list[np.ndarray], Any]:
        table, kernel = keras.Variable(np.ones((10, 2), "float32")), keras.Variable(np.ones((2, 2), "float32"))
        optimizer.build([table, kernel])

        @tf.function(input_signature=[tf.TensorSpec(())])
        def step(scale: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                rows = tf.gather(table.value, [1, 4])
                loss = optimizer.scale_loss(tf.reduce_sum(rows) + tf.reduce_sum(kernel.value))
            gradients = tape.gradient(loss, [table.value, kernel.value])
            assert isinstance(gradients[0], tf.IndexedSlices)
            scaled = [tf.math.scalar_mul(scale, gradient) for gradient in gradients]
            optimizer.apply(scaled, [table, kernel])

        for _ in range(20):
            step(tf.constant(1.0))
        before = [table.numpy().copy(), kernel.numpy().copy()]
        step(tf.constant(100.0))
        return before, table.numpy() - before[0]

    guard = SpikeGuard(keras.optimizers.SGD(0.001))
    guarded, change = train(guard)
    plain, _ = train(keras.optimizers.SGD(0.001))
    _assert_same(guarded, plain)
    expected = np.zeros((10, 2))
    expected[[1, 4]] = -0.001 * 2.0  # Twice the median of norms that do not vary.
    np.testing.assert_allclose(change, expected, atol=1e-6)
    assert [(event.step, event.action) for event in guard.events()] == [(21, A.CLIP | A.HIGH_GRADIENT_NORM)]


def test_variables_without_gradient_stay_when_others_move() -> None:
    weights = [keras.Variable(np.ones((2, 2), "float32")), keras.Variable(np.ones(2, "float32"))]
    guard = SpikeGuard(keras.optimizers.SGD(0.01))
    guard.build(weights)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        guard.apply([None, tf.ones(2)], weights)
    np.testing.assert_array_equal(weights[0].numpy(), 1.0)
    np.testing.assert_allclose(weights[1].numpy(), 0.99)
    with pytest.raises(ValueError, match="No gradients provided"):
        guard.apply([None, None], weights)
    assert guard.steps == 1


def test_norm_is_told_without_the_scale_when_the_inner_optimizer_scales_losses() -> None:
    loop = _loop(lambda: keras.optimizers.SGD(RATE, loss_scale_factor=8.0))
    for _ in range(16):
        loop.step(norm=8.0)
    np.testing.assert_allclose(loop.step(norm=80.0), -RATE * 2.0 / 2, rtol=1e-5)
    assert loop.optimizer.events()[0].gradient_norm == pytest.approx(10.0, rel=1e-5)


# Parts that are off


def _unguarded_loop() -> Loop:
    return _loop(shapes=_KERNEL, skips=False, clips=False, rolls_back=False, bounds_updates=False)


def test_gradient_that_is_not_finite_passes_when_skips_is_off() -> None:
    loop = _unguarded_loop()
    loop.calm(20)
    loop.step(norm=np.inf)
    assert np.isinf(loop.weights[0].numpy()).all()
    assert loop.events() == []


def test_gradient_is_not_clipped_to_nothing_when_skips_is_off() -> None:
    loop = _loop(skips=False)
    loop.calm(20)
    loop.step(norm=np.inf)
    assert np.isinf(loop.weights[0].numpy()).all()
    assert loop.events() == []
    # Returning is another part: it is on.
    for _ in range(2):
        loop.step(norm=np.inf)
    assert loop.events() == [(23, A.ROLLBACK | A.BACK_OFF | A.SKIP | A.NON_FINITE_GRADIENT)]
    assert np.isfinite(loop.weights[0].numpy()).all()
    # Nothing was kept yet that could be returned to.
    loop.reset()
    for _ in range(3):
        loop.step(norm=np.inf)
    assert loop.events() == []


def test_large_gradient_passes_when_clips_is_off() -> None:
    loop = _unguarded_loop()
    loop.calm()
    for _ in range(20):
        np.testing.assert_allclose(loop.step(norm=50.0), -RATE * 50.0 / np.sqrt(15), rtol=1e-4)
    assert loop.events() == []


def test_factor_stays_when_backs_off_is_off() -> None:
    loop = _loop(shapes=_KERNEL, backs_off=False)
    loop.step(norm=1e3)
    loop.calm()
    for loss in [2.0] * 3 + [1.0] * 10:
        loop.step(loss)
    for _ in range(12):
        loop.step(norm=1e4)
    assert loop.factor == 1.0
    actions = functools.reduce(lambda one, other: one | other, (action for _, action in loop.events()))
    assert A.BACK_OFF not in actions
    assert A.ROLLBACK | A.CLIP | A.LARGE_UPDATE in actions


def test_raised_losses_pass_when_rolls_back_is_off() -> None:
    loop = _unguarded_loop()
    loop.calm()
    for _ in range(20):
        np.testing.assert_allclose(loop.step(50.0), -RATE / np.sqrt(15), rtol=1e-4)
    assert loop.events() == []
    assert not any("snapshot" in variable.name for variable in loop.optimizer.variables)


def test_large_update_passes_when_bounds_updates_is_off() -> None:
    loop = _unguarded_loop()
    change = loop.step(norm=100.0)
    np.testing.assert_allclose(change, -RATE * 100.0 / np.sqrt(15), rtol=1e-5)
    assert loop.events() == []


# Construction


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpikeGuard("adam"), "inner_optimizer must be a Keras optimizer; got 'adam'"),
        (lambda: SpikeGuard(SpikeGuard(_sgd())), "inner_optimizer must not be a SpikeGuard or LossScaleOptimizer"),
        (
            lambda: SpikeGuard(keras.optimizers.LossScaleOptimizer(_sgd())),
            "inner_optimizer must not be a SpikeGuard or LossScaleOptimizer; .* Wrap SpikeGuard by it",
        ),
        (lambda: SpikeGuard(_sgd(), patience=0), "patience must be at least 1; got 0"),
        (lambda: SpikeGuard(_sgd(), recovery_steps=0), "recovery_steps must be at least 1; got 0"),
        (lambda: SpikeGuard(_sgd(), snapshot_steps=-1), "snapshot_steps must be at least 1; got -1"),
        (lambda: SpikeGuard(_sgd(), max_rollbacks=-1), "max_rollbacks must be at least 0; got -1"),
    ],
)
def test_error_names_the_parameter_when_it_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(spikeguard.InvalidArgumentError, match=message):
        make()


def test_configuration_survives_a_round_trip() -> None:
    options = {
        **dict.fromkeys(("skips", "clips", "backs_off", "rolls_back", "bounds_updates"), False),
        **{"patience": 4, "recovery_steps": 7, "snapshot_steps": 9, "max_rollbacks": 0, "name": "mine"},
    }
    guard = SpikeGuard(_adamw(), **options)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(guard))
    assert type(copy) is SpikeGuard
    assert {name: getattr(copy, name) for name in options} == options
    assert copy.get_config() == guard.get_config()
    assert copy.inner_optimizer.weight_decay == 0.01


# Fit

ROWS, BATCH = 160, 8


def _data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def _model(optimizer: keras.optimizers.Optimizer, dtype: str = "float32", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, activation="tanh", dtype=dtype), keras.layers.Dense(1, dtype=dtype)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer, "mse", **{"jit_compile": False, **options})
    return model


def _fit(model: keras.Model, x: np.ndarray, y: np.ndarray, **options: Any) -> None:
    model.fit(x, y, shuffle=False, verbose=0, **{"batch_size": BATCH, **options})


def _spoilt() -> tuple[np.ndarray, np.ndarray]:
    """Step 5 is not finite, step 18 has a label out of range."""
    x, y = _data()
    x[4 * BATCH + 1, 2], y[17 * BATCH + 3] = np.inf, 200.0
    return x, y


@functools.cache
def _reference() -> tuple[list[np.ndarray], tuple[GuardEvent, ...]]:
    model = _model(SpikeGuard(keras.optimizers.Adam(0.01)))
    _fit(model, *_spoilt())
    return model.get_weights(), model.optimizer.events()


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"steps_per_execution": 4}, {"run_eagerly": True}],
    ids=["jit", "steps_per_execution", "eager"],
)
def test_training_is_the_same_when_it_is_compiled_differently(options: dict[str, Any]) -> None:
    weights, events = _reference()
    assert [event.step for event in events] == [5, 18]
    assert A.SKIP in events[0].action
    assert A.CLIP in events[1].action
    model = _model(SpikeGuard(keras.optimizers.Adam(0.01)), **options)
    _fit(model, *_spoilt())
    assert [(event.step, event.action) for event in model.optimizer.events()] == [event[:2] for event in events]
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_scaled_half_precision_is_guarded_as_single_precision_is() -> None:
    guard = SpikeGuard(keras.optimizers.Adam(0.01))
    model = _model(keras.optimizers.LossScaleOptimizer(guard, initial_scale=4.0), dtype="mixed_float16")
    _fit(model, *_spoilt())
    weights, events = _reference()
    # The scale's owner skips by itself, so that the guard sees one step less.
    (event,) = guard.events()
    assert (event.step, guard.steps, int(guard.iterations)) == (17, 19, 19)
    assert A.CLIP | A.HIGH_GRADIENT_NORM in event.action
    assert event.gradient_norm == pytest.approx(events[-1].gradient_norm, rel=0.02)
    assert float(model.optimizer.dynamic_scale.numpy()) == 2.0
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)


def test_training_continues_bit_identically_when_the_model_was_saved(tmp_path: pathlib.Path) -> None:
    model = _model(SpikeGuard(keras.optimizers.Adam(0.01), patience=2, snapshot_steps=5))
    x, y = _spoilt()
    x[5 * BATCH] = np.nan
    _fit(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert repr(loaded.optimizer.events()) == repr(model.optimizer.events())
    assert float(loaded.optimizer.factor.numpy()) == float(model.optimizer.factor.numpy()) < 1.0
    assert loaded.optimizer.steps == 20
    for one in (model, loaded):
        _fit(one, x, y)
    _assert_same(loaded.get_weights(), model.get_weights())
    assert repr(loaded.optimizer.events()) == repr(model.optimizer.events())
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    # Steps are counted over both fits.
    assert {5, 6, 25, 26} <= {event.step for event in model.optimizer.events()}
    assert model.optimizer.steps == 40


def test_statistics_of_batch_norm_return_when_a_batch_is_not_a_number() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile(SpikeGuard(keras.optimizers.Adam(0.01), snapshot_steps=1), "mse", jit_compile=False)
    x, y = _data()
    spoilt = x[:BATCH].copy()
    spoilt[0, 0] = np.nan
    norm = model.layers[1]
    for _ in range(2):  # As by two fits.
        model.optimizer.protect(model.non_trainable_variables)
        for start in range(0, ROWS // 2, BATCH):
            model.train_on_batch(x[start : start + BATCH], y[start : start + BATCH])
        before = [norm.moving_mean.numpy(), norm.moving_variance.numpy()]
        model.train_on_batch(spoilt, y[:BATCH])
        _assert_same([norm.moving_mean.numpy(), norm.moving_variance.numpy()], before)
        assert np.isfinite(before).all()
    assert [event.step for event in model.optimizer.events()] == [11, 22]
    # What was loaded between two fits is not undone by the first step of the second.
    norm.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    model.optimizer.protect(model.non_trainable_variables)
    model.train_on_batch(spoilt, y[:BATCH])
    np.testing.assert_array_equal(norm.moving_mean.numpy(), [1.0, 2.0, 3.0, 4.0])
    # Nor when other variables are protected by then and the step, which is not traced again, knows the first copies only.
    norm.moving_mean.assign([4.0, 3.0, 2.0, 1.0])
    model.optimizer.protect([*model.non_trainable_variables, keras.Variable(1.0)])
    model.train_on_batch(spoilt, y[:BATCH])
    np.testing.assert_array_equal(norm.moving_mean.numpy(), [4.0, 3.0, 2.0, 1.0])


def test_batches_of_one_row_are_trained_and_skipped_one_by_one() -> None:
    x, y = _data()
    x[6, 0] = np.nan
    model = _model(SpikeGuard(keras.optimizers.Adam(0.01)))
    _fit(model, x, y, batch_size=1)
    skipped = [event.step for event in model.optimizer.events() if A.SKIP in event.action]
    assert skipped == [7]
    assert model.evaluate(np.delete(x, 6, axis=0), np.delete(y, 6, axis=0), verbose=0) < 0.5 * np.var(y)


def test_learning_rate_can_be_read_and_set_while_the_factor_is_lowered() -> None:
    model = _model(SpikeGuard(keras.optimizers.SGD(0.08), patience=2))
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.08)
    x, y = _data()
    x[2 * BATCH : 4 * BATCH] = np.nan
    halve = keras.callbacks.ReduceLROnPlateau(monitor="lr_watch", mode="min", factor=0.5, patience=1)

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["lr_watch"] = 1.0

    _fit(model, x, y, epochs=3, callbacks=[Watch(), halve])
    assert float(model.optimizer.factor.numpy()) < 1.0
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.02)
    model.optimizer.learning_rate = 0.01
    assert float(model.optimizer.inner_optimizer._learning_rate.numpy()) == pytest.approx(0.01)
