"""Replays in real Keras trainings: they find the cause that was put in, and leave the training as it was."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import spikeguard
from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.replay_analysis import Replayed
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget, ReplayKeeper
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.replays import read_replays
from spikeguard.components.spike_evaluator.summary import summary

STEPS, BATCH, AT = 160, 32, 120
# More time than a busy machine needs.
BUDGET = ReplayBudget(least_seconds=60.0, most_spikes=1)


def _rows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS * BATCH, 6)).astype("float32")
    y = (x @ np.array([1.0, -1.0, 0.5, 0.0, 2.0, 0.3]))[:, None] + generator.normal(size=(len(x), 1))
    return x, y.astype("float32")


def _dataset(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    inputs = {"x": x, "example_id": np.arange(len(x))}
    return tf.data.Dataset.from_tensor_slices((inputs, y)).batch(BATCH)


def _model(optimizer: Any, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    model = keras.Model({"x": inputs}, keras.layers.Dense(1)(hidden))
    model.compile(optimizer, "mse", **options)
    return model


def _fit(folder: pathlib.Path, model: keras.Model, data: tf.data.Dataset, **options: Any) -> result.Evaluation:
    recorder = spikeguard.CurveRecorder(folder, has_tensorboard=False, **{"replay": BUDGET, **options})
    model.fit(data, callbacks=[recorder], verbose=0)
    return result.with_causes(result.evaluate(spikeguard.read_curve(folder)), *read_replays(folder))


def _first_cause(evaluation: result.Evaluation) -> Any:
    return evaluation.explained_spikes[0][1][0]


def test_outlying_rows_are_named_and_verified(tmp_path: pathlib.Path) -> None:
    x, y = _rows()
    bad = [AT * BATCH + 3, AT * BATCH + 7]
    x[bad, 4] = 60.0
    evaluation = _fit(tmp_path, _model(keras.optimizers.SGD(0.02)), _dataset(x, y))
    cause = _first_cause(evaluation)
    assert (cause.cause, cause.status) == ("outliers", "verified")
    assert {row.example_id for row in cause.rows} == set(bad)
    assert {row.feature for row in cause.rows} == {"x[4]"}
    assert cause.replay["change"] == "rows_removed"
    assert cause.replay["left"] < 0.1
    assert not evaluation.replay_notes
    _check_curves(tmp_path, evaluation)


def _check_curves(folder: pathlib.Path, evaluation: result.Evaluation) -> None:
    """The curves of the first spike's replay: as recorded, as replayed, and calm without the rows."""
    spike = json.loads(result.to_text(evaluation))["spikes"][0]
    replay, changed = spike["replay"], spike["causes"][0]["replay"]["losses"]
    assert (replay["reason"], replay["is_reproduced"], replay["first_step"]) == ("", True, AT + 1)
    steps = replay["steps"]
    assert steps == list(range(steps[0], steps[-1] + 1))
    assert steps[0] < AT < spike["peak_step"] <= steps[-1]
    recorded = spikeguard.read_curve(folder).loss[steps[0] - 1 : steps[-1]]
    # Nothing in this training is random: the replay is the training again, up to the loss of the rows.
    calm = AT - steps[0] + 1
    np.testing.assert_allclose(replay["recorded"][: calm + 1], recorded[: calm + 1], rtol=1e-5)
    np.testing.assert_allclose(replay["losses"][: calm + 1], recorded[: calm + 1], rtol=1e-4)
    np.testing.assert_allclose(changed[:calm], recorded[:calm], rtol=1e-4)
    assert len(changed) == len(replay["losses"]) == len(replay["recorded"]) == len(steps)
    assert max(changed) < 0.1 * recorded[calm]


def test_jump_of_the_learning_rate_is_verified(tmp_path: pathlib.Path) -> None:
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([AT, AT + 6], [0.02, 0.6, 0.02])
    cause = _first_cause(_fit(tmp_path, _model(keras.optimizers.SGD(rates)), _dataset(*_rows())))
    assert (cause.cause, cause.status) == ("learning_rate", "verified")
    assert cause.remedy.recipe["learning_rate"] == 0.02


