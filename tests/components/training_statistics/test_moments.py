"""Against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spikeguard.components.training_statistics.moments import Moments


@pytest.mark.parametrize("seed", range(10))
def test_merged_parts_are_the_whole(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.gamma(0.5, size=(500, 3)) + 1e4
    weights = random.integers(0, 3, size=(500, 1)) * np.ones((1, 3))
    result = Moments.empty(3)
    for rows in np.split(np.arange(500), np.sort(random.integers(0, 500, size=7))):
        result = result.merged(Moments.of(values[rows], weights[rows]))
    copies = np.repeat(values, weights[:, 0].astype(int), axis=0)
    np.testing.assert_allclose(result.weight, len(copies))
    np.testing.assert_allclose(result.mean, copies.mean(axis=0))
    np.testing.assert_allclose(result.skewness, stats.skew(copies), rtol=1e-6)
    np.testing.assert_allclose(result.kurtosis, stats.kurtosis(copies, fisher=False), rtol=1e-6)
    np.testing.assert_allclose(result.pooled().kurtosis, stats.kurtosis(copies.ravel(), fisher=False), rtol=1e-6)


def test_moments_are_missing_when_they_overflow() -> None:
    values = np.array([[1e308], [-1e308], [1e308]])
    result = Moments.of(values, np.ones((3, 1))).merged(Moments.of(values, np.ones((3, 1))))
    assert result.mean[0] == pytest.approx(1e308 / 3)
    assert np.isnan(result.skewness[0])
    assert np.isnan(result.kurtosis[0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e15])
def test_skewness_is_missing_when_constant(value: float) -> None:
    result = Moments.of(np.full((7, 1), value), np.ones((7, 1)))
    result = result.merged(Moments.of(np.full((11, 1), value), np.ones((11, 1))))
    assert result.mean[0] == pytest.approx(value)
    assert np.isnan(result.skewness[0])
