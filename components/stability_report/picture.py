"""The static picture of a training curve: what readers without JavaScript and printers see."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spikeguard.components.stability_report.content import Json
from spikeguard.components.training_curve import Floats

# In the picture's own units; numbers stand left of the panels, steps below the last.
_WIDTH, _LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 960, 66, 14, 14, 30, 24
_LOSS_HEIGHT, _SMALL_HEIGHT = 250, 70
_SMALL = (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm"))
# Largest value over the median from which a logarithmic scale shows more.
_DECADES = 100.0


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One drawing area; y grows downwards."""

    top: float
    height: float
    low: float
    high: float
    is_log: bool

    def y(self, values: Floats) -> Floats:
        bottom, top = (math.log10(edge) if self.is_log else edge for edge in (self.low, self.high))
        scaled = np.log10(values) if self.is_log else values
        return np.asarray(self.top + self.height * (1.0 - (scaled - bottom) / ((top - bottom) or 1.0)))

    def ticks(self) -> list[float]:
        if not self.is_log:
            return ticks_between(self.low, self.high)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        powers = [10.0**power for power in range(first, last + 1)]
        return powers[:: 1 + len(powers) // 6] if len(powers) > 1 else [self.low, self.high]


def ticks_between(low: float, high: float) -> list[float]:
    """Some three to six round numbers from `low` to `high`.

    >>> ticks_between(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.8)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def is_logarithmic(losses: Sequence[float | None]) -> bool:
    """Whether the losses span so much that a linear scale would show its largest ones alone.

    >>> is_logarithmic([1.0, 1.1, 500.0]), is_logarithmic([1.0, 1.1, 0.0])
    (True, False)
    """
    known = [loss for loss in losses if loss is not None]
    return bool(known) and min(known) > 0.0 and max(known) > _DECADES * float(np.median(known))


def picture(curve: Json, spikes: Sequence[tuple[int, Json]]) -> str:
    """The curve as an SVG element, "" where no loss is finite.

    Args:
      curve: what `curve_series.series_of` returned.
      spikes: number and spike of the evaluation; each mark is a link to `#spike-<number>`.
    """
    columns = curve["columns"]
    steps = np.array(columns["step"], dtype=float)
    loss = _floats(columns["loss"])
    if not np.isfinite(loss).any():
        return ""
    x = _Horizontal(float(steps[0]), float(steps[-1]))
    panel = _panel(_TOP, _LOSS_HEIGHT, loss, is_logarithmic(columns["loss"]))
    validation = curve.get("validation") or {"step": [], "loss": []}
    parts = [_frame(panel, f"Loss{' (logarithmic)' if panel.is_log else ''}")]
    parts += [f'<path class="epoch" d="M{x.at(step):.1f} {_TOP}v{_LOSS_HEIGHT}"/>' for step in curve.get("epochs", [])]
    parts.append(_line("loss", x, panel, steps, loss))
    if "level" in columns:
        level = _floats(columns["level"])
        level[(level < panel.low) | (level > panel.high)] = np.nan
        parts.append(_line("level", x, panel, steps, level))
    shown = [(step, value) for step, value in zip(validation["step"], validation["loss"], strict=True) if value]
    shown = [(step, value) for step, value in shown if panel.low <= value <= panel.high]
    parts += [_dot(x.at(step), float(panel.y(np.array([value]))[0])) for step, value in shown[:200]]
    parts += [_guard_mark(x.at(step), panel) for step in (curve.get("guard") or {}).get("step", [])]
    parts += [_spike_mark(number, spike, x, panel, curve["kind"]) for number, spike in spikes]
    top = panel.top + panel.height + _GAP
    for name, title in _SMALL:
        if name in columns and np.isfinite(values := _floats(columns[name])).any():
            small = _panel(top, _SMALL_HEIGHT, values, is_logarithmic(columns[name]))
            parts += [_frame(small, f"{title}{' (logarithmic)' if small.is_log else ''}")]
            parts.append(_line(name.replace("_", "-"), x, small, steps, values))
            top += _SMALL_HEIGHT + _GAP
    bottom = top - _GAP + _BOTTOM
    parts.append(_steps_axis(x, bottom, curve["kind"]))
    label = f"Training loss over {curve['points']:,} {curve['kind']}s; {len(spikes)} spikes are marked."
    return f'<svg class="picture" viewBox="0 0 {_WIDTH} {bottom:.0f}" role="group" aria-label="{label}">{"".join(parts)}</svg>'


def overlay(curves: Sequence[Json]) -> str:
    """The losses of several curves in one picture, an SVG element; "" where none is finite.

    Args:
      curves: of one kind, each what `curve_series.series_of` returned.
    """
    losses = [loss for curve in curves for loss in curve["columns"]["loss"]]
    if not np.isfinite(_floats(losses)).any():
        return ""
    steps = [step for curve in curves for step in curve["columns"]["step"]]
    x = _Horizontal(float(min(steps)), float(max(steps)))
    panel = _panel(_TOP, _LOSS_HEIGHT, _floats(losses), is_logarithmic(losses))
    parts = [_frame(panel, f"Loss{' (logarithmic)' if panel.is_log else ''}")]
    for number, curve in enumerate(curves, 1):
        columns = curve["columns"]
        parts.append(_line(f"run{number}", x, panel, np.array(columns["step"], dtype=float), _floats(columns["loss"])))
    bottom = _TOP + _LOSS_HEIGHT + _BOTTOM
    parts.append(_steps_axis(x, bottom, curves[0]["kind"]))
    label = f"Training losses of {len(curves)} runs"
    return f'<svg class="picture" viewBox="0 0 {_WIDTH} {bottom:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


@dataclasses.dataclass(frozen=True)
class _Horizontal:
    first: float
    last: float

    def at(self, step: float) -> float:
        share = (step - self.first) / ((self.last - self.first) or 1.0)
        return float(_LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT))


def _steps_axis(x: _Horizontal, bottom: float, kind: str) -> str:
    ticks = [
        f'<text x="{x.at(step):.1f}" y="{bottom - 8:.1f}" text-anchor="middle">{step:,.0f}</text>'
        for step in ticks_between(x.first, x.last)
        if x.at(step) < _WIDTH - 60
    ]
    return "".join(ticks) + f'<text x="{_WIDTH - _RIGHT}" y="{bottom - 8:.1f}" text-anchor="end">{kind}</text>'


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _panel(top: float, height: float, values: Floats, is_log: bool) -> _Panel:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if not is_log:
        low = min(low, 0.0) if low < 0.25 * high else low
    return _Panel(top, height, low, high, is_log)


def _frame(panel: _Panel, title: str) -> str:
    lines = [f'<text class="head" x="{_LEFT}" y="{panel.top - 4:.1f}">{title}</text>']
    for tick in panel.ticks():
        y = float(panel.y(np.array([tick]))[0])
        lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    return "".join(lines)


def _line(name: str, x: _Horizontal, panel: _Panel, steps: Floats, values: Floats) -> str:
    """One path; of several points in one column of the picture the lowest and the highest."""
    places = np.array([x.at(step) for step in steps.tolist()])
    known = np.isfinite(values)
    if panel.is_log:
        known &= values > 0
    column = np.round(places).astype(int)
    commands, before = [], -1
    for first, last in _stretches(column):
        inside = np.arange(first, last)[known[first:last]]
        if not len(inside):
            continue
        heights = panel.y(values[inside])
        chosen = sorted({int(np.argmin(heights)), int(np.argmax(heights))})
        pen = "L" if before >= 0 and known[before:first].all() else "M"
        for place in chosen:
            commands.append(f"{pen}{places[inside[place]]:.1f} {heights[place]:.1f}")
            pen = "L"
        before = int(inside[-1])
    if len(commands) == 1:
        commands.append("h0.5")
    return f'<path class="{name}" d="{"".join(commands)}"/>'


def _stretches(column: Any) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), len(column)]
    return list(itertools.pairwise(edges))


def _dot(x: float, y: float) -> str:
    return f'<circle class="validation" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _guard_mark(x: float, panel: _Panel) -> str:
    return f'<path class="guard" d="M{x:.1f} {panel.top + panel.height:.1f}v-9"/>'


def _spike_mark(number: int, spike: Json, x: _Horizontal, panel: _Panel, kind: str) -> str:
    loss = min(max(float(spike["loss_at_peak"]), panel.low), panel.high)
    left, top = x.at(spike["peak_step"]), float(panel.y(np.array([loss]))[0])
    title = html.escape(f"Spike {number}, {kind} {spike['peak_step']:,}: loss {spike['loss_at_peak']:.4g}")
    return f'<a href="#spike-{number}"><title>{title}</title><circle class="spike" cx="{left:.1f}" cy="{top:.1f}" r="6"/></a>'
