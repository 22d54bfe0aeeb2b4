"""Tables, Markdown and JSON of the detection bench."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from spikeguard.components.spike_evaluator.detection import DetectionConfig
from tests.bench.detection_scores import APART, ORACLE, OURS, PEERS, RULES, Score

_GOAL_MARGIN, _GOAL_SECONDS, _GOAL_RATIO = 0.15, 1.0, 20.0


def summarize(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """By rule: macro means over the kinds, and false alarms over all twins."""
    found = {}
    for rule in RULES:
        own = [score for score in scores if score.rule == rule and score.runs]
        if not own:
            continue
        twins, alarmed = sum(score.twins for score in own), sum(score.twins_alarmed for score in own)
        alarms, delays = sum(score.twin_alarms for score in own), [delay for score in own for delay in score.delays]
        found[rule] = {
            **{name: statistics.mean(getattr(score, name) for score in own) for name in ("f1", "precision", "recall")},
            "delay_median": statistics.median(delays) if delays else None,
            "delay_90": float(np.quantile(delays, 0.9)) if delays else None,
            "twins": twins,
            "twins_alarmed": alarmed,
            "alarms_per_10000_steps": 1e4 * alarms / max(1, sum(score.twin_steps for score in own)),
            "alarms_per_run": alarms / twins if twins else None,
            # Of the share of runs with an alarm: one-sided, exact.
            "alarmed_at_most": float(stats.beta.ppf(0.95, alarmed + 1, twins - alarmed)) if alarmed < twins else 1.0,
        }
    return found


def goals(summaries: dict[str, dict[str, Any]], speed: dict[str, Any] | None) -> list[tuple[str, str, bool]]:
    """What was to be reached, what was, and whether that is enough."""
    best = max(PEERS, key=lambda name: summaries[name]["f1"])
    ours, rate = summaries[OURS], DetectionConfig().false_alarms_per_run
    margin = ours["f1"] - summaries[best]["f1"]
    found = [
        (
            f"F1 at least {_GOAL_MARGIN} above the best peer",
            f"{ours['f1']:.3f}, {best} {summaries[best]['f1']:.3f}: {margin:+.3f}",
            margin >= _GOAL_MARGIN,
        ),
        (
            f"false alarms on twins below {rate} per run",
            f"{ours['alarms_per_run']:.4f} per run; {ours['twins_alarmed']} of {ours['twins']} runs with any, a share "
            f"of at most {ours['alarmed_at_most']:.4f} with 95 % confidence",
            ours["alarms_per_run"] < rate,
        ),
    ]
    if not speed:
        return found
    whole, *parts = speed["parts"]
    found.append(
        (
            f"{whole['steps']:,} steps in under {_GOAL_SECONDS:g} s",
            f"{whole['spikeguard']:.3f} s",
            whole["spikeguard"] < _GOAL_SECONDS,
        )
    )
    text = _times_faster(whole, speed["limit_seconds"])
    finished = [part for part in parts if part["pelt"]]
    if finished:
        text += f"; at {finished[-1]['steps']:,} steps {_times_faster(finished[-1], speed['limit_seconds'])}"
    ratio = (whole["pelt"] or speed["limit_seconds"]) / whole["spikeguard"]
    found.append((f"at least {_GOAL_RATIO:g} times faster than Pelt on the same curve", text, ratio >= _GOAL_RATIO))
    return found


def _times_faster(part: dict[str, Any], limit_seconds: float) -> str:
    """The ratio; where Pelt was stopped, the least that it can be."""
    if part["pelt"]:
        return f"{part['pelt'] / part['spikeguard']:.0f} times"
    return f"over {limit_seconds / part['spikeguard']:.0f} times (Pelt stopped after {limit_seconds:g} s)"


def sections(scores: Sequence[Score], speed: dict[str, Any] | None) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and cells of every table."""
    summaries, kinds = summarize(scores), list(dict.fromkeys(score.kind for score in scores))
    by_key = {(score.rule, score.kind): score for score in scores}
    times = speed["microseconds_per_step"] if speed else {}
    rows = [
        [
            rule + (" (apart)" if rule in (*APART, ORACLE) else ""),
            *(f"{one[name]:.3f}" for name in ("f1", "precision", "recall")),
            *("" if one[name] is None else f"{one[name]:g}" for name in ("delay_median", "delay_90")),
            f"{one['alarms_per_10000_steps']:.2f}",
            f"{one['twins_alarmed']} of {one['twins']}",
            f"{times[rule]:.2f}" if rule in times else "",
        ]
        for rule, one in summaries.items()
    ]
    header = ["rule", "F1", "precision", "recall", "delay median", "delay 90 %"]
    header += ["twin alarms per 10,000", "twins alarmed", "µs per step"]
    tables = [(f"Macro over {len(kinds)} kinds", header, rows)]
    rows = []
    for kind in kinds:
        ours, oracle = by_key[OURS, kind], by_key[ORACLE, kind]
        best = max((by_key[name, kind] for name in PEERS), key=lambda score: score.f1)
        numbers = [f"{value:.2f}" for value in (ours.f1, ours.precision, ours.recall)]
        alarms = [str(ours.false), f"{ours.twins_alarmed} of {ours.twins}", str(ours.twin_alarms)]
        rows.append([kind, str(ours.events), *numbers, *alarms, f"{best.f1:.2f} {best.rule}", f"{oracle.f1:.2f}"])
    header = ["kind", "spikes", "F1", "precision", "recall", "false", "twins alarmed", "twin alarms"]
    header += ["best peer", "oracle F1"]
    tables.append((f"{OURS} by kind", header, rows))
    for title, name in (("F1", "f1"), ("Twin alarms", "twin_alarms")):
        digits = ".2f" if name == "f1" else "d"
        rows = [[kind, *(f"{getattr(by_key[rule, kind], name):{digits}}" for rule in PEERS)] for kind in kinds]
        tables.append((f"{title} of the peers by kind", ["kind", *PEERS], rows))
    if speed:
        rows = [
            [
                f"{part['steps']:,}",
                f"{part['spikeguard']:.4f}",
                f"{part['pelt']:.2f}" if part["pelt"] else "not finished",
                _times_faster(part, speed["limit_seconds"]),
            ]
            for part in speed["parts"]
        ]
        tables.append(("Seconds on the first steps of one curve", ["steps", OURS, "Pelt", "faster"], rows))
    reached = [[name, text, "yes" if is_met else "no"] for name, text, is_met in goals(summaries, speed)]
    return [*tables, ("Goals", ["goal", "reached", "met"], reached)]


def report(scores: Sequence[Score], speed: dict[str, Any] | None, path: pathlib.Path, seeds: int, notes: str) -> None:
    """Prints the tables; writes them as Markdown, below the notes, beside the JSON at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    console, parts = Console(width=200), []
    for title, header, rows in sections(scores, speed):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    path.with_suffix(".md").write_text(f"{notes}\n\n" + "\n".join(parts))
    summaries = summarize(scores)
    rows = [
        {**dataclasses.asdict(score), "precision": score.precision, "recall": score.recall, "f1": score.f1}
        for score in scores
    ]
    content = {
        "goals": [{"goal": goal, "reached": text, "met": bool(met)} for goal, text, met in goals(summaries, speed)],
        "summary": summaries,
        "scores": rows,
        "speed": speed,
        "seeds": seeds,
        "load": os.getloadavg(),
    }
    path.write_text(json.dumps(content, allow_nan=False, indent=1) + "\n")
