"""Data sets of the causes bench: those of the guard bench that are not spoiled, one more and a synthetic one."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from tests.bench import guard_data
from tests.bench.guard_data import DataSet


@functools.cache
def _breast_cancer() -> DataSet:
    from sklearn import datasets  # Slow to import.

    numbers, label = datasets.load_breast_cancer(return_X_y=True)
    kind: tuple[guard_data.Task, int, str] = ("classification", 2, "cross-entropy, nats")
    names = np.empty((len(label), 0))
    return guard_data._split("breast_cancer", kind, numbers, names, label, valid_share=0.3, steps=600)


@functools.cache
def _synthetic() -> DataSet:
    """A smooth function of eight features with noise of Student's t distribution of three degrees of freedom."""
    generator = np.random.default_rng(3)
    numbers = generator.normal(size=(4000, 8))
    label = np.sin(numbers[:, 0]) + numbers[:, 1] * numbers[:, 2] + 0.3 * generator.standard_t(3, size=4000)
    kind: tuple[guard_data.Task, int, str] = ("regression", 0, "MAE")
    return guard_data._split("synthetic", kind, numbers, np.empty((4000, 0)), label, valid_share=0.25, steps=600)


DATA_SETS: dict[str, Callable[[], DataSet]] = {
    "delay": guard_data.DATA_SETS["delay"],
    "cancelled": guard_data.DATA_SETS["cancelled"],
    "diabetes": guard_data.DATA_SETS["diabetes"],
    "breast_cancer": _breast_cancer,
    "digits": guard_data.DATA_SETS["digits_clean"],
    "synthetic": _synthetic,
}


def load(name: str) -> DataSet:
    """One of `DATA_SETS`, the same at every call."""
    return DATA_SETS[name]()
