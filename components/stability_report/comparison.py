"""Two runs side by side."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from spikeguard.components.stability_report.content import Json, ReportContent

# From the best to the worst.
_ORDER = ("stable", "insufficient", "unstable", "diverged")
_LONGEST_CELL = 60


@dataclasses.dataclass(frozen=True)
class Difference:
    """One line of the comparison."""

    name: str
    a: Any
    """A JSON value; None where A has none."""
    b: Any
    part: Literal["training", "recipe", "data"]

    @property
    def is_different(self) -> bool:
        """Whether the two are not the same."""
        return bool(self.a != self.b)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Run B beside run A.

    >>> a = ReportContent("a", "good", "", evaluation={"verdict": "stable"})
    >>> b = ReportContent("b", "bad", "", evaluation={"verdict": "unstable", "reasons": ["it jumps"]})
    >>> Comparison(a, b).sentence
    'B is less stable than A: it is unstable where A is stable.'
    """

    a: ReportContent
    b: ReportContent

    @property
    def is_worse(self) -> bool:
        """Whether B is less stable than A."""
        return _rank(self.b) > _rank(self.a)

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        a, b = _verdict(self.a), _verdict(self.b)
        if a == b:
            fewer = _spikes(self.b) - _spikes(self.a)
            more = f", with {abs(fewer)} {'more' if fewer > 0 else 'fewer'} spikes in B" if fewer else ""
            return f"Both runs are {a}{more}."
        return f"B is {'less' if self.is_worse else 'more'} stable than A: it is {b} where A is {a}."

    @property
    def differences(self) -> list[Difference]:
        """Every figure that either run has, the training first, then what differs of the recipe and of the data's anomalies."""
        training = [
            Difference(name, a, b, "training")
            for name, a, b in _both(_figures(self.a), _figures(self.b))
            if a is not None or b is not None
        ]
        recipe = [Difference(name, a, b, "recipe") for name, a, b in _both(_recipe(self.a), _recipe(self.b)) if a != b]
        data = [
            Difference(name, a, b, "data") for name, a, b in _both(_anomalies(self.a), _anomalies(self.b)) if a != b
        ]
        return training + recipe + data


def text_of(comparison: Comparison, columns: int = 100) -> str:
    """The comparison for a terminal.

    Args:
      comparison: of two runs.
      columns: width of the terminal in characters.
    """
    lines = [comparison.sentence, f"  A  {comparison.a.title}", f"  B  {comparison.b.title}", ""]
    differences = comparison.differences
    width = max((len(difference.name) for difference in differences), default=0)
    # B stands last and may be cut at the terminal's edge; A is given no more than half.
    widest = max((len(_cell(difference.a, _LONGEST_CELL)) for difference in differences), default=0)
    room = max(8, min(widest, (columns - width - 6) // 2))
    for difference in differences:
        a, b = _cell(difference.a, room), _cell(difference.b, max(8, columns - width - room - 6))
        lines.append(f"  {difference.name:<{width}}  {a:<{room}}  {b}".rstrip())
    return "\n".join(lines)


def _cell(value: Any, room: int) -> str:
    text = "\u2013" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= room else text[: room - 1] + "…"


def _verdict(content: ReportContent) -> str:
    return str((content.evaluation or {}).get("verdict", "not judged"))


def _rank(content: ReportContent) -> int:
    verdict = _verdict(content)
    return _ORDER.index(verdict) if verdict in _ORDER else _ORDER.index("insufficient")


def _spikes(content: ReportContent) -> int:
    return len((content.evaluation or {}).get("spikes") or [])


def _figures(content: ReportContent) -> Json:
    evaluation = content.evaluation or {}
    levels = evaluation.get("levels") or {}
    spikes = evaluation.get("spikes") or []
    pushed = [gate["outcome"] == "passed" for gate in content.gates if gate["gate"] == "Pusher"]
    return {
        "verdict": _verdict(content),
        "pushed": ("yes" if pushed[0] else "no") if pushed else None,
        "reason": "; ".join(evaluation.get("reasons") or []) or None,
        "points": (content.curve or {}).get("points"),
        "spikes": len(spikes),
        "highest spike (sd)": max((spike.get("height") or 0.0 for spike in spikes), default=None),
        "not recovered": sum(not spike.get("recovered") for spike in spikes) if spikes else None,
        "first level": levels.get("first"),
        "best level": levels.get("best"),
        "final level": levels.get("final"),
        "noise": levels.get("noise"),
        "steps with a guard action": (content.curve or {}).get("guard_steps") or None,
        **{f"{row['metric']} ({row['slice']})": row["value"] for row in content.metrics},
    }


def _recipe(content: ReportContent) -> Json:
    recipe = (content.recipe or {}).get("recipe") or {}
    return {f"recipe: {name}": value for name, value in recipe.items()}


def _anomalies(content: ReportContent) -> Json:
    found: Json = {}
    for row in content.anomalies:
        found[f"{row['source']}: {row['feature'] or 'all data'}: {row['summary']}"] = row["severity"].lower()
    return found


def _both(a: Json, b: Json) -> list[tuple[str, Any, Any]]:
    return [(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]
