"""The helpers in real tf.Transform, against NumPy; what was chosen, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.preprocessing import scaling
from spikeguard.components.preprocessing.choosing import choose_preprocessing, preprocess
from spikeguard.components.training_statistics.reading import SplitStatistics
from spikeguard.components.training_statistics.results import RobustStatistics
from spikeguard.components.training_statistics.robust_statistics import Fences

SPEC = {
    "x": tf.io.VarLenFeature(tf.float32),
    "v": tf.io.FixedLenFeature([3], tf.float32),
    "long": tf.io.VarLenFeature(tf.float32),
    "city": tf.io.VarLenFeature(tf.string),
    "amount": tf.io.FixedLenFeature([], tf.float32),
    "flag": tf.io.FixedLenFeature([], tf.int64),
    "same": tf.io.FixedLenFeature([], tf.float32),
    "y": tf.io.FixedLenFeature([], tf.float32),
}
_RANDOM = np.random.default_rng(0)
ROWS = [
    {
        "x": [] if number % 5 == 0 else [float(value)],
        "v": vector.tolist(),
        "long": [1.0] * (number % 4 + 1),
        "city": [["a", "b", "c"][number % 3]],
        "amount": float(np.exp(4 * value)),
        "flag": number % 2,
        "same": 4.0,
        "y": float(number),
    }
    for number, (value, vector) in enumerate(
        zip(_RANDOM.normal(5, 2, 200), _RANDOM.normal(size=(200, 3)) * [1, 0, 100], strict=True)
    )
]
X = np.array([row["x"][0] if row["x"] else np.nan for row in ROWS], dtype=np.float32)  # type: ignore[index]
V = np.array([row["v"] for row in ROWS], dtype=np.float32)
STATISTICS = SplitStatistics(
    "train",
    200,
    {
        "amount": RobustStatistics(
            "amount", 200, 200, 200, median=1.0, medcouple=0.6, quantiles=((0.0, 0.1), (1.0, 9e9)), upper_tail=9.0
        ),
        "x": RobustStatistics(
            "x", 200, 160, 160, median=5.0, medcouple=0.0, lower_tail=1.0, upper_tail=2.5,
            quantiles=((0.0, -1.0), (1.0, 11.0)), fences=Fences(1.0, 9.0, "mad"),
        ),
        "flag": RobustStatistics("flag", 200, 200, 200, quantiles=((0.0, 0.0), (1.0, 1.0))),
        "same": RobustStatistics("same", 200, 200, 200, quantiles=((0.0, 4.0),), findings=("constant: all 4",)),
    },
)  # fmt: skip


def _schema() -> schema_pb2.Schema:
    return schema_utils.schema_from_feature_spec(SPEC)


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
    """All helpers, and `preprocess` with its names prefixed."""
    x, v = scaling.number(inputs["x"]), scaling.number(inputs["v"])
    features = {name: column for name, column in inputs.items() if name != "long"}
    chosen = preprocess(features, _schema(), STATISTICS, label="y")
    return {
        **{f"chosen_{name}": column for name, column in chosen.items()},
        "z": scaling.fill(scaling.z_score(x), -9.0),
        "iqr": scaling.fill(scaling.robust_scale(x), -9.0),
        "mad": scaling.fill(scaling.robust_scale(v, "mad"), -9.0),
        "range": scaling.fill(scaling.min_max(x, -1.0, 1.0), -9.0),
        "gap": scaling.missing(x),
        "vector": scaling.each(scaling.z_score, {"x": x, "v": v})["v"],
        "fixed": scaling.fill(scaling.fixed_length(inputs["long"], 3), -9.0),
        "id": scaling.vocabulary_id(inputs["city"], max_categories=2, oov_buckets=3),
    }


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """All rows through the graph, and one more that was not analysed."""
    folder = tmp_path_factory.mktemp("scaling")
    metadata = dataset_metadata.DatasetMetadata(_schema())
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (ROWS, metadata) | tft_beam.AnalyzeDataset(preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    layer = tft.TFTransformOutput(str(folder / "graph")).transform_features_layer()
    unseen = {**ROWS[1], "x": [1000.0], "city": ["unseen"]}
    raw = tf.io.parse_example([_serialized(row) for row in [*ROWS, unseen]], SPEC)
    return {name: column.numpy() for name, column in layer(raw).items()}


def _serialized(row: dict[str, Any]) -> bytes:
    def feature(name: str, value: Any) -> tf.train.Feature:
        values = value if isinstance(value, list) else [value]
        if SPEC[name].dtype == tf.string:
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in values]))
        if SPEC[name].dtype == tf.int64:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    features = {name: feature(name, value) for name, value in row.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _filled(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -9.0, values)


def test_scales_are_those_of_the_analysed_rows(columns: dict[str, np.ndarray]) -> None:
    known = X[~np.isnan(X)].astype(np.float64)
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75], method="inverted_cdf")
    expected = {
        "z": (X - known.mean()) / known.std(),
        "iqr": (X - middle) / ((high - low) / 1.3489795),
        "range": 2 * (X - known.min()) / (known.max() - known.min()) - 1,
    }
    for name, values in expected.items():
        # With 160 values one rank more or less moves a quartile by some percent.
        atol = 0.1 if name == "iqr" else 1e-4
        np.testing.assert_allclose(columns[name][:200, 0], _filled(values), rtol=0, atol=atol, err_msg=name)
    np.testing.assert_array_equal(columns["gap"][:200, 0], np.isnan(X))
    # What was not analysed goes through the same constants, beyond the range.
    assert columns["z"][200, 0] == pytest.approx((1000 - known.mean()) / known.std(), rel=1e-4)
    assert columns["range"][200, 0] > 1


def test_each_position_has_its_own_scale_and_a_constant_one_stays_finite(columns: dict[str, np.ndarray]) -> None:
    z = (V - V.mean(axis=0)) / np.where(V.std(axis=0) > 0, V.std(axis=0), 1.0)
    np.testing.assert_allclose(columns["vector"][:200], z, atol=1e-4)
    deviation = 1.4826 * np.median(np.abs(V - np.median(V, axis=0)), axis=0)
    expected = (V - np.median(V, axis=0)) / np.where(deviation > 0, deviation, 1.0)
    np.testing.assert_allclose(columns["mad"][:200], expected, atol=0.1)


def test_lengths_and_ids_are_fixed(columns: dict[str, np.ndarray]) -> None:
    assert columns["fixed"][:4].tolist() == [[1, -9, -9], [1, 1, -9], [1, 1, 1], [1, 1, 1]]
    ids = columns["id"].ravel()
    assert (set(ids[:200:3]), set(ids[1:200:3])) == ({0}, {1}) or (set(ids[:200:3]), set(ids[1:200:3])) == ({1}, {0})
    assert (ids[2:200:3] >= 2).all()
    assert ids.max() <= 4


def test_choice_follows_the_statistics_and_says_why() -> None:
    chosen = choose_preprocessing(_schema(), STATISTICS)
    assert {name: choice.step for name, choice in chosen.items()} == {
        "x": "winsorize, z-score",
        "v": "z-score",
        "long": "z-score",
        "city": "id",
        "amount": "log1p, z-score",
        "flag": "as it is",
        "same": "left out",
        "y": "z-score",
    }
    assert str(chosen["x"]) == (
        "x: winsorize, z-score, with an indicator of gaps (tail 2.5 times a normal one's, fences 1 to 9)"
    )


def test_preprocess_does_what_was_chosen(columns: dict[str, np.ndarray]) -> None:
    names = {name.removeprefix("chosen_") for name in columns if name.startswith("chosen_")}
    assert names == {"x", "x_missing", "v", "city", "amount", "flag", "y", "example_id"}
    clipped = np.clip(X, 1.0, 9.0).astype(np.float64)
    known = clipped[~np.isnan(clipped)]
    expected = np.where(np.isnan(clipped), 0.0, (clipped - known.mean()) / known.std())
    np.testing.assert_allclose(columns["chosen_x"][:200, 0], expected, atol=1e-4)
    amount = np.log1p(np.array([row["amount"] for row in ROWS]))
    np.testing.assert_allclose(columns["chosen_amount"][:200, 0], (amount - amount.mean()) / amount.std(), atol=1e-4)
    assert columns["chosen_flag"][:4, 0].tolist() == [0, 1, 0, 1]
    # Outside the fences the graph clips at serving as well.
    assert columns["chosen_x"][200, 0] == pytest.approx((9 - known.mean()) / known.std(), abs=1e-4)


def test_bad_parameters_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match="spread must be 'iqr' or 'mad'; got 'sd'"):
        scaling.robust_scale(tf.ones([1, 1]), "sd")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="low must be less than high, 0; got 1"):
        scaling.min_max(tf.ones([1, 1]), 1, 0)
    with pytest.raises(InvalidArgumentError, match="length must be at least 1; got 0"):
        scaling.fixed_length(tf.ones([1, 1]), 0)
    with pytest.raises(InvalidArgumentError, match="max_categories must be at least 1; got 0"):
        scaling.vocabulary_id(tf.constant([["a"]]), 0)
    with pytest.raises(InvalidArgumentError, match="inputs must be features of the schema; got 'z'"):
        preprocess({"z": tf.ones([1, 1])}, _schema())
