"""Keeps what a replay needs: states in memory, and of steps with a high loss the state before and the batches on disk."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.guard import guard_of
from spikeguard.components.guarded_trainer.kept_rows import Batch, KeptRows, joined
from spikeguard.components.guarded_trainer.kept_spike import Kept, arrays_of, kept_of
from spikeguard.components.robust import robust_sd
from spikeguard.components.spike_evaluator.causes.course import START
from spikeguard.components.spike_evaluator.causes.replays import FOLDER, NOTES_NAME
from spikeguard.components.training_curve import Floats

KEPT_NAME = "kept.npz"
# Losses that a step is compared with, the fewest, and how many standard deviations it must be up. Some that are no spikes are kept,
# too: what is one is decided after the training.
_HISTORY, _FEWEST, _HIGH = 128, 32, 4.0
# Steps between the kept state and the first high loss, where there is a state; states in memory; steps of one replay.
_LEAD, _STATES, _MOST_STEPS = 8, 4, 96
# Steps between two events; the losses after a high one often stay restless.
_APART = 16
# High steps of an event among which its peak is sought, and what stands for the height of a loss that is not finite.
_MOST_HIGH, _HUGE = 16, 1e30
# Batches that must be kept for a replay to be of use.
_FEWEST_BATCHES = 8
# High losses in a row after which they are the run's new level.
_NEW_LEVEL = 64
# Ordinary rows that are kept to compare with, and how many are drawn each time that a state is kept.
_REFERENCE_ROWS, _DRAWN_ROWS = 768, 48
# Steps up to the first high one that the rise at a start may have come from.
_SUSPECT = 2
# High losses of which it is told why they were not replayed, the first ones.
_MOST_LEFT = 1000
# Multiple of the highest loss before that another of the first losses is to reach.
_RECORD = 1.5


@dataclasses.dataclass(frozen=True)
class ReplayBudget:
    """What the replay of spikes may cost.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> ReplayBudget(time_share=2)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: time_share must be at least 0 and at most 1; got 2.
    """

    time_share: float = 0.1
    """Share of the training's time that replays may take after it; in [0, 1]."""
    least_seconds: float = 0.5
    """Seconds that they may take however short the training was; >= 0."""
    most_spikes: int = 8
    """High losses that are kept, the first and the highest; >= 1."""
    memory_bytes: int = 256 * 2**20
    """For rows and states in memory; >= 0."""
    disk_bytes: int = 256 * 2**20
    """For states and batches on disk; >= 0."""
    state_steps: int = 32
    """Steps between two kept states; >= 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.time_share <= 1:
            raise InvalidArgumentError("time_share", self.time_share, "be at least 0 and at most 1")
        for name, least in (("most_spikes", 1), ("state_steps", 1), ("memory_bytes", 0), ("disk_bytes", 0)):
            if getattr(self, name) < least:
                raise InvalidArgumentError(name, getattr(self, name), f"be at least {least}")
        if not self.least_seconds >= 0:
            raise InvalidArgumentError("least_seconds", self.least_seconds, "be at least 0")


@dataclasses.dataclass(frozen=True)
class High:
    """A high loss that is on disk."""

    first: int
    """First high step, from 1."""
    height: float
    """Of its peak, in standard deviations of the losses before."""


class ReplayKeeper:
    """Watches the recorded losses and keeps what belongs to the high ones.

    Attributes:
      run_dir: folder of the run.
      rows: where the train step writes its rows.
      kept: by its peak, each high loss that is on disk.
      notes: sentences on what was left out.
      interval: steps until the next look.
    """

    def __init__(self, run_dir: pathlib.Path, budget: ReplayBudget, rows: KeptRows | None = None) -> None:
        """Prepares an empty keeper; `rows` of an earlier run of the same model may serve it, too."""
        self.run_dir, self._folder, self._budget = run_dir, run_dir / FOLDER, budget
        self.rows = rows or KeptRows(budget.memory_bytes // 2)
        self.notes: list[str] = []
        self.interval = budget.state_steps
        self.kept: dict[int, High] = {}  # By its peak, what is on disk.
        self._history: collections.deque[float] = collections.deque(maxlen=_HISTORY)
        self._raised: list[float] = []
        self._states: collections.deque[tuple[int, list[npt.NDArray[Any]]]] = collections.deque(maxlen=_STATES)
        # Number of the first row, loss and rate of each of the last steps.
        self._steps: dict[int, tuple[int, int, float, float]] = {}
        self._row = 0
        # First step, last high step and height of an event that may go on.
        self._open: tuple[int, int, float] | None = None
        self._reference: list[Batch] = []
        self._left: list[dict[str, Any]] = []
        self._variables: list[Any] = []
        self._checked, self._begun = 0, 0

    @property
    def is_off(self) -> bool:
        """Whether nothing can be kept of this training."""
        return bool(self.rows.reason)

    def begin(self, model: keras.Model, step: int) -> None:
        """Starts or goes on after `step` steps; the model may have another optimizer than before."""
        self._variables = []
        self._states.clear()
        self._checked = step
        self._row = self.rows.written
        self._model = model
        self._begun = step
        if not self.is_off and self.variables and not self.is_off:
            # A rate that is too high from the start shows within a few steps.
            self._keep_state(step)

    def _keep_state(self, step: int) -> None:
        self._states.append((step, [np.array(variable.numpy()) for variable in self.variables]))

    @property
    def variables(self) -> list[Any]:
        """All variables that a step may change, each once."""
        if not self._variables:
            self._variables = state_of(self._model)
            size = sum(int(np.prod(one.shape)) * 4 for one in self._variables)
            if size * (_STATES + 1) > self._budget.memory_bytes // 2:
                self.rows.reason = f"{_STATES} states of {size:,} bytes do not fit into the memory for replays"
        return self._variables

    def on_steps(self, done: int, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Looks at the steps since the last call and keeps a state.

        Args:
          done: steps done.
          columns: `loss`, `batch_size` and `learning_rate` of the steps after the last call's. Shape (steps,) each.
        """
        if self._checked == self._begun:
            self._check_variables()
        if self.is_off or not self.variables or self.is_off:
            return
        first = self._checked + 1
        for offset in range(len(columns["loss"])):
            size = int(columns["batch_size"][offset])
            loss, rate = float(columns["loss"][offset]), float(columns["learning_rate"][offset])
            self._steps[first + offset] = (self._row, size, loss, rate)
            self._row += size
        self._checked = done
        if self._row != self.rows.written:
            self.rows.reason = "the rows that were kept are not those of the recorded steps"
            return
        largest = int(np.max(columns["batch_size"]))
        if self.rows.capacity < _FEWEST_BATCHES * largest:
            self.rows.reason = f"{_FEWEST_BATCHES} batches do not fit into {self._budget.memory_bytes // 2:,} bytes"
            return
        # Between the oldest state and the newest step all rows must be there.
        self.interval = max(1, min(self._budget.state_steps, self.rows.capacity // (3 * largest)))
        while len(self._steps) > 4 * _MOST_STEPS:
            del self._steps[next(iter(self._steps))]
        is_calm = self._look(np.arange(first, done + 1))
        if is_calm:
            self._draw(first, done)
        self._keep_state(done)

    def _check_variables(self) -> None:
        """Drops the state from before the first step where this step has made more variables."""
        if [id(one) for one in self._variables] != [id(one) for one in state_of(self._model)]:
            self._variables = []
            self._states.clear()

    def _look(self, steps: npt.NDArray[np.int64]) -> bool:
        """Keeps the events among some steps; whether there are none."""
        losses = np.array([self._steps[step][2] for step in steps.tolist()])
        if len(self._history) < _FEWEST:
            earlier = np.array(self._history)
            self._history.extend(losses[np.isfinite(losses)].tolist())
            is_wrong = _rises(earlier, losses)
            for start, end in _events(is_wrong):
                self._keep_start(steps, losses, start, end, np.concatenate([earlier, losses[:start]]))
            return True
        past = np.array(self._history)
        # The level is the recent one, and differences have no trend in them: a loss that falls is not noisy for that.
        middle, changes = float(np.median(past[-_FEWEST:])), np.diff(past) / np.sqrt(2.0)
        spread = max(robust_sd(changes), 0.3 * float(np.std(changes)), 1e-3 * abs(middle), 1e-12)
        with np.errstate(invalid="ignore"):
            is_high = ~(losses <= middle + _HIGH * spread)
        self._history.extend(losses[~is_high].tolist())
        self._raised = [*self._raised, *losses[is_high].tolist()] if is_high.all() else []
        if len(self._raised) >= _NEW_LEVEL:
            self._history.extend([one for one in self._raised if np.isfinite(one)])
            self._raised = []
        for start, end in _events(is_high):
            self._keep(steps[start : end + 1], losses[start : end + 1], middle, spread)
        return not is_high.any()

    def _keep_start(self, steps: npt.NDArray[np.int64], losses: Floats, start: int, end: int, before: Floats) -> None:
        """Keeps a rise among the first steps, which has the few losses `before` it."""
        before = before[np.isfinite(before)]
        if not len(before):
            self.leave_out(int(steps[start]), int(steps[end]), "no loss stands before it to compare with")
            return
        expected = float(np.median(before))
        spread = max(robust_sd(before), 0.1 * abs(expected), 1e-12)
        # There are no calm steps yet: ordinary rows are those of the steps that the rise did not come from.
        rows = [step for step in steps.tolist() if not steps[start] - _SUSPECT <= step <= steps[start]]
        for step in () if self._reference else rows:
            row, size = self._steps[step][:2]
            self._take(row, row + size, max(1, _REFERENCE_ROWS // len(steps)), step)
        self._keep(steps[start : end + 1], losses[start : end + 1], expected, spread)

    def _keep(self, steps: npt.NDArray[np.int64], losses: Floats, expected: float, spread: float) -> None:
        heights = np.minimum((np.where(np.isfinite(losses), losses, np.inf) - expected) / spread, _HUGE)
        if self._open is not None and steps[0] <= self._open[1] + _APART:
            opened, open_last, open_height = self._open
            # The beginning of an event tells its cause. What comes soon after is its aftermath, unless it is higher.
            if heights.max() <= open_height:
                self.leave_out(int(steps[0]), int(steps[-1]), f"it may be the aftermath of step {open_last:,}")
                if steps[0] <= open_last + 3:
                    self._open = (opened, int(steps[-1]), open_height)  # It goes on.
                return
            higher = int(np.argmax(heights > open_height))
            steps, losses, heights = steps[higher:], losses[higher:], heights[higher:]
        # Of what follows the first high loss a few steps are enough, and the more there are the less a replay stays close.
        place = int(np.argmax(heights[:_MOST_HIGH]))
        self._open = (int(steps[0]), int(steps[:_MOST_HIGH][-1]), float(heights[place]))
        self._keep_event(int(steps[0]), int(steps[place]), expected, float(heights[place]))
        if len(steps) > _MOST_HIGH:
            self._keep(steps[_MOST_HIGH:], losses[_MOST_HIGH:], expected, spread)

    def _keep_event(self, first: int, peak: int, expected: float, height: float) -> None:
        """Keeps the state before and the batches of the steps from a first high one to its peak."""
        states = [one for one in self._states if one[0] <= first - _LEAD] or [
            one for one in self._states if one[0] < first
        ]
        if not states:
            self.leave_out(first, peak, "no state from before it was kept")
            return
        # The first one stays: what comes later may be its aftermath.
        later = sorted(self.kept)[1:] if self._budget.most_spikes > 1 else list(self.kept)
        weakest = min(later, key=lambda one: self.kept[one].height, default=0)
        is_full = len(self.kept) >= self._budget.most_spikes
        if is_full and height <= self.kept[weakest].height:
            self.leave_out(first, peak, f"only {self._budget.most_spikes} high losses are kept, the highest")
            return
        state_step, state = states[-1]
        wanted = range(state_step + 1, peak + 1)
        if any(step not in self._steps for step in wanted) or len(wanted) > _MOST_STEPS:
            self.leave_out(first, peak, f"no state from within {_MOST_STEPS} steps before it was kept")
            return
        if self.rows.written - self._steps[state_step + 1][0] > self.rows.capacity:
            self._note("Rows of some high steps were overwritten before they could be kept: the batches are large.")
            self.leave_out(first, peak, "its rows were overwritten before they could be kept: the batches are large")
            return
        if is_full:
            self.drop(weakest, f"only {self._budget.most_spikes} high losses are kept, the highest")
        batches = [self.rows.read(np.arange(row, row + size)) for row, size, _, _ in map(self._steps.get, wanted)]  # type: ignore[misc]
        kept = Kept(
            first,
            peak,
            state_step,
            state,
            batches,
            joined(self._reference) if self._reference else batches[0].take(np.arange(0)),
            np.array([self._steps[step][2] for step in wanted]),
            np.array([self._steps[step][3] for step in wanted]),
            expected,
            height,
        )
        self._write(kept)

    def _draw(self, first: int, done: int) -> None:
        """Takes some rows of calm steps for comparison."""
        self._take(self._steps[first][0], self._row, _DRAWN_ROWS, done)

    def _take(self, low: int, high: int, most: int, seed: int) -> None:
        """Takes some of the rows from `low` on and below `high`."""
        low = max(low, self._row - self.rows.capacity)
        count = min(most, high - low)
        if count <= 0:
            return
        generator = np.random.default_rng(seed)
        self._reference.append(self.rows.read(low + np.sort(generator.choice(high - low, count, replace=False))))
        while sum(len(batch) for batch in self._reference) > _REFERENCE_ROWS:
            # One of the earlier draws goes, so that all of the run stays in, the newest most.
            del self._reference[int(generator.integers(0, len(self._reference) - 1))]

    def _write(self, kept: Kept) -> None:
        folder = self._folder_of(kept.peak)
        arrays = arrays_of(kept)
        size = sum(array.nbytes for array in arrays.values())
        used = sum(path.stat().st_size for path in self._folder.glob(f"*/{KEPT_NAME}"))
        if used + size > self._budget.disk_bytes:
            self._note(f"A high loss was not kept for replay: more than {self._budget.disk_bytes:,} bytes on disk.")
            self.leave_out(
                kept.first, kept.peak, f"it would have taken more than {self._budget.disk_bytes:,} bytes on disk"
            )
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(folder / KEPT_NAME, **arrays)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._note(f"A high loss could not be kept for replay: {error.strerror or error}.")
            self.leave_out(kept.first, kept.peak, f"it could not be kept: {error.strerror or error}")
            return
        self.kept[kept.peak] = High(kept.first, kept.height)

    def drop(self, peak: int, reason: str) -> None:
        """Removes what was kept of the high step `peak`, and tells why."""
        shutil.rmtree(self._folder_of(peak), ignore_errors=True)
        self.leave_out(self.kept.pop(peak).first, peak, reason)

    def read(self, peak: int) -> Kept:
        """What was kept of the high step `peak`; raises OSError or ValueError where it cannot be read."""
        with np.load(self._folder_of(peak) / KEPT_NAME, allow_pickle=False) as arrays:
            return kept_of(dict(arrays))

    def result_folder(self, peak: int) -> pathlib.Path:
        """Where the result of its replay goes."""
        return self._folder_of(peak)

    def _folder_of(self, peak: int) -> pathlib.Path:
        return self._folder / f"{peak:09d}"

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def leave_out(self, first: int, peak: int, reason: str) -> None:
        """Tells why the high steps from `first` to `peak` are not replayed."""
        if len(self._left) < _MOST_LEFT:
            self._left.append({"first_step": first, "step": peak, "reason": reason})

    def tell_of(self, is_told: Callable[[int, int], bool]) -> None:
        """Tells of no other high steps than those whose first and last are told of."""
        self._left = [one for one in self._left if is_told(one["first_step"], one["step"])]

    def write_notes(self) -> None:
        """Writes what was left out, where anything was."""
        notes = list(self.notes)
        if self.rows.reason:
            notes.append(f"Nothing was kept for replay: {self.rows.reason}.")
        if notes or self._left:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"notes": notes, "left_out": self._left}) + "\n"
                (self._folder / NOTES_NAME).write_text(text, encoding="utf-8")
            except OSError:
                return


def state_of(model: keras.Model) -> list[Any]:
    """All variables that a train step may change, each once: of model, metrics, optimizer and guard."""
    optimizer = model.optimizer
    guard = guard_of(optimizer)
    found = [*model.variables, *model.metrics_variables, *(optimizer.variables if optimizer is not None else ())]
    # A rollback restores what no gradient moves from copies of its own.
    copies = guard.protected_copies if guard is not None else []
    values = [
        getattr(variable, "value", variable) if isinstance(variable, keras.Variable) else variable for variable in found
    ]
    return list({id(value): value for value in [*values, *copies]}.values())


def _rises(earlier: Floats, losses: Floats) -> npt.NDArray[np.bool_]:
    """Which of a run's first losses are high: far above the first, or above all before them and most of the others."""
    past = np.concatenate([earlier, losses])
    finite = np.where(np.isfinite(past), past, -np.inf)
    if not np.isfinite(past).any():
        return ~np.isfinite(losses)
    first, middle = past[np.isfinite(past)][0], float(np.median(past[np.isfinite(past)]))
    spread = max(robust_sd(past[np.isfinite(past)]), 1e-3 * abs(middle), 1e-12)
    before = np.concatenate([[first], np.maximum.accumulate(finite)])[len(earlier) : len(past)]
    with np.errstate(invalid="ignore"):
        is_record = (losses > middle + _HIGH * spread) & (losses > _RECORD * before)
        return np.asarray(~(losses <= START * first) | is_record)


def _events(is_high: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last places of the high steps, those at most three apart together."""
    places = np.flatnonzero(is_high)
    if not len(places):
        return []
    breaks = np.flatnonzero(np.diff(places) > 3)
    starts, ends = places[np.append(0, breaks + 1)], places[np.append(breaks, len(places) - 1)]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
