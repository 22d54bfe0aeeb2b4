"""What is worth telling a person of a label's classes, in words with figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from spikeguard.components.anomalies import Finding
from spikeguard.components.imbalance_detector.advice import advice, percent
from spikeguard.components.imbalance_detector.class_balance import ClassBalance, ShiftOfSplit
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.imbalance_detector.label_counts import LabelCounts, sorted_names
from spikeguard.components.imbalance_detector.label_range import LabelRange

# Classes that a sentence names.
_NAMED = 5


def label_findings(found: LabelCounts, config: ImbalanceConfig) -> tuple[Finding, ...]:
    """What is wrong with the label itself: missing, not finite, or of too many values."""
    # Training stops at a row without a label; evaluation leaves it out.
    severity: Literal["ERROR", "WARNING"] = "ERROR" if found.split == config.train_split else "WARNING"
    findings = []
    if found.missing:
        text = f"{found.missing:,} of {found.rows:,} rows have no label. Remove them or fill them in."
        findings.append(Finding(config.label, severity, "Missing labels", text))
    if found.not_finite:
        text = f"{found.not_finite:,} labels of {found.rows:,} rows are NaN or infinite. Remove these rows."
        findings.append(Finding(config.label, severity, "Labels that are not finite", text))
    if config.task == "classification" and found.has_more_than(config.max_classes):
        text = (
            f"There are {found.distinct:,} distinct labels or more, too many for classes (at most {config.max_classes:,})."
            " Take the label for a number (task regression), or name another column."
        )
        findings.append(Finding(config.label, "ERROR", "Too many classes", text))
    return tuple(findings)


def class_findings(found: LabelCounts, train: LabelCounts, config: ImbalanceConfig) -> tuple[Finding, ...]:
    """What is wrong with which classes a split has, compared with train."""
    if not (found.counts and train.counts) or any(one.has_more_than(config.max_classes) for one in (found, train)):
        return ()
    present = {name for name, rows in found.counts.items() if rows}
    trained = {name for name, rows in train.counts.items() if rows}
    findings = []
    if found.split == config.train_split and found.kind == "classes" and len(present) == 1:
        text = f"All {found.labelled_rows:,} rows are of class {next(iter(present))!r}: there is nothing to learn."
        findings.append(Finding(config.label, "ERROR", "One class only", text))
    unseen, absent = sorted_names(present - trained), sorted_names(trained - present)
    if unseen:
        rows = sum(found.counts[name] for name in unseen)
        text = (
            f"{_named(unseen)} {_are(unseen)} not in split {config.train_split!r} ({rows:,} of {found.rows:,} rows): no model"
            " can predict them. Give the train split some of these rows, or leave them out."
        )
        findings.append(Finding(config.label, "WARNING", "Classes that train lacks", text))
    if absent:
        text = f"{_named(absent)} of split {config.train_split!r} {_are(absent)} missing here: nothing tells how well they are learned."
        findings.append(Finding(config.label, "WARNING", "Classes missing from the split", text))
    return tuple(findings)


def balance_findings(balance: ClassBalance, config: ImbalanceConfig) -> tuple[Finding, ...]:
    """What the shares of the classes in train, and their chance in a batch, do to a training."""
    findings = []
    rows = {known.name: known.counts[config.train_split] for known in balance.classes if known.weight is not None}
    ratio = balance.imbalance_ratio or 1.0
    if ratio > config.max_ratio:
        rarest, common = min(rows, key=lambda name: rows[name]), max(rows, key=lambda name: rows[name])
        text = (
            f"Class {rarest!r} has {rows[rarest]:,} rows where class {common!r} has {rows[common]:,}: {ratio:.3g} times as"
            f" many. {' '.join(advice(balance, config)[:1])}"
        )
        findings.append(Finding(config.label, "WARNING", "Imbalanced classes", text))
    small = [name for name, count in rows.items() if count < config.min_class_rows]
    if small:
        text = f"{_named(small)} {_have(small)} fewer than {config.min_class_rows} rows: too few to learn from."
        findings.append(Finding(config.label, "WARNING", "Classes with few rows", text))
    return (*findings, *_batch_findings(balance, config))


def _batch_findings(balance: ClassBalance, config: ImbalanceConfig) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    batch = balance.batch
    if batch is None:
        return tuple(findings)
    lacking = {name: chance for name, chance in batch.chance_without.items() if chance > config.max_chance_without}
    if lacking:
        worst = max(lacking, key=lambda name: lacking[name])
        text = (
            f"A batch of {batch.size:,} rows holds none of class {worst!r} with a chance of {percent(lacking[worst])}"
            f" ({len(lacking)} of {len(batch.chance_without)} classes are above {percent(config.max_chance_without)})."
            f" It takes {batch.smallest_complete_batch:,} rows for all classes."
        )
        findings.append(Finding(config.label, "WARNING", "Batches without a class", text))
    if batch.loss_jitter and batch.expected_loss and batch.loss_jitter > config.max_jitter * batch.expected_loss:
        text = (
            f"The share of the classes in batches of {batch.size:,} rows alone moves the loss by {batch.loss_jitter:.2g}"
            f" ({percent(batch.loss_jitter / batch.expected_loss)} of it, as a standard deviation)."
            f" Batches of {batch.smallest_batch_size:,} rows or of constant composition keep it below"
            f" {percent(config.max_jitter)}."
        )
        findings.append(Finding(config.label, "WARNING", "Loss jitter by the classes in a batch", text))
    return tuple(findings)


def shift_findings(shift: ShiftOfSplit, config: ImbalanceConfig, splits: int) -> tuple[Finding, ...]:
    """Whether a label shift is both significant, over so many splits, and of a size that matters."""
    if shift.p_value * splits > config.significance or shift.effect < config.min_shift_effect:
        return ()
    text = (
        f"{percent(shift.distance)} of the rows would have to change class for the shares of split"
        f" {config.train_split!r}; chance makes such a difference with p = {shift.p_value:.2g}. Split the rows at random,"
        " or expect probabilities that are off here."
    )
    return (Finding(config.label, "WARNING", "Label shift", text),)


def range_findings(found: LabelRange, config: ImbalanceConfig) -> tuple[Finding, ...]:
    """What is wrong with how a regression label lies in its range."""
    findings = []
    tails = {"below": found.lower_tail or 0.0, "above": found.upper_tail or 0.0}
    heavy = {side: weight for side, weight in tails.items() if weight > config.max_tail}
    if heavy:
        sides = " and ".join(f"{weight:.2g} times {side}" for side, weight in heavy.items())
        text = (
            f"Far from the median {found.median:.6g} the label reaches {sides} the distance of a normal distribution:"
            " batches that draw such rows spike. Use a robust loss (huber), or treat outliers of the label."
        )
        findings.append(Finding(config.label, "WARNING", "Heavy tail of the label", text))
    if found.emptiness is not None and found.emptiness > config.max_emptiness:
        text = (
            f"{percent(found.emptiness)} of the range from {found.minimum:.6g} to {found.maximum:.6g} holds 0.2 % of the"
            " rows. Predictions there are guesses, and squared errors huge."
        )
        findings.append(Finding(config.label, "WARNING", "Empty range of the label", text))
    return tuple(findings)


def _named(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{'Class' if len(names) == 1 else 'Classes'} {listed}{more}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
