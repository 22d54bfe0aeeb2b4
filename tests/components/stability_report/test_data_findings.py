"""Anomalies and statistics, as TFDV and the validators write them, become rows."""

from __future__ import annotations

import pathlib

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from spikeguard.components.stability_report.data_findings import anomaly_rows, statistics_rows
from spikeguard.components.stability_report.sources import Source
from spikeguard.components.training_statistics.results import RobustStatistics, add_to


def _statistics(folder: pathlib.Path, split: str, robust: RobustStatistics | None = None) -> Source:
    content = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = content.datasets.add(num_examples=200)
    number = dataset.features.add(type=statistics_pb2.FeatureNameStatistics.FLOAT)
    number.path.step.extend(["trip", "delay"])
    numbers = number.num_stats
    numbers.mean, numbers.std_dev, numbers.min, numbers.median, numbers.max = 2.0, 3.0, -1.0, 1.0, 90.0
    numbers.common_stats.num_missing, numbers.common_stats.num_non_missing = 50, 150
    text = dataset.features.add(type=statistics_pb2.FeatureNameStatistics.STRING, name="carrier")
    text.string_stats.unique = 16
    text.string_stats.common_stats.num_non_missing = 200
    if robust is not None:
        add_to(number, robust)
    path = folder / f"Split-{split}" / "FeatureStats.pb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.SerializeToString())
    return Source("ExampleStatistics", str(folder), folder.name)


def test_features_stand_once_by_split_with_what_is_unusual(tmp_path: pathlib.Path) -> None:
    gen = _statistics(tmp_path / "StatisticsGen", "train")
    _statistics(tmp_path / "StatisticsGen", "eval")
    robust = RobustStatistics(name="trip.delay", rows=200, findings=("heavy tail: of weight 3.1",))
    training = _statistics(tmp_path / "TrainingStatistics", "train", robust)
    rows, problems = statistics_rows([gen, training])
    assert problems == []
    assert [(row["feature"], row["split"]) for row in rows] == [
        ("carrier", "eval"),
        ("carrier", "train"),
        ("trip.delay", "eval"),
        ("trip.delay", "train"),
    ]
    assert rows[3] == {
        "source": "StatisticsGen, TrainingStatistics",
        "split": "train",
        "feature": "trip.delay",
        "kind": "float",
        "rows": 200,
        "missing_share": 0.25,
        "mean": 2.0,
        "sd": 3.0,
        "min": -1.0,
        "median": 1.0,
        "max": 90.0,
        "distinct": None,
        "unusual": ["heavy tail: of weight 3.1"],
    }
    assert (rows[0]["distinct"], rows[0]["mean"], rows[0]["missing_share"]) == (16, None, 0.0)


def test_statistics_that_cannot_be_read_are_a_problem(tmp_path: pathlib.Path) -> None:
    source = _statistics(tmp_path / "StatisticsGen", "train")
    (tmp_path / "StatisticsGen" / "Split-train" / "FeatureStats.pb").write_bytes(b"\x0a\xff")
    rows, problems = statistics_rows([source])
    assert rows == []
    assert len(problems) == 1
    assert problems[0].startswith("The statistics of StatisticsGen could not be read: ")


def test_anomalies_of_every_kind_of_folder_are_found(tmp_path: pathlib.Path) -> None:
    anomalies = anomalies_pb2.Anomalies()
    info = anomalies.anomaly_info["a"]
    info.severity = anomalies_pb2.AnomalyInfo.WARNING
    info.short_description, info.description = "Odd", "It is odd."
    # Of DistributionValidator, of Transform, which has no splits, and of a split without examples.
    for name, content in (
        ("SplitPair-train_eval", anomalies),
        (".", anomalies),
        ("Split-empty", anomalies_pb2.Anomalies(data_missing=True)),
    ):
        path = tmp_path / name / "SchemaDiff.pb"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.SerializeToString())
    rows, problems = anomaly_rows([Source("ExampleAnomalies", str(tmp_path), "Validator")])
    assert problems == []
    assert [(row["feature"], row["severity"], row["summary"], row["split"]) for row in rows] == [
        (None, "ERROR", "Data missing", "empty"),
        ("a", "WARNING", "Odd", "train_eval"),
    ]
