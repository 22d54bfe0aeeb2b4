"""What `Examples` artifacts hold: their splits, their payload, and the files of each split."""

from __future__ import annotations

import json
from typing import get_args

from tfx.components.util import examples_utils, tfxio_utils
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import Artifact, artifact_utils

from spikeguard.components.example_rows import Payload

_FILE_FORMATS = {"tfrecords_gzip", "tfrecords"}


def splits_of(artifact: Artifact) -> list[str]:
    """Names of an artifact's splits, by its custom pattern where it has one."""
    if artifact.has_custom_property(examples_utils.CUSTOM_SPLIT_PATTERN_PROPERTY_NAME):
        return list(json.loads(artifact.get_string_custom_property(examples_utils.CUSTOM_SPLIT_PATTERN_PROPERTY_NAME)))
    return list(artifact_utils.decode_split_names(artifact.split_names))


def payload_of(examples: list[Artifact]) -> tuple[str, list[str]]:
    """The payload's name, and the names of the file formats, sorted."""
    number, _ = tfxio_utils.resolve_payload_format_and_data_view_uri(examples)
    formats = {examples_utils.get_file_format(artifact) for artifact in examples}
    return example_gen_pb2.PayloadFormat.Name(number), sorted(formats)


def has_readable_rows(examples: list[Artifact]) -> bool:
    """Whether `read_rows` can read them."""
    payload, formats = payload_of(examples)
    return payload in get_args(Payload) and _FILE_FORMATS.issuperset(formats)


def paths_of(examples: list[Artifact], split: str) -> list[str]:
    """All files of a split, artifact after artifact, sorted within each."""
    return [
        path
        for artifact in examples
        for pattern in examples_utils.get_split_file_patterns([artifact], split)
        for path in sorted(fileio.glob(pattern))
    ]
