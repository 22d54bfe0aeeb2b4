"""What OutlierDetector has learned from the train split, as a value and on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa

import spikeguard
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.fences import FeatureFence
from spikeguard.components.outlier_detector.forest import Forest, fit_forest, load_forest
from spikeguard.components.outlier_detector.matrix import Matrix, MatrixColumns
from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.reading import SplitStatistics

FORMAT = "spikeguard.outlier_model/1"
MODEL_FILE, FOREST_FILE = "outlier_model.json", "forest.npz"
# With fewer rows than this there is no telling which one is isolated.
LEAST_ROWS = 16
_REMEDY = "Run OutlierDetector again."


@dataclasses.dataclass(frozen=True)
class FittedDetector:
    """Fences and isolation forest of one train split.

    `spikeguard.read_outlier_model(uri)` reads one; `score(batch)` scores rows anywhere, a server included.
    """

    split: str
    """The only split that was seen."""
    rows: int
    """Its rows."""
    fences: tuple[FeatureFence, ...]
    columns: MatrixColumns
    forest: Forest | None
    """None where there is nothing to fit it on, see `notes`, or where no trees were asked for."""
    threshold: float
    """Score above which a row is an outlier; 1 without a forest."""
    threshold_rule: str
    sample_rows: int
    """Rows that the forest was fitted on."""
    max_samples: int
    fence_factor: float
    label: str | None
    notes: tuple[str, ...] = ()
    """What could not be done, one sentence each."""

    def score(self, batch: pa.RecordBatch) -> Floats:
        """The forest's score of each row of raw features, each a list of values per row. Shape (rows,); NaN without a forest."""
        if self.forest is None:
            return np.full(batch.num_rows, np.nan)
        return self.forest.score(self.columns.matrix(batch))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes JSON and plain arrays: nothing that can run code when it is read."""
        target = pathlib.Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if self.forest is not None:
            self.forest.save(target / FOREST_FILE)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "forest"}
        content = {
            "format": FORMAT,
            "spikeguard": spikeguard.__version__,
            **fields,
            "fences": [_without_nan(dataclasses.asdict(fence)) for fence in self.fences],
            "columns": dataclasses.asdict(self.columns),
            "has_forest": self.forest is not None,
        }
        (target / MODEL_FILE).write_text(json.dumps(content, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def read_outlier_model(folder: str | os.PathLike[str]) -> FittedDetector:
    """Reads an `OutlierModel` artifact.

    Args:
      folder: the artifact's `uri`.

    Raises:
      InvalidDataError: it is missing, damaged, or of a format that this version does not know.

    >>> read_outlier_model("/nowhere")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere/outlier_model.json: cannot be read (No such file or directory). Run OutlierDetector again.
    """
    path = pathlib.Path(folder) / MODEL_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise InvalidDataError(
                str(path), f"has the format {content.get('format')!r} instead of {FORMAT!r}", _REMEDY
            )
        fields = {
            field.name: content[field.name] for field in dataclasses.fields(FittedDetector) if field.name != "forest"
        }
        fields["fences"] = tuple(FeatureFence(**_tuples(fence)) for fence in content["fences"])
        fields["columns"] = MatrixColumns(**_tuples(content["columns"]))
        fields["notes"] = tuple(content["notes"])
        has_forest = content["has_forest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidDataError):
            raise
        raise InvalidDataError(
            str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})", _REMEDY
        ) from error
    forest = load_forest(path.parent / FOREST_FILE) if has_forest else None
    if forest is not None and forest.columns != fields["columns"].width:
        raise InvalidDataError(str(path), f"names other columns than the {forest.columns} of its forest", _REMEDY)
    return FittedDetector(forest=forest, **fields)


def fit_detector(
    statistics: SplitStatistics, config: DetectorConfig, fences: tuple[FeatureFence, ...], sample: Matrix
) -> FittedDetector:
    """Fits the forest and its threshold on rows drawn from the train split.

    Args:
      statistics: of the split.
      config: what counts as an outlier.
      fences: of `fences_of`.
      sample: shape (n, width of the columns), by `RowSample.rows`; n may be 0.
    """
    columns = MatrixColumns.of(fences, config.label)
    notes = []
    left_out = [
        fence.name for fence in fences if fence.kind == "number" and not fence.length and fence.name != config.label
    ]
    if config.trees and left_out:
        notes.append(f"Not in the forest, for their length changes: {', '.join(left_out)}.")
    forest, threshold, rule = None, 1.0, "none"
    if config.trees and not columns.width:
        notes.append("No isolation forest: no feature has numbers of a fixed length or rare categories.")
    elif config.trees and len(sample) < LEAST_ROWS:
        notes.append(f"No isolation forest: {len(sample)} rows are too few, {LEAST_ROWS} are the least.")
    elif config.trees:
        forest = fit_forest(sample, config.trees, config.max_samples, config.seed)
        threshold, rule = _threshold(forest.score(sample), config)
    return FittedDetector(
        split=statistics.split,
        rows=statistics.rows,
        fences=fences,
        columns=columns,
        forest=forest,
        threshold=threshold,
        threshold_rule=rule,
        sample_rows=len(sample) if forest else 0,
        max_samples=config.max_samples,
        fence_factor=config.fence_factor,
        label=config.label,
        notes=tuple(notes),
    )


def _threshold(scores: Floats, config: DetectorConfig) -> tuple[float, str]:
    if config.score_threshold is not None:
        return config.score_threshold, "score_threshold"
    return float(
        np.quantile(scores, 1 - config.contamination, method="lower")
    ), f"contamination {config.contamination:g}"


def _without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [None if isinstance(item, float) and np.isnan(item) else item for item in value]
        if isinstance(value, tuple)
        else value
        for name, value in fields.items()
    }


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(float("nan") if item is None else item for item in value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
