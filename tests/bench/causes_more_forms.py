"""More forms of trouble, other in kind than those that the tests of the causes were mended with."""

from __future__ import annotations

import numpy as np

from tests.bench.causes_forms import Form, Generator, Stream, when


def sentinel_values(stream: Stream, generator: Generator) -> None:
    """A code for "missing" in some features of a row, in one batch and again in another."""
    start, columns = when(stream, generator), stream.x.shape[1]
    chosen = generator.choice(columns, max(1, columns // 4), replace=False)
    for step in (start, min(stream.steps - 1, start + int(generator.integers(10, 40)))):
        x, _ = stream.batch(step)
        x[generator.integers(len(x)), chosen] = generator.choice([-999.0, -99.0, 9999.0])


def unit_of_label(stream: Stream, generator: Generator) -> None:
    """The label of a few rows in another unit; a class that cannot be theirs where it is one."""
    x, y = stream.batch(when(stream, generator))
    rows = generator.choice(len(y), int(generator.integers(1, 5)), replace=False)
    if stream.classes:
        y[rows] = (y[rows] + 1) % stream.classes
        x[rows] *= 3.0  # Surely of the class that they are not.
    else:
        y[rows] = (y[rows] + generator.choice([-1, 1])) * generator.choice([60.0, 100.0])


def rate_of_one_step(stream: Stream, generator: Generator) -> None:
    stream.rates[when(stream, generator)] *= 10 ** generator.uniform(1.3, 2.3)


def rate_growing(stream: Stream, generator: Generator) -> None:
    """A schedule with a sign turned around: the rate grows by a constant factor from a step on."""
    start = when(stream, generator)
    stream.rates[start:] *= np.minimum(1.08 ** np.arange(stream.steps - start), 1e3)


def decay_turned_around(stream: Stream, generator: Generator) -> None:
    """A step of the schedule that multiplies where it should divide, for good."""
    stream.rates[when(stream, generator) :] *= generator.choice([10.0, 30.0])


def cyclic_rate(stream: Stream, generator: Generator) -> None:
    """A triangle whose top is too high."""
    period, top = int(generator.integers(60, 120)), 10 ** generator.uniform(1.0, 1.7)
    phase = np.abs((np.arange(stream.steps) / period) % 1.0 - 0.5) * 2
    stream.rates *= (1.0 + (top - 1.0) * (1.0 - phase)).astype(np.float32)


def one_class_batches(stream: Stream, generator: Generator) -> None:
    """Batches of one class alone, now and then."""
    label = stream.y[:, 0].astype(int)
    for step in generator.choice(np.arange(int(0.4 * stream.steps), stream.steps), 3, replace=False):
        own = np.flatnonzero(label == generator.integers(stream.classes))
        stream.order[step] = generator.choice(own, len(stream.order[step]))


def class_that_comes_late(stream: Stream, generator: Generator) -> None:
    """A class that no batch has before a step, and all have after it in plenty."""
    start, late = when(stream, generator), int(generator.integers(stream.classes))
    label = stream.y[:, 0].astype(int)
    others, own = np.flatnonzero(label != late), np.flatnonzero(label == late)
    for step, rows in enumerate(stream.order):
        drawn = generator.choice(others, len(rows))
        if step >= start:
            drawn[: len(rows) // 2] = generator.choice(own, len(rows) // 2)
        stream.order[step] = drawn


def offset_feature(stream: Stream, generator: Generator) -> None:
    """Some features of some batches without their mean taken off."""
    start, columns = when(stream, generator), stream.x.shape[1]
    chosen = generator.choice(columns, max(1, columns // 3), replace=False)
    offset = generator.choice([-1, 1]) * 10 ** generator.uniform(1.0, 2.0)
    for step in range(start, min(stream.steps, start + int(generator.integers(1, 6)))):
        x, _ = stream.batch(step)
        x[:, chosen] += offset


def raw_batches(stream: Stream, generator: Generator) -> None:
    """All features of some batches in raw units: as if the transform had been left out for a file."""
    start, width = when(stream, generator), stream.x.shape[1]
    scale, center = 10 ** generator.uniform(0.5, 2.5, width), 10 ** generator.uniform(0.0, 2.0, width)
    for step in range(start, min(stream.steps, start + int(generator.integers(1, 6)))):
        x, _ = stream.batch(step)
        x[:] = x * scale + center


def batches_of_few_for_a_while(stream: Stream, generator: Generator) -> None:
    start, size = when(stream, generator), int(generator.integers(1, 4))
    for step in range(start, min(stream.steps, start + int(generator.integers(8, 40)))):
        stream.order[step] = stream.order[step][:size]


def single_rows_now_and_then(stream: Stream, generator: Generator) -> None:
    for step in generator.choice(np.arange(40, stream.steps), int(generator.integers(4, 12)), replace=False):
        stream.order[step] = stream.order[step][:1]


def memorized_noise(stream: Stream, generator: Generator) -> None:
    """Few rows with labels of their own, learned by heart."""
    few = generator.choice(len(stream.x), 48, replace=False)
    stream.y = stream.y.copy()
    stream.y[few] = generator.permutation(stream.y[few])
    stream.order = [few[generator.permutation(len(few))[: len(rows)]] for rows in stream.order]


MORE_FORMS: dict[str, tuple[str, Form]] = {
    "sentinel_values": ("outliers", sentinel_values),
    "unit_of_label": ("outliers", unit_of_label),
    "rate_of_one_step": ("learning_rate", rate_of_one_step),
    "rate_growing": ("learning_rate", rate_growing),
    "decay_turned_around": ("learning_rate", decay_turned_around),
    "cyclic_rate": ("learning_rate", cyclic_rate),
    "one_class_batches": ("imbalance", one_class_batches),
    "class_that_comes_late": ("imbalance", class_that_comes_late),
    "offset_feature": ("normalization", offset_feature),
    "raw_batches": ("normalization", raw_batches),
    "batches_of_few_for_a_while": ("batch_size", batches_of_few_for_a_while),
    "single_rows_now_and_then": ("batch_size", single_rows_now_and_then),
    "memorized_noise": ("regularization", memorized_noise),
}
