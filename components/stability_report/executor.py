"""Makes a report inside TFX: any artifacts in, HtmlReport out."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils

from spikeguard.components.stability_report.collecting import collect
from spikeguard.components.stability_report.content import ReportContent
from spikeguard.components.stability_report.report import Report
from spikeguard.components.stability_report.sources import Source, source_of

logger = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):  # type: ignore[misc]
    """Writes the page and its content; a report that cannot be made says so and does not end the run."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        report = artifact_utils.get_single_instance(output_dict["report"])
        # An optional input that is a key was given, even where what makes it was skipped.
        content = _content(_sources(input_dict), exec_properties["title"], "pushed_model" in input_dict)
        Report(content).write(report.uri)
        report.set_string_custom_property("title", content.title)
        logger.info("%s The report is %s.", content.sentence, pathlib.Path(report.uri) / "report.html")


def _sources(input_dict: dict[str, list[Artifact]]) -> list[Source]:
    sources = []
    for artifacts in input_dict.values():
        for artifact in artifacts:
            proto = type(artifact.mlmd_artifact)()
            proto.CopyFrom(artifact.mlmd_artifact)
            proto.type = artifact.type_name
            sources.append(source_of(proto))
    return sorted(sources, key=lambda source: source.artifact_id)


def _content(sources: Sequence[Source], title: str, has_pusher: bool) -> ReportContent:
    try:
        return collect(sources, title, has_pusher)
    except Exception as error:  # The model may be pushed already: its run must not fail for want of a page.
        logger.exception("The report could not be made")
        sentence = f"The report could not be made: {type(error).__name__}: {error}"
        return ReportContent(title, "open", sentence[:1000])
