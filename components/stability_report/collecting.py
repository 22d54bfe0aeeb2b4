"""Gathers the content of a report from the artifacts of a run."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import spikeguard
from spikeguard.components.curve_readers.reading import read_curves
from spikeguard.components.errors import SpikeguardError
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.detection import detect_spikes
from spikeguard.components.stability_report import data_findings, model_quality
from spikeguard.components.stability_report.bounds import bounded
from spikeguard.components.stability_report.content import Json, ReportContent
from spikeguard.components.stability_report.curve_series import series_of
from spikeguard.components.stability_report.outcome import advice_of, gates_of, outcome_of
from spikeguard.components.stability_report.sources import (
    ANOMALIES,
    CLASS_WEIGHTS,
    MODEL_RUN,
    SPIKE_EVALUATION,
    Source,
    of_type,
)
from spikeguard.components.training_curve import TrainingCurve

# Written by the trainer into the run's folder.
_RECIPE_FILE = "recipe.json"
# File at the root of an artifact, the artifact's type and the file's format.
_TABLES = {
    "outliers": ("outliers.json", ANOMALIES, "spikeguard.outliers/1"),
    "normalization": ("normalization.json", ANOMALIES, "spikeguard.normalization/1"),
    "class_balance": ("class_balance.json", CLASS_WEIGHTS, "spikeguard.class_balance/1"),
}


def collect(
    sources: Sequence[Source], title: str, has_pusher: bool = False, metrics: Sequence[Json] | None = None
) -> ReportContent:
    """The content of the report on a run; whatever cannot be read becomes a note, never an error.

    Args:
      sources: the run's artifacts, in the order in which they were made; any subset.
      title: what the report is about.
      has_pusher: whether the run would have pushed its model.
      metrics: of Evaluator, where they are known; None reads them, which takes seconds.

    >>> collect([], "nothing").sentence
    'No training run was judged; this page shows what the data checks found.'
    """
    notes: list[str] = []
    evaluation, curve = _evaluation(sources, notes), None
    runs = of_type(sources, MODEL_RUN)
    if runs:
        evaluation, curve = _curve(runs[-1], evaluation, notes)
    recipe = _json(pathlib.Path(runs[-1].folder) / _RECIPE_FILE, notes) if runs else None
    tables = {name: _tables(sources, *where, notes) for name, where in _TABLES.items()}
    anomalies, problems = data_findings.anomaly_rows(sources)
    statistics, unread = data_findings.statistics_rows(sources)
    metrics, unmeasured = model_quality.metric_rows(sources) if metrics is None else (metrics, [])
    notes += [*problems, *unread, *unmeasured]
    gates = gates_of(sources, evaluation, metrics, has_pusher)
    status, sentence = outcome_of(gates, evaluation, has_pusher)
    return ReportContent(
        title=bounded(title),
        status=status,
        sentence=bounded(sentence),
        gates=tuple(bounded(gates)),
        evaluation=evaluation,
        curve=curve,
        anomalies=tuple(bounded(anomalies)),
        **{name: tuple(tables[name]) for name in _TABLES},
        statistics=tuple(bounded(statistics)),
        metrics=tuple(bounded(list(metrics))),
        recipe=recipe,
        advice=tuple(bounded(advice_of(evaluation, recipe, tables["class_balance"]))),
        lineage=tuple(bounded(_lineage(sources))),
        notes=tuple(bounded(notes)),
        version=spikeguard.__version__,
    )


def content_of_log(evaluation: result.Evaluation, title: str) -> ReportContent:
    """The content of a report from a log alone.

    Args:
      evaluation: of the log's curve.
      title: of the log.
    """
    described = bounded(result.to_json(evaluation))
    status, sentence = outcome_of((), described, has_pusher=False)
    findings, curve = evaluation.findings, evaluation.curve
    return ReportContent(
        title=bounded(title),
        status=status,
        sentence=bounded(sentence),
        evaluation=described,
        curve=None
        if curve is None or not len(curve)
        else series_of(curve, findings.expected_loss if findings else None, _steps(described)),
        advice=tuple(bounded(advice_of(described, None, ()))),
        version=spikeguard.__version__,
    )


def _evaluation(sources: Sequence[Source], notes: list[str]) -> Json | None:
    found = of_type(sources, SPIKE_EVALUATION)
    if not found:
        return None
    try:
        return dict(bounded(result.read(found[-1].folder)))
    except SpikeguardError as error:
        notes.append(f"The verdict on the curve could not be read: {error}")
        return None


def _curve(run: Source, evaluation: Json | None, notes: list[str]) -> tuple[Json | None, Json | None]:
    """The evaluation and the drawing of a run's curve; a curve that nobody judged is judged by the default rules."""
    try:
        curves = read_curves(run.folder)
        if evaluation is None:
            notes.append("No SpikeEvaluator was given: the curve was judged for this report, by the default rules.")
            judged = result.evaluate_runs(curves)
            evaluation, curve = dict(bounded(result.to_json(judged))), judged.curve
        else:
            curve = curves.get(evaluation.get("run", ""), next(iter(curves.values())))
        return evaluation, _drawing(curve, evaluation)
    except Exception as error:  # A report on a run that went wrong is when a report is needed.
        reason = str(error) if isinstance(error, SpikeguardError) else f"{type(error).__name__}: {error}"
        notes.append(f"The training curve could not be read: {reason}")
        return evaluation, None


def _drawing(curve: TrainingCurve | None, evaluation: Json) -> Json | None:
    if curve is None or not len(curve):
        return None
    return series_of(curve, detect_spikes(curve).expected_loss, _steps(evaluation))


def _steps(evaluation: Json) -> list[tuple[int, int, int]]:
    names = ("start_step", "peak_step", "end_step")
    # The highest first: they keep their surroundings where there are too many to keep all.
    spikes = sorted(evaluation.get("spikes") or [], key=lambda spike: -(spike.get("height") or 0.0))
    return [tuple(int(spike[name]) for name in names) for spike in spikes]  # type: ignore[misc]


def _tables(sources: Iterable[Source], name: str, type_name: str, format_name: str, notes: list[str]) -> list[Json]:
    found = []
    for source in of_type(sources, type_name):
        content = _json(pathlib.Path(source.folder) / name, notes)
        if content is not None and content.get("format") == format_name:
            found.append({**content, "source": source.node})
        elif content is not None:
            notes.append(f"{name} of {source.node} has format {content.get('format')!r}, not {format_name!r}.")
    return found


def _json(path: pathlib.Path, notes: list[str]) -> Json | None:
    """A JSON object, None where there is no file; what is no object becomes a note."""
    if not path.exists():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # The last from brackets within brackets.
        notes.append(f"{path} could not be read: {error}")
        return None
    if not isinstance(content, dict):
        notes.append(f"{path} holds no JSON object.")
        return None
    return dict(bounded(content))


def _lineage(sources: Iterable[Source]) -> list[Json]:
    return [
        {
            "node": source.node,
            "type": source.type_name,
            "id": source.artifact_id or None,
            "created": source.created,
            "version": source.properties.get("tfx_version"),
            "folder": source.folder,
        }
        for source in sources
    ]
