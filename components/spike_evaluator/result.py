"""The SpikeEvaluation file: a verdict that people, the report and other programs read.

`evaluation.json`, format `spikeguard.spike_evaluation/1`:

    {"format": "spikeguard.spike_evaluation/1",
     "verdict": "stable" | "unstable" | "diverged" | "insufficient",
     "reasons": [sentence, ...],
     "curve": {"points", "first_step", "last_step", "kind": "step" | "epoch",
               "loss_is": "batch" | "running_mean" | "epoch_mean"} or null where no curve could be read,
     "spikes": [{"start_step", "peak_step", "end_step", "loss_at_peak", "expected_loss", "height", "recovered",
                 "causes": [{"cause", "status", "score", "evidence", "remedy"}]}]}

The text is strict JSON: no NaN, no Infinity.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.spike_evaluator.detection import DetectionConfig, SpikeFindings, detect_spikes
from spikeguard.components.spike_evaluator.policy import SpikePolicy, Verdict, judge
from spikeguard.components.training_curve import TrainingCurve

FORMAT = "spikeguard.spike_evaluation/1"
FILE_NAME = "evaluation.json"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A verdict with all that led to it."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """One sentence per broken rule, most serious first; empty for a stable curve."""
    curve: TrainingCurve | None
    """None where no curve could be read."""
    findings: SpikeFindings | None
    """None where no curve could be read."""

    @property
    def is_blessed(self) -> bool:
        """Whether the model may be pushed: only a stable curve may."""
        return self.verdict == "stable"


def evaluate(curve: TrainingCurve, detection: DetectionConfig, policy: SpikePolicy) -> Evaluation:
    """Detects and judges.

    >>> import numpy as np
    >>> calm = TrainingCurve.from_losses(1 + 0.1 * np.random.default_rng(0).normal(size=300))
    >>> evaluate(calm, DetectionConfig(), SpikePolicy()).verdict
    'stable'
    """
    findings = detect_spikes(curve, detection)
    verdict, reasons = judge(curve, findings, policy)
    return Evaluation(verdict, reasons, curve, findings)


def unreadable(reason: str) -> Evaluation:
    """The evaluation of a run whose curve could not be read: never blessed."""
    return Evaluation("insufficient", (reason,), None, None)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as a JSON object of the format above."""
    curve, findings = evaluation.curve, evaluation.findings
    return {
        "format": FORMAT,
        "verdict": evaluation.verdict,
        "reasons": list(evaluation.reasons),
        "curve": None
        if curve is None
        else {
            "points": len(curve),
            "first_step": int(curve.step[0]) if len(curve) else None,
            "last_step": int(curve.step[-1]) if len(curve) else None,
            "kind": "step",
            "loss_is": "batch",
        },
        "spikes": []
        if findings is None
        else [{**dataclasses.asdict(spike), "causes": []} for spike in findings.spikes],
    }


def write(evaluation: Evaluation, folder: str) -> None:
    """Writes `evaluation.json` into an existing or new folder."""
    target = pathlib.Path(folder) / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(to_json(evaluation), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(folder: str) -> dict[str, Any]:
    """Reads `evaluation.json` back.

    Raises:
      InvalidDataError: the file is missing or of another format.
    """
    path = pathlib.Path(folder) / FILE_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(str(path), f"cannot be read ({error})", "Run SpikeEvaluator again.") from error
    if content.get("format") != FORMAT:
        raise InvalidDataError(
            str(path), f"has format {content.get('format')!r}, not {FORMAT!r}", "Run SpikeEvaluator again."
        )
    return content
