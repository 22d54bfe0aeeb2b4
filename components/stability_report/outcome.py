"""The decision in words: what stood between the data and the push, and the one sentence at the top."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from spikeguard.components.spike_evaluator.advice import advise
from spikeguard.components.stability_report.content import Json, Status
from spikeguard.components.stability_report.sources import (
    INFRA_BLESSING,
    MODEL_BLESSING,
    PUSHED_MODEL,
    SPIKE_EVALUATION,
    Source,
    of_type,
)

# A number from ten thousand on, as `{:.4g}` writes it.
_EXPONENT = re.compile(r"\b\d(?:\.\d+)?e\+\d+\b")
_BRACKETS = re.compile(r" \([^()]*\)")
_STABLE = "the loss fell without unexplained jumps"
_UNSTABLE = {
    "unstable": "its training was unstable",
    "diverged": "its training went wrong for good",
    "insufficient": "its training could not be judged",
}
_RUN = {
    "stable": f"This training run was stable: {_STABLE}.",
    "unstable": "This training run was unstable",
    "diverged": "This training run went wrong for good",
    "insufficient": "This training run could not be judged",
}


def gates_of(
    sources: Sequence[Source], evaluation: Json | None, metrics: Sequence[Json], has_pusher: bool
) -> list[Json]:
    """Every gate's outcome, in the order in which they stand."""
    # The curve's own gate is told of below, from its evaluation.
    judges = {source.node for source in of_type(sources, SPIKE_EVALUATION)}
    gates = [
        _gate(source.node or "A validator", source.is_blessed, str(source.properties.get("reasons", "")))
        for source in of_type(sources, INFRA_BLESSING)
        if source.node not in judges or evaluation is None
    ]
    if evaluation is not None:
        gates.append(_gate("SpikeEvaluator", bool(evaluation.get("blessed")), "; ".join(_blocked_by(evaluation))))
    for source in of_type(sources, MODEL_BLESSING):
        failed = [f"{row['metric']} is {row['value']:.4g}" for row in metrics if row["failed"]]
        gates.append(_gate(source.node or "Evaluator", source.is_blessed, "; ".join(failed)))
    pushed = _pushed(sources)
    if pushed:
        gates.append({"gate": "Pusher", "outcome": "passed", "reason": f"pushed to {pushed}"})
    elif has_pusher:
        gates.append({"gate": "Pusher", "outcome": "skipped", "reason": "nothing was pushed"})
    return gates


def _gate(name: str, is_passed: bool, reason: str) -> Json:
    return {"gate": name, "outcome": "passed" if is_passed else "refused", "reason": "" if is_passed else reason}


def outcome_of(gates: Sequence[Json], evaluation: Json | None, has_pusher: bool) -> tuple[Status, str]:
    """The status and the sentence at the top.

    Args:
      gates: what `gates_of` returned.
      evaluation: the verdict on the curve; None where nothing was trained or read.
      has_pusher: whether the run would have pushed the model.

    >>> outcome_of([], {"verdict": "unstable", "reasons": ["the loss did not recover from 1 spike"]}, False)
    ('bad', 'This training run was unstable: the loss did not recover from 1 spike.')
    """
    is_pushed = any(gate["gate"] == "Pusher" and gate["outcome"] == "passed" for gate in gates)
    refused = next((gate for gate in gates if gate["outcome"] == "refused"), None)
    if evaluation is None:
        if refused is not None:
            return "bad", f"No model was trained: {refused['gate']} refused the data{_because(refused['reason'])}."
        return "open", "No training run was judged; this page shows what the data checks found."
    verdict = str(evaluation.get("verdict"))
    blocked_by = _blocked_by(evaluation)
    if not has_pusher and not gates[1:]:
        status: Status = "good" if verdict == "stable" else "open" if verdict == "insufficient" else "bad"
        return status, _RUN["stable"] if verdict == "stable" else f"{_RUN[verdict]}{_because(*blocked_by)}."
    if is_pushed:
        return "good", f"The model was pushed: its training was stable, {_STABLE}."
    not_pushed = "The model was not pushed" if has_pusher else "The model must not be pushed"
    if verdict != "stable":
        return "bad", f"{not_pushed} because {_UNSTABLE[verdict]}{_because(*blocked_by)}."
    if blocked_by:
        return "bad", f"{not_pushed}, though its training was stable{_because(*blocked_by)}."
    if refused is not None:
        what = "did not find it good enough" if refused["gate"] == "Evaluator" else "refused it"
        return (
            "bad",
            f"{not_pushed}: its training was stable, but {refused['gate']} {what}{_because(refused['reason'])}.",
        )
    if has_pusher:
        return "open", "The training was stable, and yet nothing was pushed: the run ended before its last step."
    return "good", f"The model may be pushed: its training was stable, {_STABLE}."


def _because(*reasons: str) -> str:
    """The first reason, without the figures in brackets that specialists read below."""
    reason = _BRACKETS.sub("", plain_numbers(reasons[0])).rstrip(".") if reasons else ""
    return f": {reason}" if reason else ""


def plain_numbers(text: str) -> str:
    """Numbers with an exponent written out, as long as they stay short.

    >>> plain_numbers("the loss rose from 5.088e+04 to 3.721e+07")
    'the loss rose from 50,880 to 37,210,000'
    """
    return _EXPONENT.sub(
        lambda found: f"{float(found.group()):,.0f}" if float(found.group()) < 1e13 else found.group(), text
    )


def _blocked_by(evaluation: Json) -> list[str]:
    return [str(reason) for reason in evaluation.get("blocked_by") or evaluation.get("reasons") or []]


def _pushed(sources: Sequence[Source]) -> Any:
    for source in of_type(sources, PUSHED_MODEL):
        if source.properties.get("pushed") == 1:
            return source.properties.get("pushed_destination") or source.folder
    return None


def advice_of(evaluation: Json | None, recipe: Json | None, class_balance: Sequence[Json]) -> list[Json]:
    """What to do, from all that has advice to give, each piece once: first what removes causes, last the guard for the rest."""
    found: list[Json] = []
    last: list[Json] = []
    for change in advise({"spikes": [], **evaluation}) if evaluation is not None else ():
        source = (
            f"{change.cause}: {change.spikes} {'spike' if change.spikes == 1 else 'spikes'}, {change.verified} verified"
        )
        where, named = (found, source) if change.spikes else (last, change.cause)
        where.append({"text": change.text, "source": named, "flags": list(change.flags)})
    found += [{"text": text, "source": "range test", "flags": []} for text in (recipe or {}).get("warnings") or []]
    for content in class_balance:
        found += [{"text": text, "source": content["source"], "flags": []} for text in content.get("advice") or []]
    once: dict[str, Json] = {}
    for entry in [*found, *last]:
        if entry["text"]:
            once.setdefault(entry["text"], entry)
    return list(once.values())
