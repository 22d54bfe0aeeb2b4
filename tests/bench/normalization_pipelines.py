"""Wrong and right ways to normalize: what is done to the raw data, the preprocessing_fn, and which rows are analyzed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from tests.bench.normalization_data import Column, Table

Tensors = dict[str, tf.Tensor]
# Location and scale of each numeric column, for preprocessing_fns with constants written by hand.
Constants = Mapping[str, tuple[Column, Column]]
Scaling = Callable[[str, tf.Tensor, Constants], tf.Tensor]
Analyzed = Literal["train", "eval", "all"]


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to normalize."""

    name: str
    scale: Scaling
    """From a dense column of shape (batch, d), NaN for missing, to the transformed one."""
    is_right: bool
    analyzed: Analyzed = "train"
    spoil: Callable[[Table], Table] | None = None
    """What is done to the raw data before they are split."""
    fit: Callable[[Table], Constants] | None = None
    materialized_by: Way | None = None
    """The way that made the transformed examples of eval, where it is another."""
    expects: Literal["ERROR", "WARNING"] = "ERROR"
    """What a wrong way is found by."""

    def preprocessing_fn(self, data: Table) -> Callable[[dict[str, Any]], Tensors]:
        """For tf.Transform."""
        constants = self.fit(data) if self.fit else {}

        def preprocess(inputs: dict[str, Any]) -> Tensors:
            outputs = {}
            for name, column in inputs.items():
                if column.dtype == tf.string:
                    outputs[name] = tft.compute_and_apply_vocabulary(column, num_oov_buckets=1)
                else:
                    scaled = self.scale(name, _dense(column), constants)
                    outputs[name] = (
                        tf.where(tf.math.is_nan(scaled), 0.0, scaled) if scaled.dtype.is_floating else scaled
                    )
            return outputs

        return preprocess


def _dense(column: Any) -> tf.Tensor:
    if isinstance(column, tf.SparseTensor):
        column = tft.sparse_tensor_to_dense_with_shape(column, [None, 1], default_value=float("nan"))
    return column


def _fitted(scaler: Any, on: str) -> Callable[[Table], Constants]:
    def fit(data: Table) -> Constants:
        result = {}
        for name in data.numbers:
            values = data.columns[name].reshape(len(data.is_train), -1).astype(np.float64)
            fitted = scaler().fit(values[data.is_train] if on == "train" else values)
            if scaler is StandardScaler:
                result[name] = fitted.mean_, fitted.scale_
            elif scaler is MinMaxScaler:
                result[name] = fitted.data_min_, np.where(fitted.data_range_ > 0, fitted.data_range_, 1.0)
            else:
                result[name] = fitted.center_, fitted.scale_
        return result

    return fit


def _spoiled(scaler: Any, on: str) -> Callable[[Table], Table]:
    def scale(values: Column, is_train: Column) -> Column:
        fitted = scaler().fit(values[is_train] if on == "train" else values)
        found: Column = fitted.transform(values)
        return found

    return lambda data: data.replaced(scale)


