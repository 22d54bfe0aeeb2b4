"""How uneven the classes are and what to do about it, in sentences."""

from __future__ import annotations

import math

from spikeguard.components.imbalance_detector.class_balance import ClassBalance
from spikeguard.components.imbalance_detector.config import ImbalanceConfig


def advice(balance: ClassBalance, config: ImbalanceConfig) -> tuple[str, ...]:
    """What to do, the most useful first; one sentence where there is nothing to do."""
    batch, ratio = balance.batch, balance.imbalance_ratio or 1.0
    if balance.kind == "multi_hot":
        return ("Weigh the positions of the label in a loss of your own: GuardedTrainer takes one class per row.",)
    if len(balance.weights) < 2:
        return ("There is one class only: nothing can be learned.",)
    has_jitter = bool(
        batch and batch.loss_jitter and batch.loss_jitter > config.max_jitter * (batch.expected_loss or math.inf)
    )
    if ratio <= config.max_ratio and not has_jitter:
        return ("The classes are even enough to train on as they are.",)
    sentences = []
    if batch and has_jitter:
        sentences.append(
            "Train on batches of constant composition (balance='batches'): the classes in a batch then move the loss no"
            f" more, where shuffled batches of {batch.size:,} rows move it by {batch.loss_jitter:.2g}."
        )
        sentences.append(f"Or take batches of {batch.smallest_batch_size:,} rows.")
    else:
        sentences.append("Where the rare classes matter as much as the others, train with balance='batches'.")
    if batch and batch.loss_jitter and (batch.loss_jitter_with_weights or 0.0) > batch.loss_jitter:
        sentences.append(
            "Class weights (balance='weights') even out what is learned, but not the batches: they raise the jitter from"
            f" {batch.loss_jitter:.2g} to {batch.loss_jitter_with_weights:.2g}."
        )
    return tuple(sentences)


def classes_sentence(balance: ClassBalance) -> str:
    """How uneven the classes are, and what that does to the loss."""
    rows = {known.name: known.counts.get(balance.train_split, 0) for known in balance.classes}
    if balance.imbalance_ratio is None:
        return " ".join(balance.notes) or "not known"
    text = f"{len(rows)}, the largest {balance.imbalance_ratio:.3g} times the smallest"
    batch = balance.batch
    if batch is None or not batch.loss_jitter or not batch.expected_loss:
        return text
    return (
        f"{text}; chance in shuffled batches of {batch.size} moves the loss by {batch.loss_jitter:.2g}"
        f" ({percent(batch.loss_jitter / batch.expected_loss)} of it)"
    )


def percent(share: float) -> str:
    """A share in words: two digits where it is small.

    >>> percent(0.5), percent(0.0123)
    ('50 %', '1.2 %')
    """
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
