"""The Schema of treated rows: what was there, and the added columns."""

from __future__ import annotations

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils

from spikeguard.components.columns import EXAMPLE_ID, OUTLIER_FLAG
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.config import DetectorConfig

# Added columns are absent there: a model gets rows as they come.
SERVING_ENVIRONMENT = "SERVING"


def schema_with(schema: schema_pb2.Schema, config: DetectorConfig) -> schema_pb2.Schema:
    """The schema with the added columns: optional, one value per row, and not in the environment `SERVING`.

    Raises:
      InvalidDataError: a column of that name is there already, or the label is not.
    """
    names = {feature.name for feature in schema.feature}
    if config.label is not None and config.label not in names:
        raise InvalidDataError(
            f"label {config.label!r}", "is not in the schema", f"Name one of {', '.join(sorted(names))}."
        )
    result = schema_pb2.Schema()
    result.CopyFrom(schema)
    for name in (*config.added_columns, EXAMPLE_ID):
        if name in names:
            if name == EXAMPLE_ID:
                continue
            raise InvalidDataError(
                f"feature {name!r}", "is a column that OutlierDetector adds", "Give it another name in the data."
            )
        is_integer = name in (OUTLIER_FLAG, EXAMPLE_ID)
        feature = result.feature.add(name=name, type=schema_pb2.INT if is_integer else schema_pb2.FLOAT)
        feature.value_count.min, feature.value_count.max = 0, 1
        feature.not_in_environment.append(SERVING_ENVIRONMENT)
    for environment in ("TRAINING", SERVING_ENVIRONMENT):
        if environment not in result.default_environment:
            result.default_environment.append(environment)
    return result


def id_dtypes(schema: schema_pb2.Schema, label: str | None) -> dict[str, str] | None:
    """Names and types of the columns whose values name a row; None where the data carry ids of their own, or there
    is no column.

    Raises:
      InvalidDataError: the schema contradicts itself.

    >>> schema = schema_pb2.Schema()
    >>> _ = schema.feature.add(name="x", type=schema_pb2.FLOAT)
    >>> id_dtypes(schema, label="y")
    {'x': 'float32'}
    """
    try:
        spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    except ValueError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise InvalidDataError(
            "schema", f"cannot be used ({text})", "Correct it, or let SchemaGen infer one."
        ) from error
    if EXAMPLE_ID in spec and spec[EXAMPLE_ID].dtype == tf.int64:
        return None
    return {name: column.dtype.name for name, column in spec.items() if name != label} or None
