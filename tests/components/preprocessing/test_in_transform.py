"""The helpers inside TFX's own Transform, whose Beam pipeline is another one than tf.Transform's by itself."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.transform.executor import Executor
from tfx.types import standard_artifacts

from spikeguard.components.preprocessing import scaling
from spikeguard.components.preprocessing.choosing import PreprocessingChoice, preprocess
from spikeguard.components.training_statistics.robust_statistics import QuantileGrid, fences
from spikeguard.pipelines.config import LOCAL_BEAM_ARGS
from tests.bench.normalization_data import Table, schema, write

_RANDOM = np.random.default_rng(0)
ROWS = 400
TABLE = Table(
    "heavy",
    {
        "heavy": (_RANDOM.standard_t(1.5, ROWS) * 10 + 50).astype(np.float32),
        "gaps": np.where(_RANDOM.random(ROWS) < 0.2, np.nan, _RANDOM.normal(300, 5, ROWS)).astype(np.float32),
        "skewed": np.exp(_RANDOM.normal(0, 2, ROWS)).astype(np.float32),
        "city": _RANDOM.choice(["x", "y"], ROWS).astype(object),
    },
    np.arange(ROWS) < 300,
)
STEPS: dict[str, Any] = {"heavy": "winsorize, z-score", "gaps": "winsorize, z-score", "skewed": "log1p, z-score"}


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Each step without statistics, and each helper of more than one analyzer."""
    choices = {name: PreprocessingChoice(name, step, "chosen by hand", True) for name, step in STEPS.items()}
    described = text_format.Parse(custom_config["schema"], schema_pb2.Schema())
    chosen = preprocess(inputs, described, choices=choices)
    heavy = scaling.number(inputs["heavy"])
    return chosen | {"mad": scaling.robust_scale(heavy, "mad"), "range": scaling.min_max(heavy)}


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The train rows, transformed by the graph that Transform left."""
    folder = tmp_path_factory.mktemp("transform")
    files, described = write(TABLE, folder / "raw"), schema(TABLE)
    examples, schema_artifact = standard_artifacts.Examples(), standard_artifacts.Schema()
    examples.uri, examples.split_names = str(folder / "raw"), json.dumps(["train", "eval"])
    schema_artifact.uri = str(folder / "schema")
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(described))
    graph, transformed = standard_artifacts.TransformGraph(), standard_artifacts.Examples()
    graph.uri, transformed.uri = str(folder / "graph"), str(folder / "transformed")
    Executor(Executor.Context(beam_pipeline_args=list(LOCAL_BEAM_ARGS), tmp_dir=str(folder / "tmp"))).Do(
        {"examples": [examples], "schema": [schema_artifact]},
        {"transform_graph": [graph], "transformed_examples": [transformed]},
        {
            "preprocessing_fn": f"{__name__}.{preprocessing_fn.__name__}",
            "custom_config": json.dumps({"schema": text_format.MessageToString(described)}),
            "force_tf_compat_v1": 0,
            "disable_statistics": 1,
        },
    )
    output = tft.TFTransformOutput(graph.uri)
    records = [record.numpy() for record in tf.data.TFRecordDataset(files["train"], compression_type="GZIP")]
    raw = tf.io.parse_example(records, output.raw_feature_spec())
    assert pathlib.Path(transformed.uri, "Split-eval").is_dir()
    return {name: column.numpy() for name, column in output.transform_features_layer()(raw).items()}


def _train(name: str) -> np.ndarray:
    return TABLE.columns[name][TABLE.is_train].astype(np.float64)


def test_winsorized_z_scores_are_fitted_when_there_are_no_statistics(columns: dict[str, np.ndarray]) -> None:
    for name in ("heavy", "gaps"):
        known = np.isfinite(_train(name))
        fence = fences(QuantileGrid.of(_train(name)[known]))
        clipped = np.clip(_train(name), fence.lower, fence.upper)
        expected = np.where(known, (clipped - np.nanmean(clipped)) / np.nanstd(clipped), 0.0)
        np.testing.assert_allclose(columns[name][:, 0], expected, atol=0.02, err_msg=name)
        np.testing.assert_array_equal(columns[f"{name}_missing"][:, 0], ~known)


def test_other_scales_are_those_of_the_train_split(columns: dict[str, np.ndarray]) -> None:
    heavy, logs = _train("heavy"), np.log1p(_train("skewed"))
    deviation = 1.4826 * np.median(np.abs(heavy - np.median(heavy)))
    np.testing.assert_allclose(columns["skewed"][:, 0], (logs - logs.mean()) / logs.std(), atol=1e-4)
    np.testing.assert_allclose(columns["mad"][:, 0], (heavy - np.median(heavy)) / deviation, rtol=0.03, atol=0.03)
    np.testing.assert_allclose(columns["range"][:, 0], (heavy - heavy.min()) / np.ptp(heavy), atol=1e-5)
