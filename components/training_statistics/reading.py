"""Reads what TrainingStatistics wrote, for the components that use it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

from google.protobuf.message import DecodeError
from tensorflow_metadata.proto.v0 import statistics_pb2

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.training_statistics.results import RobustStatistics, robust_statistics_of

# As StatisticsGen names its file.
FILE_NAME = "FeatureStats.pb"


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
    """The statistics of one split."""

    split: str
    rows: int
    features: dict[str, RobustStatistics]
    """By name, sorted."""

    @property
    def label(self) -> RobustStatistics | None:
        """The feature that is the label, None where none was named."""
        return next((feature for feature in self.features.values() if feature.label_task is not None), None)


def read_training_statistics(folder: str | os.PathLike[str]) -> SplitStatistics:
    """Reads an `ExampleStatistics` artifact of TrainingStatistics.

    Args:
      folder: the artifact's `uri`.

    Raises:
      InvalidDataError: there is not one split in it, or it was written by another component.

    >>> read_training_statistics("/nowhere")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere: has statistics of 0 splits instead of 1. Give the output of TrainingStatistics.
    """
    files = sorted(pathlib.Path(folder).glob(f"Split-*/{FILE_NAME}"))
    remedy = "Give the output of TrainingStatistics."
    if len(files) != 1:
        raise InvalidDataError(str(folder), f"has statistics of {len(files)} splits instead of 1", remedy)
    proto = read_proto(files[0])
    if len(proto.datasets) != 1:
        raise InvalidDataError(str(files[0]), f"has {len(proto.datasets)} datasets instead of 1", remedy)
    found = [robust_statistics_of(feature) for feature in proto.datasets[0].features]
    features = {feature.name: feature for feature in found if feature is not None}
    if not features:
        raise InvalidDataError(str(files[0]), "has no robust statistics", remedy)
    split = re.sub("^Split-", "", files[0].parent.name)
    return SplitStatistics(split, proto.datasets[0].num_examples, dict(sorted(features.items())))


def read_proto(path: str | os.PathLike[str]) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Reads a statistics file.

    Raises:
      InvalidDataError: it is missing or damaged.
    """
    try:
        return statistics_pb2.DatasetFeatureStatisticsList.FromString(pathlib.Path(path).read_bytes())
    except (OSError, DecodeError) as error:
        raise InvalidDataError(
            str(path), f"cannot be read ({error})", "Run the component that made it again."
        ) from error
