"""Finds the label in the statistics of all splits."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.imbalance_detector.label_counts import (
    LabelCounts,
    LabelKind,
    label_counts,
    most_exact,
    number_counts,
)
from spikeguard.components.imbalance_detector.label_range import LabelRange, label_range
from spikeguard.components.training_statistics.generators import BAD_WEIGHTS
from spikeguard.components.training_statistics.reading import FILE_NAME, read_proto
from spikeguard.components.training_statistics.results import robust_statistics_of


@dataclasses.dataclass(frozen=True)
class LabelStatisticsOfSplits:
    """What all statistics together know of the label."""

    counts: Mapping[str, LabelCounts]
    """By split, in the order in which the statistics came."""
    train_range: LabelRange | None
    """Of a regression label in the train split, where TrainingStatistics described it."""


def read_label(
    folders: Sequence[str | os.PathLike[str]], config: ImbalanceConfig, schema: schema_pb2.Schema | None = None
) -> LabelStatisticsOfSplits:
    """Reads the label's statistics; where several describe a split, the one that knows most of it counts.

    Args:
      folders: `uri`s of ExampleStatistics artifacts, of StatisticsGen or TrainingStatistics.
      config: names label, task and train split.
      schema: that must know the label; None for none.

    Raises:
      InvalidDataError: there are no statistics of the train split, or they, or the schema, do not know the label; or a
        file is damaged.
    """
    names = [feature.name for feature in schema.feature] if schema else []
    if schema is not None and config.label not in names:
        raise InvalidDataError(
            f"label {config.label!r}", "is not in the schema", f"Name one of {', '.join(sorted(names))}."
        )
    found: dict[str, list[LabelCounts]] = {}
    train_range = None
    for folder in folders:
        for path in sorted(pathlib.Path(folder).glob(f"Split-*/{FILE_NAME}")):
            split = path.parent.name.removeprefix("Split-")
            dataset = _dataset(path)
            feature = _feature(dataset, config.label)
            if feature is None and split == config.train_split:
                raise InvalidDataError(
                    f"split {split!r}, label {config.label!r}",
                    "is not in the statistics",
                    f"Name one of {', '.join(sorted(_name(feature) for feature in dataset.features))}.",
                )
            found.setdefault(split, []).append(_counts(split, dataset, feature, config))
            robust = robust_statistics_of(feature) if feature is not None else None
            if split == config.train_split and robust is not None and config.task == "regression":
                train_range = label_range(split, robust)
    if config.train_split not in found:
        raise InvalidDataError(
            f"split {config.train_split!r}",
            f"is not in the statistics, which have {', '.join(found) or 'no split'}",
            "Give StatisticsGen's output, or TrainingStatistics'.",
        )
    return LabelStatisticsOfSplits({split: most_exact(each) for split, each in found.items()}, train_range)


def _dataset(path: pathlib.Path) -> statistics_pb2.DatasetFeatureStatistics:
    proto = read_proto(path)
    if not proto.datasets or not proto.datasets[0].num_examples:
        raise InvalidDataError(str(path), "describes no rows", "Check the split's files.")
    return proto.datasets[0]


def _counts(
    split: str,
    dataset: statistics_pb2.DatasetFeatureStatistics,
    feature: statistics_pb2.FeatureNameStatistics | None,
    config: ImbalanceConfig,
) -> LabelCounts:
    rows = int(dataset.num_examples)
    if feature is None:
        kind: LabelKind = "classes" if config.task == "classification" else "numbers"
        return LabelCounts(split, rows, 0, 0, kind, None, None, "no row has a label")
    if config.task == "regression":
        return number_counts(split, rows, feature)
    is_weighted = any(stat.name == BAD_WEIGHTS for one in dataset.features for stat in one.custom_stats)
    return label_counts(split, rows, feature, is_weighted)


def _feature(
    dataset: statistics_pb2.DatasetFeatureStatistics, label: str
) -> statistics_pb2.FeatureNameStatistics | None:
    return next((feature for feature in dataset.features if _name(feature) == label), None)


def _name(feature: statistics_pb2.FeatureNameStatistics) -> str:
    return ".".join(feature.path.step) or str(feature.name)
