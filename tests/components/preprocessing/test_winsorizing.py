"""Winsorizing in real tf.Transform, against TrainingStatistics' fences of the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.preprocessing.winsorizing import winsorize
from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig
from spikeguard.components.training_statistics.results import robust_statistics_of

ROWS = 1000
SPEC = {
    "normal": tf.io.FixedLenFeature([], tf.float32),
    "skewed": tf.io.FixedLenFeature([], tf.float32),
    "count": tf.io.FixedLenFeature([], tf.int64),
    "mostly_zero": tf.io.FixedLenFeature([], tf.float32),
    "same": tf.io.FixedLenFeature([], tf.float32),
    "gaps": tf.io.VarLenFeature(tf.float32),
    "absent": tf.io.VarLenFeature(tf.float32),
    "pair": tf.io.FixedLenFeature([2], tf.float32),
}
FENCED = ("normal", "skewed", "count", "mostly_zero", "same", "gaps")


def _columns() -> dict[str, list[Any]]:
    random = np.random.default_rng(0)
    normal = random.normal(size=ROWS)
    normal[:3] = 50.0, np.nan, np.inf
    zero = np.where(random.random(ROWS) < 0.9, 0.0, random.gamma(2, size=ROWS))
    pair = np.stack([random.normal(size=ROWS), 1e3 * random.normal(size=ROWS)], axis=1)
    return {
        "normal": np.float32(normal).tolist(),
        "skewed": np.float32(random.gamma(0.5, size=ROWS)).tolist(),
        "count": random.poisson(20, size=ROWS).tolist(),
        "mostly_zero": np.float32(zero).tolist(),
        "same": [4.0] * ROWS,
        "gaps": [[] if place % 3 else [float(place)] for place in range(ROWS)],
        "absent": [[]] * ROWS,
        "pair": np.float32(pair).tolist(),
    }


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    outputs = {name: winsorize(column) for name, column in inputs.items()}
    outputs["together"] = winsorize(inputs["pair"], elementwise=False)
    outputs["capped"] = winsorize(inputs["normal"], lower=-np.inf, upper=1.0)
    return outputs


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tft")
    columns = _columns()
    rows = [{name: column[place] for name, column in columns.items()} for place in range(ROWS)]
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    return tft.TFTransformOutput(str(folder / "graph")).transform_features_layer()


def _extreme(layer: Any, value: float) -> dict[str, Any]:
    """Rows of one value throughout, through the fitted graph."""
    sparse = tf.SparseTensor([[0, 0]], tf.constant([value], tf.float32), [1, 1])
    inputs: dict[str, Any] = {
        "normal": tf.constant([value]),
        "skewed": tf.constant([value]),
        "count": tf.constant([int(np.nan_to_num(value, posinf=1e9, neginf=-1e9).clip(-1e9, 1e9))], tf.int64),
        "mostly_zero": tf.constant([value]),
        "same": tf.constant([value]),
        "gaps": sparse,
        "absent": sparse,
        "pair": tf.constant([[value, value]]),
    }
    outputs = layer(inputs)
    return {
        name: tf.sparse.to_dense(x).numpy() if isinstance(x, tf.SparseTensor) else x.numpy()
        for name, x in outputs.items()
    }


def _fences(name: str, values: list[Any]) -> tuple[float, float]:
    """By the generator that TrainingStatistics runs."""
    generator = RobustStatisticsGenerator(StatisticsConfig())
    lists = [value if isinstance(value, list) else [value] for value in values]
    kind = pa.int64() if name == "count" else pa.float32()
    batch = pa.RecordBatch.from_arrays([pa.array(lists, type=pa.list_(kind))], [name])
    proto = generator.extract_output(generator.add_input(generator.create_accumulator(), batch))
    found = robust_statistics_of(proto.features[0])
    assert found is not None
    assert found.fences is not None
    return found.fences.lower, found.fences.upper


@pytest.mark.parametrize("name", FENCED)
def test_limits_are_the_fences_of_training_statistics(layer: Any, name: str) -> None:
    lower, upper = _fences(name, _columns()[name])
    assert _extreme(layer, 1e30)[name].item() == np.float32(upper)
    assert _extreme(layer, -1e30)[name].item() == np.float32(lower)


def test_positions_have_fences_of_their_own(layer: Any) -> None:
    pairs = _columns()["pair"]
    found = _extreme(layer, float("inf"))
    limits = [np.float32(_fences("x", [pair[place] for pair in pairs])[1]) for place in (0, 1)]
    np.testing.assert_array_equal(found["pair"], [limits])
    flat = [value for pair in pairs for value in pair]
    np.testing.assert_array_equal(found["together"], np.float32([[_fences("x", flat)[1]] * 2]))


def test_what_is_no_number_or_was_never_seen_passes(layer: Any) -> None:
    found = _extreme(layer, float("nan"))
    assert np.isnan(found["normal"]).all()
    assert np.isnan(found["capped"]).all()
    assert _extreme(layer, 1e30)["absent"].item() == np.float32(1e30)


def test_one_side_can_be_given(layer: Any) -> None:
    assert _extreme(layer, 1e30)["capped"].item() == 1.0
    assert _extreme(layer, -1e30)["capped"].item() == np.float32(-1e30)


def test_ordinary_values_are_untouched(layer: Any) -> None:
    assert {name: float(_extreme(layer, 4.0)[name].ravel()[0]) for name in ("same", "gaps", "normal", "absent")} == {
        "same": 4.0,
        "gaps": 4.0,
        "normal": pytest.approx(min(4.0, _fences("normal", _columns()["normal"])[1])),
        "absent": 4.0,
    }


@pytest.mark.parametrize(
    ("column", "limits", "words"),
    [
        (tf.constant(["a"]), {}, "column must hold numbers"),
        (tf.constant([1.0]), {"lower": 2.0, "upper": 1.0}, "lower must be at most upper"),
        (tf.constant([1.0]), {"upper": float("nan")}, "upper must be a number"),
    ],
)
def test_what_cannot_be_clipped_is_named(column: Any, limits: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        winsorize(column, **limits)
