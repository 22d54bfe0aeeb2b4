"""The executor with real artifacts and real transform graphs, without a pipeline around it."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Channel, standard_artifacts

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.normalization_validator import transforms
from spikeguard.components.normalization_validator.component import NormalizationValidator
from spikeguard.components.normalization_validator.executor import Executor
from spikeguard.components.normalization_validator.measuring import Plan
from spikeguard.components.normalization_validator.transforms import measure
from spikeguard.components.preprocessing import scaling
from tests.bench.normalization import run_transform
from tests.bench.normalization_data import Table, schema, write

BEAM_ARGS = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]
ROWS = 900


def _table() -> Table:
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {name: random.gamma(2.0, 30.0, ROWS) for name in "abcdefghijklmn"}
    columns["gaps"] = np.where(random.random(ROWS) < 0.2, np.nan, random.normal(300, 5, ROWS))
    columns["vector"] = random.normal(size=(ROWS, 3)) * [1, 20, 300] + [0, 5, -900]
    columns["constant"] = np.full(ROWS, 7.0)
    columns["fraction"] = np.round(random.random(ROWS), 2)
    columns["fraction"][-1] = 1.0
    before = random.normal(5, 3, ROWS)
    columns["before"] = (before - before.mean()) / before.std()
    columns["shifted"] = random.normal(0, 1, ROWS) + np.where(np.arange(ROWS) < 600, 0.0, 2.0)
    table = {name: column.astype(np.float32) for name, column in columns.items()}
    table["text"] = random.choice(["x", "y", "z"], ROWS).astype(object)
    return Table("mixed", table, np.arange(ROWS) < 600)


DATA = _table()


def _of(name: str, rows: slice = slice(None)) -> tuple[float, float]:
    values = DATA.columns[name][rows].astype(np.float64)
    return float(values.mean()), float(values.std())


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Each feature in its own way: some right, some wrong."""
    x = {name: scaling.number(column) for name, column in inputs.items() if name != "text"}

    def by_hand(column: tf.Tensor, constants: tuple[float, float]) -> tf.Tensor:
        return (column - constants[0]) / constants[1]

    mean, variance = tf.nn.moments(x["c"], axes=[0])
    return {
        "a": tft.scale_to_z_score(x["a"]),
        "b": by_hand(x["b"], _of("b")),
        "c": (x["c"] - mean) / tf.sqrt(variance),
        "d": x["d"] / 50.0,
        "e": tft.scale_to_z_score(tf.math.log1p(x["e"])),
        "f": by_hand(x["f"], _of("g", slice(0, 600))),
        "g": scaling.robust_scale(x["g"]),
        "h": x["h"],
        "i": scaling.min_max(x["i"], -1.0, 1.0),
        "j": by_hand(
            tf.math.sqrt(x["j"]), (float(np.sqrt(DATA.columns["j"]).mean()), float(np.sqrt(DATA.columns["j"]).std()))
        ),
        "k": tf.clip_by_value(tft.scale_to_z_score(x["k"]), -1.0, 1.0),
        "l_times_m": tft.scale_to_z_score(x["l"] * x["m"]),
        "n_bucket": tft.bucketize(x["n"], 5),
        "n_log": tf.math.log1p(x["n"]),
        "gaps": scaling.fill(scaling.z_score(x["gaps"])),
        "gaps_missing": scaling.missing(x["gaps"]),
        "vector": scaling.z_score(x["vector"]),
        "constant": x["constant"] - 7.0,
        "fraction": x["fraction"],
        "before": tft.scale_to_z_score(x["before"]),
        "shifted": x["shifted"],
        "text": tft.compute_and_apply_vocabulary(inputs["text"], vocab_filename="words"),
    }


@dataclasses.dataclass(frozen=True)
class Transformed:
    """What Transform left."""

    folder: pathlib.Path
    examples: standard_artifacts.Examples
    graph: standard_artifacts.TransformGraph
    transformed: standard_artifacts.Examples


@dataclasses.dataclass(frozen=True)
class Validated:
    """What the executor left."""

    result: dict[str, Any]
    anomalies: standard_artifacts.ExampleAnomalies
    blessing: standard_artifacts.InfraBlessing

    def check(self, feature: str | None, name: str) -> dict[str, Any]:
        (found,) = [feature_ for feature_ in self.result["features"] if feature_["name"] == feature]
        (check,) = [check for check in found["checks"] if check["check"] == name]
        return dict(check)

    def status(self, feature: str | None, name: str) -> str:
        return str(self.check(feature, name)["status"])


