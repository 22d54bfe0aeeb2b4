"""Causes from the recorded curve alone, each on a curve that has been given just one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.evidence import Remedy
from spikeguard.components.spike_evaluator.causes.ranking import RankedCause, causes_of, course_causes
from spikeguard.components.spike_evaluator.detection import detect_spikes
from spikeguard.components.training_curve import TrainingCurve

POINTS, AT, ROWS = 400, 300, 64


def _columns(seed: int = 0) -> dict[str, Any]:
    """A calm recording: rows' losses are exponential, two classes of three to one."""
    generator = np.random.default_rng(seed)
    rows = generator.exponential(size=(POINTS, ROWS))
    ones = generator.binomial(ROWS, 0.25, POINTS)
    return {
        "loss": rows.mean(axis=1),
        "batch_size": np.full(POINTS, ROWS),
        "learning_rate": np.full(POINTS, 0.01),
        "gradient_norm": generator.uniform(0.9, 1.1, POINTS),
        "update_ratio": np.full(POINTS, 0.002),
        "largest_input": generator.uniform(3.0, 4.0, POINTS),
        "class_counts": np.column_stack([ROWS - ones, ones]),
        "worst_loss": -np.sort(-rows, axis=1)[:, :5],
        "worst_id": generator.integers(0, 10_000, (POINTS, 5)),
        "label_mean": generator.normal(size=POINTS),
    }


def _raise_all(columns: dict[str, Any], steps: slice, factor: float) -> None:
    columns["loss"][steps] *= factor
    columns["worst_loss"][steps] *= factor


def _raise_rows(columns: dict[str, Any], *losses: float) -> None:
    """Gives the worst rows of one batch these losses."""
    columns["worst_loss"][AT, : len(losses)] = losses
    columns["loss"][AT] += sum(losses) / ROWS


def _causes(columns: dict[str, Any], **more: Any) -> tuple[RankedCause, ...]:
    curve = TrainingCurve.from_columns(**columns, **more)
    found = causes_of(curve, detect_spikes(curve))
    assert len(found) == 1
    return found[0]


def test_few_rows_with_all_of_the_loss_are_outliers() -> None:
    columns = _columns()
    _raise_rows(columns, 400.0, 300.0)
    columns["worst_id"][AT, :2] = 77, 78
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("outliers", "likely")
    assert [(row.example_id, row.step) for row in first.rows] == [(77, AT + 1), (78, AT + 1)]
    assert first.evidence["share_of_loss"] == pytest.approx(700 / (700 + ROWS), abs=0.02)
    assert first.remedy.flags == ("--outliers", "winsorize")


def test_jump_of_the_rate_before_a_lasting_rise_is_the_learning_rate() -> None:
    columns = _columns()
    columns["learning_rate"][AT - 2 :] *= 10.0
    _raise_all(columns, slice(AT, AT + 6), 8.0)
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("learning_rate", "likely")
    assert first.remedy.recipe["learning_rate"] == 0.01


def test_lasting_rise_without_anything_special_is_the_learning_rate() -> None:
    columns = _columns()
    columns["update_ratio"][AT - 2 : AT + 6] = 0.2
    _raise_all(columns, slice(AT, AT + 6), 8.0)
    assert _causes(columns)[0].cause == "learning_rate"


def test_large_inputs_with_the_loss_in_all_rows_are_normalization() -> None:
    columns = _columns()
    columns["largest_input"][AT] = 300.0
    _raise_all(columns, slice(AT, AT + 1), 20.0)
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("normalization", "likely")


def test_large_input_with_the_loss_in_one_row_is_an_outlier() -> None:
    columns = _columns()
    columns["largest_input"][AT] = 300.0
    columns["worst_loss"][AT, 0] = 800.0
    columns["loss"][AT] += 800.0 / ROWS
    assert _causes(columns)[0].cause == "outliers"


def test_surplus_of_a_class_is_imbalance() -> None:
    columns = _columns()
    columns["class_counts"][AT] = 4, 60
    _raise_all(columns, slice(AT, AT + 1), 8.0)
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("imbalance", "likely")
    assert first.evidence["rows"] == 60
    assert "60 rows of class 1" in first.text


def test_short_batch_is_the_batch_size() -> None:
    columns = _columns()
    columns["batch_size"][AT], columns["class_counts"][AT] = 4, (3, 1)
    columns["worst_loss"][AT] = 9.0, 8.0, 7.0, 6.0, np.nan
    columns["loss"][AT] = 7.5
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("batch_size", "likely")
    assert first.remedy.recipe == {"keep_short_batch": False}


