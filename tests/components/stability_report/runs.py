"""Artifacts of made-up runs, in the files and formats that the components write."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from spikeguard.components.anomalies import Finding, write_findings
from spikeguard.components.recorded_curve import STEP_SCHEMA, VALIDATION_SCHEMA, write_block
from spikeguard.components.spike_evaluator import result
from spikeguard.components.stability_report.sources import Source
from spikeguard.components.training_curve import Floats, TrainingCurve

CREATED_MS = 1_700_000_000_000
SPIKE_STEPS = (301, 771)


def losses(steps: int = 1000) -> Floats:
    """A calm descent."""
    noise = np.random.default_rng(0).normal(size=steps)
    return np.asarray(1 + 3 * np.exp(-np.arange(steps) / (steps / 10)) + 0.05 * noise)


def spiky(steps: int = 1000) -> Floats:
    """The same with a spike at each of `SPIKE_STEPS`."""
    loss = losses(steps)
    loss[[step - 1 for step in SPIKE_STEPS]] += (2.0, 3.0)
    return loss


def write_run(root: pathlib.Path, loss: Floats, text: Callable[[str], str] = str, features: int = 3) -> list[Source]:
    """Writes every artifact that a report reads, and returns them.

    Args:
      root: a folder.
      loss: of each step.
      text: what becomes of every name and sentence.
      features: how many there are.
    """
    run, evaluation = root / "GuardedTrainer/model_run/4", root / "SpikeEvaluator/evaluation/5"
    steps = np.arange(1, len(loss) + 1)
    action = np.where(np.isin(steps, SPIKE_STEPS), 2 | 64, 0)
    write_block(
        run / "curve",
        {
            "step": steps,
            "epoch": (steps - 1) // 250,
            "loss": loss,
            "learning_rate": np.linspace(1e-3, 1e-5, len(loss)),
            "guard_factor": np.ones(len(loss)),
            "guard_action": action,
            "gradient_norm": 0.1 + loss,
        },
        STEP_SCHEMA,
    )
    validation = {"step": [250, 500, 750, 1000], "epoch": [0, 1, 2, 3], "loss": [1.2, 1.1, 1.0, 1.0]}
    write_block(run / "curve", {name: np.array(values) for name, values in validation.items()}, VALIDATION_SCHEMA)
    recipe = {
        "recipe": {"loss": "huber", "steps": len(loss)},
        "label": text("delay"),
        "warnings": [text("rate is high")],
    }
    (run / "recipe.json").write_text(json.dumps(recipe))
    judged = result.to_json(result.evaluate(TrainingCurve.from_losses(loss)))
    for spike in judged["spikes"]:
        spike["causes"] = [cause(text)]
        spike["replay"] = replay(text, spike["peak_step"])
    evaluation.mkdir(parents=True)
    (evaluation / "evaluation.json").write_text(json.dumps(judged))
    names = [text(f"feature {number}") for number in range(features)]
    return [
        _anomalies(root / "OutlierDetector/anomalies/2", names, text, "outliers.json", outliers(names, text)),
        _anomalies(
            root / "NormalizationValidator/anomalies/3", names[:1], text, "normalization.json", proofs(names, text)
        ),
        _class_weights(root / "ImbalanceDetector/class_weights/6", text),
        Source("ModelRun", str(run), "GuardedTrainer", 4, CREATED_MS, {"tfx_version": "1.16.0"}),
        Source("spikeguard.SpikeEvaluation", str(evaluation), "SpikeEvaluator", 5, CREATED_MS),
    ]


def cause(text: Callable[[str], str] = str) -> dict[str, Any]:
    """One of a spike's causes."""
    return {
        "cause": "outliers",
        "status": "verified",
        "score": 0.9,
        "evidence": {"share_of_loss": 0.87, "worst_loss_over_calm": 12.5},
        "text": text("2 of 256 rows carry 87% of the loss"),
        "rows": [{"example_id": 8812345, "step": 301, "loss": 90.5, "feature": text("distance"), "value": 1e9}],
        "remedy": {
            "text": text("Winsorize the outliers."),
            "recipe": {"loss": "huber"},
            "flags": ["--outliers", "winsorize"],
        },
        "replay": {
            "change": "without_rows",
            "text": text("Removing 2 rows"),
            "peak": 1.02,
            "left": 0.03,
            "losses": [1.01] * 40,
        },
    }