def _examples(folder: pathlib.Path, splits: Sequence[str] = ("train", "eval")) -> standard_artifacts.Examples:
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names, examples.span = str(folder), json.dumps(list(splits)), 3
    return examples


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    folder = tmp_path_factory.mktemp("transform")
    files = write(DATA, folder / "raw")
    graph = standard_artifacts.TransformGraph()
    graph.uri, materialized = run_transform(preprocessing_fn, ["train"], schema(DATA), files, folder)
    for split, (path,) in materialized.items():
        target = folder / "transformed" / f"Split-{split}"
        target.mkdir(parents=True)
        shutil.move(path, target)
    return Transformed(folder, _examples(folder / "raw"), graph, _examples(folder / "transformed"))


def _validate(folder: pathlib.Path, inputs: dict[str, Any], **config: Any) -> Validated:
    anomalies, blessing = standard_artifacts.ExampleAnomalies(), standard_artifacts.InfraBlessing()
    anomalies.uri, blessing.uri = str(folder / "anomalies"), str(folder / "blessing")
    component = NormalizationValidator(
        Channel(type=standard_artifacts.Examples), Channel(type=standard_artifacts.TransformGraph), **config
    )
    executor = Executor(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=BEAM_ARGS))
    executor.Do(
        {key: [artifact] for key, artifact in inputs.items()},
        {"anomalies": [anomalies], "blessing": [blessing]},
        dict(component.exec_properties),
    )
    content = (folder / "anomalies" / "normalization.json").read_text()
    return Validated(json.loads(content), anomalies, blessing)


def _statistics(folder: pathlib.Path, rows: int) -> standard_artifacts.ExampleStatistics:
    folder.mkdir()
    proto = statistics_pb2.DatasetFeatureStatisticsList()
    proto.datasets.add(num_examples=rows)
    (folder / "FeatureStats.pb").write_bytes(proto.SerializeToString())
    statistics = standard_artifacts.ExampleStatistics()
    statistics.uri = str(folder)
    statistics.set_int_custom_property("rows", rows)
    return statistics


