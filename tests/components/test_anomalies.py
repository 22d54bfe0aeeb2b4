"""Findings on their way to TFDV's viewers and to gates."""

from __future__ import annotations

import pathlib

import pytest
from tensorflow_metadata.proto.v0 import anomalies_pb2

import spikeguard
from spikeguard.components.anomalies import Finding, read_anomalies, write_findings

INFO = anomalies_pb2.AnomalyInfo


def test_findings_are_read_back_by_split(tmp_path: pathlib.Path) -> None:
    findings = {
        "train": [
            Finding("delay", "WARNING", "Outliers", "3 rows lie above 98."),
            Finding("delay", "ERROR", "Constant", "All values are 1."),
            Finding(None, "WARNING", "Few rows", "There are 12 rows."),
        ],
        "eval": [],
    }
    write_findings(tmp_path, findings)
    train = read_anomalies(tmp_path / "Split-train" / "SchemaDiff.pb")
    delay = train.anomaly_info["delay"]
    assert delay.severity == INFO.ERROR
    assert [reason.short_description for reason in delay.reason] == ["Outliers", "Constant"]
    assert delay.short_description == "Multiple errors"
    assert delay.description == "3 rows lie above 98. All values are 1."
    assert list(delay.path.step) == ["delay"]
    assert train.dataset_anomaly_info.severity == INFO.WARNING
    assert train.dataset_anomaly_info.short_description == "Few rows"
    assert not read_anomalies(tmp_path / "Split-eval" / "SchemaDiff.pb").anomaly_info


def test_a_later_warning_does_not_hide_an_error(tmp_path: pathlib.Path) -> None:
    write_findings(tmp_path, {"train": [Finding("a", "ERROR", "E", "e."), Finding("a", "WARNING", "W", "w.")]})
    assert read_anomalies(tmp_path / "Split-train" / "SchemaDiff.pb").anomaly_info["a"].severity == INFO.ERROR


@pytest.mark.parametrize("content", [b"", b"\xff\xff"])
def test_error_when_the_file_is_broken(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "SchemaDiff.pb").write_bytes(content)
    with pytest.raises(spikeguard.InvalidDataError, match=r"SchemaDiff\.pb: cannot be read"):
        read_anomalies(tmp_path / "SchemaDiff.pb")


def test_error_when_the_severity_is_unknown() -> None:
    with pytest.raises(spikeguard.InvalidArgumentError, match="severity must be one of WARNING, ERROR; got 'INFO'"):
        Finding("a", "INFO", "x", "y")  # type: ignore[arg-type]
