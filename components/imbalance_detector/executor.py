"""Runs the detector inside TFX: statistics in, ClassWeights and ExampleAnomalies out."""

from __future__ import annotations

import json
import logging
from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils
from tfx.utils import io_utils

from spikeguard.components.anomalies import write_findings
from spikeguard.components.guarded_trainer.batches import plan_batches
from spikeguard.components.imbalance_detector.assessment import assess_classes, assess_range
from spikeguard.components.imbalance_detector.class_balance import write_class_balance
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.imbalance_detector.reading import read_label

logger = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):  # type: ignore[misc]
    """Judges the label of one data set."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        config = ImbalanceConfig(**json.loads(exec_properties["config"]))
        schema = None
        if input_dict.get("schema"):
            schema_folder = artifact_utils.get_single_uri(input_dict["schema"])
            schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_folder))
        found = read_label([artifact.uri for artifact in input_dict["statistics"]], config, schema)
        train = found.counts[config.train_split]
        if config.task == "regression":
            assessment = assess_range(found.counts, found.train_range, config)
        else:
            batch_size = plan_batches(train.rows, config.batch_size, keep_short_batch=False).batch_size
            assessment = assess_classes(found.counts, config, batch_size)
        for sentence in (*assessment.balance.advice, *assessment.balance.notes):
            logger.info("%s", sentence)
        weights = artifact_utils.get_single_instance(output_dict["class_weights"])
        write_class_balance(assessment.balance, weights.uri)
        weights.set_string_custom_property("split", config.train_split)
        weights.set_int_custom_property("rows", train.rows)
        anomalies = artifact_utils.get_single_instance(output_dict["anomalies"])
        anomalies.split_names = artifact_utils.encode_split_names(list(assessment.findings))
        write_findings(anomalies.uri, assessment.findings, schema)
