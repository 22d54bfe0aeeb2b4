"""Robust statistics that several components share."""

from __future__ import annotations

# The median absolute deviation of a normal distribution, times this, is its standard deviation.
MAD_TO_SD = 1.4826
