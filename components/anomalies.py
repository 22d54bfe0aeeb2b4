"""What data validators find, and its file: TensorFlow Metadata's `Anomalies`, one per split, as TFDV's viewers read it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from google.protobuf import message
from tensorflow_metadata.proto.v0 import anomalies_pb2, path_pb2, schema_pb2

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError

# The only file of a split's folder, or TFX's viewers fail.
ANOMALIES_FILE = "SchemaDiff.pb"

Severity = Literal["WARNING", "ERROR"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One anomaly of a feature, or of the whole data set.

    >>> Finding("dep_delay", "WARNING", "Outliers", "12 of 1,000 rows lie above 98.").severity
    'WARNING'
    """

    feature: str | None
    """The feature, its path joined by dots as in TFDV; None where the finding is about the data set."""
    severity: Severity
    """An ERROR blocks, where a gate asks; a WARNING is reported."""
    summary: str
    """A few words, the same for all findings of the kind."""
    text: str
    """One or two sentences with the figures and what to do."""

    def __post_init__(self) -> None:
        if self.severity not in get_args(Severity):
            raise InvalidArgumentError("severity", self.severity, f"be one of {', '.join(get_args(Severity))}")


def anomalies_of(findings: Sequence[Finding], schema: schema_pb2.Schema | None = None) -> anomalies_pb2.Anomalies:
    """The findings as one proto; several of a feature become reasons of one anomaly, as TFDV does it.

    Args:
      findings: of one split.
      schema: what the data were compared with, which viewers show beside the anomalies; None for none.

    >>> found = anomalies_of([Finding("a", "WARNING", "Outliers", "3 rows."), Finding("a", "ERROR", "Constant", "1.")])
    >>> found.anomaly_info["a"].short_description, len(found.anomaly_info["a"].reason)
    ('Multiple errors', 2)
    """
    anomalies = anomalies_pb2.Anomalies(
        anomaly_name_format=anomalies_pb2.Anomalies.SERIALIZED_PATH, baseline=schema or schema_pb2.Schema()
    )
    for finding in findings:
        if finding.feature is None:
            info = anomalies.dataset_anomaly_info
        else:
            info = anomalies.anomaly_info[finding.feature]
            info.path.CopyFrom(path_pb2.Path(step=finding.feature.split(".")))
        info.reason.add(
            type=anomalies_pb2.AnomalyInfo.CUSTOM_VALIDATION,
            short_description=finding.summary,
            description=finding.text,
        )
        severity = anomalies_pb2.AnomalyInfo.Severity.Value(finding.severity)
        info.severity = max(info.severity, severity)
        info.short_description = finding.summary if len(info.reason) == 1 else "Multiple errors"
        info.description = f"{info.description} {finding.text}".strip()
    return anomalies


def write_findings(
    folder: str | os.PathLike[str],
    findings_of_split: Mapping[str, Sequence[Finding]],
    schema: schema_pb2.Schema | None = None,
) -> None:
    """Writes one file per split, also for splits without findings, into an `ExampleAnomalies` folder.

    Args:
      folder: the artifact's `uri`; its `split_names` must be set to the same splits.
      findings_of_split: findings by name of the split.
      schema: as in `anomalies_of`.
    """
    for split, findings in findings_of_split.items():
        target = pathlib.Path(folder) / f"Split-{split}" / ANOMALIES_FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        # Protocol buffers write an empty message as no bytes, which readers cannot tell from a broken file: the name
        # format above is always there.
        target.write_bytes(anomalies_of(findings, schema).SerializeToString(deterministic=True))


def read_anomalies(path: str | os.PathLike[str]) -> anomalies_pb2.Anomalies:
    """Reads one split's file.

    Raises:
      InvalidDataError: it is missing, empty or damaged.

    >>> read_anomalies("/nowhere/SchemaDiff.pb")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere/SchemaDiff.pb: cannot be read (No such file or directory). Run its validator again.
    """
    remedy = "Run its validator again."
    try:
        content = pathlib.Path(path).read_bytes()
        anomalies = anomalies_pb2.Anomalies.FromString(content)
    except (OSError, message.DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidDataError(str(path), f"cannot be read ({reason})", remedy) from error
    if not content:
        # Protocol buffers take no bytes for no anomalies; a validator writes at least its schema or name format.
        raise InvalidDataError(str(path), "cannot be read (the file is empty)", remedy)
    return anomalies
