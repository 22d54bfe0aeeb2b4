"""Marking an InfraBlessing, as InfraValidator does, so that Pusher and people find what they know."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

# A database behind MLMD may limit its strings; the validator's own file has all of it.
_LONGEST_PROPERTY = 4000


def bless(blessing: Any, is_blessed: bool, reasons: Sequence[str], **properties: str) -> None:
    """Writes the marker file and the custom properties `blessed` and `reasons`.

    Args:
      blessing: the `InfraBlessing` artifact of the component's output.
      is_blessed: whether what was validated may go on.
      reasons: what speaks against it, one sentence each; empty where blessed.
      properties: further custom properties, by name.
    """
    folder = pathlib.Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("INFRA_BLESSED" if is_blessed else "INFRA_NOT_BLESSED")).touch()
    text = "; ".join(reasons)
    blessing.set_int_custom_property("blessed", int(is_blessed))
    blessing.set_string_custom_property(
        "reasons", text if len(text) <= _LONGEST_PROPERTY else text[: _LONGEST_PROPERTY - 3] + "..."
    )
    for name, value in properties.items():
        blessing.set_string_custom_property(name, value)
