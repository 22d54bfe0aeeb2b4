"""Fences applied to Arrow columns, against what a person would count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.fences import FARTHEST, FeatureFence, apply_fence, distance, fences_of
from spikeguard.components.training_statistics.reading import SplitStatistics
from spikeguard.components.training_statistics.results import PositionStatistics, RobustStatistics
from spikeguard.components.training_statistics.robust_statistics import Fences

RANGE = FeatureFence("x", "number", "mad", (-1.0,), (3.0,), (1.0,))


def _array(values: list[list[Any] | None], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, pa.list_(kind or pa.float32()))


def test_counts_and_distances_of_a_range() -> None:
    values = [[1.0], [5.0], [-4.0], [], None, [float("nan")], [float("inf")], [3.0]]
    found = apply_fence(RANGE, _array(values), 8)
    assert found.counts == {"below": 1, "above": 1, "missing": 2, "non_finite": 2, "rare": 0, "unseen": 0}
    assert found.rows.tolist() == [1, 2, 5, 6]
    # 5 is two distances of the fence above the median, -4 two and a half below.
    assert found.distances.tolist() == [2.0, 2.5, 0.0, FARTHEST]
    assert found.finite.tolist() == [1.0, 5.0, -4.0, 3.0]


def test_nothing_is_outside_when_all_lie_on_the_fence() -> None:
    found = apply_fence(RANGE, _array([[-1.0], [3.0]]), 2)
    assert (sum(found.counts.values()), len(found.rows)) == (0, 0)


def test_positions_have_fences_of_their_own() -> None:
    fence = FeatureFence("v", "number", "by position", (0.0, -10.0), (1.0, 10.0), (0.5, 0.0), 2)
    found = apply_fence(fence, _array([[0.5, 20.0], [2.0, 5.0], [], [0.0, -10.0]]), 4)
    assert found.rows.tolist() == [0, 1]
    assert found.positions.tolist() == [1, 0]
    assert found.distances.tolist() == [2.0, 3.0]
    assert found.counts["missing"] == 1


def test_huge_numbers_have_a_distance() -> None:
    huge = np.array([1e308, -1e308, np.inf])
    found = distance(huge, np.full(3, -1e308), np.full(3, 5e307), np.zeros(3))
    assert found.tolist() == [2.0, 1.0, FARTHEST]
    assert distance(np.array([5.0]), np.array([0.0]), np.array([0.0]), np.array([0.0])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [([["a"], ["b"], ["é東"], []], pa.string()), ([[b"a"], [b"b"], ["é東".encode()], None], pa.binary())],
)
def test_rare_and_unseen_categories(values: list[Any], kind: pa.DataType) -> None:
    fence = FeatureFence("c", "category", "categories", common=("a",), rare=("b",))
    found = apply_fence(fence, _array(values, kind), 4)
    assert found.counts == {"below": 0, "above": 0, "missing": 1, "non_finite": 0, "rare": 1, "unseen": 1}
    assert (found.rows.tolist(), found.values.tolist()) == ([2], ["é東"])


def test_what_was_not_counted_is_rare_rather_than_unseen() -> None:
    fence = FeatureFence("c", "category", "categories", common=("a",), is_complete=False)
    counts = apply_fence(fence, _array([["z"]], pa.string()), 1).counts
    assert (counts["rare"], counts["unseen"]) == (1, 0)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1, 2]])
def test_numbers_that_are_categories(values: list[Any]) -> None:
    fence = FeatureFence("month", "category", "categories", common=("1",))
    kind = pa.int64() if isinstance(values[0], int) else pa.float32()
    assert apply_fence(fence, _array([[value] for value in values], kind), 2).counts["unseen"] == 1


def test_texts_in_place_of_numbers_are_named() -> None:
    with pytest.raises(InvalidDataError, match="feature 'x': has values of several types"):
        apply_fence(RANGE, _array([["text"]], pa.string()), 1)


@pytest.mark.parametrize("array", [None, pa.array([None, None]), _array([[], None])])
def test_an_absent_feature_is_missing_in_every_row(array: pa.Array | None) -> None:
    assert apply_fence(RANGE, array, 2).counts["missing"] == 2


def test_fences_come_from_the_statistics() -> None:
    features = {
        "n": RobustStatistics("n", 100, fences=Fences(0.0, 1.0, "mad"), median=0.5, min_length=1, max_length=1),
        "v": RobustStatistics(
            "v",
            100,
            fences=Fences(0.0, 9.0, "mad"),
            median=5.0,
            min_length=2,
            max_length=2,
            positions=PositionStatistics(
                median=(1.0, 8.0),
                mad=(0.1, 0.1),
                fence_lower=(0.0, 7.0),
                fence_upper=(2.0, 9.0),
                skewness=(0.0, 0.0),
                finite=(100.0, 100.0),
                mean=(1.0, 8.0),
            ),
        ),
        "c": RobustStatistics("c", 100, categories=(("a", 990.0), ("b", 9.0)), distinct_categories=2),
        "y": RobustStatistics("y", 100, categories=(("0", 999.0), ("1", 1.0)), distinct_categories=2),
        "none": RobustStatistics("none", 100),
        "example_id": RobustStatistics("example_id", 100),
    }
    found = {
        fence.name: fence
        for fence in fences_of(SplitStatistics("train", 100, features), "y", "classification", 0.01, ("example_id",))
    }
    assert {name: fence.kind for name, fence in found.items()} == {
        "n": "number",
        "v": "number",
        "c": "category",
        "y": "category",
        "none": "absent",
    }
    assert (found["n"].lower, found["n"].upper, found["n"].rule) == ((0.0,), (1.0,), "mad")
    assert (found["v"].lower, found["v"].length) == ((0.0, 7.0), 2)
    assert (found["c"].common, found["c"].rare) == (("a",), ("b",))
    # A rare class is no outlier.
    assert found["y"].rare == ()
