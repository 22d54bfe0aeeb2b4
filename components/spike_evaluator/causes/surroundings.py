"""A spike among its surroundings: the figures of its steps against those of the calm steps near it."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.spike_evaluator.causes.evidence import Row, ramp
from spikeguard.components.spike_evaluator.detection import Spike, SpikeFindings
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve

# Shares of the rise up to which a replayed change has removed the spike, and from which on it has not.
REMOVED, REMAINS = 0.25, 0.6
# Calm steps that a step is compared with, and the fewest from before it that do alone.
_NEAR, _FEWEST_BEFORE = 256, 24
# Steps before the first high loss whose update may have led to it.
_LEAD = 2


class Surroundings:
    """What the tests of all causes look at, each figure computed once.

    Attributes:
      curve: the run.
      spike: the excursion to explain.
      start, peak, end: places of its steps in the curve.
      suspects: places of the steps whose batch or update may have caused it. Shape (s,), s >= 1.
      near: places of calm steps to compare with, most of them before. Shape (m,), m may be 0.
      replay: the figures that the replay of this spike left; None where there was none.
      tables: what data components found, by the name of their file.
    """

    def __init__(
        self,
        curve: TrainingCurve,
        findings: SpikeFindings,
        spike: Spike,
        replay: Mapping[str, Any] | None = None,
        tables: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.curve, self.findings, self.spike = curve, findings, spike
        self.replay, self.tables = replay, tables or {}
        self.start, self.peak, self.end = (
            int(np.flatnonzero(curve.step == step)[-1]) for step in (spike.start_step, spike.peak_step, spike.end_step)
        )
        self.suspects: Ints = np.arange(max(0, self.start - _LEAD), self.peak + 1)
        self.near = self._near()

    def _near(self) -> Ints:
        is_calm = np.isfinite(self.findings.expected_loss)
        for spike in self.findings.spikes:
            is_calm[(self.curve.step >= spike.start_step - 1) & (self.curve.step <= spike.end_step)] = False
        is_calm[: min(self.findings.transient_points, self.start // 2)] = False
        places = np.flatnonzero(is_calm)
        before = places[places < self.start - _LEAD][-_NEAR:]
        if len(before) >= _FEWEST_BEFORE:
            return before
        after = places[places > self.end][: _NEAR - len(before)]
        return np.concatenate([before, after])

    @property
    def rise(self) -> float:
        """Loss at the peak less what was expected; > 0."""
        return max(self.spike.loss_at_peak - self.spike.expected_loss, 1e-30)

    @property
    def is_brief(self) -> bool:
        """Whether the loss was back right after its peak: one batch was high, not the weights bad."""
        return self.end == self.start

    def usual(self, column: npt.NDArray[Any]) -> float:
        """Median of a column over the calm steps; NaN where unknown."""
        return _ignoring_nan(np.nanmedian, column[self.near])

    def top(self, column: npt.NDArray[Any]) -> float:
        """Largest value of a column in the calm steps; NaN where unknown."""
        return _ignoring_nan(np.nanmax, column[self.near])

    def lift(self, column: npt.NDArray[Any]) -> tuple[float, int]:
        """Largest value of a column at the suspects over its largest in calm steps, and its place; NaN where unknown."""
        values = column[self.suspects].astype(np.float64)
        if not len(self.near) or np.isnan(values).all():
            return float("nan"), self.start
        place = int(np.nanargmax(values))
        highest = self.top(column)
        return (float(values[place] / highest) if highest > 0 else float("nan")), int(self.suspects[place])

    @functools.cached_property
    def concentration(self) -> tuple[float, int, int]:
        """How far few rows carry the loss of one batch: (share in [0, 1], rows, place of the step); NaN where unknown.

        The share is that of the batch's loss in its worst j rows beyond what they have where the losses of all rows are
        alike (exponentially distributed), over what is left: 0 for a loss that all rows share, 1 for one in few rows.
        Of the high steps, the one with the largest loss in few rows.
        """
        places = self.suspects[self.curve.loss[self.suspects] > self.spike.expected_loss + 0.3 * self.rise]
        if not self.curve.worst_loss.shape[1] or not len(places):
            return float("nan"), 0, self.peak
        shares, counts = concentrations(self.curve, places)
        with np.errstate(invalid="ignore"):
            carried = shares * (self.curve.loss[places] - self.spike.expected_loss)
        if np.isnan(carried).all():
            return float("nan"), 0, self.peak
        best = int(np.nanargmax(carried))
        return float(shares[best]), int(counts[best]), int(places[best])

    @functools.cached_property
    def few_rows(self) -> float:
        """Whether few rows carry the loss, in [0, 1]; 0.5 where unknown."""
        share = self.concentration[0]
        return 0.5 if np.isnan(share) else share

    @property
    def known_few_rows(self) -> float:
        """The same, 0 where unknown."""
        share = self.concentration[0]
        return 0.0 if np.isnan(share) else share

    @functools.cached_property
    def composition(self) -> tuple[float, int, int, int]:
        """How unusual the classes of a suspect batch are: (-log10 of the chance, class, rows of it, place).

        The chance is that of as many rows of one class in a batch drawn at random, by Chernoff's bound, times the
        classes and the suspects.
        """
        counts = self.curve.class_counts
        if counts.shape[1] < 2 or not len(self.near):
            return float("nan"), 0, 0, self.start
        drawn = counts[self.suspects]
        bound, _ = class_surplus(drawn, counts[self.near].sum(axis=0))
        step, which = np.unravel_index(int(np.argmax(bound)), bound.shape)
        return (
            max(0.0, float(bound[step, which])),
            int(which),
            int(drawn[step, which]),
            int(self.suspects[step]),
        )

    @functools.cached_property
    def odd_composition(self) -> float:
        """Whether the classes of a suspect batch are unusual, in [0, 1]: a chance of 1 in 1,000 up to 1 in 10 million."""
        return max(ramp(self.composition[0], 3.0, 7.0), ramp(-self.figure("log10_chance_of_classes"), 3.0, 7.0))

    @functools.cached_property
    def rate_jump(self) -> tuple[float, int]:
        """Largest rise of the learning rate shortly before, as a ratio, and the place of its first step; (NaN, 0) if unknown."""
        first = max(1, self.start - max(8, len(self.curve) // 50))
        rates = self.curve.learning_rate
        # A recorded loss is that before the step: the peak's own rate has not touched it.
        is_before = bool(self.curve.update_ratio[self.peak] >= 0) and self.peak > first
        window = rates[first - 1 : self.peak + (0 if is_before else 1)]
        if np.isnan(window).any() or len(window) < 2:
            return float("nan"), 0
        ratios = window[1:] / np.maximum(window[:-1], 1e-30)
        # From a warm-up's or restart's zero any rate is a rise; what counts is the rate against the run's usual one.
        usual = self.usual(rates)
        ratios = np.minimum(ratios, window[1:] / usual) if usual > 0 else ratios
        place = int(np.argmax(ratios))
        return float(ratios[place]), first + place

    @functools.cached_property
    def rate_growth(self) -> float:
        """Learning rate just before the first high loss over that of the calm steps before, as a ratio; NaN where unknown."""
        before = self.near[self.near < self.start]
        rates = self.curve.learning_rate
        usual = _ignoring_nan(np.nanmedian, rates[before])
        rate = float(rates[max(0, self.start - 1)])
        return rate / usual if usual > 0 else float("nan")

    @functools.cached_property
    def led_by_weights(self) -> float:
        """Whether the weights were moved unusually far just before the first high loss, in [0, 1]; 0 where unknown.

        Then it is the weights that raise the losses of the batches after it, in which few rows may well be the highest. A batch
        whose own rows are to blame is high before its update.
        """
        ratios = self.curve.update_ratio
        before = ratios[max(0, self.start - _LEAD) : self.start].astype(np.float64)
        moved = _ignoring_nan(np.nanmax, before)
        usual = self.usual(ratios)
        lift = moved / usual if usual > 0 else float("inf")
        return ramp(lift, 2.0, 8.0) * ramp(moved, 1e-2, 1e-1) if moved >= 0 else 0.0

    @functools.cached_property
    def rare_rows(self) -> tuple[int, int]:
        """Rows of rare classes, that most calm batches have none of, in the batch whose worst rows carry the loss.

        Returns:
          Their number and their class; (0, 0) where classes are unknown or no batch has any more than usual.
        """
        counts, place = self.curve.class_counts, self.concentration[2]
        if counts.shape[1] < 2 or not len(self.near):
            return 0, 0
        shares = counts.sum(axis=0) / max(1, counts.sum())
        surplus = np.where(shares < 0.05, counts[place] - np.median(counts[self.near], axis=0), 0)
        which = int(np.argmax(surplus))
        return int(max(0, surplus[which])), which

    @functools.cached_property
    def rarity(self) -> float:
        """Whether rows of a rare class carry the loss, in [0, 1]: as many of them are there as carry it."""
        size, usual = float(self.curve.batch_size[self.concentration[2]]), self.usual(self.curve.batch_size)
        # Of a batch far shorter than others any row carries much: its shortness is to blame.
        whole = min(1.0, 2.0 * size / usual) if size > 0 and usual > 0 else 1.0
        rare = whole * self.figure("rare_share_of_loss")
        if rare >= 0:
            # Rows that most batches have the model has seen enough of.
            rare *= 1.0 if self.rare_rows[0] else 0.3
            # One of them is in many a batch: it is to blame where its batch is high by itself, or has unusually many.
            effect = float(self.replay["batch_effect"]) if self.replay else 1.0
            rare *= max(ramp(effect, 0.1, 0.5), self.odd_composition)
            return rare if self.figure("largest_distance") < 2 else 0.5 * rare
        share, carrying, _ = self.concentration
        count = self.rare_rows[0]
        lift = self.lift(self.curve.largest_input)[0]
        is_known = not np.isnan(share)
        return whole * share * (1.0 - ramp(lift, 1.2, 3.0)) * min(1.0, count / carrying) if is_known and count else 0.0

    def figure(self, name: str) -> float:
        """A figure of the replayed batches; NaN where there is none."""
        value = (self.replay or {}).get("figures", {}).get(name)
        return float("nan") if value is None else float(value)

    @functools.cached_property
    def oddity(self) -> float:
        """How far the batches hold something unusual, after a look at their rows, in [0, 1]; NaN where none was kept."""
        if not self.figure("batch_size") > 0:
            return float("nan")
        rows = ramp(self.figure("largest_distance"), 1.0, 2.0) if self.figure("suspicious_rows") > 0 else 0.0
        rows = max(rows, max(0.0, self.figure("suspicious_share_of_loss")))
        classes = ramp(-self.figure("log10_chance_of_classes"), 3.0, 6.0)
        shifted = 1.0 if self.figure("shifted_columns") > 0 else 0.0
        signs = (("rows_removed", rows), ("usual_classes", classes), ("rescaled", shifted))
        # What was taken away in vain is not what the spike came from.
        replay = self.replay or {}
        vain = {one["change"]: in_vain(one, replay) for one in replay.get("changes", ())}
        return max(sign * (1.0 - vain.get(change, 0.0)) for change, sign in signs)

    def rows(self, place: int, count: int) -> tuple[Row, ...]:
        """The worst rows of a step."""
        losses, ids = self.curve.worst_loss[place], self.curve.worst_id
        found = []
        for rank in range(min(count, len(losses))):
            named = int(ids[place, rank]) if ids.shape[1] > rank else -1
            if np.isfinite(losses[rank]):
                row = Row(named if named >= 0 else None, int(self.curve.step[place]), float(losses[rank]))
                found.append(self.with_raw_value(row))
        return tuple(found)

    def with_raw_value(self, row: Row) -> Row:
        """The row with the raw value that OutlierDetector found to be the most unusual, where it knows the row."""
        for known in self.tables.get("outliers.json", {}).get("top_rows", ()):
            if row.example_id is not None and known.get("example_id") == row.example_id and known.get("reasons"):
                names = ("feature", "value", "lower", "upper")
                return dataclasses.replace(row, **{name: known["reasons"][0].get(name) for name in names})
        return row


def in_vain(change: Mapping[str, Any], replay: Mapping[str, Any]) -> float:
    """How far a replayed change was in vain, in [0, 1]: by the share of the rise that it left.

    >>> replay = {"expected": 1.0, "peak": 101.0}
    >>> [in_vain({"peak": peak}, replay) for peak in (2.0, 43.5, 900.0)]
    [0.0, 0.5, 1.0]
    """
    expected, peak = float(replay["expected"]), float(replay["peak"])
    left = (float(change["peak"]) - expected) / max(peak - expected, 1e-30)
    return min(1.0, max(0.0, (left - REMOVED) / (REMAINS - REMOVED)))


def concentrations(curve: TrainingCurve, places: Ints) -> tuple[Floats, Ints]:
    """For some steps the share of the loss in few rows and how many they are; see `Surroundings.concentration`.

    Args:
      curve: the run.
      places: shape (p,).

    Returns:
      Shares in [0, 1], NaN where unknown, and numbers of rows. Shape (p,) each.

    >>> curve = TrainingCurve.from_columns(loss=[1.0, 1.0], batch_size=[100, 100], worst_loss=[[100.0], [4.0]])
    >>> concentrations(curve, np.array([0, 1]))[0].round(2).tolist()
    [1.0, 0.0]
    """
    worst = np.maximum(np.nan_to_num(curve.worst_loss[places], nan=0.0, posinf=0.0), 0.0)
    rows = np.maximum(curve.batch_size[places].astype(np.float64), 1.0)[:, None]
    number = np.arange(1, worst.shape[1] + 1)
    # The largest j of n exponential losses have this share of their sum, on average.
    alike = np.where(number < rows, number / rows * (1.0 + np.log(np.maximum(rows / number, 1.0))), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(np.cumsum(worst, axis=1) / (rows * curve.loss[places][:, None]), 1.0)
        beyond = np.where(alike < 0.95, (share - alike) / (1.0 - alike), 0.0)
    is_known = (curve.batch_size[places] > 0) & (curve.loss[places] > 0)
    # The fewest rows that tell nearly as much as any number of them.
    best = np.argmax(beyond >= 0.95 * beyond.max(axis=1, keepdims=True), axis=1)
    value = np.clip(beyond[np.arange(len(places)), best], 0.0, 1.0)
    return np.where(is_known, value, np.nan), np.asarray(best + 1)


def class_surplus(drawn: Ints, usual: Ints) -> tuple[Floats, Floats]:
    """How unlikely it is to draw as many rows of each class, among all that are looked at; and the classes' usual shares.

    Args:
      drawn: rows by class, of one batch or several. Shape (..., classes).
      usual: rows by class that were drawn before. Shape (classes,).

    Returns:
      -log10 of the chance, 0 where there are no more rows than expected, of shape (..., classes); and shape (classes,).

    >>> chance, share = class_surplus(np.array([0, 40]), np.array([59, 39]))
    >>> chance.round(1).tolist(), share.tolist()
    ([0.0, 15.6], [0.6, 0.4])
    """
    # A row more of each class: none that occurs is impossible.
    share = (usual + 1.0) / (usual + 1.0).sum()
    total = drawn.sum(axis=-1, keepdims=True)
    chance = _log10_chance(drawn, total, share) - np.log10(max(1, drawn.size))
    return np.where(drawn > share * total, chance, 0.0), np.asarray(share)


def _log10_chance(count: npt.NDArray[Any], total: npt.NDArray[Any], share: Floats) -> Floats:
    """-log10 of Chernoff's bound on the chance of at least `count` of `total` rows where `share` are expected."""
    total = np.maximum(total, 1)
    seen = np.clip(count / total, 1e-12, 1 - 1e-12)
    share = np.clip(share, 1e-6, 1 - 1e-6)
    divergence = seen * np.log(seen / share) + (1 - seen) * np.log((1 - seen) / (1 - share))
    return np.asarray(total * divergence / np.log(10.0))


def _ignoring_nan(statistic: Any, values: npt.NDArray[Any]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Of all-NaN columns.
        return float(statistic(values)) if len(values) else float("nan")
