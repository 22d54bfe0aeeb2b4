"""Weights of the classes' losses that even them out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.imbalance_detector.imbalance import effective_number
from spikeguard.components.training_curve import Floats

Scheme = Literal["inverse_frequency", "effective_number"]

# What a float32 can hold, in which the loss is computed; a weight multiplies losses that may themselves be large.
LARGEST_WEIGHT, SMALLEST_WEIGHT = 1e30, 1e-30


def class_weights(
    counts: npt.ArrayLike, scheme: Scheme = "inverse_frequency", beta: float = 0.999, cap: float = 100.0
) -> Floats:
    """Weights of the classes, whose mean over all rows is 1, so that the learning rate keeps its meaning.

    `inverse_frequency`: 1 / n, which gives each class the same weight in total. `effective_number`: one over the effective
    number of samples with `beta` (Cui et al. 2019). Either is capped first: no weight is more than `cap` times the smallest.

    Args:
      counts: rows (or sums of the weights of rows) of each class; shape (classes,), each >= 0, one of them > 0.
      scheme: as above.
      beta: of `effective_number`; in [0, 1).
      cap: largest ratio of two weights; >= 1. A class of few rows would otherwise make each of them a spike.

    Returns:
      Shape (classes,). A class without rows has the largest weight of the others: it cannot be learned anyway.

    Raises:
      InvalidArgumentError: a parameter is outside its range, or a weight would not fit into the loss.

    >>> class_weights([75, 25]).round(3).tolist()
    [0.667, 2.0]
    """
    if scheme not in get_args(Scheme):
        raise InvalidArgumentError("scheme", scheme, f"be one of {', '.join(get_args(Scheme))}")
    if not cap >= 1:
        raise InvalidArgumentError("cap", cap, "be at least 1")
    number = effective_number(counts, beta)
    rows = np.asarray(counts, dtype=np.float64)
    measure = rows if scheme == "inverse_frequency" else number
    has_rows = rows > 0
    weight = np.full(len(rows), np.nan)
    # Each is taken relative to the largest class, so that no intermediate number leaves the range of floats.
    with np.errstate(over="ignore"):
        weight[has_rows] = np.minimum(measure[has_rows].max() / measure[has_rows], cap)
    weight[~has_rows] = weight[has_rows].max()
    weight /= float(np.sum(weight * (rows / rows.max())) / np.sum(rows / rows.max()))
    if not (np.isfinite(weight).all() and weight.max() <= LARGEST_WEIGHT and weight.min() >= SMALLEST_WEIGHT):
        raise InvalidArgumentError(
            "cap",
            cap,
            f"keep the weights, now from {weight.min():.3g} to {weight.max():.3g}, in the range of the loss",
            "Give a smaller cap.",
        )
    return np.asarray(weight)
