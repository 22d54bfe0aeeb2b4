"""Batches of constant composition, and predictions that tell the true shares of the classes all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.training_curve import Floats

# Rows per step when only classes are looked at.
_SCAN_BATCH = 4096
# Rows that are held, over all classes, to be shuffled: a class of fewer than its part is read once and kept.
_SHUFFLE_ROWS, _MOST_WINDOWS = 100_000, 2**31
# Rows that one pass over a class yields at least, where the class is kept.
_PASS_ROWS = 4096

ClassOf = Callable[[Any], tf.Tensor]


def batch_composition(
    class_counts: Sequence[int], batch_size: int, shares: Sequence[float] | None = None
) -> tuple[int, ...]:
    """Rows of each class in every batch: at least one of each class that has rows, else by the largest remainder.

    Args:
      class_counts: rows of class 0, 1, ...; each >= 0, one of them > 0.
      batch_size: rows of a batch; at least as many as classes with rows.
      shares: of the classes in a batch, each >= 0, in any unit; None: even.

    Raises:
      InvalidArgumentError: the batch is too small, or the shares do not fit the classes.

    >>> batch_composition([900, 90, 10], batch_size=8)
    (3, 3, 2)
    >>> batch_composition([900, 90, 10], batch_size=100, shares=[900, 90, 10])
    (90, 9, 1)
    """
    counts = np.asarray(class_counts)
    has_rows = counts > 0
    if not has_rows.any() or (counts < 0).any():
        raise InvalidArgumentError("class_counts", list(class_counts)[:10], "hold rows >= 0, not all 0")
    if batch_size < has_rows.sum():
        raise InvalidArgumentError(
            "batch_size", batch_size, f"be at least {has_rows.sum()}, a row of each class", "Give larger batches."
        )
    wanted = np.ones(len(counts)) if shares is None else np.asarray(shares, dtype=np.float64)
    if len(wanted) != len(counts) or not np.isfinite(wanted).all() or (wanted < 0).any() or not wanted[has_rows].any():
        raise InvalidArgumentError("shares", shares, f"be {len(counts)} numbers >= 0, above 0 for some class with rows")
    quota = batch_size * wanted / wanted[has_rows].sum()
    rows = has_rows.astype(np.int64)
    while rows.sum() < batch_size:
        rows[int(np.argmax(np.where(has_rows, quota - rows, -np.inf)))] += 1
    return tuple(int(count) for count in rows)


def balanced_batches(
    dataset: tf.data.Dataset,
    batch_size: int,
    class_counts: Sequence[int] | None = None,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    first_step: int = 0,
    class_of: ClassOf | None = None,
    shuffle_rows: int = _SHUFFLE_ROWS,
) -> tf.data.Dataset:
    """Endless batches that all have the same rows of each class, so that their composition moves the loss no more.

    Each class is a stream of its own, shuffled anew each time that it begins again: rows of a rare class come more often
    than others. Classes of few rows are read once and kept, the others pass by in windows; `shuffle_rows` bounds what is
    held. The order depends on seed and step alone, so that `first_step` continues an earlier run.

    A model that is trained on such batches takes the classes for as frequent as they are there: `PriorCorrection` gives
    its probabilities the true shares back.

    Args:
      dataset: finite, of single examples of dense tensors: (features, class id from 0), or what `class_of` understands.
      batch_size: rows of a batch; at least one per class.
      class_counts: rows of class 0, 1, ... in the dataset, exactly; None: they are counted, in one more pass.
      shares: of the classes in a batch; None: even; the counts themselves give batches as in the data, without chance.
      seed: of the order; >= 0.
      first_step: batches that were used already; >= 0.
      class_of: from a batch of elements to their class ids, shape (batch,); None: the last of a tuple.
      shuffle_rows: rows that are held at most; >= 1.

    Returns:
      Batches of the structure of `dataset`'s elements, their classes in the order of their ids.

    Raises:
      InvalidArgumentError: the dataset has sparse tensors, or an argument does not fit.
      InvalidDataError: the dataset holds no class.

    >>> rows = tf.data.Dataset.from_tensor_slices((tf.range(10), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]))
    >>> [labels.numpy().tolist() for _, labels in balanced_batches(rows, batch_size=4).take(2)]
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    if any(not isinstance(spec, tf.TensorSpec) for spec in tf.nest.flatten(dataset.element_spec)):
        raise InvalidArgumentError("dataset", dataset.element_spec, "hold dense tensors only", "Densify them.")
    if first_step < 0 or shuffle_rows < 1 or seed < 0:
        name = "seed" if seed < 0 else "first_step" if first_step < 0 else "shuffle_rows"
        raise InvalidArgumentError(name, min(seed, first_step, shuffle_rows), "be at least 0, and shuffle_rows 1")
    class_of = class_of or _label_of
    scanned = dataset.batch(_SCAN_BATCH)
    counts = _count(scanned, class_of) if class_counts is None else class_counts
    composition = batch_composition(counts, batch_size, shares)
    windows = _windows(counts, shuffle_rows)
    streams = []
    for class_id, in_batch in enumerate(composition):
        if in_batch:
            rows, is_kept = int(counts[class_id]), windows[class_id] >= counts[class_id]
            own = scanned.map(_only(class_id, class_of)).unbatch().batch(windows[class_id])
            # A pass costs as much as many rows, so that of a few rows it holds many permutations.
            repeats = max(1, _PASS_ROWS // rows) if is_kept else 1
            first_pass, used = divmod(first_step * in_batch, repeats * rows)
            passes = tf.data.Dataset.range(first_pass, np.iinfo(np.int32).max).flat_map(
                _pass(own.cache() if is_kept else own, seed, class_id, repeats)
            )
            streams.append(passes.skip(used).batch(in_batch, drop_remainder=True))
    if len(streams) == 1:
        return streams[0].prefetch(tf.data.AUTOTUNE)
    return tf.data.Dataset.zip(tuple(streams)).map(_joined).prefetch(tf.data.AUTOTUNE)


@keras.saving.register_keras_serializable(package="spikeguard")
class PriorCorrection(keras.layers.Layer):  # type: ignore[misc]
    """Gives probabilities the true shares of the classes, after a training in which these were others.

    Of a model that is trained where class c has the share q_c (by balanced batches, or by weights: q_c proportional to
    w_c p_c), the probabilities for data with the shares p_c are proportional to p_c / q_c times its own: Bayes' rule
    (Elkan 2001; Saerens et al. 2002). It is the last layer, and does nothing while training: the loss is to see the shares of
    the batches, validation and serving the true ones.

    >>> layer = PriorCorrection(trained_shares=[0.5, 0.5], true_shares=[0.98, 0.02])
    >>> [round(float(p), 3) for p in layer(np.array([[0.5], [0.9]], "float32"))[:, 0]]
    [0.02, 0.155]
    """

    def __init__(
        self, trained_shares: Sequence[float], true_shares: Sequence[float], from_logits: bool = False, **kwargs: Any
    ) -> None:
        """Makes the layer.

        Args:
          trained_shares: q_c of class 0, 1, ...; each >= 0, in any unit.
          true_shares: p_c, as many. A class for which either is 0 is not corrected.
          from_logits: whether it gets, and returns, logits instead of probabilities.
          **kwargs: Keras' own, such as `name`.

        Raises:
          InvalidArgumentError: the shares do not fit each other, or are not finite.
        """
        super().__init__(**kwargs)
        self.trained_shares, self.true_shares = [float(q) for q in trained_shares], [float(p) for p in true_shares]
        self.from_logits = from_logits
        self._log_ratio = _log_ratio(np.array(self.true_shares), np.array(self.trained_shares))

    def call(self, outputs: Any, training: bool = False) -> Any:
        """Corrects predictions of shape (batch, classes), or (batch, 1) for the second of two classes."""
        if training:
            return outputs
        ratio, classes = self._log_ratio, outputs.shape[-1]
        if classes == 1 and len(ratio) == 2:
            ratio = np.array([ratio[1] - ratio[0]])
        elif classes != len(ratio):
            raise InvalidArgumentError("outputs", f"{classes} classes", f"have the {len(ratio)} classes of the shares")
        if self.from_logits:
            return outputs + keras.ops.cast(ratio, outputs.dtype)
        factor = keras.ops.cast(np.exp(ratio - max(ratio.max(), 0.0)), outputs.dtype)
        if classes == 1:
            # The two factors, scaled so that neither leaves the range of floats.
            other = keras.ops.cast(np.exp(-max(float(ratio[0]), 0.0)), outputs.dtype)
            return outputs * factor / (outputs * factor + (1.0 - outputs) * other)
        scaled = outputs * factor
        return scaled / keras.ops.sum(scaled, axis=-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        shares = {"trained_shares": self.trained_shares, "true_shares": self.true_shares}
        return {**super().get_config(), **shares, "from_logits": self.from_logits}


def with_prior_correction(
    model: keras.Model, trained_shares: Sequence[float], true_shares: Sequence[float]
) -> keras.Model:
    """The model with a `PriorCorrection` of its probabilities as last layer; both share their weights.

    Raises:
      InvalidArgumentError: the model has not inputs and one output that are known before it is called.
    """
    try:
        inputs, output = model.input, model.output
    except (AttributeError, ValueError) as error:
        raise InvalidArgumentError(
            "model_fn", model.name, "return a functional model", "Or set corrects_prior=False in the recipe."
        ) from error
    if isinstance(output, list | tuple | dict):
        raise InvalidArgumentError("model_fn", model.name, "return a model of one output")
    return keras.Model(inputs, PriorCorrection(trained_shares, true_shares, name="prior_correction")(output))


def _log_ratio(true: Floats, trained: Floats) -> Floats:
    if len(true) != len(trained) or len(true) < 2:
        raise InvalidArgumentError(
            "true_shares", true.tolist(), f"be as many as the {len(trained)} trained shares, > 1"
        )
    for name, shares in (("trained_shares", trained), ("true_shares", true)):
        if not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
            raise InvalidArgumentError(name, shares.tolist()[:10], "be finite, >= 0 and not all 0")
    is_known = (true > 0) & (trained > 0)
    ratio = np.zeros(len(true))
    ratio[is_known] = np.log(true[is_known] / true.sum()) - np.log(trained[is_known] / trained.sum())
    return ratio


def _label_of(element: Any) -> tf.Tensor:
    if not isinstance(element, tuple):
        raise InvalidArgumentError("dataset", type(element).__name__, "hold (features, class id)", "Or give class_of.")
    return element[-1]


def _ids(element: Any, class_of: ClassOf) -> tf.Tensor:
    return tf.cast(tf.reshape(class_of(element), [-1]), tf.int64)


def _count(scanned: tf.data.Dataset, class_of: ClassOf) -> list[int]:
    counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    for ids in scanned.map(lambda *element: _ids(_whole(element), class_of)).as_numpy_iterator():
        if (ids < 0).any():
            raise InvalidDataError("dataset", f"has the class id {ids.min()}", "Leave out rows without a class.")
        found = np.bincount(ids, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    if not len(counts):
        raise InvalidDataError("dataset", "has no rows", "Give examples of each class.")
    return [int(count) for count in counts]


def _windows(counts: Sequence[int], shuffle_rows: int) -> list[int]:
    """Rows of each class that are shuffled together: small classes whole, large ones in even parts of what is left."""
    windows, left = [1] * len(counts), shuffle_rows
    order = sorted((count, class_id) for class_id, count in enumerate(counts) if count)
    for place, (count, class_id) in enumerate(order):
        windows[class_id] = min(int(count), max(1, left // (len(order) - place)))
        left -= windows[class_id]
    return windows


def _only(class_id: int, class_of: ClassOf) -> Callable[..., Any]:
    def only(*element: Any) -> Any:
        whole = _whole(element)
        is_own = _ids(whole, class_of) == class_id
        return tf.nest.map_structure(lambda tensor: tf.boolean_mask(tensor, is_own), whole)

    return only


def _pass(windows: tf.data.Dataset, seed: int, class_id: int, repeats: int) -> Callable[[tf.Tensor], tf.data.Dataset]:
    def rows_of(number: tf.Tensor) -> tf.data.Dataset:
        def shuffled(place: tf.Tensor, *window: Any) -> tf.data.Dataset:
            whole = _whole(window)
            rows = tf.shape(tf.nest.flatten(whole)[0])[0]
            # tf.data's own shuffle takes no seed that depends on the pass.
            key = tf.random.experimental.stateless_fold_in(
                tf.stack([tf.constant(seed, tf.int64), number * _MOST_WINDOWS + place]), class_id
            )
            order = tf.reshape(tf.argsort(tf.random.stateless_uniform([repeats, rows], key), axis=1), [-1])
            return tf.data.Dataset.from_tensor_slices(
                tf.nest.map_structure(lambda tensor: tf.gather(tensor, order), whole)
            )

        return windows.enumerate().flat_map(shuffled)

    return rows_of


def _joined(*parts: Any) -> Any:
    return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *parts)


def _whole(element: tuple[Any, ...]) -> Any:
    """tf.data hands a tuple over as so many arguments."""
    return element[0] if len(element) == 1 else element
