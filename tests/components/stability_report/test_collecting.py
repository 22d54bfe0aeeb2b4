"""What is gathered from a run's artifacts, whole, in part and broken."""

from __future__ import annotations

import json
import pathlib

import pytest

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.stability_report.collecting import collect
from spikeguard.components.stability_report.content import ReportContent, read_content
from spikeguard.components.stability_report.report import Report, explain, read_report
from spikeguard.components.stability_report.sources import Source
from tests.components.stability_report.runs import SPIKE_STEPS, cause, losses, spiky, write_run


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    return write_run(tmp_path_factory.mktemp("run"), spiky())


def test_all_parts_are_gathered(sources: list[Source]) -> None:
    content = collect(sources, "run 7", has_pusher=True)
    assert (content.title, content.status, content.notes) == ("run 7", "bad", ())
    assert content.sentence.startswith("The model was not pushed because its training was unstable: ")
    assert content.evaluation is not None
    assert [spike["peak_step"] for spike in content.evaluation["spikes"]] == list(SPIKE_STEPS)
    assert content.curve is not None
    assert content.curve["points"] == len(content.curve["columns"]["loss"]) == 1000
    assert content.curve["epochs"] == [251, 501, 751]
    assert content.curve["guard"] == {"step": list(SPIKE_STEPS), "action": [66, 66]}
    assert content.curve["validation"]["step"] == [250, 500, 750, 1000]
    assert [part[0]["source"] for part in (content.outliers, content.normalization, content.class_balance)] == [
        "OutlierDetector",
        "NormalizationValidator",
        "ImbalanceDetector",
    ]
    assert content.recipe is not None
    assert content.recipe["label"] == "delay"
    assert [(entry["text"], entry["source"]) for entry in content.advice if entry["source"] != "guard"] == [
        ("Winsorize the outliers.", "outliers: 2 spikes, 2 verified"),
        ("rate is high", "range test"),
        ("Weight the classes.", "ImbalanceDetector"),
    ]
    assert content.lineage[3] == {
        "node": "GuardedTrainer",
        "type": "ModelRun",
        "id": 4,
        "created": "2023-11-14 22:13:20 UTC",
        "version": "1.16.0",
        "folder": sources[3].folder,
    }


def test_same_anomaly_of_several_splits_is_one_row_and_errors_come_first(sources: list[Source]) -> None:
    rows = collect(sources, "").anomalies
    assert [(row["source"], row["feature"], row["severity"], row["split"]) for row in rows] == [
        ("OutlierDetector", None, "ERROR", "train"),
        ("NormalizationValidator", None, "ERROR", "train"),
        ("OutlierDetector", "feature 0", "WARNING", "eval, train"),
        ("OutlierDetector", "feature 1", "WARNING", "eval, train"),
        ("OutlierDetector", "feature 2", "WARNING", "eval, train"),
        ("NormalizationValidator", "feature 0", "WARNING", "eval, train"),
    ]
    assert rows[2]["summary"] == "Outliers"
    assert rows[2]["text"] == "33 rows lie outside the fences."


@pytest.mark.parametrize("kept", range(5))
def test_any_single_artifact_makes_a_report(sources: list[Source], kept: int) -> None:
    content = collect([sources[kept]], "part")
    assert [row["type"] for row in content.lineage] == [sources[kept].type_name]
    html = Report(content).html
    assert (">Training curve</h2>" in html) == (sources[kept].type_name == "ModelRun")
    assert (">Class balance</h2>" in html) == (sources[kept].type_name == "spikeguard.ClassWeights")
    assert (">Outliers</h2>" in html) == (sources[kept].node == "OutlierDetector")
    assert (">Normalization</h2>" in html) == (sources[kept].node == "NormalizationValidator")
    assert content.notes == (
        ("No SpikeEvaluator was given: the curve was judged for this report, by the default rules.",)
        if sources[kept].type_name == "ModelRun"
        else ()
    )


def test_json_is_the_content(sources: list[Source], tmp_path: pathlib.Path) -> None:
    content = collect(sources, "run 7")
    page = Report(content).write(tmp_path / "new")
    assert page.name == "report.html"
    assert json.loads((page.parent / "report.json").read_text())["format"] == "spikeguard.report/1"
    assert read_content(page.parent) == content
    assert read_report(page.parent).html == page.read_text()
    (page.parent / "report.json").write_text('{"format": "other"}')
    with pytest.raises(InvalidDataError, match="has format 'other', not"):
        read_content(page.parent)


