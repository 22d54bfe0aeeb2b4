"""What NormalizationValidator found, as a value, as JSON and as findings.

`normalization.json` at the root of the `anomalies` artifact:

- `format`: `spikeguard.normalization/1`;
- `verdict`: `proven` (nothing refuted, and the constants of at least one feature proven to be of the train split alone),
  `refuted`, `undecidable` (neither), or `failed` (the graph or the examples could not be used);
- `blessed`: whether training may go on: no finding of severity ERROR;
- `train_split`, `rows`: rows by split;
- `features`: one entry per raw feature, one for each output that depends on several, and one whose name is null for checks of
  the whole: `name`, `outputs`, and `checks`, each
  with `check`, `status`, `severity` (`ERROR`, `WARNING` or null), `figures` and `text`;
- `notes`: sentences about the whole.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spikeguard.components.anomalies import Finding, Severity
from spikeguard.components.normalization_validator.matching import Status

RESULT_FILE = "normalization.json"
FORMAT = "spikeguard.normalization/1"

CheckName = Literal[
    "train_only", "same_constants", "independent_of_batch", "not_normalized_before_split", "scaled", "same_distribution"
]
# A few words of a finding of each check.
_SUMMARIES: dict[str, str] = {
    "train_only": "Constants not of the train split alone",
    "same_constants": "Split transformed by other constants",
    "independent_of_batch": "Normalized per batch",
    "not_normalized_before_split": "Normalized before the split",
    "scaled": "Not soundly scaled",
    "same_distribution": "Skew after scaling",
}
# Names that are listed in one sentence.
_MOST_NAMES = 5
# The statuses of a feature's columns, the one that counts first.
_ORDER: tuple[Status, ...] = ("refuted", "undecidable", "proven", "not_applicable")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of one feature."""

    check: CheckName
    status: Status
    text: str
    """Sentences with the figures, and what to do."""
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    severity: Severity | None = None
    """None where there is nothing to report."""
    split: str | None = None
    """The split that a finding is about; the train split where None."""


@dataclasses.dataclass(frozen=True)
class FeatureReport:
    """All checks of one feature."""

    name: str | None
    """None for all of them together."""
    outputs: tuple[str, ...]
    checks: tuple[Check, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """The whole result."""

    train_split: str
    rows: Mapping[str, int]
    features: tuple[FeatureReport, ...] = ()
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    """Why nothing, or not all, could be validated; each blocks."""

    @property
    def verdict(self) -> str:
        checks = [check for feature in self.features for check in feature.checks]
        if any(check.severity == "ERROR" for check in checks):
            return "refuted"
        if self.failures:
            return "failed"
        train_only = {check.status for check in checks if check.check == "train_only"}
        of_constants = [
            check.status for check in checks if check.check in ("train_only", "not_normalized_before_split")
        ]
        return "proven" if "proven" in train_only and "undecidable" not in of_constants else "undecidable"

    @property
    def blocked_by(self) -> tuple[str, ...]:
        """What speaks against training, once for all features of which the same is said."""
        names_of: dict[str, list[str]] = {}
        for feature in self.features:
            for check in feature.checks:
                if check.severity == "ERROR":
                    names_of.setdefault(check.text, []).extend([feature.name] if feature.name is not None else [])
        errors = [f"{_listed(names)}: {text}" if names else text for text, names in names_of.items()]
        return (*self.failures, *errors)

    @property
    def is_blessed(self) -> bool:
        return not self.blocked_by

    def findings(self, splits: Sequence[str]) -> dict[str, list[Finding]]:
        """By split, for `write_findings`."""
        found: dict[str, list[Finding]] = {split: [] for split in splits}
        first = self.train_split if self.train_split in found else next(iter(found), None)
        for feature in self.features:
            for check in feature.checks:
                split = check.split if check.split in found else first
                if check.severity is not None and split is not None:
                    found[split].append(Finding(feature.name, check.severity, _SUMMARIES[check.check], check.text))
        if first is not None:
            found[first] += [Finding(None, "ERROR", "Normalization not validated", text) for text in self.failures]
        return found


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def worst(checks: Sequence[Check]) -> Check:
    """The check that counts of several of one feature and kind: refuted before undecidable before proven."""
    return min(
        checks, key=lambda check: (check.severity != "ERROR", check.severity is None, _ORDER.index(check.status))
    )


def write_result(report: Report, folder: str) -> None:
    """Writes `normalization.json` into an existing folder."""
    content = {
        "format": FORMAT,
        "verdict": report.verdict,
        "blessed": report.is_blessed,
        "train_split": report.train_split,
        "rows": dict(report.rows),
        "features": [
            {
                "name": feature.name,
                "outputs": list(feature.outputs),
                "checks": [
                    {
                        "check": check.check,
                        "status": check.status,
                        "severity": check.severity,
                        "figures": {name: _finite(value) for name, value in check.figures.items()},
                        "text": check.text,
                    }
                    for check in feature.checks
                ],
            }
            for feature in report.features
        ],
        "notes": [*report.notes, *report.failures],
    }
    path = pathlib.Path(folder) / RESULT_FILE
    path.write_text(json.dumps(content, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, int) else number
