"""The static picture of a training curve: what readers without JavaScript and printers see."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from spikeguard.components.stability_report.content import Json
from spikeguard.components.stability_report.picture_parts import (
    BOTTOM,
    GAP,
    TOP,
    WIDTH,
    Horizontal,
    Panel,
    floats,
    frame,
    is_logarithmic,
    line,
    panel_of,
    steps_axis,
)

# In the picture's own units.
_LOSS_HEIGHT, _SMALL_HEIGHT = 250, 70
_SMALL = (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm"))


def picture(curve: Json, spikes: Sequence[tuple[int, Json]]) -> str:
    """The curve as an SVG element, "" where no loss is finite.

    Args:
      curve: what `curve_series.series_of` returned.
      spikes: number and spike of the evaluation; each mark is a link to `#spike-<number>`.
    """
    columns = curve["columns"]
    steps = np.array(columns["step"], dtype=float)
    loss = floats(columns["loss"])
    if not np.isfinite(loss).any():
        return ""
    x = Horizontal(float(steps[0]), float(steps[-1]))
    panel = panel_of(TOP, _LOSS_HEIGHT, loss, is_logarithmic(columns["loss"]))
    validation = curve.get("validation") or {"step": [], "loss": []}
    parts = [frame(panel, f"Loss{' (logarithmic)' if panel.is_log else ''}")]
    parts += [f'<path class="epoch" d="M{x.at(step):.1f} {TOP}v{_LOSS_HEIGHT}"/>' for step in curve.get("epochs", [])]
    parts.append(line("loss", x, panel, steps, loss))
    if "level" in columns:
        level = floats(columns["level"])
        level[(level < panel.low) | (level > panel.high)] = np.nan
        parts.append(line("level", x, panel, steps, level))
    shown = [(step, value) for step, value in zip(validation["step"], validation["loss"], strict=True) if value]
    shown = [(step, value) for step, value in shown if panel.low <= value <= panel.high]
    parts += [_dot(x.at(step), float(panel.y(np.array([value]))[0])) for step, value in shown[:200]]
    parts += [_guard_mark(x.at(step), panel) for step in (curve.get("guard") or {}).get("step", [])]
    parts += [_spike_mark(number, spike, x, panel, curve["kind"]) for number, spike in spikes]
    top = panel.top + panel.height + GAP
    for name, title in _SMALL:
        if name in columns and np.isfinite(values := floats(columns[name])).any():
            small = panel_of(top, _SMALL_HEIGHT, values, is_logarithmic(columns[name]))
            parts += [frame(small, f"{title}{' (logarithmic)' if small.is_log else ''}")]
            parts.append(line(name.replace("_", "-"), x, small, steps, values))
            top += _SMALL_HEIGHT + GAP
    bottom = top - GAP + BOTTOM
    parts.append(steps_axis(x, bottom, curve["kind"]))
    label = f"Training loss over {curve['points']:,} {curve['kind']}s; {len(spikes)} spikes are marked."
    return f'<svg class="picture" viewBox="0 0 {WIDTH} {bottom:.0f}" role="group" aria-label="{label}">{"".join(parts)}</svg>'


def overlay(curves: Sequence[Json]) -> str:
    """The losses of several curves in one picture, an SVG element; "" where none is finite.

    Args:
      curves: of one kind, each what `curve_series.series_of` returned.
    """
    losses = [loss for curve in curves for loss in curve["columns"]["loss"]]
    if not np.isfinite(floats(losses)).any():
        return ""
    steps = [step for curve in curves for step in curve["columns"]["step"]]
    x = Horizontal(float(min(steps)), float(max(steps)))
    panel = panel_of(TOP, _LOSS_HEIGHT, floats(losses), is_logarithmic(losses))
    parts = [frame(panel, f"Loss{' (logarithmic)' if panel.is_log else ''}")]
    for number, curve in enumerate(curves, 1):
        columns = curve["columns"]
        parts.append(line(f"run{number}", x, panel, np.array(columns["step"], dtype=float), floats(columns["loss"])))
    bottom = TOP + _LOSS_HEIGHT + BOTTOM
    parts.append(steps_axis(x, bottom, curves[0]["kind"]))
    label = f"Training losses of {len(curves)} runs"
    return f'<svg class="picture" viewBox="0 0 {WIDTH} {bottom:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _dot(x: float, y: float) -> str:
    return f'<circle class="validation" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _guard_mark(x: float, panel: Panel) -> str:
    return f'<path class="guard" d="M{x:.1f} {panel.top + panel.height:.1f}v-9"/>'


def _spike_mark(number: int, spike: Json, x: Horizontal, panel: Panel, kind: str) -> str:
    loss = min(max(float(spike["loss_at_peak"]), panel.low), panel.high)
    left, top = x.at(spike["peak_step"]), float(panel.y(np.array([loss]))[0])
    title = html.escape(f"Spike {number}, {kind} {spike['peak_step']:,}: loss {spike['loss_at_peak']:.4g}")
    return f'<a href="#spike-{number}"><title>{title}</title><circle class="spike" cx="{left:.1f}" cy="{top:.1f}" r="6"/></a>'
