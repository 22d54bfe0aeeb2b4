"""The largest curvature of a loss against what an optimizer's step bears, and the noise of its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Most iterations, and the relative change of the eigenvalue at which there are no more.
_ITERATIONS, _SETTLED = 12, 0.01

LossOf = Callable[[Any], tf.Tensor]


def largest_curvature(
    loss: Callable[[], tf.Tensor], weights: Sequence[tf.Variable], scales: Sequence[tf.Tensor] | None = None
) -> float:
    """The eigenvalue of the loss' Hessian that is largest in magnitude, by power iterations of Hessian-vector products.

    Args:
      loss: computes it from the weights as they are.
      weights: trainable.
      scales: P of a preconditioned step -rate * P^-1 * gradient, element by element and above 0: the eigenvalue is then that of
        P^-1/2 H P^-1/2. None: P is 1.

    Returns:
      The eigenvalue, in magnitude; NaN where it is not finite.

    >>> weight = tf.Variable([1.0, 1.0])
    >>> round(largest_curvature(lambda: 5.0 * weight[0] ** 2 + weight[1] ** 2, [weight]), 1)
    10.0
    """
    generator = np.random.default_rng(0)
    vector = [tf.constant(generator.normal(size=weight.shape), weight.dtype) for weight in weights]
    roots = None if scales is None else [tf.sqrt(scale) for scale in scales]
    value = math.nan
    for _ in range(_ITERATIONS):
        length = float(tf.linalg.global_norm(vector))
        if not 0.0 < length < math.inf:
            return value if length == 0.0 else math.nan
        vector = [part / length for part in vector]
        inside = vector if roots is None else [part / root for part, root in zip(vector, roots, strict=True)]
        product = _product(loss, weights, inside)
        vector = product if roots is None else [part / root for part, root in zip(product, roots, strict=True)]
        before, value = value, float(tf.linalg.global_norm(vector))
        if abs(value - before) <= _SETTLED * value:
            break
    return value if math.isfinite(value) else math.nan


def _product(loss: Callable[[], tf.Tensor], weights: Sequence[tf.Variable], vector: list[tf.Tensor]) -> list[tf.Tensor]:
    """Hessian times vector, by reverse over reverse."""
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = loss()
        gradients = inner.gradient(value, weights, unconnected_gradients="zero")
        dot = tf.add_n(
            [tf.reduce_sum(tf.convert_to_tensor(one) * part) for one, part in zip(gradients, vector, strict=True)]
        )
    found = outer.gradient(dot, weights, unconnected_gradients="zero")
    return [tf.convert_to_tensor(one) for one in found]


def stability_limit(optimizer: keras.optimizers.Optimizer, rate: float) -> tuple[float, list[tf.Tensor] | None] | None:
    """The largest curvature at which an optimizer's steps stay stable, and the scales that it is to be taken with.

    2 / rate for gradient descent, (2 + 2 beta) / rate with momentum, and (2 + 2 beta1) / ((1 - beta1) rate), of the
    preconditioned Hessian, for Adam: Cohen et al., "Adaptive gradient methods at the edge of stability", 2022.

    Args:
      optimizer: without a guard around it, after its first step.
      rate: learning rate; > 0.

    Returns:
      Limit and scales, the latter None for no preconditioning; None for an optimizer with another rule.

    >>> limit, scales = stability_limit(keras.optimizers.SGD(momentum=0.9), 0.1)
    >>> round(limit, 3), scales
    (38.0, None)
    """
    if isinstance(optimizer, keras.optimizers.SGD):
        return (2.0 + 2.0 * float(optimizer.momentum or 0.0)) / rate, None
    if not isinstance(optimizer, keras.optimizers.Adam) or not optimizer.built:
        return None
    steps = float(optimizer.iterations.numpy())
    slots = [one for one in optimizer.variables if one.name.endswith("_velocity")]
    debias = 1.0 - float(optimizer.beta_2) ** max(1.0, steps)
    scales = [tf.sqrt(one.value / debias) + optimizer.epsilon for one in slots]
    first = float(optimizer.beta_1)
    return (2.0 + 2.0 * first) / ((1.0 - first) * rate), scales


def noise_scale(small_squares: float, small_rows: float, large_squares: float, large_rows: float) -> float:
    """Rows from which on a larger batch gives hardly a better gradient: trace of the gradients' covariance over |gradient|^2.

    McCandlish et al., "An empirical model of large-batch training", 2018, appendix A.

    Args:
      small_squares: mean squared gradient norm of batches of `small_rows` rows.
      small_rows: > 0.
      large_squares: that of batches of `large_rows` rows.
      large_rows: above `small_rows`.

    Returns:
      Rows, infinite where the gradient cannot be told from its noise; NaN where the two sizes are the same.

    >>> noise_scale(small_squares=5.0, small_rows=1.0, large_squares=1.04, large_rows=100.0)
    4.0
    """
    if not large_rows > small_rows > 0:
        return math.nan
    signal = (large_rows * large_squares - small_rows * small_squares) / (large_rows - small_rows)
    noise = (small_squares - large_squares) / (1.0 / small_rows - 1.0 / large_rows)
    return round(max(0.0, noise) / signal, 6) if signal > 0 else math.inf
