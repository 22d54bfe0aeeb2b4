from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.spike_evaluator.detection import detect_spikes
from spikeguard.components.spike_evaluator.policy import SpikePolicy, Verdict, judge
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
    assert verdict == "unstable"
    assert "times its best level of" in reasons


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
    assert _judge(loss) == ("diverged", "the loss was not finite at 1 steps, first at step 501")


def test_short_curve_is_insufficient() -> None:
    assert _judge(_calm(49))[0] == "insufficient"
    assert _judge(_calm(49), SpikePolicy(min_points=40))[0] == "stable"
    assert _judge(np.empty(0))[0] == "insufficient"


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
    ],
)
def test_error_names_the_rule_when_it_is_out_of_range(field: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} must"):
        SpikePolicy(**{field: value})  # type: ignore[arg-type]
