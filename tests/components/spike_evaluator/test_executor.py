"""The executor with real artifacts, without a pipeline around it."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types import Artifact, Channel, channel_utils, standard_artifacts

from spikeguard.components.artifacts import SpikeEvaluation
from spikeguard.components.recorded_curve import STEP_SCHEMA, write_block
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.component import SpikeEvaluator
from spikeguard.components.spike_evaluator.executor import Executor


def _record(folder: pathlib.Path, loss: np.ndarray) -> None:
    n = len(loss)
    known = {"step": np.arange(1, n + 1), "loss": loss}
    unknown = {name: np.zeros(n) for name in ("epoch", "batch_size", "learning_rate", "gradient_norm")}
    write_block(folder / "curve", {**known, **unknown}, STEP_SCHEMA)


def _run(tmp_path: pathlib.Path, **inputs: list[Artifact]) -> tuple[dict, standard_artifacts.InfraBlessing]:
    run, evaluation, blessing = standard_artifacts.ModelRun(), SpikeEvaluation(), standard_artifacts.InfraBlessing()
    run.uri, evaluation.uri, blessing.uri = (str(tmp_path / name) for name in ("run", "evaluation", "blessing"))
    properties = {"policy": json.dumps({"min_points": 60}), "detection": "{}"}
    Executor().Do({"model_run": [run], **inputs}, {"evaluation": [evaluation], "blessing": [blessing]}, properties)
    return result.read(evaluation.uri), blessing


def _calm(n: int = 300) -> np.ndarray:
    return 1 + 0.1 * np.random.default_rng(0).normal(size=n)


def test_calm_curve_is_blessed(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm())
    content, blessing = _run(tmp_path)
    assert content["format"] == "spikeguard.spike_evaluation/1"
    assert (content["verdict"], content["reasons"], content["spikes"]) == ("stable", [], [])
    assert (content["blessed"], content["blocked_by"]) == (True, [])
    assert content["curve"] == {"points": 300, "first_step": 1, "last_step": 300, "kind": "step", "loss_is": "batch"}
    assert content["runs"] == [{"run": "", "verdict": "stable"}]
    assert blessing.get_int_custom_property("blessed") == 1
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["INFRA_BLESSED"]


def test_spike_in_the_tail_is_not_blessed(tmp_path: pathlib.Path) -> None:
    loss = _calm()
    loss[290] = 5.0
    _record(tmp_path / "run", loss)
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "unstable"
    assert [(spike["peak_step"], spike["recovered"]) for spike in content["spikes"]] == [(291, True)]
    assert (content["blessed"], content["blocked_by"]) == (False, content["reasons"])
    assert blessing.get_int_custom_property("blessed") == 0
    assert "last 20% of the run" in blessing.get_string_custom_property("reasons")
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["INFRA_NOT_BLESSED"]


def test_policy_is_used(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm(59))
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "insufficient"
    assert blessing.get_int_custom_property("blessed") == 0


@pytest.mark.parametrize("has_damaged_block", [False, True], ids=["no curve", "damaged curve"])
def test_gate_fails_closed_when_there_is_no_readable_curve(tmp_path: pathlib.Path, has_damaged_block: bool) -> None:
    if has_damaged_block:
        _record(tmp_path / "run", _calm())
        (tmp_path / "run" / "curve" / "steps-000000000001.parquet").write_bytes(b"PAR1 not really")
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "insufficient"
    assert content["curve"] is None
    assert blessing.get_int_custom_property("blessed") == 0
    assert blessing.get_string_custom_property("reasons") == content["reasons"][0]


def test_gate_fails_closed_when_the_detector_breaks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no")

    _record(tmp_path / "run", _calm())
    monkeypatch.setattr(result, "detect_spikes", broken)
    content, blessing = _run(tmp_path)
    assert content["reasons"] == ["the curve could not be evaluated: ZeroDivisionError: no"]
    assert blessing.get_int_custom_property("blessed") == 0


def test_verdict_is_strict_json_when_the_loss_is_not_finite(tmp_path: pathlib.Path) -> None:
    loss = _calm()
    loss[100:] = np.nan
    _record(tmp_path / "run", loss)
    content, blessing = _run(tmp_path)
    assert content["verdict"] == "diverged"
    text = (tmp_path / "evaluation" / "evaluation.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert blessing.get_int_custom_property("blessed") == 0


def _infra_blessing(blessed: int | str | None) -> Artifact:
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = "/infra"
    if isinstance(blessed, int):
        blessing.set_int_custom_property("blessed", blessed)
    elif blessed is not None:
        blessing.set_string_custom_property("blessed", blessed)
    return blessing


def _anomalies(
    folder: pathlib.Path, content: dict[str, anomalies_pb2.Anomalies | bytes | None], place: str = "Split-{}"
) -> Artifact:
    """The artifact of a validator that wrote `content`, None for no file, by name of the split."""
    artifact = standard_artifacts.ExampleAnomalies()
    artifact.uri = str(folder)
    artifact.split_names = json.dumps(list(content))
    for split, found in content.items():
        split_folder = folder / place.format(split)
        split_folder.mkdir(parents=True)
        if found is not None:
            data = found if isinstance(found, bytes) else found.SerializeToString()
            (split_folder / "SchemaDiff.pb").write_bytes(data)
    return artifact


def _found(severity: int, *short_descriptions: str) -> anomalies_pb2.Anomalies:
    """What TFDV writes of a feature `price`; no anomaly where nothing is described."""
    anomalies = anomalies_pb2.Anomalies(anomaly_name_format=anomalies_pb2.Anomalies.SERIALIZED_PATH)
    if short_descriptions:
        info = anomalies.anomaly_info["price"]
        info.severity = severity
        info.short_description = short_descriptions[0] if len(short_descriptions) == 1 else "Multiple errors"
        for short_description in short_descriptions:
            info.reason.add(short_description=short_description)
    return anomalies


_NOTHING = _found(anomalies_pb2.AnomalyInfo.UNKNOWN)
_WARNING = _found(anomalies_pb2.AnomalyInfo.WARNING, "New column")
_ERROR = _found(anomalies_pb2.AnomalyInfo.ERROR, "Out-of-range values")
_ERRORS = _found(anomalies_pb2.AnomalyInfo.ERROR, "Column dropped", "Feature shape dropped")
_ERROR_SENTENCE = "feature 'price' of split 'eval' has an anomaly: Out-of-range values"


def _assert_blocked(tmp_path: pathlib.Path, blocked_by: list[str], **inputs: list[Artifact]) -> None:
    """A calm curve stays stable, and is not blessed."""
    _record(tmp_path / "run", _calm())
    content, blessing = _run(tmp_path, **inputs)
    assert (content["verdict"], content["reasons"]) == ("stable", [])
    assert content["blocked_by"] == blocked_by
    assert content["blessed"] is False
    assert blessing.get_int_custom_property("blessed") == 0
    assert blessing.get_string_custom_property("verdict") == "stable"
    assert blessing.get_string_custom_property("reasons") == "; ".join(blocked_by)
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["INFRA_NOT_BLESSED"]


def test_calm_curve_is_blessed_when_all_that_is_asked_for_agrees(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm())
    content, blessing = _run(
        tmp_path,
        infra_blessing=[_infra_blessing(1)],
        anomalies=[
            _anomalies(tmp_path / "a", {"train": _NOTHING, "eval": _WARNING}),
            _anomalies(tmp_path / "b", {"train_eval": _NOTHING}, "SplitPair-{}"),
        ],
        baseline_run=[],
    )
    assert content["blocked_by"] == []
    assert content["blessed"] is True
    assert blessing.get_int_custom_property("blessed") == 1


@pytest.mark.parametrize("blessed", [0, 2, None, "1"])
def test_calm_curve_is_not_blessed_when_the_infra_blessing_is_not_1(
    tmp_path: pathlib.Path, blessed: int | str | None
) -> None:
    reason = f"the infrastructure validation did not bless the model (blessed is {blessed!r} in /infra)"
    _assert_blocked(tmp_path, [reason], infra_blessing=[_infra_blessing(1), _infra_blessing(blessed)])


def test_calm_curve_is_not_blessed_when_there_is_no_infra_blessing(tmp_path: pathlib.Path) -> None:
    _assert_blocked(tmp_path, ["there is no infra blessing, though one is asked for"], infra_blessing=[])


def test_error_in_any_split_of_any_artifact_blocks(tmp_path: pathlib.Path) -> None:
    first = _anomalies(tmp_path / "a", {"train": _NOTHING, "eval": _ERROR})
    second = _anomalies(tmp_path / "b", {"train_eval": _ERRORS}, "SplitPair-{}")
    both = "feature 'price' of split 'train_eval' has an anomaly: Column dropped, Feature shape dropped"
    _assert_blocked(tmp_path, [_ERROR_SENTENCE, both], anomalies=[first, second])


def test_error_of_the_dataset_and_missing_data_block(tmp_path: pathlib.Path) -> None:
    few = anomalies_pb2.Anomalies()
    few.dataset_anomaly_info.severity = anomalies_pb2.AnomalyInfo.ERROR
    few.dataset_anomaly_info.description = "The dataset has 3 examples."
    artifact = _anomalies(tmp_path / "a", {"train": few, "eval": anomalies_pb2.Anomalies(data_missing=True)})
    reasons = [
        "the dataset of split 'train' has an anomaly: The dataset has 3 examples.",
        "the examples of split 'eval' are missing",
    ]
    _assert_blocked(tmp_path, reasons, anomalies=[artifact])


def test_error_blocks_when_the_anomalies_are_of_the_whole_dataset(tmp_path: pathlib.Path) -> None:
    artifact = _anomalies(tmp_path / "transform", {"": _ERROR}, ".")
    artifact.split_names = ""
    _assert_blocked(tmp_path, ["feature 'price' has an anomaly: Out-of-range values"], anomalies=[artifact])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (_ERROR.SerializeToString()[:-3], "Error parsing message"),
    ],
    ids=["missing", "empty", "damaged"],
)
def test_gate_fails_closed_when_anomalies_cannot_be_read(
    tmp_path: pathlib.Path, content: bytes | None, problem: str
) -> None:
    artifact = _anomalies(tmp_path / "a", {"train": content, "eval": _ERROR})
    _record(tmp_path / "run", _calm())
    result_content, blessing = _run(tmp_path, anomalies=[artifact])
    path = tmp_path / "a" / "Split-train" / "SchemaDiff.pb"
    unreadable, error = result_content["blocked_by"]
    assert unreadable.startswith(f"the example anomalies cannot be used: {path}: cannot be read ({problem}")
    assert error == _ERROR_SENTENCE
    assert blessing.get_int_custom_property("blessed") == 0


@pytest.mark.parametrize("split_names", ["[]", '["train"', "5"], ids=["none", "damaged", "of another kind"])
def test_gate_fails_closed_when_splits_cannot_be_read(tmp_path: pathlib.Path, split_names: str) -> None:
    artifact = _anomalies(tmp_path / "a", {"train": _NOTHING})
    artifact.split_names = split_names
    _record(tmp_path / "run", _calm())
    content, blessing = _run(tmp_path, anomalies=[artifact])
    (reason,) = content["blocked_by"]
    assert reason.startswith(f"the example anomalies cannot be used: {tmp_path / 'a'}")
    assert blessing.get_int_custom_property("blessed") == 0


def test_calm_curve_is_not_blessed_when_there_are_no_anomalies_artifacts(tmp_path: pathlib.Path) -> None:
    _assert_blocked(tmp_path, ["there are no example anomalies, though they are asked for"], anomalies=[])


def _model_run(folder: pathlib.Path, number: int) -> Artifact:
    run = standard_artifacts.ModelRun()
    run.uri, run.id = str(folder), number
    return run


def test_level_is_compared_with_the_newest_other_run(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", 2 * _calm())
    _record(tmp_path / "old", 2 * _calm())
    _record(tmp_path / "new", _calm())
    runs = [
        _model_run(tmp_path / "new", 9),
        _model_run(tmp_path / "run", 12),
        _model_run(tmp_path / "old", 3),
    ]
    content, blessing = _run(tmp_path, baseline_run=runs)
    assert content["verdict"] == "unstable"
    (reason,) = content["reasons"]
    assert "2.0 times the" in reason
    assert content["blocked_by"] == content["reasons"]
    assert blessing.get_int_custom_property("blessed") == 0


def test_run_is_not_compared_with_itself(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm())
    content, _ = _run(tmp_path, baseline_run=[_model_run(tmp_path / "run", 1)])
    assert content["blessed"] is True


def test_gate_fails_closed_when_the_baseline_cannot_be_read(tmp_path: pathlib.Path) -> None:
    reason = (
        f"the baseline run cannot be compared with: {tmp_path / 'gone'}: does not exist. "
        "Give a TensorBoard event file, a CSV, JSONL or trainer_state.json file, or a folder of them."
    )
    _assert_blocked(tmp_path, [reason], baseline_run=[_model_run(tmp_path / "gone", 1)])


def test_gate_fails_closed_when_the_baseline_holds_several_curves(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "base" / "a", _calm())
    _record(tmp_path / "base" / "b", _calm())
    reason = (
        f"the baseline run cannot be compared with: {tmp_path / 'base'}: holds 2 training curves: a, b. "
        "Name one of them as the run."
    )
    _assert_blocked(tmp_path, [reason], baseline_run=[_model_run(tmp_path / "base", 1)])


def test_curve_comes_first_when_several_things_block(tmp_path: pathlib.Path) -> None:
    loss = _calm()
    loss[290] = 5.0
    _record(tmp_path / "run", loss)
    content, _ = _run(
        tmp_path, infra_blessing=[], anomalies=[_anomalies(tmp_path / "a", {"eval": _ERROR})], baseline_run=[]
    )
    others = ["there is no infra blessing, though one is asked for", _ERROR_SENTENCE]
    assert content["verdict"] == "unstable"
    assert content["blocked_by"] == [*content["reasons"], *others]


def test_reasons_are_cut_in_the_property_and_whole_in_the_file(tmp_path: pathlib.Path) -> None:
    many = anomalies_pb2.Anomalies()
    for number in range(500):
        many.anomaly_info[f"feature{number:03}"].severity = anomalies_pb2.AnomalyInfo.ERROR
    _record(tmp_path / "run", _calm())
    content, blessing = _run(tmp_path, anomalies=[_anomalies(tmp_path / "a", {"train": many})])
    assert len(content["blocked_by"]) == 500
    reasons = blessing.get_string_custom_property("reasons")
    assert len(reasons) == 4000
    assert reasons.startswith(
        "feature 'feature000' of split 'train' has an anomaly: it is not described; feature 'feature001'"
    )
    assert reasons.endswith("...")


def test_component_takes_one_channel_several_or_none() -> None:
    run = Channel(type=standard_artifacts.ModelRun)
    first, second = (Channel(type=standard_artifacts.ExampleAnomalies) for _ in range(2))
    blessing = Channel(type=standard_artifacts.InfraBlessing)
    everything = SpikeEvaluator(run, infra_blessing=blessing, anomalies=[first, second], baseline_run=run)
    assert everything.inputs["infra_blessing"] is blessing
    assert everything.inputs["baseline_run"] is run
    assert channel_utils.get_individual_channels(everything.inputs["anomalies"]) == [first, second]
    assert SpikeEvaluator(run, anomalies=first).inputs["anomalies"] is first
    assert list(SpikeEvaluator(run).inputs) == ["model_run"]


def test_verdict_blocks_when_it_has_no_reasons() -> None:
    evaluation = result.Evaluation("diverged", (), objections=("no",))
    assert evaluation.blocked_by == ("the curve is diverged", "no")


def test_findings_are_evidence_and_block_nothing(tmp_path: pathlib.Path) -> None:
    loss = _calm()
    loss[150:153] = 3.0
    _record(tmp_path / "run", loss)
    findings = standard_artifacts.ExampleAnomalies()
    findings.uri = str(tmp_path / "findings")
    (tmp_path / "findings").mkdir()
    check = {"check": "constants", "status": "refuted", "severity": "ERROR", "text": "fitted on all splits"}
    table = {"format": "spikeguard.normalization/1", "features": [{"name": "age", "checks": [check]}]}
    (tmp_path / "findings" / "normalization.json").write_text(json.dumps(table))
    content, _ = _run(tmp_path, findings=[findings])
    texts = [cause["text"] for cause in content["spikes"][0]["causes"] if cause["cause"] == "normalization"]
    assert texts == ["age: fitted on all splits"]
    assert content["blocked_by"] == content["reasons"]


def test_damaged_findings_cost_the_causes_alone(tmp_path: pathlib.Path) -> None:
    _record(tmp_path / "run", _calm())
    findings = standard_artifacts.ExampleAnomalies()
    findings.uri = str(tmp_path / "findings")
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "outliers.json").write_text("{")
    content, blessing = _run(tmp_path, findings=[findings])
    assert content["verdict"] == "stable"
    assert "the causes could not be found" in content["notes"][-1]
    assert blessing.get_int_custom_property("blessed") == 1
