"""What to change about a training: the remedies of all its spikes as one ordered list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spikeguard.components.spike_evaluator import result

# Faults of the data first: Marin's 32B run stayed spiky under every guard until normalization mended its structure, so what
# a guard or a lower rate hides is better removed.
_ORDER = (
    "numerics",
    "normalization",
    "outliers",
    "imbalance",
    "batch_size",
    "learning_rate",
    "regularization",
)
_GUARD = "Keep the guard, the robust loss, warm-up and decay of the guarded recipe for what is left."


@dataclasses.dataclass(frozen=True)
class Advice:
    """One change, and what speaks for it."""

    cause: str
    """The cause that it removes; "guard" for the last one."""
    text: str
    recipe: Mapping[str, Any]
    """Fields of `Recipe` and their values."""
    pipeline: Mapping[str, Any]
    """Fields of `PipelineConfig` and their values."""
    flags: tuple[str, ...]
    """The same as flags of `local_runner.py`."""
    spikes: int
    """Spikes for which the cause is verified or likely."""
    verified: int
    """Of these, those where a replay without the cause was calm."""
    steps: tuple[int, ...]
    """Their peaks."""


def advise(evaluation: result.Evaluation | Mapping[str, Any]) -> tuple[Advice, ...]:
    """One ordered list of changes, from the causes of all spikes: faults of the data, settings of the training, then guards.

    Args:
      evaluation: with causes, or what `evaluation.json` holds.

    Returns:
      A change per cause that is verified or likely for some spike, faults of the data first; of each cause the remedy of its
      highest score. Where there is any, the last one is to keep the guard. Empty for a run without spikes.

    >>> cause = {"cause": "outliers", "status": "verified", "score": 0.9,
    ...          "remedy": {"text": "Remove them.", "recipe": {}, "pipeline": {"outliers": "winsorize"}, "flags": []}}
    >>> [one.text for one in advise({"spikes": [{"peak_step": 7, "causes": [cause]}], "course": None})][0]
    'Remove them.'
    """
    content = result.to_json(evaluation) if isinstance(evaluation, result.Evaluation) else evaluation
    events = [*content["spikes"], *([content["course"]] if content.get("course") else [])]
    # Spikes of the validation loss have causes since these are sought.
    events += [event for event in content.get("validation_spikes", ()) if event.get("causes")]
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for event in events:
        for one in event["causes"]:
            if one["status"] != "unknown":
                found.setdefault(one["cause"], []).append((event["peak_step"], one))
    changes = [_advice(cause, found[cause]) for cause in _ORDER if cause in found]
    if events:
        guard = {"is_guarded": True, "schedule": "cosine", "warmup_steps": None}
        changes.append(Advice("guard", _GUARD, guard, {}, ("--recipe", "guarded"), 0, 0, ()))
    return tuple(changes)


def combined(changes: tuple[Advice, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All changes as fields of a recipe and of a pipeline's configuration; of two for one field the first counts.

    >>> combined(())
    ({}, {})
    """
    recipe: dict[str, Any] = {}
    pipeline: dict[str, Any] = {}
    for change in changes:
        recipe = {**change.recipe, **recipe}
        pipeline = {**change.pipeline, **pipeline}
    return recipe, pipeline


def _advice(cause: str, events: list[tuple[int, Mapping[str, Any]]]) -> Advice:
    remedy = max(events, key=lambda event: float(event[1]["score"]))[1]["remedy"]
    verified = sum(one["status"] == "verified" for _, one in events)
    return Advice(
        cause,
        remedy["text"],
        remedy["recipe"],
        remedy.get("pipeline", {}),
        tuple(remedy["flags"]),
        len(events),
        verified,
        tuple(sorted(step for step, _ in events)),
    )
