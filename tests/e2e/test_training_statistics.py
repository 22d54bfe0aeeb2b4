"""TrainingStatistics in a small pipeline: from CSV to statistics of the train split, and a schema inferred from them."""

from __future__ import annotations

import json
import pathlib
import sqlite3

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

ROWS = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from tfx.components import CsvExampleGen, SchemaGen
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    from tfx.orchestration.metadata import sqlite_metadata_connection_config
    from tfx.orchestration.pipeline import Pipeline

    from spikeguard.components.training_statistics.component import TrainingStatistics
    from spikeguard.pipelines.config import LOCAL_BEAM_ARGS

    root = tmp_path_factory.mktemp("statistics")
    (root / "csv").mkdir()
    random = np.random.default_rng(0)
    colors = random.choice(["red", "green", "blue"], size=ROWS, p=[0.7, 0.295, 0.005])
    lines = [
        f"{a:.6f},{color},{int(y)}"
        for a, color, y in zip(random.gamma(1, size=ROWS), colors, random.random(ROWS) < 0.1, strict=True)
    ]
    (root / "csv" / "rows.csv").write_text("\n".join(["a,color,y", *lines]))
    example_gen = CsvExampleGen(input_base=str(root / "csv"))
    statistics = TrainingStatistics(examples=example_gen.outputs["examples"], label="y", task="classification")
    schema_gen = SchemaGen(statistics=statistics.outputs["statistics"])
    LocalDagRunner().run(
        Pipeline(
            pipeline_name="statistics",
            pipeline_root=str(root / "pipeline"),
            components=[example_gen, statistics, schema_gen],
            metadata_connection_config=sqlite_metadata_connection_config(str(root / "metadata.sqlite")),
            beam_pipeline_args=list(LOCAL_BEAM_ARGS),
        )
    )
    return root


def _only(folder: pathlib.Path) -> pathlib.Path:
    (found,) = folder.iterdir()
    return found


def test_train_split_alone_is_described(folder: pathlib.Path) -> None:
    import tensorflow as tf

    from spikeguard.components.training_statistics.reading import read_training_statistics

    found = read_training_statistics(_only(folder / "pipeline/TrainingStatistics/statistics"))
    values: dict[str, list[float]] = {}
    for split in ("train", "eval"):
        files = [str(path) for path in _only(folder / "pipeline/CsvExampleGen/examples").glob(f"Split-{split}/*")]
        examples = [tf.train.Example.FromString(row.numpy()) for row in tf.data.TFRecordDataset(files, "GZIP")]
        values[split] = [example.features.feature["a"].float_list.value[0] for example in examples]
    assert len(values["train"]) + len(values["eval"]) == ROWS
    assert (found.split, found.rows) == ("train", len(values["train"]))
    a = found.features["a"]
    assert a.median == np.quantile(np.float32(values["train"]), 0.5, method="inverted_cdf")
    assert a.fences is not None
    assert a.fences.rule == "adjusted_boxplot"
    assert found.label is not None
    assert sum(weight for _, weight in found.label.categories) == found.rows
    assert [category for category, _ in found.features["color"].categories] == ["red", "green", "blue"]
    assert found.features["color"].rare_categories == 1


def test_tfdv_loads_it_and_schema_gen_reads_it(folder: pathlib.Path) -> None:
    import tensorflow_data_validation as tfdv

    artifact = _only(folder / "pipeline/TrainingStatistics/statistics")
    assert [path.name for path in artifact.iterdir()] == ["Split-train"]
    loaded = tfdv.load_stats_binary(str(artifact / "Split-train" / "FeatureStats.pb"))
    schema = tfdv.load_schema_text(str(_only(folder / "pipeline/SchemaGen/schema") / "schema.pbtxt"))
    assert sorted(feature.name for feature in schema.feature) == ["a", "color", "y"]
    assert not tfdv.validate_statistics(loaded, schema).anomaly_info


def test_artifact_records_split_and_rows(folder: pathlib.Path) -> None:
    from spikeguard.components.training_statistics.reading import read_training_statistics

    artifact = _only(folder / "pipeline/TrainingStatistics/statistics")
    with sqlite3.connect(folder / "metadata.sqlite") as store:
        query = "SELECT p.name, p.int_value, p.string_value FROM ArtifactProperty p JOIN Artifact a ON a.id = p.artifact_id WHERE a.uri = ?"
        properties = {
            name: number if text is None else text for name, number, text in store.execute(query, [str(artifact)])
        }
    assert properties["split"] == "train"
    assert properties["rows"] == read_training_statistics(artifact).rows
    assert json.loads(properties["split_names"]) == ["train"]
