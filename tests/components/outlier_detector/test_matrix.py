"""What the isolation forest sees of raw rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from spikeguard.components.outlier_detector.fences import fences_of
from spikeguard.components.outlier_detector.matrix import MatrixColumns
from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig
from spikeguard.components.training_statistics.reading import SplitStatistics
from spikeguard.components.training_statistics.results import robust_statistics_of


def _columns(batch: pa.RecordBatch, rare_share: float = 0.05, label: str | None = None) -> MatrixColumns:
    generator = RobustStatisticsGenerator(StatisticsConfig())
    proto = generator.extract_output(generator.add_input(generator.create_accumulator(), batch))
    features = {found.name: found for found in map(robust_statistics_of, proto.features) if found is not None}
    statistics = SplitStatistics("train", batch.num_rows, features)
    return MatrixColumns.of(fences_of(statistics, None, None, rare_share), label)


def _batch(**columns: list[list[object]]) -> pa.RecordBatch:
    kinds = {"x": pa.float32(), "c": pa.large_binary(), "d": pa.large_binary(), "k": pa.int64()}
    arrays = {name: pa.array(values, pa.large_list(kinds[name])) for name, values in columns.items()}
    return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))


# 100 values: 96 are common, 3 and 1 are rare.
_TEXTS = [[b"a"]] * 60 + [[b"b"]] * 36 + [[b"c"]] * 3 + [[b"d"]]


def test_category_is_zero_when_common_and_the_lower_the_rarer() -> None:
    columns = _columns(_batch(x=[[float(place)] for place in range(100)], c=_TEXTS))
    assert columns.categories == ("c",)
    assert columns.width == 2
    found = columns.matrix(_batch(x=[[7.0]] * 5, c=[[b"a"], [b"b"], [b"c"], [b"d"], [b"never"]]))
    np.testing.assert_array_equal(found[:, 0], 7.0)
    expected = [0.0, 0.0, math.log(3 / 5), math.log(1 / 5), math.log(1 / 10)]
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-6)


def test_category_is_common_when_missing_and_the_rarest_of_several() -> None:
    columns = _columns(_batch(c=_TEXTS))
    found = columns.matrix(_batch(c=[[], None, [b"c", b"d", b"a"], [b"a"]]))
    np.testing.assert_allclose(found[:, 0], [0.0, 0.0, math.log(1 / 5), 0.0], rtol=1e-6)
    assert columns.matrix(_batch(x=[[1.0]])).tolist() == [[0.0]]
    assert columns.matrix(pa.RecordBatch.from_arrays([pa.nulls(2)], ["c"])).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    "texts",
    [[[b"a"]] * 50 + [[b"b"]] * 50, [[str(place).encode()] for place in range(100)]],
    ids=["none is rare", "all are rare, as of identifiers"],
)
def test_category_is_left_out_when_it_tells_no_rare_ones_from_common_ones(texts: list[list[object]]) -> None:
    assert _columns(_batch(d=texts)).width == 0


def test_label_is_left_out() -> None:
    assert _columns(_batch(c=_TEXTS), label="c").width == 0
