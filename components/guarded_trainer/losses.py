"""Losses that bad labels cannot take over, as Keras losses that save and load with the model."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.labels import huber_delta, label_statistics


@keras.saving.register_keras_serializable(package="spikeguard")
class Huber(keras.losses.Loss):  # type: ignore[misc]
    """Squared error for small residuals, absolute error beyond `delta`: r^2 / 2, then delta (|r| - delta / 2).

    An outlier of the label pulls with the constant force `delta` instead of in proportion to its distance (Huber 1964).
    `keras.losses.Huber` is the same with a `delta` of 1 in whatever unit the label has, and forgets `delta` when it is
    saved.

    Args:
      delta: residual where the loss turns linear, in units of the label; > 0. "auto": `adapt` learns it.
      name: the loss' name.
      reduction: how Keras reduces the losses of a batch.
      dtype: dtype of the computation; None: `keras.config.floatx()`.

    Raises:
      InvalidArgumentError: `delta` is no number above 0; or it is "auto" and the loss is used before `adapt`.

    >>> import numpy as np
    >>> loss = Huber().adapt(np.array([0.0, 1.0, 2.0, 3.0, 100.0]))
    >>> round(loss.delta, 3)
    1.994
    """

    def __init__(
        self,
        delta: float | Literal["auto"] = "auto",
        name: str = "huber",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        is_number = not isinstance(delta, str) and np.isfinite(delta) and delta > 0
        if delta != "auto" and not is_number:
            raise InvalidArgumentError("delta", delta, 'be a number above 0, or "auto"')
        self.delta: float | Literal["auto"] = float(delta) if is_number else "auto"

    def adapt(self, labels: npt.ArrayLike) -> Huber:
        """Sets `delta` to 1.345 robust standard deviations of the labels (Huber 1981: 95 % efficient on normal data).

        A model that has been trained already keeps the value it was traced with: adapt first, then compile and fit.

        Args:
          labels: any shape, labels of the train split, and of no other.

        Returns:
          The loss itself.

        Raises:
          InvalidDataError: no label, a missing or infinite one, or one distinct value.
        """
        flat = np.asarray(labels, np.float64).ravel()
        self.delta = float(huber_delta(label_statistics(flat, "labels", "train", "regression")))
        return self

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each example: mean over the last axis. Shapes (batch,) or (batch, d), and (batch, d)."""
        if self.delta == "auto":
            raise InvalidArgumentError(
                "delta", "auto", "be known before the loss is used", "Call adapt(train_labels) first, or give a number."
            )
        return keras.losses.huber(y_true, y_pred, delta=self.delta)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.dtype, "delta": self.delta}