def _z_score(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return tft.scale_to_z_score(x, elementwise=True)


def _min_max(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    # tf.Transform's extremes leave out any batch with a NaN in it.
    return tft.scale_by_min_max(tf.where(tf.math.is_nan(x), 0.0, x), elementwise=True)


def _by_hand(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    location, scale = constants[name]
    return (x - tf.constant(location, tf.float32)) / tf.constant(scale, tf.float32)


def _rounded(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    # As df.describe() prints them, to be copied.
    location, scale = ([float(f"{number:.5g}") for number in numbers] for numbers in constants[name])
    return _by_hand(name, x, {name: (np.array(location), np.maximum(scale, 1e-6))})


def _swapped(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    location, scale = constants[name]
    if len(location) > 1:
        return _by_hand(name, x, {name: (np.roll(location, 1), np.roll(scale, 1))})
    names = sorted(constants)
    return _by_hand(name, x, {name: constants[names[names.index(name) - 1]]})


def _per_batch(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    known = tf.where(tf.math.is_nan(x), 0.0, x)
    mean, variance = tf.nn.moments(known, axes=[0])
    return (x - mean) / tf.sqrt(variance + 1e-6)


def _log(x: tf.Tensor) -> tf.Tensor:
    return tf.math.log1p(tf.maximum(x + 100.0, 0.0))


def _log_z_score(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return tft.scale_to_z_score(_log(x), elementwise=True)


def _clipped(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return tf.clip_by_value(tft.scale_to_z_score(x, elementwise=True), -2.0, 2.0)


def _winsorized(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    location, scale = constants[name]
    low, high = (tf.constant(location + sign * 1.5 * scale, tf.float32) for sign in (-1, 1))
    return tft.scale_to_z_score(tf.clip_by_value(x, low, high), elementwise=True)


def _first_forgotten(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    scaled = tft.scale_to_z_score(x, elementwise=True)
    if x.shape[1] > 1:
        # In the last places of an image there may be nothing.
        place = int(np.argmax(constants[name][1]))
        return tf.where(tf.range(x.shape[1]) == place, x, scaled)
    return x if name == min(constants) else scaled


def _bucketized(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return tft.bucketize(tf.where(tf.math.is_nan(x), 0.0, x), 10)


def _divided(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return x / 255.0


def _user_made(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return tf.tanh((x - 5.0) / 50.0) + 0.1 * tf.math.log1p(tf.abs(x))


def _raw(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    return x


def _approximate_quantiles(name: str, x: tf.Tensor, constants: Constants) -> tf.Tensor:
    known = tf.where(tf.math.is_nan(x), 0.0, x)
    cuts = tft.quantiles(known, 4, epsilon=0.01, reduce_instance_dims=False)
    return (x - cuts[:, 1]) / tf.maximum(cuts[:, 2] - cuts[:, 0], 1e-6)


Z_SCORE = Way("tft.scale_to_z_score", _z_score, True)
_ALL_CONSTANTS = _fitted(StandardScaler, "all")

WRONG = (
    Way("z-score of all rows", _z_score, False, "all"),
    Way("min-max of all rows", _min_max, False, "all"),
    Way("log and z-score of all rows", _log_z_score, False, "all"),
    Way("winsorized z-score of all rows", _winsorized, False, "all", fit=_fitted(StandardScaler, "train")),
    Way("clipped z-score of all rows", _clipped, False, "all"),
    Way("z-score of eval", _z_score, False, "eval"),
    Way("StandardScaler of all rows, by hand", _by_hand, False, fit=_ALL_CONSTANTS),
    Way("StandardScaler of all rows, rounded by hand", _rounded, False, fit=_ALL_CONSTANTS),
    Way("MinMaxScaler of all rows, by hand", _by_hand, False, fit=_fitted(MinMaxScaler, "all")),
    Way("RobustScaler of all rows, by hand", _by_hand, False, fit=_fitted(RobustScaler, "all")),
    Way("refit on eval", _z_score, False, materialized_by=Way("eval", _z_score, False, "eval")),
    Way("per batch", _per_batch, False),
    Way("StandardScaler before the split", _z_score, False, spoil=_spoiled(StandardScaler, "all")),
    Way("MinMaxScaler before the split", _z_score, False, spoil=_spoiled(MinMaxScaler, "all")),
    Way("RobustScaler before the split", _z_score, False, spoil=_spoiled(RobustScaler, "all")),
    Way("swapped constants", _swapped, False, fit=_fitted(StandardScaler, "train")),
    Way("train-serving difference", _z_score, False, materialized_by=Way("served", _min_max, False)),
    Way("forgotten feature", _first_forgotten, False, fit=_ALL_CONSTANTS, expects="WARNING"),
)

RIGHT = (
    Z_SCORE,
    Way("tft.scale_by_min_max", _min_max, True),
    Way("log and z-score", _log_z_score, True),
    Way("winsorized z-score", _winsorized, True, fit=_fitted(StandardScaler, "train")),
    Way("clipped z-score", _clipped, True),
    Way("tft.bucketize", _bucketized, True),
    Way("tft.quantiles", _approximate_quantiles, True),
    Way("StandardScaler of train, by hand", _by_hand, True, fit=_fitted(StandardScaler, "train")),
    Way("StandardScaler of train, rounded by hand", _rounded, True, fit=_fitted(StandardScaler, "train")),
    Way("MinMaxScaler of train, by hand", _by_hand, True, fit=_fitted(MinMaxScaler, "train")),
    Way("RobustScaler of train, by hand", _by_hand, True, fit=_fitted(RobustScaler, "train")),
    Way("StandardScaler of train before Transform", _raw, True, spoil=_spoiled(StandardScaler, "train")),
    Way("divided by 255", _divided, True),
    Way("user-made curve", _user_made, True),
    Way("raw numbers", _raw, True),
)
