"""What a report is made of: the artifacts of a run, as values that know nothing of where they were listed."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

# Types that say more in a report than that they were there.
ANOMALIES, STATISTICS, MODEL_RUN = "ExampleAnomalies", "ExampleStatistics", "ModelRun"
SPIKE_EVALUATION, CLASS_WEIGHTS = "spikeguard.SpikeEvaluation", "spikeguard.ClassWeights"
INFRA_BLESSING, MODEL_BLESSING = "InfraBlessing", "ModelBlessing"
MODEL_EVALUATION, PUSHED_MODEL = "ModelEvaluation", "PushedModel"
HTML_REPORT = "spikeguard.HtmlReport"


@dataclasses.dataclass(frozen=True)
class Source:
    """One artifact."""

    type_name: str
    """Name of the artifact's type, as in ML Metadata."""
    folder: str
    """Its `uri`."""
    node: str = ""
    """The node that wrote it; "" where that is unknown."""
    artifact_id: int = 0
    """Its id in ML Metadata; 0 for none."""
    created_ms: int = 0
    """Milliseconds since 1970; 0 where unknown."""
    properties: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Its custom properties that are numbers or strings."""

    @property
    def created(self) -> str | None:
        """When it was made, in UTC, to the second; None where unknown.

        >>> Source("ModelRun", "/runs/1", created_ms=1_700_000_000_000).created
        '2023-11-14 22:13:20 UTC'
        """
        if not self.created_ms:
            return None
        moment = datetime.datetime.fromtimestamp(self.created_ms / 1000, tz=datetime.timezone.utc)
        return moment.strftime("%Y-%m-%d %H:%M:%S UTC")

    @property
    def is_blessed(self) -> bool:
        """Whether it is a blessing that was given."""
        return self.properties.get("blessed") == 1


def source_of(proto: Any, node: str | None = None) -> Source:
    """The source that an artifact of ML Metadata is.

    Args:
      proto: an `Artifact` proto with its type's name.
      node: the node that wrote it; None takes it from the folder, `<root>/<node>/<output>/<execution>` in TFX.
    """
    values = ((name, value.WhichOneof("value"), value) for name, value in proto.custom_properties.items())
    simple = ("int_value", "double_value", "string_value")
    return Source(
        type_name=proto.type,
        folder=proto.uri,
        node=node if node is not None else _node_of(proto.uri),
        artifact_id=proto.id,
        created_ms=proto.create_time_since_epoch,
        properties={name: getattr(value, kind) for name, kind, value in values if kind in simple},
    )


def _node_of(uri: str) -> str:
    parts = pathlib.PurePath(uri).parts
    return parts[-3] if len(parts) >= 3 and parts[-1].isdigit() else ""


def of_type(sources: Iterable[Source], *type_names: str) -> list[Source]:
    """The sources of some types, in their order."""
    return [source for source in sources if source.type_name in type_names]