@pytest.fixture(scope="module")
def validated(transformed: Transformed, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    folder = tmp_path_factory.mktemp("validated")
    statistics = _statistics(folder / "statistics", 600)
    inputs = {
        "statistics": statistics,
        "pre_transform_stats": statistics,
        "examples": transformed.examples,
        "transform_graph": transformed.graph,
        "transformed_examples": transformed.transformed,
    }
    return _validate(folder, inputs, label="fraction")


def test_a_pipeline_measures_what_the_process_alone_does(
    transformed: Transformed, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw,), (materialized,) = (
        list((pathlib.Path(examples.uri) / "Split-train").iterdir())
        for examples in (transformed.examples, transformed.transformed)
    )
    # Twice, so that the parts of two files are combined.
    files = [(False, "train", str(raw)), (False, "train", str(raw)), (True, "train", str(materialized))]
    sources = {"a": "a", "gaps": "gaps"}
    kept = (("present", "train", "gaps"), ("raw", "train", "vector"))
    pipeline = functools.partial(beam.Pipeline, argv=BEAM_ARGS)
    for plan in (Plan(transformed.graph.uri, sources), Plan(transformed.graph.uri, sources, kept=kept)):
        alone = measure(plan, files, _no_pipeline, str(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "_SMALL", 0)
            spread = measure(plan, files, pipeline, str(tmp_path))
        assert set(alone) == set(spread) >= set(kept)
        assert alone["present", "train", "gaps"].shape == ((1200, 1) if plan.kept else (10, 1))
        for key in alone:
            np.testing.assert_allclose(alone[key], spread[key], rtol=1e-12, err_msg=str(key))


def _no_pipeline() -> beam.Pipeline:
    raise AssertionError("A few rows need no pipeline.")


@pytest.mark.parametrize(
    ("feature", "status", "rule"),
    [
        ("a", "proven", "z-score"),
        ("b", "refuted", "z-score"),
        ("d", "not_applicable", None),
        ("e", "proven", "z-score"),
        ("f", "refuted", "z-score"),
        ("g", "proven", "median and normal interquartile range"),
        ("h", "not_applicable", None),
        ("i", "proven", "min-max to -1 and 1"),
        ("j", "refuted", "z-score"),
        ("k", "proven", "z-score"),
        ("l_times_m", "proven", "z-score"),
        ("n", "not_applicable", None),
        ("gaps", "proven", "z-score"),
        ("vector", "proven", "z-score"),
        ("fraction", "not_applicable", None),
    ],
)
def test_constants_are_told_from_outside(validated: Validated, feature: str, status: str, rule: str | None) -> None:
    check = validated.check(feature, "train_only")
    assert check["status"] == status, check
    assert check["figures"].get("rule") == rule
    assert check["severity"] == ("ERROR" if status == "refuted" else None)


def test_number_of_analyzed_rows_is_proof_as_well(validated: Validated) -> None:
    assert (
        validated.check(None, "train_only")["text"] == "tf.Transform analyzed 600 rows, as many as the train split has."
    )
    assert validated.result["notes"] == []


def test_figures_are_those_of_the_data(validated: Validated) -> None:
    mean, sd = _of("a", slice(0, 600))
    figures = validated.check("a", "train_only")["figures"]
    assert figures["train_rows"] == 600
    assert figures["location"] == pytest.approx(mean, rel=1e-5)
    assert figures["scale"] == pytest.approx(sd, rel=1e-5)
    pooled_mean, pooled_sd = _of("a")
    gap = max(abs(mean - pooled_mean), abs(sd - pooled_sd))
    # A precision is 1e-5 standard deviations and some roundings of float32.
    assert gap / (3e-5 * sd) < figures["precisions_from_other"] < gap / (1e-5 * sd)
    assert "would miss by" in validated.check("a", "train_only")["text"]
    assert "g in train" in validated.check("f", "train_only")["text"]


def test_only_reductions_over_the_batch_depend_on_it(validated: Validated) -> None:
    found = {
        feature["name"]: check["status"]
        for feature in validated.result["features"]
        for check in feature["checks"]
        if check["check"] == "independent_of_batch"
    }
    assert {name for name, status in found.items() if status == "refuted"} == {"c"}
    assert set(found.values()) == {"proven", "refuted"}


def test_normalization_before_the_split_is_refuted(validated: Validated) -> None:
    assert validated.check("before", "not_normalized_before_split")["severity"] == "ERROR"
    others = {feature["name"] for feature in validated.result["features"]} - {None, "before", "l_times_m"}
    assert {validated.status(str(name), "not_normalized_before_split") for name in others} == {"proven"}


def test_unsound_sizes_are_warned_of(validated: Validated) -> None:
    assert "unscaled" in validated.check("h", "scaled")["text"]
    assert "in all 600 rows" in validated.check("constant", "scaled")["text"]
    assert validated.check("h", "scaled")["severity"] == validated.check("constant", "scaled")["severity"] == "WARNING"
    assert validated.check("shifted", "same_distribution")["severity"] == "WARNING"
    assert [validated.status(name, "scaled") for name in ("a", "gaps", "vector")] == ["proven"] * 3


def test_findings_and_blessing_say_the_same(validated: Validated) -> None:
    assert (validated.result["format"], validated.result["verdict"]) == ("spikeguard.normalization/1", "refuted")
    assert validated.result["rows"] == {"train": 600, "eval": 300}
    assert validated.blessing.get_int_custom_property("blessed") == 0
    assert "b: Its constants" in validated.blessing.get_string_custom_property("reasons")
    assert (validated.anomalies.split_names, validated.anomalies.span) == ('["train", "eval"]', 3)
    root = pathlib.Path(validated.anomalies.uri)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
        "Split-eval/SchemaDiff.pb",
        "Split-train/SchemaDiff.pb",
        "normalization.json",
    ]
    train, evaluation = (
        anomalies_pb2.Anomalies.FromString((root / f"Split-{split}" / "SchemaDiff.pb").read_bytes()).anomaly_info
        for split in ("train", "eval")
    )
    errors = {name for name, info in train.items() if info.severity == anomalies_pb2.AnomalyInfo.ERROR}
    assert errors == {"b", "c", "f", "j", "before"}
    # What is normalized per batch differs from what was materialized in other batches.
    assert set(evaluation) == {"c", "shifted"}


def test_other_constants_and_other_rows_are_refuted(transformed: Transformed, tmp_path: pathlib.Path) -> None:
    # Eval's rows, transformed as rows of train are: by no graph that serves.
    spoiled = tmp_path / "spoiled"
    shutil.copytree(transformed.transformed.uri, spoiled)
    shutil.rmtree(spoiled / "Split-eval")
    shutil.copytree(spoiled / "Split-train", spoiled / "Split-eval")
    inputs = {"examples": transformed.examples, "transform_graph": transformed.graph}
    statistics = _statistics(tmp_path / "statistics", 900)
    inputs = {**inputs, "pre_transform_stats": statistics, "statistics": statistics}
    found = _validate(tmp_path, {**inputs, "transformed_examples": _examples(spoiled)})
    check = found.check("a", "same_constants")
    assert (check["status"], check["severity"], check["figures"]["split"]) == ("refuted", "ERROR", "eval")
    # Transform says that it analyzed all rows, and the statistics are of all rows as well.
    assert found.check(None, "train_only")["severity"] == "ERROR"
    assert any("describe 900 rows, the train split has 600" in note for note in found.result["notes"])


def _copy_of(graph: standard_artifacts.TransformGraph, folder: pathlib.Path) -> standard_artifacts.TransformGraph:
    shutil.copytree(graph.uri, folder)
    copy = standard_artifacts.TransformGraph()
    copy.uri = str(folder)
    return copy


def _failure(folder: pathlib.Path, inputs: dict[str, Any], **config: Any) -> str:
    found = _validate(folder, inputs, **config)
    assert found.result["verdict"] == "failed"
    assert found.blessing.get_int_custom_property("blessed") == 0
    proto = folder / "anomalies" / "Split-train" / "SchemaDiff.pb"
    info = anomalies_pb2.Anomalies.FromString(proto.read_bytes()).dataset_anomaly_info
    assert info.severity == anomalies_pb2.AnomalyInfo.ERROR
    return str(info.description)


def test_bad_graphs_and_examples_are_findings(transformed: Transformed, tmp_path: pathlib.Path) -> None:
    examples, graph = transformed.examples, transformed.graph
    broken = _copy_of(graph, tmp_path / "graph")
    (vocabulary,) = pathlib.Path(broken.uri).rglob("assets/words*")
    vocabulary.unlink()
    assert "words" in _failure(tmp_path / "a", {"examples": examples, "transform_graph": broken})
    absent = standard_artifacts.TransformGraph()
    absent.uri = str(tmp_path / "nowhere")
    assert "cannot be loaded as a transform graph" in _failure(
        tmp_path / "b", {"examples": examples, "transform_graph": absent}
    )
    other = Table("other", {"z": np.arange(9, dtype=np.float32)}, np.arange(9) < 6)
    write(other, tmp_path / "other")
    inputs = {"examples": _examples(tmp_path / "other"), "transform_graph": graph}
    assert "does not take these examples" in _failure(tmp_path / "c", inputs)
    inputs = {"examples": examples, "transform_graph": graph}
    assert "split 'fit': is not among the examples' splits" in _failure(tmp_path / "d", inputs, train_split="fit")


def test_train_split_of_one_row_is_undecidable(transformed: Transformed, tmp_path: pathlib.Path) -> None:
    write(dataclasses.replace(DATA, is_train=np.arange(ROWS) < 1), tmp_path / "raw")
    inputs = {"examples": _examples(tmp_path / "raw"), "transform_graph": transformed.graph}
    found = _validate(tmp_path, inputs)
    assert any("The train split has 1 row" in note for note in found.result["notes"])
    assert any("Without transformed examples" in note for note in found.result["notes"])
    assert found.result["verdict"] in ("undecidable", "refuted")


def test_component_checks_its_parameters() -> None:
    examples, graph = Channel(type=standard_artifacts.Examples), Channel(type=standard_artifacts.TransformGraph)
    assert NormalizationValidator(examples, graph).outputs["blessing"].type is standard_artifacts.InfraBlessing
    with pytest.raises(InvalidArgumentError, match="max_sd_ratio must be above 1; got 1"):
        NormalizationValidator(examples, graph, max_sd_ratio=1)