def replay(text: Callable[[str], str] = str, step: int = 301) -> dict[str, Any]:
    """What was replayed of a spike that ends at a step."""
    return {
        "is_reproduced": True,
        "reason": text("the time for replays was over after 2 of 3 changes"),
        "expected": 1.0,
        "first_step": step,
        "steps": list(range(step - 39, step + 1)),
        "recorded": [1.02] * 39 + [3.2],
        "losses": [1.03] * 39 + [3.1],
    }


def outliers(names: list[str], text: Callable[[str], str] = str) -> dict[str, Any]:
    """What OutlierDetector writes."""
    edges = np.linspace(-3, 12, 21).tolist()
    feature = {
        "rule": "adjusted boxplot",
        "lower": -2.5,
        "upper": 4.0,
        "median": 0.1,
        "counts": {"train": {"below": 2, "above": 31, "missing": 4}, "eval": {"above": 12}},
        "histogram": {"edges": edges, "counts": [int(900 * 0.6**place) for place in range(20)]},
        "examples": [11.5, 9.25],
    }
    return {
        "format": "spikeguard.outliers/1",
        "treatment": "winsorize",
        "splits": {"train": {"rows": 1000, "kept": 1000, "treated": 33, "dropped": 0, "flagged": 33}},
        "features": [{"name": name, **feature} for name in names],
        "score": {
            "threshold": 0.62,
            "rule": "robust fence of the scores",
            "histogram": {"edges": [0.3, 0.5, 0.7, 0.9], "counts": [800, 190, 10]},
        },
        "top_rows": [
            {
                "split": "train",
                "example_id": 99,
                "score": 0.81,
                "reasons": [{"feature": names[0], "value": 11.5, "lower": -2.5, "upper": 4.0, "distance": 5.1}],
                "values": {names[0]: 11.5, text("carrier"): text("UA")},
            }
        ],
        "notes": [text("1 feature has a single value")],
    }


def proofs(names: list[str], text: Callable[[str], str] = str) -> dict[str, Any]:
    """What NormalizationValidator writes."""
    checks = [
        {"check": "fitted_on_train", "status": "proven", "severity": "ERROR", "figures": {"rows": 1000}, "text": text("Mean and sd are the train split's.")},
        {"check": "scale", "status": "refuted", "severity": "WARNING", "figures": {"sd": 41.0}, "text": text("The sd is 41, not 1.")},
    ]  # fmt: skip
    features = [{"name": name, "outputs": [f"{name}_scaled"], "checks": checks} for name in names]
    return {
        "format": "spikeguard.normalization/1",
        "verdict": "refuted",
        "blessed": True,
        "features": features,
        "notes": [],
    }


def _anomalies(
    folder: pathlib.Path, names: list[str], text: Callable[[str], str], file: str, table: dict[str, Any]
) -> Source:
    findings = [Finding(name, "WARNING", text("Outliers"), text("33 rows lie outside the fences.")) for name in names]
    error = Finding(None, "ERROR", text("Duplicates"), text("7 rows occur twice."))
    write_findings(folder, {"train": [*findings, error], "eval": findings})
    (folder / file).write_text(json.dumps(table))
    return Source("ExampleAnomalies", str(folder), folder.parts[-3], int(folder.name), CREATED_MS)


def _class_weights(folder: pathlib.Path, text: Callable[[str], str]) -> Source:
    folder.mkdir(parents=True)
    classes = [
        {"name": text("on time"), "weight": 0.6, "counts": {"train": 900, "eval": 450}},
        {"name": text("cancelled"), "weight": 4.5, "counts": {"train": 100, "eval": 50}},
    ]
    content = {
        "format": "spikeguard.class_balance/1",
        "label": text("state"),
        "task": "classification",
        "classes": classes,
        "train_split": "train",
        "splits": {"eval": 500, "train": 1000},
        "imbalance_ratio": 9.0,
        "batch": {
            "size": 32,
            "chance_without": {classes[1]["name"]: 0.034},
            "count_mean": {classes[1]["name"]: 3.2},
            "count_sd": {classes[1]["name"]: 1.7},
            "loss_jitter": 0.2,
            "smallest_batch_size": None,
        },
        "label_shift": [{"split": "eval", "distance": 0.01, "p_value": 0.7}],
        "advice": [text("Weight the classes.")],
        "regression": None,
    }
    (folder / "class_balance.json").write_text(json.dumps(content))
    return Source("spikeguard.ClassWeights", str(folder), "ImbalanceDetector", 6, CREATED_MS)
