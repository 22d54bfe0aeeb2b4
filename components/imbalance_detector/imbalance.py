"""How uneven a label is, from the rows of each class alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_curve import Floats


def imbalance_ratio(counts: npt.ArrayLike) -> float:
    """Rows of the largest class over those of the smallest that has any; 1 for even classes.

    Args:
      counts: rows of each class; shape (classes,), each >= 0, one of them > 0.

    >>> imbalance_ratio([90, 10, 0])
    9.0
    """
    rows = _checked(counts)
    return float(rows.max() / rows[rows > 0].min())


def normalised_entropy(counts: npt.ArrayLike) -> float:
    """Entropy of the classes over that of as many even ones: 1 for even classes, 0 for one class that has all rows.

    Args:
      counts: as in `imbalance_ratio`.

    >>> normalised_entropy([50, 50]), normalised_entropy([100, 0])
    (1.0, 0.0)
    """
    rows = _checked(counts)
    shares = rows[rows > 0] / rows.sum()
    return float(max(0.0, -np.sum(shares * np.log(shares))) / np.log(max(2, len(rows))))


def effective_number(counts: npt.ArrayLike, beta: float) -> Floats:
    """Effective number of samples of each class, (1 - beta^n) / (1 - beta): Cui et al. 2019, "Class-Balanced Loss".

    It grows with the n rows of a class ever more slowly, towards 1 / (1 - beta): further rows say less that is new.

    Args:
      counts: as in `imbalance_ratio`.
      beta: in [0, 1); 0 counts each class once, towards 1 each row.

    Returns:
      Shape (classes,), 0 for a class without rows.

    Raises:
      InvalidArgumentError: beta is outside its range.

    >>> effective_number([1, 2, 1000], beta=0.5).tolist()
    [1.0, 1.5, 2.0]
    """
    rows = _checked(counts)
    if not 0 <= beta < 1:
        raise InvalidArgumentError("beta", beta, "be at least 0 and below 1")
    if beta == 0:
        return np.asarray(rows > 0, dtype=np.float64)
    # The plain form loses all digits where beta^n is close to 1.
    return np.asarray(np.expm1(rows * np.log(beta)) / (beta - 1.0))


def _checked(counts: npt.ArrayLike) -> Floats:
    rows = np.asarray(counts, dtype=np.float64)
    if rows.ndim != 1 or not np.isfinite(rows).all() or (rows < 0).any() or not (rows > 0).any():
        raise InvalidArgumentError("counts", rows.tolist()[:10], "hold finite numbers of rows >= 0, not all 0")
    return rows
