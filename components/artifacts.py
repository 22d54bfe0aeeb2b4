"""Artifact types that spikeguard adds to TFX's own.

Their `TYPE_NAME`s follow Kubeflow v2's rule for custom artifacts (`<package>.<Class>`, importable from the
package root), which is why `spikeguard` re-exports each class.
"""

from __future__ import annotations

# Not `tfx.v1`: that imports every Google Cloud client, half of TFX's import time.
from tfx.types import artifact


class SpikeEvaluation(artifact.Artifact):  # type: ignore[misc]
    """The verdict on a training curve: one file, `evaluation.json`, in the format that `spike_evaluator.result` documents."""

    TYPE_NAME = "spikeguard.SpikeEvaluation"


class OutlierModel(artifact.Artifact):  # type: ignore[misc]
    """Fences and isolation forest of OutlierDetector, in a format that runs no code when it is read."""

    TYPE_NAME = "spikeguard.OutlierModel"


class ClassWeights(artifact.Artifact):  # type: ignore[misc]
    """What ImbalanceDetector found of the label, and the weights of the classes: one file, `class_balance.json`."""

    TYPE_NAME = "spikeguard.ClassWeights"


class HtmlReport(artifact.Artifact):  # type: ignore[misc]
    """One self-contained page, `report.html`, and the same content as `report.json`."""

    TYPE_NAME = "spikeguard.HtmlReport"
