"""Makes training curves of what was logged: picks the losses and joins what was logged beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.curve_readers import naming
from spikeguard.components.curve_readers.running_mean import batch_losses, epoch_starts, is_running_mean
from spikeguard.components.curve_readers.series import RunLog, Series
from spikeguard.components.training_curve import CurveKind, Floats, Ints, LossKind, TrainingCurve

# Stretches of steps that all start anew alike from which on they are epochs.
_FEWEST_EPOCHS = 3
_RECOVERED = "The log holds the running mean of each epoch; the losses of the batches were worked out from it."


@dataclasses.dataclass(frozen=True)
class _Points:
    """One loss, as far as it is worked out."""

    step: Ints
    loss: Floats
    order: Ints
    epoch: Ints
    kind: CurveKind
    loss_is: LossKind
    notes: tuple[str, ...]


def curves_of(log: RunLog, validation: RunLog | None = None) -> dict[str, TrainingCurve]:
    """The training curves of one run.

    Args:
      log: what the run logged.
      validation: what was logged of the same run's validation in another place.

    Returns:
      Curves by name: "" for a loss known by its name, else the tag or column. Empty where no training loss was logged.
    """
    return {name: _curve(log, column, validation) for name, column in naming.training_losses(log.series).items()}


def _curve(log: RunLog, column: str, validation: RunLog | None) -> TrainingCurve:
    loss = log.series[column]
    ends = _epoch_ends(log, column)
    points = _points(log, loss, ends, naming.canonical(column) in naming.EPOCH_LOSSES)
    columns: dict[str, Any] = {}
    for name, series in log.series.items():
        field = naming.companion_of(name)
        if field is None or field in ("epoch", *columns) or name == column:
            continue
        # Keras logs the learning rate by epoch, whatever the loss is logged by.
        is_by_epoch = naming.canonical(name).startswith("epoch ") and points.kind == "step" and log.axis == "step"
        joined = _joined(series, points.epoch if is_by_epoch else loss.step, loss.step)
        joined = joined[np.isin(loss.order, points.order)] if len(joined) > len(points.order) else joined
        if field in ("batch_size", "guard_action"):
            joined = np.nan_to_num(joined, nan=0.0, posinf=0.0, neginf=0.0)
        columns[field] = joined
    validation_step, validation_loss = _validation(log, validation, points, ends is not None)
    group = (f"The log is long: of every {loss.group} losses only the largest was kept.",) if loss.group > 1 else ()
    return TrainingCurve.from_columns(
        kind=points.kind,
        loss_is=points.loss_is,
        notes=(*log.notes, *points.notes, *group),
        is_cut=log.is_cut,
        step=points.step,
        loss=points.loss,
        epoch=points.epoch,
        **columns,
        validation_step=validation_step,
        validation_loss=validation_loss,
    )


def _points(log: RunLog, loss: Series, ends: Series | None, is_of_epochs: bool) -> _Points:
    """The loss with its batches worked out where the log holds running means."""
    epochs = next((series for name, series in log.series.items() if naming.companion_of(name) == "epoch"), None)
    epoch = np.zeros(len(loss.step), np.int64)
    if log.axis == "epoch":
        epoch = loss.step
    elif epochs is not None:
        epoch = np.nan_to_num(_joined(epochs, loss.step, loss.step, is_filled=True)).astype(np.int64)
    kept = _Points(loss.step, loss.value, loss.order, epoch, "step", "batch", ())
    if is_of_epochs or log.axis == "epoch":
        return _epoch_points(kept, log, epochs is not None)
    if ends is None and epochs is None:
        return _counted_on(kept)
    # Keras' epoch loss is the last running mean of the epoch; where it is not logged, the look of the means decides.
    start, epoch = _starts(loss, epoch, ends)
    is_mean = ends is not None and _ends_in(loss, ends)
    segments = np.cumsum(np.diff(loss.step, prepend=loss.step[:1]) < 0)
    if not is_mean:
        first = segments == 0
        is_mean = is_running_mean(loss.step[first], start[first], loss.value[first])
    if not is_mean:
        return dataclasses.replace(kept, epoch=epoch)
    value, is_known = np.empty(len(loss.step)), np.ones(len(loss.step), bool)
    for segment in range(int(segments[-1]) + 1):
        part = segments == segment
        value[part], is_known[part] = batch_losses(loss.step[part], loss.value[part], start[part])
    notes: tuple[str, ...] = (_RECOVERED,)
    if not is_known.all():
        notes += (f"{int((~is_known).sum())} steps after a mean that is not finite cannot be worked out: left out.",)
    order = loss.order[is_known]
    return _Points(loss.step[is_known], value[is_known], order, epoch[is_known], "step", "running_mean", notes)


def _counted_on(points: _Points) -> _Points:
    """Points whose steps start anew again and again after as many: epochs, not a training that was restarted."""
    starts = np.append(0, np.flatnonzero(np.diff(points.step) < 0) + 1)
    lengths = np.diff(np.append(starts, len(points.step)))
    is_regular = np.all(lengths[:-1] == lengths[0]) and lengths[-1] <= lengths[0]
    if len(starts) < _FEWEST_EPOCHS or not is_regular or np.any(points.step[starts] != points.step[0]):
        return points
    first = points.step[: lengths[0]]
    epoch = np.repeat(np.arange(len(starts)), lengths)
    period = first[-1] - first[0] + (first[1] - first[0] if len(first) > 1 else 1)
    note = "The steps start anew after as many again and again: they were taken for epochs and numbered consecutively."
    return dataclasses.replace(points, step=points.step + epoch * period, epoch=epoch, notes=(note,))


def _epoch_points(points: _Points, log: RunLog, has_epochs: bool) -> _Points:
    """Points that are epochs; rows of the same epoch are steps that nobody numbered."""
    n = len(points.step)
    if log.axis == "epoch" and n > 2 and np.mean(np.diff(points.step) == 0) > 0.5:
        note = "There are several rows per epoch and no step column: the rows were numbered."
        return dataclasses.replace(points, step=np.arange(1, n + 1), notes=(note,))
    step = points.epoch if has_epochs or log.axis == "epoch" else points.step
    return dataclasses.replace(points, step=step, epoch=step, kind="epoch", loss_is="epoch_mean")


def _epoch_ends(log: RunLog, column: str) -> Series | None:
    """The epoch losses beside a `batch_loss`, whose steps are epochs; a curve recorder writes none."""
    if naming.canonical(column) != "batch loss" or log.axis == "epoch":
        return None
    return next((series for name, series in log.series.items() if naming.canonical(name) == "epoch loss"), None)


def _ends_in(loss: Series, ends: Series) -> bool:
    """Whether some epoch loss is the batch loss that was logged right before it."""
    place = np.searchsorted(loss.order, ends.order) - 1
    known = (place >= 0) & np.isfinite(ends.value)
    return bool(np.any(np.isclose(loss.value[place[known]], ends.value[known], rtol=1e-6, atol=0)))


def _starts(loss: Series, epoch: Ints, ends: Series | None) -> tuple[Ints, Ints]:
    """The last step before the epoch of each point, and its epoch; each stretch of rising steps by itself."""
    start, numbers = np.empty(len(loss.step), np.int64), epoch.copy()
    breaks = np.flatnonzero(np.diff(loss.step) < 0) + 1
    for low, high in zip([0, *breaks], [*breaks, len(loss.step)], strict=True):
        step = loss.step[low:high]
        if ends is None:
            changes = np.flatnonzero(np.diff(epoch[low:high]) > 0)
            of_epoch, last = epoch[low:high][changes] - epoch[low], step[changes]
        else:
            until = loss.order[high] if high < len(loss.order) else np.inf
            inside = (ends.order > loss.order[low]) & (ends.order < until)
            of_epoch = ends.step[inside]
            last = step[np.searchsorted(loss.order[low:high], ends.order[inside]) - 1]
        start[low:high] = epoch_starts(step, of_epoch, last)
        if ends is not None:
            rank = np.unique(start[low:high], return_inverse=True)[1]
            first = of_epoch[0] - rank[np.searchsorted(step, last[0])] if len(last) else 0
            numbers[low:high] = np.maximum(rank + first, 0)
    return start, numbers


def _joined(series: Series, at: Ints, steps: Ints, is_filled: bool = False) -> Floats:
    """The values of a series at the steps of a curve, NaN where there is none.

    Steps may go back: the n-th stretch of rising steps is joined with the n-th. A series of which not all values were
    kept, or that `is_filled`, gives its last value at or before the step.
    """
    if np.array_equal(series.step, at):
        return series.value
    width = int(max(series.step.max(), at.max())) + 1
    key = _stretch(series.step) * width + series.step
    wanted = _stretch(at) * width + at
    place = np.searchsorted(key, wanted, side="right") - 1
    is_known = (place >= 0) & (is_filled or series.group > 1 or key[place] == wanted)
    return np.where(is_known, series.value[place], np.nan)


def _stretch(step: Ints) -> npt.NDArray[np.int64]:
    return np.cumsum(np.diff(step, prepend=step[:1]) < 0).astype(np.int64)


def _validation(
    log: RunLog, other: RunLog | None, points: _Points, is_by_epoch: bool
) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """Steps and losses of the validation passes."""
    column = naming.validation_loss(log.series)
    if column is not None:
        series = log.series[column]
        if points.kind == "step" and log.axis == "epoch":  # The rows were numbered.
            return np.searchsorted(points.order, series.order, side="right"), series.value
        return series.step, series.value
    if other is None:
        return (), ()
    columns = list(naming.training_losses(other.series).values())
    epoch_column = next((name for name in other.series if naming.canonical(name) == "epoch loss"), None)
    column = epoch_column or naming.validation_loss(other.series) or (columns[0] if columns else None)
    if column is None:
        return (), ()
    series = other.series[column]
    if not (is_by_epoch and column == epoch_column and points.kind == "step"):
        return series.step, series.value
    last = {int(epoch): int(step) for epoch, step in zip(points.epoch, points.step, strict=True)}
    known = np.array([int(epoch) in last for epoch in series.step], bool)
    return [last[int(epoch)] for epoch in series.step[known]], series.value[known]
