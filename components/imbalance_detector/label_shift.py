"""Whether two splits have their classes in the same shares: by how much, and whether chance explains it."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from spikeguard.components.training_curve import Floats

# With fewer expected rows than this, in any cell, the chi-square distribution is not believed (Cochran 1954).
_FEWEST_EXPECTED = 5.0
# Draws where it is not: the smallest p-value is 1 / 10,000.
_DRAWS, _DRAWS_AT_ONCE = 9_999, 500


@dataclasses.dataclass(frozen=True)
class LabelShift:
    """How the classes of one split differ from those of the train split."""

    distance: float
    """Total variation distance of the shares: the share of rows that would have to change class; in [0, 1]."""
    effect: float
    """Cohen's w over the classes that train has, sqrt(sum (q - p)^2 / p): 0.1 is small, 0.3 medium, 0.5 large. Unlike a
    p-value it does not grow with the rows."""
    p_value: float
    """Chance that a random split of the same rows differs as much, by the G statistic; 1 where there is nothing to test."""


def label_shift(train: npt.ArrayLike, other: npt.ArrayLike) -> LabelShift:
    """Compares two splits.

    The G statistic (likelihood ratio of the 2 x classes table) is referred to its chi-square distribution, or to random
    splits of the same rows where a class has too few of them for that.

    Args:
      train: rows of each class in the train split; shape (classes,), some > 0.
      other: the same of the other split; shape (classes,), some > 0.

    >>> shift = label_shift([900, 100], [50, 50])
    >>> round(shift.distance, 3), round(shift.effect, 2), shift.p_value < 1e-6
    (0.4, 1.33, True)
    """
    rows, other_rows = np.asarray(train, dtype=np.float64), np.asarray(other, dtype=np.float64)
    p, q = rows / rows.sum(), other_rows / other_rows.sum()
    known = p > 0
    effect = float(np.sqrt(np.sum((q - p)[known] ** 2 / p[known])))
    return LabelShift(float(0.5 * np.abs(q - p).sum()), effect, _p_value(rows, other_rows))


def _p_value(rows: Floats, other: Floats) -> float:
    has_rows = rows + other > 0
    rows, other = rows[has_rows], other[has_rows]
    if len(rows) < 2:
        return 1.0
    column, total = rows + other, float(rows.sum() + other.sum())
    observed = _g_statistic(other[None, :], column)[0]
    expected = np.outer([rows.sum(), other.sum()], column) / total
    if expected.min() >= _FEWEST_EXPECTED:
        from scipy.stats import chi2  # Slow to import, and seldom needed.

        return float(chi2.sf(observed, len(rows) - 1))
    # The same rows give the same p-value.
    random = np.random.default_rng(0)
    as_large = done = 0
    while done < _DRAWS:
        draws = min(_DRAWS_AT_ONCE, _DRAWS - done)
        drawn = random.multivariate_hypergeometric(
            column.astype(np.int64), int(other.sum()), size=draws, method="marginals"
        )
        as_large += int(np.sum(_g_statistic(drawn.astype(np.float64), column) >= observed * (1 - 1e-12)))
        done += draws
    return (1 + as_large) / (1 + _DRAWS)


def _g_statistic(other: Floats, column: Floats) -> Floats:
    """G of tables with these column sums; `other` has shape (tables, classes)."""
    total, in_other = column.sum(), other.sum(axis=1, keepdims=True)
    parts = np.zeros(len(other))
    for cells, row_sum in ((other, in_other), (column - other, total - in_other)):
        expected = row_sum * column / total
        ratio = np.divide(cells, expected, out=np.ones_like(cells), where=cells > 0)
        parts += 2.0 * np.sum(cells * np.log(ratio), axis=1)
    return parts
