"""What the detector explains rather than flags, and what it still flags in the same run."""

from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.spike_evaluator.composition import line_of_descent
from spikeguard.components.spike_evaluator.detection import DetectionConfig, SpikeFindings, detect_spikes
from spikeguard.components.spike_evaluator.noise import fitting_window, level_of, window_of
from spikeguard.components.training_curve import Floats, TrainingCurve

N = 1200
EPOCH, POSITION = np.repeat(np.arange(12), 100), np.tile(np.arange(100), 12)


def _base(seed: int = 0) -> Floats:
    return 1 + np.exp(-np.arange(N) / 200) + 0.03 * np.random.default_rng(seed).normal(size=N)


def _find(**columns: object) -> SpikeFindings:
    return detect_spikes(TrainingCurve.from_columns(**columns))  # type: ignore[arg-type]


def _peaks(findings: SpikeFindings) -> list[int]:
    return [spike.peak_step for spike in findings.spikes]


def test_short_batches_are_explained_and_a_spike_beside_them_is_not() -> None:
    rng = np.random.default_rng(1)
    batch_size = np.where(POSITION == 99, 4, 256)
    loss = _base()
    loss[batch_size == 4] += 0.03 * 8 * rng.normal(size=12)
    loss[[299, 699]] += 0.5
    loss[550] += 0.8
    findings = _find(loss=loss, batch_size=batch_size)
    assert _peaks(findings) == [551]
    assert 300 in {rise.peak_step for rise in findings.explained}
    assert findings.explained[0].reason == "a batch of 4 rows, not 256"
    assert {300, 551} <= set(_peaks(_find(loss=loss)))


def test_short_batch_that_rises_beyond_what_its_size_explains_is_a_spike() -> None:
    loss = _base()
    loss[599] += 5.0
    findings = _find(loss=loss, batch_size=np.where(POSITION == 99, 64, 256))
    assert _peaks(findings) == [600]


def test_rare_class_is_explained_and_a_spike_beside_it_is_not() -> None:
    rng = np.random.default_rng(2)
    positives = rng.binomial(32, 0.01, size=N)
    loss = _base() + 0.5 * positives + 0.05 * positives * rng.normal(size=N)
    ordinary = int(np.flatnonzero(positives[600:] == 0)[0]) + 600
    loss[ordinary] += 2.0
    counts = np.column_stack([32 - positives, positives])
    findings = _find(loss=loss, class_counts=counts)
    assert _peaks(findings) == [ordinary + 1]
    assert any("rows of class 1 in a batch of 32" in rise.reason for rise in findings.explained)


def test_place_in_the_epoch_that_is_always_high_is_explained() -> None:
    loss = _base()
    loss[POSITION == 0] += 0.6
    loss[650] += 0.8
    findings = _find(loss=loss, epoch=EPOCH, position=POSITION)
    assert _peaks(findings) == [651]
    assert findings.spikes[0].peak_epoch == 6
    assert {rise.peak_step for rise in findings.explained} == set(range(101, N, 100))
    assert "the first step of an epoch" in findings.explained[0].reason
    loss[700] += 3.0  # Far above what the first steps of epochs show.
    assert 701 in _peaks(_find(loss=loss, epoch=EPOCH, position=POSITION))


def test_restart_of_the_learning_rate_is_explained_up_to_the_level_it_had_before() -> None:
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi * (np.arange(N) % 300) / 300)) + 1e-5
    loss = 0.3 + 8 * rate + np.exp(-np.arange(N) / 80) + 0.02 * np.random.default_rng(3).normal(size=N)
    findings = _find(loss=loss, learning_rate=rate)
    assert findings.spikes == ()
    assert [rise.start_step for rise in findings.explained] == [301, 601, 901]
    assert "the learning rate rose from 1.27e-05 to 0.1 at step 301" in findings.explained[0].reason
    assert len(_find(loss=loss).spikes) == 3
    loss[750] += 1.0
    assert _peaks(_find(loss=loss, learning_rate=rate)) == [751]
    loss[600:620] += 3.0
    assert _peaks(_find(loss=loss, learning_rate=rate))[1:] == [751]


