"""SpikeEvaluator beside a plain TFX Trainer, whose only log is TensorBoard's and which has nothing of spikeguard in it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

EPOCH_STEPS = 40
STEPS = 4 * EPOCH_STEPS
BATCH = 32
# Late enough to matter, early enough to recover from.
SPOILED_STEP = STEPS - 25
LEARNING_RATE = 0.1
SPOILED_LEARNING_RATE = 10.0


def run_fn(fn_args: Any) -> None:
    """A plain TFX run_fn: Keras' own fit and TensorBoard callback; one absurd learning rate where the test asks for it."""
    import keras
    import tensorflow as tf
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.utils import io_utils
    from tfx_bsl.public import tfxio

    class Spoil(keras.callbacks.Callback):
        """Raises the learning rate for one step."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            is_spoiled = int(self.model.optimizer.iterations.numpy()) + 1 == SPOILED_STEP
            self.model.optimizer.learning_rate = SPOILED_LEARNING_RATE if is_spoiled else LEARNING_RATE

    keras.utils.set_random_seed(0)
    schema = io_utils.parse_pbtxt_file(fn_args.schema_path, schema_pb2.Schema())
    options = tfxio.TensorFlowDatasetOptions(batch_size=BATCH, label_key="y", shuffle_seed=0)
    inputs = {name: keras.Input((1,), name=name) for name in ("a", "b")}
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(list(inputs.values()))))
    model.compile(keras.optimizers.SGD(LEARNING_RATE), "mse")
    log = keras.callbacks.TensorBoard(log_dir=fn_args.model_run_dir, update_freq="batch")
    model.fit(
        fn_args.data_accessor.tf_dataset_factory(fn_args.train_files, options, schema),
        steps_per_epoch=EPOCH_STEPS,
        epochs=fn_args.train_steps // EPOCH_STEPS,
        callbacks=[log, Spoil()] if fn_args.custom_config["is_spoiled"] else [log],
        verbose=0,
    )
    tf.saved_model.save(model, fn_args.serving_model_dir)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of the pipeline left."""

    evaluation: dict[str, Any]
    pushed: list[str]
    """Versions pushed so far."""


def _run(folder: pathlib.Path, is_spoiled: bool) -> Outcome:
    from tfx import v1 as tfx

    from spikeguard.components.spike_evaluator.component import SpikeEvaluator
    from spikeguard.pipelines.config import LOCAL_BEAM_ARGS

    example_gen = tfx.components.CsvExampleGen(input_base=str(folder / "csv"))
    statistics_gen = tfx.components.StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = tfx.components.SchemaGen(statistics=statistics_gen.outputs["statistics"])
    validator = tfx.components.ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    trainer = tfx.components.Trainer(
        run_fn="tests.e2e.test_plain_trainer.run_fn",
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        train_args=tfx.proto.TrainArgs(num_steps=STEPS),
        eval_args=tfx.proto.EvalArgs(num_steps=1),
        custom_config={"is_spoiled": is_spoiled},
    )
    spikes = SpikeEvaluator(model_run=trainer.outputs["model_run"], anomalies=validator.outputs["anomalies"])
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        infra_blessing=spikes.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(folder / "pushed"))
        ),
    )
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="plain",
            pipeline_root=str(folder / "pipeline"),
            components=[example_gen, statistics_gen, schema_gen, validator, trainer, spikes, pusher],
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
                str(folder / "metadata.sqlite")
            ),
            # What both runs share is computed once.
            enable_cache=True,
            beam_pipeline_args=list(LOCAL_BEAM_ARGS),
        )
    )
    newest = max((folder / "pipeline/SpikeEvaluator/evaluation").iterdir(), key=lambda path: int(path.name))
    evaluation = json.loads((newest / "evaluation.json").read_text())
    return Outcome(evaluation, sorted(path.name for path in (folder / "pushed").glob("*")))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Outcome]:
    """Of a calm run and then of one with a spoiled step, of the same pipeline."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "csv").mkdir()
    random = np.random.default_rng(0)
    a, b, noise = random.normal(size=(3, 3000))
    table = np.column_stack([a, b, 3 * a - 2 * b + noise])
    np.savetxt(folder / "csv" / "rows.csv", table, delimiter=",", header="a,b,y", comments="")
    return _run(folder, is_spoiled=False), _run(folder, is_spoiled=True)


def test_calm_run_is_pushed(outcomes: tuple[Outcome, Outcome]) -> None:
    calm, _ = outcomes
    assert (calm.evaluation["verdict"], calm.evaluation["blocked_by"]) == ("stable", [])
    assert calm.evaluation["blessed"] is True
    assert calm.evaluation["curve"]["loss_is"] == "running_mean"
    assert (calm.evaluation["curve"]["points"], calm.evaluation["curve"]["kind"]) == (STEPS, "step")
    assert len(calm.pushed) == 1


def test_spoiled_run_is_not_pushed_and_its_spike_is_named(outcomes: tuple[Outcome, Outcome]) -> None:
    calm, spoiled = outcomes
    assert spoiled.evaluation["verdict"] == "unstable"
    assert spoiled.evaluation["curve"]["loss_is"] == "running_mean"
    # The loss of the step after shows what the step did to the weights.
    (spike,) = spoiled.evaluation["spikes"]
    assert spike["start_step"] == SPOILED_STEP + 1
    assert spike["recovered"] is True
    assert spoiled.evaluation["blessed"] is False
    assert any("1 spike in the last 20% of the run" in reason for reason in spoiled.evaluation["blocked_by"])
    assert spoiled.pushed == calm.pushed
