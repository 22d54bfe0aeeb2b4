"""Data sets of the guard bench: real ones, small enough to train thousands of times, some spoiled on purpose."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.guarded_trainer.batches import plan_batches
from spikeguard.components.guarded_trainer.labels import label_statistics
from spikeguard.components.guarded_trainer.recipe import Task
from spikeguard.pipelines import flights
from tests.bench import RESULTS

Array = npt.NDArray[np.float32]
# Features that are names, not amounts; their 0/1 columns are left as they are.
_CATEGORICAL = ("day_of_week", "carrier", "origin", "dest")
_OUTLIER_SHARES = {"delay_outliers": 0.01, "delay_rare_outliers": 0.0003}
_OUTLIER_FACTOR, _FLIPPED_SHARE, _GAPS = 1e3, 0.05, 3


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set as the bench trains on it."""

    name: str
    task: Task
    classes: int
    """Classes for classification, 0 for regression."""
    metric: str
    """What the validation error is."""
    train_x: Array
    """Shape (rows, features): amounts, standardized by the train rows' mean and standard deviation from before they were
    spoiled, then the 0/1 columns of categories."""
    train_y: Array
    """Shape (rows, 1): regression in robust standard deviations of the train label, else class ids."""
    valid_x: Array
    valid_y: Array
    """Never spoiled."""
    amounts: int
    """Number of features that are amounts; they come first."""
    label_scale: float
    """Units of the label per unit of `train_y`."""
    steps: int
    """Optimizer steps of a full run."""
    twin: str
    """The same data before they were spoiled; its own name where they were not."""
    strange: npt.NDArray[np.bool_] | None = None
    """Rows so rare and strange that the loss of their batch tells of them and not of the weights. Shape (rows,); None: no such."""

    @property
    def batch_size(self) -> int:
        """What the recipe gives a train split of this size."""
        size = plan_batches(len(self.train_x), batch_size=None, keep_short_batch=False).batch_size
        return size

    def batches(self, seed: int, steps: int) -> npt.NDArray[np.int32]:
        """Rows of each step, shape (steps, batch_size): shuffled anew each epoch, short batches left out."""
        generator, per_epoch = np.random.default_rng([2, seed]), len(self.train_x) // self.batch_size
        epochs = [
            generator.permutation(len(self.train_x))[: per_epoch * self.batch_size].reshape(per_epoch, -1)
            for _ in range(-(-steps // per_epoch))
        ]
        return np.concatenate(epochs)[:steps].astype(np.int32)

    def error(self, predictions: Array) -> float:
        """The validation error of predictions for `valid_x`: in units of the label, nats or a share of rows."""
        predicted = predictions.astype(np.float64)
        if self.task == "regression":
            return float(np.mean(np.abs(predicted - self.valid_y)) * self.label_scale)
        if self.classes > 2:
            # Where the network puts out NaN, argmax would still name a class.
            is_right = (np.argmax(predicted, axis=1) == self.valid_y[:, 0]) & np.isfinite(predicted).all(axis=1)
            return float(1.0 - np.mean(is_right))
        likelihood = np.where(self.valid_y == 1, predicted, 1.0 - predicted)
        return float(np.mean(-np.log(np.clip(likelihood, 1e-7, 1.0))))


def load(name: str) -> DataSet:
    """One of `DATA_SETS`, the same at every call."""
    return DATA_SETS[name]()


def prepare() -> None:
    """Writes the files that `load` reads, so that processes need not agree on who does."""
    for task in flights.LABEL_OF_TASK:
        flights.write_csv(task, [1], RESULTS / "data")


@functools.cache
def _flights(task: str) -> DataSet:
    import pandas as pd  # Takes a second to import; the other data sets do without it.

    table = pd.read_csv(flights.write_csv(task, [1], RESULTS / "data"))
    label = table.pop(flights.LABEL_OF_TASK[task]).to_numpy(np.float64)
    names = pd.get_dummies(table[list(_CATEGORICAL)].astype(str)).to_numpy(np.float64)
    numbers = table.drop(columns=[*_CATEGORICAL, "month"]).to_numpy(np.float64)
    kind: tuple[Task, int, str] = (
        ("regression", 0, "MAE, minutes") if task == "delay" else ("classification", 2, "cross-entropy, nats")
    )
    return _split(task, kind, numbers, names, label, valid_share=0.2, steps=1000)


@functools.cache
def _scikit_learn(name: str) -> DataSet:
    from sklearn import datasets  # Slow to import.

    numbers, label = getattr(datasets, f"load_{name}")(return_X_y=True)
    kind: tuple[Task, int, str] = (
        ("regression", 0, "MAE, score") if name == "diabetes" else ("classification", 10, "error rate")
    )
    # Few rows: more of them to validate on, or one row more or less would move the error by a tenth.
    names = np.empty((len(label), 0))
    return _split(
        f"{name}_clean" if name == "digits" else name, kind, numbers, names, label, valid_share=0.3, steps=600
    )


def _split(
    name: str, kind: tuple[Task, int, str], numbers: Any, names: Any, label: Any, valid_share: float, steps: int
) -> DataSet:
    order = np.random.default_rng(0).permutation(len(label))
    valid, train = np.split(order, [round(valid_share * len(label))])
    deviation = np.nanstd(numbers[train], axis=0)
    scaled = (numbers - np.nanmean(numbers[train], axis=0)) / np.where(deviation > 0, deviation, 1.0)
    x = np.concatenate([np.nan_to_num(scaled), names], axis=1).astype(np.float32)
    task, classes, metric = kind
    statistics = label_statistics(label[train].astype(np.float64), "label", "train", task)
    location, scale = (statistics.location, statistics.scale) if task == "regression" else (0.0, 1.0)
    y = ((label - location) / scale).astype(np.float32)[:, None]
    return DataSet(
        name=name,
        task=task,
        classes=classes,
        metric=metric,
        train_x=x[train],
        train_y=y[train],
        valid_x=x[valid],
        valid_y=y[valid],
        amounts=numbers.shape[1],
        label_scale=scale,
        steps=steps,
        twin=name,
    )


@functools.cache
def _delay_outliers(name: str) -> DataSet:
    """Some of the train rows a thousandfold, as a wrong unit makes them: amounts and label.

    With 1 % of them every batch has some, and no step is special; with 0.03 % one batch of thirteen or so has.
    """
    clean = _flights("delay")
    rows = np.random.default_rng(1).random(len(clean.train_x)) < _OUTLIER_SHARES[name]
    train_x, train_y = clean.train_x.copy(), clean.train_y.copy()
    train_x[rows, : clean.amounts] *= np.float32(_OUTLIER_FACTOR)
    # Robust statistics hardly see one row in a hundred, so the label keeps its twin's units.
    train_y[rows] *= np.float32(_OUTLIER_FACTOR)
    strange = rows if name == "delay_rare_outliers" else None
    return dataclasses.replace(clean, name=name, train_x=train_x, train_y=train_y, strange=strange)


@functools.cache
def _digits_flipped() -> DataSet:
    """5 % of the train labels replaced by another class, drawn at random."""
    clean, generator = _scikit_learn("digits"), np.random.default_rng(1)
    rows = generator.random(len(clean.train_y)) < _FLIPPED_SHARE
    other = (clean.train_y[:, 0] + generator.integers(1, clean.classes, len(rows))) % clean.classes
    flipped = np.where(rows, other, clean.train_y[:, 0]).astype(np.float32)[:, None]
    return dataclasses.replace(clean, name="digits", train_y=flipped)


@functools.cache
def _diabetes_gaps() -> DataSet:
    """A feature of three train rows is NaN: gaps that reached the model, as by a division by zero or a failed join.

    Each epoch meets each of them, in most of them in three batches of their own. Validation rows have none.
    """
    clean = _scikit_learn("diabetes")
    generator, train_x = np.random.default_rng(1), clean.train_x.copy()
    rows = generator.choice(len(train_x), _GAPS, replace=False)
    train_x[rows, generator.integers(0, clean.amounts, _GAPS)] = np.nan
    strange = ~np.isfinite(train_x).all(axis=1)
    return dataclasses.replace(clean, name="diabetes_gaps", train_x=train_x, strange=strange)


# `digits_clean` is there for comparison only: its unguarded runs say what the flipped labels cost.
DATA_SETS: dict[str, Callable[[], DataSet]] = {
    "delay": functools.partial(_flights, "delay"),
    **{name: functools.partial(_delay_outliers, name) for name in _OUTLIER_SHARES},
    "cancelled": functools.partial(_flights, "cancelled"),
    "diabetes": functools.partial(_scikit_learn, "diabetes"),
    "diabetes_gaps": _diabetes_gaps,
    "digits": _digits_flipped,
    "digits_clean": functools.partial(_scikit_learn, "digits"),
}
TWINS_ONLY = ("digits_clean",)
