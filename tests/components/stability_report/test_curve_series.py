"""Few points stand for many, and none that stands out is lost."""

from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.stability_report.curve_series import series_of
from spikeguard.components.training_curve import TrainingCurve


def test_long_curve_keeps_extremes_spikes_and_their_surroundings() -> None:
    n = 200_000
    rng = np.random.default_rng(0)
    loss, norm = rng.normal(1.0, 0.1, n), rng.normal(1.0, 0.1, n)
    loss[123_456], loss[77_777], loss[50_000], norm[99_999] = 50.0, -3.0, np.nan, 40.0
    action = np.zeros(n, dtype=np.int64)
    action[[5, 150_001]] = 1
    curve = TrainingCurve.from_columns(loss=loss, gradient_norm=norm, guard_action=action)
    series = series_of(curve, np.ones(n), [(123_450, 123_457, 123_460)])
    columns = series["columns"]
    assert series["points"] == n
    assert len(columns["step"]) < 8_000
    assert all(len(column) == len(columns["step"]) for column in columns.values())
    assert columns["step"] == sorted(set(columns["step"]))
    at = dict(zip(columns["step"], columns["loss"], strict=True))
    assert at[123_457] == 50.0
    assert at[77_778] == -3.0
    assert at[50_001] is None
    assert max(columns["gradient_norm"]) == 40.0
    assert set(range(123_410, 123_501)) <= set(columns["step"])
    assert {1, n, 6, 150_002} <= set(columns["step"])
    assert series["guard"] == {"step": [6, 150_002], "action": [1, 1]}
    assert (series["non_finite"], series["non_finite_steps"]) == ([50_001], 1)
    # Each of the 1,500 buckets keeps its own lowest and highest loss.
    for place in (0, 700, 1499):
        low, high = place * n // 1500 + 1, (place + 1) * n // 1500
        inside = loss[low - 1 : high]
        kept = [value for step, value in at.items() if low <= step <= high and value is not None]
        assert [min(kept), max(kept)] == pytest.approx([np.nanmin(inside), np.nanmax(inside)], rel=1e-5)


def test_short_curve_is_whole() -> None:
    curve = TrainingCurve.from_losses(np.arange(500.0))
    assert series_of(curve, None, [])["columns"]["loss"] == list(range(500))


def test_points_that_the_run_threw_away_are_left_out() -> None:
    curve = TrainingCurve.from_columns(step=[1, 2, 3, 4, 3, 4, 5], loss=[9.0, 8.0, 99.0, 99.0, 7.0, 6.0, 5.0])
    series = series_of(curve, np.arange(7.0) / 100, [])
    assert series["columns"]["step"] == [1, 2, 3, 4, 5]
    assert series["columns"]["level"] == [0.0, 0.01, 0.04, 0.05, 0.06]
    assert series["superseded"] == 2


def test_learning_rate_is_what_the_update_used() -> None:
    curve = TrainingCurve.from_columns(loss=[1.0, 1.0], learning_rate=[0.1, 0.1], guard_factor=[1.0, 0.5])
    assert series_of(curve, None, [])["columns"]["learning_rate"] == [0.1, 0.05]


def test_curve_without_a_finite_loss_is_drawn_as_nothing() -> None:
    from spikeguard.components.stability_report.picture import picture

    series = series_of(TrainingCurve.from_losses([np.nan, np.inf]), None, [])
    assert series["columns"]["loss"] == [None, None]
    assert picture(series, []) == ""


def test_expected_loss_that_follows_each_batch_is_no_line() -> None:
    loss = 1 + np.random.default_rng(0).normal(size=400)
    curve = TrainingCurve.from_losses(loss)
    assert "level" in series_of(curve, np.full(400, 1.0), [])["columns"]
    assert "level" not in series_of(curve, 1 + 0.5 * (loss - 1), [])["columns"]