def test_validation_far_above_training_late_is_regularization() -> None:
    columns = _columns()
    _raise_all(columns, slice(AT, AT + 1), 8.0)
    steps = np.arange(20, POINTS, 20)
    validation = np.concatenate([np.linspace(3.0, 1.5, 5), np.linspace(1.6, 8.0, len(steps) - 5)])
    found = _causes(columns, validation_step=steps, validation_loss=validation)
    assert (found[0].cause, found[0].status) == ("regularization", "likely")


def test_input_that_is_not_finite_is_numerics() -> None:
    columns = _columns()
    columns["largest_input"][AT] = np.nan
    _raise_all(columns, slice(AT, AT + 1), 8.0)
    assert _causes(columns)[0].cause == "numerics"


def test_nothing_is_named_when_the_log_tells_nothing() -> None:
    loss = _columns()["loss"]
    loss[AT] *= 20.0
    found = _causes({"loss": loss})
    assert (found[0].cause, found[0].status) == ("unknown", "unknown")
    assert "the log lacks the worst rows" in found[0].text
    assert all(one.score < 0.5 for one in found)


def _replay(**changed: Any) -> dict[str, Any]:
    base = {"step": AT + 1, "first_step": AT + 1, "state_step": AT - 12, "expected": 1.0, "peak": 9.0}
    figures = {"batch_size": ROWS, "suspicious_rows": 2, "suspicious_share_of_loss": 0.8, "largest_distance": 13.0}
    row = {"example_id": 7, "step": AT + 1, "loss": 300.0, "feature": "dep_delay", "value": 1301.0, "lower": -20.0}
    change = {"change": "rows_removed", "cause": "outliers", "text": "Removing 2 rows", "peak": 1.2, "left": 0.025}
    cut = {"change": "rate_cut", "cause": "learning_rate", "text": "Cutting the learning rate to 10%"}
    return {
        **base,
        "figures": figures,
        "features": [],
        "rows": [{**row, "upper": 98.0}],
        "changes": [change, {**cut, "peak": 1.3, "left": 0.04}],
        "culprit_step": AT + 1,
        "batch_effect": 1.0,
        "weight_effect": 0.0,
    } | changed


def test_cause_is_verified_when_the_replay_without_it_is_calm() -> None:
    columns = _columns()
    _raise_rows(columns, 400.0, 300.0)
    curve = TrainingCurve.from_columns(**columns)
    ((first, *_),) = causes_of(curve, detect_spikes(curve), [_replay()])
    assert (first.cause, first.status) == ("outliers", "verified")
    assert first.text == (
        "2 of 64 rows of step 301 are unlike all others and carry 80% of its loss; dep_delay of row 7 is 1,301 (fence 98)."
        " Removing 2 rows and replaying from step 288 lowers the peak from 9 to 1.2 (expected 1)"
    )


def test_lower_rate_proves_nothing_beside_a_fault_of_the_data() -> None:
    columns = _columns()
    columns["learning_rate"][AT - 2 :] *= 30.0
    _raise_rows(columns, 400.0, 300.0)
    curve = TrainingCurve.from_columns(**columns)
    ((first, *others),) = causes_of(curve, detect_spikes(curve), [_replay()])
    assert (first.cause, first.status) == ("outliers", "verified")
    rate = next(one for one in others if one.cause == "learning_rate")
    assert rate.replay is not None
    assert (rate.status, rate.replay["left"]) == ("unknown", 0.04)


def test_cause_is_not_named_when_the_replay_without_it_spikes_as_well() -> None:
    columns = _columns()
    _raise_rows(columns, 400.0, 300.0)
    curve = TrainingCurve.from_columns(**columns)
    change = {"change": "rows_removed", "cause": "outliers", "text": "Removing 2 rows", "peak": 8.9, "left": 0.99}
    (found,) = causes_of(curve, detect_spikes(curve), [_replay(changes=[change])])
    outliers = next(one for one in found if one.cause == "outliers")
    assert (outliers.status, outliers.score < 0.5) == ("unknown", True)


def test_change_that_takes_nearly_all_away_refutes_nothing() -> None:
    columns = _columns()
    _raise_rows(columns, 4e4, 3e4)
    curve = TrainingCurve.from_columns(**columns)
    # Of a model that knows its rows by heart ordinary rows are high, too: five is no spike left, and not all of it removed.
    change = {"change": "rows_removed", "cause": "outliers", "text": "Removing 2 rows", "peak": 5.0, "left": 50.0}
    replay = _replay(changes=[change], expected=0.001, peak=1100.0)
    ((first, *_),) = causes_of(curve, detect_spikes(curve), [replay])
    assert (first.cause, first.status) == ("outliers", "likely")


