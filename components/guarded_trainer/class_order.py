"""Which class id the transform gives each class, asked of the transform graph itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.imbalance_detector.class_balance import ClassBalance


def class_ids(transform_output: tft.TFTransformOutput, label: str, names: Sequence[str]) -> dict[str, int]:
    """Sends a row of each class through the transform and reads its id, whatever the preprocessing_fn does to get it.

    Args:
      transform_output: the graph that made the examples; its label must depend on the raw label alone.
      label: name of the label, before and after the transform.
      names: classes as in the raw data, numbers as text.

    Returns:
      Ids by name; -1, or what else the graph makes of it, for a class that it does not know.

    Raises:
      InvalidDataError: the raw data have no such label, or it is no single number or text, or a name fits not its type.
    """
    spec = transform_output.raw_feature_spec()
    where = f"label {label!r}"
    if label not in spec:
        raise InvalidDataError(where, "is not among the raw features of the transform graph", "Name the raw label.")
    rows = [_row(spec, label, name) for name in names]
    features = tf.io.parse_example(tf.constant([row.SerializeToString() for row in rows]), spec)
    ids = transform_output.transform_features_layer()(features)[label]
    flat = np.asarray(ids).ravel()
    if len(flat) != len(names):
        raise InvalidDataError(where, "has not one class id per row after the transform", "Give class ids from 0.")
    return {name: int(value) for name, value in zip(names, flat.tolist(), strict=True)}


def weights_by_id(
    balance: ClassBalance, transform_output: tft.TFTransformOutput, label: str, class_counts: Sequence[int]
) -> tuple[float, ...]:
    """The weights of a ClassWeights artifact in the order of the class ids.

    Args:
      balance: what ImbalanceDetector found.
      transform_output: as in `class_ids`.
      label: name of the label.
      class_counts: train rows of class id 0, 1, ...; an id without rows gets the weight 1, which nothing meets.

    Raises:
      InvalidDataError: the artifact is of another label or has no weights, or a class with rows has no weight in it.
    """
    where = "class_weights"
    if (balance.label, balance.task) != (label, "classification"):
        raise InvalidDataError(where, f"are of the {balance.task} label {balance.label!r}, not of {label!r}")
    if balance.kind != "classes" or not balance.weights:
        reason = "are of a multi-hot label" if balance.kind == "multi_hot" else "hold no weight"
        raise InvalidDataError(where, reason, " ".join(balance.notes) or "Give a label with one class per row.")
    ids = class_ids(transform_output, label, list(balance.weights))
    # A class whose rows were all dropped before the transform has no id there.
    known = {name: place for name, place in ids.items() if 0 <= place < len(class_counts)}
    by_id = {place: balance.weights[name] for name, place in known.items()}
    lacking = [place for place, rows in enumerate(class_counts) if rows and place not in by_id]
    if lacking or len(by_id) < len(known):
        raise InvalidDataError(
            where,
            "do not fit the transformed label: "
            + (f"class id {lacking[0]} has no weight" if lacking else "two classes have the same id"),
            "Make them from the statistics of the examples that Transform takes.",
        )
    return tuple(by_id.get(place, 1.0) for place in range(len(class_counts)))


def _row(spec: dict[str, Any], label: str, name: str) -> tf.train.Example:
    """A row of this class, of zeros and empty texts else."""
    row = tf.train.Example()
    for feature, parsed in spec.items():
        if isinstance(parsed, tf.io.FixedLenFeature) and feature != label:
            _append(row, feature, parsed.dtype, ["0"] * int(np.prod(parsed.shape, dtype=np.int64)))
    try:
        _append(row, label, spec[label].dtype, [name])
    except ValueError as error:
        raise InvalidDataError(
            f"class {name!r}", f"is no {spec[label].dtype.name}, as the label {label!r} is"
        ) from error
    return row


def _append(row: tf.train.Example, feature: str, dtype: tf.DType, values: Sequence[str]) -> None:
    if dtype == tf.string:
        row.features.feature[feature].bytes_list.value.extend(value.encode() for value in values)
    elif dtype.is_integer:
        row.features.feature[feature].int64_list.value.extend(int(value) for value in values)
    else:
        row.features.feature[feature].float_list.value.extend(float(value) for value in values)
