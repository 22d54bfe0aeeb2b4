"""The content of a report, as one value that is `report.json`.

Format `spikeguard.report/1`, strict JSON. Every text and list is bounded (see `bounds`), the whole is in the artifacts that
`lineage` names. Parts that the run has no data for are null or empty.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any, Literal

from spikeguard.components.errors import InvalidDataError

FORMAT = "spikeguard.report/1"
JSON_FILE, PAGE_FILE = "report.json", "report.html"

Status = Literal["good", "bad", "open"]
Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ReportContent:
    """All that a page shows.

    >>> ReportContent.from_json(ReportContent("run 7", "open", "Nothing was judged.").to_json()).title
    'run 7'
    """

    title: str
    """What the report is about: a pipeline, or the path of a log."""
    status: Status
    """`good`: trained well and pushed, or free to be; `bad`: neither; `open`: nothing was judged."""
    sentence: str
    """The outcome and its reason, for someone who does not train models."""
    gates: tuple[Json, ...] = ()
    """`gate`, `outcome` (passed, refused or skipped) and `reason` of each that stood between the data and the push, in order."""
    evaluation: Json | None = None
    """`evaluation.json` of SpikeEvaluator."""
    curve: Json | None = None
    """What `curve_series.series_of` returns."""
    anomalies: tuple[Json, ...] = ()
    """What `data_findings.anomaly_rows` returns."""
    outliers: tuple[Json, ...] = ()
    """`outliers.json` of each OutlierDetector, with its `source`."""
    class_balance: tuple[Json, ...] = ()
    """`class_balance.json` of each ImbalanceDetector, with its `source`."""
    normalization: tuple[Json, ...] = ()
    """`normalization.json` of each NormalizationValidator, with its `source`."""
    statistics: tuple[Json, ...] = ()
    """What `data_findings.statistics_rows` returns."""
    metrics: tuple[Json, ...] = ()
    """Evaluator's: `slice`, `metric`, `value` and `failed`, a sentence where a threshold was missed."""
    recipe: Json | None = None
    """`recipe.json` of the trainer."""
    advice: tuple[Json, ...] = ()
    """`text`, `source` and `flags` (of the command line), the most useful first."""
    lineage: tuple[Json, ...] = ()
    """`node`, `type`, `id`, `created`, `version` (of TFX) and `folder` of each artifact."""
    notes: tuple[str, ...] = ()
    """What could not be read or was left out."""
    version: str = ""
    """Of spikeguard, when the report was made."""

    def to_json(self) -> str:
        """The text of `report.json`."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ReportContent:
        """Reads `to_json`'s text.

        Raises:
          InvalidDataError: it is of another format.
        """
        fields: Json = json.loads(text)
        if fields.get("format") != FORMAT:
            raise InvalidDataError("report", f"has format {fields.get('format')!r}, not {FORMAT!r}", "Make it again.")
        known = {field.name for field in dataclasses.fields(cls)}
        values: Json = {name: value for name, value in fields.items() if name in known}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**values)


def read_content(folder: str | os.PathLike[str]) -> ReportContent:
    """Reads the content of an `HtmlReport` artifact.

    Args:
      folder: the artifact's `uri`.

    Raises:
      InvalidDataError: there is none, or of another format.

    >>> read_content("/nowhere")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere/report.json: cannot be read (No such file or directory). Give the folder of an HtmlReport.
    """
    path = pathlib.Path(folder) / JSON_FILE
    try:
        return ReportContent.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidDataError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InvalidDataError(str(path), f"cannot be read ({reason})", "Give the folder of an HtmlReport.") from error
