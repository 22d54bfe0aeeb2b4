"""Against NumPy and SciPy, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_statistics.robust_statistics import (
    Fences,
    QuantileGrid,
    adjusted_boxplot,
    fences,
    mad,
    medcouple,
    tail_weights,
)

HUGE = np.finfo(np.float64).max


def _grid(*values: float) -> QuantileGrid:
    return QuantileGrid.of(np.array(values, dtype=np.float64))


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_and_mad_are_numpys(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.round(random.standard_t(2, size=random.integers(1, 400)), int(random.integers(0, 4)))
    grid = QuantileGrid.of(values)
    for level in (0.0, 0.001, 0.25, 0.5, 0.9, 1.0):
        assert grid.quantile(level) == np.quantile(values, level, method="inverted_cdf")
    deviation = np.abs(values - np.quantile(values, 0.5, method="inverted_cdf"))
    assert mad(grid) == np.quantile(deviation, 0.5, method="inverted_cdf")


def test_weights_count_as_copies() -> None:
    values = np.array([1.0, 2.0, 7.0, 9.0])
    weights = np.array([1.0, 5.0, 2.0, 3.0])
    weighted, copied = QuantileGrid.of(values, weights), QuantileGrid.of(np.repeat(values, weights.astype(int)))
    for level in np.linspace(0, 1, 23):
        assert weighted.quantile(float(level)) == copied.quantile(float(level))
    assert (mad(weighted), fences(weighted)) == (mad(copied), fences(copied))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, -1.0])
def test_medcouple_is_the_slow_one(exponent: float) -> None:
    values = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    values = np.sign(exponent or 1) * np.exp(abs(exponent) * values) if exponent else values
    values = np.sort(values)
    median = np.median(values)
    pairs = [
        ((up - median) - (median - down)) / (up - down)
        for up in values[values >= median]
        for down in values[values <= median]
    ]
    assert medcouple(QuantileGrid.of(values)) == pytest.approx(np.median(pairs), abs=1e-12)


def test_medcouple_of_mirrored_values_is_negative_of_it() -> None:
    values = np.array([0.0] * 80 + [1.0, 2.0, 3.0] * 20 + [50.0] * 40)
    right, left = medcouple(QuantileGrid.of(values)), medcouple(QuantileGrid.of(-values))
    assert right == -left > 0.3


def test_tails_are_one_when_normal_and_more_when_heavy() -> None:
    levels = (np.arange(20000) + 0.5) / 20000
    assert tail_weights(QuantileGrid.of(stats.norm.ppf(levels))) == pytest.approx((1, 1), abs=0.01)
    assert tail_weights(QuantileGrid.of(stats.uniform.ppf(levels)))[0] == pytest.approx(
        0.98 / 0.5 * 0.6745 / 2.3263, abs=0.01
    )
    lower, upper = tail_weights(QuantileGrid.of(stats.lognorm.ppf(levels, 1.0)))
    assert lower < 1 < 1.7 < upper


def test_tail_is_infinite_when_quartile_is_the_median() -> None:
    lower, upper = tail_weights(_grid(*[0.0] * 90, *[5.0] * 10))
    assert np.isnan(lower)
    assert upper == np.inf


def test_fences_by_mad_when_symmetric() -> None:
    # Median 3, MAD 1: 3 -+ 3.5 * 1.4826.
    assert fences(_grid(1, 2, 3, 4, 5)) == Fences(3 - 5.1891, 3 + 5.1891, "mad")


def test_fences_are_shifted_when_skewed() -> None:
    values = np.exp(stats.norm.ppf((np.arange(1000) + 0.5) / 1000))
    found = fences(QuantileGrid.of(values))
    assert found.rule == "adjusted_boxplot"
    assert (found.lower, found.upper) == adjusted_boxplot(QuantileGrid.of(values))
    quartiles = np.quantile(values, [0.25, 0.75])
    # Tukey's fence is 7.7 % full for this distribution.
    tukey = quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])
    assert np.mean(values > found.upper) < 0.02 < np.mean(values > tukey)
    assert quartiles[0] - 1.5 * (quartiles[1] - quartiles[0]) < found.lower < quartiles[0]


def test_fences_are_tail_quantiles_when_nearly_all_values_are_the_same() -> None:
    assert fences(_grid(*[0.0] * 9910, *range(1, 91))) == Fences(0.0, 80.0, "tail_quantiles")


def test_fences_are_of_the_others_when_most_values_are_the_same() -> None:
    # 500 +- 3.5 * 1.4826 * 250, and 1 % of far outliers do not move it much.
    others = fences(_grid(*range(1, 1001)))
    assert fences(_grid(*[0.0] * 9000, *range(1, 1001))) == Fences(min(0.0, others.lower), others.upper, "beside_mode")
    found = fences(_grid(*[0.0] * 8900, *range(1, 1001), *[1e6] * 100))
    assert found.upper == pytest.approx(others.upper, rel=0.2)
    # Rare ones of a column of flags are ordinary.
    assert fences(_grid(*[0.0] * 980, *[1.0] * 20)) == Fences(0.0, 1.0, "beside_mode")


def test_fences_of_a_constant() -> None:
    assert fences(_grid(4, 4, 4)) == Fences(4.0, 4.0, "constant")


def test_nothing_overflows_when_values_are_huge() -> None:
    grid = _grid(-HUGE, -HUGE / 2, 0.0, HUGE / 2, HUGE)
    found = fences(grid)
    assert (found.lower, found.upper) == (-HUGE, HUGE)
    assert mad(grid) == HUGE / 2
    assert np.isfinite(medcouple(grid))


def test_sketch_grid_keeps_the_last_of_repeated_values() -> None:
    grid = QuantileGrid.from_sketch(np.array([1.0, 1.0, 2.0, 2.0]), np.array([3.0, 3.0, 5.0, 8.0]))
    assert (grid.values.tolist(), grid.cumulative.tolist()) == ([1.0, 2.0], [3.0, 8.0])


@pytest.mark.parametrize("values", [[], [2.0, 1.0], [1.0, 1.0]])
def test_grid_is_refused_when_it_does_not_rise(values: list[float]) -> None:
    with pytest.raises(InvalidArgumentError, match="values must"):
        QuantileGrid(np.array(values), np.arange(1.0, len(values) + 1))
