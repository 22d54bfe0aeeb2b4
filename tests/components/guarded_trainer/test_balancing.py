"""Batches of constant composition from real datasets, and what they do to probabilities."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.balancing import (
    PriorCorrection,
    balanced_batches,
    batch_composition,
    with_prior_correction,
)

COUNTS = (700, 40, 3)


def _dataset(counts: tuple[int, ...] = COUNTS) -> tf.data.Dataset:
    """Rows that carry their own number, in random order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = {
        "row": np.arange(len(labels)),
        "x": np.random.default_rng(1).normal(size=(len(labels), 2)).astype("float32"),
    }
    return tf.data.Dataset.from_tensor_slices((rows, labels))


def _rows(batches: tf.data.Dataset, steps: int) -> list[list[int]]:
    return [features["row"].numpy().tolist() for features, _ in batches.take(steps)]


@pytest.mark.parametrize(
    ("counts", "size", "shares", "expected"),
    [
        ([700, 40, 3], 12, None, (4, 4, 4)),
        ([700, 0, 3], 5, None, (3, 0, 2)),
        ([979, 20, 1], 50, [979, 20, 1], (48, 1, 1)),
        ([5, 5], 2, [1.0, 0.0], (1, 1)),
    ],
)
def test_composition(counts: list[int], size: int, shares: Any, expected: tuple[int, ...]) -> None:
    assert batch_composition(counts, size, shares) == expected


def test_every_batch_has_the_composition_and_every_row_its_turn() -> None:
    batches = balanced_batches(_dataset(), 12, COUNTS)
    labels = [batch.numpy().tolist() for _, batch in batches.take(175)]
    assert all(batch == [0] * 4 + [1] * 4 + [2] * 4 for batch in labels)
    seen = np.array(_rows(batches, 175))
    # 175 batches are one pass over the first class, 17.5 over the second, and many over the third.
    assert len(set(seen[:, :4].ravel())) == 700
    assert set(np.bincount(seen[:, 4:8].ravel())) == {0, 17, 18}
    assert set(np.bincount(seen[:, 8:].ravel())) - {0} <= {233, 234}


@pytest.mark.parametrize("shuffle_rows", [100_000, 50], ids=["kept", "in windows"])
def test_order_depends_on_seed_and_step_alone(shuffle_rows: int) -> None:
    def batches(seed: int, first_step: int = 0) -> list[list[int]]:
        dataset = balanced_batches(_dataset(), 12, COUNTS, seed=seed, first_step=first_step, shuffle_rows=shuffle_rows)
        return _rows(dataset, 60)

    whole = batches(seed=1)
    assert batches(seed=1, first_step=23)[:37] == whole[23:]
    assert batches(seed=2) != whole
    # A later pass over a class has another order.
    second = [row[4:8] for row in whole]
    assert second[:10] != second[10:20]
    assert sorted(itertools.chain(*second[:10])) == sorted(itertools.chain(*second[10:20]))


def test_windows_shuffle_all_rows_of_a_class_that_is_too_large_to_keep() -> None:
    batches = balanced_batches(_dataset((600, 100)), 10, (600, 100), shuffle_rows=150)
    rows = np.array(_rows(batches, 120))[:, :5].ravel()
    assert len(set(rows)) == 600
    # In the order of the file, numbers rise; in windows of 75 they rise from window to window only.
    assert 0.3 < np.mean(np.diff(rows) > 0) < 0.7


def test_counts_are_taken_from_the_data_where_none_are_given() -> None:
    assert _rows(balanced_batches(_dataset(), 12), 5) == _rows(balanced_batches(_dataset(), 12, COUNTS), 5)


