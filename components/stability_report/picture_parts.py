"""What pictures of curves are made of: panels with their scales, lines, frames."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spikeguard.components.training_curve import Floats

# In the picture's own units; numbers stand left of the panels, steps below the last.
WIDTH, LEFT, RIGHT, TOP, GAP, BOTTOM = 960, 66, 14, 14, 30, 24
# Largest value over the median from which a logarithmic scale shows more.
_DECADES = 100.0


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing area; y grows downwards."""

    top: float
    height: float
    low: float
    high: float
    is_log: bool
    width: float = WIDTH

    def y(self, values: Floats) -> Floats:
        """The places of values."""
        bottom, top = (math.log10(edge) if self.is_log else edge for edge in (self.low, self.high))
        scaled = np.log10(values) if self.is_log else values
        return np.asarray(self.top + self.height * (1.0 - (scaled - bottom) / ((top - bottom) or 1.0)))

    def ticks(self) -> list[float]:
        """Values to write beside the panel."""
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


@dataclasses.dataclass(frozen=True)
class Horizontal:
    """The steps of a picture, from the first to the last."""

    first: float
    last: float
    width: float = WIDTH

    def at(self, step: float) -> float:
        """The place of a step; what lies outside stands at the edge."""
        share = (step - self.first) / ((self.last - self.first) or 1.0)
        return float(LEFT + min(1.0, max(0.0, share)) * (self.width - LEFT - RIGHT))


def steps_axis(x: Horizontal, bottom: float, kind: str) -> str:
    """Some steps below the lowest panel."""
    ticks = [
        f'<text x="{x.at(step):.1f}" y="{bottom - 8:.1f}" text-anchor="middle">{step:,.0f}</text>'
        for step in ticks_between(x.first, x.last)
        if x.at(step) < x.width - 60
    ]
    return "".join(ticks) + f'<text x="{x.width - RIGHT}" y="{bottom - 8:.1f}" text-anchor="end">{kind}</text>'


def floats(values: Sequence[float | None]) -> Floats:
    """The values with NaN for None."""
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def panel_of(top: float, height: float, values: Floats, is_log: bool, width: float = WIDTH) -> Panel:
    """A panel in which all values have room; at least one must be finite."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if not is_log:
        low = min(low, 0.0) if low < 0.25 * high else low
    return Panel(top, height, low, high, is_log, width)


def frame(panel: Panel, title: str) -> str:
    """A panel's title and grid."""
    lines = [f'<text class="head" x="{LEFT}" y="{panel.top - 4:.1f}">{title}</text>']
    for tick in panel.ticks():
        y = float(panel.y(np.array([tick]))[0])
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{panel.width - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_told(tick)}</text>')
    return "".join(lines)


def line(name: str, x: Horizontal, panel: Panel, steps: Floats, values: Floats) -> str:
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


def _told(tick: float) -> str:
    return f"{tick:,.0f}" if 1e4 <= abs(tick) < 1e6 else f"{tick:.4g}"


def _stretches(column: Any) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), len(column)]
    return list(itertools.pairwise(edges))