@keras.saving.register_keras_serializable(package="spikeguard")
class GeneralizedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]
    """(1 - p_y^q) / q with p_y the probability of the labelled class: bounded by 1 / q, so wrong labels stay bearable.

    Between cross-entropy (q -> 0), which grows without bound on a wrong label, and the mean absolute error of the
    probabilities (q = 1), which is robust and slow to fit (Zhang & Sabuncu 2018).

    Probabilities below `keras.config.epsilon()` count as epsilon, as in Keras' own losses: the derivative in p, p^(q-1),
    has no bound there.

    Args:
      q: in (0, 1]; the larger, the more robust.
      from_logits: whether predictions are logits rather than probabilities.
      name: the loss' name.
      reduction: how Keras reduces the losses of a batch.
      dtype: dtype of the computation; None: `keras.config.floatx()`.

    Raises:
      InvalidArgumentError: `q` is outside (0, 1].

    >>> import numpy as np
    >>> loss = GeneralizedCrossEntropy(q=0.5)
    >>> round(float(loss(np.array([1, 0]), np.array([[0.25], [0.75]]))), 6)
    1.0
    """

    def __init__(
        self,
        q: float = 0.7,
        from_logits: bool = False,
        name: str = "generalized_cross_entropy",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0 < q <= 1:
            raise InvalidArgumentError("q", q, "lie in (0, 1]")
        self.q = float(q)
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each example. Shapes as in `_one_hot`; NaN for an impossible label."""
        target, _, possible = _one_hot(y_true, y_pred)
        if y_pred.shape[-1] == 1:
            # The two classes' columns: of logits, (0, x) has the softmax (1 - sigmoid(x), sigmoid(x)).
            other = ops.zeros_like(y_pred) if self.from_logits else 1.0 - y_pred
            y_pred = ops.concatenate([other, y_pred], axis=-1)
        if self.from_logits:
            log_p = ops.log_softmax(y_pred, axis=-1)
        else:
            log_p = ops.log(ops.maximum(y_pred, keras.config.epsilon()))
        # 1 - p^q by expm1: for a small q the difference would cancel.
        return possible * ops.sum(-target * ops.expm1(self.q * log_p), axis=-1) / self.q

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.dtype, "q": self.q, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="spikeguard")
class SmoothedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy with label smoothing, of class ids: the labelled class has probability 1 - a + a / classes.

    The optimum is a finite logit, so confident mistakes cost less (Szegedy et al. 2016). Keras smooths one-hot labels
    and binary ones, not class ids.

    Args:
      label_smoothing: a, in [0, 1); 0 is plain cross-entropy.
      name: the loss' name.
      reduction: how Keras reduces the losses of a batch.
      dtype: dtype of the computation; None: `keras.config.floatx()`.

    Raises:
      InvalidArgumentError: `label_smoothing` is outside [0, 1).

    >>> import numpy as np
    >>> loss = SmoothedCrossEntropy(label_smoothing=0.0)
    >>> round(float(loss(np.array([2]), np.array([[0.25, 0.25, 0.5]]))), 4)
    0.6931
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        name: str = "smoothed_cross_entropy",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0 <= label_smoothing < 1:
            raise InvalidArgumentError("label_smoothing", label_smoothing, "lie in [0, 1)")
        self.label_smoothing = float(label_smoothing)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each example. Shapes as in `_one_hot`, predictions being probabilities; NaN for an impossible label."""
        target, classes, possible = _one_hot(y_true, y_pred)
        target = target * (1.0 - self.label_smoothing) + self.label_smoothing / classes
        # Keras' functions are given the prediction itself: it may carry its logits, which saturate less.
        if y_pred.shape[-1] == 1:
            return possible * ops.mean(ops.binary_crossentropy(target[..., 1:], y_pred), axis=-1)
        return possible * ops.categorical_crossentropy(target, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.dtype, "label_smoothing": self.label_smoothing}


def _one_hot(y_true: Any, y_pred: Any) -> tuple[Any, int, Any]:
    """Labels as one row of class weights each.

    Args:
      y_true: shape (batch,) or (batch, 1), ids 0..classes-1 (0 and 1 for one column of predictions); or
        (batch, classes), weights that are >= 0 and sum to 1.
      y_pred: shape (batch, 1) for two classes, (batch, classes) for more.

    Returns:
      The weights, shape (batch, classes); the number of classes; and, shape (batch,), 1 where the label is possible and
      the prediction a number, NaN elsewhere. Multiplied with it, loss and gradient are NaN there: a guard sees that.

    Raises:
      InvalidArgumentError: the shapes are none of these.
    """
    if len(y_pred.shape) < 2:
        raise InvalidArgumentError("y_pred", tuple(y_pred.shape), "have the shape (batch, 1) or (batch, classes)")
    classes = max(2, y_pred.shape[-1])
    has_column = len(y_true.shape) == len(y_pred.shape)
    if has_column and y_true.shape[-1] not in (1, classes):
        raise InvalidArgumentError(
            "y_true", tuple(y_true.shape), f"have the shape (batch,), (batch, 1) or (batch, {classes})"
        )
    if has_column and y_true.shape[-1] == classes:
        possible = ops.all(y_true >= 0, axis=-1) & (ops.abs(ops.sum(y_true, axis=-1) - 1.0) < 1e-3)
        target = y_true
    else:
        ids = ops.squeeze(y_true, -1) if has_column else y_true
        target = ops.cast(ops.equal(ops.expand_dims(ids, -1), ops.arange(classes, dtype=ids.dtype)), ids.dtype)
        possible = ops.any(target > 0, axis=-1)
    # Clipping, which every cross-entropy does, may turn a prediction of NaN into a number (XLA's does).
    possible &= ops.logical_not(ops.any(ops.isnan(y_pred), axis=-1))
    return target, classes, ops.where(possible, 1.0, float("nan"))
