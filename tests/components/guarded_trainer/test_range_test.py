"""The range test against known thresholds and against trainings at the rates that it recommends."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.range_test import LearningRateRange, learning_rate_range
from spikeguard.components.guarded_trainer.schedule import GuardedSchedule


def _least_squares(
    condition: float, seed: int, batch_size: int = 64, noise: str = "normal"
) -> tuple[keras.Model, tf.data.Dataset, float]:
    """A linear model, its data, and 2 / largest eigenvalue of the Hessian: the limit of gradient descent."""
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(6, 6)))
    x = random.normal(size=(256, 6)) @ np.diag(np.geomspace(1, condition**-0.5, 6)) @ rotation
    errors = random.standard_cauchy(256) if noise == "cauchy" else 0.1 * random.normal(size=256)
    y = x @ random.normal(size=6) + errors
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(), "mse")
    limit = 2 / np.linalg.eigvalsh(2 * x.T @ x / 256)[-1]
    return model, _batches(x, y, batch_size), float(limit)


def _batches(x: np.ndarray, y: np.ndarray, batch_size: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x.astype("float32"), y.astype("float32")[:, None])).batch(batch_size)


def _classification(optimizer: keras.optimizers.Optimizer, seed: int) -> tuple[keras.Model, tf.data.Dataset]:
    """A small network on three noisy classes."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(768, 10))
    y = np.argmax(x[:, :3] + 0.5 * random.normal(size=(768, 3)), axis=1)
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model, _batches(x, y, 64)


@pytest.mark.parametrize(
    ("condition", "batch_size"),
    [(1, 256), (1, 64), (100, 64), (1e4, 256)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_highest_stable_rate_is_that_of_the_hessian(condition: float, batch_size: int, seed: int) -> None:
    model, dataset, limit = _least_squares(condition, seed, batch_size)
    found = learning_rate_range(model, dataset)
    assert limit / 2.5 < found.highest_stable < 2.5 * limit
    assert found.lowest_useful < found.steepest < 2.5 * limit
    assert len(found.rates) == len(found.losses) <= 100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_threshold_is_found_when_the_loss_has_heavy_tails(seed: int) -> None:
    # One outlier throws the weights so far that the other batches suffer at rates below the Hessian's limit, too.
    model, dataset, limit = _least_squares(10, seed, noise="cauchy")
    assert limit / 20 < learning_rate_range(model, dataset).highest_stable < 2.5 * limit


def test_threshold_is_found_when_the_growing_rate_ends_just_above_it() -> None:
    # The growing rate passes the limit before the loss shows it.
    model, dataset, limit = _least_squares(1, 0, 256)
    found = learning_rate_range(model, dataset, highest=2.0 * limit)
    assert limit / 2 < found.highest_stable < 1.5 * limit


@pytest.mark.parametrize("make", [keras.optimizers.Adam, keras.optimizers.SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("seed", [0, 1])
def test_training_is_calm_below_the_threshold_and_not_above(make: Any, seed: int) -> None:
    model, dataset = _classification(make(), seed)
    found = learning_rate_range(model, dataset, seed=seed)
    begin = model.get_weights()
    worst = {}
    for factor in (1 / 3, 10):
        model.set_weights(begin)
        model.compile(make(factor * found.highest_stable), "sparse_categorical_crossentropy")
        losses = []
        for batch in dataset.repeat(8):
            model.reset_metrics()
            losses.append(model.train_on_batch(*batch, return_dict=True)["loss"])
        worst[factor] = np.max(losses) / losses[0]
    assert worst[1 / 3] < 1.5
    assert worst[10] > 10 or not np.isfinite(worst[10])


def test_loss_falls_at_the_lowest_useful_rate_and_hardly_below() -> None:
    falls = {}
    model, dataset = _classification(keras.optimizers.SGD(), 0)
    found = learning_rate_range(model, dataset)
    begin = model.get_weights()
    for factor in (0.1, 1, 10):
        model.set_weights(begin)
        model.compile(keras.optimizers.SGD(factor * found.lowest_useful), "sparse_categorical_crossentropy")
        before = model.evaluate(dataset, verbose=0)
        model.fit(dataset.repeat(), steps_per_epoch=found.steps, verbose=0)
        falls[factor] = 1 - model.evaluate(dataset, verbose=0) / before
    assert falls[0.1] < 0.01 < falls[1] < falls[10]


class _Wrapper(keras.optimizers.Optimizer):  # type: ignore[misc]
    """The least of a wrapping optimizer."""

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__(learning_rate=0.0)
        self.inner_optimizer = inner_optimizer

    def build(self, variables: Any) -> None:
        self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, gradients: Any, trainable_variables: Any = None) -> None:
        self.inner_optimizer.apply(gradients, trainable_variables)

    @property
    def variables(self) -> Any:
        return [*self._variables, *self.inner_optimizer.variables]


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0, use_ema=True),
    "schedule": lambda: keras.optimizers.SGD(GuardedSchedule(0.01, 100, 5), momentum=0.9),
    "wrapped": lambda: _Wrapper(keras.optimizers.Adam(GuardedSchedule(0.01, 100))),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()),
}


