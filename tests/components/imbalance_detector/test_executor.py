"""The executor on real statistics of StatisticsGen's and TrainingStatistics' making, without a pipeline around it."""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.types import Channel, channel, standard_artifacts

import spikeguard
from spikeguard.components.anomalies import read_anomalies
from spikeguard.components.artifacts import ClassWeights
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.imbalance_detector.class_balance import ClassBalance, read_class_weights
from spikeguard.components.imbalance_detector.component import ImbalanceDetector
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.imbalance_detector.executor import Executor
from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig

ROWS = {"train": 3000, "eval": 900}
# Text classes; one is in eval alone, one in train alone.
ANIMALS = {
    "train": {"zebra": 2600, "ant": 370, "mole": 25, "gnu": 5},
    "eval": {"zebra": 500, "ant": 380, "mole": 18, "yak": 2},
}


def _column(values: list[Any], kind: Any = None) -> pa.Array:
    return pa.array([value if isinstance(value, list) else [] if value is None else [value] for value in values], kind)


def _columns(split: str) -> dict[str, pa.Array]:
    random, rows = np.random.default_rng(len(split)), ROWS[split]
    animals = [animal for animal, count in ANIMALS[split].items() for _ in range(count)]
    rare = (np.arange(rows) % 40 == 0).astype(int)
    broken = rare.astype(float)
    broken[:6] = np.nan
    return {
        "animal": _column(list(random.permutation(np.array(animals, dtype=object)))),
        "rare": _column(rare.tolist()),
        "grade": _column((3 + np.arange(rows) % 3 * 2).tolist()),
        "tags": _column([[int(place % 10 == 0), int(place % 2 == 0), 0] for place in range(rows)]),
        "broken": _column(broken.tolist(), pa.list_(pa.float32())),
        "gappy": _column([None if place % 100 == 0 else int(place % 5 == 0) for place in range(rows)]),
        "identity": _column(list(range(rows))),
        "name": _column([f"passenger {place}" for place in range(rows)]),
        "constant": _column([7] * rows),
        "delay": _column((random.standard_t(2, size=rows) * 20).tolist(), pa.list_(pa.float32())),
        "half": _column([0.5 * (place % 3) for place in range(rows)], pa.list_(pa.float32())),
    }


