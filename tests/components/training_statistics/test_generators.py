"""The generator on Arrow batches, one by one and merged, without Beam."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig
from spikeguard.components.training_statistics.results import RobustStatistics, add_to, robust_statistics_of
from spikeguard.components.training_statistics.summaries import EXACT_INTEGER, MAX_CATEGORIES

LABEL = {"label": "y", "task": "classification"}


def _batch(columns: dict[str, Any]) -> pa.RecordBatch:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, list(columns))


def _scalars(values: Any, dtype: Any = None) -> pa.Array:
    return pa.array([None if value is None else [value] for value in values], type=dtype and pa.list_(dtype))


def _describe(
    *batches: dict[str, Any], is_merged: bool = False, schema: str = "", **config: Any
) -> dict[str, RobustStatistics]:
    parsed = text_format.Parse(schema, schema_pb2.Schema()) if schema else None
    generator = RobustStatisticsGenerator(StatisticsConfig(**config), parsed)
    if is_merged:
        parts = [generator.add_input(generator.create_accumulator(), _batch(batch)) for batch in batches]
        # Beam sends accumulators between workers.
        parts = [pickle.loads(pickle.dumps(generator.compact(part))) for part in parts]
        accumulator = generator.merge_accumulators([generator.create_accumulator(), *parts])
    else:
        accumulator = generator.create_accumulator()
        for batch in batches:
            accumulator = generator.add_input(accumulator, _batch(batch))
    output = generator.extract_output(accumulator)
    found = [robust_statistics_of(feature) for feature in output.features]
    return {feature.name: feature for feature in found if feature is not None}


def _one(*batches: dict[str, Any], **options: Any) -> RobustStatistics:
    return _describe(*batches, **options)["x"]


@pytest.mark.parametrize("is_merged", [False, True])
def test_numbers_are_numpys(is_merged: bool) -> None:
    values = np.random.default_rng(0).standard_t(2, size=5000)
    found = _one(*({"x": _scalars(part)} for part in np.split(values, 10)), is_merged=is_merged)
    ordered = np.sort(values)
    for level, value in found.quantiles:
        # The stated rank error, and half a step of the grid.
        assert abs(np.searchsorted(ordered, value) / 5000 - level) <= 0.0025
    assert abs(np.mean(values <= found.median) - 0.5) <= 0.0025
    inside = np.mean(np.abs(values - found.median) <= found.mad)
    assert abs(inside - 0.5) <= 0.005
    assert found.mean == pytest.approx(values.mean())
    assert (found.rows, found.present_rows, found.missing, found.values, found.weight) == (5000, 5000, 0, 5000, 5000)
    assert (found.min_length, found.max_length, found.findings) == (1, 1, ())
    assert (found.quantiles[0], found.quantiles[-1]) == ((0.0, values.min()), (1.0, values.max()))


def test_merged_parts_are_the_whole_when_sketches_are_exact() -> None:
    random = np.random.default_rng(1)
    batches = [
        {
            "x": _scalars([*random.normal(size=50).tolist(), None]),
            "v": pa.array(random.normal(size=(51, 4)).tolist()),
            "c": _scalars(random.choice(["a", "b", "é"], size=51)),
        }
        for _ in range(6)
    ]
    whole, merged = _describe(*batches), _describe(*batches, is_merged=True)
    assert list(whole) == list(merged) == ["c", "v", "x"]
    assert whole["c"] == merged["c"]
    for name in ("v", "x"):
        for field in dataclasses.fields(RobustStatistics):
            one, other = getattr(whole[name], field.name), getattr(merged[name], field.name)
            if isinstance(one, float):
                assert one == pytest.approx(other), field.name
            elif field.name != "positions":
                assert one == other, field.name
    assert whole["v"].positions is not None
    assert merged["v"].positions is not None
    assert whole["v"].positions.median == merged["v"].positions.median
    assert whole["v"].positions.skewness == pytest.approx(merged["v"].positions.skewness)


def test_weights_count_as_copies() -> None:
    random = np.random.default_rng(2)
    values, weights = random.gamma(1, size=400), random.integers(0, 4, size=400)
    weighted = _one({"x": _scalars(values), "w": _scalars(weights.astype(float))}, weight="w")
    copies = _one({"x": _scalars(np.repeat(values, weights))})
    assert (weighted.rows, weighted.weight) == (400, weights.sum())
    assert (weighted.median, weighted.mad, weighted.fences) == (copies.median, copies.mad, copies.fences)
    assert (weighted.mean, weighted.skewness) == (pytest.approx(copies.mean), pytest.approx(copies.skewness))
    assert weighted.median != np.quantile(values, 0.5, method="inverted_cdf")
    colors = _describe(
        {"x": _scalars(["red", "blue", "red"]), "w": _scalars([1.0, 5.0, 0.5])}, weight="w", rare_share=0.3
    )["x"]
    assert colors.categories == (("blue", 5.0), ("red", 1.5))
    assert (colors.rare_categories, colors.rare_weight) == (1, 1.5)


def test_vector_has_statistics_per_position_and_all_together() -> None:
    values = np.random.default_rng(3).normal(size=(301, 64)) * np.arange(1, 65)
    found = _one({"x": pa.array(values.tolist())})
    expected = np.quantile(values, 0.5, axis=0, method="inverted_cdf")
    assert found.positions is not None
    np.testing.assert_array_equal(found.positions.median, expected)
    deviation = np.quantile(np.abs(values - expected), 0.5, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(found.positions.mad, deviation)
    assert found.positions.finite == (301.0,) * 64
    assert np.all(np.array(found.positions.fence_lower) < found.positions.median)
    assert np.all(np.array(found.positions.fence_upper) > found.positions.median)
    assert (found.min_length, found.max_length, found.values, found.weight) == (64, 64, 301 * 64, 301 * 64)
    assert abs(np.mean(values <= found.median) - 0.5) <= 0.01


def test_long_vector_is_described_as_a_whole() -> None:
    found = _one({"x": pa.array(np.ones((3, 9)).tolist())}, max_positions=8)
    assert found.positions is None
    assert (found.values, found.max_length) == (27, 9)


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("is_late", [False, True])
def test_changing_length_is_a_finding_and_loses_nothing(is_merged: bool, is_late: bool) -> None:
    batches = [{"x": pa.array([[1.0, 2.0], [3.0, 4.0]])}, {"x": pa.array([[5.0], None, [], [6.0, 7.0, 8.0]])}]
    found = _one(*(batches if is_late else batches[::-1]), is_merged=is_merged)
    assert found.positions is None
    assert found.findings == ("changing_length: 1 to 3 values in a row",)
    assert (found.rows, found.present_rows, found.missing, found.values, found.weight) == (6, 4, 2, 8, 8)
    assert (found.quantiles[0][1], found.median, found.quantiles[-1][1]) == (1.0, 4.0, 8.0)


def test_non_finite_values_are_counted_and_kept_out() -> None:
    values = [1.0, 2.0, float("nan"), 3.0, float("inf"), float("-inf"), float("inf"), None]
    found = _one({"x": _scalars(values)})
    assert (found.nan, found.pos_inf, found.neg_inf, found.weight, found.values) == (1, 2, 1, 3.0, 7)
    assert (found.mean, found.median, found.missing, found.quantiles[-1][1]) == (2.0, 2.0, 1, 3.0)
    assert found.findings == ("not_finite: 1 NaN, 2 +inf, 1 -inf of 7 values",)


def test_non_finite_positions_do_not_touch_their_neighbours() -> None:
    found = _one({"x": pa.array([[1.0, float("nan")], [2.0, float("inf")], [3.0, float("nan")]])})
    assert found.positions is not None
    assert found.positions.median[0] == 2.0
    assert np.isnan(found.positions.median[1])
    assert found.positions.finite == (3.0, 0.0)
    assert (found.median, found.weight, found.nan, found.pos_inf) == (2.0, 3.0, 2, 1)


def test_only_nan_has_counts_and_no_numbers() -> None:
    found = _one({"x": _scalars([float("nan")] * 3)})
    assert (found.weight, found.median, found.fences, found.nan) == (0.0, None, None, 3)


def test_huge_values_have_no_moments_but_quantiles() -> None:
    found = _one({"x": _scalars([1e308, -1e308, 1e308, 0.0, 2.0])})
    assert (found.median, found.skewness, found.kurtosis) == (2.0, None, None)
    assert np.isfinite(found.mad)
    assert found.findings == ("huge: the values are too large for their moments, which are missing",)


def test_int64_extremes_do_not_overflow() -> None:
    limits = np.iinfo(np.int64)
    found = _one({"x": _scalars([limits.min, limits.max, 0, 1, EXACT_INTEGER])})
    assert (found.quantiles[0][1], found.quantiles[-1][1], found.median) == (-(2.0**63), 2.0**63, 1.0)
    assert found.findings == ("inexact_integers: 2 of 5 values are beyond 2**53, rounded to floats",)


def test_all_missing_is_a_finding() -> None:
    found = _one({"x": pa.nulls(4)}, {"x": pa.nulls(3)}, is_merged=True)
    assert (found.rows, found.missing, found.values, found.median) == (7, 7, 0, None)
    assert found.findings == ("all_missing: none of 7 rows has a value",)


def test_rows_before_the_first_value_are_missing() -> None:
    found = _one({"z": _scalars([1.0] * 5)}, {"x": pa.nulls(2)}, {"x": _scalars([4.0])}, is_merged=True)
    assert (found.rows, found.missing, found.present_rows) == (8, 7, 1)


@pytest.mark.parametrize("values", [[5.0] * 3, [5, 5, 5]])
def test_constant_is_a_finding(values: list[float]) -> None:
    found = _one({"x": _scalars(values)})
    assert found.findings == ("constant: all 3 values are 5.0",)
    assert found.fences is not None
    assert (found.fences.lower, found.fences.upper, found.fences.rule) == (5.0, 5.0, "constant")
    assert (found.mad, found.skewness, found.upper_tail) == (0.0, None, None)


_CODES = [str(94100 + place) for place in range(60)]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            [*_CODES, "n/a"],
            "60 of 61 counted values are numbers, such as 94100, 94101, 94102, 94103, 94104; others are n/a",
        ),
        ([*_CODES, "9223372036854775808"], "61 of 61 counted values are numbers, such as 9223372036854775808"),
        ([*_CODES, "-0.5", "1e3"], "62 of 62 counted values are numbers, such as -0.5, 1e3"),
        (_CODES, ""),
        (["-1", "1", "2.5", "x"] * 9, ""),
        ([*_CODES, *["x", "y"] * 40], ""),
    ],
    ids=["a text among them", "beyond 64 bits", "no codes", "codes", "few", "most are no numbers"],
)
def test_numbers_that_are_text_are_a_finding(texts: list[str], words: str) -> None:
    assert _one({"x": _scalars(texts)}).findings == ((f"numbers_as_text: {words}",) if words else ())


def test_single_row() -> None:
    found = _describe({"x": _scalars([7.0]), "v": pa.array([[1.0, 2.0]]), "c": _scalars(["a"])})
    assert (found["x"].median, found["x"].rows, found["v"].median) == (7.0, 1, 1.0)
    assert (found["c"].categories, found["c"].imbalance) == ((("a", 1.0),), 1.0)
    assert found["c"].findings == ("constant: all 1 values are a",)


def test_categories_keep_unicode_and_name_what_is_not() -> None:
    found = _one({"x": pa.array([[b"\xff"], ["東京".encode()], ["東京".encode()], [b"a\nb"], None])})
    assert dict(found.categories) == {"東京": 2.0, "__BYTES_VALUE__": 1.0, "a\nb": 1.0}
    assert (found.distinct_categories, found.present_rows, found.median) == (3, 4, None)


def test_rare_categories_are_counted() -> None:
    found = _one({"x": _scalars(["a"] * 995 + ["b"] * 3 + ["c"] * 2)})
    assert (found.rare_categories, found.rare_weight, found.distinct_categories) == (2, 5.0, 3)
    assert found.imbalance == 995 / 2


def test_too_many_categories_lose_no_weight() -> None:
    names = ["common"] * 5000 + [f"id{number}" for number in range(MAX_CATEGORIES * 2)]
    found = _one({"x": _scalars(names)})
    assert found.distinct_categories is None
    assert found.categories[0][0] == "common"
    assert found.rare_weight == pytest.approx(MAX_CATEGORIES * 2, rel=0.01)


@pytest.mark.parametrize("dtype", [pa.int64(), pa.float32()])
def test_classes_of_a_number_label_are_counted(dtype: Any) -> None:
    found = _describe({"y": _scalars([0, 1, 0, 0, None], dtype)}, **LABEL)["y"]
    assert (found.categories, found.imbalance, found.label_task) == ((("0", 3.0), ("1", 1.0)), 3.0, "classification")
    assert (found.missing, found.median) == (1, 0.0)


def test_label_of_a_regression_has_robust_numbers_and_no_classes() -> None:
    found = _describe({"y": _scalars(np.arange(101.0))}, label="y", task="regression")["y"]
    assert (found.label_task, found.median, found.mad, found.categories) == ("regression", 50.0, 25.0, ())


@pytest.mark.parametrize(
    ("values", "schema", "words"),
    [
        (["a", "z"], 'string_domain { value: "a" value: "b" }', "z is not"),
        (["a", "z"], 'domain: "letters"', "z is not"),
        ([0, 7], "int_domain { min: 0 max: 1 }", "0 to 7 is not"),
        ([0.5, -1.0], "float_domain { min: 0 max: 1 }", "-1 to 0.5 is not"),
    ],
)
def test_label_outside_the_schema_is_a_finding(values: list[Any], schema: str, words: str) -> None:
    text = f'feature {{ name: "y" {schema} }} string_domain {{ name: "letters" value: "a" value: "b" }}'
    found = _describe({"y": _scalars(values)}, schema=text, **LABEL)["y"]
    assert [finding for finding in found.findings if finding.startswith("outside_domain: the label's " + words)]
    inside = _describe({"y": _scalars([values[0]] * 2)}, schema=text, **LABEL)["y"]
    assert not [finding for finding in inside.findings if finding.startswith("outside_domain")]


def test_integers_that_the_schema_calls_categories_are_counted() -> None:
    schema = 'feature { name: "x" type: INT int_domain { is_categorical: true } }'
    assert _one({"x": _scalars([3, 3, 4])}, schema=schema).categories == (("3", 2.0), ("4", 1.0))
    assert _one({"x": _scalars([3, 3, 4])}).categories == ()


def test_reading_gives_back_what_was_written() -> None:
    from tensorflow_metadata.proto.v0 import statistics_pb2

    written = _describe({"x": pa.array(np.random.default_rng(0).normal(size=(40, 2)).tolist())})["x"]
    proto = statistics_pb2.FeatureNameStatistics(name="x")
    add_to(proto, written)
    assert robust_statistics_of(proto) == written
    assert robust_statistics_of(statistics_pb2.FeatureNameStatistics(name="x")) is None


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"rare_share": 0.0}, "rare_share must be above 0"),
        ({"max_positions": 0}, "max_positions must be at least 1"),
        ({"label": "y", "task": "ranking"}, "task must be 'regression' or"),
        ({"label": "y"}, "task must be given with a label"),
        ({"task": "regression"}, "task must be given with a label"),
        ({**LABEL, "weight": "y"}, "weight must be another feature"),
    ],
)
def test_config_is_refused_when_out_of_range(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        StatisticsConfig(**fields)
