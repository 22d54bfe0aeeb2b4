"""What chance does to the classes of a batch that is drawn without replacement, as shuffling does.

Rows of a class in a batch follow a hypergeometric distribution. The mean loss of a batch then varies for its composition
alone: with a mean loss L_c of each class's rows, by the standard deviation of sum_c (n_c / B) L_c over batches, which is

    jitter = sd(L) * sqrt((N - B) / (B * (N - 1))),   sd(L)^2 = sum_c p_c (L_c - mean)^2

for N rows with shares p_c (Cochran 1977, 2.5). Before a training, L_c is taken as -log p_c, the cross-entropy of a model
that has learned the shares and nothing else, as every model has after its first steps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_curve import Floats


def chance_without(class_rows: int, rows: int, batch_size: int) -> float:
    """Chance that a batch holds no row of a class, exactly: the product of 1 - K / (N - i) over its B draws.

    Args:
      class_rows: rows of the class; from 0 to `rows`.
      rows: rows in all.
      batch_size: rows of the batch; from 1 to `rows`.

    >>> chance_without(class_rows=1, rows=4, batch_size=2)
    0.5
    """
    _check_batch(rows, batch_size)
    if not 0 <= class_rows <= rows:
        raise InvalidArgumentError("class_rows", class_rows, f"be from 0 to {rows}")
    if batch_size > rows - class_rows:
        return 0.0
    # The product is the same with class and batch exchanged: the shorter of the two is taken.
    draws, marked = min(batch_size, class_rows), max(batch_size, class_rows)
    logs = np.log1p(-marked / (rows - np.arange(draws, dtype=np.float64)))
    return math.exp(math.fsum(logs.tolist()))


def count_sd(class_rows: int, rows: int, batch_size: int) -> float:
    """Standard deviation of the rows of a class in a batch; arguments as in `chance_without`.

    >>> count_sd(class_rows=50, rows=100, batch_size=100)
    0.0
    """
    _check_batch(rows, batch_size)
    share = class_rows / rows
    return math.sqrt(batch_size * share * (1 - share)) * _finite_population(rows, batch_size)


def prior_losses(counts: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """Mean loss of each class under a model that predicts the classes' shares: -log p_c.

    Args:
      counts: rows of each class; shape (classes,). A class without rows has loss 0, as it enters no batch.
      weights: of the classes' losses, shape (classes,): such a model then predicts the weighted shares, and each loss
        is weighted. None: all 1.

    >>> prior_losses([50, 50]).round(4).tolist()
    [0.6931, 0.6931]
    """
    rows = np.asarray(counts, dtype=np.float64)
    weight = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = rows * weight / np.sum(rows * weight)
    losses = np.zeros(len(rows))
    losses[rows > 0] = -np.log(shares[rows > 0])
    return weight * losses


def loss_jitter(counts: npt.ArrayLike, losses: npt.ArrayLike, batch_size: int) -> float:
    """Standard deviation of the mean loss of a batch that its composition alone explains, in units of the loss.

    Args:
      counts: rows of each class; shape (classes,).
      losses: mean loss of each class's rows; shape (classes,).
      batch_size: rows of a batch; from 1 to all rows.

    >>> round(loss_jitter([98, 2], prior_losses([98, 2]), batch_size=32), 4)
    0.0798
    """
    rows = np.asarray(counts, dtype=np.float64)
    total = int(rows.sum())
    _check_batch(total, batch_size)
    return (
        _loss_sd(rows, np.asarray(losses, dtype=np.float64))
        / math.sqrt(batch_size)
        * _finite_population(total, batch_size)
    )


def smallest_batch_size(counts: npt.ArrayLike, losses: npt.ArrayLike, max_jitter: float) -> int:
    """Fewest rows of a batch whose composition moves the loss by no more than `max_jitter`; all rows where none fewer do.

    Args:
      counts: rows of each class; shape (classes,).
      losses: mean loss of each class's rows; shape (classes,).
      max_jitter: in units of the loss; > 0.

    >>> smallest_batch_size([98, 2], prior_losses([98, 2]), max_jitter=0.08)
    32
    """
    rows = np.asarray(counts, dtype=np.float64)
    total = int(rows.sum())
    if not max_jitter > 0:
        raise InvalidArgumentError("max_jitter", max_jitter, "be above 0")
    variance = _loss_sd(rows, np.asarray(losses, dtype=np.float64)) ** 2
    size = math.ceil(total * variance / (max_jitter**2 * max(1, total - 1) + variance) - 1e-9)
    return min(total, max(1, size))


def smallest_complete_batch(counts: npt.ArrayLike, max_chance: float, rows: int | None = None) -> int:
    """Fewest rows of a batch that lacks any class with at most this chance, by the sum over the classes (an upper bound).

    Args:
      counts: rows of each class; shape (classes,). Classes without rows do not count.
      max_chance: in (0, 1).
      rows: rows in all, where a row may be of several classes or of none; None for the sum of the counts.

    >>> smallest_complete_batch([98, 2], max_chance=0.01)
    90
    """
    if not 0 < max_chance < 1:
        raise InvalidArgumentError("max_chance", max_chance, "be above 0 and below 1")
    classes = [int(count) for count in np.asarray(counts) if count > 0]
    total = sum(classes) if rows is None else rows
    low, high = 1, total
    while low < high:
        middle = (low + high) // 2
        chance = sum(chance_without(count, total, middle) for count in classes)
        low, high = (low, middle) if chance <= max_chance else (middle + 1, high)
    return low


def _loss_sd(rows: Floats, losses: Floats) -> float:
    if rows.shape != losses.shape:
        raise InvalidArgumentError("losses", losses.tolist()[:10], f"be as many as the {len(rows)} classes")
    shares = rows / rows.sum()
    mean = float(np.sum(shares * losses))
    return math.sqrt(float(np.sum(shares * (losses - mean) ** 2)))


def _finite_population(rows: int, batch_size: int) -> float:
    """What drawing without replacement takes from the spread: nothing for one row, all for all rows."""
    return math.sqrt((rows - batch_size) / (rows - 1)) if rows > 1 else 0.0


def _check_batch(rows: int, batch_size: int) -> None:
    if not 1 <= batch_size <= rows:
        raise InvalidArgumentError("batch_size", batch_size, f"be from 1 to the {rows} rows")
