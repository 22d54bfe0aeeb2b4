"""How well the detector finds spikes, beside the rules that others use: events, false alarms, time.

Each rule sees each curve of `detection_curves` with and without its injected spikes. Flags at most 5 steps apart are one
detection. A detection finds the first injected spike, widened by 2 steps (epochs: 5 % of the points, at least 1), that it
overlaps and that is not yet found; one that overlaps none is false; more of the same spike are neither. So an alarm that
never ends finds one spike. Counts are pooled over the curves of a kind, precision, recall and F1 computed per kind, and
"macro" is their mean over kinds. False alarms are those on the twins. A delay is the first step detected less the first
injected: of an offline rule it says where the spike was placed, not when it was known.

`oracle` is no rule: it knows level and noise of each step, and takes the twin's largest deviation as its threshold. It
shows what the losses alone leave to find; knowing batch composition one can do better. dlib's slope test answers another
question, and Pelt, whose change points count as detections, takes seconds per thousand points and is run on curves of at most 1,000 only: both are apart.

A subset, while tuning, in some seconds:

    python -m tests.bench.detection --seeds 5 --kinds gaussian,rare_class --no-speed --output /tmp/detection.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import queue as queues
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from scipy import stats

from spikeguard.components.spike_evaluator.detection import DetectionConfig, detect_spikes
from spikeguard.components.training_curve import TrainingCurve
from tests.bench import detection_curves, detection_peers
from tests.bench.detection_curves import KINDS, REAL, UNJUDGED_SHARE, Curve, curves

RESULTS = pathlib.Path(__file__).parent.parent.parent / "bench_results"
Steps = tuple[int, int]
Rule = Callable[[Curve, TrainingCurve], list[Steps]]

OURS, ORACLE = "spikeguard", "oracle"
_MERGED_STEPS, _SLACK_STEPS, _SLACK_SHARE = 5, 2, 0.05
_PELT_POINTS = 1_000
_LARGE, _TIMED = 1_000_000, 100_000
_PELT_SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
_GOAL_MARGIN, _GOAL_SECONDS, _GOAL_RATIO = 0.15, 1.0, 20.0


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


def measure_speed(limit_seconds: float, steps: int = _LARGE) -> dict[str, Any]:
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


def summarize(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """By rule: macro means over the kinds, and false alarms over all twins."""
    found = {}
    for rule in RULES:
        own = [score for score in scores if score.rule == rule and score.runs]
        if not own:
            continue
        twins, alarmed = sum(score.twins for score in own), sum(score.twins_alarmed for score in own)
        alarms, delays = sum(score.twin_alarms for score in own), [delay for score in own for delay in score.delays]
        found[rule] = {
            **{name: statistics.mean(getattr(score, name) for score in own) for name in ("f1", "precision", "recall")},
            "delay_median": statistics.median(delays) if delays else None,
            "delay_90": float(np.quantile(delays, 0.9)) if delays else None,
            "twins": twins,
            "twins_alarmed": alarmed,
            "alarms_per_10000_steps": 1e4 * alarms / max(1, sum(score.twin_steps for score in own)),
            "alarms_per_run": alarms / twins if twins else None,
            # Of the share of runs with an alarm: one-sided, exact.
            "alarmed_at_most": float(stats.beta.ppf(0.95, alarmed + 1, twins - alarmed)) if alarmed < twins else 1.0,
        }
    return found


def goals(summaries: dict[str, dict[str, Any]], speed: dict[str, Any] | None) -> list[tuple[str, str, bool]]:
    """What was to be reached, what was, and whether that is enough."""
    best = max(PEERS, key=lambda name: summaries[name]["f1"])
    ours, rate = summaries[OURS], DetectionConfig().false_alarms_per_run
    margin = ours["f1"] - summaries[best]["f1"]
    found = [
        (
            f"F1 at least {_GOAL_MARGIN} above the best peer",
            f"{ours['f1']:.3f}, {best} {summaries[best]['f1']:.3f}: {margin:+.3f}",
            margin >= _GOAL_MARGIN,
        ),
        (
            f"false alarms on twins below {rate} per run",
            f"{ours['alarms_per_run']:.4f} per run; {ours['twins_alarmed']} of {ours['twins']} runs with any, a share "
            f"of at most {ours['alarmed_at_most']:.4f} with 95 % confidence",
            ours["alarms_per_run"] < rate,
        ),
    ]
    if not speed:
        return found
    whole, *parts = speed["parts"]
    found.append(
        (
            f"{whole['steps']:,} steps in under {_GOAL_SECONDS:g} s",
            f"{whole['spikeguard']:.3f} s",
            whole["spikeguard"] < _GOAL_SECONDS,
        )
    )
    text = _times_faster(whole, speed["limit_seconds"])
    finished = [part for part in parts if part["pelt"]]
    if finished:
        text += f"; at {finished[-1]['steps']:,} steps {_times_faster(finished[-1], speed['limit_seconds'])}"
    ratio = (whole["pelt"] or speed["limit_seconds"]) / whole["spikeguard"]
    found.append((f"at least {_GOAL_RATIO:g} times faster than Pelt on the same curve", text, ratio >= _GOAL_RATIO))
    return found


def _times_faster(part: dict[str, Any], limit_seconds: float) -> str:
    """The ratio; where Pelt was stopped, the least that it can be."""
    if part["pelt"]:
        return f"{part['pelt'] / part['spikeguard']:.0f} times"
    return f"over {limit_seconds / part['spikeguard']:.0f} times (Pelt stopped after {limit_seconds:g} s)"


def sections(scores: Sequence[Score], speed: dict[str, Any] | None) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and cells of every table."""
    summaries, kinds = summarize(scores), list(dict.fromkeys(score.kind for score in scores))
    by_key = {(score.rule, score.kind): score for score in scores}
    times = speed["microseconds_per_step"] if speed else {}
    rows = [
        [
            rule + (" (apart)" if rule in (*APART, ORACLE) else ""),
            *(f"{one[name]:.3f}" for name in ("f1", "precision", "recall")),
            *("" if one[name] is None else f"{one[name]:g}" for name in ("delay_median", "delay_90")),
            f"{one['alarms_per_10000_steps']:.2f}",
            f"{one['twins_alarmed']} of {one['twins']}",
            f"{times[rule]:.2f}" if rule in times else "",
        ]
        for rule, one in summaries.items()
    ]
    header = ["rule", "F1", "precision", "recall", "delay median", "delay 90 %"]
    header += ["twin alarms per 10,000", "twins alarmed", "µs per step"]
    tables = [(f"Macro over {len(kinds)} kinds", header, rows)]
    rows = []
    for kind in kinds:
        ours, oracle = by_key[OURS, kind], by_key[ORACLE, kind]
        best = max((by_key[name, kind] for name in PEERS), key=lambda score: score.f1)
        numbers = [f"{value:.2f}" for value in (ours.f1, ours.precision, ours.recall)]
        alarms = [str(ours.false), f"{ours.twins_alarmed} of {ours.twins}", str(ours.twin_alarms)]
        rows.append([kind, str(ours.events), *numbers, *alarms, f"{best.f1:.2f} {best.rule}", f"{oracle.f1:.2f}"])
    header = ["kind", "spikes", "F1", "precision", "recall", "false", "twins alarmed", "twin alarms"]
    header += ["best peer", "oracle F1"]
    tables.append((f"{OURS} by kind", header, rows))
    for title, name in (("F1", "f1"), ("Twin alarms", "twin_alarms")):
        digits = ".2f" if name == "f1" else "d"
        rows = [[kind, *(f"{getattr(by_key[rule, kind], name):{digits}}" for rule in PEERS)] for kind in kinds]
        tables.append((f"{title} of the peers by kind", ["kind", *PEERS], rows))
    if speed:
        rows = [
            [
                f"{part['steps']:,}",
                f"{part['spikeguard']:.4f}",
                f"{part['pelt']:.2f}" if part["pelt"] else "not finished",
                _times_faster(part, speed["limit_seconds"]),
            ]
            for part in speed["parts"]
        ]
        tables.append(("Seconds on the first steps of one curve", ["steps", OURS, "Pelt", "faster"], rows))
    reached = [[name, text, "yes" if is_met else "no"] for name, text, is_met in goals(summaries, speed)]
    return [*tables, ("Goals", ["goal", "reached", "met"], reached)]


