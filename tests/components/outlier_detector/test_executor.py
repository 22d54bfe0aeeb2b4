"""The executor with real artifacts, without a pipeline around it."""

from __future__ import annotations

import copy
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx.types import Channel, standard_artifacts

from spikeguard.components.artifacts import OutlierModel
from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.outlier_detector.component import OutlierDetector
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.model import read_outlier_model
from spikeguard.components.outlier_detector.summary import check_books, read_outliers
from spikeguard.components.preprocessing.example_ids import id_of_row
from spikeguard.pipelines.preprocessing import preprocessing_fn
from tests.components.outlier_detector.artifacts import (
    WITHOUT_PACKING,
    Outcome,
    Row,
    detect,
    examples_of,
    serialized,
    write_file,
)

TRAIN_ROWS, EVAL_ROWS = 600, 90
FAR, INFINITE, ODD = 5, 6, 7
"""Places of the outliers among the train rows: by a fence, by an infinite value, by the forest alone."""


def _rows(n: int, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for number in range(n):
        a = float(random.normal())
        rows.append(
            {
                "a": a,
                "b": a + 0.1 * float(random.normal()),
                "count": int(random.poisson(9)),
                "color": str(random.choice(["red", "blau"])),
                "gap": [] if number % 3 else [float(random.normal())],
                "y": float(random.normal()),
            }
        )
    return rows


def _train() -> list[Row]:
    rows = _rows(TRAIN_ROWS)
    rows[FAR]["a"], rows[INFINITE]["b"] = 1e6, float("inf")
    rows[ODD] |= {"a": 2.9, "b": -2.9, "count": 16, "gap": [2.9]}
    return rows


def _evaluation() -> list[Row]:
    rows = _rows(EVAL_ROWS, seed=1)
    rows[0]["color"], rows[1]["a"] = "緑", -1e6
    return rows


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("treatments")
    examples = examples_of(folder / "examples", files=2, train=_train(), eval=_evaluation())
    wild: list[Row] = [{"a": 1e38, "b": -1e38, "count": 10**6, "color": "new", "gap": [9.0], "y": 1e9}] * EVAL_ROWS
    others = examples_of(folder / "others", files=2, train=_train(), eval=wild)
    return {
        # One with other rows to evaluate on, to see that nothing is fitted on these.
        treatment: detect(
            folder / treatment,
            others if treatment == "winsorize" else examples,
            label="y",
            task="regression",
            treatment=treatment,
        )
        for treatment in ("flag", "drop", "downweight", "winsorize")
    }


def _flagged(outcome: Outcome, split: str) -> int:
    return int(outcome.summary["splits"][split]["flagged"])


def test_every_row_is_accounted_for(outcomes: dict[str, Outcome]) -> None:
    for treatment, outcome in outcomes.items():
        for split, rows in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
            books = outcome.summary["splits"][split]
            assert books["rows"] == rows == books["kept"] + books["treated"] + books["dropped"]
            assert len(outcome.records(split)) == rows - books["dropped"]
            assert books["dropped"] == (books["flagged"] if (treatment, split) == ("drop", "train") else 0)
            for name in ("rows", "kept", "treated", "dropped", "flagged"):
                assert outcome.examples.get_int_custom_property(f"{name}_{split}") == books[name]
        assert outcome.examples.get_string_custom_property("treatment") == treatment
        # The label's outliers too.
        assert 3 <= _flagged(outcome, "train") < 20


def test_standard_properties_are_copied(outcomes: dict[str, Outcome]) -> None:
    examples = outcomes["flag"].examples
    assert (examples.span, examples.version, json.loads(examples.split_names)) == (7, 3, ["train", "eval"])
    assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    assert outcomes["flag"].anomalies.split_names == examples.split_names
    files = sorted(path.name for path in (pathlib.Path(examples.uri) / "Split-train").iterdir())
    assert files == [f"data_tfrecord-{number:05d}-of-00002.gz" for number in range(2)]


def _order(rows: list[Row]) -> list[Row]:
    """As the two files have them."""
    return [*rows[0::2], *rows[1::2]]


def test_rows_are_what_they_were_and_the_added_columns(outcomes: dict[str, Outcome]) -> None:
    rows = _train()
    names = {*rows[0], "outlier_score", "outlier_flag", "example_id"}
    for before, after in zip(map(serialized, _order(rows)), outcomes["flag"].records("train"), strict=True):
        assert after.startswith(before)
        assert set(tf.train.Example.FromString(after).features.feature) == names
    flags = np.array(outcomes["flag"].column("train", "outlier_flag"))
    assert flags.sum() == _flagged(outcomes["flag"], "train")
    order = _order([{"place": place} for place in range(TRAIN_ROWS)])
    assert {FAR, INFINITE, ODD} <= {row["place"] for row, flag in zip(order, flags, strict=True) if flag}
    scores = np.array(outcomes["flag"].column("train", "outlier_score"))
    assert ((scores > 0) & (scores <= 1)).all()


def test_drop_removes_outliers_from_the_train_split_alone(outcomes: dict[str, Outcome]) -> None:
    flags = outcomes["flag"].column("train", "outlier_flag")
    kept = [record for record, flag in zip(outcomes["flag"].records("train"), flags, strict=True) if not flag]
    assert outcomes["drop"].records("train") == kept
    assert outcomes["drop"].records("eval") == outcomes["flag"].records("eval")
    assert _flagged(outcomes["drop"], "eval") >= 1


def test_downweight_gives_outliers_of_train_less_weight(outcomes: dict[str, Outcome]) -> None:
    flags = np.array(outcomes["downweight"].column("train", "outlier_flag"))
    weights = np.array(outcomes["downweight"].column("train", "sample_weight"))
    np.testing.assert_allclose(weights, np.where(flags, 0.1, 1.0), rtol=1e-6)
    assert set(outcomes["downweight"].column("eval", "sample_weight")) == {1.0}
    assert outcomes["downweight"].summary["splits"]["train"]["treated"] == flags.sum()


def test_winsorize_counts_what_the_transform_graph_clips(outcomes: dict[str, Outcome]) -> None:
    summary = outcomes["winsorize"].summary
    fences = {feature["name"]: feature for feature in summary["features"]}
    clipped = {
        place
        for place, row in enumerate(_train())
        for name in ("a", "b", "count", "gap")
        for value in (row[name] if isinstance(row[name], list) else [row[name]])
        if not fences[name]["lower"] <= np.float32(value) <= fences[name]["upper"]
    }
    assert summary["splits"]["train"]["treated"] == len(clipped)


def test_schema_declares_what_was_added(outcomes: dict[str, Outcome]) -> None:
    for treatment, outcome in outcomes.items():
        added = [feature for feature in outcome.schema.feature if feature.not_in_environment]
        names = [
            "outlier_score",
            "outlier_flag",
            *(["sample_weight"] if treatment == "downweight" else []),
            "example_id",
        ]
        assert [feature.name for feature in added] == names
        assert all(list(feature.not_in_environment) == ["SERVING"] for feature in added)
        spec = schema_utils.schema_as_feature_spec(outcome.schema).feature_spec
        parsed = tf.io.parse_example(outcome.records("train"), spec)
        for feature in added:
            assert len(parsed[feature.name].values) == len(outcome.records("train"))
        # Raw rows, as at serving, do without.
        assert len(tf.io.parse_example([serialized(_train()[0])], spec)["example_id"].values) == 0


def test_findings_name_feature_and_split(outcomes: dict[str, Outcome]) -> None:
    found = outcomes["flag"].findings("train"), outcomes["flag"].findings("eval")
    assert {"a", "b", ""} <= set(found[0])
    assert (found[0]["a"], found[0]["b"]) == ({"Outliers"}, {"Outliers", "Non-finite values"})
    assert found[1]["color"] == {"Unseen categories"}
    assert found[1]["a"] == {"Outliers"}
    for split in ("train", "eval"):
        folder = pathlib.Path(outcomes["flag"].anomalies.uri) / f"Split-{split}"
        assert [path.name for path in folder.iterdir()] == ["SchemaDiff.pb"]


def test_summary_counts_each_feature(outcomes: dict[str, Outcome]) -> None:
    features = {feature["name"]: feature for feature in outcomes["flag"].summary["features"]}
    assert sorted(features) == sorted(_train()[0])
    assert features["b"]["counts"]["train"]["non_finite"] == 1
    assert features["gap"]["counts"]["train"]["missing"] == sum(not row["gap"] for row in _train())
    assert features["color"]["counts"]["eval"]["unseen"] == 1
    assert features["a"]["counts"]["eval"]["below"] >= 1
    assert features["a"]["examples"][:2] == [1e6, -1e6]
    assert sum(features["a"]["histogram"]["counts"]) == TRAIN_ROWS
    assert sum(features["b"]["histogram"]["counts"]) == TRAIN_ROWS - 1


def test_top_rows_tell_what_is_odd_about_them(outcomes: dict[str, Outcome]) -> None:
    rows = outcomes["flag"].summary["top_rows"]
    assert rows[0]["values"]["b"] == "inf"
    assert rows[0]["reasons"][0] | {"lower": 0, "upper": 0} == {
        "feature": "b", "value": "inf", "lower": 0, "upper": 0, "distance": None,
    }  # fmt: skip
    by_a = [row["reasons"][0] for row in rows[1:3]]
    assert [(reason["feature"], reason["value"]) for reason in by_a] == [("a", 1e6), ("a", -1e6)]
    for reason in by_a:
        assert reason["distance"] > 1e4
        assert reason["lower"] < 0 < reason["upper"]
    ids = outcomes["flag"].column("train", "example_id")
    place = [row for row, _ in enumerate(ids) if ids[row] == rows[0]["example_id"]]
    assert _order(_train())[place[0]]["b"] == float("inf")
    assert all(row["score"] > 0 for row in rows)


def test_forest_is_reloadable_and_scores_the_same(outcomes: dict[str, Outcome]) -> None:
    detector = read_outlier_model(outcomes["flag"].model.uri)
    assert (detector.split, detector.rows, detector.sample_rows) == ("train", TRAIN_ROWS, TRAIN_ROWS)
    assert outcomes["flag"].model.get_int_custom_property("rows") == TRAIN_ROWS
    # The label is no part of it: a server can score too.
    assert detector.columns.names == ("a", "b", "count", "gap")
    rows = _order(_train())
    columns = {
        name: pa.array([row[name] if isinstance(row[name], list) else [row[name]] for row in rows], pa.list_(kind))
        for name, kind in (("a", pa.float32()), ("b", pa.float32()), ("count", pa.int64()), ("gap", pa.float32()))
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    written = outcomes["flag"].column("train", "outlier_score")
    np.testing.assert_array_equal(np.float32(detector.score(batch)), np.float32(written))
    assert np.mean(detector.score(batch) > detector.threshold) == pytest.approx(0.01, abs=0.002)


def test_ids_are_those_of_the_transform_graph(outcomes: dict[str, Outcome], tmp_path: pathlib.Path) -> None:
    outcome = outcomes["downweight"]
    spec = schema_utils.schema_as_feature_spec(outcome.schema).feature_spec
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    row = {name: value if isinstance(value, list) else [value] for name, value in _rows(1)[0].items()}
    config = {"label": "y", "task": "regression", "normalize": True, "categorical": [], "weight": "sample_weight"}
    with tft_beam.Context(temp_dir=str(tmp_path / "tmp")):
        analysed = ([{name: row.get(name, []) for name in spec}], metadata)
        transform_fn = analysed | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, config))
        _ = transform_fn | tft_beam.WriteTransformFn(str(tmp_path / "graph"))
    layer = tft.TFTransformOutput(str(tmp_path / "graph")).transform_features_layer()
    records, rows = outcome.records("train"), [serialized(row) for row in _order(_train())]
    treated = layer(tf.io.parse_example(records, spec))
    # A graph of raw rows, without the detector before it, has the ids by this function.
    raw_spec = {name: kind for name, kind in spec.items() if name in row and name != "y"}
    ids = id_of_row(tf.io.parse_example(rows, raw_spec)).numpy()
    assert len(set(ids.tolist())) == TRAIN_ROWS
    assert ids.tolist() == outcome.column("train", "example_id")
    np.testing.assert_array_equal(treated["example_id"].numpy().ravel(), ids)
    # Raw rows, as at serving, have none of the added columns.
    raw = layer(tf.io.parse_example(rows[:9], spec))
    np.testing.assert_array_equal(raw["example_id"].numpy().ravel(), ids[:9])
    assert raw["sample_weight"].numpy().ravel().tolist() == [1.0] * 9
    # The weight passes; what the detector says of a row is no feature.
    gaps = {f"{name}_missing" for name in ("a", "b", "count", "gap")}
    assert set(treated) == {*row, *gaps, "example_id", "sample_weight"}
    weights = treated["sample_weight"].numpy().ravel()
    np.testing.assert_array_equal(weights, np.float32(outcome.column("train", "sample_weight")))


