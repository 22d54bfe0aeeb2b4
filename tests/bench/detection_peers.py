"""The rules that others find spikes with, at their defaults, each on the losses of one curve and nothing else.

An online rule sees the past only: whether a step is flagged never depends on a later one. "Last k" leaves out the step
itself. Where the source says nothing of the start, a window rule begins with 10 earlier values, or a curve of epochs
would be over before its window is full; the skip rules wait for half of their window, as their code does. All are
written with NumPy over the whole curve, which makes them faster than where they come from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_FIRST = 10
_BLOCK = 4096
MAD_TO_SD = 1.4826


def lightning(losses: Floats) -> Flags:
    """PyTorch Lightning's SpikeDetection: above the last accepted loss, and off the mean of the last 10 by 2 means.

    "Accepted" are the steps that were not flagged; the first step is.
    """
    flags = np.zeros(len(losses), bool)
    accepted: list[float] = []
    for index, loss in enumerate(losses.tolist()):
        if accepted:
            window = accepted[-10:]
            mean = sum(window) / len(window)
            if loss > accepted[-1] and abs(loss - mean) >= 2 * abs(mean):
                flags[index] = True
                continue
        accepted.append(loss)
    return flags


def kill_loss_spike(losses: Floats) -> Flags:
    """LLM Foundry's KillLossSpike: 2 times the mean of the last 100 on 5 consecutive steps, or losses mostly above 10.

    The callback ends the training at the first flag; here the run goes on. The second half looks at the last 100 losses
    from step 200 on.
    """
    is_high = losses >= 2 * _over_past(losses, 100, 100, lambda window: window.mean(axis=1))
    is_fifth = np.convolve(is_high, np.ones(5), "full")[: len(losses)] == 5
    share_large = _over_past(losses, 100, 200, lambda window: (window > 10).mean(axis=1))
    return np.asarray(is_fifth | (share_large >= 0.5))


def olmo_skip_step(losses: Floats) -> Flags:
    """OLMo's SkipStepAdamW on the loss: more than 6 sd above the mean of the last 128, flagged ones included.

    The sd is the sample's (n - 1). The gradient norm, at which it looks as well, is not part of these curves.
    """
    return _z(losses, 128, 63, degrees=1) > 6


def levanter(losses: Floats) -> Flags:
    """Levanter's skip step: above mean + 6 sd of the last 128; the sd is the population's (n)."""
    return _z(losses, 128, 63, degrees=0) > 6


def ema3(losses: Floats) -> Flags:
    """Above 3 times the exponential moving average of all earlier losses, with weight 0.1 on the latest."""
    flags = np.zeros(len(losses), bool)
    average = np.nan
    for index, loss in enumerate(losses.tolist()):
        flags[index] = loss > 3 * average
        average = loss if index == 0 else 0.9 * average + 0.1 * loss
    return flags


def soup(losses: Floats) -> Flags:
    """Above 2 times the median of the last 20."""
    return losses > 2 * _over_past(losses, 20, _FIRST, lambda window: np.median(window, axis=1))


def hampel(losses: Floats) -> Flags:
    """More than 3.5 robust sd (MAD) off the median of the last 200, to either side."""

    def median_and_mad(window: Floats) -> Floats:
        median = np.median(window, axis=1)
        return np.stack([median, np.median(np.abs(window - median[:, None]), axis=1)], axis=1)

    median, mad = _over_past(losses, 200, _FIRST, median_and_mad).T
    return np.abs(losses - median) > 3.5 * MAD_TO_SD * mad


def zscore(losses: Floats) -> Flags:
    """More than 3.5 sd above the mean of the last 200."""
    return _z(losses, 200, _FIRST, degrees=1) > 3.5


def megatron(losses: Floats) -> Flags:
    """Megatron's rerun state machine: at least 10 times the largest of the first 100 losses; nothing before."""
    flags = losses >= 10 * np.max(losses[:100], initial=-np.inf)
    flags[:100] = False
    return np.asarray(flags)


def dlib_slope(losses: Floats) -> Flags:
    """dlib's test for divergence: P(slope > 0) > 0.99 by least squares over 200 losses, the step's own included.

    The slope's error is taken as normal, as dlib does. Flags the steps at which the test would fire.
    """
    flags = np.zeros(len(losses), bool)
    time = np.arange(200) - 99.5
    squares = float(time @ time)
    windows = np.lib.stride_tricks.sliding_window_view(losses, 200) if len(losses) >= 200 else np.empty((0, 200))
    for begin in range(0, len(windows), _BLOCK):
        window = windows[begin : begin + _BLOCK] - windows[begin : begin + _BLOCK].mean(axis=1, keepdims=True)
        slope = window @ time / squares
        error = np.sqrt(np.maximum((window**2).sum(axis=1) - slope**2 * squares, 0.0) / 198 / squares)
        flags[begin + 199 : begin + 199 + len(window)] = slope > stats.norm.ppf(0.99) * error
    return flags


def pelt(losses: Floats) -> Ints:
    """ruptures' Pelt over the finished curve: indices at which the level changes.

    l2 cost, min_size 2, jump 5, penalty 36, on losses less their median over 1.4826 MAD (over their sd where that is 0).
    """
    import ruptures  # Slow to import.

    centred = losses - np.median(losses)
    scale = MAD_TO_SD * np.median(np.abs(centred)) or np.std(centred) or 1.0
    points = ruptures.Pelt(model="l2", min_size=2, jump=5).fit_predict((centred / scale)[:, None], pen=36.0)
    return np.asarray(points[:-1], dtype=np.int64)


# What is compared with the detector, and what answers another question and is scored apart.
PEERS: dict[str, Callable[[Floats], Flags]] = {
    rule.__name__: rule
    for rule in (lightning, kill_loss_spike, olmo_skip_step, levanter, ema3, soup, hampel, zscore, megatron)
}


def _z(losses: Floats, window: int, first: int, degrees: int) -> Floats:
    def mean_and_sd(past: Floats) -> Floats:
        return np.stack([past.mean(axis=1), past.std(axis=1, ddof=degrees)], axis=1)

    mean, deviation = _over_past(losses, window, first, mean_and_sd).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((losses - mean) / deviation)


def _over_past(losses: Floats, window: int, first: int, statistic: Callable[[Floats], Floats]) -> Floats:
    """A statistic of the last `window` losses before each step, of fewer where there are fewer; NaN before index `first`.

    Args:
      losses: shape (n,).
      window: >= 1.
      first: smallest index with a value; >= 1.
      statistic: takes windows of shape (rows, width), returns shape (rows,) or (rows, k).
    """
    width = np.shape(statistic(np.ones((1, window))))[1:]
    found = np.full((len(losses), *width), np.nan)
    for index in range(first, min(window, len(losses))):
        found[index] = statistic(losses[None, :index])[0]
    begin = max(first, window)
    if len(losses) > begin:
        windows = np.lib.stride_tricks.sliding_window_view(losses[:-1], window)[begin - window :]
        for offset in range(0, len(windows), _BLOCK):
            block = windows[offset : offset + _BLOCK]
            found[begin + offset : begin + offset + len(block)] = statistic(block)
    return found