def _write(folder: pathlib.Path, split: str, options: tfdv.StatsOptions, names: list[str]) -> None:
    """One split's file, by TFDV's own code without Beam around it."""
    columns = _columns(split)
    batch = pa.RecordBatch.from_pydict({name: columns[name] for name in names})
    target = folder / f"Split-{split}" / "FeatureStats.pb"
    target.parent.mkdir(parents=True)
    target.write_bytes(stats_impl.generate_statistics_in_memory(batch, options).SerializeToString())


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Folders as of StatisticsGen (all splits), and of TrainingStatistics for each label and split that a test asks of."""
    root = tmp_path_factory.mktemp("statistics")
    for split in ROWS:
        _write(root / "all", split, tfdv.StatsOptions(), list(_columns(split)))
    tasks = {"delay": "regression", **dict.fromkeys(["grade", "tags", "identity", "broken"], "classification")}
    for (label, task), split in itertools.product(tasks.items(), ROWS):
        generator = RobustStatisticsGenerator(StatisticsConfig(label, task))  # type: ignore[arg-type]
        options = tfdv.StatsOptions(generators=[generator], use_sketch_based_topk_uniques=True)
        _write(root / f"{label} {split}", split, options, [label, "animal"])
    return {folder.name: folder for folder in root.iterdir()}


def _detect(
    folder: pathlib.Path, sources: list[pathlib.Path], label: str, task: str = "classification", **config: Any
) -> tuple[ClassBalance, dict[str, anomalies_pb2.Anomalies]]:
    inputs: dict[str, list[Any]] = {"statistics": []}
    for source in sources:
        inputs["statistics"].append(standard_artifacts.ExampleStatistics())
        inputs["statistics"][-1].uri = str(source)
    weights, anomalies = ClassWeights(), standard_artifacts.ExampleAnomalies()
    weights.uri, anomalies.uri = str(folder / "weights"), str(folder / "anomalies")
    properties = {"config": json.dumps({"label": label, "task": task, **config})}
    Executor().Do(inputs, {"class_weights": [weights], "anomalies": [anomalies]}, properties)
    splits = json.loads(anomalies.split_names)
    files = {split: folder / "anomalies" / f"Split-{split}" / "SchemaDiff.pb" for split in splits}
    assert sorted(path for path in (folder / "anomalies").rglob("*") if path.is_file()) == sorted(files.values())
    assert weights.get_string_custom_property("split") == "train"
    return read_class_weights(weights.uri), {split: read_anomalies(path) for split, path in files.items()}


def _found(anomalies: anomalies_pb2.Anomalies) -> dict[str, str]:
    """Severity by summary."""
    severity = anomalies_pb2.AnomalyInfo.Severity.Name
    return {
        reason.short_description: severity(info.severity)
        for info in anomalies.anomaly_info.values()
        for reason in info.reason
    }


def test_text_classes_are_counted_in_every_split(tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]) -> None:
    balance, anomalies = _detect(tmp_path, [statistics["all"]], "animal", batch_size=64)
    counts = {known.name: dict(known.counts) for known in balance.classes}
    assert list(counts) == ["ant", "gnu", "mole", "yak", "zebra"]
    for split, animals in ANIMALS.items():
        assert {name: count[split] for name, count in counts.items() if count[split]} == animals
    assert balance.splits == ROWS
    assert balance.imbalance_ratio == 2600 / 5
    assert set(balance.weights) == set(ANIMALS["train"])
    mean = sum(weight * ANIMALS["train"][name] for name, weight in balance.weights.items()) / ROWS["train"]
    assert mean == pytest.approx(1.0)
    assert _found(anomalies["train"]) == {
        "Imbalanced classes": "WARNING",
        "Classes with few rows": "WARNING",
        "Batches without a class": "WARNING",
        "Loss jitter by the classes in a batch": "WARNING",
    }
    assert _found(anomalies["eval"]) == {
        "Classes that train lacks": "WARNING",
        "Classes missing from the split": "WARNING",
        "Label shift": "WARNING",
    }
    (text,) = [info.description for info in anomalies["eval"].anomaly_info.values()]
    assert "Class 'yak' is not in split 'train' (2 of 900 rows)" in text
    assert "Class 'gnu' of split 'train' is missing here" in text


def test_figures_of_a_batch_agree_with_drawing_batches(
    tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]
) -> None:
    balance, _ = _detect(tmp_path, [statistics["all"]], "animal", batch_size=64)
    batch = balance.batch
    assert batch is not None
    counts = np.array([ANIMALS["train"][name] for name in balance.weights])
    drawn = np.random.default_rng(0).multivariate_hypergeometric(counts, 64, size=20_000)
    np.testing.assert_allclose(list(batch.chance_without.values()), (drawn == 0).mean(axis=0), atol=0.01)
    np.testing.assert_allclose(list(batch.count_sd.values()), drawn.std(axis=0), rtol=0.06)
    losses = -np.log(counts / counts.sum())
    assert batch.loss_jitter == pytest.approx((drawn @ losses / 64).std(), rel=0.03)
    assert batch.expected_loss == pytest.approx((drawn @ losses / 64).mean(), rel=0.01)
    weights = np.array(list(balance.weights.values()))
    shares = weights * counts / np.sum(weights * counts)
    assert batch.loss_jitter_with_weights == pytest.approx((drawn @ (-weights * np.log(shares)) / 64).std(), rel=0.1)


def test_zeros_and_ones_need_no_schema(tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]) -> None:
    balance, anomalies = _detect(tmp_path, [statistics["all"]], "rare", batch_size=256)
    assert [(known.name, dict(known.counts)) for known in balance.classes] == [
        ("0", {"train": 2925, "eval": 877}),
        ("1", {"train": 75, "eval": 23}),
    ]
    assert not _found(anomalies["eval"])
    assert balance.notes == ()


def test_other_numbers_are_counted_by_training_statistics_alone(
    tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]
) -> None:
    unknown, anomalies = _detect(tmp_path / "a", [statistics["all"]], "grade")
    assert unknown.classes == ()
    assert unknown.weights == {}
    assert [note.split(":")[0] for note in unknown.notes] == [
        f"The classes of split {split!r} are not known exactly" for split in ("eval", "train")
    ]
    assert not _found(anomalies["train"])
    known, _ = _detect(tmp_path / "b", [statistics["all"], statistics["grade train"]], "grade")
    assert [(one.name, dict(one.counts)) for one in known.classes] == [(name, {"train": 1000}) for name in "357"]
    assert known.imbalance_ratio == 1.0
    assert known.advice == ("The classes are even enough to train on as they are.",)
    assert [note.split(":")[0] for note in known.notes] == ["The classes of split 'eval' are not known exactly"]


def test_schema_of_categories_gives_the_counts(tmp_path: pathlib.Path) -> None:
    schema = text_format.Parse(
        'feature { name: "grade" type: INT int_domain { is_categorical: true } }', schema_pb2.Schema()
    )
    _write(tmp_path, "train", tfdv.StatsOptions(schema=schema), ["grade"])
    balance, _ = _detect(tmp_path / "out", [tmp_path], "grade")
    assert [(one.name, dict(one.counts)) for one in balance.classes] == [(name, {"train": 1000}) for name in "357"]


def test_multi_hot_positions_are_classes(tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]) -> None:
    sources = [statistics["all"], statistics["tags train"], statistics["tags eval"]]
    balance, anomalies = _detect(tmp_path, sources, "tags", batch_size=30)
    assert balance.kind == "multi_hot"
    assert [(one.name, dict(one.counts)) for one in balance.classes] == [
        ("0", {"train": 300, "eval": 90}),
        ("1", {"train": 1500, "eval": 450}),
        ("2", {"train": 0, "eval": 0}),
    ]
    assert balance.batch is not None
    assert balance.batch.chance_without["0"] == pytest.approx(0.9**30, rel=0.1)
    assert balance.batch.loss_jitter is None
    assert _found(anomalies["train"]) == {"Batches without a class": "WARNING"}
    alone, _ = _detect(tmp_path / "alone", [statistics["all"]], "tags")
    assert "TFDV counts all positions of a vector together" in alone.notes[0]


@pytest.mark.parametrize(
    ("label", "sources", "expected"),
    [
        ("constant", ["all"], {"One class only": "ERROR"}),
        ("broken", ["all", "broken train"], {"Labels that are not finite": "ERROR", "Imbalanced classes": "WARNING"}),
        ("gappy", ["all"], {"Missing labels": "ERROR"}),
        ("identity", ["all", "identity train"], {"Too many classes": "ERROR"}),
        ("name", ["all"], {"Too many classes": "ERROR"}),
    ],
)
def test_unusable_label_is_a_named_error(
    tmp_path: pathlib.Path,
    statistics: dict[str, pathlib.Path],
    label: str,
    sources: list[str],
    expected: dict[str, str],
) -> None:
    balance, anomalies = _detect(tmp_path, [statistics[source] for source in sources], label, batch_size=256)
    found = _found(anomalies["train"])
    # Several reasons of a feature have the highest severity of them.
    assert expected.keys() <= found.keys()
    assert "ERROR" in found.values()
    if label in ("identity", "name"):
        assert balance.weights == {}
    if label == "broken":
        assert sum(known.counts["train"] for known in balance.classes) == ROWS["train"] - 6


def test_fractions_are_no_classes(tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]) -> None:
    balance, _ = _detect(tmp_path, [statistics["all"]], "half")
    assert balance.classes == ()
    assert "not all whole numbers" in balance.notes[0]


def test_regression_label_is_judged_by_its_range(tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]) -> None:
    balance, anomalies = _detect(tmp_path, [statistics["all"], statistics["delay train"]], "delay", "regression")
    assert balance.regression is not None
    values = np.float32(_columns("train")["delay"].flatten().to_numpy())
    low, high = np.quantile(values, [0.001, 0.999], method="inverted_cdf")
    expected = 1 - (float(high) - float(low)) / float(values.max() - values.min())
    assert balance.regression.emptiness == pytest.approx(expected, abs=0.02)
    assert set(_found(anomalies["train"])) >= {"Heavy tail of the label"}
    assert balance.classes == ()
    unknown, _ = _detect(tmp_path / "b", [statistics["all"]], "delay", "regression")
    assert unknown.regression is None
    assert "give TrainingStatistics" in unknown.notes[0]


def test_error_names_label_and_split(tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path]) -> None:
    with pytest.raises(
        InvalidDataError, match=r"split 'train', label 'price': is not in the statistics. Name one of an"
    ):
        _detect(tmp_path, [statistics["all"]], "price")
    with pytest.raises(InvalidDataError, match="split 'fit': is not in the statistics, which have eval, train"):
        _detect(tmp_path, [statistics["all"]], "rare", train_split="fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"weight": 1e400', "has the weight inf for class"),
        ('"weight": 1e31', r"has the weight 1e\+31 for class"),
        ('"weight": -1', "has the weight -1 for class"),
        ('"weight": "much"', "has the weight much for class"),
        ('"wait": 1', "cannot be read"),
    ],
)
def test_damaged_weights_are_refused(
    tmp_path: pathlib.Path, statistics: dict[str, pathlib.Path], change: str, message: str
) -> None:
    _detect(tmp_path, [statistics["all"]], "rare")
    path = tmp_path / "weights" / "class_balance.json"
    first = json.loads(path.read_text())["classes"][0]["weight"]
    path.write_text(path.read_text().replace(f'"weight": {first}', change))
    with pytest.raises(InvalidDataError, match=message):
        read_class_weights(tmp_path / "weights")


def test_component_takes_several_statistics(statistics: dict[str, pathlib.Path]) -> None:
    one, other = (Channel(type=standard_artifacts.ExampleStatistics) for _ in range(2))
    node = ImbalanceDetector(statistics=[one, other], config=ImbalanceConfig("y", "classification"))
    assert isinstance(node.inputs["statistics"], channel.UnionChannel)
    assert ImbalanceConfig(**json.loads(node.exec_properties["config"])).max_classes == 1000


def test_public_reader_is_this_one() -> None:
    assert spikeguard.read_class_weights is read_class_weights