def report(scores: Sequence[Score], speed: dict[str, Any] | None, path: pathlib.Path, seeds: int) -> None:
    """Prints the tables; writes them as Markdown beside the JSON at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    console, parts = Console(width=200), []
    for title, header, rows in sections(scores, speed):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    notes = str(__doc__).split("\n\n    python")[0].rsplit("\n\n", 1)[0]
    path.with_suffix(".md").write_text(f"{notes}\n\n" + "\n".join(parts))
    summaries = summarize(scores)
    rows = [
        {**dataclasses.asdict(score), "precision": score.precision, "recall": score.recall, "f1": score.f1}
        for score in scores
    ]
    content = {
        "goals": [{"goal": goal, "reached": text, "met": bool(met)} for goal, text, met in goals(summaries, speed)],
        "summary": summaries,
        "scores": rows,
        "speed": speed,
        "seeds": seeds,
        "load": os.getloadavg(),
    }
    path.write_text(json.dumps(content, allow_nan=False, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> list[Score]:
    """Measures and reports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="synthetic curves per kind; real kinds have 10 at most")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--no-real", action="store_true", help="leave out the kinds that train something first")
    parser.add_argument("--no-speed", action="store_true", help="leave out the times")
    parser.add_argument("--pelt-seconds", type=float, default=60.0, help="time limit of each run of Pelt for its time")
    parser.add_argument(
        "--output", type=pathlib.Path, default=RESULTS / "detection.json", help="the .md goes beside it"
    )
    given = parser.parse_args(argv)
    if given.seeds < 1:
        parser.error(f"--seeds must be at least 1; got {given.seeds}.")
    kinds = given.kinds.split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        parser.error(f"--kinds must name some of {', '.join(KINDS)}; got {', '.join(unknown)}.")
    kinds = [kind for kind in kinds if kind not in REAL or not given.no_real]
    if not kinds:
        parser.error("--kinds must name a synthetic kind where --no-real is given.")
    scores = measure(kinds, given.seeds)
    speed = None if given.no_speed else measure_speed(given.pelt_seconds)
    report(scores, speed, given.output, given.seeds)
    return scores


