from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.guarded_trainer.labels import huber_delta, label_statistics


def test_outliers_do_not_move_location_scale_and_delta() -> None:
    label = np.random.default_rng(0).normal(10.0, 2.0, size=10_000)
    label[:100] = 1e9
    statistics = label_statistics(label, "y", "train", "regression")
    assert statistics.rows == 10_000
    assert statistics.split == "train"
    assert statistics.location == pytest.approx(10.0, abs=0.1)
    assert statistics.scale == pytest.approx(2.0, rel=0.05)
    assert huber_delta(statistics) == pytest.approx(1.345 * statistics.scale)


def test_scale_is_the_standard_deviation_when_most_labels_are_equal() -> None:
    label = np.array([0.0] * 9 + [10.0])
    assert label_statistics(label, "y", "train", "regression").scale == pytest.approx(3.0)


def test_classes_are_counted_from_zero() -> None:
    assert label_statistics(np.array([0.0, 2.0, 0.0]), "y", "train", "classification").classes == 3


@pytest.mark.parametrize(
    ("label", "task", "problem"),
    [
        ([], "regression", "split 'train': has no rows"),
        ([1.0, np.nan], "regression", "label 'y' in split 'train': is missing or not finite in 1 of 2 rows"),
        ([1.0, np.inf, -np.inf], "regression", "is missing or not finite in 2 of 3 rows"),
        ([1.0, -1.0, 0.0], "classification", "is missing or not finite in 1 of 3 rows"),
        ([5.0, 5.0], "regression", "is 5 in all 2 rows: there is nothing to learn"),
        ([0.0, 1000.0], "classification", "has class ids up to 1000; 1000 classes are the most"),
    ],
)
def test_error_names_label_and_split_when_nothing_can_be_learned(label: list[float], task: str, problem: str) -> None:
    with pytest.raises(InvalidDataError, match=problem):
        label_statistics(np.array(label), "y", "train", task)  # type: ignore[arg-type]