@pytest.mark.parametrize(
    ("dataset", "arguments", "error", "message"),
    [
        (
            _dataset(),
            {"batch_size": 2},
            InvalidArgumentError,
            "batch_size must be at least 3, a row of each class; got 2",
        ),
        (_dataset(), {"batch_size": 9, "shares": [1, 1]}, InvalidArgumentError, "shares must be 3 numbers >= 0"),
        (_dataset(), {"batch_size": 9, "first_step": -1}, InvalidArgumentError, "first_step must be at least 0"),
        (_dataset().take(0), {"batch_size": 9}, InvalidDataError, "dataset: has no rows"),
        (_dataset().map(lambda x, y: (x, y - 1)), {"batch_size": 9}, InvalidDataError, "has the class id -1"),
        (
            _dataset().map(lambda x, y: (tf.sparse.from_dense(x["x"]), y)),
            {"batch_size": 9},
            InvalidArgumentError,
            "dataset must hold dense tensors only",
        ),
    ],
)
def test_error_names_what_cannot_be_balanced(
    dataset: tf.data.Dataset, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        balanced_batches(dataset, **arguments)


def test_correction_is_bayes_rule() -> None:
    trained, true = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.09, 0.01])
    likelihood = np.random.default_rng(0).random((5, 3))

    def posterior(prior: np.ndarray) -> np.ndarray:
        joint = likelihood * prior
        return joint / joint.sum(axis=1, keepdims=True)

    layer = PriorCorrection(100 * trained, true)
    np.testing.assert_allclose(layer(posterior(trained).astype("float32")), posterior(true), rtol=1e-5)
    logits = PriorCorrection(trained, true, from_logits=True)(np.log(posterior(trained)).astype("float32"))
    np.testing.assert_allclose(keras.ops.softmax(logits), posterior(true), rtol=1e-5)
    binary = PriorCorrection(trained[:2], true[:2])(posterior(trained)[:, 1:2].astype("float32")).numpy()
    odds = (
        posterior(trained)[:, 1:2] / (1 - posterior(trained)[:, 1:2]) * (true[1] / true[0]) / (trained[1] / trained[0])
    )
    np.testing.assert_allclose(binary, odds / (1 + odds), rtol=1e-5)


def test_correction_does_nothing_in_training_and_stays_in_range() -> None:
    layer = PriorCorrection([0.5, 0.5], [1 - 1e-9, 1e-9])
    outputs = np.array([[0.0], [0.5], [1.0]], "float32")
    assert layer(outputs, training=True).numpy().tolist() == outputs.tolist()
    corrected = layer(outputs, training=False).numpy().ravel()
    assert corrected.tolist() == pytest.approx([0.0, 1e-9, 1.0])
    reverse = PriorCorrection([1 - 1e-9, 1e-9], [0.5, 0.5])(outputs).numpy().ravel()
    assert reverse.tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-6)


def test_class_without_rows_is_left_alone() -> None:
    layer = PriorCorrection([0.5, 0.0, 0.5], [0.9, 0.0, 0.1])
    np.testing.assert_allclose(layer(np.array([[0.4, 0.2, 0.4]], "float32")).numpy().sum(), 1.0, rtol=1e-6)


def test_corrected_model_is_saved_and_loaded(tmp_path: pathlib.Path) -> None:
    inputs = keras.Input((2,))
    model = with_prior_correction(keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(inputs)), [1, 1], [9, 1])
    model.save(tmp_path / "model.keras")
    x = np.ones((3, 2), "float32")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


def test_balanced_training_is_calibrated_after_the_correction() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(20_000) < 0.03).astype("int64")
    x = (random.normal(size=20_000) + 1.5 * labels).astype("float32")[:, None]
    inputs = keras.Input((1,))
    counts = np.bincount(labels)
    model = with_prior_correction(
        keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(inputs)), [1, 1], counts.tolist()
    )
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    batches = balanced_batches(tf.data.Dataset.from_tensor_slices((x, labels)), 128, counts.tolist())
    model.fit(batches, steps_per_epoch=200, verbose=0)
    predicted = model.predict(x, batch_size=4096, verbose=0).ravel()
    assert predicted.mean() == pytest.approx(labels.mean(), rel=0.15)
    assert model(x, training=True).numpy().mean() > 0.2
    # The loss outside of training is that of the true shares.
    assert model.evaluate(x, labels, batch_size=4096, verbose=0) < 0.115


@pytest.mark.parametrize(
    ("trained", "true", "message"),
    [
        ([1.0, 1.0], [1.0, 1.0, 1.0], "true_shares must be as many as the 2 trained shares"),
        ([1.0, float("nan")], [1.0, 1.0], "trained_shares must be finite, >= 0 and not all 0"),
        ([1.0, 1.0], [0.0, 0.0], "true_shares must be finite, >= 0 and not all 0"),
    ],
)
def test_error_names_the_shares(trained: list[float], true: list[float], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        PriorCorrection(trained, true)


def test_error_when_the_model_is_not_functional() -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(InvalidArgumentError, match="model_fn must return a functional model"):
        with_prior_correction(Own(), [1, 1], [1, 1])
