"""What the default pipeline needs to know, as one typed value."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.recipe import Recipe, Task
from spikeguard.components.outlier_detector.config import Treatment
from spikeguard.pipelines.csv_data import CsvData

# Beam's DirectRunner first tries a runner that must be downloaded; this is what it falls back to for batch pipelines.
# TFX packs itself into a source distribution for each Beam node unless an image is named; nothing here reads it.
LOCAL_BEAM_ARGS = (
    "--runner=FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
    "--sdk_container_image=unused",
)


def beam_args_with(user_args: tuple[str, ...]) -> tuple[str, ...]:
    """The user's Beam arguments, after the local defaults unless they choose a runner of their own.

    >>> beam_args_with(("--runner=FlinkRunner",))
    ('--runner=FlinkRunner',)
    >>> beam_args_with(("--direct_num_workers=2",))[-1]  # Beam takes the last of two.
    '--direct_num_workers=2'
    """
    has_runner = any(arg.split("=")[0] == "--runner" for arg in user_args)
    return user_args if has_runner else LOCAL_BEAM_ARGS + user_args


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """One run of the default pipeline."""

    output: str
    """Folder for everything that is written."""
    data: CsvData
    label: str
    task: Task
    recipe: Recipe
    normalize: bool = True
    """Whether numbers become train-only z-scores; False passes them on as they are."""
    outliers: Treatment | None = "flag"
    """What becomes of outliers of train; None does without OutlierDetector."""
    schema_path: str | None = None
    """A TFDV schema text proto; None infers the schema from the data."""
    beam_args: tuple[str, ...] = LOCAL_BEAM_ARGS
    is_cached: bool = True
    """Whether unchanged steps are taken over from earlier runs in the same output folder."""

    @property
    def pipeline_name(self) -> str:
        """Names the problem, not the run: models of one name have the same columns and can be compared."""
        problem = "\n".join([self.label, self.task, *sorted(self.data.columns)])
        return f"spikeguard-{self.task}-{hashlib.sha256(problem.encode()).hexdigest()[:8]}"

    @property
    def title(self) -> str:
        """What the run is about, for people."""
        name = self.data.pattern if "*" not in self.data.pattern else os.path.basename(self.data.folder)
        return f"{self.label} of {name}"

    @property
    def pipeline_root(self) -> str:
        return os.path.join(os.path.abspath(self.output), "pipelines", self.pipeline_name)

    @property
    def metadata_path(self) -> str:
        return os.path.join(os.path.abspath(self.output), "metadata.sqlite")

    @property
    def serving_folder(self) -> str:
        return os.path.join(os.path.abspath(self.output), "pushed", self.pipeline_name)


def read_schema(path: str) -> schema_pb2.Schema:
    """Reads a TFDV schema text proto.

    Raises:
      InvalidArgumentError: the file does not exist.
      InvalidDataError: it is not a schema.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), schema_pb2.Schema())
    except OSError as error:
        raise InvalidArgumentError(
            "schema", path, f"be a readable file ({error.strerror})", "Check the path."
        ) from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidDataError(
            path, f"is not a TFDV schema text proto ({error})", "Write one with tfdv.write_schema_text."
        ) from error


def snapshot_schema(path: str, output: str) -> str:
    """Copies a schema under a name that changes with its content, and returns the copy's path.

    TFX takes an imported schema for unchanged as long as its path is the same.
    """
    content = pathlib.Path(path).read_bytes()
    copy = pathlib.Path(output).resolve() / "schemas" / f"{hashlib.sha256(content).hexdigest()[:8]}.pbtxt"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(content)
    return str(copy)


def categorical_columns(schema: schema_pb2.Schema) -> list[str]:
    """Number columns that the schema declares to be categories."""
    return sorted(feature.name for feature in schema.feature if feature.int_domain.is_categorical)
