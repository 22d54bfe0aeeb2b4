"""Data that nobody curated: gaps, odd column names, text classes, an inferred schema."""

from __future__ import annotations

import hashlib
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.datasets import load_diabetes, load_wine

import spikeguard

from .conftest import Run, readme_commands, shell

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def wine_job(clone: pathlib.Path) -> Run:
    """The README's command for own data, on 178 wines of three growers whose names are text."""
    frame = load_wine(as_frame=True).frame
    frame["target"] = frame["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
    frame.to_csv(clone / "my.csv", index=False)
    (command,) = [line for line in readme_commands() if "--data" in line]
    return shell(command, clone)


def test_own_classes_are_learned_and_pushed(wine_job: Run) -> None:
    assert wine_job.status == 0, wine_job.errors + wine_job.output
    model = tf.saved_model.load(wine_job.pushed_to)
    frame = load_wine(as_frame=True).frame
    rows = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=[value])) for name, value in row.items()
                }
            )
        ).SerializeToString()
        for row in frame.drop(columns="target").to_dict("records")
    ]
    served = model.signatures["serving_default"](examples=tf.constant(rows))["predictions"].numpy()
    assert served.shape == (178, 3)
    np.testing.assert_allclose(served.sum(axis=1), 1.0, rtol=1e-5)
    # Ids are by falling frequency: Grignolino 71, Barolo 59, Barbera 48.
    truth = frame["target"].map({1: 0, 0: 1, 2: 2})
    assert (served.argmax(axis=1) == truth).mean() > 0.9


def test_classes_of_own_data_are_counted(wine_job: Run) -> None:
    balance = spikeguard.read_class_weights(wine_job.artifact("ImbalanceDetector", "class_weights"))
    frame = load_wine(as_frame=True).frame["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
    rows = {known.name: known.counts["train"] + known.counts["eval"] for known in balance.classes}
    assert rows == frame.value_counts().to_dict()
    ratio = max(known.counts["train"] for known in balance.classes) / min(
        known.counts["train"] for known in balance.classes
    )
    assert f"3, the largest {ratio:.3g} times the smallest; chance in shuffled batches of 8 " in wine_job.output


def test_weights_reach_the_trainer_by_name(wine_job: Run, clone: pathlib.Path) -> None:
    (command,) = [line for line in readme_commands() if "--data" in line]
    run = shell(f"{command} --balance weights --steps 60", clone)
    assert run.status in (0, 3), run.errors
    assert "Transform cached" in run.output
    weights = spikeguard.read_class_weights(run.artifact("ImbalanceDetector", "class_weights")).weights
    recipe = json.loads((run.artifact("GuardedTrainer", "model_run") / "recipe.json").read_text())
    # Ids are by falling frequency.
    assert recipe["recipe"]["class_weights"] == [weights[name] for name in ("Grignolino", "Barolo", "Barbera")]


def test_log_of_another_tool_is_explained(clone: pathlib.Path) -> None:
    loss = 1 + np.exp(-np.arange(40) / 8) + 0.01 * np.random.default_rng(0).normal(size=40)
    loss[36] += 0.5
    rows = [f"{epoch},{value:.4f}\n" for epoch, value in enumerate(loss)]
    (clone / "my_log.csv").write_text("epoch,loss\n" + "".join(rows))
    (command,) = [line for line in readme_commands() if "explain" in line]
    run = shell(command, clone)
    assert run.status == 3, run.errors
    assert "1 spike in the last 20% of the run, the last at epoch 36" in run.output


def test_gaps_and_odd_names_are_no_obstacle(clone: pathlib.Path) -> None:
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame = frame.rename(columns={"bp": "blood/pressure (mm)", "s1": "s 1", "s2": "Größe"})
    frame.loc[::17, "bmi"] = np.nan
    frame["note"] = pd.Series(["", "a,b", 'say "x"'] * len(frame))
    frame.to_csv(clone / "diabetes.csv", index=False)
    run = shell(
        "python3 -m uv run local_runner.py --data diabetes.csv --label target --task regression --steps 300", clone
    )
    assert run.status == 0, run.errors + run.output
    assert "verdict  stable over 300 steps" in run.output


def test_data_that_were_scaled_before_the_split_are_not_trained_on(clone: pathlib.Path) -> None:
    # scikit-learn's own copy of these data is centered and divided over all rows.
    load_diabetes(as_frame=True).frame.to_csv(clone / "scaled.csv", index=False)
    run = shell("python3 -m uv run local_runner.py --data scaled.csv --label target --task regression", clone)
    assert run.status == 3, run.errors + run.output
    assert run.errors == ""
    assert "NormalizationValidator done in" in run.output
    for node in ("GuardedTrainer", "SpikeEvaluator", "Evaluator", "Pusher"):
        assert f"{node} skipped in" in run.output
    assert "verdict  nothing was trained" in run.output
    assert (
        "age, bmi, bp, s1, s2 and 4 more: The raw numbers are normalized (unit norm) over train + eval" in run.pushed_to
    )


def test_empty_split_is_named(clone: pathlib.Path) -> None:
    rows = [(a, a * 3 % 17) for a in range(400) if _bucket(a, a * 3 % 17) < 2]
    (clone / "train_only.csv").write_text("a,y\n" + "".join(f"{a},{y}\n" for a, y in rows))
    run = shell("python3 -m uv run local_runner.py --data train_only.csv --label y --task regression", clone)
    assert run.status == 2
    assert run.errors == (
        "error: split 'eval': has no rows. Rows are dealt to the splits by their content: give more different rows.\n"
    )


def _bucket(a: int, y: int) -> int:
    """The hash bucket of a row: 0 and 1 go to train, 2 to eval."""
    features = {"a": a, "y": y}
    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])) for name, value in features.items()
            }
        )
    )
    return int(hashlib.sha256(example.SerializeToString(deterministic=True)).hexdigest(), 16) % 3
