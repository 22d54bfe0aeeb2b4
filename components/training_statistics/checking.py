"""Why statistics cannot be used, in words that name split and feature."""

from __future__ import annotations

import re

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.training_statistics.generators import BAD_WEIGHTS, WEIGHT_SUM, StatisticsConfig

# What TFDV, its decoder and the merging of batches say of a feature with values of several types.
_MIXED_TYPES = (
    r"type of feature (?P<feature>.+?)\. Found values of types (?P<types>.+?)\.(?:\s|$)",
    r"wrong type, (?P<types>expected \w+, found \w+) for feature \"(?P<feature>.+?)\"",
)
_TYPE_NAMES = {"0": "INT", "1": "FLOAT", "2": "STRING", "3": "BYTES", "4": "STRUCT"}


def check_split(split: str, available: list[str]) -> None:
    """Raises InvalidArgumentError where the examples have no such split."""
    if split not in available:
        raise InvalidArgumentError("split", split, f"be one of the examples' splits {available}")


def check_schema(split: str, config: StatisticsConfig, schema: schema_pb2.Schema | None) -> None:
    """Raises InvalidDataError where a schema does not know the label."""
    names = [feature.name for feature in schema.feature] if schema else []
    if config.label is not None and schema is not None and config.label not in names:
        raise InvalidDataError(
            f"split {split!r}, label {config.label!r}",
            "is not in the schema",
            f"Name one of {', '.join(sorted(names))}, or add it to the schema.",
        )


def check_result(split: str, config: StatisticsConfig, statistics: statistics_pb2.DatasetFeatureStatisticsList) -> None:
    """Raises InvalidDataError where there are no rows, no label or no usable weights."""
    dataset = statistics.datasets[0] if statistics.datasets else statistics_pb2.DatasetFeatureStatistics()
    if not dataset.num_examples:
        raise InvalidDataError(f"split {split!r}", "has no rows", "Check the split's files.")
    features = {".".join(feature.path.step) or feature.name: feature for feature in dataset.features}
    if config.label is not None and not _present_rows(features.get(config.label)):
        raise InvalidDataError(
            f"split {split!r}, label {config.label!r}",
            f"has no value in any of {dataset.num_examples} rows",
            f"Name one of {', '.join(sorted(features))}.",
        )
    if config.weight is not None:
        where = f"split {split!r}, weight {config.weight!r}"
        custom = {stat.name: stat.num for stat in features[config.weight].custom_stats}
        if custom.get(BAD_WEIGHTS):
            raise InvalidDataError(
                where,
                f"is negative or not finite in {custom[BAD_WEIGHTS]:.0f} of {dataset.num_examples} rows",
                "Give weights of 0 or more.",
            )
        if not custom.get(WEIGHT_SUM):
            raise InvalidDataError(where, "is 0 in every row", "Give some rows a weight above 0.")


def explained(split: str, config: StatisticsConfig, error: Exception) -> InvalidDataError | None:
    """A failure of TFDV as an error of the data, None where the data are not known to be at fault."""
    text = str(error)
    for pattern in _MIXED_TYPES:
        match = re.search(pattern, text)
        if match:
            types = re.sub(r"\b[0-4]\b", lambda number: _TYPE_NAMES[number.group()], match["types"]).strip()
            return InvalidDataError(
                f"split {split!r}, feature {match['feature']!r}",
                f"has values of several types ({types})",
                "Write all its rows with one type.",
            )
    where = f"split {split!r}, weight {config.weight!r}"
    # TFDV has no median of values that all have weight 0.
    if config.weight is not None and isinstance(error, AssertionError):
        return InvalidDataError(where, "is 0 in every row that has some feature", "Give these rows a weight above 0.")
    if config.weight is not None and f"no weight {config.weight} in some row" in text:
        return InvalidDataError(
            where,
            "does not have exactly one number in every row",
            "Give each row one weight.",
        )
    return None


def _present_rows(feature: statistics_pb2.FeatureNameStatistics | None) -> int:
    kind = feature.WhichOneof("stats") if feature is not None else None
    return int(getattr(feature, kind).common_stats.num_non_missing) if kind else 0