def _stateful(optimizer: keras.optimizers.Optimizer, **options: Any) -> tuple[keras.Model, tf.data.Dataset]:
    """A model with every kind of state, on weighted rows of two named inputs."""
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    hidden = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    hidden = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(keras.layers.Dense(8)(hidden)))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    random = np.random.default_rng(0)
    x = {"a": random.normal(size=(96, 3)).astype("float32"), "b": random.normal(size=(96, 2)).astype("float32")}
    y = x["a"].sum(axis=1, keepdims=True)
    return model, tf.data.Dataset.from_tensor_slices((x, y, np.ones(96, "float32"))).batch(16)


def _state(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in (*model.variables, *model.metrics_variables, *model.optimizer.variables)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in OPTIMIZERS),
        ("schedule", {"jit_compile": True}),
        ("schedule", {"steps_per_execution": 4}),
        ("schedule", {"run_eagerly": True}),
    ],
    ids=str,
)
def test_model_is_bit_for_bit_as_before(name: str, options: dict[str, Any]) -> None:
    model, dataset = _stateful(OPTIMIZERS[name](), **options)
    other, _ = _stateful(OPTIMIZERS[name](), **options)
    for one in (model, other):
        one.fit(dataset, epochs=2, verbose=0)
    optimizer, before = model.optimizer, _state(model)
    found = learning_rate_range(model, dataset, steps=40)
    assert 1e-6 < found.highest_stable <= 10.0
    assert model.optimizer is optimizer
    assert model.steps_per_execution == options.get("steps_per_execution", 1)
    for value, kept in zip(_state(model), before, strict=True):
        np.testing.assert_array_equal(value, kept)
    # What it trained with before, it trains with again.
    histories = [one.fit(dataset, epochs=2, verbose=0).history["loss"] for one in (model, other)]
    assert histories[0] == histories[1]


def test_model_is_as_before_when_the_test_fails() -> None:
    model, dataset = _stateful(keras.optimizers.Adam())
    optimizer, before = model.optimizer, _state(model)
    bad = itertools.repeat((*next(iter(dataset))[:1], np.ones((5, 1), "float32")), 3)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        learning_rate_range(model, _Taken(bad))
    assert model.optimizer is optimizer
    for value, kept in zip(_state(model), before, strict=False):
        np.testing.assert_array_equal(value, kept)


