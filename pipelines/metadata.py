"""Questions to the SQLite metadata that a local pipeline run leaves behind."""

from __future__ import annotations

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd


def latest_outputs(metadata_path: str, pipeline_name: str) -> dict[tuple[str, str], mlmd.Artifact]:
    """Output artifacts of a pipeline's latest run, by output key and node id; cached ones included."""
    store = _open(metadata_path)
    pipeline = store.get_context_by_type_and_name("pipeline", pipeline_name)
    in_pipeline = {execution.id for execution in store.get_executions_by_context(pipeline.id)}
    for run in sorted(store.get_contexts_by_type("pipeline_run"), key=lambda context: -int(context.id)):
        executions = [e for e in store.get_executions_by_context(run.id) if e.id in in_pipeline]
        if executions:
            return _outputs(store, executions)
    return {}


def latest_pipeline(metadata_path: str) -> str | None:
    """Name of the pipeline whose execution was begun last; None where none ever was."""
    store, execution = _open(metadata_path), newest_execution(metadata_path)
    if execution is None:
        return None
    contexts = store.get_contexts_by_execution(execution.id)
    return next((str(context.name) for context in contexts if context.type == "pipeline"), None)


def newest_execution(metadata_path: str) -> mlmd.Execution | None:
    """The execution that was begun last, of any pipeline."""
    store = _open(metadata_path)
    options = metadata_store.ListOptions(limit=1, order_by=metadata_store.OrderByField.ID, is_asc=False)
    executions = store.get_executions(list_options=options)
    return executions[0] if executions else None


def _open(metadata_path: str) -> metadata_store.MetadataStore:
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = metadata_path
    return metadata_store.MetadataStore(config)


def _outputs(
    store: metadata_store.MetadataStore, executions: list[mlmd.Execution]
) -> dict[tuple[str, str], mlmd.Artifact]:
    node_of = {execution.id: _node_id(store, execution) for execution in executions}
    events = [event for event in store.get_events_by_execution_ids(list(node_of)) if event.type == mlmd.Event.OUTPUT]
    artifacts = {
        artifact.id: artifact for artifact in store.get_artifacts_by_id({event.artifact_id for event in events})
    }
    return {(event.path.steps[0].key, node_of[event.execution_id]): artifacts[event.artifact_id] for event in events}


def _node_id(store: metadata_store.MetadataStore, execution: mlmd.Execution) -> str:
    node = next(context for context in store.get_contexts_by_execution(execution.id) if context.type == "node")
    return str(node.name.rpartition(".")[2])
