"""The sentence at the top and the gates under it."""

from __future__ import annotations

from typing import Any

import pytest

from spikeguard.components.stability_report.outcome import advice_of, gates_of, outcome_of
from spikeguard.components.stability_report.sources import Source

STABLE = {"verdict": "stable", "blessed": True, "reasons": [], "blocked_by": []}
UNSTABLE = {
    "verdict": "unstable",
    "blessed": False,
    "reasons": ["it rose to 3.721e+07 (64 standard deviations)."],
    "blocked_by": [],
}
PUSHED = Source("PushedModel", "/p", "Pusher", properties={"pushed": 1, "pushed_destination": "/serving/1"})
REFUSED = Source("ModelBlessing", "/b", "Evaluator", properties={"blessed": 0})
BLESSED = Source("ModelBlessing", "/b", "Evaluator", properties={"blessed": 1})
INFRA = Source("InfraBlessing", "/i", "NormalizationValidator", properties={"blessed": 0, "reasons": "fitted on eval"})
CURVE = Source("InfraBlessing", "/c", "SpikeEvaluator", properties={"blessed": 1, "verdict": "stable"})


@pytest.mark.parametrize(
    ("sources", "evaluation", "has_pusher", "status", "sentence"),
    [
        ([BLESSED, PUSHED], STABLE, True, "good", "The model was pushed: its training was stable"),
        ([], UNSTABLE, True, "bad", "The model was not pushed because its training was unstable: it rose to 37,210,000."),
        ([], UNSTABLE, False, "bad", "This training run was unstable: it rose to 37,210,000."),
        ([], {**UNSTABLE, "verdict": "diverged"}, True, "bad", "The model was not pushed because its training went wrong"),
        ([], {**UNSTABLE, "verdict": "insufficient"}, False, "open", "This training run could not be judged: it rose"),
        ([], {**STABLE, "blocked_by": ["eval is missing"]}, True, "bad", "The model was not pushed, though its training was stable: eval is missing."),
        ([REFUSED], STABLE, True, "bad", "The model was not pushed: its training was stable, but Evaluator did not find it good enough: AUC is 0.4."),
        ([BLESSED], STABLE, True, "open", "The training was stable, and yet nothing was pushed"),
        ([BLESSED], STABLE, False, "good", "The model may be pushed: its training was stable"),
        ([REFUSED], STABLE, False, "bad", "The model must not be pushed: its training was stable, but Evaluator"),
        ([INFRA], None, True, "bad", "No model was trained: NormalizationValidator refused the data: fitted on eval."),
        ([], None, False, "open", "No training run was judged"),
    ],
)  # fmt: skip
def test_sentence_tells_outcome_and_reason(
    sources: list[Source], evaluation: dict[str, Any] | None, has_pusher: bool, status: str, sentence: str
) -> None:
    metrics = [{"metric": "AUC", "value": 0.4, "failed": "too low"}]
    gates = gates_of(sources, evaluation, metrics, has_pusher)
    told = outcome_of(gates, evaluation, has_pusher)
    assert told[0] == status
    assert told[1].startswith(sentence)
    assert told[1].endswith(".")


def test_gates_stand_in_order_and_the_curve_s_own_stands_once() -> None:
    evaluation = Source("spikeguard.SpikeEvaluation", "/e", "SpikeEvaluator")
    scaled = Source("InfraBlessing", "/n", "NormalizationValidator", properties={"blessed": 1, "verdict": "proven"})
    gates = gates_of([scaled, CURVE, evaluation, BLESSED, PUSHED], STABLE, [], has_pusher=True)
    assert [(gate["gate"], gate["outcome"]) for gate in gates] == [
        ("NormalizationValidator", "passed"),
        ("SpikeEvaluator", "passed"),
        ("Evaluator", "passed"),
        ("Pusher", "passed"),
    ]
    assert gates[3]["reason"] == "pushed to /serving/1"
    assert gates_of([], STABLE, [], has_pusher=True)[-1]["outcome"] == "skipped"


def test_advice_is_told_once_faults_of_the_data_first() -> None:
    def cause(name: str, status: str, text: str) -> dict[str, Any]:
        remedy = {"text": text, "recipe": {}, "flags": ["--x"]}
        return {"cause": name, "status": status, "score": 0.7, "remedy": remedy}

    spikes = [
        {"peak_step": 9, "causes": [cause("batch_size", "likely", "Enlarge.")]},
        {"peak_step": 19, "causes": [cause("outliers", "verified", "Winsorize.")]},
        {"peak_step": 29, "causes": [cause("outliers", "likely", "Winsorize.")]},
        {"peak_step": 39, "causes": [cause("learning_rate", "unknown", "Lower the rate.")]},
    ]
    balance = [{"source": "ImbalanceDetector", "advice": ["Weight.", "slow"]}]
    advice = advice_of({"spikes": spikes}, {"warnings": ["slow"]}, balance)
    assert [(entry["text"], entry["source"], entry["flags"]) for entry in advice[:-1]] == [
        ("Winsorize.", "outliers: 2 spikes, 1 verified", ["--x"]),
        ("Enlarge.", "batch_size: 1 spike, 0 verified", ["--x"]),
        ("slow", "range test", []),
        ("Weight.", "ImbalanceDetector", []),
    ]
    assert advice[-1]["source"] == "guard"
    assert advice_of(None, None, []) == advice_of({"verdict": "stable"}, None, []) == []
