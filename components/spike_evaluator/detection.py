"""Finds loss spikes in a training curve with NumPy alone.

A point is a spike when its loss rises above the local level by more than the curve's own noise explains. Level and noise
are running quantiles, which spikes do not move. The threshold is no fixed number of deviations: batch losses are often
heavy-tailed, so the tail of the run's own noise is extrapolated to the height that noise alone would exceed in
`false_alarms_per_run` of all runs of this length. What the make-up of its batch explains of a loss is taken off before.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.spike_evaluator.composition import (
    Reason,
    class_effect,
    comparable_level,
    explained_heights,
    line_of_descent,
    risen_rate,
    spread_by,
)
from spikeguard.components.spike_evaluator.levels import course_of
from spikeguard.components.spike_evaluator.noise import fitting_window, level_of, window_of
from spikeguard.components.spike_evaluator.shifts import level_jumps
from spikeguard.components.spike_evaluator.tail import noise_limit, shape_of_body
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve

# Fewest points that a level can be taken from.
_FEWEST = 5
# An event lasts while the loss is this many standard deviations up, or this share of the threshold where that is less.
_RAISED, _RAISED_SHARE = 3.0, 0.6
# Share of a window that may be spikes without moving its level or noise by much.
_OVERLOOKED = 0.1
# A loss has come back when its level is within this of the level before, as a share of the rise.
_RECOVERED = 0.1


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
    """Smallest height reported, in robust standard deviations of the noise; > 0."""
    min_rise: float = 0.0005
    """Smallest rise reported, as a share of the level or of the whole range that the level covers, whichever is less; >= 0."""
    window_steps: int | None = None
    """Width of the running medians in points. None: a tenth of the curve, at least 7 and at most 1,001."""

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms_per_run < 1:
            raise InvalidArgumentError("false_alarms_per_run", self.false_alarms_per_run, "be above 0 and below 1")
        if not self.min_height > 0:
            raise InvalidArgumentError("min_height", self.min_height, "be above 0")
        if not self.min_rise >= 0:
            raise InvalidArgumentError("min_rise", self.min_rise, "be at least 0")
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
    """The local level at the peak."""
    height: float
    """(loss_at_peak - expected_loss) / local robust standard deviation of the noise."""
    recovered: bool
    """Whether the loss came back to its level from before the spike, at any time before the end of the run."""
    peak_epoch: int | None = None
    """Epoch of the peak; None where the curve does not tell epochs."""


@dataclasses.dataclass(frozen=True)
class ExplainedRise:
    """A rise that is no spike, because something that was recorded explains it."""

    start_step: int
    peak_step: int
    end_step: int
    reason: str
    """What explains it, in words."""


@dataclasses.dataclass(frozen=True)
class SpikeFindings:
    """What the detector saw in one curve."""

    points: int
    """Points in the curve, finite or not."""
    spikes: tuple[Spike, ...]
    """In step order; finite excursions only."""
    explained: tuple[ExplainedRise, ...]
    """Rises that would be spikes but for the make-up of their batch or a rise of the learning rate."""
    non_finite_steps: tuple[int, ...]
    """Steps whose loss was NaN or infinite."""
    superseded_points: int
    """Points that the run threw away when it went back to an earlier step; nothing is sought there."""
    transient_points: int
    """Finite points at the start, in which the loss had not settled; no spikes are sought there."""
    threshold: float
    """Height above which a point is a spike, in robust standard deviations of the noise."""
    expected_loss: Floats
    """The local level at every point; NaN where the loss is not finite or was thrown away. Shape (points,)."""
    first_loss: float
    """Level when the loss had settled; NaN where no loss is finite, as all levels."""
    best_loss: float
    """Lowest level."""
    final_loss: float
    """Level over the end of the run."""
    noise: float
    """Median robust standard deviation of the noise around the level."""
    wander: float
    """Largest rise of the level that the run came back from."""
    diverged_from: int | None
    """Step from which the level left its best for good, by more than noise and wandering explain; else None."""
    plateau_from: int | None
    """Step after which the level fell no more, where that is in the first half of the run; else None."""


def detect_spikes(curve: TrainingCurve, config: DetectionConfig | None = None) -> SpikeFindings:
    """Finds the spikes of one training curve, in O(n log n).

    Args:
      curve: n points, n >= 0, with finite and non-finite losses of any sign; steps may be missing, and may go back where
        a run was restarted from an earlier state.
      config: sensitivity; `DetectionConfig()` where None.

    Returns:
      The findings. Curves of fewer than five finite points have no spikes: nothing can be said of them.

    >>> loss = [1.0, 1.1, 0.9, 1.0] * 20
    >>> loss[50] = 9.0
    >>> [spike.peak_step for spike in detect_spikes(TrainingCurve.from_losses(loss)).spikes]
    [51]
    """
    config = config or DetectionConfig()
    lasting = line_of_descent(curve.step)
    is_finite = np.isfinite(curve.loss[lasting])
    non_finite_steps = tuple(curve.step[lasting[~is_finite]].tolist())
    places = lasting[is_finite]
    rows = curve.take(places)
    expected = np.full(len(curve), np.nan)
    findings = _findings(rows, config) if len(rows) >= _FEWEST else _too_few(rows)
    expected[places] = findings.expected_loss
    return dataclasses.replace(
        findings,
        points=len(curve),
        non_finite_steps=non_finite_steps,
        superseded_points=len(curve) - len(lasting),
        expected_loss=expected,
    )


def _too_few(rows: TrainingCurve) -> SpikeFindings:
    level = float(np.median(rows.loss)) if len(rows) else float("nan")
    return SpikeFindings(
        points=len(rows),
        spikes=(),
        explained=(),
        non_finite_steps=(),
        superseded_points=0,
        transient_points=0,
        threshold=float("inf"),
        expected_loss=np.full(len(rows), np.nan),
        first_loss=level,
        best_loss=level,
        final_loss=level,
        noise=float("nan"),
        wander=0.0,
        diverged_from=None,
        plateau_from=None,
    )


def _findings(rows: TrainingCurve, config: DetectionConfig) -> SpikeFindings:
    search = _Search(rows, config)
    course = course_of(search.level, search.settled)
    return SpikeFindings(
        points=len(rows),
        spikes=search.spikes,
        explained=search.explained,
        non_finite_steps=(),
        superseded_points=0,
        transient_points=search.settled,
        threshold=search.threshold,
        expected_loss=search.level.trend + search.effect,
        first_loss=course.first,
        best_loss=course.best,
        final_loss=course.final,
        noise=float(np.median(search.level.noise)),
        wander=course.wander,
        diverged_from=None if course.rises_from is None else int(rows.step[course.rises_from]),
        plateau_from=None if course.flat_from is None else int(rows.step[course.flat_from]),
    )


class _Search:
    """The search of one curve of finite losses."""

    def __init__(self, rows: TrainingCurve, config: DetectionConfig) -> None:
        self._rows, self._config = rows, config
        window = window_of(len(rows), config.window_steps)
        self._window = window if config.window_steps else fitting_window(rows.loss, window)
        self.loss, self.effect = rows.loss, np.zeros(len(rows))
        self._class_reason: Reason | None = None
        if rows.class_counts.shape[1]:
            level = level_of(rows.loss, self._window)
            classes = class_effect(rows, level.height)
            if classes is not None:
                # The noise of batches of different classes is that around what their classes let expect.
                self.effect, self._class_reason = classes[0] * level.noise, classes[1]
                self.loss = rows.loss - self.effect
        self._look(self.loss)
        is_spike = ~_outside(self._events(self._height), len(rows))
        if _crowds(is_spike, self._window):
            # Again, with a level and a noise that the spikes have no part in.
            self._look(np.where(is_spike, self.level.trend, self.loss))
        jumps = level_jumps(self.level, self.settled, config.false_alarms_per_run, config.min_height)
        events = _united(self._events(self._height), jumps, self._window // 4)
        self.spikes, self.explained = self._describe_all(events)

    def _look(self, calm: Floats) -> None:
        """Takes level and noise from some losses; with them explanations and threshold from the curve's."""
        self.level = dataclasses.replace(level_of(calm, self._window), loss=self.loss)
        bottom, top = np.quantile(self.level.trend[:: max(1, len(calm) // 1000)], [0.02, 0.98])
        self._range = float(top - bottom)
        height, effect = self.level.height, self.effect / self.level.noise
        self.settled = _transient_length(height, self._window)
        height[: self.settled] = 0.0
        effect[: self.settled] = 0.0
        self._raw = height + effect
        self._explanations: list[tuple[Floats, Reason]] = []
        if self._class_reason is not None:
            height = spread_by(effect, height)
            self._explanations.append((height, self._class_reason))
        self._explanations += explained_heights(self._rows, height)
        self._height = self._explanations[-1][0] if self._explanations else height
        settled = self._height[self.settled :]
        self.threshold = noise_limit(settled, self._config.false_alarms_per_run, shape_of_body(settled))

    def _events(self, height: Floats) -> list[tuple[int, int]]:
        """Ranges (first, last) of the excursions: from each point above the threshold to where the loss is in the noise."""
        raised = np.flatnonzero(height > min(_RAISED, _RAISED_SHARE * self.threshold))
        if not len(raised):
            return []
        breaks = np.flatnonzero(np.diff(raised) > 1)
        starts, ends = raised[np.append(0, breaks + 1)], raised[np.append(breaks, len(raised) - 1)]
        peaks = np.maximum.reduceat(height[raised], np.append(0, breaks + 1))
        shares = np.maximum.reduceat(self._share_of_least(raised), np.append(0, breaks + 1))
        is_high = (peaks > self.threshold) & (shares >= 1.0)
        merged: list[tuple[int, int]] = []
        for start, end in zip(starts[is_high].tolist(), ends[is_high].tolist(), strict=True):
            if merged and 2 * (start - merged[-1][1] - 1) <= max(
                2, merged[-1][1] - merged[-1][0] + 1 + end - start + 1
            ):
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        return merged

    def _share_of_least(self, places: Ints) -> Floats:
        """Rises at some places over the smallest that are worth a report there."""
        expected, noise = self.level.trend[places], self.level.noise[places]
        extent = np.minimum(np.abs(expected), self._range + noise)
        least = np.maximum(self._config.min_height * noise, self._config.min_rise * extent)
        return np.asarray((self.loss[places] - expected) / least)

    def _describe_all(self, events: list[tuple[int, int]]) -> tuple[tuple[Spike, ...], tuple[ExplainedRise, ...]]:
        spikes, explained = [], []
        for start, end in events:
            peak = start + int(np.argmax(self._height[start : end + 1]))
            if self._is_before_a_fall(start, peak):
                continue
            reason = self._rate_reason(start, peak)
            if reason is None:
                spikes.append(self._spike(start, peak, end))
            else:
                explained.append(self._explained(start, peak, end, reason))
        if self._explanations:
            is_free = _outside(events, len(self._rows))
            for start, end in self._events(self._raw):
                peak = start + int(np.argmax(self._raw[start : end + 1]))
                words = [reason(peak) for height, reason in self._explanations if height[peak] <= self.threshold]
                if words and is_free[start : end + 1].all():
                    explained.append(self._explained(start, peak, end, words[0]))
        return tuple(spikes), tuple(sorted(explained, key=lambda rise: rise.start_step))

    def _level_before(self, start: int) -> float:
        near = slice(max(0, start - max(_FEWEST, self.level.window // 8)), start)
        return float(np.median(self.loss[near])) if start else float(self.level.trend[0])

    def _is_before_a_fall(self, start: int, peak: int) -> bool:
        """Whether a loss is high for what comes after it only: a median lies below the last losses above a steep fall."""
        before = self._level_before(start)
        return bool(
            before > self.level.trend[peak] and self.loss[peak] <= before + self.threshold * self.level.noise[peak]
        )

    def _rate_reason(self, start: int, peak: int) -> str | None:
        jump = risen_rate(self._rows, start, max(3, self.level.window // 4))
        if jump is None:
            return None
        known = comparable_level(self._rows, self.level.trend, jump - 1)
        if self.loss[peak] > known + self.threshold * self.level.noise[peak]:
            return None
        rates, step = self._rows.learning_rate, self._rows.step[jump]
        return f"the learning rate rose from {rates[jump - 1]:.3g} to {rates[jump]:.3g} at step {step}"

    def _spike(self, start: int, peak: int, end: int) -> Spike:
        rows, level = self._rows, self.level
        peak = start + int(np.argmax(self.loss[start : end + 1]))
        before = self._level_before(start)
        has_recovered = self._has_recovered(peak, end, before)
        # After a jump the running median and the noise are up with the loss, so those from before are what was expected.
        expected, noise = float(level.trend[peak]), float(level.noise[peak])
        if before < expected:
            expected, noise = before, min(noise, float(level.noise[max(0, start - level.window)]))
        expected += float(self.effect[peak])
        # What classes explain is extrapolated to a batch unlike all others: no loss is expected below all that were seen.
        expected = max(expected, float(np.min(rows.loss)))
        return Spike(
            start_step=int(rows.step[start]),
            peak_step=int(rows.step[peak]),
            end_step=int(rows.step[end]),
            loss_at_peak=float(rows.loss[peak]),
            expected_loss=expected,
            height=(float(rows.loss[peak]) - expected) / noise,
            recovered=has_recovered,
            peak_epoch=int(rows.epoch[peak]) if rows.epoch[-1] > 0 else None,
        )

    def _has_recovered(self, peak: int, end: int, before: float) -> bool:
        after = self.loss[end + 1 :]
        if not len(after):
            return False
        allowed = before + max(self.level.noise[peak], _RECOVERED * (self.loss[peak] - before))
        # The trend is the level once it rests on points after the event alone; until then their own median is.
        settled = self.level.trend[end + 1 + self.level.window // 2 :]
        return bool(
            np.median(after[: max(_FEWEST, self.level.window // 4)]) <= allowed
            or np.min(settled, initial=np.inf) <= allowed
        )

    def _explained(self, start: int, peak: int, end: int, reason: str) -> ExplainedRise:
        steps = self._rows.step
        return ExplainedRise(int(steps[start]), int(steps[peak]), int(steps[end]), reason)


def _crowds(is_spike: npt.NDArray[np.bool_], window: int) -> bool:
    """Whether spikes make up more of any window than its quantiles can overlook."""
    shares = np.add.reduceat(is_spike, np.arange(0, len(is_spike), window)) / window
    return bool(np.max(shares) > _OVERLOOKED)


def _outside(events: list[tuple[int, int]], points: int) -> npt.NDArray[np.bool_]:
    is_outside = np.ones(points, dtype=bool)
    for start, end in events:
        is_outside[start : end + 1] = False
    return is_outside


def _united(events: list[tuple[int, int]], jumps: list[tuple[int, int]], slack: int) -> list[tuple[int, int]]:
    """Events and jumps in order; a jump that an event begins, at most `slack` points apart, only makes it last longer."""
    united = list(events)
    for start, end in jumps:
        begins = [place for place, event in enumerate(united) if event[0] - slack <= start <= event[1] + slack]
        if begins:
            first, last = united[begins[0]]
            united[begins[0]] = (first, max(last, end))
        else:
            united.append((start, end))
    return sorted(united)


def _transient_length(height: Floats, window: int) -> int:
    """Points at the start in which the loss has not settled: up to the first ten that lie mostly within the noise."""
    is_off = (np.abs(height[: min(window + 10, max(10, len(height) // 4))]) > 3.0).astype(np.float64)
    share_off = np.convolve(is_off, np.full(10, 0.1), mode="valid") if len(is_off) >= 10 else is_off
    settled = np.flatnonzero((share_off <= 0.2) & (is_off[: len(share_off)] == 0))
    return int(settled[0]) if len(settled) else min(window, len(height))
