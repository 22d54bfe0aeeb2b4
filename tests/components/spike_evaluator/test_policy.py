from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.spike_evaluator.detection import detect_spikes
from spikeguard.components.spike_evaluator.policy import SpikePolicy, Verdict, judge
from spikeguard.components.spike_evaluator.result import evaluate, evaluate_runs
from spikeguard.components.training_curve import Floats, TrainingCurve


def _calm(n: int = 1000) -> Floats:
    return 1 + 3 * np.exp(-np.arange(n) / 100) + 0.05 * np.random.default_rng(0).normal(size=n)


def _judge(loss: Floats, policy: SpikePolicy | None = None) -> tuple[Verdict, str]:
    curve = TrainingCurve.from_losses(loss)
    verdict, reasons = judge(curve, detect_spikes(curve), policy or SpikePolicy())
    return verdict, "; ".join(reasons)


def test_calm_curve_is_stable() -> None:
    assert _judge(_calm()) == ("stable", "")


def test_one_small_early_recovered_spike_is_tolerated() -> None:
    loss = _calm()
    loss[300] += 0.8
    curve = TrainingCurve.from_losses(loss)
    assert len(detect_spikes(curve).spikes) == 1
    assert _judge(loss) == ("stable", "")


def test_spike_in_the_tail_blocks() -> None:
    loss = _calm()
    loss[900] += 0.8
    assert _judge(loss) == ("unstable", "1 spike in the last 20% of the run, the last at step 901")


def test_high_spike_blocks() -> None:
    loss = _calm()
    loss[300] += 20.0
    verdict, reasons = _judge(loss)
    assert verdict == "unstable"
    assert "the spike at step 301 reached 2" in reasons
    assert "30 are tolerated" in reasons


def test_many_small_spikes_block() -> None:
    loss = _calm()
    loss[200:700:50] += 0.8
    assert _judge(loss) == ("unstable", "10 spikes in 1000 steps; 3 per 1,000 are tolerated")


def test_unrecovered_spike_blocks() -> None:
    loss = _calm()
    loss[500] += 2.0
    loss[501:] += 0.5
    verdict, reasons = _judge(loss)
    assert verdict == "unstable"
    assert "did not recover from 1 spike, first at step 501" in reasons


def test_creeping_rise_blocks() -> None:
    loss = _calm()
    loss[400:] *= np.linspace(1, 3, 600)
    verdict, reasons = _judge(loss)
    assert verdict == "diverged"  # All that was learned is lost.
    assert "times its best level of" in reasons
    loss = _calm()
    loss[400:] *= np.linspace(1, 1.7, 600)
    verdict, reasons = _judge(loss)
    assert verdict == "unstable"
    assert "1.5 times its best level of" in reasons


def test_explosive_start_blocks_although_it_is_no_spike() -> None:
    loss = _calm()
    loss[1:8] = [400, 900, 80, 300, 50, 90, 30]
    verdict, reasons = _judge(loss)
    assert verdict == "unstable"
    assert "the loss rose from 4.0" in reasons
    assert "to 900 at step 3 before it settled" in reasons


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_any_non_finite_loss_is_divergence(value: float) -> None:
    loss = _calm()
    loss[500] = value
    assert _judge(loss) == ("diverged", "the loss was not finite at 1 step, first at step 501")


def test_short_curve_is_insufficient() -> None:
    assert _judge(_calm(19)) == ("insufficient", "the curve has 19 points; 20 are needed for a verdict")
    assert _judge(_calm(19), SpikePolicy(min_points=15))[0] == "stable"
    epochs = TrainingCurve.from_columns(kind="epoch", loss=_calm(5))
    assert evaluate(epochs).reasons[0].endswith("for a verdict: log the loss by batch, not by epoch")
    assert _judge(np.empty(0))[0] == "insufficient"


def test_curve_without_any_finite_loss_is_insufficient() -> None:
    assert _judge(np.full(100, np.nan)) == ("insufficient", "no loss of the curve is finite")


