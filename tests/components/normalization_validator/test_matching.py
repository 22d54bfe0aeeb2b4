"""Effects, constants and traces, on numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.normalization_validator.effects import effect_of, is_strictly_monotone
from spikeguard.components.normalization_validator.matching import Match, match
from spikeguard.components.normalization_validator.rounded import rounded_match
from spikeguard.components.normalization_validator.signatures import (
    is_two_valued,
    may_have_median_zero,
    moments_match,
    quantiles_match,
)
from spikeguard.components.normalization_validator.summaries import Columns, merged
from spikeguard.components.training_curve import Floats

ALL = "train + eval"


def _halves(rows: int, seed: int = 0, location: float = 0.0) -> tuple[Floats, Floats]:
    """Heavy-tailed float32 numbers of a train and an eval split."""
    values = location + np.random.default_rng(seed).gamma(2.0, 3.0, rows).astype(np.float32).astype(np.float64)
    return values[: 2 * rows // 3], values[2 * rows // 3 :]


def _column(values: Floats) -> Columns:
    return Columns.from_array(Columns.of(values[:, None]).array[:, 0])


def _float32(values: Floats) -> Floats:
    return values.astype(np.float32).astype(np.float64)


def _matched(scaled: Floats, train: Floats, evaluation: Floats) -> Match | None:
    effect = effect_of(train, _float32(scaled))
    assert effect is not None
    return match(effect, _column(train), {ALL: _column(np.append(train, evaluation)), "eval": _column(evaluation)})


def test_summaries_merge_to_those_of_all_rows_and_leave_out_what_is_missing() -> None:
    values = np.random.default_rng(0).normal(5, 2, (100, 3))
    values[::7, 1] = np.nan
    values[3, 2] = np.inf
    values[:5, 0] = 9.0
    whole = Columns.of(values)
    parts = merged(Columns.of(part) for part in np.split(values, [10, 11, 60]))
    np.testing.assert_allclose(parts.array, whole.array, rtol=1e-12)
    for place in range(3):
        finite = values[np.isfinite(values[:, place]), place]
        assert whole.count[place] == len(finite)
        assert whole.mean[place] == pytest.approx(finite.mean())
        assert whole.sd[place] == pytest.approx(finite.std())
        assert (whole.minimum[place], whole.maximum[place]) == (finite.min(), finite.max())
    assert whole.fractions[0] == 95
    assert _column(np.full(3, np.nan)).count == 0


def test_line_is_found_through_bent_ends_and_rounding() -> None:
    x = np.random.default_rng(0).gamma(2.0, 300.0, 1000)
    x = _float32(x + 2000)
    clipped = _float32(np.clip((x - 2600.5) / 421.25, -1.0, 1.5))
    found = effect_of(x, clipped)
    assert found is not None
    assert found.location == pytest.approx(2600.5, abs=2e-3)
    assert found.scale == pytest.approx(421.25, rel=1e-5)
    assert 0.5 < found.share < 0.95
    assert abs(found.location - 2600.5) <= found.location_error


@pytest.mark.parametrize("curve", [np.log1p, np.sqrt, lambda x: np.zeros_like(x), lambda x: np.full_like(x, np.nan)])
def test_no_line_is_found_in_a_curve(curve: np.ufunc) -> None:
    x = np.random.default_rng(0).gamma(2.0, 300.0, 1000)
    assert effect_of(x, _float32(curve(x))) is None


def test_monotone_is_told_from_plateaus() -> None:
    x = np.arange(10.0)
    assert is_strictly_monotone(x, np.exp(-x))
    assert not is_strictly_monotone(x, np.minimum(x, 8.0))


@pytest.mark.parametrize("rows", [30, 300, 30_000])
@pytest.mark.parametrize("location", [0.0, 2000.0])
def test_z_score_is_proven_for_train_and_refuted_for_all_rows(rows: int, location: float) -> None:
    train, evaluation = _halves(rows, location=location)
    whole = np.append(train, evaluation)
    proven = _matched((train - train.mean()) / train.std(), train, evaluation)
    assert proven is not None
    assert (proven.status, proven.other) == ("proven", ALL)
    for source, name in ((whole, ALL), (evaluation, "eval")):
        refuted = _matched((train - source.mean()) / source.std(), train, evaluation)
        assert refuted is not None
        assert (refuted.status, refuted.rule, refuted.other) == ("refuted", "z-score", name)
        assert refuted.train_misses > 3


@pytest.mark.parametrize("location", [0.0, 1.0, 6.0, 6.1, 37.0])
@pytest.mark.parametrize("scale", [1.0, 2.0, 4.2, 255.0, 1000.0])
def test_constants_by_hand_are_of_no_set(location: float, scale: float) -> None:
    train, evaluation = _halves(3000)
    if (location, scale) != (0.0, 1.0):
        assert _matched((train - location) / scale, train, evaluation) is None


def _rounded(source: Floats, digits: int) -> tuple[float, float]:
    return float(f"{source.mean():.{digits}g}"), float(f"{source.std():.{digits}g}")


def _rounded_match(constants: tuple[float, float], train: Floats, evaluation: Floats) -> Match | None:
    effect = effect_of(train, _float32((train - constants[0]) / constants[1]))
    assert effect is not None
    others = {ALL: _column(np.append(train, evaluation)), "eval": _column(evaluation)}
    return rounded_match(effect, _column(train), others)


@pytest.mark.parametrize("digits", [4, 5])
def test_rounded_constants_are_those_of_the_rows_that_round_to_them(digits: int) -> None:
    train, evaluation = _halves(300, location=30.0)
    whole = np.append(train, evaluation)
    proven = _rounded_match(_rounded(train, digits), train, evaluation)
    assert proven is not None
    assert (proven.status, proven.rule, proven.other) == ("proven", "z-score, rounded", ALL)
    refuted = _rounded_match(_rounded(whole, digits), train, evaluation)
    assert refuted is not None
    assert (refuted.status, refuted.other) == ("refuted", ALL)
    assert refuted.found is not None
    assert refuted.found.location == pytest.approx(whole.mean())


def test_rows_that_round_alike_are_undecidable() -> None:
    train, _ = _halves(300, location=30.0)
    found = _rounded_match(_rounded(train, 5), train, train)
    assert found is not None
    assert found.status == "undecidable"


@pytest.mark.parametrize(
    "constants", [(36.0, 4.2), (40.0, 5.0), (36.1234567, 4.2345678), (36.1, 4.21), (36.05, 100.25)]
)
def test_constants_too_round_to_tell_rows_apart_are_of_no_set(constants: tuple[float, float]) -> None:
    train, evaluation = _halves(300, location=30.0)
    assert _rounded_match(constants, train, evaluation) is None


@pytest.mark.parametrize(
    ("mean", "sd", "constants", "is_told"),
    [
        (36.081, 4.2101, (36.08, 4.21), True),
        # A tenth is a fortieth of the standard deviation: too coarse.
        (36.081, 4.2101, (36.1, 4.21), False),
        # What people write who think of no data.
        (3600.1, 419.9, (3600.0, 420.0), False),
        (3601.1, 421.9, (3601.0, 422.0), True),
    ],
)
def test_numbers_that_all_rows_round_to_must_be_fine_and_no_natural_limits(
    mean: float, sd: float, constants: tuple[float, float], is_told: bool
) -> None:
    whole = np.concatenate(_halves(90))
    whole = _float32((whole - whole.mean()) / whole.std() * sd + mean)
    found = _rounded_match(constants, whole[:60], whole[60:])
    assert (found is not None) == is_told


def test_rounded_constants_of_train_are_never_refuted() -> None:
    # At any number of digits and of rows, whatever the other rows round to.
    for seed in range(100):
        train, evaluation = _halves(int(10 ** (1.5 + seed % 4)), seed, location=float(seed))
        for digits in (3, 4, 5, 6):
            found = _rounded_match(_rounded(train, digits), train, evaluation)
            assert found is None or found.status in ("proven", "undecidable"), (seed, digits, found)


def test_same_constants_of_both_sets_are_undecidable() -> None:
    train, _ = _halves(300)
    found = _matched((train - train.mean()) / train.std(), train, train)
    assert found is not None
    assert found.status == "undecidable"


@pytest.mark.parametrize(("largest", "status"), [(55.37, "refuted"), (100.0, "undecidable"), (255.0, "undecidable")])
def test_range_that_eval_alone_reaches_is_refuted_unless_it_is_a_natural_limit(largest: float, status: str) -> None:
    train, evaluation = _halves(300)
    train[0], evaluation[0] = 0.0, np.float32(largest)
    found = _matched(train / float(np.float32(largest)), train, evaluation)
    assert found is not None
    assert (found.status, found.other) == (status, ALL)


def test_range_that_train_reaches_itself_is_undecidable() -> None:
    train, evaluation = _halves(300)
    train[:2] = 0.0, 88.5
    found = _matched(train / 88.5, train, evaluation)
    assert found is not None
    assert found.status == "undecidable"


def test_mean_and_deviation_leave_a_trace_whatever_came_before() -> None:
    train, evaluation = _halves(900)
    curve = np.log1p(np.append(train, evaluation))
    for fitted, status in ((curve[: len(train)], "proven"), (curve, "refuted")):
        scaled = _float32((curve - fitted.mean()) / fitted.std())
        found = moments_match(_column(scaled[: len(train)]), {ALL: _column(scaled)})
        assert found is not None
        assert found.status == status
    assert moments_match(_column(curve[: len(train)]), {ALL: _column(curve)}) is None


def test_balanced_flags_bear_no_trace() -> None:
    flags = np.tile([1.0, -1.0], 150)
    assert is_two_valued(_column(flags))
    assert moments_match(_column(flags[:199]), {ALL: _column(flags)}) is None


@pytest.mark.parametrize("rows", [301, 900])
def test_median_and_quartiles_leave_a_trace(rows: int) -> None:
    train, evaluation = _halves(rows)
    whole = np.append(train, evaluation)
    for fitted, status in ((train, "proven"), (whole, "refuted")):
        low, middle, high = np.quantile(fitted, [0.25, 0.5, 0.75])
        scaled = _float32((whole - middle) / (high - low))
        assert may_have_median_zero(_column(scaled[: len(train)] if status == "proven" else scaled))
        found = quantiles_match(scaled[: len(train)], {ALL: scaled})
        assert found is not None
        assert found.status == status
    assert quantiles_match(train, {ALL: whole}) is None
