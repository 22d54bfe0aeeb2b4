"""Batches of transformed tf.Examples: shuffled to train on, in order to validate on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spikeguard.components.columns import EXAMPLE_ID
from spikeguard.components.guarded_trainer.balancing import balanced_batches
from spikeguard.components.training_curve import Floats

# Rows per step when no gradient is taken: large, since only throughput counts.
_SCAN_BATCH = 4096
# Rows that are shuffled together: with fewer train rows than this, every order is equally likely.
_SHUFFLE_ROWS, _MOST_WINDOWS = 100_000, 2**31

Spec = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """How a train split is cut into batches."""

    rows: int
    batch_size: int
    drops_short_batch: bool
    """Whether the rows that fill no whole batch are left out of an epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return self.rows // self.batch_size if self.drops_short_batch else math.ceil(self.rows / self.batch_size)


@dataclasses.dataclass(frozen=True)
class Weighting:
    """Weights of rows by a column, times those of their classes: Keras takes one kind or the other."""

    column: str
    """Transformed feature with one weight >= 0 per row."""
    class_weights: tuple[float, ...] | None = None

    def weights(self, features: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """Takes the column out of the features. Shape (batch,)."""
        weights = tf.reshape(tf.cast(features.pop(self.column), tf.float32), [-1])
        if self.class_weights is not None:
            ids = tf.reshape(tf.cast(labels, tf.int64), [-1])
            weights *= tf.gather(tf.constant(self.class_weights, tf.float32), ids)
        return weights


def plan_batches(rows: int, batch_size: int | None, keep_short_batch: bool) -> BatchPlan:
    """The plan for a train split.

    Args:
      rows: rows of the split; >= 1.
      batch_size: rows per step; None: 256, or the power of two that still gives a small split ten steps per epoch.
      keep_short_batch: whether to train on an epoch's last, shorter batch. A split smaller than one batch is always kept.

    >>> plan_batches(rows=400, batch_size=None, keep_short_batch=False)
    BatchPlan(rows=400, batch_size=32, drops_short_batch=True)
    """
    size = batch_size or min(256, 2 ** max(0, int(math.log2(max(1, rows // 10)))))
    return BatchPlan(rows, size, drops_short_batch=rows >= size and not keep_short_batch)


def training_batches(
    files: Sequence[str],
    spec: Spec,
    label: str,
    plan: BatchPlan,
    seed: int,
    first_step: int = 0,
    weighting: Weighting | None = None,
) -> tf.data.Dataset:
    """Endless shuffled batches (features, label), or (features, label, weights) by a `weighting`; serialized rows are shuffled, which is cheaper than parsed ones.

    The order of an epoch depends on the seed and the epoch's number alone, so that `first_step`, the number of batches
    that were used already, continues an earlier run's order without reading what went before.
    """
    windows = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(_SHUFFLE_ROWS)
    if plan.rows <= _SHUFFLE_ROWS:
        windows = windows.cache()
    first_epoch, used = divmod(first_step, plan.steps_per_epoch)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        def shuffled(number: tf.Tensor, window: tf.Tensor) -> tf.data.Dataset:
            # tf.data's own shuffle takes no seed that depends on the epoch.
            order = tf.random.experimental.stateless_shuffle(window, seed=[seed, epoch * _MOST_WINDOWS + number])
            return tf.data.Dataset.from_tensor_slices(order)

        rows = windows.enumerate().flat_map(shuffled)
        return rows.batch(plan.batch_size, drop_remainder=plan.drops_short_batch)

    return (
        tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
        .flat_map(epoch_batches)
        .skip(used)
        .map(_parser(spec, label, weighting), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def class_balanced_batches(
    files: Sequence[str],
    spec: Spec,
    label: str,
    plan: BatchPlan,
    class_counts: Sequence[int],
    seed: int,
    first_step: int = 0,
    weighting: Weighting | None = None,
) -> tf.data.Dataset:
    """As `training_batches`, but each with the same rows of each class; an epoch is as many steps as there."""
    parse = {label: spec[label]}
    return (
        balanced_batches(
            tf.data.TFRecordDataset(files, compression_type="GZIP"),
            plan.batch_size,
            class_counts,
            seed=seed,
            first_step=first_step,
            class_of=lambda serialized: tf.io.parse_example(serialized, parse)[label],
            shuffle_rows=_SHUFFLE_ROWS,
        )
        .map(_parser(spec, label, weighting), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def validation_batches(files: Sequence[str], spec: Spec, label: str, classes: int) -> tf.data.Dataset:
    """Large batches (features, label) in the order of the files, without the rows of classes that `classes` excludes."""
    # Only the recorder knows what to do with an id, and it does not see validation.
    nameless = without_ids(spec)
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(_SCAN_BATCH).map(_parser(nameless, label))
    if classes:
        # For a class that only the eval split has, the model has no output and so no loss.
        dataset = dataset.unbatch().filter(lambda _, y: tf.reduce_all((y >= 0) & (y < classes))).batch(_SCAN_BATCH)
    return dataset.prefetch(tf.data.AUTOTUNE)


def without_ids(spec: Spec, weight: str | None = None) -> Spec:
    """The spec for those who have no use for the examples' ids, nor for their weights."""
    return {name: feature for name, feature in spec.items() if name not in (EXAMPLE_ID, weight)}


def read_labels(files: Sequence[str], spec: Spec, label: str, rows: int = -1) -> Floats:
    """The labels of the first `rows` rows (all for -1), as floats. Shape (n,)."""
    parse = {label: spec[label]}
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").take(rows).batch(_SCAN_BATCH)
    parts = [tf.io.parse_example(serialized, parse)[label].numpy().ravel() for serialized in dataset]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _parser(spec: Spec, label: str, weighting: Weighting | None = None) -> Callable[[tf.Tensor], tuple[Any, ...]]:
    def parse(serialized: tf.Tensor) -> tuple[Any, ...]:
        features = tf.io.parse_example(serialized, spec)
        labels = features.pop(label)
        return (features, labels) if weighting is None else (features, labels, weighting.weights(features, labels))

    return parse