@pytest.mark.parametrize(
    ("kept", "file", "broken", "note"),
    [
        (0, "outliers.json", "{", "outliers.json could not be read"),
        (0, "outliers.json", "[" * 100_000, "outliers.json could not be read"),
        (0, "outliers.json", "[1]", "holds no JSON object"),
        (0, "outliers.json", '{"format": "spikeguard.outliers/9"}', "has format 'spikeguard.outliers/9'"),
        (0, "Split-train/SchemaDiff.pb", "", "the file is empty"),
        (0, "Split-eval/SchemaDiff.pb", "\x01\x02", "anomalies of OutlierDetector could not be read"),
        (2, "class_balance.json", "null", "holds no JSON object"),
        (3, "curve/steps-000000000001.parquet", "no parquet", "is not a readable curve block"),
        (3, "recipe.json", "\x00", "recipe.json could not be read"),
        (4, "evaluation.json", '{"format": "x"}', "The verdict on the curve could not be read"),
    ],
)
def test_broken_file_is_a_note_and_the_rest_is_shown(
    tmp_path: pathlib.Path, kept: int, file: str, broken: str, note: str
) -> None:
    sources = write_run(tmp_path, losses(300))
    (pathlib.Path(sources[kept].folder) / file).write_text(broken)
    content = collect(sources, "broken")
    assert any(note in told for told in content.notes), content.notes
    assert len(content.lineage) == len(sources)
    assert "<!DOCTYPE html>" in Report(content).html


def test_gone_folder_is_a_note(tmp_path: pathlib.Path) -> None:
    content = collect([Source("ModelRun", str(tmp_path / "gone"), "Trainer")], "gone")
    assert content.status == "open"
    assert "does not exist" in content.notes[-1]


def test_numbers_that_json_lacks_and_endless_values_are_bounded(tmp_path: pathlib.Path) -> None:
    sources = write_run(tmp_path, losses(300))
    endless: object = "core"
    for _ in range(100):
        endless = [endless]
    table = {
        "format": "spikeguard.outliers/1",
        "features": [{"name": "\ud800", "lower": float("-inf"), "upper": float("nan"), "median": 10**400}] * 5000,
        "notes": ["x" * 10_000, endless],
    }
    (pathlib.Path(sources[0].folder) / "outliers.json").write_text(json.dumps(table))
    content = collect(sources, "bounded")
    (outliers,) = content.outliers
    assert outliers["features"][0] == {"name": "?", "lower": None, "upper": None, "median": "inf"}
    assert len(outliers["features"]) == 3000
    assert outliers["notes"][0] == "x" * 600 + "… (10,000 characters)"
    assert str(outliers["notes"][1]).strip("[]") == "'…'"
    json.loads(content.to_json())


def test_log_alone_is_explained(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "runs" / "log.csv"
    log.parent.mkdir()
    log.write_text("step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in enumerate(spiky(), 1)))
    report = explain(log)
    content = report.content
    assert (content.title, content.status) == ("runs/log.csv", "bad")
    assert content.curve is not None
    assert (content.anomalies, content.lineage, content.gates) == ((), (), ())
    assert report._repr_html_().startswith("<iframe ")
    with pytest.raises(InvalidDataError, match="does not exist"):
        explain(tmp_path / "none.csv")


def test_content_equals_what_is_read_back() -> None:
    content = ReportContent("a", "good", "b", gates=({"gate": "c"},), evaluation={"verdict": "stable"}, notes=("d",))
    assert ReportContent.from_json(content.to_json()) == content


def test_causes_of_a_run_that_diverged_are_told_and_advised_on(tmp_path: pathlib.Path) -> None:
    sources = write_run(tmp_path, losses(300))
    path = pathlib.Path(sources[4].folder) / "evaluation.json"
    course = {"start_step": 200, "peak_step": 300, "end_step": 300, "causes": [cause()]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "verdict": "diverged", "course": course}))
    content = collect(sources, "diverged")
    assert content.advice[0]["text"] == "Winsorize the outliers."
    html = Report(content).html
    assert "From step 200 on the loss diverged" in html
    assert "2 of 256 rows carry 87% of the loss." in html
