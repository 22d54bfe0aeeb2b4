"""Each baseline rule against a plain NumPy one, on a fixed sequence of gradients with spikes in it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from tests.bench.guard_baselines import CLIP, SKIP, AdaGC, GlobalClip, GradientRule, OlmoSkipStep, ZClip

Gradients = list[npt.NDArray[np.float64]]
# What a rule did at each step: its action, and the gradients it let through (None for a skipped step).
Trace = list[tuple[int, Gradients | None]]
STEPS = 260
_SPIKES = {70: 30.0, 71: 400.0, 130: 8.0, 131: 9.0, 200: 50.0}


def _sequence() -> tuple[list[Gradients], list[float]]:
    """Gradients of two tensors, and losses, over `STEPS` steps."""
    generator = np.random.default_rng(0)
    gradients, losses = [], []
    for step in range(STEPS):
        factor = _SPIKES.get(step, 1.0)
        pair = [generator.normal(size=(3, 2)) * 0.2 * factor, generator.normal(size=2) * 0.05]
        gradients.append([tensor.astype(np.float32).astype(np.float64) for tensor in pair])
        losses.append(float(np.float32(1.0 + 0.1 * generator.normal() + (5.0 if step == 220 else 0.0))))
    return gradients, losses


def _applied(make: Callable[[keras.optimizers.Optimizer], GradientRule]) -> Trace:
    """The trace of a wrapper around plain gradient descent, whose weights fall by what it is given."""
    gradients, losses = _sequence()
    weights = [keras.Variable(np.zeros(tensor.shape, np.float32)) for tensor in gradients[0]]
    rule = make(keras.optimizers.SGD(1.0))
    rule.build(weights)

    @tf.function
    def step(loss: tf.Tensor, pair: list[tf.Tensor]) -> None:
        rule.scale_loss(loss)
        rule.apply_gradients(zip(pair, weights, strict=True))

    trace: Trace = []
    for pair, loss in zip(gradients, losses, strict=True):
        for weight in weights:
            weight.assign(np.zeros(weight.shape, np.float32))
        step(tf.constant(loss), [tf.constant(tensor, tf.float32) for tensor in pair])
        action = int(rule.action.numpy())
        passed = None if action == SKIP else [-weight.numpy().astype(np.float64) for weight in weights]
        if action == SKIP:
            assert all(not weight.numpy().any() for weight in weights)
        trace.append((action, passed))
    assert int(rule.iterations.numpy()) == STEPS
    return trace


def _norm(tensors: Gradients) -> float:
    return float(np.sqrt(sum(np.sum(tensor**2) for tensor in tensors)))


def _slow_global_clip() -> Trace:
    trace: Trace = []
    for pair in _sequence()[0]:
        factor = min(1.0, 1.0 / _norm(pair))
        trace.append((CLIP if factor < 1 else 0, [factor * tensor for tensor in pair]))
    return trace


def _slow_zclip(max_norm: float) -> Trace:
    trace: Trace = []
    buffer: list[float] = []
    mean = variance = 0.0
    for pair in _sequence()[0]:
        norm = limit = _norm(pair)
        if len(buffer) < 25:
            buffer.append(norm)
            mean, variance = float(np.mean(buffer)), float(np.var(buffer))
        else:
            z = (norm - mean) / (np.sqrt(variance) + 1e-6)
            if z > 2.5:
                limit = mean + 2.5 * np.sqrt(variance) / (z / 2.5)
            mean = 0.97 * mean + 0.03 * limit
            variance = 0.97 * variance + 0.03 * (limit - mean) ** 2
        limit = min(limit, max_norm)
        factor = limit / (norm + 1e-6) if norm > limit else 1.0
        trace.append((CLIP if factor < 1 else 0, [factor * tensor for tensor in pair]))
    return trace


def _slow_adagc() -> Trace:
    trace: Trace = []
    averages = [np.inf, np.inf]
    for step, pair in enumerate(_sequence()[0]):
        if step < 100:
            factors = [min(1.0, 1.0 / _norm(pair))] * 2
        else:
            factors = [min(1.0, 1.05 * averages[i] / _norm([pair[i]])) for i in range(2)]
        clipped = [factors[i] * pair[i] for i in range(2)]
        for i in range(2):
            norm = _norm([clipped[i]])
            averages[i] = min(averages[i], norm) if step < 100 else 0.98 * averages[i] + 0.02 * norm
        trace.append((CLIP if min(factors) < 1 else 0, clipped))
    return trace


def _slow_olmo() -> Trace:
    gradients, losses = _sequence()
    trace: Trace = []
    for step, pair in enumerate(gradients):
        is_calm = True
        for values in (losses, [_norm(earlier) for earlier in gradients]):
            window = values[max(0, step - 128) : step]
            if len(window) >= 63:
                is_calm &= values[step] - np.mean(window) <= 6 * np.std(window, ddof=1)
        trace.append((0, pair) if is_calm else (SKIP, None))
    return trace


@pytest.mark.parametrize(
    ("make", "slow", "least"),
    [
        (GlobalClip, _slow_global_clip, 5),
        (ZClip, lambda: _slow_zclip(max_norm=1.0), 5),
        (lambda inner: ZClip(inner, max_norm=None), lambda: _slow_zclip(max_norm=np.inf), 5),
        (AdaGC, _slow_adagc, 5),
        (OlmoSkipStep, _slow_olmo, 3),
    ],
    ids=["global_clip", "zclip", "zclip_no_ceiling", "adagc", "olmo_skip_step"],
)
def test_rule_equals_slow_version_when_gradients_spike(
    make: Callable[[keras.optimizers.Optimizer], GradientRule], slow: Callable[[], Trace], least: int
) -> None:
    actual, expected = _applied(make), slow()
    assert [action for action, _ in actual] == [action for action, _ in expected]
    assert sum(action != 0 for action, _ in expected) >= least
    for (_, passed), (_, wanted) in zip(actual, expected, strict=True):
        assert (passed is None) == (wanted is None)
        for tensor, other in zip(passed or [], wanted or [], strict=True):
            np.testing.assert_allclose(tensor, other, rtol=1e-4, atol=1e-7)


def test_olmo_skips_when_loss_or_norm_is_not_finite() -> None:
    weight = keras.Variable(np.zeros(2, np.float32))
    rule = OlmoSkipStep(keras.optimizers.SGD(1.0))
    rule.build([weight])
    for step in range(70):
        rule.scale_loss(tf.constant(1.0 + 0.1 * (step % 3)))
        rule.apply([tf.constant([0.0, 0.1 + 0.01 * (step % 5)])], [weight])
    before = weight.numpy()
    for loss, gradient in ((np.nan, [0.0, 0.1]), (1.0, [0.0, np.inf])):
        rule.scale_loss(tf.constant(loss, tf.float32))
        rule.apply([tf.constant(gradient, tf.float32)], [weight])
        assert int(rule.action.numpy()) == SKIP
    np.testing.assert_array_equal(weight.numpy(), before)
    rule.scale_loss(tf.constant(1.1))
    rule.apply([tf.constant([0.0, 0.1])], [weight])
    assert int(rule.action.numpy()) == 0
