"""Renders a report's content as one page that needs no network."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import markupsafe

from spikeguard.components.guarded_trainer.guard_action import GuardAction
from spikeguard.components.stability_report.content import Json, ReportContent
from spikeguard.components.stability_report.histogram import histogram_picture
from spikeguard.components.stability_report.outcome import plain_numbers
from spikeguard.components.stability_report.picture import picture
from spikeguard.components.stability_report.picture_parts import is_logarithmic
from spikeguard.components.stability_report.replay_picture import replay_lines, replay_picture

LARGEST_PAGE_BYTES = 6_000_000
# Rows of a table, and of tables within a row; a page that is still too large gets shares of these.
_MOST_ROWS, _MOST_SPIKES = 2_000, 200
_SHARES = (1.0, 0.5, 0.2, 0.05, 0.01)
_UNKNOWN = "\u2013"
# Parts that other components write, and what a wrong type in them raises.
_TABLES = ("outliers", "class_balance", "normalization")
_SHAPES = (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError, jinja2.TemplateError)
_FOLDER = pathlib.Path(__file__).parent / "page"
_TICKED = re.compile("`([^`]+)`")
# Marks that change the direction of the text around them, and control characters: shown by their numbers.
_INVISIBLE = re.compile("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def render(content: ReportContent) -> str:
    """The page.

    Nothing in the content is trusted: the template escapes it, the data of the drawing cannot end their script element, and
    the page's policy runs its own script alone.

    Args:
      content: of the run.

    Returns:
      HTML of at most `LARGEST_PAGE_BYTES` in UTF-8; where the content is larger, tables are cut and say so.

    >>> page = render(ReportContent("<b>", "open", "Nothing was judged."))
    >>> "&lt;b&gt;" in page, "<b>" in page
    (True, False)
    """
    try:
        return _rendered(content)
    except _SHAPES as error:
        return _rendered(_showable(content, error))


def _rendered(content: ReportContent) -> str:
    return rendered_within(lambda share: _render("report.html.jinja", share, _view(content, share)))


def _showable(content: ReportContent, error: Exception) -> ReportContent:
    """The content without those tables of other components that are not of the shape that their format promises."""
    nothing = ReportContent(content.title, content.status, content.sentence)
    kept: Json = {}
    notes = list(content.notes)
    for part in _TABLES:
        kept[part] = []
        for table in getattr(content, part):
            try:
                alone: Any = {part: (table,)}
                _rendered(dataclasses.replace(nothing, **alone))
                kept[part].append(table)
            except _SHAPES as wrong:
                notes.append(f"The {part.replace('_', ' ')} of {table.get('source')} cannot be shown: {wrong}")
    if len(notes) == len(content.notes):
        raise error
    tables: Any = {part: tuple(shown) for part, shown in kept.items()}
    return dataclasses.replace(content, notes=tuple(notes), **tables)


def rendered_within(page: Callable[[float], str]) -> str:
    """The largest of the pages, by the share of the rows that they show, that is not too large."""
    html = ""
    for share in _SHARES:
        html = page(share)
        if len(html.encode()) <= LARGEST_PAGE_BYTES:
            break
    return html


def page_of(template: str, view: Json, share: float = 1.0) -> str:
    """A page of the report's style from another template."""
    return _render(template, share, view)


def _view(content: ReportContent, share: float) -> Json:
    evaluation = content.evaluation or {}
    most = max(5, int(_MOST_SPIKES * share))
    told, untold = _highest(evaluation.get("spikes"), most)
    validation, untold_validation = _highest(evaluation.get("validation_spikes"), most)
    curve = content.curve
    return {
        "content": content,
        "evaluation": content.evaluation,
        "spikes": told,
        "untold_spikes": untold,
        "validation_spikes": [spike for _, spike in validation],
        "untold_validation_spikes": untold_validation,
        "picture": markupsafe.Markup(picture(curve, told)) if curve else "",
        "data": drawing_data([("loss", curve)], told) if curve else None,
        "guard_events": guard_events(curve) if curve else [],
        "most": max(10, int(_MOST_ROWS * share)),
    }


def _highest(spikes: Sequence[Json] | None, most: int) -> tuple[list[tuple[int, Json]], int]:
    """The highest spikes in their order, each with its number from 1, and how many are left out."""
    numbered = list(enumerate(spikes or [], 1))
    highest = sorted(numbered, key=lambda pair: -(pair[1].get("height") or 0.0))[:most]
    return sorted(highest, key=lambda pair: pair[0]), len(numbered) - len(highest)


