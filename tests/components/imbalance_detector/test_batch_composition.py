"""Real orders of rows, batched: what is shuffled passes, what is not is named with its steps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.imbalance_detector.batch_composition import BatchFinding, check_batches
from spikeguard.components.imbalance_detector.measured_jitter import measured_jitter
from spikeguard.components.spike_evaluator.result import evaluate, to_json
from spikeguard.components.training_curve import TrainingCurve

Order = Callable[[np.random.Generator], np.ndarray]


def _run(labels: np.ndarray, order: Order, batch_size: int, epochs: int, seed: int = 0) -> TrainingCurve:
    """What a recorder keeps of a run whose epochs take the rows in such orders; short batches are dropped."""
    random, classes = np.random.default_rng(seed), int(labels.max()) + 1
    steps = len(labels) // batch_size
    batches = [labels[order(random)][: steps * batch_size].reshape(steps, batch_size) for _ in range(epochs)]
    flat = np.concatenate(batches)
    counts = np.stack([(flat == class_id).sum(axis=1) for class_id in range(classes)], axis=1)
    return TrainingCurve.from_columns(
        loss=1 + 0.1 * random.normal(size=len(flat)),
        class_counts=counts,
        batch_size=np.full(len(flat), batch_size),
        label_mean=flat.mean(axis=1),
        epoch=np.repeat(np.arange(epochs), steps),
    )


def _buffered(rows: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """The order that a shuffle buffer of so many rows gives."""
    buffer, order = list(rows[:size]), []
    for row in rows[size:]:
        place = random.integers(size)
        order.append(buffer[place])
        buffer[place] = row
    return np.array([*order, *random.permutation(buffer)])


LABELS = {
    "two even": np.repeat([0, 1], [1500, 1500]),
    "one in forty": np.repeat([0, 1], [3900, 100]),
    "ten": np.repeat(np.arange(10), 180),
    "ten, one thinned to 1 %": np.repeat(np.arange(10), [180] * 9 + [16]),
}


@pytest.mark.parametrize("name", LABELS)
def test_sorted_rows_are_recognised(name: str) -> None:
    labels = LABELS[name]
    (found,) = check_batches(_run(labels, lambda _: np.arange(len(labels)), 32, 5))
    assert found.fault == "sorted"
    assert found.p_value < 1e-6


def test_false_alarms_are_at_most_one_in_a_hundred() -> None:
    alarms = runs = 0
    for seed, labels in itertools.product(range(100), LABELS.values()):
        rows = np.arange(len(labels))
        curve = _run(labels, lambda random, rows=rows: random.permutation(rows), 32, 3, seed)  # type: ignore[misc]
        without_counts = dataclasses.replace(curve, class_counts=np.empty((len(curve), 0), np.int64))
        alarms += len(check_batches(curve)) + len(check_batches(without_counts))
        runs += 2
    assert alarms <= 0.01 * runs


def test_steps_are_those_of_the_unshuffled_stretch() -> None:
    labels = LABELS["two even"]
    curve = _run(labels, lambda random: random.permutation(len(labels)), 30, 4)
    counts = curve.class_counts.copy()
    counts[200:220] = [30, 0]
    counts[220:240] = [0, 30]
    (found,) = check_batches(dataclasses.replace(curve, class_counts=counts))
    assert set(found.steps) <= set(range(201, 241))
    assert len(found.steps) == 40
    assert "(steps 201 to 240)" in found.text


def test_small_buffer_is_told_from_sorted_data() -> None:
    labels = LABELS["ten"]
    (found,) = check_batches(_run(labels, lambda random: _buffered(np.arange(1800), 300, random), 32, 6))
    assert found.fault == "small_buffer"
    assert "Enlarge it" in found.text


def test_groups_are_told_from_small_buffers() -> None:
    groups = np.arange(3000).reshape(-1, 6)
    curve = _run(LABELS["two even"], lambda random: random.permutation(groups).ravel(), 30, 5)
    (found,) = check_batches(curve)
    assert found.fault == "grouped"


def test_repeated_order_is_named_when_each_epoch_has_the_same_batches() -> None:
    labels = LABELS["ten"]
    for seed in range(6):
        fixed = np.random.default_rng(seed).permutation(len(labels))
        # As many epochs of one order would make chance look like a fault of each batch.
        (found,) = check_batches(_run(labels, lambda _, fixed=fixed: fixed, 32, 20))  # type: ignore[misc]
        assert (found.fault, found.steps[0], found.steps[-1]) == ("repeated_order", 57, 112)


def test_batches_of_constant_composition_pass() -> None:
    counts = np.tile([24, 8], (200, 1))
    assert check_batches(TrainingCurve.from_columns(loss=np.ones(200), class_counts=counts)) == ()


def test_mean_labels_of_a_regression_show_sorted_rows() -> None:
    target = np.sort(np.random.default_rng(0).standard_t(2, size=6400))

    def curve(order: Order) -> TrainingCurve:
        random = np.random.default_rng(1)
        means = np.concatenate([target[order(random)].reshape(-1, 32).mean(axis=1) for _ in range(3)])
        return TrainingCurve.from_columns(
            loss=means**2, label_mean=means, batch_size=np.full(600, 32), epoch=np.repeat(np.arange(3), 200)
        )

    (found,) = check_batches(curve(lambda _: np.arange(6400)))
    assert (found.fault, found.class_id) == ("sorted", None)
    (found,) = check_batches(curve(lambda random: _buffered(np.arange(6400), 800, random)))
    assert found.fault in ("sorted", "small_buffer")
    assert check_batches(curve(lambda random: random.permutation(6400))) == ()


@pytest.mark.parametrize(
    "curve",
    [
        TrainingCurve.from_losses([]),
        TrainingCurve.from_losses(np.ones(100)),
        TrainingCurve.from_columns(kind="epoch", loss=np.ones(100), class_counts=np.eye(2, dtype=int)[[0, 1] * 50]),
        TrainingCurve.from_columns(loss=np.ones(3), class_counts=np.array([[9, 0], [0, 9], [9, 0]])),
        TrainingCurve.from_columns(loss=np.ones(100), class_counts=np.tile([9, 0], (100, 1))),
        TrainingCurve.from_columns(loss=np.ones(100), label_mean=np.full(100, np.nan)),
    ],
    ids=["empty", "losses alone", "epochs", "three steps", "one class", "no label"],
)
def test_nothing_is_found_where_nothing_can_be_told(curve: TrainingCurve) -> None:
    assert check_batches(curve) == ()


def test_evaluation_tells_of_it() -> None:
    labels = LABELS["two even"]
    sorted_run = _run(labels, lambda _: np.arange(len(labels)), 30, 4)
    notes = to_json(evaluate(sorted_run))["notes"]
    assert [note.startswith("The batches are not shuffled well: the rows of class ") for note in notes] == [True]


def test_finding_is_a_value() -> None:
    found = BatchFinding("sorted", 1, (1, 2), 30.0, 1, 1e-9, "text")
    assert dataclasses.replace(found) == found


def test_jitter_is_taken_off_the_noise() -> None:
    random = np.random.default_rng(0)
    counts = random.multivariate_hypergeometric([900, 90, 10], 50, size=2000)
    losses = np.array([0.1, 1.0, 3.0])
    noise = 0.2 * random.normal(size=2000)
    found = measured_jitter(TrainingCurve.from_columns(loss=counts @ losses / 50 + noise, class_counts=counts))
    np.testing.assert_allclose(found.class_losses, losses, rtol=0.15)
    assert found.jitter == pytest.approx((counts @ losses / 50).std(), rel=0.1)
    assert found.loss_sd == pytest.approx((counts @ losses / 50 + noise).std())


def test_error_when_no_classes_were_recorded() -> None:
    with pytest.raises(InvalidDataError, match="has the classes of 0 steps, too few"):
        measured_jitter(TrainingCurve.from_losses(np.ones(100)))
