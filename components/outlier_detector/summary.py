"""`outliers.json`: what was found of each feature and row, and the books of all rows."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.fences import COUNTS, FeatureFence
from spikeguard.components.outlier_detector.model import FittedDetector
from spikeguard.components.outlier_detector.scoring import SCORE_EDGES, FeatureTally, SplitTally
from spikeguard.components.training_curve import Floats

FORMAT = "spikeguard.outliers/1"
FILE_NAME = "outliers.json"


def summary_of(
    config: DetectorConfig, detector: FittedDetector, tallies: dict[str, SplitTally], edges: dict[str, Floats]
) -> dict[str, Any]:
    """The content of `outliers.json`.

    Keys, beside `format` and `treatment`:
      splits: by split: `rows`, of which `kept` + `treated` + `dropped` are all; `flagged`, and `written`.
      features: `name`, `rule` of its fence, `lower`, `upper`, `median` (null where there is none, or one per position),
        `counts` by split (`fences.COUNTS`), `histogram` of the train split (what lies beyond its edges counts in the
        outermost bins) or null, and `examples`, the farthest values.
      score: of the forest: `threshold`, `rule`, `trees`, `max_samples`, `sample_rows`, `histogram` of the train split; null
        without one.
      top_rows: of the largest severity: `split`, `example_id`, `score`, `reasons` (what lies outside of its fence, and its
        distance from the median over that of the fence; null for an infinite value or an unseen category), and `values`.
      notes: what could not be done.
    """
    train = tallies.get(detector.split, SplitTally())
    rows = sorted(
        ((key, number, row) for tally in tallies.values() for key, number, row in tally.top), key=lambda row: row[:2]
    )
    return {
        "format": FORMAT,
        "treatment": config.treatment,
        "train_split": detector.split,
        "splits": {
            split: {name: getattr(tally, name) for name in ("rows", "kept", "treated", "dropped", "flagged", "written")}
            for split, tally in sorted(tallies.items())
        },
        "features": [_feature(fence, tallies, detector.split, edges) for fence in detector.fences],
        "score": detector.forest
        and {
            "threshold": detector.threshold,
            "rule": detector.threshold_rule,
            "trees": detector.forest.trees,
            "max_samples": detector.max_samples,
            "sample_rows": detector.sample_rows,
            "histogram": {"edges": SCORE_EDGES.tolist(), "counts": train.scores.tolist()},
        },
        "fence_factor": detector.fence_factor,
        "top_rows": [row for _, _, row in rows[: config.top_rows]],
        "notes": list(detector.notes),
    }


def _feature(
    fence: FeatureFence, tallies: dict[str, SplitTally], train: str, edges: dict[str, Floats]
) -> dict[str, Any]:
    of_split = {split: tally.features.get(fence.name, FeatureTally()) for split, tally in sorted(tallies.items())}
    farthest = sorted({item for tally in of_split.values() for item in tally.examples}, key=lambda item: item[:2])
    histogram = of_split[train].histogram if train in of_split else None
    return {
        "name": fence.name,
        "rule": fence.rule,
        **{side: _limits(getattr(fence, side)) for side in ("lower", "upper", "median")},
        "counts": {split: {name: tally.counts[name] for name in COUNTS} for split, tally in of_split.items()},
        "histogram": None if histogram is None else {"edges": edges[fence.name].tolist(), "counts": histogram.tolist()},
        "examples": list(dict.fromkeys(value for _, _, value in farthest))[:5],
    }


def _limits(values: tuple[float, ...]) -> float | list[float | None] | None:
    finite = [float(value) if np.isfinite(value) else None for value in values]
    return finite if len(finite) > 1 else finite[0] if finite else None


def check_books(summary: dict[str, Any], train_rows: int, max_dropped_share: float) -> None:
    """Raises InvalidDataError where a row is lost, or where more would be dropped than may be."""
    train = summary["train_split"]
    for split, books in summary["splits"].items():
        kept, treated, dropped, written = (books[name] for name in ("kept", "treated", "dropped", "written"))
        if kept + treated + dropped != books["rows"] or written != kept + treated:
            raise InvalidDataError(
                f"split {split!r}",
                f"has {books['rows']} rows, of which {kept} were kept, {treated} treated, {dropped} dropped and {written} "
                "written: these do not add up",
                "Report this as an error of spikeguard.",
            )
    rows, dropped = summary["splits"][train]["rows"], summary["splits"][train]["dropped"]
    if rows != train_rows:
        raise InvalidDataError(
            f"split {train!r}",
            f"has {rows} rows, the statistics are of {train_rows}",
            "Give OutlierDetector the examples that TrainingStatistics described.",
        )
    if dropped > max_dropped_share * rows:
        raise InvalidDataError(
            f"split {train!r}",
            f"would lose {dropped} of {rows} rows ({dropped / rows:.1%}) as outliers, more than max_dropped_share allows "
            f"({max_dropped_share:.1%}){_most_outside(summary)}",
            "Look at them with treatment='flag', lower contamination, or allow more.",
        )


def _most_outside(summary: dict[str, Any]) -> str:
    counts = {feature["name"]: feature["counts"].get(summary["train_split"], {}) for feature in summary["features"]}
    outside = {name: sum(of.get(kind, 0) for kind in ("below", "above", "non_finite")) for name, of in counts.items()}
    most = sorted((name for name in outside if outside[name]), key=lambda name: -outside[name])[:3]
    return (
        f"; most values beyond their fences: {', '.join(f'{name} {outside[name]:,}' for name in most)}" if most else ""
    )


def write_summary(folder: str | os.PathLike[str], summary: dict[str, Any]) -> None:
    """Writes `outliers.json` into an artifact's folder."""
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, allow_nan=False, ensure_ascii=False, indent=1)
    (target / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def read_outliers(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads `outliers.json`.

    Args:
      folder: the `uri` of OutlierDetector's `anomalies`.

    Raises:
      InvalidDataError: it is missing, damaged or of another format.

    >>> read_outliers("/nowhere")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere/outliers.json: cannot be read (No such file or directory). Run OutlierDetector again.
    """
    path = pathlib.Path(folder) / FILE_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidDataError(str(path), f"cannot be read ({reason})", "Run OutlierDetector again.") from error
    if found != FORMAT:
        raise InvalidDataError(
            str(path), f"has the format {found!r} instead of {FORMAT!r}", "Run OutlierDetector again."
        )
    return content


def outlier_sentence(summary: dict[str, Any]) -> str:
    """What was found among the train rows, and what became of them, from the content of `outliers.json`.

    >>> books = {"rows": 200, "kept": 197, "treated": 0, "dropped": 3, "flagged": 3}
    >>> outlier_sentence({"treatment": "drop", "train_split": "train", "splits": {"train": books}, "features": []})
    '3 of 200 train rows (1.5 %), 3 dropped'
    """
    books = summary["splits"][summary["train_split"]]
    share = 100 * books["flagged"] / max(1, books["rows"])
    text = f"{books['flagged']:,} of {books['rows']:,} {summary['train_split']} rows ({share:.1f} %), "
    text += {
        "flag": "flagged, none treated",
        "drop": f"{books['dropped']:,} dropped",
        "downweight": f"{books['treated']:,} down-weighted",
        "winsorize": f"values of {books['treated']:,} rows clipped to the fences",
    }[summary["treatment"]]
    return text + _most_outside(summary)
