"""From what is known of the label in each split to figures, weights, findings and advice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spikeguard.components.anomalies import Finding
from spikeguard.components.imbalance_detector import batch_odds
from spikeguard.components.imbalance_detector.advice import advice
from spikeguard.components.imbalance_detector.class_balance import (
    BatchBalance,
    ClassBalance,
    LabelClass,
    ShiftOfSplit,
)
from spikeguard.components.imbalance_detector.class_weighting import class_weights
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.imbalance_detector.findings import (
    balance_findings,
    class_findings,
    label_findings,
    range_findings,
    shift_findings,
)
from spikeguard.components.imbalance_detector.imbalance import effective_number, imbalance_ratio, normalised_entropy
from spikeguard.components.imbalance_detector.label_counts import LabelCounts, sorted_names
from spikeguard.components.imbalance_detector.label_range import LabelRange
from spikeguard.components.imbalance_detector.label_shift import label_shift


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What is written into ClassWeights, and what into ExampleAnomalies."""

    balance: ClassBalance
    findings: Mapping[str, tuple[Finding, ...]]
    """By split; each split is there."""


def assess_classes(counts_of_split: Mapping[str, LabelCounts], config: ImbalanceConfig, batch_size: int) -> Assessment:
    """Judges a classification label.

    Args:
      counts_of_split: what is known of each split; the train split is among them.
      config: thresholds and scheme.
      batch_size: rows per step; >= 1. A larger one than the train split is the whole split.
    """
    train = counts_of_split[config.train_split]
    findings = {
        split: (*label_findings(found, config), *class_findings(found, train, config))
        for split, found in counts_of_split.items()
    }
    balance = _without_classes(counts_of_split, config)
    if not any((train.counts or {}).values()) or train.has_more_than(config.max_classes):
        return Assessment(balance, findings)
    balance = _with_classes(balance, counts_of_split, config, batch_size)
    findings[config.train_split] += balance_findings(balance, config)
    for shift in balance.label_shift:
        findings[shift.split] += shift_findings(shift, config, len(balance.label_shift))
    return Assessment(dataclasses.replace(balance, advice=advice(balance, config)), findings)


def assess_range(
    counts_of_split: Mapping[str, LabelCounts], train_range: LabelRange | None, config: ImbalanceConfig
) -> Assessment:
    """Judges a regression label, which has no classes and gets no weights.

    Args:
      counts_of_split: what is known of each split; the train split is among them.
      train_range: of the train split; None where its statistics hold no quantiles.
      config: thresholds.
    """
    findings = {split: label_findings(found, config) for split, found in counts_of_split.items()}
    balance = dataclasses.replace(_without_classes(counts_of_split, config), regression=train_range)
    if train_range is None:
        note = "The tails and the range of the label are not known: give TrainingStatistics of the train split."
        return Assessment(dataclasses.replace(balance, notes=(note,)), findings)
    found = range_findings(train_range, config)
    findings[config.train_split] += found
    calm = "The label lies evenly enough in its range to train on it as it is."
    return Assessment(
        dataclasses.replace(balance, advice=tuple(finding.text for finding in found) or (calm,)), findings
    )


def _without_classes(counts_of_split: Mapping[str, LabelCounts], config: ImbalanceConfig) -> ClassBalance:
    notes = [
        f"The classes of split {split!r} are not known exactly: {found.problem}."
        for split, found in counts_of_split.items()
        if found.counts is None and found.kind != "numbers"
    ]
    return ClassBalance(
        label=config.label,
        task=config.task,
        kind=counts_of_split[config.train_split].kind,
        train_split=config.train_split,
        classes=(),
        splits={split: found.rows for split, found in counts_of_split.items()},
        scheme=config.scheme,
        beta=config.beta,
        cap=config.cap,
        notes=tuple(notes),
    )


def _with_classes(
    balance: ClassBalance, counts_of_split: Mapping[str, LabelCounts], config: ImbalanceConfig, batch_size: int
) -> ClassBalance:
    train = counts_of_split[config.train_split]
    names = sorted_names({name for found in counts_of_split.values() for name in _usable(found, config)})
    trained = [name for name in names if _rows(train, name)]
    rows = np.array([_rows(train, name) for name in trained])
    weights = dict(zip(trained, class_weights(rows, config.scheme, config.beta, config.cap).tolist(), strict=True))
    known = {split: found for split, found in counts_of_split.items() if _usable(found, config)}
    return dataclasses.replace(
        balance,
        classes=tuple(
            LabelClass(name, weights.get(name), {split: _rows(found, name) for split, found in known.items()})
            for name in names
        ),
        imbalance_ratio=imbalance_ratio(rows),
        entropy=normalised_entropy(rows),
        effective_number=dict(zip(trained, effective_number(rows, config.beta).tolist(), strict=True)),
        label_shift=_shifts(known, config, names),
        batch=_batch(train, dict(zip(trained, rows.tolist(), strict=True)), weights, config, batch_size),
    )


def _usable(found: LabelCounts, config: ImbalanceConfig) -> Mapping[str, int]:
    return {} if found.has_more_than(config.max_classes) else found.counts or {}


def _shifts(
    counts_of_split: Mapping[str, LabelCounts], config: ImbalanceConfig, names: Sequence[str]
) -> tuple[ShiftOfSplit, ...]:
    train = counts_of_split[config.train_split]
    shifts = []
    for split, found in counts_of_split.items():
        # Rows of a multi-hot label belong to several classes, which no test of a table allows.
        if split == config.train_split or found.kind != "classes" or not any((found.counts or {}).values()):
            continue
        rows = [[_rows(one, name) for name in names] for one in (train, found)]
        shifts.append(ShiftOfSplit(split, **dataclasses.asdict(label_shift(*rows))))
    return tuple(shifts)


def _batch(
    train: LabelCounts,
    rows_of: Mapping[str, int],
    weights: Mapping[str, float],
    config: ImbalanceConfig,
    batch_size: int,
) -> BatchBalance:
    is_multi_hot = train.kind == "multi_hot"
    names, rows = list(rows_of), np.array(list(rows_of.values()))
    total = train.labelled_rows if is_multi_hot else int(rows.sum())
    size = min(batch_size, total)
    balance = BatchBalance(
        size,
        chance_without={name: batch_odds.chance_without(rows_of[name], total, size) for name in names},
        count_mean={name: size * rows_of[name] / total for name in names},
        count_sd={name: batch_odds.count_sd(rows_of[name], total, size) for name in names},
        smallest_complete_batch=batch_odds.smallest_complete_batch(rows, config.max_chance_without, total),
    )
    if is_multi_hot:
        return balance
    losses = batch_odds.prior_losses(rows)
    weighted = batch_odds.prior_losses(rows, [weights[name] for name in names])
    expected = float(np.sum(rows * losses) / total)
    limit = config.max_jitter * expected
    return dataclasses.replace(
        balance,
        expected_loss=expected,
        loss_jitter=batch_odds.loss_jitter(rows, losses, size),
        loss_jitter_with_weights=batch_odds.loss_jitter(rows, weighted, size),
        smallest_batch_size=batch_odds.smallest_batch_size(rows, losses, limit) if limit > 0 else 1,
    )


def _rows(found: LabelCounts, name: str) -> int:
    return (found.counts or {}).get(name, 0)
