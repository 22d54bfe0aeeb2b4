"""The ordered list of changes."""

from __future__ import annotations

from typing import Any

from spikeguard.components.spike_evaluator.advice import advise, combined


def _cause(name: str, status: str = "likely", score: float = 0.6, **remedy: Any) -> dict[str, Any]:
    parts = {"text": name, "recipe": {}, "pipeline": {}, "flags": [], **remedy}
    return {"cause": name, "status": status, "score": score, "remedy": parts}


def _content(*causes: dict[str, Any]) -> dict[str, Any]:
    return {
        "spikes": [{"peak_step": 10 * place, "causes": [one]} for place, one in enumerate(causes, 1)],
        "course": None,
    }


def test_faults_of_the_data_come_first_and_the_guard_last() -> None:
    found = advise(_content(_cause("learning_rate"), _cause("outliers"), _cause("normalization"), _cause("outliers")))
    assert [one.cause for one in found] == ["normalization", "outliers", "learning_rate", "guard"]
    assert [(one.spikes, one.steps) for one in found[:2]] == [(1, (30,)), (2, (20, 40))]


def test_remedy_of_the_highest_score_is_taken() -> None:
    low, high = _cause("batch_size", score=0.6, recipe={"a": 1}), _cause("batch_size", "verified", 0.9, recipe={"a": 2})
    (first, _) = advise(_content(low, high))
    assert (first.recipe, first.verified) == ({"a": 2}, 1)


def test_nothing_is_advised_for_unknown_causes_but_the_guard() -> None:
    assert [one.cause for one in advise(_content(_cause("unknown", "unknown")))] == ["guard"]
    assert advise(_content()) == ()


def test_course_of_a_diverged_run_counts() -> None:
    content = {"spikes": [], "course": {"peak_step": 5, "causes": [_cause("learning_rate")]}}
    assert [one.cause for one in advise(content)] == ["learning_rate", "guard"]


def test_first_of_two_changes_of_one_field_counts() -> None:
    changes = advise(
        _content(
            _cause("outliers", recipe={"loss": "huber"}, pipeline={"outliers": "winsorize"}),
            _cause("learning_rate", recipe={"schedule": "constant", "learning_rate": 0.001}),
        )
    )
    recipe, pipeline = combined(changes)
    assert recipe["schedule"] == "constant"
    assert recipe["is_guarded"] is True
    assert pipeline == {"outliers": "winsorize"}
