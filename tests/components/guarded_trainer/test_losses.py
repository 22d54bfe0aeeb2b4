from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.losses import GeneralizedCrossEntropy, Huber, SmoothedCrossEntropy

P3 = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], "float32")
IDS = np.array([0, 1, 2])
P1 = np.array([[0.9], [0.2], [0.6]], "float32")
BITS = np.array([1, 1, 0])

CLASS_LOSSES: list[Callable[[], keras.losses.Loss]] = [GeneralizedCrossEntropy, SmoothedCrossEntropy]


def _each(loss: type[keras.losses.Loss], y: Any, p: Any, **arguments: Any) -> np.ndarray:
    return np.asarray(loss(reduction="none", **arguments)(y, p))


def _loss_and_gradient(loss: keras.losses.Loss, y: Any, p: Any, is_compiled: bool = False) -> tuple[float, np.ndarray]:
    @tf.function(jit_compile=is_compiled)
    def run(y: tf.Tensor, p: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss(y, p)
        return value, tape.gradient(value, p)

    value, gradient = run(tf.constant(y), tf.constant(p))
    return float(value), gradient.numpy()


def test_huber_is_squared_inside_delta_and_linear_outside() -> None:
    y, p = np.array([0.0, 0.0, 0.0]), np.array([[1.0], [2.0], [-10.0]])
    np.testing.assert_allclose(_each(Huber, y, p, delta=2.0), [0.5, 2.0, 18.0])
    np.testing.assert_allclose(_each(Huber, y[:, None], p, delta=2.0), [0.5, 2.0, 18.0])


def test_delta_is_1_345_robust_standard_deviations_when_adapted() -> None:
    labels = np.random.default_rng(0).normal(10.0, 2.0, size=(10_000, 1))
    labels[:100] = 1e9
    assert Huber().adapt(labels).delta == pytest.approx(1.345 * 2.0, rel=0.05)
    assert Huber().adapt([0.0] * 9 + [10.0]).delta == pytest.approx(1.345 * 3.0)


def test_error_tells_what_to_do_when_huber_is_not_adapted() -> None:
    with pytest.raises(
        InvalidArgumentError,
        match=r"delta must be known before the loss is used; got 'auto'. Call adapt\(train_labels\)",
    ):
        Huber()(np.zeros(2), np.zeros((2, 1)))


def test_error_tells_what_is_wrong_when_labels_are_missing() -> None:
    with pytest.raises(InvalidDataError, match="is missing or not finite in 1 of 2 rows"):
        Huber().adapt([1.0, np.nan])


@pytest.mark.parametrize("delta", [0, -1.0, np.nan, np.inf, "often"])
def test_error_names_delta_when_it_is_no_number_above_zero(delta: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='delta must be a number above 0, or "auto"; got'):
        Huber(delta)


@pytest.mark.parametrize("is_binary", [True, False])
def test_generalized_cross_entropy_tends_to_cross_entropy_when_q_tends_to_zero(is_binary: bool) -> None:
    y, p = (BITS, P1) if is_binary else (IDS, P3)
    labelled = np.array([0.9, 0.2, 0.4]) if is_binary else np.array([0.7, 0.1, 0.3])
    np.testing.assert_allclose(_each(GeneralizedCrossEntropy, y, p, q=1e-6), -np.log(labelled), rtol=1e-4)
    np.testing.assert_allclose(_each(GeneralizedCrossEntropy, y, p, q=0.5), (1 - labelled**0.5) / 0.5, rtol=1e-5)


def test_generalized_cross_entropy_is_mean_absolute_error_when_q_is_one() -> None:
    np.testing.assert_allclose(
        _each(GeneralizedCrossEntropy, BITS, P1, q=1.0),
        np.asarray(keras.losses.mean_absolute_error(BITS[:, None], P1)),
        rtol=1e-6,
    )
    # Over three columns: a probability that the labelled class lacks, the others have.
    np.testing.assert_allclose(
        _each(GeneralizedCrossEntropy, IDS, P3, q=1.0),
        1.5 * np.asarray(keras.losses.mean_absolute_error(np.eye(3)[IDS], P3)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_label_shapes_agree(loss: Any) -> None:
    expected = _each(loss, IDS, P3)
    assert expected.shape == (3,)
    np.testing.assert_allclose(_each(loss, IDS[:, None], P3), expected)
    np.testing.assert_allclose(_each(loss, np.eye(3)[IDS], P3), expected)
    np.testing.assert_allclose(_each(loss, BITS[:, None], P1), _each(loss, BITS, P1))
    np.testing.assert_allclose(_each(loss, BITS, np.hstack([1 - P1, P1])), _each(loss, BITS, P1), rtol=1e-5)


def test_generalized_cross_entropy_of_logits_is_that_of_their_probabilities() -> None:
    logits = np.log(P3) + 5
    np.testing.assert_allclose(
        _each(GeneralizedCrossEntropy, IDS, logits, from_logits=True),
        _each(GeneralizedCrossEntropy, IDS, P3),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        _each(GeneralizedCrossEntropy, BITS, np.log(P1 / (1 - P1)), from_logits=True),
        _each(GeneralizedCrossEntropy, BITS, P1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_cross_entropy_is_keras_own_on_one_hot_and_binary_labels(smoothing: float) -> None:
    np.testing.assert_allclose(
        _each(SmoothedCrossEntropy, IDS, P3, label_smoothing=smoothing),
        np.asarray(keras.losses.categorical_crossentropy(np.eye(3)[IDS], P3, label_smoothing=smoothing)),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        _each(SmoothedCrossEntropy, BITS, P1, label_smoothing=smoothing),
        np.asarray(keras.losses.binary_crossentropy(BITS[:, None], P1, label_smoothing=smoothing)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("q", [0.01, 0.7, 1.0])
def test_gradient_is_finite_when_a_probability_is_zero(q: float, is_compiled: bool) -> None:
    loss = GeneralizedCrossEntropy(q)
    for y, p in (([0, 1, 0], P3 * 0), ([1, 0, 1], [[0.0], [1.0], [1e-30]]), ([0], [[1e-7, 1.0 - 1e-7]])):
        value, gradient = _loss_and_gradient(loss, y, np.array(p, "float32"), is_compiled)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
    logits = np.array([[-1e4, 1e4]], "float32")
    value, gradient = _loss_and_gradient(GeneralizedCrossEntropy(q, from_logits=True), [0], logits, is_compiled)
    assert value == pytest.approx(1 / q, rel=1e-4)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("loss", CLASS_LOSSES)
@pytest.mark.parametrize("label", [-1.0, 3.0, 0.5, np.nan, np.inf, 1e30])
def test_loss_and_gradient_are_nan_when_a_label_is_no_class(loss: Any, label: float, is_compiled: bool) -> None:
    for p, y in ((P3, [0.0, label, 2.0]), (P1, [0.0, label, 1.0])):
        value, gradient = _loss_and_gradient(loss(), np.array(y, "float32"), p, is_compiled)
        assert np.isnan(value)
        np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), [False, True, False])


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_loss_is_nan_when_one_hot_weights_or_a_prediction_are_broken(loss: Any) -> None:
    for row in ([0, 0, 0], [1, 1, 0], [2, -1, 0], [np.nan, 0, 1]):
        assert np.isnan(_each(loss, np.array([row], "float32"), P3[:1])).all()
    for is_compiled in (False, True):
        assert np.isnan(_loss_and_gradient(loss(), [0], np.full((1, 3), np.nan, "float32"), is_compiled)[0])


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_error_names_the_shape_when_labels_and_predictions_do_not_fit(loss: Any) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"y_true must have the shape \(batch,\), \(batch, 1\) or \(batch, 3\)"
    ):
        loss()(np.zeros((3, 4)), P3)
    with pytest.raises(InvalidArgumentError, match=r"y_pred must have the shape \(batch, 1\) or \(batch, classes\)"):
        loss()(BITS, P1[:, 0])


@pytest.mark.parametrize("q", [0.0, -1.0, 1.1, np.nan])
def test_error_names_q_when_it_is_out_of_range(q: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"q must lie in \(0, 1\]; got"):
        GeneralizedCrossEntropy(q)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, np.nan])
def test_error_names_label_smoothing_when_it_is_out_of_range(smoothing: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"label_smoothing must lie in \[0, 1\); got"):
        SmoothedCrossEntropy(smoothing)


def _model(outputs: int, activation: str | None) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(outputs, activation=activation)])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("loss", "outputs", "activation"),
    [
        (GeneralizedCrossEntropy(), 1, "sigmoid"),
        (GeneralizedCrossEntropy(), 3, "softmax"),
        (GeneralizedCrossEntropy(from_logits=True), 3, None),
        (SmoothedCrossEntropy(), 1, "sigmoid"),
        (SmoothedCrossEntropy(), 3, "softmax"),
        (Huber(1.0), 1, None),
    ],
    ids=["gce-1", "gce-3", "gce-logits", "smoothed-1", "smoothed-3", "huber"],
)
def test_fit_learns_with_sample_and_class_weights(
    loss: keras.losses.Loss, outputs: int, activation: str | None, jit_compile: bool
) -> None:
    x = np.random.default_rng(0).normal(size=(90, 4)).astype("float32")
    y = np.argmax(x[:, :3], axis=1) if outputs == 3 else (x[:, 0] > 0).astype("int64")
    model = _model(outputs, activation)
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=jit_compile)
    history = model.fit(x, y, sample_weight=np.ones(90), epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    model.fit(x, y, class_weight={0: 1.0, 1: 2.0, 2: 3.0}, verbose=0)
    # Rows of weight 0 teach nothing.
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit_compile)
    model.fit(x, y, sample_weight=np.zeros(90), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (Huber().adapt(np.arange(5.0)), {"delta": 1.345 * 1.4826}),
        (GeneralizedCrossEntropy(0.3, from_logits=True), {"q": 0.3, "from_logits": True}),
        (SmoothedCrossEntropy(0.2, reduction="sum"), {"label_smoothing": 0.2, "reduction": "sum"}),
    ],
    ids=["huber", "gce", "smoothed"],
)
def test_reloaded_model_keeps_the_loss(
    tmp_path: pathlib.Path, loss: keras.losses.Loss, settings: dict[str, Any]
) -> None:
    model = _model(1, "sigmoid")
    model.compile("sgd", loss)
    x, y = np.ones((4, 4), "float32"), np.array([[0.0], [1.0], [1.0], [1.0]])
    expected = model.evaluate(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(reloaded.loss, type(loss))
    for name, value in settings.items():
        assert getattr(reloaded.loss, name) == pytest.approx(value)
    assert reloaded.evaluate(x, y, verbose=0) == pytest.approx(expected)
