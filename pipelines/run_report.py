"""The report on a finished run of the default pipeline, from the artifacts in its output folder."""

from __future__ import annotations

import os
import pathlib

from spikeguard.components.errors import InvalidDataError, SpikeguardError
from spikeguard.components.stability_report.collecting import collect
from spikeguard.components.stability_report.content import read_content
from spikeguard.components.stability_report.report import Report
from spikeguard.components.stability_report.sources import HTML_REPORT, Source, of_type, source_of
from spikeguard.pipelines.metadata import latest_outputs, latest_pipeline

METADATA_FILE = "metadata.sqlite"


def report_on(run_dir: str | os.PathLike[str]) -> Report:
    """Makes the report on the run that was begun last in an output folder, also where it broke off.

    Args:
      run_dir: the `--output` folder of `local_runner.py`.

    Raises:
      InvalidDataError: there is no run in the folder.

    >>> report_on("/nowhere")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere: holds no metadata.sqlite. Give the output folder of local_runner.py.
    """
    path = pathlib.Path(run_dir) / METADATA_FILE
    remedy = "Give the output folder of local_runner.py."
    # SQLite would make the file.
    if not path.is_file():
        raise InvalidDataError(str(run_dir), f"holds no {METADATA_FILE}", remedy)
    try:
        pipeline = latest_pipeline(str(path))
        outputs = latest_outputs(str(path), pipeline) if pipeline else {}
    except Exception as error:  # ML Metadata raises errors of its own kinds, one for each state of the database.
        raise InvalidDataError(str(path), f"cannot be read ({error})", remedy) from error
    if not pipeline or not outputs:
        raise InvalidDataError(str(run_dir), "holds no run", "Run local_runner.py first.")
    sources = sorted((source_of(proto, node) for (_, node), proto in outputs.items()), key=lambda one: one.artifact_id)
    reports = of_type(sources, HTML_REPORT)
    title = str(reports[-1].properties.get("title") or pipeline) if reports else pipeline
    others = [source for source in sources if source.type_name != HTML_REPORT]
    return Report(collect(others, title, has_pusher=True, metrics=_known_metrics(reports)))


def _known_metrics(reports: list[Source]) -> tuple[dict[str, object], ...] | None:
    """What the run's own report holds of Evaluator: reading it again means loading TensorFlow Model Analysis."""
    try:
        return read_content(reports[-1].folder).metrics if reports else None
    except SpikeguardError:
        return None
