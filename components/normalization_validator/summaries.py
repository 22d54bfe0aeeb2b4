"""What one pass keeps of numeric columns: counts, moments and extremes in float64 that merge."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from spikeguard.components.training_curve import Floats


@dataclasses.dataclass(frozen=True)
class Columns:
    """Of d columns, each field of shape (d,); what is not finite is left out.

    >>> half = Columns.of(np.array([[1.0], [2.0], [np.nan]]))
    >>> whole = merged([half, Columns.of(np.array([[3.0], [10.0]]))])
    >>> float(whole.count[0]), float(whole.mean[0]), float(whole.maximum[0])
    (4.0, 4.0, 10.0)
    """

    count: Floats
    """Finite values."""
    mean: Floats
    """0 without values."""
    squares: Floats
    """Sum of squared distances from the mean."""
    minimum: Floats
    """Infinite without values, as is the maximum."""
    at_minimum: Floats
    """Values equal to the minimum."""
    maximum: Floats
    at_maximum: Floats
    below: Floats
    """Values below 0."""
    zero: Floats
    """Values equal to 0."""
    fractions: Floats
    """Values that are no whole numbers."""

    @staticmethod
    def of(values: Floats) -> Columns:
        """Of values of shape (n, d); NaN and infinite ones count as missing."""
        is_finite = np.isfinite(values)
        count = is_finite.sum(axis=0).astype(np.float64)
        known = np.where(is_finite, values, 0.0)
        mean = known.sum(axis=0) / np.maximum(count, 1)
        distance = np.where(is_finite, known - mean, 0.0)
        low = np.min(np.where(is_finite, known, np.inf), axis=0, initial=np.inf)
        high = np.max(np.where(is_finite, known, -np.inf), axis=0, initial=-np.inf)
        rows = [
            count,
            mean,
            (distance**2).sum(axis=0),
            low,
            (is_finite & (known == low)).sum(axis=0),
            high,
            (is_finite & (known == high)).sum(axis=0),
            (known < 0).sum(axis=0),
            (is_finite & (known == 0)).sum(axis=0),
            (known != np.floor(known)).sum(axis=0),
        ]
        return Columns.from_array(np.stack(rows))

    @staticmethod
    def from_array(array: Floats) -> Columns:
        """From the array that `array` gives, of shape (10, d)."""
        return Columns(*np.asarray(array, dtype=np.float64))

    @property
    def array(self) -> Floats:
        """All fields, in their order. Shape (10, d)."""
        return np.stack([getattr(self, field.name) for field in dataclasses.fields(self)])

    @property
    def sd(self) -> Floats:
        """Standard deviation over n, not n - 1; 0 without values."""
        found: Floats = np.sqrt(self.squares / np.maximum(self.count, 1))
        return found

    @property
    def largest(self) -> Floats:
        """Largest absolute value; 0 without values."""
        return np.where(self.count > 0, np.maximum(np.abs(self.minimum), np.abs(self.maximum)), 0.0)

    def joined(self) -> Columns:
        """All columns as one. Shape (1,) each."""
        array = self.array
        return merged([Columns.from_array(array[:, [column]]) for column in range(array.shape[1])])


def merged(parts: Iterable[Columns]) -> Columns:
    """Of the rows of all parts, at least one: Chan, Golub and LeVeque 1983."""
    first, *others = parts
    for other in others:
        first = _merged(first, other)
    return first


def _merged(one: Columns, other: Columns) -> Columns:
    count = one.count + other.count
    share = other.count / np.maximum(count, 1)
    gap = other.mean - one.mean
    low, high = np.minimum(one.minimum, other.minimum), np.maximum(one.maximum, other.maximum)
    return Columns(
        count,
        one.mean + share * gap,
        one.squares + other.squares + one.count * share * gap**2,
        low,
        one.at_minimum * (one.minimum == low) + other.at_minimum * (other.minimum == low),
        high,
        one.at_maximum * (one.maximum == high) + other.at_maximum * (other.maximum == high),
        one.below + other.below,
        one.zero + other.zero,
        one.fractions + other.fractions,
    )
