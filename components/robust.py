"""Robust statistics that several components share."""

from __future__ import annotations

import numpy as np

from spikeguard.components.training_curve import Floats

# The median absolute deviation of a normal distribution, times this, is its standard deviation.
MAD_TO_SD = 1.4826
# The upper quartile of a standard normal distribution.
NORMAL_QUARTILE = 0.6744897501960817


def robust_sd(values: Floats) -> float:
    """Standard deviation by the median absolute deviation from the median; 0 where more than half of the values are equal.

    Args:
      values: shape (n,), n >= 1.

    >>> robust_sd(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    1.4826
    """
    return MAD_TO_SD * float(np.median(np.abs(values - np.median(values))))
