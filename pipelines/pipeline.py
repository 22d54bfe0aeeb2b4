"""The default pipeline: from CSV files to a push that an unstable curve blocks."""

from __future__ import annotations

import tensorflow_model_analysis as tfma
from tfx.components import (
    CsvExampleGen,
    Evaluator,
    ExampleValidator,
    Pusher,
    SchemaGen,
    StatisticsGen,
    Transform,
)
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.dsl.placeholder.placeholder import Predicate
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, pusher_pb2, transform_pb2
from tfx.types import Channel, standard_artifacts

from spikeguard.components.columns import SAMPLE_WEIGHT
from spikeguard.components.guarded_trainer.component import GuardedTrainer
from spikeguard.components.guarded_trainer.recipe import Task
from spikeguard.components.guarded_trainer.serving import SERVING_SIGNATURE, TRANSFORM_SIGNATURE
from spikeguard.components.imbalance_detector.component import ImbalanceDetector
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.normalization_validator.component import NormalizationValidator
from spikeguard.components.outlier_detector.component import OutlierDetector
from spikeguard.components.spike_evaluator.component import SpikeEvaluator
from spikeguard.components.stability_report.component import StabilityReport
from spikeguard.components.training_statistics.component import TrainingStatistics
from spikeguard.pipelines.config import PipelineConfig, categorical_columns, read_schema

PREPROCESSING_FN = "spikeguard.pipelines.preprocessing.preprocessing_fn"


def create_pipeline(config: PipelineConfig) -> Pipeline:
    """The DAG, in reading order.

    Raises:
      InvalidArgumentError, InvalidDataError: the schema file cannot be used.
    """
    example_gen = CsvExampleGen(
        input_base=config.data.folder,
        input_config=example_gen_pb2.Input(
            splits=[example_gen_pb2.Input.Split(name="all", pattern=config.data.pattern)]
        ),
    )
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"])
    if config.schema_path is None:
        schema_gen = SchemaGen(
            statistics=statistics_gen.outputs["statistics"],
            # What eval holds beyond train is a finding of ExampleValidator, not a part of the schema.
            exclude_splits=["eval"],
            # Without inferred shapes any column may have gaps, so one that first shows in eval or serving is no error.
            infer_feature_shape=False,
        )
        categorical = []
    else:
        schema_gen = ImportSchemaGen(schema_file=config.schema_path)
        categorical = categorical_columns(read_schema(config.schema_path))
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    training_statistics = TrainingStatistics(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        label=config.label,
        task=config.task,
    )
    imbalance_detectors = []
    eval_statistics = []
    if config.task == "classification":
        # Only these count the classes of a split whatever their type; of whole numbers StatisticsGen keeps ranges.
        eval_statistics = [
            TrainingStatistics(
                examples=example_gen.outputs["examples"],
                schema=schema_gen.outputs["schema"],
                split="eval",
                label=config.label,
                task=config.task,
            ).with_id("EvalStatistics")
        ]
        imbalance_detector = ImbalanceDetector(
            statistics=[one.outputs["statistics"] for one in (statistics_gen, training_statistics, *eval_statistics)],
            config=ImbalanceConfig(config.label, config.task, batch_size=config.recipe.batch_size),
        )
        imbalance_detectors = [imbalance_detector]
    examples, schema = example_gen.outputs["examples"], schema_gen.outputs["schema"]
    outlier_detectors = []
    if config.outliers is not None:
        outlier_detector = OutlierDetector(
            examples=examples,
            statistics=training_statistics.outputs["statistics"],
            schema=schema,
            label=config.label,
            task=config.task,
            treatment=config.outliers,
        )
        # What is trained on is treated; what Evaluator measures on is as it came.
        examples, schema = outlier_detector.outputs["treated_examples"], outlier_detector.outputs["treated_schema"]
        outlier_detectors = [outlier_detector]
    weight = SAMPLE_WEIGHT if config.outliers == "downweight" else None
    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn=PREPROCESSING_FN,
        # Constants from the train split alone; each split is then transformed by these same constants.
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        custom_config={
            "label": config.label,
            "task": config.task,
            "normalize": config.normalize,
            "categorical": categorical,
            "winsorize": config.outliers == "winsorize",
            "weight": weight,
        },
        # StatisticsGen has described the raw data; describing them again here took a third of Transform's time.
        disable_statistics=True,
    )
    normalization = NormalizationValidator(
        examples=examples,
        transform_graph=transform.outputs["transform_graph"],
        transformed_examples=transform.outputs["transformed_examples"],
        statistics=None if config.outliers == "drop" else training_statistics.outputs["statistics"],
        label=config.label,
    )
    blessed_model = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("LatestBlessedModel")
    with Cond(_is_blessed(normalization)):
        trainer = GuardedTrainer(
            examples=transform.outputs["transformed_examples"],
            transform_graph=transform.outputs["transform_graph"],
            label=config.label,
            task=config.task,
            recipe=config.recipe,
            weight=weight,
            class_weights=imbalance_detector.outputs["class_weights"] if config.recipe.balance == "weights" else None,
        )
        spike_evaluator = SpikeEvaluator(
            model_run=trainer.outputs["model_run"],
            findings=[
                normalization.outputs["anomalies"],
                *(detector.outputs["anomalies"] for detector in outlier_detectors),
            ],
        )
        with Cond(_is_blessed(spike_evaluator)):
            evaluator = Evaluator(
                examples=example_gen.outputs["examples"],
                model=trainer.outputs["model"],
                baseline_model=blessed_model.outputs["model"],
                eval_config=eval_config(config.label, config.task),
            )
            pusher = Pusher(
                model=trainer.outputs["model"],
                model_blessing=evaluator.outputs["blessing"],
                infra_blessing=spike_evaluator.outputs["blessing"],
                push_destination=pusher_pb2.PushDestination(
                    filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=config.serving_folder)
                ),
            )
    # Outside of the condition: a blocked push is when the report is needed most.
    report = StabilityReport(
        evaluation=spike_evaluator.outputs["evaluation"],
        model_run=trainer.outputs["model_run"],
        anomalies=[
            validator.outputs["anomalies"]
            for validator in (example_validator, *imbalance_detectors, *outlier_detectors, normalization)
        ],
        statistics=[statistics_gen.outputs["statistics"], training_statistics.outputs["statistics"]],
        class_weights=[detector.outputs["class_weights"] for detector in imbalance_detectors] or None,
        infra_blessing=[normalization.outputs["blessing"], spike_evaluator.outputs["blessing"]],
        model_evaluation=evaluator.outputs["evaluation"],
        model_blessing=evaluator.outputs["blessing"],
        pushed_model=pusher.outputs["pushed_model"],
        title=config.title,
    )
    return Pipeline(
        pipeline_name=config.pipeline_name,
        pipeline_root=config.pipeline_root,
        components=[
            example_gen,
            statistics_gen,
            schema_gen,
            example_validator,
            training_statistics,
            *eval_statistics,
            *imbalance_detectors,
            *outlier_detectors,
            transform,
            normalization,
            trainer,
            spike_evaluator,
            blessed_model,
            evaluator,
            pusher,
            report,
        ],
        enable_cache=config.is_cached,
        metadata_connection_config=sqlite_metadata_connection_config(config.metadata_path),
        beam_pipeline_args=list(config.beam_args),
    )


