from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.spike_evaluator.detection import DetectionConfig, detect_spikes
from spikeguard.components.training_curve import Floats, TrainingCurve


def _decay(n: int, seed: int, noise: float = 0.05) -> Floats:
    rng = np.random.default_rng(seed)
    return 1 + 4 * np.exp(-np.arange(n) / (n / 6)) + noise * rng.normal(size=n)


@pytest.mark.parametrize("n", [60, 300, 1000, 5000])
def test_injected_spikes_are_found_where_they_are(n: int) -> None:
    loss = _decay(n, seed=n)
    places = [n // 3, n // 2, n - 5]
    loss[places] += 3.0
    spikes = detect_spikes(TrainingCurve.from_losses(loss)).spikes
    assert [spike.peak_step for spike in spikes] == [place + 1 for place in places]
    for spike, place in zip(spikes, places, strict=True):
        assert spike.loss_at_peak == loss[place]
        assert spike.expected_loss == pytest.approx(loss[place] - 3.0, abs=0.3)
        assert spike.recovered


@pytest.mark.parametrize(
    "noise",
    [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: rng.exponential(size=n),
        lambda rng, n: rng.uniform(size=n),
        lambda rng, n: rng.poisson(6, size=n).astype(float),
        lambda rng, n: np.zeros(n),
    ],
    ids=["normal", "exponential", "uniform", "poisson", "none"],
)
def test_noise_alone_raises_at_most_the_stated_alarms(noise: object) -> None:
    runs, config = 200, DetectionConfig(false_alarms_per_run=0.01)
    alarmed = sum(
        bool(detect_spikes(TrainingCurve.from_losses(2 + 0.1 * noise(np.random.default_rng(seed), 400)), config).spikes)  # type: ignore[operator]
        for seed in range(runs)
    )
    # 2 of 200 runs are expected; 7 or more have a probability below 0.5 %.
    assert alarmed <= 6


def test_first_spike_does_not_hide_the_next() -> None:
    loss = _decay(500, seed=0)
    loss[300] += 50.0
    loss[303] += 1.0
    assert [spike.peak_step for spike in detect_spikes(TrainingCurve.from_losses(loss)).spikes] == [301, 304]


@pytest.mark.parametrize(
    "losses",
    [
        # What the validation loss of a model does that learns its rows by heart: fast, slowly, and to the end.
        0.12 + 0.3 * np.exp(-np.arange(200) / 2) + 0.15 * (1 - np.exp(-np.arange(200) / 60)),
        2.4 + 4.0 * (1 - np.exp(-np.arange(200) / 12)) + 0.005 * np.arange(200),
        0.5 + 0.4 * np.exp(-np.arange(200) / 5) + 1e-3 * np.arange(200),
    ],
    ids=["slow", "fast", "straight"],
)
def test_steady_rise_is_no_spike(losses: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(scale=1e-5, size=len(losses))
    assert detect_spikes(TrainingCurve.from_losses(losses + noise)).spikes == ()


def test_jump_out_of_a_steady_rise_is_found() -> None:
    losses = 0.5 + 1e-3 * np.arange(200.0)
    losses[140:] += 0.2
    (spike,) = detect_spikes(TrainingCurve.from_losses(losses)).spikes
    assert spike.start_step == 141


def test_steep_start_is_no_spike() -> None:
    loss = 1000.0 * np.exp(-np.arange(400) / 3.0) + _decay(400, seed=1)
    findings = detect_spikes(TrainingCurve.from_losses(loss))
    assert findings.spikes == ()
    assert findings.transient_points > 0


def _alarmed(level: Floats, noise: Floats) -> int:
    """Runs, of 40, with a spike. 0.4 are expected; 3 or more have a probability of 0.8 %."""
    losses = (level + noise * np.random.default_rng(seed).normal(size=len(level)) for seed in range(40))
    return sum(bool(detect_spikes(TrainingCurve.from_losses(loss)).spikes) for loss in losses)


def test_noise_that_is_louder_at_the_start_is_no_spike() -> None:
    steps = np.arange(20_000)
    assert _alarmed(2.5 + 8.0 * (steps + 20.0) ** -0.35, 0.03 + 0.5 * (steps + 5.0) ** -0.6) <= 2


def test_last_losses_above_a_step_down_are_no_spikes() -> None:
    level = np.repeat([0.8, 0.4, 0.3], [1000, 500, 500])
    level[:1000] += 1.5 * np.exp(-np.arange(1000) / 100)
    assert _alarmed(level, 0.1 * level) <= 2


def test_spike_is_found_when_it_is_the_last_loss_above_a_step_down() -> None:
    loss = np.repeat([1.0, 0.5], 1000) * (1.0 + 0.1 * np.random.default_rng(0).normal(size=2000))
    loss[999] = 3.0
    (spike,) = detect_spikes(TrainingCurve.from_losses(loss)).spikes
    assert (spike.peak_step, spike.recovered) == (1000, True)


def test_neighbouring_steps_merge_into_one_event() -> None:
    loss = _decay(400, seed=2)
    loss[200:204] += [1.0, 4.0, 2.0, 1.0]
    (spike,) = detect_spikes(TrainingCurve.from_losses(loss)).spikes
    assert (spike.start_step, spike.peak_step, spike.end_step) == (201, 202, 204)


def test_spike_has_not_recovered_when_the_loss_stays_up() -> None:
    loss = _decay(400, seed=3)
    loss[250] += 5.0
    loss[251:] += 1.5
    spikes = detect_spikes(TrainingCurve.from_losses(loss)).spikes
    assert spikes
    assert not spikes[0].recovered


def test_height_of_a_crash_is_in_units_of_the_noise_before_it() -> None:
    generator = np.random.default_rng(0)
    losses = 1.0 + 0.05 * generator.normal(size=300)
    losses[160:189] = generator.uniform(30.0, 900.0, size=29)  # As long as a window, so that its noise is theirs.
    highest = max(detect_spikes(TrainingCurve.from_losses(losses)).spikes, key=lambda spike: spike.loss_at_peak)
    assert highest.expected_loss == pytest.approx(1.0, abs=0.1)
    assert highest.height > 5_000


def test_non_finite_steps_are_named() -> None:
    loss = _decay(100, seed=4)
    loss[[40, 60]] = [np.nan, np.inf]
    findings = detect_spikes(TrainingCurve.from_losses(loss))
    assert findings.non_finite_steps == (41, 61)
    assert np.isnan(findings.expected_loss[40])
    assert findings.points == 100


@pytest.mark.parametrize("loss", [[], [1.0], [np.nan] * 30, [1.0, np.inf, 2.0]], ids=["empty", "one", "nan", "three"])
def test_nothing_is_claimed_when_there_is_too_little(loss: list[float]) -> None:
    assert detect_spikes(TrainingCurve.from_losses(loss)).spikes == ()


def test_steps_keep_their_own_numbers() -> None:
    curve = TrainingCurve.from_losses(_decay(300, seed=5))
    curve.loss[150] += 9.0
    curve = dataclasses.replace(curve, step=curve.step * 10)
    assert [spike.peak_step for spike in detect_spikes(curve).spikes] == [1510]


def test_negative_losses_are_judged_like_any() -> None:
    loss = _decay(300, seed=6) - 10.0
    loss[200] += 3.0
    assert [spike.peak_step for spike in detect_spikes(TrainingCurve.from_losses(loss)).spikes] == [201]


@pytest.mark.parametrize(("field", "value"), [("false_alarms_per_run", 0.0), ("min_height", -1.0), ("window_steps", 2)])
def test_error_names_the_setting_when_it_is_out_of_range(field: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} must be") as raised:
        DetectionConfig(**{field: value})  # type: ignore[arg-type]
    assert raised.value.parameter == field
