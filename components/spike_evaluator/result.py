"""The SpikeEvaluation file: a verdict that people, the report and other programs read.

`evaluation.json`, format `spikeguard.spike_evaluation/1`:

    {"format": "spikeguard.spike_evaluation/1",
     "verdict": "stable" | "unstable" | "diverged" | "insufficient",
     "reasons": [sentence, ...],
     "blessed": whether the model may be pushed,
     "blocked_by": [sentence, ...], the reasons and then what else than the curve blocks; empty where blessed,
     "curve": {"points", "first_step", "last_step", "kind": "step" | "epoch",
               "loss_is": "batch" | "running_mean" | "epoch_mean"} or null where no curve could be read,
     "spikes": [{"start_step", "peak_step", "end_step", "loss_at_peak", "expected_loss", "height", "recovered",
                 "peak_epoch": number or null, "causes": [cause, ...], the most likely first,
                 "replay": its replay or null where the spike was not seen in the training}],
     "course": as one of "spikes", where the run diverged or, "recovered", rose before it settled, or null where it did
               neither or a spike tells of it,
     "explained": [{"start_step", "peak_step", "end_step", "reason"}],
     "validation_spikes": as "spikes", without replay,
     "levels": {"first", "best", "final", "noise"}, null where unknown,
     "diverged_from": step or null,
     "plateau_from": step or null,
     "non_finite_steps": number,
     "notes": [sentence, ...],
     "run": name of the run that all this is about, "" where it has none,
     "runs": [{"run", "verdict"}]}

A cause, as `causes.ranking` finds it, is

    {"cause": "outliers" | "imbalance" | "normalization" | "learning_rate" | "batch_size" | "regularization" | "numerics"
              | "unknown",
     "status": "verified" (a replay without it has no spike) | "likely" (evidence alone) | "unknown" (too little of it),
     "score": in [0, 1], from 0.5 on likely,
     "evidence": {name: number or null},
     "text": the evidence and what the replay said, in a sentence,
     "rows": [{"example_id", "step", "loss", "feature", "value", "lower", "upper"}], null where unknown,
     "remedy": {"text", "recipe": {field of Recipe: value}, "pipeline": {field of PipelineConfig: value}, "flags": [flag of local_runner.py, ...]},
     "replay": {"change", "text", "peak", "left": share of the rise that is left, "losses": of the spike's replayed "steps",
                with the change, ...} or null where it was not replayed}

The replay of a spike, as `causes.replays.curves_of` has it, is

    {"is_reproduced": whether the replay without any change had the same spike,
     "reason": why it, or a part of it, was not replayed, "" where all was,
     "expected": loss, "first_step": the first high one,
     "steps", "recorded", "losses": the replayed steps, and their losses in the training and in the replay without any
               change; equally long, at most 96, empty where nothing was replayed, null for a loss that was not finite}

Where there are several runs, the one with the worst verdict is told of. `height` is (loss_at_peak - expected_loss) over
the robust standard deviation of the noise around it. The text is strict JSON: no NaN, no Infinity.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.imbalance_detector.batch_composition import check_batches
from spikeguard.components.spike_evaluator.causes.ranking import RankedCause, causes_of, course_causes, replay_of
from spikeguard.components.spike_evaluator.causes.replays import curves_of
from spikeguard.components.spike_evaluator.causes.validation import validation_causes
from spikeguard.components.spike_evaluator.detection import DetectionConfig, Spike, SpikeFindings, detect_spikes
from spikeguard.components.spike_evaluator.policy import SpikePolicy, Verdict, judge
from spikeguard.components.training_curve import TrainingCurve

FORMAT = "spikeguard.spike_evaluation/1"
FILE_NAME = "evaluation.json"
# Passes over the validation rows that spikes can be told from.
_FEWEST_VALIDATIONS = 8
_SEVERITY: tuple[Verdict, ...] = ("stable", "insufficient", "unstable", "diverged")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A verdict with all that led to it."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """One sentence per broken rule, most serious first; empty for a stable curve."""
    curve: TrainingCurve | None = None
    """None where no curve could be read."""
    findings: SpikeFindings | None = None
    """None where no curve could be read."""
    validation: SpikeFindings | None = None
    """Of the validation losses; None where there are too few."""
    run: str = ""
    """Name of the run; "" where it has none."""
    runs: tuple[tuple[str, Verdict], ...] = ()
    """Name and verdict of each run that was judged."""
    objections: tuple[str, ...] = ()
    """One sentence for each thing other than the curve that blocks the push."""
    causes: tuple[tuple[RankedCause, ...], ...] = ()
    """Of each spike of `findings`, the most likely first; empty where they were not sought."""
    course: tuple[Spike, tuple[RankedCause, ...]] | None = None
    """Where the run diverged, as a spike, and the causes; None where it did not, or a spike tells of it."""
    replays: tuple[Mapping[str, Any] | None, ...] = ()
    """Of each spike, what `causes.replays.curves_of` returns; empty where they were not sought."""
    course_replay: Mapping[str, Any] | None = None
    """The same of `course`."""
    replay_notes: tuple[str, ...] = ()
    """Sentences on what was not replayed, and why."""
    validation_causes: tuple[tuple[RankedCause, ...], ...] = ()
    """Of each spike of `validation`, the most likely first; empty where they were not sought."""

    @property
    def explained_spikes(self) -> tuple[tuple[Spike, tuple[RankedCause, ...]], ...]:
        """Each spike with its causes."""
        spikes = self.findings.spikes if self.findings else ()
        return tuple(zip(spikes, self.causes or ((),) * len(spikes), strict=True))

    @property
    def explained_validation_spikes(self) -> tuple[tuple[Spike, tuple[RankedCause, ...]], ...]:
        """Each spike of the validation loss with its causes."""
        spikes = self.validation.spikes if self.validation else ()
        return tuple(zip(spikes, self.validation_causes or ((),) * len(spikes), strict=True))

    @property
    def spike_replays(self) -> tuple[Mapping[str, Any] | None, ...]:
        """Of each spike its replay; None where it has none."""
        return self.replays or (None,) * (len(self.findings.spikes) if self.findings else 0)

    @property
    def is_blessed(self) -> bool:
        """Whether the model may be pushed: only one with a stable curve, that nothing else speaks against, may."""
        return self.verdict == "stable" and not self.objections

    @property
    def blocked_by(self) -> tuple[str, ...]:
        """All that blocks the push, the curve's reasons first; empty where the model may be pushed."""
        if self.verdict == "stable":
            return self.objections
        return (*(self.reasons or (f"the curve is {self.verdict}",)), *self.objections)


