"""What Evaluator measured, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spikeguard.components.stability_report.sources import MODEL_EVALUATION, Source, of_type


def metric_rows(sources: Iterable[Source]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every scalar metric of every `ModelEvaluation`.

    Returns:
      Rows of `slice`, `output`, `metric`, `value` and `failed` ("" or what was asked for); and what could not be read.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for source in of_type(sources, MODEL_EVALUATION):
        try:
            rows += _rows_of(source.folder)
        except Exception as error:  # TFMA raises whatever TensorFlow, Beam and protocol buffers raise.
            problems.append(f"Evaluator's metrics could not be read: {type(error).__name__}: {error}")
    return rows, problems


def _rows_of(folder: str) -> list[dict[str, Any]]:
    import tensorflow_model_analysis as tfma  # Seconds, and only where a model was evaluated.

    failed = {
        (failure.metric_key.output_name, failure.metric_key.name): " ".join(failure.message.split())
        or "does not meet its threshold"
        for per_slice in tfma.load_validation_result(folder).metric_validations_per_slice
        for failure in per_slice.failures
    }
    return [
        {
            "slice": ", ".join(f"{name}={value}" for name, value in key) or "all rows",
            "output": output,
            "metric": metric,
            "value": value["doubleValue"],
            "failed": failed.get((output, metric), ""),
        }
        for key, outputs in tfma.load_eval_result(folder).slicing_metrics
        for output, by_class in outputs.items()
        for metrics in by_class.values()
        for metric, value in metrics.items()
        if "doubleValue" in value
    ]
