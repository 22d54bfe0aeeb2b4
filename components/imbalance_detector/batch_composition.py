"""Whether the classes in a run's batches are what shuffling gives: a test on the recorder's counts, with NumPy alone.

Of shuffled rows, those of a class in a batch follow a hypergeometric distribution, and so do those in a block of several
batches. Each count becomes a standard score z, whose square is 1 on average. The mean of the squares over blocks of 1, 4,
16, ... batches, the *spread*, shows batches that are purer than chance allows (blocks of 1) and neighbours that are too
alike (longer blocks), as a shuffle buffer that is too small leaves them. Its limit is that of a gamma distribution with the
mean and the variance of the hypergeometric one, for all classes and lengths together. Less spread than chance allows, as of
balanced batches, is no fault.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from spikeguard.components.training_curve import Floats, Ints, TrainingCurve

Fault = Literal["sorted", "small_buffer", "grouped", "repeated_order"]

# Chance of a false alarm in a run whose batches are shuffled, over all its classes and lengths of blocks.
FALSE_ALARMS = 0.01
# Spread below which a finding is of no use: a tenth more jitter than chance makes.
_LEAST_SPREAD = 1.2
# Each block is so many times longer than the one before.
_GROWTH = 4
# What a test needs: blocks, and rows of the class (and of the others) that are expected in each.
_FEWEST_BLOCKS, _FEWEST_EXPECTED = 8, 1.0
# Batches in a block where only the mean of the labels is known, whose ranks are then nearly normal in sum.
_SHORTEST_BLOCK = 4
# Share of the way from chance to batches as pure as they can be, from which on data count as sorted.
_PURE = 0.75
# Correlation of neighbouring batches, from which on they count as alike.
_ALIKE = 0.2
# Correlation of the same places of two epochs, and its standard score, from which on their order counts as repeated.
_REPEATED, _REPEATED_SCORE = 0.5, 5.0
# Stretches of steps that a sentence names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class BatchFinding:
    """Batches that chance does not explain."""

    fault: Fault
    """`sorted`: batches are as pure as they can be, as of rows sorted by the label. `small_buffer`: neighbours are alike, as
    after a shuffle that sees a part of the rows only. `grouped`: rows of a class come together more than chance allows.
    `repeated_order`: each epoch has the same batches, which for themselves are shuffled."""
    class_id: int | None
    """The class whose counts show it most; None where the means of the labels do."""
    steps: tuple[int, ...]
    """Numbers of the steps whose batches stand out."""
    spread: float
    """Variance of the counts in blocks of `block_steps` batches over what chance gives; 1 for shuffled rows."""
    block_steps: int
    p_value: float
    """Chance of as much in shuffled data, over all tests of the run; at most 1."""
    text: str


@dataclasses.dataclass(frozen=True)
class _Test:
    class_id: int | None
    block_steps: int
    spread: float
    p_value: float
    scores: Floats
    """Of the blocks. Shape (blocks,)."""


def check_batches(curve: TrainingCurve) -> tuple[BatchFinding, ...]:
    """Compares the batches of a run with what shuffling gives.

    Args:
      curve: with the classes of each batch, or with the means of their labels, which tell less; else nothing is found.

    Returns:
      What stands out, the worst first; empty where chance explains all, or where there are too few batches to tell.

    >>> ones = np.repeat([0, 32], 50)
    >>> run = TrainingCurve.from_columns(loss=np.ones(100), class_counts=np.column_stack([32 - ones, ones]))
    >>> [(finding.fault, finding.steps[0], finding.steps[-1]) for finding in check_batches(run)]
    [('sorted', 1, 100)]
    """
    if curve.kind != "step":
        return ()
    places, counts, rows = _counted(curve)
    if len(places) and counts.shape[1] > 1:
        values = counts[:, _most_varied(counts, rows)].astype(np.float64)
    else:
        places, values = _labelled(curve)
        counts = counts[:0]
    repeated = _repeated_order(curve, places, values)
    if repeated is not None:
        # Further epochs say nothing new; the first alone is what chance is asked about.
        is_first = curve.epoch[places] == curve.epoch[places[0]]
        places, values, counts, rows = places[is_first], values[is_first], counts[is_first[: len(counts)]], rows
        rows = rows[is_first[: len(rows)]] if len(counts) else rows
    if len(counts):
        tests = [test for column in range(counts.shape[1]) for test in _class_tests(column, counts[:, column], rows)]
    else:
        tests = list(_mean_tests(values))
    worst = min(tests, key=lambda test: (test.p_value, -test.spread), default=None)
    if worst is not None and len(tests) * worst.p_value <= FALSE_ALARMS and worst.spread >= _LEAST_SPREAD:
        purity = _purity(counts[:, worst.class_id], rows) if worst.class_id is not None else None
        return (_finding(curve, places, worst, tests, purity),)
    return (repeated,) if repeated is not None else ()


def _counted(curve: TrainingCurve) -> tuple[Ints, Ints, Ints]:
    """Places of the steps whose classes are known, their counts, shape (steps, classes), and their rows."""
    counts = np.maximum(curve.class_counts, 0)
    total = counts.sum(axis=1) if counts.shape[1] else np.zeros(len(curve), dtype=np.int64)
    # Rows of a multi-hot label count several times or not at all.
    rows = np.where(curve.batch_size > 0, curve.batch_size, total)
    places = np.flatnonzero((total > 0) & (counts <= rows[:, None]).all(axis=1))
    return places, counts[places], rows[places]


def _labelled(curve: TrainingCurve) -> tuple[Ints, Floats]:
    """Places of the steps with a batch of the usual size and a mean label, and these means."""
    rows = curve.batch_size
    is_usual = rows == (np.median(rows) if len(rows) else 0)
    places = np.flatnonzero(is_usual & np.isfinite(curve.label_mean))
    return places, curve.label_mean[places]


def _class_tests(class_id: int, count: Ints, rows: Ints) -> Iterator[_Test]:
    total, in_class = float(rows.sum()), float(count.sum())
    share = in_class / total if total else 0.0
    rarer = min(share, 1.0 - share)
    for length in _lengths(len(count)):
        x, n = _blocks(count, length), _blocks(rows, length)
        if n.mean() * rarer < _FEWEST_EXPECTED:
            continue
        variance = n * share * (1 - share) * (total - n) / (total - 1)
        scores = (x - n * share) / np.sqrt(np.maximum(variance, 1e-12))
        # Binomial, which the hypergeometric is nearly for blocks that are small beside the run.
        binomial = float(np.mean(n)) * share * (1 - share)
        excess = 1.0 / binomial - 6.0 / float(np.mean(n))
        # The third cumulant of the square of a Poisson variable's standard score: 8 for a normal one.
        third = 8.0 + 22.0 / binomial + 1.0 / binomial**2
        yield _Test(class_id, length, float(np.mean(scores**2)), _tail(scores, excess, third), scores)


def _mean_tests(means: Floats) -> Iterator[_Test]:
    if len(means) < 2 or np.all(means == means[0]):
        return
    # Ranks have no heavy tails; equal means share their rank.
    _, place, times = np.unique(means, return_inverse=True, return_counts=True)
    rank = (np.cumsum(times) - (times - 1) / 2.0)[place.ravel()]
    deviation = rank - rank.mean()
    for length in _lengths(len(means)):
        if length < _SHORTEST_BLOCK:
            continue
        variance = length * float(np.var(rank)) * (len(means) - length) / (len(means) - 1)
        scores = _blocks(deviation, length) / math.sqrt(variance)
        # Of a sum of uniform ranks.
        yield _Test(None, length, float(np.mean(scores**2)), _tail(scores, -1.2 / length, 8.0), scores)


def _lengths(steps: int) -> Iterator[int]:
    length = 1
    while steps // length >= _FEWEST_BLOCKS:
        yield length
        length *= _GROWTH


def _blocks(values: Floats | Ints, length: int) -> Floats:
    """Sums of consecutive blocks; the steps that fill no block are left out."""
    whole = len(values) // length * length
    return np.asarray(values[:whole].reshape(-1, length).sum(axis=1), dtype=np.float64)


def _tail(scores: Floats, excess: float, third: float) -> float:
    """Chance of a mean square as large as that of these scores, which sum to 0.

    Args:
      scores: shape (blocks,).
      excess: kurtosis of a score beyond that of the normal distribution.
      third: third cumulant of its square.
    """
    blocks = len(scores)
    variance = max(2.0 * blocks**2 / (blocks - 1) + blocks * excess, 1e-9)
    # A gamma distribution (Pearson III) of the same mean, variance and skewness, ...
    shape = 4.0 * variance**3 / (blocks * third) ** 2
    scaled = 1.0 + blocks * (float(np.mean(scores**2)) - 1.0) / math.sqrt(variance * shape)
    # ... whose cube root is nearly normal (Wilson and Hilferty 1931).
    width = 1.0 / (9.0 * shape)
    deviate = (max(scaled, 0.0) ** (1 / 3) - (1.0 - width)) / math.sqrt(width)
    return 0.5 * math.erfc(deviate / math.sqrt(2.0))


def _purity(count: Ints, rows: Ints) -> float:
    """How far the batches are from chance (0) towards the purest that these rows of the class could make (1)."""
    size, total = float(np.median(rows)), float(count.sum())
    full, rest = divmod(total, size)
    purest = full * size**2 + rest**2
    by_chance = total**2 / len(count) + total * (1 - total / float(rows.sum()))
    return float((np.sum(count.astype(np.float64) ** 2) - by_chance) / max(purest - by_chance, 1e-9))


def _finding(
    curve: TrainingCurve, places: Ints, worst: _Test, tests: list[_Test], purity: float | None
) -> BatchFinding:
    own = [test for test in tests if test.class_id == worst.class_id]
    told = max(own, key=lambda test: test.spread)
    scores = min(own, key=lambda test: test.block_steps).scores
    alike = float(np.mean(scores[1:] * scores[:-1]) / np.mean(scores**2))
    fault: Fault = "small_buffer" if alike > _ALIKE else "grouped"
    if (alike if purity is None else purity) > _PURE:
        fault = "sorted"
    steps = _standing_out(curve, places, worst)
    what = "the means of their labels" if worst.class_id is None else f"the rows of class {worst.class_id}"
    block = "from batch to batch" if told.block_steps == 1 else f"between blocks of {told.block_steps} batches"
    reason = {
        "sorted": "the rows seem to be sorted by the label. Shuffle all of them before they are batched.",
        "small_buffer": "neighbouring batches are alike, as after a shuffle buffer that is too small. Enlarge it, or shuffle the files.",
        "grouped": "rows of a class come in groups. Shuffle rows, not files or groups of them.",
    }[fault]
    text = (
        f"The batches are not shuffled well: {what} vary {told.spread:.3g} times as much {block} as chance allows"
        f" ({_stretches(steps)}); {reason}"
    )
    p_value = min(1.0, worst.p_value * len(tests))
    return BatchFinding(fault, worst.class_id, steps, told.spread, told.block_steps, p_value, text)


def _standing_out(curve: TrainingCurve, places: Ints, test: _Test) -> tuple[int, ...]:
    """Steps of the blocks that chance does not explain even alone, or of the one that it explains least."""
    size = np.abs(test.scores)
    limit = min(math.sqrt(2.0 * math.log(len(size) / FALSE_ALARMS)), float(size.max()))
    blocks = np.flatnonzero(size >= limit)
    inside = (blocks[:, None] * test.block_steps + np.arange(test.block_steps)).ravel()
    return tuple(curve.step[places[inside]].tolist())


def _most_varied(counts: Ints, rows: Ints) -> int:
    return int(np.argmax(np.var(counts / rows[:, None], axis=0)))


def _repeated_order(curve: TrainingCurve, places: Ints, values: Floats) -> BatchFinding | None:
    """Whether the same places of consecutive epochs have the same batches."""
    table = np.full(len(curve), np.nan)
    table[places] = values
    starts = np.flatnonzero(np.diff(curve.epoch, prepend=-1) != 0)
    steps = int(np.diff(starts).max(initial=0))
    whole = [start for start in starts.tolist() if start + steps <= len(curve)]
    if steps < _FEWEST_BLOCKS or len(whole) < 2:
        return None
    epochs = np.stack([table[start : start + steps] for start in whole])
    epochs = epochs[np.isfinite(epochs).all(axis=1)]
    deviation = epochs - epochs.mean(axis=1, keepdims=True) if len(epochs) else epochs
    norm = np.sqrt(np.sum(deviation**2, axis=1))
    pairs = norm[1:] * norm[:-1]
    if len(pairs) == 0 or not (pairs > 0).all():
        return None
    correlations = np.sum(deviation[1:] * deviation[:-1], axis=1) / pairs
    correlation = float(correlations.mean())
    score = correlation * math.sqrt(len(correlations) * (steps - 1))
    if correlation < _REPEATED or score < _REPEATED_SCORE:
        return None
    text = (
        f"The batches come in the same order in each of {len(epochs)} epochs of {steps} steps"
        f" (correlation {correlation:.2f}): the rows are not shuffled anew. Reshuffle at each epoch."
    )
    repeated = tuple(curve.step[whole[1] : whole[1] + steps].tolist())
    p_value = 0.5 * math.erfc(score / math.sqrt(2.0))
    return BatchFinding("repeated_order", None, repeated, 1.0, 1, p_value, text)


def _stretches(steps: tuple[int, ...]) -> str:
    """Steps in words, runs of them as one."""
    numbers = np.array(steps)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs[:_NAMED]]
    more = f" and {len(runs) - _NAMED} more stretches" if len(runs) > _NAMED else ""
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(words)}{more}"