def test_batch_in_another_unit_is_verified(tmp_path: pathlib.Path) -> None:
    x, y = _rows()
    x[AT * BATCH : (AT + 1) * BATCH, 2] *= 50.0
    traces = []

    class Counted(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            traces.append(1)
            return super().train_step(data)

    class Traced(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
            traces.append(0)

    plain = _model("sgd")
    model = Counted(plain.input, plain.output)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    recorder = spikeguard.CurveRecorder(tmp_path, has_tensorboard=False, replay=BUDGET)
    model.fit(_dataset(x, y), callbacks=[Traced(), recorder], verbose=0)
    # The training's own trace served the replay.
    assert traces[-1] == 0
    cause = _first_cause(result.with_causes(result.evaluate(spikeguard.read_curve(tmp_path)), *read_replays(tmp_path)))
    assert (cause.cause, cause.status) == ("normalization", "verified")
    assert "x[2]" in cause.text


def test_batch_of_one_class_is_calm_with_the_usual_classes(tmp_path: pathlib.Path) -> None:
    x, _ = _rows()
    # A hundredth are ones and nothing tells which: no row is an outlier, batches of ones are. Of one of them alone the detector,
    # which knows of classes, would take their effect off.
    y = (np.random.default_rng(1).random((len(x), 1)) < 0.01).astype("float32")
    y[AT * BATCH : (AT + 12) * BATCH] = 1.0
    model = _model("sgd")
    model = keras.Model(model.input, keras.layers.Activation("sigmoid")(model.output))
    model.compile(keras.optimizers.SGD(0.05), keras.losses.BinaryCrossentropy())
    _fit(tmp_path, model, _dataset(x, y))
    (replay,) = [one for one in read_replays(tmp_path)[0] if "figures" in one]
    assert replay["figures"]["rows_of_surplus_class"] == BATCH
    left = {change["cause"]: change["left"] for change in replay["changes"]}
    assert left["imbalance"] < 0.2
    assert left["learning_rate"] > 0.9


@pytest.mark.parametrize(
    "options", [{}, {"steps_per_execution": 4}, {"jit_compile": True}], ids=["graph", "four", "jit"]
)
def test_weights_are_the_same_bit_for_bit_with_and_without_replay(
    tmp_path: pathlib.Path, options: dict[str, Any]
) -> None:
    x, y = _rows()
    x[AT * BATCH + 3] = 500.0
    weights = []
    for replay in (False, BUDGET):
        adam = keras.optimizers.Adam(0.01)
        model = _model(adam if options else spikeguard.SpikeGuard(adam, clips=False, rolls_back=False), **options)
        folder = tmp_path / str(bool(replay))
        _fit(folder, model, _dataset(x, y), replay=replay)
        weights.append([*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)])
        assert bool(read_replays(folder)[0]) == bool(replay)  # There was something to replay.
    for plain, replayed in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, replayed)


class Surprising(keras.Model):  # type: ignore[misc]
    """A train step that cannot be run again after the training."""

    is_over = False

    def train_step(self, data: Any) -> Any:
        if self.is_over:
            raise RuntimeError("no more")
        return super().train_step(data)


class _Over(keras.callbacks.Callback):  # type: ignore[misc]
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.model.is_over = True


def test_train_step_that_fails_in_the_replay_costs_the_replay_alone(tmp_path: pathlib.Path) -> None:
    x, y = _rows()
    x[AT * BATCH + 3, 4] = 60.0
    plain = _model(keras.optimizers.SGD(0.02))
    model = Surprising(plain.input, plain.output)
    # A trace of the training would serve the replay, without another look at this.
    model.compile(keras.optimizers.SGD(0.02), "mse", run_eagerly=True)
    recorder = spikeguard.CurveRecorder(tmp_path, has_tensorboard=False, replay=BUDGET)
    model.fit(_dataset(x, y), callbacks=[_Over(), recorder], verbose=0)
    replays, (note,) = read_replays(tmp_path)
    assert not [one for one in replays if "figures" in one]
    (left_out,) = (one for one in replays if one["reason"].startswith("the replay failed (RuntimeError: "))
    assert left_out["first_step"] > AT
    assert note.startswith("Spikes could not be replayed: RuntimeError: ")
    assert note.endswith("no more.")
    assert len(spikeguard.read_curve(tmp_path)) == STEPS


@pytest.mark.parametrize(
    ("budget", "note", "told"),
    [
        (ReplayBudget(memory_bytes=1000), "do not fit into", ""),
        (
            ReplayBudget(disk_bytes=1000),
            "more than 1,000 bytes on disk",
            "Not replayed: it would have taken more than 1,000 bytes on disk.",
        ),
        (
            ReplayBudget(time_share=0.0, least_seconds=0.0),
            "were not replayed: the time for it was over",
            "Not replayed: the time for replays was over.",
        ),
    ],
    ids=["memory", "disk", "time"],
)
def test_what_a_budget_leaves_out_is_said(tmp_path: pathlib.Path, budget: ReplayBudget, note: str, told: str) -> None:
    x, y = _rows()
    x[AT * BATCH + 3, 4] = 60.0
    evaluation = _fit(tmp_path, _model(keras.optimizers.SGD(0.02)), _dataset(x, y), replay=budget)
    cause = _first_cause(evaluation)
    assert (cause.cause, cause.status, cause.replay) == ("outliers", "likely", None)
    assert note in " ".join(result.to_json(evaluation)["notes"])
    assert told in summary(evaluation, "log")


