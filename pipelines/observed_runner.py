"""TFX's local runner, one node at a time, so that somebody can watch."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.dsl.compiler.constants import PIPELINE_RUN_ID_PARAMETER_NAME
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.portable.runtime_parameter_utils import substitute_runtime_parameter
from tfx.proto.orchestration import pipeline_pb2

from spikeguard.pipelines.metadata import newest_execution
from spikeguard.pipelines.progress import Progress, State


class ObservedRunner(LocalDagRunner):  # type: ignore[misc]
    """Runs a pipeline as LocalDagRunner does, and tells a Progress of each node.

    LocalDagRunner says nothing of where it is but in log lines, which some nodes switch off. So it is given the pipeline
    once per node, with all other nodes marked as skipped.
    """

    def __init__(self, progress: Progress, metadata_path: str, check: Callable[[str], None]) -> None:
        """Prepares a run.

        Args:
          progress: is told of each node.
          metadata_path: the pipeline's SQLite metadata.
          check: is called with the name of each node that has ended, and may raise to end the run.
        """
        super().__init__()
        self._check = check
        self._progress = progress
        self._metadata_path = metadata_path

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None) -> None:
        # Named here, before the pipeline is taken apart, so that all nodes belong to one run.
        run_id = datetime.datetime.now().isoformat()
        substitute_runtime_parameter(pipeline, {PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
        for node in pipeline.nodes:
            name = node.pipeline_node.node_info.id
            before = newest_execution(self._metadata_path)
            self._progress.start(name)
            super().run_with_ir(_only(pipeline, name), run_options)
            self._check(name)
            self._progress.finish(name, _state(before, newest_execution(self._metadata_path)))


def _only(pipeline: pipeline_pb2.Pipeline, name: str) -> pipeline_pb2.Pipeline:
    single = pipeline_pb2.Pipeline()
    single.CopyFrom(pipeline)
    for node in single.nodes:
        if node.pipeline_node.node_info.id != name:
            node.pipeline_node.execution_options.skip.SetInParent()
    return single


def _state(before: mlmd.Execution | None, after: mlmd.Execution | None) -> State:
    if after is None or (before is not None and after.id == before.id):
        return "skipped"  # A condition was not met: TFX records no execution.
    if after.last_known_state == mlmd.Execution.FAILED:
        # Of a condition on what a condition skipped TFX 1.21 records that its inputs are missing. A failure raises.
        return "skipped"
    return "cached" if after.last_known_state == mlmd.Execution.CACHED else "done"
