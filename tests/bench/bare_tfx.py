"""The peer of the main job's bench: the same pipeline made of TFX's own components only.

    python tests/bench/bare_tfx.py CSV_FOLDER SCHEMA OUTPUT STEPS

Same data, preprocessing, network, steps, Evaluator and Pusher as the default pipeline; no recorder, no gate, no progress.
"""

from __future__ import annotations

import math
import sys
from typing import Any

LABEL = "arr_delay"
BATCH = 256


def run_fn(fn_args: Any) -> None:
    """A plain TFX run_fn: Keras' own Huber loss, Adam, TensorBoard callback."""
    import keras
    import tensorflow_transform as tft
    from tfx_bsl.public import tfxio

    from spikeguard.components.columns import EXAMPLE_ID
    from spikeguard.components.guarded_trainer.labels import LabelStatistics
    from spikeguard.components.guarded_trainer.model import build_model, read_features
    from spikeguard.components.guarded_trainer.recipe import Recipe
    from spikeguard.components.guarded_trainer.serving import export

    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    schema = transform_output.transformed_metadata.schema

    def batches(files: list[str], epochs: int | None) -> Any:
        options = tfxio.TensorFlowDatasetOptions(batch_size=BATCH, label_key=LABEL, num_epochs=epochs)
        dataset = fn_args.data_accessor.tf_dataset_factory(files, options, schema)
        return dataset.map(lambda x, y: ({name: x[name] for name in x if name != EXAMPLE_ID}, y))

    label = LabelStatistics("train", 1, location=0.0, scale=20.0, classes=0)
    model = build_model(read_features(transform_output, LABEL), label, "regression", Recipe())
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.Huber(delta=30.0))
    per_epoch = 69
    model.fit(
        batches(fn_args.train_files, None),
        steps_per_epoch=min(per_epoch, fn_args.train_steps),
        epochs=math.ceil(fn_args.train_steps / per_epoch),
        validation_data=batches(fn_args.eval_files, 1),
        callbacks=[keras.callbacks.TensorBoard(fn_args.model_run_dir, update_freq="epoch")],
        verbose=0,
    )
    export(model, transform_output, LABEL, fn_args.serving_model_dir)


def main(csv_folder: str, schema: str, output: str, steps: int) -> None:
    """Runs the pipeline as TFX's tutorials do."""
    from tfx import v1 as tfx

    from spikeguard.pipelines.config import LOCAL_BEAM_ARGS
    from spikeguard.pipelines.pipeline import PREPROCESSING_FN, eval_config

    example_gen = tfx.components.CsvExampleGen(input_base=csv_folder)
    statistics_gen = tfx.components.StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = tfx.components.ImportSchemaGen(schema_file=schema)
    validator = tfx.components.ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    transform = tfx.components.Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn=PREPROCESSING_FN,
        custom_config={
            "label": LABEL,
            "task": "regression",
            "normalize": True,
            "categorical": ["day_of_week", "month"],
        },
        disable_statistics=True,
    )
    trainer = tfx.components.Trainer(
        run_fn="tests.bench.bare_tfx.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        train_args=tfx.proto.TrainArgs(num_steps=steps),
        eval_args=tfx.proto.EvalArgs(num_steps=10),
    )
    resolver = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("LatestBlessedModel")
    evaluator = tfx.components.Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=resolver.outputs["model"],
        eval_config=eval_config(LABEL, "regression"),
    )
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=f"{output}/pushed")
        ),
    )
    nodes = [example_gen, statistics_gen, schema_gen, validator, transform, trainer, resolver, evaluator, pusher]
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="bare",
            pipeline_root=f"{output}/pipeline",
            components=nodes,
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
                f"{output}/metadata.sqlite"
            ),
            beam_pipeline_args=list(LOCAL_BEAM_ARGS),
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
