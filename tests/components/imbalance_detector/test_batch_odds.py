"""The odds of a batch against counting every batch, and against the textbook's distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import hypergeom

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.imbalance_detector.batch_odds import (
    chance_without,
    count_sd,
    loss_jitter,
    prior_losses,
    smallest_batch_size,
    smallest_complete_batch,
)


def _every_batch(labels: list[int], batch_size: int) -> np.ndarray:
    """Rows of each class in every batch that can be drawn; shape (batches, classes)."""
    batches = itertools.combinations(range(len(labels)), batch_size)
    classes = max(labels) + 1
    return np.array([np.bincount([labels[row] for row in rows], minlength=classes) for rows in batches])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_odds_are_those_of_all_batches(batch_size: int) -> None:
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    counts, losses = [6, 3, 1], [0.2, 1.5, 4.0]
    every = _every_batch(labels, batch_size)
    for class_id, rows in enumerate(counts):
        assert chance_without(rows, 10, batch_size) == pytest.approx(np.mean(every[:, class_id] == 0), abs=1e-12)
        assert count_sd(rows, 10, batch_size) == pytest.approx(every[:, class_id].std(), abs=1e-12)
    means = every @ losses / batch_size
    assert loss_jitter(counts, losses, batch_size) == pytest.approx(means.std(), abs=1e-12)


def test_chance_is_hypergeometric_for_many_rows() -> None:
    for rows, in_class, size in [(327_346, 8_255, 256), (10**9, 10**6, 4096), (10**6, 999_990, 3)]:
        assert chance_without(in_class, rows, size) == pytest.approx(hypergeom.pmf(0, rows, in_class, size), rel=1e-6)


@pytest.mark.parametrize(("in_class", "rows", "size", "chance"), [(0, 5, 5, 1.0), (5, 5, 1, 0.0), (3, 5, 3, 0.0)])
def test_chance_at_the_ends(in_class: int, rows: int, size: int, chance: float) -> None:
    assert chance_without(in_class, rows, size) == chance


def test_smallest_batch_is_the_first_that_keeps_the_jitter() -> None:
    counts, losses = [97, 3], prior_losses([97, 3])
    for limit in (0.01, 0.05, 0.2, 5.0):
        size = smallest_batch_size(counts, losses, limit)
        assert loss_jitter(counts, losses, size) <= limit * (1 + 1e-9)
        assert size == 1 or loss_jitter(counts, losses, size - 1) > limit


def test_smallest_complete_batch_is_the_first_that_lacks_no_class() -> None:
    def chance(size: int) -> float:
        return sum(chance_without(rows, 100, size) for rows in (90, 8, 2))

    size = smallest_complete_batch([90, 8, 2, 0], 0.05)
    assert chance(size) <= 0.05 < chance(size - 1)


def test_prior_losses_are_those_of_a_model_that_predicts_shares() -> None:
    assert prior_losses([30, 10, 0]).tolist() == pytest.approx([-math.log(0.75), -math.log(0.25), 0.0])
    # Weights that even the classes out make such a model predict one half.
    assert prior_losses([30, 10], [1.0, 3.0]).tolist() == pytest.approx([math.log(2), 3 * math.log(2)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chance_without(1, 10, 11), "batch_size must be from 1 to the 10 rows; got 11"),
        (lambda: chance_without(11, 10, 2), "class_rows must be from 0 to 10; got 11"),
        (lambda: loss_jitter([5, 5], [1.0], 2), "losses must be as many as the 2 classes"),
        (lambda: smallest_batch_size([5, 5], [1.0, 2.0], 0.0), "max_jitter must be above 0; got 0.0"),
        (lambda: smallest_complete_batch([5, 5], 1.0), "max_chance must be above 0 and below 1; got 1.0"),
    ],
)
def test_error_names_the_argument(call: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()  # type: ignore[operator]