def evaluate(
    curve: TrainingCurve,
    detection: DetectionConfig | None = None,
    policy: SpikePolicy | None = None,
    baseline: TrainingCurve | None = None,
) -> Evaluation:
    """Detects and judges.

    Args:
      curve: the run to judge.
      detection: sensitivity; `DetectionConfig()` where None.
      policy: the rules; `SpikePolicy()` where None.
      baseline: the run to compare the final level with; None for no comparison.

    >>> import numpy as np
    >>> calm = TrainingCurve.from_losses(1 + 0.1 * np.random.default_rng(0).normal(size=300))
    >>> evaluate(calm).verdict
    'stable'
    """
    findings = detect_spikes(curve, detection)
    curve = dataclasses.replace(curve, notes=(*curve.notes, *(found.text for found in check_batches(curve))))
    passes = TrainingCurve.from_columns(kind="epoch", step=curve.validation_step, loss=curve.validation_loss)
    validation = detect_spikes(passes, detection) if len(passes) >= _FEWEST_VALIDATIONS else None
    compared = detect_spikes(baseline, detection) if baseline is not None else None
    verdict, reasons = judge(curve, findings, policy or SpikePolicy(), validation, compared)
    return Evaluation(verdict, reasons, curve, findings, validation)


def evaluate_runs(
    curves: Mapping[str, TrainingCurve],
    detection: DetectionConfig | None = None,
    policy: SpikePolicy | None = None,
    baseline: TrainingCurve | None = None,
) -> Evaluation:
    """Judges each run and returns the evaluation of the one with the worst verdict, the first of these.

    Args:
      curves: at least one, by name.
      detection: as in `evaluate`, as are the others.
      policy: the rules.
      baseline: the run to compare with.
    """
    evaluations = {name: evaluate(curve, detection, policy, baseline) for name, curve in curves.items()}
    worst = max(evaluations, key=lambda name: _SEVERITY.index(evaluations[name].verdict))
    runs = tuple((name, evaluation.verdict) for name, evaluation in evaluations.items())
    return dataclasses.replace(evaluations[worst], run=worst, runs=runs)


