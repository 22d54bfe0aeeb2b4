"""Causes of spikes of the validation loss."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.advice import advise
from spikeguard.components.training_curve import TrainingCurve

STEPS, EVERY, AT = 400, 10, 300


def _evaluation(train_level: float = 1.0, **columns: Any) -> result.Evaluation:
    """A run whose validation loss spikes at step `AT`."""
    generator = np.random.default_rng(0)
    passes = np.arange(EVERY, STEPS + 1, EVERY)
    validation = 1.0 + 0.02 * generator.normal(size=len(passes))
    validation[passes == AT] = 5.0
    loss = train_level * (1.0 + 0.05 * generator.normal(size=STEPS))
    loss[columns.pop("spike", 0)] *= columns.pop("factor", 1.0)
    curve = TrainingCurve.from_columns(loss=loss, validation_step=passes, validation_loss=validation, **columns)
    return result.with_causes(result.evaluate(curve))


def _first(evaluation: result.Evaluation) -> Any:
    ((spike, causes),) = evaluation.explained_validation_spikes
    assert spike.peak_step == AT
    return causes[0]


def test_spike_of_the_training_on_the_way_tells_its_cause() -> None:
    rates = np.full(STEPS, 0.01)
    rates[AT - 6 :] = 0.3
    first = _first(_evaluation(spike=AT - 5, factor=20.0, learning_rate=rates))
    assert (first.cause, first.status) == ("learning_rate", "likely")
    assert first.text.startswith(f"the training loss spiked at step {AT - 4} since the validation before: ")


def test_jump_of_the_rate_is_named_when_the_training_stayed_calm() -> None:
    rates = np.full(STEPS, 0.01)
    rates[AT - 4 :] = 0.1
    first = _first(_evaluation(learning_rate=rates))
    assert (first.cause, first.status) == ("learning_rate", "likely")
    assert first.remedy.recipe["learning_rate"] == 0.01


def test_rate_that_rose_a_while_before_is_named() -> None:
    rates = np.full(STEPS, 0.01)
    rates[AT - 60 :] = 0.1
    first = _first(_evaluation(learning_rate=rates))
    assert (first.cause, first.status) == ("learning_rate", "likely")
    assert first.text.startswith("the learning rate has grown to 10.0 times the 0.01")


def test_rows_of_one_class_since_the_validation_before_are_imbalance() -> None:
    ones = np.random.default_rng(1).binomial(32, 0.3, STEPS)
    ones[AT - EVERY : AT] = 32
    first = _first(_evaluation(class_counts=np.column_stack([32 - ones, ones])))
    assert (first.cause, first.status) == ("imbalance", "likely")
    assert first.text.startswith("320 of the 320 rows since the validation before are of class 1")


def test_fewer_rows_since_the_validation_before_are_the_batch_size() -> None:
    sizes = np.full(STEPS, 32)
    sizes[AT - EVERY : AT] = 2
    first = _first(_evaluation(batch_size=sizes))
    assert (first.cause, first.status) == ("batch_size", "likely")
    assert first.text == "the batches since the validation before have 2 rows, not 32"


def test_gap_late_in_the_run_is_regularization_and_is_advised() -> None:
    evaluation = _evaluation(train_level=0.1)
    first = _first(evaluation)
    assert (first.cause, first.status) == ("regularization", "likely")
    assert first.evidence["validation_over_train"] == pytest.approx(10.0, rel=0.1)
    (written,) = json.loads(result.to_text(evaluation))["validation_spikes"]
    assert written["causes"][0]["cause"] == "regularization"
    assert [(one.cause, one.steps) for one in advise(evaluation)] == [("regularization", (AT,)), ("guard", ())]


def test_nothing_is_named_when_nothing_stands_out() -> None:
    assert [one.cause for one in _evaluation().validation_causes[0]] == ["unknown"]
