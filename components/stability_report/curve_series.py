"""A training curve as a page can draw it: few points, among them every spike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spikeguard.components.spike_evaluator.composition import line_of_descent
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve

# Up to here a curve is drawn as it is; a longer one by the extremes of so many buckets.
_WHOLE, _BUCKETS = 8_000, 1_500
# Steps around a spike that are drawn one by one, and how many points these may add to a curve.
_AROUND, _MOST_AROUND = 40, 8_000
_MOST_MARKS = 400
_DIGITS = 6
# Changes from step to step, as a share of those of the losses.
_ROUGH = 0.3


def series_of(
    curve: TrainingCurve, level: Floats | None, spike_steps: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
    """The columns of a curve's drawing, as JSON values.

    Of long curves each bucket keeps its lowest and highest loss and its highest gradient norm, so that nothing that
    stands out is lost, and the steps around the spikes are all kept.

    Args:
      curve: n points.
      level: the loss expected at each point, shape (n,); None for none.
      spike_steps: start, peak and end of each spike.

    Returns:
      `kind`, `loss_is`, `points` (n), `columns`: equally long lists by name, with `step` and `loss` and, where known, `level`
      (unless it changes from batch to batch as the losses do), `learning_rate` (what the update used, the guard's factor included) and `gradient_norm`, null where a value is not
      finite; `epochs`: first step of each; `validation`: `step` and `loss`; `guard`: `step` and bits of each action;
      `non_finite`: steps; and how many of the latter two there are.

    >>> series_of(TrainingCurve.from_losses([3.0, 2.0, float("inf")]), None, [])["columns"]
    {'step': [1, 2, 3], 'loss': [3.0, 2.0, None]}
    """
    lasting = line_of_descent(curve.step)
    superseded = len(curve) - len(lasting)
    curve = curve.take(lasting)
    level = None if level is None or _is_rough(level[lasting], curve.loss) else level[lasting]
    kept = _kept_places(curve, spike_steps)
    columns: dict[str, list[Any]] = {"step": curve.step[kept].tolist(), "loss": _rounded(curve.loss[kept])}
    rate = curve.learning_rate * np.where(np.isnan(curve.guard_factor), 1.0, curve.guard_factor)
    for name, values in (("level", level), ("learning_rate", rate), ("gradient_norm", curve.gradient_norm)):
        if values is not None and np.isfinite(values).any():
            columns[name] = _rounded(values[kept])
    acted, broken = np.flatnonzero(curve.guard_action), np.flatnonzero(~np.isfinite(curve.loss))
    return {
        "kind": curve.kind,
        "loss_is": curve.loss_is,
        "points": len(curve),
        "superseded": superseded,
        "columns": columns,
        "epochs": _epoch_starts(curve),
        "validation": _validation(curve),
        "guard": {
            "step": curve.step[acted[:_MOST_MARKS]].tolist(),
            "action": curve.guard_action[acted[:_MOST_MARKS]].tolist(),
        },
        "guard_steps": len(acted),
        "non_finite": curve.step[broken[:_MOST_MARKS]].tolist(),
        "non_finite_steps": len(broken),
    }


def _is_rough(level: Floats, loss: Floats) -> bool:
    """Whether the expected loss follows the make-up of each batch: no line that an eye could tell from the losses."""
    with np.errstate(invalid="ignore"):
        steps = [np.abs(np.diff(values)) for values in (level, loss)]
    known = [values[np.isfinite(values)] for values in steps]
    return bool(len(known[0]) and len(known[1]) and np.median(known[0]) > _ROUGH * np.median(known[1]))


def _kept_places(curve: TrainingCurve, spike_steps: Sequence[tuple[int, int, int]]) -> Ints:
    n = len(curve)
    if n <= _WHOLE:
        return np.arange(n, dtype=np.int64)
    edges = np.linspace(0, n, _BUCKETS + 1).astype(np.int64)
    kept = [edges[:-1], np.array([n - 1])]
    kept += [_extremes(curve.loss, edges, np.fmin, np.inf), _extremes(curve.loss, edges, np.fmax, -np.inf)]
    if np.isfinite(curve.gradient_norm).any():
        kept.append(_extremes(curve.gradient_norm, edges, np.fmax, -np.inf))
    allowed = _MOST_AROUND
    for start, peak, end in spike_steps:
        marks = np.searchsorted(curve.step, [start, peak, end]).clip(0, n - 1)
        kept.append(marks)
        around = np.arange(max(0, marks[0] - _AROUND), min(n, marks[2] + _AROUND + 1))
        if len(around) <= allowed:
            kept.append(around)
            allowed -= len(around)
    kept.append(np.flatnonzero(~np.isfinite(curve.loss))[:_MOST_MARKS])
    kept.append(np.flatnonzero(curve.guard_action)[:_MOST_MARKS])
    return np.asarray(np.unique(np.concatenate(kept)))


def _extremes(values: Floats, edges: Ints, extreme: np.ufunc, empty: float) -> Ints:
    """Place of the extreme in each bucket; buckets without a finite value have none."""
    known = np.where(np.isfinite(values), values, empty)
    best = extreme.reduceat(known, edges[:-1])
    bucket = np.repeat(np.arange(len(best)), np.diff(edges))
    places = np.flatnonzero((known == best[bucket]) & np.isfinite(values))
    return np.asarray(places[np.unique(bucket[places], return_index=True)[1]])


def _rounded(values: Floats) -> list[float | None]:
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in values.tolist()]


def _epoch_starts(curve: TrainingCurve) -> list[int]:
    if curve.kind != "step":
        return []
    starts = curve.step[np.flatnonzero(np.diff(curve.epoch) > 0) + 1]
    return np.asarray(starts[:: 1 + len(starts) // 100]).tolist()  # type: ignore[no-any-return]


def _validation(curve: TrainingCurve) -> dict[str, list[Any]]:
    order = np.argsort(curve.validation_step, kind="stable")[:: 1 + len(curve.validation_step) // 2000]
    return {"step": curve.validation_step[order].tolist(), "loss": _rounded(curve.validation_loss[order])}
