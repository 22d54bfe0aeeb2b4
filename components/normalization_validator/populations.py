"""The sets of rows whose statistics normalization constants may equal: the train split, and all that it must not be."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from spikeguard.components.normalization_validator.summaries import Columns, merged

# With more other splits than this, their subsets are no longer all tried.
_MOST_SPLITS = 3


def forbidden_populations(splits: Sequence[str], train: str) -> list[tuple[str, ...]]:
    """All sets of splits but the train split alone, the largest first; each other split, the others and all, where there are many.

    >>> forbidden_populations(["train", "eval"], "train")
    [('train', 'eval'), ('eval',)]
    """
    others = [split for split in splits if split != train]
    if len(others) <= _MOST_SPLITS:
        found = [
            kept
            for size in range(len(others), 0, -1)
            for chosen in itertools.combinations(others, size)
            for kept in ((train, *chosen), chosen)
        ]
        return sorted(found, key=len, reverse=True)
    return [(train, *others), tuple(others), *((split,) for split in others)]


def pooled(columns_of_split: Mapping[str, Columns], population: Sequence[str]) -> Columns:
    """Summaries of several splits as of one set of rows."""
    return merged([columns_of_split[split] for split in population])


def named(population: Sequence[str]) -> str:
    """As people write it.

    >>> named(("train", "eval"))
    'train + eval'
    """
    return " + ".join(population)
