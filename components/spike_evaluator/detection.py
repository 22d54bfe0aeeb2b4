"""Finds loss spikes in a training curve with NumPy alone.

A step is a spike when its loss rises above the local trend by more than the curve's own noise explains. Trend and scale
are running medians, which a spike shorter than half a window cannot move. The threshold is not a fixed number of
deviations: batch losses are often heavy-tailed, so it extrapolates the curve's own upper tail to the level that noise
alone would exceed in `false_alarms_per_run` of all runs of this length.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.robust import MAD_TO_SD
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """How sensitive the detector is.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> DetectionConfig(false_alarms_per_run=2)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: false_alarms_per_run must be above 0 and below 1; got 2.
    """

    false_alarms_per_run: float = 0.01
    """Expected number of spikes reported on a run that has none; in (0, 1)."""
    min_height: float = 6.0
    """Smallest height reported, in robust standard deviations of the step noise; > 0."""
    window_steps: int | None = None
    """Width of the running medians. None: a tenth of the curve, at least 21 and at most 301 steps."""

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms_per_run < 1:
            raise InvalidArgumentError("false_alarms_per_run", self.false_alarms_per_run, "be above 0 and below 1")
        if not self.min_height > 0:
            raise InvalidArgumentError("min_height", self.min_height, "be above 0")
        if self.window_steps is not None and self.window_steps < 5:
            raise InvalidArgumentError("window_steps", self.window_steps, "be at least 5, or None")


@dataclasses.dataclass(frozen=True)
class Spike:
    """One excursion of the loss above its expected level."""

    start_step: int
    """First step above the noise."""
    peak_step: int
    """Step of the largest loss."""
    end_step: int
    """Last step above the noise."""
    loss_at_peak: float
    expected_loss: float
    """The local trend at the peak."""
    height: float
    """(loss_at_peak - expected_loss) / local robust standard deviation of the step noise."""
    recovered: bool
    """Whether the loss came back into the noise around its level from before the spike."""


@dataclasses.dataclass(frozen=True)
class SpikeFindings:
    """What the detector saw in one curve."""

    points: int
    """Steps in the curve, finite or not."""
    spikes: tuple[Spike, ...]
    """In step order; finite excursions only."""
    non_finite_steps: tuple[int, ...]
    """Steps whose loss was NaN or infinite."""
    transient_points: int
    """Finite points at the start, in which the loss had not settled; no spikes are sought there."""
    threshold: float
    """Height above which a step is a spike, in robust standard deviations."""
    expected_loss: Floats
    """The local trend at every step; NaN where the loss is not finite. Shape (points,)."""
    best_loss: float
    """Lowest level that the trend reached; NaN where no loss is finite."""
    final_loss: float
    """Level of the trend over the end of the run; NaN where no loss is finite."""
    noise: float
    """Median robust standard deviation of the step noise around the trend; NaN where no loss is finite."""


def detect_spikes(curve: TrainingCurve, config: DetectionConfig | None = None) -> SpikeFindings:
    """Finds the spikes of one training curve.

    Args:
      curve: n steps, n >= 0, with finite and non-finite losses of any sign.
      config: sensitivity; `DetectionConfig()` where None.

    Returns:
      The findings. Curves of fewer than five finite points have no spikes: nothing can be said of them.

    >>> loss = [1.0, 1.1, 0.9, 1.0] * 20
    >>> loss[50] = 9.0
    >>> [spike.peak_step for spike in detect_spikes(TrainingCurve.from_losses(loss)).spikes]
    [51]
    """
    config = config or DetectionConfig()
    finite = np.isfinite(curve.loss)
    expected = np.full(len(curve), np.nan)
    non_finite_steps = tuple(int(step) for step in curve.step[~finite])
    loss, step = curve.loss[finite], curve.step[finite]
    if len(loss) < 5:
        level = float(np.median(loss)) if len(loss) else float("nan")
        return SpikeFindings(len(curve), (), non_finite_steps, 0, float("inf"), expected, level, level, float("nan"))

    window = min(config.window_steps or int(np.clip(len(loss) // 10, 21, 301)), len(loss)) | 1
    trend = _running_median(loss, window)
    residual = loss - trend
    scale = _noise_scale(residual, loss, window)
    height = residual / scale
    settled = _transient_length(height, window)
    height[:settled] = 0.0
    threshold = _threshold(height[settled:], config)
    expected[finite] = trend
    # Levels are read off the trend's interior: its first and last points rest on half a window.
    inner = slice(window // 2, len(trend) - window // 2) if len(trend) > 2 * window else slice(None)
    return SpikeFindings(
        points=len(curve),
        spikes=tuple(
            _describe(start, end, loss, trend, scale, height, step) for start, end in _events(height, threshold)
        ),
        non_finite_steps=non_finite_steps,
        transient_points=settled,
        threshold=threshold,
        expected_loss=expected,
        best_loss=float(np.min(trend[inner])),
        final_loss=float(np.median(loss[-max(5, window // 2) :])),
        noise=float(np.median(scale)),
    )


def _running_median(values: Floats, window: int) -> Floats:
    return np.asarray(ndimage.median_filter(values, size=window, mode="reflect"), dtype=np.float64)


def _noise_scale(residual: Floats, loss: Floats, window: int) -> Floats:
    """Local robust standard deviation of the noise; floored so that a curve without noise does not divide by zero."""
    local = MAD_TO_SD * _running_median(np.abs(residual), window)
    # While the loss falls steeply the median follows it point by point, and residuals vanish that the noise did not.
    local[:window] = np.maximum(local[:window], local[min(window, len(local) - 1)])
    # A flat stretch (a plateau, a rounded log) says little about noise: no local scale below a tenth of the usual one.
    rounding = 1e-6 * float(np.median(np.abs(loss))) + 1e-300
    return np.maximum(local, max(0.1 * float(np.median(local)), rounding))


def _transient_length(height: Floats, window: int) -> int:
    """Steps at the start in which the loss has not settled: up to the first ten steps that lie mostly within the noise."""
    is_raised = (height[: window + 10] > 3.0).astype(np.float64)
    share_raised = np.convolve(is_raised, np.full(10, 0.1), mode="valid") if len(is_raised) >= 10 else is_raised
    settled = np.flatnonzero((share_raised <= 0.2) & (is_raised[: len(share_raised)] == 0))
    return int(settled[0]) if len(settled) else min(window, len(height))


def _threshold(height: Floats, config: DetectionConfig) -> float:
    """Height that noise alone exceeds `false_alarms_per_run` times in a run of this length.

    The upper tail is taken as exponential beyond the 90th percentile, with the decay seen between the median and there:
    exact for exponential noise, conservative for normal noise, and untouched by spikes in fewer than 10 % of the steps.
    """
    middle, upper = np.quantile(height, [0.5, 0.9])
    decay = (upper - middle) / np.log(5.0)
    return max(config.min_height, float(upper + decay * np.log(0.1 * len(height) / config.false_alarms_per_run)))


def _events(height: Floats, threshold: float) -> list[tuple[int, int]]:
    """Index ranges (first, last) of the excursions: grown from each exceedance to where the loss is back in the noise."""
    raised = height > min(3.0, threshold)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], raised, [False]]).astype(np.int8)))
    return [
        (int(start), int(stop) - 1)
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
        if np.max(height[start:stop]) > threshold
    ]


def _describe(start: int, end: int, loss: Floats, trend: Floats, scale: Floats, height: Floats, step: Ints) -> Spike:
    peak = start + int(np.argmax(height[start : end + 1]))
    # The trend after a spike may have risen with it, so recovery is judged against the level from before.
    before, noise = trend[max(0, start - 1)], scale[max(0, start - 1)]
    after = loss[end + 1 :]
    return Spike(
        start_step=int(step[start]),
        peak_step=int(step[peak]),
        end_step=int(step[end]),
        loss_at_peak=float(loss[peak]),
        expected_loss=float(trend[peak]),
        height=float(height[peak]),
        recovered=bool(len(after) and np.median(after[:5]) <= before + 3.0 * noise),
    )