def test_outcome_does_not_depend_on_workers_or_files(outcomes: dict[str, Outcome], tmp_path: pathlib.Path) -> None:
    shuffled = [_train()[place] for place in np.random.default_rng(3).permutation(TRAIN_ROWS)]
    examples = examples_of(tmp_path / "examples", files=5, train=shuffled, eval=_evaluation())
    threads = [
        "--runner=FnApiRunner",
        "--direct_running_mode=multi_threading",
        "--direct_num_workers=3",
        WITHOUT_PACKING,
    ]
    outcome = detect(tmp_path, examples, beam_args=threads, label="y", task="regression")
    assert outcome.summary == outcomes["flag"].summary
    for name in ("forest.npz", "outlier_model.json"):
        files = [pathlib.Path(each.model.uri) / name for each in (outcome, outcomes["flag"])]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_eval_rows_never_enter_what_is_fitted(outcomes: dict[str, Outcome]) -> None:
    for name in ("forest.npz", "outlier_model.json"):
        files = [pathlib.Path(outcomes[treatment].model.uri) / name for treatment in ("winsorize", "flag")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert _flagged(outcomes["winsorize"], "eval") == EVAL_ROWS > _flagged(outcomes["flag"], "eval")


def test_drop_refuses_more_than_the_stated_share(tmp_path: pathlib.Path) -> None:
    rows = [*_rows(30), _rows(1)[0] | {"a": 1e6}]
    words = (
        r"split 'train': would lose 1 of 31 rows \(3\.2%\) as outliers, more than max_dropped_share allows \(0\.5%\); "
        r"most values beyond their fences: y 3, a 1, b 1\."
    )
    with pytest.raises(InvalidDataError, match=words):
        detect(
            tmp_path,
            examples_of(tmp_path / "examples", train=rows),
            treatment="drop",
            max_dropped_share=0.005,
            score_threshold=1.0,
        )


@pytest.mark.parametrize(
    ("split", "name", "lost"),
    [("train", "kept", 1), ("train", "dropped", -1), ("train", "written", 2), ("eval", "treated", 1)],
)
def test_books_that_do_not_add_up_are_an_error(outcomes: dict[str, Outcome], split: str, name: str, lost: int) -> None:
    summary = copy.deepcopy(outcomes["drop"].summary)
    check_books(summary, TRAIN_ROWS, max_dropped_share=0.05)
    summary["splits"][split][name] -= lost
    with pytest.raises(InvalidDataError, match=rf"split '{split}': has \d+ rows, of which .* these do not add up"):
        check_books(summary, TRAIN_ROWS, max_dropped_share=0.05)


def test_unusual_features_are_named_and_no_row_is_lost(tmp_path: pathlib.Path) -> None:
    huge = [float(n) * 1e37 for n in range(20)] + [3.4e38, -3.4e38]
    whole = [*range(20), 2**63 - 1, -(2**63)]
    endless = [float(n) for n in range(20)] + [float("-inf"), float("nan")]
    rows: list[Row] = [
        {
            "absent": [],
            "constant": 3.0,
            "endless": endless[n],
            "huge": huge[n],
            "ragged": [1.0 * n] * (1 + n % 3),
            "whole": whole[n],
            "é東": "\U0001f600" if n % 2 else "é",
            "bytes": b"\xff\xfe" if n % 2 else b"a",
        }
        for n in range(22)
    ]
    evaluation: list[Row] = [{"absent": 1.0, "constant": 4.0, "ragged": [1.0] * 9, "bytes": "b", "new": 5.0}, {}]
    outcome = detect(tmp_path, examples_of(tmp_path / "examples", train=rows, eval=evaluation))
    found = outcome.findings("train")
    assert found.pop("") == {"Outliers"}
    assert found == {
        "absent": {"All missing"},
        "constant": {"Constant"},
        "endless": {"Non-finite values", "Outliers"},
        "ragged": {"Changing length"},
        "whole": {"Outliers", "Inexact integers"},
    }
    found = outcome.findings("eval")
    assert found["absent"] == {"Unseen in training"}
    assert found["bytes"] == {"Unseen categories"}
    assert found["huge"] == found["whole"] == {"All missing"}
    assert (len(outcome.records("train")), len(outcome.records("eval"))) == (22, 2)
    assert outcome.summary["splits"]["eval"]["rows"] == 2
    (constant,) = [feature for feature in outcome.summary["features"] if feature["name"] == "constant"]
    assert constant["counts"]["eval"] == dict.fromkeys(constant["counts"]["eval"], 0) | {"above": 1, "missing": 1}
    assert outcome.summary["notes"] == ["Not in the forest, for their length changes: ragged."]


def _check_has_no_forest(outcome: Outcome, note: str) -> None:
    assert outcome.summary["score"] is None
    assert outcome.summary["notes"] == [note]
    assert set(outcome.column("train", "outlier_score")) == {None}
    assert read_outlier_model(outcome.model.uri).forest is None


def test_note_says_why_there_is_no_forest_of_one_row(tmp_path: pathlib.Path) -> None:
    outcome = detect(tmp_path, examples_of(tmp_path / "examples", train=[{"x": 1.0}], eval=[]))
    _check_has_no_forest(outcome, "No isolation forest: 1 rows are too few, 16 are the least.")
    assert outcome.summary["splits"]["eval"]["rows"] == 0


def test_labels_outside_the_schema_are_findings_and_text_has_no_forest(tmp_path: pathlib.Path) -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="y", type=schema_pb2.BYTES).string_domain.value.extend(["a", "b"])
    examples = examples_of(tmp_path / "examples", train=[{"y": "a"}, {"y": "z"}], eval=[{"y": "new"}])
    outcome = detect(tmp_path, examples, schema, label="y", task="classification")
    assert outcome.findings("train")["y"] == {"Label outside domain"}
    assert outcome.findings("eval")["y"] == {"Unseen categories"}
    _check_has_no_forest(outcome, "No isolation forest: no feature has numbers of a fixed length or rare categories.")


