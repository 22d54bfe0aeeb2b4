"""The executor with real artifacts, in and out of TFDV, without a pipeline around it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.utils.display_util import get_statistics_html
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Channel, standard_artifacts

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.training_statistics import executor
from spikeguard.components.training_statistics.component import TrainingStatistics
from spikeguard.components.training_statistics.executor import Executor
from spikeguard.components.training_statistics.reading import (
    SplitStatistics,
    read_training_statistics,
)

# Without an image TFX packs itself up for remote workers, at each run and for seconds.
BEAM_ARGS = [
    "--runner=FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    "--sdk_container_image=unused",
]
Row = dict[str, Any]


def _feature(value: Any) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in values]))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _write(folder: pathlib.Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for row in rows:
            features = tf.train.Features(feature={name: _feature(value) for name, value in row.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())


def _examples(folder: pathlib.Path, **splits: list[Row]) -> standard_artifacts.Examples:
    for split, rows in splits.items():
        _write(folder / f"Split-{split}", rows)
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names, examples.span = str(folder), json.dumps(list(splits)), 7
    return examples


def _describe(
    folder: pathlib.Path, examples: standard_artifacts.Examples, split: str = "train", schema: str = "", **config: Any
) -> standard_artifacts.ExampleStatistics:
    statistics = standard_artifacts.ExampleStatistics()
    statistics.uri = str(folder / "statistics")
    inputs: dict[str, list[Any]] = {"examples": [examples]}
    if schema:
        (folder / "schema").mkdir()
        (folder / "schema" / "schema.pbtxt").write_text(schema)
        inputs["schema"] = [standard_artifacts.Schema()]
        inputs["schema"][0].uri = str(folder / "schema")
    Executor(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=BEAM_ARGS)).Do(
        inputs, {"statistics": [statistics]}, {"split": split, "config": json.dumps(config)}
    )
    return statistics


def _rows(n: int = 300, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    return [
        {
            "x": float(random.normal()),
            "count": int(random.integers(0, 9)),
            "pixels": random.normal(size=4).tolist(),
            "color": str(random.choice(["red", "blau", "緑"])),
            "y": int(random.random() < 0.1),
        }
        for _ in range(n)
    ]


def _bytes(statistics: standard_artifacts.ExampleStatistics, split: str = "train") -> bytes:
    return (pathlib.Path(statistics.uri) / f"Split-{split}" / "FeatureStats.pb").read_bytes()


def _read(statistics: standard_artifacts.ExampleStatistics) -> SplitStatistics:
    return read_training_statistics(statistics.uri)


def test_tfdv_loads_shows_and_infers_a_schema(tmp_path: pathlib.Path) -> None:
    statistics = _describe(tmp_path, _examples(tmp_path / "examples", train=_rows(), eval=_rows(5)))
    assert (statistics.split_names, statistics.span) == ('["train"]', 7)
    assert statistics.get_string_custom_property("split") == "train"
    assert statistics.get_int_custom_property("rows") == 300
    loaded = tfdv.load_stats_binary(str(tmp_path / "statistics/Split-train/FeatureStats.pb"))
    assert [file.name for file in (tmp_path / "statistics").rglob("*") if file.is_file()] == ["FeatureStats.pb"]
    assert loaded.datasets[0].num_examples == 300
    names = [feature.path.step[0] for feature in loaded.datasets[0].features]
    assert names == ["color", "count", "pixels", "x", "y"]
    assert {feature.name for feature in tfdv.infer_schema(loaded).feature} == set(names)
    assert "facets-overview" in get_statistics_html(loaded)
    (x,) = [feature for feature in loaded.datasets[0].features if feature.path.step == ["x"]]
    # TFDV's own statistics are whole, and ours agree with them.
    assert x.num_stats.common_stats.num_non_missing == 300
    found = _read(statistics).features["x"]
    assert (found.values, found.mean) == (300, pytest.approx(x.num_stats.mean))
    assert found.quantiles[-1][1] == x.num_stats.max
    assert not tfdv.validate_statistics(loaded, tfdv.infer_schema(loaded)).anomaly_info


def test_reader_gives_typed_statistics(tmp_path: pathlib.Path) -> None:
    rows = _rows()
    examples = _examples(tmp_path / "examples", train=rows)
    found = _read(_describe(tmp_path, examples, label="y", task="classification"))
    assert (found.split, found.rows, found.label) == ("train", 300, found.features["y"])
    values = np.array([row["x"] for row in rows], dtype=np.float32)
    assert found.features["x"].median == np.quantile(values, 0.5, method="inverted_cdf")
    assert dict(found.features["y"].categories)["1"] == sum(row["y"] for row in rows)
    assert dict(found.features["color"].categories)["緑"] == sum(row["color"] == "緑" for row in rows)
    pixels = np.array([row["pixels"] for row in rows], dtype=np.float32)
    assert found.features["pixels"].positions is not None
    np.testing.assert_array_equal(
        found.features["pixels"].positions.median, np.quantile(pixels, 0.5, axis=0, method="inverted_cdf")
    )


def test_eval_rows_never_enter(tmp_path: pathlib.Path) -> None:
    wild: list[Row] = [{"x": 1e38, "new": "unseen", "y": "text", "pixels": [1.0] * n} for n in range(1, 90)]
    written = []
    for name, others in (("calm", _rows(50, seed=1)), ("wild", wild), ("none", [])):
        folder = tmp_path / name
        written.append(_bytes(_describe(folder, _examples(folder / "examples", train=_rows(), eval=others))))
    assert written[0] == written[1] == written[2]
    # Break the guard: one row of the train split does change them.
    folder = tmp_path / "changed"
    changed = _describe(folder, _examples(folder / "examples", train=[*_rows(), wild[-1] | {"y": 0}], eval=[]))
    assert _bytes(changed) != written[0]


def test_any_split_can_be_the_training_split(tmp_path: pathlib.Path) -> None:
    examples = _examples(tmp_path / "examples", fit=_rows(40), train=_rows(9))
    statistics = _describe(tmp_path, examples, split="fit")
    assert (_read(statistics).split, _read(statistics).rows) == ("fit", 40)
    assert statistics.split_names == '["fit"]'
    assert statistics.get_string_custom_property("split") == "fit"


def test_custom_split_pattern_is_honoured(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "examples" / "mine", _rows(30))
    _write(tmp_path / "examples" / "theirs", _rows(11))
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(tmp_path / "examples"), "[]"
    examples.set_string_custom_property("custom_split_pattern", json.dumps({"train": "mine/*", "eval": "theirs/*"}))
    assert _read(_describe(tmp_path, examples)).rows == 30


@pytest.mark.parametrize("payload", ["FORMAT_TF_EXAMPLE", "FORMAT_TF_SEQUENCE_EXAMPLE"])
def test_rows_are_those_that_tfx_reads(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, payload: str) -> None:
    examples = _examples(tmp_path / "examples", train=_rows(1500))
    examples.set_string_custom_property("payload_format", payload)
    if payload == "FORMAT_TF_SEQUENCE_EXAMPLE":
        context = tf.train.Features(feature={"x": _feature(1.5), "c": _feature("緑")})
        steps = tf.train.FeatureLists(feature_list={"s": tf.train.FeatureList(feature=[_feature([2.0, 4.0])] * 3)})
        record = tf.train.SequenceExample(context=context, feature_lists=steps).SerializeToString()
        with tf.io.TFRecordWriter(
            str(tmp_path / "examples/Split-train/data_tfrecord-00000-of-00001.gz"), "GZIP"
        ) as file:
            file.write(record)
    ours = _bytes(_describe(tmp_path / "ours", examples))
    # What is written in another way, such as Parquet, is read by TFX's own source.
    monkeypatch.setattr(executor, "has_readable_rows", lambda examples: False)
    theirs = _bytes(_describe(tmp_path / "theirs", examples))
    assert ours == theirs


def test_weights_are_used(tmp_path: pathlib.Path) -> None:
    rows = [{"x": float(n), "w": float(n == 3)} for n in range(10)]
    found = _read(_describe(tmp_path, _examples(tmp_path / "examples", train=rows), weight="w")).features["x"]
    assert (found.rows, found.values, found.weight, found.median) == (10, 10, 1.0, 3.0)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([{"x": 1.0}], id="one row"),
        pytest.param([{"c": "a"}, {"c": "b"}, {}], id="no number"),
        pytest.param([{"x": float("nan"), "y": float("inf")}, {"x": float("inf"), "y": 1e308}], id="not finite"),
        pytest.param([{"x": 2**63 - 1}, {"x": -(2**63)}], id="int64"),
        pytest.param([{"x": [1.0] * n} for n in (1, 5, 2)], id="ragged"),
        pytest.param([{"é東": "é"}, {"é東": "\U0001f600"}], id="unicode"),
        pytest.param([{"x": 1.0, "c": "a"}] * 4, id="constant"),
    ],
)
def test_unusual_rows_are_all_accounted_for(tmp_path: pathlib.Path, rows: list[Row]) -> None:
    statistics = _describe(tmp_path, _examples(tmp_path / "examples", train=rows))
    found = _read(statistics)
    assert found.rows == len(rows)
    for name, feature in found.features.items():
        assert feature.present_rows == sum(name in row for row in rows)
        assert feature.rows == feature.present_rows + feature.missing == len(rows)
        if feature.weight is not None:
            assert feature.values == feature.weight + feature.nan + feature.pos_inf + feature.neg_inf
    loaded = tfdv.load_stats_binary(str(tmp_path / "statistics/Split-train/FeatureStats.pb"))
    assert get_statistics_html(loaded)


def test_split_is_named_when_it_does_not_exist(tmp_path: pathlib.Path) -> None:
    examples = _examples(tmp_path / "examples", train=_rows(3), eval=_rows(3))
    with pytest.raises(InvalidArgumentError, match=r"split must be one of the examples' splits \['train', 'eval'\]"):
        _describe(tmp_path, examples, split="training")


def test_split_is_named_when_it_has_no_rows(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidDataError, match="split 'train': has no rows"):
        _describe(tmp_path, _examples(tmp_path / "examples", train=[], eval=_rows(3)))


def test_label_is_named_when_no_row_has_it(tmp_path: pathlib.Path) -> None:
    rows = _rows(3)
    with pytest.raises(InvalidDataError, match=r"split 'train', label 'z': has no value in any of \d rows\. Name one"):
        _describe(tmp_path, _examples(tmp_path / "examples", train=rows), label="z", task="regression")


def test_label_is_named_when_the_schema_lacks_it(tmp_path: pathlib.Path) -> None:
    examples = _examples(tmp_path / "examples", train=_rows(3))
    with pytest.raises(InvalidDataError, match=r"split 'train', label 'y': is not in the schema\. Name one of x,"):
        _describe(tmp_path, examples, schema='feature { name: "x" type: FLOAT }', label="y", task="classification")


def test_label_outside_the_schemas_domain_is_a_finding(tmp_path: pathlib.Path) -> None:
    examples = _examples(tmp_path / "examples", train=[{"y": "a"}, {"y": "z"}])
    schema = 'feature { name: "y" type: BYTES string_domain { value: "a" value: "b" } }'
    found = _read(_describe(tmp_path, examples, schema=schema, label="y", task="classification"))
    assert found.features["y"].findings == ("outside_domain: the label's z is not in the schema's domain",)


@pytest.mark.parametrize("gap", [0, 3000])
def test_feature_is_named_when_its_type_changes(tmp_path: pathlib.Path, gap: int) -> None:
    rows = [{"x": 1.0, "z": 1}, *[{"x": 1.0}] * gap, {"x": "text", "z": 1}]
    with pytest.raises(InvalidDataError, match="split 'train', feature 'x': has values of several types"):
        _describe(tmp_path, _examples(tmp_path / "examples", train=rows))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -1.0], "negative or not finite in 1 of 2 rows"),
        ([1.0, float("nan")], "negative or not finite in 1 of 2 rows"),
        ([0.0, 0.0], "0 in every row"),
        ([1.0, None], "exactly one number in every row"),
        ([None, None], "exactly one number in every row"),
        ([1.0, [1.0, 2.0]], "exactly one number in every row"),
        (["a", "b"], "exactly one number in every row"),
    ],
)
def test_weight_is_named_when_it_is_none(tmp_path: pathlib.Path, weights: list[Any], words: str) -> None:
    rows = [{"x": 1.0} if weight is None else {"x": 1.0, "w": weight} for weight in weights]
    with pytest.raises(InvalidDataError, match=f"split 'train', weight 'w': .*{words}"):
        _describe(tmp_path, _examples(tmp_path / "examples", train=rows), weight="w")


def test_component_declares_inputs_and_checks_parameters() -> None:
    examples = Channel(type=standard_artifacts.Examples)
    component = TrainingStatistics(examples, label="y", task="regression")
    assert component.outputs["statistics"].type is standard_artifacts.ExampleStatistics
    assert component.exec_properties["split"] == "train"
    assert json.loads(component.exec_properties["config"])["label"] == "y"
    with pytest.raises(InvalidArgumentError, match="rare_share must"):
        TrainingStatistics(examples, rare_share=3)


def test_reader_refuses_what_others_wrote(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidDataError, match="has statistics of 0 splits"):
        read_training_statistics(tmp_path)
    (tmp_path / "Split-train").mkdir()
    path = tmp_path / "Split-train" / "FeatureStats.pb"
    path.write_bytes(b"\xff\xff not a proto")
    with pytest.raises(InvalidDataError, match="cannot be read"):
        read_training_statistics(tmp_path)
    path.write_bytes(tfdv.generate_statistics_from_dataframe(_frame()).SerializeToString())
    with pytest.raises(InvalidDataError, match=r"has no robust statistics\. Give the output of TrainingStatistics"):
        read_training_statistics(tmp_path)


def _frame() -> Any:
    import pandas

    return pandas.DataFrame({"x": [1.0, 2.0]})
