"""The component inside TFX: artifacts in, HtmlReport out."""

from __future__ import annotations

import pathlib

import pytest
from tfx.types import Artifact, Channel, standard_artifacts

from spikeguard.components.artifacts import ClassWeights, HtmlReport, SpikeEvaluation
from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.stability_report.component import StabilityReport
from spikeguard.components.stability_report.content import read_content
from spikeguard.components.stability_report.executor import Executor
from tests.components.stability_report.runs import spiky, write_run

TYPES = {
    type_.TYPE_NAME: type_
    for type_ in (ClassWeights, SpikeEvaluation, standard_artifacts.ExampleAnomalies, standard_artifacts.ModelRun)
}
KEYS = {
    "ExampleAnomalies": "anomalies",
    "ModelRun": "model_run",
    "spikeguard.SpikeEvaluation": "evaluation",
    "spikeguard.ClassWeights": "class_weights",
}


def _inputs(root: pathlib.Path) -> dict[str, list[Artifact]]:
    inputs: dict[str, list[Artifact]] = {}
    for source in write_run(root, spiky()):
        artifact = TYPES[source.type_name]()
        artifact.uri, artifact.id = source.folder, source.artifact_id
        artifact.set_string_custom_property("tfx_version", "1.16.0")
        inputs.setdefault(KEYS[source.type_name], []).append(artifact)
    return inputs


def _report(folder: pathlib.Path) -> HtmlReport:
    report = HtmlReport()
    report.uri = str(folder)
    return report


def test_page_and_content_are_written(tmp_path: pathlib.Path) -> None:
    report = _report(tmp_path / "report")
    inputs = {**_inputs(tmp_path), "pushed_model": []}
    Executor().Do(inputs, {"report": [report]}, {"title": "delay of flights.csv"})
    content = read_content(report.uri)
    assert content.sentence.startswith("The model was not pushed because its training was unstable: ")
    assert content.notes == ()
    assert report.get_string_custom_property("title") == content.title == "delay of flights.csv"
    assert [row["node"] for row in content.lineage] == [
        "OutlierDetector",
        "NormalizationValidator",
        "GuardedTrainer",
        "SpikeEvaluator",
        "ImbalanceDetector",
    ]
    assert "delay of flights.csv" in (tmp_path / "report" / "report.html").read_text()


def test_run_goes_on_when_the_report_cannot_be_made(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("spikeguard.components.stability_report.executor.collect", fail)
    report = _report(tmp_path / "report")
    Executor().Do({}, {"report": [report]}, {"title": "run"})
    assert read_content(report.uri).sentence == "The report could not be made: RuntimeError: disk on fire"


def test_inputs_are_optional_but_one_is_needed() -> None:
    component = StabilityReport(
        anomalies=[Channel(type=standard_artifacts.ExampleAnomalies), Channel(type=standard_artifacts.ExampleAnomalies)]
    )
    assert list(component.inputs) == ["anomalies"]
    assert component.outputs["report"].type is HtmlReport
    with pytest.raises(InvalidArgumentError, match="inputs must name at least one of evaluation, model_run, anomalies"):
        StabilityReport()
