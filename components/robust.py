"""Robust statistics that several components share."""

from __future__ import annotations

# The median absolute deviation of a normal distribution, times this, is its standard deviation.
MAD_TO_SD = 1.4826
# The upper quartile of a standard normal distribution.
NORMAL_QUARTILE = 0.6744897501960817