def test_divergence_is_explained_when_no_spike_tells_of_it() -> None:
    columns = _columns()
    columns["learning_rate"][AT - 2 :] *= 50.0
    columns["loss"][AT:] = np.nan
    curve = TrainingCurve.from_columns(**columns)
    course = course_causes(curve, detect_spikes(curve))
    assert course is not None
    assert course[0].peak_step == AT + 1
    assert course[1][0].cause == "learning_rate"


def test_causes_are_strict_json() -> None:
    columns = _columns()
    columns["worst_loss"][AT, 0] = 800.0
    columns["loss"][AT] += 800.0 / ROWS
    columns["update_ratio"][:] = np.nan
    evaluation = result.with_causes(result.evaluate(TrainingCurve.from_columns(**columns)))
    content = result.to_json(evaluation)
    (cause, *_) = content["spikes"][0]["causes"]
    assert set(cause) == {"cause", "status", "score", "text", "remedy", "evidence", "rows", "replay"}
    assert cause["remedy"] == {
        "text": Remedy(cause["remedy"]["text"]).text,
        "recipe": {"loss": "huber"},
        "pipeline": {"outliers": "winsorize"},
        "flags": ["--outliers", "winsorize"],
    }
    result.to_text(evaluation)  # Raises where something is not finite.


def test_raw_value_of_a_row_is_told_when_the_outlier_detector_knows_it() -> None:
    columns = _columns()
    columns["worst_loss"][AT, 0], columns["worst_id"][AT, 0] = 800.0, 77
    columns["loss"][AT] += 800.0 / ROWS
    curve = TrainingCurve.from_columns(**columns)
    reason = {"feature": "dep_delay", "value": 1301.0, "lower": -20.0, "upper": 98.0, "distance": 13.0}
    tables = {"outliers.json": {"top_rows": [{"split": "train", "example_id": 77, "reasons": [reason]}]}}
    ((first, *_),) = causes_of(curve, detect_spikes(curve), tables=tables)
    assert "dep_delay of row 77 is 1,301 (fence 98)" in first.text
    assert (first.rows[0].feature, first.rows[0].upper) == ("dep_delay", 98.0)


def test_rows_of_a_rare_class_with_the_loss_are_imbalance() -> None:
    columns = _columns()
    columns["class_counts"] = np.column_stack([np.full(POINTS, ROWS), np.zeros(POINTS, int)])
    columns["class_counts"][::40] = ROWS - 1, 1
    columns["class_counts"][AT] = ROWS - 1, 1
    columns["worst_loss"][AT, 0] = 300.0
    columns["loss"][AT] += 300.0 / ROWS
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("imbalance", "likely")
    assert first.text.startswith("1 rows of class 1, which only 0.0% of the rows have")


def test_row_of_a_rare_class_alone_in_its_batch_is_the_batch_size() -> None:
    columns = _columns()
    columns["class_counts"] = np.column_stack([np.full(POINTS, ROWS), np.zeros(POINTS, int)])
    columns["class_counts"][::40] = ROWS - 1, 1
    columns["class_counts"][AT] = 0, 1
    columns["batch_size"][AT] = 1
    columns["worst_loss"][AT] = 60.0, *([np.nan] * 4)
    columns["loss"][AT] = 60.0
    calm = {"change": "usual_classes", "cause": "imbalance", "text": "Dealing anew", "peak": 1.0, "left": 0.0}
    figures = {"batch_size": 1, "suspicious_rows": 0, "rare_share_of_loss": 1.0, "largest_distance": 0.5}
    replay = _replay(changes=[calm], figures={**figures, "sampling_chance": 0.02}, rows=[])
    # As of a detector that explains neither short batches nor classes.
    findings = detect_spikes(TrainingCurve.from_columns(loss=columns["loss"]))
    ((first, *_),) = causes_of(TrainingCurve.from_columns(**columns), findings, [replay])
    assert first.cause == "batch_size"


def test_concentrated_rows_that_change_with_each_step_are_no_outliers() -> None:
    columns = _columns()
    columns["worst_loss"][AT : AT + 6, 0] = 800.0
    columns["loss"][AT : AT + 6] += 800.0 / ROWS
    assert all(one.score < 0.6 for one in _causes(columns) if one.cause == "outliers")


def test_rise_before_the_loss_settles_is_explained() -> None:
    columns = _columns()
    columns["largest_input"][:] *= 300.0
    columns["loss"][:12] *= 1.0 + 500.0 * np.arange(12) * (np.arange(12) < 6)
    curve = TrainingCurve.from_columns(**columns)
    findings = detect_spikes(curve)
    assert findings.spikes == ()
    course = course_causes(curve, findings)
    assert course is not None
    assert (course[0].peak_step <= 6, course[0].recovered) == (True, True)
    assert (course[1][0].cause, course[1][0].status) == ("normalization", "likely")


