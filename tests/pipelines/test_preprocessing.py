"""The preprocessing_fn in real tf.Transform, analysed on one data set and applied to another."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from spikeguard.pipelines.preprocessing import preprocessing_fn

SPEC = {
    "dense": tf.io.FixedLenFeature([], tf.int64),
    "gaps": tf.io.VarLenFeature(tf.float32),
    "full": tf.io.VarLenFeature(tf.float32),
    "month": tf.io.FixedLenFeature([], tf.int64),
    "city": tf.io.VarLenFeature(tf.string),
    "y": tf.io.VarLenFeature(tf.float32),
}
TRAIN = [
    {"dense": 1, "gaps": [10.0], "full": [1.0], "month": 3, "city": ["a"], "y": [5.0]},
    {"dense": 2, "gaps": [], "full": [2.0], "month": 3, "city": ["a"], "y": [6.0]},
    {"dense": 3, "gaps": [30.0], "full": [3.0], "month": 5, "city": ["b"], "y": [7.0]},
    {"dense": 4, "gaps": [float("inf")], "full": [4.0], "month": 3, "city": [], "y": [8.0]},
]
SERVED = {"dense": [[9]], "month": [[7]]}


def _transform(folder: pathlib.Path, spec: dict[str, Any], rows: list[dict], **config: Any) -> tft.TFTransformOutput:
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    settings = {"label": "y", "task": "regression", "normalize": True, "categorical": ["month"], **config}
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, settings))
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    return tft.TFTransformOutput(str(folder / "graph"))


def _apply(output: tft.TFTransformOutput, spec: dict[str, Any], rows: list[dict]) -> dict[str, np.ndarray]:
    def feature(value: Any) -> tf.train.Feature:
        values = value if isinstance(value, list) else [value]
        if not values:
            return tf.train.Feature()  # How CsvExampleGen writes an empty cell.
        if any(isinstance(item, str) for item in values):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[item.encode() for item in values]))
        if all(isinstance(item, int) for item in values):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    serialized = [
        tf.train.Example(
            features=tf.train.Features(feature={name: feature(value) for name, value in row.items()})
        ).SerializeToString()
        for row in rows
    ]
    layer = output.transform_features_layer()
    return {name: tensor.numpy() for name, tensor in layer(tf.io.parse_example(serialized, spec)).items()}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    return _transform(tmp_path_factory.mktemp("tft"), SPEC, TRAIN)


def test_numbers_are_scaled_by_train_alone_and_gaps_take_no_part(graph: tft.TFTransformOutput) -> None:
    columns = _apply(graph, SPEC, TRAIN)
    np.testing.assert_allclose(columns["dense"].ravel(), (np.arange(1, 5) - 2.5) / np.sqrt(1.25), rtol=1e-5)
    np.testing.assert_allclose(columns["gaps"].ravel(), [-1, 0, 1, 0], rtol=1e-5)
    np.testing.assert_array_equal(columns["gaps_missing"].ravel(), [0, 1, 0, 1])
    np.testing.assert_array_equal(columns["y"].ravel(), [5, 6, 7, 8])


def test_other_rows_are_transformed_by_the_same_constants(graph: tft.TFTransformOutput) -> None:
    row = {"dense": 100, "gaps": [1000.0], "full": [], "month": 9, "city": ["never seen"], "y": [0.0]}
    columns = _apply(graph, SPEC, [row])
    assert columns["dense"].item() == pytest.approx(97.5 / np.sqrt(1.25), rel=1e-5)
    assert columns["gaps"].item() == pytest.approx(98.0, rel=1e-5)
    # `full` was never missing in train: its companion stays 0, for its weights were never trained.
    assert (columns["full"].item(), columns["full_missing"].item()) == (0.0, 0.0)


def test_vocabularies_are_ids_below_their_declared_size(graph: tft.TFTransformOutput) -> None:
    columns = _apply(graph, SPEC, [*TRAIN, {**TRAIN[0], "city": ["new"], "month": 11}])
    sizes = {
        feature.name: feature.int_domain.max + 1
        for feature in graph.transformed_metadata.schema.feature
        if feature.int_domain.is_categorical
    }
    assert set(sizes) == {"city", "month"}
    for name, size in sizes.items():
        ids = columns[name].ravel()
        assert ids.min() >= 0
        assert ids[-1] == size - 1, "an unseen value has the last id"
    assert columns["month"].ravel()[:4].tolist() == [0, 0, 1, 0]


def test_numbers_pass_unscaled_when_normalize_is_off(tmp_path: pathlib.Path) -> None:
    output = _transform(tmp_path, SPEC, TRAIN, normalize=False)
    columns = _apply(output, SPEC, TRAIN)
    np.testing.assert_array_equal(columns["dense"].ravel(), [1, 2, 3, 4])
    np.testing.assert_array_equal(columns["gaps"].ravel(), [10, 0, 30, 0])
    assert "gaps_missing" not in columns


@pytest.mark.parametrize(
    ("dtype", "labels", "ids"),
    [
        (tf.string, ["no", "yes", "no", "no"], [0, 1, 0, 0]),
        (tf.int64, [3, 5, 4, 3], [0, 2, 1, 0]),
        (tf.float32, [1.0, 0.0, 1.0, 1.0], [1, 0, 1, 1]),
    ],
    ids=["text", "integers", "floats"],
)
def test_classes_are_numbered_from_zero(tmp_path: pathlib.Path, dtype: tf.DType, labels: list, ids: list[int]) -> None:
    spec = {"dense": SPEC["dense"], "y": tf.io.VarLenFeature(dtype)}
    rows = [{"dense": index, "y": [label]} for index, label in enumerate(labels)]
    output = _transform(tmp_path, spec, rows, task="classification", categorical=[])
    columns = _apply(output, spec, [*rows, {"dense": 1, "y": []}])
    if dtype != tf.string:
        assert columns["y"].ravel().tolist() == [*ids, -1]
    else:
        assert columns["y"].ravel().tolist()[:4] == ids


def test_rows_are_named_by_their_features_alone(tmp_path: pathlib.Path) -> None:
    output = _transform(tmp_path, SPEC, TRAIN)
    relabelled = [{**row, "y": [0.0]} for row in TRAIN]
    ids = _apply(output, SPEC, TRAIN)["example_id"]
    assert (ids.shape, ids.dtype, len(set(ids.tolist()))) == ((4,), np.int64, 4)
    np.testing.assert_array_equal(_apply(output, SPEC, relabelled)["example_id"], ids)
    np.testing.assert_array_equal(_apply(output, SPEC, TRAIN[::-1])["example_id"], ids[::-1])


def test_ids_of_the_data_are_kept_and_no_feature(tmp_path: pathlib.Path) -> None:
    spec = {**SPEC, "example_id": tf.io.FixedLenFeature([], tf.int64)}
    rows = [{**row, "example_id": 2**40 + number} for number, row in enumerate(TRAIN)]
    output = _apply(_transform(tmp_path, spec, rows), spec, rows)
    assert output["example_id"].tolist() == [2**40 + number for number in range(4)]
    assert "example_id_missing" not in output
