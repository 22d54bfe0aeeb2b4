"""Judges the rows of a batch, and counts what it saw."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spikeguard.components.outlier_detector.fences import COUNTS, FARTHEST, FeatureFence, FenceResult, apply_fence
from spikeguard.components.outlier_detector.model import FittedDetector
from spikeguard.components.training_curve import Floats

# Values shown of a feature.
MOST_EXAMPLES = 5
SCORE_EDGES = np.linspace(0.0, 1.0, 51)
# Texts are cut to this length where they are shown.
_LONGEST_TEXT = 80
_MOST_SHOWN_VALUES = 8


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes clear of each row of a batch. All of shape (rows,)."""

    score: Floats
    """Of the forest; NaN without one."""
    distance: Floats
    """The largest distance of a value, see `fences.distance`; 0 where all are within their fences."""
    severity: Floats
    """The larger of score over threshold and distance over `fence_factor`: above 1 the row is an outlier."""
    is_clipped: npt.NDArray[np.bool_]
    """Whether winsorizing changes a feature: a value other than the label lies outside or is infinite."""

    @property
    def is_outlier(self) -> npt.NDArray[np.bool_]:
        return self.severity > 1.0


@dataclasses.dataclass
class FeatureTally:
    """What one split shows of a feature."""

    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    far: int = 0
    """Values whose rows are outliers for them alone."""
    present: int = 0
    """Rows with a value."""
    min_length: int = 0
    """Fewest and most values of a row that has any; 0 where none has."""
    max_length: int = 0
    histogram: npt.NDArray[np.int64] | None = None
    examples: list[tuple[float, str, Any]] = dataclasses.field(default_factory=list)
    """The farthest values: minus the distance, text to sort by, value."""

    def merge(self, other: FeatureTally) -> None:
        """Takes in another part of the split."""
        for name in COUNTS:
            self.counts[name] += other.counts[name]
        self.far += other.far
        self.present += other.present
        self.min_length = min(filter(None, (self.min_length, other.min_length)), default=0)
        self.max_length = max(self.max_length, other.max_length)
        if other.histogram is not None:
            self.histogram = other.histogram if self.histogram is None else self.histogram + other.histogram
        self.examples = sorted(set(self.examples) | set(other.examples), key=lambda item: item[:2])[:MOST_EXAMPLES]