@pytest.mark.bench
def test_detection() -> None:
    assert len(main([])) == len(KINDS) * len(RULES)
    content = json.loads((RESULTS / "detection.json").read_text())
    assert set(content["summary"]) == set(RULES)
    assert all(0 <= one["f1"] <= 1 for one in content["summary"].values())
    assert content["speed"]["parts"][0]["steps"] == _LARGE


@pytest.mark.e2e
def test_smoke_of_the_detection_bench(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "detection.json"
    scores = main(["--seeds", "2", "--kinds", "epochs,through_zero", "--no-speed", "--output", str(path)])
    assert [(score.kind, score.rule) for score in scores] == [
        (kind, rule) for kind in ("epochs", "through_zero") for rule in RULES
    ]
    assert {score.runs for score in scores if score.rule == OURS} == {2}
    content = json.loads(path.read_text())
    assert len(content["scores"]) == len(scores)
    assert len(content["goals"]) == 2
    assert path.with_suffix(".md").read_text().count("\n| epochs |") == 3


@pytest.mark.e2e
def test_smoke_of_the_speed_bench() -> None:
    speed = measure_speed(limit_seconds=60.0, steps=1_500)
    assert [part["steps"] for part in speed["parts"]] == [1_500, 1_000]
    assert all(part["pelt"] > 0 and part["spikeguard"] > 0 for part in speed["parts"])


def test_flags_are_merged_when_five_steps_apart() -> None:
    assert merged([3, 8, 14, 15]) == [(3, 8), (14, 15)]
    assert merged([30], widened=2) == [(28, 32)]


def test_detections_are_judged_by_overlap_with_the_widened_spike() -> None:
    events = [(100, 109), (200, 200)]
    assert judge([(98, 98), (103, 104), (202, 210)], events, 1000, is_epochs=False) == ([-2, 2], 0)
    assert judge([(97, 97), (112, 112)], events, 1000, is_epochs=False) == ([], 2)
    # One detection finds one spike, however long it is; a second in the same spike finds the next that it overlaps.
    assert judge([(90, 400)], events, 1000, is_epochs=False) == ([-10], 0)
    assert judge([(100, 100), (105, 400)], events, 1000, is_epochs=False) == ([0, -95], 0)
    # Nothing counts in the first 50 steps; what goes on after them does, from there.
    assert judge([(1, 50)], events, 1000, is_epochs=False) == ([], 0)
    assert judge([(1, 51)], events, 1000, is_epochs=False) == ([], 1)
    assert judge([(1, 300)], events, 1000, is_epochs=False) == ([-49], 0)
    assert judge([(17, 17)], [(20, 20)], 60, is_epochs=True) == ([-3], 0)
    assert judge([(18, 18)], [(20, 20)], 20, is_epochs=True) == ([], 1)


def test_f1_counts_found_missed_and_false() -> None:
    score = Score("soup", "smooth", runs=1, events=4, found=3, false=1)
    assert (score.precision, score.recall, score.f1) == (0.75, 0.75, 0.75)
    assert Score("soup", "smooth").f1 == 1.0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REAL])
def test_curve_differs_from_its_twin_in_its_spikes_only(kind: str) -> None:
    for curve, again in zip(curves(kind, 4), curves(kind, 4), strict=True):
        np.testing.assert_array_equal(curve.training.loss, again.training.loss)
        added = curve.training.loss - curve.twin.loss
        is_event = np.zeros(len(added), bool)
        for first, last in curve.events:
            assert first > UNJUDGED_SHARE * len(added)
            assert np.max((added / curve.sd)[first - 1 : last]) > 0
            is_event[first - 1 : last] = True
        last = curve.events[-1][1] if curve.events else 0
        assert not added[:last][~is_event[:last]].any()
        # After the last spike nothing is added, or, where the loss stays up, the same everywhere.
        assert np.ptp(added[last:]) < 1e-9 * (1 + np.abs(added).max()) if last < len(added) else True


if __name__ == "__main__":
    main()
