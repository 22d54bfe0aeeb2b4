"""What is kept of one high loss until its replay, and how it lies on disk."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.guarded_trainer.kept_rows import Batch, joined
from spikeguard.components.training_curve import Floats


@dataclasses.dataclass(frozen=True)
class Kept:
    """What was kept of one high loss."""

    first: int
    """First high step, from 1."""
    peak: int
    """The highest step."""
    state_step: int
    """Steps done when the state was kept."""
    state: list[npt.NDArray[Any]]
    """Values of all variables of model, metrics, optimizer and guard."""
    batches: list[Batch]
    """Of the steps state_step + 1, ..., peak."""
    reference: Batch
    """Ordinary rows."""
    losses: Floats
    """As recorded, of the same steps. Shape (steps,)."""
    rates: Floats
    """Learning rates of the same steps. Shape (steps,)."""
    expected: float
    """Median of the losses before."""
    height: float
    """Of the peak, in standard deviations of the losses before."""


def arrays_of(kept: Kept) -> dict[str, npt.NDArray[Any]]:
    """One flat dict of arrays, none of them of objects."""
    rows = joined(kept.batches)
    return {
        "numbers": np.array([kept.first, kept.peak, kept.state_step]),
        "levels": np.array([kept.expected, kept.height]),
        "losses": kept.losses,
        "rates": kept.rates,
        "sizes": np.array([len(batch) for batch in kept.batches]),
        "ids": rows.ids,
        "reference_ids": kept.reference.ids,
        **{f"leaf_{place}": leaf for place, leaf in enumerate(rows.leaves)},
        **{f"reference_{place}": leaf for place, leaf in enumerate(kept.reference.leaves)},
        **{f"state_{place}": value for place, value in enumerate(kept.state)},
    }


def kept_of(arrays: dict[str, npt.NDArray[Any]]) -> Kept:
    """The inverse of `arrays_of`."""

    def numbered(prefix: str) -> list[npt.NDArray[Any]]:
        count = sum(name.removeprefix(prefix).isdigit() for name in arrays if name.startswith(prefix))
        return [arrays[f"{prefix}{place}"] for place in range(count)]

    rows = Batch(tuple(numbered("leaf_")), arrays["ids"])
    ends = np.cumsum(arrays["sizes"])
    batches = [rows.take(np.arange(end - size, end)) for end, size in zip(ends, arrays["sizes"], strict=True)]
    first, peak, state_step = arrays["numbers"].tolist()
    expected, height = arrays["levels"].tolist()
    return Kept(
        first,
        peak,
        state_step,
        numbered("state_"),
        batches,
        Batch(tuple(numbered("reference_")), arrays["reference_ids"]),
        arrays["losses"],
        arrays["rates"],
        expected,
        height,
    )
