"""The page of the README's own runs: the pushed one and the blocked one."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from spikeguard.cli import main
from tests.browser import Browser, open_browser, opened

from . import verified_spike
from .conftest import Run
from .screenshot import take

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened_browser:
        yield opened_browser


def _report(run: Run) -> pathlib.Path:
    """The page that the summary of the run names."""
    (line,) = [line for line in run.output.splitlines() if line.split()[:1] == ["report"]]
    return pathlib.Path(line.split(maxsplit=1)[1])


def test_report_of_the_pushed_model(main_job: Run) -> None:
    content = json.loads((_report(main_job).parent / "report.json").read_text())
    assert content["sentence"].startswith("The model was pushed: its training was stable")
    assert content["title"] == "arr_delay of flights.csv"
    assert [(gate["gate"], gate["outcome"]) for gate in content["gates"]] == [
        ("NormalizationValidator", "passed"),
        ("SpikeEvaluator", "passed"),
        ("Evaluator", "passed"),
        ("Pusher", "passed"),
    ]
    assert content["curve"]["points"] == 1000
    assert {"arr_delay", "pressure", "plane_year"} <= {row["feature"] for row in content["anomalies"]}
    assert {"ExampleValidator", "OutlierDetector"} <= {row["source"] for row in content["anomalies"]}
    (outliers,) = content["outliers"]
    assert {"arr_delay", "distance"} <= {feature["name"] for feature in outliers["features"]}
    (normalization,) = content["normalization"]
    assert normalization["verdict"] == "proven"
    assert {row["split"] for row in content["statistics"]} == {"train", "eval"}
    metrics = {row["metric"]: row for row in content["metrics"]}
    assert metrics["squared_pearson_correlation"]["value"] > 0.001
    assert not any(row["failed"] for row in metrics.values())
    assert content["recipe"]["recipe"]["loss"] == "huber"
    assert content["notes"] == []
    assert {"SpikeEvaluator", "GuardedTrainer", "Pusher"} <= {row["node"] for row in content["lineage"]}


def test_report_is_made_where_the_push_was_blocked_and_its_nodes_skipped(naive_job: Run) -> None:
    content = json.loads((_report(naive_job).parent / "report.json").read_text())
    assert content["sentence"].startswith("The model was not pushed because its training was unstable: ")
    assert content["gates"][-1] == {"gate": "Pusher", "outcome": "skipped", "reason": "nothing was pushed"}
    assert content["metrics"] == []
    assert content["advice"]
    assert "cannot be shown" not in _report(naive_job).read_text()


def test_report_of_an_output_folder_is_of_its_last_run(naive_job: Run, tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", str(naive_job.folder), "--html", str(page)])
    assert done.exit_code == 0, done.output
    sentence = json.loads((_report(naive_job).parent / "report.json").read_text())["sentence"]
    assert done.output == f"{sentence}\n{page}\n"
    assert "arr_delay of flights.csv" in page.read_text()
    # It names every artifact of the run, not those alone that the component was given.
    assert "TransformGraph" in page.read_text()


def test_pages_open_without_complaint(browser: Browser, main_job: Run, naive_job: Run) -> None:
    for run in (main_job, naive_job):
        for width in (1200, 390):
            with opened(browser, _report(run), width=width) as (page, complaints):
                assert page.locator("#chart canvas").count() == 3
                assert page.evaluate("document.documentElement.scrollWidth") == width
            assert complaints == []


def test_picture_of_the_readme_can_be_taken_again(browser: Browser, tmp_path: pathlib.Path) -> None:
    verified_spike.train(tmp_path)
    evaluation = verified_spike.write_page(tmp_path, tmp_path / "report.html")
    (((spike, (cause, *_)),), (replay,)) = evaluation.explained_spikes, evaluation.spike_replays
    assert (cause.cause, cause.status) == ("outliers", "verified")
    assert {row.example_id for row in cause.rows} == set(verified_spike.WRONG_ROWS)
    assert {row.feature for row in cause.rows} == {"distance"}
    assert replay is not None
    assert max(replay["losses"]) > 0.5 * spike.loss_at_peak > 100 * max(cause.replay["losses"])
    picture = take(browser, tmp_path / "report.html", tmp_path / "report.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 300_000