def with_causes(
    evaluation: Evaluation,
    replays: Sequence[Mapping[str, Any]] = (),
    notes: tuple[str, ...] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> Evaluation:
    """The evaluation with the causes of its spikes.

    Args:
      evaluation: without them.
      replays: what was replayed of the run; see `causes.replays.read_replays`.
      notes: what was not.
      tables: JSON tables of data components, by the name of their file.
    """
    if evaluation.curve is None or evaluation.findings is None:
        return evaluation
    causes = causes_of(evaluation.curve, evaluation.findings, replays, tables)
    course = course_causes(evaluation.curve, evaluation.findings, replays, tables)
    explained = [*zip(evaluation.findings.spikes, causes, strict=True), *([course] if course else [])]
    validation = evaluation.validation.spikes if evaluation.validation else ()
    return dataclasses.replace(
        evaluation,
        causes=causes,
        validation_causes=validation_causes(evaluation.curve, validation, explained, tables),
        course=course,
        replays=tuple(curves_of(replay_of(spike, replays)) for spike in evaluation.findings.spikes),
        course_replay=curves_of(replay_of(course[0], replays)) if course else None,
        replay_notes=notes,
    )


def unreadable(reason: str) -> Evaluation:
    """The evaluation of a run whose curve could not be read: never blessed."""
    return Evaluation("insufficient", (reason,))


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as a JSON object of the format above."""
    curve, findings = evaluation.curve, evaluation.findings
    content: dict[str, Any] = {
        "format": FORMAT,
        "verdict": evaluation.verdict,
        "reasons": list(evaluation.reasons),
        "blessed": evaluation.is_blessed,
        "blocked_by": list(evaluation.blocked_by),
        "curve": None,
        "spikes": [],
        "course": None,
        "explained": [],
        "validation_spikes": [],
        "levels": None,
        "diverged_from": None,
        "plateau_from": None,
        "non_finite_steps": 0,
        "notes": [],
        "run": evaluation.run,
        "runs": [{"run": run, "verdict": verdict} for run, verdict in evaluation.runs],
    }
    if curve is None or findings is None:
        return content
    levels = {
        "first": findings.first_loss,
        "best": findings.best_loss,
        "final": findings.final_loss,
        "noise": findings.noise,
    }
    return content | {
        "curve": {
            "points": len(curve),
            "first_step": int(curve.step[0]) if len(curve) else None,
            "last_step": int(curve.step[-1]) if len(curve) else None,
            "kind": curve.kind,
            "loss_is": curve.loss_is,
        },
        "spikes": [
            {**dataclasses.asdict(spike), "causes": [_cause(cause) for cause in causes], "replay": _finite(replay)}
            for (spike, causes), replay in zip(evaluation.explained_spikes, evaluation.spike_replays, strict=True)
        ],
        "course": _finite(dataclasses.asdict(evaluation.course[0]))
        | {"causes": [_cause(one) for one in evaluation.course[1]], "replay": _finite(evaluation.course_replay)}
        if evaluation.course
        else None,
        "explained": [dataclasses.asdict(rise) for rise in findings.explained],
        "validation_spikes": [
            {**dataclasses.asdict(spike), "causes": [_cause(cause) for cause in causes]}
            for spike, causes in evaluation.explained_validation_spikes
        ],
        "levels": {name: level if math.isfinite(level) else None for name, level in levels.items()},
        "diverged_from": findings.diverged_from,
        "plateau_from": findings.plateau_from,
        "non_finite_steps": len(findings.non_finite_steps),
        "notes": [*curve.notes, *evaluation.replay_notes],
    }


def _cause(cause: RankedCause) -> dict[str, Any]:
    """A cause as JSON, with null for what is not finite."""
    known: dict[str, Any] = _finite(dataclasses.asdict(cause))
    return known


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def to_text(evaluation: Evaluation) -> str:
    """The JSON text of an evaluation."""
    return json.dumps(to_json(evaluation), indent=1, allow_nan=False) + "\n"


def write(evaluation: Evaluation, folder: str) -> None:
    """Writes `evaluation.json` into an existing or new folder."""
    target = pathlib.Path(folder) / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(to_text(evaluation), encoding="utf-8")


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
