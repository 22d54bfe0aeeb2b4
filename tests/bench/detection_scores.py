"""How each rule does on each curve of the detection bench, and how long it takes."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import queue as queues
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from spikeguard.components.spike_evaluator.detection import detect_spikes
from spikeguard.components.training_curve import TrainingCurve
from tests.bench import detection_curves, detection_peers
from tests.bench.detection_curves import UNJUDGED_SHARE, Curve, curves

Steps = tuple[int, int]
Rule = Callable[[Curve, TrainingCurve], list[Steps]]

OURS, ORACLE = "spikeguard", "oracle"
_MERGED_STEPS, _SLACK_STEPS, _SLACK_SHARE = 5, 2, 0.05
_PELT_POINTS = 1_000
LARGE, _TIMED = 1_000_000, 100_000
_PELT_SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000)


def _spikeguard(_: Curve, training: TrainingCurve) -> list[Steps]:
    return [(spike.start_step, spike.end_step) for spike in detect_spikes(training).spikes]


def _oracle(curve: Curve, training: TrainingCurve) -> list[Steps]:
    judged = slice(math.ceil(UNJUDGED_SHARE * len(training)), None)
    threshold = np.max(((curve.twin.loss - curve.level) / curve.sd)[judged])
    return merged(np.flatnonzero((training.loss - curve.level) / curve.sd > threshold) + 1)


def _pelt(_: Curve, training: TrainingCurve) -> list[Steps]:
    # Pelt looks at every fifth point only.
    return merged(detection_peers.pelt(training.loss) + 1, widened=2)


def _flagging(rule: Callable[[detection_peers.Floats], detection_peers.Flags]) -> Rule:
    return lambda _, training: merged(np.flatnonzero(rule(training.loss)) + 1)


PEERS: dict[str, Rule] = {name: _flagging(rule) for name, rule in detection_peers.PEERS.items()}
APART: dict[str, Rule] = {
    "dlib_slope": _flagging(detection_peers.dlib_slope),
    "pelt, short": _pelt,
    "spikeguard, short": _spikeguard,
}
RULES: dict[str, Rule] = {OURS: _spikeguard, **PEERS, **APART, ORACLE: _oracle}


def merged(steps: Iterable[int], widened: int = 0) -> list[Steps]:
    """First and last step of each run of flagged steps that lie at most 5 apart; ends widened afterwards."""
    runs: list[Steps] = []
    for step in map(int, steps):
        if runs and step - runs[-1][1] <= _MERGED_STEPS:
            runs[-1] = (runs[-1][0], step)
        else:
            runs.append((step, step))
    return [(first - widened, last + widened) for first, last in runs]


def judge(detected: Sequence[Steps], events: Sequence[Steps], points: int, is_epochs: bool) -> tuple[list[int], int]:
    """Delay of each spike found, and the number of false detections, over the judged part of a curve."""
    slack = max(1, round(_SLACK_SHARE * points)) if is_epochs else _SLACK_STEPS
    begin = math.ceil(UNJUDGED_SHARE * points) + 1
    delays: dict[Steps, int] = {}
    false = 0
    for first, last in detected:
        if last < begin:
            continue
        overlapped = [event for event in events if first <= event[1] + slack and last >= event[0] - slack]
        false += not overlapped
        fresh = [event for event in overlapped if event not in delays]
        if fresh:
            delays[fresh[0]] = max(first, begin) - fresh[0][0]
    return list(delays.values()), false


@dataclasses.dataclass
class Score:
    """One rule on the curves of one kind."""

    rule: str
    kind: str
    runs: int = 0
    events: int = 0
    found: int = 0
    false: int = 0
    """On the curves with spikes."""
    twins: int = 0
    twins_alarmed: int = 0
    twin_alarms: int = 0
    twin_steps: int = 0
    """Judged ones."""
    delays: list[int] = dataclasses.field(default_factory=list)

    def add(self, curve: Curve) -> None:
        """Runs the rule on a curve and, where no earlier curve had it, on its twin."""
        points, is_epochs = len(curve.training), curve.training.kind == "epoch"
        delays, false = judge(RULES[self.rule](curve, curve.training), curve.events, points, is_epochs)
        self.runs += 1
        self.events += len(curve.events)
        self.found += len(delays)
        self.false += false
        self.delays += delays
        if curve.is_twin_new:
            _, alarms = judge(RULES[self.rule](curve, curve.twin), (), points, is_epochs)
            self.twins += 1
            self.twins_alarmed += alarms > 0
            self.twin_alarms += alarms
            self.twin_steps += points - math.ceil(UNJUDGED_SHARE * points)

    @property
    def precision(self) -> float:
        """1 where nothing was detected."""
        return self.found / (self.found + self.false) if self.found + self.false else 1.0

    @property
    def recall(self) -> float:
        """1 where nothing was injected."""
        return self.found / self.events if self.events else 1.0

    @property
    def f1(self) -> float:
        together = self.events + self.found + self.false
        return 2 * self.found / together if together else 1.0


def measure(kinds: Sequence[str], seeds: int) -> list[Score]:
    """Scores of every rule on every kind, in the order of the kinds."""
    scores = []
    for kind in kinds:
        started = time.monotonic()
        found = list(curves(kind, seeds))
        for rule in RULES:
            score = Score(rule, kind)
            for curve in found:
                if "short" not in rule or len(curve.training) <= _PELT_POINTS:
                    score.add(curve)
            scores.append(score)
        print(f"{kind}: {detection_curves.describe(found)}, {time.monotonic() - started:.0f} s", flush=True)
    return scores


def measure_speed(limit_seconds: float, steps: int = LARGE) -> dict[str, Any]:
    """Seconds on one long curve; Pelt gets the whole of it and growing parts, each within the limit (None: not finished)."""
    whole = detection_curves.large(steps)
    context = multiprocessing.get_context("spawn")
    parts = []
    for size in (steps, *(size for size in _PELT_SIZES if size < steps)):
        queue = context.Queue()
        process = context.Process(target=_time_pelt, args=(queue, whole.loss[:size]))
        process.start()
        queue.get(timeout=120)  # It has imported what it needs.
        try:
            seconds = queue.get(timeout=limit_seconds)
        except queues.Empty:
            seconds = None
        process.kill()
        process.join()
        ours = _seconds(detect_spikes, TrainingCurve.from_losses(whole.loss[:size]))
        parts.append({"steps": size, "spikeguard": ours, "pelt": seconds})
        if size < steps and seconds is None:
            break
    timed = whole.loss[: min(_TIMED, steps)]
    rules = {**detection_peers.PEERS, "dlib_slope": detection_peers.dlib_slope}
    microseconds = {name: 1e6 * _seconds(rule, timed) / len(timed) for name, rule in rules.items()}
    microseconds[OURS] = 1e6 * _seconds(detect_spikes, TrainingCurve.from_losses(timed)) / len(timed)
    return {"limit_seconds": limit_seconds, "parts": parts, "microseconds_per_step": microseconds}


def _time_pelt(queue: Any, losses: detection_peers.Floats) -> None:
    detection_peers.pelt(losses[:20])
    queue.put("ready")
    started = time.perf_counter()
    detection_peers.pelt(losses)
    queue.put(time.perf_counter() - started)


def _seconds(function: Callable[[Any], Any], argument: Any) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        function(argument)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
