"""The anomalies of every validator, and the statistics of every split, as rows of a table."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from spikeguard.components.anomalies import ANOMALIES_FILE, read_anomalies
from spikeguard.components.errors import InvalidDataError, SpikeguardError
from spikeguard.components.stability_report.sources import ANOMALIES, STATISTICS, Source, of_type
from spikeguard.components.training_statistics.reading import FILE_NAME as STATISTICS_FILE
from spikeguard.components.training_statistics.reading import read_proto
from spikeguard.components.training_statistics.results import robust_statistics_of

_SPLIT_PREFIXES = ("Split-", "SplitPair-")
_SEVERITY_RANK = {"ERROR": 0, "WARNING": 1, "UNKNOWN": 2}


def anomaly_rows(sources: Iterable[Source]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every anomaly of every `ExampleAnomalies`, the most serious first.

    Returns:
      Rows of `source`, `split`, `feature` (null for the data set), `severity`, `summary` and `text`; the same anomaly of
      several splits is one row, whose `split` names them. And a sentence for each file that could not be read.
    """
    splits_of: dict[tuple[Any, ...], list[str]] = {}
    problems: list[str] = []
    for source in of_type(sources, ANOMALIES):
        for split, path in _split_files(source.folder, ANOMALIES_FILE):
            try:
                for row in _rows_of(read_anomalies(path)):
                    splits_of.setdefault((source.node, *row), []).append(split)
            except SpikeguardError as error:
                problems.append(f"The anomalies of {source.node or 'a validator'} could not be read: {error}")
    names = ("source", "feature", "severity", "summary", "text")
    rows = [
        {**dict(zip(names, key, strict=True)), "split": ", ".join(filter(None, found))}
        for key, found in splits_of.items()
    ]
    return sorted(rows, key=lambda row: _SEVERITY_RANK[row["severity"]]), problems


def _split_files(folder: str, name: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Name and file of each split; Transform's anomalies have a file and no splits."""
    root = pathlib.Path(folder)
    if (root / name).exists():
        yield "", root / name
    for path in sorted(root.glob(f"*/{name}")):
        for prefix in _SPLIT_PREFIXES:
            if path.parent.name.startswith(prefix):
                yield path.parent.name.removeprefix(prefix), path


def _rows_of(anomalies: anomalies_pb2.Anomalies) -> Iterator[tuple[str | None, str, str, str]]:
    if anomalies.data_missing:
        yield None, "ERROR", "Data missing", "The split has no examples."
    infos: list[tuple[str | None, Any]] = [(None, anomalies.dataset_anomaly_info)]
    infos += [(".".join(info.path.step) or name, info) for name, info in sorted(anomalies.anomaly_info.items())]
    for feature, info in infos:
        severity = anomalies_pb2.AnomalyInfo.Severity.Name(info.severity)
        for reason in info.reason:
            yield feature, severity, reason.short_description, reason.description
        if not info.reason and (info.short_description or info.description):
            yield feature, severity, info.short_description, info.description


def statistics_rows(sources: Iterable[Source]) -> tuple[list[dict[str, Any]], list[str]]:
    """Of every feature in every split of every `ExampleStatistics`: counts, location, spread, and what is unusual.

    Returns:
      Rows of `source`, `split`, `feature`, `kind`, `rows`, `missing_share`, `mean`, `sd`, `min`, `median`, `max`,
      `distinct` and `unusual` (sentences of TrainingStatistics); null where there is none. And what could not be read.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for source in of_type(sources, STATISTICS):
        for split, path in _split_files(source.folder, STATISTICS_FILE):
            try:
                content = read_proto(path)
            except InvalidDataError as error:
                problems.append(f"The statistics of {source.node or 'a split'} could not be read: {error}")
                continue
            for dataset in content.datasets:
                rows += [
                    {"source": source.node, "split": split, **_described(feature, dataset.num_examples)}
                    for feature in dataset.features
                ]
    return _joined(rows), problems


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per feature and split, sorted; where several components described it, with what each found unusual."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        first = found.setdefault((row["feature"], row["split"]), row)
        if first is not row:
            first["source"] = f"{first['source']}, {row['source']}"
            first["unusual"] = [*first["unusual"], *row["unusual"]]
            first.update({name: value for name, value in row.items() if first[name] is None})
    return [found[key] for key in sorted(found)]


def _described(feature: statistics_pb2.FeatureNameStatistics, rows: float) -> dict[str, Any]:
    robust = robust_statistics_of(feature)
    kind = feature.WhichOneof("stats") or ""
    common = getattr(feature, kind).common_stats if kind else None
    numbers = feature.num_stats if kind == "num_stats" and common and common.num_non_missing else None
    return {
        "feature": ".".join(feature.path.step) or feature.name,
        "kind": statistics_pb2.FeatureNameStatistics.Type.Name(feature.type).lower(),
        "rows": int(rows),
        "missing_share": common.num_missing / rows if common and rows else None,
        "mean": numbers and numbers.mean,
        "sd": numbers and numbers.std_dev,
        "min": numbers and numbers.min,
        "median": numbers and numbers.median,
        "max": numbers and numbers.max,
        "distinct": feature.string_stats.unique if kind == "string_stats" else None,
        "unusual": list(robust.findings) if robust else [],
    }
