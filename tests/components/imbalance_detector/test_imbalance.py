"""Figures of uneven classes, their weights and their shift between splits, against hand-made and slow versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2_contingency, fisher_exact

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.imbalance_detector.class_weighting import class_weights
from spikeguard.components.imbalance_detector.imbalance import effective_number, imbalance_ratio, normalised_entropy
from spikeguard.components.imbalance_detector.label_shift import label_shift


def test_figures_by_hand() -> None:
    counts = [60, 30, 10, 0]
    assert imbalance_ratio(counts) == 6.0
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1)) / math.log(4)
    assert normalised_entropy(counts) == pytest.approx(entropy)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 1 - 1e-15])
def test_effective_number_is_the_sum_of_its_series(beta: float) -> None:
    expected = [sum(beta**power for power in range(rows)) for rows in (0, 1, 7, 500)]
    np.testing.assert_allclose(effective_number([0, 1, 7, 500], beta), expected, rtol=1e-9)


@pytest.mark.parametrize("scheme", ["inverse_frequency", "effective_number"])
def test_mean_weight_over_rows_is_one(scheme: str) -> None:
    counts = np.array([9000, 700, 13])
    weights = class_weights(counts, scheme)  # type: ignore[arg-type]
    assert float(np.sum(weights * counts) / counts.sum()) == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]


def test_schemes_have_their_ratios() -> None:
    even = class_weights([900, 100])
    assert even[1] / even[0] == pytest.approx(9.0)
    effective = class_weights([900, 100], "effective_number", beta=0.99)
    assert effective[1] / effective[0] == pytest.approx((1 - 0.99**900) / (1 - 0.99**100))
    capped = class_weights([10**9, 1], cap=50.0)
    assert capped[1] / capped[0] == pytest.approx(50.0)


def test_class_without_rows_gets_the_largest_weight() -> None:
    weights = class_weights([90, 10, 0])
    assert weights[2] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cap": 0.5}, "cap must be at least 1; got 0.5"),
        ({"cap": math.nan}, "cap must be at least 1; got nan"),
        ({"beta": 1.0}, "beta must be at least 0 and below 1; got 1.0"),
        ({"scheme": "median"}, "scheme must be one of inverse_frequency, effective_number; got 'median'"),
        ({"counts": [1e300, 1e-300], "cap": 1e308}, "cap must keep the weights, .* in the range of the loss"),
        ({"counts": [0, 0]}, "counts must hold finite numbers of rows >= 0, not all 0"),
        ({"counts": [1, math.inf]}, "counts must hold finite numbers"),
    ],
)
def test_error_names_what_is_wrong_with_the_weights(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        class_weights(**{"counts": [90, 10], **arguments})  # type: ignore[arg-type]


def test_shift_is_the_likelihood_ratio_test_where_all_classes_have_rows() -> None:
    train, other = [800, 150, 50], [90, 5, 15]
    shift = label_shift(train, other)
    expected = chi2_contingency([train, other], lambda_="log-likelihood")[1]
    assert shift.p_value == pytest.approx(expected)
    p, q = np.array(train) / 1000, np.array(other) / 110
    assert shift.distance == pytest.approx(np.abs(p - q).sum() / 2)
    assert shift.effect == pytest.approx(math.sqrt(np.sum((p - q) ** 2 / p)))


def test_shift_of_few_rows_is_as_exact_as_fishers_test() -> None:
    for other in ([3, 3], [5, 1], [6, 0], [9, 4]):
        assert label_shift([40, 2], other).p_value == pytest.approx(fisher_exact([[40, 2], other])[1], abs=0.02)


def test_random_splits_are_not_called_shifted() -> None:
    random = np.random.default_rng(0)
    small = [label_shift(*_split(random, [300, 6, 2], 60)).p_value for _ in range(200)]
    large = [label_shift(*_split(random, [9000, 800, 200], 3000)).p_value for _ in range(500)]
    assert np.mean(np.array(small) <= 0.05) <= 0.08
    assert 0.02 <= np.mean(np.array(large) <= 0.05) <= 0.08


def test_one_class_has_no_shift() -> None:
    assert label_shift([10, 0], [5, 0]).p_value == 1.0


def _split(random: np.random.Generator, counts: list[int], rows: int) -> tuple[np.ndarray, np.ndarray]:
    other = random.multivariate_hypergeometric(counts, rows)
    return np.array(counts) - other, other
