"""Batches with one thing changed, to replay a spike without one of its possible causes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.guarded_trainer.kept_rows import Batch, joined
from spikeguard.components.guarded_trainer.replay_reference import Bools, Reference
from spikeguard.components.training_curve import Floats

# Up to this share of a batch's rows outliers are few; beyond it the batch as a whole is in another unit.
MOST_ROWS = 0.34
# A batch is enlarged to this many times its rows, and to this many at most.
_TIMES, _MOST_ENLARGED = 8, 1024


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that a replay changes."""

    name: str
    cause: str
    text: str
    """What was done, as the beginning of a sentence."""
    batches: tuple[Batch, ...] | None = None
    """Of the replayed steps; None: as they were."""
    scale: float = 1.0
    """What each update is multiplied by."""
    input_scale: Floats | None = None
    """What each input column is divided by, with the first layer's weights multiplied by it; None: nothing."""
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


def without_rows(
    batches: list[Batch], suspects: list[Bools], culprit: int, reference: Reference, seed: int
) -> Change | None:
    """Suspicious rows removed from all steps; None where the culprit has none, or too many to be few.

    Where batches must keep their size, ordinary rows come in their place.
    """
    count = int(suspects[culprit].sum())
    if not 0 < count <= max(1.0, MOST_ROWS * len(batches[culprit])):
        return None
    generator = np.random.default_rng(seed)
    is_filled = reference.layout.fixed_size is not None and len(reference.rows) >= count
    changed, removed = [], 0
    for batch, rows in zip(batches, suspects, strict=True):
        if 0 < rows.sum() < len(batch):
            removed += int(rows.sum())
            batch = batch.take(~rows)
            if is_filled:
                batch = joined([batch, reference.rows.take(generator.choice(len(reference.rows), int(rows.sum())))])
        changed.append(batch)
    name = "row" if removed == 1 else "rows"
    text = f"Replacing {removed} {name} by ordinary ones" if is_filled else f"Removing {removed} {name}"
    figures = {"rows": float(removed), "rows_in_batch": float(count)}
    return Change("rows_removed", "outliers", text, tuple(changed), figures=figures)


def rescaled(batches: list[Batch], reference: Reference) -> Change | None:
    """Columns that are in another unit in a batch brought to the values of ordinary rows; None where none is."""
    changed: list[Batch] = []
    columns: set[int] = set()
    for batch in batches:
        if len(reference.rows) and len(reference.shifted_columns(batch)):
            matrix, moved = reference.brought_back(batch)
            columns.update(moved.tolist())
            batch = with_matrix(reference, batch, matrix)
        changed.append(batch)
    if not columns:
        return None
    named = ", ".join(reference.names[column] for column in sorted(columns)[:3])
    more = f" and {len(columns) - 3} more" if len(columns) > 3 else ""
    return Change(
        "rescaled",
        "normalization",
        f"Bringing {named}{more} to the values of other batches",
        tuple(changed),
        figures={"columns": float(len(columns))},
    )


def with_matrix(reference: Reference, batch: Batch, matrix: Floats) -> Batch:
    """A batch with other amounts among its inputs; the inverse of `Layout.matrix`."""
    used = 0
    for place in reference.layout.float_inputs(batch):
        shape = batch.leaves[place].shape
        width = int(np.prod(shape[1:], dtype=np.int64))
        batch = batch.with_leaf(place, matrix[:, used : used + width].reshape(shape))
        used += width
    return batch


def standardized(batches: list[Batch], reference: Reference, is_untrained: bool) -> Change | None:
    """Columns in raw units divided by their size.

    The first layer's weights are multiplied by it: the same function. Weights that no step has touched stay, since they fit
    no unit more than another.
    """
    raw = reference.raw_columns()
    if not len(raw):
        return None
    scale = np.ones(len(reference.size))
    scale[raw] = reference.size[raw] / 3.0  # As standardized columns have it.
    changed = tuple(with_matrix(reference, batch, reference.layout.matrix(batch) / scale) for batch in batches)
    named = ", ".join(reference.names[column] for column in raw[:3]) + (
        f" and {len(raw) - 3} more" if len(raw) > 3 else ""
    )
    return Change(
        "standardized",
        "normalization",
        f"Standardizing {named}" + ("" if is_untrained else " (the same function, other units)"),
        changed,
        input_scale=None if is_untrained else scale,
        figures={"columns": float(len(raw))},
    )


def with_usual_classes(batches: list[Batch], reference: Reference, seed: int) -> Change | None:
    """Each batch dealt anew with the classes' usual shares, its own rows first; None without classes."""
    shares, own = reference.class_shares, reference.layout.class_of(reference.rows)
    if shares is None or own is None or not shares.sum():
        return None
    generator = np.random.default_rng(seed)
    # Rows of the replayed steps fill up, too: the kept ones may lack a class that has just come.
    pool = reference.rows
    dealt = []
    for batch in batches:
        classes = reference.layout.class_of(batch)
        assert classes is not None
        wanted = _rounded(len(batch) * shares / shares.sum())
        parts: list[Batch] = []
        for one, count in enumerate(wanted.tolist()):
            present = np.flatnonzero(classes == one)[:count]
            parts.append(batch.take(present))
            spare = np.flatnonzero(own == one)
            if len(present) < count and len(spare):
                parts.append(pool.take(generator.choice(spare, count - len(present))))
        whole = joined(parts)
        dealt.append(whole if len(whole) else batch)
    return Change("usual_classes", "imbalance", "Giving each batch the classes' usual shares", tuple(dealt))


def enlarged(batches: list[Batch], reference: Reference, seed: int) -> Change | None:
    """Each batch with ordinary rows added; None where there are not enough of them, or the batches are large."""
    usual = int(np.median([len(batch) for batch in batches]))
    size = min(_TIMES * usual, _MOST_ENLARGED)
    if len(reference.rows) < 2 * usual or size < 2 * usual:
        return None
    generator = np.random.default_rng(seed)
    changed = tuple(
        joined([batch, reference.rows.take(generator.choice(len(reference.rows), size - len(batch)))])
        if len(batch) < size
        else batch
        for batch in batches
    )
    return Change(
        "enlarged", "batch_size", f"Enlarging the batches to {size} rows", changed, figures={"rows": float(size)}
    )


def slower(scale: float) -> Change:
    """All updates of the replayed steps multiplied by a factor."""
    return Change(
        "rate_cut",
        "learning_rate",
        f"Cutting the learning rate to {100 * scale:.2g}%",
        scale=scale,
        figures={"factor": scale},
    )


def _rounded(amounts: Any) -> npt.NDArray[np.int64]:
    """Whole numbers with the same sum, by the largest remainder."""
    whole = np.floor(amounts).astype(np.int64)
    missing = round(float(np.sum(amounts))) - int(whole.sum())
    whole[np.argsort(whole - amounts)[:missing]] += 1
    return np.asarray(whole)