@dataclasses.dataclass
class SplitTally:
    """What a split, or a part of one, shows; size does not grow with the rows."""

    rows: int = 0
    kept: int = 0
    treated: int = 0
    dropped: int = 0
    flagged: int = 0
    written: int = 0
    """Rows that were written out."""
    features: dict[str, FeatureTally] = dataclasses.field(default_factory=dict)
    scores: npt.NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(len(SCORE_EDGES) - 1, np.int64))
    top: list[tuple[float, int, dict[str, Any]]] = dataclasses.field(default_factory=list)
    """The rows of the largest severity: minus it, id, what is shown."""

    def merge(self, other: SplitTally, top_rows: int) -> None:
        """Takes in another part of the split."""
        for name in ("rows", "kept", "treated", "dropped", "flagged", "written"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, tally in other.features.items():
            self.features.setdefault(name, FeatureTally()).merge(tally)
        self.scores = self.scores + other.scores
        self.top = heapq.nsmallest(top_rows, [*self.top, *other.top], key=lambda row: row[:2])


def judge(detector: FittedDetector, batch: pa.RecordBatch, edges: dict[str, Floats]) -> tuple[Verdict, SplitTally]:
    """Judges all rows of a batch.

    Args:
      detector: fitted on the train split.
      batch: raw features, each a list of values per row.
      edges: of the histograms, by feature.

    Returns:
      The verdict, and a tally without what the treatment makes of it and without top rows.
    """
    rows = batch.num_rows
    score = detector.score(batch)
    farthest, is_clipped = np.zeros(rows), np.zeros(rows, bool)
    tally = SplitTally(rows=rows)
    for fence in detector.fences:
        index = batch.schema.get_field_index(fence.name)
        result = apply_fence(fence, batch.column(index) if index >= 0 else None, rows)
        np.maximum.at(farthest, result.rows, result.distances)
        if fence.name != detector.label and fence.kind == "number":
            is_clipped[result.rows[result.distances > 0]] = True
        tally.features[fence.name] = _tally_of(fence, result, rows, detector.fence_factor, edges.get(fence.name))
    severity = farthest / detector.fence_factor
    if detector.forest is not None:
        severity = np.maximum(severity, score / detector.threshold)
        tally.scores = np.histogram(score, SCORE_EDGES)[0]
    return Verdict(score, farthest, severity, is_clipped), tally


def _tally_of(
    fence: FeatureFence, result: FenceResult, rows: int, fence_factor: float, edges: Floats | None
) -> FeatureTally:
    tally = FeatureTally(
        counts=result.counts,
        present=rows - result.counts["missing"],
        min_length=result.min_length,
        max_length=result.max_length,
    )
    tally.far = int((result.distances > fence_factor).sum())
    if edges is not None:
        tally.histogram = np.histogram(np.clip(result.finite, edges[0], edges[-1]), edges)[0]
    if len(result.rows):
        order = np.argsort(-result.distances, kind="stable")
        seen: dict[tuple[float, str], Any] = {}
        for place in order[: 20 * MOST_EXAMPLES]:
            value = shown(result.values[place])
            seen.setdefault((-float(result.distances[place]), str(value)), value)
            if len(seen) == MOST_EXAMPLES:
                break
        tally.examples = sorted((*key, value) for key, value in seen.items())
    return tally


def histogram_edges(fence: FeatureFence, quantiles: tuple[tuple[float, float], ...]) -> Floats | None:
    """Edges of 30 bins around the ordinary values; what lies beyond counts in the outermost. None where there is no range."""
    if fence.kind != "number" or not quantiles:
        return None
    limits = [value for level, value in quantiles if 0.001 <= level <= 0.999]
    finite = [limit for limit in (*fence.lower, *fence.upper) if np.isfinite(limit)]
    low, high = min([*limits, *finite]), max([*limits, *finite])
    # Of huge numbers the range is not finite; of equal ones it is empty.
    if not np.isfinite(high - low) or high - low <= 1e-9 * max(abs(low), abs(high)):
        return None
    edges = np.linspace(low, high, 31)
    return edges if np.all(np.diff(edges) > 0) else None


def show_rows(
    detector: FittedDetector,
    batch: pa.RecordBatch,
    verdict: Verdict,
    ids: npt.NDArray[np.int64] | None,
    split: str,
    most: int,
) -> list[tuple[float, int, dict[str, Any]]]:
    """The outliers of largest severity of a batch, ready to be merged into `SplitTally.top`."""
    places = np.flatnonzero(verdict.is_outlier)
    if not most or not len(places):
        return []
    places = places[np.argsort(-verdict.severity[places], kind="stable")[:most]]
    chosen = batch.take(pa.array(places))
    reasons = reasons_of(detector, chosen)
    shown_values = chosen.to_pylist()
    found = []
    for place, reason, values in zip(places, reasons, shown_values, strict=True):
        number = -1 if ids is None else int(ids[place])
        row = {
            "split": split,
            "example_id": None if ids is None else number,
            "score": None if math.isnan(verdict.score[place]) else float(verdict.score[place]),
            "reasons": reason,
            "values": {name: shown_values_of(value) for name, value in sorted(values.items())},
        }
        found.append((-float(verdict.severity[place]), number, row))
    return found


def reasons_of(detector: FittedDetector, batch: pa.RecordBatch) -> list[list[dict[str, Any]]]:
    """What lies outside of the fences of each row, the farthest first; empty where it is the forest alone that finds it odd."""
    reasons: list[list[tuple[float, dict[str, Any]]]] = [[] for _ in range(batch.num_rows)]
    for fence in detector.fences:
        index = batch.schema.get_field_index(fence.name)
        result = apply_fence(fence, batch.column(index) if index >= 0 else None, batch.num_rows)
        has_range = fence.kind == "number"
        for row, value, distance, position in zip(
            result.rows, result.values, result.distances, result.positions, strict=True
        ):
            reason = {
                "feature": fence.name,
                "value": shown(value),
                "lower": _number(fence.lower[position]) if has_range else None,
                "upper": _number(fence.upper[position]) if has_range else None,
                "distance": float(distance) if 0 < distance < FARTHEST else None,
            }
            reasons[row].append((float(distance), reason))
    return [[reason for _, reason in sorted(row, key=lambda pair: -pair[0])] for row in reasons]


def shown(value: Any) -> Any:
    """A value as JSON can hold it: infinite numbers and NaN as text, texts cut.

    >>> shown(float("inf")), shown(b"abc"), shown(np.float64(2.0))
    ('inf', 'abc', 2.0)
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else value[: _LONGEST_TEXT - 3] + "..."
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, dict | list):
        return str(value)[:_LONGEST_TEXT]
    return float(value) if np.isfinite(value) else str(float(value))


def shown_values_of(values: list[Any] | None) -> Any:
    """A row's values of one feature: one value, a list of the first few, or None where there is none."""
    values = [value for value in values or () if value is not None] if isinstance(values, list) else []
    if not values:
        return None
    return shown(values[0]) if len(values) == 1 else [shown(value) for value in values[:_MOST_SHOWN_VALUES]]


def merged_tallies(parts: Iterable[dict[str, SplitTally]], top_rows: int) -> dict[str, SplitTally]:
    """Of all splits, from parts of them, in any order."""
    result: dict[str, SplitTally] = {}
    for part in parts:
        for split, tally in part.items():
            result.setdefault(split, SplitTally()).merge(tally, top_rows)
    return result


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
