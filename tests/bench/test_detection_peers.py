"""Each peer rule on a case small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.bench import detection_peers as peers


def _flagged(rule: Callable[[peers.Floats], peers.Flags], losses: list[float]) -> list[int]:
    return np.flatnonzero(rule(np.array(losses))).tolist()


def _alternating(count: int, low: float = 0.0, high: float = 2.0) -> list[float]:
    """Mean 1, deviation 1 and MAD 1 over any even number of steps."""
    return [low, high] * (count // 2)


def test_lightning_flags_three_means_when_last_accepted_is_lower() -> None:
    # 3 is two means off and not accepted, so the mean stays 1; 2.9 is not, and makes it 1.19, so 3 no longer is.
    assert _flagged(peers.lightning, [1.0] * 10 + [3.0, 3.0, 2.9, 3.0]) == [10, 11]
    # Two means off below the mean is no spike; nor is the first step.
    assert _flagged(peers.lightning, [9.0, 1.0, 1.0, -9.0]) == []


def test_kill_loss_spike_flags_the_fifth_consecutive_high_loss() -> None:
    # The mean of the last 100 grows by 0.03 per step of 4: twice that stays below 4.
    assert _flagged(peers.kill_loss_spike, [1.0] * 100 + [4.0] * 6) == [104, 105]
    assert _flagged(peers.kill_loss_spike, [1.0] * 100 + [4.0] * 4 + [1.0] + [4.0] * 4) == []
    assert _flagged(peers.kill_loss_spike, [1.0] * 99 + [4.0] * 5) == []  # The window is not full at the first of them.


def test_kill_loss_spike_flags_losses_above_ten_when_half_of_the_window_is() -> None:
    assert _flagged(peers.kill_loss_spike, [11.0] * 202) == [200, 201]
    assert _flagged(peers.kill_loss_spike, [9.0] * 200 + [11.0] * 51) == [250]


@pytest.mark.parametrize(
    ("rule", "deviation"), [(peers.olmo_skip_step, (128 / 127) ** 0.5), (peers.levanter, 1.0)], ids=["olmo", "levanter"]
)
def test_skip_rules_flag_above_six_deviations(rule: Callable[[peers.Floats], peers.Flags], deviation: float) -> None:
    base = _alternating(128)
    assert _flagged(rule, [*base, 1.001 + 6 * deviation]) == [128]
    assert _flagged(rule, [*base, 0.999 + 6 * deviation]) == []
    assert _flagged(rule, [*base, -100.0]) == []


def test_skip_rules_go_blind_when_a_spike_is_in_their_window() -> None:
    losses = [*_alternating(128), 100.0, 0.0, 40.0]  # 100 among 127 values makes the sd 8.8: 40 is 4.3 of them.
    assert _flagged(peers.olmo_skip_step, losses) == [128]
    assert _flagged(peers.levanter, losses) == [128]


def test_skip_rules_wait_for_half_of_their_window() -> None:
    assert _flagged(peers.olmo_skip_step, [*_alternating(62), 99.0]) == []
    assert _flagged(peers.olmo_skip_step, [0.0, *_alternating(62), 99.0]) == [63]


def test_ema3_flags_three_averages() -> None:
    # 3.1 makes the average 1.21: 3.5 stays below 3.63, after which 1.439 lets 4.4 pass the limit of 4.317.
    assert _flagged(peers.ema3, [1.0, 1.0, 3.1, 3.5, 4.4]) == [2, 4]


def test_soup_flags_two_medians() -> None:
    assert _flagged(peers.soup, [1.0] * 20 + [2.0, 2.1]) == [21]
    # Over the last 20 the median has become 2; over all 40 it would be 1.5.
    assert _flagged(peers.soup, [1.0] * 20 + [2.0] * 20 + [3.9, 4.1]) == [41]


def test_hampel_flags_both_sides_of_the_median() -> None:
    limit = 3.5 * 1.4826
    base = _alternating(200)
    # An odd number of values has half of them on its median and a MAD of 0, so only the last step counts here.
    for loss, is_flagged in ((1.01 + limit, True), (0.99 - limit, True), (0.99 + limit, False), (1.01 - limit, False)):
        assert peers.hampel(np.array([*base, loss]))[-1] == is_flagged


def test_zscore_flags_above_the_mean_only() -> None:
    limit = 3.5 * (200 / 199) ** 0.5
    base = _alternating(200)
    assert _flagged(peers.zscore, [*base, 1.01 + limit]) == [200]
    assert _flagged(peers.zscore, [*base, 0.99 + limit]) == []
    assert _flagged(peers.zscore, [*base, 0.99 - limit]) == []


def test_megatron_flags_ten_times_the_first_largest() -> None:
    assert _flagged(peers.megatron, [1.0] * 99 + [2.0, 19.9, 20.0]) == [101]
    assert _flagged(peers.megatron, [1.0] * 99 + [50.0]) == []
    assert _flagged(peers.megatron, [1.0] * 5) == []


def test_dlib_slope_flags_a_rising_line_only() -> None:
    time = np.arange(200.0)
    noise = np.tile([1.0, -1.0], 100)
    assert _flagged(peers.dlib_slope, (0.01 * time + noise).tolist()) == [199]
    assert _flagged(peers.dlib_slope, (-0.01 * time + noise).tolist()) == []
    # The alternation leaves residuals of sd 1: the slope's error is 0.00122, and 0.0015 minus its own slope of 0.00015 is
    # 1.1 of it.
    assert _flagged(peers.dlib_slope, (0.0015 * time + noise).tolist()) == []
    assert _flagged(peers.dlib_slope, time[:199].tolist()) == []


def test_pelt_finds_both_edges_of_a_block() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    noise[100:120] += 20.0
    assert peers.pelt(noise).tolist() == [100, 120]


@pytest.mark.parametrize("rule", [*peers.PEERS.values(), peers.dlib_slope], ids=lambda rule: rule.__name__)
def test_flags_stay_when_the_future_changes(rule: Callable[[peers.Floats], peers.Flags]) -> None:
    losses = np.random.default_rng(0).exponential(size=9000) ** 2
    losses[::700] *= 40.0
    whole = rule(losses)
    for length in (1, 50, 150, 450, 4300, 8999):
        np.testing.assert_array_equal(rule(losses[:length]), whole[:length])