def _is_blessed(component: BaseComponent) -> Predicate:
    """Holds where the component's InfraBlessing says so; what depends on it does not run otherwise."""
    return component.outputs["blessing"].future()[0].custom_property("blessed") == 1


def eval_config(label: str, task: Task) -> tfma.EvalConfig:
    """Better than a constant, and not clearly worse than the last blessed model; free of the label's unit."""
    if task == "regression":
        # A constant prediction has no correlation with the label at all, and a non-finite one fails every bound.
        correlation = tfma.MetricThreshold()
        correlation.value_threshold.lower_bound.value = 0.001
        error = tfma.MetricThreshold()
        error.change_threshold.direction = tfma.MetricDirection.LOWER_IS_BETTER
        error.change_threshold.relative.value = 0.05
        thresholds = {"SquaredPearsonCorrelation": correlation, "MeanAbsoluteError": error}
    else:
        auc = tfma.MetricThreshold()
        auc.value_threshold.lower_bound.value = 0.55
        auc.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
        auc.change_threshold.absolute.value = -0.02
        thresholds = {"AUC": auc}
    metrics = [tfma.MetricConfig(class_name=name, threshold=threshold) for name, threshold in thresholds.items()]
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                model_type="tf_generic",
                signature_name=SERVING_SIGNATURE,
                preprocessing_function_names=[TRANSFORM_SIGNATURE],
                prediction_key="predictions",
                label_key=label,
            )
        ],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[
            tfma.MetricsSpec(metrics=[tfma.MetricConfig(class_name="ExampleCount")]),
            tfma.MetricsSpec(metrics=metrics),
        ],
    )
