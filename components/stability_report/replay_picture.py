"""The replay of a spike as a picture: the losses of its steps as recorded, replayed, and replayed with one thing changed."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from spikeguard.components.stability_report.picture_parts import (
    BOTTOM,
    Horizontal,
    floats,
    frame,
    is_logarithmic,
    line,
    panel_of,
    steps_axis,
)

# In the picture's own units: as wide as the text on a phone's page stays readable in.
_WIDTH, _HEIGHT, _TOP = 600, 150, 22
# Calm steps before the first high one that are drawn.
_LEAD = 15
# As many as a replay keeps, and some more.
_MOST_STEPS = 200
# A larger loss has gone wrong for good, and no scale would show it beside the others.
_LARGEST = 1e30


@dataclasses.dataclass(frozen=True)
class ReplayLines:
    """What a picture of a replay shows."""

    steps: tuple[int, ...]
    recorded: tuple[float | None, ...]
    """Loss of each step in the training; None where it was not finite."""
    unchanged: tuple[float | None, ...]
    """The same in the replay."""
    changed: tuple[float | None, ...]
    """In the replay with the change; empty where none was replayed."""
    change: str
    """What was changed, as a person reads it; "" where nothing was."""
    expected: float | None
    """Loss expected at the peak."""


def replay_lines(spike: Any) -> ReplayLines | None:
    """The lines of a spike's replay, with the change of its first cause that was replayed.

    Args:
      spike: of `evaluation.json`, or whatever else stands in its place.

    Returns:
      None where nothing was replayed, or where the lists are not what their format promises.

    >>> replay = {"steps": [7, 8], "recorded": [1.0, 9.0], "losses": [1.0, None], "expected": 1.1}
    >>> replay_lines({"replay": replay, "causes": []}).unchanged
    (1.0, None)
    """
    replay = spike.get("replay")
    if not isinstance(replay, dict):
        return None
    steps, recorded, unchanged = (_numbers(replay.get(name)) for name in ("steps", "recorded", "losses"))
    known = [step for step in steps if step is not None]
    # A path needs its steps in order.
    if not steps or known != sorted(steps, key=lambda step: step or 0.0) or len(known) != len(steps):
        return None
    if not len(recorded) == len(unchanged) == len(steps):
        return None
    changed, text = _change(spike.get("causes"), len(steps))
    expected, first = _numbers([replay.get("expected"), replay.get("first_step")]) or (None, None)
    shown = slice(sum(step < first - _LEAD for step in known) if first is not None else 0, None)
    whole = tuple(int(step) for step in known[shown])
    if not whole or all(loss is None for loss in (*recorded[shown], *unchanged[shown])):
        return None
    return ReplayLines(whole, tuple(recorded[shown]), tuple(unchanged[shown]), changed[shown], text, expected)


def _change(causes: Any, steps: int) -> tuple[tuple[float | None, ...], str]:
    for cause in causes if isinstance(causes, list | tuple) else ():
        replay = cause.get("replay") if isinstance(cause, dict) else None
        losses = _numbers(replay.get("losses")) if isinstance(replay, dict) else []
        if isinstance(replay, dict) and len(losses) == steps and any(loss is not None for loss in losses):
            return tuple(losses), str(replay.get("text") or replay.get("change") or "with one thing changed")
    return (), ""


def _numbers(values: Any) -> list[float | None]:
    """The values as numbers, None for those that are not finite or beyond all bounds; empty where one is none, or there are too many."""
    if not isinstance(values, list | tuple) or len(values) > _MOST_STEPS:
        return []
    if any(value is not None and (isinstance(value, bool) or not isinstance(value, int | float)) for value in values):
        return []
    return [float(value) if value is not None and abs(value) <= _LARGEST else None for value in values]


def replay_picture(lines: ReplayLines) -> str:
    """The lines as an SVG element with a title that tells the peaks."""
    drawn = [("recorded", lines.recorded), ("unchanged", lines.unchanged)]
    drawn += [("changed", lines.changed)] if lines.changed else []
    losses = [loss for _, values in drawn for loss in values if loss is not None]
    steps = np.array(lines.steps, dtype=float)
    x = Horizontal(float(steps[0]), float(steps[-1]), _WIDTH)
    panel = panel_of(_TOP, _HEIGHT, np.array(losses), is_logarithmic(losses), _WIDTH)
    parts = [frame(panel, f"Loss{' (logarithmic)' if panel.is_log else ''}")]
    if lines.expected is not None and panel.low <= lines.expected <= panel.high:
        parts.append(line("expected", x, panel, steps[[0, -1]], np.array([lines.expected, lines.expected])))
    parts += [line(name, x, panel, steps, floats(values)) for name, values in drawn]
    bottom = _TOP + _HEIGHT + BOTTOM
    parts.append(steps_axis(x, bottom, "step"))
    title = html.escape(_title(lines), quote=True)
    return f'<svg class="picture" viewBox="0 0 {_WIDTH} {bottom}" role="img" aria-label="{title}"><title>{title}</title>{"".join(parts)}</svg>'


def _title(lines: ReplayLines) -> str:
    peaks = [
        f"{name} {_peak(values)}" for name, values in (("recorded", lines.recorded), ("replayed", lines.unchanged))
    ]
    if lines.changed:
        peaks.append(f"with the change {_peak(lines.changed)}")
    return f"Highest loss of steps {lines.steps[0]:,} to {lines.steps[-1]:,}: {', '.join(peaks)}"


def _peak(losses: Sequence[float | None]) -> str:
    if any(loss is None for loss in losses):
        return "not finite"
    return f"{max(loss for loss in losses if loss is not None):.4g}"