def test_label_is_named_when_the_schema_lacks_it(tmp_path: pathlib.Path) -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="x", type=schema_pb2.FLOAT)
    examples = examples_of(tmp_path / "examples", train=[{"x": 1.0, "y": 1.0}])
    with pytest.raises(InvalidDataError, match="label 'y': is not in the schema"):
        detect(tmp_path, examples, schema, label="y", task="regression")


def test_feature_is_named_when_eval_has_another_type(tmp_path: pathlib.Path) -> None:
    examples = examples_of(tmp_path / "examples", train=[{"x": 1.0}] * 20, eval=[{"x": "text"}])
    with pytest.raises(InvalidDataError, match="split 'eval', feature 'x': has values of several types"):
        detect(tmp_path, examples)


def test_feature_is_named_when_the_schema_has_another_type(tmp_path: pathlib.Path) -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="x", type=schema_pb2.INT)
    examples = examples_of(tmp_path / "examples", train=[{"x": 1.0}] * 20)
    with pytest.raises(
        InvalidDataError, match=r"split 'train', feature 'x': is not of the schema's type \(int64 there, float"
    ):
        detect(tmp_path, examples, schema)


def test_feature_is_named_when_the_schema_contradicts_itself(tmp_path: pathlib.Path) -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="x", type=schema_pb2.FLOAT).shape.dim.add(size=1)
    examples = examples_of(tmp_path / "examples", train=[{"x": 1.0}] * 20)
    with pytest.raises(InvalidDataError, match=r"schema: cannot be used \(Feature x had shape .* Correct it"):
        detect(tmp_path, examples, schema)


