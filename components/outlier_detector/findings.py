"""From the books of the splits to findings, as data validators report them."""

from __future__ import annotations

from spikeguard.components.anomalies import Finding
from spikeguard.components.outlier_detector.fences import FeatureFence
from spikeguard.components.outlier_detector.model import FittedDetector
from spikeguard.components.outlier_detector.scoring import FeatureTally, SplitTally
from spikeguard.components.training_statistics.reading import SplitStatistics
from spikeguard.components.training_statistics.results import RobustStatistics

# Summary of a finding that rows lie beyond the fences; what was done with them stands in the summary of the run.
OUTLIERS = "Outliers"
# What TrainingStatistics calls unusual, in the words of a finding; what a schema forbids is an error.
_OF_STATISTICS = {
    "constant": ("Constant", "WARNING", "It tells rows apart in no way: leave it out."),
    "huge": ("Huge values", "WARNING", "Check its unit, or winsorize it."),
    "inexact_integers": ("Inexact integers", "WARNING", "Make it a category if it is an identifier."),
    "numbers_as_text": (
        "Numbers as text",
        "WARNING",
        "A model takes each for a category: look for text among them, or for integers beyond 64 bits.",
    ),
    "changing_length": ("Changing length", "WARNING", "Pad it, or make it a feature of one length."),
    "outside_domain": ("Label outside domain", "ERROR", "Correct these rows or the schema."),
}


def findings_of(
    detector: FittedDetector, statistics: SplitStatistics, tallies: dict[str, SplitTally]
) -> dict[str, list[Finding]]:
    """The findings of each split, features in the order of their names."""
    return {
        split: [
            finding
            for fence in detector.fences
            for finding in _of_feature(
                detector,
                fence,
                statistics.features[fence.name],
                tally.features.get(fence.name, FeatureTally()),
                tally.rows,
                split,
            )
        ]
        + _of_rows(detector, tally)
        for split, tally in tallies.items()
    }


def _of_rows(detector: FittedDetector, tally: SplitTally) -> list[Finding]:
    if not tally.flagged:
        return []
    text = f"{tally.flagged:,} of {tally.rows:,} rows are outliers ({tally.flagged / tally.rows:.2%})."
    return [Finding(None, "WARNING", OUTLIERS, f"{text} See the top rows in outliers.json.")]


def _of_feature(
    detector: FittedDetector,
    fence: FeatureFence,
    statistics: RobustStatistics,
    tally: FeatureTally,
    rows: int,
    split: str,
) -> list[Finding]:
    if not rows:
        return []
    found, counts = [], tally.counts
    examples = ", ".join(str(value) for _, _, value in tally.examples)
    is_label = fence.name == detector.label
    if not tally.present:
        text = f"None of {rows:,} rows has a value. Check where it comes from."
        found.append(Finding(fence.name, "ERROR" if is_label else "WARNING", "All missing", text))
    elif fence.kind == "absent" and split != detector.split and not statistics.present_rows:
        text = (
            f"{tally.present:,} of {rows:,} rows have a value, and none of the train split: a model has not learned it."
        )
        found.append(Finding(fence.name, "WARNING", "Unseen in training", text))
    if counts["non_finite"]:
        text = f"{counts['non_finite']:,} values are infinite or NaN. Correct or remove them where they come from."
        found.append(Finding(fence.name, "ERROR" if is_label else "WARNING", "Non-finite values", text))
    if tally.far:
        outside = counts["below"] + counts["above"]
        text = (
            f"{tally.far:,} values of {rows:,} rows are infinite or lie more than {detector.fence_factor:g} times as far from "
            f"the median as the train split's fence{_range(fence)}; {outside:,} lie outside of it. The farthest: {examples}. "
            "Correct, drop, down-weight or winsorize them."
        )
        found.append(Finding(fence.name, "WARNING", OUTLIERS, text))
    if counts["unseen"]:
        text = f"{counts['unseen']:,} values are of categories that the train split lacks: {examples}."
        found.append(Finding(fence.name, "ERROR" if is_label else "WARNING", "Unseen categories", text))
    if split == detector.split:
        found += _of_statistics(statistics)
    elif tally.present and (tally.min_length, tally.max_length) != (fence.length, fence.length) and fence.length:
        text = f"Rows have {tally.min_length} to {tally.max_length} values, and {fence.length} in the train split."
        found.append(Finding(fence.name, "WARNING", "Changing length", text))
    return found


def _of_statistics(statistics: RobustStatistics) -> list[Finding]:
    found = []
    for text in statistics.findings:
        kind, _, words = text.partition(": ")
        if kind in _OF_STATISTICS:
            summary, severity, advice = _OF_STATISTICS[kind]
            sentence = f"{words[:1].upper()}{words[1:]}. {advice}"
            found.append(Finding(statistics.name, "ERROR" if severity == "ERROR" else "WARNING", summary, sentence))
    return found


def _range(fence: FeatureFence) -> str:
    return f", {fence.lower[0]:g} to {fence.upper[0]:g}" if len(fence.lower) == 1 else ""
