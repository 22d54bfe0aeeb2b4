"""Weighted mean and central moments that merge, several columns at a time: Pebay 2008."""

from __future__ import annotations

import dataclasses

import numpy as np

from spikeguard.components.training_curve import Floats


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of d columns; what overflows is not finite and is then missing from the results.

    >>> half = Moments.of(np.array([[1.0], [2.0]]), np.ones((2, 1)))
    >>> whole = half.merged(Moments.of(np.array([[3.0], [10.0]]), np.ones((2, 1))))
    >>> float(whole.mean[0]), round(float(whole.skewness[0]), 3)
    (4.0, 1.018)
    """

    weight: Floats
    """Sum of weights. Shape (d,)."""
    mean: Floats
    """Shape (d,); 0 without weight."""
    sums: Floats
    """Weighted sums of the second, third and fourth power of the distance from the mean. Shape (3, d)."""

    @staticmethod
    def empty(columns: int) -> Moments:
        return Moments(np.zeros(columns), np.zeros(columns), np.zeros((3, columns)))

    @staticmethod
    def of(values: Floats, weights: Floats) -> Moments:
        """Of finite values with weights >= 0; shape (n, d) both. A value without weight does not count."""
        with np.errstate(all="ignore"):
            weight = weights.sum(axis=0)
            # Each value is made small before the sum, so that the mean of huge values exists.
            mean = np.sum(values * (weights / np.where(weight > 0, weight, 1.0)), axis=0)
            distance = np.where(weights > 0, values - mean, 0.0)
            square = weights * distance**2
            return Moments(
                weight,
                mean,
                np.stack([square.sum(axis=0), (square * distance).sum(axis=0), (square * distance**2).sum(axis=0)]),
            )

    def merged(self, other: Moments) -> Moments:
        """Of the values of both."""
        with np.errstate(all="ignore"):
            weight = self.weight + other.weight
            share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
            rest, gap = 1.0 - share, other.mean - self.mean
            two, three, four = self.sums
            other_two, other_three, other_four = other.sums
            # The weight of either side that the distance between the means adds.
            cross = self.weight * share * gap**2
            sums = np.stack(
                [
                    two + other_two + cross,
                    three + other_three + cross * gap * (rest - share) + 3 * gap * (rest * other_two - share * two),
                    four
                    + other_four
                    + cross * gap**2 * (rest**2 - rest * share + share**2)
                    + 6 * gap**2 * (share**2 * two + rest**2 * other_two)
                    + 4 * gap * (rest * other_three - share * three),
                ]
            )
            is_alone = share == 0.0
            sums = np.where(is_alone, self.sums, np.where(rest == 0.0, other.sums, sums))
            return Moments(weight, rest * self.mean + share * other.mean, sums)

    def pooled(self) -> Moments:
        """Of all columns as one. Shape (1,)."""
        result = Moments.empty(1)
        for column in range(len(self.weight)):
            part = slice(column, column + 1)
            result = result.merged(Moments(self.weight[part], self.mean[part], self.sums[:, part]))
        return result

    @property
    def skewness(self) -> Floats:
        """Third standardized moment; NaN where constant or overflown. Shape (d,)."""
        return self._standardized(1, 1.5)

    @property
    def kurtosis(self) -> Floats:
        """Fourth standardized moment, 3 for a normal distribution; NaN where constant or overflown. Shape (d,)."""
        return self._standardized(2, 2.0)

    def _standardized(self, place: int, power: float) -> Floats:
        with np.errstate(all="ignore"):
            variance = self.sums[0] / self.weight
            result = self.sums[place] / self.weight / variance**power
            # What is left of a constant after rounding is no spread.
            is_spread = variance > (1e-12 * np.abs(self.mean)) ** 2
        return np.where(np.isfinite(result) & is_spread, result, np.nan)