def test_replay_whose_time_is_over_midway_says_how_far_it_came(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = _rows()
    x[AT * BATCH + 3, 4] = 60.0
    # Asked before each change.
    answers = iter([False, True])
    monkeypatch.setattr(Replayed, "is_over", property(lambda _: next(answers)))
    evaluation = _fit(tmp_path, _model(keras.optimizers.SGD(0.02)), _dataset(x, y))
    (replayed,) = (one for one in read_replays(tmp_path)[0] if "figures" in one)
    assert re.fullmatch(r"the time for replays was over after 1 of [2-9] changes", replayed["reason"])
    assert [change["cause"] for change in replayed["changes"]] == ["outliers"]
    assert f"Replayed in part: {replayed['reason']}." in summary(evaluation, "log")


def test_spike_of_a_loss_that_still_falls_is_replayed(tmp_path: pathlib.Path) -> None:
    x, y = _rows()
    # No higher than the losses of a hundred steps before, and yet far above those around it.
    y[AT * BATCH : AT * BATCH + 2] += 8.0
    evaluation = _fit(tmp_path, _model(keras.optimizers.SGD(0.01)), _dataset(x, y))
    ((spike, (cause, *_)),) = evaluation.explained_spikes
    assert spike.loss_at_peak < spikeguard.read_curve(tmp_path).loss[0]
    assert (cause.cause, cause.status) == ("outliers", "verified")


def test_restless_losses_after_a_spike_do_not_hide_the_next(tmp_path: pathlib.Path) -> None:
    x, y = _rows()
    for step, rise in ((AT - 48, 60.0), *((step, 12.0) for step in range(AT - 40, AT, 8)), (AT, 30.0)):
        y[step * BATCH : step * BATCH + 2] += rise
    budget = ReplayBudget(least_seconds=60.0)
    _fit(tmp_path, _model(keras.optimizers.SGD(0.01)), _dataset(x, y), replay=budget)
    replayed = [one["step"] for one in read_replays(tmp_path)[0] if "figures" in one]
    assert {AT - 47, AT + 1} <= set(replayed)


def test_high_losses_that_are_no_spikes_are_not_replayed(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    x, y = _rows()
    y += np.random.default_rng(2).standard_t(2.5, size=y.shape).astype("float32")  # Many a high batch, and no spike.
    x[AT * BATCH : AT * BATCH + 2] *= 40.0
    dropped: list[int] = []
    drop = ReplayKeeper.drop
    monkeypatch.setattr(ReplayKeeper, "drop", lambda keeper, peak, why: dropped.append(peak) or drop(keeper, peak, why))
    evaluation = _fit(
        tmp_path, _model(keras.optimizers.SGD(0.01)), _dataset(x, y), replay=ReplayBudget(least_seconds=60.0)
    )
    (spike,) = [spike for spike, _ in evaluation.explained_spikes]
    (replayed,) = [one for one in read_replays(tmp_path)[0] if "figures" in one]
    assert replayed["first_step"] == spike.start_step
    assert dropped
    assert [int(path.parent.name) for path in tmp_path.glob("replay/*/kept.npz")] == [replayed["step"]]


def test_high_first_loss_is_told_of_as_there_is_none_before_it(tmp_path: pathlib.Path) -> None:
    x, y = _rows()
    y[3] = np.nan
    _fit(tmp_path, _model(keras.optimizers.SGD(1e-4)), _dataset(x, y), block_steps=16)
    left_out = [one for one in read_replays(tmp_path)[0] if "figures" not in one]
    assert (left_out[0]["first_step"], left_out[0]["reason"]) == (1, "no loss stands before it to compare with")


def test_rate_too_high_from_the_start_is_verified(tmp_path: pathlib.Path) -> None:
    evaluation = _fit(tmp_path, _model(keras.optimizers.SGD(2.0)), _dataset(*_rows()))
    course, causes = evaluation.course
    assert course.start_step <= 4
    assert (causes[0].cause, causes[0].status) == ("learning_rate", "verified")
    (replay,) = [one for one in read_replays(tmp_path)[0] if "figures" in one]
    assert replay["state_step"] == 0


def test_batches_of_which_no_rows_can_be_kept_cost_the_replay_alone(tmp_path: pathlib.Path) -> None:
    words = tf.constant(["a", "b", "c", "d"] * 100)
    model = keras.Sequential([keras.layers.StringLookup(vocabulary=list("abcd")), keras.layers.Embedding(6, 1)])
    model.compile("sgd", "mse", jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((words, tf.ones((400, 1)))).batch(8)
    recorder = spikeguard.CurveRecorder(tmp_path, has_tensorboard=False, replay=True)
    model.fit(data, callbacks=[recorder], verbose=0)
    assert read_replays(tmp_path)[1] == (
        "Nothing was kept for replay: the batches hold a tensor of string and shape (None,), of which no rows can be kept.",
    )


def test_damaged_result_is_told_of_and_left_out(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "replay" / "000000121"
    folder.mkdir(parents=True)
    (folder / "replay.json").write_text(json.dumps({"format": "other/1"}))
    replays, (note,) = read_replays(tmp_path)
    assert replays == ()
    assert "has format 'other/1', not 'spikeguard.replay/1'" in note


def test_budget_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="state_steps must be at least 1; got 0"):
        ReplayBudget(state_steps=0)
