"""Curated TFDV schemas, one text proto each."""

from __future__ import annotations

import pathlib

from spikeguard.components.errors import InvalidArgumentError


def schema_path(name: str) -> str:
    """Path of a curated schema, for `ImportSchemaGen(schema_file=...)`.

    Raises:
      InvalidArgumentError: there is no schema of that name.

    >>> schema_path("flights_delay").endswith("flights_delay.pbtxt")
    True
    """
    folder = pathlib.Path(__file__).parent
    path = folder / f"{name}.pbtxt"
    if not path.is_file():
        raise InvalidArgumentError(
            "name", name, f"be one of {', '.join(sorted(p.stem for p in folder.glob('*.pbtxt')))}"
        )
    return str(path)