def test_column_is_named_when_the_data_have_it_already(tmp_path: pathlib.Path) -> None:
    examples = examples_of(tmp_path / "examples", train=[{"outlier_flag": 1, "x": 1.0}] * 20)
    with pytest.raises(InvalidDataError, match="feature 'outlier_flag': is a column that OutlierDetector adds"):
        detect(tmp_path, examples)


def test_examples_must_be_those_of_the_statistics(tmp_path: pathlib.Path) -> None:
    examples = examples_of(tmp_path / "examples", train=_rows(30))
    others = examples_of(tmp_path / "others", train=_rows(31))
    with pytest.raises(InvalidDataError, match="split 'train': has 30 rows, the statistics are of 31"):
        detect(tmp_path, examples, statistics_of=others)


def test_given_ids_are_kept_and_custom_patterns_and_plain_files_are_read(tmp_path: pathlib.Path) -> None:
    rows = [{"x": float(n), "example_id": 1000 + n} for n in range(30)] + [{"x": 1e9, "example_id": 5}]
    for name, split in (("mine", rows), ("theirs", rows[:9])):
        write_file(tmp_path / "examples" / name / "rows.tfrecord", [serialized(row) for row in split])
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(tmp_path / "examples"), "[]"
    examples.set_string_custom_property("custom_split_pattern", json.dumps({"train": "mine/*", "eval": "theirs/*"}))
    outcome = detect(tmp_path, examples)
    assert json.loads(outcome.examples.split_names) == ["train", "eval"]
    assert outcome.column("train", "example_id") == [*range(1000, 1030), 5]
    assert outcome.column("eval", "example_id") == [*range(1000, 1009)]
    assert outcome.summary["top_rows"][0]["example_id"] == 5
    assert [feature["name"] for feature in outcome.summary["features"]] == ["x"]


