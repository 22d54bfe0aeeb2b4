"""Gets the losses of the batches back from the running mean that Keras logs.

Keras averages a loss from the start of each epoch, so after t batches it shows m_t = (l_1 + ... + l_t) / t. A spike of
height h at batch t shows as h / t: hidden late in an epoch. Two logged means give back the mean loss of the batches
between them: l = (t m_t - s m_s) / (t - s).
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from spikeguard.components.training_curve import Floats, Ints

_MIN_POINTS_PER_EPOCH = 20


def batch_losses(
    step: npt.ArrayLike, mean: npt.ArrayLike, start: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The losses behind running means: (t m_t - s m_s) / (t - s) for consecutive logged batches s < t of an epoch.

    Keras weights a batch by its rows. An epoch's last batch, if it has a share r < 1 of the rows of the others, comes out
    near (1 - r) m + r l. A mean kept in single precision makes the result uncertain by about t * 1e-7 of the mean.

    Args:
      step: shape (n,); number of the batch over the whole training, rising.
      mean: shape (n,); mean loss from the epoch's start to that batch.
      start: shape (n,); number of the last batch before the epoch of each point.

    Returns:
      Losses of shape (n,), and which of them to keep, shape (n,): after the first mean of an epoch that is not finite
      nothing can be told until the epoch's end.

    >>> loss, kept = batch_losses([1, 2, 3, 4], [4.0, 3.0, 5.0, 1.0], [0, 0, 0, 3])
    >>> loss.tolist(), kept.tolist()
    ([4.0, 2.0, 9.0, 1.0], [True, True, True, True])
    """
    step, start = np.asarray(step, np.int64), np.asarray(start, np.int64)
    mean = np.asarray(mean, np.float64)
    is_first = np.ones(len(step), bool)
    is_first[1:] = start[1:] != start[:-1]
    count = (step - start).astype(np.float64)
    earlier_count = np.where(is_first, 0.0, np.roll(count, 1))
    with np.errstate(all="ignore"):
        earlier_sum = np.where(is_first, 0.0, earlier_count * np.roll(mean, 1))
        loss = (count * mean - earlier_sum) / (count - earlier_count)
    is_finite = np.isfinite(mean)
    loss = np.where(is_finite, loss, mean)
    bad_before = np.cumsum(~is_finite) - ~is_finite
    first = np.flatnonzero(is_first)
    in_epoch = bad_before - np.repeat(bad_before[first], np.diff(np.append(first, len(step))))
    return loss, in_epoch == 0


def epoch_starts(step: npt.ArrayLike, epoch: npt.ArrayLike, last: npt.ArrayLike) -> Ints:
    """The last batch before the epoch of each point.

    Where only every k-th batch is logged, an epoch ends somewhere between two points, and some ends may be unknown.
    Epochs of a training are equally long, so the length that fits all ends is taken, the shortest of several; if none
    fits, the last logged point.

    Args:
      step: shape (n,), n >= 1; number of each logged batch, rising.
      epoch: shape (k,); number of each epoch whose end is known, from 0, rising.
      last: shape (k,); last logged batch of the epoch.

    Returns:
      Shape (n,).

    >>> epoch_starts([3, 6, 9, 12, 15, 18, 21], epoch=[0, 1], last=[9, 18]).tolist()
    [0, 0, 0, 9, 9, 9, 18]
    """
    step, epoch, last = (np.asarray(values, np.int64) for values in (step, epoch, last))
    stride = int(np.median(np.diff(step))) if len(step) > 1 else 1
    origin = int(step[0]) - (1 if step[0] <= 1 else stride)
    if not len(epoch):
        return np.full(len(step), origin)
    place = np.searchsorted(step, last, side="right")
    following = np.where(place < len(step), step[np.minimum(place, len(step) - 1)], last + stride)
    # Where every batch is logged every end is known; epochs may then be of any length.
    for first in (0, int(epoch[0])) if stride > 1 else ():
        passed = epoch - first + 1
        if passed[0] < 1:
            continue
        shortest = int(np.max(-(-(last - origin) // passed)))
        longest = int(np.min(-(-(following - origin) // passed) - 1))
        if 1 <= shortest <= longest:
            return np.asarray(origin + (step - origin - 1) // shortest * shortest, np.int64)
    ends = np.concatenate([[origin], last])
    return np.asarray(ends[np.searchsorted(ends, step, side="left") - 1], np.int64)


def is_running_mean(step: npt.ArrayLike, start: npt.ArrayLike, loss: npt.ArrayLike) -> bool:
    """Whether a loss looks like a mean that starts anew with each epoch.

    Such a mean changes by about 1/t at the t-th batch of an epoch, while the losses that it would be the mean of change
    as much late in an epoch as early; and it jumps where an epoch begins. Losses of batches and exponential averages of
    them do not do that.

    Args:
      step: shape (n,); number of each batch, rising.
      start: shape (n,); last batch before the epoch of each point.
      loss: shape (n,).

    Returns:
      False where there are not two epochs of at least 20 points: nothing can be told then.

    >>> batches = np.random.default_rng(0).normal(2, 0.3, (3, 200))
    >>> means = np.cumsum(batches, axis=1) / np.arange(1, 201)
    >>> step, start = np.arange(1, 601), np.repeat([0, 200, 400], 200)
    >>> is_running_mean(step, start, means.ravel()), is_running_mean(step, start, batches.ravel())
    (True, False)
    """
    step, start, loss = np.asarray(step), np.asarray(start), np.asarray(loss, np.float64)
    recovered, _ = batch_losses(step, loss, start)
    is_inside = np.append(False, start[1:] == start[:-1]) & np.isfinite(loss) & np.isfinite(np.roll(loss, 1))
    epochs = np.unique(start)
    slopes = []
    for begin in epochs:
        chosen = is_inside & (start == begin)
        if chosen.sum() >= _MIN_POINTS_PER_EPOCH:
            count = step[chosen] - begin
            slopes.append(_slope(count, np.diff(recovered, prepend=np.nan)[chosen]))
        if len(slopes) == 50:
            break
    if len(slopes) < 2:
        return False
    # The first epoch also has the fast descent of a training's start in it.
    slope = np.median(slopes[1:])
    change = np.abs(np.diff(loss, prepend=np.nan))
    is_anew = np.append(False, start[1:] != start[:-1])
    jump, late = np.nanmedian(change[is_anew]), np.nanmedian(change[is_inside])
    return bool(abs(slope) < 0.5 and jump > 5 * late)


def _slope(count: Ints, change: Floats) -> float:
    """Slope of log median |change| over log count, in bins of equal width on the log scale."""
    edges = np.unique(np.geomspace(count.min(), count.max() + 1, 9).astype(np.int64))
    middles, medians = [], []
    for low, high in itertools.pairwise(edges):
        chosen = np.abs(change[(count >= low) & (count < high)])
        if len(chosen) and np.median(chosen) > 0:
            middles.append(np.log((low + high - 1) / 2))
            medians.append(np.log(np.median(chosen)))
    if len(middles) < 3:
        return float("nan")
    weights = np.sqrt([np.exp(middle) for middle in middles])
    return float(np.polyfit(middles, medians, 1, w=weights)[0])
