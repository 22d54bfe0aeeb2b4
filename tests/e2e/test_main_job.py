"""What the README promises, read from the artifacts of its own commands."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from click.testing import CliRunner
from tensorflow_metadata.proto.v0 import anomalies_pb2

import spikeguard
from spikeguard.cli import main
from tests.browser import Browser, open_browser, opened

from . import verified_spike
from .conftest import Run
from .screenshot import take

pytestmark = pytest.mark.e2e

NODES = [
    "CsvExampleGen",
    "ImportSchemaGen",
    "StatisticsGen",
    "ExampleValidator",
    "TrainingStatistics",
    "OutlierDetector",
    "Transform",
    "NormalizationValidator",
    "GuardedTrainer",
    "SpikeEvaluator",
    "LatestBlessedModel",
    "Evaluator",
    "Pusher",
    "StabilityReport",
]


def _rows(split_folder: pathlib.Path) -> list[tf.train.Example]:
    files = sorted(str(path) for path in split_folder.iterdir())
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return [tf.train.Example.FromString(record.numpy()) for record in records]


def _floats(rows: list[tf.train.Example], name: str) -> np.ndarray:
    return np.array([row.features.feature[name].float_list.value[0] for row in rows])


def test_main_job_pushes(main_job: Run) -> None:
    assert main_job.status == 0, main_job.errors
    assert main_job.errors == ""
    for node in NODES:
        assert f"{node} done in" in main_job.output
    assert "GuardedTrainer step 1000/1000" in main_job.output
    assert "verdict  stable over 1000 steps" in main_job.output
    assert [str(folder) for folder in main_job.pushed] == [main_job.pushed_to]


def test_no_line_of_the_platform_is_shown(main_job: Run) -> None:
    for line in main_job.output.splitlines():
        assert not any(word in line for word in ("WARNING", "INFO", "absl", "site-packages"))


def test_example_validator_has_real_findings(main_job: Run) -> None:
    proto = main_job.artifact("ExampleValidator", "anomalies") / "Split-train" / "SchemaDiff.pb"
    findings = anomalies_pb2.Anomalies.FromString(proto.read_bytes()).anomaly_info
    assert {"arr_delay", "pressure", "plane_year"} <= set(findings)
    # An hour without weather is expected, and so no finding.
    assert not {"temp", "distance", "carrier"} & set(findings)
    assert "arr_delay: out-of-range values" in main_job.output


def test_normalization_is_fitted_on_train_alone(main_job: Run) -> None:
    examples = main_job.artifact("Transform", "transformed_examples")
    train, evaluation = _rows(examples / "Split-train"), _rows(examples / "Split-eval")
    for name in ("distance", "sched_dep_minute"):
        values = _floats(train, name)
        assert values.mean() == pytest.approx(0.0, abs=1e-4)
        assert values.std() == pytest.approx(1.0, abs=1e-4)
        # Were eval among the analysed rows, these would be as exact over both splits.
        pooled = np.concatenate([values, _floats(evaluation, name)])
        assert abs(pooled.mean()) + abs(pooled.std() - 1) > 5e-4


def test_outliers_are_flagged_and_the_rows_are_the_same(main_job: Run) -> None:
    found = spikeguard.read_outliers(main_job.artifact("OutlierDetector", "anomalies"))
    raw, treated = (
        main_job.artifact("CsvExampleGen", "examples"),
        main_job.artifact("OutlierDetector", "treated_examples"),
    )
    ids: dict[str, list[int]] = {}
    for split in ("train", "eval"):
        before, after = _rows(raw / f"Split-{split}"), _rows(treated / f"Split-{split}")
        flags = [row.features.feature["outlier_flag"].int64_list.value[0] for row in after]
        assert found["splits"][split] == {
            "rows": len(before),
            "kept": len(before),
            "treated": 0,
            "dropped": 0,
            "flagged": sum(flags),
            "written": len(before),
        }
        ids[split] = [row.features.feature["example_id"].int64_list.value[0] for row in after]
        for row in after:
            for name in ("outlier_score", "outlier_flag", "example_id"):
                del row.features.feature[name]
        assert after == before
    # Late flights are what is odd in January; the worst of them is named, and its row is the one that training records.
    worst = found["top_rows"][0]
    assert worst["reasons"][0]["feature"] == "arr_delay"
    assert worst["values"]["arr_delay"] == max(_floats(_rows(raw / "Split-train"), "arr_delay"))
    transformed = _rows(main_job.artifact("Transform", "transformed_examples") / "Split-train")
    trained = [row.features.feature["example_id"].int64_list.value[0] for row in transformed]
    assert sorted(trained) == sorted(ids["train"])
    assert worst["example_id"] in set(trained)
    assert not {"outlier_score", "outlier_flag"} & set(transformed[0].features.feature)
    (line,) = [line for line in main_job.output.splitlines() if line.split()[:1] == ["outliers"]]
    assert f"{found['splits']['train']['flagged']:,} of {found['splits']['train']['rows']:,} train rows" in line


def test_label_statistics_are_of_the_train_rows(main_job: Run) -> None:
    labels = _floats(_rows(main_job.artifact("CsvExampleGen", "examples") / "Split-train"), "arr_delay")
    recipe = json.loads((main_job.artifact("GuardedTrainer", "model_run") / "recipe.json").read_text())
    statistics = recipe["label_statistics"]
    scale = 1.4826 * np.median(np.abs(labels - np.median(labels)))
    assert (statistics["split"], statistics["rows"]) == ("train", len(labels))
    assert statistics["location"] == np.median(labels)
    assert statistics["scale"] == pytest.approx(scale)
    assert recipe["recipe"]["huber_delta"] == pytest.approx(1.345 * scale)


def test_curve_holds_every_step_and_every_epoch(main_job: Run) -> None:
    curve = spikeguard.read_curve(main_job.artifact("GuardedTrainer", "model_run"))
    np.testing.assert_array_equal(curve.step, np.arange(1, 1001))
    assert set(curve.batch_size) == {256}
    assert np.isfinite(curve.loss).all()
    assert len(curve.validation_loss) == curve.epoch[-1] + 1
    assert curve.learning_rate[0] == pytest.approx(1e-3 / 51)
    assert curve.learning_rate.max() == pytest.approx(1e-3, rel=0.03)
    assert int(np.argmax(curve.learning_rate)) == pytest.approx(50, abs=1)
    assert curve.learning_rate[-1] < 1e-5


def test_verdict_is_written_in_its_format(main_job: Run) -> None:
    verdict = json.loads((main_job.artifact("SpikeEvaluator", "evaluation") / "evaluation.json").read_text())
    assert verdict["format"] == "spikeguard.spike_evaluation/1"
    assert (verdict["verdict"], verdict["reasons"], verdict["spikes"]) == ("stable", [], [])
    assert (verdict["blessed"], verdict["blocked_by"]) == (True, [])
    assert verdict["curve"] == {"points": 1000, "first_step": 1, "last_step": 1000, "kind": "step", "loss_is": "batch"}


def test_pushed_model_serves_raw_examples(main_job: Run) -> None:
    model = tf.saved_model.load(str(main_job.pushed[0]))
    serve = model.signatures["serving_default"]
    rows = _rows(main_job.artifact("CsvExampleGen", "examples") / "Split-eval")
    labels = _floats(rows, "arr_delay")
    whole = serve(examples=tf.constant([row.SerializeToString() for row in rows]))["predictions"].numpy().ravel()
    for row in rows:
        del row.features.feature["arr_delay"]
    blind = serve(examples=tf.constant([row.SerializeToString() for row in rows]))["predictions"].numpy().ravel()
    np.testing.assert_array_equal(whole, blind)
    assert np.isfinite(blind).all()
    # It must have learned something: better than always predicting the median.
    assert np.abs(blind - labels).mean() < 0.97 * np.abs(np.median(labels) - labels).mean()


def test_naive_recipe_is_blocked_and_takes_over_what_is_unchanged(naive_job: Run) -> None:
    assert naive_job.status == 3, naive_job.errors
    assert naive_job.errors == ""
    for node in ("CsvExampleGen", "StatisticsGen", "ExampleValidator", "TrainingStatistics", "OutlierDetector"):
        assert f"{node} cached in" in naive_job.output
    for node in ("Transform", "GuardedTrainer", "SpikeEvaluator", "StabilityReport"):
        assert f"{node} done in" in naive_job.output
    for node in ("Evaluator", "Pusher"):
        assert f"{node} skipped in" in naive_job.output
    assert naive_job.pushed_to.startswith("no: the training curve is unstable: ")
    assert len(naive_job.pushed) == 1


def test_naive_curve_has_spikes_that_the_verdict_names(naive_job: Run) -> None:
    verdict = json.loads((naive_job.artifact("SpikeEvaluator", "evaluation") / "evaluation.json").read_text())
    curve = spikeguard.read_curve(naive_job.artifact("GuardedTrainer", "model_run"))
    assert verdict["verdict"] in ("unstable", "diverged")
    assert verdict["reasons"]
    for spike in verdict["spikes"]:
        assert curve.loss[spike["peak_step"] - 1] == pytest.approx(spike["loss_at_peak"])
        assert spike["loss_at_peak"] > spike["expected_loss"]


def test_data_frame_of_the_flights_is_what_was_read(main_job: Run) -> None:
    (csv,) = main_job.folder.glob("data/*/flights.csv")
    examples = main_job.artifact("CsvExampleGen", "examples")
    rows = len(_rows(examples / "Split-train")) + len(_rows(examples / "Split-eval"))
    assert len(pd.read_csv(csv)) == rows == 26_398


# The report


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
