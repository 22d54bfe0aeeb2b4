"""Runs the detector inside TFX: ModelRun in, SpikeEvaluation and InfraBlessing out."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils

from spikeguard.components.anomalies import ANOMALIES_FILE, read_anomalies
from spikeguard.components.blessing import bless
from spikeguard.components.curve_readers.reading import read_curve, read_curves
from spikeguard.components.errors import SpikeguardError
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.replays import read_replays, read_tables
from spikeguard.components.spike_evaluator.detection import DetectionConfig
from spikeguard.components.spike_evaluator.policy import SpikePolicy
from spikeguard.components.training_curve import TrainingCurve

logger = logging.getLogger(__name__)

# ExampleValidator writes the first, DistributionValidator the second.
_SPLIT_FOLDERS = ("Split-{}", "SplitPair-{}")


class Executor(base_executor.BaseExecutor):  # type: ignore[misc]
    """Evaluates one run's curve and hears the other gates; whatever goes wrong means not blessed, never an exception.

    An optional input that is a key of `input_dict` was given to the component, even where its list is empty.
    """

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        detection = DetectionConfig(**json.loads(exec_properties["detection"]))
        policy = SpikePolicy(**json.loads(exec_properties["policy"]))
        model_run = artifact_utils.get_single_instance(input_dict["model_run"])
        baseline, objections = _read_baseline(input_dict.get("baseline_run", []), model_run)
        if "infra_blessing" in input_dict:
            objections += _infra_objections(input_dict["infra_blessing"])
        if "anomalies" in input_dict:
            objections += _anomaly_objections(input_dict["anomalies"])
        evaluation = _evaluate(model_run.uri, detection, policy, baseline)
        evaluation = _attribute(
            evaluation, model_run.uri, [*input_dict.get("findings", []), *input_dict.get("anomalies", [])]
        )
        evaluation = dataclasses.replace(evaluation, objections=objections)
        logger.info("The curve is %s. %s", evaluation.verdict, "; ".join(evaluation.blocked_by))
        result.write(evaluation, artifact_utils.get_single_uri(output_dict["evaluation"]))
        bless(
            artifact_utils.get_single_instance(output_dict["blessing"]),
            evaluation.is_blessed,
            evaluation.blocked_by,
            verdict=evaluation.verdict,
        )


def _evaluate(
    model_run_uri: str, detection: DetectionConfig, policy: SpikePolicy, baseline: TrainingCurve | None
) -> result.Evaluation:
    try:
        return result.evaluate_runs(read_curves(model_run_uri), detection, policy, baseline)
    except SpikeguardError as error:
        return result.unreadable(str(error))
    except Exception as error:  # The gate fails closed: an exception here would abort the run and lose the verdict.
        logger.exception("The curve could not be evaluated")
        return result.unreadable(f"the curve could not be evaluated: {_told(error)}")


def _attribute(evaluation: result.Evaluation, model_run_uri: str, anomalies: Sequence[Artifact]) -> result.Evaluation:
    """The evaluation with causes; what goes wrong here changes no verdict."""
    try:
        replays, notes = read_replays(model_run_uri)
        return result.with_causes(evaluation, replays, notes, read_tables([one.uri for one in anomalies]))
    except Exception as error:
        logger.exception("The causes could not be found")
        return dataclasses.replace(evaluation, replay_notes=(f"the causes could not be found: {_told(error)}",))


def _read_baseline(runs: Sequence[Artifact], model_run: Artifact) -> tuple[TrainingCurve | None, tuple[str, ...]]:
    """The curve of the newest run other than the one to judge, or what speaks against the push."""
    # A resolver that runs after the trainer finds the trainer's own run.
    others = [run for run in runs if run.uri != model_run.uri]
    if not others:
        return None, ()
    try:
        return read_curve(max(others, key=lambda run: run.id).uri), ()
    except Exception as error:
        return None, (f"the baseline run cannot be compared with: {_told(error)}",)


def _infra_objections(blessings: Sequence[Artifact]) -> tuple[str, ...]:
    if not blessings:
        return ("there is no infra blessing, though one is asked for",)
    return tuple(
        f"the infrastructure validation did not bless the model (blessed is {_blessed(blessing)!r} in {blessing.uri})"
        for blessing in blessings
        if _blessed(blessing) != 1
    )


def _blessed(blessing: Artifact) -> object:
    return blessing.get_custom_property("blessed")


def _anomaly_objections(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    if not artifacts:
        return ("there are no example anomalies, though they are asked for",)
    found: list[str] = []
    for artifact in artifacts:
        try:
            for split, path in _anomaly_files(artifact):
                found += _errors(split, path)
        except Exception as error:
            found.append(f"the example anomalies cannot be used: {artifact.uri}: {_told(error)}")
    return tuple(found)


def _anomaly_files(artifact: Artifact) -> Iterator[tuple[str, pathlib.Path]]:
    """Name and file of each split; Transform's anomalies have a file and no splits."""
    root = pathlib.Path(artifact.uri)
    splits = artifact_utils.decode_split_names(artifact.split_names)
    if not splits:
        yield "", root / ANOMALIES_FILE
    for split in splits:
        folders = [root / folder.format(split) for folder in _SPLIT_FOLDERS]
        yield split, next((folder for folder in folders if folder.exists()), folders[0]) / ANOMALIES_FILE


def _errors(split: str, path: pathlib.Path) -> Iterator[str]:
    """One sentence for each anomaly of severity ERROR, or one that says why these cannot be known."""
    try:
        anomalies = read_anomalies(path)
    except SpikeguardError as error:
        yield f"the example anomalies cannot be used: {error}"
        return
    where = f" of split {split!r}" if split else ""
    if anomalies.data_missing:
        yield f"the examples{where} are missing"
    named = [(f"feature {name!r}", info) for name, info in sorted(anomalies.anomaly_info.items())]
    for name, info in [("the dataset", anomalies.dataset_anomaly_info), *named]:
        if info.severity == anomalies_pb2.AnomalyInfo.ERROR:
            # The short description of several reasons is "Multiple errors".
            short = ", ".join(reason.short_description for reason in info.reason if reason.short_description)
            yield f"{name}{where} has an anomaly: {short or info.short_description or info.description or 'it is not described'}"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, SpikeguardError) else f"{type(error).__name__}: {error}"
