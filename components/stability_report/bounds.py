"""Keeps what others wrote within what a page can hold, and within strict JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Characters of one text, entries of one list, and lists within lists.
LONGEST_TEXT = 600
MOST_ENTRIES = 3000
DEEPEST = 12


def bounded(value: Any, longest_text: int = LONGEST_TEXT, most_entries: int = MOST_ENTRIES, depth: int = 0) -> Any:
    """A copy of a JSON value with long texts cut, long lists cut, and no number that JSON lacks.

    Args:
      value: anything that `json.loads` returns, tuples included.
      longest_text: characters; what is cut says how long it was.
      most_entries: of each list and object.
      depth: of the value in the whole.

    >>> bounded({"a": [1, float("nan")], "b": "x" * 20}, longest_text=5)
    {'a': [1, None], 'b': 'xxxxx… (20 characters)'}
    """
    if isinstance(value, str):
        # JSON may hold halves of surrogate pairs, which no file can.
        text = value.encode("utf-8", errors="replace").decode("utf-8")
        return text if len(text) <= longest_text else f"{text[:longest_text]}… ({len(text):,} characters)"
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        # Larger ones are written by no tool on purpose, and cost seconds to print.
        return value if abs(value) < 10**30 else str(float("inf") if value > 0 else float("-inf"))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        entries = list(value.items())[:most_entries]
        return {
            bounded(str(name), longest_text): bounded(entry, longest_text, most_entries, depth + 1)
            for name, entry in entries
        }
    if isinstance(value, list | tuple):
        return [bounded(entry, longest_text, most_entries, depth + 1) for entry in value[:most_entries]]
    return bounded(str(value), longest_text)
