"""What a finished run of the default pipeline decided, read from its metadata."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_metadata.proto import metadata_store_pb2 as mlmd

from spikeguard.components.anomalies import ANOMALIES_FILE, read_anomalies
from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.guarded_trainer.recipe import RECIPE_FILE
from spikeguard.components.imbalance_detector.advice import classes_sentence
from spikeguard.components.imbalance_detector.class_balance import read_class_weights
from spikeguard.components.normalization_validator.result import RESULT_FILE as NORMALIZATION_FILE
from spikeguard.components.outlier_detector.findings import OUTLIERS
from spikeguard.components.outlier_detector.summary import outlier_sentence, read_outliers
from spikeguard.components.spike_evaluator import result as spike_result
from spikeguard.components.stability_report.content import PAGE_FILE
from spikeguard.pipelines.metadata import latest_outputs

# Nodes whose findings are told, in this order.
_VALIDATORS = ("ExampleValidator", "ImbalanceDetector", "OutlierDetector")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The end of one run."""

    evaluation: dict[str, Any] | None
    """SpikeEvaluator's verdict, as `evaluation.json` has it; None where nothing was trained."""
    normalization: dict[str, Any]
    """NormalizationValidator's verdict, as `normalization.json` has it."""
    pushed_to: str | None
    """Folder of the pushed model; None where nothing was pushed."""
    blocked_by: str | None
    """Why nothing was pushed, in one sentence; None where it was."""
    anomalies: tuple[str, ...]
    """What ExampleValidator, ImbalanceDetector and OutlierDetector found, one `feature: text (splits)` each; `outliers` are
    not among them."""
    outliers: str | None
    """What OutlierDetector found and did, in one sentence; None where it did not run."""
    classes: str | None
    """How uneven the classes are and what that does to the loss, in one sentence; None for a regression."""
    warnings: tuple[str, ...]
    """What GuardedTrainer has to say against its recipe, one sentence each."""
    interventions: int
    """Steps in which the guard did something."""
    artifacts: dict[str, str]
    """Path of each artifact that a person may want to open, by what it is."""


def read_run_result(metadata_path: str, pipeline_name: str) -> RunResult:
    """Reads the latest run of a pipeline from its SQLite metadata.

    Args:
      metadata_path: the SQLite file.
      pipeline_name: the pipeline; its latest run must have come as far as NormalizationValidator.
    """
    outputs = latest_outputs(metadata_path, pipeline_name)
    normalization_uri = outputs["anomalies", "NormalizationValidator"].uri
    artifacts = {
        name: outputs[key].uri
        for name, key in (
            ("curve", ("model_run", "GuardedTrainer")),
            ("evaluation", ("evaluation", "SpikeEvaluator")),
            ("model", ("model", "GuardedTrainer")),
        )
        if key in outputs
    }
    evaluation = spike_result.read(artifacts["evaluation"]) if "evaluation" in artifacts else None
    normalization = json.loads((pathlib.Path(normalization_uri) / NORMALIZATION_FILE).read_text())
    pushed = outputs.get(("pushed_model", "Pusher"))
    pushed_to = pushed.custom_properties["pushed_destination"].string_value if pushed else ""
    report = outputs.get(("report", "StabilityReport"))
    if report is not None:
        artifacts["report"] = str(pathlib.Path(report.uri) / PAGE_FILE)
    outliers, weights = ("anomalies", "OutlierDetector"), ("class_weights", "ImbalanceDetector")
    return RunResult(
        evaluation=evaluation,
        normalization=normalization,
        pushed_to=pushed_to or None,
        blocked_by=None if pushed_to else _blocked_by(outputs, evaluation),
        anomalies=_anomalies(
            [outputs["anomalies", node].uri for node in _VALIDATORS if ("anomalies", node) in outputs]
        ),
        outliers=outlier_sentence(read_outliers(outputs[outliers].uri)) if outliers in outputs else None,
        classes=classes_sentence(read_class_weights(outputs[weights].uri)) if weights in outputs else None,
        warnings=_warnings(artifacts),
        interventions=_interventions(artifacts),
        artifacts={**artifacts, "normalization": normalization_uri},
    )


def _warnings(artifacts: dict[str, str]) -> tuple[str, ...]:
    if "curve" not in artifacts:
        return ()
    return tuple(json.loads((pathlib.Path(artifacts["curve"]) / RECIPE_FILE).read_text())["warnings"])


def _interventions(artifacts: dict[str, str]) -> int:
    return int((read_curve(artifacts["curve"]).guard_action > 0).sum()) if "curve" in artifacts else 0


def _blocked_by(outputs: dict[tuple[str, str], mlmd.Artifact], evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        reasons = outputs["blessing", "NormalizationValidator"].custom_properties["reasons"].string_value
        return f"the normalization is not sound, so nothing was trained: {reasons}"
    if evaluation["verdict"] != "stable":
        return f"the training curve is {evaluation['verdict']}: {'; '.join(evaluation['reasons'])}"
    blessing, metrics = outputs.get(("blessing", "Evaluator")), outputs.get(("evaluation", "Evaluator"))
    if blessing is not None and metrics is not None and blessing.custom_properties["blessed"].int_value != 1:
        return f"Evaluator did not bless the model: {_failed_metrics(metrics.uri)}"
    return "Pusher pushed nothing"


def _failed_metrics(evaluation_folder: str) -> str:
    import tensorflow_model_analysis as tfma  # Loaded by the run already; costs seconds where it is not.

    result = tfma.load_validation_result(evaluation_folder)
    failures = [
        f"{failure.metric_key.name} is {failure.metric_value.double_value.value:.4g}"
        for per_slice in result.metric_validations_per_slice
        for failure in per_slice.failures
    ]
    return ", ".join(failures) or "see its validation result"


def _anomalies(folders: Sequence[str]) -> tuple[str, ...]:
    splits_of: dict[str, list[str]] = {}
    for file in (file for folder in folders for file in sorted(pathlib.Path(folder).glob(f"Split-*/{ANOMALIES_FILE}"))):
        anomalies = read_anomalies(file)
        for feature, info in sorted(anomalies.anomaly_info.items()):
            for reason in (one for one in info.reason if one.short_description != OUTLIERS):
                finding = f"{feature}: {reason.short_description.lower()}"
                splits_of.setdefault(finding, []).append(file.parent.name.removeprefix("Split-"))
    return tuple(f"{finding} ({', '.join(splits)})" for finding, splits in splits_of.items())