def test_step_down_of_the_level_is_no_spike() -> None:
    rng = np.random.default_rng(4)
    for length in (300, 1000, 5000):
        loss = np.concatenate([np.full(length // 2, 2.3), np.full(length // 2, 1.0)]) + 0.02 * rng.normal(size=length)
        assert _find(loss=loss).spikes == ()


def test_jump_of_the_level_is_one_spike_to_the_end() -> None:
    loss = _base()
    loss[700:] += 0.5
    (spike,) = _find(loss=loss).spikes
    assert spike.start_step == 701
    assert spike.end_step == N
    assert not spike.recovered
    assert spike.expected_loss == pytest.approx(loss[600:700].mean(), abs=0.05)


def test_long_rise_ends_where_the_loss_is_back() -> None:
    loss = _base()
    loss[500:800] += 0.8
    (spike,) = _find(loss=loss).spikes
    assert (spike.start_step, spike.recovered) == (501, True)
    assert spike.end_step == pytest.approx(800, abs=20)


def test_slow_divergence_and_plateau_are_told_apart() -> None:
    noise = 0.02 * np.random.default_rng(5).normal(size=1000)
    falling = 2 * np.exp(-np.arange(600) / 100) + 0.5
    diverged = _find(loss=np.concatenate([falling, 0.5 * np.exp(np.arange(400) / 150)]) + noise)
    assert diverged.diverged_from == pytest.approx(680, abs=60)
    assert diverged.plateau_from is None
    flat = _find(loss=0.5 + 2 * np.exp(-np.arange(1000) / 40) + noise)
    assert flat.diverged_from is None
    assert flat.plateau_from == pytest.approx(200, abs=100)
    still = _find(loss=3 - np.arange(1000) / 500 + noise)
    assert (still.diverged_from, still.plateau_from) == (None, None)


def test_steps_that_a_restart_threw_away_are_left_out() -> None:
    step = np.concatenate([np.arange(1, 801), np.arange(601, 1001)])
    loss = np.concatenate([_base()[:800], _base()[600:1000]])
    loss[700] += 5.0  # In what was thrown away.
    loss[1100] += 5.0
    findings = _find(loss=loss, step=step)
    assert findings.superseded_points == 200
    assert [spike.peak_step for spike in findings.spikes] == [step[1100]]
    assert np.isnan(findings.expected_loss[600:800]).all()


def test_irregular_and_repeated_steps_are_no_restart() -> None:
    assert line_of_descent(np.array([1, 1, 5, 5, 9])).tolist() == [0, 1, 2, 3, 4]
    assert line_of_descent(np.array([], dtype=np.int64)).tolist() == []
    assert line_of_descent(np.array([1, 2, 3, 1, 2])).tolist() == [3, 4]


@pytest.mark.parametrize("points", [20, 40])
def test_curves_of_epochs_are_judged(points: int) -> None:
    for seed in range(20):
        calm = 1.5 * np.exp(-np.arange(points) / 5) + 0.3 + 0.01 * np.random.default_rng(seed).normal(size=points)
        assert _find(loss=calm, kind="epoch").spikes == ()
        calm[points - 4] += 0.4
        assert _peaks(_find(loss=calm, kind="epoch")) == [points - 3]


def test_spikes_that_crowd_a_short_curve_do_not_hide_each_other() -> None:
    for seed in range(5):
        loss = 1.5 * np.exp(-np.arange(20) / 5) + 0.3 + 0.02 * np.random.default_rng(seed).normal(size=20)
        loss[[12, 13, 17]] += [0.8, 0.4, 0.6]
        assert _peaks(_find(loss=loss, kind="epoch")) == [13, 18]


def test_rise_that_nobody_would_see_is_no_spike() -> None:
    loss = 2 + np.exp(-np.arange(N) / 200) + 1e-5 * np.random.default_rng(6).normal(size=N)
    loss[900] += 3e-4
    assert _find(loss=loss).spikes == ()
    config = DetectionConfig(min_rise=0.0)
    assert _peaks(detect_spikes(TrainingCurve.from_losses(loss), config)) == [901]
    # Nor is one of a few standard deviations, however short the tail is.
    bounded = np.random.default_rng(7).uniform(size=N)
    bounded[900] = 2.3
    assert _find(loss=bounded).spikes == ()
    config = DetectionConfig(min_height=3.0)
    assert _peaks(detect_spikes(TrainingCurve.from_losses(bounded), config)) == [901]


def test_noise_that_falls_with_the_level_is_followed_where_windows_cannot() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        loss = 50 * (1 + np.arange(N)) ** -0.9 * np.exp(0.1 * rng.normal(size=N))
        assert _find(loss=loss).spikes == ()
        loss[80] *= 3
        assert _peaks(_find(loss=loss)) == [81]


def test_heavy_tail_that_the_body_lets_expect_raises_no_alarm() -> None:
    alarmed = sum(bool(_find(loss=np.exp(1.5 * np.random.default_rng(s).normal(size=1000))).spikes) for s in range(30))
    assert alarmed <= 2


def test_rounded_log_without_noise_raises_no_alarm() -> None:
    loss = np.round(0.5 + 0.0001 * np.random.default_rng(8).normal(size=N), 3)
    loss[[300, 600]] += 0.001
    assert _find(loss=loss).spikes == ()


def test_level_and_noise_are_those_of_the_curve() -> None:
    level = 100.0 / (1 + np.arange(2000) / 10)
    loss = level * (1 + 0.05 * np.random.default_rng(9).normal(size=2000))
    found = level_of(loss, fitting_window(loss, window_of(2000)))
    inner = slice(30, -30)
    np.testing.assert_allclose(found.trend[inner], level[inner], rtol=0.1)
    # Measured too small, noise is taken for spikes.
    ratio = found.noise[inner] / (0.05 * level[inner])
    assert ratio.min() > 0.8
    assert 0.9 < np.median(ratio) < 1.1


def test_long_bursts_close_together_are_one_spike() -> None:
    loss = _base()
    loss[300:310] += 3.0
    loss[313:323] += 3.0
    (spike,) = _find(loss=loss).spikes
    assert spike.start_step == 301
    assert spike.end_step == pytest.approx(323, abs=5)


def test_short_flat_curve_has_not_diverged() -> None:
    for seed in range(40):
        assert _find(loss=1 + 0.01 * np.random.default_rng(seed).normal(size=25), kind="epoch").diverged_from is None


def test_no_loss_is_expected_below_all_that_were_seen() -> None:
    generator = np.random.default_rng(0)
    ones = np.clip(generator.binomial(16, 0.5, 400), 4, 12)
    loss = 0.3 + 0.05 * (ones - 8) + 0.005 * generator.normal(size=400)
    ones[300], loss[300] = 0, 5.0  # By its classes it would have a loss below zero.
    curve = TrainingCurve.from_columns(
        loss=loss, batch_size=np.full(400, 16), class_counts=np.column_stack([16 - ones, ones])
    )
    (spike,) = detect_spikes(curve).spikes
    assert spike.peak_step == 301
    assert spike.expected_loss == loss.min()
