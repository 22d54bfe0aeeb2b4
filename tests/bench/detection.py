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
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest

from tests.bench import RESULTS
from tests.bench.detection_curves import KINDS, REAL, UNJUDGED_SHARE, curves
from tests.bench.detection_report import report
from tests.bench.detection_scores import LARGE, OURS, RULES, Score, judge, measure, measure_speed, merged


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
    notes = str(__doc__).split("\n\n    python")[0].rsplit("\n\n", 1)[0]
    report(scores, speed, given.output, given.seeds, notes)
    return scores


@pytest.mark.bench
def test_detection() -> None:
    assert len(main([])) == len(KINDS) * len(RULES)
    content = json.loads((RESULTS / "detection.json").read_text())
    assert set(content["summary"]) == set(RULES)
    assert all(0 <= one["f1"] <= 1 for one in content["summary"].values())
    assert content["speed"]["parts"][0]["steps"] == LARGE


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