def test_sequence_examples_are_scored_by_their_context(tmp_path: pathlib.Path) -> None:
    def record(value: float) -> bytes:
        example = tf.train.SequenceExample()
        example.context.feature["x"].float_list.value.append(value)
        example.feature_lists.feature_list["s"].feature.add().float_list.value.extend([value, 2.0])
        return example.SerializeToString()

    values = [*range(30), 1e6]
    write_file(tmp_path / "examples" / "Split-train" / "rows.gz", [record(value) for value in values])
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(tmp_path / "examples"), '["train"]'
    examples.set_string_custom_property("payload_format", "FORMAT_TF_SEQUENCE_EXAMPLE")
    schema = schema_pb2.Schema()
    schema.feature.add(name="x", type=schema_pb2.FLOAT)
    outcome = detect(tmp_path, examples, schema)
    found = [tf.train.SequenceExample.FromString(row) for row in outcome.records("train")]
    flags = [row.context.feature["outlier_flag"].int64_list.value[0] for row in found]
    assert flags == [0] * 30 + [1]
    assert [row.context.feature["x"].float_list.value[0] for row in found] == values
    assert len(found[0].feature_lists.feature_list["s"].feature) == 1


def test_unknown_payloads_are_named(tmp_path: pathlib.Path) -> None:
    examples = examples_of(tmp_path / "examples", train=_rows(20))
    described = examples_of(tmp_path / "examples", train=_rows(20))
    examples.set_string_custom_property("payload_format", "FORMAT_PROTO")
    with pytest.raises(InvalidDataError, match="examples: have the payload FORMAT_PROTO in tfrecords_gzip"):
        detect(tmp_path, examples, statistics_of=described)


