"""Forms of trouble that are put into a training, each with the cause that it is one of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tests.bench.guard_data import Array

Generator = np.random.Generator


@dataclasses.dataclass
class Stream:
    """A training as a list of batches and rates, to be spoiled in place."""

    x: Array
    """Train rows. Shape (rows, features)."""
    y: Array
    """Shape (rows, 1)."""
    classes: int
    order: list[Array]
    """Rows of each step."""
    rates: Array
    """Shape (steps,)."""
    batches: dict[int, tuple[Array, Array]] = dataclasses.field(default_factory=dict)
    """Steps whose batch is not simply the rows of `order`."""

    @property
    def steps(self) -> int:
        return len(self.order)

    def batch(self, step: int) -> tuple[Array, Array]:
        """Features and labels of a step, to change in place."""
        if step not in self.batches:
            rows = self.order[step]
            self.batches[step] = (self.x[rows].copy(), self.y[rows].copy())
        return self.batches[step]


Form = Callable[[Stream, Generator], None]


def when(stream: Stream, generator: Generator) -> int:
    """A step after the loss has settled."""
    return int(generator.integers(int(0.4 * stream.steps), int(0.85 * stream.steps)))


def _some(batch: Array, generator: Generator) -> Array:
    return generator.choice(len(batch), int(generator.integers(1, 4)), replace=False)


def outlier_in_one_feature(stream: Stream, generator: Generator) -> None:
    x, _ = stream.batch(when(stream, generator))
    x[_some(x, generator), generator.integers(x.shape[1])] = generator.choice([-1, 1]) * 10 ** generator.uniform(1.5, 3)


def outlier_in_many_features(stream: Stream, generator: Generator) -> None:
    x, _ = stream.batch(when(stream, generator))
    x[_some(x, generator)] *= 10 ** generator.uniform(1.3, 2.5)


def outlier_in_label(stream: Stream, generator: Generator) -> None:
    _, y = stream.batch(when(stream, generator))
    rows = _some(y, generator)
    if stream.classes:
        y[rows] = (y[rows] + generator.integers(1, stream.classes)) % stream.classes
    else:
        y[rows] += generator.choice([-1, 1]) * 10 ** generator.uniform(1.3, 2.5)


def rate_jump(stream: Stream, generator: Generator) -> None:
    start = when(stream, generator)
    stream.rates[start : start + int(generator.integers(3, 25))] *= 10 ** generator.uniform(1, 2)


def rate_too_high(stream: Stream, generator: Generator) -> None:
    stream.rates *= 10 ** generator.uniform(1.3, 2)


def rate_restart(stream: Stream, generator: Generator) -> None:
    start = when(stream, generator)
    phase = np.arange(stream.steps) % start / start
    stream.rates *= 10 ** generator.uniform(0.7, 1.5) * (0.5 + 0.5 * np.cos(np.pi * phase))


def sorted_classes(stream: Stream, generator: Generator) -> None:
    start = when(stream, generator)
    rows = np.concatenate(stream.order[start:])
    ordered = rows[np.argsort(stream.y[rows, 0], kind="stable")]
    cuts = np.cumsum([len(one) for one in stream.order[start:]])[:-1]
    stream.order[start:] = np.split(ordered, cuts)


def rare_class(stream: Stream, generator: Generator) -> None:
    rare = int(generator.integers(stream.classes))
    label = stream.y[:, 0].astype(int)
    others, own = np.flatnonzero(label != rare), np.flatnonzero(label == rare)
    share = generator.uniform(0.0, 0.01)
    for step, rows in enumerate(stream.order):
        drawn = generator.choice(others, len(rows))
        count = generator.binomial(len(rows), share)
        drawn[:count] = generator.choice(own, count)
        stream.order[step] = drawn
    step = when(stream, generator)
    rows = stream.order[step]
    count = max(2, int(generator.uniform(0.3, 0.9) * len(rows)))
    rows[:count] = generator.choice(own, count)


def feature_left_raw(stream: Stream, generator: Generator) -> None:
    stream.x = stream.x.copy()
    stream.x[:, generator.integers(stream.x.shape[1])] *= 10 ** generator.uniform(1.5, 3)


def refit_per_batch(stream: Stream, generator: Generator) -> None:
    for step in range(stream.steps):
        x, _ = stream.batch(step)
        deviation = x.std(axis=0)
        x[:] = (x - x.mean(axis=0)) / np.where(deviation > 1e-3, deviation, 1e-3)


def exploding_scale(stream: Stream, generator: Generator) -> None:
    start, column, factor = (
        when(stream, generator),
        generator.integers(stream.x.shape[1]),
        10 ** generator.uniform(1, 2.5),
    )
    for step in range(start, min(stream.steps, start + int(generator.integers(1, 12)))):
        x, _ = stream.batch(step)
        x[:, column] = (x[:, column] + 0.5) * factor


def batch_of_few(stream: Stream, generator: Generator) -> None:
    size = int(generator.integers(2, 6))
    stream.order = [rows[:size] for rows in stream.order]


def short_last_batch(stream: Stream, generator: Generator) -> None:
    size, every = int(generator.integers(1, 4)), int(generator.integers(25, 60))
    for step in range(every, stream.steps, every):
        stream.order[step] = stream.order[step][:size]


def no_regularization(stream: Stream, generator: Generator) -> None:
    """As few rows as are learned by heart, in batches of the usual size."""
    few = generator.choice(len(stream.x), 40, replace=False)
    stream.order = [few[generator.permutation(len(few))[: len(rows)]] for rows in stream.order]


FORMS: dict[str, tuple[str, Form]] = {
    "outlier_in_one_feature": ("outliers", outlier_in_one_feature),
    "outlier_in_many_features": ("outliers", outlier_in_many_features),
    "outlier_in_label": ("outliers", outlier_in_label),
    "rate_jump": ("learning_rate", rate_jump),
    "rate_too_high": ("learning_rate", rate_too_high),
    "rate_restart": ("learning_rate", rate_restart),
    "sorted_classes": ("imbalance", sorted_classes),
    "rare_class": ("imbalance", rare_class),
    "feature_left_raw": ("normalization", feature_left_raw),
    "refit_per_batch": ("normalization", refit_per_batch),
    "exploding_scale": ("normalization", exploding_scale),
    "batch_of_few": ("batch_size", batch_of_few),
    "short_last_batch": ("batch_size", short_last_batch),
    "no_regularization": ("regularization", no_regularization),
}
NEEDS_CLASSES = ("sorted_classes", "rare_class", "one_class_batches", "class_that_comes_late")