def drawing_data(curves: Sequence[tuple[str, Json]], spikes: Sequence[tuple[int, Json]]) -> Json:
    """What the page's script draws: the curves, and where the spikes are."""
    first = curves[0][1]
    return {
        "curves": [{"name": name, **curve} for name, curve in curves],
        "logarithmic": [
            name
            for name in ("loss", "learning_rate", "gradient_norm")
            if any(is_logarithmic(curve["columns"].get(name, ())) for _, curve in curves)
        ],
        "kind": first["kind"],
        "spikes": [
            {
                "number": number,
                "start": spike["start_step"],
                "step": spike["peak_step"],
                "end": spike["end_step"],
                "loss": spike["loss_at_peak"],
            }
            for number, spike in spikes
        ],
    }


def guard_events(curve: Json) -> list[Json]:
    """`step` and `action` in words of each step that the guard acted in."""
    guard = curve.get("guard") or {"step": [], "action": []}
    return [
        {"step": step, "action": ", ".join(_action_words(action))}
        for step, action in zip(guard["step"], guard["action"], strict=True)
    ]


def _action_words(action: int) -> list[str]:
    return [bit.name.lower().replace("_", " ") for bit in GuardAction if action & bit and bit.name]


def _render(template: str, share: float, view: Json) -> str:
    script, style = _file("uPlot.iife.min.js") + "\n" + _file("report.js"), _file("uPlot.min.css") + _file("report.css")
    page = {
        "script": markupsafe.Markup(script),
        "style": markupsafe.Markup(style),
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "notice": markupsafe.Markup(_file("uPlot.LICENSE.txt").replace("--", "- -")),
    }
    return _environment().get_template(template).render(page=page, share=share, **view)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["as_script_data"] = script_data
    environment.filters["percent"] = _percent
    environment.filters["sentence"] = _sentence
    environment.filters["coded"] = _coded
    environment.filters["plain"] = plain_numbers
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["by_outliers"] = _by_outliers
    environment.filters["replay_lines"] = replay_lines
    environment.filters["replay_picture"] = lambda lines: markupsafe.Markup(replay_picture(lines))
    environment.filters["histogram"] = lambda feature: markupsafe.Markup(histogram_picture(feature))
    return environment


def _by_outliers(features: Sequence[Json]) -> list[Json]:
    """Entries of `outliers.json`, those with the most values outside of their fences first."""

    def outside(feature: Json) -> int:
        counts = (feature.get("counts") or {}).values()
        return sum(count or 0 for of_split in counts for name, count in of_split.items() if name != "missing")

    return sorted(features, key=outside, reverse=True)


def _shown(value: Any) -> Any:
    """A value as people read it; texts lose what would hide or turn around their neighbours."""
    if isinstance(value, markupsafe.Markup | jinja2.Undefined):
        return value
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if 1e6 > abs(value) == round(abs(value)):
            return f"{value:,.0f}"
        return plain_numbers(f"{value:.4g}")
    return _INVISIBLE.sub(lambda found: f"⟨{ord(found.group()):04X}⟩", str(value))


def _sentence(text: Any) -> str:
    """A text with a capital, unless it begins with a name such as `learning_rate`, and a full stop."""
    told = str(text).strip()
    first = told.partition(" ")[0]
    return (told[:1].upper() + told[1:] if first.isalpha() else told) + (
        "" if told.endswith((".", "!", "?", "…")) else "."
    )


def _coded(text: Any) -> markupsafe.Markup:
    """A text whose `parts between ticks` are code."""
    return markupsafe.Markup(_TICKED.sub(r"<code>\1</code>", str(markupsafe.escape(_shown(text)))))


def _percent(share: Any) -> str:
    if not isinstance(share, int | float):
        return _UNKNOWN
    return f"{100 * share:.3g}%"


def script_data(value: Any) -> markupsafe.Markup:
    """JSON that stays inside its script element, whatever it holds.

    >>> print(script_data({"name": "</script><!--"}))
    {"name":"\\u003c/script\\u003e\\u003c!--"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII, so no line separators either.
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return markupsafe.Markup(text)


@functools.cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