def test_high_rows_after_a_leap_of_the_weights_are_no_outliers() -> None:
    columns = _columns()
    columns["learning_rate"][AT - 1 :] *= 30.0
    _raise_rows(columns, 400.0, 300.0)
    first, *others = _causes(columns)
    # With the weights hardly moved before it, it is the batch that is high.
    assert first.cause == "outliers"
    columns["update_ratio"][AT - 1] = 0.2
    first, *others = _causes(columns)
    assert (first.cause, first.status) == ("learning_rate", "likely")
    assert all(one.score < 0.5 for one in others)


def test_rate_that_grows_over_many_steps_is_the_learning_rate() -> None:
    columns = _columns()
    columns["learning_rate"][200:] *= 1.05 ** np.arange(POINTS - 200)
    columns["update_ratio"][AT - 1] = 0.2
    _raise_all(columns, slice(AT, AT + 6), 8.0)
    first = _causes(columns)[0]
    assert (first.cause, first.status) == ("learning_rate", "likely")
    assert first.text.startswith("the learning rate has grown to ")


def test_rise_of_the_rate_stays_verified_beside_rows_when_the_batch_is_not_high_by_itself() -> None:
    columns = _columns()
    columns["learning_rate"][AT - 2 :] *= 30.0
    _raise_rows(columns, 400.0, 300.0)
    curve = TrainingCurve.from_columns(**columns)
    (causes,) = causes_of(curve, detect_spikes(curve), [_replay(batch_effect=0.0, weight_effect=1.0)])
    assert {one.cause for one in causes if one.status == "verified"} == {"outliers", "learning_rate"}


@pytest.mark.parametrize(("distance", "first"), [(0.4, "learning_rate"), (13.0, "outliers")])
def test_rows_with_nothing_unusual_but_their_loss_come_after_a_rate_that_has_risen(distance: float, first: str) -> None:
    columns = _columns()
    columns["learning_rate"][AT - 2 :] *= 30.0
    _raise_all(columns, slice(AT, AT + 6), 9.0)
    curve = TrainingCurve.from_columns(**columns)
    replay = _replay(batch_effect=0.1, weight_effect=0.9)
    replay["figures"]["largest_distance"] = distance
    (found,) = causes_of(curve, detect_spikes(curve), [replay])
    assert (found[0].cause, found[0].status) == (first, "verified")
    assert {one.cause for one in found if one.status != "unknown"} == {"outliers", "learning_rate"}


def test_cause_that_is_verified_for_the_spike_before_gains_weight() -> None:
    columns = _columns()
    for first in (AT - 30, AT):
        _raise_all(columns, slice(first, first + 6), 8.0)
        columns["update_ratio"][first - 1 : first + 5] = 0.05
    curve = TrainingCurve.from_columns(**columns)
    findings = detect_spikes(curve)
    alone = causes_of(curve, findings)[1]
    cut = {"change": "rate_cut", "cause": "learning_rate", "text": "Cutting the learning rate to 10%", "peak": 1.3}
    figures = {"batch_size": ROWS, "suspicious_rows": 0, "suspicious_share_of_loss": 0.0, "largest_distance": 0.4}
    changed = {"step": AT - 29, "first_step": AT - 29, "changes": [{**cut, "left": 0.04}], "figures": figures}
    before, after = causes_of(curve, findings, [_replay(**changed, batch_effect=0.0, weight_effect=1.0)])
    assert (before[0].cause, before[0].status) == ("learning_rate", "verified")
    assert (after[0].cause, after[0].status) == ("learning_rate", "likely")
    (was,) = [one for one in alone if one.cause == "learning_rate"]
    assert after[0].score == pytest.approx(min(0.95, was.score + 0.25))
    assert after[0].text.endswith(f"; it is verified for the spike of step {findings.spikes[0].peak_step}")


def test_spike_out_of_a_ruined_level_has_the_cause_of_what_ruined_it() -> None:
    columns = _columns()
    columns["learning_rate"][AT - 102 : AT - 98] *= 30.0
    _raise_all(columns, slice(AT - 100, None), 1e4)
    columns["loss"][AT - 100 : AT - 95] *= 100.0
    _raise_rows(columns, 1e9, 1e9)
    curve = TrainingCurve.from_columns(**columns)
    findings = detect_spikes(curve)
    first, *_, last = causes_of(curve, findings)
    assert (first[0].cause, findings.spikes[-1].peak_step) == ("learning_rate", AT + 1)
    assert (last[0].cause, last[0].status, last[1].cause) == ("learning_rate", "likely", "outliers")
    assert last[0].text.startswith("the loss has not come back from the spike of step ")
