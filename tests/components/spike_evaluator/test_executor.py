"""The executor with real artifacts, without a pipeline around it."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from tfx.types import standard_artifacts

from spikeguard.components.artifacts import SpikeEvaluation
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.executor import Executor
from spikeguard.components.training_curve import STEP_SCHEMA, write_block


def _record(folder: pathlib.Path, loss: np.ndarray) -> None:
    n = len(loss)
    known = {"step": np.arange(1, n + 1), "loss": loss}
    unknown = {name: np.zeros(n) for name in ("epoch", "batch_size", "learning_rate", "gradient_norm")}
    write_block(folder / "curve", {**known, **unknown}, STEP_SCHEMA)


def _run(tmp_path: pathlib.Path) -> tuple[dict, standard_artifacts.InfraBlessing]:
    run, evaluation, blessing = standard_artifacts.ModelRun(), SpikeEvaluation(), standard_artifacts.InfraBlessing()
    run.uri, evaluation.uri, blessing.uri = (str(tmp_path / name) for name in ("run", "evaluation", "blessing"))
    properties = {"policy": json.dumps({"min_points": 60}), "detection": "{}"}
    Executor().Do({"model_run": [run]}, {"evaluation": [evaluation], "blessing": [blessing]}, properties)
    return result.read(evaluation.uri), blessing


def _calm(n: int = 300) -> np.ndarray:
    return 1 + 0.1 * np.random.default_rng(0).normal(size=n)


def test_calm_curve_is_blessed(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm())
    content, blessing = _run(tmp_path)
    assert content["format"] == "spikeguard.spike_evaluation/1"
    assert (content["verdict"], content["reasons"], content["spikes"]) == ("stable", [], [])
    assert content["curve"] == {"points": 300, "first_step": 1, "last_step": 300, "kind": "step", "loss_is": "batch"}
    assert content["runs"] == [{"run": "", "verdict": "stable"}]
    assert blessing.get_int_custom_property("blessed") == 1
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["INFRA_BLESSED"]


def test_spike_in_the_tail_is_not_blessed(tmp_path: pathlib.Path) -> None:
    loss = _calm()
    loss[290] = 5.0
    _record(tmp_path / "run", loss)
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "unstable"
    assert [(spike["peak_step"], spike["recovered"]) for spike in content["spikes"]] == [(291, True)]
    assert blessing.get_int_custom_property("blessed") == 0
    assert "last 20% of the run" in blessing.get_string_custom_property("reasons")
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["INFRA_NOT_BLESSED"]


def test_policy_is_used(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm(59))
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "insufficient"
    assert blessing.get_int_custom_property("blessed") == 0


@pytest.mark.parametrize("has_damaged_block", [False, True], ids=["no curve", "damaged curve"])
def test_gate_fails_closed_when_there_is_no_readable_curve(tmp_path: pathlib.Path, has_damaged_block: bool) -> None:
    if has_damaged_block:
        _record(tmp_path / "run", _calm())
        (tmp_path / "run" / "curve" / "steps-000000000001.parquet").write_bytes(b"PAR1 not really")
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "insufficient"
    assert content["curve"] is None
    assert blessing.get_int_custom_property("blessed") == 0
    assert blessing.get_string_custom_property("reasons") == content["reasons"][0]


def test_gate_fails_closed_when_the_detector_breaks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no")

    _record(tmp_path / "run", _calm())
    monkeypatch.setattr(result, "detect_spikes", broken)
    content, blessing = _run(tmp_path)
    assert content["reasons"] == ["the curve could not be evaluated: ZeroDivisionError: no"]
    assert blessing.get_int_custom_property("blessed") == 0


def test_verdict_is_strict_json_when_the_loss_is_not_finite(tmp_path: pathlib.Path) -> None:
    loss = _calm()
    loss[100:] = np.nan
    _record(tmp_path / "run", loss)
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "diverged"
    text = (tmp_path / "evaluation" / "evaluation.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert blessing.get_int_custom_property("blessed") == 0