def test_split_is_named_when_it_does_not_exist(tmp_path: pathlib.Path) -> None:
    examples = examples_of(tmp_path / "examples", eval=_rows(3))
    described = examples_of(tmp_path / "described", train=_rows(3))
    with pytest.raises(InvalidArgumentError, match=r"split must be one of the examples' splits \['eval'\]"):
        detect(tmp_path, examples, statistics_of=described)


def test_model_of_another_version_is_refused(outcomes: dict[str, Outcome], tmp_path: pathlib.Path) -> None:
    content = json.loads((pathlib.Path(outcomes["flag"].model.uri) / "outlier_model.json").read_text())
    for changes, words in (
        ({"format": "spikeguard.outlier_model/9"}, "has the format 'spikeguard.outlier_model/9' instead of"),
        ({"fences": None}, "cannot be read"),
    ):
        (tmp_path / "outlier_model.json").write_text(json.dumps(content | changes))
        with pytest.raises(InvalidDataError, match=words):
            read_outlier_model(tmp_path)


def test_a_damaged_summary_is_named(tmp_path: pathlib.Path) -> None:
    for text, words in (("{", "cannot be read"), ('{"format": "other"}', "has the format 'other'")):
        (tmp_path / "outliers.json").write_text(text)
        with pytest.raises(InvalidDataError, match=words):
            read_outliers(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"treatment": "hide"}, "treatment must be one of flag, drop, downweight, winsorize; got 'hide'"),
        ({"label": "y"}, "task must be given with a label"),
        ({"fence_factor": 0.5}, "fence_factor must be at least 1"),
        ({"trees": -1}, "trees must be an integer of at least 0"),
        ({"max_dropped_share": 1.0}, "max_dropped_share must be above 0 and below 1"),
        ({"weight": "outlier_flag"}, "weight must be a name that no other column has"),
        ({"score_threshold": 0.0}, "score_threshold must be above 0"),
        ({"outlier_weight": 1.0}, "outlier_weight must be at least 0"),
        ({"tree": 3}, "settings must name fields of DetectorConfig"),
    ],
)
def test_parameters_outside_their_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        DetectorConfig.with_settings(**settings)


def test_component_declares_inputs_and_outputs() -> None:
    component = OutlierDetector(
        examples=Channel(type=standard_artifacts.Examples),
        statistics=Channel(type=standard_artifacts.ExampleStatistics),
        schema=Channel(type=standard_artifacts.Schema),
        label="y",
        task="regression",
        treatment="drop",
        contamination=0.02,
    )
    assert {name: channel.type for name, channel in component.outputs.items()} == {
        "treated_examples": standard_artifacts.Examples,
        "treated_schema": standard_artifacts.Schema,
        "anomalies": standard_artifacts.ExampleAnomalies,
        "model": OutlierModel,
    }
    config = DetectorConfig.from_json(component.exec_properties["config"])
    assert (config.treatment, config.contamination, config.label) == ("drop", 0.02, "y")
