"""The default Keras model, built from what tf.Transform says of the transformed features."""

from __future__ import annotations

import dataclasses
import math
import re

import keras
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.columns import EXAMPLE_ID
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.guarded_trainer.labels import LabelStatistics
from spikeguard.components.guarded_trainer.recipe import Recipe, Task


@dataclasses.dataclass(frozen=True)
class Feature:
    """One transformed feature as the model takes it."""

    name: str
    shape: tuple[int, ...]
    """Shape of one example's value; () for a scalar."""
    categories: int
    """Number of ids of a categorical feature; 0 for a numeric one."""


def read_features(
    transform_output: tft.TFTransformOutput, label: str, weight: str | None = None
) -> tuple[Feature, ...]:
    """The model's inputs: every transformed feature but the label, the weight and the examples' ids, sorted by name.

    Raises:
      InvalidDataError: the label is not among the features, no other feature is, or one is sparse or text.
    """
    spec = transform_output.transformed_feature_spec()
    if label not in spec:
        raise InvalidDataError(
            f"label {label!r}",
            f"is not among the transformed features ({', '.join(sorted(spec))})",
            "Keep it in the preprocessing_fn's outputs under this name.",
        )
    names = sorted(set(spec) - {label, weight, EXAMPLE_ID})
    if not names:
        raise InvalidDataError(f"label {label!r}", "is the only column", "Add at least one feature column.")
    domains = {
        feature.name: int(feature.int_domain.max) + 1
        for feature in transform_output.transformed_metadata.schema.feature
        if feature.int_domain.is_categorical
    }
    features = []
    for name in names:
        if not isinstance(spec[name], tf.io.FixedLenFeature) or spec[name].dtype == tf.string:
            raise InvalidDataError(
                f"feature {name!r}",
                "is sparse or text after the transform",
                "Make it a dense number or vocabulary id in the preprocessing_fn, or give a model_fn.",
            )
        features.append(Feature(name, tuple(spec[name].shape), domains.get(name, 0)))
    return tuple(features)


def build_model(features: tuple[Feature, ...], label: LabelStatistics, task: Task, recipe: Recipe) -> keras.Model:
    """A dense network over concatenated numeric features and embedded categories.

    Returns:
      A model from a dict of features to shape (batch, 1) for regression and two classes (the probability of class 1),
      to shape (batch, classes) for more.
    """
    inputs, parts = {}, []
    for index, feature in enumerate(features):
        dtype = "int64" if feature.categories else "float32"
        # Columns may be named as they like, Keras' layers may not: the dict below carries the real names.
        layer_name = feature.name if re.fullmatch(r"[A-Za-z0-9_.]+", feature.name) else f"input_{index}"
        inputs[feature.name] = tensor = keras.Input(feature.shape, name=layer_name, dtype=dtype)
        if feature.categories:
            # An id beyond the vocabulary cannot occur where tf.Transform made it; a foreign graph may still emit -1.
            tensor = keras.ops.clip(tensor, 0, feature.categories - 1)
            tensor = keras.layers.Embedding(feature.categories, _embedding_width(feature.categories))(tensor)
        parts.append(keras.layers.Reshape((-1,))(tensor) if len(feature.shape) != 1 or feature.categories else tensor)
    hidden = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    penalty = keras.regularizers.L2(recipe.l2) if recipe.l2 else None
    for units in recipe.hidden_units:
        hidden = keras.layers.Dense(units, activation="relu", kernel_regularizer=penalty)(hidden)
        if recipe.dropout:
            hidden = keras.layers.Dropout(recipe.dropout)(hidden)
    if task == "regression":
        output = keras.layers.Dense(1)(hidden)
        if recipe.standardize_label:
            output = keras.layers.Rescaling(label.scale, offset=label.location)(output)
    elif label.classes <= 2:
        output = keras.layers.Dense(1, activation="sigmoid")(hidden)
    else:
        output = keras.layers.Dense(label.classes, activation="softmax")(hidden)
    return keras.Model(inputs, output)


def _embedding_width(categories: int) -> int:
    return min(16, math.ceil(math.sqrt(categories)) + 1)