def test_loss_that_a_restart_threw_away_is_not_judged() -> None:
    loss = np.concatenate([_calm()[:600], _calm()[500:]])
    loss[550:600] = np.nan
    step = np.concatenate([np.arange(1, 601), np.arange(501, 1001)])
    curve = TrainingCurve.from_columns(loss=loss, step=step)
    findings = detect_spikes(curve)
    assert findings.superseded_points == 100
    assert judge(curve, findings, SpikePolicy()) == ("stable", ())


def test_spike_that_undoes_next_to_nothing_is_reported_and_not_judged() -> None:
    loss = 100 * np.exp(-np.arange(1000) / 100) + 1 + 0.01 * np.random.default_rng(0).normal(size=1000)
    loss[900] += 0.5
    curve = TrainingCurve.from_losses(loss)
    findings = detect_spikes(curve)
    assert len(findings.spikes) == 1
    assert judge(curve, findings, SpikePolicy()) == ("stable", ())
    assert judge(curve, findings, SpikePolicy(least_setback=0.001))[0] == "unstable"


def test_loss_that_wanders_as_it_always_did_is_stable() -> None:
    loss = 1 + 0.7 * np.sin(np.arange(3000) / 150) + 0.05 * np.random.default_rng(1).normal(size=3000)
    curve = TrainingCurve.from_losses(loss + 1)
    findings = detect_spikes(curve)
    assert findings.final_loss > 1.5 * findings.best_loss
    assert judge(curve, findings, SpikePolicy()) == ("stable", ())


def test_validation_spikes_block_when_there_are_several() -> None:
    validation = 1 + np.exp(-np.arange(40) / 10) + 0.01 * np.random.default_rng(0).normal(size=40)
    validation[[20, 30]] += 1.0
    curve = TrainingCurve.from_columns(
        loss=_calm(), validation_step=np.arange(25, 1001, 25), validation_loss=validation
    )
    assert evaluate(curve).verdict == "unstable"
    assert evaluate(curve).reasons == ("2 spikes in the validation loss, first at step 525; 1 tolerated",)
    assert evaluate(curve, policy=SpikePolicy(max_validation_spikes=2)).verdict == "stable"
    curve.validation_loss[5] = np.nan
    assert evaluate(curve).reasons == ("the validation loss was not finite after step 150",)


def test_run_that_ends_above_the_last_pushed_one_is_blocked() -> None:
    curve = TrainingCurve.from_losses(_calm())
    worse = TrainingCurve.from_losses(_calm() * 1.5)
    assert evaluate(curve, baseline=worse).verdict == "stable"
    evaluation = evaluate(worse, baseline=curve)
    assert evaluation.verdict == "unstable"
    assert "1.5 times the 0.98" in evaluation.reasons[0]


def test_worst_of_several_runs_is_the_verdict() -> None:
    broken = _calm()
    broken[900] += 5.0
    curves = {"a": TrainingCurve.from_losses(_calm()), "b": TrainingCurve.from_losses(broken)}
    evaluation = evaluate_runs(curves)
    assert (evaluation.verdict, evaluation.run) == ("unstable", "b")
    assert evaluation.runs == (("a", "stable"), ("b", "unstable"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "policy must be JSON"),
        ("[]", "policy must be a JSON object"),
        ('{"calm_tails": 1}', "policy must have no other fields; got 'calm_tails'. Known are min_points"),
        ('{"calm_tail": "much"}', "calm_tail must be a number"),
        ('{"calm_tail": true}', "calm_tail must be a number"),
        ('{"calm_tail": 2}', "calm_tail must lie between 0 and 1"),
    ],
)
def test_error_names_the_field_when_a_policy_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        SpikePolicy.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_points", 1),
        ("calm_tail", 1.5),
        ("max_final_over_best", 1.0),
        ("max_start_over_first", float("nan")),
        ("max_height", -1.0),
        ("max_spikes_per_1000_steps", float("nan")),
        ("max_unrecovered", -1),
        ("least_setback", -0.1),
        ("max_setback", float("nan")),
        ("max_validation_spikes", -1),
        ("max_final_over_baseline", 1.0),
    ],
)
def test_error_names_the_rule_when_it_is_out_of_range(field: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} must"):
        SpikePolicy(**{field: value})  # type: ignore[arg-type]