class _Taken:
    """Batches that no tf.data.Dataset would hold."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def take(self, count: int) -> Any:
        return itertools.islice(self._batches, count)


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def test_model_need_not_be_built() -> None:
    model = Subclassed()
    model.compile("sgd", "mse")
    found = learning_rate_range(model, _least_squares(1, 0)[1])
    assert 0.1 < found.highest_stable < 3.0


def test_same_seed_gives_the_same_range() -> None:
    model, dataset, _ = _least_squares(10, 0, 32)
    one, same, other = (learning_rate_range(model, dataset, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.losses, same.losses)
    assert one == same
    assert not np.array_equal(one.losses[:20], other.losses[:20])


def test_test_ends_when_the_loss_has_diverged() -> None:
    model, dataset, limit = _least_squares(1, 0)
    found = learning_rate_range(model, dataset, lowest=limit / 10, highest=1e30, steps=100)
    assert len(found.rates) < 20
    assert limit / 2.5 < found.highest_stable < 2.5 * limit


def test_no_rate_is_stable_when_the_lowest_diverges() -> None:
    model, dataset, limit = _least_squares(1, 0)
    found = learning_rate_range(model, dataset, lowest=10 * limit, highest=1e4 * limit)
    assert np.isnan(found.highest_stable)
    assert found.warnings(1.0, 100) == (
        "the range test found no stable learning rate: the loss is expected to diverge at any",
    )


@pytest.mark.parametrize("loss", [0.0, 3.0, -1.0])
def test_every_rate_is_stable_and_none_useful_when_the_loss_is_constant(loss: float) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("adam", lambda y, p: 0.0 * keras.ops.sum(p, axis=-1) + loss)
    found = learning_rate_range(model, _least_squares(1, 0)[1], highest=2.0)
    assert found.highest_stable == 2.0
    assert np.isnan(found.lowest_useful)
    assert np.isnan(found.steepest)
    assert len(found.rates) == 100
    assert found.warnings(1.0, 100)[0].startswith("the loss fell at no rate of the range test")


def test_batch_that_is_not_finite_is_left_out() -> None:
    model, dataset, limit = _least_squares(1, 0, 32)
    bad = (np.full((32, 6), np.nan, "float32"), np.zeros((32, 1), "float32"))
    dataset = dataset.take(2).concatenate(tf.data.Dataset.from_tensors(bad)).concatenate(dataset.skip(2))
    found = learning_rate_range(model, dataset)
    assert np.isfinite(found.losses[:-1]).all()
    assert limit / 2.5 < found.highest_stable < 2.5 * limit
    # All eight others are in use; and nothing of the bad one stays in the moments of an optimizer that has some.
    assert len(np.unique(np.round(found.losses[:8], 2))) == 8
    model.compile("adam", "mse")
    assert np.isfinite(learning_rate_range(model, dataset).losses[:20]).all()


def test_error_tells_when_no_batch_is_finite() -> None:
    model = _least_squares(1, 0)[0]
    bad = tf.data.Dataset.from_tensors((np.full((4, 6), np.inf, "float32"), np.zeros((4, 1), "float32")))
    with pytest.raises(InvalidArgumentError, match="dataset must hold a batch whose loss and gradient are finite"):
        learning_rate_range(model, bad)
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 0.0}, "lowest must be above 0 and finite; got 0.0"),
        ({"lowest": 1.0, "highest": 1.0}, r"highest must be above lowest \(1\) and finite; got 1.0"),
        ({"highest": np.inf}, "highest must be above lowest .* got inf"),
        ({"steps": 19}, "steps must be at least 20; got 19"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_error_names_the_argument_when_it_is_out_of_range(options: dict[str, Any], message: str) -> None:
    model, dataset, _ = _least_squares(1, 0)
    with pytest.raises(InvalidArgumentError, match=message):
        learning_rate_range(model, dataset, **options)


def test_error_names_model_or_dataset_when_they_cannot_be_used() -> None:
    model, dataset, _ = _least_squares(1, 0)
    with pytest.raises(InvalidArgumentError, match="dataset must hold at least one batch"):
        learning_rate_range(model, dataset.take(0))
    with pytest.raises(InvalidArgumentError, match="model must be compiled with an optimizer"):
        learning_rate_range(keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)]), dataset)


def test_warnings_name_the_rate_that_was_found() -> None:
    found = LearningRateRange(np.ones(1), np.ones(1), 100, highest_stable=0.03, lowest_useful=1e-4, steepest=1e-3)
    assert found.warnings(0.03, 100) == ()
    assert found.warnings(1e-4, 100) == ()
    assert found.warnings(1.0, 100) == (
        "learning_rate 1 is above 0.03, the highest stable rate that the range test found: the loss is expected to spike",
    )
    assert found.warnings(1e-5, 100) == (
        "learning_rate 1e-05 is below 0.0001, the lowest rate that lowers the loss measurably in 100 steps: training will"
        " crawl",
    )
    assert found.warnings(1e-5, 1000) == ()
    assert "rates" not in repr(found)
